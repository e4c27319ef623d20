"""Times to a threshold against brute force, and the gate through which every analysis takes them."""

import math

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal
from times import signed

from shoal.analysis import (
    Metric,
    compare,
    decompose,
    extrema,
    first_step_at_least,
    holm,
    kaplan_meier,
    logrank,
    logrank_pairs,
    median_time,
    pairs,
    restricted_times,
    survival_summary,
    time_to,
)
from shoal.analysis.survival import outlasting
from shoal.analysis.times import FINISHED, UNFINISHED, check_times
from shoal.errors import UserError
from shoal.lab.records import STATES
from shoal.report import TimesQuestion, logrank_sentences, survival_figure, survival_table

some = settings(max_examples=50, deadline=None)
VALUES = st.sampled_from([0.0, 0.5, 0.9, math.nan, None])
curves_of_runs = st.lists(st.lists(VALUES, min_size=1, max_size=8), max_size=4)


def frame(runs: list[list[float | None]]) -> pl.DataFrame:
    """Evaluations at steps 0, 10, 20, …"""
    schema = {"run": pl.String, "step": pl.Int64, "valid_accuracy": pl.Float64}
    rows = [(str(i), 10 * k, value) for i, run in enumerate(runs) for k, value in enumerate(run)]
    return pl.DataFrame(rows, schema=schema, orient="row")


# times


def test_the_time_is_the_first_evaluated_step_on_the_right_side():
    curves = pl.DataFrame(
        {
            "run": ["a", "a", "a", "b", "b", "c", "c", "d"],
            "step": [200, 100, 300, 100, 250, 100, 200, 50],
            "valid_accuracy": [0.99, 0.5, 0.1, 0.5, 0.98, math.nan, None, 1.0],
            "valid_loss": [0.1, 2.0, 3.0, 2.0, 0.2, math.nan, None, 0.05],
        }
    )
    states = pl.DataFrame(
        {"run": ["a", "b", "c", "e"], "state": ["diverged", "done", "diverged", "waiting"], "step": [340, 250, 137, 0]}
    )
    assert time_to(curves, states=states).rows() == [
        ("a", 200, True, True, "diverged"),
        ("b", 250, False, False, "done"),
        ("c", 137, False, False, "diverged"),
        ("d", 50, True, False, None),
        ("e", 0, False, False, "waiting"),
    ]
    assert time_to(curves, "valid_loss", 0.2, "at most").select("time", "observed").rows() == [
        (200, True),
        (250, True),
        (100, False),
        (50, True),
    ]
    assert time_to(curves, threshold=0.5, states=states.drop("step"))["time"].to_list() == [100, 100, 100, 50, 0]


def test_wrong_columns_and_directions_are_named():
    curves = pl.DataFrame({"run": ["a"], "step": [7], "valid_accuracy": [0.9]})
    with pytest.raises(UserError, match=r"unknown column 'valid_acuracy'.*did you mean 'valid_accuracy'"):
        time_to(curves, "valid_acuracy")
    with pytest.raises(UserError, match="unknown direction 'atmost': 'at least' or 'at most'; did you mean 'at most'"):
        time_to(curves, direction="atmost")
    with pytest.raises(UserError, match="unknown column 'modle'"):
        kaplan_meier(signed(a=[1]), "modle")


@some
@given(curves_of_runs, st.sampled_from(["at least", "at most"]), st.integers(1, 4), st.randoms())
def test_times_equal_brute_force(runs, direction, stay, random):
    curves, threshold = frame(runs), 0.5
    rows = curves.rows()
    random.shuffle(rows)
    shuffled = pl.DataFrame(rows, schema=curves.schema, orient="row")
    found = {row[0]: row[1:] for row in time_to(shuffled, "valid_accuracy", threshold, direction, stay=stay).rows()}
    expected = {}
    for i, run in enumerate(runs):
        known = [(10 * k, v) for k, v in enumerate(run) if v is not None]
        right = [v >= threshold if direction == "at least" else v <= threshold for _, v in known]
        begins = [k for k in range(len(known) - stay + 1) if all(right[k : k + stay])]
        last = known[len(known) - stay][0] if len(known) >= stay else 0
        first = begins[0] if begins else None
        time = last if first is None else known[first][0]
        expected[str(i)] = (time, bool(begins), first is not None and not all(right[first:]), None)
    assert found == expected


