"""LSTM encoder-decoder with attention: a target is written token by token, with attention to the source.

Source: Luong, Pham and Manning 2015, global attention with the "general" score (section 3.1, equations 5 to 8), whose
vector ``h~`` is not fed back into the decoder (without section 3.3), so that all places of a target are computed at
once. The encoder may run both ways, as in Bahdanau et al. 2015, with half of the units each.

Shapes: ``B`` batch, ``S`` source, ``T`` target, ``D`` width (``hidden_size``), ``V`` vocabulary of the target, ``L``
layers.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from shoal.models.attention import softmax_of_seen
from shoal.models.cache import DecodingState, last_of
from shoal.models.dropout import Dropout
from shoal.models.embedding import tie
from shoal.models.lstm import LSTM, LSTMCell, State


class LSTMEncoder(nn.Module):
    """Stack of LSTM layers over padded sequences, in one direction or both, with dropout between layers.

    A bidirectional layer is two cells of half the units, whose states are concatenated.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int,
        dropout: float = 0.0,
        bias: bool = True,
        bidirectional: bool = False,
    ) -> None:
        super().__init__()
        if bidirectional and hidden_size % 2:
            raise ValueError(f"a bidirectional encoder needs an even hidden_size, got {hidden_size}")
        units = hidden_size // 2 if bidirectional else hidden_size
        widths = [input_size, *[hidden_size] * (num_layers - 1)]
        self.forwards = nn.ModuleList([LSTMCell(width, units, bias) for width in widths])
        self.backwards = nn.ModuleList([LSTMCell(width, units, bias) for width in widths if bidirectional])
        self.dropouts = nn.ModuleList([Dropout(dropout) for _ in range(num_layers - 1)])

    def forward(self, x: Tensor, seen: Tensor) -> tuple[Tensor, State]:
        """Run every layer over the whole sequence.

        Args:
            x: inputs, ``(B, S, input_size)``.
            seen: ``(B, S)``, bool, True = counts; elsewhere the state of a row does not change.

        Returns:
            The last layer's outputs ``(B, S, D)`` and the final ``(h, c)``, each ``(L, B, D)``.
        """
        finals = []
        for layer, forwards in enumerate(self.forwards):
            if layer > 0:
                x = self.dropouts[layer - 1](x)
            outputs, (h, c) = _from_zero(forwards, x, seen)
            if len(self.backwards):
                back, (back_h, back_c) = _from_zero(self.backwards[layer], x.flip(1), seen.flip(1))
                outputs = torch.cat([outputs, back.flip(1)], dim=-1)  # (B, S, D)
                h, c = torch.cat([h, back_h], dim=-1), torch.cat([c, back_c], dim=-1)  # (B, D) each
            x = outputs
            finals.append((h, c))
        last_h, last_c = zip(*finals, strict=True)
        return x, (torch.stack(last_h), torch.stack(last_c))


def _from_zero(cell: nn.Module, x: Tensor, seen: Tensor) -> tuple[Tensor, State]:
    assert isinstance(cell, LSTMCell)  # as one of a list of modules it has lost its type
    zeros = x.new_zeros(len(x), cell.hidden_size)  # (B, hidden_size)
    return cell.over(x, (zeros, zeros), seen)


