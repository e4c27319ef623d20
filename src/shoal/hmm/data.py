"""Sequences of observations, one after the other in one array.

Shapes: ``S`` sequences, ``n`` observations of all of them, ``D`` dimensions of an observation.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from shoal.errors import UserError

Array = NDArray[np.float64]
Integers = NDArray[np.int64]
MISSING = -1  # instead of a symbol
_LARGEST = 1e100  # a value whose square is still far from infinite


@dataclass(frozen=True, eq=False)
class Sequences:
    """Sequences of symbols or of vectors; some observations may be missing.

    Attributes:
        values: symbols ``(n,)`` from 0, int32, -1 where one is missing; or vectors ``(n, D)``, float64, NaN in a row
            that is missing. Numbers ``(n,)`` that are no integers are vectors of one dimension.
        lengths: length of each sequence, ``(S,)``; by default all values are one.
        begin: first place of each sequence, and ``n``; ``(S + 1,)``.
        seen: True where there is an observation, ``(n,)``.
        filled: the values, with 0 in rows that are missing; of symbols the values as they are.
        n_symbols: 1 + the largest symbol; 0 of vectors, or if all are missing.

    Raises:
        UserError: there is no sequence, a length is below 1, they do not add up to the number of values, a symbol is
            negative and not -1, a value is infinite or beyond 1e100, or a row is NaN in some dimensions only.

    >>> Sequences([0, 1, -1, 1], [3, 1]).begin
    array([0, 3, 4])
    """

    values: NDArray[Any]
    lengths: Integers
    begin: Integers = field(init=False, repr=False)
    seen: NDArray[np.bool_] = field(init=False, repr=False)
    filled: NDArray[Any] = field(init=False, repr=False)
    n_symbols: int = field(init=False, repr=False)

    def __init__(self, values: ArrayLike, lengths: ArrayLike | None = None) -> None:
        array = _values(values)
        object.__setattr__(self, "values", array)
        object.__setattr__(self, "lengths", _lengths(lengths, len(array)))
        object.__setattr__(self, "begin", np.concatenate([[0], np.cumsum(self.lengths)]))
        seen = array >= 0 if self.is_symbols else ~np.isnan(array[:, 0])
        object.__setattr__(self, "seen", seen)
        is_whole = self.is_symbols or bool(seen.all())
        object.__setattr__(self, "filled", array if is_whole else np.where(seen[:, None], array, 0.0))
        object.__setattr__(self, "n_symbols", int(array.max()) + 1 if self.is_symbols else 0)

    @classmethod
    def of(cls, sequences: Iterable[ArrayLike]) -> Self:
        """Sequences from one array each.

        Raises:
            UserError: see above; or they are not of the same number of dimensions.
        """
        arrays = [np.asarray(sequence) for sequence in sequences]
        if not arrays:
            raise UserError("there is no sequence: at least 1 is needed")
        empty = [s for s, array in enumerate(arrays) if not array.ndim or not len(array)]
        if empty:
            raise UserError(f"sequence {empty[0]} has length 0: every sequence needs at least 1 observation")
        if len({array.shape[1:] for array in arrays}) > 1:
            raise UserError(f"sequences differ in their dimensions: {sorted({array.shape[1:] for array in arrays})}")
        return cls(np.concatenate(arrays), [len(array) for array in arrays])

    @property
    def is_symbols(self) -> bool:
        """Return True if the observations are symbols."""
        return self.values.ndim == 1

    @property
    def n_seen(self) -> int:
        """Number of observations that are not missing."""
        return int(self.seen.sum())

    def subset(self, chosen: Sequence[int] | Integers) -> "Sequences":
        """Sequences by their numbers, in that order; one may be chosen several times."""
        rows = [np.arange(self.begin[s], self.begin[s + 1]) for s in chosen]
        return Sequences(self.values[np.concatenate(rows)], self.lengths[np.asarray(chosen)])

    def place(self, position: int) -> str:
        """Words for a place of :attr:`values`: its sequence, and its position there, both from 0."""
        s = int(np.searchsorted(self.begin, position, side="right")) - 1
        return f"position {position - int(self.begin[s])} of sequence {s}"


def _values(values: ArrayLike) -> NDArray[Any]:
    array = np.asarray(values)
    if array.ndim and not len(array):
        raise UserError("there are no observations: every sequence needs at least 1")
    if array.dtype.kind not in "iuf" or array.ndim not in (1, 2):
        raise UserError(
            f"values must be integers (n,), or numbers (n,) or (n, D), got {array.dtype} of shape {array.shape}"
        )
    if array.dtype.kind in "iu" and array.ndim == 1:
        if bad := np.flatnonzero((array < MISSING) | (array > np.iinfo(np.int32).max)).tolist():
            raise UserError(
                f"symbol {array[bad[0]]} at position {bad[0]}: symbols count from 0, and -1 is a missing one"
            )
        return np.ascontiguousarray(array, dtype=np.int32)
    vectors = np.ascontiguousarray(array.reshape(len(array), -1), dtype=np.float64)
    if not vectors.shape[1]:
        raise UserError("values of shape (n, 0): an observation needs at least 1 dimension")
    is_nan = np.isnan(vectors)
    if bad := np.flatnonzero(is_nan.any(axis=1) & ~is_nan.all(axis=1)).tolist():
        raise UserError(
            f"row {bad[0]} is NaN in some of its {vectors.shape[1]} dimensions: a missing row is NaN in all"
        )
    with np.errstate(invalid="ignore"):
        is_large = np.abs(vectors) > _LARGEST
    if is_large.any():
        row, d = np.argwhere(is_large)[0].tolist()
        raise UserError(f"value {vectors[row, d]} at row {row}: values must lie between -1e100 and 1e100")
    return vectors


def _lengths(lengths: ArrayLike | None, n: int) -> Integers:
    array = np.asarray([n] if lengths is None else lengths)
    if array.ndim != 1 or not array.size or array.dtype.kind not in "iu":
        raise UserError(f"lengths must be integers (S,), at least one, got {array.dtype} of shape {array.shape}")
    if bad := np.flatnonzero(array < 1).tolist():
        raise UserError(f"sequence {bad[0]} has length {array[bad[0]]}: every sequence needs at least 1 observation")
    if array.sum() != n:
        raise UserError(f"lengths add up to {array.sum():,}, and there are {n:,} observations")
    return array.astype(np.int64)
