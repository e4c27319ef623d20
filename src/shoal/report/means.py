"""Means over runs with their spread: computed here, not by charts, so that every form of a figure shows the same."""

from collections.abc import Sequence

import polars as pl


def spread(frame: pl.DataFrame, by: Sequence[str], column: str) -> pl.DataFrame:
    """Mean and mean ± one population standard deviation of each group, kept inside what the runs took.

    Returns:
        The columns ``by``, by which it is sorted, ``n`` rows of each group, ``mean``, ``low`` and ``high``.
    """
    value = pl.col(column)
    deviation = value.std(ddof=0)
    return (
        frame.group_by(by, maintain_order=True)
        .agg(
            pl.len().alias("n"),
            value.mean().alias("mean"),
            pl.max_horizontal(value.mean() - deviation, value.min()).alias("low"),
            pl.min_horizontal(value.mean() + deviation, value.max()).alias("high"),
        )
        .sort(by)
    )


def mean_curves(frame: pl.DataFrame, by: Sequence[str], column: str) -> pl.DataFrame:
    """The spread at each step, and whether it is of all runs.

    A mean over the runs that are left bends where one leaves, whatever they learn; so it is told apart. Steps are left
    out at which some of the runs that go on have no value: the last step of a run need not be one of the others'.

    Args:
        frame: ``run``, ``step``, the columns ``by`` and the values, all of them finite.
        by: what tells curves apart.
        column: the values.

    Returns:
        As :func:`spread` by ``by`` and ``step``, with ``whole``: no run of the curve has ended before this step.
    """
    ends = frame.group_by([*by, "run"]).agg(pl.col("step").max().alias("end"))
    steps = spread(frame, [*by, "step"], column)
    going_on = pl.col("end") >= pl.col("step")
    runs = (
        steps.select(*by, "step")
        .join(ends, on=list(by))
        .group_by([*by, "step"])
        .agg(going_on.sum().alias("going_on"), going_on.all().alias("whole"))
    )
    return (
        steps.join(runs, on=[*by, "step"], maintain_order="left")
        .filter(pl.col("n") == pl.col("going_on"))
        .drop("going_on")
    )


def end_together(curves: pl.DataFrame, by: Sequence[str]) -> bool:
    """Whether the runs of each curve have the same last step, so that all means are of all runs."""
    ends = curves.group_by([*by, "run"]).agg(pl.col("step").max().alias("end"))
    return bool((ends.group_by(by).agg(pl.col("end").n_unique())["end"] == 1).all())
