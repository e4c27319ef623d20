"""Comparison of a published number with the distribution of ours: the rule, and its words."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import polars as pl

from shoal.analysis import logrank, survival_summary, time_to
from shoal.analysis.prediction import Prediction, fit_log_normal, predict, rank_p, ratio
from shoal.studies.results import Results

ALPHA = 0.05
FACTOR = 3.0  # largest factor from the middle to an end of an interval that still decides
CONSISTENT, INCONSISTENT = "consistent", "not consistent"
TOO_FEW, NOT_RUN = "too few runs to tell", "not run"
WORDS = (CONSISTENT, INCONSISTENT, TOO_FEW, NOT_RUN)
RULE = (
    "Rule: logarithms of times are taken to be normal, and a published time is compared with the interval that holds "
    "one more run of ours with 95 %, ȳ ± t s √(1 + 1/N); a published mean of m runs with that of such a mean, about "
    "ȳ ± t s √(1/m + 1/N); of an upper bound the question is whether a run of ours can be as early, one-sided. A run "
    "that had not reached it by its end is censored there, one that diverged where the last of ours ended; mean and "
    "deviation are then those of maximum likelihood, with one degree of freedom less than runs that reached it. Where "
    "a publication has the times of many runs, the two samples are compared by the log-rank test, with the ratio of "
    "their medians. P values are corrected by Holm over what was tried of this reproduction, curves included. Not "
    "consistent: the corrected p is at most 0.05, which happens to a reproduction whose numbers are all of our "
    "distributions in at most 5 % of cases. Too few runs to tell: it is not, but the interval, widened for what was "
    "tried, reaches further than a factor of 3 to a side, or fewer than two runs reached it, so that a number three "
    "times as large could have passed. "
    "Consistent: neither. The deviation is at least that of the grid of evaluations on which times lie. The rank p "
    "assumes no distribution: it is that of the published number's place among ours."
)


@dataclass(frozen=True)
class Published:
    """Published number.

    Attributes:
        what: the event, and the condition where there are several.
        value: published step of the event; a step for each of several runs, where known.
        source: source of the number, with its number of runs where known.
        where: settings of our runs that it is compared with.
        column: watched column, or a column of the extrema that begins with ``t_``.
        threshold: threshold of the column; for one that begins with ``t_``, the best value that counts.
        at_most: true where the column has to fall to the threshold.
        is_bound: true where the value is an upper bound of the time.
        runs: number of runs that the value is the mean of.
    """

    what: str
    value: float | tuple[float, ...]
    source: str
    where: Mapping[str, Any] = field(default_factory=dict)
    column: str = "valid_accuracy"
    threshold: float = 0.99
    at_most: bool = False
    is_bound: bool = False
    runs: int = 1

    @property
    def values(self) -> tuple[float, ...]:
        """Values of all published runs."""
        return self.value if isinstance(self.value, tuple) else (self.value,)

    def written(self) -> str:
        """Value as text for readers."""
        return f"{'≤ ' if self.is_bound else ''}{', '.join(map(steps, self.values))}"


@dataclass(frozen=True)
class Verdict:
    """Verdict of our runs on a published number.

    Attributes:
        published: the number.
        times: ``time``, ``observed`` (true where the event happened) and ``diverged`` (true where it diverged before)
            of our runs.
        word: one of :data:`WORDS`.
        why: reason in words.
        interval: ends of the prediction interval; for several runs, of the ratio of medians, ours over theirs.
        p: p value of the comparison; None where there was none.
        p_holm: p value corrected for all comparisons of the reproduction.
        p_rank: p value of its rank among ours.
        prediction: prediction interval for one number.
    """

    published: Published
    times: pl.DataFrame
    word: str
    why: str
    interval: tuple[float, float] | None = None
    p: float | None = None
    p_holm: float | None = None
    p_rank: float | None = None
    prediction: Prediction | None = None


def steps(value: float) -> str:
    """Step with thousands separators, and decimals where there are any.

    >>> steps(82.5), steps(1e6)
    ('82.5', '1,000,000')
    """
    return f"{value:,.10g}"


def worded(verdict: Verdict, p_holm: float | None, tests: int = 1) -> Verdict:
    """Verdict with its p corrected for ``tests``, which may make it inconsistent, or its interval too wide."""
    if p_holm is not None and p_holm <= ALPHA:
        return replace(verdict, word=INCONSISTENT, p_holm=p_holm)
    if verdict.prediction is not None and verdict.prediction.factor(tests) > FACTOR:
        return replace(verdict, word=TOO_FEW, p_holm=p_holm)
    return replace(verdict, p_holm=p_holm)


def compare(published: Published, results: Results) -> Verdict:
    """Verdict on a published number by the runs that it names, before correction for others."""
    matching = results.of(**published.where)
    times = pl.DataFrame(schema=_TIMES) if matching.curves.is_empty() else _times(published, matching)
    if times.is_empty():
        return Verdict(published, times, NOT_RUN, "none of our runs has these settings")
    return compare_times(published, times)


def compare_times(published: Published, times: pl.DataFrame) -> Verdict:
    """Verdict on a published number by our times: ``time``, ``observed``, ``diverged``, perhaps ``before``.

    Args:
        published: the number, or numbers.
        times: times of our runs; with ``before``, the evaluation before each, their grid is taken into account.
    """
    times = times.with_columns(time=pl.when("diverged").then(pl.col("time").max()).otherwise("time"))
    reached, resolution = times.filter("observed"), 0.0
    if "before" in times.columns and len(reached):
        resolution = float((reached["time"].clip(1) / reached["before"].clip(1)).log().median() or 0.0)  # type: ignore[arg-type]
    ours = fit_log_normal(times["time"].to_list(), times["observed"].to_list(), resolution)
    verdict = Verdict(published, times, TOO_FEW, _got_there(times))
    if len(published.values) > 1:
        theirs = fit_log_normal(published.values, [True] * len(published.values), resolution)
        return _two_samples(verdict, None if ours is None or theirs is None else ratio(ours, theirs))
    (value,) = published.values
    p_rank = None
    if published.runs == 1:
        p_rank = rank_p(value, times["time"].to_list(), times["observed"].to_list(), published.is_bound)
    if ours is None:
        return replace(verdict, p_rank=p_rank)
    prediction = predict(ours, value, published.runs, published.is_bound)
    ends, why = (prediction.low, prediction.high), _placed(prediction, times)
    return replace(
        verdict, word=CONSISTENT, why=why, interval=ends, p=prediction.p, p_rank=p_rank, prediction=prediction
    )


def _two_samples(verdict: Verdict, interval: tuple[float, float] | None) -> Verdict:
    """Verdict by a comparison of our times with those of several published runs."""
    theirs = pl.DataFrame({"time": verdict.published.values}, schema={"time": pl.Float64})
    both = pl.concat(
        [
            verdict.times.select(
                "time", "observed", state=pl.when("diverged").then(pl.lit("diverged")), whose=pl.lit("ours")
            ),
            theirs.select("time", observed=pl.lit(True), state=pl.lit(None, pl.String), whose=pl.lit("theirs")),
        ]
    )
    test, medians = logrank(both, "whose"), dict(survival_summary(both, "whose").select("whose", "median").iter_rows())
    if interval is None or test.p is None:
        return verdict
    of_medians = ""
    if None not in (medians["ours"], medians["theirs"]):
        of_medians = f"medians {steps(medians['ours'])} and {steps(medians['theirs'])}, "
    wide = math.sqrt(interval[1] / interval[0]) > FACTOR or (test.smallest_p or 0) > ALPHA
    why = f"{of_medians}ratio {medians_ratio(interval)} (95 %); log-rank p {test.p:.2g}"
    return replace(verdict, word=TOO_FEW if wide else CONSISTENT, why=why, interval=interval, p=test.p)


def medians_ratio(interval: tuple[float, float]) -> str:
    """Interval of a ratio as text for readers."""
    return f"{interval[0]:.2f} to {interval[1]:.2f}"


def _placed(prediction: Prediction, times: pl.DataFrame) -> str:
    """Description of the prediction interval of the published number."""
    n, reached = len(times), int(times["observed"].sum())
    censored = "" if reached == n else f" ({n - reached} censored)"
    ends = (
        f"{rounded(prediction.low)} or later"
        if math.isinf(prediction.high)
        else f"{rounded(prediction.low)} to {rounded(prediction.high)}"
    )
    return f"95 % of {n} runs{censored}: {ends}"


def _got_there(times: pl.DataFrame) -> str:
    reached, n = int(times["observed"].sum()), len(times)
    late = times.filter(~pl.col("observed"))["time"]
    if late.is_empty():
        return f"{n} of our runs alone tell{'s' if n == 1 else ''} no deviation"
    lost = int(times["diverged"].sum())
    diverged = f"; {lost} diverged" if lost else ""
    return f"{reached} of {n} runs reached it, the others not by {rounded(float(late.min()))}{diverged}"  # type: ignore[arg-type]


def rounded(value: float) -> str:
    """End of an interval in steps, to three digits.

    >>> rounded(12345.6), rounded(82.54)
    ('12,300', '82.5')
    """
    digits = 2 - math.floor(math.log10(value)) if value > 0 and not math.isinf(value) else 0
    return f"{round(value, digits):,.10g}"


_TIMES = {"time": pl.Float64, "observed": pl.Boolean, "diverged": pl.Boolean, "before": pl.Float64}


def _times(published: Published, results: Results) -> pl.DataFrame:
    """Times of our runs, one row per run, in their order."""
    states = results.runs.select("run", "state", "step")
    column = published.column.removeprefix("t_")
    direction = "at most" if published.at_most else "at least"
    times = time_to(results.curves, column, published.threshold, direction, states)  # type: ignore[arg-type]
    times = states.join(times.drop("state"), on="run", how="left", maintain_order="left")
    lost = pl.col("state") == "diverged"
    if column != published.column:
        best = results.extrema.select("run", pl.col(published.column).alias("best"))
        times = times.join(best, on="run", how="left", maintain_order="left").with_columns(
            # of a run in training the best may still improve: no earlier than it is now
            pl.when(lost).then("step").when("observed").then("best").otherwise("time").alias("time"),
            pl.col("observed") & (pl.col("state") == "done"),
        )
    evaluated = results.curves.select("run", pl.col("step").alias("before"))
    before = times.select("run", "time").join(evaluated, on="run").filter(pl.col("before") < pl.col("time"))
    times = times.join(before.group_by("run").agg(pl.col("before").max()), on="run", how="left", maintain_order="left")
    times = times.with_columns(pl.col("before").fill_null(pl.col("time")), diverged=lost & ~pl.col("observed"))
    return times.select(*_TIMES).cast({"time": pl.Float64, "before": pl.Float64})
