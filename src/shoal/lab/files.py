"""Atomic writing, which is done or not done whatever happens to the process or the disk, and checked reading."""

import errno
import hashlib
import json
import os
import secrets
import stat
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from shoal.errors import AccessError, DiskError, LabError

CHECKSUM = "sha256"  # the key under which a JSON file carries that of the rest of it

LARGEST_JSON = 2**28  # bytes; a cohort of 100,000 runs has fewer
LARGEST_PART = 2**32  # of metrics: what is measured in seconds has far fewer
LARGEST_TENSORS = 2**36  # of all members of a cohort together; no GPU holds more


def read(path: Path, most: int) -> bytes:
    """Content of a file of the lab, which has to be a file, no link, pipe or device: a lab may be someone else's.

    Raises:
        FileNotFoundError: there is none.
        LabError: it is no regular file, has more than ``most`` bytes, or cannot be read.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            about = os.fstat(descriptor)
            _check_regular(path, about, most)
            return file.read(about.st_size)  # of `most`, memory would be taken at once
    except FileNotFoundError:
        raise
    except OSError as error:
        if path.is_symlink():
            raise LabError(f"{path} is a link; a lab holds files and folders of its own alone") from None
        raise AccessError(f"{path} cannot be read: {error.strerror}") from None


def check_own(paths: Iterable[Path]) -> None:
    """Raise :class:`LabError` where one of the paths is a link: a file written or removed there would be elsewhere.

    The lab itself may lie behind a link, nothing in it does.
    """
    for path in paths:
        try:
            is_link = path.is_symlink()
        except OSError as error:
            raise _unreadable(path, error) from None
        if is_link:
            raise LabError(f"{path} is a link; a lab holds files and folders of its own alone")


def check_size(path: Path, most: int) -> None:
    """Check a file that a library opens by its name, as :func:`read` does, without reading it.

    Raises:
        LabError: there is no file, it is no regular file or has more than ``most`` bytes.
    """
    try:
        _check_regular(path, path.lstat(), most)
    except OSError as error:
        raise _unreadable(path, error) from None


def _check_regular(path: Path, about: os.stat_result, most: int) -> None:
    if not stat.S_ISREG(about.st_mode):
        raise LabError(f"{path} is damaged: it is not a regular file")
    if about.st_size > most:
        raise LabError(f"{path} is damaged: it has {about.st_size:,} bytes, at most {most:,} are read")


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
        sync_folder(path.parent)
    except OSError as error:
        with suppress(OSError):
            scratch.unlink(missing_ok=True)
        raise DiskError(f"could not write {path}: {error.strerror or error}") from error


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON; an object with a SHA-256 of its content under :data:`CHECKSUM`."""
    if isinstance(value, Mapping):
        assert CHECKSUM not in value
        rest = json.loads(json.dumps(value))
        value = {**rest, CHECKSUM: _checksum(rest)}
    write(path, (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode())


def _checksum(content: Mapping[str, Any]) -> str:
    """Checksum of the content of JSON, which the order of keys and the indent do not change."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def read_json(path: Path, shape: type[BaseModel] | None = None) -> Any:
    """Read a JSON file of the lab; one that carries a checksum is held to it, and read without it.

    Args:
        path: the file.
        shape: the keys that it must have and the types of their values.

    Raises:
        LabError: it is not JSON, was changed since it was written, or is not of that shape.
        AccessError: the system does not let it be read.
    """
    try:
        text = read(path, LARGEST_JSON).decode()
        content = json.loads(text)
        if "\\ud" in text.lower():  # half of a sign, which nothing can write down again
            json.dumps(content, ensure_ascii=False).encode()
        if isinstance(content, dict) and CHECKSUM in content and content.pop(CHECKSUM) != _checksum(content):
            raise LabError(f"{path} is damaged: its checksum does not match its content")
    except LabError:
        raise
    except (ValueError, RecursionError) as error:
        raise LabError(f"{path} is damaged: {error}") from None
    except OSError as error:
        raise _unreadable(path, error) from None
    if shape is not None:
        check_shape(path, content, shape)
    return content


def check_shape(path: Path, content: Any, shape: type[BaseModel]) -> None:
    """Raise :class:`LabError` where the content of a file lacks keys of a shape, or their values are of other types."""
    try:
        shape.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or "content"
        message = first["msg"].removeprefix("Value error, ")
        raise LabError(f"{path} is damaged: {where}: {message[:1].lower()}{message[1:]}") from None
    except RecursionError as error:
        raise LabError(f"{path} is damaged: {error}") from None


def is_there(path: Path) -> bool:
    """Return True if there is anything of this name.

    Raises:
        AccessError: the system does not let anyone look.
    """
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise _unreadable(path, error) from None
    return True


def names_in(folder: Path) -> list[str]:
    """Names in a folder, in the order of the alphabet; none where there is no such folder.

    Raises:
        AccessError: the system does not let it be listed.
    """
    try:
        return sorted(path.name for path in folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise _unreadable(folder, error) from None


def set_aside(path: Path, to: Path) -> Path:
    """Move a file or folder into the folder ``to``, beside those set aside before, and return its new path.

    Raises:
        DiskError: the disk is full or refuses; it is where it was.
    """
    target, count = to / path.name, 1
    while os.path.lexists(target):
        count += 1
        target = to / f"{path.name}.{count}"
    try:
        _make_folder(to)
        path.rename(target)
        sync_folder(to)
        sync_folder(path.parent)
    except OSError as error:
        raise DiskError(f"could not move {path} to {target}: {error.strerror or error}") from error
    return target


def _unreadable(path: Path, error: OSError) -> LabError:
    if isinstance(error, FileNotFoundError):
        return LabError(f"{path} is missing")
    return AccessError(f"{path} cannot be read: {error.strerror or error}")


def _make_folder(folder: Path) -> None:
    """Make a folder and those above it, each so that it is still there after a loss of power."""
    missing = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for made in missing:
        sync_folder(made.parent)


def sync_folder(folder: Path) -> None:
    """Flush a folder to the disk (``fsync``), where its file system can; some over a network cannot."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EBADF, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)
