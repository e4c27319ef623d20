"""Keep the memory that a step frees, for the next step takes it again.

glibc gives freed blocks of some megabytes back to the system, which clears every page of the next one anew: on a step
that allocates as much as it computes, an eighth of the time, and more where members are many and arrays large.
"""

import ctypes
import sys

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4  # of mallopt(3)


def keep_freed_memory() -> None:
    """Tell the C library of this process not to return freed memory before it ends; no more than a wish elsewhere."""
    if not sys.platform.startswith("linux"):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return
    mallopt(_MMAP_MAX, 0)  # a block with pages of its own, as any of 32 MiB would be, goes back when it is freed
    mallopt(_TRIM_THRESHOLD, -1)  # never
    mallopt(_TOP_PAD, 64 * 2**20)
