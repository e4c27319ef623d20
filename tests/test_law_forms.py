"""Tied exponents, a held constant, and predicted losses: against laws that are known and another optimiser."""

from functools import cache

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize

from shoal.analysis import ScalingLaw, fit_scaling
from shoal.analysis.bootstrap import bootstrap, resample_counts
from shoal.analysis.held_out import LAW, MEAN
from shoal.analysis.power_sum import PowerSum, one_thread
from shoal.analysis.scaling_law import LawForm, law_of
from shoal.errors import UserError

TRUE = ScalingLaw(E=1.7, A=400.0, B=500.0, alpha=0.33, beta=0.33)
FORMS = [
    {},
    {"tied": True},
    {"irreducible": 1.7},
    {"irreducible": 0.0},
    {"tied": True, "irreducible": 1.7},
]
NAMES = ("E", "A", "B", "alpha", "beta")


def runs(n=60, noise=0.01, seed=0, law=TRUE):
    rng = np.random.default_rng(seed)
    N, D = 10 ** rng.uniform(7.5, 10, n), 10 ** rng.uniform(8.5, 11, n)
    return pl.DataFrame({"parameters": N, "tokens": D, "loss": law.loss(N, D) * np.exp(noise * rng.standard_normal(n))})


def points(frame, form):
    return form.of(frame.select("parameters", "tokens").to_numpy(), frame["loss"].to_numpy())


def expand(free, form):
    """E, log A, log B, α, β of the free ones, in the plainest way."""
    free = list(free)
    E = free.pop(0) if form.irreducible is None else form.irreducible
    log_A, log_B, alpha, *beta = free
    return E, log_A, log_B, alpha, beta[0] if beta else alpha


def elsewhere(frame, form, start):
    """The fit by another optimiser, from a start of one's own, to few parameters written out by hand."""
    N, D, L = (frame[name].to_numpy() for name in ("parameters", "tokens", "loss"))

    def residuals(free):
        E, log_A, log_B, alpha, beta = expand(free, form)
        return np.log(E + np.exp(log_A) * N**-alpha + np.exp(log_B) * D**-beta) - np.log(L)

    tight = {"xtol": 1e-15, "ftol": 1e-15, "gtol": 1e-15, "max_nfev": 20_000, "x_scale": "jac"}
    out = optimize.least_squares(residuals, start, loss="huber", f_scale=form.delta, **tight)
    return out.cost, expand(out.x, form)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("delta", [1e-3, 0.02, 1.0])
def test_another_optimiser_of_fewer_parameters_ends_at_the_same_place(form, delta):
    form = LawForm(delta=delta, **form)
    law = TRUE if form.irreducible != 0 else ScalingLaw(0.0, 40.0, 90.0, 0.2, 0.3)
    frame = runs(80, noise=0.02, seed=1, law=law)
    start = [np.log(law.A), np.log(law.B), law.alpha]
    start = ([law.E] if form.irreducible is None else []) + start + ([] if form.tied else [law.beta])
    cost, (E, log_A, log_B, alpha, beta) = elsewhere(frame, form, start)
    fit = fit_scaling(frame, resamples=0, delta=delta, tied=form.tied, irreducible=form.irreducible).every
    assert fit.objective <= cost * (1 + 1e-6)
    found = fit.law
    assert (float(found.alpha), float(found.beta)) == pytest.approx((alpha, beta), rel=3e-3)
    assert (float(found.E), np.log(found.A), np.log(found.B)) == pytest.approx((E, log_A, log_B), rel=3e-3)


@pytest.mark.parametrize("form", FORMS)
def test_the_gradient_and_the_jacobian_are_those_of_finite_differences(form):
    problem = points(runs(30, noise=0.1), LawForm(delta=0.05, **form))
    rng = np.random.default_rng(2)
    weights = rng.integers(0, 3, 30).astype(float)
    for shift in rng.normal(size=(4, len(problem.best))) * 0.1:
        theta = problem.best + shift
        value, gradient = problem.objective(theta, weights)
        assert value >= 0
        step = optimize.approx_fprime(theta, lambda at: problem.objective(at, weights)[0], 1e-7)
        np.testing.assert_allclose(gradient, step, atol=1e-4)
        np.testing.assert_allclose(
            problem.jacobian(theta), optimize.approx_fprime(theta, problem.log_prediction, 1e-7), atol=1e-5
        )


