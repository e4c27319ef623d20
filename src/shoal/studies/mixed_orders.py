"""Mixed orders: binary and ternary sums learned together.

Source: the practical, problem 4, question 4: p = 11, orders 2 and 3, half of each order trains; loss and accuracy on
all equations and on each order apart.
"""

import polars as pl

from shoal.report import Figure, Report, Section, learning_curves
from shoal.report.panels import MODELS
from shoal.studies.base import Form, Grid
from shoal.studies.parts import finished
from shoal.studies.results import FIGURES, Results
from shoal.studies.settings import per_model

ABOUT = "binary and ternary sums learned together, and which of them first"
ORDERS = {2: "binary", 3: "ternary"}
_BOTH = {"operation_orders": (2, 3), "split_per_order": True}


def grids(quick: bool) -> list[Grid]:
    """Both models over the seeds; the quick form has a smaller modulus."""
    if quick:
        return per_model(quick, {**_BOTH, "p": 7, "train_batch_size": 512})
    return per_model(quick, {**_BOTH, "p": 11})


def report(results: Results, form: Form) -> Report:
    """Curves of all equations and of each order, the ten figures of each, and which order comes first."""
    sections = [
        Section(MODELS[model], figures=[figure for order in (None, 2, 3) for figure in _figures(results, model, order)])
        for model in results.models
    ]
    return finished("mixed-orders", "Mixed orders", [], sections, results, form)


def of_order(curves: pl.DataFrame, order: int | None) -> pl.DataFrame:
    """The curves with loss and accuracy those of one order; None for all equations."""
    if order is None:
        return curves
    return curves.drop(FIGURES).rename({f"{name}_order{order}": name for name in FIGURES})


def _figures(results: Results, model: str, order: int | None) -> list[Figure]:
    own = of_order(results.of(model=model).curves, order)
    equations = "all equations" if order is None else f"{ORDERS[order]} equations"
    figures = []
    for quantity in ("loss", "accuracy"):
        title = f"{MODELS[model]}, {equations}: {quantity}"
        caption = (
            f"{quantity.capitalize()} of the {MODELS[model]} on {equations} against the training step (logarithmic, "
            f"from step 1). Thin lines: each of N = {own['run'].n_unique()} runs; thick: their mean; shaded: mean ± "
            "one population standard deviation, kept inside what the runs took."
        )
        name = f"{model}-{'all' if order is None else ORDERS[order]}-{quantity}"
        figures.append(Figure(name, learning_curves(own, quantity, title), caption))
    return figures
