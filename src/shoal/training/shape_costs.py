"""Costs of a shape of runs: what a step, an evaluation and the making of a run take, and how much memory, by a trial.

They depend on the machine, the engine, the sizes and how many runs train side by side, so they are measured: a few runs
of a shape are built, take steps and are evaluated for a moment, as training does it, and are thrown away.
"""

import gc
import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import TypeVar

import torch
from torch import Tensor

from shoal.fast.denormals import flushed_denormals
from shoal.hmm import maximised
from shoal.tasks.sampling import Form
from shoal.training.em import evaluated
from shoal.training.em_roster import EMRoster, Fitted
from shoal.training.engines import is_fitted_by_em
from shoal.training.executor import cores
from shoal.training.plan import Cohort
from shoal.training.stack import Stack
from shoal.training.step import evaluate, l2_norm, train_steps

T = TypeVar("T")

MOST_TRIED = 16  # runs of a trial: beyond, a step's time grows with their number
TRIAL_SECONDS = 1.5  # of steps, per shape
ALL_SECONDS = 20.0  # of all trials; shapes beyond are estimated by their number of operations
SAMPLE = 8192  # examples from which a long evaluation is estimated: several of the parts in which it is computed
_WINDOWS = 7  # of steps in a trial


@dataclass(frozen=True)
class Costs:
    """Costs of one run of a shape.

    Times are processor time where one thread of a processor computes, which other programs take nothing of.

    Attributes:
        build: seconds to build it.
        layout: seconds that the first evaluation and the first step of a stack take beyond others: they lay out what
            later ones use.
        steps: seconds of a step, one for each window of the trial.
        evaluation: seconds of an evaluation.
        memory: bytes that it was seen to take.
        busy: how many times as long it takes by the clock, where other programs go on as they do: as in the trial, or
            by the load of the last minute, where that says more.
        is_measured: whether there was time for a trial.
    """

    build: float
    layout: float
    steps: Sequence[float]
    evaluation: float
    memory: float
    busy: float = 1.0
    is_measured: bool = True


class Trials:
    """Measures shapes, each once.

    Attributes:
        seconds: that all trials took until now.
        base: bytes of this process before the first.
        crowd: processes per core that there will be, as far as those of the last minute stay.

    Args:
        device: where.
        processes: that will train at the same time.
    """

    def __init__(self, device: torch.device, processes: int) -> None:
        self.device = device
        # the load is of the machine, of which this process may have a few cores
        self.crowd = max(processes / cores(), (load() + processes) / (os.cpu_count() or 1))
        self.seconds = 0.0
        self.base = resident_bytes()
        self._found: dict[tuple[str, str, int], Costs] = {}
        self._ratios: list[float] = []  # measured seconds of a step over what operations say

    def costs(self, cohort: Cohort, engine: str, threads: int, most: int) -> Costs:
        """The costs of one run of a cohort of which up to ``most`` train side by side."""
        tried = Cohort(cohort.members[: min(most, MOST_TRIED)])
        key = (cohort.shape, engine, len(tried))
        by_operations = tried.seconds / sum(spec.n_steps for spec in tried.members)
        if key not in self._found and self.seconds > ALL_SECONDS:
            ratio, busy = median(self._ratios), max(costs.busy for costs in self._found.values())
            evaluation = ratio * tried.evaluation_seconds / len(tried)
            return Costs(0.0, 0.0, [ratio * by_operations], evaluation, 0.0, busy, is_measured=False)
        if key not in self._found:
            began = time.monotonic()
            self._found[key] = measure(tried, self.device, engine, threads, self.crowd)
            self.seconds += time.monotonic() - began
            self._ratios.append(median(self._found[key].steps) / by_operations)
        return self._found[key]


def measure(cohort: Cohort, device: torch.device, engine: str, threads: int, crowd: float) -> Costs:
    """The costs of one of the runs of a cohort, which are tried side by side; ``crowd`` is that of :class:`Trials`."""
    before, R = torch.get_num_threads(), len(cohort)
    clock = _Clock(device, threads)
    gc.collect()
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the largest size counts anew from here on
    size = resident_bytes()
    try:
        torch.set_num_threads(threads)
        with flushed_denormals():
            build, trial = clock.time(lambda: _trial(cohort, device, engine))
            first, evaluation = trial.evaluation(clock)
            first_step, one = _twice(clock, lambda: trial.steps(1))
            n = max(1, int(TRIAL_SECONDS / _WINDOWS / max(one, 1e-6)))
            windows = _WINDOWS if one < TRIAL_SECONDS else 1
            steps = [clock.time(lambda: trial.steps(n))[0] / (n * R) for _ in range(windows)]
    finally:
        torch.set_num_threads(before)
    memory = max(0, _from_status("VmHWM") - size) / R
    layout = first - evaluation + first_step - one
    return Costs(build / R, max(0.0, layout), steps, evaluation / R, memory, max(1.0, clock.busy, crowd))


