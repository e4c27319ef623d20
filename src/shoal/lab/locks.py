"""Locks, which admit one process at a time.

A lock of the kernel's ends with its process, however it ends: ``flock``, or where a file system has none, a lock of the
open file's bytes, which file systems over a network are likelier to have. Where both are missing, a file that is made
only if it is not there says who holds the lock; it outlasts a process that is killed, and then counts no longer on the
machine that the process ran on.
"""

import errno
import fcntl
import json
import os
import platform
import secrets
import struct
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from shoal.errors import LabError
from shoal.lab.files import check_shape, is_there, read

_MISSING = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL)
_POLL = 0.05  # seconds
_LARGEST_SIGN = 2**16  # bytes
Lock = Callable[[int, bool], None]


@contextmanager
def locked(path: Path, wait: float, busy: str) -> Iterator[None]:
    """Hold a file lock, waiting up to ``wait`` seconds for it.

    The file has the mode that the umask gives, so that a group can share a lab.

    Raises:
        LabError: still held by another process (the message is ``busy``), or the folder or the file cannot be written.
    """
    deadline = time.monotonic() + wait
    descriptor = _open(path)
    made: Path | None = None
    try:
        while True:
            try:
                made = _lock(descriptor, path)
                if _is_in_place(descriptor, path):
                    break
                _given_back(made)
                made = None
                os.close(descriptor)  # its folder was moved away while this waited
                descriptor = -1
                descriptor = _open(path)
            except BlockingIOError as held:
                if time.monotonic() > deadline:
                    raise LabError("; ".join([busy, *map(str, held.args[:1])])) from None
                time.sleep(_POLL)
        yield
    finally:
        _given_back(made)
        if descriptor >= 0:
            os.close(descriptor)


def _is_in_place(descriptor: int, path: Path) -> bool:
    """Return True if the open file is still the one at ``path``: a lock on a file that was moved keeps nobody out."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    except OSError:
        return False


def _given_back(made: Path | None) -> None:
    if made is not None:
        made.unlink(missing_ok=True)


def is_locked(path: Path) -> bool:
    """Return True if a process holds the lock now."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        for lock in _KINDS:
            with suppress(NotImplementedError):
                lock(descriptor, False)
                return False
        return _holder(_sign(path)) is not None
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)


def held_locks() -> set[tuple[int, int, int]] | None:
    """Files whose locks processes of this machine hold, by device (major, minor) and inode; None where the system does
    not say.

    Source: ``/proc/locks`` of Linux. Unlike :func:`is_locked` it takes no lock, which one who only looks must not.
    """
    try:
        lines = Path("/proc/locks").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    held = set()
    for words in map(str.split, lines):
        if len(words) > 5 and words[1] != "->" and words[3] == "WRITE":  # "->": waits for it
            major, minor, inode = words[5].split(":")
            held.add((int(major, 16), int(minor, 16), int(inode)))
    return held


def is_seen_held(path: Path, held: set[tuple[int, int, int]] | None) -> bool | None:
    """Return True if a lock is among those of :func:`held_locks`, or held by a file beside it that names its holder.

    None where neither tells, as on file systems that are shared or laid over others, whose devices have other numbers.
    """
    try:
        about = path.lstat()
    except OSError:
        return False
    major, minor = os.major(about.st_dev), os.minor(about.st_dev)
    if held is not None and (major, minor, about.st_ino) in held:
        return True
    if is_there(_sign(path)):
        return _holder(_sign(path)) is not None
    return None if held is None or major == 0 else False  # 0: no device of this machine's own


def _open(path: Path) -> int:
    """Open the file of the lock and return its descriptor; another user's, which may not be written, serves as well."""
    flags = os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK  # a link or a pipe is no lock
    try:
        try:
            return os.open(path, os.O_RDWR | flags, 0o666)
        except PermissionError:
            return os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        raise LabError(f"{path.parent} cannot be written: {error.strerror}") from None


