"""RunSpec: one frozen, validated value that says everything about one run, in the practical's vocabulary."""

from shoal.spec.fields import Part, choice, setting
from shoal.spec.grid import grid
from shoal.spec.run import RunSpec

__all__ = ["Part", "RunSpec", "choice", "grid", "setting"]
