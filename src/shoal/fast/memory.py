"""Retention of the memory that a step frees, for the next step; and its return to the system where it is scarce.

glibc gives freed blocks of some megabytes back to the system, which clears every page of the next one anew: on a step
that allocates as much as it computes, an eighth of the time, and more where members are many and arrays large.
"""

import ctypes
import sys
from collections.abc import Callable

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4  # of mallopt(3)


def keep_freed_memory() -> None:
    """Tell glibc to keep freed memory until this process ends; no effect with other C libraries."""
    mallopt = _from_glibc("mallopt")
    if mallopt is not None:
        mallopt(_MMAP_MAX, 0)  # a block with pages of its own, as any of 32 MiB would be, goes back when it is freed
        mallopt(_TRIM_THRESHOLD, -1)  # never
        mallopt(_TOP_PAD, 64 * 2**20)


def return_freed_memory() -> None:
    """Return the memory that this process has freed to the system; no effect without glibc."""
    trim = _from_glibc("malloc_trim")
    if trim is not None:
        trim(ctypes.c_size_t(0))


def _from_glibc(name: str) -> Callable[..., int] | None:
    if not sys.platform.startswith("linux"):
        return None
    try:
        function: Callable[..., int] = ctypes.CDLL(None)[name]
    except (OSError, AttributeError):  # another C library
        return None
    return function
