"""Gaps between evaluations that look wide on a logarithmic axis of steps.

Evaluations every hundred steps lie far apart at the left of a logarithmic axis. A line drawn across such a gap looks
like a slow rise where there may have been a jump, so it is broken there, and the evaluations at its ends are dots.
"""

from collections.abc import Sequence

import polars as pl

WIDE = 1.15  # ratio of two steps evaluated one after the other from which the eye takes what is between for a course
GAP_NOTE = (
    "Dots: evaluations with a wide gap beside them, or without any other; nothing was measured between two of them, "
    "and only a pale line or shade joins them."
)


def with_gaps(lines: pl.DataFrame, by: Sequence[str]) -> pl.DataFrame:
    """The points of lines, sorted, each with ``gap``, whether there is a wide gap before it, and ``beside``, whether
    there is one before or after it, or it is the only point of its line.

    A gap is wide where the step is more than :data:`WIDE` times the one before, and steps between were left out.

    Args:
        lines: ``step`` and ``by``, every evaluation.
        by: columns that tell lines apart.
    """
    step, before = pl.col("step"), pl.col("step").shift(1).over(by)
    gap = ((step - before > 1) & (step > WIDE * before)).fill_null(False)
    ordered = lines.sort(*by, "step").with_columns(gap=gap)
    beside = pl.col("gap") | pl.col("gap").shift(-1).over(by).fill_null(False)
    return ordered.with_columns(beside=beside | (pl.len().over(by) == 1))


def broken(lines: pl.DataFrame, by: Sequence[str], column: str) -> pl.DataFrame:
    """Lines of :func:`with_gaps` with a row without a value within each wide gap, where a chart breaks them."""
    step = pl.col("step").cast(pl.Float64)
    breaks = lines.filter("gap").with_columns(step - 0.5, pl.lit(None, lines.schema[column]).alias(column))
    return pl.concat([lines.with_columns(step), breaks]).sort(*by, "step")
