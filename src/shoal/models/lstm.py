"""LSTM language model from scratch, one linear layer per gate.

Source: Hochreiter & Schmidhuber 1997 with the forget gate of Gers et al. 2000, written with the equations, class names
and parameter names of the practical on modular arithmetic (problem 1).

Shapes: ``B`` batch, ``S`` sequence, ``D`` width (``hidden_size``), ``V`` vocabulary, ``L`` layers.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from shoal.models.cache import DecodingState, last_of
from shoal.models.dropout import Dropout
from shoal.models.embedding import check_batch
from shoal.models.initialisation import xavier_linear

State = tuple[Tensor, Tensor]
NonLinearity = Callable[[Tensor], Tensor]


class LSTMCell(nn.Module):
    """One layer of an LSTM, which advances by a time step: ``(x_t, (h_{t-1}, c_{t-1})) -> (h_t, c_t)``.

    Each gate is a linear layer over ``[x_t, h_{t-1}]``, so its weight is ``[W U]``, of shape
    ``(hidden_size, input_size + hidden_size)``. Weights start from Xavier's uniform distribution, biases from 0.
    ``sigmoid`` and ``tanh`` can be replaced by other functions of each element, such as hard ones; training engines
    know the usual two alone.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        *,
        sigmoid: NonLinearity = torch.sigmoid,
        tanh: NonLinearity = torch.tanh,
    ) -> None:
        super().__init__()
        self.sigmoid = sigmoid
        self.tanh = tanh
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.forget_gate = nn.Linear(input_size + hidden_size, hidden_size, bias=bias)
        self.input_gate = nn.Linear(input_size + hidden_size, hidden_size, bias=bias)
        self.candidate_cell = nn.Linear(input_size + hidden_size, hidden_size, bias=bias)
        self.output_gate = nn.Linear(input_size + hidden_size, hidden_size, bias=bias)
        # in the order of the practical's code, so that a seed draws the values that it draws there
        for gate in (self.input_gate, self.forget_gate, self.candidate_cell, self.output_gate):
            xavier_linear(gate)

    def fused(self) -> tuple[Tensor, Tensor | None]:
        """Fused weights of the four gates, a linear map over ``[x, h]``: ``(4 D, input_size + D)`` and ``(4 D,)``."""
        gates = (self.forget_gate, self.input_gate, self.output_gate, self.candidate_cell)
        bias = None if gates[0].bias is None else torch.cat([gate.bias for gate in gates])
        return torch.cat([gate.weight for gate in gates]), bias

    def forward(self, x: Tensor, state: State, fused: tuple[Tensor, Tensor | None] | None = None) -> State:
        """Advance one time step.

        Args:
            x: input, ``(B, input_size)``.
            state: ``(h, c)`` of the previous step, each ``(B, D)``.
            fused: weights from :meth:`fused`, to share them between the steps of a sequence.

        Returns:
            The new ``(h, c)``, each ``(B, D)``.
        """
        h, c = state
        gates = F.linear(torch.cat([x, h], dim=-1), *(fused or self.fused()))  # (B, 4 D)
        f, i, o, c_tilde = gates.chunk(4, dim=-1)  # (B, D) each
        c = self.sigmoid(f) * c + self.sigmoid(i) * self.tanh(c_tilde)
        h = self.sigmoid(o) * self.tanh(c)
        return h, c

    def over(self, x: Tensor, state: State, mask: Tensor | None = None) -> tuple[Tensor, State]:
        """Run over a sequence.

        Args:
            x: inputs, ``(B, S, input_size)``.
            state: initial ``(h, c)``, each ``(B, D)``.
            mask: ``(B, S)``, bool, True = counts; elsewhere a row's state does not change. All count when not given.

        Returns:
            Outputs ``(B, S, D)`` and the final ``(h, c)``, each ``(B, D)``.
        """
        outputs, fused = [], self.fused()
        # (B, input_size) each; indexing x would cost a full-size gradient per step
        for t, x_t in enumerate(x.unbind(dim=1)):
            before = state
            h, c = self(x_t, before, fused)
            if mask is not None:
                counts = mask[:, t].unsqueeze(-1)  # (B, 1)
                h, c = torch.where(counts, h, before[0]), torch.where(counts, c, before[1])
            state = h, c
            outputs.append(h)
        return torch.stack(outputs, dim=1), state  # (B, S, D), 2 x (B, D)


