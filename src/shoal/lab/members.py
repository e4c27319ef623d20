"""Members of a cohort by its ``cohort.json``: their specs, and the measures of their task."""

import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shoal.errors import LabError, UserError
from shoal.lab.homes import at_home
from shoal.measures import Measures
from shoal.registry import KINDS, TASKS, USUAL, is_place, short
from shoal.spec import RunSpec
from shoal.spec.identity import trajectory_of, trajectory_version
from shoal.spec.sources import source_of, sources_of

if TYPE_CHECKING:
    from shoal.lab.cohort import CohortFolder


def check_members(manifest: Mapping[str, Any]) -> None:
    """Raise :class:`ValueError` where a run is there twice or has not the id of its settings in any version, or where
    its measures are not on record."""
    runs = [member["run"] for member in manifest["members"]]
    if twice := [run for run, count in Counter(runs).items() if count > 1]:
        raise ValueError(f"it names run {twice[0]} more than once")
    for member in manifest["members"]:
        if trajectory_of(member["spec"], member["run"]) is None:
            raise ValueError(f"the settings of run {member['run']} are not those of its id")
    measures_of(manifest)


def task_of(manifest: Mapping[str, Any]) -> str:
    """Name of the task that all members have; the usual one where an earlier version did not record it."""
    return str(manifest["members"][0]["spec"].get("task", USUAL["task"]))


def spec_of(member: Mapping[str, Any], path: Path, way_out: str) -> RunSpec:
    """The spec of a member of the ``cohort.json`` at ``path``.

    Raises:
        LabError: its settings are not allowed, or mean something else than to the shoal that trained it.
    """
    check_version(member)
    try:
        return RunSpec.restored(at_home(member["spec"], path.parents[2]))
    except UserError as error:
        if (why := absent(member["spec"])) is not None:
            raise LabError(f"run {member['run']} cannot be built here: {why}") from None
        raise LabError(f"{path} is damaged or of a later version of shoal: {error}; {way_out}") from None


def check_version(member: Mapping[str, Any]) -> None:
    """Raise :class:`LabError` where a member's settings meant something else to the shoal that trained it."""
    version, model = trajectory_of(member["spec"], member["run"]), member["spec"]["model"]
    if version != (current := trajectory_version(model)):
        age = "an earlier" if version is None or version < current else "a later"
        raise LabError(
            f"run {member['run']} is of {age} version of shoal, whose {model} trained differently with these "
            f"settings; to train it as this one does, ask for the same settings"
        )


def is_loaded(dump: Mapping[str, Any]) -> bool:
    """Return True if no part that settings name has to be imported: see :func:`is_part_loaded`."""
    return all(is_part_loaded(kind, dump.get(kind, USUAL[kind])) for kind in KINDS)


def is_part_loaded(kind: str, name: str) -> bool:
    """Return True if a part needs no import: it is shoal's own, or its module is loaded already."""
    if not KINDS[kind].is_outside(name):
        return True
    if not is_place(name) or name.partition(":")[0] not in sys.modules:
        return False
    try:
        KINDS[kind][name]
    except UserError:
        return False
    return True


def said_of(spec: RunSpec) -> dict[str, Any]:
    """Further entries of ``cohort.json`` for runs with parts that stand outside of shoal.

    ``parts``, the sources of their code; and ``measures``, which shoal knows of its own tasks.
    """
    entries: dict[str, Any] = {}
    if sources := sources_of(spec.names):
        entries["parts"] = sources
    if TASKS.is_outside(spec.task):
        entries["measures"] = spec.task_part.measures().to_json()
    return entries


def check_sources(manifest: Mapping[str, Any], cohort: str) -> None:
    """Raise :class:`LabError` where the code of a part from outside of shoal is not what the cohort began with."""
    for kind, then in manifest.get("parts", {}).items():
        try:
            now = source_of(manifest["members"][0]["spec"].get(kind, USUAL[kind]))
        except UserError as error:
            raise LabError(f"cohort {cohort} cannot be gone on with: {error}") from None
        if now["source"] != then["source"]:
            versions = [f" ({source['version']})" if source.get("version") else "" for source in (then, now)]
            raise LabError(
                f"package {then['package']} has changed since cohort {cohort} was begun: its code was "
                f"{then['source']}{versions[0]} and is {now['source']}{versions[1]}; go on with the code that it was, "
                "or train anew in another lab"
            )


def absent(dump: Mapping[str, Any]) -> str | None:
    """Reason why a part from outside of shoal that settings name cannot be imported here; None where all can."""
    for kind, registry in KINDS.items():
        name = dump.get(kind, USUAL[kind])
        if registry.is_outside(name):
            try:
                registry[name]
            except UserError as error:
                return str(error)
    return None


def measures_of(manifest: Mapping[str, Any]) -> Measures:
    """Measures of the members' task: of shoal's own by its code, of another as recorded when they were begun.

    Nothing from outside of shoal is imported.

    Raises:
        ValueError: that is not on record.
    """
    task = task_of(manifest)
    if not TASKS.is_outside(task):
        return _shipped(TASKS[task], manifest["members"][0]["spec"])
    if manifest.get("measures") is None:
        raise ValueError(f"it does not say what task {short(task)} measures")
    return Measures.from_json(manifest["measures"])


def _shipped(task: Any, dump: Mapping[str, Any]) -> Measures:
    """Measures by the settings as they stand: a lab is listed without checking them or reading files that they name."""
    settings = {name: value for name, value in dump.items() if name in task.model_fields and value is not None}
    try:
        measures: Measures = task.model_construct(**settings).measures()
    except (AttributeError, TypeError, ValueError):  # it hangs on settings that this version would not have
        raise ValueError(f"task {task.name} has no such settings in this version") from None
    return measures


def told_of(folder: "CohortFolder", what: str, nothing: Any) -> Any:
    """Result of a task's method on what the task keeps; ``nothing`` where that is damaged or its code is not loaded."""
    try:
        name, content = task_of(folder.manifest()), folder.kept()
    except LabError:
        return nothing
    if not content or not is_part_loaded("task", name):
        return nothing
    try:
        return getattr(TASKS[name], what)(content)
    except Exception:  # a lab may be someone else's, and what is kept anything
        return nothing