def _lock(descriptor: int, path: Path) -> Path | None:
    """Take the lock, and return the file that has to be removed to give it back, where there is one.

    Raises:
        BlockingIOError: another process holds it; with who, where that is known.
        LabError: there is such a lock, but not for who may only read the file; a sign would not stop who may write it.
    """
    for lock in _KINDS:
        try:
            lock(descriptor, True)
            return None
        except NotImplementedError:
            continue
        except OSError as error:
            if error.errno != errno.EBADF:
                raise
            raise LabError(f"{path} cannot be written; its owner can let others: chmod g+w {path}") from None
    return _take_sign(_sign(path))


def _flock(descriptor: int, exclusive: bool) -> None:
    _try(lambda: fcntl.flock(descriptor, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB))


def _bytes_lock(descriptor: int, exclusive: bool) -> None:
    """A lock of the open file, not of the process: closing the file elsewhere in the process leaves it."""
    command = getattr(fcntl, "F_OFD_SETLK", None)
    if command is None:  # not Linux, where every local file system has flock
        raise NotImplementedError
    kind = fcntl.F_WRLCK if exclusive else fcntl.F_RDLCK
    about = struct.pack("hhqqi4x", kind, os.SEEK_SET, 0, 0, 0)  # struct flock: from the beginning to the end
    _try(lambda: fcntl.fcntl(descriptor, command, about))


_KINDS: tuple[Lock, ...] = (_flock, _bytes_lock)


def _try(act: Callable[[], Any]) -> None:
    """Try to lock, and tell a lock that is held from one that the file system lacks.

    Raises:
        BlockingIOError: held.
        NotImplementedError: the file system has no such lock.
    """
    try:
        act()
    except BlockingIOError:
        raise BlockingIOError from None
    except OSError as error:
        if error.errno == errno.EACCES:  # what POSIX allows a held lock to say
            raise BlockingIOError from None
        if error.errno in _MISSING:
            raise NotImplementedError from None
        raise


# the last resort: a file that says who holds the lock


class _Sign(BaseModel):
    """Content of a file that names the holder of a lock; other users of the folder could have written it."""

    model_config = ConfigDict(strict=True)

    host: str
    process: Annotated[int, Field(ge=1, lt=2**31)]
    began: str


def _sign(path: Path) -> Path:
    return path.with_name(f"{path.name}-holder.json")


def _take_sign(sign: Path) -> Path:
    if (holder := _holder(sign)) is not None:
        where = f"{holder['host']}, process {holder['process']}"
        raise BlockingIOError(
            f"its file system has no locks, so {sign} says that {where} holds it: move it away if that has ended"
        )
    scratch, gone = (sign.with_name(f".{sign.name}.{secrets.token_hex(4)}.tmp") for _ in range(2))
    try:
        scratch.write_text(json.dumps(_self()), encoding="utf-8")
        with suppress(FileNotFoundError):
            sign.rename(gone)  # of a process that is gone; one process alone can do this
            if _holder(gone) is not None:  # another was sooner, and this is its own
                os.link(gone, sign)
        os.link(scratch, sign)  # made whole, and only if there is none
    except FileExistsError:
        raise BlockingIOError from None
    except OSError as error:
        raise LabError(f"{sign.parent} has no locks and cannot be written: {error.strerror}") from None
    finally:
        scratch.unlink(missing_ok=True)
        gone.unlink(missing_ok=True)
    warnings.warn(f"the file system of {sign.parent} has no locks; {sign.name} stands for one", stacklevel=2)
    return sign


def _holder(sign: Path) -> dict[str, Any] | None:
    """Holder that a file names, as far as is known here: a process of this machine that is gone holds nothing."""
    try:
        holder = dict(json.loads(read(sign, _LARGEST_SIGN)))
        check_shape(sign, holder, _Sign)
        gone = holder["host"] == platform.node() and _began(holder["process"]) != holder["began"]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, RecursionError):
        return {"host": "an unknown machine", "process": "unknown"}
    return None if gone else holder


def _self() -> dict[str, Any]:
    return {"host": platform.node(), "process": os.getpid(), "began": _began(os.getpid())}


def _began(process: int) -> str | None:
    """Start time of a process, which tells it from an earlier one of its number; None where there is none."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    try:
        return Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return "unknown"
