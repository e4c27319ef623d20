"""Models of the practical with the gaps filled in, as a reader of the handout would.

Source: the practical on modular arithmetic, problems 1 and 2. One linear layer per gate and per projection, a loop over
time steps and layers, nothing fused. Parameters have the practical's names, so a shoal model's state dict fits.

Shapes: ``B`` batch, ``S`` sequence, ``D`` width, ``H`` heads, ``V`` vocabulary, ``L`` layers.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shoal import RunSpec


class LSTMCell(nn.Module):
    """LSTM cell: one time step of a layer, with a linear layer per gate."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.forget_gate = nn.Linear(input_size + hidden_size, hidden_size)
        self.input_gate = nn.Linear(input_size + hidden_size, hidden_size)
        self.candidate_cell = nn.Linear(input_size + hidden_size, hidden_size)
        self.output_gate = nn.Linear(input_size + hidden_size, hidden_size)
        for gate in (self.input_gate, self.forget_gate, self.candidate_cell, self.output_gate):
            nn.init.xavier_uniform_(gate.weight)
            nn.init.zeros_(gate.bias)

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Advance a time step: ``x`` ``(B, input_size)`` and ``(h, c)`` ``(B, D)`` each -> the new ``(h, c)``."""
        h, c = state
        combined = torch.cat([x, h], dim=1)  # (B, input_size + D)
        f = torch.sigmoid(self.forget_gate(combined))
        i = torch.sigmoid(self.input_gate(combined))
        c_tilde = torch.tanh(self.candidate_cell(combined))
        o = torch.sigmoid(self.output_gate(combined))
        c = f * c + i * c_tilde
        h = o * torch.tanh(c)
        return h, c


class LSTM(nn.Module):
    """Stacked LSTM layers over a batch-first sequence."""

    def __init__(self, input_size: int, hidden_size: int, num_layers: int) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.layers = nn.ModuleList(
            [LSTMCell(input_size if layer == 0 else hidden_size, hidden_size) for layer in range(num_layers)]
        )

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Run all layers: ``(B, S, input_size)`` -> outputs ``(B, S, D)``, final ``(h, c)``, ``(L, B, D)`` each."""
        B, S, _ = x.shape
        h = [torch.zeros(B, self.hidden_size, device=x.device, dtype=x.dtype) for _ in self.layers]
        c = [torch.zeros(B, self.hidden_size, device=x.device, dtype=x.dtype) for _ in self.layers]
        outputs = []
        for t in range(S):
            x_t = x[:, t]  # (B, input_size)
            for layer, cell in enumerate(self.layers):
                h[layer], c[layer] = cell(x_t, (h[layer], c[layer]))
                x_t = h[layer]  # (B, D)
            outputs.append(x_t)
        return torch.stack(outputs, dim=1), (torch.stack(h), torch.stack(c))


class LSTMLM(nn.Module):
    """Language model: token embedding, LSTM, linear classifier."""

    def __init__(self, vocabulary_size: int, embedding_size: int, hidden_size: int, num_layers: int, pad: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary_size, embedding_size, padding_idx=pad)
        self.lstm = LSTM(embedding_size, hidden_size, num_layers)
        self.classifier = nn.Linear(hidden_size, vocabulary_size)

    def forward(self, x: Tensor) -> tuple[Tensor, Any]:
        """Predict the next tokens: tokens ``(B, S)`` -> logits ``(B, S, V)`` and the final states."""
        outputs, states = self.lstm(self.embedding(x))
        return self.classifier(outputs), states


class LayerNorm(nn.Module):
    """Layer normalisation with the biased variance."""

    def __init__(self, hidden_size: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(hidden_size))
        self.bias = nn.Parameter(torch.zeros(hidden_size))

    def forward(self, inputs: Tensor) -> Tensor:
        """Normalise: ``(*dims, D) -> (*dims, D)``."""
        mean = inputs.mean(dim=-1, keepdim=True)
        variance = inputs.var(dim=-1, keepdim=True, unbiased=False)
        return (inputs - mean) / torch.sqrt(variance + self.eps) * self.weight + self.bias


