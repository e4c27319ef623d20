"""Expected counts of hidden Markov models: the E-step of EM, for R models and all sequences.

With a C compiler they come from ``kernels.c``, in memory that does not grow with the sequences; without one, and for a
sequence about which float64 would lose the message of a state, from messages in logarithms.

Shapes: ``R`` models, ``K`` states, ``V`` symbols, ``D`` dimensions, ``S`` sequences, ``n`` observations.
"""

import ctypes
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from shoal.errors import UserError
from shoal.hmm import native
from shoal.hmm.data import Array, Integers, Sequences
from shoal.hmm.emissions import Categorical, Emissions, Gaussian
from shoal.hmm.messages import Messages, messages
from shoal.hmm.models import HMM
from shoal.hmm.probabilities import SMALLEST, logarithms

_ROW_BYTES = 1 << 18  # of messages that are kept at a time: a part of a core's cache
_CHUNK = 1 << 20  # numbers of an array of pairs


@dataclass(frozen=True, eq=False)
class Counts:
    """Expected counts, each sequence times its weight.

    Attributes:
        log_likelihood: log p(y) of each sequence, ``(R, S)``, in nats, not weighted; -inf of an impossible one.
        impossible: position of the first impossible observation in each sequence, ``(R, S)``; -1 where there is none. Such
            a sequence adds nothing to the counts.
        starts: of each state at the first place, ``(R, K)``.
        pairs: of each pair of neighbouring states, ``(R, K, K)``.
        emitted: of each symbol in each state ``(R, K, V)``; or of observations in each state, ``(R, K)``.
        firsts: sums of x - mean, with the means of the models, ``(R, K, D)``; None of symbols.
        seconds: sums of (x - mean)², ``(R, K, D)``, or of outer products ``(R, K, D, D)``; None of symbols.
    """

    log_likelihood: Array
    impossible: Integers
    starts: Array
    pairs: Array
    emitted: Array
    firsts: Array | None = None
    seconds: Array | None = None

    @property
    def visits(self) -> Array:
        """Observations in each state, ``(R, K)``."""
        return self.emitted.sum(axis=2) if self.firsts is None else self.emitted


def expected_counts(model: HMM, data: Sequences, weights: ArrayLike | None = None) -> Counts:
    """Expected counts under the posterior of the states.

    Args:
        model: the models.
        data: the sequences.
        weights: how often each sequence counts, ``(R, S)`` or ``(S,)``; by default once.

    Raises:
        UserError: the data are not what the models emit, or a weight is negative or not finite.
    """
    model.emissions.check(data)
    checked = check_weights(weights, len(model), data)
    library = native.library()
    if library is None:
        return _by_logarithms(model, data, checked)
    counts = _empty(model, data)
    step = native.WIDTH if in_lanes(len(model), model.K) else 1
    for first in range(0, len(model), step):
        rows = np.arange(first, min(first + step, len(model)))
        _add_compiled(library, model, data, checked, rows, counts)
    for r, s in np.argwhere(counts.impossible == native.LOST):
        _add_lost(model, data, checked, int(r), int(s), counts)
    return counts


def check_weights(weights: ArrayLike | None, R: int, data: Sequences) -> Array:
    """Weights as ``(R, S)``.

    Raises:
        UserError: another shape; or a weight that is negative or not finite.
    """
    S = len(data.lengths)
    if weights is None:
        return np.ones((R, S))
    array = np.asarray(weights, dtype=np.float64)
    if array.shape not in ((S,), (R, S)):
        raise UserError(f"weights must be of shape {(S,)} or {(R, S)}, one per sequence; got {array.shape}")
    if bad := np.argwhere(~(np.isfinite(array) & (array >= 0))).tolist():
        raise UserError(f"weight {array[tuple(bad[0])]} of sequence {bad[0][-1]}: weights are finite and not negative")
    return np.ascontiguousarray(np.broadcast_to(array, (R, S)))


def in_lanes(R: int, K: int) -> bool:
    """Return True if models are computed 8 at a time, and not one after the other."""
    return K <= 4 or (K <= native.WIDTH and R > 1)


