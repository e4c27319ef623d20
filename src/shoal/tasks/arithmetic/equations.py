"""Rules of equations, without tensors: which exist, their formats, their numbers, and the settings that are refused."""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from shoal.errors import UserError, nearest

CHAINED = ("+", "-", "*", "/")  # of two or three operands: a o b o c
MIXED = "x/y_or_x-y"
POLYNOMIALS = ("x^2+y^2", "x^2+xy+y^2", "x^2+xy+y^2+x", "x^3+xy", "x^3+xy^2+y")
COMPOSITIONS = ("s5:xy", "s5:xyx^-1", "s5:xyx")
OPERATORS = (*CHAINED, MIXED, *POLYNOMIALS, *COMPOSITIONS)
ORDERS = (2, 3)
SHUFFLES = ("numpy", "python")  # generators that shuffle the equations before the split
ZEROS = ("any", "first", "none")  # operands that may be 0
S5_SIZE = 120  # permutations of five elements
BOS, EOS, EQ, PAD = "BOS", "EOS", "=", "PAD"


@dataclass(frozen=True)
class Format:
    """Format in which equations are written.

    Attributes:
        has_operators: the operator stands between operands.
        begin: token before the equation, where ``EOS`` stands after it; None where neither is written.
    """

    has_operators: bool
    begin: str | None = None

    @property
    def has_ends(self) -> bool:
        """Return True if the equation stands between two tokens."""
        return self.begin is not None

    @property
    def first(self) -> int:
        """Position of the first operand."""
        return int(self.has_ends)

    @property
    def stride(self) -> int:
        """Positions from one operand to the next."""
        return 1 + self.has_operators

    def equality(self, order: int) -> int:
        """Position of ``=`` among the tokens of an equation of ``order`` operands; the result follows."""
        return self.first + self.stride * (order - 1) + 1

    def length(self, order: int) -> int:
        """Tokens of an equation of ``order`` operands."""
        return self.equality(order) + 2 + self.has_ends


FORMATS: Mapping[str, Format] = MappingProxyType(
    {
        "full": Format(has_operators=True, begin=BOS),
        "eos": Format(has_operators=True, begin=EOS),
        "infix": Format(has_operators=True),
        "operands": Format(has_operators=False),
    }
)


def special_tokens(operator: str, orders: Sequence[int], equation_format: str) -> list[str]:
    """Tokens of a vocabulary after its numbers; without ``BOS``, ``PAD`` only where lengths differ.

    >>> special_tokens("+", [2], "full"), special_tokens("+", [2], "operands"), special_tokens("+", [2, 3], "infix")
    (['+', '=', 'BOS', 'EOS', 'PAD'], ['='], ['+', '=', 'PAD'])
    """
    form = FORMATS[equation_format]
    ends = [] if form.begin is None else list(dict.fromkeys([form.begin, EOS]))
    padding = [PAD] if form.begin == BOS or len(orders) > 1 else []
    return [*([operator] if form.has_operators else []), EQ, *ends, *padding]


def count_tokens(
    p: int, q: int, operator: str, orders: Sequence[int], equation_format: str, unused_tokens: int = 0
) -> int:
    """Size of the vocabulary."""
    return max(p, q) + len(special_tokens(operator, orders, equation_format)) + unused_tokens


def padding_index(p: int, q: int, operator: str, orders: Sequence[int], equation_format: str) -> int | None:
    """Index of ``PAD``, where the vocabulary has it.

    >>> padding_index(7, 7, "+", [2], "full"), padding_index(7, 7, "+", [2], "operands")
    (11, None)
    """
    special = special_tokens(operator, orders, equation_format)
    return max(p, q) + special.index(PAD) if PAD in special else None


def sequence_length(orders: Sequence[int], equation_format: str) -> int:
    """Number of tokens that a model reads, ``S``: those of the longest equation but its last."""
    return FORMATS[equation_format].length(max(orders)) - 1


