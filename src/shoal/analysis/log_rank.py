"""Log-rank test of differences between settings in the time to generalise, by permutation.

The statistic's χ² distribution is one of many runs: with 2 to 8 of them a group it calls up to 40 of 100 equal settings
different at 0.05. The p value is therefore the share of arrangements of the groups' labels that give a statistic as
large. That is exact where runs are censored without regard to their group, as where all groups have one horizon.

Where other settings are crossed with the groups, their effect on the times is neither noise nor a difference of the
groups: runs at risk are counted within each combination of the other settings (a stratified test), and labels change
places within it and within a seed. Seeds are no strata: a stratum of the few runs of one seed would lose most of the
test's power.

Sources: Mantel 1966; for several groups and strata Peto and Peto 1972, with the hypergeometric covariance, ties
included; for the permutation :mod:`shoal.analysis.arrangements`.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import polars as pl
from numpy.typing import NDArray

from shoal.analysis.arrangements import Array, Labels, arrange
from shoal.analysis.blocks import comparable
from shoal.analysis.columns import Names, as_names, check_columns, check_draws, groups
from shoal.analysis.correction import shaffer
from shoal.analysis.survival import outlasting

DRAWS = 10_000
_CHUNK = 2_000_000  # numbers held at once


@dataclass(frozen=True)
class LogRankTest:
    """Test that all groups have the same survival curve.

    Attributes:
        groups: number of groups.
        chi2: the statistic; None where nothing can be compared (one group, no runs of two groups that agree in all
            else, or no event while runs of another group were under observation).
        df: degrees of freedom: the rank of its covariance; with one stratum one less than the groups under observation
            at the first event.
        p: share of arrangements of the labels with a statistic at least as large; None as for ``chi2``.
        smallest_p: the smallest p within reach of so many runs; None as for ``chi2``.
        exact: true where p counts all arrangements, false where it counts random ones.
        blocks: the columns in which runs agree whose labels are permuted.
        alone: number of runs that agree in these columns with no run of another group: they keep their labels.
    """

    groups: int
    chi2: float | None
    df: int
    p: float | None
    smallest_p: float | None = None
    exact: bool = False
    blocks: tuple[str, ...] = ()
    alone: int = 0


def logrank(
    times: pl.DataFrame, by: Names, unit: Names = "seed", within: Names = (), draws: int = DRAWS, seed: int = 0
) -> LogRankTest:
    """Log-rank test of the hypothesis that all groups have the same survival curve.

    Args:
        times: ``time``, ``observed``, perhaps ``state`` (see :func:`shoal.analysis.survival.outlasting`), the columns
            of ``by`` and ``within`` and perhaps ``unit``.
        by: the columns whose values are the groups.
        unit: columns in which runs that share a seed agree; where one is missing, seeds are not used.
        within: the other settings that vary: runs are compared that agree in them, and in their seed where
            enough of them share one (:func:`shoal.analysis.blocks.comparable`).
        draws: number of random arrangements, where there are more than that in all.
        seed: seed of the random arrangements.
    """
    check_draws("draws", draws, seed)
    names, sample = _sample(times, by, unit, within)
    return sample.test(len(names), draws, seed)[0]


def logrank_pairs(
    times: pl.DataFrame, by: Names, unit: Names = "seed", within: Names = (), draws: int = DRAWS, seed: int = 0
) -> pl.DataFrame:
    """Log-rank tests of all pairs of groups, each by permuting the labels of the pair's runs.

    Returns:
        ``first`` and ``second`` (labels, as text), ``z`` (positive where the first generalises sooner), ``p`` and
        ``p_corrected`` for the number of pairs (:func:`shoal.analysis.correction.shaffer`), which holds where pairs are
        looked at only after :func:`logrank` of all groups was significant; null where a pair cannot be compared.
        ``smallest_p_corrected`` is the smallest that these runs could have reached.
    """
    check_draws("draws", draws, seed)
    names, sample = _sample(times, by, unit, within)
    rows = []
    for a, b in itertools.combinations(range(len(names)), 2):
        test, sooner = sample.of(a, b).test(2, draws, seed)
        z = None if test.chi2 is None else math.copysign(math.sqrt(test.chi2), sooner)
        rows.append((names[a], names[b], z, test.p, test.smallest_p))
    schema = {"first": pl.String, "second": pl.String} | dict.fromkeys(("z", "p", "smallest_p"), pl.Float64)
    frame = pl.DataFrame(rows, schema=schema, orient="row")
    corrected = {name: shaffer(frame[name].to_list(), len(names)) for name in ("p", "smallest_p")}
    return frame.select(
        pl.exclude("smallest_p"),
        *(pl.Series(f"{name}_corrected", values, dtype=pl.Float64) for name, values in corrected.items()),
    )


@dataclass(frozen=True)
class _Sample:
    """Runs in columns, each ``(n,)``: time, event indicator and group; and the columns in which they may agree."""

    time: Array
    observed: Array
    labels: Labels
    frame: pl.DataFrame  # the columns of unit and within, and "_group" for the labels
    unit: list[str]
    within: list[str]

    def of(self, first: int, second: int) -> Self:
        """Sample of the runs of two groups, now numbered 0 and 1."""
        chosen = (self.labels == first) | (self.labels == second)
        labels = (self.labels[chosen] == second).astype(np.int64)
        frame = self.frame.filter(pl.Series(chosen)).with_columns(_group=pl.Series(labels))
        return type(self)(self.time[chosen], self.observed[chosen], labels, frame, self.unit, self.within)

    def strata(self) -> Labels:
        """Stratum of each run, its combination of the other settings, numbered from 0."""
        if not self.within or not len(self.time):
            return np.zeros(len(self.time), dtype=np.int64)
        return self.frame.select(pl.struct(self.within).rank("dense")).to_series().to_numpy().astype(np.int64) - 1

    def test(self, number: int, draws: int, seed: int) -> tuple[LogRankTest, float]:
        """Test of ``number`` groups, and the first group's observed less expected events."""
        design = comparable(self.frame, "_group", self.unit, self.within)
        strata = self.strata()
        telling = _telling(self.time, self.observed, self.labels, strata)
        if not design.rows or not telling.any():
            return LogRankTest(number, None, max(number - 1, 0), None, blocks=design.names, alone=design.alone), 0.0
        present, labels = np.unique(self.labels[telling], return_inverse=True)
        # blocks are those of the design, also where a run is not under observation at the first event
        places = np.cumsum(telling) - 1
        inside = np.concatenate(design.rows)
        alone = np.setdiff1d(np.arange(len(telling)), inside)[:, None]
        blocks = [places[block[telling[block]]] for block in (*design.rows, *alone)]
        others = arrange(labels, [block for block in blocks if len(block)], draws, seed)
        parts = [
            _Stratum.of(rows, self.time[telling], self.observed[telling])
            for stratum in np.unique(strata[telling])
            for rows in [np.flatnonzero(strata[telling] == stratum)]
        ]
        (chi2,), (sooner,), df = _statistics(labels[None, :], parts)
        size = max(_CHUNK // (len(labels) * len(present)), 1)
        chunks = [others.labels[start : start + size] for start in range(0, len(others.labels), size)]
        permuted = np.concatenate([_statistics(part, parts)[0] for part in chunks])
        p = others.p(chi2, permuted)
        test = LogRankTest(number, float(chi2), df, p, others.smallest_p, others.exact, design.names, design.alone)
        return test, float(sooner)


def _sample(times: pl.DataFrame, by: Names, unit: Names, within: Names) -> tuple[list[str], _Sample]:
    """Labels of the groups as text, and the runs as a sample."""
    check_columns(times, ["time", "observed", *as_names(within)])
    numbered = outlasting(times).with_row_index("_row")
    names, labels = [], np.zeros(len(times), dtype=np.int64)
    for number, (key, group) in enumerate(groups(numbered, by)):
        names.append(", ".join(str(key[name][0]) for name in as_names(by)))
        labels[group["_row"].to_numpy()] = number
    seeds = as_names(unit) if set(as_names(unit)) <= set(times.columns) else []
    return names, _Sample(
        numbered["time"].to_numpy().astype(np.float64),
        numbered["observed"].to_numpy().astype(np.float64),
        labels,
        times.select(*seeds, *as_names(within), _group=pl.Series(labels)),
        seeds,
        as_names(within),
    )


def _telling(time: Array, observed: Array, labels: Labels, strata: Labels) -> NDArray[np.bool_]:
    """Mask of the informative runs, ``(n,)``: those under observation at the first event of their stratum, where that
    leaves runs of two groups and at least one run that outlasts the event."""
    informative = np.zeros(len(time), dtype=bool)
    for stratum in np.unique(strata):
        in_stratum = strata == stratum
        first = time[in_stratum & (observed > 0)].min(initial=np.inf)
        seen = in_stratum & (time >= first)
        goes_on = (time[seen] > first) | (observed[seen] == 0)
        if len(np.unique(labels[seen])) > 1 and goes_on.any():
            informative |= seen
    return informative


@dataclass(frozen=True)
class _Stratum:
    """Stratum of the test: runs that are at risk together.

    Attributes:
        rows: indices of the runs, those with the longest times first, ``(s,)``.
        excess: observed events less those expected under equal hazards, of each run, ``(s,)``.
        at_risk: number of runs at risk at each event, ``(m,)``: so many first ``rows``.
        weight: factor of the covariance at each event, ``(m,)``.
    """

    rows: Labels
    excess: Array
    at_risk: Labels
    weight: Array

    @classmethod
    def of(cls, rows: Labels, time: Array, observed: Array) -> Self:
        """Stratum of ``rows`` from the times of all runs, ``(n,)``; none of the rows ends before their first event."""
        rows = rows[np.argsort(-time[rows], kind="stable")]
        time, observed = time[rows], observed[rows]
        steps, d = np.unique(time[observed > 0], return_counts=True)
        at_risk = np.searchsorted(-time, -steps, side="right")
        weight = np.divide(d * (at_risk - d), at_risk - 1, out=np.zeros(len(steps)), where=at_risk > 1)
        expected = np.concatenate([[0.0], np.cumsum(d / at_risk)])[np.searchsorted(steps, time, side="right")]
        return cls(rows, observed - expected, at_risk, weight)


def _statistics(labels: Labels, strata: Sequence[_Stratum]) -> tuple[Array, Array, int]:
    """Log-rank χ² = (O − E)ᵀ V⁺ (O − E), the first group's O − E, and the rank of V: sums over strata.

    V has the same null space in every arrangement within blocks, because at a stratum's first event each group has as
    many runs at risk as before.

    Args:
        labels: ``(B, n)``, the group of each run in B arrangements, numbered from 0 without gaps.
        strata: the runs.

    Returns:
        Two arrays ``(B,)`` and the rank.
    """
    k = int(labels.max()) + 1
    difference, covariance = np.zeros((len(labels), k)), np.zeros((len(labels), k, k))
    diagonal = np.arange(k)
    for stratum in strata:
        groups = (labels[:, None, stratum.rows] == diagonal[:, None]).astype(np.float64)  # (B, k, s)
        difference += groups @ stratum.excess
        share = np.cumsum(groups, axis=2)[:, :, stratum.at_risk - 1] / stratum.at_risk  # (B, k, m)
        inner = share * stratum.weight
        covariance -= inner @ share.swapaxes(1, 2)
        covariance[:, diagonal, diagonal] += inner.sum(axis=2)
    values, vectors = np.linalg.eigh(covariance)  # (B, k), (B, k, k)
    real = values > 1e-9 * values[:, -1:]
    along = np.einsum("bij,bi->bj", vectors, difference)
    chi2 = np.divide(along**2, values, out=np.zeros_like(values), where=real).sum(axis=1)
    return chi2, difference[:, 0], int(real[0].sum())
