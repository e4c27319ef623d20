"""Figures of little: lines of a single point, small settings, and settings without a time."""

import json
import math

import numpy as np
import polars as pl
import pytest

from shoal.report.along import along_numbers
from shoal.report.by import in_order
from shoal.report.ceiling import ceiling
from shoal.report.figures import learning_curves, long_curves
from shoal.report.gaps import with_gaps
from shoal.report.panels import MODEL, Axis, curve_panels, summary_panels
from shoal.report.quantities import Panel
from shoal.report.shades import colour


def curves(steps, **values):
    rows = {"run": ["a"] * len(steps), "step": steps}
    return pl.DataFrame(rows | {f"{split}_loss": values["loss"] for split in ("train", "valid")})


def points(chart):
    """Number of rows behind each mark of filled points of a chart."""
    content = chart.to_dict()
    marks = [layer for layer in content["layer"] if layer["mark"].get("type") == "point"]
    return [len(content["datasets"][layer["data"]["name"]]) for layer in marks]


def test_a_line_of_one_point_is_a_dot():
    assert points(learning_curves(curves([1], loss=[2.0]), "loss", "one")) == [2]  # of both splits
    assert points(learning_curves(curves([1, 2], loss=[2.0, math.nan]), "loss", "diverged")) == [2]
    assert points(learning_curves(curves([1, 2, 3], loss=[2.0, 1.5, 1.0]), "loss", "line")) == [0]


def test_steps_without_a_value_are_no_ticks():
    chart = learning_curves(curves([1, 2], loss=[2.0, math.nan]), "loss", "diverged").to_dict()
    assert {str(layer["encoding"]["x"]["axis"]["values"]) for layer in chart["layer"]} == {"[1]"}


def test_a_lone_point_is_beside_a_gap_and_its_neighbours_are_not():
    lines = pl.DataFrame({"line": ["a", "b", "b"], "step": [5, 5, 6]})
    assert with_gaps(lines, ["line"])["beside"].to_list() == [True, False, False]


@pytest.mark.parametrize(
    ("values", "log"),
    [([0.001, 0.01, 0.1, 1.0], 10), ([1e-4, 3e-4, 1e-3, 1e9], 10), ([0.25, 0.5, 1.0], 2), ([0.1, 0.2, 0.3], None)],
)
def test_settings_below_1_have_no_prefix(values, log):
    axis = along_numbers(values, Axis("lr", "learning rate", log)).to_dict()["axis"]
    assert axis["values"] == values
    assert "s" not in axis["format"]
    many = along_numbers([*values, *(0.001 * k for k in range(2, 12))], Axis("lr", "learning rate", log)).to_dict()
    assert "s" not in many["axis"]["format"]


def test_large_settings_have_one():
    axis = along_numbers([1_000, 10_000, 100_000], Axis("n_steps", "steps", 10)).to_dict()["axis"]
    assert axis["format"] == "~s"


def test_a_model_has_the_same_place_on_all_pages():
    assert in_order(["gpt", "own:Model", "lstm"]) == ["lstm", "gpt", "own:Model"]


def test_hollow_points_are_no_time():
    runs = pl.DataFrame(
        {"run": ["a", "b"], "model": ["gpt"] * 2, "embedding_size": [8, 16], "last_step": [30, 30]}
        | {f"{split}_{name}": [0.1, 0.1] for split in ("train", "valid") for name in ("loss", "accuracy")}
        | {f"t_{split}_{name}": [30, 30] for split in ("train", "valid") for name in ("loss", "accuracy")}
    )
    told = summary_panels(runs, Axis("embedding_size", "width d", 2), MODEL, "by width").to_dict()["description"]
    assert "t_f(A_val) has no value that counts as a time" in told and "never" not in told


def curves_of(**losses):
    """Curves of runs from step 0, evaluated at every tenth step."""
    rows = [
        {"run": run, "step": 10 * n, "kind": run, "train_loss": value, "valid_loss": value}
        for run, values in losses.items()
        for n, value in enumerate(values)
    ]
    return pl.DataFrame(rows)


