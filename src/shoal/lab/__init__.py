"""What is kept: specs, metrics, checkpoints; append-only, safe to read while it is written."""

from shoal.lab.lab import Lab
from shoal.lab.records import Records, get_all_checkpoints, get_all_checkpoints_per_trials

__all__ = ["Lab", "Records", "get_all_checkpoints", "get_all_checkpoints_per_trials"]
