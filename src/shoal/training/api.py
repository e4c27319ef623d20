"""Training of runs into a lab: finished runs are not trained again, interrupted ones are resumed."""

import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path

import torch

from shoal.errors import LabError
from shoal.lab.cohort import CohortFolder, is_over
from shoal.lab.deleting import deleted_runs
from shoal.lab.lab import Lab
from shoal.lab.records import Records
from shoal.lab.resting import Resting, resting
from shoal.spec import RunSpec
from shoal.training.arrangement import Arrangement, arrange, choose_workers
from shoal.training.continuation import places_of
from shoal.training.engines import engine_for
from shoal.training.executor import Execution, execute
from shoal.training.plan import Cohort
from shoal.training.preflight import check_parts
from shoal.training.progress import watching
from shoal.training.remarks import slow_evaluations, without_effect
from shoal.training.requests import check_execution, check_metrics, check_precision, check_specs, check_told
from shoal.training.snapshot import Snapshot
from shoal.training.step import Metric


class Interrupted(KeyboardInterrupt):
    """Signal that training was stopped, after everything was flushed."""


def train(
    specs: RunSpec | Iterable[RunSpec],
    lab: str | Path | Lab = "lab",
    *,
    device: str | None = None,
    workers: int | None = None,
    threads: int | None = None,
    engine: str | None = None,
    places: int | None = None,
    until: int | None = None,
    flush_seconds: float = 20.0,
    metrics: Mapping[str, Metric] | None = None,
    name: str | None = None,
    tag: str | Iterable[str] = (),
    note: str | None = None,
    watch: Callable[[Snapshot], None] | None = None,
    say: Callable[[str], None] = lambda line: None,
    progress: bool | None = None,
) -> Records:
    """Train runs side by side and return their records in the lab.

    Runs that are finished in the lab are not trained again; interrupted runs are resumed from their last flush, with
    their cohort. The rest form cohorts by the shapes of their tensors; a long one is divided between the cores.

    Args:
        specs: the runs, or one run.
        lab: the lab, or its folder, which is made if it does not exist.
        device: ``cpu`` or ``cuda``; CUDA where there is one, when not given.
        workers: cohorts that train at the same time, each in its own process; one per core, when not given.
        threads: threads per new cohort; the cores over the workers, at most ``OMP_NUM_THREADS``, when not given.
        engine: that of new cohorts (:mod:`shoal.fast.engine`); the fastest that is worth its start, when not given.
        places: runs of a cohort that train side by side; as many as fit into half of the free memory, when not given.
        until: step at which these runs pause; other runs of their cohorts stay where they are.
        flush_seconds: longest time between two flushes, at most 30.
        metrics: further quantities to record at every evaluation of new runs, each a function of one member's
            parameters (by name) that returns a scalar tensor. Runs that the lab holds must have metrics of these names.
        name: name of the run, or of a group of several; see :meth:`shoal.Lab.label`.
        tag: words to find the runs by.
        note: free text about them.
        watch: callback with a snapshot of each cohort's progress; nothing is shown besides.
        say: callback with lines about engines of new cohorts, and about unreadable cohorts, whose runs count as new.
        progress: one line that is updated: None in notebooks and terminals alone, True also in files, False never.

    Raises:
        Interrupted: stopped by Ctrl-C or SIGTERM; everything is flushed, and the same call resumes it.
        UserError: the request is wrong or the lab cannot be used; or, after the rest was trained, a cohort is damaged.
        DiskError: the disk refused a flush; earlier flushes are intact.
    """
    wanted = check_specs(specs)
    check_told(metrics, watch, say, progress)
    on, metrics = check_execution(device, workers, threads, flush_seconds, engine, places, until), metrics or {}
    _check_wanted(wanted, on, engine, metrics)
    lab, runs = lab if isinstance(lab, Lab) else Lab(lab), [spec.id for spec in wanted]
    with lab.labelling(runs, name, tag, note):
        work = arrange(wanted, lab, on, workers, threads, engine, metrics, say)
        begun, taken = _begin(lab, work.new, on, work.threads, engine, metrics, say)
    how = Execution(on, flush_seconds, metrics, places, places_of(wanted), _pauses(runs, until, work))
    folders = [*_with_steps(work.going_on, how.until), *begun]
    with watching(watch, progress, _members(folders), len(wanted)) as callback:
        _finish(folders, work.workers, how, callback, [*work.damaged, *taken])
    return _left(lab, runs)


def _pauses(runs: Sequence[str], until: int | None, work: Arrangement) -> dict[str, int] | None:
    """Step at which each run pauses; None where none does."""
    return _going_on(work.going_on, runs, work.rests) if until is None else dict.fromkeys(runs, until)


def _going_on(folders: Iterable[CohortFolder], runs: Iterable[str], rests: Collection[str]) -> dict[str, int] | None:
    """Step up to which each of these runs and the others of their cohorts may train; None where none rests."""
    if not rests:
        return None
    members = [member["run"] for folder in folders for member in folder.manifest()["members"]]
    return {run: sys.maxsize for run in [*runs, *members] if run not in rests}


