"""Steps at which a run is evaluated, its model saved and its metrics written, by its spec alone."""

from typing import TypeVar

import torch
from torch import Tensor

from shoal.spec import RunSpec

Step = TypeVar("Step", int, Tensor)


def is_evaluated(spec: RunSpec, step: Step) -> Step | bool:
    """Return True if the schedule evaluates a step: 0, up to ``eval_first``, and every ``eval_period``."""
    return (step <= spec.eval_first) | (step % spec.eval_period == 0)


def is_saved(spec: RunSpec, step: Step) -> Step | bool:
    """Return True if the schedule saves the model of a step: every ``save_model_step``, 0 included."""
    return (step < 0) if spec.save_model_step is None else (step % spec.save_model_step == 0)


def evaluations_left(spec: RunSpec, step: int, last_step: int) -> int:
    """Number of evaluations of a member after ``step`` until its last."""
    if step >= last_step:
        return 0
    first, period = spec.eval_first, spec.eval_period
    at_first = max(0, min(first, last_step) - step)
    regular = max(0, last_step // period - max(step, first) // period)
    return at_first + regular + (last_step > first and last_step % period != 0)


def steps_until_due(spec: RunSpec, steps: Tensor, last_steps: Tensor) -> int:
    """Number of steps until the schedule first evaluates or saves a member, or flushes, or a member is done.

    Args:
        spec: spec of any member.
        steps: number of steps that each member has taken, ``(R,)``.
        last_steps: step at which each is done, ``(R,)``.
    """
    learning = steps < last_steps
    steps = steps[learning]
    evaluated = torch.where(steps < spec.eval_first, steps + 1, _next(steps, spec.eval_period))
    periods = [period for period in (spec.save_model_step, spec.save_statistic_step) if period is not None]
    due = [evaluated, last_steps[learning], *(_next(steps, period) for period in periods)]
    return int((torch.stack(due) - steps).min()) if len(steps) else 1


def _next(steps: Tensor, period: int) -> Tensor:
    return (steps // period + 1) * period
