"""Ids, names and tags of the runs of a lab, read as text without :mod:`shoal.lab`, because a shell waits for them.

Nothing is checked here, because a word that is completed is only typed sooner. A file that cannot be read, or is no
file, is passed over; no link is followed.
"""

import json
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_RUN = re.compile(rb'"run":\s*"([0-9a-f]{16})"')
_LARGEST = 2**25  # bytes of a file that is read for it
_NAME = re.compile(r"[\w.+-]{1,80}")


def runs_of(lab: str) -> list[str]:
    """Ids of the runs of a lab, sorted."""
    ids: set[str] = set()
    for folder in _inside(Path(lab) / "cohorts"):
        ids |= {run.decode() for run in _RUN.findall(_read(folder / "cohort.json"))}
    return sorted(ids)


def names_of(lab: str) -> list[str]:
    """Names of runs."""
    return _words(str(label.get("name") or "") for label in _labels(lab, "runs"))


def groups_of(lab: str) -> list[str]:
    """Names of groups of runs."""
    return _words(str(label.get("name") or "") for label in _labels(lab, "groups"))


def tags_of(lab: str) -> list[str]:
    """Tags of runs and groups."""
    labels = [label for of in ("runs", "groups") for label in _labels(lab, of)]
    return _words(str(tag) for label in labels if isinstance(tags := label.get("tags"), list) for tag in tags)


def _words(found: Iterator[str]) -> list[str]:
    return sorted({word for word in found if _NAME.fullmatch(word)})


def _labels(lab: str, of: str) -> list[dict[str, Any]]:
    labels = []
    for path in _inside(Path(lab) / "labels" / of):
        try:
            label = json.loads(_read(path))
        except (ValueError, RecursionError):
            continue
        if isinstance(label, dict):
            labels.append(label)
    return labels


def _inside(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError:
        return []


def _read(path: Path) -> bytes:
    """The bytes of a regular file of no unlikely size; none where it is something else."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            about = os.fstat(descriptor)
            if not stat.S_ISREG(about.st_mode) or about.st_size > _LARGEST:
                return b""
            return file.read(about.st_size)
    except OSError:
        return b""
