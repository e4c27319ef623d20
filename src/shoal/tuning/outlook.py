"""Outlook on a tuning before anything is trained: the first proposals, and what the budget pays for."""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from shoal.errors import UserError
from shoal.lab import Lab
from shoal.lab.names import check_name
from shoal.lab.tunings import Generation
from shoal.spec import RunSpec
from shoal.tasks.build import count_run_parameters
from shoal.training.memory import check_memory
from shoal.tuning.api import noted
from shoal.tuning.budget import FLOP, SECONDS, SETTINGS, STEPS, Budget, largest_cost
from shoal.tuning.halving import ladder
from shoal.tuning.proposals import check_optuna
from shoal.tuning.request import Request, read_request
from shoal.tuning.search import Search
from shoal.tuning.space import Axis

_MOST_CORNERS = 64  # of a search space that are looked at


@dataclass(frozen=True)
class Outlook:
    """Outlook on a tuning.

    Attributes:
        request: what was asked for.
        tried: number of settings that the lab holds of it.
        spent: what they have cost, in the unit of the budget.
        going_on: number of a generation that is not done and goes on first, from 1; None where there is none.
        generation: the next one; None where one goes on, or the budget or the space is used up.
        runs: runs of its settings.
        steps: most steps that it takes, of all runs together.
        flop: most operations of it: 6 for each parameter and position of a batch.
        cost: most that it costs in the unit of the budget; None of seconds, which are not known before.
        whole: number of generations of that cost that the rest of the budget pays for; None likewise.
        settings_beside: number of settings of a smaller one behind them; None likewise.
    """

    request: Request
    tried: int
    spent: float
    going_on: int | None
    generation: Generation | None
    runs: Sequence[Sequence[RunSpec]]
    steps: float
    flop: float
    cost: float | None
    whole: int | None
    settings_beside: int | None


def look_ahead(
    specs: RunSpec | Iterable[RunSpec],
    search: str | Iterable[str],
    budget: str,
    lab: str,
    *,
    name: str = "tuning",
    execution: Mapping[str, Any] | None = None,
    device: torch.device | None = None,
    **asked: Any,
) -> Outlook:
    """Outlook on a tuning, arguments as for :func:`shoal.tune`; the lab is read alone.

    Raises:
        UserError: as the tuning would, and where a corner of the search space does not fit into the memory.
    """
    check_optuna()
    request = read_request(specs, search, budget, **asked)
    place = Lab(lab)
    note = noted(place, check_name(name, "tuning"), request, execution or {})
    course = Search(name, request, note, place, lambda specs, until: None, lambda line: None)
    unfinished = course.read()
    generation = course.proposed() if unfinished is None else None
    spent, going_on = course.spent(), None if unfinished is None else unfinished + 1
    if generation is None:
        return Outlook(request, len(course.trials), spent, going_on, None, [], 0.0, 0.0, None, None, None)
    runs = [course.specs_of(settings) for settings in generation.settings]
    check_memory(largest_corner(request), device or torch.device("cpu"), (execution or {}).get("engine"))
    steps, flop = (_cost(Budget(1.0, unit), runs, generation) for unit in (STEPS, FLOP))
    cost, whole, beside = _paid(request, runs, generation, request.budget.amount - spent)
    return Outlook(request, len(course.trials), spent, going_on, generation, runs, steps, flop, cost, whole, beside)


def _cost(budget: Budget, runs: Sequence[Sequence[RunSpec]], generation: Generation) -> float:
    """Most that a generation costs in a unit, whichever of its settings stay."""
    per_step = [sum(map(budget.per_step, of_setting)) for of_setting in runs]
    return largest_cost(per_step, generation.rungs, generation.sizes)


def _paid(
    request: Request, runs: Sequence[Sequence[RunSpec]], generation: Generation, left: float
) -> tuple[float | None, int | None, int | None]:
    """Cost of a generation, number of such that the rest of the budget pays for, and settings of a smaller one."""
    n, unit = len(runs), request.budget.unit
    if unit == SECONDS:
        return None, None, None
    cost = float(n) if unit == SETTINGS else _cost(request.budget, runs, generation)
    whole = int(left * (1 + 1e-9) / cost)
    rest = left - whole * cost
    if unit == SETTINGS:
        beside = int(rest)
    else:
        costs = [
            largest_cost(
                [request.cost_of(of_setting) for of_setting in runs[:k]], *ladder(request.base, k, request.halving)
            )
            for k in range(1, n)
        ]
        beside = max((k for k, each in enumerate(costs, 1) if each <= rest * (1 + 1e-9)), default=0)
    most = request.space.count  # different settings
    if whole * n >= most:
        whole, beside = int(most // n), int(most % n)
    return cost, whole, int(min(beside, max(0.0, most - whole * n)))


def largest_corner(request: Request) -> list[RunSpec]:
    """Run of the corner of the search space with most parameters, by which memory is checked; none without corners."""
    axes = [_ends(axis) for axis in request.space.axes]
    corners = itertools.islice(itertools.product(*axes), _MOST_CORNERS)
    runs: list[RunSpec] = []
    for corner in corners:
        try:
            runs.append(request.base.replace(**dict(zip(request.space.names, corner, strict=True))))
        except UserError:  # values that do not go together, which the search meets by name
            continue
    return [max(runs, key=count_run_parameters)] if runs else []


def _ends(axis: Axis) -> Sequence[Any]:
    """Values of an axis among which that of the largest model is: the ends of a range, or a list."""
    if axis.choices:
        return axis.choices
    kind = int if axis.is_integer else float
    return kind(axis.low), kind(axis.high)
