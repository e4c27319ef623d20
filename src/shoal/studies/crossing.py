"""Settings crossed with the one that a study asks for: the seeds, and every other setting that varies with it."""

from collections.abc import Iterable

import polars as pl

from shoal.analysis.blocks import crossed
from shoal.registry import KINDS
from shoal.spec.known import known_settings
from shoal.spec.training import SEEDS

SEED_AXES = ("seed", *SEEDS)
SOURCES = ("lab", "form")  # columns of runs of several labs, or of several forms of a study, beside each other


def crossing(
    frame: pl.DataFrame, asked: str, made_of: Iterable[str] = (), more: Iterable[str] = ()
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Seeds and other settings in which runs have to agree to be compared by the asked setting.

    Args:
        frame: one row per run, with its settings.
        asked: column of the setting or quantity of interest.
        made_of: settings that a quantity is computed from: the number of parameters is made of depth and width, so that
            it could not vary with these held.
        more: columns of further settings, which only parts from outside of shoal have.
    """
    columns = [asked, *made_of]
    seeds = crossed(frame, columns, SEED_AXES) or ("seed",)
    known = dict.fromkeys((*SOURCES, *KINDS, *known_settings(), *more))
    return seeds, crossed(frame, columns, [name for name in known if name not in SEED_AXES])