class LSTM(nn.Module):
    """Stack of LSTM layers over a batch-first sequence, with dropout between layers (not after the last)."""

    def __init__(
        self, input_size: int, hidden_size: int, num_layers: int, dropout: float = 0.0, bias: bool = True
    ) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.layers = nn.ModuleList(
            [LSTMCell(input_size if layer == 0 else hidden_size, hidden_size, bias) for layer in range(num_layers)]
        )
        self.dropouts = nn.ModuleList([Dropout(dropout) for _ in range(num_layers - 1)])

    def forward(
        self, x: Tensor, hidden_states: State | None = None, mask: Tensor | None = None
    ) -> tuple[Tensor, State]:
        """Run every layer over the whole sequence.

        Args:
            x: inputs, ``(B, S, input_size)``.
            hidden_states: initial ``(h, c)``, each ``(L, B, D)``; zeros when not given.
            mask: ``(B, S)``, bool, True = counts; elsewhere a row's state does not change. All count when not given.

        Returns:
            The last layer's outputs ``(B, S, D)`` and the final ``(h, c)``, each ``(L, B, D)``.
        """
        B = x.shape[0]
        if hidden_states is None:
            zeros = x.new_zeros(self.num_layers, B, self.hidden_size)  # (L, B, D)
            hidden_states = (zeros, zeros)
        h_0, c_0 = hidden_states
        last_h, last_c = [], []
        for layer, cell in enumerate(self.layers):
            assert isinstance(cell, LSTMCell)
            x, (h, c) = cell.over(x, (h_0[layer], c_0[layer]), mask)  # (B, S, D), 2 x (B, D)
            if layer < self.num_layers - 1:
                x = self.dropouts[layer](x)
            last_h.append(h)
            last_c.append(c)
        return x, (torch.stack(last_h), torch.stack(last_c))  # (B, S, D), 2 x (L, B, D)


class LSTMLM(nn.Module):
    """LSTM language model: token embedding, LSTM, linear classifier.

    ``share_embeddings`` ties the classifier's weight to the embedding's, which needs ``embedding_size == hidden_size``.

    Attributes:
        context_length: None, as its context is unbounded.
    """

    context_length: int | None = None

    def __init__(
        self,
        vocabulary_size: int,
        embedding_size: int,
        hidden_size: int,
        num_layers: int,
        dropout: float = 0.0,
        padding_index: int | None = None,
        bias_lstm: bool = True,
        bias_classifier: bool = True,
        share_embeddings: bool = False,
    ) -> None:
        super().__init__()
        if share_embeddings and embedding_size != hidden_size:
            raise ValueError(
                f"share_embeddings needs embedding_size equal to hidden_size, got {embedding_size} and {hidden_size}"
            )
        self.embedding = nn.Embedding(vocabulary_size, embedding_size, padding_idx=padding_index)
        self.lstm = LSTM(embedding_size, hidden_size, num_layers, dropout, bias_lstm)
        self.classifier = nn.Linear(hidden_size, vocabulary_size, bias=bias_classifier)
        if share_embeddings:
            self.classifier.weight = self.embedding.weight

    def forward(self, x: Tensor, hidden_states: State | None = None) -> tuple[Tensor, State]:
        """Predict the next token at every position.

        Args:
            x: token indices, ``(B, S)``, int64.
            hidden_states: initial ``(h, c)``, each ``(L, B, D)``; zeros when not given.

        Returns:
            Logits ``(B, S, V)`` and the final ``(h, c)``, each ``(L, B, D)``.
        """
        check_batch(x)
        outputs, states = self.lstm(self.embedding(x), hidden_states)  # (B, S, D), 2 x (L, B, D)
        return self.classifier(outputs), states  # (B, S, V)

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
            length: largest number of tokens of a row; the state does not depend on it.
            device: device of the state; that of the parameters when not given.
            dtype: type of ``h`` and ``c``; that of the parameters when not given.

        Returns:
            ``lengths`` ``(B,)``, int64, and ``h`` and ``c``, ``(B, L, D)`` each.
        """
        like = self.embedding.weight
        device, dtype = device or like.device, dtype or like.dtype
        shape = (batch_size, self.lstm.num_layers, self.lstm.hidden_size)
        state = {name: torch.zeros(shape, dtype=dtype, device=device) for name in ("h", "c")}
        return {"lengths": torch.zeros(batch_size, dtype=torch.int64, device=device), **state}

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
            Logits ``(B, n or 1, V)``, which are arbitrary for padding, and the state after the tokens.
        """
        n = tokens.shape[1]
        mask = None if counts is None else torch.arange(n, device=tokens.device) < counts.unsqueeze(1)  # (B, n)
        before = state["h"].transpose(0, 1), state["c"].transpose(0, 1)  # (L, B, D) each
        outputs, (h, c) = self.lstm(self.embedding(tokens), before, mask)  # (B, n, D), 2 x (L, B, D)
        after = {"lengths": state["lengths"] + (n if counts is None else counts)}
        if last:
            outputs = last_of(outputs, counts)  # (B, 1, D)
        return self.classifier(outputs), after | {"h": h.transpose(0, 1), "c": c.transpose(0, 1)}
