"""The rules of modular equations, without tensors: what exists, how many there are, and what is refused."""

import itertools
import math
from collections.abc import Sequence

from shoal.errors import UserError, nearest

OPERATORS = ("+", "-", "*", "/")
FORMATS = ("full", "infix", "operands")
ORDERS = (2, 3)


def check_arithmetic(p: int, q: int, operator: str, r_train: float, orders: Sequence[int]) -> None:
    """Raise :class:`UserError` for a setting that has no meaning."""
    for name, value in (("p", p), ("q", q)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 2:
            raise UserError(f"{name} must be an integer of at least 2, got {value!r}")
    if operator not in OPERATORS:
        raise UserError(
            f"operator must be one of {' '.join(OPERATORS)}, got {operator!r}{nearest(operator, OPERATORS)}"
        )
    for name, value in (("p", p), ("q", q)):
        if operator == "/" and not _is_prime(value):
            raise UserError(
                f"division needs a prime {name}, got {name}={value}; the nearest is {_nearest_prime(value)}"
            )
    if not 0 < r_train <= 1:
        raise UserError(f"r_train must be in (0, 1], got {r_train}")
    if not orders or any(order not in ORDERS for order in orders) or len(set(orders)) != len(orders):
        raise UserError(f"operation_orders must be 2, 3 or both, got {list(orders)}")


def split_sizes(
    p: int, operator: str, r_train: float, orders: Sequence[int], is_symmetric: bool = False, per_order: bool = False
) -> tuple[int, int]:
    """Number of training and validation equations, without building them."""
    counts = [count_equations(p, operator, order, is_symmetric) for order in sorted(orders)]
    parts = counts if per_order else [sum(counts)]
    n_train = sum(round(part * r_train) for part in parts)
    return n_train, sum(counts) - n_train


def count_equations(p: int, operator: str, order: int, is_symmetric: bool) -> int:
    """Number of equations of one order."""
    first_divisor = 1 if operator == "/" else 0
    if not is_symmetric:
        return int(p * (p - first_divisor) ** (order - 1))
    # a <= b (<= c), where a may be 0 but the others start at first_divisor
    free = math.comb(p - first_divisor + order - 1, order)
    with_zero = math.comb(p - first_divisor + order - 2, order - 1) if first_divisor else 0
    return free + with_zero


def _is_prime(n: int) -> bool:
    return n >= 2 and all(n % divisor for divisor in range(2, math.isqrt(n) + 1))


def _nearest_prime(n: int) -> int:
    return next(m for gap in itertools.count(1) for m in (n - gap, n + gap) if _is_prime(m))
