"""Matrix products of the same bits wherever their operands lie in memory.

In a stack the parameters of a member begin where those of its neighbours end. On processors of AMD, MKL rounds by how
its operands are aligned, unless it is asked for conditional numerical reproducibility, strictly; as far as measured
that costs nothing there. On those of Intel stacks and single members were found equal without.
"""

import os
from pathlib import Path

VARIABLE, STRICT = "MKL_CBWR", "AUTO,STRICT"


def ask_for_equal_bits() -> None:
    """Ask MKL, which reads this once, before its first product; what is set already stays."""
    if _vendor() == "AuthenticAMD":
        os.environ.setdefault(VARIABLE, STRICT)


def _vendor() -> str:
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8") as lines:
            return next(line.split(":")[1].strip() for line in lines if line.startswith("vendor_id"))
    except (OSError, StopIteration):  # not Linux, or not a processor of this kind
        return ""
