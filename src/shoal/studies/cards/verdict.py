"""A published number beside the distribution of ours: the rule, and its words."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from shoal.analysis import time_to
from shoal.studies.results import Results

RULE = (
    "Rule: a published time is covered when it lies between our earliest and our latest run, both included; a run that "
    "had not got there by its end counts as later than its end. If the published run and our N came from one "
    "distribution, it would be covered with probability (N − 1)/(N + 1). An upper bound is covered when all our runs "
    "stay under it. Where our runs ended before the published time without getting there, the question is open."
)


@dataclass(frozen=True)
class Published:
    """A number that someone reported.

    Attributes:
        what: the event, and the condition where there are several.
        value: the step at which it happened there.
        source: who reported it, with how many runs where known.
        where: settings of those of our runs that it is compared with.
        column: what is watched, or a column of the extrema that begins with ``t_``.
        threshold: what it has to reach.
        at_most: whether it has to come down to the threshold.
        is_bound: whether the value is an upper bound of the time.
    """

    what: str
    value: float
    source: str
    where: Mapping[str, Any] = field(default_factory=dict)
    column: str = "valid_accuracy"
    threshold: float = 0.99
    at_most: bool = False
    is_bound: bool = False


@dataclass(frozen=True)
class Verdict:
    """What our runs say of a published number.

    Attributes:
        published: the number.
        times: ``run``, ``time`` and ``observed`` of our runs.
        word: ``covered``, ``not covered``, ``open`` or ``not run``.
        why: in words.
    """

    published: Published
    times: pl.DataFrame
    word: str
    why: str


def judge(published: Published, results: Results) -> Verdict:
    """Compare a published number with the runs it names."""
    own = results.of(**published.where)
    if own.runs.is_empty() or own.curves.is_empty():
        return Verdict(published, pl.DataFrame(schema=_TIMES), "not run", "none of our runs has these settings")
    times = _times(published, own)
    word, why = _compare(published, times["time"].to_list(), times["observed"].to_list())
    return Verdict(published, times, word, why)


_TIMES = {"run": pl.String, "time": pl.Int64, "observed": pl.Boolean}


def _times(published: Published, own: Results) -> pl.DataFrame:
    if published.column.startswith("t_"):
        best = own.extrema.select("run", pl.col(published.column).alias("time"))
        return best.with_columns(pl.lit(True).alias("observed")).cast({"time": pl.Int64})
    states = own.runs.select("run", "state", "step")
    direction = "at most" if published.at_most else "at least"
    found = time_to(own.curves, published.column, published.threshold, direction, states)  # type: ignore[arg-type]
    return found.select("run", "time", "observed").cast({"time": pl.Int64})


def _compare(published: Published, times: Sequence[int], observed: Sequence[bool]) -> tuple[str, str]:
    value, n = published.value, len(times)
    reached = [time for time, seen in zip(times, observed, strict=True) if seen]
    ends = [time for time, seen in zip(times, observed, strict=True) if not seen]  # later than these
    undecided = sum(end < value for end in ends)
    if published.is_bound:
        over = sum(time > value for time in reached) + sum(end >= value for end in ends)
        if over:
            return "not covered", f"{over} of {n} runs take longer than {value:,.0f}"
        if undecided:
            return "open", f"{undecided} of {n} runs ended before {value:,.0f} without getting there"
        return "covered", f"all {n} runs stay under {value:,.0f}"
    earlier = sum(time <= value for time in reached)
    later = sum(time >= value for time in reached) + sum(end >= value for end in ends)
    if earlier and later:
        return "covered", f"{earlier} of {n} runs as early or earlier, {later} as late or later"
    if undecided:
        return "open", f"{undecided} of {n} runs ended before {value:,.0f} without getting there"
    if earlier:
        return "not covered", f"all {n} runs are sooner; the latest at {max(reached):,}"
    return "not covered", f"all {n} runs are later; the earliest at {min(reached + ends):,}"
