"""What fits together: runs whose tensors have the same shapes become one cohort."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from shoal.equations import sequence_length
from shoal.lab.cohort import name_of_cohort
from shoal.spec import RunSpec
from shoal.tasks.build import count_examples, count_run_parameters
from shoal.training.due import evaluations_left

# Settings in which the members of a cohort may differ: values, never shapes or code.
MEMBER_SETTINGS = frozenset(
    {"seed", "init_seed", "split_seed", "order_seed", "r_train", "operator", "n_steps", "stop_after_generalizing"}
    | {"lr", "warmup_steps", "warmup_from_zero", "weight_decay", "momentum", "beta1", "beta2", "eps", "clip"}
)
RATE = 100e9  # operations per second of one core, products not made counted in
OVERHEAD = 1e-3  # seconds per member and step


@dataclass(frozen=True)
class Cohort:
    """Runs that train as one stack, in a fixed order."""

    members: tuple[RunSpec, ...]

    @cached_property
    def id(self) -> str:
        """Name of the cohort: a hash of its members in order."""
        return name_of_cohort(spec.id for spec in self.members)

    @property
    def shared(self) -> RunSpec:
        """A member, to read the settings from in which all agree."""
        return self.members[0]

    @property
    def n_steps(self) -> int:
        """Steps until the last member is done."""
        return max(spec.n_steps for spec in self.members)

    @property
    def seconds(self) -> float:
        """About how long one core trains it, for decisions: by 6 P B S operations per step, and what a step costs."""
        spec = self.shared
        positions = spec.train_batch_size * sequence_length(spec.operation_orders, spec.equation_format)
        operations = 6 * count_run_parameters(spec) * positions  # per member and step
        return sum(member.n_steps for member in self.members) * (operations / RATE + OVERHEAD)

    @property
    def evaluation_seconds(self) -> float:
        """Likewise, about how long one core evaluates it once."""
        spec = self.shared
        positions = count_examples(spec)[1] * sequence_length(spec.operation_orders, spec.equation_format)
        return len(self) * (2 * count_run_parameters(spec) * positions / RATE + OVERHEAD)

    @property
    def evaluations(self) -> int:
        """How often it is evaluated until the last member is done."""
        return 1 + evaluations_left(self.shared, 0, self.n_steps)

    def __len__(self) -> int:
        return len(self.members)

    def describe(self) -> str:
        """``"gpt, 2 layers, d 128"``."""
        spec = self.shared
        return f"{spec.model}, {spec.num_layers} layer{'s' * (spec.num_layers > 1)}, d {spec.embedding_size}"


def plan(specs: Iterable[RunSpec]) -> list[Cohort]:
    """Group runs into cohorts, each run once, cohorts and members in the order in which they were asked for."""
    groups: dict[str, list[RunSpec]] = {}
    for spec in dict.fromkeys(specs):
        groups.setdefault(_shape(spec), []).append(spec)
    return [Cohort(tuple(members)) for members in groups.values()]


def spread(cohorts: Iterable[Cohort], parts: int) -> list[Cohort]:
    """Each cohort in as many pieces as there are parts, or members if those are fewer; the longest work first.

    So that every core has work to its end, and starts with what takes longest.
    """
    pieces = []
    for cohort in cohorts:
        n, R = min(parts, len(cohort)), len(cohort)
        pieces += [Cohort(cohort.members[R * i // n : R * (i + 1) // n]) for i in range(n)]
    return sorted(pieces, key=lambda piece: -piece.seconds)


def _shape(spec: RunSpec) -> str:
    return spec.model_dump_json(exclude=set(MEMBER_SETTINGS))
