"""What is drawn of many points: the picture stays, and so does what a reader looks for."""

import math

import altair as alt
import numpy as np
import polars as pl
import pytest
from helpers import tiny
from hypothesis import given, settings
from hypothesis import strategies as st
from shown import in_words

import shoal
from shoal.report import write_report
from shoal.report.figures import MOST_LINES, Figure, learning_curves, styled
from shoal.report.gaps import broken, with_gaps
from shoal.report.panels import BEST, CURVES, MODEL, Axis, curve_panels, summary_panels
from shoal.report.runs import report_runs
from shoal.report.schedule import evaluated_before
from shoal.report.thinning import thin_lines, thin_points
from shoal.spec import RunSpec, grid
from shoal.training.due import is_evaluated

DECAY = Axis("wd", "weight decay")
lines = st.dictionaries(
    st.sampled_from("abc"),
    st.dictionaries(
        st.integers(0, 10_000), st.sampled_from([0.0, 0.25, 0.5, 0.89, 0.9, 0.99, 1.0]), min_size=1, max_size=60
    ),
    min_size=1,
)


def frame_of(own: dict[str, dict[int, float]]) -> pl.DataFrame:
    rows = [(run, step, value) for run, values in own.items() for step, value in values.items()]
    return pl.DataFrame(rows, ["run", "step", "value"], orient="row")


@settings(max_examples=200, deadline=None)
@given(lines, st.integers(1, 40))
def test_what_a_reader_looks_for_is_kept(own, budget):
    hits = (0.5, 0.9)
    thinned = thin_lines(frame_of(own), ["run"], ["value"], budget, hits)
    kept = {run: dict(part.select("step", "value").rows()) for (run,), part in thinned.group_by("run")}
    assert kept.keys() == own.keys()
    for run, values in own.items():
        steps = sorted(values)
        must = {steps[0], steps[-1]}
        must |= {min(s for s in steps if values[s] == end) for end in (min(values.values()), max(values.values()))}
        must |= {min(there) for hit in hits if (there := [s for s in steps if values[s] >= hit])}
        assert must <= kept[run].keys()
        assert kept[run].items() <= values.items()
        assert len(kept[run]) <= max(budget, len(must))
        if len(values) <= budget:
            assert kept[run] == values


def test_of_many_points_those_are_drawn_that_make_the_picture():
    step = np.arange(1, 20_001)
    value = 1 / (1 + np.exp(-(np.log(step) - math.log(3000)) / 0.05))
    value[12_345] = 0.3  # a spike of one evaluation
    frame = pl.DataFrame({"run": "a", "step": step, "value": value})
    thinned = thin_lines(frame, ["run"], ["value"], 60)
    drawn = np.interp(np.log(step), np.log(thinned["step"].to_numpy()), thinned["value"].to_numpy())
    assert len(thinned) <= 60
    assert np.abs(drawn - value).max() < 0.01  # of an axis of 240 pixels, less than three


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.floats(-5, 5), st.floats(-5, 5)), min_size=1, max_size=200), st.integers(1, 50))
def test_a_cloud_has_a_point_at_each_of_its_places(points, budget):
    frame = pl.DataFrame({"x": [float(x) for x, _ in points], "y": [float(y) for _, y in points]})
    thinned = thin_points(frame, [], [pl.col("x"), pl.col("y")], 8, budget)
    if len(frame) <= budget:
        assert thinned.equals(frame)
    for name in ("x", "y"):
        assert thinned[name].min() == frame[name].min()
        assert thinned[name].max() == frame[name].max()
    width = {name: ((frame[name].max() - frame[name].min()) / 8 or 1.0) * (1 + 1e-9) for name in ("x", "y")}
    for x, y in frame.rows():
        near = (thinned["x"] - x).abs() <= width["x"], (thinned["y"] - y).abs() <= width["y"]
        assert (near[0] & near[1]).any()


def test_gaps_are_between_evaluations_far_apart_and_lines_break_there():
    steps = [*range(1, 101), *range(200, 1001, 100)]
    frame = pl.DataFrame({"split": "a", "step": steps, "mean": [float(s) for s in steps]})
    gaps = with_gaps(frame, ["split"])
    assert gaps.filter("gap")["step"].to_list() == [200, 300, 400, 500, 600, 700]
    assert gaps.filter("beside")["step"].to_list() == [100, 200, 300, 400, 500, 600, 700]
    line = broken(gaps, ["split"], "mean")
    holes = line.filter(pl.col("mean").is_null())["step"].to_list()
    assert len(holes) == 6
    assert all(
        any(a < hole < b for hole in holes) for a, b in zip(range(100, 700, 100), range(200, 800, 100), strict=True)
    )
    together = pl.concat([frame, frame.with_columns(split=pl.lit("b"), step=pl.col("step") + 5)])
    assert with_gaps(together, ["split"]).filter("gap", split="b")["step"].min() == 205  # each line by itself


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 20), st.integers(1, 20), st.integers(1, 60))
def test_the_evaluation_before_is_that_of_the_schedule(first, period, last):
    spec = RunSpec(p=5, n_steps=last, eval_first=first, eval_period=period)
    evaluated = [step for step in range(last + 1) if is_evaluated(spec, step) or step == last]
    frame = pl.DataFrame({"t": evaluated, "eval_first": first, "eval_period": period})
    assert frame.select(evaluated_before("t")).to_series().to_list() == [0, *evaluated[:-1]]


