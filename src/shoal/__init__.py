"""shoal trains many small sequence models side by side and shows when and why they generalise.

>>> import shoal
>>> specs = shoal.grid(shoal.RunSpec(model="gpt"), weight_decay=[0.5, 1.0], seed=[0, 42])
>>> len(specs)
4
"""

import importlib
from typing import TYPE_CHECKING, Any

from shoal.fast.products import ask_for_equal_bits

if TYPE_CHECKING:
    from shoal import parts, practical
    from shoal.errors import UserError
    from shoal.lab import Lab, Records
    from shoal.spec import RunSpec, grid
    from shoal.training import Interrupted, resume, train
    from shoal.tuning import tune

    __version__: str

__all__ = [
    "Interrupted",
    "Lab",
    "Records",
    "RunSpec",
    "UserError",
    "grid",
    "parts",
    "practical",
    "resume",
    "train",
    "tune",
]

ask_for_equal_bits()  # before PyTorch computes anything

# name -> module; loaded when asked for, so that the command line starts without torch
_HOMES = {
    "Interrupted": "shoal.training",
    "Lab": "shoal.lab",
    "Records": "shoal.lab",
    "RunSpec": "shoal.spec",
    "UserError": "shoal.errors",
    "grid": "shoal.spec",
    "resume": "shoal.training",
    "train": "shoal.training",
    "tune": "shoal.tuning",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return _version()
    if name in ("parts", "practical"):
        return importlib.import_module(f"shoal.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'shoal' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def _version() -> str:
    """The version that is installed; ``unknown`` of a source tree that is not."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("shoal")
    except PackageNotFoundError:
        return "unknown"


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "__version__"})
