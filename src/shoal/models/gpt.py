"""GPT from scratch: causal multi-headed attention, post-norm blocks, sinusoidal positions; or a variant of these.

Source: Radford et al. 2018 and Vaswani et al. 2017, written with the equations, class names and parameter names of the
practical on modular arithmetic (problem 2). The variants that :class:`Variant` names come from the papers that
:mod:`~shoal.models.norms`, :mod:`~shoal.models.positions` and the classes here name.

Shapes: ``B`` batch, ``S`` sequence, ``D`` width (``embedding_size``, ``d_model``), ``H`` heads, ``V`` vocabulary,
``L`` layers.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from shoal.models.attention import MultiHeadedAttention
from shoal.models.cache import DecodingState, Slots, last_of
from shoal.models.dropout import Dropout
from shoal.models.embedding import GPTEmbedding
from shoal.models.feed_forward import NON_LINEARITIES as NON_LINEARITIES
from shoal.models.feed_forward import feed_forward
from shoal.models.norms import NORMS, new_norm
from shoal.models.positions import POSITIONS

NORM_POSITIONS = ("post", "pre", "pre_stream")
DROPOUT_AT = ("feed_forward", "everywhere", "neurons_too")

Extra = TypeVar("Extra")


@dataclass(frozen=True)
class Variant:
    """Architectural variants from other papers; the defaults are the practical's.

    Attributes:
        norm: one of :data:`~shoal.models.norms.NORMS`.
        norm_position: ``post``, where each residual sum is normalised; or ``pre`` (Xiong et al. 2020), where the inputs
            of attention and feed-forward are, and the sum itself only once, before the classifier; or ``pre_stream``
            (the code of Lee et al. 2024), where attention is added to the normalised stream.
        positions: one of :data:`~shoal.models.positions.POSITIONS`.
        bias_ffn: true for biases in the feed-forward layers.
        bias_norm: true for a learned shift in LayerNorm; other norms have none.
        dropout_at: place of dropout: ``feed_forward``, on the outputs of the feed-forward layers; or ``everywhere``, as
            in GPT-2, also on the sum of embeddings, the attention weights and the outputs of attention; or
            ``neurons_too``, as in ``torch.nn.Transformer``, also behind the activation of the feed-forward layers. Keys
            are given in the order of the modules: the embedding, then in each block weights, attention, neurons,
            feed-forward.
    """

    norm: str = "layernorm"
    norm_position: str = "post"
    positions: str = "sinusoidal"
    bias_ffn: bool = False
    bias_norm: bool = True
    dropout_at: str = "feed_forward"

    def __post_init__(self) -> None:
        allowed = {"norm": NORMS, "norm_position": NORM_POSITIONS, "positions": POSITIONS, "dropout_at": DROPOUT_AT}
        for name, names in allowed.items():
            if getattr(self, name) not in names:
                raise ValueError(f"{name} must be one of {' '.join(names)}, got {getattr(self, name)!r}")

    @property
    def drops_everywhere(self) -> bool:
        """Return True if dropout acts on the sum of embeddings, on attention weights and on all residual branches."""
        return self.dropout_at != "feed_forward"


PRACTICAL = Variant()


class Block(nn.Module):
    """Transformer block: attention and a feed-forward layer, each with its residual and its norm."""

    def __init__(
        self,
        d_model: int,
        num_heads: int,
        multiplier: float = 4,
        dropout: float = 0.0,
        non_linearity: str = "gelu",
        bias: bool = True,
        variant: Variant = PRACTICAL,
        causal: bool = True,
    ) -> None:
        super().__init__()
        self.norm_position = variant.norm_position
        is_everywhere = variant.drops_everywhere
        self.self_attn = MultiHeadedAttention(
            d_model,
            num_heads,
            bias,
            rotary=variant.positions == "rotary",
            causal=causal,
            dropout=dropout if is_everywhere else None,
        )
        self.self_attn_drop = Dropout(dropout) if is_everywhere else nn.Identity()
        self.self_attn_norm = new_norm(variant.norm, d_model, variant.bias_norm)
        in_neurons = dropout if variant.dropout_at == "neurons_too" else None
        self.ffn = feed_forward(d_model, multiplier, non_linearity, variant.bias_ffn, in_neurons)
        self.ffn_drop = Dropout(dropout)
        self.ffn_norm = new_norm(variant.norm, d_model, variant.bias_norm)

    def forward(self, x: Tensor, mask: Tensor | None = None, *, fused: bool = False) -> tuple[Tensor, Tensor | None]:
        """Run the block: ``(B, S, D) -> (B, S, D)``, and attention weights ``(B, H, S, S)``, with ``fused`` or None.

        ``mask`` is as for attention.
        """
        return self._around(x, lambda y: self.self_attn(y, y, y, mask, fused=fused))

    def step(self, x: Tensor, keys: Tensor, values: Tensor, slots: Slots) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Run the block over the next tokens, ``(B, n, D) -> (B, n, D)``; returns the cache with them, too."""
        return self._around(x, lambda y: self.self_attn.step(y, keys, values, slots))

    def _around(self, x: Tensor, attend: Callable[[Tensor], tuple[Tensor, Extra]]) -> tuple[Tensor, Extra]:
        """Block around a given attention; returns the second output of that attention, too."""
        x, extra = self._attended(x, attend)
        return self._fed_forward(x), extra

    def _attended(self, x: Tensor, attend: Callable[[Tensor], tuple[Tensor, Extra]]) -> tuple[Tensor, Extra]:
        if self.norm_position == "post":
            attended, extra = attend(x)
            return self.self_attn_norm(x + self.self_attn_drop(attended)), extra
        normed = self.self_attn_norm(x)
        attended, extra = attend(normed)
        return self.self_attn_drop(attended) + (normed if self.norm_position == "pre_stream" else x), extra

    def _fed_forward(self, x: Tensor) -> Tensor:
        if self.norm_position == "post":
            return self.ffn_norm(x + self.ffn_drop(self.ffn(x)))  # type: ignore[no-any-return]
        return x + self.ffn_drop(self.ffn(self.ffn_norm(x)))  # type: ignore[no-any-return]