@some
@given(st.lists(st.lists(st.sampled_from([0.0, 0.9]), min_size=1, max_size=9), min_size=1, max_size=4), st.data())
def test_ending_a_run_sooner_censors_its_time_and_tells_nothing_of_it(runs, data):
    """The censoring that estimators assume: who is followed for a shorter while has the same time, if it was seen."""
    stay, length = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 9))
    whole = time_to(frame(runs), stay=stay)
    shorter = time_to(frame([run[:length] for run in runs]), stay=stay)
    for run, before, after in zip(runs, whole.rows(named=True), shorter.rows(named=True), strict=True):
        end = max(min(length, len(run)) - stay, 0) * 10
        seen = before["observed"] and min(length, len(run)) >= stay and before["time"] <= end
        assert (after["time"], after["observed"]) == (before["time"] if seen else end, seen)


@pytest.mark.parametrize("stay", [0, -1, 1.5, True, "3", None])
def test_a_stay_is_a_number_of_evaluations(stay):
    with pytest.raises(UserError, match="stay must be a whole number of evaluations of at least 1, got"):
        time_to(frame([[0.5]]), stay=stay)


@some
@given(
    st.lists(st.floats(0, 1, width=32), min_size=1, max_size=6),
    st.sampled_from([0.9, 0.99, 0.1, 0.3, 0.01]),
    st.sampled_from([pl.Float32, pl.Float64]),
    st.integers(-2, 2),
)
def test_thresholds_are_compared_as_float32_has_them(values, threshold, kind, ulps):
    """In frames of either kind, whoever compares; with values at the threshold and one bit beside it."""
    near = np.float32(threshold)
    for _ in range(abs(ulps)):
        near = np.nextafter(near, np.float32(ulps > 0), dtype=np.float32)
    values = [*(float(np.float32(v)) for v in values), float(near)]
    curves = frame([values]).with_columns(pl.col("valid_accuracy").cast(kind))
    least = [10 * k for k, v in enumerate(values) if np.float32(v) >= np.float32(threshold)]
    most = [10 * k for k, v in enumerate(values) if np.float32(v) <= np.float32(threshold)]
    for direction, right in (("at least", least), ("at most", most)):
        times = time_to(curves, threshold=threshold, direction=direction)
        assert times.select("time", "observed").row(0) == ((right or [10 * (len(values) - 1)])[0], bool(right))
    assert first_step_at_least(curves, "valid_accuracy", threshold)["step"].to_list() == [*least, None][:1]


# what is no curve


CURVES = frame([[0.1, 0.95], [0.2, 0.3]])
BAD_CURVES = {
    "run": (pl.Series(["0", None, "1", "1"]), "row 2: run must be the name of a run, got null"),
    "step": (pl.Series([0, 10, -10, 10]), "row 3: step must be a whole number of at least 0, got -10"),
    "missing step": (pl.Series([0, 10, 0, None]), "row 4: step must be a whole number of at least 0, got null"),
    "half step": (pl.Series([0.0, 10.5, 0.0, 10.0]), "row 2: step must be a whole number of at least 0, got 10.5"),
    "step in words": (pl.Series(["0", "10", "0", "10"]), "column 'step' must hold numbers, it holds String"),
    "step twice": (pl.Series([0, 0, 0, 10]), "run '0' has several rows of step 0"),
}


@pytest.mark.parametrize("name", BAD_CURVES)
def test_what_is_no_curve_is_refused(name):
    values, message = BAD_CURVES[name]
    column = "run" if name == "run" else "step"
    curves = CURVES.with_columns(values.alias(column))
    four = [pl.col("valid_accuracy").alias(c) for c in ("train_loss", "valid_loss", "train_accuracy")]
    for function in (time_to, lambda c: first_step_at_least(c, "valid_accuracy", 0.9)):
        with pytest.raises(UserError, match=message):
            function(curves)
    with pytest.raises(UserError, match=message):
        extrema(curves.with_columns(four))


