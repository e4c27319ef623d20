"""Answers in words about a quantity and a setting, its trend and any difference, each computed with its evidence."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import polars as pl

from shoal.analysis import DifferenceEstimate, TrendEstimate, any_difference, trend
from shoal.analysis.correction import Family
from shoal.analysis.ranks import DRAWS
from shoal.report import Cell, Table
from shoal.report.panels import Axis
from shoal.report.words import NOTHING, counted, listed, number, p_value, setting_text, with_interval
from shoal.studies.crossing import SEED_AXES, crossing

_ANY = (
    "ρ does not see a peak in the middle; the p of any difference does: it is the share of all exchanges of runs "
    "within the groups, or of random ones, with a Friedman statistic (ranks within groups, summed for each value) as "
    "large. It is left out where there are two values, or so few runs that it could not be below 0.05"
)
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
        apart: test of any difference between the values of the setting; None where it was not made.
        apart_corrected: its p value, corrected in the same family.
    """

    found: TrendEstimate
    corrected: float | None
    family: Family
    apart: DifferenceEstimate | None = None
    apart_corrected: float | None = None

    @property
    def is_clear(self) -> bool:
        """True where the corrected test finds that the quantity rises or falls."""
        return self.corrected is not None and self.corrected < LEVEL


def with_logs(extrema: pl.DataFrame) -> pl.DataFrame:
    """Extrema with ``log_train_loss`` and ``log_valid_loss``, log₁₀; a loss of 0 counts as 1e-38."""
    return extrema.with_columns(
        pl.col(name).cast(pl.Float64).clip(lower_bound=1e-38).log10().alias(f"log_{name}")
        for name in ("train_loss", "valid_loss")
    )


def how_it_goes(
    cases: Sequence[Case], columns: Sequence[tuple[str, str]], name: str, any_differences: bool = False
) -> tuple[list[Trend], Table]:
    """Trends of quantities over a setting: rank correlation and slope, corrected for the number of tests.

    Args:
        cases: all cases of a page.
        columns: names of columns with their symbols.
        name: name of the table.
        any_differences: test also any difference between the values of a setting, where it has three or more, in the
            same family. Such a test is left out where, whatever the values are, so few runs cannot make its p small.

    Returns:
        Trend of each column of each case, and the table of them.
    """
    estimates, apart, labels = [], [], []
    for case in cases:
        unit, within = crossing(case.frame, case.axis.column, case.made_of, case.more)
        for column, symbol in columns:
            frame, log2 = with_logs(case.frame), case.axis.log is not None
            estimates.append(trend(frame, case.axis.column, column, unit, within, log2))
            apart.append(_apart(frame, case.axis.column, column, unit, within) if any_differences else None)
            labels.append((symbol, case.name, column))
    tests: list[TrendEstimate | DifferenceEstimate] = [*estimates, *(one for one in apart if one is not None)]
    family = Family.of([one.p for one in tests], [one.smallest_p for one in tests if one.p is not None])
    corrected = iter(family.corrected)
    trends = [Trend(one, next(corrected), family) for one in estimates]
    trends = [
        one if other is None else replace(one, apart=other, apart_corrected=next(corrected))
        for one, other in zip(trends, apart, strict=True)
    ]
    header = ["", "ρ", "p", "corrected p", "slope [95 %]", "runs", "seeds", "compared within"]
    header[4:4] = ["p of any difference", "its corrected p"] * any_differences
    rows = [
        (f"{symbol}, {case}", _cells(one, any_differences))
        for (symbol, case, _), one in zip(labels, trends, strict=True)
    ]
    data = [
        {"case": case, "quantity": column, **asdict(one.found), "p_corrected": one.corrected}
        | (_data(one) if any_differences else {})
        for (_, case, column), one in zip(labels, trends, strict=True)
    ]
    made = {case.axis.title: case.made_of for case in cases if case.made_of}
    caption = _caption(estimates, family, any_differences) + _made_of(made)
    return trends, Table(name, header, rows, caption, pl.DataFrame(data, infer_schema_length=None))


