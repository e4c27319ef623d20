"""Prediction intervals of log-normal times against textbook formulas, scipy's censored fits, and simulation."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats

from shoal.analysis.prediction import fit_log_normal, predict, rank_p, ratio

some = settings(max_examples=40, deadline=None)
times = st.lists(st.floats(2, 1e6), min_size=2, max_size=12, unique=True)


def loss(y, seen, mean, log_sigma):
    """Minus the log-likelihood, value by value."""
    sigma, total = math.exp(log_sigma), 0.0
    for value, is_seen in zip(y, seen, strict=True):
        normal = stats.norm(mean, sigma)
        total -= normal.logpdf(value) if is_seen else normal.logsf(value)
    return total


@some
@given(times, st.floats(1, 1e6))
def test_without_censoring_it_is_students_interval_for_one_more(ours, found):
    y, n = np.log(ours), len(ours)
    s = max(float(y.std(ddof=1)), 1e-6)
    prediction = predict(fit_log_normal(ours, [True] * n), found)
    reach = stats.t.ppf(0.975, n - 1) * s * math.sqrt(1 + 1 / n)
    if reach < 600:
        assert math.log(prediction.low) == pytest.approx(y.mean() - reach, rel=1e-6, abs=1e-9)
        assert math.log(prediction.high) == pytest.approx(y.mean() + reach, rel=1e-6, abs=1e-9)
    t = (math.log(found) - y.mean()) / (s * math.sqrt(1 + 1 / n))
    assert prediction.p == pytest.approx(2 * stats.t.sf(abs(t), n - 1), rel=1e-6, abs=1e-12)
    assert (prediction.p < 0.05) == (not prediction.low <= found <= prediction.high)
    bound = predict(fit_log_normal(ours, [True] * n), found, is_bound=True)
    assert bound.p == pytest.approx(stats.t.cdf(t, n - 1), rel=1e-6, abs=1e-12)
    assert (bound.p < 0.05) == (found < bound.low) and math.isinf(bound.high)


CENSORED = [
    ([300.0, 420.0, 510.0, 700.0, 800.0], [True, True, True, False, False]),
    ([300.0, 420.0, 150.0, 700.0, 350.0, 610.0], [True, True, False, True, False, True]),
    ([5000.0, 6200.0, 9000.0, 9000.0, 9000.0, 9000.0], [True, True, False, False, False, False]),
]


@pytest.mark.parametrize(("ours", "seen"), CENSORED)
def test_with_censoring_it_is_maximum_likelihood(ours, seen):
    y, seen_ = np.log(ours), np.array(seen)
    fit, e = fit_log_normal(ours, seen), sum(seen)
    data = stats.CensoredData(uncensored=y[seen_], right=y[~seen_])
    mean, sigma = stats.norm.fit(
        data, optimizer=lambda f, x, args, disp: optimize.fmin(f, x, args, 1e-9, 1e-12, disp=0)
    )
    assert fit.mean == pytest.approx(mean, abs=1e-5)
    assert fit.variance == pytest.approx(sigma**2 * e / (e - 1), rel=1e-4)
    assert fit.df == e - 1
    at, h = np.array([fit.mean, math.log(fit.variance) / 2]), 1e-3
    hessian = np.empty((2, 2))
    for i in range(2):
        for j in range(2):
            corners = [(a, b) for a in (h, -h) for b in (h, -h)]
            points = [loss(y, seen, *(at + a * np.eye(2)[i] + b * np.eye(2)[j])) for a, b in corners]
            hessian[i, j] = (points[0] - points[1] - points[2] + points[3]) / (4 * h * h)
    assert fit.variance_of_mean == pytest.approx(np.linalg.inv(hessian)[0, 0], rel=1e-3)
    assert fit.mean > y.mean()  # the unseen are later


def test_too_few_make_no_distribution_and_equal_times_one_as_wide_as_their_grid():
    assert fit_log_normal([100, 200, 300], [True, False, False]) is None
    assert fit_log_normal([100], [True]) is None
    equal = fit_log_normal([300, 300, 300], [True] * 3, resolution=math.log(300 / 200))
    assert math.sqrt(equal.variance) == pytest.approx(math.log(1.5) / math.sqrt(12))
    assert predict(equal, 300).p == pytest.approx(1)
    assert predict(fit_log_normal([300, 300, 300], [True] * 3), 301).p < 1e-3
    late = fit_log_normal([300, 300, 10], [True, True, False])  # the likelihood has no maximum inside
    assert late.mean == pytest.approx(math.log(300), abs=1e-2)
    assert fit_log_normal([0, 1, 4], [True] * 3).mean == pytest.approx(math.log(4) / 3)  # 0 counts as 1


@settings(max_examples=10, deadline=None)
@given(st.floats(0.05, 0.6), st.integers(2, 4), st.integers(0, 99))
def test_a_mean_of_several_has_the_moments_of_one(sigma, m, seed):
    draws = np.exp(np.random.default_rng(seed).normal(7, sigma, (40_000, m))).mean(1)
    ours = fit_log_normal(np.exp(7 + sigma * stats.norm.ppf((np.arange(4000) + 0.5) / 4000)), [True] * 4000)
    prediction = predict(ours, 1000.0, runs=m)
    assert prediction.middle == pytest.approx(np.exp(np.log(draws).mean()), rel=0.02)
    assert ((prediction.low <= draws) & (draws <= prediction.high)).mean() == pytest.approx(0.95, abs=0.012)
    alone = predict(ours, 1000.0)
    assert math.log(alone.factor()) / math.log(prediction.factor()) == pytest.approx(math.sqrt(m), rel=0.15)


def test_the_ratio_of_two_samples_is_welchs():
    ours, theirs = np.array([300.0, 420, 510, 640]), np.array([700.0, 1300, 800])
    low, high = ratio(*(fit_log_normal(sample, [True] * len(sample)) for sample in (ours, theirs)))
    expected = stats.ttest_ind(np.log(ours), np.log(theirs), equal_var=False).confidence_interval(0.95)
    assert (math.log(low), math.log(high)) == pytest.approx((expected.low, expected.high))


def test_a_rank_p_is_that_of_a_place_among_all():
    for n in range(1, 7):
        ours = [10.0 * (i + 1) for i in range(n)]
        p = [rank_p(10 * place + 5, ours, [True] * n) for place in range(n + 1)]
        bound = [rank_p(10 * place + 5, ours, [True] * n, is_bound=True) for place in range(n + 1)]
        for alpha in (0.05, 0.2, 0.5, 2 / (n + 1)):  # every place is as probable as any other
            assert sum(value <= alpha + 1e-12 for value in p) / (n + 1) <= alpha + 1e-12
        assert bound == pytest.approx([(place + 1) / (n + 1) for place in range(n + 1)])
        assert p[0] == pytest.approx(min(1, 2 / (n + 1)))
    assert rank_p(100, [50, 60, 70], [False] * 3) == 1.0  # none is on a side
    assert rank_p(100, [200, 300, 400], [False] * 3) == pytest.approx(0.5)


@pytest.mark.slow
@pytest.mark.parametrize("n", [3, 8])
@pytest.mark.parametrize("m", [1, 2])
@pytest.mark.parametrize("censored", [0.0, 0.3])
def test_level_and_power(n, m, censored, sigma=0.37, draws=1000):
    """A number of our distribution is outside in 5 % of cases, and one three times as large mostly, where told."""
    random = np.random.default_rng(n * 100 + m)
    end = math.exp(8 + sigma * stats.norm.isf(censored)) if censored else math.inf
    outside = decided = found_out = told = 0
    for _ in range(draws):
        ours = np.exp(random.normal(8, sigma, n))
        published = float(np.exp(random.normal(8, sigma, m)).mean())
        fit = fit_log_normal(np.minimum(ours, end), ours <= end)
        if fit is None:
            continue
        prediction = predict(fit, published, m)
        decided += 1
        outside += prediction.p <= 0.05
        if prediction.factor() <= 3:
            told += 1
            found_out += predict(fit, 3 * published, m).p <= 0.05
    level, wide = outside / decided, decided - told
    print(f"N {n}, m {m}, censored {censored}: level {level:.3f}, too wide {wide / decided:.2f}", end=", ")
    print(f"power where told {found_out / max(told, 1):.2f}")
    assert level <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / decided)
    if told > 100:
        assert found_out / told > 0.6
