"""A published number beside the distribution of ours: the rule, and its words."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import polars as pl

from shoal.analysis import logrank, survival_summary, time_to
from shoal.analysis.prediction import Prediction, fit_log_normal, predict, rank_p, ratio
from shoal.studies.results import Results

ALPHA = 0.05
FACTOR = 3.0  # how far an interval may reach to a side and still tell
CONSISTENT, INCONSISTENT = "consistent", "not consistent"
TOO_FEW, NOT_RUN = "too few runs to tell", "not run"
WORDS = (CONSISTENT, INCONSISTENT, TOO_FEW, NOT_RUN)
RULE = (
    "Rule: logarithms of times are taken to be normal, and a published time is compared with the interval that holds "
    "one more run of ours with 95 %, ȳ ± t s √(1 + 1/N); a published mean of m runs with that of such a mean, about "
    "ȳ ± t s √(1/m + 1/N); of an upper bound the question is whether a run of ours can be as early, one-sided. A run "
    "that had not got there by its end is censored there, one that diverged where the last of ours ended; mean and "
    "deviation are then those of maximum likelihood, with one degree of freedom less than runs that got there. Where a "
    "publication has the times of many runs, the two samples are compared by the log-rank test, with the ratio of "
    "their medians. P values are corrected by Holm over what was tried of this reproduction, curves included. Not "
    "consistent: the corrected p is at most 0.05, which happens to a reproduction whose numbers are all of our "
    "distributions in at most 5 % of cases. Too few runs to tell: it is not, but the interval, widened for what was "
    "tried, reaches further than a factor of 3 to a side, or fewer than two runs got there, so that a number three "
    "times as large could have passed. "
    "Consistent: neither. The deviation is at least that of the grid of evaluations on which times lie. The rank p "
    "assumes no distribution: it is that of the published number's place among ours."
)


@dataclass(frozen=True)
class Published:
    """A number that someone reported.

    Attributes:
        what: the event, and the condition where there are several.
        value: the step at which it happened there; of several runs, where each is known.
        source: who reported it, with how many runs where known.
        where: settings of those of our runs that it is compared with.
        column: what is watched, or a column of the extrema that begins with ``t_``.
        threshold: what it has to reach; for a column that begins with ``t_``, the best value that counts.
        at_most: whether it has to come down to the threshold.
        is_bound: whether the value is an upper bound of the time.
        runs: how many runs the value is the mean of.
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
        """The value, or those of several runs."""
        return self.value if isinstance(self.value, tuple) else (self.value,)

    def written(self) -> str:
        """The value as a reader wants it."""
        return f"{'≤ ' if self.is_bound else ''}{', '.join(map(steps, self.values))}"


@dataclass(frozen=True)
class Verdict:
    """What our runs say of a published number.

    Attributes:
        published: the number.
        times: ``time``, ``observed`` (whether it got there) and ``diverged`` (and did not get there) of our runs.
        word: one of :data:`WORDS`.
        why: in words.
        interval: low and high end of where it should lie; of several runs, of the ratio of medians, ours over theirs.
        p: of the comparison; None where there was none.
        p_holm: corrected for what was tried of the reproduction.
        p_rank: of its place among ours.
        prediction: of one number; what tells how far it reaches.
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
    """Thousands apart, and decimals where there are any.

    >>> steps(82.5), steps(1e6)
    ('82.5', '1,000,000')
    """
    return f"{value:,.10g}"


def worded(verdict: Verdict, p_holm: float | None, tests: int = 1) -> Verdict:
    """The verdict with its p corrected for so many tests, which may contradict, or may be too wide to."""
    if p_holm is not None and p_holm <= ALPHA:
        return replace(verdict, word=INCONSISTENT, p_holm=p_holm)
    if verdict.prediction is not None and verdict.prediction.factor(tests) > FACTOR:
        return replace(verdict, word=TOO_FEW, p_holm=p_holm)
    return replace(verdict, p_holm=p_holm)


def compare(published: Published, results: Results) -> Verdict:
    """The verdict on the runs that a published number names, before it is corrected for others."""
    own = results.of(**published.where)
    times = pl.DataFrame(schema=_TIMES) if own.curves.is_empty() else _times(published, own)
    if times.is_empty():
        return Verdict(published, times, NOT_RUN, "none of our runs has these settings")
    return compare_times(published, times)


def compare_times(published: Published, times: pl.DataFrame) -> Verdict:
    """The verdict, before it is corrected, on times of ours: ``time``, ``observed``, ``diverged``, perhaps ``before``.

    Args:
        published: the number, or numbers.
        times: of our runs; with ``before``, the evaluation before each, they lie on that grid.
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
    found = predict(ours, value, published.runs, published.is_bound)
    ends, why = (found.low, found.high), _placed(found, times)
    return replace(verdict, word=CONSISTENT, why=why, interval=ends, p=found.p, p_rank=p_rank, prediction=found)


