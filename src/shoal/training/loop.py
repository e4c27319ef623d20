"""How a cohort learns: steps, evaluations, flushes, and exact continuation."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import polars as pl
import torch

from shoal.errors import LabError
from shoal.lab.cohort import CohortFolder
from shoal.lab.environment import environment
from shoal.spec import RunSpec
from shoal.training.plan import Cohort
from shoal.training.stack import Stack
from shoal.training.step import Metric, evaluate, l2_norm, train_step

GENERALISED = 0.99  # validation accuracy from which the display counts a member as having generalised


@dataclass(frozen=True)
class Snapshot:
    """Where a cohort stands, for those who watch. Accuracies are (lowest, median, highest) over the members."""

    cohort: str
    title: str
    members: int
    step: int
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
    """

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    flush_seconds: float = 20.0
    metrics: Mapping[str, Metric] = field(default_factory=dict)
    watch: Callable[[Snapshot], None] = lambda snapshot: None
    stop: Callable[[], bool] = lambda: False


def is_evaluated(spec: RunSpec, step: int) -> bool:
    """Whether the schedule evaluates a step: 0, up to ``eval_first``, and every ``eval_period``."""
    return step <= spec.eval_first or step % spec.eval_period == 0


def is_saved(spec: RunSpec, step: int) -> bool:
    """Whether the schedule keeps the model of a step: every ``save_model_step``, 0 included."""
    return spec.save_model_step is not None and step % spec.save_model_step == 0


def train_cohort(folder: CohortFolder, options: Options) -> str:
    """Train a cohort to its end, or until told to stop, from wherever its folder stands.

    Returns:
        ``done`` or ``interrupted``.

    Raises:
        LabError: the checkpoint is damaged, or another process trains this cohort.
        DiskError: a flush failed; what was flushed before is intact.
    """
    with folder.training():
        if folder.is_finished():  # by the process that held it until now
            return "done"
        folder.clean()
        return _Session(folder, options).run()


