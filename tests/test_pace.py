"""How long training still takes: said when there is something to say, and near the truth."""

import os
import signal
import time
from itertools import count
from types import SimpleNamespace

import pytest
from helpers import tiny, tiny_grid
from hypothesis import given, settings
from hypothesis import strategies as st

import shoal
from shoal.training import loop
from shoal.training.due import evaluations_left, is_evaluated
from shoal.training.snapshot import ENOUGH, Pace, Snapshot


@given(first=st.integers(0, 30), period=st.integers(1, 30), step=st.integers(0, 100), last=st.integers(1, 100))
@settings(deadline=None)
def test_evaluations_left_are_those_of_the_schedule(first, period, step, last):
    spec = tiny(eval_first=first, eval_period=period, n_steps=last)
    expected = sum(bool(is_evaluated(spec, s)) or s == last for s in range(step + 1, last + 1))
    assert evaluations_left(spec, step, last) == expected


def after(pace: Pace, steps: int, step_cost: float, evaluation_cost: float, start_cost: float) -> Pace:
    """A session of one member that was evaluated at every step."""
    stack = object()
    for step in range(steps):
        pace.steps.add(stack, 1, step_cost + start_cost * (step == 0))
        pace.evaluations.add(stack, 1, evaluation_cost + start_cost * (step == 0))
    return pace


@given(
    steps=st.integers(2, 90),
    step_cost=st.floats(1e-4, 10),
    evaluation_cost=st.floats(0, 100),
    start_cost=st.floats(0, 1e4),
)
@settings(deadline=None)
def test_the_time_left_is_that_of_the_steps_and_evaluations_left_whatever_the_first_took(
    steps, step_cost, evaluation_cost, start_cost
):
    spec = tiny(n_steps=10_000, eval_first=100, eval_period=100)
    pace = after(Pace(), steps, step_cost, evaluation_cost, start_cost)
    left = pace.seconds_left([(steps, 10_000)], spec)
    if (steps - 1) * step_cost < ENOUGH:
        assert left is None
        return
    truth = (10_000 - steps) * step_cost + (100 - steps + 99) * evaluation_cost
    assert left == pytest.approx(truth)


def test_members_that_wait_are_counted_with_all_their_steps():
    spec = tiny(n_steps=1000, eval_first=0, eval_period=1000)
    pace = after(Pace(), 20, 0.1, 0.0, 5.0)
    assert pace.seconds_left([(1000, 1000), (500, 1000), (0, 1000)], spec) == pytest.approx(150.0)


def test_a_pace_that_changes_is_followed():
    pace = after(after(Pace(), 1000, 0.1, 0.0, 0.0), 1000, 1.0, 0.0, 0.0)
    assert pace.steps.each == pytest.approx(1.0, rel=0.01)


def test_the_first_estimate_does_not_count_what_the_first_step_took(tmp_path, monkeypatch):
    ticks, late, seen = count(), [0.0], []

    def step(stack, n, real=loop.train_steps):
        late[0] = 10_000.0  # what the first step takes on this clock, of which a look takes a tenth of a second
        real(stack, n)

    clock = SimpleNamespace(monotonic=lambda: 0.1 * next(ticks) + late[0], process_time=time.process_time)
    monkeypatch.setattr(loop, "time", clock)
    monkeypatch.setattr(loop, "train_steps", step)
    shoal.train(tiny_grid({"n_steps": 40}, seed=[0, 1]), tmp_path / "lab", workers=1, watch=seen.append)
    assert seen[0].state == "starting"
    estimates = [s.seconds_left for s in seen if s.seconds_left is not None]
    assert estimates
    assert max(estimates) < 100
    assert max(s.steps_per_second for s in seen if s.steps_per_second is not None) < 10


def test_after_a_resume_the_first_line_says_the_accuracies_of_the_last_evaluation(tmp_path, monkeypatch):
    specs = tiny_grid({"n_steps": 10**6, "eval_first": 0, "eval_period": 50, "lr": 0.05}, seed=[0, 1])
    seen: list[Snapshot] = []

    def watch(snapshot: Snapshot) -> None:
        seen.append(snapshot)
        if snapshot.state == "running" and snapshot.step >= 60 and len(seen) > 2:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(shoal.Interrupted):
        shoal.train(specs, tmp_path / "lab", workers=1, watch=watch)
    before = seen[-1]
    assert before.state == "interrupted"
    assert before.train is not None and before.train[1] > 0
    monkeypatch.setattr(loop.Session, "advance", lambda session: pytest.fail("nothing has been trained yet"))
    with pytest.raises(pytest.fail.Exception):
        shoal.resume(tmp_path / "lab", workers=1, watch=seen.append)
    assert seen[-1].state == "starting"
    assert seen[-1].train == before.train
    assert seen[-1].valid == before.valid
