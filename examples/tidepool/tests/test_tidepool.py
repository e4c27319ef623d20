"""The parts hold the contracts that shoal's own hold; and what is theirs alone."""

import torch
from tidepool.tasks import distinct_rows
from torch import nn

from shoal import RunSpec
from shoal.tasks.build import build_model
from shoal.testing import EngineContract, ModelContract, RuleContract, TaskContract

SMALL = {
    "task": "tidepool.tasks:Reverse",
    "model": "tidepool.models:GRU",
    "optimizer": "tidepool.rules:Signum",
    "length": 3,
    "vocabulary": 4,
    "sequences": 40,
    "embedding_size": 8,
    "n_steps": 30,
}


class TestReverse(TaskContract):
    settings = SMALL


class TestReverseForAnotherModel(TaskContract):
    settings = {"task": "tidepool.tasks:Reverse", "length": 2, "sequences": 30, "model": "lstm", "embedding_size": 8}


class TestGRU(ModelContract):
    settings = SMALL


class TestGRUOnEquations(ModelContract):
    settings = {"p": 5, "model": "tidepool.models:GRU", "embedding_size": 8, "lr": 3e-3, "n_steps": 30}


class TestSignum(RuleContract):
    settings = {"optimizer": "tidepool.rules:Signum"}


class TestEngines(EngineContract):
    settings = SMALL


def test_the_sequences_are_different_and_reversed():
    rows = distinct_rows(27, 3, 3, seed=0)
    assert len(torch.unique(rows, dim=0)) == 27
    task = RunSpec(**SMALL).task_part.build(0)
    whole = task.tensors["rows"]
    assert torch.equal(whole[:, :3], whole[:, 4:].flip(1))


def test_the_gru_is_that_of_torch():
    spec = RunSpec(**SMALL)
    ours, theirs = build_model(spec), nn.GRU(8, 8, batch_first=True)
    theirs.weight_ih_l0.data, theirs.bias_ih_l0.data = ours.inputs.weight.data, ours.inputs.bias.data
    theirs.weight_hh_l0.data, theirs.bias_hh_l0.data = ours.states.weight.data, ours.states.bias.data
    tokens = torch.arange(5).repeat(2, 1)
    outputs, last = theirs(ours.embedding(tokens))
    logits, state = ours(tokens)
    torch.testing.assert_close(logits, ours.classifier(outputs))
    torch.testing.assert_close(state, last[0])


def test_signum_takes_steps_of_one_size():
    spec = RunSpec(optimizer="tidepool.rules:Signum", lr=0.1, weight_decay=0.0)
    theta, state = torch.zeros(1, 3), {"m": torch.zeros(1, 3)}
    hyper = {name: torch.full((1, 1), float(getattr(spec, name)), dtype=torch.float64) for name in spec.rule.numbers()}
    spec.rule.build()(theta, torch.tensor([[5.0, -0.1, 0.0]]), state, hyper, torch.ones(1, 1), None)
    assert theta.tolist() == [[-0.10000000149011612, 0.10000000149011612, 0.0]]
