"""Sanity check: an LSTM and a GPT memorise modular addition, and much later generalise.

Source: the practical, problem 4, questions 1 and 2: default settings, seeds 0 and 42, four figures and a table of ten
figures per model. The quick form has smaller models and a smaller modulus, for two cores and a few minutes.
"""

from collections.abc import Sequence
from statistics import median
from typing import Any

import polars as pl

from shoal.analysis import first_step_at_least
from shoal.lab import Records
from shoal.report import Figure, Report, Section, learning_curves
from shoal.report.summary import provenance, ten_figures
from shoal.spec import RunSpec, grid

ABOUT = "an LSTM and a GPT memorise modular addition and much later generalise"
MODELS = {"lstm": "LSTM", "gpt": "GPT"}
GENERALISED = 0.99

_SEEDS = (0, 42)
_QUICK_SEEDS = (0, 1, 2, 3)
# beta2 0.98 as in Nanda et al. 2023: at this learning rate the GPT is unsteady with 0.999
_QUICK_OWN: dict[str, dict[str, Any]] = {"lstm": {"n_steps": 4000}, "gpt": {"n_steps": 2600, "beta2": 0.98}}
_QUICK: dict[str, Any] = {
    "p": 23,
    "r_train": 0.7,
    "num_layers": 1,
    "embedding_size": 64,
    "lr": 3e-3,
    "train_batch_size": 128,
}


def runs(quick: bool, seeds: Sequence[int] | None = None) -> list[RunSpec]:
    """Both models over the seeds."""
    if not quick:
        return grid(model=MODELS, seed=seeds or _SEEDS)
    return [
        spec
        for model in MODELS
        for spec in grid(
            RunSpec(model=model, eval_first=20, eval_period=25, **_QUICK, **_QUICK_OWN[model]),
            seed=seeds or _QUICK_SEEDS,
        )
    ]


def report(records: Records, quick: bool) -> Report:
    """Four figures, the table of ten figures per model, and what they say in words."""
    extrema = records.extrema()
    curves = records.curves()
    labels = {run: MODELS[spec.model] for run, spec in records.specs.items()}
    figures = [_figure(curves, model, quantity) for model in MODELS for quantity in ("loss", "accuracy")]
    command = f"shoal study run sanity{' --quick' if quick else ''}"
    return Report(
        title=f"Sanity check{' (quick form)' if quick else ''}",
        lead="Modular addition: do the models memorise the training equations, and do they generalise later? "
        + " ".join(answer(curves, model) for model in MODELS),
        sections=[
            Section("Learning curves", figures=figures),
            Section("Ten figures per model", tables=[ten_figures(extrema, labels)]),
            provenance(records, command),
        ],
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
    if len(reached) == 1:
        return f" (at step {reached[0]:,})"
    return f" (at step {median(reached):,.0f} in the median, {reached[0]:,} to {reached[-1]:,})"


def _figure(curves: pl.DataFrame, model: str, quantity: str) -> Figure:
    own = curves.filter(pl.col("model") == model)
    n = own["run"].n_unique()
    symbol = {"loss": "L", "accuracy": "A"}[quantity]
    seeds = ", ".join(map(str, sorted(own["seed"].unique().to_list())))
    caption = (
        f"{quantity.capitalize()} {symbol}_train and {symbol}_val of the {MODELS[model]} against the training step "
        f"(logarithmic, from step 1). Thin lines: each of N = {n} runs (seeds {seeds}); thick: their mean; "
        "shaded: mean ± one population standard deviation, kept inside what the runs took. "
        + ("Loss in nats per scored token, logarithmic." if quantity == "loss" else "Accuracy counts whole equations.")
    )
    title = f"{MODELS[model]}: {quantity}"
    return Figure(f"{model}-{quantity}", learning_curves(own, quantity, title), caption)
