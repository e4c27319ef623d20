"""Translation: a translator by an encoder alone, a transformer encoder-decoder and an LSTM encoder-decoder."""

from collections.abc import Mapping
from typing import Any

from shoal.studies.base import Form, Grid

COMMON: Mapping[str, Any] = {"task": "translation", "vocabularies": "separate", "keep_best": True, "dropout": 0.1}
# Learning rates were not searched for.
SIZES: Mapping[bool, Mapping[str, Any]] = {
    True: {
        "embedding_size": 128,
        "train_batch_size": 64,
        "n_steps": 600,
        "eval_period": 100,
        "warmup_steps": 50,
        "lr": 2e-3,
    },
    False: {
        "embedding_size": 256,
        "train_batch_size": 128,
        "n_steps": 5000,
        "eval_period": 250,
        "warmup_steps": 250,
        "lr": 1e-3,
    },
}
OWN: Mapping[str, Mapping[str, Any]] = {
    "encoder_translator": {"num_layers": 1, "num_heads": 4},
    "encoder_decoder": {"num_layers": 2, "num_heads": 4},
    "lstm_encoder_decoder": {"num_layers": 1},
}
SEEDS = {True: 3, False: 5}
NEEDS = ("source", "target", "valid_source", "valid_target")


def grids(quick: bool) -> list[Grid]:
    """The three families over the same seeds, with as many steps over the same batches."""
    return [
        Grid({"model": model, **COMMON, **SIZES[quick], **own}, {"seed": range(SEEDS[quick])})
        for model, own in OWN.items()
    ]
