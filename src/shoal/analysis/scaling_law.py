"""The law ``L(N, D) = E + A·N^(−α) + B·D^(−β)`` and what it says of the best use of a budget.

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
    """Loss against parameters ``N`` and training tokens ``D``.

    The attributes are numbers, or arrays of one shape for many laws at once, such as those of a bootstrap.

    Attributes:
        E: the loss that neither size nor data takes away, in the loss's own unit.
        A: the loss of one parameter's size, times one.
        B: the loss of one token's data, times one.
        alpha: how fast loss falls with parameters.
        beta: how fast loss falls with tokens.
    """

    E: float | Array
    A: float | Array
    B: float | Array
    alpha: float | Array
    beta: float | Array

    def loss(self, parameters: float | Array, tokens: float | Array) -> float | Array:
        """Predicted loss."""
        return self.E + self.A * parameters**-self.alpha + self.B * tokens**-self.beta

    @property
    def a(self) -> float | Array:
        """``β / (α + β)``: the best number of parameters grows as ``C^a``. NaN where both exponents are 0."""
        return self._share(self.beta)

    @property
    def b(self) -> float | Array:
        """``α / (α + β)``: the best number of tokens grows as ``C^b``."""
        return self._share(self.alpha)

    def _share(self, exponent: float | Array) -> float | Array:
        with np.errstate(invalid="ignore"):
            return np.true_divide(exponent, np.add(self.alpha, self.beta))

    def optimum(self, flop: float) -> tuple[float | Array, float | Array]:
        """The parameters and tokens of the smallest loss that ``C = 6·N·D`` operations reach.

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
    """Which parameters of the law are fitted.

    Attributes:
        tied: one exponent for both, ``α = β``.
        irreducible: the value that ``E`` is held at; ``None`` where it is fitted.
        delta: of the Huber loss, in log residuals.
    """

    tied: bool = False
    irreducible: float | None = None
    delta: float = DELTA

    @property
    def parameters(self) -> int:
        """How many are fitted."""
        return 5 - self.tied - (self.irreducible is not None)

    @property
    def beside(self) -> "LawForm":
        """What to compare with: the law of five parameters, or that with ``α = β`` where this is it."""
        return LawForm(tied=self.parameters == 5, delta=self.delta)

    @property
    def said(self) -> str:
        """What is not as in the law of five parameters; empty where nothing is.

        >>> LawForm(tied=True, irreducible=1.69).said
        'α = β, E held at 1.69'
        """
        held = [] if self.irreducible is None else [f"E held at {self.irreducible:g}"]
        return ", ".join(["α = β"] * self.tied + held)

    def of(self, sizes: Array, losses: Array) -> PowerSum:
        """The runs to fit: ``(n, 2)`` parameters and tokens, and ``(n,)`` losses."""
        return PowerSum.of(sizes, losses, delta=self.delta, held=self.irreducible, tied=self.tied)


def law_of(points: PowerSum, theta: Array) -> ScalingLaw:
    """The law that one theta of these points is, or the laws of a stack of them."""
    E, sizes, exponents = points.natural(theta)
    return ScalingLaw(E, sizes[..., 0], sizes[..., 1], exponents[..., 0], exponents[..., 1])
