"""Corrections of p values for the number of tests."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Self

from shoal.analysis.columns import is_number
from shoal.errors import UserError


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's correction of p values: rejecting those below α keeps the chance of any false rejection below α.

    The i-th smallest of m is multiplied by m − i + 1, and none may fall below a smaller one's. A p value that is
    None was never computed: it stays None and is not counted.

    Raises:
        UserError: a p value is not from 0 to 1.

    Source: Holm 1979, *A simple sequentially rejective multiple test procedure*.

    >>> holm([0.01, None, 0.04, 0.03])
    [0.03, None, 0.06, 0.06]
    """
    if not isinstance(p_values, Iterable):
        raise UserError(f"p values must be a list of numbers, got {p_values!r:.60}")
    p_values = list(p_values)
    for p in p_values:
        if p is not None and (not is_number(p) or not 0 <= p <= 1):
            raise UserError(f"a p value must be a number from 0 to 1, or None, got {p!r:.60}")
    known = sorted((float(p), index) for index, p in enumerate(p_values) if p is not None)
    out: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for place, (p, index) in enumerate(known):
        out[index] = largest = min(max(largest, p * (len(known) - place)), 1.0)
    return out


def shaffer(p_values: Sequence[float | None], groups: int) -> list[float | None]:
    """Shaffer's correction of the p values of all pairs of groups, after a significant test of all groups at once.

    Of three groups no single pair can be the only one that differs, so that not every number of pairs can be equal.
    The i-th smallest p value is multiplied by the largest number of pairs that can be equal while i − 1 are not, and
    the groups are not all equal; no corrected value may fall below that of a smaller p. Never larger than Holm's, and
    with three groups each p value stays as it is. A p value that is None was never computed: it stays None.

    Source: Shaffer 1986, *Modified sequentially rejective multiple test procedures*, procedure S1 after a test of all.

    >>> shaffer([0.01, 0.04, 0.03], groups=3)
    [0.01, 0.04, 0.03]
    >>> [shaffer([p] * 6, groups=4)[0] for p in (0.01, 0.03)]
    [0.03, 0.09]
    """
    possible = sorted(_equal_pairs(groups) - {len(p_values)}) or [1]
    known = sorted((p, index) for index, p in enumerate(p_values) if p is not None)
    out: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for place, (p, index) in enumerate(known):
        equal = max((n for n in possible if n <= len(p_values) - place), default=1)
        largest = max(largest, min(p * max(equal, 1), 1.0))
        out[index] = largest
    return out


@cache
def _equal_pairs(groups: int) -> frozenset[int]:
    """Numbers of pairs that can be equal at once, among all pairs of ``groups`` groups."""
    if groups < 2:
        return frozenset({0})
    sizes = range(1, groups + 1)
    return frozenset(size * (size - 1) // 2 + rest for size in sizes for rest in _equal_pairs(groups - size))


@dataclass(frozen=True)
class Family:
    """Family of tests whose p values are corrected together.

    Attributes:
        p: p value of each test, None where there was nothing to test.
        corrected: the p values after Holm's correction for ``tests``.
        tests: number of tests that have a p value.
        floor: smallest corrected p value that these runs could have reached; None without tests.
    """

    p: tuple[float | None, ...]
    corrected: tuple[float | None, ...]
    tests: int
    floor: float | None

    @classmethod
    def of(cls, p: Sequence[float | None], smallest: Sequence[float | None] = ()) -> Self:
        """Family of these p values; ``smallest`` are the smallest that each test could have reached."""
        tests = sum(value is not None for value in p)
        attainable = [value for value in smallest if value is not None]
        floor = min(1.0, tests * min(attainable, default=0.0)) if tests else None
        return cls(tuple(p), tuple(holm(p)), tests, floor)
