"""Request of a tuning, checked before anything is written, and its record in the lab."""

import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from shoal.errors import UserError, nearest
from shoal.lab.tunings import TuningNote
from shoal.spec import RunSpec
from shoal.spec.training import SEEDS
from shoal.tuning.budget import SECONDS, SETTINGS, Budget, largest_cost, read_budget
from shoal.tuning.proposals import SAMPLERS
from shoal.tuning.space import Space, read_space
from shoal.tuning.trials import Objective

MOST_SETTINGS = 1000  # of a generation
_SEED = 2**32


@dataclass(frozen=True)
class Request:
    """Request of a tuning.

    Attributes:
        specs: the default, one run for each seed; a setting is tried with the same seeds.
        space: search space.
        budget: most that all trials may cost.
        sampler: what proposes settings, one of :data:`~shoal.tuning.proposals.SAMPLERS`.
        halving: η of successive halving; 1 stops no setting.
        generation: number of settings that are proposed together.
        tune_seed: seed of the proposals.
        fresh_seeds: number of seeds on which the winner is compared with the default; 0 for no comparison.
        objective: what settings are ranked by.
    """

    specs: tuple[RunSpec, ...]
    space: Space
    budget: Budget
    sampler: str
    halving: int
    generation: int
    tune_seed: int
    fresh_seeds: int
    objective: Objective

    @property
    def base(self) -> RunSpec:
        """The default with the first seed."""
        return self.specs[0]

    def runs_of(self, settings: dict[str, Any]) -> list[RunSpec]:
        """Runs of a setting, one for each seed.

        Raises:
            UserError: values of several settings do not go together.
        """
        return [spec.replace(**settings) for spec in self.specs]

    def cost_of(self, specs: Sequence[RunSpec]) -> float:
        """Cost of a step of a setting's runs, all together."""
        return sum(map(self.budget.per_step, specs))

    def to_json(self) -> dict[str, Any]:
        """Record of what was asked for: of a tuning that goes on all but the budget and the fresh seeds is the same."""
        return {
            "runs": [spec.id for spec in self.specs],
            "spec": self.base.dump(),
            "search": self.space.texts,
            "sampler": self.sampler,
            "halving": self.halving,
            "generation": self.generation,
            "tune_seed": self.tune_seed,
            "objective": self.objective.column,
            "budget": [self.budget.amount, self.budget.unit],
            "fresh_seeds": self.fresh_seeds,
        }

    def check_same(self, name: str, note: TuningNote) -> None:
        """Raise :class:`UserError` where a tuning of this name was asked for with other settings."""
        now = self.to_json()
        for key in ("runs", "search", "sampler", "halving", "generation", "tune_seed", "objective"):
            if note.asked.get(key) != now[key]:
                what, values = key.replace("_", "-"), (note.asked.get(key), now[key])
                if key == "runs":
                    raise UserError(
                        f"tuning {name!r} is in the lab with other settings or seeds of its runs: ask for it as it "
                        "was, or give another name"
                    )
                raise UserError(
                    f"tuning {name!r} is in the lab with {what} {values[0]}, got {values[1]}: ask for it as it was, "
                    "or give another name"
                )


def read_request(
    specs: RunSpec | Iterable[RunSpec],
    search: str | Iterable[str],
    budget: str,
    sampler: str,
    halving: int,
    generation: int,
    tune_seed: int,
    fresh_seeds: int,
    objective: str | None,
) -> Request:
    """Request of these arguments, those of :func:`shoal.tune`.

    Raises:
        UserError: one of them is wrong, or the budget is below one trial.
    """
    base = _same_but_seeds([specs] if isinstance(specs, RunSpec) else list(specs))
    if sampler not in SAMPLERS:
        raise UserError(f"sampler must be one of {' '.join(SAMPLERS)}, got {sampler!r}{nearest(sampler, SAMPLERS)}")
    _check_count("halving", halving, 1, MOST_SETTINGS)
    _check_count("generation", generation, 1, MOST_SETTINGS)
    _check_count("tune_seed", tune_seed, 0, _SEED - 1)
    _check_count("fresh_seeds", fresh_seeds, 0, MOST_SETTINGS)
    if fresh_seeds == 1:
        raise UserError("fresh_seeds must be 0, for no comparison, or at least 2: one pair has no interval, got 1")
    space = read_space(base[0], [search] if isinstance(search, str) else search)
    request = Request(
        tuple(base),
        space,
        read_budget(budget),
        sampler,
        halving,
        generation,
        tune_seed,
        fresh_seeds,
        _objective(base[0], objective),
    )
    _check_enough(request, budget)
    return request


def _same_but_seeds(specs: Sequence[RunSpec]) -> list[RunSpec]:
    if not specs or not all(isinstance(spec, RunSpec) for spec in specs):
        raise UserError("a tuning begins with a RunSpec, or with several that differ in their seed alone")
    for spec in specs[1:]:
        if differing := [name for name in spec if name not in _OF_SEEDS and spec.get(name) != specs[0].get(name)]:
            raise UserError(
                f"{differing[0]} has several fixed values; to have the best one chosen, name it in the search space: "
                f"{differing[0]}={specs[0].get(differing[0])},{spec.get(differing[0])}"
            )
    return list(dict.fromkeys(specs))


_OF_SEEDS = ("seed", *SEEDS)


def _check_count(name: str, value: Any, least: int, most: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise UserError(f"{name} must be an integer from {least} to {most:,}, got {value!r}")


def _objective(spec: RunSpec, column: str | None) -> Objective:
    measures = spec.task_part.measures()
    columns = [f"valid_{measure.name}" for measure in measures.recorded]
    column = columns[0] if column is None else column
    if column not in columns:
        raise UserError(f"objective must be one of {' '.join(columns)}, got {column!r}{nearest(column, columns)}")
    takes_best = spec.keep_best or spec.patience is not None
    return Objective(column, measures[column].higher_is_better, takes_best)


def _check_enough(request: Request, asked: str) -> None:
    """Raise :class:`UserError` for a budget that does not train one setting to its end."""
    budget, n_steps = request.budget, request.base.n_steps
    if budget.unit == SECONDS:  # of which nothing is known before some are spent
        return
    needed = 1.0 if budget.unit == SETTINGS else largest_cost([request.cost_of(request.specs)], [n_steps], [1])
    if budget.amount < needed:
        runs = f"{len(request.specs)} runs of " if len(request.specs) > 1 else ""
        raise UserError(
            f"budget {asked} is below one trial, which takes {budget.told(needed)} ({runs}{n_steps:,} steps)"
        )


def command_of(name: str, request: Request) -> str:
    """Command by which a tuning is asked for again."""
    fixed = [
        f"--{setting.replace('_', '-')} {_typed(value)}"
        for setting, value in request.base.given().items()
        if setting not in ("seed", "pair_key")
    ]
    seeds = " ".join(str(spec.seed) for spec in request.specs)
    search = " ".join(map(shlex.quote, request.space.texts))
    amount = f"{request.budget.amount!r}".removesuffix(".0") + request.budget.unit  # with all of its digits
    options = f"--sampler {request.sampler} --halving {request.halving} --generation {request.generation}"
    return " ".join(
        [
            "shoal tune",
            *fixed,
            f"--seed {seeds} --search {search} --budget {amount} {options} --tune-seed {request.tune_seed}",
            f"--fresh-seeds {request.fresh_seeds} --objective {request.objective.column} --name {name}",
        ]
    )


def _typed(value: Any) -> str:
    """A value of a setting as it is typed in a shell."""
    if value is None:
        return "none"
    if isinstance(value, tuple | list):
        return ",".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else shlex.quote(str(value))
