"""The tasks of sources and targets hold the contract of tasks, each with another way to read them."""

import pytest
from pair_files import english, parallel

from shoal.parts import RunSpec
from shoal.testing import TaskContract

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