class LuongAttention(nn.Module):
    """Luong attention: ``score = h^T W_a s``, ``c = sum(softmax(score) s)``, ``h~ = tanh(W_c [c, h])``."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.W_a = nn.Linear(hidden_size, hidden_size, bias=False)
        self.W_c = nn.Linear(2 * hidden_size, hidden_size, bias=False)

    def forward(self, h: Tensor, keys: Tensor, values: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
        """Attend to the source from each position of the target.

        Args:
            h: states of the decoder, ``(B, T, D)``.
            keys: ``W_a s`` of the encoder's outputs, ``(B, S, D)``.
            values: the outputs ``s``, ``(B, S, D)``.
            seen: true for those that count, ``(B, S)``, bool; for a row without any ``c`` is 0.

        Returns:
            ``h~`` ``(B, T, D)`` and the weights ``(B, T, S)``.
        """
        weights = softmax_of_seen(h @ keys.transpose(-2, -1), seen.unsqueeze(1))  # (B, T, S)
        return self.W_c(torch.cat([weights @ values, h], dim=-1)).tanh(), weights


class LSTMEncoderDecoder(nn.Module):
    """Sequence-to-sequence LSTM: next-token logits of a target, given its source.

    The decoder's layer ``l`` starts from the final state of the encoder's, or of its last where it has fewer. Dropout
    acts on embeddings, between layers and on ``h~`` (Zaremba et al. 2014: on all connections but the recurrent ones).

    Args:
        tie_embeddings: ``none``; ``decoder``, the classifier's weight is the target's embedding, which needs
            ``embedding_size == hidden_size``; or ``all``, the source's, too, which needs one vocabulary.

    Attributes:
        context_length: None, as the length of a target is unbounded.
    """

    context_length: int | None = None

    def __init__(
        self,
        vocabulary_size: int,
        source_vocabulary_size: int,
        embedding_size: int,
        hidden_size: int,
        num_encoder_layers: int,
        num_decoder_layers: int,
        dropout: float = 0.0,
        padding_index: int | None = None,
        bias_lstm: bool = True,
        bias_classifier: bool = True,
        bidirectional: bool = False,
        tie_embeddings: str = "none",
    ) -> None:
        super().__init__()
        self.source_embedding = nn.Embedding(source_vocabulary_size, embedding_size, padding_idx=padding_index)
        self.source_drop = Dropout(dropout)
        self.target_embedding = nn.Embedding(vocabulary_size, embedding_size, padding_idx=padding_index)
        self.target_drop = Dropout(dropout)
        self.encoder = LSTMEncoder(embedding_size, hidden_size, num_encoder_layers, dropout, bias_lstm, bidirectional)
        self.decoder = LSTM(embedding_size, hidden_size, num_decoder_layers, dropout, bias_lstm)
        self.attention = LuongAttention(hidden_size)
        self.attention_drop = Dropout(dropout)
        self.classifier = nn.Linear(hidden_size, vocabulary_size, bias=bias_classifier)
        tie(self.source_embedding, self.target_embedding, self.classifier, tie_embeddings)

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
            Logits ``(B, T, V)``, and the attention weights from the decoder to the source, ``cross``
            ``(B, 1, 1, T, S)``, of one layer and one head; or None.
        """
        memory, state = self._encode(source, seen)  # (B, S, D), 2 x (L, B, D)
        h, _ = self.decoder(self.target_drop(self.target_embedding(target)), state)  # (B, T, D)
        outputs, weights = self.attention(h, self.attention.W_a(memory), memory, seen)  # (B, T, D), (B, T, S)
        logits = self.classifier(self.attention_drop(outputs))  # (B, T, V)
        return logits, {"cross": weights[:, None, None]} if details else None

    def _encode(self, source: Tensor, seen: Tensor) -> tuple[Tensor, State]:
        """Encoder outputs ``(B, S, D)`` and the decoder's first ``(h, c)``, each ``(L, B, D)``."""
        memory, (h, c) = self.encoder(self.source_drop(self.source_embedding(source)), seen)
        layers = [min(layer, len(h) - 1) for layer in range(self.decoder.num_layers)]
        return memory, (torch.stack([h[layer] for layer in layers]), torch.stack([c[layer] for layer in layers]))

    def begin(self, source: Tensor, seen: Tensor, length: int) -> DecodingState:
        """Decoding state before the first token of the targets of these sources.

        Args:
            source: token indices, ``(B, S)``, int64.
            seen: true for the tokens that count, ``(B, S)``, bool.
            length: largest number of tokens of a target; the state does not depend on it.

        Returns:
            ``lengths`` ``(B,)``, int64, ``h`` and ``c``, ``(B, L, D)`` each, and of the source ``memory_keys`` and
            ``memory_values``, ``(B, S, D)`` each, and ``memory_seen`` ``(B, S)``, bool.
        """
        memory, (h, c) = self._encode(source, seen)
        lengths = torch.zeros(len(source), dtype=torch.int64, device=memory.device)
        of_source = {"memory_keys": self.attention.W_a(memory), "memory_values": memory, "memory_seen": seen}
        return {"lengths": lengths, "h": h.transpose(0, 1), "c": c.transpose(0, 1), **of_source}

    def step(
        self, tokens: Tensor, state: Mapping[str, Tensor], counts: Tensor | None = None, *, last: bool = False
    ) -> tuple[Tensor, DecodingState]:
        """Next-token logits after each of the next tokens of a target: a prefix at once, then token by token.

        Args:
            tokens: the next tokens of each row, ``(B, n)``, int64, padded on the right; BOS at first.
            state: from :meth:`begin`, :meth:`step` or :func:`~shoal.models.cache.select`; it is not changed.
            counts: number of each row's tokens that are no padding, ``(B,)``, int64; all when not given.
            last: true for logits after the last of each row's tokens alone.

        Returns:
            Logits ``(B, n or 1, V)``, which are arbitrary for padding, and the state after the tokens.
        """
        n = tokens.shape[1]
        mask = None if counts is None else torch.arange(n, device=tokens.device) < counts.unsqueeze(1)  # (B, n)
        before = state["h"].transpose(0, 1), state["c"].transpose(0, 1)  # (L, B, D) each
        x = self.target_drop(self.target_embedding(tokens))
        outputs, (h, c) = self.decoder(x, before, mask)  # (B, n, D), 2 x (L, B, D)
        if last:
            outputs = last_of(outputs, counts)  # (B, 1, D)
        memory = state["memory_keys"], state["memory_values"], state["memory_seen"]
        attended, _ = self.attention(outputs, *memory)  # (B, n or 1, D)
        lengths = state["lengths"] + (n if counts is None else counts)
        after = {**state, "lengths": lengths, "h": h.transpose(0, 1), "c": c.transpose(0, 1)}
        return self.classifier(self.attention_drop(attended)), after
