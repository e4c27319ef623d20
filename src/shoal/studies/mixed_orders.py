"""Study of mixed orders: binary and ternary sums learned together.

Source: the practical, problem 4, question 4: p = 11, orders 2 and 3, half of each order trains; loss and accuracy on
all equations and on each order apart.
"""

from collections.abc import Sequence
from dataclasses import replace
from statistics import median

import polars as pl

from shoal.analysis import extrema, first_step_at_least
from shoal.errors import UserError
from shoal.report import Cell, Figure, Report, Section, Table, learning_curves
from shoal.report.figures import lines_note
from shoal.report.panels import MODELS
from shoal.report.summary import ten_figures
from shoal.report.words import counted, listed
from shoal.spec import RunSpec
from shoal.studies.base import Form, Grid
from shoal.studies.parts import BEST_VALUES, finished
from shoal.studies.results import FIGURES, Results
from shoal.studies.settings import per_model

QUESTION = "Binary and ternary sums learned together: does one kind come before the other?"
MEANINGS = {
    "loss": "Loss (nats per scored token, logarithmic)",
    "accuracy": "Accuracy (share of equations whose right-hand side is predicted whole)",
}
EVENTS = {"memorised": ("train", 0.99), "generalised": ("valid", 0.9)}
ORDERS = {2: "binary", 3: "ternary"}
_BOTH = {"operation_orders": (2, 3), "split_per_order": True}


def grids(quick: bool) -> list[Grid]:
    """Grids of both models over the seeds; the quick form has a smaller modulus."""
    if quick:
        return per_model(quick, {**_BOTH, "p": 7, "train_batch_size": 512})
    return per_model(quick, {**_BOTH, "p": 11})


def check(specs: Sequence[RunSpec]) -> None:
    """Raise :class:`UserError` for runs of one order."""
    for spec in specs:
        if spec.operation_orders != tuple(ORDERS):
            orders = ",".join(map(str, spec.operation_orders))
            raise UserError(f"mixed-orders needs operation_orders 2,3, got {orders}")


def report(results: Results, form: Form) -> Report:
    """Report with curves of all equations and of each order, the ten figures of each, and the order learned first."""
    sections = [
        Section(
            MODELS[model],
            figures=[figure for order in (None, 2, 3) for figure in _figures(results, model, order)],
            about="loss and accuracy while training, over all equations, the binary ones and the ternary ones.",
        )
        for model in results.models
    ]
    answers = [which_first(results.of(model=model)) for model in results.models]
    ten = [table for order in (None, 2, 3) if (table := _figures_table(results, order))]
    sections.append(Section("Ten numbers of each order", tables=ten, about=BEST_VALUES))
    sections.append(
        Section(
            "Order learned first",
            tables=[_times_table(results)],
            about="the first steps at which each kind of equation was memorised and understood.",
        )
    )
    return finished("mixed-orders", "Mixed orders", QUESTION, answers, sections, results, form)


def first_steps(results: Results) -> pl.DataFrame:
    """First steps at which each run memorised and generalised each order; null where it did not.

    Returns:
        ``run`` and ``memorised_2``, ``memorised_3``, ``generalised_2`` and ``generalised_3``.
    """
    frame = results.runs.select("run")
    for event, (split, threshold) in EVENTS.items():
        for order in ORDERS:
            steps = first_step_at_least(results.curves, f"{split}_accuracy_order{order}", threshold)
            frame = frame.join(steps.rename({"step": f"{event}_{order}"}), on="run", how="left", maintain_order="left")
    return frame