class Decoder(nn.Module):
    """Stack of ``L`` blocks; a last norm after them where they normalise before their layers."""

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
        self.norm = new_norm(variant.norm if variant.norm_position != "post" else "none", d_model, variant.bias_norm)

    def forward(
        self, x: Tensor, *, details: bool = True, fused: bool = False
    ) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
        """Run the blocks.

        Args:
            x: embeddings, ``(B, S, D)``.
            details: true to return hidden states and attention weights.
            fused: true to let attention without details be one operation, whose rounding differs.

        Returns:
            Outputs ``(B, S, D)``, then the hidden states ``(B, L + 1, S, D)``, the input first and the last before the
            last norm, and the attention weights ``(B, L, H, S, S)``; or None for both.
        """
        hidden_states, attentions = [x], []
        for block in self.blocks:
            x, attention_weights = block(x, fused=fused and not details)
            if details:
                hidden_states.append(x)
                attentions.append(attention_weights)
        if not details:
            return self.norm(x), None
        return self.norm(x), (torch.stack(hidden_states, dim=1), torch.stack(attentions, dim=1))

    def step(self, x: Tensor, state: Mapping[str, Tensor], slots: Slots) -> tuple[Tensor, DecodingState]:
        """Run the blocks over the next tokens.

        Args:
            x: embeddings of the next tokens, ``(B, n, D)``.
            state: ``keys.l`` and ``values.l`` of each layer ``l``, ``(B, H, T, head_size)`` each.
            slots: places of the tokens in the cache.

        Returns:
            Outputs ``(B, n, D)`` and the state with the tokens in it.
        """
        after: DecodingState = {}
        for layer, block in enumerate(self.blocks):
            assert isinstance(block, Block)  # as a list of modules it has lost its type
            names = (f"keys.{layer}", f"values.{layer}")
            x, cache = block.step(x, state[names[0]], state[names[1]], slots)
            after |= dict(zip(names, cache, strict=True))
        return self.norm(x), after


