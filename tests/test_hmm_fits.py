"""Fits of hidden Markov models: EM, restarts, numbers of states, states matched, intervals."""

import itertools
import time
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from test_hmm import drawn, observed, seeds, symbols

from shoal.errors import UserError
from shoal.hmm import (
    HMM,
    Categorical,
    Gaussian,
    Problem,
    Sequences,
    arrays_of,
    best_of,
    bootstrap,
    compare_numbers_of_states,
    criteria,
    expected_counts,
    fit,
    held_out,
    log_likelihood,
    match_states,
    pairwise_posteriors,
    posterior_agreement,
    random_models,
    sample,
    stacked,
    state_distance,
)
from shoal.hmm.selection import chosen

PEAKED = [[0.9, 0.1], [0.1, 0.9]]
TURN = Sequences([0, 0, 0, 1, 1, 1])


def test_rounding_is_no_fall_however_near_0_the_likelihood_is():
    random = np.random.default_rng(0)
    values = np.concatenate([random.normal(0, 1, 100), random.normal(4, 1, 100)])
    at_once = {"K": 2, "restarts": 2, "tolerance": 0.0, "iterations": 100}
    scale = np.exp(best_of(Sequences(values), **at_once).log_likelihood / len(values))
    again = best_of(Sequences(values * scale), **at_once)  # of which the densities multiply to 1
    assert np.abs(again.fit.log_likelihood).max() < 1e-9 and again.fit.sound.all()


def test_the_document_s_update_falls_where_em_rises():
    """Conditional posterior transitions in place of pairwise ones: π = (½, ½), P = E, y = 0 0 0 1 1 1."""
    model = symbols([0.5, 0.5], PEAKED, PEAKED)
    em = fit(model, TURN, learn=["transitions"], iterations=300, tolerance=1e-12)
    np.testing.assert_allclose(em.history[:4, 0], [-3.77998, -3.00962, -2.98830, -2.98449], atol=5e-6)
    assert em.log_likelihood[0] == pytest.approx(-2.98354, abs=5e-6)
    assert (np.diff(em.history[:, 0]) >= 0).all() and em.sound.all() and em.converged.all()
    other = fit(model, TURN, learn=["transitions"], iterations=300, tolerance=1e-12, update="conditional")
    np.testing.assert_allclose(other.history[:4, 0], [-3.77998, -3.28318, -3.69885, -3.91308], atol=5e-6)
    assert other.log_likelihood[0] == pytest.approx(-4.05821, abs=5e-6)
    assert [problem.kind for problem in other.problems[0]] == ["fell"] and chosen(other).winner is None


def test_a_state_seen_at_the_last_place_only_keeps_its_transitions():
    model = symbols([1.0, 0.0], [[0.5, 0.5], [0.5, 0.5]], [[1.0, 0.0], [0.0, 1.0]])
    fitted = fit(model, Sequences([0, 0, 0, 1]), iterations=1)
    np.testing.assert_allclose(fitted.history[:, 0], [-2.079442, -1.909543], atol=5e-7)
    np.testing.assert_allclose(fitted.model.transitions[0], [[2 / 3, 1 / 3], [0.5, 0.5]], rtol=1e-12)
    assert fitted.sound.all()


SMALL = symbols([0.6, 0.4], [[0.7, 0.3], [0.4, 0.6]], [[0.5, 0.4, 0.1], [0.1, 0.3, 0.6]])
STEPS = Sequences([0, 1, 2])


def test_likelihoods_of_a_small_fit():
    fitted = fit(SMALL, STEPS, iterations=3)
    np.testing.assert_allclose(fitted.history[:, 0], [-3.316489, -2.708301, -2.179379, -1.790803], atol=5e-7)
    same = fit(SMALL, STEPS, iterations=0)
    assert same.log_likelihood[0] == pytest.approx(-3.316489, abs=5e-7) and same.iterations.tolist() == [0]
    before, after = arrays_of(SMALL), arrays_of(same.model)
    assert set(before) == {"start", "transitions", "probabilities"} == set(after)
    for name, array in before.items():
        assert (after[name] == array).all(), name


