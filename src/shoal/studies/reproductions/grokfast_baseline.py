"""Reproduction of the baseline of Grokfast: multiplication modulo 97 without its gradient filter.

Source: Lee, Kang, Kim and Lee, "Grokfast: accelerated grokking by amplifying slow gradients", 2024, and its code.
"""

import sys

from shoal.report import Report
from shoal.studies.base import Form, Grid
from shoal.studies.reproductions.curves import PublishedCurve
from shoal.studies.reproductions.page import reproduction_report
from shoal.studies.reproductions.verdict import Published
from shoal.studies.results import Results

TITLE = "Reproduction: the baseline of Grokfast"
SOURCE = (
    "Lee et al. 2024, Grokfast: 39,890 steps to a validation accuracy of 95 % without their filter; settings from the "
    "paper and its code."
)
SETTINGS = {
    "model": "gpt",
    "p": 97,
    "operator": "*",
    "equation_format": "infix",
    "zero_operands": "first",
    "r_train": 0.5,
    "num_layers": 2,
    "embedding_size": 128,
    "num_heads": 4,
    "multiplier": 4,
    "non_linearity": "gelu",
    "norm_position": "pre_stream",
    "positions": "learned",
    "initialisation": "torch_attention",
    "bias": True,
    "bias_ffn": True,
    "bias_classifier": False,
    "optimizer": "adam",
    "lr": 1e-3,
    "weight_decay": 0.0,
    "beta1": 0.9,
    "beta2": 0.98,
    "warmup_steps": 10,
    "warmup_from_zero": True,
    "clip": float("inf"),
    "train_batch_size": 512,
    "eval_batch_size": 97 * 96,
    "eval_first": 0,
    "eval_period": 100,
    "stop_after_generalizing": 0,
}
PUBLISHED = (
    Published("validation accuracy ≥ 0.95", 39_890, "paper, one run", threshold=0.95),
    Published("training accuracy ≥ 0.99", 1e3, "figure, one run", column="train_accuracy", is_bound=True),
)
CURVES: tuple[PublishedCurve, ...] = ()
DEVIATIONS = (
    "Their steps are counted at the start of an epoch of 10 steps whose end they describe, so that each is 10 too few; "
    "ours lie on a grid of 100 steps.",
    "Training accuracy is that of the whole set after a step; there it is the mean over an epoch's ten batches, each "
    "before its update.",
)


def grids(quick: bool) -> list[Grid]:
    """Grid of two seeds or eight, until validation accuracy 0.99 or 60,000 steps."""
    return [Grid({**SETTINGS, "n_steps": 60_000}, {"seed": range(2 if quick else 8)})]


def report(results: Results, form: Form) -> Report:
    """Report of the reproduction."""
    return reproduction_report(sys.modules[__name__], "grokfast-baseline", results, form)
