"""Resolution of recorded steps: a run first seen past a threshold at one evaluation passed it after the one before."""

from collections.abc import Iterable

import polars as pl

from shoal.spec import RunSpec

SETTINGS = ("eval_first", "eval_period")


def evaluated_before(column: str) -> pl.Expr:
    """The evaluation before the one at a step that was evaluated; 0 has none before it and gives 0.

    Args:
        column: the step, in a frame with the settings ``eval_first`` and ``eval_period`` of each run.
    """
    step, first, period = pl.col(column), pl.col("eval_first"), pl.col("eval_period")
    on_the_grid = (step - 1) // period * period
    return pl.when(step <= first).then(step - 1).otherwise(pl.max_horizontal(first, on_the_grid)).clip(lower_bound=0)


def grid_note(specs: Iterable[RunSpec]) -> str:
    """Evaluation grids of runs in words, which bound the error of a first step."""
    grids = dict.fromkeys((spec.eval_first, spec.eval_period) for spec in specs)
    periods = " or ".join(f"every step up to {first:,}, then every {period:,}" for first, period in grids)
    return (
        f"Steps are known up to the grid of evaluations ({periods}): an event first seen at one happened after the one "
        "before it."
    )
