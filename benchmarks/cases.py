"""Cases of the benchmark: configurations, methods, and lengths of windows. No heavy imports: mistakes show fast.

A *window* is timed as a unit: ``n`` ordinary steps, then an evaluation and a flush, each on its own. The
practical's default schedule evaluates at 201 of 10,001 steps and ``shoal`` flushes every 20 seconds; a window that had
them in those proportions would take minutes. They are added in exactly these proportions (:meth:`Case.milliseconds`),
the same for every method. On a text the proportions are those of nanoGPT's schedule.
"""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from benchmarks.nanogpt import SMALL_CPU, count_parameters, count_train
from shoal.errors import UserError, nearest
from shoal.spec import RunSpec, grid
from shoal.tasks.build import count_examples, count_run_parameters

METHODS = MappingProxyType(
    {
        "plain": "the practical's loop and modules, eager; on a text nanoGPT's",
        "compiled": "the same under torch.compile",
        "torch_nn": "the same loop with torch.nn.LSTM or torch.nn.TransformerEncoder",
        "jax": "JAX: jit, vmap over members, scan over steps, optax",
        "shoal": "shoal: one process per core",
    }
)
FEWEST_STEPS = 3  # of a window
STACKED = 8  # members from which a window has fewer steps, because each takes longer
MODELS = ("lstm", "gpt")  # of the practical, which the baselines have too
TEXT = "text"  # the configuration that needs a file
SEED = 1337  # nanoGPT's
FLUSH_SECONDS = 20.0  # between two flushes, as in `shoal train`
NOTHING: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True)
class Configuration:
    """Configuration of runs of one shape, for each model.

    Attributes:
        name: name in tables and files.
        about: description in words.
        settings: settings that differ from the practical's default run.
        members: numbers of members that shoal trains.
        jax_members: numbers of members that JAX trains.
        steps: ordinary steps of a window of few members.
        models: its models.
        methods: methods that can train it.
    """

    name: str
    about: str
    settings: Mapping[str, Any] = field(default_factory=lambda: NOTHING, hash=False)
    members: tuple[int, ...] = (1,)
    jax_members: tuple[int, ...] = (1,)
    steps: int = 10
    models: tuple[str, ...] = MODELS
    methods: tuple[str, ...] = tuple(METHODS)


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
            Configuration(
                TEXT,
                "a text's characters, nanoGPT's small CPU setting: four layers, d = 128, 12 windows of 64",
                members=(1, 4),
                models=("gpt",),
                methods=("plain", "compiled", "shoal"),
            ),
        )
    }
)


@dataclass(frozen=True)
class TextRun:
    """Run on the characters of a text in :data:`benchmarks.nanogpt.SMALL_CPU`.

    Attributes:
        text: the file.
        seed: seed of parameters and windows.
        eval_period: steps between two evaluations.
        n_steps: last step.
    """

    text: Path
    seed: int
    eval_period: int
    n_steps: int

    def read(self) -> str:
        """Text of the file.

        Raises:
            UserError: it cannot be read, is not UTF-8, or is too short.
        """
        try:
            text = self.text.read_text(encoding="utf-8")
        except OSError as error:
            raise UserError(f"the text {self.text} cannot be read: {error.strerror}") from None
        except UnicodeDecodeError as error:
            raise UserError(f"the text {self.text} must be UTF-8, and byte {error.start:,} is not") from None
        count_train(SMALL_CPU, len(text))
        return text

    def spec(self) -> RunSpec:
        """Spec of the same run in shoal."""
        setting = SMALL_CPU
        return RunSpec(
            task="text",
            model="gpt",
            text=self.text,
            seed=self.seed,
            n_steps=self.n_steps,
            eval_first=0,
            eval_period=self.eval_period,
            context_length=setting.block_size,
            train_batch_size=setting.batch_size,
            num_layers=setting.n_layer,
            num_heads=setting.n_head,
            embedding_size=setting.n_embd,
            lr=setting.learning_rate,
            lr_schedule="cosine",
            lr_floor=setting.min_lr / setting.learning_rate,
            warmup_steps=setting.warmup_iters + 1,  # in parts of as many: nanoGPT counts its first update as 0
            beta1=setting.beta1,
            beta2=setting.beta2,
            weight_decay=setting.weight_decay,
            decay_all=False,
            clip=setting.grad_clip,
            bias=False,
            bias_norm=False,
            bias_classifier=False,
            share_embeddings=True,
            norm_position="pre",
            positions="learned",
            initialisation="gpt2",
        )


