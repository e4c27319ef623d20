"""Interface between a search and models: a step from a state, and moves of its rows.

A search is independent of model families. It works from a state and the logits after a prompt, with any object that has
``step`` and ``select`` of :class:`~shoal.decoding.stacked.Stacked`. Decoders that can move rows in place also have
``reorder(state, rows)``.

Shapes: ``R`` members, ``N`` rows, ``n`` tokens of a step, ``V`` vocabulary.
"""

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from shoal.models.cache import DecodingState

MEMORY = "memory"  # entries of a state whose names begin so belong to the row's source and never change


class Steps(Protocol):
    """Models that step, R at once, row by row; see :class:`~shoal.decoding.stacked.Stacked` for each method."""

    def step(
        self, tokens: Tensor, state: Mapping[str, Tensor], counts: Tensor | None = None, *, last: bool = False
    ) -> tuple[Tensor, DecodingState]:
        """Logits ``(R, N, n or 1, V)`` after the next tokens ``(R, N, n)``, and the state after them."""
        ...

    def select(self, state: Mapping[str, Tensor], rows: Tensor) -> DecodingState:
        """State of some rows, ``(N',)`` or ``(R, N')`` for each member; a row that is named twice is there twice."""
        ...


class NotFinite(ValueError):
    """Error for a member that gives no probabilities; ``member`` is its index, from 0."""

    def __init__(self, member: int, message: str) -> None:
        super().__init__(message)
        self.member = member


def gathered(x: Tensor, index: Tensor) -> Tensor:
    """Entries of ``x`` ``(*dims, n, *rest)`` at ``index`` ``(*dims, m)``: ``(*dims, m, *rest)``."""
    rest = x.shape[index.ndim :]
    wide = index.reshape(*index.shape, *(1 for _ in rest)).expand(*index.shape, *rest)
    return x.gather(index.ndim - 1, wide)


def reordered(model: Steps, state: Mapping[str, Tensor], rows: Tensor) -> DecodingState:
    """State with each row replaced by a row of the same source, ``(R, N)``; ``state`` may be overwritten.

    Nothing is moved where every row stays, and entries of the source never; where models have ``reorder(state, rows)``,
    which may change the state in place, it is used.
    """
    if torch.equal(rows, torch.arange(rows.shape[1], device=rows.device).expand_as(rows)):
        return dict(state)
    untyped: Any = model
    if hasattr(untyped, "reorder"):
        moved: DecodingState = untyped.reorder(state, rows)
        return moved
    memory = {name: tensor for name, tensor in state.items() if name.startswith(MEMORY)}
    moving = {name: tensor for name, tensor in state.items() if name not in memory}
    return model.select(moving, rows) | memory


def log_probabilities(logits: Tensor, from_logits: bool = True) -> Tensor:
    """Log probabilities of each token, ``(*dims, V)``, in float32 or better; without ``from_logits`` as given."""
    if not from_logits:
        return logits
    return logits.log_softmax(-1, dtype=torch.promote_types(logits.dtype, torch.float32))
