"""Whether settings differ in when their runs generalise: the log-rank test, by permutation.

The statistic's χ² distribution is one of many runs: with 2 to 8 of them a group it calls up to 40 of 100 equal settings
different at 0.05. The p value is therefore the share of arrangements of the groups' labels that give a statistic as
large. That is exact where runs are censored without regard to their group, as where all groups have one horizon.

Sources: Mantel 1966; for several groups Peto and Peto 1972, with the hypergeometric covariance, ties included; for the
permutation :mod:`shoal.analysis.arrangements`.
"""

import itertools
import math
from dataclasses import dataclass
from typing import Self

import numpy as np
import polars as pl

from shoal.analysis.arrangements import Array, Labels, arrange, split_blocks
from shoal.analysis.columns import Names, as_names, check_columns, groups
from shoal.analysis.correction import holm
from shoal.analysis.survival import outlasting

DRAWS = 10_000
_CHUNK = 2_000_000  # numbers held at once


@dataclass(frozen=True)
class LogRankTest:
    """The test that all groups have the same curve.

    Attributes:
        groups: how many groups there are.
        chi2: the statistic; None where nothing can be compared (one group, or no run that got there while runs of
            another group were under observation).
        df: degrees of freedom: one less than the groups under observation at the first event.
        p: share of arrangements of the labels with a statistic at least as large; None as for ``chi2``.
        smallest_p: the smallest p within reach of so many runs; None as for ``chi2``.
        exact: whether p counts all arrangements, or random ones.
        paired: whether labels changed places only among runs of one seed.
    """

    groups: int
    chi2: float | None
    df: int
    p: float | None
    smallest_p: float | None = None
    exact: bool = False
    paired: bool = False


def logrank(times: pl.DataFrame, by: Names, block: str = "seed", draws: int = DRAWS, seed: int = 0) -> LogRankTest:
    """Test whether the groups differ.

    Args:
        times: ``time``, ``observed``, perhaps ``state`` (see :func:`shoal.analysis.survival.outlasting`), the columns
            of ``by`` and perhaps ``block``.
        by: what tells groups apart.
        block: column whose values runs of different groups share: where each group has each value equally often,
            labels are permuted among the runs of one value; where it has not, and without this column, among all.
        draws: random arrangements, where there are more than so many.
        seed: of these.
    """
    names, sample = _sample(times, by, block)
    return _test(sample, len(names), draws, seed)[0]


def logrank_pairs(
    times: pl.DataFrame, by: Names, block: str = "seed", draws: int = DRAWS, seed: int = 0
) -> pl.DataFrame:
    """The test between every two groups, each by permuting the labels of its own runs.

    Returns:
        ``first`` and ``second`` (labels, as text), ``z`` (positive where the first generalises sooner), ``p`` and
        ``p_holm``, corrected for the number of pairs; null where a pair cannot be compared. ``smallest_p_holm`` is the
        smallest corrected p within reach of the pair.
    """
    names, sample = _sample(times, by, block)
    rows = []
    for a, b in itertools.combinations(range(len(names)), 2):
        test, sooner = _test(sample.of(a, b), 2, draws, seed)
        z = None if test.chi2 is None else math.copysign(math.sqrt(test.chi2), sooner)
        rows.append((names[a], names[b], z, test.p, test.smallest_p))
    schema = {"first": pl.String, "second": pl.String} | dict.fromkeys(("z", "p", "smallest_p"), pl.Float64)
    frame = pl.DataFrame(rows, schema=schema, orient="row")
    return frame.select(
        pl.exclude("smallest_p"),
        pl.Series("p_holm", holm(frame["p"].to_list()), dtype=pl.Float64),
        (pl.col("smallest_p") * pl.col("p").count()).clip(upper_bound=1.0).alias("smallest_p_holm"),
    )


@dataclass(frozen=True)
class _Sample:
    """Runs in columns, each ``(n,)``: when last seen, whether they had got there, group and value of the block."""

    time: Array
    observed: Array
    labels: Labels
    blocks: Labels | None

    def of(self, first: int, second: int) -> Self:
        """The runs of two groups, which are now 0 and 1."""
        kept = (self.labels == first) | (self.labels == second)
        labels = (self.labels[kept] == second).astype(np.int64)
        blocks = None if self.blocks is None else self.blocks[kept]
        return type(self)(self.time[kept], self.observed[kept], labels, blocks)


