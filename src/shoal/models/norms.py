"""Normalisation layers of a transformer; each learns a scale, and LayerNorm a shift where asked to.

Sources: Ba et al. 2016 for LayerNorm, Zhang & Sennrich 2019 for RMSNorm.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class LayerNorm(nn.Module):
    """Layer normalisation of the last dimension to mean 0 and (biased) variance 1, with a scale and perhaps a shift."""

    def __init__(self, hidden_size: int, eps: float = 1e-5, bias: bool = True) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(hidden_size))
        self.bias = nn.Parameter(torch.zeros(hidden_size)) if bias else None

    def forward(self, inputs: Tensor) -> Tensor:
        """Normalise: ``(*dims, hidden_size) -> (*dims, hidden_size)``."""
        if self.bias is None:  # PyTorch's is faster; the other keeps the rounding of earlier versions
            return F.layer_norm(inputs, (self.hidden_size,), eps=self.eps) * self.weight
        centred = inputs - inputs.mean(dim=-1, keepdim=True)  # (*dims, hidden_size)
        variance = centred.square().mean(dim=-1, keepdim=True)  # (*dims, 1)
        return centred * torch.rsqrt(variance + self.eps) * self.weight + self.bias


class RMSNorm(nn.Module):
    """Root-mean-square normalisation of the last dimension, with a scale: LayerNorm without centring and shift."""

    def __init__(self, hidden_size: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(hidden_size))

    def forward(self, inputs: Tensor) -> Tensor:
        """Normalise: ``(*dims, hidden_size) -> (*dims, hidden_size)``."""
        mean_square = inputs.square().mean(dim=-1, keepdim=True)  # (*dims, 1)
        return inputs * torch.rsqrt(mean_square + self.eps) * self.weight


# Identity takes the width as the others do, and does nothing with it.
NORMS: Mapping[str, Callable[[int], nn.Module]] = MappingProxyType(
    {"layernorm": LayerNorm, "rmsnorm": RMSNorm, "none": nn.Identity}
)


def new_norm(name: str, width: int, bias: bool = True) -> nn.Module:
    """Norm of a name in :data:`NORMS`; ``bias`` gives a LayerNorm its shift and is ignored by the others."""
    return LayerNorm(width, bias=bias) if name == "layernorm" else NORMS[name](width)