def test_a_loss_without_bound_does_not_press_the_others_to_the_bottom():
    good, bad = [4.0, 3.0, 2.0, 1.0], [5.0, 60.0, 1e9, math.inf]
    assert ceiling(curves_of(a=good, b=bad), "train_loss") == 50
    assert ceiling(curves_of(a=good, b=[5.0, 49.0, 20.0, math.nan]), "train_loss") is None
    assert ceiling(curves_of(b=bad), "train_loss") is None  # nothing would be left to see
    assert ceiling(curves_of(a=[0.0, 0.0]), "train_loss") is None
    assert ceiling(curves_of(a=[0.0, 0.0, 0.0, 1.0]), "train_loss") is None  # no axis of logarithms ends at 0
    axis = Axis("kind", "kind", names=(("a", "a"), ("b", "b")))
    panels = [Panel("train_loss", "L_train", log=True), Panel("valid_loss", "L_val", log=True)]
    for runs, cut in ((curves_of(a=good, b=bad), True), (curves_of(a=good, b=good), False)):
        drawn = json.dumps(curve_panels(runs, axis, "by kind", panels).to_dict())
        assert ('"domainMax": 50.0' in drawn) == cut and ("L_val, cut at 50" in drawn) == cut
        one = json.dumps(learning_curves(runs, "loss", "loss").to_dict())
        assert ('"domainMax": 50.0' in one) == cut and ("cut at 50" in one) == cut


def test_the_axis_of_both_splits_ends_above_where_either_begins():
    both = curves_of(a=[4.0, 3.0, 2.0, 1.0, 0.5, 0.4, 0.3]).with_columns(
        valid_loss=pl.Series([50.0, 45.0, 43.0, 4.0, 3.0, 3.0, 600.0])
    )
    for curves in (both, both.rename({"train_loss": "valid_loss", "valid_loss": "train_loss"})):
        assert ceiling(long_curves(curves, "loss"), "value") == 500


def test_lines_at_the_border_are_whole_where_nothing_is_cut():
    axis = Axis("kind", "kind", names=(("a", "a"), ("b", "b")))
    runs = curves_of(a=[4.0, 3.0], b=[5.0, 4.0])
    panels = [Panel("train_loss", "L_train", log=True)]
    for chart in (curve_panels(runs, axis, "by kind", panels), learning_curves(runs, "loss", "loss")):
        assert '"clip": true' not in json.dumps(chart.to_dict())


def test_ticks_of_many_values_beside_zero_are_decades():
    values = [0.0, *(10 ** (-k / 2) for k in range(12))]
    assert len(values) > 10
    drawn = along_numbers(values, Axis("wd", "weight decay")).to_dict()
    ticks = drawn["axis"]["values"]
    assert ticks[0] == 0 and ticks[1:] == pytest.approx([1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0])


def test_no_value_near_zero_is_thinned_away():
    rng = np.random.default_rng(0)
    values = [0.0, 1e-4, 1e-3, 3e-3, 1e-2, 1.0]
    rows = {"run": [f"r{n}" for n in range(1800)], "wd": [value for value in values for _ in range(300)]}
    runs = pl.DataFrame(rows | {"kind": "a", "train_loss": rng.random(1800)})
    axis, panel = Axis("kind", "kind", names=(("a", "a"),)), Panel("train_loss", "L_train")
    drawn = json.dumps(summary_panels(runs, Axis("wd", "weight decay"), axis, "by wd", [panel]).to_dict())
    for value in values:
        assert drawn.count(f'"wd": {value}') > 40


@pytest.mark.parametrize(
    ("values", "scale"),
    [
        ([0.0, 1e-4, 1e-3, 1e-2, 1.0], ("symlog", 1e-5)),
        ([0, 1, 10, 1000], ("symlog", 0.1)),
        ([0.0, 0.25, 0.5, 1.0], None),
        ([0.0, 0.5], None),
        ([-1.0, 0.0, 1.0, 1000.0], None),
        ([0.0, 1.0, 400.0, 401.0], None),  # evener on a linear axis
    ],
)
def test_zero_stands_beside_decades(values, scale):
    drawn = along_numbers(values, Axis("wd", "weight decay")).to_dict()["scale"]
    assert (drawn.get("type"), drawn.get("constant")) == (scale or (None, None))


def test_two_values_have_two_colours_and_no_bar():
    for count, kind in ((2, "symbol"), (3, "gradient")):
        frame = pl.DataFrame({"L": list(range(1, 1 + count))})
        assert colour(Axis("L", "layers L"), frame).to_dict()["legend"]["type"] == kind
