"""Baseline of the same task with the library's own layers: ``torch.nn.LSTM`` and ``torch.nn.TransformerEncoder``.

Data, loop and evaluation are those of :mod:`benchmarks.plain`. The models differ from the practical's where the
library's layers do:

- ``nn.LSTM`` has two bias vectors per gate where the practical has one; their sum acts, and AdamW moves each.
- ``nn.LSTM`` draws every parameter from ``U(±1/sqrt(D))``; the practical's gates from ``U(±1/sqrt(input_size + D))``.
- ``nn.TransformerEncoderLayer`` has biases in its feed-forward network; the practical has none. It computes queries,
  keys and values as one product, and starts their weight from Xavier's uniform distribution and all biases of the
  attention from 0.
- ``nn.TransformerEncoder`` copies one layer, so all its layers start from the same parameters.
- Each stack of layers returns its last output, not the hidden states and attention weights of every layer.

``torch.compile`` leaves ``nn.LSTM`` itself as it is and compiles the code around it.

Shapes: ``B`` batch, ``S`` sequence, ``D`` width, ``V`` vocabulary.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from benchmarks import plain
from benchmarks.plain_models import GPTEmbedding
from shoal import RunSpec


class LSTMLM(nn.Module):
    """Language model: token embedding, ``nn.LSTM``, linear classifier."""

    def __init__(self, vocabulary_size: int, embedding_size: int, hidden_size: int, num_layers: int, pad: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary_size, embedding_size, padding_idx=pad)
        self.lstm = nn.LSTM(embedding_size, hidden_size, num_layers, batch_first=True)
        self.classifier = nn.Linear(hidden_size, vocabulary_size)

    def forward(self, x: Tensor) -> tuple[Tensor, Any]:
        """Predict the next tokens: tokens ``(B, S)`` -> logits ``(B, S, V)`` and the final states."""
        outputs, states = self.lstm(self.embedding(x))
        return self.classifier(outputs), states


class GPT(nn.Module):
    """GPT: embedding with the practical's positions, causal ``nn.TransformerEncoder``, linear classifier."""

    mask: Tensor

    def __init__(self, vocabulary_size: int, sequence_length: int, pad: int, spec: RunSpec) -> None:
        super().__init__()
        assert spec.num_heads is not None and spec.multiplier is not None
        layer = nn.TransformerEncoderLayer(
            spec.embedding_size,
            spec.num_heads,
            dim_feedforward=int(spec.multiplier * spec.embedding_size),
            dropout=0.0,
            activation="gelu",
            batch_first=True,
            norm_first=False,
        )
        self.embedding = GPTEmbedding(vocabulary_size, spec.embedding_size, sequence_length, pad)
        self.encoder = nn.TransformerEncoder(layer, spec.num_layers)
        self.classifier = nn.Linear(spec.embedding_size, vocabulary_size)
        mask = nn.Transformer.generate_square_subsequent_mask(sequence_length)  # (S, S)
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        """Predict the next tokens: tokens ``(B, S)`` -> logits ``(B, S, V)``."""
        outputs = self.encoder(self.embedding(x), mask=self.mask, is_causal=True)  # (B, S, D)
        return self.classifier(outputs), None


class Trainer(plain.Trainer):
    """Trainer of one run with the library's layers; arguments as :class:`benchmarks.plain.Trainer`."""

    def build(self, vocabulary_size: int, sequence_length: int, pad: int) -> nn.Module:
        spec = self.spec
        if spec.model == "lstm":
            assert spec.hidden_size is not None
            return LSTMLM(vocabulary_size, spec.embedding_size, spec.hidden_size, spec.num_layers, pad)
        return GPT(vocabulary_size, sequence_length, pad, spec)


def run(spec: RunSpec, *, steps: int, seeds: Sequence[int], **options: Any) -> dict[int, plain.History]:
    """Train a run per seed, one after another, and return their statistics by seed."""
    return plain.run(spec, steps=steps, seeds=seeds, trainer=Trainer, **options)
