"""Decoding state, an explicit argument: a plain dict of tensors of fixed shape, whose first axis is the row.

A model has ``start(batch_size, length) -> state`` and ``step(tokens, state, counts) -> (logits, state)``. Nothing is
hidden in a module, no shape depends on the length of a row, and no tensor is changed in place, unless the state is
given as :class:`Overwritable`: so rows can be taken, repeated and reordered (:func:`select`), each row has its own
length, and ``torch.func.vmap`` lifts it all over members.

Rows are aligned to the left: token ``t`` of a row stands in place ``t`` of its cache, whatever its neighbours do.

Shapes: ``B`` rows, ``n`` tokens of a step, ``T`` places of a cache, ``H`` heads.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

DecodingState = dict[str, Tensor]


class Overwritable(DecodingState):
    """State that whoever gives it needs no more: a step may write into its tensors, no two of which share memory."""


def select(state: Mapping[str, Tensor], rows: Tensor) -> DecodingState:
    """State of chosen rows, in the given order; a row that is named twice is there twice.

    Args:
        state: state of ``B`` rows.
        rows: indices of the rows, ``(B',)``, int64, from 0 to ``B - 1``.
    """
    return {name: tensor[rows] for name, tensor in state.items()}


def last_of(x: Tensor, counts: Tensor | None = None) -> Tensor:
    """Last real position of each row: ``(B, n, D) -> (B, 1, D)``, where ``counts`` ``(B,)`` are real, or all.

    For a row without real positions it is the first.
    """
    if counts is None:
        return x[:, -1:]
    at = (counts - 1).clamp(min=0)[:, None, None].expand(-1, 1, x.shape[-1])  # (B, 1, D)
    return x.gather(1, at)


@dataclass(frozen=True)
class Slots:
    """Places of a step's tokens in the text of their row, and so in its cache.

    Attributes:
        positions: ``(B, n)``, int64; also of padding, and past the cache's end.
        lengths: length of each row after the step, ``(B,)``, int64.
        seen: the places that each token sees, ``(B, 1, n, T)``, bool: its own and those before.
        source: index of the token that is written to a place, ``(B, T)``, int64.
        written: true where a token is written to the place, ``(B, T)``, bool.
        in_place: true where a cache is written to, instead of a copy; for steps of one token, without padding.
    """

    positions: Tensor
    lengths: Tensor
    seen: Tensor
    source: Tensor
    written: Tensor
    in_place: bool = False

    @classmethod
    def after(cls, lengths: Tensor, n: int, T: int, counts: Tensor | None = None, *, in_place: bool = False) -> "Slots":
        """Slots of the next ``n`` tokens of rows of ``lengths`` ``(B,)``, of which ``counts`` ``(B,)`` are real.

        Padding, and tokens past the end of the cache, are written nowhere. ``in_place`` allows to write into a cache.
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
            in_place=in_place and n == 1 and counts is None,
        )

    def write(self, cache: Tensor, new: Tensor) -> Tensor:
        """Cache ``(B, H, T, dim)`` with the tokens' ``new`` entries ``(B, H, n, dim)`` in their places."""
        if self.in_place:
            return self._put(cache, new.squeeze(-2))
        if new.shape[-2] > 1:
            index = self.source[:, None, :, None].expand(-1, cache.shape[1], -1, cache.shape[-1])  # (B, H, T, dim)
            new = new.gather(-2, index)
        return torch.where(self.written[:, None, :, None], new, cache)

    def _put(self, cache: Tensor, new: Tensor) -> Tensor:
        """As :meth:`write`, of one token for each row, ``(B, H, dim)``, into the cache itself."""
        B, H, T, _ = cache.shape
        rows, heads = torch.arange(B, device=cache.device).unsqueeze(1), torch.arange(H, device=cache.device)
        at = rows, heads, self.positions.clamp(max=T - 1)  # (B, H) together
        new = torch.where((self.positions < T).unsqueeze(-1), new, cache[at])  # past the end: what is there
        return cache.index_put_(at, new)
