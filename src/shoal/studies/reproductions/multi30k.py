"""Multi30k: German to English by a transformer encoder-decoder of three layers on either side.

Source: Trevett, "PyTorch Seq2Seq", tutorial 6 ("Attention is All You Need"), as its code and its notebook have it.
"""

from shoal.report import Report, Section
from shoal.studies.base import Form, Grid
from shoal.studies.parts import finished
from shoal.studies.results import Results

TITLE = "Reproduction: Multi30k by Trevett's transformer"
NEEDS = ("source", "target", "valid_source", "valid_target")
SETTINGS = {
    "task": "translation",
    "model": "encoder_decoder",
    "tokenizer": "words",
    "vocabularies": "separate",
    "min_frequency": 2,
    "lowercase": True,
    "max_length": 99,  # and EOS: 100 positions
    "too_long": "cut",
    "num_layers": 3,
    "embedding_size": 256,
    "num_heads": 8,
    "multiplier": 2,
    "non_linearity": "relu",
    "norm": "layernorm",
    "norm_position": "post",
    "positions": "learned",
    "scale_embeddings": True,
    "initialisation": "xavier_all",
    "dropout": 0.1,
    "dropout_at": "everywhere",
    "tie_embeddings": "none",
    "optimizer": "adam",
    "lr": 5e-4,
    "lr_schedule": "constant",
    "lr_floor": 0.0,
    "warmup_steps": 0,
    "weight_decay": 0.0,
    "clip": 1.0,
    "train_batch_size": 128,
    "keep_best": True,
}
FULL = {"n_steps": 2300, "eval_first": 0, "eval_period": 230}  # ten passes of 230 batches
QUICK = {
    "num_layers": 2,
    "embedding_size": 128,
    "num_heads": 4,
    "train_batch_size": 64,
    "n_steps": 900,
    "lr": 1e-3,
    "eval_first": 0,
    "eval_period": 150,
}
SEEDS = {True: 2, False: 4}


def grids(quick: bool) -> list[Grid]:
    """Ten epochs of the published model over four seeds; of the quick form, two of a smaller one over two."""
    return [Grid({**SETTINGS, **(QUICK if quick else FULL)}, {"seed": range(SEEDS[quick])})]


def report(results: Results, form: Form) -> Report:
    """The reproduction."""
    return finished("multi30k", TITLE, "?", [], [Section("Nothing yet")], results, form)
