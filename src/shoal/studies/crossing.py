"""Settings crossed with the one that a study asks for: the seeds, and every other setting that varies with it."""

from collections.abc import Iterable

import polars as pl

from shoal.analysis.blocks import crossed
from shoal.registry import KINDS
from shoal.spec.known import known_settings
from shoal.spec.training import SEEDS

SEED_AXES = ("seed", *SEEDS)


def crossing(frame: pl.DataFrame, asked: str, made_of: Iterable[str] = ()) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Seeds and other settings in which runs have to agree to be compared by the asked setting.

    Args:
        frame: one row per run, with its settings.
        asked: column of the setting or quantity of interest.
        made_of: settings that a quantity is computed from: the number of parameters is made of depth and width, so that
            it could not vary with these held.
    """
    columns = [asked, *made_of]
    seeds = crossed(frame, columns, SEED_AXES) or ("seed",)
    settings = [name for name in (*KINDS, *known_settings()) if name not in SEED_AXES]
    return seeds, crossed(frame, columns, settings)
