"""Lab: a folder of specs, metrics and checkpoints; append-only, and safe to read while it is written."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shoal.lab.lab import Lab
    from shoal.lab.practical import get_all_checkpoints, get_all_checkpoints_per_trials
    from shoal.lab.record_views import Run
    from shoal.lab.records import Records

__all__ = ["Lab", "Records", "Run", "get_all_checkpoints", "get_all_checkpoints_per_trials"]


def __getattr__(name: str) -> Any:
    """Load a public name when asked for: a module of this package is often wanted without the others."""
    if name not in __all__:
        raise AttributeError(f"module 'shoal.lab' has no attribute {name!r}")
    home = {"Lab": "lab", "Records": "records", "Run": "record_views"}.get(name, "practical")
    return getattr(importlib.import_module(f"shoal.lab.{home}"), name)
