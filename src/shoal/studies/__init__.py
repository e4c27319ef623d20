"""Which questions are asked: one module per study."""

import importlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, cast

from shoal.errors import UserError, nearest

if TYPE_CHECKING:
    from shoal.studies.base import Form, Grid, Study
    from shoal.studies.results import Results

__all__ = ["NAMES", "Form", "Grid", "Results", "Study", "get_study"]

# with what each is about, so that a list needs no study's module
NAMES: Mapping[str, str] = MappingProxyType(
    {
        "sanity": "an LSTM and a GPT memorise modular addition and much later generalise",
        "data-scaling": "how much training data it takes to generalise: r_train from 0.1 to 0.9",
        "mixed-orders": "binary and ternary sums learned together, and which of them first",
        "model-scaling": "depth and width: L layers of width d, against the number of parameters",
        "compute-scaling": "batch size and number of steps: the best way to spend a budget of compute",
        "regularization": "weight decay, and the norm of the parameters before and after generalisation",
        "attention": "where the heads of a GPT that has generalised look",
        "seed-variance": "initialisation, split or batch order: which seed decides when a run generalises",
        "improve": "norms, positions, activation, tying, optimizer, smoothing, schedule: what helps a GPT, pairwise",
        "language": "an LSTM and a GPT learn a text (--text FILE) at equal compute, beside n-grams",
    }
)


def get_study(name: str) -> "Study":
    """The study of this name.

    Raises:
        UserError: there is none.
    """
    if name not in NAMES:
        raise UserError(f"unknown study {name!r}: one of {' '.join(NAMES)}{nearest(name, NAMES)}")
    return cast("Study", importlib.import_module(f"shoal.studies.{name.replace('-', '_')}"))


def __getattr__(name: str) -> Any:
    """Loaded when asked for, because results need what is measured and shown."""
    if name not in __all__:
        raise AttributeError(f"module 'shoal.studies' has no attribute {name!r}")
    return getattr(importlib.import_module(f"shoal.studies.{'results' if name == 'Results' else 'base'}"), name)
