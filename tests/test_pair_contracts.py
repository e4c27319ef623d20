"""The tasks of sources and targets hold the contract of tasks, each with another way to read them."""

import pytest
import torch
from pair_files import english, parallel

from shoal.parts import RunSpec
from shoal.testing import TaskContract
from shoal.testing.base import stack_of
from shoal.training.step import train_steps

SMALL = {"n_steps": 200, "train_batch_size": 8, "eval_batch_size": 16, "embedding_size": 8}


class TestTranslation(TaskContract):
    settings = {**SMALL, "task": "translation", "model": "pair_models:TinyPair", "min_frequency": 1}

    @pytest.fixture
    def spec(self, tmp_path):
        return RunSpec(**self.settings, **parallel(tmp_path), vocabularies="separate", label_smoothing=0.1)


class TestPigLatin(TaskContract):
    settings = {**SMALL, "task": "pig_latin", "model": "pair_models:TinySource", "reduction": "sentence"}

    @pytest.fixture
    def spec(self, tmp_path):
        return RunSpec(**self.settings, text=english(tmp_path))


class TestSorting(TaskContract):
    settings = {
        **SMALL,
        "task": "sorting",
        "model": "gpt",
        "num_layers": 1,
        "num_heads": 2,
        "min_length": 2,
        "max_length": 4,
        "digits": 8,
        "train_examples": 50,
        "valid_examples": 20,
    }


def test_a_stack_and_each_member_alone_are_the_same_to_the_bit(tmp_path):
    files = parallel(tmp_path)
    small = {"num_layers": 1, "num_heads": 2, "embedding_size": 8, "n_steps": 30}
    cases = [
        # buckets of 24 and 16 pairs, of which one is left over when batches have 5 and 15
        {"task": "translation", **files, "min_frequency": 1, "train_batch_size": 5, "model": "encoder_decoder"},
        {"task": "translation", **files, "min_frequency": 1, "train_batch_size": 15, "model": "gpt"},
        {"task": "translation", **files, "min_frequency": 1, "train_batch_size": 5, "model": "non_autoregressive"},
        # targets are longer than sources, so that padding is read
        {"task": "pig_latin", "text": english(tmp_path), "train_batch_size": 8, "model": "encoder_translator"},
        {"task": "pig_latin", "text": english(tmp_path), "train_batch_size": 8, "model": "non_autoregressive"},
    ]
    for case in cases:
        specs = [RunSpec(**small, **case, seed=seed) for seed in range(2)]
        together, alone = stack_of(*specs), [stack_of(spec) for spec in specs]
        for step in range(1, 9):
            for stack in (together, *alone):
                train_steps(stack, 1)
            for place, own in enumerate(alone):
                assert torch.equal(together.theta[place], own.theta[0]), f"{case['model']}, member {place}, step {step}"
