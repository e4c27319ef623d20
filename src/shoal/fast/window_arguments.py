"""Arguments of the kernels of windows (``windows.c``) from what operations are given.

``R`` members, ``n`` rows, ``D`` width, ``V`` vocabulary.
"""

import math

import torch
from torch import Tensor

from shoal.fast.ops import Norm, is_rms_norm
from shoal.fast.program import Value
from shoal.fast.window_ops import Drop

NO_NORM, LAYER_NORM, RMS_NORM = range(3)  # by their numbers in windows.c
PLACES = 2**32  # of a mask of dropout: the hash is of 32 bits


def shares(label_smoothing: float, convention: str, V: int) -> tuple[float, float, float, float]:
    """Distribution that logits are scored by: its share on each token, besides that on the target and on token 0, and
    what the loss has besides; see :func:`shoal.objectives.smoothed_losses`."""
    e = float(label_smoothing)
    if e == 0 or convention == "torch":
        return e / V, 1 - e, 0.0, 0.0
    if convention == "fairseq":
        return e / (V - 1), 1 - e - e / (V - 1), 0.0, 0.0
    assert convention == "joeynmt"
    each = e / (V - 2)
    entropy = (1 - e) * math.log(1 - e) + (e * math.log(each) if each > 0 else 0.0)  # a share so small may be none
    return each, 1 - e - each, -each, entropy


def drop_arguments(drop: Drop | None, places: int) -> tuple[Tensor | None, int, float]:
    """Keys, least upper 24 bits of what is kept, and its factor."""
    if drop is None:
        return None, 0, 0.0
    assert places <= PLACES and drop.key.is_contiguous()
    p = float(torch.tensor(drop.p, dtype=torch.float32))  # with which PyTorch compares
    return drop.key, math.ceil(p * 2**24), 1 / (1 - drop.p)


def norm_arguments(norm: Norm[Value]) -> tuple[int, Tensor | None, int, Tensor | None, int]:
    """Kind of a norm in windows.c; its weight and shift and their strides."""
    if norm is None:
        return NO_NORM, None, 0, None, 0
    return (RMS_NORM if is_rms_norm(norm) else LAYER_NORM, *placed(norm[0]), *placed(norm[1]))


def all_constant(*values: Value | None) -> bool:
    """Return True if no parameter that trains is behind any of the values."""
    return all(value is None or value.is_constant for value in values)


def placed(value: Value | None) -> tuple[Tensor | None, int]:
    """Array of a value and its stride from one member to the next."""
    return (None, 0) if value is None else (value.data, stride(value.data))


def stride(array: Tensor) -> int:
    """Stride from one member to the next of an array whose members are contiguous."""
    assert array.dtype == torch.float32 and array[0].is_contiguous()
    return array.stride(0)


def strides(array: Tensor) -> tuple[int, int]:
    """Length of a row and stride from one member to the next, ``(R, n, D)``."""
    assert array.dtype == torch.float32 and array.stride(2) == 1
    return array.stride(1), array.stride(0)


def member_stride(tensor: Tensor | None) -> tuple[Tensor | None, int]:
    """Array and its stride from one member to the next, in elements; None and 0 where there is none."""
    return tensor, 0 if tensor is None else tensor.stride(0)
