"""Forecast of a training: its time and memory, from trials of its shapes in memory; nothing is written.

What training does besides steps and evaluations (starting processes, writing models, Python between two steps) is added
as measured on one machine; see :data:`MODEL_SECONDS` and its neighbours.
"""

import heapq
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from statistics import median

import torch

from shoal.lab.cohort import FINISHED, CohortFolder
from shoal.spec import RunSpec
from shoal.training.arrangement import Arrangement
from shoal.training.continuation import Places, found_again
from shoal.training.due import evaluations_left
from shoal.training.engines import engine_again, engine_for, is_fitted_by_em
from shoal.training.frozen import tables_agree
from shoal.training.memory import SHARE, places, stack_bytes
from shoal.training.plan import Cohort
from shoal.training.shape_costs import Costs, Trials

# What training does besides, as measured on two cores of an AMD EPYC at 2.5 GHz with a local disk
START, MOST_START = 1.5, 4.0  # seconds of starting and ending a process over those of its first imports; at most
LOOP_SECONDS = 0.15e-3  # per step of a cohort: what is due, who is told
EVALUATION_SECONDS = 0.7e-3  # per evaluation of a cohort, beside computing it
MODEL_SECONDS = 0.012  # per model written
LOADED_BYTES = 60 * 2**20  # per process: libraries that write what was measured
SLOWER = 1.25  # for what a trial of a moment does not see


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
        low: seconds on a machine that does nothing else; ``high``: on one as busy as it was during the trial.
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
        low, high: seconds until the last ends, as of a piece.
        start: seconds that starting a process takes on an idle machine; a worker is one for each piece.
        memory: bytes of all processes together; ``most_memory`` on the high side.
        trial_seconds: that finding this out took.
        can_end_early: whether runs may end before their last step.
    """

    pieces: Sequence[Piece]
    workers: int
    threads: int
    low: float
    high: float
    start: float
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
    start = min(MOST_START, START * time.process_time())  # until here it has loaded what a process needs first
    processes = min(work.workers, len(work.going_on) + len(work.new)) or 1
    trial = Trials(device, processes)
    share = SHARE / processes
    pieces = [
        *(_going_on(folder, device, side_by_side, share, trial, data or {}, work.rests) for folder in work.going_on),
        *(_new(cohort, work.threads, device, engine, side_by_side, share, trial) for cohort in work.new),
    ]
    if not pieces:
        return Forecast([], 1, work.threads, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, False)
    several = processes > 1
    busy = SLOWER * max(piece.costs.busy for piece in pieces)
    low = start + makespan([piece.low + several * start for piece in pieces], processes)
    high = busy * start + makespan([piece.high + several * busy * start for piece in pieces], processes)
    base = trial.base + LOADED_BYTES
    seen, most = (
        several * base + sum(heapq.nlargest(processes, (getattr(piece, name) for piece in pieces)))
        for name in ("memory", "most_memory")
    )
    specs = [spec for cohort in work.new for spec in cohort.members]
    early = any(spec.stop_after_generalizing is not None or spec.patience is not None for spec in specs)
    early |= any(is_fitted_by_em(spec.model) for spec in specs)
    return Forecast(pieces, processes, work.threads, low, high, start, seen, most, trial.seconds, early)


def makespan(seconds: Sequence[float], workers: int) -> float:
    """Seconds until the last piece ends, where each worker takes the next piece as soon as it is free.

    >>> makespan([3.0, 2.0, 2.0], 2)
    4.0
    """
    ends = [0.0] * max(1, workers)
    for piece in seconds:
        heapq.heapreplace(ends, ends[0] + piece)
    return max(ends)


def _new(
    cohort: Cohort,
    threads: int,
    device: torch.device,
    engine: str | None,
    side_by_side: int | None,
    share: float,
    trial: Trials,
) -> Piece:
    choice = engine_for(cohort, device, engine)
    spans = [(0, spec.n_steps) for spec in cohort.members]
    return _piece(cohort, spans, choice.engine, choice.why, threads, side_by_side, share, trial)


def _going_on(
    folder: CohortFolder,
    device: torch.device,
    side_by_side: int | None,
    share: float,
    trial: Trials,
    data: Places,
    rests: Set[str],
) -> Piece:
    """Piece that is left of a cohort, from its last flush on."""
    manifest, members = folder.manifest(), folder.status()["members"]
    engine, why = engine_again(manifest, device)
    left = [spec for spec in found_again(folder.specs(), data) if members[spec.id]["state"] not in FINISHED]
    specs = [spec for spec in left if spec.id not in rests]
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
    trial: Trials,
) -> Piece:
    R, on_gpu = len(cohort), trial.device.type == "cuda"
    largest = max(cohort.members, key=lambda spec: spec.task_part.counts().drawn)
    one_table = tables_agree(cohort.members)
    fitting = min(R, side_by_side or places(largest, R, trial.device, engine, share, one_table=one_table))
    costs = trial.costs(cohort, engine, threads, fitting)
    steps = sum(last - step for step, last in spans)
    evaluations = _evaluations(cohort.shared, spans)
    models = sum(_models(spec, *span) for spec, span in zip(cohort.members, spans, strict=True))
    longest = max(last - step for step, last in spans) * -(-R // fitting)
    besides = costs.layout + R * costs.build + evaluations * (costs.evaluation + EVALUATION_SECONDS / fitting)
    besides += models * MODEL_SECONDS + longest * LOOP_SECONDS
    low, high = (steps * step + besides for step in (min(costs.steps), median(costs.steps)))
    estimated = stack_bytes(largest, fitting, engine, on_gpu, one_table=one_table)
    base = trial.base + LOADED_BYTES
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
        SLOWER * costs.busy * high,
        base + (fitting * costs.memory if costs.is_measured else estimated),
        base + max(estimated, fitting * costs.memory),
        costs,
    )


def _evaluations(spec: RunSpec, spans: Iterable[tuple[int, int]]) -> int:
    """Number of evaluations left of all members; of one that has not begun with that before its first step."""
    return sum(
        members * (evaluations_left(spec, step, last) + (step == 0)) for (step, last), members in Counter(spans).items()
    )


def _models(spec: RunSpec, step: int, last: int) -> int:
    """Number of models to be written: the last, those every ``save_model_step`` and the best."""
    period = spec.save_model_step
    regular = 0 if period is None else last // period - step // period + (step == 0)
    is_last = period is None or last % period != 0
    return regular + is_last + bool(spec.keep_best)


def by_shape(pieces: Iterable[Piece]) -> Mapping[tuple[str, str], list[Piece]]:
    """Pieces by their title and the engine that computes them."""
    groups: dict[tuple[str, str], list[Piece]] = {}
    for piece in pieces:
        groups.setdefault((piece.title, piece.engine), []).append(piece)
    return groups