class _Trial:
    """A few runs in memory, trained by gradients."""

    def __init__(self, cohort: Cohort, device: torch.device, engine: str) -> None:
        self._stack = Stack(cohort, device, engine)

    def steps(self, n: int) -> None:
        train_steps(self._stack, n)

    def evaluation(self, clock: "_Clock") -> tuple[float, float]:
        """Seconds of the first and of a later evaluation; of one that would take long, from a sample of each form.

        The table of sums of p = 3162 has ten million equations, whose evaluation takes minutes.
        """
        whole_evaluation = partial(evaluate, self._stack, {"l2_norm": l2_norm})
        if sum(part.shape[1] for part, _ in self._stack.passes) <= SAMPLE:
            return _twice(clock, whole_evaluation)
        forms: dict[Form | None, list[Tensor]] = {}
        for part, form in self._stack.passes:
            forms.setdefault(form, []).append(part)
        layout = whole = 0.0
        for form, parts in forms.items():
            sample = max(parts, key=lambda part: part.shape[1])[:, :SAMPLE]
            with torch.no_grad():
                first, again = _twice(clock, partial(self._stack.score, sample, form=form))
            layout += max(0.0, first - again)
            whole += again * sum(part.shape[1] for part in parts) / sample.shape[1]
        if whole > TRIAL_SECONDS:
            return whole + layout, whole
        first, again = _twice(clock, whole_evaluation)
        return first + layout, again


class _EMTrial:
    """A few runs in memory, fitted by EM, whose updates evaluate them, too."""

    def __init__(self, cohort: Cohort) -> None:
        self._roster = EMRoster(cohort.members, Fitted(cohort.shared), len(cohort))
        self._roster.fill()
        self._update = cohort.shared.update

    def steps(self, n: int) -> None:
        roster = self._roster
        for _ in range(n):
            now = evaluated(roster.current, roster.data, roster.weights, self._update)
            roster.model = maximised(roster.current, now.counts, roster.data.floor)

    def evaluation(self, clock: "_Clock") -> tuple[float, float]:
        return 0.0, 0.0


def _trial(cohort: Cohort, device: torch.device, engine: str) -> _Trial | _EMTrial:
    return _EMTrial(cohort) if is_fitted_by_em(cohort.shared.model) else _Trial(cohort, device, engine)


class _Clock:
    """Times work: by the processor where one thread computes, else by the clock."""

    def __init__(self, device: torch.device, threads: int) -> None:
        self.device, self.is_processor = device, device.type == "cpu" and threads == 1
        self.spent = self.passed = 0.0

    def time(self, work: Callable[[], T]) -> tuple[float, T]:
        """Seconds, and what the work returned."""
        wall, processor = time.monotonic(), time.process_time()
        out = work()
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        wall = time.monotonic() - wall
        spent = min(wall, time.process_time() - processor) if self.is_processor else wall
        self.spent, self.passed = self.spent + spent, self.passed + wall
        return spent, out

    @property
    def busy(self) -> float:
        """By the clock over what was spent."""
        return self.passed / self.spent if self.spent else 1.0


def _twice(clock: _Clock, work: Callable[[], object]) -> tuple[float, float]:
    """Seconds of the first and the second time; of the first for both where that took long."""
    first = clock.time(work)[0]
    return first, first if first > TRIAL_SECONDS else clock.time(work)[0]


def load() -> float:
    """Processes that computed or wanted to, on average over the last minute; 0 where the system does not say."""
    try:
        return os.getloadavg()[0]
    except (OSError, AttributeError):
        return 0.0


def resident_bytes() -> int:
    """Memory of this process that is not swapped out; 0 where the system does not say."""
    return _from_status("VmRSS")


def _from_status(name: str) -> int:
    with suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))
    return 0
