"""Study of the sanity check: an LSTM and a GPT memorise modular addition, and much later generalise.

Source: the practical, problem 4, questions 1 and 2: default settings, seeds 0 and 42, four figures and a table of ten
numbers per model.
"""

from dataclasses import replace

import polars as pl

from shoal.analysis import median_time
from shoal.report import Figure, Report, Section, learning_curves
from shoal.report.figures import lines_note
from shoal.report.panels import MODEL, MODELS
from shoal.report.summary import ten_figures
from shoal.report.words import in_ranges, number
from shoal.studies.base import Form, Grid
from shoal.studies.parts import BEST_VALUES, LEARNING, finished, times_of, times_sections
from shoal.studies.results import Results
from shoal.studies.settings import per_model

QUESTION = "Modular addition: do the models memorise the training equations, and do they generalise later?"
GENERALISED = 0.99
MEANINGS = {
    "loss": "Loss: in nats per scored token, on a logarithmic axis.",
    "accuracy": "Accuracy: the share of equations whose right-hand side is predicted whole.",
}


def grids(quick: bool) -> list[Grid]:
    """Grids of both models over the seeds."""
    return per_model(quick)


def report(results: Results, form: Form) -> Report:
    """Report with four figures, the table of ten numbers per model, and the answers in words."""
    labels = {run: MODELS[spec.model] for run, spec in results.specs.items()}
    figures = [_figure(results, model, quantity) for model in results.models for quantity in ("loss", "accuracy")]
    return finished(
        "sanity",
        "Sanity check",
        QUESTION,
        [answer(results.of(model=model), form) for model in results.models],
        [
            Section("Learning curves", figures=figures, about=LEARNING),
            Section("Ten numbers per model", tables=[ten_figures(results.extrema, labels)], about=BEST_VALUES),
            *times_sections(results, {"": MODEL}, form),
        ],
        results,
        form,
    )


def answer(results: Results, form: Form) -> str:
    """Sentence on the steps at which the runs of one model memorised and generalised."""
    memorised = times_of(results, replace(form, stay=1), 1.0, "train_accuracy")
    generalised = times_of(results, form, GENERALISED)
    return (
        f"{MODELS[results.models[0]]}: {_reached(memorised)} training accuracy 1{_at(memorised)}, and "
        f"{_reached(generalised)} validation accuracy {GENERALISED}{form.stayed}{_at(generalised)}."
    )


def _reached(times: pl.DataFrame) -> str:
    return f"{times['observed'].sum()} of {len(times)} runs reached"


def _at(times: pl.DataFrame) -> str:
    """Steps at which runs reached the threshold, and the median over all runs, where others count as later."""
    reached = sorted(times.filter("observed")["time"].to_list())
    if not reached:
        return ""
    if reached[0] == reached[-1]:
        return f" (at step {reached[0]:,})"
    median, span = median_time(times), f"{reached[0]:,} to {reached[-1]:,}"
    return f" (at steps {span})" if median is None else f" (at step {number(median)} in the median, {span})"


def _figure(results: Results, model: str, quantity: str) -> Figure:
    curves = results.curves.filter(pl.col("model") == model)
    n = curves["run"].n_unique()
    symbol = {"loss": "L", "accuracy": "A"}[quantity]
    seeds = in_ranges(curves["seed"].unique().to_list())
    caption = (
        f"{quantity.capitalize()} {symbol}_train and {symbol}_val of the {MODELS[model]}. "
        f"{lines_note(n, f' (seeds {seeds})')} {MEANINGS[quantity]}"
    )
    title = f"{MODELS[model]}: {quantity}"
    return Figure(f"{model}-{quantity}", learning_curves(curves, quantity, title), caption)
