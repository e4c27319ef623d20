"""Arrangements of group labels over runs, which a permutation test counts: all of them or a random sample.

Where no run would have fared otherwise under another group's label, every arrangement of the labels is as likely as
the one that is seen, however few the runs. Labels change places only among runs of one block
(:mod:`shoal.analysis.blocks`): the effect of its seed and its other settings is then the same in every arrangement.

Sources: Fisher 1935; for p values from random arrangements Phipson and Smyth 2010, *Permutation P-values should never
be zero*.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Labels = NDArray[np.int64]


@dataclass(frozen=True)
class Arrangements:
    """Arrangements of group labels over the runs, all of them or a random sample.

    Attributes:
        labels: ``(B, n)``, one arrangement a row.
        exact: true where these are all arrangements, up to exchanging the names of the groups, which no statistic
            may depend on; false for a random sample.
        smallest_p: the smallest possible p value: exchanging the names of groups of equal sizes changes nothing.
    """

    labels: Labels
    exact: bool
    smallest_p: float

    def p(self, seen: float, permuted: Array) -> float:
        """Permutation p value: share of arrangements whose statistic, ``(B,)``, is at least the ``seen`` one."""
        extreme = int((permuted >= seen - 1e-8 * (1 + abs(seen))).sum())  # equal ones differ by rounding
        return extreme / len(permuted) if self.exact else (1 + extreme) / (1 + len(permuted))


def arrange(labels: Labels, blocks: list[Labels], draws: int, seed: int) -> Arrangements:
    """Arrangements of the labels within blocks: all of them where there are at most ``draws``, else a random sample.

    Args:
        labels: ``(n,)``, the group of each run, numbered from 0 without gaps.
        blocks: indices of runs; together all of them (a run that must stay is a block of its own).
        draws: number of arrangements to look at.
        seed: seed of the random sample.
    """
    counts = np.array([np.bincount(labels[block], minlength=labels.max() + 1) for block in blocks])  # (blocks, k)
    number = math.prod(count_orders(row) for row in counts.tolist())
    alike = math.prod(math.factorial(n) for n in Counter(map(tuple, counts.T.tolist())).values())
    # where each block holds every label once, the first may stay as it is: the rest is exchanging names
    free = slice(1 if (counts == 1).all() else 0, None)
    if math.prod(count_orders(row) for row in counts[free].tolist()) <= draws:
        arrangements = labels[None, :]
        for block, row in zip(blocks[free], counts[free], strict=True):
            ways = orders(row)
            arrangements = np.repeat(arrangements, len(ways), axis=0)
            arrangements[:, block] = np.tile(ways, (len(arrangements) // len(ways), 1))
        return Arrangements(arrangements, True, alike / number)
    generator = np.random.default_rng(seed)
    drawn = np.tile(labels, (draws, 1))
    for block in blocks:
        drawn[:, block] = generator.permuted(drawn[:, block], axis=1)
    return Arrangements(drawn, False, max(alike / number, 1 / (1 + draws)))


def count_orders(counts: Sequence[int]) -> int:
    """Number of distinct orders of labels, given the number of each."""
    return math.factorial(sum(counts)) // math.prod(math.factorial(n) for n in counts)


def orders(counts: Labels) -> Labels:
    """All distinct orders of labels, given the number of each, ``(orders, n)``."""
    rows_so_far, left = np.zeros((1, 0), dtype=np.int64), counts[None, :]
    for _ in range(int(counts.sum())):
        rows, label = np.nonzero(left)
        rows_so_far = np.column_stack([rows_so_far[rows], label])
        left = left[rows]
        left[np.arange(len(rows)), label] -= 1
    return rows_so_far