def test_values_thresholds_and_states_that_are_none_are_refused():
    words = CURVES.with_columns(pl.col("valid_accuracy").cast(pl.String))
    with pytest.raises(UserError, match="column 'valid_accuracy' must hold numbers, it holds String"):
        time_to(words)
    for threshold in (math.nan, math.inf, 1e300, "0.9", None, True):
        with pytest.raises(UserError, match="threshold must be a finite number, got"):
            time_to(CURVES, threshold=threshold)
    states = pl.DataFrame({"run": ["0", "1"], "state": ["done", "diverged"], "step": [10, 7]})
    for change, message in (
        ({"state": pl.lit("divergd")}, "row 1: state must be one of done diverged .*, got 'divergd'"),
        ({"state": pl.lit(1)}, "column 'state' must hold text, it holds Int32"),
        ({"run": pl.lit("1")}, "run '1' has several rows of states"),
        ({"run": pl.lit(1)}, "runs are String in the curves and Int32 in the states"),
        ({"step": pl.lit(-1)}, "row 1: step must be a whole number of at least 0, got -1"),
    ):
        with pytest.raises(UserError, match=message):
            time_to(CURVES, states=states.with_columns(**change))


def test_a_column_of_nulls_reaches_nothing():
    curves = CURVES.with_columns(valid_accuracy=pl.lit(None))
    assert time_to(curves)["observed"].to_list() == [False, False]


# the gate


def test_the_states_are_those_of_the_lab():
    assert {*FINISHED, *UNFINISHED} == set(STATES)


def of_pairs(times: pl.DataFrame) -> pl.DataFrame:
    return compare(times, [Metric("time", False, "observed")], "group", "a")


def of_cells(times: pl.DataFrame) -> tuple:
    found = decompose(times, "time", ["group", "seed"], observed="observed")
    return found.table.rows(), found.horizon, found.censored


TAKE_TIMES = {
    "kaplan_meier": lambda times: kaplan_meier(times, "group"),
    "survival_summary": lambda times: survival_summary(times, "group"),
    "restricted_times": lambda times: restricted_times(times)[0],
    "median_time": median_time,
    "outlasting": outlasting,
    "logrank": lambda times: logrank(times, "group"),
    "logrank_pairs": lambda times: logrank_pairs(times, "group"),
    "pairs": lambda times: pairs(times, Metric("time", False, "observed"), "group", "b", "a"),
    "compare": of_pairs,
    "decompose": of_cells,
    "survival_table": lambda times: survival_table("t", times, "group").rows,
    "survival_figure": lambda times: survival_figure("t", times, "group", "t").chart.to_dict(),
    "logrank_sentences": lambda times: logrank_sentences([TimesQuestion(times, "group")]),
}
TIMES = signed(a=[100, 200, -300], b=[150, -250, 350]).with_columns(seed=pl.Series([0, 1, 2] * 2))
BAD = {
    "time": [None, math.nan, math.inf, -1.0],
    "observed": [None, math.nan, 2.0, -1.0, 0.5],
}


def same(one, other) -> bool:
    if isinstance(one, pl.DataFrame):
        assert_frame_equal(one, other)
        return True
    return one == other


@pytest.mark.parametrize("name", TAKE_TIMES)
@pytest.mark.parametrize("column", BAD)
def test_what_is_no_time_is_refused_with_its_column_and_row(name, column):
    """A null that counts as censored, or a NaN that is dropped, changes a p value without a word."""
    for value in BAD[column]:
        for row in range(len(TIMES)):
            values = TIMES[column].cast(pl.Float64).to_list()
            values[row] = value
            with pytest.raises(UserError, match=f"^row {row + 1}: {column} must be .*, got ") as caught:
                TAKE_TIMES[name](TIMES.with_columns(pl.Series(column, values)))
            assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", TAKE_TIMES)
