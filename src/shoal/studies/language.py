"""Language: which of an LSTM and a GPT learns a text better, at equal compute."""
from functools import partial
from typing import Any
from collections.abc import Mapping

from shoal.studies.base import Grid
from shoal.studies.equal_compute import steps_for

BUDGETS = {True: 2e12, False: 20e12}  # FLOP of a run, of the quick form and of the full one
COMMON: Mapping[str, Any] = {"task": "text", "train_batch_size": 16, "keep_best": True}
# About as many parameters each: 0.22 and 0.23 million of the quick form, 0.80 of the full one.
OWN: Mapping[bool, Mapping[str, Mapping[str, Any]]] = {
    True: {
        "lstm": {"num_layers": 1, "embedding_size": 160, "lr": 4e-3},
        "gpt": {"num_layers": 2, "embedding_size": 96, "lr": 4e-3},
    },
    False: {
        "lstm": {"num_layers": 2, "embedding_size": 224, "lr": 2e-3},
        "gpt": {"num_layers": 4, "embedding_size": 128, "lr": 2e-3},
    },
}
GPT: Mapping[str, Any] = {"norm_position": "pre", "positions": "learned", "initialisation": "gpt2"}
SEEDS = {True: 3, False: 5}


def grids(quick: bool) -> list[Grid]:
    """Both models over the same seeds, with steps that cost the same compute."""
    return [
        Grid(
            {"model": model, **COMMON, **own, **(GPT if model == "gpt" else {})},
            {"seed": range(SEEDS[quick])},
            completed=partial(steps_for, BUDGETS[quick]),
        )
        for model, own in OWN[quick].items()
    ]
