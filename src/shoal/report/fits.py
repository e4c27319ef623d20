"""Fits by EM in a report: the best of the restarts of each setting, how often it was found again, and what failed."""

from collections.abc import Mapping

import polars as pl

from shoal.analysis.fits import best_of_restarts
from shoal.lab import Records
from shoal.report.page import Section
from shoal.report.table import Cell, Table
from shoal.report.words import NOTHING, counted, number

_MOST_NAMED = 6
CAPTION = (
    "Best of the restarts of each setting, by the log-likelihood of the training sequences (nats, in float64), among "
    "fits without a problem. Found again: how many restarts, the best included, came within 0.1 nats of it; where it "
    "is 1, a better one may be missing. Degenerate: fits with a state that no observation belongs to, a variance "
    "at its floor, an impossible observation, or a likelihood that fell; these are never the best. P: free parameters. "
    "AIC and BIC: −2 log L + 2 P and −2 log L + P log n, the smaller the better. Converged: an update gained less than "
    "the tolerance."
)


def fits_section(records: Records, labels: Mapping[str, str]) -> tuple[list[Section], list[str]]:
    """Section about the fits of runs by EM, and sentences on degenerate ones; nothing where there are none.

    Args:
        records: the runs.
        labels: setting of each run in words.
    """
    fits = records.fits()
    if fits.is_empty():
        return [], []
    labelled = fits.with_columns(pl.col("run").replace_strict(labels).alias("setting"))
    about = "the best of the restarts of each setting, and how often it was found again."
    return [Section("Best of restarts", tables=[fits_table(labelled)], about=about)], degenerate_sentences(fits)


def fits_table(fits: pl.DataFrame, name: str = "fits") -> Table:
    """Table of the best fits by ``setting``.

    Args:
        fits: as :meth:`shoal.lab.Records.fits`, with the column ``setting``.
        name: of the table.
    """
    best = best_of_restarts(fits, ["setting"])
    header = ["setting", "log L", "found again", "degenerate", "P", "AIC", "BIC", "converged", "run"]
    lowest_of = {name: best[name].drop_nulls().sort().head(1).to_list() for name in ("aic", "bic")}
    rows = [
        (
            row["setting"],
            [
                Cell(_likelihood(row["log_likelihood"])),
                Cell(f"{row['again']} of {row['restarts']}"),
                Cell(str(row["degenerate"])),
                Cell(NOTHING if row["parameters"] is None else f"{row['parameters']:,}"),
                *(Cell(_likelihood(row[name]), best=row[name] in lowest_of[name]) for name in ("aic", "bic")),
                Cell(NOTHING if row["converged"] is None else "yes" if row["converged"] else "no"),
                Cell(NOTHING if row["run"] is None else row["run"][:8]),
            ],
        )
        for row in best.iter_rows(named=True)
    ]
    return Table(name, header, rows, CAPTION, best)


def degenerate_sentences(fits: pl.DataFrame) -> list[str]:
    """Sentence that names degenerate fits with their problems; none where every fit is sound."""
    failed = fits.filter(pl.col("problem") != "").select("run", "problem").rows()
    if not failed:
        return []
    named = "; ".join(f"{run[:8]}: {problem}" for run, problem in failed[:_MOST_NAMED])
    more = f"; and {len(failed) - _MOST_NAMED} more" if len(failed) > _MOST_NAMED else ""
    return [f"Degenerate, and never the best: {len(failed)} of {counted(len(fits), 'fit')} ({named}{more})."]


def _likelihood(value: float | None) -> str:
    """Log-likelihood with two decimals, which tell restarts apart."""
    if value is None:
        return NOTHING
    return f"{value:,.2f}".replace("-", "−") if abs(value) < 1e9 else number(value)
