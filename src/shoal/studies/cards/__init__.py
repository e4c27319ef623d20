"""Reproduction cards: published settings written down exactly, and what our runs of them say of the published numbers.

A card is a study whose module also names its source, the published numbers and curves and every known deviation.
"""

import importlib
from typing import cast

from shoal.errors import UserError, nearest
from shoal.studies.base import Study

NAMES = ("practical", "nanda-2023", "power-2022", "grokfast-baseline")


def get_card(name: str) -> Study:
    """The card of this name.

    Raises:
        UserError: there is none.
    """
    if name not in NAMES:
        raise UserError(f"unknown card {name!r}: one of {' '.join(NAMES)}{nearest(name, NAMES)}")
    return cast(Study, importlib.import_module(f"shoal.studies.cards.{name.replace('-', '_')}"))
