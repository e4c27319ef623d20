"""Arrangement of a request before anything is written down: which of its runs the lab holds, which of these go on, and
in which cohorts the others train."""

from collections.abc import Callable, Container, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass

import torch

from shoal.errors import LabError, UserError
from shoal.lab.cohort import CohortFolder, is_over
from shoal.lab.lab import Lab
from shoal.lab.resting import resting
from shoal.spec import RunSpec
from shoal.training.executor import cores, threads_per_worker
from shoal.training.memory import check_memory
from shoal.training.plan import Cohort, plan, spread
from shoal.training.step import Metric

WORTH_DIVIDING = 20.0  # seconds of work for one core from which cohorts are divided between several processes


@dataclass(frozen=True)
class Arrangement:
    """A request as it would be trained.

    Attributes:
        held: the folders of those runs that the lab holds, by run.
        going_on: those of them that still have steps to train.
        damaged: what is wrong with those that do not say.
        new: the other runs as cohorts, in the pieces in which they train, the longest work first.
        rests: runs of these cohorts that were not asked for and rest in tunings: they stay where they are.
        workers: cohorts that train at the same time.
        threads: of each new cohort.
    """

    held: Mapping[str, CohortFolder]
    going_on: Sequence[CohortFolder]
    damaged: Sequence[LabError]
    new: Sequence[Cohort]
    rests: Set[str]
    workers: int
    threads: int


def arrange(
    wanted: Sequence[RunSpec],
    lab: Lab,
    device: torch.device,
    workers: int | None,
    threads: int | None,
    engine: str | None,
    metrics: Mapping[str, Metric],
    say: Callable[[str], None],
) -> Arrangement:
    """Arrange runs, each of which is wanted once; arguments as for :func:`shoal.train`. The lab is read alone.

    Raises:
        UserError: runs of the lab were trained without a metric or with other parts, or a model cannot fit.
    """
    held = _held(lab, wanted, say)
    _check_held(held, metrics)
    folders, damaged = unfinished(held.values())
    rests = resting(lab.path, folders).runs - {spec.id for spec in wanted} if folders else set[str]()
    folders = [folder for folder in folders if _has_steps(folder, rests)]
    cohorts = _new(wanted, held, device, engine)
    workers = workers or choose_workers(folders, cohorts, device, metrics)
    return Arrangement(
        held, folders, damaged, _divided(cohorts, workers), rests, workers, threads or threads_per_worker(workers)
    )


def _held(lab: Lab, specs: Sequence[RunSpec], say: Callable[[str], None]) -> dict[str, CohortFolder]:
    """Folders of those runs that the lab holds."""
    survey = lab.survey()
    for line in survey.unknown:
        say(f"warning: {line}; those of them that are asked for are trained again")
    for line in survey.copies:
        say(f"warning: {line}")
    return {spec.id: survey.index[spec.id] for spec in specs if spec.id in survey.index}


def unfinished(folders: Iterable[CohortFolder]) -> tuple[list[CohortFolder], list[LabError]]:
    """Folders with members that still have steps to train, each once, and the errors of unreadable folders."""
    unfinished_folders, damaged = [], []
    for folder in {folder.path: folder for folder in folders}.values():
        try:
            if not folder.is_finished():
                unfinished_folders.append(folder)
        except LabError as error:
            damaged.append(error)
    return unfinished_folders, damaged


def _has_steps(folder: CohortFolder, rests: Set[str]) -> bool:
    """Return True if a run of a cohort that does not rest has steps to train."""
    return any(not is_over(member) and run not in rests for run, member in folder.status()["members"].items())


def _check_held(held: Mapping[str, CohortFolder], metrics: Iterable[str]) -> None:
    """Raise :class:`UserError` for runs of the lab trained without a metric, or of parts that have changed."""
    _check_recorded(held, metrics)
    for folder in dict.fromkeys(held.values()):
        folder.check_sources()


def _check_recorded(held: Mapping[str, CohortFolder], metrics: Iterable[str]) -> None:
    if not metrics:
        return
    recorded = {folder: folder.manifest()["metrics"] for folder in dict.fromkeys(held.values())}
    for name in metrics:
        lacking = [run for run, folder in held.items() if name not in recorded[folder]]
        if lacking:
            raise UserError(
                f"metric {name!r} is not on record: {len(lacking)} of these runs ({lacking[0][:8]}"
                f"{' …' if len(lacking) > 1 else ''}) were trained without it; train them with it in another lab"
            )


def _new(specs: Sequence[RunSpec], held: Container[str], device: torch.device, engine: str | None) -> list[Cohort]:
    """Cohorts of the runs that the lab does not hold; :class:`UserError` for a model that cannot fit."""
    cohorts = plan(spec for spec in specs if spec.id not in held)
    check_memory((cohort.shared for cohort in cohorts), device, engine)
    return cohorts


def _divided(cohorts: Sequence[Cohort], workers: int) -> list[Cohort]:
    """Cohorts divided for the workers, where they take long enough; the longest work first."""
    worth = sum(cohort.seconds for cohort in cohorts) > WORTH_DIVIDING
    return spread(cohorts, workers if worth else 1)


def choose_workers(
    begun: Sequence[CohortFolder], new: Sequence[Cohort], device: torch.device, metrics: Mapping[str, Metric]
) -> int:
    """Number of workers: one per core, but a single one for a GPU or a metric that another process cannot import.

    One cohort is divided between the cores when it takes longer than starting processes does.
    """
    if device.type == "cuda" or not all(_can_be_sent(metric) for metric in metrics.values()):
        return 1
    most = len(begun) + len(new)
    if sum(cohort.seconds for cohort in new) > WORTH_DIVIDING:
        most = len(begun) + sum(len(cohort) for cohort in new)
    return min(cores(), max(1, most))


def _can_be_sent(metric: Metric) -> bool:
    return getattr(metric, "__module__", "__main__") != "__main__" and "<" not in getattr(metric, "__qualname__", "<")
