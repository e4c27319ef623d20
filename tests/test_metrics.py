"""Quantities that a user registers: what is wrong with one is said before anything is trained."""

import pytest
import torch
from helpers import tiny, tiny_grid

import shoal
from shoal.errors import UserError


def first(parameters):
    return next(iter(parameters.values())).sum()


def misspelt(parameters):
    return parameters["clasifier.bias"].sum()


def of_its_own(parameters):
    return {}["classifier.bias"] + first(parameters)


WRONG = {
    r"metric 'x' must return a scalar tensor, got one of shape \(10, 8\)": lambda p: p["embedding.weight"],
    r"metric 'x' must return a scalar tensor, got float": lambda p: 0.5,
    r"metric 'x' asks for 'clasifier.bias', which is no parameter: one of .*did you mean 'classifier.bias'": misspelt,
}


@pytest.mark.parametrize("words", WRONG)
def test_a_metric_that_cannot_be_recorded_is_refused_before_anything_is_made(tmp_path, words):
    with pytest.raises(UserError, match=words) as failure:
        shoal.train([tiny()], tmp_path / "lab", metrics={"x": WRONG[words]})
    assert "\n" not in str(failure.value)
    assert not (tmp_path / "lab").exists()


def test_what_fails_within_a_metric_is_its_own_affair(tmp_path):
    with pytest.raises(KeyError, match=r"classifier\.bias"):
        shoal.train([tiny()], tmp_path / "lab", metrics={"x": of_its_own})


def test_a_constant_is_a_quantity_too(tmp_path):
    records = shoal.train([tiny()], tmp_path / "lab", metrics={"x": lambda p: torch.tensor(2.0)})
    assert set(records.curves()["x"]) == {2.0}


def test_a_quantity_that_runs_of_the_lab_were_trained_without_is_refused(tmp_path):
    old, new = tiny_grid({"n_steps": 4}, seed=[0, 1]), tiny(n_steps=4, seed=2)
    shoal.train(old, tmp_path / "lab", metrics={"first": first})
    told = (
        rf"metric 'other' is not on record: 2 of these runs \({old[0].id[:8]} …\) were trained without it.*another lab"
    )
    with pytest.raises(UserError, match=told):
        shoal.train([*old, new], tmp_path / "lab", metrics={"first": first, "other": first})
    assert shoal.Lab(tmp_path / "lab").runs() == [spec.id for spec in old]
    assert "first" in shoal.train(old, tmp_path / "lab", metrics={"first": first}).curves().columns
    assert "first" in shoal.train(old, tmp_path / "lab").curves().columns
    both = shoal.train([new], tmp_path / "lab", metrics={"other": first})
    assert set(both.curves().columns) & {"first", "other"} == {"other"}


def test_one_spec_is_a_list_of_one(tmp_path):
    records = shoal.train(tiny(n_steps=2), tmp_path / "lab")
    assert records.ids == [tiny(n_steps=2).id]
    assert shoal.Lab(tmp_path / "lab").records(tiny(n_steps=2)).ids == records.ids
