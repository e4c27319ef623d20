"""What improves a GPT that learns arithmetic: variants paired with the baseline on the same seeds.

Source: the language-model document's question on improving its model (L1.II), asked here with the practical's GPT:
norms, positions, activation, tying, optimizer, label smoothing and learning-rate schedule, one change at a time. Every
comparison is paired by seed, tested by flipping signs, and corrected for the number of comparisons (Holm).
"""

import math
import sys
from collections.abc import Mapping
from dataclasses import replace
from statistics import median
from typing import Any

import polars as pl

from shoal.analysis import Metric, compare, time_to
from shoal.report import Cell, Report, Section, Table
from shoal.report.comparison import comparison_figure, comparison_notes, comparison_table
from shoal.report.survival import survival_table
from shoal.spec import OPTIMIZERS
from shoal.studies.answers import with_logs
from shoal.studies.base import Form, Grid
from shoal.studies.parts import finished
from shoal.studies.results import Results
from shoal.studies.settings import per_model

ABOUT = "norms, positions, activation, tying, optimizer, smoothing, schedule: what helps a GPT, paired by seed"
QUESTION = "One change at a time, on the same seeds: what makes a GPT generalise sooner or better?"
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
# The learning rate over the baseline's, where the optimizer's steps are of another size. Lion's authors advise a
# smaller one with a decay as much larger; Muon learned little below this one; for SGD it is of the usual order. None
# was tuned.
_RATES = {"SGD": 30.0, "Lion": 0.2, "Muon": 3.0}
METRICS = {"time": "time to generalise", "log_valid_loss": "log₁₀ L_val"}


def grids(quick: bool) -> list[Grid]:
    """Every variant of the GPT over the same seeds.

    So many that a variant which is better on every one of them passes the corrected test: with n pairs the smallest p
    is 2^(1 − n), and 34 comparisons are made.
    """
    found = []
    for name, change in VARIANTS.items():
        (base,) = per_model(quick, models=("gpt",), seed=range(12 if quick else 16))
        own = {key: value for key, value in base.settings.items() if key != "beta2" or _has_beta2(change)}
        rate = float(own.get("lr", 1e-3)) * _RATES.get(name, 1.0)
        found.append(replace(base, name=name, settings={**own, "lr": rate, **change}))
    return found


def _has_beta2(change: Mapping[str, Any]) -> bool:
    return "beta2" in OPTIMIZERS[change.get("optimizer", "adamw")] and change.get("optimizer") != "lion"


def report(results: Results, form: Form) -> Report:
    """Effect sizes, tests, when each variant generalised, and what its steps cost."""
    names = form.names(sys.modules[__name__])
    named = pl.col("run").replace_strict(names, default=BASELINE).alias("variant")
    runs = results.runs.with_columns(named)
    sections, answers = [], []
    for threshold in form.thresholds:
        times = time_to(results.curves, "valid_accuracy", threshold, states=runs.select("run", "state", "step"))
        frame = with_logs(results.extrema).with_columns(named)
        frame = times.drop("state").join(frame, on="run", how="left").join(runs.select("run", "state"), on="run")
        tag = f"{threshold:g}".replace(".", "")
        what = f"A_val ≥ {threshold:g}"
        answer, section = _compared(frame, tag, what)
        answers.append(answer)
        sections.append(section)
    sections.append(Section("What a step costs", tables=[_costs(results, runs)]))
    return finished("improve", "What improves a GPT", QUESTION, answers, sections, results, form)


def _compared(frame: pl.DataFrame, tag: str, what: str) -> tuple[str, Section]:
    """The comparison for one threshold, and its sentence."""
    metrics = [
        Metric("time", larger_is_better=False, observed="observed"),
        Metric("log_valid_loss", larger_is_better=False),
    ]
    variants = frame["variant"].n_unique()
    table = survival_table(f"times-{tag}", frame, "variant", f"validation {what}")
    if variants < 2:
        return f"There is one variant alone ({frame['variant'][0]}): nothing to compare.", Section(what, tables=[table])
    found = compare(frame, metrics, "variant", BASELINE)
    figures = [
        comparison_figure(f"effects-{tag}", found, f"Beside the baseline: {what}", BASELINE, "superiority", METRICS),
    ]
    tables = [comparison_table(f"effects-{tag}", found, BASELINE, METRICS), table]
    clear = found.filter(pl.col("p_holm") < 0.05)
    better = [r for r in clear.to_dicts() if r["better"] > r["worse"]]
    worse = [r for r in clear.to_dicts() if r["better"] < r["worse"]]
    smallest = found["smallest_p"].drop_nulls()
    floor = f"{min(1.0, float(smallest.min()) * len(found)):.2g}" if len(smallest) else "1"  # type: ignore[arg-type]
    answer = (
        f"{what}: of {variants - 1} variants × {len(metrics)} figures, {_listed(better)} differ from the baseline for "
        f"the better and {_listed(worse)} for the worse (sign-flip test over pairs of the same seed, Holm-corrected "
        f"p < 0.05; with these pairs no corrected p can be below {floor})."
    )
    leading = found.filter(metric="time").sort("superiority", descending=True).to_dicts()[:3]
    answer += " Most often sooner than the baseline: " + ", ".join(
        f"{r['variant']} ({r['better']} of {r['n']} pairs)" for r in leading if r["better"] > r["worse"]
    )
    return answer.removesuffix("baseline: ") + ".", Section(what, comparison_notes(found, METRICS), figures, tables)


def _listed(rows: list[dict[str, Any]]) -> str:
    return ", ".join(f"{r['variant']} ({METRICS[r['metric']]})" for r in rows) or "none"


def _costs(results: Results, runs: pl.DataFrame) -> Table:
    """Seconds per 1,000 steps of one run, of each variant, as it was trained, and its size."""
    variant_of = dict(zip(runs["run"], runs["variant"], strict=True))
    seconds: dict[str, list[float]] = {}
    for folder in results.records.cohorts():
        status = folder.status()
        members = status["members"]
        steps = sum(int(member["step"]) for member in members.values())
        spent = sum(float(session.get("seconds", 0.0)) for session in status["sessions"])
        for name in {variant_of[run] for run in members if run in variant_of}:
            seconds.setdefault(name, []).append(1000 * spent / max(1, steps))
    usual = median(seconds.get(BASELINE, [math.nan]))
    sizes = {row["variant"]: row["parameters"] for row in runs.unique("variant", keep="first").to_dicts()}
    rows = [
        (name, [Cell(f"{median(found):.2f}"), Cell(f"{median(found) / usual:.2f}"), Cell(f"{sizes[name]:,}")])
        for name, found in seconds.items()
    ]
    caption = (
        "Seconds for 1,000 steps of one run, trained side by side with the others of its cohort on one thread (median "
        "over cohorts; other work on the machine counted in), the same over the baseline's, and P, the parameters "
        "without embeddings. A variant that the fast engines do not cover pays for that here."
    )
    return Table("costs", ["", "s per 1,000 steps", "× baseline", "P"], rows, caption)
