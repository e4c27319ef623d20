"""Sanity check: an LSTM and a GPT memorise modular addition, and much later generalise.

Source: the practical, problem 4, questions 1 and 2: default settings, seeds 0 and 42, four figures and a table of ten
figures per model.
"""

from statistics import median

import polars as pl

from shoal.analysis import first_step_at_least
from shoal.report import Figure, Report, Section, learning_curves
from shoal.report.figures import lines_note
from shoal.report.panels import MODEL, MODELS
from shoal.report.summary import ten_figures
from shoal.report.words import in_ranges
from shoal.studies.base import Form, Grid
from shoal.studies.parts import finished, times_section
from shoal.studies.results import Results
from shoal.studies.settings import per_model

ABOUT = "an LSTM and a GPT memorise modular addition and much later generalise"
QUESTION = "Modular addition: do the models memorise the training equations, and do they generalise later?"
GENERALISED = 0.99


def grids(quick: bool) -> list[Grid]:
    """Both models over the seeds."""
    return per_model(quick)


def report(results: Results, form: Form) -> Report:
    """Four figures, the table of ten figures per model, and what they say in words."""
    labels = {run: MODELS[spec.model] for run, spec in results.specs.items()}
    figures = [_figure(results, model, quantity) for model in results.models for quantity in ("loss", "accuracy")]
    return finished(
        "sanity",
        "Sanity check",
        QUESTION,
        [answer(results.curves, model) for model in results.models],
        [
            Section("Learning curves", figures=figures),
            Section("Ten figures per model", tables=[ten_figures(results.extrema, labels)]),
            times_section(results, MODEL, form),
        ],
        results,
        form,
    )


def answer(curves: pl.DataFrame, model: str) -> str:
    """When a model memorised and generalised, in one computed sentence."""
    own = curves.filter(pl.col("model") == model)
    memorised = first_step_at_least(own, "train_accuracy", 1.0)["step"]
    generalised = first_step_at_least(own, "valid_accuracy", GENERALISED)["step"]
    n = len(memorised)
    return (
        f"{MODELS[model]}: {_reached(memorised, n)} training accuracy 1{_at(memorised)}, and "
        f"{_reached(generalised, n)} validation accuracy {GENERALISED}{_at(generalised)}."
    )


def _reached(steps: pl.Series, n: int) -> str:
    return f"{steps.drop_nulls().len()} of {n} runs reached"


def _at(steps: pl.Series) -> str:
    reached = sorted(steps.drop_nulls().to_list())
    if not reached:
        return ""
    if reached[0] == reached[-1]:
        return f" (at step {reached[0]:,})"
    return f" (at step {median(reached):,.0f} in the median, {reached[0]:,} to {reached[-1]:,})"


def _figure(results: Results, model: str, quantity: str) -> Figure:
    own = results.curves.filter(pl.col("model") == model)
    n = own["run"].n_unique()
    symbol = {"loss": "L", "accuracy": "A"}[quantity]
    seeds = in_ranges(own["seed"].unique().to_list())
    caption = (
        f"{quantity.capitalize()} {symbol}_train and {symbol}_val of the {MODELS[model]} against the training step "
        f"(logarithmic, from step 1). {lines_note(n, f' (seeds {seeds})')} "
        + ("Loss in nats per scored token, logarithmic." if quantity == "loss" else "Accuracy counts whole equations.")
    )
    title = f"{MODELS[model]}: {quantity}"
    return Figure(f"{model}-{quantity}", learning_curves(own, quantity, title), caption)