def curves(runs: int, evaluations: int) -> pl.DataFrame:
    """Sigmoids that rise later from run to run, and the losses that go with them."""
    step = np.arange(1, evaluations + 1) * 10
    parts = []
    for run in range(runs):
        accuracy = 1 / (1 + np.exp(-(np.log(step) - np.log(300 + 5 * run)) / 0.2))
        columns = {
            f"{split}_{name}": value
            for split in ("train", "valid")
            for name, value in (("accuracy", accuracy), ("loss", 1.001 - accuracy))
        }
        parts.append(pl.DataFrame({"run": f"r{run:04d}", "step": step, "wd": run % 3 / 2, **columns}))
    return pl.concat(parts)


@pytest.mark.parametrize("runs", [13, MOST_LINES, MOST_LINES + 1, 300])
def test_every_number_of_runs_gives_figures_of_all_of_them(runs):
    every = curves(runs, 250)
    for quantity in ("accuracy", "loss"):
        chart = learning_curves(every, quantity, "t")
        spec = Figure("f", chart, "").spec  # more than 5,000 rows where altair would stop
        assert sum(map(len, spec["datasets"].values())) < 12_000
        assert in_words(Figure("f", chart, ""))
        (mean,) = [part for part in spec["layer"] if part["mark"].get("strokeWidth") == 2.2]
        drawn = {
            row["step"]: row["mean"]
            for row in spec["datasets"][mean["data"]["name"]]
            if row["split"] == "validation" and row["mean"] is not None
        }
        expected = every.group_by("step").agg(pl.col(f"valid_{quantity}").mean())
        assert drawn == pytest.approx(dict(expected.rows()))  # of every run, not of those that are drawn
        has_lines = any(part["mark"].get("strokeWidth") == 0.6 for part in spec["layer"])
        assert has_lines == (runs <= MOST_LINES)
        areas = [part for part in spec["layer"] if part["mark"]["type"] == "area"]
        assert len(areas) == (1 if has_lines else 2)
    band = {row["step"]: row for row in spec["datasets"][areas[0]["data"]["name"]] if row["split"] == "validation"}
    if not has_lines:
        own = every.filter(step=1000)["valid_loss"]
        assert band[1000]["q05"] == pytest.approx(own.quantile(0.05, "linear"))
        assert band[1000]["q75"] == pytest.approx(own.quantile(0.75, "linear"))


def test_panels_of_many_settings_have_no_bands():
    few, many = (curves(runs, 20).with_columns(wd=pl.col("run").rank("dense")) for runs in (3, 40))
    for frame, banded in ((few, True), (many, False)):
        spec = Figure("f", curve_panels(frame, DECAY, "t", CURVES[:1]), "").spec
        marks = [part["mark"]["type"] for part in spec["concat"][0]["layer"]]
        assert ("area" in marks) == banded


def ends(**columns: list[float]) -> pl.DataFrame:
    """Runs with one value of weight decay each, whose other figures are usual."""
    n = len(next(iter(columns.values())))
    usual = {"model": "gpt", "last_step": 1000, "eval_first": 100, "eval_period": 100}
    usual |= {"train_accuracy": 1.0, "valid_accuracy": 1.0, "t_valid_accuracy": 500}
    return pl.DataFrame({"run": [f"r{i}" for i in range(n)], **columns}).with_columns(
        pl.lit(value).alias(name) for name, value in usual.items() if name not in columns
    )


def test_a_step_is_drawn_as_a_time_only_where_the_run_got_there():
    frame = ends(
        wd=[0.0, 0.0, 1.0, 1.0, 2.0, 2.0],
        valid_accuracy=[1.0, 0.2, 1.0, 1.0, 0.95, 1.0],
        t_valid_accuracy=[300, 100, 500, 700, 1000, 50],
    )
    (panel,) = (panel for panel in BEST if panel.column == "t_valid_accuracy")
    spec = Figure("f", summary_panels(frame, DECAY, MODEL, "t", [panel]), "").spec
    width, _, mean, hollow, filled = spec["concat"][0]["layer"]
    drawn = {
        name: spec["datasets"][layer["data"]["name"]]
        for name, layer in (("w", width), ("m", mean), ("h", hollow), ("f", filled))
    }
    # never got there, and still getting better at the last evaluation
    assert {row["t_valid_accuracy"] for row in drawn["h"]} == {100, 1000}
    assert {row["t_valid_accuracy"] for row in drawn["f"]} == {300, 500, 700, 50}
    assert {row["wd"]: row["mean"] for row in drawn["m"]} == {0.0: None, 1.0: 600, 2.0: None}
    assert {row["t_valid_accuracy"]: row["after"] for row in drawn["w"]} == {300: 200, 500: 400, 700: 600, 50: 49}
    assert hollow["mark"].get("filled") is not True
    assert filled["mark"]["filled"]


def test_a_chart_of_any_number_of_rows_has_a_figure():
    many = pl.DataFrame({"x": range(6000)})
    chart = styled(alt.layer(alt.Chart(many).mark_point().encode(x="x:Q")), "many")
    assert len(next(iter(Figure("f", chart, "").spec["datasets"].values()))) == 6000


@pytest.mark.slow
def test_a_page_of_a_thousand_runs_is_below_ten_megabytes(tmp_path):
    base = tiny(model="lstm", n_steps=60, eval_first=60)
    records = shoal.train(grid(base, lr=[1e-3 * k for k in range(1, 11)], seed=range(100)), tmp_path, workers=1)
    report = report_runs(records, "shoal report")
    page = write_report(report, tmp_path / "page")
    assert page.stat().st_size < 10e6
    points = sum(
        len(rows) for section in report.sections for f in section.figures for rows in f.spec["datasets"].values()
    )
    assert 1000 < points < 1000 * 61  # lines are thinned, and none is left out
    assert (
        len({row[0] for section in report.sections for t in section.tables if t.name == "runs" for row in t.rows})
        == 1000
    )
