"""Times to a threshold: their extraction from curves, and the checks that every analysis of them makes.

A time is the *first* evaluated step on the right side of the threshold. A run may fall back afterwards: ``fell_back``
marks the runs in which that was seen. ``stay`` requires that a run be on the right side at so many evaluations in a
row; the time is then the first of these. Staying is known only where enough evaluations follow. A run that did not stay
is therefore censored at the last evaluation which ``stay − 1`` others follow, whatever its last values are: otherwise
censoring would depend on the time itself.

Values are compared in float32, as they were recorded, in which 9 of 10 are 0.9.
"""

import math
from typing import Any, Literal

import polars as pl

from shoal.analysis.columns import (
    as_float,
    check_columns,
    check_curves,
    check_numbers,
    check_steps,
    check_values,
    is_count,
    is_integer,
    is_number,
)
from shoal.errors import UserError, nearest
from shoal.measures import Measure, Measures

FINISHED = ("done", "diverged")
UNFINISHED = ("waiting", "running", "interrupted", "left", "damaged")
LATEST = 10**15  # steps
_DIRECTIONS = ("at least", "at most")
_INFINITE = 2.0**128 - 2.0**103  # the smallest number that float32 rounds to infinity


def check_times(times: pl.DataFrame, time: str = "time", observed: str = "observed") -> pl.DataFrame:
    """Check of times, which every function that uses them makes first.

    Args:
        times: a column of times and one of event indicators, named below, and perhaps ``state`` and ``fell_back``.
        time: name of the column of times, numbers from 0 to 10^15, whose squares can be added.
        observed: name of the column that is false where a time is censored; booleans, or 0 and 1.

    Returns:
        ``times`` with ``observed`` as booleans.

    Raises:
        UserError: names the column, and the first row, counted from 1, that holds anything else.
    """
    check_columns(times, [time, observed])
    # a column without values says nothing of its kind
    times = times.with_columns(pl.col(name).cast(pl.Int64) for name in (time, observed) if times[name].dtype == pl.Null)
    check_numbers(times, [time])
    check_values(times, time, is_count(time) & (pl.col(time) <= LATEST), "a finite number of at least 0, up to 10^15")
    check_flags(times, observed)
    times = check_states(times)
    if "fell_back" in times.columns:
        check_flags(times, "fell_back", null=True)
    if times.schema[time].is_decimal():
        times = times.with_columns(pl.col(time).cast(pl.Float64))
    return times.with_columns(pl.col(observed).cast(pl.Boolean))


def check_flags(frame: pl.DataFrame, name: str, null: bool = False) -> None:
    """Raise :class:`UserError` naming the first row that holds neither true or false, nor 1 or 0 (nor null)."""
    kind = frame.schema[name]
    if not (kind == pl.Boolean or kind.is_numeric() or (null and kind == pl.Null)):
        raise UserError(f"column {name!r} must hold true and false, or 1 and 0; it holds {kind}")
    is_flag = pl.col(name).cast(pl.Float64).is_in([0.0, 1.0])
    check_values(frame, name, (pl.col(name).is_null() & null) | is_flag, "true or false, or 1 or 0")


def check_horizon(horizon: Any) -> None:
    """Raise :class:`UserError` unless the horizon is None or a finite number above 0."""
    if horizon is not None and not (is_number(horizon) and math.isfinite(horizon) and horizon > 0):
        raise UserError(f"horizon must be a finite number of steps above 0, got {horizon!r}")


def check_states(frame: pl.DataFrame) -> pl.DataFrame:
    """The frame with its column ``state``, where it has one, as text.

    Raises:
        UserError: ``state`` holds anything but states and null.
    """
    if "state" not in frame.columns:
        return frame
    kind = frame.schema["state"]
    if kind not in (pl.String, pl.Categorical, pl.Enum, pl.Null):
        raise UserError(f"column 'state' must hold text, it holds {kind}")
    frame = frame.with_columns(pl.col("state").cast(pl.String))
    known = (*FINISHED, *UNFINISHED)
    check_values(frame, "state", pl.col("state").is_null() | pl.col("state").is_in(known), f"one of {' '.join(known)}")
    return frame


def at_least(column: str, threshold: float) -> pl.Expr:
    """Expression that is true where a recorded value is at least a threshold; NaN never is."""
    value, least = _as_recorded(column, threshold)
    return (value >= least) & value.is_not_nan()


def at_most(column: str, threshold: float) -> pl.Expr:
    """Expression that is true where a recorded value is at most a threshold; NaN never is."""
    value, most = _as_recorded(column, threshold)
    return (value <= most) & value.is_not_nan()


def reaches(column: str, threshold: float, measure: Measure) -> pl.Expr:
    """Expression that is true where a recorded value of a measure is on the right side of a threshold."""
    return (at_least if measure.higher_is_better else at_most)(column, threshold)


def _as_recorded(column: str, threshold: float) -> tuple[pl.Expr, pl.Expr]:
    if not (is_number(threshold) and abs(as_float(threshold)) < _INFINITE):
        raise UserError(f"threshold must be a finite number, got {threshold!r}")
    return pl.col(column).cast(pl.Float32), pl.lit(threshold, dtype=pl.Float32)


