"""A report of any runs of a task: their curves by setting, the best values of each, and where they come from."""

from collections.abc import Sequence

import polars as pl

from shoal.errors import UserError
from shoal.lab import Records
from shoal.measures import Measure, Measures
from shoal.report.each_run import SEEDS, model_label, varying_settings
from shoal.report.figures import Figure, learning_curves, lines_note
from shoal.report.findings import findings
from shoal.report.fits import fits_section
from shoal.report.page import Report, Section
from shoal.report.shortcomings import shortcomings
from shoal.report.summary import TEN_FIGURES, provenance, ten_figures
from shoal.report.words import capitalised, counted, setting_text

_MOST_SETTINGS = 12


def report_runs(records: Records, command: str, notes: Sequence[str] = ()) -> Report:
    """Report of any runs of one task.

    Runs that differ only in their seeds are one setting; settings beyond the twelfth are left to the table.

    Args:
        records: the runs; those that are damaged are named and left out.
        command: with what the report was made.
        notes: further sentences for the reader.

    Raises:
        LabError: all runs are damaged, or none has been evaluated yet.
        UserError: they are of several tasks.
    """
    if len(records.tasks) > 1:
        asked = " or ".join(f"--task {task}" for task in records.tasks)
        raise UserError(f"these runs have {len(records.tasks)} tasks, and a page shows one: choose it with {asked}")
    records, damage = records.snapshot().whole()
    every = records.extrema()
    labels, measures = _labels(records), records.measures()
    lacking = shortcomings(records.runs(), every["run"].to_list(), damage)
    settings = list(dict.fromkeys(labels.values()))[:_MOST_SETTINGS]
    curves = records.curves().with_columns(pl.col("run").replace_strict(labels).alias("label"))
    figures = []
    for place, setting in enumerate(settings):
        setting_curves = curves.filter(pl.col("label") == setting)
        figures += [
            _curves(f"{place}-{measure.name}", setting_curves, measure, setting, measures)
            for measure in measures.recorded
        ]
    n = len(set(labels.values()))
    more = [f"Figures are of the first {_MOST_SETTINGS} of {n} settings, tables of all."] if n > _MOST_SETTINGS else []
    fits, of_fits = fits_section(records, labels)
    table = ten_figures(every, labels, measures)
    title = "Ten numbers per setting" if table.name == TEN_FIGURES else "Best values per setting"
    return Report(
        title="Runs",
        lead=f"{counted(len(records), 'run')} in {counted(n, 'setting')}.",
        answers=[*lacking, *findings(records, labels), *of_fits, *more, *notes],
        sections=[
            Section(
                "Learning curves",
                figures=figures,
                about="what each setting's runs measured on both splits while they trained.",
            ),
            Section(title, tables=[table], about="the best values of each setting, and when they were first reached."),
            *fits,
            provenance(records, command),
        ],
    )


def _curves(name: str, curves: pl.DataFrame, measure: Measure, setting: str, measures: Measures) -> Figure:
    """Learning curves of one measure on both splits, of the runs of one setting."""
    caption = (
        f"{capitalised(measure.words)} of {setting} on the training and the validation {measures.things}. "
        f"{lines_note(curves['run'].n_unique())}"
    )
    return Figure(name, learning_curves(curves, measure.name, setting, measures), caption)


def _labels(records: Records) -> dict[str, str]:
    """Each run's setting in words: its model and whatever differs between the runs but the seed."""
    seeds = {"model", "seed", *SEEDS}
    names = [name for name in varying_settings(records) if name not in seeds]
    return {
        row["run"]: ", ".join([model_label(row["model"]), *(f"{name} {setting_text(row[name])}" for name in names)])
        for row in records.runs().iter_rows(named=True)
    }
