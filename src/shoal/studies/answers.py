"""Answers in words, each computed with what it rests on: how a quantity goes with a setting."""

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
# what is asked about: column, symbol, whether small is good
ASKED = (("log_valid_loss", "log₁₀ L_val", True), ("valid_accuracy", "A_val", False))


@dataclass(frozen=True)
class Case:
    """Runs and a setting that is asked for.

    Attributes:
        name: what to call them.
        frame: the runs with their extrema and settings.
        axis: the setting, or a quantity that is computed from settings.
        made_of: in that case, the columns of these settings.
        more: columns of settings that only parts from outside of shoal have.
    """

    name: str
    frame: pl.DataFrame
    axis: Axis
    made_of: tuple[str, ...] = ()
    more: tuple[str, ...] = ()


@dataclass(frozen=True)
class Trend:
    """How one quantity goes with the setting of one case.

    Attributes:
        found: the estimate.
        corrected: its p, corrected for the tests that are made with it.
        family: these.
    """

    found: TrendEstimate
    corrected: float | None
    family: Family


def with_logs(extrema: pl.DataFrame) -> pl.DataFrame:
    """With ``log_train_loss`` and ``log_valid_loss``, log₁₀; a loss that float32 took to 0 counts as its smallest."""
    return extrema.with_columns(
        pl.col(name).cast(pl.Float64).clip(lower_bound=1e-38).log10().alias(f"log_{name}")
        for name in ("train_loss", "valid_loss")
    )


def how_it_goes(cases: Sequence[Case], columns: Sequence[tuple[str, str]], name: str) -> tuple[list[Trend], Table]:
    """Rank correlation and slope of quantities over a setting, corrected for the number of tests.

    Args:
        cases: the runs, all that a page asks this of.
        columns: names of columns with their symbols.
        name: of the table.

    Returns:
        A trend of each column of each case, and the table of them.
    """
    found, labels = [], []
    for case in cases:
        unit, within = crossing(case.frame, case.axis.column, case.made_of, case.more)
        for column, symbol in columns:
            frame, log2 = with_logs(case.frame), case.axis.log is not None
            found.append(trend(frame, case.axis.column, column, unit, within, log2))
            labels.append((symbol, case.name, column))
    family = Family.of([one.p for one in found], [one.smallest_p for one in found])
    trends = [Trend(one, corrected, family) for one, corrected in zip(found, family.corrected, strict=True)]
    header = ["", "ρ", "p", "corrected p", "slope [95 %]", "runs", "seeds", "compared within"]
    rows = [(f"{symbol}, {case}", _cells(one)) for (symbol, case, _), one in zip(labels, trends, strict=True)]
    data = [
        {"case": case, "quantity": column, **asdict(one.found), "p_corrected": one.corrected}
        for (_, case, column), one in zip(labels, trends, strict=True)
    ]
    made = {case.axis.title: case.made_of for case in cases if case.made_of}
    caption = _caption(found, family) + _made_of(made)
    return trends, Table(name, header, rows, caption, pl.DataFrame(data, infer_schema_length=None))


def direction(one: Trend, small: bool | None) -> str:
    """Whether it ``improves``, ``worsens`` or ``shows no clear change``, by the corrected permutation test of ρ;
    ``falls`` or ``rises`` where neither is good of itself (``small`` None).
    """
    found, floor = one.found, one.family.floor
    if not found.blocks:
        return "cannot be told (no two runs differ in this alone)"
    if found.rho is None or found.p is None or one.corrected is None:
        return "is the same everywhere"
    evidence = f"ρ = {number(found.rho, 2)}, {p_value(found.p)}"
    if one.family.tests > 1:
        evidence += f", corrected {bare_p(one.corrected)}"
    if found.smallest_p is not None and found.smallest_p >= LEVEL:
        return f"cannot be told of so few runs ({evidence}, and no p below {number(found.smallest_p, 2)} can be)"
    if floor is not None and floor >= LEVEL:
        return f"cannot be told of so few runs ({evidence}, and no corrected p below {number(floor, 2)} can be)"
    if one.corrected >= LEVEL:
        return f"shows no clear change ({evidence})"
    if small is None:
        return f"{'falls' if found.rho < 0 else 'rises'} ({evidence})"
    return f"{'improves' if (found.rho < 0) == small else 'worsens'} ({evidence})"


def _cells(one: Trend) -> list[Cell]:
    found = one.found
    left_out = f" ({found.alone} left out)" if found.alone and found.blocks else ""
    texts = [
        number(found.rho, 2),
        bare_p(found.p),
        bare_p(one.corrected),
        with_interval(found.slope, found.low, found.high),
        f"{found.runs}{left_out}",
        str(found.units),
        listed(found.names) if found.blocks and found.names else NOTHING,
    ]
    return [Cell(text) for text in texts]


def bare_p(p: float | None) -> str:
    """``0.012`` or ``< 0.0001``, for a table.

    >>> [bare_p(p) for p in (0.0123, 3e-7, None)]
    ['0.012', '< 0.0001', '–']
    """
    return NOTHING if p is None else p_value(p).removeprefix("p = ").removeprefix("p ")


def _made_of(made: Mapping[str, tuple[str, ...]]) -> str:
    """Why some settings are not held."""
    return "".join(f" With {title}, which is made of {listed(names)}, these vary." for title, names in made.items())


def _caption(found: Sequence[TrendEstimate], family: Family) -> str:
    alone = any(one.alone and one.blocks for one in found)
    unshared = any(one.blocks and not set(SEED_AXES) & set(one.names) for one in found)
    random = any(one.p is not None and not one.exact for one in found)
    return (
        "Runs are compared that agree in their seed and in all other settings that vary, the columns named last. ρ: "
        "rank correlation, the ranks taken within these groups of runs (of one group, Spearman's); p: of all "
        "permutations of the values within the groups"
        + (f", or of {DRAWS:,} where there are too many" if random else "")
        + f"; corrected: by Holm's method for {counted(family.tests, 'test')}, all tests of trends on this page; "
        "slope: of least-squares lines with an intercept for each group, one slope within each seed, per doubling of a "
        "setting on a logarithmic axis, else per unit, mean with Student's 95 % interval over seeds, which is not "
        "corrected"
        + ("; left out: runs with which no other run agrees in these columns" if alone else "")
        + ("; where no seed is among them, too few runs share one" if unshared else "")
        + "; –: all values are the same, or there is nothing to compare."
    )
