"""Answers in words about the trend of a quantity with a setting, each computed with its evidence."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import polars as pl

from shoal.analysis import TrendEstimate, trend
from shoal.analysis.correction import Family
from shoal.analysis.ranks import DRAWS
from shoal.report import Cell, Table
from shoal.report.panels import Axis
from shoal.report.words import NOTHING, counted, listed, number, p_value, with_interval
from shoal.studies.crossing import SEED_AXES, crossing

LEVEL = 0.05  # of the corrected test behind "improves" and "worsens"
# quantities of the questions: column, symbol, True where small values are good
ASKED = (("log_valid_loss", "log₁₀ L_val", True), ("valid_accuracy", "A_val", False))


@dataclass(frozen=True)
class Case:
    """Runs and the setting whose effect is asked for.

    Attributes:
        name: name of the runs.
        frame: the runs with their extrema and settings.
        axis: the setting, or a quantity that is computed from settings.
        made_of: columns of the settings that such a quantity is computed from.
        more: columns of settings that only parts from outside of shoal have.
    """

    name: str
    frame: pl.DataFrame
    axis: Axis
    made_of: tuple[str, ...] = ()
    more: tuple[str, ...] = ()


@dataclass(frozen=True)
class Trend:
    """Trend of one quantity with the setting of one case.

    Attributes:
        found: the estimate.
        corrected: its p value, corrected for all tests of its family.
        family: the tests that are corrected together.
    """

    found: TrendEstimate
    corrected: float | None
    family: Family


def with_logs(extrema: pl.DataFrame) -> pl.DataFrame:
    """Extrema with ``log_train_loss`` and ``log_valid_loss``, log₁₀; a loss of 0 counts as 1e-38."""
    return extrema.with_columns(
        pl.col(name).cast(pl.Float64).clip(lower_bound=1e-38).log10().alias(f"log_{name}")
        for name in ("train_loss", "valid_loss")
    )


def how_it_goes(cases: Sequence[Case], columns: Sequence[tuple[str, str]], name: str) -> tuple[list[Trend], Table]:
    """Trends of quantities over a setting: rank correlation and slope, corrected for the number of tests.

    Args:
        cases: all cases of a page.
        columns: names of columns with their symbols.
        name: name of the table.

    Returns:
        Trend of each column of each case, and the table of them.
    """
    estimates, labels = [], []
    for case in cases:
        unit, within = crossing(case.frame, case.axis.column, case.made_of, case.more)
        for column, symbol in columns:
            frame, log2 = with_logs(case.frame), case.axis.log is not None
            estimates.append(trend(frame, case.axis.column, column, unit, within, log2))
            labels.append((symbol, case.name, column))
    family = Family.of([one.p for one in estimates], [one.smallest_p for one in estimates])
    trends = [Trend(one, corrected, family) for one, corrected in zip(estimates, family.corrected, strict=True)]
    header = ["", "ρ", "p", "corrected p", "slope [95 %]", "runs", "seeds", "compared within"]
    rows = [(f"{symbol}, {case}", _cells(one)) for (symbol, case, _), one in zip(labels, trends, strict=True)]
    data = [
        {"case": case, "quantity": column, **asdict(one.found), "p_corrected": one.corrected}
        for (_, case, column), one in zip(labels, trends, strict=True)
    ]
    made = {case.axis.title: case.made_of for case in cases if case.made_of}
    caption = _caption(estimates, family) + _made_of(made)
    return trends, Table(name, header, rows, caption, pl.DataFrame(data, infer_schema_length=None))


def direction(one: Trend, small: bool | None) -> str:
    """Direction of a trend in words, by the corrected permutation test of ρ.

    It ``improves``, ``worsens`` or ``shows no clear change``; or it ``falls`` or ``rises`` where neither is good
    (``small`` None).
    """
    estimate, floor = one.found, one.family.floor
    if not estimate.blocks:
        return "cannot be tested (no two runs differ in this alone)"
    if estimate.rho is None or estimate.p is None or one.corrected is None:
        return "is the same everywhere"
    evidence = f"ρ = {number(estimate.rho, 2)}, {p_value(estimate.p)}"
    if one.family.tests > 1:
        evidence += f", corrected {bare_p(one.corrected)}"
    if estimate.smallest_p is not None and estimate.smallest_p >= LEVEL:
        return f"has too few runs to test ({evidence}; no p below {number(estimate.smallest_p, 2)} is possible)"
    if floor is not None and floor >= LEVEL:
        return f"has too few runs to test ({evidence}; no corrected p below {number(floor, 2)} is possible)"
    if one.corrected >= LEVEL:
        return f"shows no clear change ({evidence})"
    if small is None:
        return f"{'falls' if estimate.rho < 0 else 'rises'} ({evidence})"
    return f"{'improves' if (estimate.rho < 0) == small else 'worsens'} ({evidence})"


def _cells(one: Trend) -> list[Cell]:
    estimate = one.found
    left_out = f" ({estimate.alone} left out)" if estimate.alone and estimate.blocks else ""
    texts = [
        number(estimate.rho, 2),
        bare_p(estimate.p),
        bare_p(one.corrected),
        with_interval(estimate.slope, estimate.low, estimate.high),
        f"{estimate.runs}{left_out}",
        str(estimate.units),
        listed(estimate.names) if estimate.blocks and estimate.names else NOTHING,
    ]
    return [Cell(text) for text in texts]


def bare_p(p: float | None) -> str:
    """P value for a table, ``0.012`` or ``< 0.0001``.

    >>> [bare_p(p) for p in (0.0123, 3e-7, None)]
    ['0.012', '< 0.0001', '–']
    """
    return NOTHING if p is None else p_value(p).removeprefix("p = ").removeprefix("p ")


def _made_of(made: Mapping[str, tuple[str, ...]]) -> str:
    """Sentences on settings that vary although runs are compared: those that the quantity is made of."""
    return "".join(f" With {title}, which is made of {listed(names)}, these vary." for title, names in made.items())


def _caption(estimates: Sequence[TrendEstimate], family: Family) -> str:
    alone = any(one.alone and one.blocks for one in estimates)
    unshared = any(one.blocks and not set(SEED_AXES) & set(one.names) for one in estimates)
    random = any(one.p is not None and not one.exact for one in estimates)
    return (
        "How each quantity changes with each setting. Runs are compared that agree in their seed and in all other "
        "settings that vary, the columns named last. ρ: rank correlation, the ranks taken within these groups of runs "
        "(of one group, Spearman's). p: of all permutations of the values within the groups"
        + (f", or of {DRAWS:,} where there are too many" if random else "")
        + f". Corrected: by Holm's method for {counted(family.tests, 'test')}, all tests of trends on this page. "
        "Slope: of least-squares lines with an intercept for each group, one slope within each seed, per doubling of "
        "a setting on a logarithmic axis, else per unit, mean with Student's 95 % interval over seeds, which is not "
        "corrected"
        + (". Left out: runs with which no other run agrees in these columns" if alone else "")
        + (". Where no seed is among them, too few runs share one" if unshared else "")
        + ". –: all values are the same, or there is nothing to compare."
    )
