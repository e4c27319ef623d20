"""Training of runs into a lab: finished runs are not trained again, interrupted ones are resumed."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import torch

from shoal.errors import LabError, UserError, nearest
from shoal.fast.engine import ENGINES, choose_engine
from shoal.lab.cohort import CohortFolder
from shoal.lab.frames import ALWAYS
from shoal.lab.lab import Lab
from shoal.lab.records import Records
from shoal.measures import SPLITS
from shoal.spec import RunSpec
from shoal.tasks.build import build_model
from shoal.training.arrangement import arrange, choose_workers
from shoal.training.continuation import places_of
from shoal.training.executor import Execution, cores, execute
from shoal.training.plan import Cohort, plan
from shoal.training.preflight import check_parts
from shoal.training.remarks import slow_evaluations, without_effect
from shoal.training.snapshot import Snapshot
from shoal.training.step import Metric, measure


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
    flush_seconds: float = 20.0,
    metrics: Mapping[str, Metric] | None = None,
    watch: Callable[[Snapshot], None] = lambda snapshot: None,
    say: Callable[[str], None] = lambda line: None,
) -> Records:
    """Train runs side by side and return their records in the lab.

    Runs that are finished in the lab are not trained again; interrupted runs are resumed from their last flush,
    together with their cohort. The rest are grouped into cohorts by the shapes of their tensors, and a cohort that
    takes long is divided between the cores.

    Args:
        specs: the runs, or one run.
        lab: the lab, or its folder, which is made if it does not exist.
        device: ``cpu`` or ``cuda``; CUDA where there is one, when not given.
        workers: number of cohorts that train at the same time, each in its own process; one per core, when not given.
        threads: threads per new cohort; the cores divided by the workers, at most ``OMP_NUM_THREADS`` where that is
            set, when not given.
        engine: engine of new cohorts, one of ``compiled``, ``prefixes`` and ``plain`` (see :mod:`shoal.fast.engine`);
            the fastest that supports them and is worth its start, when not given.
        places: number of runs of a cohort that train side by side; as many as fit into half of the free memory, when
            not given.
        flush_seconds: longest time between two flushes, at most 30.
        metrics: further quantities to record at every evaluation of new runs, each a function of one member's
            parameters (by name) that returns a scalar tensor. Runs that the lab holds must have been trained with them;
            by name: a lab cannot tell one function from another that is registered under the same name later.
        watch: callback with a snapshot of each cohort's progress.
        say: callback with lines about the engines of new cohorts and the reasons, and about cohorts whose runs the lab
            cannot read: their runs count as new, unless the same cohort is asked for, which is refused.

    Raises:
        Interrupted: stopped by Ctrl-C or SIGTERM; everything is flushed, and the same call resumes it.
        UserError: the request is wrong or the lab cannot be used; or, after the rest was trained, a cohort is damaged.
        DiskError: the disk refused a flush; earlier flushes are intact.
    """
    wanted = list(dict.fromkeys([specs] if isinstance(specs, RunSpec) else specs))
    if not wanted:
        raise UserError("there are no runs to train: the list of specs is empty")
    on = check_execution(device, workers, threads, flush_seconds, engine, places)
    _check_wanted(wanted, on, engine, metrics or {})
    lab = (lab if isinstance(lab, Lab) else Lab(lab)).create()
    with lab.planning():
        work = arrange(wanted, lab, on, workers, threads, engine, metrics or {}, say)
        begun, taken = _begin(lab, work.new, on, work.threads, engine, metrics or (), say)
    how = Execution(on, flush_seconds, metrics or {}, places, places_of(wanted))
    _finish([*work.going_on, *begun], work.workers, how, watch, [*work.damaged, *taken])
    return lab.records(spec.id for spec in wanted)


def _check_wanted(
    specs: Sequence[RunSpec], device: torch.device, engine: str | None, metrics: Mapping[str, Metric]
) -> None:
    """Raise :class:`UserError` for runs that cannot be trained, before anything is written."""
    check_precision(specs, device, engine)
    check_parts(specs, device)
    check_metrics(metrics, specs, device)


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
        choice = choose_engine(cohort.shared, cohort.seconds, device, engine)
        folder = lab.cohort(cohort.id)
        try:
            folder.check_free()
        except LabError as error:
            taken.append(error)
            continue
        folder.create(list(cohort.members), threads, metrics, choice.engine, choice.why)
        folders.append(folder)
        lines[f"{cohort.describe()}: {choice.engine} engine ({choice.why})"] = None
        lines |= dict.fromkeys(cohort.shared.model_part.warnings(cohort.shared.precision))
        if cohort.shared.precision == "tf32":
            lines["warning: whether tf32 changes when models generalise has not been measured"] = None
        lines |= dict.fromkeys([*without_effect(cohort), *slow_evaluations(cohort)])
    for line in lines:
        say(line)
    return folders, taken


def resume(
    lab: str | Path | Lab = "lab",
    *,
    device: str | None = None,
    workers: int | None = None,
    places: int | None = None,
    flush_seconds: float = 20.0,
    metrics: Mapping[str, Metric] | None = None,
    watch: Callable[[Snapshot], None] = lambda snapshot: None,
) -> Records:
    """Resume every run of a lab that is not finished; arguments as for :func:`train`.

    Cohorts whose ``cohort.json`` or ``status.json`` is damaged are left alone; so are those of parts from outside of
    shoal whose code has changed, about which a :class:`UserError` is raised when the rest is trained.
    """
    lab = lab if isinstance(lab, Lab) else Lab(lab)
    on = check_execution(device, workers, None, flush_seconds, places=places)
    folders, changed = _unchanged(lab.unfinished())
    if folders:
        lab.create()
    runs = [member["run"] for folder in folders for member in folder.manifest()["members"]]
    workers = workers or choose_workers(folders, [], on, metrics or {})
    _finish(folders, workers, Execution(on, flush_seconds, metrics or {}, places), watch, changed)
    return lab.records(runs)


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


def check_execution(
    device: str | None,
    workers: int | None,
    threads: int | None,
    flush_seconds: float,
    engine: str | None = None,
    places: int | None = None,
) -> torch.device:
    """Device of the training, after a check of all arguments about execution.

    Raises:
        UserError: an argument is outside its range.
    """
    if workers is not None and workers < 1:
        raise UserError(f"workers must be an integer of at least 1, got {workers}")
    if threads is not None and not 1 <= threads <= cores():
        raise UserError(f"threads must be an integer from 1 to the {cores()} cores of this machine, got {threads}")
    if engine is not None and engine not in ENGINES:
        raise UserError(f"engine must be one of {' '.join(ENGINES)}, got {engine!r}{nearest(engine, ENGINES)}")
    if places is not None and places < 1:
        raise UserError(f"places must be an integer of at least 1, got {places}")
    if not 0 < flush_seconds <= 30:
        raise UserError(f"flush_seconds must be above 0 and at most 30, got {flush_seconds}")
    return choose_device(device)


def check_precision(specs: Iterable[RunSpec], device: torch.device, engine: str | None) -> None:
    """Raise :class:`UserError` for a precision that the device or the engine does not support."""
    lower = [spec.precision for spec in specs if spec.precision != "float32"]
    if engine == "plain" and lower:
        raise UserError(f"engine plain computes in float32, got precision={lower[0]}")
    if device.type != "cuda" and "tf32" in lower:
        raise UserError(f"precision tf32 needs device cuda, got {device.type}; float32 and bfloat16 run everywhere")


def check_metrics(metrics: Mapping[str, Metric], specs: Sequence[RunSpec], device: torch.device) -> None:
    """Raise :class:`UserError` for a name that is taken, or a metric that does not work on the models of these runs.

    The check precedes any write: a cohort records to its end the metrics that it was begun with.
    """
    for name in metrics:
        if name in ALWAYS or name.startswith(tuple(f"{split}_" for split in SPLITS)):
            raise UserError(f"metric name {name!r} is taken: train_…, valid_… and {', '.join(ALWAYS)}")
    for cohort in plan(specs) if metrics else []:
        model = build_model(cohort.shared).to(device)
        trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        parameters = {name: p.detach().unsqueeze(0) for name, p in trained.items()}  # (1, *shape) each
        for name, metric in metrics.items():
            measure(name, metric, parameters)


def choose_device(name: str | None) -> torch.device:
    """Device of this name, or the best available one.

    Raises:
        UserError: this machine has no such device.
    """
    available = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    if name is None:
        return torch.device(available[-1])
    if name not in available:
        raise UserError(f"device must be {' or '.join(available)} on this machine, got {name!r}")
    return torch.device(name)


def _finish(
    folders: list[CohortFolder],
    workers: int,
    execution: Execution,
    watch: Callable[[Snapshot], None],
    damaged: Sequence[LabError] = (),
) -> None:
    """Train these cohorts, and raise the errors of others after that."""
    if not execute(folders, workers=workers, execution=execution, watch=watch, failures=damaged):
        raise Interrupted
