"""Whether settings differ in when their runs generalise: the log-rank test.

Source: Mantel 1966; for several groups Peto and Peto 1972, with the hypergeometric covariance, ties included.
"""

import itertools
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy import stats

from shoal.analysis.columns import Names, as_names, check_columns, groups
from shoal.analysis.correction import holm

Array = NDArray[np.float64]


@dataclass(frozen=True)
class LogRankTest:
    """The test that all groups have the same curve.

    Attributes:
        groups: how many groups there are.
        chi2: the statistic; None where nothing can be compared (one group, or no run that got there while runs of
            another group were under observation).
        df: degrees of freedom: one less than the groups under observation at the first event.
        p: by the χ² distribution, which is only rough for groups of a few runs; None as for ``chi2``.
    """

    groups: int
    chi2: float | None
    df: int
    p: float | None


def logrank(times: pl.DataFrame, by: Names) -> LogRankTest:
    """Test whether the groups differ.

    Args:
        times: ``time``, ``observed`` and the columns of ``by``.
        by: what tells groups apart.
    """
    samples = [sample for _, sample in _samples(times, by)]
    if len(samples) == 2:
        z, p = _two(*samples)
        return LogRankTest(2, None if z is None else z**2, 1, p)
    chi2, df = _several(samples)
    return LogRankTest(len(samples), chi2, df, None if chi2 is None else float(stats.chi2.sf(chi2, df)))


def logrank_pairs(times: pl.DataFrame, by: Names) -> pl.DataFrame:
    """The test between every two groups.

    Returns:
        ``first`` and ``second`` (labels, as text), ``z`` (positive where the first generalises sooner), ``p`` and
        ``p_holm``, corrected for the number of pairs; null where a pair cannot be compared.
    """
    rows = [(a, b, *_two(first, second)) for (a, first), (b, second) in itertools.combinations(_samples(times, by), 2)]
    schema = {"first": pl.String, "second": pl.String, "z": pl.Float64, "p": pl.Float64}
    frame = pl.DataFrame(rows, schema=schema, orient="row")
    return frame.with_columns(pl.Series("p_holm", holm(frame["p"].to_list()), dtype=pl.Float64))


def _samples(times: pl.DataFrame, by: Names) -> list[tuple[str, tuple[Array, NDArray[np.bool_]]]]:
    """Label, times and whether they were observed, of each group."""
    check_columns(times, ["time", "observed"])
    return [
        (
            ", ".join(str(key[name][0]) for name in as_names(by)),
            (group["time"].to_numpy().astype(np.float64), group["observed"].to_numpy()),
        )
        for key, group in groups(times, by)
    ]


def _two(
    first: tuple[Array, NDArray[np.bool_]], second: tuple[Array, NDArray[np.bool_]]
) -> tuple[float | None, float | None]:
    x, y = (stats.CensoredData(uncensored=time[seen], right=time[~seen]) for time, seen in (first, second))
    with np.errstate(invalid="ignore", divide="ignore"):  # without variance there is no statistic
        result = stats.logrank(x, y)
    if not np.isfinite(result.statistic):
        return None, None
    return float(result.statistic), float(result.pvalue)


def _several(samples: list[tuple[Array, NDArray[np.bool_]]]) -> tuple[float | None, int]:
    """χ² and degrees of freedom of k groups: (O − E)ᵀ V⁻¹ (O − E) without the last group's row and column."""
    steps = np.unique(np.concatenate([time[seen] for time, seen in samples] or [np.zeros(0)]))  # (m,)
    if len(steps) == 0:
        return None, max(len(samples) - 1, 0)
    at_risk = np.array([(time[:, None] >= steps).sum(axis=0) for time, _ in samples], dtype=np.float64)  # (k, m)
    at_risk = at_risk[at_risk[:, 0] > 0]  # whoever left before the first event can tell nothing
    n = at_risk.sum(axis=0)
    events = np.array([(time[seen][:, None] == steps).sum(axis=0) for time, seen in samples], dtype=np.float64)
    d = events.sum(axis=0)
    events = events[[bool((time >= steps[0]).any()) for time, _ in samples]]
    difference = (events - at_risk * d / n).sum(axis=1)
    weight = np.divide(d * (n - d), n - 1, out=np.zeros(len(n)), where=n > 1)
    share = at_risk / n
    covariance = np.diag((weight * share).sum(axis=1)) - (weight * share) @ share.T
    df = len(at_risk) - 1
    if df < 1 or not (weight > 0).any():
        return None, max(df, 0)
    inner = difference[:-1]
    return float(inner @ np.linalg.solve(covariance[:-1, :-1], inner)), df
