"""Writing that is either done or not done, whatever happens to the process or the disk."""

import json
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

from shoal.errors import DiskError, LabError


def write(path: Path, fill: Callable[[Path], None]) -> None:
    """Have ``fill`` write a file beside ``path``, then put it in place in one step.

    Raises:
        DiskError: the disk is full or refuses; ``path`` is as it was.
    """
    scratch = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fill(scratch)
        with scratch.open("rb") as file:
            os.fsync(file.fileno())
        scratch.replace(path)
        _sync_folder(path.parent)
    except Exception as error:
        scratch.unlink(missing_ok=True)
        if isinstance(error, OSError) or "os error" in str(error).lower():
            raise DiskError(f"could not write {path}: {_reason(error)}") from error
        raise


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON."""
    text = json.dumps(value, indent=1, ensure_ascii=False) + "\n"
    write(path, lambda scratch: _write_text(scratch, text))


def read_json(path: Path) -> Any:
    """Read a JSON file of the lab.

    Raises:
        LabError: it is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, UnicodeDecodeError) as error:
        raise LabError(f"{path} is damaged: {error}") from None


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