@pytest.mark.parametrize("form", FORMS[1:])
def test_what_is_not_fitted_stays_where_it_is_held_in_every_resample(form):
    fit = fit_scaling(runs(40, noise=0.02), resamples=20, **form).every
    for law in (fit.law, fit.resampled):
        if "tied" in form:
            np.testing.assert_array_equal(law.alpha, law.beta)
            np.testing.assert_array_equal(law.a, 0.5)
        if "irreducible" in form:
            np.testing.assert_allclose(law.E, form["irreducible"], rtol=1e-12)
    assert len(np.unique(fit.resampled.alpha)) == 20


@pytest.mark.parametrize("form", FORMS)
def test_a_resample_is_the_fit_of_the_rows_that_were_drawn(form):
    frame, form = runs(30, noise=0.02, seed=6), LawForm(**form)
    members = np.arange(30) // 3
    problem = points(frame, form)
    (theta,) = bootstrap(problem, members, 1, seed=9)
    counts = resample_counts(members, 1, seed=9)[0].astype(int)
    drawn = points(frame[[i for i, count in enumerate(counts) for _ in range(count)]], form)
    law, expected = law_of(problem, theta), law_of(drawn, drawn.best)
    for name in ("E", "alpha", "beta"):
        assert float(getattr(law, name)) == pytest.approx(float(getattr(expected, name)), rel=1e-3)


@pytest.mark.parametrize("form", FORMS[1:])
@pytest.mark.parametrize("seed", [2, 4])
def test_the_few_starts_find_what_many_find(form, seed):
    problem = points(runs(12, noise=0.2, seed=seed), LawForm(**form))
    rng = np.random.default_rng(0)
    with one_thread():
        ends = [rng.uniform(problem.bounds.lb, problem.bounds.ub) for _ in range(30)]
        others = [problem.search(start, tolerance=1e-9, steps=200)[0] for start in ends]
    assert problem.objective(problem.best)[0] <= min(others) * (1 + 1e-9)


def test_a_form_that_is_true_is_found_without_noise_and_narrows_the_interval():
    frame = runs(40, noise=0)
    for form in ({}, {"tied": True}, {"irreducible": 1.7}, {"tied": True, "irreducible": 1.7}):
        law = fit_scaling(frame, resamples=0, **form).every.law
        for name in NAMES:
            assert float(getattr(law, name)) == pytest.approx(getattr(TRUE, name), rel=2e-3), (form, name)
    noisy = runs(60, noise=0.02)
    free, tied = (fit_scaling(noisy, resamples=100, **form).every for form in ({}, {"tied": True}))
    assert np.std(tied.resampled.alpha) < 0.8 * np.std(free.resampled.alpha)


@given(st.floats(-4, 4), st.floats(-4, 4), st.floats(-2, 2))
@settings(max_examples=6, deadline=None)
def test_units_change_the_coefficients_of_a_tied_law_alone(log_n, log_d, log_loss):
    frame = runs(20, noise=0.02, seed=3)
    k, m, s = 10.0**log_n, 10.0**log_d, 10.0**log_loss
    scaled = frame.with_columns(pl.col("parameters") * k, pl.col("tokens") * m, pl.col("loss") * s)
    form, other = LawForm(tied=True, irreducible=1.6), LawForm(tied=True, irreducible=1.6 * s)
    plain, far = points(frame, form), points(scaled, other)
    own, theirs = law_of(plain, plain.best), law_of(far, far.best)
    assert float(theirs.alpha) == pytest.approx(float(own.alpha), rel=1e-5)
    assert float(theirs.A) == pytest.approx(float(s * own.A * k**own.alpha), rel=1e-3)


# everything after the fit


@pytest.mark.parametrize("form", FORMS)
def test_the_held_out_error_is_of_the_same_form_fitted_to_the_runs_below(form):
    frame = runs(50, noise=0.01, seed=8)
    held_out = fit_scaling(frame, resamples=0, holdout=0.3, **form).held_out
    flop = (frame["parameters"] * frame["tokens"]).to_numpy()
    low, high = np.argsort(flop)[:35], np.argsort(flop)[35:]
    part = fit_scaling(frame[low.tolist()], resamples=0, **form).every.law
    logs = np.log(frame["loss"].to_numpy()) - np.log(
        part.loss(frame["parameters"].to_numpy(), frame["tokens"].to_numpy())
    )
    assert held_out.error(LAW) == pytest.approx(np.sqrt(np.mean(logs[high] ** 2)), rel=1e-5)
    other = {} if form else {"tied": True}
    beside = fit_scaling(frame, resamples=0, holdout=0.3, **other).held_out
    assert held_out.errors["held_out"][1] == pytest.approx(beside.error(LAW), rel=1e-9)
    assert held_out.errors["predictor"][1] == ("all fitted" if form else "α = β")


