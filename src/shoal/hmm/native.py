"""Library compiled from ``kernels.c``, where there is a C compiler: expected counts, messages in logarithms, Viterbi.

Shapes: ``R`` models, ``K`` states, ``J`` columns of a row, ``S`` sequences, ``n`` observations.
"""

import ctypes
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shoal.fast.build import compiled
from shoal.hmm.data import Array

SOURCE = Path(__file__).with_name("kernels.c")
WIDTH = 8  # columns of a vector, and models of a call in lanes
_Pointer, _Index = ctypes.c_void_p, ctypes.c_int64
KINDS = ("categorical", "diagonal", "full")  # by their numbers in kernels.c
POSSIBLE, LOST = -1, -2


class Task(ctypes.Structure):
    """Arguments of ``expected_counts``; ``kernels.c`` describes each."""

    _fields_ = (
        *((name, _Index) for name in ("groups", "K", "J", "S", "kind", "V", "D", "T", "is_lanes", "is_guarded")),
        *((name, _Pointer) for name in ("begin", "symbols", "values", "seen", "start", "moves", "moves_back", "emit")),
        *((name, _Pointer) for name in ("means", "whiten", "constants", "weights", "log_likelihood", "impossible")),
        *((name, _Pointer) for name in ("starts", "pairs", "emitted")),
    )


def library() -> ctypes.CDLL | None:
    """Compiled library; None without a C compiler."""
    return compiled(SOURCE).library


def pointer(array: NDArray[Any] | None) -> int | None:
    """Address of the first element of a contiguous array; None of None."""
    if array is None:
        return None
    assert array.flags.c_contiguous
    return int(array.ctypes.data)


def call(function: Any, *arguments: NDArray[Any] | int | None) -> None:
    """Call a function of the library: arrays become pointers, integers stay.

    Raises:
        MemoryError: there is no memory for it.
    """
    converted = [
        _Index(argument) if isinstance(argument, int) else _Pointer(pointer(argument)) for argument in arguments
    ]
    if function(*converted):
        raise MemoryError("there is no memory for the messages of these models")


def aligned(shape: tuple[int, ...], dtype: Any = np.float64) -> NDArray[Any]:
    """Array of zeros that begins at a multiple of 64 bytes, as vectors are read fastest."""
    n = int(np.prod(shape)) * np.dtype(dtype).itemsize
    buffer = np.zeros(n + 64, dtype=np.uint8)
    offset = -buffer.ctypes.data % 64
    result: NDArray[Any] = buffer[offset : offset + n].view(dtype).reshape(shape)
    return result


def columns(array: Array, J: int, rows: int | None = None) -> Array:
    """Rows of ``kernels.c`` from ``(R, K, …)``: ``(groups, …, J)``.

    Lanes beyond R are of the last model, columns beyond K are zeros.

    Args:
        array: numbers of each model and state.
        J: number of columns: 8 K in lanes, else K rounded up to a multiple of 8.
        rows: number of rows of each group ``(rows, J)``, zeros at the end.
    """
    R, K, *rest = array.shape
    shape = rest if rows is None else [rows]
    if J != K * WIDTH:
        filled: Array = aligned((R, *shape, J))
        result = filled if rows is None else filled[:, : rest[0]]
        result[..., :K] = np.moveaxis(array, 1, -1)
        return filled
    G = groups(R, True)
    filled = aligned((G, *shape, K, WIDTH))
    result = filled if rows is None else filled[:, : rest[0]]
    padded = np.concatenate([array, np.repeat(array[-1:], G * WIDTH - R, axis=0)]).reshape(G, WIDTH, K, *rest)
    result[...] = np.moveaxis(padded, (2, 1), (-2, -1))
    return filled.reshape(G, *shape, J)


def from_columns(rows: Array, R: int, K: int) -> Array:
    """Numbers of each model and state ``(R, K, …)`` from rows ``(groups, …, J)``."""
    G, *rest, J = rows.shape
    if J != K * WIDTH:
        return np.moveaxis(rows[..., :K], -1, 1)
    of_lanes = np.moveaxis(rows.reshape(G, *rest, K, WIDTH), (-1, -2), (1, 2))  # (G, 8, K, …)
    return of_lanes.reshape(G * WIDTH, K, *rest)[:R]


def to_lanes(array: Array, is_lanes: bool) -> Array:
    """Numbers of each model and sequence ``(R, S)`` as ``(groups, S, 8)``: 0 in lanes without a model."""
    R, S = array.shape
    result: Array = aligned((groups(R, is_lanes), S, WIDTH))
    if is_lanes:
        padded = np.zeros((len(result) * WIDTH, S))
        padded[:R] = array
        result[...] = padded.reshape(-1, WIDTH, S).swapaxes(1, 2)
    else:
        result[...] = array[:, :, None]  # every column of states has that of its model
    return result


def from_lanes(array: NDArray[Any], R: int, is_lanes: bool) -> NDArray[Any]:
    """Numbers of each model and sequence ``(R, S)`` from ``(groups, S, 8)``."""
    if not is_lanes:
        return array[:, :, 0]
    return array.swapaxes(1, 2).reshape(-1, array.shape[1])[:R]


def groups(R: int, is_lanes: bool) -> int:
    """Number of groups of models that are computed together."""
    return -(-R // WIDTH) if is_lanes else R