def _two_samples(verdict: Verdict, found: tuple[float, float] | None) -> Verdict:
    """Our times beside those of several published runs."""
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
    if found is None or test.p is None:
        return verdict
    of_medians = ""
    if None not in (medians["ours"], medians["theirs"]):
        of_medians = f"medians {steps(medians['ours'])} and {steps(medians['theirs'])}, "
    wide = math.sqrt(found[1] / found[0]) > FACTOR or (test.smallest_p or 0) > ALPHA
    why = f"{of_medians}ratio {medians_ratio(found)} (95 %); log-rank p {test.p:.2g}"
    return replace(verdict, word=TOO_FEW if wide else CONSISTENT, why=why, interval=found, p=test.p)


def medians_ratio(interval: tuple[float, float]) -> str:
    """A ratio's interval as a reader wants it."""
    return f"{interval[0]:.2f} to {interval[1]:.2f}"


def _placed(found: Prediction, times: pl.DataFrame) -> str:
    """Where the published number should lie, in words."""
    n, reached = len(times), int(times["observed"].sum())
    censored = "" if reached == n else f" ({n - reached} censored)"
    ends = (
        f"{rounded(found.low)} or later" if math.isinf(found.high) else f"{rounded(found.low)} to {rounded(found.high)}"
    )
    return f"95 % of {n} runs{censored}: {ends}"


def _got_there(times: pl.DataFrame) -> str:
    reached, n = int(times["observed"].sum()), len(times)
    late = times.filter(~pl.col("observed"))["time"]
    if late.is_empty():
        return f"{n} of our runs alone tell{'s' if n == 1 else ''} no deviation"
    lost = int(times["diverged"].sum())
    diverged = f"; {lost} diverged" if lost else ""
    return f"{reached} of {n} runs got there, the others not by {rounded(float(late.min()))}{diverged}"  # type: ignore[arg-type]


def rounded(value: float) -> str:
    """A step of an interval, to three digits.

    >>> rounded(12345.6), rounded(82.54)
    ('12,300', '82.5')
    """
    digits = 2 - math.floor(math.log10(value)) if value > 0 and not math.isinf(value) else 0
    return f"{round(value, digits):,.10g}"


_TIMES = {"time": pl.Float64, "observed": pl.Boolean, "diverged": pl.Boolean, "before": pl.Float64}


def _times(published: Published, own: Results) -> pl.DataFrame:
    """One row per run, in their order."""
    states = own.runs.select("run", "state", "step")
    column = published.column.removeprefix("t_")
    direction = "at most" if published.at_most else "at least"
    found = time_to(own.curves, column, published.threshold, direction, states)  # type: ignore[arg-type]
    found = states.join(found.drop("state"), on="run", how="left", maintain_order="left")
    lost = pl.col("state") == "diverged"
    if column != published.column:
        best = own.extrema.select("run", pl.col(published.column).alias("best"))
        found = found.join(best, on="run", how="left", maintain_order="left").with_columns(
            # of a run in training the best may still improve: no earlier than it is now
            pl.when(lost).then("step").when("observed").then("best").otherwise("time").alias("time"),
            pl.col("observed") & (pl.col("state") == "done"),
        )
    evaluated = own.curves.select("run", pl.col("step").alias("before"))
    before = found.select("run", "time").join(evaluated, on="run").filter(pl.col("before") < pl.col("time"))
    found = found.join(before.group_by("run").agg(pl.col("before").max()), on="run", how="left", maintain_order="left")
    found = found.with_columns(pl.col("before").fill_null(pl.col("time")), diverged=lost & ~pl.col("observed"))
    return found.select(*_TIMES).cast({"time": pl.Float64, "before": pl.Float64})
