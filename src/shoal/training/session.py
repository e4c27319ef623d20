"""Session of one process that trains one cohort: what sessions of any update rule have in common.

They keep the rows of evaluations until the next flush, write metrics, checkpoint and status in this order, go back to
the last flush, and report their progress.
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import polars as pl
import torch
from torch import Tensor

from shoal.lab.cohort import CohortFolder
from shoal.lab.continuing import check_measured, check_stand, roll_back
from shoal.lab.environment import environment
from shoal.spec import RunSpec
from shoal.training.continuation import MOVED, Places, check_data, found_again
from shoal.training.memory import SHARE
from shoal.training.plan import Cohort
from shoal.training.roster import Ending
from shoal.training.snapshot import Pace, Snapshot, Spread
from shoal.training.step import Metric


@dataclass
class Options:
    """Options of a training session.

    Attributes:
        device: device of the tensors.
        flush_seconds: longest time between two flushes.
        metrics: further quantities of the parameters to record at every evaluation.
        watch: callback with a snapshot of the cohort's progress, a few times a second at most.
        stop: function called after every step, on a GPU after up to a hundred; True makes the session flush and end.
        places: number of members side by side; when not given, as many as fit into ``memory_share`` of free memory.
        data: current paths of data, by their identity (:func:`shoal.training.continuation.places_of`).
        until: step at which each run pauses; other runs of the cohort stay where they are. None where none pauses.
    """

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    flush_seconds: float = 20.0
    metrics: Mapping[str, Metric] = field(default_factory=dict)
    watch: Callable[[Snapshot], None] = lambda snapshot: None
    stop: Callable[[], bool] = lambda: False
    places: int | None = None
    memory_share: float = SHARE
    data: Places = field(default_factory=dict)
    until: Mapping[str, int] | None = None


class Standing(Protocol):
    """Standing of the members of a cohort: who trains, who waits, who has ended, and their state.

    Attributes:
        specs: all runs, by id.
        members: runs that train.
        finished: endings of runs that have left.
    """

    specs: dict[str, RunSpec]
    members: list[str]
    finished: dict[str, Ending]

    @property
    def is_done(self) -> bool:
        """Return True if every member has left or pauses."""

    def steps(self) -> dict[str, int]:
        """Number of steps taken by each run."""

    def ends(self) -> list[int]:
        """Step at which each run ends or pauses, or has."""

    def state(self) -> Mapping[str, Tensor]:
        """Tensors of those that train, then of those parked, ``(R, …)`` each, for a checkpoint."""

    def where(self) -> dict[str, Any]:
        """``members`` and ``parked``, runs of the state in order, and ``finished``, as JSON."""


class BaseSession(ABC):
    """Session of a cohort, whose subclasses compute its steps.

    Attributes:
        roster: standing of the members, which a subclass makes.
        engine, products: what computes them.
        planned: number of members side by side.
        specs: the runs, with the current paths of their data.
    """

    roster: Standing
    engine: str
    products: str
    planned: int

    def __init__(self, folder: CohortFolder, options: Options) -> None:
        self.folder, self.options = folder, options
        self.manifest = folder.manifest()
        folder.check_sources()
        self.specs = found_again(folder.specs(), options.data)
        self.shared = self.specs[0]
        check_data(folder, self.shared, MOVED)
        self.rows: list[pl.DataFrame] = []
        self.parts: list[str] = []  # names of the written files of metrics
        self.measures = self.shared.task_part.measures()
        check_measured(folder, self.measures)
        self.shown: dict[str, Spread] = {}  # of the most telling measure, on each split, at the last evaluation
        self.evaluated: int | None = None  # mean step of that evaluation; None where it was in an earlier session
        self.generalised: set[str] = set()

    def _begin(self, device: torch.device, how: Mapping[str, Any]) -> None:
        """Begin the record of this session, once the state of the last flush is there."""
        self.status = self.folder.status()
        self.status["sessions"].append({"from_step": self._mean_step(), **environment(device), **how})
        self.began = self.flushed = time.monotonic()
        self.began_cpu = time.process_time()
        self.pace, self.watched = Pace(), 0.0
        self.since: tuple[float, int] | None = None  # when the first steps were over, and the mean step then

    def _last_flush(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """State and ``where`` of the last flush, None before the first; rows of a flush that was killed are dropped."""
        self.rows, self.generalised, self.shown = [], set(), {}
        checkpoint = self.folder.load_checkpoint()
        self.parts = roll_back(self.folder, None if checkpoint is None else checkpoint[2])
        if checkpoint is None:
            return None
        state, where, _ = checkpoint
        check_stand(self.folder, state, where, {spec.id: spec.n_steps for spec in self.specs})
        self.generalised, seen = set(where["generalised"]), where.get("accuracies", {})
        self.shown = {split: (low, middle, high) for split, (low, middle, high) in seen.items()}
        return state, where

    # steps

    def run(self) -> str:
        """Train until every member is done or pauses, or until asked to stop."""
        self._write_status()
        self._watch("starting", now=True)  # making a large stack can take long
        while self.rows or not self.roster.is_done:  # a last flush that fails takes members back
            is_stopped = not self.roster.is_done and self.options.stop()
            if is_stopped:
                self._watch("stopping", now=True)  # the flush can take long
            if is_stopped or self.roster.is_done:
                self.guarded(self._flush)
            else:
                self.advance()
            if is_stopped:
                self._watch("interrupted", now=True)
                return "interrupted"
        self._write_status()
        if len(self.roster.finished) == len(self.roster.specs):
            self.folder.finish()
        self._watch("done", now=True)
        return "done"

    @abstractmethod
    def advance(self) -> int:
        """Take steps, record what is due, let members leave, and flush where that is due; returns their number."""

    def guarded(self, act: Callable[[], None]) -> None:
        """Call a function that may go back to the last flush."""
        act()

    # writing

    def _flush(self) -> None:
        """Write metrics first, then the checkpoint that counts them, then the status that readers see."""
        if self.rows:
            self.parts.append(self.folder.write_metrics(len(self.parts), pl.concat(self.rows, how="diagonal")))
            self.rows = []
        # the format names the shown measure as for equations
        seen = {"generalised": sorted(self.generalised), "accuracies": self.shown}
        where = {**self.roster.where(), "places": self.planned, **seen}
        self.folder.save_checkpoint(self.roster.state(), where, self.parts)
        self._write_status()
        self.flushed = time.monotonic()

    def _write_status(self) -> None:
        roster = self.roster
        self.status["members"] = {
            run: roster.finished.get(run) or {"state": "running" if run in roster.members else "waiting", "step": step}
            for run, step in roster.steps().items()
        }
        self.status["metrics"] = self.parts
        session = self.status["sessions"][-1]
        session["to_step"] = self._mean_step()
        session["seconds"] = round(time.monotonic() - self.began, 3)
        session["cpu_seconds"] = round(time.process_time() - self.began_cpu, 3)
        self.folder.write_status(self.status)

    def _mean_step(self) -> int:
        return sum(self.roster.steps().values()) // len(self.roster.specs)

    def _watch(self, state: str, now: bool = False) -> None:
        at = time.monotonic()
        if not now and at - self.watched < 0.25:
            return
        self.watched = at
        specs, steps, ends = self.roster.specs, self.roster.steps(), self.roster.ends()
        step = sum(steps.values()) // len(specs)
        since, from_step = self.since or (at, step)
        self.options.watch(
            Snapshot(
                cohort=self.folder.id,
                title=Cohort(tuple(specs.values())).describe(),
                engine=self.engine,
                members=len(specs),
                step=step,
                n_steps=sum(ends) // len(ends),
                state=state,
                measures=self.measures,
                train=self.shown.get("train"),
                valid=self.shown.get("valid"),
                generalised=len(self.generalised),
                diverged=sum(entry["state"] == "diverged" for entry in self.roster.finished.values()),
                steps_per_second=(step - from_step) / (at - since) if step > from_step else None,
                seconds_left=self.pace.seconds_left(zip(steps.values(), ends, strict=True), self.shared),
                evaluated=self.evaluated,
            )
        )
