"""Shortcomings of the runs behind a report, which stand on top of it, before any answer."""

from collections.abc import Mapping, Sequence

import polars as pl

from shoal.lab.resting import state_text
from shoal.registry import USUAL
from shoal.report.words import counted, damage_sentences
from shoal.tasks.arithmetic.equations import is_ambiguous


def shortcomings(runs: pl.DataFrame, evaluated: Sequence[str], damage: Mapping[str, str]) -> list[str]:
    """Sentences about runs that are damaged, missing, unfinished, stopped or diverged; none where every run is whole.

    Args:
        runs: as :meth:`shoal.lab.Records.runs`, without those that are damaged.
        evaluated: the runs of which there are results.
        damage: the fault of each damaged run.
    """
    here = runs.filter(pl.col("run").is_in(evaluated))
    absent = runs.join(here, on="run", how="anti", maintain_order="left")
    diverged = here.filter(state="diverged")
    partial = here.filter(~pl.col("state").is_in(["done", "diverged"]))
    out = damage_sentences(damage, len(runs) + len(damage)) + _contradictions(runs)
    if len(absent):
        out.append(f"Missing: {len(absent)} of {len(runs)} runs have no results yet ({_named(absent)}).")
    if len(partial):
        out.append(
            f"Unfinished: {len(partial)} of {len(runs)} runs ({_named(partial)}) enter with what they have "
            "reached; their extrema may still improve, and means over runs end there, or are dotted from there on."
        )
    stopped = here.filter(pl.col("state") == "done", pl.col("step") < pl.col("n_steps"))
    if len(stopped):
        out.append(
            f"Stopped: {len(stopped)} of {len(runs)} runs ended before their last step, {_why_stopped(stopped)}. "
            "Means over runs end there, or are dotted from there on, "
            "where they may seem to get worse."
        )
    if len(diverged):
        out.append(
            f"Diverged: {len(diverged)} of {len(runs)} runs ({_named(diverged)}) enter with what they "
            "reached before; means over runs end there, or are dotted from there on."
        )
    return out


def _why_stopped(runs: pl.DataFrame) -> str:
    """Settings by which runs can have ended early, in words."""
    why = {
        "stop_after_generalizing": "some steps after generalising (stop_after_generalizing)",
        "patience": "after some evaluations without a lower validation loss (patience)",
    }
    asked = [text for name, text in why.items() if name in runs.columns and runs[name].is_not_null().any()]
    if "tolerance" in runs.columns and runs["tolerance"].is_not_null().any():
        asked.append("where an update of EM gained less than the tolerance")
    return " or ".join(asked or why.values())


def _named(runs: pl.DataFrame, most: int = 6) -> str:
    names = [f"{row['run'][:8]} {state_text(row['state'], row['step'])}" for row in runs.head(most).to_dicts()]
    return ", ".join(names) + (f" and {len(runs) - most} more" if len(runs) > most else "")


def _contradictions(runs: pl.DataFrame) -> list[str]:
    """Sentence about runs that learned equations that contradict each other; none where there are no such runs.

    New runs of such equations are refused; older labs may hold some. ``runs`` is as of
    :meth:`shoal.lab.Records.runs`.
    """
    asked = runs.filter(task=USUAL["task"]).select("p", "q", "operator").rows() if "operator" in runs.columns else []
    n = sum(is_ambiguous(p, q, operator) for p, q, operator in asked)
    if not n:
        return []
    return [
        f"Contradictory: {n} of {counted(len(runs), 'run')} divided with q < p, where one left side has several "
        "answers (0 / 1 is 0 and q): no model can be right about all of them."
    ]
