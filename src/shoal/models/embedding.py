"""Embedding of a transformer: token embeddings and positions.

Shapes: ``B`` batch, ``S`` sequence, ``D`` width.
"""

import math

import torch
from torch import Tensor, nn

from shoal.models.dropout import Dropout
from shoal.models.positions import SINUSOIDAL


def check_batch(tokens: Tensor) -> None:
    """Raise :class:`ValueError` for tokens that are not ``(B, S)``."""
    if tokens.dim() != 2:
        raise ValueError(f"tokens must be (B, S), got {tuple(tokens.shape)}; of one sequence take tokens.unsqueeze(0)")


class Projection(nn.Linear):
    """Map of a table's rows to the width of the model, ``(*, E) -> (*, D)``, without a bias.

    A class of its own: decoders and engines that are written for single modules do not know it and leave the model to
    those that run it as it is.
    """

    def __init__(self, table_width: int, embedding_size: int) -> None:
        super().__init__(table_width, embedding_size, bias=False)


class GPTEmbedding(nn.Module):
    """Token embedding plus the table of positions: fixed sinusoidal, learned, or none.

    With ``scale`` tokens, but not positions, are multiplied by ``sqrt(D)``, as in Vaswani et al. 2017, section 3.4.
    With ``table_width`` the rows of the table have that width ``E``, and a matrix ``(D, E)`` maps them to the model's.

    Attributes:
        n_positions: rows of the table; None where there is none.
    """

    position_encoding: Tensor

    def __init__(
        self,
        vocabulary_size: int,
        embedding_size: int,
        n_max_positions: int,
        padding_index: int | None = None,
        kind: str = "sinusoidal",
        dropout: float | None = None,
        scale: bool = False,
        table_width: int | None = None,
    ) -> None:
        super().__init__()
        self.kind = kind
        self.scale = math.sqrt(embedding_size) if scale else None
        self.n_positions = n_max_positions if kind in SINUSOIDAL or kind == "learned" else None
        width = embedding_size if table_width is None else table_width
        self.tokens = nn.Embedding(vocabulary_size, width, padding_idx=padding_index)
        self.projection = None if table_width is None else Projection(table_width, embedding_size)
        if kind in SINUSOIDAL:
            table = self.create_sinusoidal_embeddings(n_max_positions, embedding_size, kind)
            self.register_buffer("position_encoding", table)
        elif kind == "learned":
            self.positions = nn.Embedding(n_max_positions, embedding_size)
        self.drop = nn.Identity() if dropout is None else Dropout(dropout)

    @staticmethod
    def create_sinusoidal_embeddings(n_positions: int, dimension: int, kind: str = "sinusoidal") -> Tensor:
        """Sinusoids ``PE[pos, 2k] = sin(pos / 10000^(c k/d))`` and ``PE[pos, 2k+1] = cos(pos / 10000^(c k/d))``.

        ``c`` depends on the kind: 1 for the practical's ``sinusoidal``, 2 for ``vaswani``.

        Returns:
            ``(n_positions, dimension)``, float32.
        """
        i = torch.arange(dimension)  # (D,)
        pos = torch.arange(n_positions).unsqueeze(1)  # (n_positions, 1)
        angles = pos / 10000 ** (SINUSOIDAL[kind] * i.div(2, rounding_mode="floor") / dimension)  # (n_positions, D)
        return torch.where(i % 2 == 0, angles.sin(), angles.cos())

    def forward(self, tokens: Tensor, positions: Tensor | None = None) -> Tensor:
        """Embed tokens at ``positions`` ``(B, S)``, or from 0 on: ``(B, S) -> (B, S, D)``.

        A given position past the table's end takes its last row; without ``positions``, more tokens than the table has
        rows raise a ValueError, as does one sequence without the axis of a batch.
        """
        check_batch(tokens)
        embedded: Tensor = self.tokens(tokens)  # (B, S, E)
        if self.projection is not None:
            embedded = self.projection(embedded)  # (B, S, D)
        if self.scale is not None:
            embedded = embedded * self.scale
        if self.n_positions is not None:
            if positions is None and tokens.shape[1] > self.n_positions:
                raise ValueError(f"the table of positions ends at {self.n_positions}, got {tokens.shape[1]} tokens")
            table = self.positions.weight if self.kind == "learned" else self.position_encoding
            if positions is None:
                embedded = embedded + table[: tokens.shape[1]]
            else:
                embedded = embedded + table[positions.clamp(max=self.n_positions - 1)]
        return self.drop(embedded)  # type: ignore[no-any-return]


def tie(source: nn.Embedding, target: nn.Embedding | None, classifier: nn.Linear, which: str) -> None:
    """Tie a classifier's weight to tables of tokens.

    Args:
        source: table of the source's tokens.
        target: table of the target's tokens; None in a model that reads none.
        classifier: layer that gives the logits of the target's tokens.
        which: ``none``; ``decoder``, the table of the target and the classifier are one weight; or ``all``, the table
            of the source is the same weight, too.

    Raises:
        ValueError: their shapes differ, or there is no table of the target to tie to.
    """
    if which == "none":
        return
    tables = {"target": target, "source": source if which == "all" else None}
    tied = {name: table for name, table in tables.items() if table is not None}
    if not tied:
        raise ValueError(f"tie_embeddings={which!r} needs a table of the target's tokens, and this model has none")
    weights = {"classifier": classifier.weight, **{name: table.weight for name, table in tied.items()}}
    if len({weight.shape for weight in weights.values()}) > 1:
        shapes = ", ".join(f"{name} {tuple(weight.shape)}" for name, weight in weights.items())
        raise ValueError(f"tie_embeddings={which!r} needs weights of one shape, got {shapes}")
    shared = list(weights.values())[-1]
    for layer in (classifier, *tied.values()):
        layer.weight = shared
