"""Findings of a page of any runs: for each model how many runs memorised and generalised, when, and the best run.

Settings are not compared here: runs of several settings count together, and a page by a setting tests what it does.
"""

from collections.abc import Mapping
from typing import Any, Literal

import polars as pl

from shoal.analysis.survival import survival_summary
from shoal.analysis.times import time_to
from shoal.lab import Records
from shoal.measures import Measures
from shoal.report.each_run import model_label, value_text
from shoal.report.survival import median_text
from shoal.report.words import counted

_FEWEST = 6  # runs that give an interval of a median


def findings(records: Records, labels: Mapping[str, str]) -> list[str]:
    """Sentences on the runs of each model that were trained by gradients; none where there are no such runs.

    Args:
        records: the runs, without those that are damaged.
        labels: setting of each run in words.
    """
    measures, extrema = records.measures(), records.extrema()
    runs = records.runs().filter(pl.col("run").is_in(extrema["run"].to_list()), pl.col("optimizer") != "em")
    if runs.is_empty():
        return []
    curves = records.curves()
    out = []
    for model in runs["model"].unique(maintain_order=True):
        of_model = runs.filter(model=model)
        chosen = pl.col("run").is_in(of_model["run"].to_list())
        who = f"{model_label(model)}, {counted(len(of_model), 'run')}"
        parts = [
            *_times(curves.filter(chosen), of_model, measures),
            _best(extrema.filter(chosen), of_model, labels, measures),
        ]
        out.append(f"{who}: {'; '.join(parts)}.")
    if measures.generalised is not None:
        out.append(_about_medians(runs, labels))
    return out


def _about_medians(runs: pl.DataFrame, labels: Mapping[str, str]) -> str:
    """Sentence on the medians, and on the page that compares settings."""
    fewest = min(runs.group_by("model").len()["len"].to_list())
    few = f"; fewer than {_FEWEST} runs give no interval" if fewest < _FEWEST else ""
    settings = len({labels[run] for run in runs["run"]})
    more = ": shoal report --by SETTING compares these" if settings > runs["model"].n_unique() else ""
    return (
        "Medians [95 % intervals] are of all runs of a model, those that did not get there counted as later "
        f"(Kaplan–Meier){few}; they are over all {counted(settings, 'setting')}{more}."
    )


def _times(curves: pl.DataFrame, runs: pl.DataFrame, measures: Measures) -> list[str]:
    """Clauses on the runs that memorised and that generalised, and when; none where the task does not define these."""
    if measures.generalised is None:
        return []
    shown, least = measures.shown, measures.generalised.threshold
    states = runs.select("run", "state", "step")
    direction: Literal["at least", "at most"] = "at least" if shown.higher_is_better else "at most"
    out = []
    for split, verb in (("train", "memorised"), ("valid", "generalised")):
        times = time_to(curves, f"{split}_{shown.name}", least, direction, states)
        (row,) = survival_summary(times).to_dicts()
        criterion = f"{shown.symbol_of(split)} {shown.side} {least:g}"
        n = row["generalised"]
        which = "all" if n == len(times) > 1 else "none" if not n else f"{n} of {len(times)}"
        out.append(f"{which} {verb} ({criterion}{_median(row)})")
    return out


def _median(row: Mapping[str, Any]) -> str:
    """Clause on the median step at which runs reached a threshold; empty where none did."""
    if not row["generalised"]:
        return ""
    if row["median"] is None:
        return "; no median step, as less than half did"
    return f"; median step {median_text(row)}"


def _best(extrema: pl.DataFrame, runs: pl.DataFrame, labels: Mapping[str, str], measures: Measures) -> str:
    """Clause on the best run by the most telling measure, of equal ones that with the smallest validation loss."""
    shown = measures.shown
    column = f"valid_{shown.name}"
    frame = extrema.filter(pl.col(column).cast(pl.Float64).is_finite())
    if frame.is_empty():
        return "no run has a finite validation value"
    frame = frame.sort(column, "valid_loss", "run", descending=[shown.higher_is_better, False, False])
    row = frame.row(0, named=True)
    seed = runs.filter(run=row["run"])["seed"].item()
    where = ", ".join([*filter(None, [labels[row["run"]].partition(", ")[2]]), f"seed {seed}"])
    value = value_text(row[column], shown) + f" {shown.unit}" * bool(shown.unit)
    text = f"best {shown.symbol_of('valid')} {value}, of run {row['run'][:8]} ({where})"
    if measures.generalised is None:
        text += f" at step {row[f't_{column}']:,}"
        text += ", its last evaluation" * bool(row[f"t_{column}"] == row["last_step"])
    if len(frame) > 1:
        low, high = frame[column].min(), frame[column].max()
        text += f"; the runs' best go from {value_text(low, shown)} to {value_text(high, shown)}"  # type: ignore[arg-type]
    return text
