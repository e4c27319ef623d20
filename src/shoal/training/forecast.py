"""Forecast of a training: its time and memory, from a trial of each shape in memory.

What a step costs hangs on the machine, the engine, the sizes and how many runs train side by side, so it is measured: a
few runs of each shape are built, take steps and are evaluated for a moment, as training does it, and are thrown away.
Nothing is written. What training does besides (starting processes, writing models, Python between two steps) is added
as measured on one machine; see :data:`MODEL_SECONDS` and its neighbours.
"""

import gc
import heapq
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch

from shoal.fast.denormals import flushed_denormals
from shoal.fast.engine import available, choose_engine
from shoal.lab.cohort import FINISHED, CohortFolder
from shoal.spec import RunSpec
from shoal.training.arrangement import Arrangement
from shoal.training.continuation import Places, found_again
from shoal.training.due import evaluations_left
from shoal.training.memory import SHARE, member_bytes, places
from shoal.training.plan import Cohort
from shoal.training.stack import Stack
from shoal.training.step import evaluate, l2_norm, train_steps

MOST_TRIED = 16  # runs of a trial: beyond, a step's time grows with their number
TRIAL_SECONDS = 1.5  # of steps, per shape
ALL_SECONDS = 20.0  # of all trials; shapes beyond are estimated by their number of operations
_WINDOWS = 7  # of steps in a trial, whose spread is the range

# What training does besides, as measured on two cores of an AMD EPYC at 2.5 GHz with a local disk
LOOP_SECONDS = 0.15e-3  # per step of a cohort: what is due, who is told
MODEL_SECONDS = 0.012  # per model written
SLOWER = 1.25  # how much slower than in a trial steps are where all cores work


@dataclass(frozen=True)
class Costs:
    """Costs of one run of a shape.

    Attributes:
        build: seconds to build it.
        steps: seconds of a step, one for each window of the trial.
        evaluation: seconds of an evaluation.
        memory: bytes that it was seen to take.
        is_measured: whether there was time for a trial.
    """

    build: "Seconds"
    steps: Sequence["Seconds"]
    evaluation: "Seconds"
    memory: float
    is_measured: bool = True


@dataclass(frozen=True)
class Seconds:
    """Time that work took.

    Attributes:
        free: on a processor that nobody else uses: processor time, where that is less than the other.
        wall: as it was.
    """

    free: float
    wall: float

    def __truediv__(self, n: float) -> "Seconds":
        return Seconds(self.free / n, self.wall / n)


@dataclass(frozen=True)
class Piece:
    """A cohort, or a piece of one, as one process trains it from where it stands.

    Attributes:
        title: its model in words.
        runs: how many have steps left.
        steps: left, of all runs together.
        evaluations: likewise.
        models: to be written.
        longest: steps left of the run that has most.
        engine: what computes it.
        why: it is this one.
        side_by_side: runs that train at the same time.
        low, high: seconds.
        memory: bytes of its process, as seen in the trial.
        most_memory: the same by the estimate on the high side by which runs are placed.
        costs: of one run.
    """

    title: str
    runs: int
    steps: int
    evaluations: int
    models: int
    longest: int
    engine: str
    why: str
    side_by_side: int
    low: float
    high: float
    memory: float
    most_memory: float
    costs: Costs


@dataclass(frozen=True)
class Forecast:
    """Forecast of a request.

    Attributes:
        pieces: what trains, in the order in which it begins.
        workers: processes that train at the same time.
        threads: of each new cohort.
        low, high: seconds until the last ends.
        memory: bytes of all processes together; ``most_memory`` on the high side.
        trial_seconds: that finding this out took.
        can_end_early: whether runs may end before their last step.
    """

    pieces: Sequence[Piece]
    workers: int
    threads: int
    low: float
    high: float
    memory: float
    most_memory: float
    trial_seconds: float
    can_end_early: bool


