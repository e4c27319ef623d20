"""A published number beside the distribution of ours: the rule, and its words."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from shoal.analysis import time_to
from shoal.studies.results import Results

RULE = (
    "Rule: a published time is covered when it lies between our earliest and our latest run, both included. A run that "
    "had not got there by its end counts as later than its end, one that diverged as later than any time; a first step "
    "of the best accuracy counts where the run is done and that accuracy is at least 0.99. Where our runs ended before "
    "the published time without getting there, or where there is one alone, the question is open. A published mean "
    "over several runs is compared with means over as many of ours, in the order of their seeds, each run in one mean. "
    "If what was published and our N runs (or means) came from one distribution, it would be covered with probability "
    "(N − 1)/(N + 1), or more where times coincide. An upper bound was read off one run: it is covered when more than "
    "half of ours stay under it, which would happen with probability ⌈N/2⌉/(N + 1) or more."
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
        threshold: what it has to reach; for a column that begins with ``t_``, the best value that counts.
        at_most: whether it has to come down to the threshold.
        is_bound: whether the value is an upper bound of the time.
        runs: how many runs the value is the mean of.
    """

    what: str
    value: float
    source: str
    where: Mapping[str, Any] = field(default_factory=dict)
    column: str = "valid_accuracy"
    threshold: float = 0.99
    at_most: bool = False
    is_bound: bool = False
    runs: int = 1

    def written(self) -> str:
        """The value as a reader wants it."""
        return f"{'≤ ' if self.is_bound else ''}{steps(self.value)}"


@dataclass(frozen=True)
class Verdict:
    """What our runs say of a published number.

    Attributes:
        published: the number.
        times: ``time``, ``observed`` (whether it got there) and ``diverged`` (and did not get there) of our runs, or of
            means over them.
        word: ``covered``, ``not covered``, ``open`` or ``not run``.
        why: in words.
        chance: how probable ``covered`` would at least be if the published number came from our distribution; None
            where it is open.
        runs: the runs of ours that it was compared with.
    """

    published: Published
    times: pl.DataFrame
    word: str
    why: str
    chance: float | None = None
    runs: frozenset[str] = frozenset()


def steps(value: float) -> str:
    """Thousands apart, and decimals where there are any.

    >>> steps(82.5), steps(1e6)
    ('82.5', '1,000,000')
    """
    return f"{value:,.10g}"


def judge(published: Published, results: Results) -> Verdict:
    """Compare a published number with the runs it names."""
    own = results.of(**published.where)
    times = pl.DataFrame(schema=_TIMES)
    if not own.curves.is_empty():
        times = _means(_times(published, own), published.runs)
    if times.is_empty():
        few = "none of our runs has" if published.runs == 1 else f"fewer than {published.runs} of our runs have"
        return Verdict(published, times, "not run", f"{few} these settings")
    found = (_under if published.is_bound else _between)(published, times)
    return Verdict(published, times, *found, frozenset(own.evaluated["run"]))


_TIMES = {"time": pl.Float64, "observed": pl.Boolean, "diverged": pl.Boolean}


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
    return found.with_columns(diverged=lost & ~pl.col("observed")).select(*_TIMES).cast({"time": pl.Float64})


def _means(times: pl.DataFrame, size: int) -> pl.DataFrame:
    """Means over runs that follow each other; those that are left over are left out.

    A mean in which a run did not get there is later than the mean with that run's end in place of its time.
    """
    whole = times.head(len(times) // size * size).with_row_index("place")
    means = whole.group_by(pl.col("place") // size, maintain_order=True)
    return means.agg(pl.col("time").mean(), pl.col("observed").all(), pl.col("diverged").any()).drop("place")


def _split(times: pl.DataFrame) -> tuple[list[float], list[float]]:
    """Times of what got there, and what the others are later than: a run that diverged will never get there."""
    late = pl.when("diverged").then(math.inf).otherwise("time").alias("time")
    return times.filter("observed")["time"].to_list(), times.filter(~pl.col("observed")).select(late)["time"].to_list()


def _unit(published: Published) -> str:
    return "runs" if published.runs == 1 else f"means of {published.runs} runs"


def _between(published: Published, times: pl.DataFrame) -> tuple[str, str, float | None]:
    """Word, reason and chance for a time."""
    value, n = published.value, len(times)
    reached, ends = _split(times)
    undecided = sum(end < value for end in ends)
    earlier = sum(time <= value for time in reached)
    later = sum(time >= value for time in (*reached, *ends))
    N = n - undecided
    chance = (N - 1) / (N + 1)
    unit = f"{n} {_unit(published)}"
    if earlier and later:
        return "covered", f"{earlier} of {unit} as early or earlier, {later} as late or later", chance
    if undecided:
        return "open", f"{undecided} of {unit} ended before {steps(value)} without getting there", None
    if n == 1:
        return "open", "one of ours alone spans no range", None
    if earlier:
        return "not covered", f"all {unit} are sooner; the latest at {steps(max(reached))}", chance
    first = f"the earliest to get there at {steps(min(reached))}" if reached else "none got there"
    return "not covered", f"all {unit} are later; {first}", chance


def _under(published: Published, times: pl.DataFrame) -> tuple[str, str, float | None]:
    """Word, reason and chance for an upper bound."""
    value, n = published.value, len(times)
    reached, ends = _split(times)
    under = sum(time <= value for time in reached)
    undecided = sum(end < value for end in ends)
    over = n - under - undecided
    chance = math.ceil(n / 2) / (n + 1)
    unit = f"{n} {_unit(published)}"
    if under > n / 2:
        return "covered", f"{under} of {unit} stay under {steps(value)}", chance
    if over >= n / 2:
        diverged = " or diverged" if math.inf in ends else ""
        return "not covered", f"{over} of {unit} take longer than {steps(value)}{diverged}", chance
    return "open", f"{undecided} of {unit} ended before {steps(value)} without getting there", None