Run = RunSpec | TextRun


@dataclass(frozen=True)
class Case:
    """Case: one model in one configuration."""

    configuration: Configuration
    model: str

    @property
    def name(self) -> str:
        return f"{self.configuration.name}-{self.model}"

    @property
    def spec(self) -> RunSpec:
        """Spec of the run that every method trains."""
        return RunSpec(model=self.model, **self.configuration.settings)

    @property
    def seed(self) -> int:
        """Seed of the first member."""
        return self.spec.seed

    @property
    def width(self) -> int:
        """Width of the model, ``D``."""
        width: int = self.spec.embedding_size
        return width

    @property
    def parameters(self) -> int:
        """Number of parameters ``P``, without embeddings."""
        return count_run_parameters(self.spec)

    @property
    def evaluations(self) -> float:
        """Number of evaluations per step on the default schedule."""
        schedule = RunSpec(model=self.model)
        evaluated = 1 + min(schedule.eval_first, schedule.n_steps)  # step 0 and the first ones
        evaluated += schedule.n_steps // schedule.eval_period - schedule.eval_first // schedule.eval_period
        evaluated += schedule.n_steps % schedule.eval_period > 0  # the last
        return evaluated / schedule.n_steps

    def specs(self, members: int, window: int, windows: int) -> Sequence[Run]:
        """Runs of consecutive seeds, evaluated at the last step of each window and long enough for all windows."""
        base = self.spec
        schedule = {"eval_first": 0, "eval_period": window, "n_steps": max(base.n_steps, window * windows + 1)}
        settings = {**base.given(), **schedule}
        return grid(RunSpec(**settings), seed=range(base.seed, base.seed + members))

    @property
    def batches(self) -> int:
        """Number of batches in a pass over the training equations; the last may be smaller."""
        return math.ceil(self._n_train / self.spec.train_batch_size)

    @property
    def positions(self) -> float:
        """Number of input tokens of a step, ``B S``, on average over a pass."""
        return self._n_train / self.batches * self.spec.task_part.sizes().sequence_length

    @property
    def _n_train(self) -> int:
        return count_examples(self.spec)[0]

    def steps(self, members: int, wanted: int | None) -> int:
        """Number of ordinary steps of a window: whole passes, fewer with many members, whose steps take longer."""
        most = wanted or self.configuration.steps
        steps = max(min(most, FEWEST_STEPS), most * STACKED // max(members, STACKED))
        return math.ceil(steps / self.batches) * self.batches

    def milliseconds(self, window: "Window") -> float:
        """Duration of a step on the default schedule, with its share of evaluations and flushes."""
        step = window.step + window.evaluation * self.evaluations
        return 1e3 * step * (1 + window.flush / FLUSH_SECONDS)


@dataclass(frozen=True)
class TextCase(Case):
    """Case of nanoGPT's small CPU setting on the characters of a file."""

    text: Path

    @property
    def spec(self) -> RunSpec:
        return self._run(SEED, SMALL_CPU.eval_interval, SMALL_CPU.max_iters + 1).spec()

    @property
    def seed(self) -> int:
        return SEED

    @property
    def width(self) -> int:
        return SMALL_CPU.n_embd

    @property
    def parameters(self) -> int:
        """Number of parameters ``P``, the matrix that token embedding and classifier share included.

        Raises:
            UserError: the text cannot be used.
        """
        return count_parameters(SMALL_CPU, len(set(self._run(SEED, 1, 1).read())))

    @property
    def evaluations(self) -> float:
        """Number of evaluations per step in nanoGPT: step 0 and every 250th of 2,001."""
        return (1 + SMALL_CPU.max_iters // SMALL_CPU.eval_interval) / (SMALL_CPU.max_iters + 1)

    def specs(self, members: int, window: int, windows: int) -> Sequence[Run]:
        n_steps = max(SMALL_CPU.max_iters + 1, window * windows + 1)
        return [self._run(seed, window, n_steps) for seed in range(SEED, SEED + members)]

    @property
    def batches(self) -> int:
        """Number of batches in a pass, 1: windows are drawn with replacement, so that there are no passes."""
        return 1

    @property
    def positions(self) -> float:
        return SMALL_CPU.batch_size * SMALL_CPU.block_size

    def _run(self, seed: int, eval_period: int, n_steps: int) -> TextRun:
        return TextRun(self.text, seed, eval_period, n_steps)


@dataclass(frozen=True)
class Window:
    """Durations of one process.

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
    """Method with its number of members."""

    method: str
    members: int = 1


@dataclass(frozen=True)
class Request:
    """Request of a measurement; checked when it is made.

    Attributes:
        configurations: names; ``default`` and ``small`` when not given.
        models: names; all when not given.
        methods: names; all when not given. ``plain`` is measured in any case, as the others are compared with it.
        members: numbers of members that shoal trains; those of the configuration when not given.
        pairs: measurements of each method, each beside one of ``plain``.
        steps: ordinary steps of a window of few members; those of the configuration when not given.
        device: ``cpu`` or ``cuda``, where PyTorch trains.
        text: file that the configuration ``text`` trains on, which no other takes.
    """

    configurations: Sequence[str] = ("default", "small")
    models: Sequence[str] = MODELS
    methods: Sequence[str] = tuple(METHODS)
    members: Sequence[int] | None = None
    pairs: int = 5
    steps: int | None = None
    device: str = "cpu"
    text: str | None = None

    def __post_init__(self) -> None:
        _check_names("configuration", self.configurations, CONFIGURATIONS)
        _check_names("model", self.models, dict.fromkeys(MODELS))
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
        for configuration in (CONFIGURATIONS[name] for name in self.configurations):
            _check_any("model", self.models, configuration.name, configuration.models)
            _check_any("method", self.methods, configuration.name, configuration.methods)
        if (self.text is not None) != (TEXT in self.configurations):
            there = "none" if self.text is None else f"{self.text!r} for {' '.join(self.configurations)}"
            raise UserError(f"--text FILE belongs to the configuration {TEXT}, which needs one: got {there}")
        for case in self.cases():
            _ = case.parameters  # raises for a text that cannot be used before the measurement

    def cases(self) -> list[Case]:
        """Cases of each model in each configuration, once."""
        return [
            self._case(CONFIGURATIONS[name], model)
            for name in dict.fromkeys(self.configurations)
            for model in dict.fromkeys(self.models)
            if model in CONFIGURATIONS[name].models
        ]

    def _case(self, configuration: Configuration, model: str) -> Case:
        if configuration.name != TEXT:
            return Case(configuration, model)
        assert self.text is not None
        return TextCase(configuration, model, Path(self.text))

    def subjects(self, case: Case) -> Iterator[Subject]:
        """Subjects that are measured beside ``plain``, in the order of :data:`METHODS`."""
        configuration = case.configuration
        members = {"shoal": self.members or configuration.members, "jax": configuration.jax_members}
        for method in METHODS:
            if method != "plain" and method in self.methods and method in configuration.methods:
                yield from (Subject(method, R) for R in dict.fromkeys(members.get(method, (1,))))


def _check_names(kind: str, names: Sequence[str], allowed: Collection[str]) -> None:
    for name in names:
        if name not in allowed:
            raise UserError(f"unknown {kind} {name!r}: one of {' '.join(allowed)}{nearest(name, allowed)}")


def _check_any(kind: str, names: Sequence[str], configuration: str, there: Sequence[str]) -> None:
    if names and not set(names) & set(there):
        raise UserError(f"the configuration {configuration} has the {kind}s {' '.join(there)}, got {' '.join(names)}")