class GPT(nn.Module):
    """Decoder-only transformer language model.

    ``share_embeddings`` ties the classifier's weight to the token embedding's. ``variant`` holds the attributes of
    :class:`Variant` by name: ``GPT(..., norm="rmsnorm", norm_position="pre", positions="rotary")``. ``table_width`` is
    the width of the table of tokens where it differs, see :class:`~shoal.models.embedding.GPTEmbedding`.

    Attributes:
        context_length: the ``sequence_length`` that it was built for. Without a table of positions it takes longer
            sequences too.
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
        table_width: int | None = None,
        **variant: Any,
    ) -> None:
        super().__init__()
        chosen = Variant(**variant)
        self.context_length = sequence_length
        self.embedding = GPTEmbedding(
            vocabulary_size,
            embedding_size,
            sequence_length,
            padding_index,
            chosen.positions,
            dropout if chosen.drops_everywhere else None,
            table_width=table_width,
        )
        self.decoder = Decoder(
            embedding_size, num_heads, num_layers, multiplier, dropout, non_linearity, bias_attention, chosen
        )
        self.classifier = nn.Linear(embedding_size, vocabulary_size, bias=bias_classifier)
        if share_embeddings:
            self.classifier.weight = self.embedding.tokens.weight

    def forward(
        self, x: Tensor, *, details: bool = True, fused: bool = False
    ) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
        """Predict the next token at every position.

        Args:
            x: token indices, ``(B, S)``, int64.
            details: true to return hidden states and attention weights; logits are bitwise the same unless ``fused``.
            fused: true to let attention without details be one operation, which is faster and whose rounding differs.

        Returns:
            Logits ``(B, S, V)``, then the hidden states ``(B, L + 1, S, D)`` and the attention weights
            ``(B, L, H, S, S)``, or None for both.
        """
        outputs, details_of_blocks = self.decoder(self.embedding(x), details=details, fused=fused)
        return self.classifier(outputs), details_of_blocks

    def start(
        self,
        batch_size: int,
        length: int,
        *,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> DecodingState:
        """Decoding state before the first token.

        Args:
            batch_size: number of rows, ``B``.
            length: largest number of tokens of a row, ``T``.
            device: device of the state; that of the parameters when not given.
            dtype: type of keys and values; that of the parameters when not given.

        Returns:
            ``lengths`` ``(B,)``, int64, and for each layer ``l`` ``keys.l`` and ``values.l``,
            ``(B, H, T, head_size)`` each.

        Raises:
            ValueError: the table of positions has no ``length`` rows.
        """
        limit = self.embedding.n_positions
        if limit is not None and length > limit:
            raise ValueError(f"the table of positions ends at {limit}: no state of length {length}")
        like = self.embedding.tokens.weight
        device, dtype = device or like.device, dtype or like.dtype
        state = {"lengths": torch.zeros(batch_size, dtype=torch.int64, device=device)}
        for layer, block in enumerate(self.decoder.blocks):
            assert isinstance(block, Block)
            shape = (batch_size, block.self_attn.num_heads, length, block.self_attn.head_size)
            state |= {f"{name}.{layer}": torch.zeros(shape, dtype=dtype, device=device) for name in ("keys", "values")}
        return state

    def step(
        self, tokens: Tensor, state: Mapping[str, Tensor], counts: Tensor | None = None, *, last: bool = False
    ) -> tuple[Tensor, DecodingState]:
        """Next-token logits after each of the next tokens: a prompt at once, then one token at a time.

        Args:
            tokens: the next tokens of each row, ``(B, n)``, int64, padded on the right.
            state: from :meth:`start`, :meth:`step` or :func:`~shoal.models.cache.select`; it is not changed.
            counts: number of each row's tokens that are no padding, ``(B,)``, int64; all when not given.
            last: true for logits after the last of each row's tokens alone.

        Returns:
            Logits ``(B, n or 1, V)``, which are arbitrary for padding, and the state after the tokens. A token for
            which the state has no place gets NaN for logits: lengths are tensors and cannot be checked beforehand.
        """
        T, n = state["keys.0"].shape[-2], tokens.shape[1]
        slots = Slots.after(state["lengths"], n, T, counts)
        outputs, cache = self.decoder.step(self.embedding(tokens, slots.positions), state, slots)  # (B, n, D)
        fits = (slots.positions < T).unsqueeze(-1)  # (B, n, 1)
        if last:
            outputs, fits = last_of(outputs, counts), last_of(fits, counts)  # (B, 1, D or 1)
        return self.classifier(outputs).masked_fill(~fits, math.nan), {"lengths": slots.lengths, **cache}
