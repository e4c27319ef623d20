"""What a step costs, measured in turns."""

from itertools import cycle
from types import SimpleNamespace

import torch
from helpers import tiny

from shoal.commands.questions import _measure, _note
from shoal.lab import Lab
from shoal.studies import Form
from shoal.training import cost
from shoal.training.cost import StepCost, step_costs

CASES = {
    "baseline": [tiny(model="gpt", seed=seed) for seed in range(6)],
    "Muon": [tiny(model="gpt", optimizer="muon", lr=0.01, weight_decay=0.3, seed=seed) for seed in range(2)],
    "dropout": [tiny(model="gpt", dropout=0.1)],
}


def test_every_case_is_compared_with_its_neighbours_in_time(monkeypatch):
    own = {4: cycle([10.0]), 2: cycle([30.0, 20.0, 10.0]), 1: cycle([5.0])}  # by members: at most four of six
    monkeypatch.setattr(cost, "_window", lambda stack, steps: next(own[len(stack.cohort)]))
    found = step_costs(CASES, "baseline", pairs=3)
    assert found["Muon"] == StepCost(20.0, 2.0, 1.0, 3.0, found["baseline"].engine)
    assert found["baseline"].ratio == 1.0
    assert found["dropout"] == StepCost(5.0, 0.5, 0.5, 0.5, "plain")


def test_steps_are_taken_and_the_number_of_threads_is_left(monkeypatch):
    taken, threads = [], []

    def train_step(stack):
        taken.append(len(stack.cohort))
        threads.append(torch.get_num_threads())

    monkeypatch.setattr(cost, "train_step", train_step)
    before = torch.get_num_threads()
    found = step_costs({name: CASES[name] for name in ("baseline", "Muon")}, "baseline", pairs=3, steps=5)
    assert torch.get_num_threads() == before
    assert set(threads) == {1}
    assert all(value.seconds >= 0 for value in found.values())
    # two steps to begin with for each stack; the baseline beside itself, 3 windows of 5; Muon 3 and the baseline 3
    assert taken.count(4) == 2 + 15 + 15
    assert taken.count(2) == 2 + 15


def test_a_study_is_measured_once_for_the_same_runs(tmp_path):
    lab, calls, form = Lab(tmp_path / "lab").create(), [], Form(quick=True)
    study = SimpleNamespace(measure=lambda form: calls.append(form) or {"a": 1})
    specs = CASES["baseline"]

    def asked(specs, form=form):
        return _measure(_note("sanity", form, specs, lab), study, lab).note["measured"]

    assert asked(specs) == {"a": 1}
    assert asked(specs) == {"a": 1}
    assert calls == [form]
    assert asked(specs, Form(quick=True, thresholds=(0.5,))) == {"a": 1}  # the same runs in another form
    assert calls == [form]
    asked(specs[:2])
    assert calls == [form] * 2
    study.MEASURED = 2  # it measures something else now, which pages must not show under their new captions
    study.measure = lambda form: calls.append(form) or {"a": 2}
    assert asked(specs) == {"a": 2} and asked(specs) == {"a": 2} and len(calls) == 3
    assert "measured" not in _measure(_note("attention", form, [], lab), SimpleNamespace(), lab).note
