"""Matrix products whose bits do not depend on the place of their operands in memory.

In a stack the parameters of a member begin where those of its neighbours end. On AMD processors, the rounding of MKL
depends on the alignment of its operands, unless it is asked for strict conditional numerical reproducibility; no cost
of that was measured. On Intel processors stacks and single members were found equal without it.
"""

import os
from pathlib import Path

VARIABLE, STRICT = "MKL_CBWR", "AUTO,STRICT"


def ask_for_equal_bits() -> None:
    """Ask MKL for strict reproducibility before its first product, when it reads this; a set value stays."""
    if _vendor() == "AuthenticAMD":
        os.environ.setdefault(VARIABLE, STRICT)


def _vendor() -> str:
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8") as lines:
            return next(line.split(":")[1].strip() for line in lines if line.startswith("vendor_id"))
    except (OSError, StopIteration):  # not Linux, or not a processor of this kind
        return ""