@pytest.mark.parametrize("form", FORMS)
def test_the_best_use_of_a_budget_is_that_of_the_form(form):
    fit = fit_scaling(runs(40, noise=0.01), resamples=20, **form).every
    row = fit.optimum([1e21]).row(0, named=True)
    N = row["parameters"] * np.geomspace(0.01, 100, 2001)
    losses = fit.law.loss(N, 1e21 / 6 / N)
    assert row["loss"] <= losses.min() * (1 + 1e-9)
    if form.get("tied"):  # both then grow as the root of the budget: D/N is one number
        ratios = fit.optimum([1e18, 1e24])
        assert np.ptp((ratios["tokens"] / ratios["parameters"]).to_numpy()) < 1e-6 * row["tokens"] / row["parameters"]


def test_few_runs_are_enough_for_a_law_of_few_parameters():
    N, D = (grid.ravel() for grid in np.meshgrid([1e8, 1e9], [1e9, 1e10, 1e11]))
    frame = pl.DataFrame({"parameters": N, "tokens": D, "loss": TRUE.loss(N, D)})
    law = fit_scaling(frame[:6], resamples=0, tied=True, irreducible=1.7).every.law
    assert float(law.alpha) == pytest.approx(TRUE.alpha, rel=1e-3)
    assert float(fit_scaling(frame, resamples=0, tied=True).every.law.E) == pytest.approx(1.7, rel=1e-2)
    with pytest.raises(UserError, match=r"3 or more values of parameters .*got 2"):
        fit_scaling(frame, resamples=0)
    square = frame.filter(pl.col("tokens") < 5e10)
    with pytest.raises(UserError, match="2 values of parameters and 2 of tokens"):
        fit_scaling(pl.concat([square, square]), resamples=0, tied=True)
    with pytest.raises(UserError, match="4 parameters needs at least 5 runs, got 4"):
        fit_scaling(square, resamples=0, irreducible=1.7)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"irreducible": -1.0}, "irreducible must be at least 0 and below the largest loss, .*got -1"),
        ({"irreducible": 99.0}, "irreducible must be .*got 99"),
        ({"irreducible": float("nan")}, "irreducible must be .*got nan"),
        ({"delta": 0.0}, "delta must be from 1e-09 to 1 .*got 0"),
        ({"delta": 1e-300}, "delta must be from 1e-09 to 1 .*got 1e-300"),
        ({"delta": 2.0}, "delta must be .*got 2"),
        ({"delta": float("nan")}, "delta must be .*got nan"),
    ],
)
def test_bad_forms_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        fit_scaling(runs(), **options)


def test_a_constant_above_some_losses_is_warned_of():
    frame = runs(60, noise=0.01)
    low = float(np.sort(frame["loss"].to_numpy())[3]) + 1e-9
    warnings = fit_scaling(frame, resamples=0, irreducible=low).warnings
    assert any("4 of 60 runs have a loss of at most E" in warning for warning in warnings)
    assert not any("α =" in warning or "E is at 0" in warning for warning in warnings)


# is the law worth anything beyond the runs?


def test_a_law_that_predicts_no_better_than_a_constant_is_warned_of():
    def said(frame):
        fit = fit_scaling(frame, resamples=0)
        worse = not fit.held_out.error(LAW) < fit.held_out.error(MEAN)
        return worse, any("a constant" in warning for warning in fit.warnings)

    assert said(runs(60, noise=0.01)) == (False, False)
    rng = np.random.default_rng(0)
    frame = runs(60)
    flop = np.log((frame["parameters"] * frame["tokens"]).to_numpy())
    share = (flop - flop.min()) / np.ptp(flop)
    turned = frame.with_columns(  # falls at small compute and rises again at large, as with a bad learning rate
        loss=pl.Series(3 + 3 * np.abs(share - 0.75) * np.exp(0.01 * rng.standard_normal(60)))
    )
    assert said(turned) == (True, True)


# predictions


