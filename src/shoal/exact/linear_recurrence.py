"""Linear recurrence ``h_t = Wᵀ h_{t-1}``: spectral radius, and the norms that it does and does not govern.

Source: the deep learning course, problem 3.5, eq. (14) and (15). ``h_t = (Wᵀ)^t h_0``; its norm behaves like ``ρ(W)^t``
for large t, up to a polynomial in t, unless h_0 has no part in the direction of the largest eigenvalue. For finite t
the norm of W^t can be far above ``ρ(W)^t``: by Jordan blocks and, more generally, where W is not normal.
"""

import torch
from torch import Tensor

from shoal.errors import UserError


def spectral_radius(W: Tensor) -> float:
    """Largest absolute eigenvalue ρ(W).

    Args:
        W: real or complex, ``(D, D)``; computed in double precision. An eigenvalue of a Jordan block of size m is exact
            to about the m-th root of 1e-16 only.

    Raises:
        UserError: W is no square matrix of finite numbers.
    """
    return float(torch.linalg.eigvals(_square(W)).abs().max())


def recurrence(W: Tensor, h_0: Tensor, steps: int) -> Tensor:
    """States ``h_0, …, h_steps`` of ``h_t = Wᵀ h_{t-1}``.

    Args:
        W: real or complex, ``(D, D)``.
        h_0: first state, ``(D,)``.
        steps: number of steps, at least 0.

    Returns:
        ``(steps + 1, D)``, in double precision.

    Raises:
        UserError: W is no square matrix of finite numbers, h_0 does not fit it, or steps is negative.
    """
    W = _square(W)
    if h_0.shape != W.shape[:1]:
        raise UserError(f"h_0 has the shape {tuple(h_0.shape)}: it must be ({len(W)},), as W is {tuple(W.shape)}")
    _count(steps)
    states = [h_0.to(torch.promote_types(W.dtype, h_0.dtype))]
    for _ in range(steps):
        states.append(W.T.to(states[0]) @ states[-1])
    return torch.stack(states)


def power_norms(W: Tensor, steps: int) -> Tensor:
    """Operator norms ``‖W^t‖`` for t from 0 to ``steps``: the largest growth of any h_0 after t steps.

    Args:
        W: real or complex, ``(D, D)``.
        steps: number of steps, at least 0.

    Returns:
        ``(steps + 1,)``, float64.

    Raises:
        UserError: W is no square matrix of finite numbers, or steps is negative.
    """
    W = _square(W)
    _count(steps)
    powers = [torch.eye(len(W), dtype=W.dtype)]
    for _ in range(steps):
        powers.append(powers[-1] @ W)
    norms: Tensor = torch.linalg.matrix_norm(torch.stack(powers), ord=2)
    return norms


def jordan_block(eigenvalue: complex, size: int) -> Tensor:
    """Matrix with one eigenvalue on its diagonal and ones above it, ``(size, size)``; float64, or complex128.

    Raises:
        UserError: the size is below 1.
    """
    if size < 1:
        raise UserError(f"size is {size}: a block has at least one row")
    ones = torch.ones(size - 1, dtype=torch.float64)
    return torch.eye(size, dtype=torch.float64) * eigenvalue + torch.diag(ones, 1)


def _square(W: Tensor) -> Tensor:
    if W.ndim != 2 or W.shape[0] != W.shape[1] or not W.numel() or not W.isfinite().all():
        raise UserError(f"W has the shape {tuple(W.shape)}: it must be a square matrix of finite numbers")
    return W.to(torch.complex128 if W.is_complex() else torch.float64)


def _count(steps: int) -> None:
    if steps < 0:
        raise UserError(f"steps is {steps}: it must be at least 0")
