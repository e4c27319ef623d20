"""Correlation of ranks within blocks, and its permutation test.

Only runs of one block are compared (:mod:`shoal.analysis.blocks`): values are ranked within it, and the test permutes
them within it. In blocks of one size it is Page's test; in blocks of several, ranks count as shares of the block, after
van Elteren; of one block it is Spearman's.

Sources: Spearman 1904; van Elteren 1960, *On the combination of independent two-sample tests of Wilcoxon*; Page 1963,
*Ordered hypotheses for multiple treatments*; for p values from random permutations Phipson and Smyth 2010.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from shoal.analysis.arrangements import count_orders, orders
from shoal.analysis.blocks import Rows

Array = NDArray[np.float64]
Scores = tuple[float, ...]

DRAWS = 10_000
_MOST_ORDERS = 400_000  # of the values of a block, that are counted: all of 9
_MOST_SUMS = 2_000_000  # of two blocks, that are counted


def rank_correlation(x: Array, y: Array, blocks: Sequence[Rows]) -> float | None:
    """Correlation of the ranks of x and y within blocks, ``(n,)`` each; None where x or y varies in no block.

    With a single block it is Spearman's correlation.
    """
    a, b = block_scores(x, blocks), block_scores(y, blocks)
    spread = float(np.sqrt((a @ a) * (b @ b)))
    # ranks that cancel leave a rounding error, which is no trend: 12 digits, and no negative 0
    return float(np.clip(np.round(a @ b / spread, 12), -1, 1)) + 0.0 if spread > 0 else None


def permutation_p(x: Array, y: Array, blocks: Sequence[Rows], draws: int, seed: int) -> tuple[float, float, bool]:
    """Permutation p value of the rank correlation, the smallest that it can be, and true where it is exact.

    The p value is the share of permutations within blocks whose correlation is at least as far from 0. It is exact
    where all permutations are counted; else the observed one and random ones are.
    """
    a, b = block_scores(x, blocks), block_scores(y, blocks)
    seen = abs(a @ b) - 1e-9  # equal sums differ by rounding
    scores = sorted(((tuple(sorted(a[rows])), tuple(sorted(b[rows]))) for rows in blocks), key=lambda s: (len(s[0]), s))
    counted = _all_sums(scores)
    if counted is not None:
        far, share = np.abs(counted[0]), counted[1]
        p, smallest = (min(float(share[far >= least].sum()), 1.0) for least in (seen, far.max() - 1e-9))
        return p, smallest, True
    rng, total = np.random.default_rng(seed), np.zeros(draws)
    for first, second in scores:
        total += rng.permuted(np.tile(second, (draws, 1)), axis=1) @ np.array(first)
    return (int((np.abs(total) >= seen).sum()) + 1) / (draws + 1), 1 / (draws + 1), False


def block_scores(values: Array, blocks: Sequence[Rows]) -> Array:
    """Centred ranks of the values within their blocks, over one more than the block's size; 0 outside all blocks."""
    out = np.zeros(len(values))
    for rows in blocks:
        ranks = stats.rankdata(values[rows])
        out[rows] = (ranks - ranks.mean()) / (len(rows) + 1)
    return out


def _all_sums(blocks: Sequence[tuple[Scores, Scores]]) -> tuple[Array, Array] | None:
    """All sums of products that permuting the second scores within blocks gives, and the share of permutations that
    give each; None where there are too many.
    """
    kinds = dict.fromkeys(blocks)  # blocks without ties are all alike
    ties = {scores: np.unique(scores[1], return_inverse=True) for scores in kinds}
    counts = {scores: np.bincount(labels) for scores, (_, labels) in ties.items()}
    if sum(count_orders(tied.tolist()) for tied in counts.values()) > _MOST_ORDERS:
        return None
    products = {}
    for scores, (values, _) in ties.items():
        sums = values[orders(counts[scores])] @ np.array(scores[0])
        products[scores] = _gathered(sums, np.full(len(sums), 1 / len(sums)))
    distribution = np.zeros(1), np.ones(1)
    for scores in blocks:
        block_sums, share = products[scores]
        if len(distribution[0]) * len(block_sums) > _MOST_SUMS:
            return None
        distribution = _gathered(
            np.add.outer(distribution[0], block_sums).ravel(), np.multiply.outer(distribution[1], share).ravel()
        )
    return distribution


def _gathered(sums: Array, share: Array) -> tuple[Array, Array]:
    """Distinct sums, each with its whole share; equal ones differ by rounding."""
    _, first, place = np.unique(np.round(sums, 9), return_index=True, return_inverse=True)
    return sums[first], np.bincount(place, share).astype(np.float64)
