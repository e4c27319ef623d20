"""How a cohort learns: steps, evaluations, flushes, and exact continuation."""

import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

import polars as pl
import torch
from torch import Tensor

from shoal.errors import LabError
from shoal.fast.denormals import flushed_denormals
from shoal.fast.engine import available
from shoal.fast.memory import keep_freed_memory
from shoal.lab.cohort import CohortFolder
from shoal.lab.environment import environment
from shoal.spec import RunSpec
from shoal.training.memory import SHARE, places
from shoal.training.plan import Cohort
from shoal.training.stack import Stack
from shoal.training.step import Metric, evaluate, l2_norm, train_step

GENERALISED = 0.99  # validation accuracy from which a member counts as having generalised
COMPACT = 8  # the stack is compacted when at least one place in so many is free

Step = TypeVar("Step", int, Tensor)


@dataclass(frozen=True)
class Snapshot:
    """Where a cohort stands, for those who watch. Accuracies are (lowest, median, highest) over the members."""

    cohort: str
    title: str
    engine: str
    members: int
    step: int  # mean over the members, as is n_steps
    n_steps: int
    state: str  # running, done, interrupted
    train_accuracy: tuple[float, float, float]
    valid_accuracy: tuple[float, float, float]
    generalised: int
    diverged: int
    steps_per_second: float


@dataclass
class Options:
    """What the caller wants of a training session.

    Attributes:
        device: where the tensors live.
        flush_seconds: longest time between two flushes.
        metrics: further quantities of the parameters to record at every evaluation.
        watch: is told where the cohort stands, a few times a second at most.
        stop: asked after every step; True makes the session flush and end.
        places: members to train side by side; as many as fit into ``memory_share`` of what is free, when not given.
    """

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    flush_seconds: float = 20.0
    metrics: Mapping[str, Metric] = field(default_factory=dict)
    watch: Callable[[Snapshot], None] = lambda snapshot: None
    stop: Callable[[], bool] = lambda: False
    places: int | None = None
    memory_share: float = SHARE


def is_evaluated(spec: RunSpec, step: Step) -> Step | bool:
    """Whether the schedule evaluates a step, or each of several: 0, up to ``eval_first``, and every ``eval_period``."""
    return (step <= spec.eval_first) | (step % spec.eval_period == 0)


def is_saved(spec: RunSpec, step: Step) -> Step | bool:
    """Whether the schedule keeps the model of a step, or of each: every ``save_model_step``, 0 included."""
    return (step < 0) if spec.save_model_step is None else (step % spec.save_model_step == 0)


def train_cohort(folder: CohortFolder, options: Options) -> str:
    """Train a cohort to its end, or until told to stop, from wherever its folder stands.

    Returns:
        ``done`` or ``interrupted``.

    Raises:
        LabError: the checkpoint is damaged, or another process trains this cohort.
        DiskError: a flush failed; what was flushed before is intact.
    """
    with folder.training(), flushed_denormals():
        if folder.is_finished():  # by the process that held it until now
            return "done"
        folder.clean()
        return Session(folder, options).run()


