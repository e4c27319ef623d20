"""Comparison of a published curve with ours: losses of the first steps, where a wrong warm-up shows."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from shoal.analysis.prediction import fit_log_normal, predict
from shoal.studies.reproductions.verdict import ALPHA, CONSISTENT, INCONSISTENT, NOT_RUN, TOO_FEW
from shoal.studies.results import Results

FEWEST = 4  # runs; with three, Student's t of a corrected interval is above 15
CURVE_RULE = (
    "A published curve is compared at its first step by the interval that holds the loss of one more run of ours, and "
    "at every other by that of the loss over the loss at the first step, so that what an initial value adds to all "
    "steps does not hide a change. The p of a curve is the smallest of its steps times their number (Bonferroni)."
)


@dataclass(frozen=True)
class PublishedCurve:
    """Published losses of one run, step by step.

    Attributes:
        what: name of the curve, and its condition.
        losses: losses by column of our curves, by step; all columns have the same steps.
        source: source of the curve.
        where: settings of our runs that it is compared with.
    """

    what: str
    losses: Mapping[str, Mapping[int, float]]
    source: str
    where: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class CurveVerdict:
    """Verdict of our runs on a published curve.

    Attributes:
        curve: the curve.
        points: one row per column and step: ``column``, ``step``, ``published``, ``low``, ``middle`` and ``high``
            (losses where 95 % of runs that begin as the published one would lie; at the first step of all runs), ``p``.
        n: number of our runs.
        word: as in a :class:`~shoal.studies.reproductions.verdict.Verdict`.
        p: p value of the curve.
        p_holm: p value corrected for all comparisons of the reproduction.
    """

    curve: PublishedCurve
    points: pl.DataFrame
    n: int
    word: str
    p: float | None = None
    p_holm: float | None = None


_POINTS = {"column": pl.String, "step": pl.Int64} | dict.fromkeys(
    ("published", "low", "middle", "high", "p"), pl.Float64
)


def judge_curve(curve: PublishedCurve, results: Results) -> CurveVerdict:
    """Verdict on a published curve by the runs that it names, before correction for other numbers."""
    matching = results.of(**curve.where)
    wanted = sorted({step for losses in curve.losses.values() for step in losses})
    curves = matching.curves.filter(pl.col("step").is_in(wanted))
    whole = curves.group_by("run").len().filter(pl.col("len") == len(wanted))["run"].to_list()
    return compare_curve(curve, curves.filter(pl.col("run").is_in(whole)))


def compare_curve(curve: PublishedCurve, ours: pl.DataFrame) -> CurveVerdict:
    """Verdict on a published curve by our losses: ``run``, ``step`` and the columns, at every published step."""
    n = ours["run"].n_unique()
    if n < FEWEST:
        return CurveVerdict(curve, pl.DataFrame(schema=_POINTS), n, TOO_FEW if n else NOT_RUN)
    rows = [row for column, losses in curve.losses.items() for row in _points(column, losses, ours)]
    points = pl.DataFrame(rows, _POINTS, orient="row")
    p = min(1.0, float(points["p"].min()) * len(points))  # type: ignore[arg-type]  # there are points
    return CurveVerdict(curve, points, n, CONSISTENT, p)


def worded_curve(verdict: CurveVerdict, p_holm: float | None) -> CurveVerdict:
    """Verdict with its corrected p, which may make it inconsistent."""
    word = INCONSISTENT if p_holm is not None and p_holm <= ALPHA else verdict.word
    return CurveVerdict(verdict.curve, verdict.points, verdict.n, word, verdict.p, p_holm)


def _points(column: str, losses: Mapping[int, float], ours: pl.DataFrame) -> list[tuple[Any, ...]]:
    """Rows of one column: losses at the first step, and ratios to these at the others."""
    first = min(losses)
    by_run = ours.pivot("step", index="run", values=column).drop("run").cast(pl.Float64)
    rows = []
    for step, published in losses.items():
        scale = 1.0 if step == first else losses[first]
        share = by_run[str(step)] if step == first else by_run[str(step)] / by_run[str(first)]
        ours_of_step = fit_log_normal(share.to_list(), [True] * len(share))
        assert ours_of_step is not None
        interval = predict(ours_of_step, published / scale)
        rows.append(
            (column, step, published, *(scale * x for x in (interval.low, interval.middle, interval.high)), interval.p)
        )
    return rows