def forecast(
    work: Arrangement,
    device: torch.device,
    engine: str | None = None,
    side_by_side: int | None = None,
    data: Places | None = None,
) -> Forecast:
    """Estimate the time and memory of an arrangement.

    Args:
        work: what would train.
        device: where.
        engine: the one asked for.
        side_by_side: runs of a cohort that train at the same time; as many as fit, when not given.
        data: where data lie now, see :func:`shoal.training.continuation.places_of`.
    """
    start = time.process_time()  # until here: what a process needs to load
    trial = _Trial(device)
    processes = min(work.workers, len(work.going_on) + len(work.new)) or 1
    share = SHARE / processes
    pieces = [
        *(_going_on(folder, device, side_by_side, share, trial, data or {}) for folder in work.going_on),
        *(_new(cohort, work.threads, device, engine, side_by_side, share, trial) for cohort in work.new),
    ]
    if not pieces:
        return Forecast([], 1, work.threads, 0.0, 0.0, 0.0, 0.0, 0.0, False)
    several = processes > 1
    low, high = (
        start + makespan([getattr(piece, end) + several * start for piece in pieces], processes)
        for end in ("low", "high")
    )
    base = resident_bytes()
    seen, most = (
        several * base + sum(heapq.nlargest(processes, (getattr(piece, name) for piece in pieces)))
        for name in ("memory", "most_memory")
    )
    specs = [spec for cohort in work.new for spec in cohort.members]
    early = any(spec.stop_after_generalizing is not None or spec.patience is not None for spec in specs)
    return Forecast(pieces, processes, work.threads, low, high, seen, most, trial.seconds, early)


def makespan(seconds: Sequence[float], workers: int) -> float:
    """When the last piece ends, where each of the workers takes the next as soon as it is free.

    >>> makespan([3.0, 2.0, 2.0], 2)
    4.0
    """
    ends = [0.0] * max(1, workers)
    for own in seconds:
        heapq.heapreplace(ends, ends[0] + own)
    return max(ends)


def resident_bytes() -> int:
    """Memory of this process that is not swapped out; 0 where the system does not say."""
    return _from_status("VmRSS")


def _from_status(name: str) -> int:
    with suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))
    return 0


class _Trial:
    """Measures shapes, each once."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds = 0.0
        self.base = resident_bytes()
        self.found: dict[tuple[str, str, int], Costs] = {}
        self.ratios: list[float] = []  # measured seconds of a step over what operations say

    def costs(self, cohort: Cohort, engine: str, threads: int, most: int) -> Costs:
        """The costs of one run of a cohort of which up to ``most`` train side by side."""
        tried = Cohort(cohort.members[: min(most, MOST_TRIED)])
        key = (cohort.shape, engine, len(tried))
        by_operations = tried.seconds / sum(spec.n_steps for spec in tried.members)
        if key not in self.found and self.seconds > ALL_SECONDS:
            step = by_operations * median(self.ratios)
            evaluation = tried.evaluation_seconds / len(tried) * median(self.ratios)
            nothing, each, scored = (Seconds(own, own) for own in (0.0, step, evaluation))
            return Costs(nothing, [each], scored, 0.0, is_measured=False)
        if key not in self.found:
            began = time.monotonic()
            self.found[key] = _measured(tried, self.device, engine, threads)
            self.seconds += time.monotonic() - began
            self.ratios.append(median(window.wall for window in self.found[key].steps) / by_operations)
        return self.found[key]


def _measured(cohort: Cohort, device: torch.device, engine: str, threads: int) -> Costs:
    before = torch.get_num_threads()
    R = len(cohort)
    gc.collect()
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # from here on the largest size counts anew
    size = resident_bytes()
    try:
        torch.set_num_threads(threads)
        with flushed_denormals():
            clock = _Clock(device)
            stack = Stack(cohort, device, engine)
            build = clock.read()
            evaluation = _evaluation(stack)
            first = _window(stack, 1)  # lays out what the others use
            n = max(1, int(TRIAL_SECONDS / _WINDOWS / max(_window(stack, 1).free, 1e-6)))
            windows = _WINDOWS if first.free < TRIAL_SECONDS else 1
            steps = [_window(stack, n) / (n * R) for _ in range(windows)]
    finally:
        torch.set_num_threads(before)
    memory = max(0, _from_status("VmHWM") - size) / R
    return Costs(build / R, steps, evaluation / R, memory)


class _Clock:
    """Time since it was made."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.wall, self.processor = time.monotonic(), time.process_time()

    def read(self) -> Seconds:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        wall, processor = time.monotonic() - self.wall, time.process_time() - self.processor
        return Seconds(wall if self.device.type == "cuda" else min(wall, processor), wall)