def _sample(times: pl.DataFrame, by: Names, block: str) -> tuple[list[str], _Sample]:
    """The labels of the groups as text, and the runs."""
    check_columns(times, ["time", "observed"])
    numbered = outlasting(times).with_row_index("_row")
    names, labels = [], np.zeros(len(times), dtype=np.int64)
    for number, (key, group) in enumerate(groups(numbered, by)):
        names.append(", ".join(str(key[name][0]) for name in as_names(by)))
        labels[group["_row"].to_numpy()] = number
    shared = block in times.columns and times[block].null_count() == 0
    return names, _Sample(
        numbered["time"].to_numpy().astype(np.float64),
        numbered["observed"].to_numpy().astype(np.float64),
        labels,
        times[block].rank("dense").to_numpy().astype(np.int64) if shared else None,
    )


def _test(sample: _Sample, number: int, draws: int, seed: int) -> tuple[LogRankTest, float]:
    """The test of ``number`` groups, and how many more runs of the first got there than were expected to."""
    first = sample.time[sample.observed > 0].min(initial=np.inf)
    kept = sample.time >= first  # whoever left before the first event can tell nothing
    present, labels = np.unique(sample.labels[kept], return_inverse=True)
    df = max(len(present) - 1, 0) if kept.any() else max(number - 1, 0)
    time, observed = sample.time[kept], sample.observed[kept]
    if df < 1 or not kept.any() or ((time == first) & (observed > 0)).all():
        return LogRankTest(number, None, df, None), 0.0
    # the design says what is a block, also of a run that has left
    blocks = split_blocks(sample.labels, sample.blocks)
    places = np.cumsum(kept) - 1
    inside = [places[block[kept[block]]] for block in blocks]
    others = arrange(labels, [block for block in inside if len(block)], draws, seed)
    (chi2,), (sooner,) = _statistics(labels[None, :], time, observed)
    permuted = np.concatenate(
        [_statistics(part, time, observed)[0] for part in _chunks(others.labels, _CHUNK // (len(time) * (df + 1)))]
    )
    test = LogRankTest(
        number, float(chi2), df, others.p(chi2, permuted), others.smallest_p, others.exact, len(blocks) > 1
    )
    return test, float(sooner)


def _chunks(labels: Labels, size: int) -> list[Labels]:
    size = max(size, 1)
    return [labels[start : start + size] for start in range(0, len(labels), size)]


def _statistics(labels: Labels, time: Array, observed: Array) -> tuple[Array, Array]:
    """χ² = (O − E)ᵀ V⁻¹ (O − E) without the last group's row and column, and the first group's O − E.

    Args:
        labels: ``(B, n)``, the group of each run in B arrangements; no group without runs.
        time: ``(n,)``, none before the first event.
        observed: ``(n,)``, 1 or 0.

    Returns:
        Two arrays ``(B,)``.
    """
    steps = np.unique(time[observed > 0])  # (m,)
    followed = (time[:, None] >= steps).astype(np.float64)  # (n, m)
    at_risk = followed.sum(axis=0)
    d = ((time[:, None] == steps) * observed[:, None]).sum(axis=0)
    groups = (labels[:, None, :] == np.arange(labels.max() + 1)[:, None]).astype(np.float64)  # (B, k, n)
    difference = groups @ (observed - followed @ (d / at_risk))  # (B, k)
    share = groups @ followed / at_risk  # (B, k, m)
    weight = np.divide(d * (at_risk - d), at_risk - 1, out=np.zeros(len(steps)), where=at_risk > 1)
    inner = (share * weight)[:, :-1]  # (B, k - 1, m)
    covariance = -inner @ share[:, :-1].swapaxes(1, 2)  # (B, k - 1, k - 1)
    diagonal = np.arange(covariance.shape[1])
    covariance[:, diagonal, diagonal] += inner.sum(axis=2)
    solved = np.linalg.solve(covariance, difference[:, :-1, None])[..., 0]
    return (difference[:, :-1] * solved).sum(axis=1), difference[:, 0]
