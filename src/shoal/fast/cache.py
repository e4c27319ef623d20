"""Cache folder of compiled libraries, into which only its user can write.

A library that is loaded is code that runs. So the folder has to be the user's own and closed to everyone else; a file
in it has to be the user's own, and no link; and the file that is hashed is the one that is loaded, whatever happens to
the path in between. Where that is impossible, as with a home or a cache folder that several users share or with
``sudo`` in another's home, nothing is cached: the library is compiled for one process.
"""

import ctypes
import hashlib
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_OTHERS = stat.S_IWGRP | stat.S_IWOTH  # may write
_ROOT = 0
_HOLD = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC


def folder() -> Path | None:
    """Path of the cache folder; None for a user without a home, as in some containers."""
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "shoal"
    except RuntimeError:
        return None


def find(prefix: str) -> ctypes.CDLL | None:
    """Load the cached library of this prefix, if it is whole and nobody else can have written it."""
    with suppress(OSError), _opened() as directory:
        for name in _names(directory, prefix):
            with suppress(OSError):
                return _load(directory, name)
    return None


def has(prefix: str) -> bool:
    """Return True if :func:`find` would look at a library of this prefix."""
    with suppress(OSError), _opened() as directory:
        return bool(_names(directory, prefix))
    return False


def keep(prefix: str, content: bytes) -> ctypes.CDLL:
    """Cache a library and load it. Its checksum is in its name: loading half a library ends the process.

    Several processes may do so at once.

    Raises:
        OSError: there is no folder of the user's own, or it cannot be written.
    """
    name = f"{prefix}-{_checksum(content)}.so"
    with _opened(make=True) as directory:
        _write(directory, name, content)
        return _load(directory, name)


def note(name: str) -> str | None:
    """Text of a note beside the libraries; None where there is none that only the user can have written."""
    with suppress(OSError, UnicodeDecodeError), _opened() as directory:
        descriptor, content = _open_own(directory, name)
        os.close(descriptor)
        return content.decode("utf-8")
    return None


def keep_note(name: str, text: str) -> None:
    """Keep a note beside the libraries, in place of an older one.

    Raises:
        OSError: there is no folder of the user's own, or it cannot be written.
    """
    with _opened(make=True) as directory:
        _write(directory, name, text.encode("utf-8"))


def load_once(content: bytes) -> ctypes.CDLL:
    """Load a library without caching it: its file is removed as soon as it is loaded."""
    place = tempfile.mkdtemp(prefix="shoal-")  # the user's own, mode 0700
    try:
        path = Path(place, "kernels.so")
        path.write_bytes(content)
        return ctypes.CDLL(str(path))
    finally:
        shutil.rmtree(place, ignore_errors=True)


@contextmanager
def _opened(make: bool = False) -> Iterator[int]:
    """Descriptor of the folder itself: later changes of its path have no effect.

    Raises:
        OSError: there is none, or it is not the user's own.
    """
    place = folder()
    if place is None:
        raise FileNotFoundError("no home")
    if make and not place.exists():
        place.parent.mkdir(parents=True, exist_ok=True)
        if place.parent.stat().st_uid not in (_ROOT, os.geteuid()):  # its owner could not use the cached files
            raise PermissionError(f"{place.parent} is another user's")
        with suppress(FileExistsError):
            place.mkdir(mode=0o700)
    descriptor = os.open(place, _HOLD | os.O_DIRECTORY)
    try:
        about = os.fstat(descriptor)
        if about.st_uid != os.geteuid():
            raise PermissionError(f"{place} is another user's")
        if about.st_mode & 0o077:
            os.fchmod(descriptor, 0o700)  # files that others may have put there are theirs, and are not loaded
        yield descriptor
    finally:
        os.close(descriptor)


def _names(directory: int, prefix: str) -> list[str]:
    with os.scandir(directory) as entries:
        return sorted(e.name for e in entries if e.name.startswith(f"{prefix}-") and e.name.endswith(".so"))


def _write(directory: int, name: str, content: bytes) -> None:
    """Write a file of the folder, whole or not at all."""
    scratch = f".{name}.{secrets.token_hex(4)}.tmp"
    descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600, dir_fd=directory)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.rename(scratch, name, src_dir_fd=directory, dst_dir_fd=directory)
    except OSError:
        os.unlink(scratch, dir_fd=directory)
        raise


def _open_own(directory: int, name: str) -> tuple[int, bytes]:
    """Open descriptor of a file of the folder that only the user can have written, and its content.

    Raises:
        OSError: there is no such file.
    """
    descriptor = os.open(name, _HOLD | os.O_NONBLOCK, dir_fd=directory)
    try:
        about = os.fstat(descriptor)
        is_own = stat.S_ISREG(about.st_mode) and about.st_uid == os.geteuid() and about.st_nlink == 1
        if not is_own or about.st_mode & _OTHERS:
            raise PermissionError(f"{name} can be another user's")
        with os.fdopen(os.dup(descriptor), "rb") as file:
            return descriptor, file.read()
    except BaseException:
        os.close(descriptor)
        raise


def _load(directory: int, name: str) -> ctypes.CDLL:
    """Load a file of the folder if its checksum is in its name and only the user can have written it.

    Raises:
        OSError: it is not, or it cannot be loaded.
    """
    descriptor, content = _open_own(directory, name)
    try:
        if not name.endswith(f"-{_checksum(content)}.so"):
            raise OSError(f"{name} is damaged")
        held = Path(f"/proc/self/fd/{descriptor}")
        # the loader knows libraries by their paths: this one's must not become another's, so it stays open
        library = ctypes.CDLL(str(held)) if held.exists() else load_once(content)
    except BaseException:
        os.close(descriptor)
        raise
    return library


def _checksum(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
