"""State for decoding, as an argument: a plain dict of tensors of fixed shape, whose first axis is the row.

A model is ``start(batch_size, length) -> state`` and ``step(tokens, state, counts) -> (logits, state)``. Nothing is
hidden in a module, no shape depends on how far a row is, and no tensor is changed in place: so rows can be taken,
repeated and reordered (:func:`select`), each row has its own length, and ``torch.func.vmap`` lifts it all over members.

Rows are aligned to the left: token ``t`` of a row stands in place ``t`` of its cache, whatever its neighbours do.

Shapes: ``B`` rows, ``n`` tokens of a step, ``T`` places of a cache, ``H`` heads.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

DecodingState = dict[str, Tensor]


def select(state: Mapping[str, Tensor], rows: Tensor) -> DecodingState:
    """The state of some rows, in an order, as often as they are named.

    Args:
        state: of ``B`` rows.
        rows: ``(B',)``, int64, from 0 to ``B - 1``.
    """
    return {name: tensor[rows] for name, tensor in state.items()}


def last_of(x: Tensor, counts: Tensor | None = None) -> Tensor:
    """The last real one of each row: ``(B, n, D) -> (B, 1, D)``, where ``counts`` ``(B,)`` are real, or all.

    Of a row that has none it is the first.
    """
    if counts is None:
        return x[:, -1:]
    at = (counts - 1).clamp(min=0)[:, None, None].expand(-1, 1, x.shape[-1])  # (B, 1, D)
    return x.gather(1, at)


@dataclass(frozen=True)
class Slots:
    """Where the tokens of a step stand in the text of their row, and so in its cache.

    Attributes:
        positions: ``(B, n)``, int64; also of padding, and past the cache's end.
        lengths: of each row after the step, ``(B,)``, int64.
        seen: which places each token sees, ``(B, 1, n, T)``, bool: its own and those before.
        source: which of the tokens goes to a place, ``(B, T)``, int64.
        written: whether one does, ``(B, T)``, bool.
    """

    positions: Tensor
    lengths: Tensor
    seen: Tensor
    source: Tensor
    written: Tensor

    @classmethod
    def after(cls, lengths: Tensor, n: int, T: int, counts: Tensor | None = None) -> "Slots":
        """Those of the next ``n`` tokens of rows that have ``lengths`` ``(B,)``, of which ``counts`` ``(B,)`` are real.

        What is padding, or past the end, is written nowhere.
        """
        place = torch.arange(T, device=lengths.device)  # (T,)
        positions = lengths.unsqueeze(1) + torch.arange(n, device=lengths.device)  # (B, n)
        source = place - lengths.unsqueeze(1)  # (B, T)
        real = n if counts is None else counts.unsqueeze(1)
        return cls(
            positions=positions,
            lengths=lengths + (n if counts is None else counts),
            seen=(place <= positions.unsqueeze(-1)).unsqueeze(1),
            source=source.clamp(0, n - 1),
            written=(source >= 0) & (source < real),
        )

    def write(self, cache: Tensor, new: Tensor) -> Tensor:
        """The cache ``(B, H, T, dim)`` with the tokens' ``new`` ``(B, H, n, dim)`` in their places."""
        if new.shape[-2] > 1:
            index = self.source[:, None, :, None].expand(-1, cache.shape[1], -1, cache.shape[-1])  # (B, H, T, dim)
            new = new.gather(-2, index)
        return torch.where(self.written[:, None, :, None], new, cache)
