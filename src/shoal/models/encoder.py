"""Encoder: blocks in which every position attends to all positions that are no padding.

Source: Vaswani et al. 2017, section 3.1, from the blocks of :mod:`~shoal.models.gpt` and their variants.

Shapes: ``B`` batch, ``S`` sequence, ``D`` width, ``H`` heads, ``L`` layers.
"""

import torch
from torch import Tensor, nn

from shoal.models.gpt import PRACTICAL, Block, Variant
from shoal.models.norms import new_norm


class Encoder(nn.Module):
    """Stack of ``L`` bidirectional blocks; a last norm after them where they normalise before their layers."""

    def __init__(
        self,
        d_model: int,
        num_heads: int,
        num_blocks: int,
        multiplier: float = 4,
        dropout: float = 0.0,
        non_linearity: str = "relu",
        bias: bool = True,
        variant: Variant = PRACTICAL,
    ) -> None:
        super().__init__()
        form = (multiplier, dropout, non_linearity, bias, variant)
        self.blocks = nn.ModuleList([Block(d_model, num_heads, *form, causal=False) for _ in range(num_blocks)])
        self.norm = new_norm(variant.norm if variant.norm_position != "post" else "none", d_model, variant.bias_norm)

    def forward(self, x: Tensor, seen: Tensor, *, details: bool = False) -> tuple[Tensor, Tensor | None]:
        """Run the blocks.

        Args:
            x: embeddings, ``(B, S, D)``.
            seen: ``(B, S)``, bool, True = counts; no position attends to those that do not count, which attend to the
                others all the same.
            details: true to return the attention weights.

        Returns:
            Outputs ``(B, S, D)``, and the attention weights ``(B, L, H, S, S)`` or None. A row in which no position
            counts attends to nothing.
        """
        attentions = []
        for block in self.blocks:
            x, attention_weights = block(x, seen[:, None, None, :])  # (B, S, D), (B, H, S, S)
            if details:
                attentions.append(attention_weights)
        return self.norm(x), torch.stack(attentions, dim=1) if details else None
