"""What computes a cohort that goes on: as before where this machine can, and a warning where it cannot."""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from shoal.errors import LabError, OtherDataError, UserError
from shoal.fast.engine import available, uses_kernels
from shoal.fast.fused import fused_kernels
from shoal.lab.cohort import CohortFolder
from shoal.registry import TASKS
from shoal.spec import RunSpec
from shoal.tasks.build import counts_of

MOVED = "where it was moved, ask for the same runs with shoal train … {flags}, which goes on with them"

Places = Mapping[str, Mapping[str, Any]]  # settings that say where data lie, by what these are


def places_of(specs: Iterable[RunSpec]) -> Places:
    """Where the data of runs lie, as it was asked for."""
    return dict(place for spec in specs if (place := spec.task_part.place()) is not None)


def found_again(specs: Sequence[RunSpec], places: Places) -> list[RunSpec]:
    """The same runs, whose data are looked for where they were last said to lie."""
    out = []
    for spec in specs:
        place = spec.task_part.place()
        moved = {} if place is None else places.get(place[0], {})
        found = RunSpec.restored({**spec.dump(), **moved}) if moved else spec
        # a task from outside, all of whose settings count, is another where its data are said to lie elsewhere
        out.append(found if found.id == spec.id else spec)
    return out


def check_data(folder: CohortFolder, spec: RunSpec, way_out: str, is_told: bool = False) -> None:
    """Hold the data of a cohort's run to what it was begun with, before anything is changed.

    Args:
        folder: the cohort.
        spec: the run.
        way_out: what to do where its data have been moved; ``{flags}`` in it are those that say where data lie.
        is_told: it was said where they lie, which is no way out where others lie there.

    Raises:
        UserError: they are not there, or are others.
        LabError: the task makes something else of them than it keeps.
    """
    try:
        counts_of(spec)
        folder.check_kept(spec)
    except LabError:
        raise
    except UserError as error:
        place = spec.task_part.place()
        if place is None or TASKS.is_outside(spec.task):  # whose place makes another run, see found_again
            raise
        flags = " ".join(f"--{name.replace('_', '-')} NEW" for name in place[1])
        if isinstance(error, OtherDataError) and is_told:
            raise
        found = error.found if isinstance(error, OtherDataError) else error
        raise UserError(f"{found}; {way_out.format(flags=flags)}") from None


def engine_of(folder: CohortFolder, device: torch.device) -> str:
    """The engine that the cohort was begun with, where this machine has it."""
    wanted = str(folder.manifest().get("engine", "plain"))
    engine, why = available(wanted, device)
    if engine != wanted:
        warnings.warn(
            f"cohort {folder.id} was begun with engine {wanted} and goes on with {engine} ({why}): "
            "the last bits of what follows will differ",
            stacklevel=2,
        )
    return engine


def kernels_of(
    folder: CohortFolder, sessions: Iterable[Mapping[str, Any]], engine: str, spec: RunSpec, device: torch.device
) -> dict[str, str]:
    """``kernels``, those of this machine, for the record, which says what those of the sessions before were.

    Nothing where kernels compute nothing of the cohort.
    """
    if not uses_kernels(engine, spec, device):
        return {}
    key = fused_kernels(device).key
    if any(session.get("kernels", key) != key for session in sessions):
        warnings.warn(
            f"cohort {folder.id} goes on with kernels compiled otherwise than before (another or no compiler, another "
            "device or version of shoal): the last bits of what follows will differ",
            stacklevel=2,
        )
    return {"kernels": key}
