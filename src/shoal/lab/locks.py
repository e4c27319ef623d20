"""One process at a time."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from shoal.errors import LabError


@contextmanager
def locked(path: Path, wait: float, busy: str) -> Iterator[None]:
    """Hold a file lock, waiting up to ``wait`` seconds for it.

    Raises:
        LabError: still held by another process (the message is ``busy``), or the folder cannot be written.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise LabError(f"{path.parent} cannot be written: {error.strerror}") from None
    try:
        deadline = time.monotonic() + wait
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise LabError(busy) from None
                time.sleep(0.05)
        yield
    finally:
        os.close(descriptor)