def test_posteriors_and_counts_of_a_small_model():
    """Of the first and the third place, and of pairs summed over the two."""
    first, third, sums = (0.876516, 0.123484), (0.212128, 0.787872), [[0.753252, 0.746196], [0.081808, 0.418743]]
    pairs, counts = pairwise_posteriors(SMALL, STEPS)[0], expected_counts(SMALL, STEPS)  # (2, 2, 2)
    np.testing.assert_allclose(pairs[0].sum(axis=1), first, atol=5e-7)
    np.testing.assert_allclose(pairs[1].sum(axis=0), third, atol=5e-7)
    np.testing.assert_allclose(pairs.sum(axis=0), sums, atol=5e-7)
    np.testing.assert_allclose(counts.pairs[0], sums, atol=5e-7)
    np.testing.assert_allclose(counts.starts[0], first, atol=5e-7)
    np.testing.assert_allclose(counts.emitted[0][:, [0, 2]], np.transpose([first, third]), atol=5e-7)


@pytest.mark.parametrize("covariances", [[[[1.0], [1.0]]], [[[[1.0]], [[1.0]]]]], ids=["diagonal", "full"])
def test_a_variance_stops_at_a_floor_that_is_named(covariances):
    model = HMM([[0.5, 0.5]], [[[0.5, 0.5], [0.5, 0.5]]], Gaussian([[[0.0], [5.0]]], covariances))
    fitted = fit(model, Sequences([0.0, 0, 0, 5, 5, 5]))
    np.testing.assert_allclose(fitted.variance_floor, [6.25e-6])  # 1e-6 of the variance of the data
    np.testing.assert_allclose(fitted.model.emissions.variances, 6.25e-6)
    [problem] = fitted.problems[0]
    assert (problem.kind, problem.states) == ("floor", (0, 1))
    assert np.isfinite(fitted.history).all() and (np.diff(fitted.history[:, 0]) >= 0).all()
    with pytest.raises(UserError, match="floor"):
        _ = chosen(fitted).model


def test_a_constant_stretch_does_not_win():
    """20 equal numbers among 300: a state for them alone has the higher likelihood, and a variance at the floor."""
    values = np.random.default_rng(0).normal(size=300)
    values[100:120] = 0.25
    moves = [[[0.9, 0.1], [0.1, 0.9]], [[0.5, 0.5], [0.5, 0.5]]]
    means, variances = [[[0.0], [0.25]], [[-0.5], [0.5]]], [[[1.0], [1e-4]], [[1.0], [1.0]]]
    start = HMM([[0.5, 0.5]] * 2, moves, Gaussian(means, variances))
    found = chosen(fit(start, Sequences(values), iterations=100))
    assert [problem.kind for problem in found.fit.problems[0]] == ["floor"]
    assert found.fit.log_likelihood[0] > found.fit.log_likelihood[1]
    assert found.winner == 1 and found.n_found == 1 and found.share == 0.5


def test_an_empty_state_keeps_its_parameters_and_is_named():
    model = symbols([1.0, 0.0], [[1.0, 0.0], [0.3, 0.7]], [[0.5, 0.5], [0.2, 0.8]])
    fitted = fit(model, Sequences([0, 1, 1, 0, 1]))
    assert [(p.kind, p.states) for p in fitted.problems[0]] == [("empty", (1,))]
    np.testing.assert_allclose(fitted.model.emissions.probabilities[0], [[0.4, 0.6], [0.2, 0.8]], rtol=1e-12)
    np.testing.assert_allclose(fitted.model.transitions[0], [[1.0, 0.0], [0.3, 0.7]])


@settings(max_examples=6, deadline=None)
@given(seeds)
def test_likelihoods_never_fall(seed):
    for size, full in (({"V": 3}, False), ({"D": 2}, False), ({"D": 2}, True)):
        data = observed([20, 1, 9], seed, **size)
        start = random_models(data, 3, 3, seed, covariance="full" if full else "diagonal")
        fitted = fit(start, data, iterations=20)
        rises = np.diff(fitted.history, axis=0)
        assert (rises[np.isfinite(rises)] > -1e-9).all()
        assert not any(problem.kind == "fell" for problems in fitted.problems for problem in problems)


