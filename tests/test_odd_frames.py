"""Analyses of data frames as people have them: other kinds of columns, no rows, columns named twice."""

from decimal import Decimal

import polars as pl
import pytest

from shoal.analysis import (
    Metric,
    any_difference,
    compare,
    kaplan_meier,
    pairs,
    slope_difference,
    survival_summary,
    trend,
)
from shoal.errors import UserError

RUNS = pl.DataFrame(
    {
        "time": [1.0, 2.0, 3.0, 5.0],
        "observed": [True, True, True, False],
        "fell_back": [True, False, None, False],
        "g": ["a", "a", "b", "b"],
        "seed": [0, 1, 0, 1],
    }
)
TIME, VALUE = Metric("time", larger_is_better=False, observed="observed"), Metric("time", larger_is_better=False)
OTHER_GROUPS = {
    "booleans": [True, True, False, False],
    "numbers": [1.5, 1.5, 2.5, 2.5],
    "integers": [1, 1, 0, 0],
    "decimals": [Decimal("1.5")] * 2 + [Decimal("2.5")] * 2,
}


@pytest.mark.parametrize("kind", OTHER_GROUPS)
@pytest.mark.parametrize("metric", [TIME, VALUE])
def test_groups_of_any_kind_give_what_words_give(kind, metric):
    first, second = OTHER_GROUPS[kind][1:3]
    frame = RUNS.with_columns(g=pl.Series(OTHER_GROUPS[kind]))
    columns = ["n", "p", "low", "high"]
    assert compare(frame, [metric], "g", second)[columns].equals(compare(RUNS, [metric], "g", "b")[columns])
    given = [
        slope_difference(
            pl.concat(one.with_columns(pl.col("time") * x, x=pl.lit(x)) for x in (1, 2)), "x", "time", "g", *names
        )
        for one, *names in ((RUNS, "a", "b"), (frame, first, second))
    ]
    assert given[0].difference == given[1].difference == 2.5


@pytest.mark.parametrize("kind", OTHER_GROUPS)
@pytest.mark.parametrize("value", ["b", None, [1], 7])
def test_a_value_that_no_run_has_is_one_line_whatever_its_kind(kind, value):
    frame = RUNS.with_columns(g=pl.Series(OTHER_GROUPS[kind]))
    first = OTHER_GROUPS[kind][0]
    for act in (
        lambda: pairs(frame, TIME, "g", first, value),
        lambda: slope_difference(frame, "time", "time", "g", first, value),
    ):
        with pytest.raises(UserError, match=r"^no run has g=.*: one of"):
            act()


def test_true_is_not_1():
    frame = RUNS.with_columns(g=pl.Series(OTHER_GROUPS["booleans"]))
    with pytest.raises(UserError, match="no run has g=1"):
        pairs(frame, TIME, "g", 1, False)


@pytest.mark.parametrize("cells", [[[1], [1], [2], [2]], [{"a": 1}] * 2 + [{"a": 2}] * 2])
def test_columns_of_lists_and_structures_are_refused(cells):
    frame = RUNS.with_columns(g=pl.Series(cells))
    for act in (
        lambda: kaplan_meier(frame, "g"),
        lambda: survival_summary(frame, "g"),
        lambda: pairs(frame, TIME, "g", cells[0], cells[-1]),
    ):
        with pytest.raises(UserError, match="column 'g' must hold numbers, words or booleans, it holds"):
            act()


def test_values_may_be_decimals():
    frame = RUNS.with_columns(pl.col("time").cast(pl.Decimal(10, 2)))
    for metric in (TIME, VALUE):
        assert compare(frame, [metric], "g", "b").equals(compare(RUNS, [metric], "g", "b"))


def test_falling_back_is_true_or_false():
    as_numbers = RUNS.with_columns(pl.col("fell_back").cast(pl.Int8))
    assert survival_summary(as_numbers, "g").equals(survival_summary(RUNS, "g"))
    assert survival_summary(RUNS, "g")["fell_back"].to_list() == [1, 0]
    for wrong in ("x", 2):
        with pytest.raises(UserError, match="fell_back"):
            survival_summary(RUNS.with_columns(fell_back=pl.lit(wrong)), "g")


@pytest.mark.parametrize("table", [kaplan_meier, survival_summary])
@pytest.mark.parametrize("by", [(), "g", ["g", "seed"]])
def test_no_runs_give_a_table_without_rows_and_the_same_columns(table, by):
    without = table(RUNS.clear(), by)
    assert len(without) == 0
    assert without.schema == table(RUNS, by).schema
    assert without.vstack(table(RUNS, by)).equals(table(RUNS, by))


def test_a_column_serves_one_purpose():
    for act in (
        lambda: slope_difference(RUNS, "seed", "time", "g", "a", "b", log2=False),
        lambda: trend(RUNS, "seed", "time", log2=False),
        lambda: trend(RUNS, "time", "time"),
        lambda: any_difference(RUNS, "time", "seed"),
    ):
        with pytest.raises(UserError, match="is named for two things"):
            act()


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan"), None])
@pytest.mark.parametrize("sides", ["both", "one"])
def test_a_value_that_is_not_finite_is_no_value(value, sides):
    times = [1.0, 2.0, 3.0, value, 1.5, 2.5, 2.0, value if sides == "both" else 4.0]
    frame = pl.DataFrame({"time": times, "g": ["a"] * 4 + ["b"] * 4, "seed": [0, 1, 2, 3] * 2})
    without = compare(frame.filter(pl.col("seed") < 3), [VALUE], "g", "b")
    columns = ["mean_difference", "p", "low", "high"]
    assert compare(frame, [VALUE], "g", "b")[columns].equals(without[columns])
