"""Linear threshold neurons, and the proof that a Boolean function has none.

Source: the deep learning course, problem 2, eq. (1): ``f(x) = 1 if wᵀx + b ≥ 0 else 0`` for ``x`` in ``{0, 1}ⁿ``.

A neuron for a truth table is a solution of one inequality per row: ``wᵀx + b ≥ 0`` where the table has 1, and
``wᵀx + b < 0`` where it has 0. They contradict each other exactly if there are *multipliers* y ≥ 0, one per row, with::

    Σ_{rows of 1} y (x, 1) = Σ_{rows of 0} y (x, 1)     and     Σ_{rows of 0} y > 0

(Motzkin's form of Farkas' lemma): the same sum would be ≥ 0 and < 0. A linear program proposes weights or multipliers;
what is returned was checked in exact fractions, so that nothing depends on the program's rounding.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import product

import numpy as np
import numpy.typing as npt
from scipy.optimize import linprog

from shoal.errors import UserError

Table = tuple[int, ...]
_LARGEST_DENOMINATOR = (
    10_000  # of weights and multipliers of a vertex; a determinant of up to 8 rows of 0 and 1 is < 60
)
_MOST_INPUTS = 7


@dataclass(frozen=True)
class ThresholdNeuron:
    """Linear threshold neuron ``f(x) = 1 if wᵀx + b ≥ 0 else 0``, computed exactly.

    Attributes:
        w: weights w, one per input; any numbers that are fractions exactly, as floats are.
        b: bias b.

    >>> [AND((x1, x2)) for x1 in (0, 1) for x2 in (0, 1)]
    [0, 0, 0, 1]
    """

    w: tuple[Fraction, ...]
    b: Fraction

    def __init__(self, w: Iterable[float | Fraction], b: float | Fraction) -> None:
        try:
            weights, bias = tuple(Fraction(weight) for weight in w), Fraction(b)
        except (TypeError, ValueError, OverflowError):
            raise UserError(f"weights {w!r} and bias {b!r}: each must be a finite number") from None
        object.__setattr__(self, "w", weights)
        object.__setattr__(self, "b", bias)

    def pre_activation(self, x: Sequence[float | Fraction]) -> Fraction:
        """wᵀx + b.

        Raises:
            UserError: there are not as many inputs as weights.
        """
        if len(x) != len(self.w):
            raise UserError(f"{len(x)} inputs for a neuron of {len(self.w)} weights")
        return sum((weight * Fraction(value) for weight, value in zip(self.w, x, strict=True)), self.b)

    def __call__(self, x: Sequence[float | Fraction]) -> int:
        return int(self.pre_activation(x) >= 0)

    def table(self) -> Table:
        """Values for all inputs of 0 and 1, in the order of :func:`inputs`."""
        return tuple(self(x) for x in inputs(len(self.w)))


AND = ThresholdNeuron((1, 1), -1.5)
OR = ThresholdNeuron((1, 1), -0.5)
NAND = ThresholdNeuron((-1, -1), 1.5)
XOR: Table = (0, 1, 1, 0)


@dataclass(frozen=True)
class Infeasible:
    """Proof that no threshold neuron computes a truth table.

    Attributes:
        table: the truth table, in the order of :func:`inputs`.
        multipliers: y, one per row of the table.
    """

    table: Table
    multipliers: tuple[Fraction, ...]

    def holds(self) -> bool:
        """Return True if the multipliers prove it, in exact arithmetic.

        They do if all are ≥ 0, both sides of the contradiction are the same linear form in w and b, and an inequality
        ``< 0`` takes part.
        """
        signed = [y if value else -y for y, value in zip(self.multipliers, self.table, strict=True)]
        rows = [(*x, 1) for x in inputs(_number_of_inputs(self.table))]
        sums = [sum(y * row[i] for y, row in zip(signed, rows, strict=True)) for i in range(len(rows[0]))]
        return min(self.multipliers) >= 0 and not any(sums) and any(y < 0 for y in signed)

    def contradiction(self) -> str:
        """The proof as one line of text: a sum of the inequalities that the neuron would satisfy.

        >>> certify(XOR).contradiction()
        '0 ≤ (w2 + b) + (w1 + b) = (b) + (w1 + w2 + b) < 0'
        """
        rows = zip(inputs(_number_of_inputs(self.table)), self.table, self.multipliers, strict=True)
        sides: tuple[list[str], list[str]] = ([], [])
        for x, value, y in rows:
            if y:
                terms = " + ".join([*(f"w{i}" for i, bit in enumerate(x, 1) if bit), "b"])
                sides[value].append(f"({terms})" if y == 1 else f"{y} ({terms})")
        return f"0 ≤ {' + '.join(sides[1]) or '0'} = {' + '.join(sides[0])} < 0"


def inputs(n: int) -> Iterator[Table]:
    """All inputs in ``{0, 1}ⁿ``, in the order of a truth table: 00, 01, 10, 11; the last input changes fastest."""
    return product((0, 1), repeat=n)


def certify(table: Sequence[int]) -> ThresholdNeuron | Infeasible:
    """Neuron that computes a truth table, or the proof that there is none; each is checked in exact fractions.

    Args:
        table: values for all inputs in the order of :func:`inputs`, 2ⁿ of them, n from 1 to 7.

    Raises:
        UserError: the table has another length, or a value that is not 0 or 1.
        ArithmeticError: the linear program's answer did not survive the exact check; none is known.

    >>> certify((0, 0, 0, 1)).table(), certify(XOR).multipliers == (1, 1, 1, 1)
    ((0, 0, 0, 1), True)
    """
    values = _checked(table)
    weights, multipliers = _linear_program(values)
    neuron = ThresholdNeuron(weights[:-1], weights[-1])
    if neuron.table() == values:
        return neuron
    proof = Infeasible(values, _as_integers(multipliers))
    if proof.holds():
        return proof
    raise ArithmeticError(f"neither weights nor multipliers for {values} survive the exact check")


def separable_functions(n: int) -> list[Table]:
    """Truth tables of n inputs that a threshold neuron computes; of all others :func:`certify` proves that none does.

    Args:
        n: number of inputs, from 1 to 4; for 4 it solves 65,536 linear programs in some minutes.

    Raises:
        UserError: n is another number.

    >>> [len(separable_functions(n)) for n in (1, 2)]
    [4, 14]
    """
    if n not in (1, 2, 3, 4):
        raise UserError(f"n is {n!r}: the Boolean functions of 1 to 4 inputs can be counted")
    tables = product((0, 1), repeat=2**n)
    return [table for table in tables if isinstance(certify(table), ThresholdNeuron)]


def _linear_program(table: Table) -> tuple[tuple[Fraction, ...], tuple[Fraction, ...]]:
    """Weights and bias, and multipliers, of which one should pass its check: solution and dual of one linear program.

    It maximises the margin t ≤ 1 of the rows of 0: ``−(wᵀx + b) ≤ 0`` for rows of 1 and ``wᵀx + b + t ≤ 0`` for rows
    of 0. The best t is 1 where there is a neuron, for w and b can be scaled, and else 0.
    """
    ones = np.array(table, dtype=bool)
    rows = np.array([(*x, 1) for x in inputs(_number_of_inputs(table))], dtype=float)  # (2ⁿ, n + 1)
    left = np.column_stack([np.where(ones[:, None], -rows, rows), ~ones])  # of w, b and t
    limits = [(None, None)] * rows.shape[1] + [(None, 1)]
    goal = np.eye(left.shape[1])[-1]
    result = linprog(-goal, A_ub=left, b_ub=np.zeros(len(left)), bounds=limits, method="highs-ds")
    if result.status != 0:  # it is bounded, and 0 is a solution
        raise ArithmeticError(f"the linear program for {table} ended with: {result.message}")
    return _fractions(result.x[:-1]), _fractions(-result.ineqlin.marginals)


def _fractions(values: npt.NDArray[np.float64]) -> tuple[Fraction, ...]:
    return tuple(Fraction(float(value)).limit_denominator(_LARGEST_DENOMINATOR) for value in values)


def _as_integers(multipliers: tuple[Fraction, ...]) -> tuple[Fraction, ...]:
    """Multipliers scaled to the smallest integers of the same ratios."""
    common = np.lcm.reduce([y.denominator for y in multipliers])
    largest = np.gcd.reduce([int(y * int(common)) for y in multipliers]) or 1
    return tuple(y * int(common) / int(largest) for y in multipliers)


def _checked(table: Sequence[int]) -> Table:
    values = tuple(table)
    _number_of_inputs(values)
    for row, value in enumerate(values):
        if value not in (0, 1):
            raise UserError(f"row {row} of the truth table is {value!r}: a value is 0 or 1")
    return tuple(int(value) for value in values)


def _number_of_inputs(table: Sequence[int]) -> int:
    n = len(table).bit_length() - 1
    if len(table) != 2**n or not 1 <= n <= _MOST_INPUTS:
        raise UserError(f"a truth table of {len(table)} rows: it has 2ⁿ, for n from 1 to {_MOST_INPUTS} inputs")
    return n