class Session:
    """One process training one cohort for a while.

    The stack holds as many members as there are places; the others wait. A member that has reached its last step or
    diverged leaves; when enough places are free, the stack is compacted and members that wait take them.
    """

    def __init__(self, folder: CohortFolder, options: Options) -> None:
        self.folder, self.options = folder, options
        keep_freed_memory()
        self.manifest = folder.manifest()
        self.engine = self._engine()
        self.specs = {spec.id: spec for spec in folder.specs()}
        self.shared = next(iter(self.specs.values()))
        self.metrics = {"l2_norm": l2_norm, **self._registered()}
        self.rows: list[pl.DataFrame] = []
        self.parts = 0
        self.members: list[str] = []  # runs in the stack, in its order
        self.n_waiting = len(self.specs)
        self.finished: dict[str, dict[str, object]] = {}
        self.stack: Stack | None = None
        self.gone = torch.zeros(0, dtype=torch.bool)  # members that have left and still have a place, (R,)
        self.accuracies = {"train": (0.0, 0.0, 0.0), "valid": (0.0, 0.0, 0.0)}
        self.generalised: set[str] = set()
        self._check_precision()
        largest = max(self.specs.values(), key=lambda spec: spec.r_train)
        self.places = options.places or places(
            largest, len(self.specs), options.device, self.engine, options.memory_share
        )
        self._restore()
        self.status = folder.status()
        made_with = {**environment(options.device), "precision": self.shared.precision, "engine": self.engine}
        self.status["sessions"].append({"from_step": self._mean_step(), **made_with})
        self.began = self.flushed = time.monotonic()
        self.began_cpu = time.process_time()
        self.start = self._mean_step()
        self.watched = 0.0

    def _engine(self) -> str:
        """The engine that the cohort was begun with, where this machine has it."""
        wanted = str(self.manifest.get("engine", "plain"))
        engine, why = available(wanted, self.options.device)
        if engine != wanted:
            warnings.warn(
                f"cohort {self.folder.id} was begun with engine {wanted} and goes on with {engine} ({why}): "
                "the last bits of what follows will differ",
                stacklevel=2,
            )
        return engine

    def _check_precision(self) -> None:
        if self.shared.precision == "tf32" and self.options.device.type != "cuda":
            raise LabError(f"cohort {self.folder.id} has precision tf32, which needs device cuda")

    def _registered(self) -> dict[str, Metric]:
        """The further quantities that the cohort was begun with, all of them and no others."""
        names = self.manifest["metrics"]
        missing = [name for name in names if name not in self.options.metrics]
        if missing:
            raise LabError(
                f"cohort {self.folder.id} records {missing[0]!r} at every evaluation; "
                "go on from Python, with the same function in metrics"
            )
        return {name: self.options.metrics[name] for name in names}

    def _restore(self) -> None:
        checkpoint = self.folder.load_checkpoint()
        if checkpoint is not None:
            state, where, self.parts = checkpoint
            self.finished, self.generalised = where["finished"], set(where["generalised"])
            self.places = self.options.places or where["places"]
            self._restack([], where["members"])
            if self.stack is not None:
                self.folder.check_checkpoint(state, like=self.stack.state())
                self.stack.load_state(state)
                self.gone = torch.tensor([run in self.finished for run in self.members])
        self.folder.drop_metrics(self.parts)

    # which members are in the stack

    @property
    def waiting(self) -> list[str]:
        """Runs that have not begun."""
        begun = self.finished.keys() | set(self.members)
        return [run for run in self.specs if run not in begun]

    def _restack(self, kept: list[int], joining: list[str]) -> None:
        """Let the stack be of the members at some of its places, and of others that begin."""
        members = [self.members[place] for place in kept] + joining
        before, self.stack = self.stack, None
        if members:
            cohort = Cohort(tuple(self.specs[run] for run in members))
            self.stack = Stack(cohort, self.options.device, self.engine)
            if before is not None and kept:
                self.stack.load_state({name: tensor[kept] for name, tensor in before.state().items()})
        self.members = members
        self.n_waiting = len(self.waiting)
        self.gone = torch.zeros(len(members), dtype=torch.bool)

    def _fill(self) -> None:
        """Compact the stack and let waiting members take free places, where that pays."""
        kept = (~self.gone).nonzero().flatten().tolist()
        free = self.places - len(kept)
        joining = self.waiting[:free] if free * COMPACT >= self.places else []
        if joining or not kept or int(self.gone.sum()) * COMPACT >= len(self.gone):
            self._restack(kept, joining)
            if joining and self.stack is not None:
                self._record(self.stack.steps == 0)

    # one step

    def run(self) -> str:
        """Train until every member is done, or until told to stop."""
        self._write_status()
        while self.n_waiting or not self.gone.all():
            if self.options.stop():
                self._flush()
                self._watch("interrupted", now=True)
                return "interrupted"
            self.advance()
        self._flush()
        self.folder.checkpoint_path.unlink(missing_ok=True)
        self._watch("done", now=True)
        return "done"

    def advance(self) -> None:
        """One step of every member, with what the schedule asks for; members that are done leave."""
        if self.stack is None or self.gone.any() or (self.n_waiting and len(self.members) < self.places):
            self._fill()
        stack = self.stack
        assert stack is not None
        train_step(stack)
        due = is_evaluated(self.shared, stack.steps) | is_saved(self.shared, stack.steps)
        due = (due | (stack.steps == stack.last_steps)) & (stack.steps <= stack.last_steps)  # (R,)
        if due.any():
            self._record(due & stack.alive.cpu())
        if stack.device.type == "cpu" or due.any():  # on a card, to look is to wait for it
            self._retire(stack)
        if self._flush_is_due():
            self._flush()
        self._watch("running")

    def _record(self, due: Tensor) -> None:
        """Evaluate members and keep their models where the schedule says so, and at their last step."""
        stack = self.stack
        assert stack is not None
        evaluated = due & (is_evaluated(self.shared, stack.steps) | (stack.steps == stack.last_steps))
        if evaluated.any():
            self._evaluate(stack, evaluated)
        saved = due & (is_saved(self.shared, stack.steps) | (stack.steps == stack.last_steps))
        for place in saved.nonzero().flatten().tolist():
            run = self.members[place]
            self.folder.save_model(self.specs[run], int(stack.steps[place]), stack.member(place))

    def _evaluate(self, stack: Stack, kept: Tensor) -> None:
        values = evaluate(stack, self.metrics)
        columns = {name: column[kept].to(torch.float32).numpy() for name, column in values.items()}
        runs = [run for run, keep in zip(self.members, kept.tolist(), strict=True) if keep]
        self.rows.append(pl.DataFrame({"run": runs, "step": stack.steps[kept].numpy(), **columns}))
        for split in self.accuracies:
            accuracy = values[f"{split}_accuracy"][kept]
            self.accuracies[split] = (float(accuracy.min()), float(accuracy.quantile(0.5)), float(accuracy.max()))
        reached = kept & (values["valid_accuracy"] >= GENERALISED)
        self.generalised.update(self.members[place] for place in reached.nonzero().flatten().tolist())
        for place in reached.nonzero().flatten().tolist():
            patience = self.specs[self.members[place]].stop_after_generalizing
            if patience is not None:
                stack.last_steps[place] = min(int(stack.last_steps[place]), int(stack.steps[place]) + patience)

    def _retire(self, stack: Stack) -> None:
        """Members that are done or diverged leave; of these the last finite parameters are kept."""
        leaving = ~self.gone & (~stack.alive.cpu() | (stack.steps >= stack.last_steps))
        for place in leaving.nonzero().flatten().tolist():
            run, diverged = self.members[place], int(stack.diverged_at[place])
            if diverged >= 0:
                self.folder.save_model(self.specs[run], diverged - 1, stack.member(place))
                self.finished[run] = {"state": "diverged", "step": diverged}
            else:
                self.finished[run] = {"state": "done", "step": int(stack.last_steps[place])}
        self.gone |= leaving

    # what is written

    def _flush_is_due(self) -> bool:
        period, stack = self.shared.save_statistic_step, self.stack
        timely = time.monotonic() - self.flushed >= self.options.flush_seconds
        return timely or (period is not None and stack is not None and bool((stack.steps % period == 0).any()))

    def _flush(self) -> None:
        """Metrics first, then the checkpoint that counts them, then the status that readers see."""
        if self.rows:
            self.folder.write_metrics(self.parts, pl.concat(self.rows, how="diagonal"))
            self.parts += 1
            self.rows = []
        # with the members that are done and still have a place, so that training goes on in the very same stack
        where = {"members": self.members, "places": self.places, "finished": self.finished}
        where["generalised"] = sorted(self.generalised)
        self.folder.save_checkpoint({} if self.stack is None else self.stack.state(), where, self.parts)
        self._write_status()
        self.flushed = time.monotonic()

    def _write_status(self) -> None:
        self.status["members"] = {
            run: self.finished.get(run) or {"state": "waiting" if run not in self.members else "running", "step": step}
            for run, step in self._steps().items()
        }
        session = self.status["sessions"][-1]
        session["to_step"] = self._mean_step()
        session["seconds"] = round(time.monotonic() - self.began, 3)
        session["cpu_seconds"] = round(time.process_time() - self.began_cpu, 3)
        self.folder.write_status(self.status)

    def _steps(self) -> dict[str, int]:
        """Steps taken by each run."""
        now = {} if self.stack is None else dict(zip(self.members, self.stack.steps.tolist(), strict=True))
        taken = {run: int(str(entry["step"])) for run, entry in self.finished.items()}
        return {run: taken.get(run, now.get(run, 0)) for run in self.specs}

    def _mean_step(self) -> int:
        return sum(self._steps().values()) // len(self.specs)

    def _watch(self, state: str, now: bool = False) -> None:
        at = time.monotonic()
        if not now and at - self.watched < 0.25:
            return
        self.watched = at
        ends = [self.finished.get(run, {}).get("step", spec.n_steps) for run, spec in self.specs.items()]
        step = self._mean_step()
        self.options.watch(
            Snapshot(
                cohort=self.folder.id,
                title=Cohort(tuple(self.specs.values())).describe(),
                engine=self.engine,
                members=len(self.specs),
                step=step,
                n_steps=sum(int(str(end)) for end in ends) // len(ends),
                state=state,
                train_accuracy=self.accuracies["train"],
                valid_accuracy=self.accuracies["valid"],
                generalised=len(self.generalised),
                diverged=sum(entry["state"] == "diverged" for entry in self.finished.values()),
                steps_per_second=(step - self.start) / max(at - self.began, 1e-9),
            )
        )
