"""Scaled dot-product attention with several heads: causal, masked, or both.

Source: Vaswani et al. 2017, with the names of the practical on modular arithmetic (problem 2).

Shapes: ``B`` batch, ``Q`` queries, ``K`` keys (``S`` where they are as many), ``D`` width, ``H`` heads, ``T`` places of
a cache.
"""

import math

import torch
from torch import Tensor, nn

from shoal.models.cache import Slots
from shoal.models.dropout import Dropout
from shoal.models.fused_attention import fused_attention
from shoal.models.positions import rotary_angles, rotate


def softmax_of_seen(scores: Tensor, seen: Tensor) -> Tensor:
    """Softmax over the visible keys, ``(*dims, K)``, True = may be seen; 0 elsewhere, and where none is visible."""
    blind = ~seen.any(dim=-1, keepdim=True)  # (*dims, 1)
    # Rows that see nothing get finite scores and are zeroed after: a softmax of -inf alone is NaN, as is its gradient.
    return scores.masked_fill(~(seen | blind), -math.inf).softmax(dim=-1).masked_fill(blind, 0.0)


class MultiHeadedAttention(nn.Module):
    """Scaled dot-product attention with ``H`` heads of size ``D / H``.

    Args:
        d_model: ``D``.
        num_heads: ``H``, a divisor of ``D``.
        bias: true for biases in the four projections.
        rotary: rotate queries and keys by their positions, which needs an even size of the heads.
        causal: query ``i`` stands at key ``K - Q + i`` and sees that key and those before it; else it sees all.
        dropout: dropout probability of the weights, or None for an attention that has no such module.
    """

    def __init__(
        self,
        d_model: int,
        num_heads: int,
        bias: bool = True,
        rotary: bool = False,
        causal: bool = True,
        dropout: float | None = None,
    ) -> None:
        super().__init__()
        if d_model % num_heads != 0:
            raise ValueError(f"d_model must be divisible by num_heads, got {d_model} and {num_heads}")
        self.head_size = d_model // num_heads
        if rotary and self.head_size % 2:
            raise ValueError(f"rotary positions need an even d_model / num_heads, got {d_model} / {num_heads}")
        self.num_heads = num_heads
        self.rotary = rotary
        self.causal = causal
        self.W_Q = nn.Linear(d_model, d_model, bias=bias)
        self.W_K = nn.Linear(d_model, d_model, bias=bias)
        self.W_V = nn.Linear(d_model, d_model, bias=bias)
        self.W_O = nn.Linear(d_model, d_model, bias=bias)
        self.weights_drop = nn.Identity() if dropout is None else Dropout(dropout)

    def get_attention_weights(self, queries: Tensor, keys: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attention weights: softmax of ``q k^T / sqrt(head_size)`` over the keys that a query may see.

        Args:
            queries: ``(B, H, Q, head_size)``.
            keys: ``(B, H, K, head_size)``.
            mask: ``(B, 1 or H, Q, K)`` or what broadcasts to it, bool, True = may be seen; the causal mask is added.

        Returns:
            Weights ``(B, H, Q, K)``, 0 where a key may not be seen. Each row sums to 1, or to 0 where it may see none.
        """
        Q, K = queries.shape[-2], keys.shape[-2]
        seen = self.visible(Q, K, queries.device) if self.causal else None  # (Q, K)
        if mask is not None:
            seen = mask if seen is None else seen & mask  # (B, 1 or H, Q, K)
        # Without a mask only the queries before the first key see nothing.
        return self._weights(queries, keys, seen, some_see_none=mask is not None or Q > K)

    def _weights(self, queries: Tensor, keys: Tensor, seen: Tensor | None, some_see_none: bool) -> Tensor:
        scores = queries @ keys.transpose(-2, -1) / math.sqrt(self.head_size)  # (B, H, Q, K)
        if seen is None:
            return scores.softmax(dim=-1)
        if not some_see_none:
            return scores.masked_fill(~seen, -math.inf).softmax(dim=-1)
        return softmax_of_seen(scores, seen)

    def visible(self, queries: int, keys: int, device: torch.device) -> Tensor:
        """Causal mask: the keys that each query may see, ``(queries, keys)``, bool.

        The last query stands at the last key; each query sees its own position and those before.
        """
        return torch.ones(queries, keys, dtype=torch.bool, device=device).tril(keys - queries)

    def apply_attention(
        self, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Average the values by the attention weights and concatenate the heads.

        Args:
            queries: ``(B, H, Q, head_size)``.
            keys: ``(B, H, K, head_size)``.
            values: ``(B, H, K, head_size)``.
            mask: as for :meth:`get_attention_weights`.

        Returns:
            Context ``(B, Q, D)``, 0 for a query that may see nothing, and attention weights ``(B, H, Q, K)``, before
            dropout.
        """
        attention_weights = self.get_attention_weights(queries, keys, mask)  # (B, H, Q, K)
        return self.merge_heads(self.weights_drop(attention_weights) @ values), attention_weights

    def split_heads(self, tensor: Tensor) -> Tensor:
        """``(B, S, H * dim) -> (B, H, S, dim)``: head ``j`` is the ``j``-th contiguous slice of the last dimension."""
        B, S, D = tensor.shape
        return tensor.reshape(B, S, self.num_heads, D // self.num_heads).transpose(1, 2)  # (B, H, S, dim)

    def merge_heads(self, tensor: Tensor) -> Tensor:
        """``(B, H, S, dim) -> (B, S, H * dim)``, the inverse of :meth:`split_heads`."""
        B, H, S, dim = tensor.shape
        return tensor.transpose(1, 2).reshape(B, S, H * dim)  # (B, S, H * dim)

    def rotate(self, heads: Tensor, first: int = 0) -> Tensor:
        """Rotate queries or keys ``(B, H, S, head_size)`` by their positions ``first ... first + S - 1``."""
        positions = torch.arange(first, first + heads.shape[-2], device=heads.device)
        return rotate(heads, rotary_angles(positions, self.head_size))  # (B, H, S, head_size)

    def forward(
        self, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None, *, fused: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """Project, attend, project back.

        Args:
            queries: ``(B, Q, D)``.
            keys: ``(B, K, D)``; the queries again for self-attention.
            values: ``(B, K, D)``; the queries again for self-attention.
            mask: as for :meth:`get_attention_weights`.
            fused: compute no weights where :meth:`_can_fuse` allows; outputs are the same but for rounding.

        Returns:
            Outputs ``(B, Q, D)`` and attention weights ``(B, H, Q, K)``, or None where none were computed.
        """
        q = self.split_heads(self.W_Q(queries))  # (B, H, Q, head_size)
        k = self.split_heads(self.W_K(keys))  # (B, H, K, head_size)
        v = self.split_heads(self.W_V(values))  # (B, H, K, head_size)
        if self.rotary:
            q, k = self.rotate(q, k.shape[-2] - q.shape[-2]), self.rotate(k)
        if fused and mask is None and self._can_fuse(q, k):
            return self.W_O(self.merge_heads(fused_attention(q, k, v))), None
        context, attention_weights = self.apply_attention(q, k, v, mask)
        return self.W_O(context), attention_weights

    def remember(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values for :meth:`look_up`, ``(B, K, D) -> (B, H, K, head_size)`` each."""
        return self.split_heads(self.W_K(memory)), self.split_heads(self.W_V(memory))

    def look_up(self, x: Tensor, memory: tuple[Tensor, Tensor], mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Cross-attention: as :meth:`forward`, of queries ``(B, Q, D)`` over the keys and values of :meth:`remember`.

        There are no rotary positions: the two sequences have no positions in common.
        """
        context, attention_weights = self.apply_attention(self.split_heads(self.W_Q(x)), *memory, mask)
        return self.W_O(context), attention_weights

    def _can_fuse(self, q: Tensor, k: Tensor) -> bool:
        """Return True if :func:`fused_attention` computes the same, on a device where it is deterministic."""
        drops = isinstance(self.weights_drop, Dropout) and self.weights_drop.p > 0 and self.training
        return self.causal and not drops and q.shape[-2] == k.shape[-2] and q.device.type == "cpu"

    def step(self, x: Tensor, keys: Tensor, values: Tensor, slots: Slots) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Causal self-attention of the next tokens over those before, whose keys and values are in a cache.

        Args:
            x: states of the next ``n`` tokens, ``(B, n, D)``.
            keys: the cache of keys, ``(B, H, T, head_size)``.
            values: the cache of values, ``(B, H, T, head_size)``.
            slots: places of the tokens in the cache.

        Returns:
            Outputs ``(B, n, D)`` and the cache with the tokens in it.
        """
        q, k, v = (self.split_heads(W(x)) for W in (self.W_Q, self.W_K, self.W_V))  # (B, H, n, head_size) each
        if self.rotary:
            angles = rotary_angles(slots.positions, self.head_size).unsqueeze(1)  # (B, 1, n, head_size / 2)
            q, k = rotate(q, angles), rotate(k, angles)
        keys, values = slots.write(keys, k), slots.write(values, v)  # (B, H, T, head_size) each
        attention_weights = self._weights(q, keys, slots.seen, some_see_none=False)  # (B, H, n, T)
        return self.W_O(self.merge_heads(self.weights_drop(attention_weights) @ values)), (keys, values)
