"""Any difference of a quantity among the values of a setting, tested by permutation within blocks.

A trend (:mod:`shoal.analysis.trends`) sees rises and falls alone; a quantity that is best in the middle has none. Here
the ranks within blocks are summed for each value of the setting, and the sums are compared with those of exchanged
runs. In complete blocks the statistic is Friedman's, of one block Kruskal and Wallis's, both corrected for ties; in
blocks of several sizes ranks count as shares of the block. Its p value is a share of arrangements, because its χ²
distribution is one of many runs.

Sources: Kruskal and Wallis 1952; Friedman 1937; for blocks of any shape Benard and van Elteren 1953, and Prentice 1979
for their weights; for the permutation :mod:`shoal.analysis.arrangements`.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from shoal.analysis.arrangements import Array, Labels, arrange
from shoal.analysis.blocks import Rows, comparable
from shoal.analysis.columns import Names, check_draws
from shoal.analysis.ranks import DRAWS, block_scores
from shoal.analysis.trends import usable


@dataclass(frozen=True)
class DifferenceEstimate:
    """Test that a quantity is the same at all values of a setting.

    Attributes:
        values: number of values of the setting among the compared runs.
        chi2: the statistic; None where nothing can be compared, or y takes one value in every block.
        p: share of the arrangements of runs within blocks with a statistic at least as large; None as for ``chi2``.
        smallest_p: the smallest p that these runs could have reached, however large the difference; None where nothing
            can be compared.
        exact: true where p counts all arrangements, false where it counts random ones.
        highest: the value of the setting at which y is highest, less the means of the blocks; None as for ``chi2``.
        lowest: the value at which it is lowest.
    """

    values: int
    chi2: float | None
    p: float | None
    smallest_p: float | None
    exact: bool
    highest: Any
    lowest: Any


def any_difference(
    frame: pl.DataFrame, x: str, y: str, unit: Names = "seed", within: Names = (), draws: int = DRAWS, seed: int = 0
) -> DifferenceEstimate:
    """Permutation test of any difference of ``y`` among the values of ``x``, among runs that agree in all else.

    Args:
        frame: one row per run.
        x: a setting of numbers.
        y: a quantity.
        unit: the columns in which runs that share a seed agree.
        within: the other settings that vary (:func:`shoal.analysis.blocks.crossed`).
        draws: number of random arrangements, where there are more than that in all.
        seed: seed of the random arrangements.

    Raises:
        UserError: a column is unknown.
    """
    check_draws("draws", draws, seed)
    runs = usable(frame, x, y, unit, within, log2=False)
    blocks = comparable(runs, x, unit, within).rows
    if not blocks:
        return DifferenceEstimate(0, None, None, None, False, None, None)
    runs = runs[np.concatenate(blocks)]
    ends = np.cumsum([len(rows) for rows in blocks])
    blocks = np.split(np.arange(len(runs)), ends[:-1])
    values, labels = np.unique(runs[x].to_numpy(), return_inverse=True)
    ys = runs[y].cast(pl.Float64).to_numpy()
    arrangements = arrange(labels, blocks, draws, seed)
    scores = block_scores(ys, blocks)
    if not scores.any():
        return DifferenceEstimate(len(values), None, None, arrangements.smallest_p, arrangements.exact, None, None)
    weights: Array = np.linalg.pinv(_covariance(scores, labels, blocks), hermitian=True).astype(np.float64)
    chi2 = _statistic(scores, labels[None, :], weights)
    p = arrangements.p(float(chi2[0]), _statistic(scores, arrangements.labels, weights))
    means = _means(ys, labels, blocks)
    highest, lowest = (values[place].item() for place in (np.argmax(means), np.argmin(means)))
    return DifferenceEstimate(
        len(values), float(chi2[0]), p, arrangements.smallest_p, arrangements.exact, highest, lowest
    )


def _statistic(scores: Array, labels: Labels, weights: Array) -> Array:
    """Quadratic form of the sums of the scores of each of k groups, ``(B,)``.

    Args:
        scores: ``(n,)``.
        labels: groups of the runs in each arrangement, ``(B, n)``.
        weights: generalised inverse of the sums' covariance, ``(k, k)``.
    """
    sums = np.stack([(labels == group) @ scores for group in range(len(weights))], axis=1)
    out: Array = np.einsum("bi,ij,bj->b", sums, weights, sums)
    return out


def _covariance(scores: Array, labels: Labels, blocks: list[Rows]) -> Array:
    """Covariance of the groups' sums where the runs of each block are exchanged, ``(k, k)``."""
    out = np.zeros((labels.max() + 1,) * 2)
    for rows in blocks:
        counts, n = np.bincount(labels[rows], minlength=len(out)), len(rows)
        variance = float(scores[rows] @ scores[rows]) / (n - 1)
        out += variance * (np.diag(counts) - np.outer(counts, counts) / n)
    return out


def _means(values: Array, labels: Labels, blocks: list[Rows]) -> Array:
    """Mean over the runs of each group of their values less the mean of their block, ``(k,)``."""
    centred = np.concatenate([values[rows] - values[rows].mean() for rows in blocks])
    return np.bincount(labels, centred) / np.bincount(labels)
