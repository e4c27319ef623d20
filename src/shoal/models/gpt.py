"""GPT from scratch: causal multi-headed attention, post-norm blocks, sinusoidal positions; or a variant of these.

Source: Radford et al. 2018 and Vaswani et al. 2017, written with the equations, class names and parameter names of the
practical on modular arithmetic (problem 2). The variants that :class:`Variant` names come from the papers that
:mod:`~shoal.models.norms`, :mod:`~shoal.models.positions` and the classes here name.

Shapes: ``B`` batch, ``S`` sequence, ``D`` width (``embedding_size``, ``d_model``), ``H`` heads, ``V`` vocabulary,
``L`` layers.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from shoal.models.dropout import Dropout
from shoal.models.norms import NORMS
from shoal.models.positions import POSITIONS, SINUSOIDAL, rotary_angles, rotate

ACTIVATIONS = {"gelu": nn.GELU, "relu": nn.ReLU}
NON_LINEARITIES = (*ACTIVATIONS, "swiglu")
NORM_POSITIONS = ("post", "pre", "pre_stream")


@dataclass(frozen=True)
class Variant:
    """What other papers do differently; the defaults are the practical's.

    Attributes:
        norm: one of :data:`~shoal.models.norms.NORMS`.
        norm_position: ``post``, where each residual sum is normalised; or ``pre`` (Xiong et al. 2020), where what
            enters attention and feed-forward is, and the sum itself only once, before the classifier; or ``pre_stream``
            (the code of Lee et al. 2024), where attention is added to the normalised stream.
        positions: one of :data:`~shoal.models.positions.POSITIONS`.
        bias_ffn: whether the feed-forward layers have biases.
    """

    norm: str = "layernorm"
    norm_position: str = "post"
    positions: str = "sinusoidal"
    bias_ffn: bool = False

    def __post_init__(self) -> None:
        allowed = {"norm": NORMS, "norm_position": NORM_POSITIONS, "positions": POSITIONS}
        for name, names in allowed.items():
            if getattr(self, name) not in names:
                raise ValueError(f"{name} must be one of {' '.join(names)}, got {getattr(self, name)!r}")


PRACTICAL = Variant()


class MultiHeadedAttention(nn.Module):
    """Causal scaled dot-product attention with ``H`` heads of size ``D / H``.

    ``rotary`` turns queries and keys by their positions, which needs an even size of the heads.
    """

    def __init__(self, d_model: int, num_heads: int, bias: bool = True, rotary: bool = False) -> None:
        super().__init__()
        if d_model % num_heads != 0:
            raise ValueError(f"d_model must be divisible by num_heads, got {d_model} and {num_heads}")
        self.head_size = d_model // num_heads
        if rotary and self.head_size % 2:
            raise ValueError(f"rotary positions need an even d_model / num_heads, got {d_model} / {num_heads}")
        self.num_heads = num_heads
        self.rotary = rotary
        self.W_Q = nn.Linear(d_model, d_model, bias=bias)
        self.W_K = nn.Linear(d_model, d_model, bias=bias)
        self.W_V = nn.Linear(d_model, d_model, bias=bias)
        self.W_O = nn.Linear(d_model, d_model, bias=bias)

    def get_attention_weights(self, queries: Tensor, keys: Tensor) -> Tensor:
        """Causal softmax of ``q k^T / sqrt(head_size)``.

        Args:
            queries: ``(B, H, S, head_size)``.
            keys: ``(B, H, S, head_size)``.

        Returns:
            Weights ``(B, H, S, S)``; each row sums to 1 and is 0 above the diagonal.
        """
        visible = self.visible(queries.shape[-2], keys.shape[-2], queries.device)  # (S, K)
        scores = queries @ keys.transpose(-2, -1) / math.sqrt(self.head_size)  # (B, H, S, K)
        return scores.masked_fill(~visible, -math.inf).softmax(dim=-1)  # (B, H, S, K)

    def visible(self, queries: int, keys: int, device: torch.device) -> Tensor:
        """Which keys a query may see, ``(queries, keys)``, bool: itself and those before it."""
        return torch.ones(queries, keys, dtype=torch.bool, device=device).tril()

    def apply_attention(self, queries: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Average the values by the attention weights and concatenate the heads.

        Args:
            queries: ``(B, H, S, head_size)``.
            keys: ``(B, H, S, head_size)``.
            values: ``(B, H, S, head_size)``.

        Returns:
            Context ``(B, S, D)`` and attention weights ``(B, H, S, S)``.
        """
        attention_weights = self.get_attention_weights(queries, keys)  # (B, H, S, S)
        return self.merge_heads(attention_weights @ values), attention_weights

    def split_heads(self, tensor: Tensor) -> Tensor:
        """``(B, S, H * dim) -> (B, H, S, dim)``: head ``j`` is the ``j``-th contiguous slice of the last dimension."""
        B, S, D = tensor.shape
        return tensor.reshape(B, S, self.num_heads, D // self.num_heads).transpose(1, 2)  # (B, H, S, dim)

    def merge_heads(self, tensor: Tensor) -> Tensor:
        """``(B, H, S, dim) -> (B, S, H * dim)``, the inverse of :meth:`split_heads`."""
        B, H, S, dim = tensor.shape
        return tensor.transpose(1, 2).reshape(B, S, H * dim)  # (B, S, H * dim)

    def rotate(self, heads: Tensor) -> Tensor:
        """Turn queries or keys ``(B, H, S, head_size)`` by their positions ``0 ... S - 1``."""
        positions = torch.arange(heads.shape[-2], device=heads.device)
        return rotate(heads, rotary_angles(positions, self.head_size))  # (B, H, S, head_size)

    def forward(self, queries: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Project, attend, project back.

        Args:
            queries: ``(B, S, D)``.
            keys: ``(B, S, D)``; the queries again for self-attention.
            values: ``(B, S, D)``; likewise.

        Returns:
            Outputs ``(B, S, D)`` and attention weights ``(B, H, S, S)``.
        """
        q = self.split_heads(self.W_Q(queries))  # (B, H, S, head_size)
        k = self.split_heads(self.W_K(keys))  # (B, H, S, head_size)
        v = self.split_heads(self.W_V(values))  # (B, H, S, head_size)
        if self.rotary:
            q, k = self.rotate(q), self.rotate(k)
        context, attention_weights = self.apply_attention(q, k, v)
        return self.W_O(context), attention_weights


class SwiGLU(nn.Module):
    """``W_down(silu(W_gate x) * W_up x)``: a feed-forward layer whose activation is gated (Shazeer 2020)."""

    def __init__(self, d_model: int, d_ff: int, bias: bool = False) -> None:
        super().__init__()
        self.W_gate = nn.Linear(d_model, d_ff, bias=bias)
        self.W_up = nn.Linear(d_model, d_ff, bias=bias)
        self.W_down = nn.Linear(d_ff, d_model, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """``(*dims, d_model) -> (*dims, d_model)``."""
        outputs: Tensor = self.W_down(F.silu(self.W_gate(x)) * self.W_up(x))
        return outputs


def feed_forward_width(d_model: int, multiplier: float, non_linearity: str) -> int:
    """Neurons of a feed-forward layer: ``multiplier d_model``, of which SwiGLU has two thirds.

    So its three matrices have as many parameters as the two of the others.

    >>> feed_forward_width(96, 4, "relu"), feed_forward_width(96, 4, "swiglu")
    (384, 256)
    """
    return int(2 * multiplier * d_model / 3 if non_linearity == "swiglu" else multiplier * d_model)


def feed_forward(d_model: int, multiplier: float, non_linearity: str, bias: bool) -> nn.Module:
    """What a block computes at each position alone, ``(*dims, d_model) -> (*dims, d_model)``."""
    d_ff = feed_forward_width(d_model, multiplier, non_linearity)
    if non_linearity == "swiglu":
        return SwiGLU(d_model, d_ff, bias)
    return nn.Sequential(
        nn.Linear(d_model, d_ff, bias=bias),
        ACTIVATIONS[non_linearity](),
        nn.Linear(d_ff, d_model, bias=bias),
    )


class Block(nn.Module):
    """Attention and a feed-forward layer, each with its residual and its norm: after the sum, or before the layer."""

    def __init__(
        self,
        d_model: int,
        num_heads: int,
        multiplier: float = 4,
        dropout: float = 0.0,
        non_linearity: str = "gelu",
        bias: bool = True,
        variant: Variant = PRACTICAL,
    ) -> None:
        super().__init__()
        self.norm_position = variant.norm_position
        self.self_attn = MultiHeadedAttention(d_model, num_heads, bias, rotary=variant.positions == "rotary")
        self.self_attn_norm = NORMS[variant.norm](d_model)
        self.ffn = feed_forward(d_model, multiplier, non_linearity, variant.bias_ffn)
        self.ffn_drop = Dropout(dropout)
        self.ffn_norm = NORMS[variant.norm](d_model)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """``(B, S, D) -> (B, S, D)`` and attention weights ``(B, H, S, S)``."""
        if self.norm_position != "post":
            normed = self.self_attn_norm(x)
            attended, attention_weights = self.self_attn(normed, normed, normed)
            x = attended + (normed if self.norm_position == "pre_stream" else x)
            return x + self.ffn_drop(self.ffn(self.ffn_norm(x))), attention_weights
        attended, attention_weights = self.self_attn(x, x, x)
        x = self.self_attn_norm(x + attended)
        return self.ffn_norm(x + self.ffn_drop(self.ffn(x))), attention_weights


class Decoder(nn.Module):
    """``L`` blocks in sequence; a last norm after them where they normalise before their layers."""

    def __init__(
        self,
        d_model: int,
        num_heads: int,
        num_blocks: int,
        multiplier: float = 4,
        dropout: float = 0.0,
        non_linearity: str = "gelu",
        bias: bool = True,
        variant: Variant = PRACTICAL,
    ) -> None:
        super().__init__()
        form = (multiplier, dropout, non_linearity, bias, variant)
        self.blocks = nn.ModuleList([Block(d_model, num_heads, *form) for _ in range(num_blocks)])
        self.norm = NORMS[variant.norm if variant.norm_position != "post" else "none"](d_model)

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Run the blocks.

        Args:
            x: embeddings, ``(B, S, D)``.

        Returns:
            Outputs ``(B, S, D)``, then the hidden states ``(B, L + 1, S, D)``, the input first and the last before the
            last norm, and the attention weights ``(B, L, H, S, S)``.
        """
        hidden_states, attentions = [x], []
        for block in self.blocks:
            x, attention_weights = block(x)
            hidden_states.append(x)
            attentions.append(attention_weights)
        return self.norm(x), (torch.stack(hidden_states, dim=1), torch.stack(attentions, dim=1))


class GPTEmbedding(nn.Module):
    """Token embedding plus the table of positions: fixed sinusoidal, learned, or none."""

    position_encoding: Tensor

    def __init__(
        self,
        vocabulary_size: int,
        embedding_size: int,
        n_max_positions: int,
        padding_index: int | None = None,
        kind: str = "sinusoidal",
    ) -> None:
        super().__init__()
        self.kind = kind
        self.tokens = nn.Embedding(vocabulary_size, embedding_size, padding_idx=padding_index)
        if kind in SINUSOIDAL:
            table = self.create_sinusoidal_embeddings(n_max_positions, embedding_size, kind)
            self.register_buffer("position_encoding", table)
        elif kind == "learned":
            self.positions = nn.Embedding(n_max_positions, embedding_size)

    @staticmethod
    def create_sinusoidal_embeddings(n_positions: int, dimension: int, kind: str = "sinusoidal") -> Tensor:
        """``PE[pos, 2k] = sin(pos / 10000^(c k/d))`` and ``PE[pos, 2k+1] = cos(pos / 10000^(c k/d))``.

        ``c`` is that of the kind: 1 for the practical's ``sinusoidal``, 2 for ``vaswani``.

        Returns:
            ``(n_positions, dimension)``, float32.
        """
        i = torch.arange(dimension)  # (D,)
        pos = torch.arange(n_positions).unsqueeze(1)  # (n_positions, 1)
        angles = pos / 10000 ** (SINUSOIDAL[kind] * i.div(2, rounding_mode="floor") / dimension)  # (n_positions, D)
        return torch.where(i % 2 == 0, angles.sin(), angles.cos())

    def forward(self, tokens: Tensor) -> Tensor:
        """``(B, S) -> (B, S, D)``."""
        embedded: Tensor = self.tokens(tokens)
        if self.kind in SINUSOIDAL:
            return embedded + self.position_encoding[: tokens.shape[1]]
        if self.kind == "learned":
            return embedded + self.positions.weight[: tokens.shape[1]]
        return embedded


class GPT(nn.Module):
    """Decoder-only transformer language model.

    ``share_embeddings`` ties the classifier's weight to the token embedding's. ``variant`` is what :class:`Variant`
    lists, by name: ``GPT(..., norm="rmsnorm", norm_position="pre", positions="rotary")``.
    """

    def __init__(
        self,
        num_heads: int,
        num_layers: int,
        embedding_size: int,
        vocabulary_size: int,
        sequence_length: int,
        multiplier: float = 4,
        dropout: float = 0.0,
        non_linearity: str = "gelu",
        padding_index: int | None = None,
        bias_attention: bool = True,
        bias_classifier: bool = True,
        share_embeddings: bool = False,
        **variant: Any,
    ) -> None:
        super().__init__()
        chosen = Variant(**variant)
        self.embedding = GPTEmbedding(vocabulary_size, embedding_size, sequence_length, padding_index, chosen.positions)
        self.decoder = Decoder(
            embedding_size, num_heads, num_layers, multiplier, dropout, non_linearity, bias_attention, chosen
        )
        self.classifier = nn.Linear(embedding_size, vocabulary_size, bias=bias_classifier)
        if share_embeddings:
            self.classifier.weight = self.embedding.tokens.weight

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Predict the next token at every position.

        Args:
            x: token indices, ``(B, S)``, int64.

        Returns:
            Logits ``(B, S, V)``, then the hidden states ``(B, L + 1, S, D)`` and the attention weights
            ``(B, L, H, S, S)``.
        """
        outputs, (hidden_states, attentions) = self.decoder(self.embedding(x))
        return self.classifier(outputs), (hidden_states, attentions)
