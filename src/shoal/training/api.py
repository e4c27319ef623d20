"""Train runs into a lab: what is there is not trained again, what was begun goes on."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import torch

from shoal.errors import UserError
from shoal.lab.cohort import CohortFolder
from shoal.lab.frames import EMPTY
from shoal.lab.lab import Lab
from shoal.lab.records import Records
from shoal.spec import RunSpec
from shoal.training.executor import cores, execute
from shoal.training.loop import Snapshot
from shoal.training.plan import plan
from shoal.training.step import Metric


class Interrupted(KeyboardInterrupt):
    """Training was stopped by a signal, after everything was flushed."""


def train(
    specs: Iterable[RunSpec],
    lab: str | Path | Lab = "lab",
    *,
    device: str | None = None,
    workers: int | None = None,
    threads: int | None = None,
    flush_seconds: float = 20.0,
    metrics: Mapping[str, Metric] | None = None,
    watch: Callable[[Snapshot], None] = lambda snapshot: None,
) -> Records:
    """Train runs side by side and return what the lab holds of them.

    Runs that the lab holds are not trained again; runs that were interrupted go on from their last flush, together with
    the cohort they were in. The rest are grouped into cohorts by the shapes of their tensors.

    Args:
        specs: the runs.
        lab: the folder to keep them in; made if it is not there.
        device: ``cpu`` or ``cuda``; CUDA where there is one, when not given.
        workers: cohorts to train at the same time, each in a process of its own; as many as cores, when not given.
        threads: threads per new cohort; the cores divided by the workers, when not given.
        flush_seconds: longest time between two flushes, at most 30.
        metrics: further quantities to record at every evaluation of new runs, each a function of one member's
            parameters (by name) that returns a scalar. Runs that the lab holds keep what was recorded of them.
        watch: is told where each cohort stands.

    Raises:
        Interrupted: stopped by Ctrl-C or SIGTERM; everything is flushed, and the same call goes on.
        UserError: the lab cannot be used, or a checkpoint in it is damaged.
        DiskError: the disk refused a flush; what was flushed before is intact.
    """
    wanted = list(dict.fromkeys(specs))
    if not wanted:
        raise UserError("there are no runs to train: the list of specs is empty")
    on = check_execution(device, workers, threads, flush_seconds)
    check_metrics(metrics or {})
    lab = (lab if isinstance(lab, Lab) else Lab(lab)).create()
    with lab.planning():
        index = lab.index()
        begun = {index[spec.id].path: index[spec.id] for spec in wanted if spec.id in index}
        folders = [folder for folder in begun.values() if not folder.is_finished()]
        cohorts = plan(spec for spec in wanted if spec.id not in index)
        workers = workers or choose_workers(len(folders) + len(cohorts), on, metrics or {})
        for cohort in cohorts:
            folder = lab.cohort(cohort.id)
            folder.create(list(cohort.members), threads or max(1, cores() // workers), metrics or ())
            folders.append(folder)
    _finish(folders, workers, on, flush_seconds, metrics or {}, watch)
    return lab.records(spec.id for spec in wanted)


def resume(
    lab: str | Path | Lab = "lab",
    *,
    device: str | None = None,
    workers: int | None = None,
    flush_seconds: float = 20.0,
    metrics: Mapping[str, Metric] | None = None,
    watch: Callable[[Snapshot], None] = lambda snapshot: None,
) -> Records:
    """Go on with every run of a lab that is not finished; arguments as for :func:`train`."""
    lab = lab if isinstance(lab, Lab) else Lab(lab)
    on = check_execution(device, workers, None, flush_seconds)
    folders = lab.unfinished()
    runs = [member["run"] for folder in folders for member in folder.manifest()["members"]]
    workers = workers or choose_workers(len(folders), on, metrics or {})
    _finish(folders, workers, on, flush_seconds, metrics or {}, watch)
    return lab.records(runs)


def check_execution(device: str | None, workers: int | None, threads: int | None, flush_seconds: float) -> torch.device:
    """The device, when everything about how to train is allowed.

    Raises:
        UserError: it is not.
    """
    if workers is not None and workers < 1:
        raise UserError(f"workers must be an integer of at least 1, got {workers}")
    if threads is not None and not 1 <= threads <= cores():
        raise UserError(f"threads must be an integer from 1 to the {cores()} cores of this machine, got {threads}")
    if not 0 < flush_seconds <= 30:
        raise UserError(f"flush_seconds must be above 0 and at most 30, got {flush_seconds}")
    return choose_device(device)


def check_metrics(metrics: Mapping[str, Metric]) -> None:
    """Raise :class:`UserError` for a name that is taken."""
    for name in metrics:
        if name in EMPTY or name.startswith(("train_", "valid_")):
            raise UserError(
                f"metric name {name!r} is taken: train_…, valid_… and {', '.join(list(EMPTY)[:2])}, l2_norm"
            )


def choose_workers(cohorts: int, device: torch.device, metrics: Mapping[str, Metric]) -> int:
    """One per core, but one in all where a card is shared or a metric cannot be sent to another process."""
    if device.type == "cuda" or not all(_can_be_sent(metric) for metric in metrics.values()):
        return 1
    return min(cores(), max(1, cohorts))


def _can_be_sent(metric: Metric) -> bool:
    return getattr(metric, "__module__", "__main__") != "__main__" and "<" not in getattr(metric, "__qualname__", "<")


def choose_device(name: str | None) -> torch.device:
    """The device of this name, or the best there is.

    Raises:
        UserError: no such device here.
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
    device: torch.device,
    flush_seconds: float,
    metrics: Mapping[str, Metric],
    watch: Callable[[Snapshot], None],
) -> None:
    done = execute(folders, workers=workers, device=device, flush_seconds=flush_seconds, metrics=metrics, watch=watch)
    if not done:
        raise Interrupted
