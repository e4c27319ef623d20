"""Runs that pause: they go on to the same bits, and those beside them do not move."""

import polars as pl
import pytest
from polars.testing import assert_frame_equal

import shoal
from shoal.errors import UserError
from shoal.lab import Lab
from shoal.lab.tensors import load_tensors
from shoal.spec import RunSpec, grid

SMALL = RunSpec(
    model="gpt", p=5, embedding_size=8, num_layers=1, num_heads=2, n_steps=12, eval_first=2, eval_period=3,
    train_batch_size=8, dropout=0.1,
)  # fmt: skip
HOW = {"threads": 1, "engine": "plain", "workers": 1}


def specs_of(n: int) -> list[RunSpec]:
    return grid(SMALL, lr=[1e-3 * (1 + place) for place in range(n)])


def steps(lab) -> list[int]:
    return [member["step"] for folder in Lab(lab).cohorts() for member in folder.status()["members"].values()]


def models(lab, spec: RunSpec) -> dict[tuple[int, str], bytes]:
    kept = Lab(lab).index()[spec.id].models(spec.id)
    tensors = {step: load_tensors(path)[0] for step, path in kept.items()}
    return {(step, name): t.numpy().tobytes() for step, state in tensors.items() for name, t in state.items()}


@pytest.mark.parametrize("places", [None, 1, 2])
def test_paused_runs_go_on_to_the_same_bits(tmp_path, places):
    specs = specs_of(5)
    whole = shoal.train(specs, tmp_path / "whole", **HOW)
    paused = tmp_path / "paused"
    shoal.train(specs, paused, until=4, places=places, **HOW)
    assert steps(paused) == [4] * 5
    some = [specs[0], specs[3]]
    shoal.train(some, paused, until=7, places=places, **HOW)
    assert steps(paused) == [7, 4, 4, 7, 4]
    shoal.train([specs[3]], paused, until=12, places=places, **HOW)
    assert steps(paused) == [7, 4, 4, 12, 4]
    records = shoal.train(specs, paused, **HOW)
    order = ["run", "step"]
    assert_frame_equal(records.curves().sort(order), whole.curves().sort(order), check_row_order=True)
    assert all(models(paused, spec) == models(tmp_path / "whole", spec) for spec in specs)
    assert not Lab(paused).unfinished()


def test_what_was_measured_up_to_a_pause_is_that_of_the_whole_run(tmp_path):
    specs = specs_of(2)
    whole = shoal.train(specs, tmp_path / "whole", **HOW).curves()
    part = shoal.train(specs, tmp_path / "part", until=5, **HOW).curves()
    assert part["step"].max() == 3  # the pause itself is no evaluation
    assert_frame_equal(part, whole.filter(pl.col("step") <= 5))


def test_a_pause_that_is_reached_trains_nothing(tmp_path):
    specs = specs_of(2)
    shoal.train(specs, tmp_path, until=5, **HOW)
    sessions = [folder.status()["sessions"] for folder in Lab(tmp_path).cohorts()]
    shoal.train(specs, tmp_path, until=4, **HOW)
    shoal.train(specs, tmp_path, until=5, **HOW)
    assert [folder.status()["sessions"] for folder in Lab(tmp_path).cohorts()] == sessions
    assert steps(tmp_path) == [5, 5]
    shoal.resume(tmp_path)
    assert steps(tmp_path) == [12, 12]


@pytest.mark.parametrize("until", [0, -1, 1.5, True, "3"])
def test_a_pause_is_a_step(tmp_path, until):
    with pytest.raises(UserError):
        shoal.train(specs_of(1), tmp_path / "lab", until=until)
    assert not (tmp_path / "lab").exists()
