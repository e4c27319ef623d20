"""Reproduction of Power et al. 2022: division modulo 97, where generalisation comes long after memorisation.

Source: Power, Burda, Edwards, Babuschkin and Misra, "Grokking: generalization beyond overfitting on small algorithmic
datasets", 2022, figure 1, and its code.
"""

import sys

from shoal.report import Report
from shoal.studies.base import Form, Grid
from shoal.studies.reproductions.curves import PublishedCurve
from shoal.studies.reproductions.page import reproduction_report
from shoal.studies.reproductions.verdict import Published
from shoal.studies.results import Results

TITLE = "Reproduction: Power et al. 2022"
SOURCE = (
    "Power et al. 2022, Grokking: generalization beyond overfitting on small algorithmic datasets, figure 1: modular "
    "division, half of the equations; settings from the paper and its code."
)
SETTINGS = {
    "model": "gpt",
    "p": 97,
    "operator": "/",
    "equation_format": "eos",
    "unused_tokens": 139,  # of their 239, which hold all their tasks'
    "split_seed": 0,
    "r_train": 0.5,
    "num_layers": 2,
    "embedding_size": 128,
    "num_heads": 4,
    "multiplier": 4,
    "non_linearity": "relu",
    "positions": "vaswani",
    "bias": False,
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
}
PUBLISHED = (
    Published("training accuracy ≥ 0.99", 1e3, "figure 1, one run", column="train_accuracy", is_bound=True),
    Published("validation accuracy ≥ 0.99", 1e6, "figure 1, one run"),
)
CURVES: tuple[PublishedCurve, ...] = ()
DEVIATIONS = (
    "The split is theirs, the same for all runs: what our runs differ by is the initial parameters and the order of "
    "batches.",
    "“Near-perfect” is read as an accuracy of 0.99; the numbers are read off a figure with a logarithmic axis.",
    "Training accuracy is that of the whole set after a step; there it is the mean over an epoch's ten batches, each "
    "before its update.",
)


def grids(quick: bool) -> list[Grid]:
    """Grids of memorisation alone, of three seeds, in the quick form; in the full form with an evaluation at each of
    the first 2,000 steps, for the time of memorising. The published steps are out of reach of a CPU."""
    if quick:
        return [Grid({**SETTINGS, "n_steps": 2000, "eval_first": 0, "eval_period": 50}, {"seed": range(3)})]
    stop = {"n_steps": 2_000_000, "eval_first": 2000, "eval_period": 1000, "stop_after_generalizing": 0}
    return [Grid({**SETTINGS, **stop}, {"seed": range(5)})]


def report(results: Results, form: Form) -> Report:
    """Report of the reproduction."""
    return reproduction_report(sys.modules[__name__], "power-2022", results, form)
