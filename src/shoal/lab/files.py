"""Writing that is either done or not done, whatever happens to the process or the disk."""

import errno
import json
import os
import secrets
import stat
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from shoal.errors import DiskError, LabError

LARGEST_JSON = 2**28  # bytes; a cohort of 100,000 runs has fewer
LARGEST_PART = 2**32  # of metrics: what is measured in seconds has far fewer


def read(path: Path, most: int) -> bytes:
    """What is in a file of the lab. A lab may be someone else's, so a file is a file: no link, pipe or device.

    Raises:
        FileNotFoundError: there is none.
        LabError: it is no regular file, has more than ``most`` bytes, or cannot be read.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            about = os.fstat(descriptor)
            if not stat.S_ISREG(about.st_mode):
                raise LabError(f"{path} is damaged: it is not a regular file")
            if about.st_size > most:
                raise LabError(f"{path} is damaged: it has {about.st_size:,} bytes, at most {most:,} are read")
            return file.read(most)
    except FileNotFoundError:
        raise
    except OSError as error:
        if path.is_symlink():
            raise LabError(f"{path} is a link; a lab holds files and folders of its own alone") from None
        raise LabError(f"{path} cannot be read: {error.strerror}") from None


def check_own(paths: Iterable[Path]) -> None:
    """Raise :class:`LabError` where one is a link: what is written or removed there would be elsewhere.

    The lab itself may lie behind a link, nothing in it does.
    """
    for path in paths:
        if path.is_symlink():
            raise LabError(f"{path} is a link; a lab holds files and folders of its own alone")


def write(path: Path, content: bytes) -> None:
    """Write a file beside ``path``, then put it in place in one step.

    The bytes are written here and not by the libraries that make them: some of those do not report a full disk.

    Raises:
        DiskError: the disk is full or refuses; ``path`` is as it was.
    """
    scratch = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        _make_folder(path.parent)
        with scratch.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        scratch.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        with suppress(OSError):
            scratch.unlink(missing_ok=True)
        raise DiskError(f"could not write {path}: {error.strerror or error}") from error


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON."""
    write(path, (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode())


def read_json(path: Path, shape: type[BaseModel] | None = None) -> Any:
    """Read a JSON file of the lab.

    Args:
        path: the file.
        shape: the keys that it must have and the types of their values.

    Raises:
        LabError: it is not JSON, or not of that shape.
    """
    try:
        content = json.loads(read(path, LARGEST_JSON).decode())
        if shape is not None:
            shape.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or "content"
        raise LabError(f"{path} is damaged: {where}: {first['msg'][:1].lower()}{first['msg'][1:]}") from None
    except (ValueError, RecursionError) as error:
        raise LabError(f"{path} is damaged: {error}") from None
    except OSError as error:
        raise LabError(f"{path} cannot be read: {error.strerror}") from None
    return content


def _make_folder(folder: Path) -> None:
    """With those above it, each so that it is still there after a loss of power."""
    missing = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for made in missing:
        _sync_folder(made.parent)


def _sync_folder(folder: Path) -> None:
    """Where the file system has no such thing, as some over a network, nothing more can be done."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EBADF, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)
