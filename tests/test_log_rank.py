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
from shoal.analysis.arrangements import arrange
from shoal.analysis.correction import Family, shaffer

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
    assert pair["p"] == pair["p_corrected"] == test.p
    assert test.p == pytest.approx(1 / 10_001, abs=1e-4)  # 4e-5 by the χ² distribution


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
        assert (test.exact, test.blocks) == (True, ("seed",) if paired else ())
        # runs that leave before the first event stay where they are
        first = times.filter("observed")["time"].min()
        assert test.p == pytest.approx(permuted_p(times.filter(pl.col("time") >= first), paired))
        assert test.p >= test.smallest_p


CROSSED = [(seed, depth, width) for seed in range(2) for depth in range(3) for width in range(3)]


def crossed_times(log_time: np.ndarray, horizon: float = np.inf) -> pl.DataFrame:
    """Times of runs of every depth at every width, on two seeds, from their logarithms in that order."""
    time = np.ceil(1000 * np.exp(log_time))
    return pl.DataFrame(CROSSED, ["seed", "depth", "width"], orient="row").with_columns(
        time=pl.Series(np.minimum(time, horizon)), observed=pl.Series(time < horizon)
    )


def test_a_setting_is_compared_within_the_other_ones():
    rng = np.random.default_rng(3)
    log = np.array([0.8 * depth + 0.4 * width for _, depth, width in CROSSED]) + 0.4 * rng.standard_normal(18)
    times = crossed_times(log, horizon=4000)
    test = logrank(times, "width", within="depth")
    difference, covariance = np.zeros(3), np.zeros((3, 3))
    for depth in range(3):
        own = times.filter(depth=depth).rename({"width": "group"})
        first = own.filter("observed")["time"].min()
        parts = brute_force_logrank(own.filter(pl.col("time") >= first).sort("group"))
        difference, covariance = difference + parts[0], covariance + parts[1]
    assert test.chi2 == pytest.approx(difference @ np.linalg.pinv(covariance) @ difference)
    assert (test.df, test.exact, test.blocks, test.alone) == (2, True, ("seed", "depth"), 0)
    # every order of the widths of each seed and depth, by brute force: 6^6 of them, or 6^5 up to names
    assert test.smallest_p == pytest.approx(6 / 6**6)
    assert logrank(times, "width").chi2 < test.chi2  # where the depths are noise
    shuffled = times.sample(fraction=1, shuffle=True, seed=1)
    assert logrank(shuffled.sort("width"), "width", within="depth").p == pytest.approx(test.p)


@some
@given(samples(groups=3, most=4), st.integers(0, 2**12 - 1))
def test_strata_add_up_whatever_runs_there_are(times, depths):
    times = times.with_columns(depth=pl.Series([depths >> i & 1 for i in range(len(times))]))
    times = times.with_columns(seed=pl.int_range(pl.len()))
    test = logrank(times, "group", within="depth")
    names = times["group"].unique(maintain_order=True).to_list()
    places = {name: i for i, name in enumerate(names)}
    difference, covariance = np.zeros(len(names)), np.zeros((len(names),) * 2)
    for _, own in times.group_by("depth"):
        ours = [places[name] for name in own["group"].unique(maintain_order=True)]
        parts = brute_force_logrank(own)
        difference[ours] += parts[0]
        covariance[np.ix_(ours, ours)] += parts[1]
    if np.abs(covariance).max() < 1e-12:
        assert test.p is test.chi2 is None
    else:
        assert test.df == np.linalg.matrix_rank(covariance, tol=1e-9)
        assert test.chi2 == pytest.approx(difference @ np.linalg.pinv(covariance) @ difference, abs=1e-8)
        assert test.smallest_p <= test.p <= 1


def test_which_comes_sooner_is_not_the_doing_of_another_setting():
    """At either depth a is sooner; a has most of its runs at the slow depth."""
    times = signed(a=[100, 110, 120, 125, 126, 10], b=[130, 20, 25, 30, 35, 40]).with_columns(
        depth=pl.Series([3, 3, 3, 3, 3, 1, 3, 1, 1, 1, 1, 1]), seed=pl.int_range(12)
    )
    free, within = (logrank_pairs(times, "group", within=names)["z"].item() for names in ((), "depth"))
    assert free < 0 < within


def test_runs_without_a_counterpart_keep_their_labels():
    log = np.array([0.5 * width for _, _, width in CROSSED]) + 0.1 * np.arange(18) % 0.3
    whole = crossed_times(log)
    holes = whole.filter((pl.col("depth") < 2) | (pl.col("width") == 0))  # depth 2 at one width alone
    found = logrank(holes, "width", within="depth")
    assert (found.alone, found.blocks) == (2, ("seed", "depth"))
    without = logrank(holes.filter(pl.col("depth") < 2), "width", within="depth")
    assert (found.chi2, found.p) == (pytest.approx(without.chi2), pytest.approx(without.p))
    none = logrank(whole.filter(pl.col("depth") == pl.col("width")), "width", within="depth")
    assert (none.chi2, none.p, none.alone) == (None, None, 6)


