"""What the order of a pass takes, against what the estimate of memory says of it."""

import multiprocessing
from pathlib import Path

import pytest
import torch
from pair_files import english

from shoal.spec import RunSpec
from shoal.tasks.pairs.buckets import Buckets, BucketSampler
from shoal.tasks.sampling import EpochSampler
from shoal.training.memory import ORDER, stack_bytes

N = 4_500_000  # orders of so many are larger than what the allocator keeps for later


def kept(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def measured(sampler):
    """Bytes that an order of ``N`` examples takes at most, in a process that has freed nothing to take them from."""
    more = (Buckets(*[torch.arange(N, dtype=torch.int64) % 9 + 1] * 2),) if sampler is BucketSampler else ()
    before = kept("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak
    made = sampler(torch.tensor([1]), torch.tensor([N]), 128, *more)
    made.prepare(torch.tensor([0]))
    return kept("VmHWM") - before


@pytest.mark.slow
@pytest.mark.parametrize("sampler", [EpochSampler, BucketSampler])
def test_an_order_takes_no_more_than_is_said(sampler):
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        took = pool.apply(measured, (sampler,))
    assert ORDER * 8 * N / 3 < took <= ORDER * 8 * N


def test_the_order_of_a_pass_is_in_the_estimate():
    small, large = (
        RunSpec(task="sorting", embedding_size=16, min_length=4, max_length=5, train_examples=n)
        for n in (10_000, 60_000)
    )
    held = large.task_part.counts().held - small.task_part.counts().held
    assert stack_bytes(large, 1, "plain") - stack_bytes(small, 1, "plain") >= 8 * (held + ORDER * 50_000)


def test_windows_anywhere_have_no_order(tmp_path):
    text = {"task": "text", "text": english(tmp_path), "context_length": 8, "tokenizer": "chars"}
    anywhere, blocks = (RunSpec(**text, windows=drawn) for drawn in ("random", "blocks"))
    assert anywhere.task_part.shuffled() == 0
    assert blocks.task_part.shuffled() == blocks.task_part.counts().drawn // 8 > 10
