"""Reproduction of the practical's default runs, beside three reports of them, means over two seeds each."""

import sys

from shoal.report import Report
from shoal.studies.base import Form, Grid, first_seeds
from shoal.studies.reproductions.curves import PublishedCurve
from shoal.studies.reproductions.page import reproduction_report
from shoal.studies.reproductions.verdict import Published
from shoal.studies.results import Results
from shoal.studies.settings import per_model

TITLE = "Reproduction: the practical's sanity check"
SOURCE = "three people's runs of the defaults of the practical on modular arithmetic, problem 4, questions 1 and 2."
CURVES: tuple[PublishedCurve, ...] = ()
DEVIATIONS = (
    "Splits and initial parameters of a seed are those of the practical's code, bit for bit; rounding is not, and ten "
    "thousand steps amplify it. The order of batches is shoal's own; here each holds the whole training set.",
    "The reports are of seeds 0 and 42, whose splits and initial parameters two of our runs share: they are no runs of "
    "new seeds, and closer to ours than the interval takes them to be.",
    "A run of ours counts from a best accuracy of 0.99; the means that were reported may hold runs that stayed below.",
)
_REPORTS: dict[str, dict[str, tuple[float, ...]]] = {
    "lstm": {"t_train_accuracy": (300,), "t_valid_accuracy": (7850, 8700, 7550)},
    "gpt": {"t_train_accuracy": (82.5, 82.5, 84), "t_valid_accuracy": (8400, 8800, 5650)},
}
_SYMBOLS = {"t_train_accuracy": "t_f(A_train)", "t_valid_accuracy": "t_f(A_val)"}
PUBLISHED = tuple(
    Published(
        what=f"{model.upper()}: {_SYMBOLS[column]}, first step of the best accuracy",
        value=value,
        source=f"report {number}, mean of 2",
        where={"model": model},
        column=column,
        runs=2,
    )
    for model, columns in _REPORTS.items()
    for column, values in columns.items()
    for number, value in enumerate(values, 1)
)


def grids(quick: bool) -> list[Grid]:
    """Grids of the sanity check: four seeds or sixteen."""
    return per_model(False, seed=first_seeds((0, 42), 4 if quick else 16))


def report(results: Results, form: Form) -> Report:
    """Report of the reproduction."""
    return reproduction_report(sys.modules[__name__], "practical", results, form)
