"""Library compiled from ``kernels.c``, where there is a C compiler: expected counts, messages in logarithms, Viterbi.

Shapes: ``R`` models, ``m`` models of one call, ``K`` states, ``J`` columns of a row, ``S`` sequences, ``n`` observations.
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
        *((name, _Index) for name in ("K", "J", "S", "kind", "D", "T", "is_lanes", "is_guarded")),
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
    return buffer[offset : offset + n].view(dtype).reshape(shape)


def columns(array: Array, J: int, rows: int | None = None) -> Array:
    """Rows of ``kernels.c`` from ``(m, K, …)``: ``(…, J)``; lanes beyond m are of the last model, columns beyond K zeros.

    Args:
        array: numbers of each model and state.
        J: number of columns: 8 K in lanes, else K rounded up to a multiple of 8.
        rows: number of rows of a result ``(rows, J)``, zeros at the end.
    """
    m, K, *rest = array.shape
    filled = aligned((*rest, J)) if rows is None else aligned((rows, J))
    result = filled if rows is None else filled[: rest[0]]
    of_states = np.moveaxis(array, (0, 1), (-1, -2))  # (…, K, m)
    if J == K * WIDTH:
        lanes = result.reshape(*rest, K, WIDTH)
        lanes[..., :m], lanes[..., m:] = of_states, of_states[..., -1:]
    else:
        result[..., :K] = of_states[..., 0]
    return filled


def from_columns(rows: Array, m: int, K: int) -> Array:
    """Numbers of each model and state ``(m, K, …)`` from rows ``(…, J)``."""
    if rows.shape[-1] == K * WIDTH:
        return np.moveaxis(rows.reshape(*rows.shape[:-1], K, WIDTH), (-1, -2), (0, 1))[:m]
    return np.moveaxis(rows[..., :K, None], (-1, -2), (0, 1))
