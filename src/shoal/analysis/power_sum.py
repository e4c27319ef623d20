"""Sum of powers, ``y = E + Σ_k A_k·x_k^(−α_k)``, fitted to the logarithm of ``y`` with the Huber loss.

Source: Hoffmann et al. 2022, "Training Compute-Optimal Large Language Models", section 3.3 and appendix D.4. With
``e = log E`` and ``a_k = log A_k`` the logarithm of the sum is a logsumexp, which neither overflows nor leaves the
positive numbers.

Two things differ from that source. The logarithms of ``x`` are centred, which takes the correlation of ``A_k``
with ``α_k`` out of the search and makes it the same search in every unit of ``x``. And the starts are a grid of
exponents alone: given those, the sum is linear in ``E`` and ``A_k``, which non-negative least squares finds.
"""

from dataclasses import dataclass
from functools import cached_property
from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy import optimize
from threadpoolctl import threadpool_limits

from shoal.analysis.columns import is_number
from shoal.errors import UserError

Array = NDArray[np.float64]

DELTA = 1e-3  # Hoffmann et al.: where the Huber loss of a log residual turns from quadratic to linear
SMALLEST_DELTA = 1e-9  # below it a law no longer changes, and the objective nears the smallest numbers
MOST_EXPONENT = 5.0
_EXPONENTS = (0.05, 0.15, 0.4, 0.8, 1.6, 3.2)
_SMALLEST_TERM, _SMALLEST_CONSTANT = 15.0, 10.0  # e-foldings below the smallest y
_ROUGH, _FINE = 40, 10  # how many of the starts are searched from, and how many of these searches are finished
_MOST_POLISHING = 20


def one_thread() -> threadpool_limits:
    """Keep scipy's linear algebra to one thread: more make the tiny systems of a search 5 to 50 times slower."""
    return threadpool_limits(limits=1, user_api="blas")


def check_delta(delta: float, most: float) -> None:
    """Raise :class:`UserError` unless ``delta``, the threshold of the Huber loss, is from 1e-9 to ``most``."""
    if not is_number(delta) or not SMALLEST_DELTA <= delta <= most:
        raise UserError(f"delta must be from {SMALLEST_DELTA:g} to {most:g} (log residuals), got {delta!r:.60}")


