"""Study of seed variance: separate seeds of initialisation, split and batch order.

Every initialisation is combined with every split and every batch order; the variance of the time to generalise is
decomposed into their components and interactions. Batches are smaller than the training set, because where every step
sees all of it the order has no effect.
"""

from collections.abc import Mapping
from typing import Any

import polars as pl

from shoal.analysis import Decomposition, decompose
from shoal.analysis.factorial import corrected_together
from shoal.errors import UserError
from shoal.report import Report, Section
from shoal.report.factorial import factorial_figure, factorial_notes, factorial_table, factorial_test
from shoal.report.panels import MODELS
from shoal.report.survival import survival_figure, survival_table
from shoal.report.words import listed
from shoal.studies.base import Form, Grid
from shoal.studies.parts import finished, none_got_there, times_of
from shoal.studies.results import Results, trained_equations
from shoal.studies.settings import QUICK, QUICK_OWN

QUESTION = "Of the spread in the time to generalise, how much comes from initialisation, split and batch order?"
ABOUT = (
    "when the runs generalised, and which share of the differences between them comes from each seed; a bar that "
    "reaches far to the right is of a seed that decides."
)
FACTORS = {"init_seed": "initialisation", "split_seed": "split", "order_seed": "batch order"}
_Asked = tuple[str, float]  # model and threshold


def grids(quick: bool) -> list[Grid]:
    """Grids of a full factorial of three seeds; in the quick form for the LSTM alone."""
    seeds = {name: [0, 1, 2] for name in FACTORS}
    if quick:
        return [Grid({"model": "lstm", **QUICK, **QUICK_OWN["lstm"]}, seeds)]
    return [Grid({"model": model, "train_batch_size": 128}, seeds) for model in MODELS]


def report(results: Results, form: Form) -> Report:
    """Report with shares of the variance for each model and threshold, and times to generalise."""
    asked = [(model, threshold) for model in results.models for threshold in form.thresholds]
    times = {(model, threshold): times_of(results.of(model=model), form, threshold) for model, threshold in asked}
    decompositions, problems = _decomposed(times)
    answers, sections = [], []
    for model in results.models:
        figures, tables, notes = [], [], []
        for threshold in form.thresholds:
            model_times = times[model, threshold]
            name = f"{model}-{threshold:g}".replace(".", "")
            reached, event = f"validation accuracy {threshold:g}{form.stayed}", f"A_val ≥ {threshold:g}{form.stayed}"
            whole = model_times.with_columns(pl.lit(MODELS[model]).alias("runs"))
            title = f"{MODELS[model]}: reached {event}"
            if model_times["observed"].any():
                figures.append(survival_figure(f"times-{name}", whole, "runs", title, reached, log_x=True))
            else:
                notes.append(f"{MODELS[model]}, {event}: {none_got_there(model_times)}")
            tables.append(survival_table(f"times-{name}", whole, "runs", f"{reached} ({MODELS[model]})"))
            if (model, threshold) in problems:
                why = problems[model, threshold]
                answers.append(f"{MODELS[model]}, {event}: the variance cannot be decomposed: {why}.")
                continue
            one, what = decompositions[model, threshold], f"time to {event}"
            figures.append(factorial_figure(f"variance-{name}", one, f"{MODELS[model]}: variance of the {what}", what))
            tables.append(factorial_table(f"variance-{name}", one, what))
            notes += factorial_notes(one, f"{MODELS[model]}, {what}")
            answers.append(_answer(one, MODELS[model], event))
        sections.append(Section(MODELS[model], notes, figures, tables, ABOUT))
    return finished(
        "seed-variance", "Which seed decides", QUESTION, [*answers, *_idle(results)], sections, results, form
    )


def _decomposed(times: Mapping[_Asked, pl.DataFrame]) -> tuple[dict[_Asked, Decomposition], dict[_Asked, str]]:
    """Decompositions, with their tests corrected together, and reasons why the others have none."""
    decompositions: dict[_Asked, Decomposition] = {}
    problems: dict[_Asked, str] = {}
    for asked, model_times in times.items():
        try:
            decompositions[asked] = decompose(model_times, "time", list(FACTORS), observed="observed")
        except UserError as problem:
            problems[asked] = str(problem)
    return dict(zip(decompositions, corrected_together(list(decompositions.values())), strict=True)), problems


def _answer(decomposition: Decomposition, model: str, event: str) -> str:
    """Sentences on the share of each seed in the variance, and on the rest, which may be noise."""
    table = decomposition.table
    if table["component_share"].null_count() == len(table):
        return f"{model}, {event}: every run took equally long, or none reached it; there is no variance."
    *known, highest = sorted(table.to_dicts(), key=lambda row: len(row["source"]))
    alone, together = ([row for row in known if (len(row["source"]) > 1) == several] for several in (False, True))
    never = decomposition.censored + decomposition.diverged
    return (
        f"{model}, {event}: of the variance of log time, {listed(list(map(_share, alone)))} alone, "
        f"{listed(list(map(_share, together)))} only together (variance components with 95 % intervals). "
        f"{factorial_test(decomposition)} What all "
        f"{len(alone)} make together is {_share(highest, name=False)} of the variance: with one run per cell it cannot "
        "be separated from noise. "
        + (
            f"{never} of {decomposition.runs} runs, which had not reached it, count with the horizon, step "
            f"{decomposition.horizon:,}."
            if never
            else f"All {decomposition.runs} runs reached it."
        )
    )


def _share(row: Mapping[str, Any], name: bool = True) -> str:
    """Share of a source with its interval, ``initialisation × split 71% [6%, 94%]``."""
    source = f"{' × '.join(FACTORS[factor] for factor in row['source'])} " if name else ""
    ends = ", ".join("–" if end is None else f"{end:.0%}" for end in (row["low"], row["high"]))
    return f"{source}{row['component_share']:.0%} [{ends}]"


def _idle(results: Results) -> list[str]:
    """Sentences where the batch order has no effect, because every step sees all the training set."""
    idle = {
        MODELS[spec.model]
        for spec in results.specs.values()
        if spec.train_batch_size >= trained_equations(spec) and not spec.dropout
    }
    return [
        f"{name}: every step sees the whole training set, so that the batch order has no effect by construction."
        for name in sorted(idle)
    ]