def time_to(
    curves: pl.DataFrame,
    column: str = "valid_accuracy",
    threshold: float = 0.99,
    direction: Literal["at least", "at most"] = "at least",
    states: pl.DataFrame | None = None,
    stay: int = 1,
) -> pl.DataFrame:
    """First evaluated step at which each run's ``column`` is on the right side of ``threshold``, and stays there.

    Args:
        curves: ``run``, ``step`` and ``column``, one row per evaluation in any order. Null means not measured at that
            step; NaN is a value that reaches no threshold.
        column: the watched quantity.
        threshold: accuracy (``at least``) or loss in nats (``at most``).
        direction: the right side.
        states: ``run`` and ``state``, perhaps ``step``, as in :meth:`shoal.lab.Records.runs`. Runs that were never
            evaluated are censored at step 0.
        stay: number of evaluations in a row at which it must be there; the first of them is the time.

    Returns:
        One row per run: ``run``, ``time`` (steps; of a run that never reached the threshold its last evaluated step
        which ``stay − 1`` others follow, or the step at which it diverged), ``observed`` (true where it reached the
        threshold), ``fell_back`` (true where it did and was on the wrong side at a later evaluation) and ``state``
        (null where ``states`` lacks the run). A run that reached the threshold and diverged later is observed.

    Raises:
        UserError: a column, the direction or a state is unknown, a value is no number, a run or step is missing, or
            stands in several rows.
    """
    check_curves(curves, [column])
    if direction not in _DIRECTIONS:
        allowed = " or ".join(map(repr, _DIRECTIONS))
        raise UserError(f"unknown direction {direction!r}: {allowed}{nearest(direction, _DIRECTIONS)}")
    if not is_integer(stay) or stay < 1:
        raise UserError(f"stay must be a whole number of evaluations of at least 1, got {stay!r:.60}")
    stay = min(stay, len(curves) + 1)  # more than there are is never reached
    states = _checked_states_of(curves, states)
    evaluated = _evaluated(curves, column, (at_least if direction == "at least" else at_most)(column, threshold), stay)
    ended = pl.when(pl.col("state") == "diverged").then(pl.col("ended"))
    return (
        pl.concat([curves.select("run"), states.select("run")])
        .unique(maintain_order=True)
        .join(evaluated, on="run", how="left", maintain_order="left")
        .join(states.select("run", "state", pl.col("step").alias("ended")), on="run", how="left", maintain_order="left")
        .select(
            "run",
            pl.coalesce("first", pl.max_horizontal("last", ended), 0).cast(pl.Int64).alias("time"),
            pl.col("first").is_not_null().alias("observed"),
            pl.col("fell_back").fill_null(False),
            "state",
        )
    )


def _evaluated(curves: pl.DataFrame, column: str, right: pl.Expr, stay: int) -> pl.DataFrame:
    """Per evaluated run: the ``first`` step at which it is there and stays, the ``last`` step of which that is known,
    and ``fell_back``, true where it was on the wrong side later."""
    step = pl.col("step")
    count = pl.col("right").cum_sum().over("run")
    return (
        curves.filter(pl.col(column).is_not_null())
        .sort("step")
        .select("run", "step", right.cast(pl.Int64).alias("right"))
        # of this evaluation and those that follow; null where too few do
        .with_columns(stays=(count.shift(1 - stay) - count + pl.col("right") == stay).over("run"))
        .group_by("run")
        .agg(
            step.filter("stays").min().alias("first"),
            step.filter(pl.col("stays").is_not_null()).max().alias("last"),
            ((pl.col("right") == 0) & (step > step.filter("stays").min())).any().alias("fell_back"),
        )
    )


def _checked_states_of(curves: pl.DataFrame, states: pl.DataFrame | None) -> pl.DataFrame:
    """Table of ``run``, ``state`` and ``step`` of the runs in ``states``."""
    kind = curves.schema["run"]
    if states is None:
        return pl.DataFrame(schema={"run": kind, "state": pl.String, "step": pl.Int64})
    check_columns(states, ["run", "state"])
    if "step" not in states.columns:
        states = states.with_columns(step=pl.lit(None, dtype=pl.Int64))
    if states.schema["run"] != kind:
        raise UserError(f"runs are {kind} in the curves and {states.schema['run']} in the states; they must be alike")
    check_values(states, "run", pl.col("run").is_not_null(), "the name of a run")
    check_numbers(states, ["step"])
    check_steps(states, null=True)
    twice = states.filter(states["run"].is_duplicated())
    if len(twice):
        raise UserError(f"run {twice['run'][0]!r} has several rows of states")
    return check_states(states).with_columns(pl.col("step").cast(pl.Int64))


def time_to_generalise(
    curves: pl.DataFrame,
    measures: Measures,
    states: pl.DataFrame | None = None,
    stay: int = 1,
    threshold: float | None = None,
) -> pl.DataFrame:
    """Times of :func:`time_to` for the threshold at which the task counts a run as generalised, or for another one.

    Raises:
        UserError: as there; or the task has no such threshold and none is given.
    """
    criterion = measures.generalised
    shown = measures.shown
    if threshold is not None:
        side: Literal["at least", "at most"] = "at least" if shown.higher_is_better else "at most"
        return time_to(curves, f"valid_{shown.name}", threshold, side, states, stay)
    if criterion is None:
        raise UserError("the task of these runs does not say when a run has generalised: name a column and a threshold")
    direction: Literal["at least", "at most"] = "at least" if measures.shown.higher_is_better else "at most"
    return time_to(curves, criterion.column, criterion.threshold, direction, states, stay)


def first_step_at_least(curves: pl.DataFrame, column: str, threshold: float, stay: int = 1) -> pl.DataFrame:
    """Observed times of :func:`time_to`: null for a run that never reached the threshold.

    Returns:
        ``run`` and ``step``.
    """
    times = time_to(curves, column, threshold, stay=stay)
    return times.select("run", pl.when("observed").then("time").alias("step"))
