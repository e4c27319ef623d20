"""Which kept model is meant, and the mean of several."""

import polars as pl
import pytest
import torch
from helpers import tiny, tiny_grid

import shoal
from shoal.errors import LabError, UserError
from shoal.lab.kept import kept_steps
from shoal.lab.tensors import load_tensors

BASE = {"model": "gpt", "share_embeddings": True, "n_steps": 11, "save_model_step": 2, "eval_first": 0}
BASE |= {"eval_period": 1, "lr": 0.05, "weight_decay": 0.0}


@pytest.fixture(scope="module")
def records(tmp_path_factory) -> shoal.Records:
    specs = tiny_grid(BASE, seed=[0, 1])
    return shoal.train(specs, tmp_path_factory.mktemp("kept") / "lab", workers=1, threads=1)


@pytest.mark.parametrize(
    ("step", "average", "steps"),
    [(None, 1, [11]), (None, 3, [8, 10, 11]), (8, 4, [2, 4, 6, 8]), (None, 6, [2, 4, 6, 8, 10, 11]), (0, 1, [0])],
)
def test_a_mean_is_that_of_the_last_models_by_hand(records, step, average, steps):
    for run in records.ids:
        states = [load_tensors(records.model_files(run)[at])[0] for at in steps]
        model = records.model(run, step, average=average)
        assert not model.training
        parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
        found = model.state_dict()
        assert parameters <= found.keys() == states[0].keys()
        for name, tensor in found.items():
            mean = sum(state[name].double() for state in states) / len(states)
            assert torch.equal(tensor, mean.float() if name in parameters else states[-1][name]), name
        assert average == 1 or any(not torch.equal(found[name], states[-1][name]) for name in found)
        assert model.classifier.weight is model.embedding.tokens.weight  # still tied


def test_buffers_are_those_of_the_last_model(records, monkeypatch):
    run, real = records.ids[0], load_tensors

    def load(path, like=None):
        state, metadata = real(path, like)
        n = float(metadata["step"])
        return {name: torch.full_like(tensor, n) for name, tensor in state.items()}, metadata

    monkeypatch.setattr("shoal.lab.averaging.load_tensors", load)
    model = records.model(run, average=2)
    own = set(dict(model.named_parameters(remove_duplicate=False)))
    values = {name in own: float(tensor.flatten()[0]) for name, tensor in model.state_dict().items()}
    assert values[True] == 10.5 and values.get(False, 11) == 11


def test_too_few_kept_models_are_said_in_one_line(records):
    run = records.ids[0]
    with pytest.raises(LabError, match="6 models to average up to step 11, not 7") as caught:
        records.model(run, average=7)
    assert "\n" not in str(caught.value)
    with pytest.raises(LabError, match="no model of step 3"):
        records.model(run, 3, average=2)
    for average in (0, -1, 1.5, True, "2"):
        with pytest.raises(UserError, match="average must be"):
            records.model(run, average=average)
    for step in ("last", 1.5, True):
        with pytest.raises(UserError, match="step must be"):
            records.model(run, step)


def test_the_best_model_is_that_of_the_lowest_validation_loss(tmp_path):
    base = {**BASE, "save_model_step": None, "keep_best": True, "n_steps": 40, "eval_period": 4, "p": 7}
    records = shoal.train(tiny_grid(base, seed=[0, 1]), tmp_path / "lab", workers=1, threads=1)
    for run in records.ids:
        curve = records.curves().filter(run=run).sort("valid_loss")
        best = curve["step"][0]
        assert 0 < best < 40 and list(records.model_files(run)) == [best, 40]
        state = load_tensors(records.model_files(run)[best])[0]
        for name, tensor in records.model(run, "best").state_dict().items():
            assert torch.equal(tensor, state[name])
        with pytest.raises(LabError, match=r"1 models to average up to step 40.*not set"):
            records.model(run, average=2)  # the best one is none of those


def test_a_best_model_that_was_not_kept_is_said(tmp_path):
    base = {**BASE, "save_model_step": None, "n_steps": 40, "eval_period": 4, "p": 7}
    records = shoal.train([tiny(**base)], tmp_path / "lab", workers=1, threads=1)
    best = records.curves().sort("valid_loss")["step"][0]
    with pytest.raises(LabError, match=f"lowest validation loss, that of step {best}, .*keep_best.*kept: 40") as caught:
        records.model(records.ids[0], "best")
    assert "\n" not in str(caught.value)


class Folder:
    """Losses and kept steps of a run."""

    def __init__(self, losses: dict[int, float], kept: list[int]) -> None:
        self.losses, self.kept = losses, kept

    def metrics(self) -> pl.DataFrame:
        frame = pl.DataFrame({"run": "a", "step": list(self.losses), "valid_loss": list(self.losses.values())})
        other = pl.DataFrame({"run": "b", "step": [1], "valid_loss": [0.0]})
        return pl.concat([frame, other]).with_columns(pl.col("valid_loss").cast(pl.Float32))

    def models(self, run: str) -> dict[int, None]:
        return dict.fromkeys(self.kept)


@pytest.mark.parametrize(
    ("losses", "kept", "best"),
    [
        ({0: 2.0, 4: 1.0, 8: 1.5}, [4, 8], 4),
        ({0: 2.0, 4: 1.0, 8: 1.0, 12: 3.0}, [8, 12], 8),  # alike in float32, and the second was lower
        ({0: 2.0, 4: 1.0, 8: 1.0}, [4, 8], 8),
        ({0: 2.0, 4: float("nan"), 8: float("inf")}, [0, 7], 0),
        ({0: 2.0, 4: 1.0}, [0], None),
        ({0: float("nan")}, [0], None),
    ],
)
def test_losses_that_are_no_numbers_or_alike(losses, kept, best):
    folder = Folder(losses, kept)
    if best is None:
        with pytest.raises(LabError, match="lowest validation loss"):
            kept_steps(folder, "a", "best")
    else:
        assert kept_steps(folder, "a", "best") == [best]


def test_a_best_model_in_between_is_not_averaged():
    folder = Folder({5: 1.0, 7: 2.0}, [0, 2, 4, 5, 6, 7])
    assert kept_steps(folder, "a", None, 4, period=2) == [2, 4, 6, 7]
    assert kept_steps(folder, "a", "best", 3, period=2) == [2, 4, 5]  # unless it is the last of them
    with pytest.raises(LabError, match="4 models to average up to step 7, not 5"):
        kept_steps(folder, "a", None, 5, period=2)
