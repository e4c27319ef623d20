"""Reconstruction of a cohort's lost or damaged files from its other files."""

import json
from typing import Any

import polars as pl

from shoal.errors import LabError, UserError
from shoal.lab.cohort import CohortFolder, name_of_cohort
from shoal.lab.continuing import check_stand, counts
from shoal.lab.files import check_shape, read_json
from shoal.lab.frames import ALWAYS
from shoal.lab.keeping import keeping
from shoal.lab.members import is_loaded, measures_of, said_of
from shoal.lab.shapes import Kept, Manifest, Status
from shoal.lab.tensors import load_tensors
from shoal.measures import SPLITS
from shoal.spec import RunSpec
from shoal.spec.fields import LARGEST
from shoal.spec.identity import trajectory_of

REBUILT = "written again by shoal check; why this engine is not on record any more"


def manifest_of(folder: CohortFolder) -> dict[str, Any] | None:
    """Content that ``cohort.json`` must have had; None where the other files do not hold all of it.

    The checkpoint holds a copy. Without one, the kept models hold each run's settings, and the status their order,
    threads and engine; that no run is missing shows in the folder's name, a hash of all runs.
    """
    candidates = (make(folder) for make in (_from_checkpoint, _from_models))
    return next((manifest for manifest in candidates if manifest is not None and _is_of(folder, manifest)), None)


def _is_of(folder: CohortFolder, manifest: Any) -> bool:
    """Return True if a manifest would be taken for the ``cohort.json`` of this folder; the files may be anyone's."""
    try:
        check_shape(folder.path / "cohort.json", manifest, Manifest)
    except LabError:
        return False
    members = manifest["members"]
    is_whole = name_of_cohort(member["run"] for member in members) == folder.id
    try:
        measures_of(manifest)
    except ValueError:
        return False
    return is_whole and all(trajectory_of(member["spec"], member["run"]) is not None for member in members)


def _from_checkpoint(folder: CohortFolder) -> Any:
    try:
        _, metadata = load_tensors(folder.checkpoint_path)
    except LabError:
        return None
    return _parsed(metadata.get("manifest", ""))


def _parsed(text: str) -> Any:
    """Value of a JSON text; None where it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _from_models(folder: CohortFolder) -> dict[str, Any] | None:
    try:
        status = read_json(folder.path / "status.json", Status)
        frames = [folder.parts.read_one(name) for name in folder.parts.there()]
    except LabError:
        return None
    specs = {run: _spec_of(folder, run) for run in status["members"]}
    if not status["sessions"] or None in specs.values():
        return None
    first = status["sessions"][0]
    return {
        "threads": first["threads"],
        "engine": first.get("engine", "plain"),
        "why": REBUILT,
        "metrics": sorted({name for frame in frames for name in frame.columns if _is_registered(name)}),
        **_measured(next(iter(specs.values()))),
        **_keeping(folder),
        "members": [{"run": run, "spec": spec} for run, spec in specs.items()],
    }


def _is_registered(column: str) -> bool:
    """Return True if a column is of a quantity that was registered beside the task's measures."""
    return column not in ALWAYS and not column.startswith(tuple(f"{split}_" for split in SPLITS))


def _keeping(folder: CohortFolder) -> dict[str, Any]:
    """Checksums of what the task keeps, by the file that holds it; empty where it cannot be read."""
    try:
        return keeping(read_json(folder.path / "task.json", Kept))
    except LabError:
        return {}


def _measured(dump: Any) -> dict[str, Any]:
    """Measures of a task from outside of shoal, as an entry of ``cohort.json``; empty where it is not loaded here."""
    try:
        entries = said_of(RunSpec.restored(dump)) if is_loaded(dump) else {}
    except (UserError, TypeError, KeyError, AttributeError):  # no settings at all; see _is_of
        entries = {}
    return {name: value for name, value in entries.items() if name == "measures"}  # its code may be another by now


def _spec_of(folder: CohortFolder, run: str) -> Any:
    """The settings of a run, by any of its models that is whole."""
    for path in folder.models(run).values():
        try:
            _, metadata = load_tensors(path)
        except LabError:
            continue
        if metadata.get("run") == run and "spec" in metadata:
            return _parsed(metadata["spec"])
    return None


def status_of(folder: CohortFolder) -> dict[str, Any] | None:
    """Content that ``status.json`` must have had at the end; None where the other files do not hold it.

    Members stand as in the checkpoint, where there is one; without one all are done, where every run has its last row
    and its last model. Sessions are taken from the status that there is, if that can be read.
    """
    try:
        sessions = read_json(folder.path / "status.json", Status)["sessions"]
    except LabError:
        sessions = []
    try:
        checkpoint = folder.load_checkpoint()
        if checkpoint is None:
            stand = _at_the_end(folder)
        else:
            state, where, counted = checkpoint
            names = folder.parts.check_counted(counted)
            begun = [*where["members"], *where.get("parked", [])]
            check_stand(folder, state, where, _ends(folder))
            taken = counts(state, "steps")
            if len(taken) != len(begun):
                return None
            steps = dict(zip(begun, taken, strict=True))
            stand = {"members": _places(folder, where, steps), "metrics": names}
    except LabError:
        return None
    return stand and {"members": stand["members"], "sessions": sessions, "metrics": stand["metrics"]}


def _ends(folder: CohortFolder) -> dict[str, int]:
    """The last step of each run; of one whose record does not say it, the last that there can be."""
    return {member["run"]: member["spec"].get("n_steps") or LARGEST for member in folder.manifest()["members"]}


def _places(folder: CohortFolder, where: dict[str, Any], steps: dict[str, int]) -> dict[str, Any]:
    runs = [member["run"] for member in folder.manifest()["members"]]
    states = {run: "running" if run in where["members"] else "waiting" for run in runs}
    now = {run: {"state": states[run], "step": steps.get(run, 0)} for run in runs}
    return now | {run: dict(ending) for run, ending in where["finished"].items()}


def _at_the_end(folder: CohortFolder) -> dict[str, Any] | None:
    """Status in which every run is done, where their last rows and last models show it; else None."""
    ends = _ends(folder)
    names = folder.parts.there()
    rows = folder.parts.read(None, True, ends.keys(), folder.measures().columns)
    last = dict(rows.group_by("run").agg(pl.col("step").max()).iter_rows())
    for run, end in ends.items():
        if last.get(run) != end or end not in folder.models(run):
            return None
    return {"members": {run: {"state": "done", "step": end} for run, end in ends.items()}, "metrics": names}
