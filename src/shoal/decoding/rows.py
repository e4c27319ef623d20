"""Rows of a search: those still searched, their places, and moves of them and their states.

Shapes: ``R`` members, ``N`` prompts, ``M`` places of those not yet left, ``w`` hypotheses of each before a step
(1, then ``b``), ``T`` new tokens.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from shoal.decoding.hypotheses import Hypotheses
from shoal.decoding.stepping import Steps, gathered, reordered
from shoal.models.cache import DecodingState

AT_LENGTH, BY_RULE, EMPTY = range(3)  # reasons why a row is done


@dataclass
class Rows:
    """Rows that are still searched: ``(R, M, …)`` each."""

    prompt: Tensor  # index among the N
    is_open: Tensor
    log_p: Tensor  # of the live hypotheses, (R, M, w), -inf where there is none
    tokens: Tensor  # theirs, (R, M, w, T)
    pool: Hypotheses  # the best that have finished, (R, M, b)
    expanded: Tensor
    margins: Tensor
    reason: Tensor
    have_finished: bool = False  # True if a pool has a hypothesis
    are_full: bool = False  # True if every place has its hypothesis

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
            expanded=filled(0, torch.int64),
            margins=filled(math.inf, torch.float64),
            reason=filled(AT_LENGTH, torch.int64),
        )

    def go_on(self, log_p: Tensor, parents: Tensor, tokens: Tensor, length: int) -> None:
        """Continue with hypotheses ``(R, M, b)`` of ``length`` tokens, given by their parents and new tokens."""
        self.log_p = log_p
        self.tokens = gathered(self.tokens, parents)
        self.tokens[..., length - 1] = tokens

    def staying(self) -> Tensor | None:
        """Places that stay when rows that are done are removed together, ``(R, M')``; None where all do."""
        return staying(self.is_open)

    def take(self, places: Tensor) -> "Rows":
        """Rows of some places, ``(R, M')``."""
        tensors = {name: tensor for name, tensor in vars(self).items() if isinstance(tensor, Tensor)}
        taken: dict[str, Any] = {name: gathered(tensor, places) for name, tensor in tensors.items()}
        return replace(self, **taken, pool=self.pool.take(places))


@dataclass(frozen=True)
class Left:
    """Results of rows that are done, in the order of their prompts: ``(R, N, …)`` each."""

    pool: Hypotheses
    steps: Tensor
    expanded: Tensor
    margins: Tensor
    reason: Tensor

    @classmethod
    def none(cls, rows: Rows) -> "Left":
        """Empty results for all rows of a search."""
        pool = rows.pool.copied()
        return cls(pool, rows.expanded.clone(), rows.expanded.clone(), rows.margins.clone(), rows.reason.clone())

    def close(self, rows: Rows, leaving: Tensor, length: int) -> None:
        """Store the results of open rows ``leaving`` ``(R, M)`` after ``length`` steps."""
        rows.is_open = rows.is_open & ~leaving
        member, place = leaving.nonzero(as_tuple=True)
        at = (member, rows.prompt[member, place])
        self.steps[at] = length
        for name in ("expanded", "margins", "reason"):
            getattr(self, name)[at] = getattr(rows, name)[member, place]
        for field in fields(Hypotheses):
            getattr(self.pool, field.name)[at] = getattr(rows.pool, field.name)[member, place]


def staying(is_open: Tensor) -> Tensor | None:
    """Places that stay when those that are not open are removed, ``(R, M) -> (R, M')``; None where all do.

    Places are removed together, when an eighth is free: moving the others costs as much as a step. All members have the
    same number of places; a member that needs fewer keeps some that are done.
    """
    M = is_open.shape[1]
    count = int(is_open.sum(1).amax()) if is_open.numel() else 0
    if count and 8 * (M - count) < M:
        return None
    return (~is_open).byte().argsort(dim=-1, stable=True)[:, :count]


def moved(model: Steps, state: Mapping[str, Tensor], parents: Tensor, places: Tensor | None, w: int) -> DecodingState:
    """State of new hypotheses.

    Args:
        model: models that step.
        state: state of ``M w`` rows.
        parents: index, among the ``w`` hypotheses of its place, of the parent of each new one, ``(R, M, b)``.
        places: places that stay, ``(R, M')``; None where all do.
        w: number of hypotheses of a place before the step.
    """
    if places is not None:
        return model.select(state, (places.unsqueeze(-1) * w + gathered(parents, places)).flatten(1))  # (R, M' b)
    _, M, b = parents.shape
    first = torch.arange(0, M * w, w, device=parents.device).unsqueeze(-1)  # (M, 1)
    rows = (parents + first).flatten(1)  # (R, M b)
    return reordered(model, state, rows) if w == b else model.select(state, rows)
