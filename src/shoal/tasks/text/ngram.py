"""N-gram models of tokens, the baseline beside every language model of a text.

Source: Witten and Bell 1991, "The zero-frequency problem", method C, in the interpolated form of Chen and Goodman 1998,
section 2.4: for a token w behind the last m tokens h,

    p_m(w | h) = (c(h w) + T(h) p_{m-1}(w | h')) / (c(h) + T(h))

where c counts occurrences in the training text, T(h) is the number of distinct tokens that follow h in it, and h' is h
without its first token. A history that is not in the training text gives p_{m-1}; the unigram is interpolated with 1 /
V. An n-gram model of order n has histories of n − 1 tokens. It has no hyper-parameters.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray

from shoal.errors import UserError

MOST_ORDERS = 32
ORDERS = range(1, 9)

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class _Level:
    """Histories of one length, numbered from 0 in the order of their keys, and counts of the tokens after them.

    A key is the number of a shorter history times V plus a token: of the history without its last token and that token
    (``histories``), or of a history and the token behind it (``pairs``). So keys fit into 64 bits at every order.
    """

    histories: Ints  # (number of histories,), sorted
    total: Ints  # c(h), (number of histories,)
    types: Ints  # T(h), (number of histories,)
    pairs: Ints  # (number of different n-grams,), sorted
    counts: Ints  # c(h w), (number of different n-grams,)


@dataclass(frozen=True)
class NGram:
    """Interpolated n-gram models of all orders from 1 on.

    Attributes:
        vocabulary_size: V.
        levels: levels of histories of 0, 1, … tokens.
    """

    vocabulary_size: int
    levels: tuple[_Level, ...]

    def nats(self, tokens: ArrayLike) -> NDArray[np.float64]:
        """Negative log-likelihood of every token by every order, in nats, ``(orders, n)``.

        Histories are of these tokens alone: the first token has none, the second has the first, and so on, so that the
        first few are scored by shorter histories than their order has.

        Args:
            tokens: ``(n,)``, the text to score.

        Raises:
            UserError: a token is not from 0 to V − 1.
        """
        sequence = _checked("tokens", tokens, self.vocabulary_size)
        n, V = len(sequence), self.vocabulary_size
        probability = np.full(n, 1 / V)
        history = np.zeros(n, dtype=np.int64)  # of each token; -1 once it was never seen
        nats = np.empty((len(self.levels), n))
        for m, level in enumerate(self.levels):
            if m:
                history = _find(level.histories, _longer(history, sequence, m, V))
            pair = _find(level.pairs, np.where(history >= 0, history * V + sequence, -1))
            c = np.where(pair >= 0, _taken(level.counts, pair), 0)
            total, types = _taken(level.total, history), _taken(level.types, history)
            with np.errstate(invalid="ignore", divide="ignore"):
                mixed = (c + types * probability) / (total + types)
            probability = np.where((history >= 0) & (total > 0), mixed, probability)
            nats[m] = -np.log(probability)
        return nats


def fit_ngram(tokens: ArrayLike, vocabulary_size: int, order: int) -> NGram:
    """N-gram models of all orders to ``order``, counted on a training text.

    Args:
        tokens: ``(n,)``, the training text.
        vocabulary_size: V.
        order: n, for histories of n − 1 tokens.

    Raises:
        UserError: a token is not from 0 to V − 1, or the order is not from 1 to :data:`MOST_ORDERS`.
    """
    _check_order(order)
    sequence = _checked("training tokens", tokens, vocabulary_size)
    history = np.zeros(len(sequence), dtype=np.int64)
    levels = []
    for m in range(order):
        histories = np.zeros(1, dtype=np.int64)
        if m:
            key = _longer(history, sequence, m, vocabulary_size)
            complete = key >= 0
            histories, number = np.unique(key[complete], return_inverse=True)
            history = np.full(len(sequence), -1)
            history[complete] = number
        there = history >= 0
        pairs, counts = np.unique(history[there] * vocabulary_size + sequence[there], return_counts=True)
        owner, size = pairs // vocabulary_size, len(histories)
        total = np.bincount(history[there], minlength=size)
        levels.append(_Level(histories, total, np.bincount(owner, minlength=size), pairs, counts))
    return NGram(vocabulary_size, tuple(levels))


def ngram_baseline(
    train_tokens: ArrayLike,
    valid_tokens: ArrayLike,
    vocabulary_size: int,
    orders: Iterable[int] = ORDERS,
    *,
    skip: int = 0,
) -> pl.DataFrame:
    """Loss of n-gram models of the training text on the validation text, per order.

    Args:
        train_tokens: ``(n,)``, the training text.
        valid_tokens: ``(n,)``, the validation text.
        vocabulary_size: V.
        orders: orders of the n-grams.
        skip: tokens at the beginning of the validation text that are history alone, as models need one.

    Returns:
        A row per order: ``order``, ``nats_per_token`` (the mean over the other validation tokens, see
        :meth:`NGram.nats`) and ``nats``, their sum.

    Raises:
        UserError: a token is not from 0 to V − 1, there is none to validate on, or an order is not possible.
    """
    chosen = list(orders)
    for order in chosen:
        _check_order(order)
    if not chosen:
        raise UserError("a baseline needs at least one order")
    if np.size(np.asarray(valid_tokens)) <= skip:
        raise UserError("a baseline needs at least one token to validate on")
    nats = fit_ngram(train_tokens, vocabulary_size, max(chosen)).nats(valid_tokens)
    rows = [nats[order - 1, skip:] for order in chosen]
    return pl.DataFrame(
        {"order": chosen, "nats_per_token": [row.mean() for row in rows], "nats": [row.sum() for row in rows]},
        schema={"order": pl.Int64, "nats_per_token": pl.Float64, "nats": pl.Float64},
    )


def best_order(baseline: pl.DataFrame) -> int:
    """Order of the lowest loss in a frame of :func:`ngram_baseline`, the smallest of equals.

    It is chosen on the validation text that scores it, which makes the baseline no easier to beat.
    """
    return int(baseline.sort("nats_per_token", "order")["order"][0])


def _longer(history: Ints, sequence: Ints, m: int, V: int) -> Ints:
    """Keys of histories of m tokens from the numbers of those of m − 1, -1 where there are none, ``(n,)``."""
    key = np.full(len(sequence), -1)
    key[m:] = np.where(history[m:] >= 0, history[m:] * V + sequence[: len(history[m:])], -1)
    return key


def _find(keys: Ints, wanted: Ints) -> Ints:
    """Index in the sorted ``keys`` of each wanted one, -1 where it is missing."""
    if not len(keys):
        return np.full(len(wanted), -1)
    place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[place] == wanted, place, -1)


def _taken(values: Ints, places: Ints) -> Ints:
    """Values at these places; arbitrary for -1."""
    return values[places] if len(values) else np.zeros(len(places), dtype=np.int64)


def _checked(what: str, tokens: ArrayLike, vocabulary_size: int) -> Ints:
    if isinstance(vocabulary_size, bool) or not isinstance(vocabulary_size, int) or vocabulary_size < 1:
        raise UserError(f"vocabulary_size must be an integer of at least 1, got {vocabulary_size!r}")
    sequence = np.asarray(tokens)
    if sequence.ndim != 1 or (sequence.size and sequence.dtype.kind not in "iu"):
        raise UserError(f"{what} must be one row of integers, got {sequence.dtype} of shape {sequence.shape}")
    if sequence.size and not 0 <= int(sequence.min()) <= int(sequence.max()) < vocabulary_size:
        wrong = sequence[(sequence < 0) | (sequence >= vocabulary_size)][0]
        raise UserError(f"{what} must be from 0 to {vocabulary_size - 1:,}, got {wrong}")
    return sequence.astype(np.int64)


def _check_order(order: int) -> None:
    if isinstance(order, bool) or not isinstance(order, int) or not 1 <= order <= MOST_ORDERS:
        raise UserError(f"the order of an n-gram must be an integer from 1 to {MOST_ORDERS}, got {order!r}")
