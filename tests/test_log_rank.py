"""The log-rank test by permutation, its pairs and Holm's correction, against textbooks, enumeration and scipy."""

import itertools
import math
import subprocess
import sys

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from times import LEUKAEMIA, samples, signed

from shoal.analysis import (
    holm,
    logrank,
    logrank_pairs,
)
from shoal.analysis.arrangements import arrange, split_blocks

some = settings(max_examples=25, deadline=None)


def brute_force_logrank(times: pl.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Observed − expected and its covariance, run by run."""
    names = times["group"].unique(maintain_order=True).to_list()
    rows = times.select("group", "time", "observed").rows()
    difference, covariance = np.zeros(len(names)), np.zeros((len(names),) * 2)
    for step in sorted({t for _, t, seen in rows if seen}):
        at_risk = np.array([sum(g == name and t >= step for g, t, _ in rows) for name in names])
        d = np.array([sum(g == name and t == step and seen for g, t, seen in rows) for name in names])
        n, total = at_risk.sum(), d.sum()
        difference += d - at_risk * total / n
        if n > 1:
            for i, j in itertools.product(range(len(names)), repeat=2):
                share = at_risk[i] / n * ((i == j) - at_risk[j] / n)
                covariance[i, j] += share * total * (n - total) / (n - 1)
    return difference, covariance


def test_the_log_rank_test_of_the_textbook():
    test = logrank(LEUKAEMIA, "group")
    assert (test.groups, test.df) == (2, 1)
    assert test.chi2 == pytest.approx(16.79, abs=0.005)  # R's survdiff
    (pair,) = logrank_pairs(LEUKAEMIA, "group").rows(named=True)
    assert (pair["first"], pair["second"]) == ("treated", "placebo")
    assert pair["z"] == pytest.approx(-math.sqrt(16.793), abs=1e-3)  # placebo relapses sooner
    assert pair["p"] == pair["p_holm"] == test.p == pytest.approx(1 / 10_001, abs=1e-4)  # 4e-5 by the χ² distribution


@some
@given(st.integers(2, 4).flatmap(lambda k: samples(groups=k)))
def test_the_log_rank_test_equals_brute_force(times):
    difference, covariance = brute_force_logrank(times)
    expected = float(difference @ np.linalg.pinv(covariance) @ difference)
    test = logrank(times, "group")
    if np.abs(covariance).max() < 1e-12:
        assert test.p is test.chi2 is None
        return
    assert test.df == np.linalg.matrix_rank(covariance, tol=1e-9)
    assert test.chi2 == pytest.approx(expected, abs=1e-8)


@some
@given(samples(groups=2))
def test_two_groups_are_compared_as_scipy_does(times):
    first, second = (
        stats.CensoredData(
            uncensored=g.filter("observed")["time"].to_numpy().astype(float),
            right=g.filter(~pl.col("observed"))["time"].to_numpy().astype(float),
        )
        for g in (times.filter(group="a"), times.filter(group="b"))
    )
    with np.errstate(invalid="ignore", divide="ignore"):
        expected = stats.logrank(first, second).statistic
    (pair,) = logrank_pairs(times, "group").rows(named=True)
    assert (pair["z"] is None) == (not np.isfinite(expected))
    if pair["z"] is not None:
        assert pair["z"] == pytest.approx(expected, abs=1e-6)
        assert logrank(times, "group").chi2 == pytest.approx(expected**2, abs=1e-9)


def test_with_many_runs_p_is_that_of_the_chi_squared_distribution():
    rng = np.random.default_rng(5)
    time = np.ceil(rng.exponential([100.0] * 25 + [125.0] * 25 + [160.0] * 25))
    group = list("a" * 25 + "b" * 25 + "c" * 25)
    times = pl.DataFrame({"group": group, "time": np.minimum(time, 250), "observed": time <= 250})
    test = logrank(times, "group")
    assert test.p == pytest.approx(stats.chi2.sf(test.chi2, test.df), abs=0.02)


def permuted_p(times: pl.DataFrame, paired: bool) -> float:
    """The share of all permutations of the labels, repeated ones too, whose statistic by brute force is as large."""
    group = times["group"].to_list()
    seeds = times["seed"].to_list() if paired else [0] * len(group)
    where = [[i for i, own in enumerate(seeds) if own == value] for value in sorted(set(seeds))]
    found = []
    for orders in itertools.product(*(itertools.permutations(block) for block in where)):
        moved = dict(zip(itertools.chain(*where), itertools.chain(*orders), strict=True))
        labelled = times.with_columns(group=pl.Series([group[moved[i]] for i in range(len(group))]))
        difference, covariance = brute_force_logrank(labelled)
        found.append(float(difference @ np.linalg.pinv(covariance) @ difference))
    return float(np.mean(np.array(found) >= found[0] - 1e-9))  # the first is the identity


@pytest.mark.parametrize(("paired", "sizes"), [(False, (2, 2, 2)), (False, (2, 4)), (True, (2, 2, 2)), (True, (3, 3))])
def test_p_counts_the_permutations_of_the_labels(paired, sizes):
    rng = np.random.default_rng(sum(sizes))
    labels = [name for name, size in zip("abc", sizes, strict=False) for _ in range(size)]
    for _ in range(3):
        times = pl.DataFrame(
            {
                "group": labels,
                "seed": [i for size in sizes for i in range(size)],
                "time": rng.integers(1, 8, len(labels)),
                "observed": rng.random(len(labels)) < 0.8,
            }
        )
        test = logrank(times if paired else times.drop("seed"), "group")
        assert (test.exact, test.paired) == (True, paired)
        # runs that leave before the first event stay where they are
        first = times.filter("observed")["time"].min()
        assert test.p == pytest.approx(permuted_p(times.filter(pl.col("time") >= first), paired))
        assert test.p >= test.smallest_p


def test_labels_change_places_within_seeds_where_all_groups_have_the_same():
    labels, seeds = np.array([0, 0, 0, 1, 1, 1]), np.array([5, 7, 9, 9, 7, 5])
    assert [block.tolist() for block in split_blocks(labels, seeds)] == [[0, 5], [1, 4], [2, 3]]
    assert [block.tolist() for block in split_blocks(labels, np.repeat([5, 7, 9], 2))] == [[0, 1, 2, 3, 4, 5]]
    assert [block.tolist() for block in split_blocks(labels, np.full(6, 5))] == [[0, 1, 2, 3, 4, 5]]
    assert len(split_blocks(labels[:5], seeds[:5])) == len(split_blocks(labels, None)) == 1


@pytest.mark.parametrize("draws", [10, 1000])
@pytest.mark.parametrize("counts", [(2, 2), (1, 2, 3), (4,)])
def test_arrangements_are_all_there_are_or_random_ones(counts, draws):
    labels = np.repeat(np.arange(len(counts)), counts)
    number = math.factorial(sum(counts)) // math.prod(map(math.factorial, counts))
    found = arrange(labels, [np.arange(len(labels))], draws, seed=0)
    assert found.exact == (number <= draws)
    assert len(found.labels) == (number if found.exact else draws)
    assert (np.sort(found.labels, axis=1) == labels).all()
    if found.exact:
        assert len(np.unique(found.labels, axis=0)) == number
        assert (found.labels == labels).all(axis=1).any()
    alike = math.factorial(len(counts)) if len(set(counts)) == 1 else 1
    assert found.smallest_p == pytest.approx(alike / number if found.exact else max(alike / number, 1 / (draws + 1)))
    # the arrangement that is seen is one of them, and none of random ones
    permuted = np.zeros(len(found.labels))
    assert found.p(1.0, permuted) == pytest.approx(0 if found.exact else 1 / (draws + 1))
    assert found.p(0.0, permuted) == found.p(1e-12, permuted) == 1


def test_within_seeds_the_first_stays_as_it_is():
    labels, seeds = np.array([0, 1, 2, 0, 1, 2]), np.array([0, 0, 0, 1, 1, 1])
    found = arrange(labels, split_blocks(labels, seeds), 100, seed=0)
    assert sorted(map(tuple, found.labels[:, 3:].tolist())) == list(itertools.permutations(range(3)))
    assert (found.labels[:, :3] == [0, 1, 2]).all()
    assert found.smallest_p == pytest.approx(1 / 6)


@pytest.mark.parametrize("paired", [False, True])
def test_equal_settings_are_called_different_as_often_as_said(paired):
    """Six groups of two; by the χ² distribution it is 26 of 100, or 11 where seeds bring half of the variance."""
    rng, found = np.random.default_rng(1), []
    for _ in range(300):
        log = rng.standard_normal((6, 2)) + rng.standard_normal(2) * paired
        times = pl.DataFrame({"group": np.repeat(np.arange(6), 2), "time": np.ceil(100 * np.exp(log)).ravel()})
        times = times.with_columns(observed=pl.col("time") < 300, time=pl.col("time").clip(upper_bound=300))
        seeds = pl.Series("seed", [0, 1] * 6) if paired else pl.Series("other", range(12))
        found.append(logrank(times.with_columns(seeds), "group", draws=99).p)
    assert np.mean([p is not None and p <= 0.05 for p in found]) <= 0.07


def test_a_difference_that_is_plain_is_found():
    times = signed(a=list(range(1, 9)), b=list(range(11, 19)))
    free, paired = logrank(times, "group"), logrank(times.with_columns(seed=pl.Series([*range(8)] * 2)), "group")
    assert free.p < 0.001
    assert paired.p == paired.smallest_p == pytest.approx(2 / 2**8)
    assert (free.chi2, free.df) == (paired.chi2, paired.df)


def test_a_run_that_waits_does_not_part_the_pairs():
    seeds = pl.Series("seed", [0, 1, 2, 3] * 2)
    times = signed(a=[10, 20, 30, 40], b=[15, 25, 35, -45]).with_columns(
        seeds, time=pl.when(pl.col("time") == 45).then(0).otherwise("time")
    )
    test = logrank(times, "group")
    assert test.paired
    assert test.smallest_p == pytest.approx(1 / 2**3)  # a has a run more: it cannot change names with b


def test_pairs_are_corrected_for_their_number():
    times = signed(a=[1, 2, 3, 4], b=[11, 12, 13, 14], c=[-20, -20, -20, -20], d=[-20] * 4)
    pairs = logrank_pairs(times, "group")
    assert pairs.select("first", "second").rows() == list(itertools.combinations("abcd", 2))
    assert pairs["p"].to_list()[-1] is pairs["p_holm"].to_list()[-1] is None
    assert pairs["p_holm"].to_list() == holm(pairs["p"].to_list())
    assert pairs["smallest_p_holm"].to_list() == [pytest.approx(5 * 2 / math.comb(8, 4))] * 5 + [None]
    assert logrank(times, "group").df == 3


def test_holms_correction_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, None, 0.9, 0.04]) == [1.0, None, 1.0, pytest.approx(0.12)]
    assert holm([]) == []
    assert holm([None]) == [None]


@some
@given(st.lists(st.none() | st.floats(0, 1), max_size=8), st.sampled_from([0.01, 0.05, 0.2]))
def test_holm_rejects_what_stepping_down_rejects(p_values, alpha):
    corrected = holm(p_values)
    known = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    rejected = set()
    for step, (p, i) in enumerate(known):
        if p * (len(known) - step) > alpha:
            break
        rejected.add(i)
    assert {i for i, p in enumerate(corrected) if p is not None and p <= alpha} == rejected


def test_a_lab_does_not_wait_for_scipy():
    code = "import sys, shoal.analysis; sys.exit('scipy.stats' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
