"""What is measured: configurations, methods, and how long a window is. No heavy imports, so that mistakes answer fast.

A *window* is what is timed at a stretch: ``n`` ordinary steps, then an evaluation and a flush, each on its own. The
practical's default schedule evaluates at 201 of 10,001 steps and ``shoal`` flushes every 20 seconds; a window that had
them in those proportions would take minutes. They are added in exactly these proportions (:meth:`Case.milliseconds`),
the same for every method.
"""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from shoal.errors import UserError, nearest
from shoal.registry import MODELS
from shoal.spec import RunSpec, grid
from shoal.tasks.build import count_examples

METHODS = MappingProxyType(
    {
        "plain": "the practical's loop and modules, eager",
        "compiled": "the same under torch.compile",
        "torch_nn": "the same loop with torch.nn.LSTM or torch.nn.TransformerEncoder",
        "jax": "JAX: jit, vmap over members, scan over steps, optax",
        "shoal": "shoal: one process per core",
    }
)
FEWEST_STEPS = 3  # of a window
STACKED = 8  # members from which a window has fewer steps, because each takes longer
FLUSH_SECONDS = 20.0  # between two flushes, as `shoal train` has it
NOTHING: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True)
class Configuration:
    """Runs of one shape, for each model.

    Attributes:
        name: names it in tables and files.
        about: in words.
        settings: what differs from the practical's default run.
        members: numbers of members that shoal trains.
        jax_members: numbers of members that JAX trains.
        steps: ordinary steps of a window of few members.
    """

    name: str
    about: str
    settings: Mapping[str, Any] = field(default_factory=lambda: NOTHING, hash=False)
    members: tuple[int, ...] = (1,)
    jax_members: tuple[int, ...] = (1,)
    steps: int = 10


CONFIGURATIONS = MappingProxyType(
    {
        configuration.name: configuration
        for configuration in (
            Configuration(
                "default",
                "the practical's default run: p = 31, two layers, d = 128, 480 equations per step",
                members=(1, 2, 4, 8, 16, 32, 64, 128),
            ),
            Configuration(
                "small",
                "small models and batches: p = 31, two layers, d = 32, batches of 64",
                {"embedding_size": 32, "train_batch_size": 64},
                members=(1, 8, 64),
                jax_members=(1, 64),
                steps=80,
            ),
            Configuration(
                "tiny",
                "a smoke test, whose times mean nothing: p = 7, one layer, d = 16",
                {"p": 7, "num_layers": 1, "embedding_size": 16},
                members=(2,),
                steps=FEWEST_STEPS,
            ),
        )
    }
)


@dataclass(frozen=True)
class Case:
    """One model in one configuration."""

    configuration: Configuration
    model: str

    @property
    def name(self) -> str:
        return f"{self.configuration.name}-{self.model}"

    @property
    def spec(self) -> RunSpec:
        """The run that every method trains."""
        return RunSpec(model=self.model, **self.configuration.settings)

    def specs(self, members: int, window: int, windows: int) -> list[RunSpec]:
        """Runs of consecutive seeds, evaluated at the last step of each window and long enough for all windows."""
        base = self.spec
        schedule = {"eval_first": 0, "eval_period": window, "n_steps": max(base.n_steps, window * windows + 1)}
        settings = {**base.given(), **schedule}
        return grid(RunSpec(**settings), seed=range(base.seed, base.seed + members))

    @property
    def batches(self) -> int:
        """Batches in a pass over the training equations; the last is smaller where they do not divide."""
        return math.ceil(self._n_train / self.spec.train_batch_size)

    @property
    def positions(self) -> float:
        """``B S``: input tokens of a step, on average over a pass."""
        return self._n_train / self.batches * self.spec.task_part.sizes().sequence_length

    @property
    def _n_train(self) -> int:
        return count_examples(self.spec)[0]

    def steps(self, members: int, wanted: int | None) -> int:
        """Ordinary steps of a window: whole passes, fewer with many members, whose steps take longer."""
        most = wanted or self.configuration.steps
        steps = max(min(most, FEWEST_STEPS), most * STACKED // max(members, STACKED))
        return math.ceil(steps / self.batches) * self.batches

    def milliseconds(self, window: "Window") -> float:
        """What a step costs on the default schedule, with its share of evaluations and flushes."""
        schedule = RunSpec(model=self.model)
        evaluated = 1 + min(schedule.eval_first, schedule.n_steps)  # step 0 and the first ones
        evaluated += schedule.n_steps // schedule.eval_period - schedule.eval_first // schedule.eval_period
        evaluated += schedule.n_steps % schedule.eval_period > 0  # the last
        step = window.step + window.evaluation * evaluated / schedule.n_steps
        return 1e3 * step * (1 + window.flush / FLUSH_SECONDS)


@dataclass(frozen=True)
class Window:
    """What one process took.

    Attributes:
        step: seconds of an ordinary step, on average over the window.
        evaluation: seconds by which the step that evaluates took longer.
        flush: seconds by which the step that flushes took longer; 0 where nothing is kept.
        total: seconds of the window.
    """

    step: float
    evaluation: float
    flush: float
    total: float


@dataclass(frozen=True)
class Subject:
    """A method with its number of members."""

    method: str
    members: int = 1


@dataclass(frozen=True)
class Request:
    """What to measure; checked when it is made.

    Attributes:
        configurations: names; ``default`` and ``small`` when not given.
        models: names; all when not given.
        methods: names; all when not given. ``plain`` is measured in any case, as the others are compared with it.
        members: numbers of members that shoal trains; those of the configuration when not given.
        pairs: measurements of each method, each beside one of ``plain``.
        steps: ordinary steps of a window of few members; those of the configuration when not given.
        device: ``cpu`` or ``cuda``, where PyTorch trains.
    """

    configurations: Sequence[str] = ("default", "small")
    models: Sequence[str] = tuple(part.name for part in MODELS.shipped())
    methods: Sequence[str] = tuple(METHODS)
    members: Sequence[int] | None = None
    pairs: int = 5
    steps: int | None = None
    device: str = "cpu"

    def __post_init__(self) -> None:
        _check_names("configuration", self.configurations, CONFIGURATIONS)
        _check_names("model", self.models, MODELS.names())
        _check_names("method", self.methods, METHODS)
        numbers = {
            "members": self.members or (),
            "pairs": [self.pairs],
            "steps": [] if self.steps is None else [self.steps],
        }
        for name, values in numbers.items():
            wrong = [value for value in values if value < 1]
            if wrong:
                raise UserError(f"{name} must be an integer of at least 1, got {wrong[0]}")

    def cases(self) -> list[Case]:
        """Each model in each configuration, once."""
        return [
            Case(CONFIGURATIONS[name], model)
            for name in dict.fromkeys(self.configurations)
            for model in dict.fromkeys(self.models)
        ]

    def subjects(self, case: Case) -> Iterator[Subject]:
        """What is measured beside ``plain``, in the order of :data:`METHODS`."""
        configuration = case.configuration
        members = {"shoal": self.members or configuration.members, "jax": configuration.jax_members}
        for method in METHODS:
            if method != "plain" and method in self.methods:
                yield from (Subject(method, R) for R in dict.fromkeys(members.get(method, (1,))))


def _check_names(kind: str, names: Sequence[str], allowed: Collection[str]) -> None:
    for name in names:
        if name not in allowed:
            raise UserError(f"unknown {kind} {name!r}: one of {' '.join(allowed)}{nearest(name, allowed)}")
