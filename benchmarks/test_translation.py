# ruff: noqa: D103
"""Tests that the plain loop of translation has the models, the batches and the losses of the stack."""

import pytest
from pair_files import parallel

from benchmarks.translation import CPU, FILES, Loop, check, cohort, shares, steps_of
from shoal.training.stack import Stack
from shoal.training.step import train_steps


@pytest.fixture
def paths(tmp_path):
    files = parallel(tmp_path, 150, 8)
    return [files[name] for name in FILES]


def test_both_have_the_same_models_and_batches(paths):
    runs = cohort(paths, 2)
    first, second = steps_of(runs, 2)
    assert len(first.batches) == 2 and first.tokens > 0
    check(runs, first)
    with pytest.raises(RuntimeError, match="has loss"):
        check(runs, second)


@pytest.mark.slow
def test_without_dropout_both_learn_alike(paths):
    runs = cohort(paths, 1)
    runs = type(runs)((runs.shared.replace(dropout=0.0, lr_schedule="constant", warmup_steps=0),))
    stack, loop, other = Stack(runs, CPU), Loop(runs.shared), Loop(runs.shared)
    *steps, last = steps_of(runs, 5)
    for step in steps:
        loop.step(step.batches[0])
    train_steps(stack, len(steps))
    before = float(other.step(last.batches[0]))
    other.model = stack.built_model(0)
    ours, theirs = (float(one.step(last.batches[0])) for one in (other, loop))
    assert ours == pytest.approx(theirs, abs=1e-4)
    assert abs(before - theirs) > 0.01


def test_buckets_hold_more_tokens_than_all_padded_to_the_longest(paths):
    buckets, longest = shares(paths)
    assert 0 < longest < buckets <= 1