def check_arithmetic(
    p: int,
    q: int,
    operator: str,
    r_train: float,
    orders: Sequence[int],
    is_symmetric: bool = False,
    equation_format: str = "full",
    zero_operands: str = "any",
    split_shuffle: str = "numpy",
) -> None:
    """Raise :class:`UserError` for settings outside their range, or that do not go together."""
    for name, value in (("p", p), ("q", q)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 2:
            raise UserError(f"{name} must be an integer of at least 2, got {value!r}")
    _check_name("operator", operator, OPERATORS)
    _check_name("equation_format", equation_format, tuple(FORMATS))
    _check_name("zero_operands", zero_operands, ZEROS)
    _check_name("split_shuffle", split_shuffle, SHUFFLES)
    if not 0 < r_train <= 1:
        raise UserError(f"r_train must be in (0, 1], got {r_train}")
    if not orders or any(order not in ORDERS for order in orders) or len(set(orders)) != len(orders):
        raise UserError(f"operation_orders must be 2, 3 or both, got {list(orders)}")
    if operator not in CHAINED and 3 in orders:
        given = ",".join(map(str, orders))
        raise UserError(f"operator {operator!r} takes two operands: operation_orders must be 2, got {given}")
    _check_moduli(p, q, operator)
    if operator in COMPOSITIONS and is_symmetric:
        raise UserError(f"is_symmetric does not apply to operator {operator!r}: permutations do not commute")
    if operator in COMPOSITIONS and zero_operands != "any":
        raise UserError(f"zero_operands={zero_operands} does not apply to operator {operator!r}: no permutation is 0")
    if operator == "/" and zero_operands == "first":
        raise UserError("zero_operands=first does not apply to operator '/', whose divisors are never 0")


def is_ambiguous(p: int, q: int, operator: str) -> bool:
    """Return True if some left side has several answers, so that equations contradict each other.

    A quotient is found from ``a = b c mod q``: quotients that differ by ``q`` give the same ``a``. Every other result
    is computed from its left side.
    """
    return operator == "/" and q < p


def check_answers(p: int, q: int, operator: str) -> None:
    """Raise :class:`UserError` where a left side has several answers, which no model could tell apart."""
    if is_ambiguous(p, q, operator):
        raise UserError(
            f"division needs q of at least p, got q={q} and p={p}: 0 / 1 would be 0 and {q}; the nearest is {p}"
        )


def _check_name(setting: str, name: str, known: Sequence[str]) -> None:
    if name not in known:
        raise UserError(f"{setting} must be one of {' '.join(known)}, got {name!r}{nearest(name, known)}")


def _check_moduli(p: int, q: int, operator: str) -> None:
    for name, value in (("p", p), ("q", q)):
        if operator in ("/", MIXED) and not _is_prime(value):
            raise UserError(
                f"division needs a prime {name}, got {name}={value}; the nearest is {_nearest_primes(value)}"
            )
        if operator in COMPOSITIONS and value != S5_SIZE:
            raise UserError(
                f"operator {operator!r} acts on the {S5_SIZE} permutations of five elements and needs "
                f"{name}={S5_SIZE}, got {name}={value}"
            )
    if operator == MIXED and q != p:
        raise UserError(f"operator {operator!r} needs q equal to p, got q={q} and p={p}")


def split_sizes(
    p: int,
    operator: str,
    r_train: float,
    orders: Sequence[int],
    is_symmetric: bool = False,
    per_order: bool = False,
    zero_operands: str = "any",
) -> tuple[int, int]:
    """Number of training and validation equations, without building them."""
    counts = [count_equations(p, operator, order, is_symmetric, zero_operands) for order in sorted(orders)]
    parts = counts if per_order else [sum(counts)]
    n_train = sum(round(part * r_train) for part in parts)
    return n_train, sum(counts) - n_train


def smallest_operands(operator: str, zero_operands: str) -> tuple[int, int]:
    """Smallest first operand, and smallest other operand; of a division, smallest quotient and divisor.

    >>> smallest_operands("/", "any"), smallest_operands("*", "first"), smallest_operands("*", "none")
    ((0, 1), (0, 1), (1, 1))
    """
    return int(zero_operands == "none"), int(operator == "/" or zero_operands != "any")


def count_equations(p: int, operator: str, order: int, is_symmetric: bool, zero_operands: str = "any") -> int:
    """Number of equations of one order."""
    first, other = smallest_operands(operator, zero_operands)
    if not is_symmetric:
        return int((p - first) * (p - other) ** (order - 1))
    # a <= b (<= c), where a may be 0 though the others start at 1
    free = math.comb(p - other + order - 1, order)
    with_zero = math.comb(p - other + order - 2, order - 1) if first < other else 0
    return free + with_zero


def _is_prime(n: int) -> bool:
    return n >= 2 and all(n % divisor for divisor in range(2, math.isqrt(n) + 1))


def _nearest_primes(n: int) -> str:
    """The prime next to a number, or both where two are as near: ``3 or 5``."""
    by_distance = ([m for m in (n - gap, n + gap) if _is_prime(m)] for gap in itertools.count(1))
    return " or ".join(map(str, next(filter(None, by_distance))))
