"""Train runs into a lab: what is there is not trained again, what was begun goes on."""

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from pathlib import Path

import torch

from shoal.errors import LabError, UserError
from shoal.fast.engine import choose_engine
from shoal.lab.cohort import CohortFolder
from shoal.lab.lab import Lab
from shoal.lab.records import Records
from shoal.spec import RunSpec
from shoal.spec.fields import ROUNDING
from shoal.tasks.build import count_examples
from shoal.training.continuation import places_of
from shoal.training.executor import Execution, cores, execute, threads_per_worker
from shoal.training.memory import check_memory
from shoal.training.plan import Cohort, plan, spread
from shoal.training.preflight import check_parts
from shoal.training.progress import watching
from shoal.training.requests import check_execution, check_metrics, check_precision, check_specs, check_told
from shoal.training.snapshot import Snapshot
from shoal.training.step import Metric

WORTH_DIVIDING = 20.0  # seconds of work for one core from which a cohort is divided between several processes


class Interrupted(KeyboardInterrupt):
    """Training was stopped by a signal, after everything was flushed."""


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
    watch: Callable[[Snapshot], None] | None = None,
    say: Callable[[str], None] = lambda line: None,
    progress: bool | None = None,
) -> Records:
    """Train runs side by side and return what the lab holds of them.

    Runs that the lab holds are not trained again; runs that were interrupted go on from their last flush, together with
    the cohort they were in. The rest are grouped into cohorts by the shapes of their tensors, and a cohort that takes
    long is divided between the cores.

    Args:
        specs: the runs, or one.
        lab: the folder to keep them in; made if it is not there.
        device: ``cpu`` or ``cuda``; CUDA where there is one, when not given.
        workers: cohorts to train at the same time, each in a process of its own; as many as cores, when not given.
        threads: threads per new cohort; the cores divided by the workers, at most ``OMP_NUM_THREADS`` where that is
            set, when not given.
        engine: how new cohorts are computed, one of ``compiled``, ``prefixes`` and ``plain`` (see
            :mod:`shoal.fast.engine`); the fastest that covers them and is worth its start, when not given.
        places: runs of a cohort to train side by side; as many as fit into half of the free memory, when not given.
        flush_seconds: longest time between two flushes, at most 30.
        metrics: further quantities to record at every evaluation of new runs, each a function of one member's
            parameters (by name) that returns a scalar tensor. Runs that the lab holds must have been trained with them;
            by name: a lab cannot tell one function from another that is registered under the same name later.
        watch: is told where each cohort stands; nothing is shown then besides.
        say: is told how new cohorts are computed, and why so, and of each cohort of which the lab cannot tell what runs
            it holds: unless the very same cohort is asked for, which is refused, they count as new.
        progress: show one line that is written anew. None: in a notebook and on a terminal, nowhere else; True: in a
            file or a pipe too, line by line; False: never.

    Raises:
        Interrupted: stopped by Ctrl-C or SIGTERM; everything is flushed, and the same call goes on.
        UserError: the request is wrong or the lab cannot be used; after the rest was trained, a cohort is damaged.
        DiskError: the disk refused a flush; what was flushed before is intact.
    """
    wanted = check_specs(specs)
    check_told(metrics, watch, say, progress)
    on = check_execution(device, workers, threads, flush_seconds, engine, places)
    _check_wanted(wanted, on, engine, metrics or {})
    lab = (lab if isinstance(lab, Lab) else Lab(lab)).create()
    folders, failures, workers = _planned(lab, wanted, on, workers, threads, engine, metrics or {}, say)
    how = Execution(on, flush_seconds, metrics or {}, places, places_of(wanted))
    with watching(watch, progress, _members(folders), len(wanted)) as told:
        _finish(folders, workers, how, told, failures)
    return lab.records(spec.id for spec in wanted)


def _planned(
    lab: Lab,
    wanted: Sequence[RunSpec],
    device: torch.device,
    workers: int | None,
    threads: int | None,
    engine: str | None,
    metrics: Mapping[str, Metric],
    say: Callable[[str], None],
) -> tuple[list[CohortFolder], list[LabError], int]:
    """Write down who trains what: the cohorts with steps to train, what is wrong with others, and how many at a time."""
    with lab.planning():
        held = _held(lab, wanted, say)
        _check_held(held, metrics)
        folders, damaged = unfinished(held.values())
        cohorts = _new(wanted, held, device, engine)
        workers = workers or choose_workers(folders, cohorts, device, metrics)
        threads = threads or threads_per_worker(workers)
        begun, taken = _begin(lab, _divided(cohorts, workers), device, threads, engine, metrics, say)
    return [*folders, *begun], [*damaged, *taken], workers


def _check_wanted(
    specs: Sequence[RunSpec], device: torch.device, engine: str | None, metrics: Mapping[str, Metric]
) -> None:
    """Raise :class:`UserError` for what cannot be trained, before anything is written down."""
    check_precision(specs, device, engine)
    check_parts(specs, device)
    check_metrics(metrics, specs, device)


