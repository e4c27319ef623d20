"""Whether settings differ in when their runs generalise: the log-rank test, by permutation.

The statistic's χ² distribution is one of many runs: with 2 to 8 of them a group it calls up to 40 of 100 equal settings
different at 0.05. The p value is therefore the share of arrangements of the groups' labels that give a statistic as
large. That is exact where runs are censored without regard to their group, as where all groups have one horizon.

Where other settings are crossed with the groups, what they do to the times is neither noise nor a difference of the
groups: runs at risk are counted within each combination of the other settings (a stratified test), and labels change
places within it and within a seed. Seeds are no strata, because the few runs of one would tell little of what they have
to tell together.

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
    """The test that all groups have the same curve.

    Attributes:
        groups: how many groups there are.
        chi2: the statistic; None where nothing can be compared (one group, no runs of two groups that agree in all
            else, or no run that got there while runs of another group were under observation).
        df: degrees of freedom: the rank of its covariance; with one stratum one less than the groups under observation
            at the first event.
        p: share of arrangements of the labels with a statistic at least as large; None as for ``chi2``.
        smallest_p: the smallest p within reach of so many runs; None as for ``chi2``.
        exact: whether p counts all arrangements, or random ones.
        blocks: the columns in which runs agree whose labels changed places.
        alone: how many runs agree in these with none of another group: they keep their labels.
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
    """Test whether the groups differ.

    Args:
        times: ``time``, ``observed``, perhaps ``state`` (see :func:`shoal.analysis.survival.outlasting`), the columns
            of ``by`` and ``within`` and perhaps ``unit``.
        by: what tells groups apart.
        unit: columns that say which runs share a seed; where one is missing or null, none do.
        within: the other settings that vary: what is compared are runs that agree in them, and in their seed where
            enough of them share one (:func:`shoal.analysis.blocks.comparable`).
        draws: random arrangements, where there are more than so many.
        seed: of these.
    """
    check_draws("draws", draws, seed)
    names, sample = _sample(times, by, unit, within)
    return sample.test(len(names), draws, seed)[0]


