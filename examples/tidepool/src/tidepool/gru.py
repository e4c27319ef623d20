"""The module of :class:`tidepool.models.GRU`, in a file of its own: settings are read where torch is not needed."""

import torch
from torch import Tensor, nn


class GRUModel(nn.Module):
    """Embeds tokens, runs a GRU over them and classifies its states."""

    def __init__(self, vocabulary_size: int, embedding_size: int, hidden_size: int, gate_bias: float) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary_size, embedding_size)
        self.inputs = nn.Linear(embedding_size, 3 * hidden_size)
        self.states = nn.Linear(hidden_size, 3 * hidden_size)
        self.classifier = nn.Linear(hidden_size, vocabulary_size)
        with torch.no_grad():
            self.inputs.bias[hidden_size : 2 * hidden_size] = gate_bias

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of the next token at each position and the last state: ``(B, S) -> (B, S, V), (B, H)``."""
        x = self.inputs(self.embedding(tokens))  # (B, S, 3 H)
        h = x.new_zeros(*x.shape[:-2], x.shape[-1] // 3)  # (B, H)
        states = []
        for step in x.unbind(-2):
            reset, update, new = step.chunk(3, -1)
            reset_h, update_h, new_h = self.states(h).chunk(3, -1)
            r, z = torch.sigmoid(reset + reset_h), torch.sigmoid(update + update_h)
            h = z * h + (1 - z) * torch.tanh(new + r * new_h)
            states.append(h)
        return self.classifier(torch.stack(states, -2)), h
