"""Study of improvements to a GPT that learns arithmetic, or a text: variants paired with the baseline by seed.

Source: the language-model document's question on improving its model (L1.II), asked here with the practical's GPT:
norms, positions, activation, tying, optimizer (with a learning rate and a decay of its own), label smoothing and
learning-rate schedule, one change at a time. Every comparison is paired by seed, tested by flipping signs, and
corrected for the number of comparisons in the whole report (Holm).

For equations the compared quantities are times to generalise and the lowest validation loss; for a text (``--task text
--text FILE``), where there is no moment of generalisation, the lowest validation loss alone.
"""

import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from typing import Any

import polars as pl

from shoal.analysis import Metric, compare
from shoal.registry import RULES
from shoal.report import Cell, Report, Section, Table
from shoal.report.comparison import comparison_figure, comparison_notes, comparison_table
from shoal.report.survival import survival_table
from shoal.report.words import counted, setting_text
from shoal.spec import RunSpec
from shoal.studies.answers import with_logs
from shoal.studies.base import THRESHOLDS, Form, Grid
from shoal.studies.parts import finished, times_of
from shoal.studies.results import Results
from shoal.studies.settings import TEXT, TEXT_QUICK, per_model
from shoal.training.cost import step_costs

QUESTION = "What makes a GPT generalise sooner or better than the baseline, on the same seeds?"
BASELINE = "baseline"
# Changes to the baseline: post-norm LayerNorm, sinusoidal positions, GELU, AdamW, constant learning rate.
VARIANTS: Mapping[str, Mapping[str, Any]] = {
    BASELINE: {},
    "pre-norm": {"norm_position": "pre"},
    "RMSNorm": {"norm": "rmsnorm"},
    "no norm": {"norm": "none"},
    "learned positions": {"positions": "learned"},
    "rotary positions": {"positions": "rotary"},
    "no positions": {"positions": "none"},
    "ReLU": {"non_linearity": "relu"},
    "SwiGLU": {"non_linearity": "swiglu"},
    "tied embeddings": {"share_embeddings": True},
    "Adam": {"optimizer": "adam"},
    "SGD": {"optimizer": "momentum"},
    "Lion": {"optimizer": "lion", "weight_decay": 5.0},
    "Muon": {"optimizer": "muon", "weight_decay": 0.3},
    "label smoothing": {"label_smoothing": 0.1},
    "warm-up": {"warmup_steps": 100},
    "cosine": {"lr_schedule": "cosine"},
    "warm-up, linear": {"warmup_steps": 100, "lr_schedule": "linear"},
}
# For a text the baseline has a warm-up and a cosine, and a tenth of the decay.
TEXT_VARIANTS: Mapping[str, Mapping[str, Any]] = {
    **{name: change for name, change in VARIANTS.items() if not {"lr_schedule", "warmup_steps"} & change.keys()},
    "Lion": {"optimizer": "lion", "weight_decay": 0.5},
    "Muon": {"optimizer": "muon", "weight_decay": 0.03},
    "Adam": {"optimizer": "adam", "weight_decay": 0.0},
    "SGD": {"optimizer": "momentum", "weight_decay": 0.0},
    "no warm-up": {"warmup_steps": 0},
    "constant rate": {"lr_schedule": "constant", "lr_floor": 0.0},
    "linear": {"lr_schedule": "linear"},
}
# The learning rate over the baseline's, where the optimizer's steps are of another size. Lion's authors advise a
# smaller one with a decay as much larger; Muon learned little below this one; for SGD it is of the usual order. None
# was tuned.
_RATES = {"SGD": 30.0, "Lion": 0.2, "Muon": 3.0}
_LOSS = {"log_valid_loss": "log₁₀ L_val"}
TEXT_QUESTION = "What makes a GPT predict a text better than the baseline, on the same seeds?"
TEXT_METRICS = {"valid_loss": "L_val"}  # of a text: nats per token, whose differences are comparable as they are
_LOSSES = _LOSS.keys() | TEXT_METRICS.keys()


def _column(threshold: float) -> str:
    return f"time_{threshold:g}"


def _times(thresholds: Iterable[float], stayed: str = "") -> dict[str, str]:
    """Labels of the times to reach these accuracies, by column."""
    return {_column(threshold): f"time to A_val ≥ {threshold:g}{stayed}" for threshold in thresholds}


METRICS = _times(THRESHOLDS) | _LOSS  # column -> label, of the usual thresholds


def grids(quick: bool) -> list[Grid]:
    """Grids of every variant of the GPT over the same seeds.

    The number of seeds lets a variant that is better on every one of them pass the corrected test: with n pairs the
    smallest p is 2^(1 − n), and 51 comparisons are made (17 variants; two times and the loss).
    """
    variants = []
    for name, change in VARIANTS.items():
        (base,) = per_model(quick, models=("gpt",), seed=range(12 if quick else 16))
        settings = {key: value for key, value in base.settings.items() if key != "beta2" or _has_beta2(change)}
        rate = float(settings.get("lr", 1e-3)) * _RATES.get(name, 1.0)
        variants.append(replace(base, name=name, settings={**settings, "lr": rate, **change}))
    return variants


