"""Which questions are asked: one module per study."""

import importlib
from typing import cast

from shoal.errors import UserError, nearest
from shoal.studies.base import Form, Grid, Study
from shoal.studies.results import Results

__all__ = ["NAMES", "Form", "Grid", "Results", "Study", "get_study"]

NAMES = ("sanity", "data-scaling", "mixed-orders", "model-scaling", "compute-scaling", "regularization", "attention")


def get_study(name: str) -> Study:
    """The study of this name.

    Raises:
        UserError: there is none.
    """
    if name not in NAMES:
        raise UserError(f"unknown study {name!r}: one of {' '.join(NAMES)}{nearest(name, NAMES)}")
    return cast(Study, importlib.import_module(f"shoal.studies.{name.replace('-', '_')}"))
