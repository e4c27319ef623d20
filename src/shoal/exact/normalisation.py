"""Means and variances that batch, layer and instance normalisation take of a tensor.

Source: the course on representation learning, problem 1. For ``(N, C, F)``, samples by channels by features, in
PyTorch's meaning: batch normalisation averages over N and F, layer normalisation over C and F, instance normalisation
over F.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor

from shoal.errors import UserError, nearest

AXES: Mapping[str, tuple[int, ...]] = MappingProxyType({"batch": (0, 2), "layer": (1, 2), "instance": (2,)})


class Moments(NamedTuple):
    """Mean μ and variance σ², without the axes that were averaged over."""

    mean: Tensor
    variance: Tensor


def moments(x: Tensor, over: str | Sequence[int], unbiased: bool = False) -> Moments:
    """Mean and variance over a set of axes.

    Args:
        x: the tensor; ``(N, C, F)`` where ``over`` is a name.
        over: a name of :data:`AXES`, or the axes to average over.
        unbiased: divide by the number of values less one; normalisation layers divide by their number.

    Returns:
        Both with the remaining axes in their order, in float64.

    Raises:
        UserError: the name is none of them, or an axis is not one of the tensor.

    >>> moments(torch.tensor([[[1.0, 3.0]], [[5.0, 7.0]]]), "batch")
    Moments(mean=tensor([4.], dtype=torch.float64), variance=tensor([5.], dtype=torch.float64))
    """
    axes = _axes(x, over)
    variance, mean = torch.var_mean(x.double(), dim=axes, correction=int(unbiased))
    return Moments(mean, variance)


def normalise(x: Tensor, over: str | Sequence[int], eps: float = 1e-5, unbiased: bool = False) -> Tensor:
    """``(x − μ) / √(σ² + ε)`` with the moments over a set of axes, float64; arguments as of :func:`moments`.

    Layers have the biased variance, the default here.

    Raises:
        UserError: as for :func:`moments`.
    """
    axes = _axes(x, over)
    variance, mean = torch.var_mean(x.double(), dim=axes, correction=int(unbiased), keepdim=True)
    return (x.double() - mean) / torch.sqrt(variance + eps)


def _axes(x: Tensor, over: str | Sequence[int]) -> tuple[int, ...]:
    if isinstance(over, str):
        if over not in AXES:
            raise UserError(f"unknown normalisation {over!r}: one of {' '.join(AXES)}{nearest(over, AXES)}")
        if x.ndim != 3:
            raise UserError(f"x has the shape {tuple(x.shape)}: {over} normalisation needs (N, C, F)")
        return AXES[over]
    axes = tuple(over)
    if not axes or len(set(axes)) < len(axes) or not all(axis in range(x.ndim) for axis in axes):
        raise UserError(f"axes {axes}: one or more of 0 to {x.ndim - 1}, each once")
    return axes
