"""Intervals of held-out log-likelihoods: what they are made of, and how often they hold the truth."""

import math
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from shoal.errors import UserError
from shoal.hmm import HMM, Categorical, Sequences, log_likelihood, sample
from shoal.hmm.selection import held_out, per_observation
from shoal.studies.hmm_scores import _numbers


def of_lengths(lengths):
    return Sequences(np.zeros(int(np.sum(lengths)), dtype=np.int64), lengths)


def model(stay=0.95, other=0.35):
    return HMM(
        np.array([[0.5, 0.5]]),
        np.array([[[stay, 1 - stay], [1 - stay, stay]]]),
        Categorical(np.array([[[0.97, 0.03], [other, 1 - other]]])),
    )


@settings(max_examples=50, deadline=None)
@given(st.integers(2, 12), st.integers(1, 30), st.integers(0, 99))
def test_equal_lengths_give_students_interval_of_a_mean(n_sequences, length, seed):
    values = -np.random.default_rng(seed).gamma(2, size=(3, n_sequences))
    held = per_observation(values, of_lengths([length] * n_sequences), level=0.9)
    for r, row in enumerate(values / length):
        low, high = stats.t.interval(0.9, n_sequences - 1, row.mean(), stats.sem(row))
        assert held.low[r] == pytest.approx(low) and held.high[r] == pytest.approx(high)


def test_other_lengths_give_the_jackknife_of_the_ratio():
    lengths, values = np.array([3, 9, 1, 20]), np.array([[-4.0, -8.0, -0.5, -31.0]])
    held = per_observation(values, of_lengths(lengths))
    without = [np.delete(values[0], s).sum() / np.delete(lengths, s).sum() for s in range(4)]
    error = np.sqrt(3 / 4 * np.square(without - np.mean(without)).sum())
    assert held.value[0] == pytest.approx(-43.5 / 33)
    assert held.high[0] - held.value[0] == pytest.approx(stats.t.ppf(0.975, 3) * error)
    assert held.value[0] - held.low[0] == pytest.approx(held.high[0] - held.value[0])


def test_a_sequence_without_observations_changes_nothing():
    values = np.array([[-4.0, -8.0, -0.5]])
    more = Sequences(np.array([0] * 12 + [-1] * 5 + [0]), [3, 9, 5, 1])
    held, with_missing = (
        per_observation(values, of_lengths([3, 9, 1])),
        per_observation(np.array([[-4.0, -8.0, 0.0, -0.5]]), more),
    )
    assert with_missing.low.tolist() == held.low.tolist() and with_missing.high.tolist() == held.high.tolist()


def test_an_impossible_sequence_has_no_interval_and_changes_no_other_model():
    values = np.array([[-1.0, -2.0, -3.0, -math.inf], [-1.0, -2.0, -3.0, -4.0]])
    held = per_observation(values, of_lengths([2] * 4))
    alone = per_observation(values[1:], of_lengths([2] * 4))
    assert held.value.tolist() == [-math.inf, -1.25]
    assert math.isnan(held.low[0]) and math.isnan(held.high[0])
    assert (held.low[1], held.high[1]) == (alone.low[0], alone.high[0])


def test_one_sequence_and_sequences_that_are_all_alike_have_no_interval():
    for values, lengths in (([[-3.0]], [4]), ([[-3.0, -6.0, -9.0]], [1, 2, 3]), ([[0.0, 0.0]], [5, 6])):
        held = per_observation(np.array(values), of_lengths(lengths))
        assert math.isnan(held.low[0]) and math.isnan(held.high[0]) and np.isfinite(held.value[0])


@pytest.mark.parametrize("level", [0.0, 1.0, -1.0, math.nan])
def test_levels_that_are_none(level):
    with pytest.raises(UserError, match="level must be between 0 and 1"):
        per_observation(np.array([[-1.0, -2.0]]), of_lengths([1, 1]), level=level)


def test_differences_from_the_highest_have_the_level_of_all_pairs():
    """Four numbers of states are six pairs: each difference has the interval of level 1 - 0.05 / 6."""
    models = {K: model(stay) for K, stay in enumerate((0.6, 0.8, 0.94, 0.95), 1)}
    data, _ = sample(models[4], [50] * 9, seed=3)
    rows = _numbers(pl.DataFrame({"num_states": list(models)}), models, data)
    each = [log_likelihood(one, data).log_likelihood[0] for one in models.values()]
    top = int(np.argmax([values.sum() for values in each]))
    for row, values in zip(rows, each, strict=True):
        if row["num_states"] == top + 1:
            continue
        gaps = (values - each[top]) / 50
        low, high = stats.t.interval(1 - 0.05 / 6, 8, gaps.mean(), stats.sem(gaps))
        assert (row["below_low"], row["below_high"]) == (pytest.approx(low), pytest.approx(high))


@pytest.mark.slow
@pytest.mark.parametrize(("K", "n_sequences"), [(6, 30), (8, 10)])
def test_differences_from_the_highest_hold_together(K, n_sequences, monkeypatch):
    """Of numbers of states that are all alike, the highest is chosen by the same sequences."""
    random, inside = np.random.default_rng(K), 0
    data = of_lengths([1] * n_sequences)
    models = {k: k for k in range(K)}
    for _ in range(400):
        values = random.normal(size=(K, n_sequences))
        monkeypatch.setattr(
            "shoal.studies.hmm_scores.log_likelihood",
            lambda k, _, v=values: SimpleNamespace(log_likelihood=v[k : k + 1]),
        )
        rows = _numbers(pl.DataFrame({"num_states": list(models)}), models, data)
        inside += all(not row["below"] or row["below_low"] <= 0 <= row["below_high"] for row in rows)
    assert 0.94 <= inside / 400 <= 1


def coverage(n_sequences, lengths_of, n=2000):
    """Share of data sets of a few sequences, of 20,000 of the model, whose interval holds the mean of all."""
    random = np.random.default_rng(n_sequences)
    lengths = lengths_of(random)
    data, _ = sample(model(), lengths.tolist(), seed=5)
    values, truth = log_likelihood(model(), data).log_likelihood[0], held_out(model(), data).value[0]
    inside = 0
    for rows in random.integers(len(lengths), size=(n, n_sequences)):
        held = per_observation(values[None, rows], of_lengths(lengths[rows]))
        inside += bool(held.low[0] <= truth <= held.high[0])
    return inside / n


@pytest.mark.slow
@pytest.mark.parametrize(
    ("n_sequences", "least", "most"), [(2, 0.92, 0.97), (5, 0.92, 0.96), (10, 0.92, 0.96), (30, 0.93, 0.965)]
)
def test_intervals_of_few_sequences_hold_the_truth(n_sequences, least, most):
    share = coverage(n_sequences, lambda random: random.integers(5, 200, 20_000))
    assert least <= share <= most


@pytest.mark.slow
def test_intervals_of_a_few_short_sequences_are_too_narrow():
    """The known limit: three sequences of 6 observations are often all of the common kind."""
    assert 0.78 <= coverage(3, lambda random: np.full(20_000, 6)) <= 0.86
