"""Sequences of a run as arrays: read or drawn, cut into blocks, with the blocks that validate.

Shapes: ``S`` sequences, ``n`` observations of all of them, ``D`` dimensions of an observation.
"""

import hashlib
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from shoal.errors import OtherDataError, UserError
from shoal.tasks.text.corpus import read_corpus

if TYPE_CHECKING:
    from shoal.tasks.sequences.settings import SequencesSettings

MISSING = -1  # instead of a symbol
LETTERS = " abcdefghijklmnopqrstuvwxyz"
_KEPT = 8
_loading = threading.Lock()
_loaded: dict[Any, "Observations"] = {}


@dataclass(frozen=True, eq=False)
class Rows:
    """Sequences as they are read.

    Attributes:
        values: symbols ``(n,)`` int32, -1 where one is missing; or vectors ``(n, D)`` float64, NaN where missing.
        lengths: length of each sequence, ``(S,)``.
        symbols: names of the symbols; empty of vectors.
        where: words for the place of an observation in its file.
    """

    values: NDArray[Any]
    lengths: NDArray[np.int64]
    symbols: tuple[str, ...]
    where: Callable[[int], str] = "observation {}".format


@dataclass(frozen=True, eq=False)
class Observations:
    """Sequences of a run.

    Attributes:
        values: see :class:`Rows`.
        lengths: length of each sequence, ``(S,)``, after long ones were cut into blocks.
        symbols: names of the symbols; empty of vectors.
        is_valid: True for each sequence that validates, ``(S,)``.
        key: 16 hexadecimal digits of a hash of the content, as it was read.
    """

    values: NDArray[Any]
    lengths: NDArray[np.int64]
    symbols: tuple[str, ...]
    is_valid: NDArray[np.bool_]
    key: str

    @property
    def seen(self) -> NDArray[np.bool_]:
        """True where an observation is not missing, ``(n,)``."""
        return self.values >= 0 if self.values.ndim == 1 else ~np.isnan(self.values[:, 0])

    @property
    def counts(self) -> NDArray[np.int64]:
        """Observations of each sequence that are not missing, ``(S,)``."""
        begin = np.concatenate([[0], np.cumsum(self.lengths)[:-1]])
        return np.add.reduceat(self.seen.astype(np.int64), begin)

    @property
    def n_trained(self) -> int:
        """Number of training observations that are not missing."""
        return int(self.counts[~self.is_valid].sum())


def load(settings: "SequencesSettings", key: str | None) -> Observations:
    """Sequences of these settings; the same object at every call.

    Args:
        settings: settings of the task.
        key: hash that the content must have; None where any will do.

    Raises:
        UserError: they cannot be read, are not as they should be, or have another content.
    """
    source: Any
    if settings.drawn_states is not None:
        source = (settings.drawn_states, settings.drawn_sequences, settings.drawn_length, settings.drawn_size)
        source += (settings.data_seed,)
    else:
        source = read_corpus(settings.paths).key
    asked: tuple[Any, ...] = (
        source,
        settings.values,
        settings.alphabet if settings.text else settings.paths,
        settings.symbols,
    )
    asked += (settings.block_length, settings.valid_share)
    with _loading:
        if asked not in _loaded:
            made = _made(settings)
            _loaded[asked] = made
            while len(_loaded) > _KEPT:
                del _loaded[next(iter(_loaded))]
        made = _loaded[asked]
    if key is not None and made.key != key:
        where = ", ".join(settings.paths) or "that are drawn here"
        raise OtherDataError(
            f"the sequences {where} are not those that the run began with: their content is {made.key}, that of the "
            f"run {key}",
            "name those of the run, or train anew",
        )
    return made


def _made(settings: "SequencesSettings") -> Observations:
    rows, key = _rows(settings)
    lengths = cut(rows.lengths, settings.block_length)
    observations = Observations(rows.values, lengths, rows.symbols, held_out(len(lengths), settings.valid_share), key)
    if settings.symbols is not None and rows.symbols:
        beyond = np.flatnonzero(rows.values >= settings.symbols).tolist()
        if beyond:
            name = rows.symbols[int(rows.values[beyond[0]])]
            raise UserError(
                f"{rows.where(beyond[0])}: symbol {name!r} is number {rows.values[beyond[0]]}, and symbols="
                f"{settings.symbols} allows 0 to {settings.symbols - 1}"
            )
        names = (*rows.symbols, *map(str, range(len(rows.symbols), settings.symbols)))
        observations = Observations(rows.values, lengths, names, observations.is_valid, key)
    _check(observations)
    return observations