def _window(stack: Stack, steps: int) -> Seconds:
    clock = _Clock(stack.device)
    train_steps(stack, steps)
    return clock.read()


def _evaluation(stack: Stack) -> Seconds:
    """Time of an evaluation: of the second, where the first, which lays out what it uses, was short."""
    for _ in range(2):
        clock = _Clock(stack.device)
        evaluate(stack, {"l2_norm": l2_norm})
        seconds = clock.read()
        if seconds.free > TRIAL_SECONDS:
            break
    return seconds


def _new(
    cohort: Cohort,
    threads: int,
    device: torch.device,
    engine: str | None,
    side_by_side: int | None,
    share: float,
    trial: _Trial,
) -> Piece:
    choice = choose_engine(cohort.shared, cohort.seconds, device, engine)
    spans = [(0, spec.n_steps) for spec in cohort.members]
    return _piece(cohort, spans, choice.engine, choice.why, threads, side_by_side, share, trial)


def _going_on(
    folder: CohortFolder,
    device: torch.device,
    side_by_side: int | None,
    share: float,
    trial: _Trial,
    data: Places,
) -> Piece:
    """The rest of a cohort, from its last flush on."""
    manifest, members = folder.manifest(), folder.status()["members"]
    engine, why = available(str(manifest.get("engine", "plain")), device)
    specs = [spec for spec in found_again(folder.specs(), data) if members[spec.id]["state"] not in FINISHED]
    spans = [(members[spec.id]["step"], spec.n_steps) for spec in specs]
    return _piece(Cohort(tuple(specs)), spans, engine, why, manifest["threads"], side_by_side, share, trial)


def _piece(
    cohort: Cohort,
    spans: Sequence[tuple[int, int]],
    engine: str,
    why: str,
    threads: int,
    side_by_side: int | None,
    share: float,
    trial: _Trial,
) -> Piece:
    R, on_gpu = len(cohort), trial.device.type == "cuda"
    largest = max(cohort.members, key=lambda spec: spec.task_part.counts().drawn)
    fitting = min(R, side_by_side or places(largest, R, trial.device, engine, share))
    costs = trial.costs(cohort, engine, threads, fitting)
    steps = sum(last - step for step, last in spans)
    evaluations = _evaluations(cohort.shared, spans)
    models = sum(_models(spec, *span) for spec, span in zip(cohort.members, spans, strict=True))
    longest = max(last - step for step, last in spans) * -(-R // fitting)
    besides = models * MODEL_SECONDS + longest * LOOP_SECONDS
    free, wall = (
        R * getattr(costs.build, kind) + evaluations * getattr(costs.evaluation, kind) + besides
        for kind in ("free", "wall")
    )
    low = steps * min(window.free for window in costs.steps) + free
    high = SLOWER * (steps * median(window.wall for window in costs.steps) + wall)
    each = member_bytes(largest, engine, on_gpu)
    base = trial.base
    return Piece(
        cohort.describe(),
        R,
        steps,
        evaluations,
        models,
        longest,
        engine,
        why,
        fitting,
        low,
        high,
        base + fitting * (costs.memory if costs.is_measured else each),
        base + fitting * max(each, costs.memory),
        costs,
    )


def _evaluations(spec: RunSpec, spans: Iterable[tuple[int, int]]) -> int:
    """Evaluations left of all members; of one that has not begun with that before its first step."""
    return sum(
        members * (evaluations_left(spec, step, last) + (step == 0)) for (step, last), members in Counter(spans).items()
    )


def _models(spec: RunSpec, step: int, last: int) -> int:
    """Models to be written: the last, those every ``save_model_step`` and the best."""
    period = spec.save_model_step
    regular = 0 if period is None else last // period - step // period + (step == 0)
    is_last = period is None or last % period != 0
    return regular + is_last + bool(spec.keep_best)


def by_shape(pieces: Iterable[Piece]) -> Mapping[tuple[str, str], list[Piece]]:
    """The pieces by what they are called and what computes them."""
    found: dict[tuple[str, str], list[Piece]] = {}
    for piece in pieces:
        found.setdefault((piece.title, piece.engine), []).append(piece)
    return found
