"""Which examples a step sees, and the random numbers behind it."""

import math
from itertools import chain

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.func import vmap

from shoal.keyed import bits, fold, uniform
from shoal.tasks.sampling import EpochSampler

some = settings(max_examples=25, deadline=None)


def sampler(sizes: list[int], batch_size: int, keys: list[int] | None = None) -> EpochSampler:
    return EpochSampler(torch.tensor(keys or range(7, 7 + len(sizes))), torch.tensor(sizes), batch_size)


def seen(sampler: EpochSampler, steps: range) -> list[list[list[int]]]:
    """Positions that count, by step and member."""
    out = []
    for step in steps:
        at = torch.full_like(sampler.batches, step)
        assert sampler.prepare(at - 1) >= 1
        positions, counts = sampler(at)
        out.append([row[kept].tolist() for row, kept in zip(positions, counts, strict=True)])
    return out


some_sizes = st.lists(st.integers(1, 12), min_size=1, max_size=4)
batch_sizes = st.integers(1, 14)


@some
@given(some_sizes, batch_sizes)
def test_every_epoch_visits_every_example_once(sizes, batch_size):
    batches = [math.ceil(size / batch_size) for size in sizes]
    steps = seen(sampler(sizes, batch_size), range(1, 3 * max(batches) + 1))
    for member, (size, n) in enumerate(zip(sizes, batches, strict=True)):
        for start in range(0, len(steps) - n + 1, n):
            epoch = [step[member] for step in steps[start : start + n]]
            assert sorted(chain(*epoch)) == list(range(size))
            assert [len(batch) for batch in epoch[:-1]] == [batch_size] * (n - 1)
            assert len(epoch[-1]) == size - (n - 1) * batch_size


@some
@given(some_sizes, batch_sizes)
def test_a_member_samples_as_it_does_alone(sizes, batch_size):
    together = seen(sampler(sizes, batch_size), range(1, 20))
    for member, size in enumerate(sizes):
        alone = seen(sampler([size], batch_size, [7 + member]), range(1, 20))
        assert [step[member] for step in together] == [step[0] for step in alone]


@some
@given(some_sizes, batch_sizes, st.integers(1, 40))
def test_a_step_draws_the_same_whatever_was_drawn_before(sizes, batch_size, step):
    one = sampler(sizes, batch_size)
    seen(one, range(1, step))
    assert seen(one, range(step, step + 3)) == seen(sampler(sizes, batch_size), range(step, step + 3))


@some
@given(some_sizes)
def test_a_full_batch_is_the_whole_set_in_its_own_order(sizes):
    for step in seen(sampler(sizes, max(sizes)), range(1, 4)):
        assert step == [list(range(size)) for size in sizes]


@some
@given(some_sizes, batch_sizes, st.integers(0, 30))
def test_what_was_prepared_can_be_drawn_without_asking_again(sizes, batch_size, taken):
    one, batches = sampler(sizes, batch_size), [math.ceil(size / batch_size) for size in sizes]
    prepared = one.prepare(torch.full((len(sizes),), taken))
    left = [n - taken % n for n in batches if n > 1]  # to the end of each pass
    assert prepared == min(left) if left else prepared > 10**9
    for step in range(taken + 1, taken + 1 + min(prepared, 20)):
        positions, counts = one(torch.full((len(sizes),), step))
        found = [row[kept].tolist() for row, kept in zip(positions, counts, strict=True)]
        assert found == seen(sampler(sizes, batch_size), range(step, step + 1))[0]


def test_orders_differ_between_epochs_and_members():
    steps = seen(sampler([20, 20], 5), range(1, 9))
    orders = [tuple(chain(*(step[member] for step in part))) for part in (steps[:4], steps[4:]) for member in (0, 1)]
    assert len({*orders, tuple(range(20))}) == 5


def test_uniform_numbers_look_uniform():
    x = uniform(torch.tensor([3, 4]), 50_000)
    assert x.shape == (2, 50_000)
    assert x.dtype == torch.float32
    assert x.min() >= 0
    assert x.max() < 1
    for row in x:
        assert row.mean().item() == pytest.approx(1 / 2, abs=0.005)
        assert row.var().item() == pytest.approx(1 / 12, abs=0.002)
        assert torch.histc(row, 10, 0, 1).tolist() == pytest.approx([5000] * 10, rel=0.06)
    assert torch.corrcoef(x)[0, 1].abs() < 0.02
    assert torch.corrcoef(torch.stack([x[0, 1:], x[0, :-1]]))[0, 1].abs() < 0.02


@some
@given(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=4), st.integers(-(2**62), 2**62), st.integers(1, 9))
def test_numbers_of_a_key_do_not_depend_on_what_is_computed_beside_them(keys, data, n):
    stacked = torch.tensor(keys)
    folded = fold(stacked, data)
    assert torch.equal(vmap(lambda key: fold(key, data))(stacked), folded)
    assert torch.equal(vmap(lambda key: uniform(key, n))(folded), uniform(folded, n))
    for key, value, row in zip(keys, folded, bits(folded, n), strict=True):
        assert torch.equal(fold(torch.tensor(key), torch.tensor(data)), value)
        assert torch.equal(bits(value, n), row)
        assert torch.equal(bits(value, n + 3)[:n], row)
        assert 0 <= value < 2**32
        assert ((row >= 0) & (row < 2**32)).all()


def test_folding_keeps_keys_and_data_apart():
    keys = fold(torch.arange(200).unsqueeze(1), torch.arange(-100, 100))  # 40,000 of 2**32: about 0.2 collisions
    assert keys.unique().numel() > 39_990
    assert bits(torch.tensor(5), 40_000).unique().numel() == 40_000
    assert fold(torch.tensor(1), 2) != fold(torch.tensor(2), 1)
    assert fold(torch.tensor(1), 1) != fold(torch.tensor(1), 1 + 2**32)