def test_columns_of_other_kinds_are_refused(name):
    for column, values, message in (
        ("time", pl.lit("100"), "column 'time' must hold numbers, it holds String"),
        ("observed", pl.lit("yes"), "column 'observed' must hold true and false, or 1 and 0; it holds String"),
        ("state", pl.lit("finished"), "row 1: state must be one of done .*, got 'finished'"),
        ("state", pl.lit(3), "column 'state' must hold text, it holds Int32"),
    ):
        with pytest.raises(UserError, match=message):
            TAKE_TIMES[name](TIMES.with_columns(values.alias(column)))
    for column in ("time", "observed"):
        with pytest.raises(UserError, match=f"unknown column '{column}'"):
            TAKE_TIMES[name](TIMES.drop(column))


@pytest.mark.parametrize("name", TAKE_TIMES)
@pytest.mark.parametrize("kind", [pl.Int64, pl.Int8, pl.UInt8, pl.Float32, pl.Float64])
def test_noughts_and_ones_are_as_good_as_booleans(name, kind):
    as_numbers = TIMES.with_columns(pl.col("observed").cast(kind))
    assert same(TAKE_TIMES[name](TIMES), TAKE_TIMES[name](as_numbers))


@some
@given(st.lists(st.tuples(st.floats() | st.none(), st.booleans() | st.none()), min_size=1, max_size=5))
def test_whatever_numbers_a_frame_holds_are_times_or_refused(rows):
    times = pl.DataFrame(rows, {"time": pl.Float64, "observed": pl.Boolean}, orient="row")
    good = all(t is not None and 0 <= t <= 1e15 and seen is not None for t, seen in rows)
    if good:
        assert_frame_equal(check_times(times), times)
        assert survival_summary(times)["N"].item() == len(rows)
        return
    for function in (check_times, kaplan_meier, survival_summary, median_time, lambda t: restricted_times(t)):
        with pytest.raises(UserError, match=r"^row \d+: (time|observed) must be "):
            function(times)


@pytest.mark.parametrize("horizon", [0, -5, math.nan, math.inf, "x", True])
def test_a_horizon_is_a_step_above_0(horizon):
    for function in (restricted_times, survival_summary):
        with pytest.raises(UserError, match="horizon must be a finite number of steps above 0, got"):
            function(TIMES, horizon=horizon)


def test_times_need_not_be_whole():
    times = pl.DataFrame({"time": [10.25, 20.5, 30.75], "observed": [True, True, False]})
    cut, horizon = restricted_times(times)
    assert horizon == 30.75
    assert_frame_equal(cut, times)
    assert median_time(times) == 20.5


def test_a_frame_without_rows_has_nothing_to_refuse():
    empty = pl.DataFrame({"time": [], "observed": []})
    assert median_time(empty) is None
    assert kaplan_meier(empty).is_empty()


def test_whatever_p_values_holm_is_given_are_corrected_or_refused():
    for wrong in (math.nan, -0.1, 1.5, math.inf):
        with pytest.raises(UserError, match="a p value must be a number from 0 to 1, or None, got"):
            holm([0.5, wrong, None])


ROWS = pl.DataFrame(
    {"setting": ["a", "a", "b", "b"], "seed": [0, 1, 0, 1], "loss": [1.0, 2.0, 3.0, 5.0], "state": ["done"] * 4}
)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"loss": pl.lit("1")}, "column 'loss' must hold numbers, it holds String"),
        ({"seed": pl.Series([0, 1, None, 1])}, "row 3: seed must be .*, got null"),
        ({"state": pl.lit("finished")}, "row 1: state must be one of done .*, got 'finished'"),
    ],
)
def test_other_quantities_pass_a_gate_too(change, message):
    frame_ = ROWS.with_columns(**change)
    with pytest.raises(UserError, match=message):
        compare(frame_, [Metric("loss", False)], "setting", "a")
    with pytest.raises(UserError, match=message):
        decompose(frame_, "loss", ["setting", "seed"])


@pytest.mark.parametrize("draws", [0, -1, 1.5, None])
def test_draws_are_counted_from_one(draws):
    with pytest.raises(UserError, match="resamples must be an integer from 1 to 10,000,000, got"):
        compare(ROWS, [Metric("loss", False)], "setting", "a", resamples=draws)
    with pytest.raises(UserError, match="draws must be an integer from 1 to 10,000,000, got"):
        decompose(ROWS, "loss", ["setting", "seed"], draws=draws)
