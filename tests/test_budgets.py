"""Performance under a budget, against brute force over literal runs."""

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.analysis.budgets import budgeted, frontier, iso_compute

COLUMNS = ("train_loss", "valid_loss", "train_accuracy", "valid_accuracy")


def curve(run, values, period):
    return [{"run": run, "step": period * i, **dict.fromkeys(COLUMNS, v)} for i, v in enumerate(values)]


def table(run, B, T, P=10):
    size = {"train_batch_size": B, "sequences": min(B, 20), "tokens": 6}
    return {"run": run, "model": "lstm", "n_steps": T, "parameters": P, **size}


some = settings(max_examples=40, deadline=None)
losses = st.lists(st.floats(0.01, 10), min_size=11, max_size=11)


@some
@given(st.lists(losses, min_size=1, max_size=4))
def test_a_share_of_the_steps_sees_that_share_of_the_curve(curves):
    frame = pl.DataFrame([row for i, values in enumerate(curves) for row in curve(f"r{i}", values, 10)])
    runs = pl.DataFrame([table(f"r{i}", 2**i * 4, 100) for i in range(len(curves))])
    found = budgeted(frame, runs, shares=(0.05, 0.5, 1.0))
    for row in found.iter_rows(named=True):
        seen = curves[int(row["run"][1])][: row["steps"] // 10 + 1]
        assert row["steps"] == int(row["share"] * 100)
        assert row["valid_loss"] == min(seen)
        assert row["valid_accuracy"] == max(seen)
        assert row["compute"] == 10 * row["train_batch_size"] * row["steps"]
        assert row["flop"] == 6 * 10 * row["sequences"] * 6 * row["steps"]
    assert len(found) == 3 * len(curves)


@some
@given(st.lists(losses, min_size=2, max_size=4), st.booleans())
def test_the_frontier_is_the_best_of_all_that_spends_no_more(curves, small):
    frame = pl.DataFrame([row for i, values in enumerate(curves) for row in curve(f"r{i}", values, 10)])
    runs = pl.DataFrame([table(f"r{i}", 2**i * 4, 100) for i in range(len(curves))])
    spent = budgeted(frame, runs)
    best = frontier(spent, "train_batch_size", "valid_loss" if small else "valid_accuracy", small)
    assert best["compute"].to_list() == sorted(spent["compute"].unique().to_list())
    for row in best.iter_rows(named=True):
        affordable = spent.filter(pl.col("compute") <= row["compute"])
        values = affordable["valid_loss" if small else "valid_accuracy"]
        assert row["valid_loss" if small else "valid_accuracy"] == (values.min() if small else values.max())
        assert row["spent"] <= row["compute"]


def test_along_a_line_of_equal_compute_the_steps_halve_as_the_batch_doubles():
    values = [5.0, 4.0, 3.0, 2.0, 1.0, 0.5, 0.4, 0.3, 0.2, 0.1, 0.05]
    frame = pl.DataFrame(curve("small", values, 10) + curve("large", values, 10))
    runs = pl.DataFrame([table("small", 4, 100), table("large", 8, 100)])
    found = iso_compute(frame, runs, levels=2).sort("compute", "train_batch_size")
    assert found.select("compute", "train_batch_size", "steps", "valid_loss").rows() == [
        (2000.0, 4, 50, 0.5),
        (2000.0, 8, 25, 3.0),
        (4000.0, 4, 100, 0.05),
        (4000.0, 8, 50, 0.5),
    ]
    assert (found["compute"] == found["parameters"] * found["train_batch_size"] * found["steps"]).any()


def test_a_run_that_ended_before_its_share_of_the_budget_is_left_out():
    frame = pl.DataFrame(curve("long", [3.0, 2.0, 1.0], 50) + curve("short", [3.0, 2.0], 20))
    found = iso_compute(frame, pl.DataFrame([table("long", 4, 100), table("short", 8, 40)]), levels=3)
    assert found.sort("compute")["steps"].to_list()[-1] == 100
    assert set(found.filter(pl.col("compute") == 4000)["run"]) == {"long"}


def test_runs_without_results_give_no_budgets():
    none = pl.DataFrame(schema={"run": pl.String, "step": pl.Int64, **dict.fromkeys(COLUMNS, pl.Float64)})
    assert budgeted(none, pl.DataFrame([table("a", 4, 100)])).is_empty()
    assert iso_compute(none, pl.DataFrame([table("a", 4, 100)])).is_empty()


def test_shares_that_are_no_binary_fractions_are_of_whole_steps():
    frame = pl.DataFrame(curve("a", [3.0, 2.0, 1.0], 910))
    found = budgeted(frame, pl.DataFrame([table("a", 4, 2600)]), (0.7,))
    assert (found["steps"].item(), found["valid_loss"].item()) == (1820, 1.0)


@pytest.mark.parametrize("share", [0.001])
def test_a_share_before_the_first_evaluation_sees_the_untrained_model(share):
    frame = pl.DataFrame(curve("a", [3.0, 1.0], 10))
    assert budgeted(frame, pl.DataFrame([table("a", 4, 10)]), (share,))["valid_loss"].to_list() == [3.0]
