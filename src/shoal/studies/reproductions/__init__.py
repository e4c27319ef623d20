"""Reproductions: exact settings of publications, and comparisons of our runs with the published numbers.

A reproduction is a study whose module also names its source, the published numbers and curves, and every known
deviation.
"""

import importlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, cast

from shoal.errors import UserError, nearest

if TYPE_CHECKING:
    from shoal.studies.base import Study

# with the subject of each, so that a list needs no reproduction's module
NAMES: Mapping[str, str] = MappingProxyType(
    {
        "practical": "the practical's defaults: when LSTM and GPT generalise, beside three reports",
        "nanda-2023": "Nanda et al. 2023: a + b mod 113, one layer, no LayerNorm; when the test loss falls below 0.01",
        "power-2022": "Power et al. 2022: a / b mod 97, Adam, no decay; memorised by 10³, generalised near 10⁶ steps",
        "grokfast-baseline": "Grokfast's baseline: a · b mod 97, Adam without weight decay; validation accuracy 0.95",
        "multi30k": "Trevett's transformer on Multi30k (--source FILE …): test BLEU 36.52 and perplexity 5.32",
    }
)


def get_reproduction(name: str) -> "Study":
    """Reproduction of this name.

    Raises:
        UserError: there is none.
    """
    if name not in NAMES:
        raise UserError(f"unknown reproduction {name!r}: one of {' '.join(NAMES)}{nearest(name, NAMES)}")
    return cast("Study", importlib.import_module(f"shoal.studies.reproductions.{name.replace('-', '_')}"))
