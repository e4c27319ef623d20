"""What a cohort's lost or damaged files said, as far as its other files say it too."""

import json
from typing import Any

import polars as pl

from shoal.errors import LabError
from shoal.lab.cohort import CohortFolder, name_of_cohort
from shoal.lab.files import read_json
from shoal.lab.frames import EMPTY
from shoal.lab.shapes import Manifest, Status
from shoal.lab.tensors import load_tensors

REBUILT = "written again by shoal check; why this engine is not on record any more"


def manifest_of(folder: CohortFolder) -> dict[str, Any] | None:
    """What ``cohort.json`` must have said; None where the other files do not say all of it.

    The checkpoint holds a copy. Without one, the kept models say what each run was, the status in which order and
    with how many threads and which engine; that nobody is missing shows in the folder's name, a hash of all runs.
    """
    try:
        _, metadata = load_tensors(folder.checkpoint_path)
        manifest: dict[str, Any] | None = json.loads(metadata["manifest"])
    except (LabError, KeyError):
        manifest = _from_models(folder)
    if manifest is None or name_of_cohort(member["run"] for member in manifest["members"]) != folder.id:
        return None
    Manifest.model_validate(manifest)
    return manifest


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
        "metrics": sorted({name for frame in frames for name in frame.columns if name not in EMPTY}),
        "members": [{"run": run, "spec": spec} for run, spec in specs.items()],
    }


def _spec_of(folder: CohortFolder, run: str) -> Any:
    """The settings of a run, by any of its models that is whole."""
    for path in folder.models(run).values():
        try:
            _, metadata = load_tensors(path)
        except LabError:
            continue
        if metadata.get("run") == run and "spec" in metadata:
            return json.loads(metadata["spec"])
    return None


def status_of(folder: CohortFolder) -> dict[str, Any] | None:
    """What ``status.json`` must have said at the end; None where the other files do not say it.

    As of the checkpoint, where there is one; without one, where every run has its last row and its last model. With
    what it was trained is taken from the status that there is, if that can be read.
    """
    try:
        sessions = read_json(folder.path / "status.json", Status)["sessions"]
    except LabError:
        sessions = []
    try:
        checkpoint = folder.load_checkpoint()
        if checkpoint is None:
            found = _at_the_end(folder)
        else:
            state, where, counted = checkpoint
            names = folder.parts.check_counted(counted)
            begun = [*where["members"], *where.get("parked", [])]
            steps = dict(zip(begun, state["steps"].tolist() if begun else [], strict=True))
            found = {"members": _places(folder, where, steps), "metrics": names}
    except LabError:
        return None
    return found and {"members": found["members"], "sessions": sessions, "metrics": found["metrics"]}


def _places(folder: CohortFolder, where: dict[str, Any], steps: dict[str, int]) -> dict[str, Any]:
    runs = [member["run"] for member in folder.manifest()["members"]]
    states = {run: "running" if run in where["members"] else "waiting" for run in runs}
    now = {run: {"state": states[run], "step": steps.get(run, 0)} for run in runs}
    return now | {run: dict(ending) for run, ending in where["finished"].items()}


def _at_the_end(folder: CohortFolder) -> dict[str, Any] | None:
    """Every run done, where their last rows and last models show it."""
    specs = {spec.id: spec for spec in folder.specs()}
    names = folder.parts.there()
    rows = folder.parts.read(None, True, specs.keys())
    last = dict(rows.group_by("run").agg(pl.col("step").max()).iter_rows())
    for run, spec in specs.items():
        if last.get(run) != spec.n_steps or spec.n_steps not in folder.models(run):
            return None
    return {"members": {run: {"state": "done", "step": spec.n_steps} for run, spec in specs.items()}, "metrics": names}
