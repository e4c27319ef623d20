"""Fits by EM in a report: the best of the restarts of each setting, how often it was found again, and what failed."""

import math
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

import polars as pl

from shoal.analysis.fits import best_of_restarts
from shoal.errors import UserError
from shoal.lab import Records
from shoal.report.page import Section
from shoal.report.table import Cell, Table
from shoal.report.words import NOTHING, counted, listed, number, with_interval

_MOST_NAMED = 6
CAPTION = (
    "Best of the restarts of each setting, by the log-likelihood of the training sequences (nats, in float64), among "
    "fits without a problem. Held out: of the validation sequences, per observation, with Student's interval (95 %), "
    "which takes whole sequences as independent; without one where there is a single sequence, one is impossible, or "
    "the sequences cannot be read any more. Found again: how many restarts, the best included, came within 0.1 nats of "
    "it; where it is 1, a better one may be missing. Degenerate: fits with a state that no observation belongs to, a "
    "variance at its floor, an impossible observation, or a likelihood that fell; these are never the best. P: free "
    "parameters. AIC and BIC: −2 log L + 2 P and −2 log L + P log n, the smaller the better. "
    "Converged: an update gained less than the tolerance."
)


def fits_section(records: Records, labels: Mapping[str, str]) -> tuple[list[Section], list[str]]:
    """Section about the fits of runs by EM, and sentences on them; nothing where there are none.

    Args:
        records: the runs.
        labels: setting of each run in words.
    """
    fits, lost = records.fits(), lost_sentences(records.lost_fits())
    if fits.is_empty():
        return [], lost
    labelled = fits.with_columns(pl.col("run").replace_strict(labels).alias("setting"))
    about = "the best of the restarts of each setting, and how often it was found again."
    alike = is_of_one_data_set(records)
    table = fits_table(labelled, held_out_of(labelled, [records]), one_data_set=alike)
    section = Section("Best of restarts", tables=[table], about=about)
    return [section], [*lost, *fits_sentences(labelled, alike)]


def lost_sentences(lost: Mapping[str, str]) -> list[str]:
    """Sentence on models that were fitted and cannot be read; none where there are none."""
    if not lost:
        return []
    named = "; ".join(list(lost.values())[:_MOST_NAMED])
    more = f"; and {len(lost) - _MOST_NAMED} more" if len(lost) > _MOST_NAMED else ""
    return [
        f"Left out of all fits below, because the model cannot be read: {counted(len(lost), 'run')}. {named}{more}."
    ]


def held_out_of(fits: pl.DataFrame, sources: Iterable[Records]) -> dict[str, tuple[float, float | None, float | None]]:
    """Held-out log-likelihood per observation of the best fit of each setting, and the ends of its interval, by run.

    Args:
        fits: as :meth:`shoal.lab.Records.fits`, with the column ``setting``.
        sources: the records that they are of.
    """
    best = best_of_restarts(fits, ["setting"]).drop_nulls("run")
    numbers = {}
    for records in sources:
        for run in best["run"].to_list():
            if run not in records.specs or run in numbers:
                continue
            with suppress(UserError):  # its sequences may be elsewhere by now
                held = records.held_out(run)
                low, high = (None if math.isnan(end[0]) else float(end[0]) for end in (held.low, held.high))
                numbers[run] = (float(held.value[0]), low, high)
    return numbers


def is_of_one_data_set(records: Records) -> bool:
    """Return True if all runs were fitted to the same sequences, without which no criterion compares them."""
    return len({repr(spec.task_part) for spec in records.specs.values()}) == 1


def fits_sentences(fits: pl.DataFrame, one_data_set: bool, most: int = 6) -> list[str]:
    """Findings about fits: those that did not converge, the best of the restarts, what AIC and BIC choose, problems.

    Args:
        fits: as :meth:`shoal.lab.Records.fits`, with the column ``setting``.
        one_data_set: true where all settings were fitted to the same sequences; AIC and BIC compare only then.
        most: number of settings whose best is told; of more only the chosen ones are.
    """
    best = best_of_restarts(fits, ["setting"]).filter(pl.col("run").is_not_null())
    rows = best.to_dicts()
    chosen = _chosen(rows) if one_data_set and len(rows) > 1 else {}
    shown = rows if len(rows) <= most else [row for row in rows if row in chosen.values()]
    out = _not_converged(fits, best)
    if chosen:
        by_setting: dict[str, list[str]] = {}
        for name, row in chosen.items():
            by_setting.setdefault(row["setting"], []).append(name)
        words = listed(
            [f"{listed(names)} choose{'s' * (len(names) == 1)} {setting}" for setting, names in by_setting.items()]
        )
        out.append(f"Of {len(rows)} settings {words}: the best of the restarts of each is compared.")
    out += [_best_in_words(row) for row in shown]
    if len(shown) < len(rows):
        out.append(f"The best of the other {len(rows) - len(shown)} settings are in the table.")
    return [*out, *impossible_sentences(best), *degenerate_sentences(fits)]


