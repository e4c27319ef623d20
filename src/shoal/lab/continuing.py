"""Checks that a cohort can continue from its checkpoint: only from one that agrees with all its other files."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from shoal.errors import LabError
from shoal.lab.cohort import CohortFolder
from shoal.measures import Measures

if TYPE_CHECKING:
    from torch import Tensor

Counted = Sequence[str] | int | None  # files of metrics, as CohortFolder.load_checkpoint gives them; None without one


def roll_back(folder: CohortFolder, counted: Counted) -> list[str]:
    """Make the files of metrics those that the checkpoint counts; a file of a killed flush is set aside.

    Returns:
        Their names.

    Raises:
        LabError: one of them is missing or damaged, or more was measured than the checkpoint knows of, or there should
            be one. Nothing is changed then.
    """
    with folder.with_way_out():
        check_going_on(folder, folder.status(), counted)
        names = folder.parts.check_counted(counted or [])
    folder.parts.set_aside(names)
    return names


def check_going_on(folder: CohortFolder, status: Mapping[str, Any], counted: Counted) -> None:
    """Raise :class:`LabError` where a status, not of a finished cohort, is ahead of the checkpoint."""
    listed = status["metrics"] or []
    if counted is None:
        begun = listed or any(member["step"] > 0 for member in status["members"].values())
        if begun or len(folder.parts.there()) > 1:
            raise LabError(f"{folder.checkpoint_path} is missing, without which these runs cannot go on")
    elif not isinstance(counted, int):
        later = [name for name in listed if name not in counted]
        if later:
            raise LabError(f"{folder.checkpoint_path} is older than status.json: it does not count {later[0]}")


def check_stand(
    folder: CohortFolder, state: "Mapping[str, Tensor]", where: Mapping[str, Any], ends: Mapping[str, int]
) -> None:
    """Raise :class:`LabError` when a checkpoint is of other runs, or has any go on beyond its end.

    Args:
        folder: of the cohort.
        state: of the members and then of those parked, ``steps`` and ``last_steps`` among it, ``(R,)`` each.
        where: as :meth:`CohortFolder.save_checkpoint` was given it.
        ends: the last step of every run of the cohort.
    """
    begun = [*where["members"], *where.get("parked", [])]
    steps, last = counts(state, "steps"), counts(state, "last_steps")
    known = ends.keys() >= {*begun, *where["finished"]} and len({*begun}) == len(begun)
    known &= all(ending["step"] <= ends.get(run, 0) for run, ending in where["finished"].items())
    # members that are done and still have a place may have been counted on
    places = [place for place in zip(begun, steps, last, strict=False) if place[0] not in where["finished"]]
    if not known or any(not 0 <= step <= end <= ends[run] for run, step, end in places):
        with folder.with_way_out():
            raise LabError(f"{folder.checkpoint_path} is damaged: its steps are not those of the cohort's runs")


def check_measured(folder: CohortFolder, measures: Measures) -> None:
    """Raise :class:`LabError` where the measures of a cohort's task have changed since it was begun."""
    begun, now = folder.measures(), measures
    if (begun.columns, begun.generalised) != (now.columns, now.generalised):
        names = [" ".join(measure.name for measure in each.recorded) for each in (begun, now)]
        also = "" if names[0] != names[1] else f", and generalised is {now.arrived or 'not said of it'}"
        raise LabError(
            f"cohort {folder.id} was begun when its task measured {names[0]}; now it measures {names[1]}{also}: go on "
            "with the task as it was, or give the changed one another name"
        )


def counts(state: "Mapping[str, Tensor]", name: str) -> list[int]:
    """The integers of a tensor of a checkpoint, ``(R,)``; none where it is missing or of another kind."""
    tensor = state.get(name)
    if tensor is None or tensor.ndim != 1 or tensor.is_floating_point() or tensor.is_complex():
        return []
    return [int(value) for value in tensor.tolist()]