def test_models_stop_on_their_own_and_are_the_same_beside_others():
    data = observed([60, 1, 20], 3, V=4)
    start = random_models(data, 3, 10, seed=1)
    together = fit(start, data, iterations=60, tolerance=1e-2)
    assert len(set(together.iterations.tolist())) > 1 and together.converged.any()
    for r in (0, 9):
        alone = fit(start.select(r), data, iterations=60, tolerance=1e-2)
        assert alone.iterations[0] == together.iterations[r]
        assert (alone.model.transitions[0] == together.model.transitions[r]).all()
        assert (alone.history[:, 0] == together.history[: len(alone.history), r]).all()


def test_a_weight_is_how_often_a_sequence_counts():
    sequences = [[0, 1, 1, 2], [2, 2, 0], [1, 0]]
    model, weights = drawn(2, 2, 0, V=3), [[2.0, 0.0, 1.0], [1.0, 1.0, 3.0]]
    fitted = fit(model, Sequences.of(sequences), weights=weights, iterations=5)
    for r, row in enumerate(weights):
        copies = [sequence for sequence, n in zip(sequences, row, strict=True) for _ in range(int(n))]
        alone = fit(model.select(r), Sequences.of(copies), iterations=5)
        assert fitted.log_likelihood[r] == pytest.approx(alone.log_likelihood[0], rel=1e-12)
        np.testing.assert_allclose(fitted.model.transitions[r], alone.model.transitions[0], rtol=1e-10)


def three_states() -> HMM:
    moves = [[[0.9, 0.05, 0.05], [0.1, 0.8, 0.1], [0.2, 0.1, 0.7]]]
    return HMM([[0.5, 0.3, 0.2]], moves, Gaussian([[[0.0], [3.0], [8.0]]], [[[1.0], [0.5], [2.0]]]))


def test_the_best_of_many_is_found_again_and_near_the_truth():
    data, _ = sample(three_states(), [60] * 10, seed=1)
    found = best_of(data, 3, restarts=16, iterations=200)
    values = found.fit.log_likelihood[found.fit.sound]
    assert found.log_likelihood == values.max()
    assert found.n_found == (values > values.max() - 0.1).sum() and found.share == found.n_found / 16 > 0.2
    assert state_distance(three_states(), found.model)[0] < 0.2
    assert posterior_agreement(three_states(), found.model, data)[0] > 0.97


def test_found_again_is_within_a_tenth_of_a_nat_among_sound_fits():
    fitted = fit(random_models(TURN, 2, 5, seed=1), TURN, iterations=2)
    problems = ((), (), (), (Problem("floor", (0,), ""),), ())
    values = np.array([-10.05, -10.0, -10.2, -9.0, -30.0])
    found = chosen(replace(fitted, log_likelihood=values, problems=problems))
    assert (found.winner, found.n_found, found.share) == (1, 2, 0.4)


def counted(model: HMM) -> int:
    """Numbers of a model that can be chosen freely, by counting them one by one."""
    rows = [model.start[0], *model.transitions[0]]
    if isinstance(model.emissions, Categorical):
        rows += [*model.emissions.probabilities[0]]
        return sum(len(row) - 1 for row in rows)
    free = sum(len(row) - 1 for row in rows) + model.emissions.means[0].size
    for matrix in model.emissions.covariances[0]:
        free += len(np.triu_indices(len(matrix))[0]) if matrix.ndim == 2 else len(matrix)
    return free


def test_criteria_count_the_free_parameters():
    for K, V, D in itertools.product((1, 2, 5), (1, 4), (1, 3)):
        for model in (drawn(1, K, 0, V=V), drawn(1, K, 0, D=D), drawn(1, K, 0, D=D, full=True)):
            assert model.n_parameters == counted(model)
    found = criteria(symbols(), -100.0, 50)
    assert found.n_parameters == 17  # 2 + 6 + 9
    assert found.aic == pytest.approx(234) and found.bic == pytest.approx(17 * np.log(50) + 200)
    assert found.aicc == pytest.approx(234 + 2 * 17 * 18 / 32)
    assert criteria(symbols(), -100.0, 18).aicc == float("inf")


