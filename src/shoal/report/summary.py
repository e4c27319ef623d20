"""The table of figures per setting, ten of them for equations, and the provenance that every report carries."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from shoal.analysis import mean_and_std
from shoal.lab import Records
from shoal.measures import EQUATIONS, Measures
from shoal.report.certificates import certificates
from shoal.report.each_run import model_sizes, per_run_table, shared_settings, varying_settings
from shoal.report.page import Section
from shoal.report.quantities import OPEN, Quantity, competing_note, did_both, is_open, quantities_of, symbols_note
from shoal.report.table import Cell, Table
from shoal.report.words import NOTHING, counted

TEN_FIGURES = "ten-figures"
_MOST_BESIDE = 6  # labels side by side


def ten_figures(extrema: pl.DataFrame, labels: Mapping[str, str], measures: Measures = EQUATIONS) -> Table:
    """Mean ± standard deviation of the figures of what was measured for each label, the best of each in bold.

    Of loss and accuracy these are ten: :func:`quantities_of`.

    A figure is a row; of more than a few labels a column, because pages are longer than wide.

    Args:
        extrema: one row per run.
        labels: the column each run belongs to, by run.
        measures: those of the runs' task.
    """
    quantities = quantities_of(measures)
    labelled = extrema.with_columns(pl.col("run").replace_strict(dict(labels)).alias("label"))
    means = ten_means(labelled, ["label"], measures)
    groups = {row["label"]: row for row in means.iter_rows(named=True)}
    cells = {q.symbol: [cell_of(row, q, best_value(means, q)) for row in groups.values()] for q in quantities}
    across = len(groups) > _MOST_BESIDE
    n = "N: runs" if across else ", ".join(f"{label}: N = {row['N']}" for label, row in groups.items())
    place = "column" if across else "row"
    caption = (
        f"Mean ± population standard deviation over seeds ({n}){one_run(means)}. "
        f"{_marked(means, place, measures)} {symbols_note(measures)}"
    )
    name = TEN_FIGURES if len(quantities) == 10 else "best-values"
    if not across:
        return Table(name, ["", *groups], list(cells.items()), caption, means)
    by_label = zip(*cells.values(), strict=True)
    rows = [
        (f"{label} (N = {row['N']})", row_cells)
        for (label, row), row_cells in zip(groups.items(), by_label, strict=True)
    ]
    return Table(name, ["setting", *cells], rows, caption, means)


def ten_means(extrema: pl.DataFrame, by: Sequence[str], measures: Measures = EQUATIONS) -> pl.DataFrame:
    """Mean and std of the figures of what was measured for each group; for each step and delay, also whether it is
    ``_open`` in some run and whether it ``_competes``; and ``first_end`` and ``last_end``, between which its runs were
    last evaluated.

    A step is only good where it leads to something and nothing better can be later: only groups all of whose runs
    memorised and generalised, and whose best values came before their last evaluation, compete for the best steps; and
    only groups all of whose runs did both have a delay between them, such as ``delay_accuracy``.
    """
    quantities = quantities_of(measures)
    steps = [q.column for q in quantities if q.is_step]
    arrived = did_both(measures).all() if measures.generalised else pl.lit(False)
    how = [
        column
        for step in steps
        for column in (
            is_open(step, measures).any().alias(f"{step}_open"),
            (arrived & ~is_open(step, measures).any()).alias(f"{step}_competes"),
        )
    ]
    how += [pl.col("last_step").min().alias("first_end"), pl.col("last_step").max().alias("last_end")]
    means = mean_and_std(extrema.select(*by, *(q.column for q in quantities)), by)
    both = {} if measures.generalised is None else {"did_both": arrived}
    means = means.join(extrema.group_by(by).agg(*how, **both), on=by, how="left", maintain_order="left")
    if measures.generalised is None:
        return means
    # between memorising and generalising there is no delay where some run did not do both
    name = f"delay_{measures.shown.name}"
    delay = [pl.when("did_both").then(column).alias(column) for column in (name, f"{name}_std")]
    return means.with_columns(delay).drop("did_both")


def one_run(means: pl.DataFrame) -> str:
    """Clause about groups of one run, which have no standard deviation; empty where there are none."""
    return ", which one run does not have" * bool((means["N"] == 1).any())


def best_value(means: pl.DataFrame, quantity: Quantity) -> float | None:
    """The best mean among the groups that compete; None where fewer than two do, or where all have the same.

    Groups compete where all their runs have gone equally far: whoever trains for longer has more to choose its best
    from, and later steps to reach it at.
    """
    if not _equally_far(means) or quantity.is_delay:
        return None
    values = (means.filter(f"{quantity.column}_competes") if quantity.is_step else means)[quantity.column]
    if values.n_unique() < 2:
        return None
    return (min if quantity.small_is_best else max)(values.to_list(), default=None)


def _marked(means: pl.DataFrame, place: str, measures: Measures) -> str:
    """Rule by which values of a table of :func:`ten_means` are in bold, in words."""
    if not _equally_far(means):
        return "Nothing is in bold, because the runs were trained for different numbers of steps."
    bold = f"The best of each {place} is in bold, of equal ones each, and none where all that compete are equal."
    return f"{bold} {competing_note(measures)}"


def _equally_far(means: pl.DataFrame) -> bool:
    return bool(means["first_end"].min() == means["last_end"].max())


def cell_of(row: Mapping[str, Any], quantity: Quantity, best: float | None) -> Cell:
    """A quantity of a row of :func:`ten_means`, bold where it has the best mean, for which it competes."""
    name = quantity.column
    if row[name] is None:
        return Cell(NOTHING)
    mark = OPEN if quantity.is_step and row[f"{name}_open"] else ""
    competes = not quantity.is_step or row[f"{name}_competes"]
    return Cell(show(row[name], row[f"{name}_std"], quantity.is_step) + mark, bool(competes and row[name] == best))


def show(mean: float, std: float | None, is_step: bool) -> str:
    """``7,850 ± 350`` for steps, ``0.00080 ± 0.00040`` for the rest: two digits of the deviation, if there is one.

    >>> show(82.5, 5.5, True), show(0.000132, 3e-8, False), show(7.69e-6, 5.7e-7, False)
    ('82.5 ± 5.5', '0.000132000 ± 0.000000030', '7.69e-06 ± 5.7e-07')
    >>> show(7850, None, True), show(1, None, False), show(0.000132, None, False)
    ('7,850', '1.0000', '0.000132')
    """
    if std is None:
        return f"{mean:,.0f}".replace("-", "−") if is_step else f"{mean:.4f}" if abs(mean) >= 0.1 else f"{mean:.3g}"
    if is_step:
        digits = 0 if abs(mean) >= 1000 or (mean == round(mean) and std == round(std)) else 1
        return f"{mean:,.{digits}f} ± {std:,.{digits}f}".replace("-", "−")
    if 0 < abs(mean) < 1e-4:  # of 0.0000077 nobody counts the zeros
        return f"{mean:.2e} ± {std:.1e}"
    digits = 4 if std == 0 else max(2, 1 - math.floor(math.log10(std)))
    if 0 < abs(mean) < 10**-digits:
        digits = 1 - math.floor(math.log10(abs(mean)))
    if digits > 10:
        return f"{mean:.2e} ± {std:.1e}"
    return f"{mean:.{digits}f} ± {std:.{digits}f}"


def provenance(records: Records, command: str) -> Section:
    """Provenance of the runs: command, common settings, sizes of models, sessions, certificates, table of runs."""
    shared = shared_settings(records)
    sessions = [session for folder in records.cohorts() for session in folder.status()["sessions"]]
    environments = list(dict.fromkeys(_environment(session) for session in sessions))
    seconds = sum(session.get("seconds", 0.0) for session in sessions)
    certified, certificate_table = certificates(records.cohorts())
    paragraphs = [
        f"Made by: {command}",
        f"Settings in common: {shared}.",
        f"P, the learnable parameters without embeddings: {model_sizes(records)}.",
        f"Trained in {counted(len(records.cohorts()), 'cohort')}, {counted(len(sessions), 'session')}, {seconds:,.0f} "
        "seconds of training "
        f"in all (cohorts may have run at the same time): {'; '.join(environments)}.",
        *certified,
    ]
    runs = per_run_table(records, varying_settings(records))
    about = "the command, all settings, every run, and the differences that training runs together made."
    return Section("How this was made", paragraphs, tables=[runs, *certificate_table], about=about)


def _environment(session: Mapping[str, Any]) -> str:
    commit = (session["git_commit"] or "none")[:10]
    return (
        f"shoal {session['shoal']} (commit {commit}), torch {session['torch']}, Python {session['python']}, "
        f"{session['precision']} on {session['processor'] if session['device'] == 'cpu' else session['device']}, "
        f"{session.get('engine', 'plain')} engine, {counted(session['threads'], 'thread')} per cohort"
    )