@dataclass(frozen=True, eq=False)
class PowerSum:
    """Points to fit, and the form of the sum.

    All parameters are ``(e, a_1 … a_K, α_1 … α_K)``, without ``e`` where there is no constant; ``a_k`` is the logarithm
    of the term at the geometric mean of ``x_k``. ``theta`` holds those that are free: without ``e`` where it is held,
    with one exponent for all where they are tied.

    Attributes:
        x: ``(n, K)``, logarithms, centred.
        centre: ``(K,)``, the means that were subtracted from them.
        y: ``(n,)``, logarithms.
        constant: true where the sum has the term ``E``; exponents are then from 0 to :data:`MOST_EXPONENT`, else free.
        delta: threshold of the Huber loss.
        held: the value that ``E`` is held at, 0 or more; ``None`` where it is free.
        tied: true where all terms share one exponent.
    """

    x: Array
    centre: Array
    y: Array
    constant: bool = True
    delta: float = DELTA
    held: float | None = None
    tied: bool = False

    @classmethod
    def of(
        cls,
        x: Array,
        y: Array,
        constant: bool = True,
        delta: float = DELTA,
        held: float | None = None,
        tied: bool = False,
    ) -> "PowerSum":
        """Problem from positive values: ``x`` is ``(n, K)`` and ``y`` is ``(n,)``."""
        logs = np.log(x)
        centre = logs.mean(axis=0)  # (K,)
        return cls(logs - centre, centre, np.log(y), constant, delta, held, tied)

    @cached_property
    def _free(self) -> list[int]:
        """Indices of the free parameters among all, in the order of theta."""
        K = self.x.shape[1]
        first = int(self.constant)
        constant = [0] if self.constant and self.held is None else []
        exponents = range(first + K, first + K + (1 if self.tied else K))
        return [*constant, *range(first, first + K), *exponents]

    @cached_property
    def _all_of_free(self) -> tuple[Array, Array]:
        """Affine map from theta to all parameters, ``matrix @ theta + offset``: ``(all, free)`` and ``(all,)``."""
        K = self.x.shape[1]
        matrix = np.zeros((int(self.constant) + 2 * K, len(self._free)))
        matrix[self._free, range(len(self._free))] = 1
        if self.tied:
            matrix[-K:, -1] = 1
        offset = np.zeros(len(matrix))
        if self.constant and self.held is not None:
            offset[0] = np.log(self.held) if self.held > 0 else -np.inf
        return matrix, offset

    def parameters(self, theta: Array) -> Array:
        """All parameters, ``(…, all)``, of one theta or of a stack along leading axes."""
        matrix, offset = self._all_of_free
        return np.asarray(theta @ matrix.T + offset)

    @property
    def bounds(self) -> optimize.Bounds | None:
        """Bounds of each entry of theta; None for a single power."""
        if not self.constant:
            return None
        K = self.x.shape[1]
        low, high = self.y.min(), self.y.max()
        lower = np.array([low - _SMALLEST_CONSTANT, *[low - _SMALLEST_TERM] * K, *[0.0] * K])
        upper = np.array([high, *[high + _SMALLEST_TERM] * K, *[MOST_EXPONENT] * K])
        return optimize.Bounds(lower[self._free], upper[self._free])

    @cached_property
    def _rows(self) -> Array:
        """Log x of each term, zeros for the constant, ``(terms, n)``; rows are contiguous, which numpy adds faster."""
        zeros = np.zeros((int(self.constant), len(self.y)))
        return np.concatenate([zeros, self.x.T])

    def _terms(self, theta: Array) -> tuple[Array, Array]:
        """Predicted logarithms, ``(n,)``, and the share of each term in the sum, ``(terms, n)``."""
        K = self.x.shape[1]
        everything = self.parameters(theta)
        slopes = np.zeros(len(self._rows))
        slopes[-K:] = everything[-K:]
        logs = everything[:-K, None] - slopes[:, None] * self._rows  # (terms, n)
        top = logs.max(axis=0)
        shares = np.exp(logs - top)
        total = shares.sum(axis=0)
        return top + np.log(total), shares / total

    def log_prediction(self, theta: Array) -> Array:
        """Predicted logarithms of y, ``(n,)``."""
        return self._terms(theta)[0]

    def objective(self, theta: Array, weights: Array | float = 1.0) -> tuple[float, Array]:
        """Sum over points of weight × Huber loss / delta, and its gradient in theta.

        The division by delta makes it a sum of absolute log residuals, which suits the tolerances of the search.
        """
        K = self.x.shape[1]
        value, shares = self._terms(theta)  # (n,), (terms, n)
        residual = value - self.y
        inner = np.minimum(np.maximum(residual, -self.delta), self.delta) / self.delta  # slope of the loss
        loss = inner * (residual - inner * (self.delta / 2))  # r²/2δ inside, |r| − δ/2 outside
        slope = weights * inner
        of_powers = shares[-K:] * self._rows[-K:]
        gradient = np.concatenate([shares @ slope, -(of_powers @ slope)])  # in all parameters
        return float((weights * loss).sum()), gradient @ self._all_of_free[0]

    def jacobian(self, theta: Array) -> Array:
        """Derivatives of the predicted logarithms in theta, ``(n, len(theta))``."""
        K = self.x.shape[1]
        shares = self._terms(theta)[1]
        return np.asarray(np.concatenate([shares, -shares[-K:] * self._rows[-K:]]).T @ self._all_of_free[0])

    @cached_property
    def starts(self) -> Array:
        """Starting points of the search, ``(starts, len(theta))``."""
        K = self.x.shape[1]
        if not self.constant:  # a single power is a straight line in the logarithms
            slope, level = np.polyfit(self.x[:, 0], self.y, 1)
            return np.array([[level, -slope]])
        y = np.exp(self.y)
        constants = np.ones((len(y), int(self.held is None)))
        out = []
        for exponents in product(_EXPONENTS, repeat=1 if self.tied else K):
            terms = np.concatenate([constants, np.exp(-np.array(exponents) * self.x)], axis=1)
            sizes, _ = optimize.nnls(terms / y[:, None], 1 - (self.held or 0.0) / y)
            out.append([*np.log(np.maximum(sizes, 1e-3 * y.min())), *exponents])
        return np.array(out)

    def search(
        self, start: Array, weights: Array | float = 1.0, tolerance: float = 1e-12, steps: int = 2000
    ) -> tuple[float, Array]:
        """Objective and theta at the end of one search by L-BFGS-B."""
        options = {"maxiter": steps, "maxfun": 2 * steps, "maxcor": 8, "ftol": tolerance, "gtol": 1e-7}
        out = optimize.minimize(
            self.objective, start, (weights,), "L-BFGS-B", jac=True, bounds=self.bounds, options=options
        )
        return float(out.fun), np.asarray(out.x, dtype=np.float64)

    @cached_property
    def best(self) -> Array:
        """Theta of the smallest objective, searched from the most promising starts."""
        with one_thread():
            return self._search_widely()

    def _search_widely(self) -> Array:
        likely = sorted(self.starts, key=lambda one: self.objective(one)[0])[:_ROUGH]
        rough = sorted((self.search(one, tolerance=1e-5, steps=100) for one in likely), key=lambda end: end[0])
        fine = (self.search(one, tolerance=1e-9, steps=500) for _, one in rough[:_FINE])
        value, theta = min(fine, key=lambda end: end[0])
        for _ in range(_MOST_POLISHING):  # a search ends early at the kinks that a small delta leaves
            better, theta_better = self.search(theta, tolerance=1e-15)
            if not better < value * (1 - 1e-12) - 1e-12:
                break
            value, theta = better, theta_better
        return self._settled(theta)

    def _settled(self, theta: Array) -> Array:
        """Theta after a search without gradients: at a kink of the objective gradients do not show the way down."""
        options = {"xatol": 1e-9, "fatol": 1e-13, "maxfev": 2000}
        out = optimize.minimize(
            lambda x: self.objective(x)[0], theta, method="Nelder-Mead", bounds=self.bounds, options=options
        )
        return np.asarray(out.x, dtype=np.float64) if out.fun < self.objective(theta)[0] else theta

    def natural(self, theta: Array) -> tuple[Array, Array, Array]:
        """Parameters ``E`` (0 without a constant), ``A_k`` and ``α_k``, of one theta or a stack along leading axes."""
        K = self.x.shape[1]
        everything = self.parameters(theta)
        E = np.exp(everything[..., 0]) if self.constant else np.zeros(theta.shape[:-1])
        exponents = everything[..., -K:]
        with np.errstate(over="ignore"):  # a resample may run off to an infinite A
            return E, np.exp(everything[..., -2 * K : -K] + exponents * self.centre), exponents