def _empty(model: HMM, data: Sequences) -> Counts:
    R, K = model.emissions.size
    S, emissions = len(data.lengths), model.emissions
    shared = (np.zeros((R, S)), np.zeros((R, S), dtype=np.int64), np.zeros((R, K)), np.zeros((R, K, K)))
    if isinstance(emissions, Categorical):
        return Counts(*shared, np.zeros_like(emissions.probabilities))
    return Counts(*shared, np.zeros((R, K)), np.zeros_like(emissions.means), np.zeros_like(emissions.covariances))


def _kind(emissions: Emissions) -> int:
    if isinstance(emissions, Categorical):
        return native.KINDS.index("categorical")
    return native.KINDS.index("full" if emissions.is_full else "diagonal")


def _is_guarded(model: HMM) -> bool:
    """Return True if a state may be reached so seldom that float64 could lose its message."""
    checked = [model.start[model.start > 0], model.transitions]
    if isinstance(model.emissions, Categorical):
        checked.append(model.emissions.probabilities[model.emissions.probabilities > 0])
    return any(bool((array < SMALLEST).any()) for array in checked)


def rows_kept(J: int, n: int, kind: int) -> int:
    """Number of rows whose messages are kept at a time, for ``n`` observations."""
    per_row = 8 * (J * (2 if kind == 0 else 4) + native.WIDTH)
    return max(16, min(n, _ROW_BYTES // per_row))


def _add_compiled(
    library: ctypes.CDLL, model: HMM, data: Sequences, weights: Array, rows: Integers, counts: Counts
) -> None:
    """Counts of up to 8 models in lanes, or of one, into those of all."""
    part, m, K, S = model.select(rows), len(rows), model.K, len(data.lengths)
    is_lanes = in_lanes(len(model), K)
    J, n_rows = (K * native.WIDTH, K) if is_lanes else (-K % 8 + K, -K % 4 + K)
    kind, emissions = _kind(part.emissions), part.emissions
    lanes = native.aligned((S, native.WIDTH))
    lanes[:, : m if is_lanes else native.WIDTH] = weights[rows].T  # every column of states has that of its model
    log_likelihood, impossible = np.empty((S, native.WIDTH)), np.empty((S, native.WIDTH), dtype=np.int64)
    arrays: dict[str, np.ndarray] = {
        "begin": data.begin,
        "start": native.columns(part.start, J),
        "moves": native.columns(part.transitions.swapaxes(1, 2), J, n_rows),
        "moves_back": native.columns(part.transitions, J, n_rows),
        "weights": lanes,
        "log_likelihood": log_likelihood,
        "impossible": impossible,
        "starts": native.aligned((J,)),
        "pairs": native.aligned((n_rows, J)),
        **_emission_arrays(emissions, data, J),
    }
    D = emissions.means.shape[2] if isinstance(emissions, Gaussian) else 0
    numbers = {"K": K, "J": J, "S": S, "kind": kind, "D": D, "is_lanes": is_lanes, "is_guarded": _is_guarded(part)}
    T = rows_kept(J, len(data.values), kind)
    task = native.Task(**numbers, T=T, **{name: native.pointer(array) for name, array in arrays.items()})
    if library["expected_counts"](ctypes.byref(task)):
        raise MemoryError("there is no memory for the messages of these models")
    counts.log_likelihood[rows], counts.impossible[rows] = log_likelihood[:, :m].T, impossible[:, :m].T
    counts.starts[rows] = native.from_columns(arrays["starts"], m, K)
    pairs = native.from_columns(arrays["pairs"][:K], m, K).swapaxes(1, 2)  # (m, K, K)
    counts.pairs[rows] = pairs * part.transitions
    _take_emitted(arrays["emitted"], emissions, rows, counts)


def _emission_arrays(emissions: Emissions, data: Sequences, J: int) -> dict[str, np.ndarray]:
    if isinstance(emissions, Categorical):
        _, _, V = emissions.probabilities.shape
        table = native.aligned((1 + V, J))
        table[0], table[1:] = 1.0, native.columns(emissions.probabilities, J)
        return {"symbols": data.values, "emit": table, "emitted": native.aligned((1 + V, J))}
    W, constants = emissions.whitening()
    D = emissions.means.shape[2]
    if emissions.is_full:
        W = W[:, :, *np.tril_indices(D)]
    offsets = native.columns(constants, J)
    if J != native.WIDTH * constants.shape[1]:
        offsets[constants.shape[1] :] = -np.inf  # there is no such state
    n_products = D * (D + 1) // 2 if emissions.is_full else D
    return {
        "values": np.where(data.seen[:, None], data.values, 0.0),
        "seen": data.seen.view(np.uint8),
        "means": native.columns(emissions.means, J),
        "whiten": native.columns(W, J),
        "constants": offsets,
        "emitted": native.aligned((1 + D + n_products, J)),
    }


def _take_emitted(emitted: Array, emissions: Emissions, rows: Integers, counts: Counts) -> None:
    m, K = emissions.size
    if isinstance(emissions, Categorical):
        counts.emitted[rows] = native.from_columns(emitted[1:], m, K)
        return
    assert counts.firsts is not None and counts.seconds is not None
    D = emissions.means.shape[2]
    counts.emitted[rows] = native.from_columns(emitted[0], m, K)
    counts.firsts[rows] = native.from_columns(emitted[1 : 1 + D], m, K)
    products = native.from_columns(emitted[1 + D :], m, K)
    if not emissions.is_full:
        counts.seconds[rows] = products
        return
    below = np.tril_indices(D)
    full = np.zeros((m, K, D, D))
    full[:, :, *below] = products
    full[:, :, below[1], below[0]] = products
    counts.seconds[rows] = full


def _add_lost(model: HMM, data: Sequences, weights: Array, r: int, s: int, counts: Counts) -> None:
    """Counts of one sequence and one model, in logarithms, into those of all."""
    one = _by_logarithms(model.select(r), data.subset([s]), weights[r : r + 1, s : s + 1])
    counts.log_likelihood[r, s], counts.impossible[r, s] = one.log_likelihood[0, 0], one.impossible[0, 0]
    for name in ("starts", "pairs", "emitted", "firsts", "seconds"):
        total, added = getattr(counts, name), getattr(one, name)
        if total is not None:
            total[r] += added[0]


def _by_logarithms(model: HMM, data: Sequences, weights: Array) -> Counts:
    """Counts from messages in logarithms, in memory of the messages and a chunk of pairs."""
    found = messages(model, data)
    each = np.repeat(weights, data.lengths, axis=1)[:, :, None]  # (R, n, 1)
    posteriors = found.posteriors * each
    starts = posteriors[:, data.begin[:-1]].sum(axis=1)
    shared = (found.log_likelihood, found.impossible, starts, _pair_counts(model, found, each))
    emissions = model.emissions
    if isinstance(emissions, Categorical):
        symbols = np.zeros_like(emissions.probabilities)
        for v in range(symbols.shape[2]):
            symbols[:, :, v] = posteriors[:, data.values == v].sum(axis=1)
        return Counts(*shared, symbols)
    posteriors = posteriors[:, data.seen]
    difference = data.values[data.seen][None, :, None] - emissions.means[:, None]  # (R, n, K, D)
    weighted = difference * posteriors[..., None]
    if emissions.is_full:
        seconds = np.einsum("rnkd,rnke->rkde", weighted, difference)
    else:
        seconds = (weighted * difference).sum(axis=1)
    return Counts(*shared, posteriors.sum(axis=1), weighted.sum(axis=1), seconds)


def _pair_counts(model: HMM, found: Messages, each: Array) -> Array:
    """Sums of pairwise posteriors, ``(R, K, K)``."""
    total, log_moves, filtered = np.zeros_like(model.transitions), logarithms(model.transitions), found.log_filtered
    is_possible = np.repeat(found.impossible < 0, np.diff(found.begin), axis=1)[:, :, None, None]
    step = max(1, _CHUNK // total.size)
    for first in range(0, len(found.pairs), step):
        places = found.pairs[first : first + step]
        onward = found.log_onward(places)[:, :, None, :]
        shares = np.exp(filtered[:, places, :, None] + log_moves[:, None] + onward)
        total += np.where(is_possible[:, places], shares * each[:, places, :, None], 0.0).sum(axis=1)
    return total
