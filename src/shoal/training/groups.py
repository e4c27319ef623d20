"""Limits of memory and cores of this process: its own, and those of Linux control groups, which containers and batch
systems set.

A process is in one group of version 2, or in one per controller of version 1; limits of the groups above hold, too.
Inside a container paths may be those of the host, but the group that is mounted at the root is the container's own.
"""

import math
import resource
from collections.abc import Iterator
from pathlib import Path

_ROOT, _OWN = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
_MEMORY = (  # of versions 2 and 1: the use, the limit, and the part of the use that can be reclaimed
    ("memory.current", "memory.max", "inactive_file"),
    ("memory.usage_in_bytes", "memory.limit_in_bytes", "total_inactive_file"),
)


def memory_left() -> int | None:
    """Bytes of memory that the control groups leave; None where no group has a limit."""
    left = [_left(group, *names) for group in _groups("memory") for names in _MEMORY]
    return min((number for number in left if number is not None), default=None)


def left_in_process() -> int | None:
    """Bytes that a limit on this process's address space leaves (``ulimit -v``, some batch systems), or None."""
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit == resource.RLIM_INFINITY:
        return None
    try:
        used = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
    except OSError:  # not Linux
        return None
    return max(0, limit - used)


def cores_allowed() -> int | None:
    """Number of cores that the control groups allow, rounded up; None where no group has a limit."""
    shares = [_share(group) for group in _groups("cpu")]
    return min((max(1, math.ceil(share)) for share in shares if share is not None), default=None)


def _groups(controller: str) -> Iterator[Path]:
    """Control group of this process, and those above it."""
    try:
        lines = _OWN.read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        root = _ROOT / controller if controllers else _ROOT
        group = root / path.strip("/")
        yield from (above for above in (group, *group.parents) if above.is_relative_to(root) and above.is_dir())


def _left(group: Path, used: str, limit: str, given_back: str) -> int | None:
    try:
        lines = (group / "memory.stat").read_text(encoding="ascii").splitlines()
        cache = next((int(line.split()[1]) for line in lines if line.startswith(f"{given_back} ")), 0)
        return max(0, int((group / limit).read_text()) - int((group / used).read_text()) + cache)
    except (OSError, ValueError):  # of the other version, the topmost group, or "max"
        return None


def _share(group: Path) -> float | None:
    try:
        both = (group / "cpu.max").read_text().split()
    except OSError:
        try:
            both = [(group / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period")]
        except OSError:
            return None
    quota, period = both
    return None if quota == "max" or int(quota) < 0 else int(quota) / int(period)