def test_numbers_of_states_are_compared_by_what_was_held_out():
    data, _ = sample(three_states(), [40] * 12, seed=2)
    candidates = compare_numbers_of_states(data, [1, 2, 3], restarts=4, folds=2, iterations=40)
    assert [candidate.K for candidate in candidates] == [1, 2, 3]
    values = [candidate.held_out.value[0] for candidate in candidates]
    assert values == sorted(values) and min(c.criteria.bic for c in candidates) == candidates[2].criteria.bic
    for candidate in candidates:
        assert candidate.held_out.low[0] < candidate.held_out.value[0] < candidate.held_out.high[0]
    single = compare_numbers_of_states(data.subset([0]), [1], restarts=2)
    assert single[0].held_out is None


def test_held_out_likelihood_is_per_observation_that_is_seen():
    model, data = symbols(), Sequences.of([[0, -1, 2], [1], [3, 3]])
    found = held_out(model, data)
    total = log_likelihood(model, data).log_likelihood.sum()
    assert found.value[0] == pytest.approx(total / 5)
    alone = held_out(model, data.subset([0]))
    assert np.isnan(alone.low[0]) and np.isfinite(alone.value[0])


@settings(max_examples=15, deadline=None)
@given(seeds)
def test_a_twin_with_other_numbers_of_states_is_no_other_model(seed):
    generator = np.random.default_rng(seed)
    K = int(generator.integers(2, 7))
    for model in (drawn(1, K, seed, V=3), drawn(1, K, seed, D=2), drawn(1, K, seed, D=2, full=True)):
        order = np.stack([generator.permutation(K) for _ in range(3)])
        twins = stacked([model] * 3).permuted(order)
        np.testing.assert_allclose(state_distance(model, twins), 0, atol=1e-6)
        again = twins.permuted(match_states(model, twins))
        np.testing.assert_allclose(again.transitions, np.repeat(model.transitions, 3, axis=0))


def test_states_with_the_same_emissions_are_told_apart_by_their_transitions():
    model = symbols([0.2, 0.3, 0.5], [[0.1, 0.2, 0.7], [0.3, 0.1, 0.6], [0.45, 0.35, 0.2]], [[0.5, 0.5]] * 3)
    twins = stacked([model] * 6).permuted(np.array(list(itertools.permutations(range(3)))))
    np.testing.assert_allclose(state_distance(model, twins), 0, atol=1e-12)
    other = symbols([0.2, 0.3, 0.5], [[0.2, 0.1, 0.7], [0.3, 0.1, 0.6], [0.45, 0.35, 0.2]], [[0.5, 0.5]] * 3)
    assert state_distance(model, other)[0] == pytest.approx(0.1 / 3, abs=1e-9)


def test_states_that_differ_by_their_successors_alone_are_told_apart():
    """A cycle and its twins: each state looks like the others until it is seen where it leads."""
    model = symbols([1 / 3] * 3, [[0.1, 0.7, 0.2], [0.2, 0.1, 0.7], [0.7, 0.2, 0.1]], [[0.5, 0.5]] * 3)
    twins = stacked([model] * 6).permuted(np.array(list(itertools.permutations(range(3)))))
    np.testing.assert_allclose(state_distance(model, twins), 0, atol=1e-12)


@pytest.mark.parametrize("kind", ["sequences", "parametric"])
def test_bootstrap_intervals_are_of_matched_states(kind):
    data, _ = sample(three_states(), [50] * 20, seed=4)
    estimate = fit(three_states(), data).model.permuted(np.array([[2, 0, 1]]))
    found = bootstrap(estimate, data, 20, kind=kind, iterations=30)
    truth = np.array([[8.0], [0.0], [3.0]])
    assert (np.abs(found.low["means"] - truth) < 0.7).all() and (found.low["means"] < found.high["means"]).all()
    assert len(found.model) + found.n_unsound == 20
    assert found.low["transitions"].shape == (3, 3)


def test_a_single_sequence_is_not_resampled():
    with pytest.raises(UserError, match="parametric"):
        bootstrap(symbols(), Sequences([0, 1, 2, 3]))


