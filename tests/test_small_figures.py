"""Figures of little: lines of a single point, small settings, and settings without a time."""

import math

import polars as pl
import pytest

from shoal.report.along import along_numbers
from shoal.report.by import in_order
from shoal.report.figures import learning_curves
from shoal.report.gaps import with_gaps
from shoal.report.panels import MODEL, Axis, summary_panels


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
