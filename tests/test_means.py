"""Means of curves whose runs do not all go as far, counted by hand."""

import statistics

import polars as pl
import pytest
import vl_convert
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.report.figures import learning_curves
from shoal.report.means import end_together, mean_curves
from shoal.report.panels import BEST, Axis, curve_panels

DECAY = Axis("wd", "weight decay")


def _frame(runs):
    """Curves from ``{(setting, run): {step: value}}``."""
    rows = [(wd, run, step, value) for (wd, run), values in runs.items() for step, value in values.items()]
    return pl.DataFrame(rows, schema=["wd", "run", "step", "valid_loss"], orient="row")


@settings(max_examples=200, deadline=None)
@given(
    st.dictionaries(
        st.tuples(st.sampled_from([0.0, 1.0]), st.text("abc", min_size=1, max_size=2)),
        st.dictionaries(st.integers(1, 8), st.floats(0.1, 9.0), min_size=1),
        min_size=1,
        max_size=6,
    )
)
def test_a_mean_is_of_all_runs_that_go_on(runs):
    runs = {(wd, f"{wd}{run}"): values for (wd, run), values in runs.items()}
    expected, together = {}, True
    for wd in {wd for wd, _ in runs}:
        own = [values for (setting, _), values in runs.items() if setting == wd]
        together &= len({max(values) for values in own}) == 1
        for step in range(1, 9):
            here = [values[step] for values in own if step in values]
            left = [values for values in own if max(values) >= step]
            if here and len(here) == len(left):
                expected[wd, step] = (statistics.fmean(here), statistics.pstdev(here), len(left) == len(own), here)
    frame = _frame(runs)
    found = {(row["wd"], row["step"]): row for row in mean_curves(frame, ["wd"], "valid_loss").to_dicts()}
    assert found.keys() == expected.keys()
    for key, (mean, deviation, whole, here) in expected.items():
        row = found[key]
        assert (row["n"], row["whole"]) == (len(here), whole)
        assert row["mean"] == pytest.approx(mean)
        assert row["low"] == pytest.approx(max(mean - deviation, min(here)))
        assert row["high"] == pytest.approx(min(mean + deviation, max(here)))
    assert end_together(frame, ["wd"]) == together


def _drawn(chart, layer):
    return chart["datasets"][layer["data"]["name"]]


def _values(chart, layer, by):
    """What a line goes through; rows without a value only break it."""
    return {(row[by], row["step"]): row["mean"] for row in _drawn(chart, layer) if row["mean"] is not None}


def test_a_mean_is_dotted_from_where_the_first_of_its_runs_ends():
    # with weight decay 0 the better run ends at 30, and the mean of what is left is worse than both were before
    curves = _frame(
        {
            (0.0, "a"): {10: 1.0, 20: 0.1, 30: 0.1},
            (0.0, "b"): {10: 1.0, 20: 0.5, 30: 0.4, 40: 0.9},
            (1.0, "c"): {10: 1.0, 20: 0.5, 30: 0.4, 40: 0.3},
        }
    )
    (panel,) = (panel for panel in BEST if panel.column == "valid_loss")
    chart = curve_panels(curves, DECAY, "t", [panel]).to_dict()
    _, line, dotted, _, _ = chart["concat"][0]["layer"]
    assert (line["mark"]["strokeDash"], dotted["mark"]["strokeDash"]) == ([1, 0], [1, 3])
    points = _values(chart, line, "shade")
    assert points == pytest.approx(
        {(0.0, 10): 1, (0.0, 20): 0.3, (0.0, 30): 0.25, **{(1.0, s): v for s, v in ((10, 1), (20, 0.5), (30, 0.4))}}
        | {(1.0, 40): 0.3}
    )
    after = _values(chart, dotted, "shade")
    assert after == pytest.approx({(0.0, 30): 0.25, (0.0, 40): 0.9})  # it begins where the other ends
    vl_convert.vegalite_to_svg(chart)
    together = curve_panels(curves.filter(pl.col("step") <= 30), DECAY, "t", [panel]).to_dict()
    assert len(together["concat"][0]["layer"]) == 4


def test_a_mean_among_its_runs_ends_with_the_first_of_them():
    curves = _frame({(0.0, "a"): {10: 1.0, 20: 0.1}, (0.0, "b"): {10: 1.0, 20: 0.5, 30: 0.9}})
    chart = learning_curves(curves.with_columns(train_loss=pl.col("valid_loss")), "loss", "t").to_dict()
    _, runs, pale, mean, dots = chart["layer"]
    for layer in (pale, dots):
        assert {row["step"] for row in _drawn(chart, layer)} == {10, 20}
    assert _values(chart, mean, "split").keys() == {
        (split, step) for split in ("training", "validation") for step in (10, 20)
    }
    assert {row["step"] for row in _drawn(chart, runs)} == {10, 20, 30}
