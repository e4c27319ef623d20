"""Settings that float32, in which runs are computed, cannot hold."""

import math

import numpy as np
import pytest
from helpers import tiny
from hypothesis import given, settings
from hypothesis import strategies as st

import shoal
from shoal.errors import UserError
from shoal.spec import RunSpec


def kind(value: float) -> tuple[bool, bool, bool]:
    """Whether a number is 0, 1 or infinite in float32, where denormal numbers count as 0."""
    with np.errstate(over="ignore", under="ignore"):
        rounded = np.float32(value)
    return bool(abs(rounded) < np.finfo(np.float32).tiny), bool(rounded == 1), bool(np.isinf(rounded))


NUMBERS = {"lr": {}, "weight_decay": {}, "eps": {}, "clip": {}, "label_smoothing": {}, "beta1": {}, "beta2": {}}
NUMBERS |= {"momentum": {"optimizer": "momentum"}, "dropout": {"model": "gpt"}}
SHARES = ("label_smoothing", "beta1", "beta2", "momentum", "dropout")


@pytest.mark.parametrize("name", NUMBERS)
@settings(max_examples=60, deadline=None)
@given(exponent=st.floats(-60, 45), below_one=st.booleans())
def test_a_number_that_is_another_kind_of_number_in_float32_is_refused(name, exponent, below_one):
    value = 10.0**exponent
    if name in SHARES:
        value = 1 - 10.0 ** -abs(exponent / 4) if below_one else 10.0 ** -abs(exponent)
        value = min(value, math.nextafter(1, 0))
    zero, one, infinite = kind(value)
    is_share = name in SHARES  # of which a small one may as well be 0
    if (zero and not is_share) or infinite or (one and is_share):
        with pytest.raises(UserError, match=f"{name} must be at (least|most) .*float32"):
            RunSpec(**NUMBERS[name], **{name: value})
    else:
        assert getattr(RunSpec(**NUMBERS[name], **{name: value}), name) == value


def test_a_run_on_record_is_what_it_was_whatever_is_asked_of_new_ones():
    dump = {**RunSpec().dump(), "eps": 1e-300, "beta2": 1 - 1e-12}
    assert RunSpec.restored(dump).eps == 1e-300
    with pytest.raises(UserError, match="eps must be at least"):
        RunSpec(eps=1e-300)


@pytest.mark.parametrize(
    ("settings", "lost"),
    [
        ({"lr": 1e-3, "weight_decay": 1e-5}, True),
        ({"lr": 1e-3, "weight_decay": 1e-4}, False),
        ({"lr": 1e-3, "weight_decay": 0}, False),
        ({"lr": 1e-4, "weight_decay": 1e-4, "optimizer": "lion"}, True),
        ({"lr": 1e-4, "weight_decay": 1e-4, "optimizer": "adam"}, False),  # added to the gradient
    ],
)
def test_a_weight_decay_that_rounding_loses_is_said(settings, lost, tmp_path):
    said: list[str] = []
    shoal.train(tiny(n_steps=1, **settings), tmp_path / "lab", workers=1, say=said.append)
    assert any("weight_decay" in line for line in said) == lost
    shrinks = np.float32(1 - settings["lr"] * settings["weight_decay"]) != 1
    assert lost == (settings["weight_decay"] > 0 and settings.get("optimizer") != "adam" and not shrinks)
