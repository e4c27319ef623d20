"""A step can be recorded and done again: the same bits as a step that is called, and nothing that needs the host."""

import subprocess
import sys
import weakref
from pathlib import Path

import pytest
import torch
from helpers import CPU, one_cohort, tiny_grid
from hypothesis import given, settings
from hypothesis import strategies as st
from recording import recorded

from shoal.training.launches import FIRST, MANY, Launches
from shoal.training.stack import Stack
from shoal.training.step import evaluate, train_step, train_steps

CASES = [
    {},
    {"train_batch_size": 4},
    {"optimizer": "muon", "lr_schedule": "cosine", "warmup_steps": 5, "label_smoothing": 0.1},
    {"optimizer": "lion", "decay_all": False, "operation_orders": (2, 3), "train_batch_size": 16},
    {"optimizer": "momentum", "precision": "bfloat16"},
    {"optimizer": "sgd", "clip": float("inf"), "lr": 1e30},  # diverges
]


@pytest.mark.parametrize("model", ["lstm", "gpt"])
@pytest.mark.parametrize(
    ("engine", "case"),
    [("prefixes", case) for case in CASES]
    + [("plain", {"num_layers": 2, "dropout": 0.2, **case}) for case in CASES[:2]],
    ids=str,
)
def test_recorded_steps_are_called_steps_to_the_bit(model, engine, case):
    base = {"model": model, "n_steps": 30, **case}
    cohort = one_cohort(tiny_grid(base, r_train=[0.4, 0.6], seed=[0, 1]))
    called, replayed = Stack(cohort, CPU, engine), Stack(cohort, CPU, engine)
    replayed.launches = Launches(CPU, recorded)
    for n in (5, 1, 17, 12, 1):  # past the last step
        for _ in range(n):
            train_step(called)
        train_steps(replayed, n)
        evaluated = evaluate(called, {})
        for name, column in evaluate(replayed, {}).items():
            assert torch.equal(column, evaluated[name]) or column.isnan().any()
    assert replayed.launches.recordings.keys() >= {("step", 1), ("evaluation", 1)}
    for name, tensor in called.state().items():
        assert torch.equal(replayed.state()[name], tensor), name
    assert torch.equal(replayed.at, replayed.steps)


@pytest.mark.parametrize("eval_batch_size", [15, 10, 4096])
def test_an_evaluation_leaves_a_recorded_step_its_batch(eval_batch_size):
    specs = tiny_grid({"eval_batch_size": eval_batch_size}, seed=[0, 1])  # 15 of 25 equations train
    stack = Stack(one_cohort(specs), CPU, "prefixes")
    train_step(stack)
    (batch,) = stack.scorer._known.values()
    read = [weakref.ref(tensor) for tensor in (batch.nodes.paths, batch.nodes.tokens, batch.targets, batch.scored)]
    assert batch.indices.shape[1] == 15
    del batch
    evaluate(stack, {})
    assert all(tensor() is not None for tensor in read)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 4 * MANY), max_size=6))
def test_work_is_done_as_often_as_it_is_asked_for(times):
    done, launched = [], []

    def record(work):
        before = len(done)
        work()
        size = len(done) - before
        del done[before:]  # nothing is done while it is recorded
        return lambda: (launched.append(size), done.extend([None] * size))

    launches = Launches(CPU, record)
    for n in times:
        launches.run("work", lambda: done.append(None), n)
    total = sum(times)
    assert len(done) == total
    assert sum(launched) == max(0, total - FIRST)
    assert set(launched) <= {1, MANY}
    assert len(launched) <= total // MANY + len(times) * MANY


def test_a_recording_refuses_what_needs_the_host():
    x, flags = torch.arange(4.0), torch.tensor([True, False, True, True])
    looks = [
        lambda: x.sum().item(),
        lambda: bool(flags.any()),
        lambda: x[flags],
        lambda: flags.nonzero(),
        lambda: x + torch.tensor([1.0, 2.0, 3.0, 4.0]),
        lambda: torch.equal(x, x),
    ]
    for look in looks:
        with pytest.raises(AssertionError, match="needs the host"):
            recorded(look)


def test_a_recording_does_nothing_until_it_is_replayed():
    x, y = torch.zeros(3), torch.ones(3)
    held = [0]

    def work():
        held[0] += 1  # what Python does is not recorded
        x.add_(y * held[0])

    replay = recorded(work)
    assert x.tolist() == [0, 0, 0]
    held[0] = 100
    replay()
    y.copy_(torch.tensor([1.0, 2.0, 3.0]))
    replay()
    assert x.tolist() == [2, 3, 4]


@pytest.mark.parametrize(("which", "number"), [("few", 15), pytest.param("all", 29, marks=pytest.mark.slow)])
def test_a_step_and_an_evaluation_stay_on_the_device(which, number):
    command = [sys.executable, "-W", "ignore", str(Path(__file__).with_name("fake_gpu.py")), which]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    *cases, kernels = done.stdout.splitlines()
    assert len(cases) == number
    assert len(kernels.split()) == 12
