"""Tables of operators beside their formulas, and permutations of five elements beside sympy's."""

from itertools import permutations, product

import numpy as np
import pytest
from equations_by_hand import expected_equations, words
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.tasks.arithmetic.data import arithmetic_data
from shoal.tasks.arithmetic.equations import (
    CHAINED,
    COMPOSITIONS,
    FORMATS,
    MIXED,
    POLYNOMIALS,
)
from shoal.tasks.arithmetic.operators import PERMUTATIONS, invert, multiply

some = settings(max_examples=25, deadline=None)


@pytest.mark.parametrize("operator", [*CHAINED, MIXED, *POLYNOMIALS])
@pytest.mark.parametrize("p", [2, 7])
@pytest.mark.parametrize("is_symmetric", [False, True])
def test_the_table_of_an_operator_is_its_formula(operator, p, is_symmetric):
    for form in FORMATS:
        args = {"p": p, "q": p, "operator": operator, "operation_orders": 2, "is_symmetric": is_symmetric}
        data = arithmetic_data(**args, r_train=0.5, shuffle=False, equation_format=form)
        assert words(data) == expected_equations({**args, "equation_format": form})


@pytest.mark.parametrize("p", [3, 7, 11])
def test_the_quotients_of_the_grokking_literature(p):
    """``x / y`` for ``0 <= x < p``, ``0 < y < p``, each once."""
    expected = {f"{x} / {y} = {x * pow(y, -1, p) % p}" for x in range(p) for y in range(1, p)}
    found = words(arithmetic_data(p, p, "/", 0.5, equation_format="infix"))
    assert len(found) == len(expected) and set(found) == expected


@pytest.mark.parametrize("operator", COMPOSITIONS)
def test_compositions_move_five_elements_as_their_factors_do_in_turn(operator):
    elements = list(permutations(range(5)))
    inverse = {x: tuple(x.index(i) for i in range(5)) for x in elements}
    factors = {
        "s5:xy": lambda x, y: (x, y),
        "s5:xyx^-1": lambda x, y: (x, y, inverse[x]),
        "s5:xyx": lambda x, y: (x, y, x),
    }
    found = words(arithmetic_data(120, 120, operator, 0.5, shuffle=False, equation_format="operands"))
    expected = []
    for (a, x), (b, y) in product(enumerate(elements), repeat=2):
        moved = list(range(5))
        for factor in factors[operator](x, y):
            moved = [factor[place] for place in moved]
        expected.append(f"{a} {b} = {elements.index(tuple(moved))}")
    assert found == expected


NUMBER = st.integers(0, 119)


def times(x: int, y: int) -> int:
    return int(multiply(np.array([x]), np.array([y]))[0])


def over(x: int) -> int:
    return int(invert(np.array([x]))[0])


@some
@given(NUMBER, NUMBER, NUMBER)
def test_permutations_are_a_group(x, y, z):
    assert times(times(x, y), z) == times(x, times(y, z))
    assert times(x, 0) == x == times(0, x)
    assert times(x, over(x)) == 0 == times(over(x), x)
    assert over(times(x, y)) == times(over(y), over(x))


@some
@given(NUMBER, NUMBER)
def test_products_of_permutations_are_those_of_sympy(x, y):
    combinatorics = pytest.importorskip("sympy.combinatorics")
    first, second = (combinatorics.Permutation(PERMUTATIONS[n].tolist()) for n in (x, y))
    assert PERMUTATIONS[times(x, y)].tolist() == (first * second).array_form
    assert PERMUTATIONS[over(x)].tolist() == (first**-1).array_form


def test_a_table_of_products_is_a_latin_square_and_not_symmetric():
    every = np.arange(120)
    table = multiply(every.repeat(120), np.tile(every, 120)).reshape(120, 120)
    for square in (table, table.T):
        assert (np.sort(square, axis=1) == every).all()
    assert not np.array_equal(table, table.T)