class _Session:
    """One process training one cohort for a while."""

    def __init__(self, folder: CohortFolder, options: Options) -> None:
        self.folder, self.options = folder, options
        self.cohort = Cohort(tuple(folder.specs()))
        self.stack = Stack(self.cohort, options.device)
        self.metrics = {"l2_norm": l2_norm, **self._registered()}
        self.rows: list[pl.DataFrame] = []
        self.runs = [spec.id for spec in self.cohort.members]
        self.last_steps = {spec.n_steps for spec in self.cohort.members}
        self.start = self.step = self.parts = 0
        self.accuracies = {"train": (0.0, 0.0, 0.0), "valid": (0.0, 0.0, 0.0)}
        self.generalised = [False] * len(self.cohort)
        self._restore()
        self.status = folder.status()
        self.status["sessions"].append({"from_step": self.step, **environment(options.device)})
        self.began = self.flushed = time.monotonic()
        self.watched = 0.0

    def _registered(self) -> dict[str, Metric]:
        """The further quantities that the cohort was begun with, all of them and no others."""
        names = self.folder.manifest()["metrics"]
        missing = [name for name in names if name not in self.options.metrics]
        if missing:
            raise LabError(
                f"cohort {self.folder.id} records {missing[0]!r} at every evaluation; "
                "go on from Python, with the same function in metrics"
            )
        return {name: self.options.metrics[name] for name in names}

    def _restore(self) -> None:
        checkpoint = self.folder.load_checkpoint(like=self.stack.state())
        if checkpoint is not None:
            state, self.step, self.parts = checkpoint
            self.stack.load_state(state)
            self.start = self.step
        self.folder.drop_metrics(self.parts)

    def run(self) -> str:
        self._write_status()
        if self.parts == 0:
            self._record()
        while self._is_learning():
            if self.options.stop():
                self._flush()
                self._watch("interrupted", now=True)
                return "interrupted"
            self.step += 1
            train_step(self.stack, self.step)
            self._record()
            if self._flush_is_due():
                self._flush()
            self._watch("running")
        self._save_diverged()
        self._flush()
        self.folder.checkpoint_path.unlink(missing_ok=True)
        self._watch("done", now=True)
        return "done"

    def _is_learning(self) -> bool:
        return self.step < self.cohort.n_steps and bool((self.stack.alive & (self.stack.n_steps > self.step)).any())

    def _record(self) -> None:
        """Evaluate and keep models where the schedule says so, and at the last step of each member."""
        shared, ending = self.cohort.shared, self.step in self.last_steps
        if is_evaluated(shared, self.step) or ending:
            self._evaluate(self._concerned(is_evaluated(shared, self.step)))
        if is_saved(shared, self.step) or ending:
            for index in self._concerned(is_saved(shared, self.step)).nonzero().flatten().tolist():
                self.folder.save_model(self.cohort.members[index], self.step, self.stack.member(index))

    def _concerned(self, scheduled: bool) -> torch.Tensor:
        """Members still training at this step; off schedule only those that end with it. ``(R,)`` bool, on the CPU."""
        stack = self.stack
        return (stack.alive & ((stack.n_steps >= self.step) if scheduled else (stack.n_steps == self.step))).cpu()

    def _evaluate(self, kept: torch.Tensor) -> None:
        values = evaluate(self.stack, self.metrics)
        columns = {name: column[kept].to(torch.float32).numpy() for name, column in values.items()}
        runs = [run for run, keep in zip(self.runs, kept.tolist(), strict=True) if keep]
        if runs:
            self.rows.append(pl.DataFrame({"run": runs, "step": [self.step] * len(runs), **columns}))
        for split in self.accuracies:
            accuracy = values[f"{split}_accuracy"]
            self.accuracies[split] = (float(accuracy.min()), float(accuracy.quantile(0.5)), float(accuracy.max()))
        reached = (values["valid_accuracy"] >= GENERALISED).tolist()
        self.generalised = [before or now for before, now in zip(self.generalised, reached, strict=True)]

    def _save_diverged(self) -> None:
        """Keep the last finite parameters of each member that diverged."""
        for index, step in enumerate(self.stack.diverged_at.tolist()):
            if step >= 0:
                self.folder.save_model(self.cohort.members[index], step - 1, self.stack.member(index))

    def _flush_is_due(self) -> bool:
        period = self.cohort.shared.save_statistic_step
        timely = time.monotonic() - self.flushed >= self.options.flush_seconds
        return timely or (period is not None and self.step % period == 0)

    def _flush(self) -> None:
        """Metrics first, then the checkpoint that counts them, then the status that readers see."""
        if self.rows:
            self.folder.write_metrics(self.parts, pl.concat(self.rows, how="diagonal"))
            self.parts += 1
            self.rows = []
        self.folder.save_checkpoint(self.stack.state(), self.step, self.parts)
        self._write_status()
        self.flushed = time.monotonic()

    def _write_status(self) -> None:
        diverged = self.stack.diverged_at.tolist()
        for spec, at in zip(self.cohort.members, diverged, strict=True):
            if at >= 0:
                self.status["members"][spec.id] = {"state": "diverged", "step": at}
            else:
                state = "done" if self.step >= spec.n_steps else "running"
                self.status["members"][spec.id] = {"state": state, "step": min(self.step, spec.n_steps)}
        session = self.status["sessions"][-1]
        session["to_step"] = self.step
        session["seconds"] = round(time.monotonic() - self.began, 3)
        self.folder.write_status(self.status)

    def _watch(self, state: str, now: bool = False) -> None:
        at = time.monotonic()
        if not now and at - self.watched < 0.25:
            return
        self.watched = at
        self.options.watch(
            Snapshot(
                cohort=self.cohort.id,
                title=self.cohort.describe(),
                members=len(self.cohort),
                step=self.step,
                n_steps=self.cohort.n_steps,
                state=state,
                train_accuracy=self.accuracies["train"],
                valid_accuracy=self.accuracies["valid"],
                generalised=sum(self.generalised),
                diverged=int((self.stack.diverged_at >= 0).sum()),
                steps_per_second=(self.step - self.start) / max(at - self.began, 1e-9),
            )
        )
