"""Scaling law ``L(N, D) = E + A·N^(−α) + B·D^(−β)`` and its compute-optimal use of a budget.

Source: Hoffmann et al. 2022, "Training Compute-Optimal Large Language Models", equations 2 and 4.
"""

from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from shoal.analysis.power_sum import DELTA, Array, PowerSum

Number = TypeVar("Number", float, Array)

FLOP_PER_PARAMETER_AND_TOKEN = 6  # C = 6·N·D


@dataclass(frozen=True)
class ScalingLaw:
    """Scaling law: loss as a function of parameters ``N`` and training tokens ``D``.

    The attributes are numbers, or arrays of one shape for many laws at once, such as those of a bootstrap.

    Attributes:
        E: irreducible loss, in the unit of the loss.
        A: coefficient of the term in parameters.
        B: coefficient of the term in tokens.
        alpha: exponent of parameters.
        beta: exponent of tokens.
    """

    E: float | Array
    A: float | Array
    B: float | Array
    alpha: float | Array
    beta: float | Array

    def loss(self, parameters: float | Array, tokens: float | Array) -> float | Array:
        """Predicted loss of a model of so many parameters, trained on so many tokens."""
        return self.E + self.A * parameters**-self.alpha + self.B * tokens**-self.beta

    @property
    def a(self) -> float | Array:
        """Exponent ``β / (α + β)``: the optimal number of parameters grows as ``C^a``. NaN where α = β = 0."""
        return self._share(self.beta)

    @property
    def b(self) -> float | Array:
        """Exponent ``α / (α + β)``: the optimal number of tokens grows as ``C^b``."""
        return self._share(self.alpha)

    def _share(self, exponent: float | Array) -> float | Array:
        with np.errstate(invalid="ignore"):
            return np.true_divide(exponent, np.add(self.alpha, self.beta))

    def optimum(self, flop: float) -> tuple[float | Array, float | Array]:
        """Parameters and tokens of the smallest loss that ``C = 6·N·D`` operations reach.

        At the optimum ``α·A·N^(−α) = β·B·D^(−β)``. Where the law leaves it open (an exponent is 0) the numbers are 0,
        infinite or NaN.
        """
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            weights = np.log(np.multiply(self.alpha, self.A)) - np.log(np.multiply(self.beta, self.B))
            pairs = np.log(flop / FLOP_PER_PARAMETER_AND_TOKEN)
            log_N = weights / np.add(self.alpha, self.beta) + self.a * pairs
            return np.exp(log_N), np.exp(pairs - log_N)


@dataclass(frozen=True)
class LawForm:
    """Form of the law: the parameters that are fitted and those that are held.

    Attributes:
        tied: true for one exponent of both terms, ``α = β``.
        irreducible: the value that ``E`` is held at; ``None`` where it is fitted.
        delta: threshold of the Huber loss, in log residuals.
    """

    tied: bool = False
    irreducible: float | None = None
    delta: float = DELTA

    @property
    def parameters(self) -> int:
        """Number of fitted parameters."""
        return 5 - self.tied - (self.irreducible is not None)

    @property
    def beside(self) -> "LawForm":
        """Form to compare with: the law of five parameters, or that with ``α = β`` where this is it."""
        return LawForm(tied=self.parameters == 5, delta=self.delta)

    @property
    def said(self) -> str:
        """Description of the constraints; empty for the law of five parameters.

        >>> LawForm(tied=True, irreducible=1.69).said
        'α = β, E held at 1.69'
        """
        held = [] if self.irreducible is None else [f"E held at {self.irreducible:g}"]
        return ", ".join(["α = β"] * self.tied + held)

    def of(self, sizes: Array, losses: Array) -> PowerSum:
        """Problem of fitting runs: ``(n, 2)`` parameters and tokens, and ``(n,)`` losses."""
        return PowerSum.of(sizes, losses, delta=self.delta, held=self.irreducible, tied=self.tied)


def law_of(points: PowerSum, theta: Array) -> ScalingLaw:
    """Law of one theta of these points, or laws of a stack of them."""
    E, sizes, exponents = points.natural(theta)
    return ScalingLaw(E, sizes[..., 0], sizes[..., 1], exponents[..., 0], exponents[..., 1])