def _with_steps(folders: Iterable[CohortFolder], until: Mapping[str, int] | None) -> list[CohortFolder]:
    """Cohorts, none of them finished, with a run that has steps to train up to where it pauses."""
    if until is None:
        return list(folders)
    members = {folder: folder.status()["members"] for folder in folders}
    return [
        folder
        for folder, of_folder in members.items()
        if any(not is_over(member) and member["step"] < until.get(run, 0) for run, member in of_folder.items())
    ]


def _left(lab: Lab, runs: Iterable[str]) -> Records:
    """Records of runs that were trained, without those that were deleted since."""
    deleted = deleted_runs(lab.path).keys() - lab.index().keys()
    return lab.records(run for run in runs if run not in deleted)


def _check_wanted(
    specs: Sequence[RunSpec], device: torch.device, engine: str | None, metrics: Mapping[str, Metric]
) -> None:
    """Raise :class:`UserError` for runs that cannot be trained, before anything is written."""
    check_precision(specs, device, engine)
    check_parts(specs, device)
    check_metrics(metrics, specs, device)


def _members(folders: Iterable[CohortFolder]) -> int:
    """Number of runs of these cohorts."""
    return sum(len(folder.manifest()["members"]) for folder in folders)


def _begin(
    lab: Lab,
    cohorts: Sequence[Cohort],
    device: torch.device,
    threads: int,
    engine: str | None,
    metrics: Iterable[str],
    say: Callable[[str], None],
) -> tuple[list[CohortFolder], list[LabError]]:
    """Write new cohorts to the lab, with the engine of each; the second result holds errors of those that cannot be."""
    folders: list[CohortFolder] = []
    taken: list[LabError] = []
    lines: dict[str, None] = {}
    for cohort in cohorts:
        choice = engine_for(cohort, device, engine)
        folder = lab.cohort(cohort.id)
        try:
            folder.check_free()
        except LabError as error:
            taken.append(error)
            continue
        folder.create(list(cohort.members), threads, metrics, choice.engine, choice.why, choice.products)
        folders.append(folder)
        lines[f"{cohort.describe()}: {choice.engine} engine ({choice.why})"] = None
        lines |= dict.fromkeys(cohort.shared.task_part.conventions())
        lines |= dict.fromkeys(cohort.shared.task_part.before(folder.kept()))
        lines |= dict.fromkeys(cohort.shared.model_part.warnings(cohort.shared.precision))
        if cohort.shared.precision == "tf32":
            lines["warning: whether tf32 changes when models generalise has not been measured"] = None
        lines |= dict.fromkeys([*without_effect(cohort), *slow_evaluations(cohort)])
    for line in lines:
        say(line)
    return folders, taken


def resume(
    lab: str | Path | Lab = "lab",
    runs: str | RunSpec | Iterable[str | RunSpec] | None = None,
    *,
    device: str | None = None,
    workers: int | None = None,
    places: int | None = None,
    flush_seconds: float = 20.0,
    metrics: Mapping[str, Metric] | None = None,
    watch: Callable[[Snapshot], None] | None = None,
    say: Callable[[str], None] = lambda line: None,
    progress: bool | None = None,
) -> Records:
    """Resume runs of a lab that are not finished; arguments as for :func:`train`, but for ``runs``: those that go on to
    their end, also where they left a tuning at a rung, while all others stay where they are. None is every run but
    those of tunings.

    Runs of tunings are left alone: those that left at a rung are no unfinished work, and a tuning that was interrupted
    goes on when it is asked for again. Cohorts whose ``cohort.json`` or ``status.json`` is damaged are left alone, too;
    so are those of parts from outside of shoal whose code has changed, about which a :class:`UserError` is raised when
    the rest is trained.
    """
    lab = lab if isinstance(lab, Lab) else Lab(lab)
    check_told(metrics, watch, say, progress)
    on = check_execution(device, workers, None, flush_seconds, places=places)
    folders, changed = _unchanged(lab.unfinished())
    wanted = None if runs is None else lab.records(runs).ids
    rest = resting(lab.path, folders) if wanted is None else Resting()
    for line in rest.lines(lab.path):
        say(line)
    until = _going_on(folders, [], rest.runs) if wanted is None else dict.fromkeys(wanted, sys.maxsize)
    folders = _with_steps(folders, until)
    if folders:
        lab.create()
    members = [member["run"] for folder in folders for member in folder.manifest()["members"]]
    asked = [run for run in members if until is None or run in until]
    workers = workers or choose_workers(folders, [], on, metrics or {})
    with watching(watch, progress, len(members), len(asked)) as callback:
        _finish(folders, workers, Execution(on, flush_seconds, metrics or {}, places, until=until), callback, changed)
    return _left(lab, asked)


def _unchanged(folders: Iterable[CohortFolder]) -> tuple[list[CohortFolder], list[LabError]]:
    """Folders whose parts from outside of shoal have not changed, and the errors of the other folders."""
    unchanged, changed = [], []
    for folder in folders:
        try:
            folder.check_sources()
            unchanged.append(folder)
        except LabError as error:
            changed.append(error)
    return unchanged, changed


def _finish(
    folders: list[CohortFolder],
    workers: int,
    execution: Execution,
    watch: Callable[[Snapshot], None],
    damaged: Sequence[LabError] = (),
) -> None:
    """Train these cohorts, and raise the errors of others after that."""
    if not execute(folders, workers=workers, execution=execution, watch=watch, failures=damaged):
        raise Interrupted("training was stopped; everything up to this step is kept, and the same call goes on from it")