def _apart(
    frame: pl.DataFrame, asked: str, column: str, unit: Sequence[str], within: Sequence[str]
) -> DifferenceEstimate | None:
    """Test of any difference, None where a trend says all or the design cannot find one."""
    one = any_difference(frame, asked, column, unit, within)
    return one if one.values > 2 and one.smallest_p is not None and one.smallest_p < LEVEL else None


def _data(one: Trend) -> dict[str, Any]:
    apart = one.apart
    return {
        "difference_chi2": None if apart is None else apart.chi2,
        "difference_p": None if apart is None else apart.p,
        "difference_p_corrected": one.apart_corrected,
        "highest_at": None if apart is None else apart.highest,
        "lowest_at": None if apart is None else apart.lowest,
    }


def direction(one: Trend, small: bool | None) -> str:
    """Direction of a trend in words, by the corrected permutation test of ρ.

    It ``improves``, ``worsens`` or ``shows no clear rise or fall``; or it ``falls`` or ``rises`` where neither is good
    (``small`` None). Where it does neither, but a test of any difference finds one, it ``differs between settings``.
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
        return _not_steady(one, small, evidence)
    if small is None:
        return f"{'falls' if estimate.rho < 0 else 'rises'} ({evidence})"
    return f"{'improves' if (estimate.rho < 0) == small else 'worsens'} ({evidence})"


def _not_steady(one: Trend, small: bool | None, evidence: str) -> str:
    """A quantity without a clear rise or fall, in words: whether its values differ all the same, and where."""
    steady, apart = f"no clear rise or fall ({evidence})", one.apart
    if apart is None or apart.p is None or one.apart_corrected is None:
        return f"shows {steady}"
    tested = f"{p_value(apart.p)}, corrected {bare_p(one.apart_corrected)}"
    if one.apart_corrected >= LEVEL:
        return f"shows {steady} and no clear difference between settings ({tested})"
    ends = {"lowest": apart.lowest, "highest": apart.highest}
    shown = ends if small is None else {name: ends[name] for name in (["lowest"] if small else ["highest"])}
    where = listed([f"{name} at {setting_text(value)}" for name, value in shown.items()])
    return f"differs between settings, {where} ({tested}), with {steady}"


def _cells(one: Trend, any_differences: bool = False) -> list[Cell]:
    estimate = one.found
    left_out = f" ({estimate.alone} left out)" if estimate.alone and estimate.blocks else ""
    texts = [
        number(estimate.rho, 2),
        bare_p(estimate.p),
        bare_p(one.corrected),
        *([bare_p(None if one.apart is None else one.apart.p), bare_p(one.apart_corrected)] * any_differences),
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


def _caption(estimates: Sequence[TrendEstimate], family: Family, any_differences: bool) -> str:
    alone = any(one.alone and one.blocks for one in estimates)
    unshared = any(one.blocks and not set(SEED_AXES) & set(one.names) for one in estimates)
    random = any(one.p is not None and not one.exact for one in estimates)
    return (
        "How each quantity changes with each setting. Runs are compared that agree in their seed and in all other "
        "settings that vary, the columns named last. ρ: rank correlation, the ranks taken within these groups of runs "
        "(of one group, Spearman's). p: of all permutations of the values within the groups"
        + (f", or of {DRAWS:,} where there are too many" if random else "")
        + (f". {_ANY}" if any_differences else "")
        + f". Corrected: by Holm's method for {counted(family.tests, 'test')}, all tests of trends"
        + (" and of any difference" if any_differences else "")
        + " on this page. Slope: of least-squares lines with an intercept for each group, one slope within each seed, "
        "per doubling of a setting on a logarithmic axis, else per unit, mean with Student's 95 % interval over seeds, "
        "which is not corrected"
        + (". Left out: runs with which no other run agrees in these columns" if alone else "")
        + (". Where no seed is among them, too few runs share one" if unshared else "")
        + ". –: all values are the same, or there is nothing to compare"
        + (", as t_f where no run generalised." if any_differences else ".")
    )
