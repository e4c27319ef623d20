"""Settings in which runs differ, as ``--by`` names them: those that a user sets, and that differ where they are had."""

import polars as pl
import pytest
from helpers import tiny

import shoal
from shoal.errors import UserError
from shoal.lab import Lab
from shoal.report.by import check_axes, differing_settings
from shoal.studies.own_axes import own_grid
from shoal.studies.results import Results


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    """Runs of GPTs and LSTMs of two moduli, some of them with labels."""
    lab = tmp_path_factory.mktemp("differing") / "lab"
    specs = [
        *(tiny(model="gpt", p=p, seed=seed, n_steps=2, num_heads=2) for p in (5, 7) for seed in (0, 1)),
        *(tiny(model="lstm", p=p, seed=0, n_steps=2) for p in (5, 7)),
    ]
    shoal.train(specs[:4], lab, name="mine", tag="good", engine="plain", workers=1)
    records = shoal.train(specs, lab, engine="plain", workers=1)
    Lab(lab).label([specs[4].id], group="others", tag="bad")
    return records


def test_settings_of_one_model_labels_and_derived_numbers_are_none(records):
    runs = records.runs()
    assert {"group", "q", "num_heads", "norm_position"} <= {*runs.columns}
    assert {name for name in runs.columns if runs[name].n_unique() > 1} > {"group", "q", "num_heads"}
    found = set(differing_settings(runs.with_columns(parameters=pl.int_range(len(runs)))))
    assert {"p", "model", "seed"} <= found
    assert not found & {"group", "tags", "name", "q", "num_heads", "norm_position", "parameters", "multiplier"}
    assert not {name for name in found if name.endswith("_seed")}
    assert differing_settings(records.where(model="gpt").runs()) == ["p", "seed"]


def test_a_setting_that_differs_from_the_one_it_follows_is_named(records):
    runs = records.where(model="gpt").runs()
    assert "q" in differing_settings(runs.with_columns(q=pl.Series([5, 3, 7, 3])))
    assert "num_heads" in differing_settings(runs.with_columns(num_heads=pl.Series([1, 2, 1, 2])))


def test_lines_and_pages_name_them(records):
    with pytest.raises(UserError) as told:
        check_axes(records.runs(), ["lr"])
    assert str(told.value).endswith("seed") and " group" not in str(told.value) and " q " not in str(told.value)
    grid = own_grid(Results(records), ["p"], None, None)
    assert "also differ in model" in grid.unlike and "num_heads" not in grid.unlike
