"""Arrangements of group labels over runs: what a permutation test counts, all of them or a random sample.

Where no run would have fared otherwise under another group's label, every arrangement of the labels is as likely as
the one that is seen, however few the runs. Where the groups share seeds, labels change places only among runs of one
seed: what a seed brings is then the same in every arrangement.

Sources: Fisher 1935; for p values from random arrangements Phipson and Smyth 2010, *Permutation P-values should never
be zero*.
"""

import math
from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Labels = NDArray[np.int64]


@dataclass(frozen=True)
class Arrangements:
    """Labels in other places.

    Attributes:
        labels: ``(B, n)``, one arrangement a row.
        exact: whether these are all there are, up to exchanging the names of the groups, which no statistic of theirs
            may depend on.
        smallest_p: no p value can be below this: exchanging the names of groups that are alike changes nothing.
    """

    labels: Labels
    exact: bool
    smallest_p: float

    def p(self, seen: float, permuted: Array) -> float:
        """Share of arrangements whose statistic, ``(B,)``, is at least the one that was ``seen``."""
        extreme = int((permuted >= seen - 1e-8 * (1 + abs(seen))).sum())  # equal ones differ by rounding
        return extreme / len(permuted) if self.exact else (1 + extreme) / (1 + len(permuted))


def split_blocks(labels: Labels, values: Labels | None) -> list[Labels]:
    """The runs within which labels may change places.

    Args:
        labels: ``(n,)``, the group of each run, numbered from 0.
        values: ``(n,)``, what runs may share across groups, such as their seed.

    Returns:
        The indices of the runs of each value, where every group has every value equally often; else all runs in one.
    """
    if values is None:
        return [np.arange(len(labels))]
    table = np.zeros((values.max(initial=0) + 1, labels.max(initial=0) + 1), dtype=np.int64)
    np.add.at(table, (values, labels), 1)
    table = table[table.any(axis=1)]
    if len(table) < 2 or (table != table[:, :1]).any():
        return [np.arange(len(labels))]
    return [np.flatnonzero(values == value) for value in np.unique(values)]


def arrange(labels: Labels, blocks: list[Labels], draws: int, seed: int) -> Arrangements:
    """All arrangements of the labels within blocks where there are at most ``draws``, else so many random ones.

    Args:
        labels: ``(n,)``, the group of each run, numbered from 0 without gaps.
        blocks: indices of runs; together all of them.
        draws: how many arrangements to look at.
        seed: of random ones.
    """
    counts = np.array([np.bincount(labels[block], minlength=labels.max() + 1) for block in blocks])  # (blocks, k)
    number = math.prod(_multinomial(row) for row in counts.tolist())
    alike = math.prod(math.factorial(n) for n in Counter(map(tuple, counts.T.tolist())).values())
    # where each block holds every label once, the first may stay as it is: the rest is exchanging names
    free = slice(1 if (counts == 1).all() else 0, None)
    if math.prod(_multinomial(row) for row in counts[free].tolist()) <= draws:
        found = labels[None, :]
        for block, row in zip(blocks[free], counts[free], strict=True):
            ways = _ways(row)
            found = np.repeat(found, len(ways), axis=0)
            found[:, block] = np.tile(ways, (len(found) // len(ways), 1))
        return Arrangements(found, True, alike / number)
    generator = np.random.default_rng(seed)
    drawn = np.tile(labels, (draws, 1))
    for block in blocks:
        drawn[:, block] = generator.permuted(drawn[:, block], axis=1)
    return Arrangements(drawn, False, max(alike / number, 1 / (1 + draws)))


def _multinomial(counts: list[int]) -> int:
    return math.factorial(sum(counts)) // math.prod(math.factorial(n) for n in counts)


def _ways(counts: Labels) -> Labels:
    """Every distinct order of labels of which there are so many each, ``(ways, n)``."""
    orders, left = np.zeros((1, 0), dtype=np.int64), counts[None, :]
    for _ in range(int(counts.sum())):
        rows, label = np.nonzero(left)
        orders = np.column_stack([orders[rows], label])
        left = left[rows]
        left[np.arange(len(rows)), label] -= 1
    return orders