class MultiHeadedAttention(nn.Module):
    """Causal attention of ``H`` heads, with a linear layer per projection."""

    def __init__(self, d_model: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.head_size = d_model // num_heads
        self.W_Q = nn.Linear(d_model, d_model)
        self.W_K = nn.Linear(d_model, d_model)
        self.W_V = nn.Linear(d_model, d_model)
        self.W_O = nn.Linear(d_model, d_model)

    def split_heads(self, tensor: Tensor) -> Tensor:
        """Split heads: ``(B, S, D) -> (B, H, S, D / H)``."""
        B, S, _ = tensor.shape
        return tensor.view(B, S, self.num_heads, self.head_size).transpose(1, 2)

    def merge_heads(self, tensor: Tensor) -> Tensor:
        """Merge heads: ``(B, H, S, D / H) -> (B, S, D)``."""
        B, H, S, dim = tensor.shape
        return tensor.transpose(1, 2).contiguous().view(B, S, H * dim)

    def get_attention_weights(self, queries: Tensor, keys: Tensor) -> Tensor:
        """Attention weights: queries and keys ``(B, H, S, D / H)`` -> ``(B, H, S, S)``."""
        S = queries.shape[2]
        scores = torch.matmul(queries, keys.transpose(-2, -1)) / math.sqrt(self.head_size)  # (B, H, S, S)
        mask = torch.tril(torch.ones(S, S, device=queries.device))  # (S, S), 1 = may be seen
        return F.softmax(scores.masked_fill(mask == 0, -math.inf), dim=-1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Attend: ``(B, S, D)`` -> outputs ``(B, S, D)`` and attention weights ``(B, H, S, S)``."""
        queries = self.split_heads(self.W_Q(x))
        keys = self.split_heads(self.W_K(x))
        values = self.split_heads(self.W_V(x))
        attention_weights = self.get_attention_weights(queries, keys)
        return self.W_O(self.merge_heads(torch.matmul(attention_weights, values))), attention_weights


class Block(nn.Module):
    """Block of attention and a bias-free MLP, each followed by its residual and LayerNorm."""

    def __init__(self, d_model: int, num_heads: int, multiplier: float) -> None:
        super().__init__()
        d_ff = int(multiplier * d_model)
        self.self_attn = MultiHeadedAttention(d_model, num_heads)
        self.self_attn_norm = LayerNorm(d_model)
        self.ffn = nn.Sequential(nn.Linear(d_model, d_ff, bias=False), nn.GELU(), nn.Linear(d_ff, d_model, bias=False))
        self.ffn_norm = LayerNorm(d_model)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Run the block: ``(B, S, D) -> (B, S, D)`` and attention weights ``(B, H, S, S)``."""
        attended, attention_weights = self.self_attn(x)
        x = self.self_attn_norm(x + attended)
        return self.ffn_norm(x + self.ffn(x)), attention_weights


class Decoder(nn.Module):
    """Stack of ``L`` blocks."""

    def __init__(self, d_model: int, num_heads: int, num_layers: int, multiplier: float) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Block(d_model, num_heads, multiplier) for _ in range(num_layers)])

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Run the blocks: ``(B, S, D)`` -> ``(B, S, D)``, states ``(B, L + 1, S, D)``, maps ``(B, L, H, S, S)``."""
        hidden_states, attentions = [x], []
        for block in self.blocks:
            x, attention_weights = block(x)
            hidden_states.append(x)
            attentions.append(attention_weights)
        return x, (torch.stack(hidden_states, dim=1), torch.stack(attentions, dim=1))


class GPTEmbedding(nn.Module):
    """Token embedding plus fixed sinusoidal positions."""

    position_encoding: Tensor

    def __init__(self, vocabulary_size: int, embedding_size: int, sequence_length: int, pad: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary_size, embedding_size, padding_idx=pad)
        self.register_buffer("position_encoding", sinusoidal_embeddings(sequence_length, embedding_size))

    def forward(self, tokens: Tensor) -> Tensor:
        """Embed tokens: ``(B, S) -> (B, S, D)``."""
        embedded: Tensor = self.tokens(tokens)
        return embedded + self.position_encoding[: tokens.shape[1]]


class GPT(nn.Module):
    """Decoder-only transformer with a linear classifier."""

    def __init__(self, vocabulary_size: int, sequence_length: int, pad: int, spec: RunSpec) -> None:
        super().__init__()
        assert spec.num_heads is not None and spec.multiplier is not None
        self.embedding = GPTEmbedding(vocabulary_size, spec.embedding_size, sequence_length, pad)
        self.decoder = Decoder(spec.embedding_size, spec.num_heads, spec.num_layers, spec.multiplier)
        self.classifier = nn.Linear(spec.embedding_size, vocabulary_size)

    def forward(self, x: Tensor) -> tuple[Tensor, Any]:
        """Predict the next tokens: tokens ``(B, S)`` -> logits ``(B, S, V)``, hidden states and attention weights."""
        outputs, states = self.decoder(self.embedding(x))
        return self.classifier(outputs), states


def sinusoidal_embeddings(n_positions: int, dimension: int) -> Tensor:
    """Sinusoids ``sin(pos / 10000^(k/d))`` where ``i = 2k`` and cosines where ``i = 2k + 1``: ``(n_positions, D)``."""
    encoding = torch.zeros(n_positions, dimension)
    for i in range(dimension):
        angles = torch.arange(n_positions) / 10000 ** ((i // 2) / dimension)  # (n_positions,)
        encoding[:, i] = torch.sin(angles) if i % 2 == 0 else torch.cos(angles)
    return encoding
