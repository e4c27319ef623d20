"""Orthogonalised momentum for the hidden weight matrices of a stack.

Source: Jordan et al. 2024 (https://kellerjordan.github.io/posts/muon/), with the length of a step of Liu et al. 2025
(arXiv 2502.16982). As ``torch.optim.Muon(adjust_lr_fn="match_rms_adamw")``, but iterated in the type of the parameters,
float32, where that one is in bfloat16: small matrices have nothing to save, and a step is as exact as any other's.

``R`` members, ``P`` parameters, ``k`` matrices of one shape ``(m, n)``.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # steepest at 0; singular values end in about [0.7, 1.2], not at 1
ITERATIONS = 5
EPS = 1e-7  # a smaller matrix is not scaled up to length 1
RMS = 0.2  # of AdamW's steps, which these shall match
_NOT_HIDDEN = ("embedding", "classifier")  # modules whose matrices are tables or face the tokens


@dataclass(frozen=True)
class Matrices:
    """The hidden matrices of one shape, and where in the flat parameters each starts."""

    shape: tuple[int, int]
    starts: tuple[int, ...]

    def take(self, flat: Tensor) -> Tensor:
        """A copy of them, ``(R, P) -> (R, k, m, n)``."""
        return torch.stack([part.reshape(-1, *self.shape) for part in self._parts(flat)], 1)

    def subtract(self, flat: Tensor, values: Tensor) -> None:
        """Take ``(R, k, m, n)`` off them in ``(R, P)``."""
        for part, value in zip(self._parts(flat), values.flatten(2).unbind(1), strict=True):
            part.sub_(value)

    def replace(self, flat: Tensor, values: Tensor) -> None:
        """Write ``(R, k, m, n)`` into ``(R, P)``."""
        for part, value in zip(self._parts(flat), values.flatten(2).unbind(1), strict=True):
            part.copy_(value)

    def _parts(self, flat: Tensor) -> list[Tensor]:
        size = self.shape[0] * self.shape[1]
        return [flat[:, start : start + size] for start in self.starts]


@dataclass(frozen=True)
class Partition:
    """Which of the flat parameters belong to hidden weight matrices.

    Attributes:
        hidden: the matrices, shape by shape.
        rest: indices of all other parameters, ``(P',)`` int64.
    """

    hidden: tuple[Matrices, ...]
    rest: Tensor

    @classmethod
    def of(cls, layout: Mapping[str, Sequence[int]], device: torch.device | None = None) -> "Partition":
        """The partition of parameters of these names and shapes, which follow each other.

        Embeddings, a classifier tied to them, position tables and a classifier of its own are not hidden, nor is what
        has not two dimensions.
        """
        starts: dict[tuple[int, int], list[int]] = {}
        rest, start = [], 0
        for name, shape in layout.items():
            size = torch.Size(shape).numel()
            if len(shape) == 2 and name.split(".")[0] not in _NOT_HIDDEN:
                starts.setdefault((shape[0], shape[1]), []).append(start)
            else:
                rest.append(torch.arange(start, start + size))
            start += size
        hidden = tuple(Matrices(shape, tuple(places)) for shape, places in starts.items())
        return cls(hidden, torch.cat([torch.arange(0), *rest]).to(device))


def orthogonalised(matrices: Tensor) -> Tensor:
    """About ``U Vᵀ`` of each matrix ``U Σ Vᵀ``, by Newton-Schulz iteration: ``(N, m, n) -> (N, m, n)``."""
    a, b, c = COEFFICIENTS
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices  # (N, m, n) with m <= n, so that the products are the smaller ones
    x = x / torch.linalg.matrix_norm(x, keepdim=True).clamp(min=EPS)
    for _ in range(ITERATIONS):
        gram = torch.bmm(x, x.mT)  # (N, m, m)
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


def muon_steps(gradient: Tensor, momentum: Tensor, decay: Tensor) -> Tensor:
    """What the hidden matrices of one shape move by at a learning rate of 1; their momentum is changed in place.

    Args:
        gradient: ``(R, k, m, n)``.
        momentum: likewise.
        decay: of the momentum, ``(R, 1, 1, 1)``.

    Returns:
        ``(R, k, m, n)``.
    """
    momentum.lerp_(gradient, 1 - decay)
    nesterov = gradient.lerp(momentum, decay)
    directions = orthogonalised(nesterov.flatten(0, 1)).reshape(gradient.shape)
    return RMS * math.sqrt(max(gradient.shape[2:])) * directions
