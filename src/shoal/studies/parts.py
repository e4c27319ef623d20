"""Sections that several studies share."""

from collections.abc import Sequence

import polars as pl

from shoal.analysis import mean_and_std
from shoal.report import Cell, Figure, Report, Section, Table
from shoal.report.panels import CURVES, MODELS, Axis, Panel, band_note, curve_panels, summary_panels
from shoal.report.summary import QUANTITIES, SYMBOLS, provenance, show
from shoal.studies.base import Form
from shoal.studies.results import Results, number_of_runs


def finished(
    name: str, title: str, answers: Sequence[str], sections: Sequence[Section], results: Results, form: Form
) -> Report:
    """A study's report: its answers first, then its sections, what is missing, and how it was made."""
    missing = results.shortcomings()
    return Report(
        title=f"{title}{' (quick form)' if form.quick else ''}",
        lead=" ".join([*missing, *answers]),
        sections=[*sections, provenance(results.records, f"shoal study run {name}{form.flags()}")],
    )


def curves_figure(results: Results, colour: Axis, name: str, title: str, panels: Sequence[Panel] = CURVES) -> Figure:
    """L_train, L_val, A_train and A_val against the step, coloured by a setting."""
    n = number_of_runs(results.curves, [colour.column])
    what = "Loss L (nats per scored token, logarithmic) and accuracy A (share of equations answered whole)"
    caption = (
        f"{title}. {what} on the training and the validation equations against the training step (logarithmic, from "
        f"step 1), coloured by {colour.label}. {band_note(n)}"
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
        f"coloured by {by}. {band_note(n)} Points: runs. Loss axes are logarithmic."
    )
    return Figure(name, summary_panels(shown, x, colour, title), caption)


def summary_table(results: Results, settings: Sequence[Axis], name: str) -> Table:
    """Ten figures per combination of settings, mean ± std over seeds, the best of each column and model in bold."""
    by = ["model", *(axis.column for axis in settings if axis.column != "model")]
    groups = mean_and_std(results.extrema.select(*by, *(q.column for q in QUANTITIES)), by).sort(by)
    best = {
        (q.column, model): (min if q.small_is_best else max)(own[q.column].to_list())
        for (model,), own in groups.group_by("model")
        for q in QUANTITIES
    }
    rows = []
    for row in groups.iter_rows(named=True):
        label = ", ".join([MODELS[row["model"]], *(f"{c} {row[c]:g}" for c in by[1:])])
        cells = [
            Cell(show(row[q.column], row[f"{q.column}_std"], q.is_step), row[q.column] == best[q.column, row["model"]])
            for q in QUANTITIES
        ]
        rows.append((f"{label} (N = {row['N']})", cells))
    caption = (
        "Mean ± population standard deviation over seeds; N: runs; the best of each column in bold, for each model. "
        + SYMBOLS
    )
    return Table(name, ["setting", *(q.symbol for q in QUANTITIES)], rows, caption)