@pytest.mark.slow
@pytest.mark.parametrize(("width", "low", "high"), [(0.4, 0.55, 0.75), (0.0, 0.0, 0.075)])
def test_level_and_power_where_depth_is_crossed_with_width(width, low, high):
    """0.8 between depths would be noise to a test within seeds alone, which then finds 0.4 in 3 of 100."""
    rng, found = np.random.default_rng(11), []
    for _ in range(400):
        log = np.array([0.8 * depth + width * w for _, depth, w in CROSSED]) + 0.4 * rng.standard_normal(18)
        test = logrank(crossed_times(log), "width", within="depth", draws=999)
        found.append(test.p <= 0.05)
    assert low <= np.mean(found) <= high


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
    labels = np.array([0, 1, 2, 0, 1, 2])
    found = arrange(labels, [np.arange(3), np.arange(3, 6)], 100, seed=0)
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
    assert test.blocks == ("seed",)
    assert test.smallest_p == pytest.approx(1 / 2**3)  # a has a run more: it cannot change names with b


def test_pairs_are_corrected_for_their_number():
    times = signed(a=[1, 2, 3, 4], b=[11, 12, 13, 14], c=[-20, -20, -20, -20], d=[-20] * 4)
    pairs = logrank_pairs(times, "group")
    assert pairs.select("first", "second").rows() == list(itertools.combinations("abcd", 2))
    assert pairs["p"].to_list()[-1] is pairs["p_corrected"].to_list()[-1] is None
    assert pairs["p_corrected"].to_list() == shaffer(pairs["p"].to_list(), groups=4)
    # of four groups that are not all alike at most three pairs are equal
    assert pairs["smallest_p_corrected"].to_list() == [pytest.approx(3 * 2 / math.comb(8, 4))] * 5 + [None]
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


@pytest.mark.parametrize("groups", [2, 3, 4, 5])
def test_shaffers_correction_multiplies_by_the_pairs_that_can_still_be_equal(groups):
    """By listing every way in which groups can be alike, but all of them."""
    pairs = list(itertools.combinations(range(groups), 2))
    alike = {
        frozenset(pair for pair in pairs if means[pair[0]] == means[pair[1]])
        for means in itertools.product(range(groups), repeat=groups)
    }
    sizes = sorted({len(equal) for equal in alike if len(equal) < len(pairs)})
    rng = np.random.default_rng(groups)
    for _ in range(20):
        p = rng.random(len(pairs)) ** 3
        corrected = shaffer(p.tolist(), groups)
        expected, largest = [0.0] * len(pairs), 0.0
        for place, index in enumerate(np.argsort(p)):
            most = max([n for n in sizes if n <= len(pairs) - place] + [1])
            largest = expected[index] = max(largest, min(most * p[index], 1.0))
        assert corrected == pytest.approx(expected)
        assert all(a <= b + 1e-12 for a, b in zip(corrected, holm(p.tolist()), strict=True))
    assert shaffer([None, 0.04, 0.01], 3) == [None, 0.04, 0.01]


@pytest.mark.slow
def test_pairs_after_a_test_of_all_are_called_different_as_seldom_as_said():
    """Three groups and four, one of which is far from the others: any word about the others is false."""
    rng = np.random.default_rng(4)
    for groups, runs in ((3, 5), (4, 5)):
        false = 0
        for _ in range(300):
            log = rng.standard_normal((groups, runs))
            log[0] += 5
            group = np.repeat(np.arange(groups), runs)
            times = pl.DataFrame({"group": group, "time": np.exp(log).ravel()}).with_columns(observed=pl.lit(True))
            if logrank(times, "group", draws=199).p > 0.05:
                continue
            pairs = logrank_pairs(times, "group", draws=199).filter(pl.col("first") != "0")
            false += bool((pairs["p_corrected"] <= 0.05).any())
        assert false / 300 <= 0.075


def test_a_family_says_what_it_can_find():
    family = Family.of([0.01, None, 0.04], [0.001, None, 0.02])
    assert family.corrected == (0.02, None, 0.04)
    assert (family.tests, family.floor) == (2, pytest.approx(0.002))
    assert Family.of([0.2] * 40, [0.03] * 40).floor == 1
    assert Family.of([None]) == Family((None,), (None,), 0, None)


def test_a_lab_does_not_wait_for_scipy():
    code = "import sys, shoal.analysis; sys.exit('scipy.stats' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
