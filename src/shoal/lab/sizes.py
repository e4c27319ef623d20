"""Bytes of a lab on the disk: of each cohort by kind, of each run, and of the folders beside them."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from shoal.lab.cohort import CohortFolder
from shoal.lab.files import names_in

KINDS = ("metrics", "models", "checkpoint", "texts", "other")
_KIND = {"metrics": "metrics", "set-aside": "metrics", "models": "models", "decodes": "texts", "scores": "texts"}
_KIND |= {"checkpoint.safetensors": "checkpoint"}


def bytes_below(path: Path) -> int:
    """Bytes of a file, or of all files in a folder and below; links are not followed."""
    return sum(size for _, size in files_below(path))


def files_below(path: Path) -> Iterator[tuple[Path, int]]:
    """Files at or below a path with their bytes; one that is gone or cannot be read counts as none."""
    try:
        about = path.lstat()
        if not stat.S_ISDIR(about.st_mode):
            yield path, about.st_size
            return
        entries = sorted(os.scandir(path), key=lambda entry: entry.name)
    except OSError:
        return
    for entry in entries:
        yield from files_below(Path(entry.path))


def bytes_of_cohort(folder: CohortFolder) -> dict[str, int]:
    """Bytes by kind: each of :data:`KINDS`. ``texts`` are hypotheses of models and their scores."""
    sizes = dict.fromkeys(KINDS, 0)
    for name in names_in(folder.path):
        sizes[_KIND.get(name, "other")] += bytes_below(folder.path / name)
    return sizes


def bytes_of_runs(folder: CohortFolder) -> dict[str, dict[str, int]]:
    """Bytes of each run of a cohort by kind.

    Its models are its own. Metrics, checkpoint and the rest lie in files of all members together: of these each has an
    equal share, rounded down.
    """
    runs = [member["run"] for member in folder.manifest()["members"]]
    shared = {kind: size // len(runs) for kind, size in bytes_of_cohort(folder).items() if kind != "models"}
    models = {run: bytes_below(folder.path / "models" / run) for run in runs}
    return {run: {kind: models[run] if kind == "models" else shared[kind] for kind in KINDS} for run in runs}


def bytes_beside(lab: Path) -> dict[str, int]:
    """Bytes of files and folders beside the cohorts, by name: each page of ``reports``, ``studies``, ``labels`` ….

    >>> bytes_beside(Path("no-such-folder"))
    {}
    """
    names = [name for name in names_in(lab) if name not in ("cohorts", "lock", "reports")]
    names += [f"reports/{page}" for page in names_in(lab / "reports")]
    return {name: bytes_below(lab / name) for name in names}