@pytest.mark.slow
def test_bootstrap_and_held_out_intervals_hold_the_truth():
    """In 200 worlds: 95 % intervals of a transition, and of the likelihood per observation."""
    truth, held = symbols([0.5, 0.5], [[0.9, 0.1], [0.2, 0.8]], [[0.9, 0.1], [0.2, 0.8]]), 0
    many, _ = sample(truth, [40] * 5000, seed=10_000)
    expected, inside = held_out(truth, many).value[0], 0
    for world in range(200):
        data, _ = sample(truth, [40] * 60, seed=world)
        estimate = fit(truth, data, iterations=100, tolerance=1e-4).model
        found = bootstrap(estimate, data, 100, seed=world, iterations=60, tolerance=1e-3)
        inside += found.low["transitions"][0, 1] <= 0.1 <= found.high["transitions"][0, 1]
        score = held_out(truth, data)
        held += score.low[0] <= expected <= score.high[0]
    assert 178 <= inside <= 199 and 180 <= held <= 199  # 190 ± 3.1 by chance


@pytest.mark.slow
def test_many_restarts_cost_little_more_than_one():
    data = Sequences(np.random.default_rng(0).integers(0, 6, 2000))
    ratios = []
    for _ in range(5):
        seconds = []
        for restarts in (1, 64):
            began = time.process_time()
            best_of(data, 8, restarts, iterations=30, tolerance=0.0)
            seconds.append(time.process_time() - began)
        ratios.append(seconds[1] / seconds[0])
    assert np.median(ratios) < 10


def as_hmmlearn(library, model: HMM, r: int, iterations: int):
    """Model of hmmlearn without priors, with the parameters of one of ours."""
    shared = {"n_iter": iterations, "tol": -np.inf, "init_params": "", "implementation": "scaling"}
    emissions = model.emissions
    if isinstance(emissions, Categorical):
        theirs = library.CategoricalHMM(model.K, **shared)
        theirs.n_features, theirs.emissionprob_ = emissions.probabilities.shape[2], emissions.probabilities[r]
    else:
        kind = "full" if emissions.is_full else "diag"
        theirs = library.GaussianHMM(model.K, covariance_type=kind, covars_prior=0, min_covar=0, **shared)
        theirs.n_features = emissions.means.shape[2]
        theirs.means_, theirs.covars_ = emissions.means[r], emissions.covariances[r]
    theirs.startprob_, theirs.transmat_ = model.start[r], model.transitions[r]
    return theirs


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["symbols", "diagonal", "full"])
@pytest.mark.parametrize("K", range(1, 9))
def test_fits_are_those_of_hmmlearn(K, kind):
    """All parameters within 1e-10 after 1 and 50 updates without priors, from sequences of length 1 to 300."""
    library = pytest.importorskip("hmmlearn.hmm")
    size = {"V": 5} if kind == "symbols" else {"D": 2}
    model = drawn(3, K, 20 + K, **size, full=kind == "full")
    lengths = [300, 1, 157, 290, 2, 200, 33, 1]
    data = Sequences.of([sample(model.select(0), [n], seed=s)[0].values for s, n in enumerate(lengths)])
    for iterations in (1, 50):
        fitted = fit(model, data, iterations=iterations, tolerance=0.0, floor=1e-12)
        assert fitted.sound.all() and (fitted.iterations == iterations).all()
        ours = fitted.model
        for r in range(3):
            theirs = as_hmmlearn(library, model, r, iterations)
            theirs.fit(data.values.reshape(len(data.values), -1), lengths)
            close = {"rtol": 0, "atol": 1e-10}
            np.testing.assert_allclose(ours.start[r], theirs.startprob_, **close)
            np.testing.assert_allclose(ours.transitions[r], theirs.transmat_, **close)
            if kind == "symbols":
                np.testing.assert_allclose(ours.emissions.probabilities[r], theirs.emissionprob_, **close)
                continue
            np.testing.assert_allclose(ours.emissions.means[r], theirs.means_, **close)
            covariances = theirs.covars_ if kind == "full" else np.diagonal(theirs.covars_, axis1=1, axis2=2)
            np.testing.assert_allclose(ours.emissions.covariances[r], covariances, **close)
            score = theirs.score(data.values, lengths)
            assert expected_counts(ours, data).log_likelihood[r].sum() == pytest.approx(score, rel=1e-11)
