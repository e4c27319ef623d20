"""A report of any runs: their curves by model, the ten figures of each setting, and where they come from."""

from collections.abc import Sequence

import polars as pl

from shoal.lab import Records
from shoal.report.figures import Figure, learning_curves, lines_note
from shoal.report.page import Report, Section
from shoal.report.shortcomings import shortcomings
from shoal.report.summary import provenance, ten_figures, varying_settings
from shoal.report.words import counted, setting_text

_MOST_SETTINGS = 12


def report_runs(records: Records, command: str, notes: Sequence[str] = ()) -> Report:
    """Runs that differ only in their seeds are one setting; settings beyond the twelfth are left to the table.

    Args:
        records: the runs; those that are damaged are named and left out.
        command: with what the report was made.
        notes: what the reader should know besides.

    Raises:
        LabError: all runs are damaged, or none has been evaluated yet.
    """
    records, damage = records.snapshot().whole()
    every = records.extrema()
    labels = _labels(records)
    lacking = shortcomings(records.runs(), every["run"].to_list(), damage)
    settings = list(dict.fromkeys(labels.values()))[:_MOST_SETTINGS]
    curves = records.curves().with_columns(pl.col("run").replace_strict(labels).alias("label"))
    figures = []
    for number, setting in enumerate(settings):
        own = curves.filter(pl.col("label") == setting)
        for quantity in ("loss", "accuracy"):
            caption = (
                f"{quantity.capitalize()} of {setting} on the training and the validation equations against the "
                f"training step (logarithmic, from step 1). {lines_note(own['run'].n_unique())}"
            )
            figures.append(Figure(f"{number}-{quantity}", learning_curves(own, quantity, setting), caption))
    n = len(set(labels.values()))
    more = [f"Figures are of the first {_MOST_SETTINGS} of {n} settings, tables of all."] if n > _MOST_SETTINGS else []
    return Report(
        title="Runs",
        lead=f"{counted(len(records), 'run')} in {counted(n, 'setting')}.",
        answers=[*lacking, *more, *notes],
        sections=[
            Section("Learning curves", figures=figures),
            Section("Ten figures per setting", tables=[ten_figures(every, labels)]),
            provenance(records, command),
        ],
    )


def _labels(records: Records) -> dict[str, str]:
    """Each run's setting in words: its model and whatever differs between the runs but the seed."""
    seeds = {"model", "seed", "init_seed", "split_seed", "order_seed"}
    names = [name for name in varying_settings(records) if name not in seeds]
    return {
        row["run"]: ", ".join([row["model"].upper(), *(f"{name} {setting_text(row[name])}" for name in names)])
        for row in records.runs().iter_rows(named=True)
    }
