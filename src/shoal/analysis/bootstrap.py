"""Percentile intervals by refitting to resampled points.

Source: Efron and Tibshirani 1993, "An Introduction to the Bootstrap", sections 6 and 13.3. Whole clusters are drawn
where points belong to clusters (the seeds of one setting, the evaluations of one run), because points of one cluster
are not independent.
"""

import numpy as np
from numpy.typing import NDArray

from shoal.analysis.columns import is_integer
from shoal.analysis.power_sum import Array, PowerSum, one_thread
from shoal.errors import UserError

LEVEL = 0.95
_FEWEST, _MOST = 20, 100_000


def check_resampling(resamples: int, seed: int) -> None:
    """Refuse numbers of resamples and seeds that make no interval.

    Raises:
        UserError: ``resamples`` is not 0 (for no intervals) or from 20 to 100,000, or ``seed`` is negative.
    """
    if not is_integer(resamples) or (resamples != 0 and not _FEWEST <= resamples <= _MOST):
        raise UserError(f"resamples must be 0 or an integer from {_FEWEST} to {_MOST:,}, got {resamples!r:.60}")
    if not is_integer(seed) or seed < 0:
        raise UserError(f"seed must be an integer of at least 0, got {seed!r:.60}")


def resample_counts(clusters: NDArray[np.int64], resamples: int, seed: int) -> Array:
    """Number of times that each point is drawn in each resample.

    Args:
        clusters: ``(n,)``, the cluster of each point, numbered from 0.
        resamples: number of resamples.
        seed: seed of the draws.

    Returns:
        ``(resamples, n)``. As many clusters are drawn as there are.
    """
    generator = np.random.default_rng(seed)
    G = int(clusters.max()) + 1
    drawn = generator.integers(G, size=(resamples, G))
    counts = np.stack([np.bincount(row, minlength=G) for row in drawn]) if resamples else np.zeros((0, G))
    return counts[:, clusters].astype(np.float64)


def bootstrap(points: PowerSum, clusters: NDArray[np.int64], resamples: int, seed: int) -> Array:
    """Theta of each resample, ``(resamples, len(theta))``; each search starts from the estimate.

    Of one cluster there is none: it would be drawn as it is, and make an interval without a width.
    """
    counts = resample_counts(clusters, resamples if clusters.max() else 0, seed)
    with one_thread():
        thetas = [points.search(points.best, row)[1] for row in counts]
    return np.array(thetas).reshape(len(counts), len(points.best))


def interval(values: Array, level: float = LEVEL) -> tuple[float, float]:
    """Percentile interval: the ends of the middle ``level`` of the values; NaN where there are none."""
    if not len(values):
        return float("nan"), float("nan")
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2], method="inverted_cdf")
    return float(low), float(high)
