"""Prediction intervals of log-normal times, of which some are censored.

Logarithms of times are taken to be normal. With N times, none censored, one new time lies with probability 95 % in
ȳ ± t s √(1 + 1/N), Student's t on N − 1 degrees of freedom. Where some are censored, mean and deviation are
those of maximum likelihood, the variance of the mean is that of the observed information, both variances are enlarged
by e / (e − 1), and the degrees of freedom are e − 1, where e runs are not censored: without censoring the same numbers.

Sources: Geisser 1993, *Predictive Inference*; Cohen 1959 for the likelihood of a censored normal sample; Fenton 1960
for the mean of several log-normal times, which is taken to be log-normal with their mean and variance.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, stats

Array = NDArray[np.float64]

LEVEL = 0.95
_SMALLEST = 1e-6  # deviation of a logarithm; less is rounding


@dataclass(frozen=True)
class LogNormal:
    """Log-normal distribution of times, estimated from a sample.

    Attributes:
        mean, variance: mean and variance of the logarithm of a time.
        variance_of_mean: variance of the estimate of ``mean``.
        df: degrees of freedom.
    """

    mean: float
    variance: float
    variance_of_mean: float
    df: int


@dataclass(frozen=True)
class Prediction:
    """Prediction interval of one more number, and the agreement of an observed one with it.

    Attributes:
        low, high: ends of the 95 % interval; ``low`` is its only end where the number is an upper bound.
        middle: middle of the interval, on the logarithmic scale.
        p: probability of a number as far out, or of one as low where the number is an upper bound.
        df: degrees of freedom.
    """

    low: float
    middle: float
    high: float
    p: float
    df: int

    def factor(self, tests: int = 1) -> float:
        """Factor from the middle to an end of the interval; of several tests that of the interval which holds all
        their numbers with 95 %, as in the first step of Holm's correction."""
        outside = (1 - LEVEL) / (1 if math.isinf(self.high) else 2)
        wider = stats.t.isf(outside / max(tests, 1), self.df) / stats.t.isf(outside, self.df)
        return _exp(float(wider) * math.log(self.middle / self.low))


def fit_log_normal(times: Sequence[float], observed: Sequence[bool], resolution: float = 0.0) -> LogNormal | None:
    """Log-normal distribution of times, by maximum likelihood.

    Args:
        times: times in steps, of which 0 counts as 1; where ``observed`` is false the true time is longer.
        observed: true or false for each time.
        resolution: spacing of the grid on which times lie, as a difference of logarithms; a deviation below that of
            rounding to it, ``resolution / √12``, is not believed.

    Returns:
        None where fewer than two are observed.
    """
    steps, seen = np.asarray(times, dtype=np.float64), np.asarray(observed, dtype=bool)
    y: Array = np.log(np.where(steps > 0, steps, 1))
    e = int(seen.sum())
    if e < 2:
        return None
    floor = max(_SMALLEST, resolution / math.sqrt(12)) ** 2
    mean, variance = (float(y.mean()), float(y.var())) if seen.all() else _censored_fit(y, seen)
    variance = max(variance * e / (e - 1), floor)
    return LogNormal(mean, variance, _variance_of_mean(y, seen, mean, math.sqrt(variance)), e - 1)


def predict(ours: LogNormal, found: float, runs: int = 1, is_bound: bool = False) -> Prediction:
    """Prediction interval of one more time, or of the mean of several, and the agreement of ``found`` with it.

    Args:
        ours: the distribution of our times.
        found: the observed time, or mean of times.
        runs: number of runs that ``found`` is the mean of.
        is_bound: true where ``found`` is an upper bound of the time.
    """
    variance = math.log1p(math.expm1(min(ours.variance, 100.0)) / runs)
    middle = ours.mean + (ours.variance - variance) / 2
    error = math.sqrt(variance + ours.variance_of_mean)
    t = (math.log(found or 1) - middle) / error
    outside = 1 - LEVEL if is_bound else (1 - LEVEL) / 2
    reach = float(stats.t.isf(outside, ours.df)) * error
    p = stats.t.cdf(t, ours.df) if is_bound else 2 * stats.t.sf(abs(t), ours.df)
    high = math.inf if is_bound else _exp(middle + reach)
    return Prediction(_exp(middle - reach), _exp(middle), high, float(p), ours.df)


def ratio(ours: LogNormal, theirs: LogNormal) -> tuple[float, float]:
    """Interval (95 %) of the ratio of two distributions' medians, ours over theirs, by Welch's t."""
    parts = [(fit.variance_of_mean, fit.df) for fit in (ours, theirs)]
    total = sum(variance for variance, _ in parts)
    df = total**2 / sum(variance**2 / df for variance, df in parts)
    reach = float(stats.t.isf((1 - LEVEL) / 2, df)) * math.sqrt(total)
    return _exp(ours.mean - theirs.mean - reach), _exp(ours.mean - theirs.mean + reach)


def rank_p(found: float, times: Sequence[float], observed: Sequence[bool], is_bound: bool = False) -> float:
    """Exact p value of a number's rank among ours; a run censored before it counts for either side."""
    low = sum(time <= found for time in times)
    high = sum(time >= found or not seen for time, seen in zip(times, observed, strict=True))
    return min(1.0, (low + 1 if is_bound else 2 * (min(low, high) + 1)) / (len(times) + 1))


def _exp(value: float) -> float:
    return math.exp(value) if value < 700 else math.inf


def _censored_fit(y: Array, seen: NDArray[np.bool_]) -> tuple[float, float]:
    """Maximum-likelihood mean and variance of a normal sample with right-censored values."""

    def loss(parameters: Array) -> float:
        mean, log_sigma = parameters
        z = (y - mean) / math.exp(log_sigma)
        return -float((stats.norm.logpdf(z[seen]) - log_sigma).sum() + stats.norm.logsf(z[~seen]).sum())

    start = [float(y.mean()), math.log(max(float(y.std()), 1e-3))]
    bounds = [(None, None), (math.log(_SMALLEST), math.log(50))]
    optimum = optimize.minimize(
        loss, start, method="Nelder-Mead", bounds=bounds, options={"xatol": 1e-8, "fatol": 1e-10}
    )
    mean, log_sigma = optimum.x
    return float(mean), math.exp(2 * log_sigma)


def _variance_of_mean(y: Array, seen: NDArray[np.bool_], mean: float, sigma: float) -> float:
    """Variance of the mean: first element of the inverse of the observed information in mean and log σ."""
    z = (y - mean) / sigma
    hazard = np.exp(stats.norm.logpdf(z) - stats.norm.logsf(z))
    slope = hazard * (hazard - z)  # of the hazard
    by_mean = np.where(seen, 1.0, slope).sum() / sigma**2
    if seen.all():
        return float(1 / by_mean)
    mixed = np.where(seen, 2 * z, hazard + z * slope).sum() / sigma
    by_sigma = np.where(seen, 2 * z**2, z * hazard + z**2 * slope).sum()
    left = by_mean - mixed**2 / by_sigma if by_sigma > 0 else by_mean
    return float(1 / max(left, 1e-12))