def _chosen(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The setting that each criterion chooses."""
    chosen = {
        "AIC": min(rows, key=lambda row: float(row["aic"])),
        "BIC": min(rows, key=lambda row: float(row["bic"])),
    }
    most = max(rows, key=lambda row: float(row["valid_log_likelihood"]))
    if most["valid_log_likelihood"] > -math.inf:
        chosen["the held-out likelihood"] = most
    return chosen


def _not_converged(fits: pl.DataFrame, best: pl.DataFrame) -> list[str]:
    """Sentence on sound fits that ended before they had converged; none where there are none."""
    sound = fits.filter(pl.col("problem") == "")
    late = sound.filter(~pl.col("converged"))
    if late.is_empty():
        return []
    steps = sorted(late["updates"].unique().to_list())
    after = f"{steps[0]:,}" if len(steps) == 1 else f"{steps[0]:,} to {steps[-1]:,}"
    n = int((~best["converged"]).sum())
    among = f", the best of {counted(n, 'setting')} among them" if n else ""
    return [
        f"EM of {len(late)} of {counted(len(sound), 'run')} had not converged after {after} updates{among}: their "
        "likelihoods may still rise; take more --n-steps."
    ]


def _best_in_words(row: Mapping[str, Any]) -> str:
    """Sentence on the best of the restarts of a setting."""
    again = (
        f"found by {row['again']} of {counted(row['restarts'], 'restart')}"
        if row["again"] > 1
        else f"found once in {counted(row['restarts'], 'restart')}, so that a better one may be missing"
    )
    return (
        f"{row['setting']}: the best restart, {row['run'][:8]}, has log L {_likelihood(row['log_likelihood'])}, "
        f"{again}; AIC {_likelihood(row['aic'])}, BIC {_likelihood(row['bic'])}, held out "
        f"{_likelihood(row['valid_log_likelihood'])} nats; {'' if row['converged'] else 'not '}converged."
    )


def fits_table(
    fits: pl.DataFrame, held_out: Mapping[str, tuple[float, float | None, float | None]], one_data_set: bool = True
) -> Table:
    """Table of the best fits by ``setting``.

    Args:
        fits: as :meth:`shoal.lab.Records.fits`, with the column ``setting``.
        held_out: as :func:`held_out_of`.
        one_data_set: true where AIC and BIC compare the settings; the smallest is then in bold.
    """
    held = ("held_out", "held_out_low", "held_out_high")
    numbers = pl.DataFrame(
        [(run, *each) for run, each in held_out.items()],
        {"run": pl.String, **dict.fromkeys(held, pl.Float64)},
        orient="row",
    )
    best = best_of_restarts(fits, ["setting"]).join(numbers, on="run", how="left", maintain_order="left")
    header = ["setting", "log L", "held out [95 %]", "found again", "degenerate", "P", "AIC", "BIC", "converged", "run"]
    lowest_of = {
        name: best[name].drop_nulls().sort().head(1).to_list() if one_data_set else [] for name in ("aic", "bic")
    }
    rows = [
        (
            row["setting"],
            [
                Cell(_likelihood(row["log_likelihood"])),
                Cell(with_interval(row[held[0]], row[held[1]], row[held[2]], digits=5)),
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
    return Table("fits", header, rows, CAPTION, best)


def impossible_sentences(best: pl.DataFrame) -> list[str]:
    """Sentence that names validation sequences that the best fits hold impossible, and where; none where none is."""
    failed = best.filter(pl.col("valid_log_likelihood") == -math.inf).select("setting", "valid_problem").rows()
    if not failed:
        return []
    named = "; ".join(f"{setting}: {problem or NOTHING}" for setting, problem in failed[:_MOST_NAMED])
    more = f"; and {len(failed) - _MOST_NAMED} more" if len(failed) > _MOST_NAMED else ""
    return [
        f"Held out, the log-likelihood of {len(failed)} of {counted(len(best), 'setting')} is −∞ ({named}{more}). EM "
        "gives probability 0 to symbols, and to orders of symbols, that no training sequence holds."
    ]


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
