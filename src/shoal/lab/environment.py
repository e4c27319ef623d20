"""Environment in which a result was made: versions, device, threads and commit."""

import hashlib
import os
import platform
import subprocess
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch


def environment(device: torch.device) -> dict[str, Any]:
    """Versions, device, precision, threads and the source's git commit, for the record."""
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "shoal": _version(),
        "git_commit": _git_commit(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "platform": platform.platform(),
        "processor": _processor(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "precision": "float32",
        "threads": torch.get_num_threads(),
    }


def _version() -> str:
    try:
        return version("shoal")
    except PackageNotFoundError:
        return "unknown"


def _git_commit() -> str | None:
    """The commit of the source tree that runs, with ``+`` when it has uncommitted changes; None outside of one."""
    return _commit_of(__file__)


@cache
def _commit_of(source: str) -> str | None:
    """Commit of a file's tree when a process first asks: what it has imported stays as it was then."""
    here = Path(source).resolve().parent
    try:
        _git(here, "ls-files", "--error-unmatch", source)  # not some other project that shoal is installed in
        commit = _git(here, "rev-parse", "HEAD")
        staged = _git(here, "diff-index", "--cached", "--name-only", "HEAD", "--", ".")
        entries = _git(here, "ls-files", "--stage", "-z", "--", ".").split("\0")
        changed = bool(staged) or any(_is_changed(here, entry) for entry in entries if entry)
    except (OSError, subprocess.SubprocessError):
        return None
    return commit + ("+" if changed else "")


def _is_changed(folder: Path, entry: str) -> bool:
    """Return True if a file is not as git's index has it, ``MODE HASH STAGE<tab>PATH``.

    ``git status`` would ask the filters that a repository names, which are programs.
    """
    about, _, path = entry.partition("\t")
    mode, expected, _ = about.split()
    if mode == "160000":  # of a repository within
        return False
    place = folder / path
    try:
        content = os.fsencode(place.readlink()) if mode == "120000" else place.read_bytes()
    except OSError:
        return True
    of = hashlib.sha1 if len(expected) == 40 else hashlib.sha256
    return of(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest() != expected


def _git(folder: Path, *command: str) -> str:
    # another git may be at work here, and a repository that is not ours may name programs to run
    words = ["git", "--no-optional-locks", "-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null", *command]
    return subprocess.run(words, cwd=folder, capture_output=True, text=True, check=True, timeout=10).stdout.strip()


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
