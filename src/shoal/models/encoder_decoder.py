"""Transformer encoder-decoder: a target is written token by token, with attention to the whole source.

Source: Vaswani et al. 2017, with the blocks of :mod:`~shoal.models.gpt` and their variants. Each block of the decoder
has a second attention, over the outputs of the encoder (cross-attention). It has no rotary positions, because source
and target have no positions in common, and it normalises before or after its layer as the block's other layers do.

Shapes: ``B`` batch, ``S`` source, ``T`` target, ``D`` width, ``H`` heads, ``V`` vocabulary of the target, ``L`` layers.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from shoal.models.attention import MultiHeadedAttention
from shoal.models.cache import DecodingState, Overwritable, Slots, last_of
from shoal.models.dropout import Dropout
from shoal.models.embedding import GPTEmbedding, tie
from shoal.models.encoder import Encoder
from shoal.models.gpt import PRACTICAL, Block, Extra, Variant
from shoal.models.norms import new_norm

Memory = tuple[Tensor, Tensor]  # keys and values of the source, (B, H, S, head_size) each


class CrossBlock(Block):
    """Block of causal self-attention, cross-attention and a feed-forward layer, each with its residual and its norm."""

    def __init__(
        self,
        d_model: int,
        num_heads: int,
        multiplier: float = 4,
        dropout: float = 0.0,
        non_linearity: str = "relu",
        bias: bool = True,
        variant: Variant = PRACTICAL,
    ) -> None:
        super().__init__(d_model, num_heads, multiplier, dropout, non_linearity, bias, variant)
        is_everywhere = variant.drops_everywhere
        self.cross_attn = MultiHeadedAttention(
            d_model, num_heads, bias, causal=False, dropout=dropout if is_everywhere else None
        )
        self.cross_attn_drop = Dropout(dropout) if is_everywhere else nn.Identity()
        self.cross_attn_norm = new_norm(variant.norm, d_model, variant.bias_norm)

    def forward(  # type: ignore[override]  # it reads a memory, too
        self, x: Tensor, memory: Memory, seen: Tensor
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Run one layer over a whole target.

        Args:
            x: states of the target, ``(B, T, D)``.
            memory: keys and values of the source, from ``cross_attn.remember``.
            seen: the keys of the source that may be seen, ``(B, 1, 1, S)``, bool.

        Returns:
            ``(B, T, D)``, and the weights of both attentions, ``(B, H, T, T)`` and ``(B, H, T, S)``.
        """
        x, self_weights, cross_weights = self._layer(x, lambda y: self.self_attn(y, y, y), memory, seen)
        return x, (self_weights, cross_weights)

    def next(
        self, x: Tensor, cache: Memory, slots: Slots, memory: Memory, seen: Tensor
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Run one layer over the next tokens, ``(B, n, D) -> (B, n, D)``; returns the cache with them, too."""
        x, cache, _ = self._layer(x, lambda y: self.self_attn.step(y, *cache, slots), memory, seen)
        return x, cache

    def _layer(
        self, x: Tensor, attend: Callable[[Tensor], tuple[Tensor, Extra]], memory: Memory, seen: Tensor
    ) -> tuple[Tensor, Extra, Tensor]:
        x, extra = self._attended(x, attend)
        if self.norm_position == "post":
            looked_up, weights = self.cross_attn.look_up(x, memory, seen)
            x = self.cross_attn_norm(x + self.cross_attn_drop(looked_up))
        else:
            looked_up, weights = self.cross_attn.look_up(self.cross_attn_norm(x), memory, seen)
            x = x + self.cross_attn_drop(looked_up)
        return self._fed_forward(x), extra, weights


class CrossDecoder(nn.Module):
    """Stack of ``L`` blocks with cross-attention; a last norm where they normalise before their layers."""

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
        self.blocks = nn.ModuleList([CrossBlock(d_model, num_heads, *form) for _ in range(num_blocks)])
        self.norm = new_norm(variant.norm if variant.norm_position != "post" else "none", d_model, variant.bias_norm)

    @property
    def layers(self) -> Sequence[CrossBlock]:
        """Blocks, with the type that they lose as a list of modules."""
        return list(self.blocks)  # type: ignore[arg-type]

    def remember(self, memory: Tensor) -> list[Memory]:
        """Keys and values of each layer from the encoder's outputs ``(B, S, D)``."""
        return [block.cross_attn.remember(memory) for block in self.layers]

    def forward(
        self, x: Tensor, memory: Tensor, seen: Tensor, *, details: bool = False
    ) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
        """Run the blocks.

        Args:
            x: embeddings of the target, ``(B, T, D)``.
            memory: outputs of the encoder, ``(B, S, D)``.
            seen: the positions of the source that count, ``(B, S)``, bool; a row without any attends to nothing.
            details: true to return the attention weights.

        Returns:
            Outputs ``(B, T, D)``, and the weights ``(B, L, H, T, T)`` over the target and ``(B, L, H, T, S)`` over the
            source, or None.
        """
        attentions = []
        for block, layer_memory in zip(self.layers, self.remember(memory), strict=True):
            x, weights = block(x, layer_memory, seen[:, None, None, :])
            if details:
                attentions.append(weights)
        if not details:
            return self.norm(x), None
        self_weights, cross_weights = (torch.stack(each, dim=1) for each in zip(*attentions, strict=True))
        return self.norm(x), (self_weights, cross_weights)

    def step(self, x: Tensor, state: Mapping[str, Tensor], slots: Slots) -> tuple[Tensor, DecodingState]:
        """Run the blocks over the next tokens.

        Args:
            x: embeddings of the next tokens, ``(B, n, D)``.
            state: state of :meth:`EncoderDecoder.begin`.
            slots: places of the tokens in the cache.

        Returns:
            Outputs ``(B, n, D)`` and the state with the tokens in it.
        """
        after = dict(state)
        for layer, block in enumerate(self.layers):
            memory = state[f"memory_keys.{layer}"], state[f"memory_values.{layer}"]
            cache = state[f"keys.{layer}"], state[f"values.{layer}"]
            x, cache = block.next(x, cache, slots, memory, state["memory_seen"][:, None, None, :])
            after |= {f"keys.{layer}": cache[0], f"values.{layer}": cache[1]}
        return self.norm(x), after


class EncoderDecoder(nn.Module):
    """Sequence-to-sequence transformer: next-token logits of a target, given its source.

    ``variant`` holds the attributes of :class:`~shoal.models.gpt.Variant` by name.

    Args:
        tie_embeddings: ``none``; ``decoder``, the classifier's weight is the target's embedding (Press and Wolf 2017);
            or ``all``, the source's, too, which needs one vocabulary.
        scale_embeddings: multiply tokens by ``sqrt(D)`` before positions are added.
        table_widths: widths of the tables of source and target where they differ from ``embedding_size``, see
            :class:`~shoal.models.embedding.GPTEmbedding`.

    Attributes:
        context_length: largest number of tokens of a target, where there is a table of positions.
    """

    def __init__(
        self,
        num_heads: int,
        num_encoder_layers: int,
        num_decoder_layers: int,
        embedding_size: int,
        vocabulary_size: int,
        sequence_length: int,
        source_vocabulary_size: int,
        source_length: int,
        multiplier: float = 4,
        dropout: float = 0.0,
        non_linearity: str = "relu",
        padding_index: int | None = None,
        bias_attention: bool = True,
        bias_classifier: bool = True,
        tie_embeddings: str = "none",
        scale_embeddings: bool = False,
        table_widths: tuple[int | None, int | None] = (None, None),
        **variant: Any,
    ) -> None:
        super().__init__()
        chosen = Variant(**variant)
        self.context_length = sequence_length
        drop = dropout if chosen.drops_everywhere else None
        form = (padding_index, chosen.positions, drop, scale_embeddings)
        self.source_embedding = GPTEmbedding(
            source_vocabulary_size, embedding_size, source_length, *form, table_widths[0]
        )
        self.target_embedding = GPTEmbedding(vocabulary_size, embedding_size, sequence_length, *form, table_widths[1])
        inner = (multiplier, dropout, non_linearity, bias_attention, chosen)
        self.encoder = Encoder(embedding_size, num_heads, num_encoder_layers, *inner)
        self.decoder = CrossDecoder(embedding_size, num_heads, num_decoder_layers, *inner)
        self.classifier = nn.Linear(embedding_size, vocabulary_size, bias=bias_classifier)
        tie(self.source_embedding.tokens, self.target_embedding.tokens, self.classifier, tie_embeddings)

    def forward(
        self, source: Tensor, target: Tensor, seen: Tensor, *, details: bool = False
    ) -> tuple[Tensor, dict[str, Tensor] | None]:
        """Predict the next token at every position of the target.

        Args:
            source: token indices, ``(B, S)``, int64.
            target: token indices from BOS on, ``(B, T)``. Logits at ``t`` depend on ``target[:, : t + 1]`` alone.
            seen: true for the tokens of the source that count, ``(B, S)``, bool.
            details: true to return attention weights.

        Returns:
            Logits ``(B, T, V)``, and the attention weights of the ``encoder`` ``(B, L, H, S, S)``, the ``decoder``
            ``(B, L, H, T, T)`` and from it to the source, ``cross`` ``(B, L, H, T, S)``; or None.
        """
        memory, encoder = self.encoder(self.source_embedding(source), seen, details=details)  # (B, S, D)
        outputs, attentions = self.decoder(self.target_embedding(target), memory, seen, details=details)  # (B, T, D)
        logits = self.classifier(outputs)  # (B, T, V)
        return logits, dict(
            zip(("encoder", "decoder", "cross"), (encoder, *attentions), strict=True)
        ) if details else None

    def begin(self, source: Tensor, seen: Tensor, length: int) -> DecodingState:
        """Decoding state before the first token of the targets of these sources.

        Args:
            source: token indices, ``(B, S)``, int64.
            seen: true for the tokens that count, ``(B, S)``, bool.
            length: ``T``, tokens that a target can have, BOS included.

        Returns:
            ``lengths`` ``(B,)``, int64, of each layer ``l`` ``keys.l`` and ``values.l``, ``(B, H, T, head_size)`` each,
            and of the source ``memory_keys.l`` and ``memory_values.l``, ``(B, H, S, head_size)`` each, and
            ``memory_seen`` ``(B, S)``, bool.

        Raises:
            ValueError: a table of positions has no ``length``, or no ``S``, rows.
        """
        limit = self.target_embedding.n_positions
        if limit is not None and length > limit:
            raise ValueError(f"the table of positions ends at {limit}: no state of length {length}")
        memory, _ = self.encoder(self.source_embedding(source), seen)  # (B, S, D)
        state = {"lengths": torch.zeros(len(source), dtype=torch.int64, device=memory.device), "memory_seen": seen}
        for layer, (keys, values) in enumerate(self.decoder.remember(memory)):
            empty = keys.new_zeros(len(source), keys.shape[1], length, keys.shape[-1])  # (B, H, T, head_size)
            state |= {f"keys.{layer}": empty, f"values.{layer}": empty}
            state |= {f"memory_keys.{layer}": keys, f"memory_values.{layer}": values}
        return state

    def step(
        self, tokens: Tensor, state: Mapping[str, Tensor], counts: Tensor | None = None, *, last: bool = False
    ) -> tuple[Tensor, DecodingState]:
        """Next-token logits after each of the next tokens of a target: a prefix at once, then token by token.

        Args:
            tokens: the next tokens of each row, ``(B, n)``, int64, padded on the right; BOS at first.
            state: from :meth:`begin`, :meth:`step` or :func:`~shoal.models.cache.select`; it is not changed, unless it
                is given as :class:`~shoal.models.cache.Overwritable`.
            counts: number of each row's tokens that are no padding, ``(B,)``, int64; all when not given.
            last: true for logits after the last of each row's tokens alone.

        Returns:
            Logits ``(B, n or 1, V)``, which are arbitrary for padding, and the state after the tokens. A token for
            which the state has no place gets NaN for logits.
        """
        T, in_place = state["keys.0"].shape[-2], isinstance(state, Overwritable)
        slots = Slots.after(state["lengths"], tokens.shape[1], T, counts, in_place=in_place)
        outputs, after = self.decoder.step(self.target_embedding(tokens, slots.positions), state, slots)  # (B, n, D)
        fits = (slots.positions < T).unsqueeze(-1)  # (B, n, 1)
        if last:
            outputs, fits = last_of(outputs, counts), last_of(fits, counts)  # (B, 1, D or 1)
        return self.classifier(outputs).masked_fill(~fits, math.nan), {**after, "lengths": slots.lengths}
