"""The upper end of an axis of losses: one that grows without bound would press all others to the bottom."""

import altair as alt
import polars as pl

from shoal.report.words import number

TIMES = 10.0  # the loss of an untrained model: a run that is above only diverges


def ceiling(curves: pl.DataFrame, column: str) -> float | None:
    """Ten times the largest value at the first evaluation of a run; None where no value is above it, or most are.

    Args:
        curves: ``run``, ``step`` and the column, with step 0 where it was evaluated.
        column: the loss.
    """
    value = pl.col(column).cast(pl.Float64)
    finite = curves.select("run", "step", value).filter(value.is_finite())
    first = finite.filter(pl.col("step") == pl.col("step").min().over("run"))  # of both splits, where both are here
    if first.is_empty():
        return None
    top = TIMES * first.select(pl.col(column).max()).item()
    above = finite.filter(pl.col("step") > 0).select((pl.col(column) > top).mean()).item()
    return top if top > 0 and above is not None and 0 < above <= 0.5 else None


def log_scale(top: float | None) -> alt.Scale:
    """Logarithmic scale of a loss up to ``top``, or to the largest value."""
    return alt.Scale(type="log", nice=False, domainMax=alt.Undefined if top is None else top)


def cut_title(title: str, top: float | None) -> str:
    """Title of an axis, which says where it ends although values go on.

    >>> cut_title("L_val (nats)", 41.7), cut_title("L_val (nats)", None)
    ('L_val (nats), cut at 41.7', 'L_val (nats)')
    """
    return title if top is None else f"{title}, cut at {number(top)}"
