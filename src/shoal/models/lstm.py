"""LSTM language model from scratch, one linear layer per gate.

Source: Hochreiter & Schmidhuber 1997 with the forget gate of Gers et al. 2000, written with the equations, class names
and parameter names of the practical on modular arithmetic (problem 1).

Shapes: ``B`` batch, ``S`` sequence, ``D`` width (``hidden_size``), ``V`` vocabulary, ``L`` layers.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from shoal.models.dropout import Dropout
from shoal.models.initialisation import xavier_linear

State = tuple[Tensor, Tensor]


class LSTMCell(nn.Module):
    """One step of an LSTM layer: ``(x_t, (h_{t-1}, c_{t-1})) -> (h_t, c_t)``.

    Each gate is a linear layer over ``[x_t, h_{t-1}]``, so its weight is ``[W U]``, of shape
    ``(hidden_size, input_size + hidden_size)``. Weights start from Xavier's uniform distribution, biases from 0.
    """

    def __init__(self, input_size: int, hidden_size: int, bias: bool = True) -> None:
        super().__init__()
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
        """The four gates as one linear map over ``[x, h]``: weight ``(4 D, input_size + D)`` and bias ``(4 D,)``."""
        gates = (self.forget_gate, self.input_gate, self.output_gate, self.candidate_cell)
        bias = None if gates[0].bias is None else torch.cat([gate.bias for gate in gates])
        return torch.cat([gate.weight for gate in gates]), bias

    def forward(self, x: Tensor, state: State, fused: tuple[Tensor, Tensor | None] | None = None) -> State:
        """Advance one time step.

        Args:
            x: input, ``(B, input_size)``.
            state: ``(h, c)`` of the previous step, each ``(B, D)``.
            fused: what :meth:`fused` returns, to share it between the steps of a sequence.

        Returns:
            The new ``(h, c)``, each ``(B, D)``.
        """
        h, c = state
        gates = F.linear(torch.cat([x, h], dim=-1), *(fused or self.fused()))  # (B, 4 D)
        f, i, o, c_tilde = gates.chunk(4, dim=-1)  # (B, D) each
        c = f.sigmoid() * c + i.sigmoid() * c_tilde.tanh()
        h = o.sigmoid() * c.tanh()
        return h, c


class LSTM(nn.Module):
    """Stacked LSTM layers over a batch-first sequence, with dropout between layers (not after the last)."""

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

    def forward(self, x: Tensor, hidden_states: State | None = None) -> tuple[Tensor, State]:
        """Run every layer over the whole sequence.

        Args:
            x: inputs, ``(B, S, input_size)``.
            hidden_states: initial ``(h, c)``, each ``(L, B, D)``; zeros when not given.

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
            h, c = h_0[layer], c_0[layer]  # (B, D) each
            outputs, fused = [], cell.fused()
            for x_t in x.unbind(dim=1):  # (B, input_size) each; indexing x would cost a full-size gradient per step
                h, c = cell(x_t, (h, c), fused)
                outputs.append(h)
            x = torch.stack(outputs, dim=1)  # (B, S, D)
            if layer < self.num_layers - 1:
                x = self.dropouts[layer](x)
            last_h.append(h)
            last_c.append(c)
        return x, (torch.stack(last_h), torch.stack(last_c))  # (B, S, D), 2 x (L, B, D)


class LSTMLM(nn.Module):
    """Language model: token embedding, LSTM, linear classifier.

    ``share_embeddings`` ties the classifier's weight to the embedding's, which needs ``embedding_size == hidden_size``.
    """

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
        outputs, states = self.lstm(self.embedding(x), hidden_states)  # (B, S, D), 2 x (L, B, D)
        return self.classifier(outputs), states  # (B, S, V)
