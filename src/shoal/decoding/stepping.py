"""What a search asks of models: a step from a state, and to move its rows.

A search knows no family. It works from a state and the logits after a prompt, with whatever has ``step`` and ``select``
as :class:`~shoal.decoding.stacked.Stacked` has. What can move rows in place offers ``reorder(state, rows)`` besides.

Shapes: ``R`` members, ``N`` rows, ``n`` tokens of a step, ``V`` vocabulary.
"""

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from shoal.models.cache import DecodingState

MEMORY = "memory"  # names of a state that begin so belong to the row's source and never change


class Steps(Protocol):
    """R models at once, row by row; :class:`~shoal.decoding.stacked.Stacked` says what each method does."""

    def step(
        self, tokens: Tensor, state: Mapping[str, Tensor], counts: Tensor | None = None, *, last: bool = False
    ) -> tuple[Tensor, DecodingState]:
        """Logits ``(R, N, n or 1, V)`` after the next tokens ``(R, N, n)``, and the state after them."""
        ...

    def select(self, state: Mapping[str, Tensor], rows: Tensor) -> DecodingState:
        """The state of some rows, ``(N',)`` or each member's own ``(R, N')``, as often as they are named."""
        ...


class NotFinite(ValueError):
    """What a member says is no probability; ``member`` is its place, from 0."""

    def __init__(self, member: int, message: str) -> None:
        super().__init__(message)
        self.member = member


def gathered(x: Tensor, index: Tensor) -> Tensor:
    """``x`` ``(*dims, n, *rest)`` at ``index`` ``(*dims, m)``: ``(*dims, m, *rest)``."""
    rest = x.shape[index.ndim :]
    wide = index.reshape(*index.shape, *(1 for _ in rest)).expand(*index.shape, *rest)
    return x.gather(index.ndim - 1, wide)


def reordered(model: Steps, state: Mapping[str, Tensor], rows: Tensor) -> DecodingState:
    """The state with each row's place taken by a row of the same source, ``(R, N)``; ``state`` may be used up.

    Only what has to be moved is: nothing where every row stays, never what belongs to the source, and as little as the
    models know to where they offer ``reorder(state, rows)``, which may change the state in place.
    """
    if torch.equal(rows, torch.arange(rows.shape[1], device=rows.device).expand_as(rows)):
        return dict(state)
    own: Any = model
    if hasattr(own, "reorder"):
        found: DecodingState = own.reorder(state, rows)
        return found
    memory = {name: tensor for name, tensor in state.items() if name.startswith(MEMORY)}
    moving = {name: tensor for name, tensor in state.items() if name not in memory}
    return model.select(moving, rows) | memory


def log_probabilities(logits: Tensor, from_logits: bool = True) -> Tensor:
    """Of each token, ``(*dims, V)``, in float32 or better; what is no logit is taken as it is."""
    if not from_logits:
        return logits
    return logits.log_softmax(-1, dtype=torch.promote_types(logits.dtype, torch.float32))