def _new(specs: Sequence[RunSpec], held: Container[str], device: torch.device, engine: str | None) -> list[Cohort]:
    """The other runs as cohorts; :class:`UserError` for a model that cannot fit."""
    cohorts = plan(spec for spec in specs if spec.id not in held)
    check_memory((cohort.shared for cohort in cohorts), device, engine)
    return cohorts


def _members(folders: Iterable[CohortFolder]) -> int:
    """How many runs these cohorts have."""
    return sum(len(folder.manifest()["members"]) for folder in folders)


def _held(lab: Lab, specs: Sequence[RunSpec], say: Callable[[str], None]) -> dict[str, CohortFolder]:
    """The folders of those runs that the lab holds."""
    found = lab.survey()
    for line in found.unknown:
        say(f"warning: {line}; such of them as are asked for are trained again")
    for line in found.copies:
        say(f"warning: {line}")
    return {spec.id: found.index[spec.id] for spec in specs if spec.id in found.index}


def unfinished(folders: Iterable[CohortFolder]) -> tuple[list[CohortFolder], list[LabError]]:
    """Those with members that still have steps to train, each once, and what is wrong with those that do not say."""
    found, damaged = [], []
    for folder in {folder.path: folder for folder in folders}.values():
        try:
            if not folder.is_finished():
                found.append(folder)
        except LabError as error:
            damaged.append(error)
    return found, damaged


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
    """In pieces for the workers, where they take long enough; the longest work first."""
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
    """Write new cohorts down, with how each will be computed; what is in the way of those that cannot be."""
    folders: list[CohortFolder] = []
    taken: list[LabError] = []
    said: dict[str, None] = {}
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
        said[f"{cohort.describe()}: {choice.engine} engine ({choice.why})"] = None
        said |= dict.fromkeys(cohort.shared.model_part.warnings(cohort.shared.precision))
        if cohort.shared.precision == "tf32":
            said["warning: whether tf32 changes when models generalise has not been measured"] = None
        said |= dict.fromkeys([*_without_effect(cohort), *_slow_evaluations(cohort)])
    for line in said:
        say(line)
    return folders, taken


def _without_effect(cohort: Cohort) -> list[str]:
    """Lines about weight decays whose step is lost in rounding, as it is in ``torch.optim``."""
    decoupled = cohort.shared.rule.is_decoupled
    pairs = dict.fromkeys((spec.lr, spec.weight_decay) for spec in cohort.members if decoupled)
    return [
        f"warning: weight_decay {decay:g} at lr {lr:g} has no effect: in float32 1 - {lr * decay:.2g} is 1"
        for lr, decay in pairs
        if decay > 0 and lr * decay <= ROUNDING
    ]


def _slow_evaluations(cohort: Cohort) -> list[str]:
    """A line where evaluations would take longer than training, and minutes."""
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
    watch: Callable[[Snapshot], None] | None = None,
    progress: bool | None = None,
) -> Records:
    """Go on with every run of a lab that is not finished; arguments as for :func:`train`.

    Cohorts whose ``cohort.json`` or ``status.json`` is damaged are left alone; so are those of parts from outside of
    shoal whose code has changed, of which a :class:`UserError` tells when the rest is trained.
    """
    lab = lab if isinstance(lab, Lab) else Lab(lab)
    check_told(metrics, watch, progress=progress)
    on = check_execution(device, workers, None, flush_seconds, places=places)
    folders, changed = _unchanged(lab.unfinished())
    if folders:
        lab.create()
    runs = [member["run"] for folder in folders for member in folder.manifest()["members"]]
    workers = workers or choose_workers(folders, [], on, metrics or {})
    with watching(watch, progress, len(runs), len(runs)) as told:
        _finish(folders, workers, Execution(on, flush_seconds, metrics or {}, places), told, changed)
    return lab.records(runs)


def _unchanged(folders: Iterable[CohortFolder]) -> tuple[list[CohortFolder], list[LabError]]:
    """Those whose parts from outside of shoal are what they were begun with, and what is wrong with the others."""
    found, changed = [], []
    for folder in folders:
        try:
            folder.check_sources()
            found.append(folder)
        except LabError as error:
            changed.append(error)
    return found, changed


def choose_workers(
    begun: Sequence[CohortFolder], new: Sequence[Cohort], device: torch.device, metrics: Mapping[str, Metric]
) -> int:
    """One per core, but one in all where a GPU is shared or a metric cannot be sent to another process.

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


def _finish(
    folders: list[CohortFolder],
    workers: int,
    execution: Execution,
    watch: Callable[[Snapshot], None],
    damaged: Sequence[LabError] = (),
) -> None:
    """Train these, and only then say what is wrong with others."""
    if not execute(folders, workers=workers, execution=execution, watch=watch, failures=damaged):
        raise Interrupted("training was stopped; everything up to this step is kept, and the same call goes on from it")