def grids_of(task: str, quick: bool) -> list[Grid]:
    """Grids of every variant of a task over the same seeds.

    For a text the loss alone is compared, so that fewer seeds are enough: with 17 comparisons of n pairs no corrected p
    is below 17 · 2^(1 − n), 0.033 with ten.
    """
    if task != "text":
        return grids(quick)
    settings, seeds = (TEXT_QUICK if quick else TEXT), {"seed": range(10 if quick else 12)}
    return [
        Grid({"model": "gpt", **settings, "lr": settings["lr"] * _RATES.get(name, 1.0), **change}, seeds, name)
        for name, change in TEXT_VARIANTS.items()
    ]


def _has_beta2(change: Mapping[str, Any]) -> bool:
    return "beta2" in RULES[change.get("optimizer", "adamw")].model_fields and change.get("optimizer") != "lion"


def report(results: Results, form: Form) -> Report:
    """Report with effect sizes, tests, times to generalise of each variant, and costs of its steps."""
    labels = TEXT_METRICS if _of_text(form) else _times(form.thresholds, form.stayed) | _LOSS
    study = sys.modules[__name__]
    frame, answers = _named(_measured(results, form), form.names(study))
    answers = [*form.same_parts(study), *answers]
    variants = frame["variant"].unique(maintain_order=True).to_list()
    comparison = None
    if BASELINE not in variants:
        answers.append("The baseline has no results yet: there is nothing to compare the variants with.")
    elif len(variants) == 1:
        answers.append("There is the baseline alone: nothing to compare.")
    else:
        metrics = [
            Metric(column, larger_is_better=False, observed=None if column in _LOSSES else _observed(column))
            for column in labels
        ]
        comparison = compare(frame, metrics, "variant", BASELINE)
        answers += [*_differing(comparison, labels), *_leading(comparison, labels)]
    sections = [
        Section(
            "Variants",
            tables=[_changes(form)],
            about="the baseline and every change to it; each variant has a run for each seed of the baseline.",
        )
    ]
    sections += [_section(frame, comparison, {column: label}) for column, label in labels.items()]
    costs = _costs(results, frame)
    notes = [] if costs else ["Not measured: `shoal study run improve` measures it when the runs are done."]
    sections.append(Section("Cost of a step", notes, tables=costs, about="the time of a training step."))
    question = TEXT_QUESTION if _of_text(form) else QUESTION
    return finished("improve", "What improves a GPT", question, answers, sections, results, form)


def _of_text(form: Form) -> bool:
    return list(form.settings.get("task", ())) == ["text"]


def _observed(column: str) -> str:
    return f"{column}_observed"


def _fell_back(column: str) -> str:
    return f"{column}_fell_back"


def _measured(results: Results, form: Form) -> pl.DataFrame:
    """Compared quantities, one row per evaluated run; other runs have no outcome yet."""
    states = results.runs.select("run", "state")
    frame = with_logs(results.extrema).join(states, on="run", how="left", maintain_order="left")
    thresholds = {} if _of_text(form) else {_column(threshold): threshold for threshold in form.thresholds}
    for column, threshold in thresholds.items():
        times = times_of(results, form, threshold).select(
            "run",
            pl.col("time").alias(column),
            pl.col("observed").alias(_observed(column)),
            pl.col("fell_back").alias(_fell_back(column)),
        )
        frame = frame.join(times, on="run", how="left", maintain_order="left")
    return frame


def _named(frame: pl.DataFrame, names: Mapping[str, str]) -> tuple[pl.DataFrame, list[str]]:
    """Runs with their ``variant``, and a sentence where some have none: they were trained for another version of the
    study."""
    named = frame.with_columns(
        pl.col("run").replace_strict(names, default=None, return_dtype=pl.String).alias("variant")
    )
    others = named["variant"].null_count()
    note = f"Left out: {others} of {len(named)} runs are of no variant of this study."
    return named.filter(pl.col("variant").is_not_null()), [note] if others else []


def _section(frame: pl.DataFrame, comparison: pl.DataFrame | None, labels: Mapping[str, str]) -> Section:
    """Section on the comparison of one quantity, with the times of runs if it is a time."""
    ((column, label),) = labels.items()
    heading = label.removeprefix("time to ")
    tag = "loss" if column in _LOSSES else column.removeprefix("time_").replace(".", "")
    notes, figures, tables = [], [], []
    if comparison is not None:
        # the whole comparison goes to each: its caption counts what Holm's correction was for
        notes = comparison_notes(comparison, labels)
        title = f"Beside the baseline: {label}"
        figures = [comparison_figure(f"effects-{tag}", comparison, title, BASELINE, "superiority", labels)]
        tables = [comparison_table(f"effects-{tag}", comparison, BASELINE, labels)]
    if column not in _LOSSES and len(frame):
        times = frame.select("variant", "state", time=column, observed=_observed(column), fell_back=_fell_back(column))
        tables.append(survival_table(f"times-{tag}", times, "variant", heading))
    about = (
        "each variant beside the baseline on the same seeds; an interval that reaches the middle is no clear effect."
    )
    return Section(heading, notes, figures, tables, about)