def logrank_pairs(
    times: pl.DataFrame, by: Names, unit: Names = "seed", within: Names = (), draws: int = DRAWS, seed: int = 0
) -> pl.DataFrame:
    """The test between every two groups, each by permuting the labels of its own runs.

    Returns:
        ``first`` and ``second`` (labels, as text), ``z`` (positive where the first generalises sooner), ``p`` and
        ``p_corrected`` for the number of pairs (:func:`shoal.analysis.correction.shaffer`), which holds where pairs are
        looked at only after :func:`logrank` of all groups was significant; null where a pair cannot be compared.
        ``smallest_p_corrected`` is the smallest that could have been.
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
    """Runs in columns, each ``(n,)``: when last seen, whether they had got there, group; and what they agree in."""

    time: Array
    observed: Array
    labels: Labels
    frame: pl.DataFrame  # the columns of unit and within, and "_group" for the labels
    unit: list[str]
    within: list[str]

    def of(self, first: int, second: int) -> Self:
        """The runs of two groups, which are now 0 and 1."""
        kept = (self.labels == first) | (self.labels == second)
        labels = (self.labels[kept] == second).astype(np.int64)
        frame = self.frame.filter(pl.Series(kept)).with_columns(_group=pl.Series(labels))
        return type(self)(self.time[kept], self.observed[kept], labels, frame, self.unit, self.within)

    def strata(self) -> Labels:
        """The combination of the other settings of each run, numbered from 0."""
        if not self.within or not len(self.time):
            return np.zeros(len(self.time), dtype=np.int64)
        return self.frame.select(pl.struct(self.within).rank("dense")).to_series().to_numpy().astype(np.int64) - 1

    def test(self, number: int, draws: int, seed: int) -> tuple[LogRankTest, float]:
        """The test of ``number`` groups, and how many more runs of the first got there than were expected to."""
        found = comparable(self.frame, "_group", self.unit, self.within)
        strata = self.strata()
        kept = _telling(self.time, self.observed, self.labels, strata)
        if not found.rows or not kept.any():
            return LogRankTest(number, None, max(number - 1, 0), None, blocks=found.names, alone=found.alone), 0.0
        present, labels = np.unique(self.labels[kept], return_inverse=True)
        # the design says what is a block, also of a run that has left
        places = np.cumsum(kept) - 1
        inside = np.concatenate(found.rows)
        alone = np.setdiff1d(np.arange(len(kept)), inside)[:, None]
        blocks = [places[block[kept[block]]] for block in (*found.rows, *alone)]
        others = arrange(labels, [block for block in blocks if len(block)], draws, seed)
        parts = [
            _Stratum.of(own, self.time[kept], self.observed[kept])
            for stratum in np.unique(strata[kept])
            for own in [np.flatnonzero(strata[kept] == stratum)]
        ]
        (chi2,), (sooner,), df = _statistics(labels[None, :], parts)
        size = max(_CHUNK // (len(labels) * len(present)), 1)
        chunks = [others.labels[start : start + size] for start in range(0, len(others.labels), size)]
        permuted = np.concatenate([_statistics(part, parts)[0] for part in chunks])
        p = others.p(chi2, permuted)
        test = LogRankTest(number, float(chi2), df, p, others.smallest_p, others.exact, found.names, found.alone)
        return test, float(sooner)


def _sample(times: pl.DataFrame, by: Names, unit: Names, within: Names) -> tuple[list[str], _Sample]:
    """The labels of the groups as text, and the runs."""
    check_columns(times, ["time", "observed", *as_names(within)])
    numbered = outlasting(times).with_row_index("_row")
    names, labels = [], np.zeros(len(times), dtype=np.int64)
    for number, (key, group) in enumerate(groups(numbered, by)):
        names.append(", ".join(str(key[name][0]) for name in as_names(by)))
        labels[group["_row"].to_numpy()] = number
    shared = all(name in times.columns and times[name].null_count() == 0 for name in as_names(unit))
    seeds = as_names(unit) if shared else []
    return names, _Sample(
        numbered["time"].to_numpy().astype(np.float64),
        numbered["observed"].to_numpy().astype(np.float64),
        labels,
        times.select(*seeds, *as_names(within), _group=pl.Series(labels)),
        seeds,
        as_names(within),
    )


def _telling(time: Array, observed: Array, labels: Labels, strata: Labels) -> NDArray[np.bool_]:
    """Which runs can tell something, ``(n,)``: those under observation at the first event of their stratum, where that
    leaves runs of two groups and one that goes on."""
    kept = np.zeros(len(time), dtype=bool)
    for stratum in np.unique(strata):
        own = strata == stratum
        first = time[own & (observed > 0)].min(initial=np.inf)
        seen = own & (time >= first)
        goes_on = (time[seen] > first) | (observed[seen] == 0)
        if len(np.unique(labels[seen])) > 1 and goes_on.any():
            kept |= seen
    return kept


@dataclass(frozen=True)
class _Stratum:
    """Runs that are at risk together.

    Attributes:
        rows: their indices, those first that are followed for longest, ``(s,)``.
        excess: events less those expected of a run that is like all others, ``(s,)``.
        at_risk: how many runs, the first of these, are at risk at each event, ``(m,)``.
        weight: of the covariance at each event, ``(m,)``.
    """

    rows: Labels
    excess: Array
    at_risk: Labels
    weight: Array

    @classmethod
    def of(cls, rows: Labels, time: Array, observed: Array) -> Self:
        """Of the times of all runs, ``(n,)``, those of ``rows``, none before their first event."""
        rows = rows[np.argsort(-time[rows], kind="stable")]
        time, observed = time[rows], observed[rows]
        steps, d = np.unique(time[observed > 0], return_counts=True)
        at_risk = np.searchsorted(-time, -steps, side="right")
        weight = np.divide(d * (at_risk - d), at_risk - 1, out=np.zeros(len(steps)), where=at_risk > 1)
        expected = np.concatenate([[0.0], np.cumsum(d / at_risk)])[np.searchsorted(steps, time, side="right")]
        return cls(rows, observed - expected, at_risk, weight)


def _statistics(labels: Labels, strata: Sequence[_Stratum]) -> tuple[Array, Array, int]:
    """χ² = (O − E)ᵀ V⁺ (O − E), the first group's O − E, and the rank of V: sums over strata.

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
