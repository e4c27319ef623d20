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
    """Mean and spread of each group at each step, and whether they are of all of its runs.

    A mean over the runs that are left bends where one leaves, whatever they learn; so it is told apart. Steps are left
    out at which some of the runs that go on have no value: the last step of a run need not be one of the others'.

    Args:
        frame: ``run``, ``step``, the columns ``by`` and the values, all of them finite.
        by: columns that tell curves apart.
        column: the values.

    Returns:
        As :func:`spread` by ``by`` and ``step``, with ``whole``: no run of the curve has ended before this step.
    """
    ends = frame.group_by([*by, "run"]).agg(pl.col("step").max().alias("end"))
    # runs of a curve that have ended at or before each of their ends
    ended = (
        ends.group_by([*by, "end"])
        .agg(pl.len().alias("ended"))
        .sort("end")
        .with_columns(pl.col("ended").cum_sum().over(by))
    )
    steps = spread(frame, [*by, "step"], column).join(ends.group_by(by).agg(pl.len().alias("runs")), on=list(by))
    return (
        steps.sort("step")
        .join_asof(
            ended, left_on="step", right_on="end", by=list(by), allow_exact_matches=False, check_sortedness=False
        )
        .with_columns(pl.col("ended").fill_null(0))
        .filter(pl.col("n") == pl.col("runs") - pl.col("ended"))
        .with_columns(whole=pl.col("ended") == 0)
        .drop("runs", "ended", "end")
        .sort(*by, "step")
    )


def quantiles(frame: pl.DataFrame, by: Sequence[str], column: str) -> pl.DataFrame:
    """Quantiles 0.05, 0.25, 0.75 and 0.95 of each group's values, interpolated linearly between neighbours.

    Returns:
        The columns ``by``, ``q05``, ``q25``, ``q75`` and ``q95``, one row per group, sorted by ``by``.
    """
    shares = {f"q{share:02d}": share / 100 for share in (5, 25, 75, 95)}
    value = pl.col(column)
    return (
        frame.group_by(by).agg(value.quantile(share, "linear").alias(name) for name, share in shares.items()).sort(by)
    )


def end_together(curves: pl.DataFrame, by: Sequence[str]) -> bool:
    """Return True if the runs of each curve have the same last step, so that all means are of all runs."""
    ends = curves.group_by([*by, "run"]).agg(pl.col("step").max().alias("end"))
    return bool((ends.group_by(by).agg(pl.col("end").n_unique())["end"] == 1).all())
