"""Hidden Markov models by a setting: the best of the restarts of each of its values, which are no replicates.

Runs that differ in their seed alone are starts of one fit by EM. The best of them is the fit, the others say how
certainly it was found: a mean over them, or a test of them in pairs, would be one of how lucky starts are.
"""

from collections.abc import Mapping

import polars as pl

from shoal.report import Section
from shoal.report.by import value_name
from shoal.report.fits import fits_sentences, fits_table, held_out_of, lost_sentences
from shoal.report.words import counted
from shoal.spec.known import known_settings
from shoal.studies.crossing import SEED_AXES
from shoal.studies.own_axes import Grid, follows
from shoal.studies.results import Results

_NO_REPLICATES = (
    "Runs that differ in their seed alone are restarts of one fit, not replicates: the best of each setting counts, "
    "with how often it was found again. Restarts are not tested, and means over them are in figures of curves alone."
)


def of_restarts(grid: Grid) -> bool:
    """Return True if EM made all runs, so that those of one setting are restarts."""
    return grid.results.runs["optimizer"].unique().to_list() == ["em"]


def restarts(grid: Grid, sources: Mapping[str, Results]) -> tuple[list[str], list[Section]]:
    """Findings about the best of the restarts of each setting, and their table.

    Args:
        grid: runs by EM, and their axes.
        sources: the results that were joined, by name; one where nothing was.
    """
    labels = _labels(grid)
    order = {label: place for place, label in enumerate(dict.fromkeys(labels.values()))}
    several = len(sources) > 1
    frames = [
        one.records.fits().with_columns(
            pl.concat_str(pl.lit(f"{name}:" * several), "run").replace_strict(labels, default=None).alias("setting")
        )
        for name, one in sources.items()
    ]
    fits = pl.concat(frames).filter(pl.col("setting").is_not_null())
    lost = lost_sentences({run: why for one in sources.values() for run, why in one.records.lost_fits().items()})
    if fits.is_empty():
        return [*lost, "No model has been kept yet: there are no fits to show."], []
    fits = fits.sort(pl.col("setting").replace_strict(order), maintain_order=True)
    alike = len({repr(spec.task_part) for spec in grid.results.specs.values()}) == 1
    data = "" if alike else " The settings were fitted to several sets of sequences, so that AIC and BIC compare none."
    n = counted(fits["setting"].n_unique(), "setting")
    answers = [*lost, *fits_sentences(fits, alike), f"{counted(len(fits), 'run')} of {n}. {_NO_REPLICATES}{data}"]
    about = "the best of the restarts of each setting, how often it was found again, AIC, BIC and held-out likelihood."
    held = held_out_of(fits, [one.records for one in sources.values()])
    return answers, [Section("Best of restarts", tables=[fits_table(fits, held, one_data_set=alike)], about=about)]


def _labels(grid: Grid) -> dict[str, str]:
    """Setting of each run in words, ``num_states 3, lab a``, in the order of the axes."""
    runs, axes = grid.results.runs, [axis.column for axis in grid.axes]
    derived = {name for name, parts in known_settings().items() if follows(parts[0], name)}
    others = [
        name
        for name in grid.results.settings
        if name not in (*axes, *SEED_AXES) and name not in derived and runs[name].n_unique() > 1
    ]
    places = [
        pl.col(axis.column).replace_strict({key: place for place, (key, _) in enumerate(axis.names)}, default=0)
        if axis.names
        else pl.col(axis.column)
        for axis in grid.axes
    ]
    ordered = runs.sort(*places, *others, maintain_order=True)
    return {
        row["run"]: ", ".join(f"{name} {value_name(name, row[name])}" for name in (*axes, *others))
        for row in ordered.iter_rows(named=True)
    }
