"""Operators of equations: the result of each for given operands.

Sources: the practical on modular arithmetic for ``+ - * /``; Power et al. 2022, "Grokking: generalization beyond
overfitting on small algorithmic datasets" (https://arxiv.org/abs/2201.02177), appendix A.1.1, for the others. Those
take two operands ``x`` and ``y``, are computed modulo ``q``, and are one token each:

- polynomials: ``x^2+y^2``, ``x^2+xy+y^2``, ``x^2+xy+y^2+x``, ``x^3+xy``, ``x^3+xy^2+y``;
- ``x/y_or_x-y``: ``x / y`` where ``y`` is odd and ``x - y`` where it is even;
- ``s5:xy``, ``s5:xyx^-1`` and ``s5:xyx``: products of permutations of five elements, numbered from 0 in lexicographic
  order (that of ``itertools.permutations``). The left factor acts first, ``(x y)(i) = y(x(i))``, as in the paper's
  code and in sympy.
"""

import itertools
from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np

from shoal.tasks.arithmetic.equations import MIXED, OPERATORS

# (free operands (N, order), q) -> (first operand (N,), result (N,)); only "/" does not take its first operand as given
Solve = Callable[[np.ndarray, int], tuple[np.ndarray, np.ndarray]]

PERMUTATIONS = np.array(list(itertools.permutations(range(5))))  # (120, 5)
_PLACES = 5 ** np.arange(4, -1, -1)  # values of digits: as integers, permutations keep their order
_DIGITS = PERMUTATIONS @ _PLACES  # (120,), increasing


def multiply(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Products ``x y`` of numbered permutations, ``x`` acting first, as numbers: ``(N,), (N,) -> (N,)``.

    >>> first, second = 1, 6  # 0 1 2 4 3 and 0 2 1 3 4
    >>> PERMUTATIONS[multiply(np.array([first]), np.array([second]))].tolist()
    [[0, 2, 1, 4, 3]]
    """
    product = np.take_along_axis(PERMUTATIONS[y], PERMUTATIONS[x], axis=1)  # (N, 5)
    return _numbers(product)


def invert(x: np.ndarray) -> np.ndarray:
    """Inverses of numbered permutations, as numbers: ``(N,) -> (N,)``."""
    return _numbers(PERMUTATIONS[x].argsort(axis=1))


def _numbers(permutations: np.ndarray) -> np.ndarray:
    """Numbers of permutations: ``(N, 5) -> (N,)``."""
    numbers: np.ndarray = np.searchsorted(_DIGITS, permutations @ _PLACES)
    return numbers


def _mixed(x: np.ndarray, y: np.ndarray, q: int) -> np.ndarray:
    inverse = np.array([pow(n, -1, q) if n % 2 else 0 for n in range(q)])  # of odd numbers, modulo a prime
    result: np.ndarray = np.where(y % 2 == 1, x * inverse[y], x - y)
    return result


def _binary(result: Callable[[np.ndarray, np.ndarray, int], np.ndarray]) -> Solve:
    return lambda operands, q: (operands[:, 0], result(operands[:, 0], operands[:, 1], q) % q)


SOLVE: Mapping[str, Solve] = MappingProxyType(
    {
        "+": lambda operands, q: (operands[:, 0], operands.sum(1) % q),
        "-": lambda operands, q: (operands[:, 0], (2 * operands[:, 0] - operands.sum(1)) % q),
        "*": lambda operands, q: (operands[:, 0], operands.prod(1) % q),
        "/": lambda operands, q: (operands.prod(1) % q, operands[:, 0]),
        MIXED: _binary(_mixed),
        "x^2+y^2": _binary(lambda x, y, q: x**2 + y**2),
        "x^2+xy+y^2": _binary(lambda x, y, q: x**2 + x * y + y**2),
        "x^2+xy+y^2+x": _binary(lambda x, y, q: x**2 + x * y + y**2 + x),
        "x^3+xy": _binary(lambda x, y, q: x**3 + x * y),
        "x^3+xy^2+y": _binary(lambda x, y, q: x**3 + x * y**2 + y),
        "s5:xy": _binary(lambda x, y, q: multiply(x, y)),
        "s5:xyx^-1": _binary(lambda x, y, q: multiply(multiply(x, y), invert(x))),
        "s5:xyx": _binary(lambda x, y, q: multiply(multiply(x, y), x)),
    }
)
assert tuple(SOLVE) == OPERATORS
