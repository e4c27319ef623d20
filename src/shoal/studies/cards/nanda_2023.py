"""Nanda et al. 2023: addition modulo 113 by a one-layer transformer without LayerNorm.

Source: Nanda, Chan, Lieberum, Smith and Steinhardt, "Progress measures for grokking via mechanistic interpretability",
ICLR 2023, and its code.
"""

import sys

from shoal.report import Report
from shoal.studies.base import Form, Grid
from shoal.studies.cards.page import card_report
from shoal.studies.cards.verdict import Published
from shoal.studies.results import Results

TITLE = "Reproduction: Nanda et al. 2023"
SOURCE = (
    "Nanda et al. 2023, Progress measures for grokking via mechanistic interpretability: first epoch with a test loss "
    "below 0.01 by share of the data, one run each; settings from the paper and its code."
)
SETTINGS = {
    "model": "gpt",
    "p": 113,
    "operator": "+",
    "equation_format": "operands",
    "num_layers": 1,
    "embedding_size": 128,
    "num_heads": 4,
    "multiplier": 4,
    "non_linearity": "relu",
    "norm": "none",
    "positions": "learned",
    "initialisation": "scaled_normal",
    "bias": False,
    "bias_ffn": True,
    "bias_classifier": False,
    "optimizer": "adamw",
    "lr": 1e-3,
    "weight_decay": 1.0,
    "beta1": 0.9,
    "beta2": 0.98,
    "warmup_steps": 10,
    "clip": float("inf"),
    "train_batch_size": 113**2,
    "eval_batch_size": 113**2,
    "eval_first": 0,
    "eval_period": 10,
}
REPORTED = {0.95: 279, 0.9: 387, 0.8: 439, 0.5: 1109, 0.3: 8258, 0.28: 15_612}
PUBLISHED = tuple(
    Published(
        what=f"test loss < 0.01 with {share:.0%} of the data",
        value=epoch,
        source="one run",
        where={"r_train": share},
        column="valid_loss",
        threshold=0.01,
        at_most=True,
    )
    for share, epoch in REPORTED.items()
)
DEVIATIONS = (
    "The loss is computed in float32; there the log-softmax is in float64.",
    "Times lie on a grid of 10 steps; there every epoch was looked at. An epoch is a step: the batch is the whole set.",
    "The classifier starts from N(0, 1/d) as all other matrices do; there its variance is 1/(p + 1).",
    "Other people's runs of nearly the same settings span 4,300 to 10,017 epochs: one run is one draw.",
)
_STEPS = {0.95: 2000, 0.9: 2000, 0.8: 2000, 0.5: 5000, 0.3: 40_000, 0.28: 60_000}


def grids(quick: bool) -> list[Grid]:
    """One grid per share of the data, each with as many steps as it may need; the quick form, the two middle shares."""
    shares, seeds = ((0.8, 0.5), range(3)) if quick else (REPORTED, range(8))
    stop = {"stop_after_generalizing": 300 if quick else 1000}  # the loss falls below 0.01 within 100 steps of that
    return [Grid({**SETTINGS, **stop, "n_steps": _STEPS[share], "r_train": share}, {"seed": seeds}) for share in shares]


def report(results: Results, form: Form) -> Report:
    """The card."""
    return card_report(sys.modules[__name__], "nanda-2023", results, form)
