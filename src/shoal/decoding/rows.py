"""Rows of a search: which are still searched, where, and how they and their states move.

Shapes: ``R`` members, ``N`` prompts, ``M`` places of those not yet left, ``w`` hypotheses of each before a step
(1, then ``b``), ``T`` new tokens.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from shoal.decoding.hypotheses import Hypotheses
from shoal.decoding.stepping import Steps, gathered, reordered
from shoal.models.cache import DecodingState

AT_LENGTH, BY_RULE, EMPTY = range(3)  # why a row is done


@dataclass
class Rows:
    """Rows that are searched: ``(R, M, …)`` each."""

    prompt: Tensor  # which of the N
    is_open: Tensor
    log_p: Tensor  # of the live hypotheses, (R, M, w), -inf where there is none
    tokens: Tensor  # theirs, (R, M, w, T)
    pool: Hypotheses  # the best that have finished, (R, M, b)
    steps: Tensor
    expanded: Tensor
    margins: Tensor
    reason: Tensor

    @classmethod
    def starting(cls, R: int, N: int, b: int, T: int, device: torch.device, padding: int) -> "Rows":
        def filled(value: float, dtype: torch.dtype) -> Tensor:
            return torch.full((R, N), value, dtype=dtype, device=device)

        return cls(
            prompt=torch.arange(N, device=device).repeat(R, 1),
            is_open=filled(1, torch.bool),
            log_p=filled(0, torch.float64).unsqueeze(-1),  # one hypothesis, the empty one
            tokens=torch.full((R, N, 1, T), padding, dtype=torch.int64, device=device),
            pool=Hypotheses.none((R, N, b), T, device, padding),
            steps=filled(0, torch.int64),
            expanded=filled(0, torch.int64),
            margins=filled(math.inf, torch.float64),
            reason=filled(AT_LENGTH, torch.int64),
        )

    def take(self, places: Tensor) -> "Rows":
        """The rows of some places, ``(R, M')``; as many are the same ones."""
        if places.shape == self.prompt.shape:
            return self
        own = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "pool"}
        return Rows(**{name: gathered(x, places) for name, x in own.items()}, pool=self.pool.take(places))

    def close(self, leaving: Tensor, left: "Rows") -> None:
        """Write what the open rows of some places have found into their own among the ``N``."""
        self.is_open = self.is_open & ~leaving
        member, place = leaving.nonzero(as_tuple=True)
        at = (member, self.prompt[member, place])
        for name in ("steps", "expanded", "margins", "reason"):
            getattr(left, name)[at] = getattr(self, name)[member, place]
        for field in fields(Hypotheses):
            getattr(left.pool, field.name)[at] = getattr(self.pool, field.name)[member, place]


def moved(
    model: Steps, state: Mapping[str, Tensor], is_open: Tensor, parents: Tensor, w: int
) -> tuple[Tensor | None, DecodingState]:
    """The places that stay, ``(R, M')``, None where none does, and the state of their hypotheses.

    Args:
        model: what steps.
        state: of ``M w`` rows.
        is_open: which places are still searched, ``(R, M)``.
        parents: which of the ``w`` hypotheses each new one continues, ``(R, M, b)``.
        w: hypotheses of a place before the step.
    """
    R, M, b = parents.shape
    staying = int(is_open.sum(1).amax()) if is_open.numel() else 0
    if staying == 0:
        return None, dict(state)
    if 8 * (M - staying) < M:
        staying = M
    # Members have as many places; a member that needs fewer keeps some that are done.
    places = torch.arange(M, device=parents.device).repeat(R, 1)
    if staying < M:
        places = (~is_open).byte().argsort(dim=-1, stable=True)[:, :staying]  # (R, M')
    moving = (places.unsqueeze(-1) * w + gathered(parents, places)).flatten(1)  # (R, M' b)
    return places, reordered(model, state, moving) if staying == M and w == b else model.select(state, moving)