def _differing(comparison: pl.DataFrame, labels: Mapping[str, str]) -> list[str]:
    """Sentences on the variants that differ from the baseline by the corrected test, and on the power of that test."""
    clear = comparison.filter(pl.col("p_holm") < 0.05)
    better = clear.filter(pl.col("better") > pl.col("worse"))
    worse = clear.filter(pl.col("better") < pl.col("worse"))
    comparisons = comparison["p"].drop_nulls().len()
    floor = min([1.0, *(comparisons * p for p in comparison["smallest_p"].drop_nulls())])
    of = f"of {counted(comparison['variant'].n_unique(), 'variant')}"
    return [
        f"Better than the baseline, {better['variant'].n_unique()} {of}: {_listed(better, labels)}.",
        f"Worse than the baseline, {worse['variant'].n_unique()} {of}: {_listed(worse, labels)}.",
        f"Compared {'was' if len(labels) == 1 else 'were'} {counted(len(labels), 'figure')} "
        f"({', '.join(labels.values())}) by a sign-flip test over pairs of the "
        f"same seed, p < 0.05 after Holm's correction for all {comparisons} comparisons. With these pairs no corrected "
        f"p can be below {floor:.2g}.",
    ]


def _leading(comparison: pl.DataFrame, labels: Mapping[str, str]) -> list[str]:
    """Sentences on the variants that generalise sooner in most pairs, for each time."""
    answers = []
    for column, label in labels.items():
        ahead = comparison.filter(pl.col("metric") == column, pl.col("better") > pl.col("worse"))
        leading = ahead.sort("superiority", descending=True, maintain_order=True).head(3).to_dicts()
        if column not in _LOSSES and leading:
            who = ", ".join(f"{row['variant']} ({row['better']} of {row['n']} pairs)" for row in leading)
            answers.append(f"{label.removeprefix('time to ')}: most often sooner than the baseline: {who}.")
    return answers


def _listed(rows: pl.DataFrame, labels: Mapping[str, str]) -> str:
    """List of variants, ``Muon (time to A_val ≥ 0.9, log₁₀ L_val), cosine (log₁₀ L_val)``."""
    figures: dict[str, list[str]] = {}
    for row in rows.to_dicts():
        figures.setdefault(row["variant"], []).append(labels[row["metric"]])
    return ", ".join(f"{variant} ({', '.join(columns)})" for variant, columns in figures.items()) or "none"


def _changes(form: Form) -> Table:
    """Table of the settings in which each variant differs from the baseline."""
    module = sys.modules[__name__]
    names, dumps = form.names(module), dict[str, dict[str, Any]]()
    for spec in form.specs(module):
        dumps.setdefault(names[spec.id], spec.dump())
    usual = dumps.pop(BASELINE)
    rows = []
    for name, settings in dumps.items():
        # a setting that the variant lacks (the moments of Adam, for SGD) is implied by the named optimizer
        differing = [key for key, value in settings.items() if value is not None and value != usual.get(key)]
        rows.append((name, [Cell(", ".join(f"{key} {setting_text(settings[key])}" for key in differing))]))
    caption = (
        "Settings that each variant changes. An optimizer has its own learning rate and weight decay, which were not "
        "tuned; all its changes are compared together."
    )
    return Table("variants", ["", "changed settings"], rows, caption)


def measure(form: Form) -> dict[str, Any]:
    """Cost of a step of each variant relative to the baseline's, for the report's table of costs."""
    module = sys.modules[__name__]
    names, cases = form.names(module), dict[str, list[RunSpec]]()
    for spec in form.specs(module):
        cases.setdefault(names[spec.id], []).append(spec)
    return {name: asdict(cost) for name, cost in step_costs(cases, BASELINE).items()}


def _costs(results: Results, runs: pl.DataFrame) -> list[Table]:
    """Table of the processor time for a step of each variant, and its size; none where it was not measured."""
    sizes = {row["variant"]: row["parameters"] for row in runs.unique("variant", keep="first").to_dicts()}
    rows = [
        (
            name,
            [
                Cell(f"{1e3 * cost['seconds']:.2f}"),
                Cell(f"{cost['ratio']:.2f}"),
                Cell(f"{cost['low']:.2f} to {cost['high']:.2f}"),
                Cell(cost["engine"]),
                Cell(f"{sizes[name]:,}"),
            ],
        )
        for name, cost in results.measured.items()
        if name in sizes
    ]
    if not rows:
        return []
    caption = (
        "Milliseconds of processor time for one training step of one run, four side by side on one thread (median over "
        "windows of ten steps); the same over the baseline's in the window before or after (median, lowest and highest "
        "of seven pairs); the engine, plain where the fast ones do not cover the variant, which costs more than the "
        "variant itself; and P, the parameters without embeddings."
    )
    header = ["", "ms per step", "× baseline", "from, to", "engine", "P"]
    data = [{"variant": name, **cost, "parameters": sizes.get(name)} for name, cost in results.measured.items()]
    return [Table("costs", header, rows, caption, pl.DataFrame(data, infer_schema_length=None))]
