"""Layers and rows that the decoders written for a family share: R members on stacked weights.

Shapes: ``R`` members, ``N`` rows, ``M`` rows of states of one member, ``D`` width, ``V`` vocabulary.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from shoal.models.norms import LayerNorm, RMSNorm


@dataclass(frozen=True)
class Linear:
    """Linear layer ``x W + b`` of every member, or several such layers of the same ``x`` as one.

    Attributes:
        weight: ``(R, inputs, outputs)``, the order in which products of few rows are fastest.
        bias: ``(R, 1, outputs)``, or None.
    """

    weight: Tensor
    bias: Tensor | None

    @classmethod
    def of(cls, parameters: Mapping[str, Tensor], *names: str) -> "Linear":
        """Layers ``names`` as one, whose weights are ``(R, outputs, inputs)`` each."""
        each = [parameters[f"{name}.weight"] for name in names]
        rows = each[0] if len(each) == 1 else torch.cat(each, dim=1)  # (R, outputs, inputs)
        weight = torch.empty(rows.mT.shape, dtype=rows.dtype, device=rows.device)
        for transposed, row in zip(weight, rows, strict=True):  # one matrix at a time PyTorch transposes in blocks
            transposed.copy_(row.t())
        if f"{names[0]}.bias" not in parameters:
            return cls(weight, None)
        return cls(weight, torch.cat([parameters[f"{name}.bias"] for name in names], dim=1).unsqueeze(1))

    def __call__(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """Apply the layer: ``(R, M, inputs) -> (R, M, outputs)``, written to ``out`` if it is given."""
        if self.bias is None:
            return torch.bmm(x, self.weight) if out is None else torch.bmm(x, self.weight, out=out)
        if out is None:
            return torch.baddbmm(self.bias, x, self.weight)
        return torch.baddbmm(self.bias, x, self.weight, out=out)

    def added(self, stream: Tensor, x: Tensor) -> Tensor:
        """Add the layer's outputs to ``stream`` ``(R, M, outputs)``, in place."""
        stream.baddbmm_(x, self.weight)
        return stream if self.bias is None else stream.add_(self.bias)


class Norm:
    """Norm of every member, LayerNorm, RMSNorm or none: see :mod:`shoal.models.norms`.

    Args:
        module: norm of one member; its parameters are not used.
        name: name of the module.
        parameters: parameters of the members, by name.
    """

    def __init__(self, module: nn.Module, name: str, parameters: Mapping[str, Tensor]) -> None:
        self.kind = type(module)
        if not isinstance(module, LayerNorm | RMSNorm):
            return
        weight, bias = parameters[f"{name}.weight"], parameters.get(f"{name}.bias")
        self.shape, self.eps = (weight.shape[-1],), module.eps
        is_alone = len(weight) == 1  # PyTorch's LayerNorm takes one scale
        self.weight = weight[0] if is_alone else weight.unsqueeze(1)  # (D,) or (R, 1, D)
        self.bias = bias if bias is None else bias[0] if is_alone else bias.unsqueeze(1)
        self.is_alone = is_alone

    def __call__(self, x: Tensor) -> Tensor:
        """Apply the norm: ``(R, M, D) -> (R, M, D)``; without a norm it is ``x`` itself."""
        if self.kind is LayerNorm:
            if self.is_alone:
                return torch.layer_norm(x, self.shape, self.weight, self.bias, self.eps)
            normed = torch.layer_norm(x, self.shape, eps=self.eps)
            return normed.mul_(self.weight) if self.bias is None else torch.addcmul(self.bias, normed, self.weight)
        return torch.rms_norm(x, self.shape, eps=self.eps).mul_(self.weight) if self.kind is RMSNorm else x


class Table:
    """Embedding table of every member.

    Args:
        weight: ``(R, V, D)``, or ``(1, V, D)`` where all members have the same.
    """

    def __init__(self, weight: Tensor) -> None:
        members, size, _ = weight.shape
        self.rows = weight.reshape(-1, weight.shape[-1])  # (R V, D)
        self.first = (torch.arange(members, device=weight.device) * size).view(-1, 1, 1) if members > 1 else None

    def __call__(self, index: Tensor) -> Tensor:
        """Look up rows: ``(R, N, n)``, int64, to ``(R, N, n, D)``."""
        flat = (index if self.first is None else index + self.first).reshape(-1)
        return self.rows.index_select(0, flat).view(*index.shape, self.rows.shape[1])


def last_of_each(x: Tensor, counts: Tensor | None) -> Tensor:
    """Last real position of each row: ``(R, N, n, D) -> (R, N, 1, D)``, where ``counts`` ``(N,)`` are real, or all."""
    if counts is None:
        return x[:, :, -1:]
    at = (counts - 1).clamp(min=0)[:, None, None].expand(x.shape[0], -1, 1, x.shape[-1])  # (R, N, 1, D)
    return x.gather(2, at)


def flat_rows(rows: Tensor, R: int, N: int) -> Tensor:
    """Indices among all ``R N`` rows of ``rows``: ``(N',)`` the same for every member, or ``(R, N')`` for each.

    Returns:
        ``(R N',)``.
    """
    return (rows + torch.arange(R, device=rows.device).unsqueeze(1) * N).flatten()
