"""RunSpec: one frozen, validated value that says everything about one run, in the practical's vocabulary."""

from shoal.spec.grid import check_setting, grid
from shoal.spec.model import FAMILIES, NON_LINEARITIES
from shoal.spec.run import TRAJECTORY_VERSIONS, RunSpec
from shoal.spec.training import OPTIMIZERS, PRECISIONS

__all__ = [
    "FAMILIES",
    "NON_LINEARITIES",
    "OPTIMIZERS",
    "PRECISIONS",
    "TRAJECTORY_VERSIONS",
    "RunSpec",
    "check_setting",
    "grid",
]
