"""Checks of a request to train, before anything is written: a wrong value or a wrong type is an error of one line."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from shoal.errors import UserError, nearest
from shoal.fast.engine import ENGINES, engine_kernels
from shoal.fast.scorer import refusal
from shoal.lab.frames import ALWAYS
from shoal.measures import SPLITS
from shoal.spec import RunSpec
from shoal.tasks.build import initial_model
from shoal.training.engines import check_engine
from shoal.training.executor import cores
from shoal.training.plan import plan
from shoal.training.progress import progress_display
from shoal.training.step import Metric, measure


def check_specs(specs: Any) -> list[RunSpec]:
    """Runs of a request, each once.

    Raises:
        UserError: it is neither a :class:`RunSpec` nor several, or there is none.
    """
    if isinstance(specs, RunSpec):
        return [specs]
    if isinstance(specs, str | Mapping) or not isinstance(specs, Iterable):
        raise UserError(f"specs must be a RunSpec or several, as shoal.grid makes them, got {specs!r}")
    wanted = list(specs)
    for spec in wanted:
        if not isinstance(spec, RunSpec):
            raise UserError(f"specs must be a RunSpec or several, as shoal.grid makes them, got {spec!r} among them")
    if not wanted:
        raise UserError("there are no runs to train: the list of specs is empty")
    return list(dict.fromkeys(wanted))


def check_told(metrics: Any, watch: Any, say: Any = print, progress: Any = None) -> None:
    """Raise :class:`UserError` for metrics or callbacks that are no functions, or a ``progress`` that is no boolean."""
    progress_display(progress)
    if metrics is not None and not isinstance(metrics, Mapping):
        raise UserError(f"metrics must be functions by name, such as {{'norm': function}}, got {metrics!r}")
    for name, metric in (metrics or {}).items():
        if not isinstance(name, str) or not name.isidentifier():
            raise UserError(f"the name of a metric must be a word, got {name!r}")
        if not callable(metric):
            raise UserError(f"metric {name!r} must be a function of a member's parameters, got {metric!r}")
    for name, function in (("watch", watch), ("say", say)):
        if not (callable(function) or (name == "watch" and function is None)):
            raise UserError(f"{name} must be a function, got {function!r}")


def _is_count(value: Any, least: int = 1, most: float = float("inf")) -> bool:
    """Return True if a value is None or an integer within the bounds."""
    return value is None or (isinstance(value, int) and not isinstance(value, bool) and least <= value <= most)


def check_execution(
    device: str | None,
    workers: int | None,
    threads: int | None,
    flush_seconds: float,
    engine: str | None = None,
    places: int | None = None,
    until: int | None = None,
) -> torch.device:
    """Device of the training, after a check of all arguments about execution.

    Raises:
        UserError: an argument is outside its range, or of another type.
    """
    if not _is_count(workers):
        raise UserError(f"workers must be an integer of at least 1, got {workers!r}")
    if not _is_count(threads, most=cores()):
        raise UserError(f"threads must be an integer from 1 to the {cores()} cores of this machine, got {threads!r}")
    if engine is not None and engine not in ENGINES:
        raise UserError(f"engine must be one of {' '.join(ENGINES)}, got {engine!r}{nearest(engine, ENGINES)}")
    if not _is_count(places):
        raise UserError(f"places must be an integer of at least 1, got {places!r}")
    if not _is_count(until):
        raise UserError(f"until must be a step of at least 1, got {until!r}")
    if isinstance(flush_seconds, bool) or not isinstance(flush_seconds, int | float) or not 0 < flush_seconds <= 30:
        raise UserError(f"flush_seconds must be above 0 and at most 30, got {flush_seconds!r}")
    return choose_device(device)


def check_precision(specs: Iterable[RunSpec], device: torch.device, engine: str | None) -> None:
    """Raise :class:`UserError` for a precision that the device or the engine does not support."""
    specs = list(specs)
    for model in dict.fromkeys(spec.model for spec in specs):
        check_engine(model, engine)
    lower = [spec.precision for spec in specs if spec.precision != "float32"]
    if engine == "plain" and lower:
        raise UserError(f"engine plain computes in float32, got precision={lower[0]}")
    if device.type != "cuda" and "tf32" in lower:
        raise UserError(f"precision tf32 needs device cuda, got {device.type}, which has float32 and bfloat16")
    for spec in specs:
        if spec.precision == "bfloat16" and refusal(spec) is not None:
            kernels = engine_kernels("windows", device)
            if kernels.library_for is None:
                why = f"needs engine windows for task {spec.task!r} and model {spec.model!r}: {kernels.note}"
                raise UserError(f"precision bfloat16 {why}")


def check_metrics(metrics: Mapping[str, Metric], specs: Sequence[RunSpec], device: torch.device) -> None:
    """Raise :class:`UserError` for a name that is taken, or a metric that does not work on the models of these runs.

    The check precedes any write: a cohort records to its end the metrics that it was begun with.
    """
    for name in metrics:
        if name in ALWAYS or name.startswith(tuple(f"{split}_" for split in SPLITS)):
            raise UserError(f"metric name {name!r} is taken: train_…, valid_… and {', '.join(ALWAYS)}")
    for cohort in plan(specs) if metrics else []:
        model = initial_model(cohort.shared).to(device)
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