def _rows(settings: "SequencesSettings") -> tuple[Rows, str]:
    """Sequences as they are read or drawn, and the hash of their content."""
    as_numbers = settings.values == "numbers"
    if settings.drawn_states is not None:
        from shoal.tasks.sequences.drawing import drawn

        rows = drawn(settings)
        content = rows.values.tobytes() + rows.lengths.astype(np.int64).tobytes()
        return rows, hashlib.sha256(content).hexdigest()[:16]
    corpus = read_corpus(settings.paths)
    if settings.text:
        return letters(corpus.text, settings.alphabet), corpus.key
    from shoal.tasks.sequences.reading import is_table, read_lines, read_tables

    texts = [(name, read_corpus([name]).text) for name in corpus.files]
    tables = [is_table(name) for name in corpus.files]
    if any(tables) and not all(tables):
        raise UserError(f"{corpus.files[tables.index(False)]} is no CSV table, and others are: give files of one kind")
    return (read_tables if all(tables) else read_lines)(texts, as_numbers), corpus.key


def letters(text: str, alphabet: str) -> Rows:
    """Text as one sequence of its characters.

    Args:
        text: the text.
        alphabet: ``letters``, those of English in lower case, and one space for everything between words; or
            ``chars``, all characters that there are.

    >>> letters("To be,  or", "letters").values.tolist()
    [20, 15, 0, 2, 5, 0, 15, 18]
    """
    if alphabet == "chars":
        names, numbers = np.unique(np.array(list(text)), return_inverse=True)
        values = numbers.astype(np.int32)
        return Rows(values, np.array([len(values)]), tuple(map(str, names)))
    lowered = "".join(letter if letter in LETTERS else " " for letter in text.lower())
    words = lowered.split()
    if not words:
        raise UserError("the text has none of the letters a to z: alphabet=chars reads every character")
    codes = np.frombuffer(" ".join(words).encode("ascii"), dtype=np.uint8).astype(np.int32)
    values = np.where(codes == ord(" "), 0, codes - ord("a") + 1).astype(np.int32)
    return Rows(values, np.array([len(values)]), tuple(LETTERS))


def cut(lengths: NDArray[np.int64], block_length: int | None) -> NDArray[np.int64]:
    """Lengths after each sequence is cut into blocks of ``block_length``, the last of which may be shorter.

    >>> cut(np.array([5, 2]), 2).tolist()
    [2, 2, 1, 2]
    """
    if block_length is None:
        return lengths.astype(np.int64)
    parts = [[block_length] * (n // block_length) + ([n % block_length] if n % block_length else []) for n in lengths]
    return np.array([length for several in parts for length in several], dtype=np.int64)


def held_out(S: int, share: float) -> NDArray[np.bool_]:
    """Mask of the sequences that validate, ``(S,)``: a share of them, evenly spread.

    >>> held_out(6, 0.34).tolist()
    [False, False, True, False, False, True]
    """
    counts = np.floor(np.arange(S + 1) * share + 1e-9)
    return np.asarray(counts[1:] > counts[:-1])


def _check(observations: Observations) -> None:
    """Raise :class:`UserError` for data that cannot be trained on."""
    S, n_valid = len(observations.lengths), int(observations.is_valid.sum())
    if not n_valid or n_valid == S:
        what = "all" if n_valid else "none"
        raise UserError(
            f"valid_share leaves {what} of {S} sequences to validate on: there must be some on both sides; give more "
            "sequences, another valid_share, or block_length to cut long ones"
        )
    counts = observations.counts
    for name, mask in (("train", ~observations.is_valid), ("validate", observations.is_valid)):
        if not counts[mask].sum():
            raise UserError(f"all observations of the sequences that {name} are missing")
    if observations.values.ndim == 2:
        rows = np.repeat(~observations.is_valid, observations.lengths) & observations.seen
        values = observations.values[rows]
        constant = np.flatnonzero(values.min(axis=0) == values.max(axis=0)).tolist()
        if constant:
            value = values[0, constant[0]]
            raise UserError(
                f"dimension {constant[0]} is {value:g} in every training sequence: a Gaussian needs data that vary"
            )
        small = np.flatnonzero(~(values.var(axis=0) >= np.finfo(np.float64).tiny)).tolist()
        if small:
            raise UserError(f"dimension {small[0]} varies by less than float64 can square: give it in a smaller unit")


def resampled(is_valid: NDArray[np.bool_], bootstrap_seed: int) -> NDArray[np.float64]:
    """Weight of each sequence in training, ``(S,)``: 1, or how often a resample with replacement has drawn it.

    Args:
        is_valid: True for each sequence that validates, whose weight is 0.
        bootstrap_seed: seed of the resample; 0 for the sequences as they are.
    """
    weights = np.where(is_valid, 0.0, 1.0)
    if bootstrap_seed:
        trained = np.flatnonzero(~is_valid)
        drawn = np.random.default_rng(bootstrap_seed).integers(len(trained), size=len(trained))
        weights[trained] = np.bincount(drawn, minlength=len(trained))
    return weights
