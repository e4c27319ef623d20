"""Settings that studies share, so that a run which two of them ask for is the same run."""

from collections.abc import Mapping
from typing import Any

from shoal.studies.base import SEEDS, Grid

MODELS = ("lstm", "gpt")
QUICK_SEEDS = (0, 1, 2, 3)
# Smaller models and a smaller modulus, for two cores and a few minutes.
QUICK: Mapping[str, Any] = {
    "p": 23,
    "r_train": 0.7,
    "num_layers": 1,
    "embedding_size": 64,
    "lr": 3e-3,
    "train_batch_size": 128,
    "eval_first": 20,
    "eval_period": 25,
}
# beta2 0.98 as in Nanda et al. 2023: at this learning rate the GPT is unsteady with 0.999
QUICK_OWN: Mapping[str, Mapping[str, Any]] = {"lstm": {"n_steps": 4000}, "gpt": {"n_steps": 2600, "beta2": 0.98}}


def per_model(
    quick: bool, settings: Mapping[str, Any] = {}, models: tuple[str, ...] = MODELS, **axes: Any
) -> list[Grid]:
    """Grid of each model over some axes and the seeds: the practical's defaults, or the quick form's."""
    axes = {**axes, "seed": axes.get("seed", QUICK_SEEDS if quick else SEEDS)}
    usual = {model: {**QUICK, **QUICK_OWN[model]} if quick else {} for model in models}
    return [Grid({"model": model, **usual[model], **settings}, axes) for model in models]


# For a text: GPTs that are small enough for every variant to have its pairs. In the quick form most of a run's time
# goes into evaluations, each of the whole validation split.
TEXT: Mapping[str, Any] = {
    "task": "text",
    "num_layers": 2,
    "embedding_size": 64,
    "lr": 3e-3,
    "train_batch_size": 16,
    "context_length": 64,
    "n_steps": 2000,
    "eval_period": 500,
}
TEXT_QUICK: Mapping[str, Any] = {**TEXT, "num_layers": 1, "context_length": 32, "n_steps": 500, "eval_period": 250}
