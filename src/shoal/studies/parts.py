"""Sections that several studies share."""

from collections.abc import Sequence

import polars as pl

from shoal.analysis import time_to
from shoal.report import Figure, Report, Section, Table
from shoal.report.gaps import GAP_NOTE
from shoal.report.means import end_together
from shoal.report.panels import CURVES, MODELS, TIMES_NOTE, Axis, Panel, band_note, curve_panels, summary_panels
from shoal.report.schedule import grid_note
from shoal.report.summary import (
    COMPETING,
    QUANTITIES,
    SYMBOLS,
    best_value,
    cell_of,
    provenance,
    ten_means,
)
from shoal.report.survival import logrank_sentence, survival_figure, survival_table
from shoal.report.words import capitalised, counted
from shoal.studies.base import Form
from shoal.studies.results import Results, number_of_runs
from shoal.training.loop import GENERALISED


def finished(
    name: str,
    title: str,
    question: str,
    answers: Sequence[str],
    sections: Sequence[Section],
    results: Results,
    form: Form,
) -> Report:
    """A study's report: its answers first, what is missing before them, then its sections and how it was made."""
    return Report(
        title=f"{title}{' (quick form)' if form.quick else ''}",
        lead=question,
        answers=[*results.shortcomings(), *answers],
        sections=[*sections, provenance(results.records, f"shoal study run {name}{form.flags()}")],
    )


def curves_figure(results: Results, colour: Axis, name: str, title: str, panels: Sequence[Panel] = CURVES) -> Figure:
    """L_train, L_val, A_train and A_val against the step, coloured by a setting."""
    n = number_of_runs(results.curves, [colour.column])
    what = (
        "L_train and L_val: loss (nats per scored token, logarithmic); A_train and A_val: accuracy (share of equations"
    )
    caption = (
        f"{title}. {what} answered whole), on the training and on the validation equations, against the training step "
        f"(logarithmic, from step 1), coloured by {colour.label}. "
        + band_note(n, results.curves[colour.column].n_unique())
        + f" {GAP_NOTE}"
        + ("" if end_together(results.curves, [colour.column]) else " Dotted: the mean of the runs that go on.")
        + "".join(f" {panel.about}." for panel in panels if panel.about)
    )
    return Figure(name, curve_panels(results.curves, colour, title, panels), caption)


def summary_figure(
    results: Results, x: Axis, colour: Axis, name: str, title: str, extrema: pl.DataFrame | None = None
) -> Figure:
    """The four best values and the steps of each against a setting."""
    shown = results.extrema if extrema is None else extrema
    n = number_of_runs(shown, list(dict.fromkeys(["model", x.column, colour.column])))
    by = "the model" if colour.names else colour.label
    caption = (
        f"{title}: best loss and accuracy of a run and t_f, the first evaluated step of each, against {x.title}, "
        f"coloured by {by}. {band_note(n)} Points: runs. Loss axes are logarithmic. {TIMES_NOTE} "
        + grid_note(results.specs.values())
    )
    return Figure(name, summary_panels(shown, x, colour, title), caption)


def times_section(results: Results, axis: Axis, form: Form, by: str = "") -> Section:
    """When runs generalised, by a setting and for each threshold: those that never did are censored, not dropped.

    ``by`` names the setting where a report has several such sections.
    """
    figures, tables, words = [], [], []
    prefix = "-".join(["times", *by.split()])
    states = results.runs.select("run", "state", "step")
    stopped = results.runs["stop_after_generalizing"].is_not_null().any()
    for threshold in form.thresholds:
        if stopped and threshold > GENERALISED:
            words.append(
                f"A_val ≥ {threshold:g}: cannot be told, because runs end some steps after A_val ≥ {GENERALISED} "
                "(stop_after_generalizing), so that the soonest are seen for the shortest."
            )
            continue
        reached = f"validation accuracy {threshold:g}"
        times = time_to(results.curves, "valid_accuracy", threshold, states=states)
        times = times.join(
            results.runs.select(pl.exclude("state", "step")), on="run", how="left", maintain_order="left"
        ).join(results.followed, on="run", how="left", maintain_order="left")
        by_model = [(model, times.filter(model=model)) for model in results.models]
        groups = [("", "both models", times)] if axis.names else [(f"-{m}", MODELS[m], own) for m, own in by_model]
        for suffix, name, own in groups:
            tag = f"{threshold:g}".replace(".", "") + suffix
            named = own.with_columns(pl.col(axis.column).replace(dict(axis.names))) if axis.names else own
            named = named.rename({axis.column: axis.title})
            who = f"{capitalised(name)}, A_val ≥ {threshold:g}"
            tables.append(survival_table(f"{prefix}-{tag}", named, axis.title, f"{reached} ({name})"))
            if not named["observed"].any():
                words.append(f"{who}: {none_got_there(named)}")
                continue
            title = f"{capitalised(name)}: reached A_val ≥ {threshold:g}"
            figures.append(survival_figure(f"{prefix}-{tag}", named, axis.title, title, reached, log_x=True))
            words.append(f"{who}: {logrank_sentence(named, axis.title)}")
    return Section(f"Time to generalise{', ' * bool(by)}{by}", words, figures, tables)


def none_got_there(times: pl.DataFrame) -> str:
    """What stands instead of a figure of times that nobody has."""
    return f"none of {counted(len(times), 'run')} got there, so that there is no figure of when."


def summary_table(results: Results, settings: Sequence[Axis], name: str) -> Table:
    """Ten figures per combination of settings, mean ± std over seeds, the best of each column and model in bold."""
    by = ["model", *(axis.column for axis in settings if axis.column != "model")]
    groups = ten_means(results.extrema, by).sort(by)
    best = {(q.column, model): best_value(own, q) for (model,), own in groups.group_by("model") for q in QUANTITIES}
    rows = []
    for row in groups.iter_rows(named=True):
        label = ", ".join([MODELS[row["model"]], *(f"{c} {row[c]:g}" for c in by[1:])])
        cells = [cell_of(row, q, best[q.column, row["model"]]) for q in QUANTITIES]
        rows.append((f"{label} (N = {row['N']})", cells))
    caption = (
        "Mean ± population standard deviation over seeds; N: runs; the best of each column in bold, for each model, "
        f"none where all that compete are equal. {COMPETING} {SYMBOLS}"
    )
    return Table(name, ["setting", *(q.symbol for q in QUANTITIES)], rows, caption, groups)
