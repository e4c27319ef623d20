"""Plan of cohorts: runs whose tensors have the same shapes become one cohort."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache, cached_property

from shoal.lab.cohort import name_of_cohort
from shoal.registry import USUAL, short
from shoal.spec import Part, RunSpec
from shoal.tasks.build import count_examples, count_run_parameters
from shoal.training.due import evaluations_left

RATE = 100e9  # operations per second of one core, as if no products were shared
OVERHEAD = 1e-3  # seconds per member and step


@dataclass(frozen=True)
class Cohort:
    """Cohort of runs that train as one stack, in a fixed order."""

    members: tuple[RunSpec, ...]

    @cached_property
    def id(self) -> str:
        """Name of the cohort: a hash of its members in order."""
        return name_of_cohort(spec.id for spec in self.members)

    @property
    def shared(self) -> RunSpec:
        """Spec of one member, for the settings in which all agree."""
        return self.members[0]

    @cached_property
    def shape(self) -> str:
        """The settings in which the members agree, as text: equal for pieces of one cohort."""
        return _shape(self.shared)

    @property
    def n_steps(self) -> int:
        """Number of steps until the last member is done."""
        return max(spec.n_steps for spec in self.members)

    @property
    def seconds(self) -> float:
        """Approximate seconds of training on one core: by 6 P B S operations per step, and a fixed cost of a step."""
        spec = self.shared
        if spec.model_part.fitted_by == "em":
            return sum(member.n_steps for member in self.members) * _update_seconds(spec)
        positions = spec.train_batch_size * spec.task_part.sizes().positions
        operations = 6 * count_run_parameters(spec) * positions  # per member and step
        return sum(member.n_steps for member in self.members) * (operations / RATE + OVERHEAD)

    @property
    def evaluation_seconds(self) -> float:
        """Approximate seconds of one evaluation on one core."""
        spec = self.shared
        if spec.model_part.fitted_by == "em":  # an update gives it
            return 0.0
        positions = count_examples(spec)[1] * spec.task_part.sizes().positions
        return len(self) * (2 * count_run_parameters(spec) * positions / RATE + OVERHEAD)

    @property
    def evaluations(self) -> int:
        """Number of evaluations until the last member is done."""
        return 1 + evaluations_left(self.shared, 0, self.n_steps)

    def __len__(self) -> int:
        return len(self.members)

    def describe(self) -> str:
        """Short description: ``"gpt, 2 layers, d 128"``, behind the task where it is not arithmetic."""
        spec = self.shared
        task = [] if spec.task == USUAL["task"] else [short(spec.task)]
        return ", ".join(filter(None, [*task, short(spec.model), spec.model_part.describe()]))


def plan(specs: Iterable[RunSpec]) -> list[Cohort]:
    """Group runs into cohorts, each run once, cohorts and members in the order in which they were asked for."""
    groups: dict[str, list[RunSpec]] = {}
    for spec in dict.fromkeys(specs):
        groups.setdefault(_shape(spec), []).append(spec)
    return [Cohort(tuple(members)) for members in groups.values()]


def spread(cohorts: Iterable[Cohort], parts: int) -> list[Cohort]:
    """Cohorts divided into ``parts`` pieces each, or one per member if those are fewer; the longest work first.

    So every core has work until the end, and starts with the longest.
    """
    pieces = []
    for cohort in cohorts:
        n, R = min(parts, len(cohort)), len(cohort)
        pieces += [Cohort(cohort.members[R * i // n : R * (i + 1) // n]) for i in range(n)]
    return sorted(pieces, key=lambda piece: -piece.seconds)


def _update_seconds(spec: RunSpec) -> float:
    """Approximate seconds of an update of one of several hidden Markov models on one core, as measured."""
    n = spec.num_observations / (1 - spec.valid_share)
    return float(n * (2e-9 + 2e-10 * spec.num_states**2) + OVERHEAD / 8)


def _shape(spec: RunSpec) -> str:
    """Key of the settings in which the members of a cohort agree."""
    shared: dict[str, object] = dict(spec.names)
    for part in spec.parts.values():
        differing = member_settings(type(part))
        shared |= {name: value for name, value in part.as_json.items() if name not in differing}
    return json.dumps(shared)


@cache
def member_settings(part: type[Part]) -> frozenset[str]:
    """Settings of a part in which members of a cohort may differ: values, never shapes or code."""
    return frozenset(part.having("member"))
