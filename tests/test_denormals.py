"""Numbers below the smallest with a full mantissa count as 0 while a cohort trains, and only then."""

import pytest
import torch
from helpers import denormals_are_flushed, tiny

import shoal
from shoal.fast.denormals import flushed_denormals, is_flushed
from shoal.fast.threads import openmp_runtime
from shoal.training.executor import cores

SMALL = 1e-39


@pytest.mark.parametrize("before", [False, True])
def test_a_thread_is_left_as_it_was_found(before):
    torch.set_flush_denormal(before)
    try:
        with pytest.raises(KeyError), flushed_denormals():
            assert is_flushed()
            assert float(torch.tensor(SMALL) * 0.5) == 0
            raise KeyError
        assert is_flushed() == before
    finally:
        torch.set_flush_denormal(False)
    assert float(torch.tensor(SMALL) * 0.5) > 0


@pytest.mark.skipif(openmp_runtime() is None or cores() < 2, reason="one thread, or a runtime that cannot be asked")
def test_threads_that_are_there_already_flush_too_and_no_longer():
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        numbers = torch.full((2**21,), SMALL)  # so many that both threads take a part, here and below
        with flushed_denormals():
            assert int((numbers * 0.5).count_nonzero()) == 0
        assert int((numbers * 0.5).count_nonzero()) == len(numbers)
    finally:
        torch.set_num_threads(threads)


def test_a_cohort_trains_without_them(tmp_path):
    """In this process; in workers, ``test_two_workers_train_what_one_trains``."""
    records = shoal.train(
        [tiny(seed=0), tiny(model="gpt", seed=0)],
        tmp_path / "lab",
        workers=1,
        metrics={"flushed": denormals_are_flushed},
    )
    assert records.curves()["flushed"].min() == 1
    assert not is_flushed()
