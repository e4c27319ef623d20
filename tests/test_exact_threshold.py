"""Threshold neurons: the document's tables, proofs checked without the code that made them, counts by enumeration."""

from fractions import Fraction
from itertools import product

import numpy as np
import pytest

from shoal.errors import UserError
from shoal.exact import AND, NAND, OR, XOR, Infeasible, ThresholdNeuron, certify, inputs, separable_functions

XNOR = (1, 0, 0, 1)


def enumerated(n, largest):
    """Truth tables of all neurons with integer weights up to a size, the bias between integers: no linear program."""
    x = np.array(list(product((0, 1), repeat=n)))
    w = np.array(list(product(range(-largest, largest + 1), repeat=n)))
    thresholds = np.arange(-n * largest, n * largest + 2) - 0.5
    return set(map(tuple, (x @ w.T[None] >= thresholds[:, None, None]).swapaxes(1, 2).reshape(-1, 2**n).astype(int)))


def contradicts(table, multipliers):
    """Farkas' lemma in integers, written apart: y ≥ 0, yᵀA = 0 and yᵀc < 0 for the inequalities A v ≤ c."""
    rows = [(*map(int, f"{i:0{len(table).bit_length() - 1}b}"), 1) for i in range(len(table))]
    A = [[-a for a in row] if value else list(row) for row, value in zip(rows, table, strict=True)]
    c = [0 if value else -1 for value in table]  # wᵀx + b < 0 can be scaled to ≤ −1
    y = list(multipliers)
    assert all(isinstance(value, Fraction | int) for value in y)
    sums = [sum(value * row[k] for value, row in zip(y, A, strict=True)) for k in range(len(A[0]))]
    return min(y) >= 0 and not any(sums) and sum(value * bound for value, bound in zip(y, c, strict=True)) < 0


def test_the_documents_neurons():
    assert (AND.w, AND.b) == ((1, 1), Fraction(-3, 2)) and (OR.w, OR.b) == ((1, 1), Fraction(-1, 2))
    for x1, x2 in product((0, 1), repeat=2):
        assert AND((x1, x2)) == (x1 and x2)
        assert OR((x1, x2)) == (x1 or x2)
        assert NAND((x1, x2)) == 1 - (x1 and x2)
        assert AND((OR((x1, x2)), NAND((x1, x2)))) == XOR[2 * x1 + x2] == x1 ^ x2  # two layers do what one cannot


def test_a_neuron_fires_at_zero():
    """Eq. (1) has ≥; the σ of eq. (8) has >."""
    neuron = ThresholdNeuron((0.1, 0.2), -0.1)
    assert neuron((1, 0)) == 1 and neuron((0, 0)) == 0
    assert ThresholdNeuron((0.1, 0.2), -0.3)((1, 1)) == 1  # 0.1 + 0.2 > 0.3 as these floats are, exactly


def test_xor_has_no_neuron():
    proof = certify(XOR)
    assert isinstance(proof, Infeasible) and proof.multipliers == (1, 1, 1, 1)
    assert proof.holds() and contradicts(XOR, proof.multipliers)
    assert not enumerated(2, 6) & {XOR, XNOR}
    agreements = [sum(map(int.__eq__, table, XOR)) for table in separable_functions(2)]
    assert max(agreements) == 3


@pytest.mark.parametrize("multipliers", [(1, 1, 1, 0), (0, 0, 0, 0), (-1, -1, -1, -1), (1, 2, 1, 1)])
def test_other_multipliers_prove_nothing(multipliers):
    assert not Infeasible(XOR, tuple(map(Fraction, multipliers))).holds()
    assert not contradicts(XOR, multipliers)


def test_a_proof_needs_a_strict_inequality():
    """Rows of 1 alone can always be satisfied, by a large bias."""
    assert not Infeasible((1, 1), (Fraction(0), Fraction(0))).holds()
    assert isinstance(certify((1, 1)), ThresholdNeuron)


@pytest.mark.parametrize(("n", "count"), [(1, 4), (2, 14), (3, 104)])
def test_every_function_has_a_neuron_or_a_proof(n, count):
    known = enumerated(n, 2)
    assert len(known) == count
    found = set()
    for table in product((0, 1), repeat=2**n):
        result = certify(table)
        if isinstance(result, ThresholdNeuron):
            values = [sum(w * x for w, x in zip(result.w, row, strict=True)) + result.b >= 0 for row in inputs(n)]
            assert tuple(map(int, values)) == table
            found.add(table)
        else:
            assert contradicts(table, result.multipliers)
    assert found == known


def test_separable_functions_of_two_inputs():
    assert set(product((0, 1), repeat=4)) - set(separable_functions(2)) == {XOR, XNOR}


def test_some_functions_of_four_inputs():
    known = enumerated(4, 3)
    assert len(known) == 1882
    generator = np.random.default_rng(0)
    tables = [tuple(generator.integers(0, 2, 16).tolist()) for _ in range(30)]
    tables += [sorted(known)[i] for i in generator.integers(0, 1882, 30)]
    for table in tables:
        assert isinstance(certify(table), ThresholdNeuron) == (tuple(table) in known)


@pytest.mark.slow
def test_all_functions_of_four_inputs():
    assert set(separable_functions(4)) == enumerated(4, 3)


@pytest.mark.parametrize("table", [(), (1,), (0, 1, 1), (0, 1, 1, 2), (0.5, 1), ("0", "1"), (0,) * 256])
def test_what_is_no_table(table):
    with pytest.raises(UserError):
        certify(table)


@pytest.mark.parametrize(
    "call",
    [
        lambda: separable_functions(0),
        lambda: separable_functions(5),
        lambda: AND((1, 1, 1)),
        lambda: ThresholdNeuron((float("nan"),), 0),
        lambda: ThresholdNeuron((1,), float("inf")),
        lambda: ThresholdNeuron(("one",), 0),
    ],
)
def test_mistakes_are_one_line(call):
    with pytest.raises(UserError) as raised:
        call()
    assert "\n" not in str(raised.value)
