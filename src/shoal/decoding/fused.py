"""What the decoders written for a family share: layers of R members on stacked weights, and rows of all members.

Shapes: ``R`` members, ``N`` rows, ``M`` rows of states of one member, ``D`` width, ``V`` vocabulary.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Linear:
    """``x W + b`` of every member, and several such maps of the same ``x`` as one.

    Attributes:
        weight: ``(R, inputs, outputs)``, as products of few rows read it soonest.
        bias: ``(R, 1, outputs)``, or None.
    """

    weight: Tensor
    bias: Tensor | None

    @classmethod
    def of(cls, parameters: Mapping[str, Tensor], *names: str) -> "Linear":
        """The layers ``names`` side by side, whose weights are ``(R, outputs, inputs)`` each."""
        weight = torch.cat([parameters[f"{name}.weight"] for name in names], dim=1).mT.contiguous()
        if f"{names[0]}.bias" not in parameters:
            return cls(weight, None)
        return cls(weight, torch.cat([parameters[f"{name}.bias"] for name in names], dim=1).unsqueeze(1))

    def __call__(self, x: Tensor) -> Tensor:
        """``(R, M, inputs) -> (R, M, outputs)``."""
        return torch.bmm(x, self.weight) if self.bias is None else torch.baddbmm(self.bias, x, self.weight)

    def added(self, stream: Tensor, x: Tensor) -> Tensor:
        """``stream`` ``(R, M, outputs)`` with the layer's outputs added to it, in place."""
        stream.baddbmm_(x, self.weight)
        return stream if self.bias is None else stream.add_(self.bias)


@dataclass(frozen=True)
class Norm:
    """LayerNorm, RMSNorm or none, of every member: see :mod:`shoal.models.norms`.

    Attributes:
        kind: one of :data:`~shoal.models.norms.NORMS`.
        weight: ``(R, 1, D)``, or None where there is no norm.
        bias: likewise; also None where the norm does not shift.
        eps: what is added to the variance or the mean square.
    """

    kind: str
    weight: Tensor | None
    bias: Tensor | None
    eps: float

    def __call__(self, x: Tensor) -> Tensor:
        """``(R, M, D) -> (R, M, D)``; without a norm it is ``x`` itself."""
        if self.weight is None:
            return x
        R, _, D = self.weight.shape
        if self.kind == "rmsnorm":
            return F.rms_norm(x, (D,), eps=self.eps) * self.weight
        if R == 1:
            return F.layer_norm(x, (D,), self.weight[0, 0], None if self.bias is None else self.bias[0, 0], self.eps)
        normed = F.layer_norm(x, (D,), eps=self.eps)
        return normed.mul_(self.weight) if self.bias is None else torch.addcmul(self.bias, normed, self.weight)


class Table:
    """Rows by number, every member its own: an embedding.

    Args:
        weight: ``(R, V, D)``, or ``(1, V, D)`` where all have the same.
    """

    def __init__(self, weight: Tensor) -> None:
        own, size, _ = weight.shape
        self.rows = weight.reshape(-1, weight.shape[-1])  # (R V, D)
        self.first = (torch.arange(own, device=weight.device) * size).view(-1, 1, 1) if own > 1 else None

    def __call__(self, index: Tensor) -> Tensor:
        """``(R, N, n)``, int64, to ``(R, N, n, D)``."""
        return F.embedding(index if self.first is None else index + self.first, self.rows)


def last_of_each(x: Tensor, counts: Tensor | None) -> Tensor:
    """The last real one of each row: ``(R, N, n, D) -> (R, N, 1, D)``, where ``counts`` ``(N,)`` are real, or all."""
    if counts is None:
        return x[:, :, -1:]
    at = (counts - 1).clamp(min=0)[:, None, None].expand(x.shape[0], -1, 1, x.shape[-1])  # (R, N, 1, D)
    return x.gather(2, at)


def flat_rows(rows: Tensor, R: int, N: int) -> Tensor:
    """Which of all ``R N`` rows ``rows`` are: ``(N',)`` the same of every member, or ``(R, N')`` each its own.

    Returns:
        ``(R N',)``.
    """
    return (rows + torch.arange(R, device=rows.device).unsqueeze(1) * N).flatten()
