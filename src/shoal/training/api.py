"""Training of runs into a lab: finished runs are not trained again, interrupted ones are resumed."""

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
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
from shoal.spec.fields import ROUNDING
from shoal.tasks.build import build_model, count_examples
from shoal.training.continuation import places_of
from shoal.training.executor import Execution, cores, execute, threads_per_worker
from shoal.training.memory import check_memory
from shoal.training.plan import Cohort, plan, spread
from shoal.training.preflight import check_parts
from shoal.training.snapshot import Snapshot
from shoal.training.step import Metric, measure

WORTH_DIVIDING = 20.0  # seconds of work for one core from which cohorts are divided between several processes


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
        held = _held(lab, wanted, say)
        _check_held(held, metrics or {})
        folders, damaged = unfinished(held.values())
        cohorts = _new(wanted, held, on, engine)
        workers = workers or choose_workers(folders, cohorts, on, metrics or {})
        threads = threads or threads_per_worker(workers)
        begun, taken = _begin(lab, _divided(cohorts, workers), on, threads, engine, metrics or (), say)
    how = Execution(on, flush_seconds, metrics or {}, places, places_of(wanted))
    _finish([*folders, *begun], workers, how, watch, [*damaged, *taken])
    return lab.records(spec.id for spec in wanted)


def _check_wanted(
    specs: Sequence[RunSpec], device: torch.device, engine: str | None, metrics: Mapping[str, Metric]
) -> None:
    """Raise :class:`UserError` for runs that cannot be trained, before anything is written."""
    check_precision(specs, device, engine)
    check_parts(specs, device)
    check_metrics(metrics, specs, device)


def _new(specs: Sequence[RunSpec], held: Container[str], device: torch.device, engine: str | None) -> list[Cohort]:
    """Cohorts of the runs that the lab does not hold; :class:`UserError` for a model that cannot fit."""
    cohorts = plan(spec for spec in specs if spec.id not in held)
    check_memory((cohort.shared for cohort in cohorts), device, engine)
    return cohorts


def _held(lab: Lab, specs: Sequence[RunSpec], say: Callable[[str], None]) -> dict[str, CohortFolder]:
    """Folders of those runs that the lab holds."""
    survey = lab.survey()
    for line in survey.unknown:
        say(f"warning: {line}; such of them as are asked for are trained again")
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


def _divided(cohorts: Sequence[Cohort], workers: int) -> list[Cohort]:
    """Cohorts divided for the workers, where they take long enough; the longest work first."""
    worth = sum(cohort.seconds for cohort in cohorts) > WORTH_DIVIDING
    return spread(cohorts, workers if worth else 1)


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
        lines |= dict.fromkeys([*_without_effect(cohort), *_slow_evaluations(cohort)])
    for line in lines:
        say(line)
    return folders, taken


def _without_effect(cohort: Cohort) -> list[str]:
    """Warnings about weight decays whose step is lost in rounding, as it is in ``torch.optim``."""
    decoupled = cohort.shared.rule.is_decoupled
    pairs = dict.fromkeys((spec.lr, spec.weight_decay) for spec in cohort.members if decoupled)
    return [
        f"warning: weight_decay {decay:g} at lr {lr:g} has no effect: in float32 1 - {lr * decay:.2g} is 1"
        for lr, decay in pairs
        if decay > 0 and lr * decay <= ROUNDING
    ]


def _slow_evaluations(cohort: Cohort) -> list[str]:
    """Warning where evaluations would take longer than training, and minutes."""
    each, spec = cohort.evaluation_seconds, cohort.shared
    if each * cohort.evaluations <= max(cohort.seconds, 60.0):
        return []
    large = ", ".join(f"{name} {getattr(spec, name)}" for name in spec.task_part.sizes_named()[:1])
    things = spec.task_part.measures().things
    return [
        f"evaluations of {cohort.describe()}{large and f', {large}'}, take longer than its steps: about {each:,.0f} s "
        f"of one core, {cohort.evaluations:,} times, for {count_examples(spec)[1]:,} {things} per run; "
        "eval_first and eval_period say when"
    ]


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