def test_a_prediction_is_the_law_and_its_interval_that_of_the_resamples():
    fit = fit_scaling(runs(50, noise=0.02), resamples=60).every
    table = fit.predict([(7e9, 1e12), (1e8, 1e10)])
    for N, D, row in zip((7e9, 1e8), (1e12, 1e10), table.iter_rows(named=True), strict=True):
        assert row["loss"] == pytest.approx(
            float(fit.law.E + fit.law.A * N**-fit.law.alpha + fit.law.B * D**-fit.law.beta)
        )
        many = np.sort([
            float(fit.resampled.E[i] + fit.resampled.A[i] * N ** -fit.resampled.alpha[i]
                  + fit.resampled.B[i] * D ** -fit.resampled.beta[i])
            for i in range(60)
        ])  # fmt: skip
        assert row["low"] == pytest.approx(many[1])  # the second of 60 is the smallest with 2.5 % at or below it
        assert row["high"] == pytest.approx(many[58])
        every = np.sort([L * np.exp(r * np.sqrt(50 / 45)) for L in many for r in fit.residuals])
        assert row["run_low"] == pytest.approx(every[round(0.025 * len(every)) - 1], rel=1e-4)
        assert row["run_high"] == pytest.approx(every[round(0.975 * len(every)) - 1], rel=1e-4)
    none = fit_scaling(runs(50), resamples=0).every.predict([(7e9, 1e12)])
    assert none.select("low", "high", "run_low", "run_high").to_numpy().tolist() == [
        [pytest.approx(np.nan, nan_ok=True)] * 4
    ]
    assert fit.predict([]).is_empty()


@given(st.floats(0.01, 100), st.floats(0.01, 100))
@settings(max_examples=30, deadline=None)
def test_extrapolation_is_named_by_how_far_it_goes(n, d):
    N, D, C, ratio = 1e10 * n, 3e11 * d, 3e21 * n * d, 30 * d / n
    fit = extrapolating()
    got = fit.extrapolation(N, D)
    values = fit.runs.select(N="parameters", D="tokens", C=pl.col("parameters") * pl.col("tokens"),
                             ratio=pl.col("tokens") / pl.col("parameters")).rename({"ratio": "D/N"})  # fmt: skip
    for name, value in {"N": N, "D": D, "C": C, "D/N": ratio}.items():
        low, high = values[name].min(), values[name].max()
        if value > high * 1.00001:
            assert got[name] == pytest.approx(value / high)
        elif value < low * 0.99999:
            assert got[name] == pytest.approx(value / low)
        elif low * 1.00001 < value < high * 0.99999:
            assert name not in got


@cache
def extrapolating():
    return fit_scaling(runs(30), resamples=0)


def test_the_runs_themselves_are_no_extrapolation():
    for row in extrapolating().runs.iter_rows(named=True):
        assert extrapolating().extrapolation(row["parameters"], row["tokens"]) == {}


@pytest.mark.slow
@pytest.mark.parametrize("form", [{}, {"tied": True}, {"irreducible": 1.7}, {"tied": True, "irreducible": 1.7}])
def test_intervals_cover_the_law_and_one_more_run_as_often_as_they_say(form):
    inside, beyond = (1e9, 1e10), (3e10, 6e11)
    law = {inside: 0, beyond: 0}
    run = {inside: 0, beyond: 0}
    alpha, n, noise = 0, 40, 0.02
    for seed in range(n):
        fit = fit_scaling(runs(60, noise=noise, seed=seed), resamples=100, seed=seed, **form).every
        draws = np.random.default_rng(10_000 + seed)
        estimates = {row["quantity"]: row for row in fit.estimates().to_dicts()}
        alpha += estimates["alpha"]["low"] <= TRUE.alpha <= estimates["alpha"]["high"]
        for model, row in zip((inside, beyond), fit.predict([inside, beyond]).to_dicts(), strict=True):
            true = TRUE.loss(*model)
            law[model] += row["low"] <= true <= row["high"]
            new = true * np.exp(noise * draws.standard_normal(20))
            run[model] += np.mean((row["run_low"] <= new) & (new <= row["run_high"]))
    assert 0.85 * n <= alpha <= n, alpha
    assert all(0.85 * n <= count <= n for count in law.values()), law
    assert all(0.92 * n <= count <= 0.98 * n for count in run.values()), run


def test_an_interval_of_the_law_is_no_interval_of_a_run():
    """With many runs the law is well known and one run is not."""
    row = fit_scaling(runs(400, noise=0.02), resamples=40).every.predict([(1e9, 1e10)]).row(0, named=True)
    assert row["high"] / row["low"] < 1.02
    assert np.log(row["run_high"] / row["run_low"]) == pytest.approx(2 * 1.96 * 0.02, rel=0.15)


def test_a_single_power_without_a_constant_is_as_it_was():
    x = np.geomspace(1, 100, 10)
    problem = PowerSum.of(x[:, None], 3 * x**-0.4, constant=False)
    assert problem.natural(problem.best)[2][0] == pytest.approx(0.4)
