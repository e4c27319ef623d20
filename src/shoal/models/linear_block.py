"""Transformer block of the question on LoRA and QLoRA: heads as wide as the model, one matrix behind them.

Source: document R, question 4: ``MHA(H) = [head_1, …, head_h] W_O`` with heads of size ``d`` and ``W_O`` of
``hd × d``, ``LFFN(X) = X W_F``, and a block ``LFFN(MHA(H))`` without residuals, norms or a mask. Every head has its own
matrices, so that adapters of rank ``r`` have ``6 h d r`` parameters in attention and ``2 d r`` in the feed-forward
layer.

Shapes: ``B`` batch, ``S`` sequence, ``D`` width ``d``, ``H`` heads.
"""

import math

import torch
from torch import Tensor, nn


class WideHead(nn.Module):
    """Attention head of size ``D``, over all positions."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.W_Q = nn.Linear(width, width, bias=False)
        self.W_K = nn.Linear(width, width, bias=False)
        self.W_V = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Attend: ``(B, S, D) -> (B, S, D)``."""
        queries, keys, values = self.W_Q(x), self.W_K(x), self.W_V(x)  # (B, S, D) each
        weights = (queries @ keys.transpose(-2, -1) / math.sqrt(x.shape[-1])).softmax(-1)  # (B, S, S)
        attended: Tensor = weights @ values
        return attended


class WideAttention(nn.Module):
    """Attention with ``H`` heads of size ``D``, and ``W_O`` of ``H D × D``."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.heads = nn.ModuleList([WideHead(width) for _ in range(num_heads)])
        self.W_O = nn.Linear(num_heads * width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Attend: ``(B, S, D) -> (B, S, D)``."""
        attended: Tensor = self.W_O(torch.cat([head(x) for head in self.heads], dim=-1))
        return attended


class LinearBlock(nn.Module):
    """Block of attention with wide heads and one matrix, ``LFFN(MHA(H))``."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.attention = WideAttention(width, num_heads)
        self.ffn = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Run the block: ``(B, S, D) -> (B, S, D)``."""
        outputs: Tensor = self.ffn(self.attention(x))
        return outputs
