# ruff: noqa: D103
"""Tests of the scripts for a GPU on a machine without one."""

import pytest
import torch

from benchmarks import gpu, launches
from shoal import RunSpec
from shoal.training.step import train_step

TINY = {"p": 5, "num_layers": 1, "embedding_size": 8, "r_train": 0.6}


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # on the CPU sums are divided between threads
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("model", ["lstm", "gpt"])
@pytest.mark.parametrize("engine", ["compiled", "prefixes"])
def test_on_the_cpu_nothing_differs_from_the_cpu(monkeypatch, model, engine):
    monkeypatch.setattr(gpu, "MEMBERS", 3)
    heads = {"num_heads": 2} if model == "gpt" else {}
    row = gpu.compare({"model": model, **TINY, **heads}, torch.device("cpu"), engine)
    assert row[:4] == ["0", "0", "contained", "0"]
    assert all(float(milliseconds) > 0 for milliseconds in row[4:])


def test_how_far_tensors_are_apart_is_said():
    x = torch.ones(3)
    assert gpu.apart(x, x.clone()) == "0"
    assert gpu.apart(x, torch.tensor([1.0, 1.0, 1.25])) == "2.5e-01"


@pytest.mark.parametrize("model", ["lstm", "gpt"])
def test_a_gpu_is_told_less_with_kernels(model):
    spec = RunSpec(model=model)
    plain, fused = (launches.counts(spec, engine, train_step) for engine in ("prefixes", "compiled"))
    assert plain[1] == 0 < fused[1] < fused[0]
    assert 2 * sum(fused) < plain[0] + 10
