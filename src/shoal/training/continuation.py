"""Data, engine and kernels of a cohort that is resumed: as before where possible, else with a warning."""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from shoal.errors import LabError, OtherDataError, UserError
from shoal.fast import matmul
from shoal.fast.engine import available, engine_kernels, uses_kernels
from shoal.fast.multiplication import available_products
from shoal.lab.cohort import CohortFolder
from shoal.registry import TASKS
from shoal.spec import RunSpec
from shoal.tasks.build import counts_of

MOVED = "if it was moved, ask for the same runs with shoal train … {flags}, which resumes them"

Places = Mapping[str, Mapping[str, Any]]  # settings that hold paths of data, by the data's identity


def places_of(specs: Iterable[RunSpec]) -> Places:
    """Paths of the data of runs, as their specs give them."""
    return dict(place for spec in specs if (place := spec.task_part.place()) is not None)


def found_again(specs: Sequence[RunSpec], places: Places) -> list[RunSpec]:
    """Specs of the same runs with the current paths of their data."""
    out = []
    for spec in specs:
        place = spec.task_part.place()
        moved = {} if place is None else places.get(place[0], {})
        moved_spec = RunSpec.restored({**spec.dump(), **moved}) if moved else spec
        # a task from outside, all of whose settings count into the id, is another one with other paths
        out.append(moved_spec if moved_spec.id == spec.id else spec)
    return out


def check_data(folder: CohortFolder, spec: RunSpec, way_out: str, is_told: bool = False) -> None:
    """Check that the data of a cohort's run are those that it was begun with, before anything is changed.

    Args:
        folder: the cohort.
        spec: the run.
        way_out: advice for data that have been moved; ``{flags}`` in it are the flags of their paths.
        is_told: true where current paths were given, so that the advice does not help against other data there.

    Raises:
        UserError: the data are missing, or others.
        LabError: the task's record of them differs from the recorded one.
    """
    try:
        counts_of(spec)
        folder.check_kept(spec)
    except LabError:
        raise
    except UserError as error:
        place = spec.task_part.place()
        if place is None or TASKS.is_outside(spec.task):  # whose paths count into the run's id, see found_again
            raise
        flags = " ".join(f"--{name.replace('_', '-')} NEW" for name in place[1])
        if isinstance(error, OtherDataError) and is_told:
            raise
        reason = error.found if isinstance(error, OtherDataError) else error
        raise UserError(f"{reason}; {way_out.format(flags=flags)}") from None


def engine_of(folder: CohortFolder, device: torch.device) -> str:
    """Engine that the cohort was begun with, or a simpler one where this machine lacks it."""
    wanted = str(folder.manifest().get("engine", "plain"))
    engine, why = available(wanted, device)
    if engine != wanted:
        warnings.warn(
            f"cohort {folder.id} was begun with engine {wanted} and goes on with {engine} ({why}): "
            "the last bits of what follows will differ",
            stacklevel=2,
        )
    return engine


def products_of(folder: CohortFolder, device: torch.device) -> str:
    """Library of matrix products that the cohort was begun with, or PyTorch's where this device has no other."""
    manifest = folder.manifest()
    wanted = str(manifest.get("products", "torch"))
    products = available_products(wanted, device, precision_of(manifest))
    if products != wanted:
        warnings.warn(
            f"cohort {folder.id} was begun with matrix products of shoal's own, which are not there for this device, "
            "and goes on with PyTorch's: the last bits of what follows will differ",
            stacklevel=2,
        )
    return products


def precision_of(manifest: Mapping[str, Any]) -> str:
    """Precision of a cohort's products, which is that of each member."""
    return str(manifest["members"][0]["spec"].get("precision", "float32"))


def kernels_of(
    folder: CohortFolder,
    sessions: Iterable[Mapping[str, Any]],
    engine: str,
    products: str,
    spec: RunSpec,
    device: torch.device,
) -> dict[str, str]:
    """Record entry ``kernels`` of this machine, those of products of our own included, compared with earlier sessions.

    Empty where kernels compute nothing of the cohort.
    """
    if not uses_kernels(engine, spec, device):
        return {}
    of_products = [matmul.library(spec.precision).key] if products == "own" else []
    key = " ".join([engine_kernels(engine, device).key, *of_products])
    if any(session.get("kernels", key) != key for session in sessions):
        warnings.warn(
            f"cohort {folder.id} goes on with kernels compiled otherwise than before (another or no compiler, another "
            "device or version of shoal): the last bits of what follows will differ",
            stacklevel=2,
        )
    return {"kernels": key}