def which_first(results: Results) -> str:
    """Sentences on the order that one model learned first; a run that never reaches an event counts as later."""
    frame, parts = first_steps(results), []
    for event in EVENTS:
        two, three = (pl.col(f"{event}_{order}").cast(pl.Float64).fill_null(float("inf")) for order in ORDERS)
        same = (two == three) & two.is_finite()
        counts = {
            "binary equations first": two < three,
            "ternary equations first": two > three,
            "both at the same evaluation": same,
            "neither": two.is_infinite() & three.is_infinite(),
        }
        counts_of_runs = [f"{what} in {n}" for what, mask in counts.items() if (n := len(frame.filter(mask)))]
        both = frame.drop_nulls([f"{event}_2", f"{event}_3"])
        gaps = (both[f"{event}_3"] - both[f"{event}_2"]).sort().to_list()
        parts.append(f"{event.capitalize()} ({rule(event)}): {listed(counts_of_runs)}{_gaps(gaps)}.")
    return f"{MODELS[results.models[0]]}, {counted(len(frame), 'run')}. {' '.join(parts)}"


def rule(event: str) -> str:
    """Accuracy from which an event has happened, in symbols."""
    split, threshold = EVENTS[event]
    return f"A_{'val' if split == 'valid' else split} of that order ≥ {threshold}"


def _gaps(gaps: Sequence[int], most: int = 4) -> str:
    """Steps by which ternary equations were later, for each run or, of many, median and extremes."""
    if not any(gaps):  # both at the same evaluation every time, which the sentence has already
        return ""
    middle, *signed = (f"{gap:+,.0f}".replace("-", "−") if gap else "0" for gap in (median(gaps), *gaps))
    if len(gaps) <= most:
        return f" (ternary after binary, in the {counted(len(gaps), 'run')} with both: {listed(signed)} steps)"
    ends = f"from {signed[0]} to {signed[-1]} steps"
    return f" (ternary after binary, in {len(gaps)} runs with both: median {middle}, {ends})"


def _times_table(results: Results) -> Table:
    rows, data = [], []
    for model in results.models:
        frame = first_steps(results.of(model=model))
        data.append(frame.join(results.runs.select("run", "model", "seed"), on="run", maintain_order="left"))
        for row in frame.to_dicts():
            cells = [Cell("–" if row[c] is None else f"{row[c]:,}") for c in frame.columns if c != "run"]
            rows.append((f"{MODELS[model]}, run {row['run'][:8]}, seed {results.specs[row['run']].seed}", cells))
    header = ["", *(f"{event} {ORDERS[order]}" for event in EVENTS for order in ORDERS)]
    rules = ", ".join(f"{event}: {rule(event)}" for event in EVENTS)
    caption = f"First evaluated step of each event ({rules}); –: not within its steps."
    return Table("first-steps", header, rows, caption, pl.concat(data))


def _figures_table(results: Results, order: int | None) -> Table | None:
    """Table of the ten figures of both models on all equations or on one order; None where it lacks a split."""
    of_models = [of_order(results.of(model=model).curves, order) for model in results.models]
    if any(curves[name].is_nan().all() for curves in of_models for name in FIGURES):
        return None
    labels = {run: MODELS[spec.model] for run, spec in results.specs.items()}
    table = ten_figures(pl.concat([extrema(curves) for curves in of_models]), labels)
    name = "all" if order is None else ORDERS[order]
    return replace(table, name=f"ten-{name}", caption=f"{name.capitalize()} equations. {table.caption}")


def of_order(curves: pl.DataFrame, order: int | None) -> pl.DataFrame:
    """Curves of loss and accuracy on one order; None for all equations."""
    if order is None:
        return curves
    return curves.drop(FIGURES).rename({f"{name}_order{order}": name for name in FIGURES})


def _figures(results: Results, model: str, order: int | None) -> list[Figure]:
    curves = of_order(results.of(model=model).curves, order)
    equations = "all equations" if order is None else f"{ORDERS[order]} equations"
    figures = []
    for quantity in ("loss", "accuracy"):
        title = f"{MODELS[model]}, {equations}: {quantity}"
        caption = (
            f"{MEANINGS[quantity]} of the {MODELS[model]} on {equations}. Training and validation: on the equations "
            f"that train and on those that do not. {lines_note(curves['run'].n_unique())}"
        )
        name = f"{model}-{'all' if order is None else ORDERS[order]}-{quantity}"
        figures.append(Figure(name, learning_curves(curves, quantity, title), caption))
    return figures
