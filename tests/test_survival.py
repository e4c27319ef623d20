"""Times to a threshold, their curves and tests, against textbooks, brute force and scipy; and how they are shown."""

import itertools
import math
import subprocess
import sys

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal
from scipy import stats

from shoal.analysis import (
    holm,
    kaplan_meier,
    logrank,
    logrank_pairs,
    restricted_times,
    survival_summary,
    time_to,
)
from shoal.analysis.arrangements import arrange, split_blocks
from shoal.analysis.survival import outlasting
from shoal.errors import UserError
from shoal.report import (
    Report,
    Section,
    logrank_sentence,
    survival_curves,
    survival_figure,
    survival_table,
    write_report,
)

some = settings(max_examples=25, deadline=None)

# Freireich et al. 1963: weeks in remission under 6-mercaptopurine (negative: still in it when last seen) and placebo.
TREATED = [6, 6, 6, -6, 7, -9, 10, -10, -11, 13, 16, -17, -19, -20, 22, 23, -25, -32, -32, -34, -35]
PLACEBO = [1, 1, 2, 2, 3, 4, 4, 5, 5, 8, 8, 8, 8, 11, 11, 12, 12, 15, 17, 22, 23]


def signed(**groups: list[int]) -> pl.DataFrame:
    """Groups of times, censored ones negative (a censored 0 does not occur)."""
    rows = [{"group": name, "time": abs(t), "observed": t > 0} for name, times in groups.items() for t in times]
    return pl.DataFrame(rows, schema={"group": pl.String, "time": pl.Int64, "observed": pl.Boolean})


LEUKAEMIA = signed(treated=TREATED, placebo=PLACEBO)


@st.composite
def samples(draw, groups: int = 1, most: int = 8) -> pl.DataFrame:
    """Times of some groups, with many ties; every group has at least one run."""
    rows = st.tuples(st.integers(1, 6), st.booleans())
    return pl.DataFrame(
        [
            {"group": "abcd"[i], "time": time * 50, "observed": seen}
            for i in range(groups)
            for time, seen in draw(st.lists(rows, min_size=1, max_size=most))
        ]
    )


def brute_force_curve(times: list[tuple[int, bool]]) -> dict[int, tuple[float, float, float]]:
    """Product limit with Greenwood's sum, one step at a time: S, and the log(−log) interval where there is one."""
    survival, greenwood, out = 1.0, 0.0, {}
    for step in sorted({time for time, _ in times}):
        n = sum(time >= step for time, _ in times)
        d = sum(time == step and seen for time, seen in times)
        survival *= (n - d) / n
        greenwood += d / (n * (n - d)) if n > d else 0.0
        low = high = math.nan
        if 0 < survival < 1:
            half = 1.959963984540054 * math.sqrt(greenwood) / abs(math.log(survival))
            low, high = survival ** math.exp(half), survival ** math.exp(-half)
        out[step] = (survival, low, high)
    return out


# times


def test_the_time_is_the_first_evaluated_step_on_the_right_side():
    curves = pl.DataFrame(
        {
            "run": ["a", "a", "a", "b", "b", "c", "c", "d"],
            "step": [200, 100, 300, 100, 250, 100, 200, 50],
            "valid_accuracy": [0.99, 0.5, 0.1, 0.5, 0.98, math.nan, None, 1.0],
            "valid_loss": [0.1, 2.0, 3.0, 2.0, 0.2, math.nan, None, 0.05],
        }
    )
    states = pl.DataFrame(
        {"run": ["a", "b", "c", "e"], "state": ["diverged", "done", "diverged", "waiting"], "step": [340, 250, 137, 0]}
    )
    assert time_to(curves, states=states).rows() == [
        ("a", 200, True, "diverged"),
        ("b", 250, False, "done"),
        ("c", 137, False, "diverged"),
        ("d", 50, True, None),
        ("e", 0, False, "waiting"),
    ]
    assert time_to(curves, "valid_loss", 0.2, "at most").select("time", "observed").rows() == [
        (200, True),
        (250, True),
        (100, False),
        (50, True),
    ]
    assert time_to(curves, threshold=0.5, states=states.drop("step"))["time"].to_list() == [100, 100, 100, 50, 0]


def test_a_threshold_is_met_by_the_number_that_float32_has_for_it():
    curves = pl.DataFrame({"run": ["a"], "step": [7], "valid_accuracy": pl.Series([0.9], dtype=pl.Float32)})
    assert time_to(curves, threshold=0.9)["observed"].to_list() == [True]


def test_wrong_columns_and_directions_are_named():
    curves = pl.DataFrame({"run": ["a"], "step": [7], "valid_accuracy": [0.9]})
    with pytest.raises(UserError, match=r"unknown column 'valid_acuracy'.*did you mean 'valid_accuracy'"):
        time_to(curves, "valid_acuracy")
    with pytest.raises(UserError, match="unknown direction 'atmost': 'at least' or 'at most'; did you mean 'at most'"):
        time_to(curves, direction="atmost")
    with pytest.raises(UserError, match="unknown column 'modle'"):
        kaplan_meier(signed(a=[1]), "modle")


@some
@given(st.lists(st.lists(st.sampled_from([0.0, 0.5, 0.9, math.nan, None]), min_size=1, max_size=6), max_size=4))
def test_times_equal_brute_force(runs):
    schema = {"run": pl.String, "step": pl.Int64, "valid_accuracy": pl.Float64}
    rows = [(str(i), 10 * k, value) for i, run in enumerate(runs) for k, value in enumerate(run)]
    curves, threshold = pl.DataFrame(rows, schema=schema, orient="row"), 0.5
    for direction in ("at least", "at most"):
        found = time_to(curves, threshold=threshold, direction=direction)
        expected = []
        for i, run in enumerate(runs):
            known = [(10 * k, v) for k, v in enumerate(run) if v is not None]
            right = [s for s, v in known if (v >= threshold if direction == "at least" else v <= threshold)]
            last = known[-1][0] if known else 0
            expected.append((str(i), right[0] if right else last, bool(right), None))
        assert found.rows() == expected


def test_restricted_times_know_everything():
    times = signed(a=[10, 900, -300, -20, 300]).with_columns(state=pl.Series(["done"] * 3 + ["diverged", "done"]))
    cut, horizon = restricted_times(times)
    assert horizon == 300
    assert cut.select("time", "observed").rows() == [(10, True), (300, False), (300, False), (300, False), (300, True)]
    assert restricted_times(times, 200)[1] == 200
    assert restricted_times(times, 5000)[1] == 300
    assert restricted_times(signed(a=[10, 90]))[1] == 90
    assert restricted_times(signed(a=[10, 90]), 500)[1] == 500
    assert restricted_times(signed())[1] is None


# the curve


def test_the_curve_of_the_textbook():
    curve = kaplan_meier(LEUKAEMIA.filter(group="treated"))
    events = curve.filter(pl.col("events") > 0)
    assert events["step"].to_list() == [6, 7, 10, 13, 16, 22, 23]
    assert events["survival"].round(3).to_list() == [0.857, 0.807, 0.753, 0.690, 0.627, 0.538, 0.448]
    assert events["at_risk"].to_list() == [21, 17, 15, 12, 11, 7, 6]
    assert (curve["censored"].sum(), curve["events"].sum()) == (12, 9)
    summary = {row["group"]: row for row in survival_summary(LEUKAEMIA, "group").rows(named=True)}
    treated, placebo = summary["treated"], summary["placebo"]
    # as R's survfit(conf.type = "log-log") prints them
    assert (treated["median"], treated["median_low"], treated["median_high"]) == (23, 13, None)
    assert (placebo["median"], placebo["median_low"], placebo["median_high"]) == (8, 4, 11)


@some
@given(samples(groups=2), st.randoms())
def test_curves_equal_the_product_limit_in_any_order_of_rows(times, random):
    rows = times.rows()
    random.shuffle(rows)
    found = kaplan_meier(pl.DataFrame(rows, schema=times.schema, orient="row"), "group")
    for group in "ab":
        expected = brute_force_curve(times.filter(group=group).select("time", "observed").rows())
        own = found.filter(group=group)
        assert own["step"].to_list() == list(expected)
        for column, values in zip(("survival", "low", "high"), zip(*expected.values(), strict=True), strict=True):
            np.testing.assert_allclose(own[column].cast(pl.Float64).fill_null(math.nan), values, atol=1e-12)


@some
@given(samples(groups=3), st.sampled_from([2, 7]))
def test_slower_clocks_stretch_the_curves_and_change_no_test(times, factor):
    slow = times.with_columns(pl.col("time") * factor)
    curve, stretched = kaplan_meier(times, "group"), kaplan_meier(slow, "group")
    assert_frame_equal(curve.with_columns(pl.col("step") * factor), stretched)
    assert logrank(times, "group") == logrank(slow, "group")
    before, after = survival_summary(times, "group"), survival_summary(slow, "group")
    for name in ("median", "median_low", "median_high", "restricted_mean", "horizon"):
        assert after[name].to_list() == pytest.approx([None if v is None else factor * v for v in before[name]])


@some
@given(samples(groups=2))
def test_a_run_that_was_never_watched_changes_nothing(times):
    never = pl.DataFrame({"group": ["a"], "time": [0], "observed": [False]})
    more = pl.concat([times, never])
    # numpy rounds the logarithms of arrays of different lengths differently
    assert_frame_equal(kaplan_meier(more, "group").filter(pl.col("step") > 0), kaplan_meier(times, "group"))
    assert logrank(more, "group") == logrank(times, "group")
    names = ["generalised", "median", "median_low", "median_high", "restricted_mean"]
    assert_frame_equal(survival_summary(more, "group").select(names), survival_summary(times, "group").select(names))


def test_a_run_that_diverged_is_followed_to_where_its_curve_ends():
    diverged = pl.Series(["diverged", "done", "done", "done", "diverged", "diverged", "running"])
    times = signed(a=[-10, 100, 200, -400], b=[-30], c=[-20, -50]).with_columns(state=diverged)
    curve = kaplan_meier(times, "group")
    assert curve.filter(group="a")["survival"].to_list() == [0.75, 0.5, 0.5]
    assert curve.filter(group="a")["at_risk"].to_list() == [4, 3, 2]
    assert curve.filter(group="b").select("step", "survival").rows() == [(400, 1)]
    # of c no more is known than of the run that is still in training
    assert curve.filter(group="c")["step"].to_list() == [50]
    assert outlasting(times.filter(group="b"))["time"].to_list() == [30]
    got_there_first = times.with_columns(observed=pl.lit(True))
    assert outlasting(got_there_first)["time"].to_list() == times["time"].to_list()


def test_diverging_does_not_make_a_setting_look_faster():
    steady = signed(a=[300, 400, 500, 600, 700, 800], b=[300, 400, 500, 600, 700, 800])
    lost = (pl.col("group") == "b") & (pl.col("time") >= 500)
    times = steady.with_columns(
        time=pl.when(lost).then(20).otherwise("time"),
        observed=~lost,
        state=pl.when(lost).then(pl.lit("diverged")).otherwise(pl.lit("done")),
    )
    a, b = survival_summary(times, "group").rows(named=True)
    assert (a["median"], b["median"]) == (500, None)
    assert b["restricted_mean"] == pytest.approx((300 + 400 + 4 * 800) / 6)
    assert a["restricted_mean"] == 550
    assert logrank_pairs(times, "group")["z"].item() > 0
    horizon = times.with_columns(time=pl.when(state="diverged").then(800).otherwise("time"))
    assert logrank(times, "group") == logrank(horizon.drop("state"), "group")


# the summary


@some
@given(samples())
def test_the_interval_of_the_median_holds_the_steps_at_which_the_band_holds_one_half(times):
    times = pl.concat([times] * 6)  # with fewer than six runs there is none
    row = survival_summary(times).row(0, named=True)
    curve = brute_force_curve(times.select("time", "observed").rows())

    def at(step: float) -> tuple[float, float, float]:
        passed = [(1.0, 1.0, 1.0), *(values for s, values in curve.items() if s <= step)]
        survival, low, high = passed[-1]
        if survival == 0:  # the formula says nothing of the end; the upper edge stays where it was
            low, high = 0.0, [h for _, _, h in passed if not math.isnan(h)][-1]
        elif survival == 1:
            low = high = 1.0
        return survival, low, high

    last = max(curve)
    for step in range(0, last + 1, 25):
        survival, low, high = at(step)
        assert (row["median"] is not None and step >= row["median"]) == (survival <= 0.5 + 1e-12)
        inside = row["median_low"] is not None and row["median_low"] <= step
        inside &= row["median_high"] is None or step < row["median_high"]
        assert inside == (low <= 0.5 + 1e-12 < high)


@some
@given(samples(groups=2))
def test_rates_have_wilsons_interval(times):
    z = 1.959963984540054
    for row in survival_summary(times, "group").rows(named=True):
        own = times.filter(group=row["group"])
        n, k = len(own), own["observed"].sum()
        assert (row["N"], row["generalised"], row["censored"]) == (n, k, n - k)
        middle = (k + z**2 / 2) / (n + z**2)
        half = z / (n + z**2) * math.sqrt(k * (n - k) / n + z**2 / 4)
        assert row["rate"] == k / n
        assert (row["rate_low"], row["rate_high"]) == pytest.approx((max(middle - half, 0), min(middle + half, 1)))


@pytest.mark.parametrize("n", range(2, 9))
def test_the_median_has_an_interval_where_its_ends_can_have_their_level(n):
    times = [100 * (i + 1) for i in range(n)]
    row = survival_summary(signed(a=[*times, -1, -1, -1])).row(0, named=True)
    assert row["median"] is not None
    assert (row["median_low"] is None) == (2.0**-n > 0.025)
    assert row["median_high"] is None or n > 5
    # a curve that came down to one half, of which the first run is censored late
    assert survival_summary(signed(a=[1, 1, 1, -5, -5])).row(0, named=True)["median_low"] is None


@some
@given(st.lists(st.integers(1, 40), min_size=2, max_size=12), st.sampled_from([None, 20, 60]))
def test_the_restricted_mean_of_known_times_is_their_mean(times, horizon):
    row = survival_summary(signed(a=times), horizon=horizon).row(0, named=True)
    h = max(times) if horizon is None else horizon
    assert (row["horizon"], row["restricted"]) == (h, horizon is not None)
    known = np.minimum(times, h)
    mean, n = known.mean(), len(times)
    assert row["restricted_mean"] == pytest.approx(mean)
    if n < 3 or np.ptp(known) == 0:
        assert row["restricted_mean_low"] is row["restricted_mean_high"] is None
        return
    half = stats.t.ppf(0.975, n - 1) * known.std(ddof=1) / math.sqrt(n)
    ends = (row["restricted_mean_low"], row["restricted_mean_high"])
    if horizon is None:
        assert ends == pytest.approx((mean * math.exp(-half / mean), mean * math.exp(half / mean)))
    else:
        slope = 1 / mean + 1 / (h - mean)  # of log(x / (h − x))
        expected = [h / (1 + (h - mean) / mean * math.exp(sign * half * slope)) for sign in (1, -1)]
        assert ends == pytest.approx(expected)


@pytest.mark.parametrize("n", [3, 5, 8])
@pytest.mark.parametrize("horizon", [None, 1200])
def test_the_interval_of_the_mean_holds_it_nearly_as_often_as_it_says(n, horizon):
    rng, samples = np.random.default_rng(n), 200
    time = np.ceil(1000 * np.exp(0.5 * rng.standard_normal(n * samples)))
    many = 1000 * np.exp(0.5 * rng.standard_normal(1_000_000))
    mean = many.mean() if horizon is None else np.minimum(many, horizon).mean()
    frame = pl.DataFrame({"sample": np.arange(samples).repeat(n), "time": time}).with_columns(observed=True)
    found = survival_summary(frame, "sample", horizon).drop_nulls("restricted_mean_low")
    assert len(found) > 0.9 * samples  # the others are all at the horizon
    held = found.select(pl.lit(mean).is_between("restricted_mean_low", "restricted_mean_high"))
    assert held.to_series().mean() >= 0.88  # 0.72 to 0.88 by a normal interval of Greenwood's variance


@some
@given(samples(groups=2), st.integers(10, 350) | st.none())
def test_restricted_means_are_areas_up_to_a_horizon_that_all_curves_know(times, horizon):
    summary = survival_summary(times, "group", horizon)
    end = summary["horizon"][0]
    curves = {g: brute_force_curve(times.filter(group=g).select("time", "observed").rows()) for g in "ab"}
    known = [max(c) for c in curves.values() if c[max(c)][0] > 0] + ([] if horizon is None else [horizon])
    assert end == (min(known) if known else max(max(c) for c in curves.values()))
    for row in summary.rows(named=True):
        curve = curves[row["group"]]
        area = sum(([1.0] + [v[0] for s, v in curve.items() if s <= t])[-1] for t in range(int(end)))
        assert row["restricted_mean"] == pytest.approx(area)


def test_who_did_not_generalise_is_told_apart():
    times = signed(a=[10, -20, -20, -30, -5, 40]).with_columns(
        state=pl.Series(["diverged", "diverged", "running", "done", None, "running"])
    )
    row = survival_summary(times).row(0, named=True)
    assert [row[name] for name in ("N", "generalised", "diverged", "unfinished", "censored")] == [6, 2, 1, 1, 2]


def test_a_group_that_diverged_does_not_shorten_the_others():
    times = signed(a=[-3, -2], b=[50, -100]).with_columns(state=pl.Series(["diverged"] * 2 + ["done"] * 2))
    summary = survival_summary(times, "group")
    assert summary["horizon"].to_list() == [100, 100]
    assert summary["restricted_mean"].to_list() == [100, 75]
    assert survival_summary(times.filter(group="a"), "group")["horizon"].to_list() == [3]
    reached = times.with_columns(observed=pl.col("group") == "b")  # whoever diverged is all that has not got there
    assert survival_summary(reached, "group").select("horizon", "restricted").rows() == [(100, True)] * 2


@pytest.mark.parametrize("begun", [0, 40])
@pytest.mark.parametrize("other", ["waiting", "diverged"])
def test_a_group_without_an_outcome_does_not_shorten_the_others(begun, other):
    """Whether its runs wait, have begun, or one of them has diverged meanwhile."""
    times = signed(a=[50, -100, -400], b=[-1, -1], c=[10, 20]).with_columns(
        time=pl.when(group="b").then(begun).otherwise("time"),
        state=pl.Series(["done", "running", "done", "running", other, "done", "done"]),
    )
    summary = survival_summary(times, "group")
    assert summary["horizon"].to_list() == [400] * 3
    assert summary["restricted_mean"].to_list() == [pytest.approx((50 + 2 * 400) / 3), None, 15]
    assert survival_summary(times.filter(group="b"), "group")["horizon"].to_list() == [begun]
    finished = times.with_columns(state=pl.lit("done"), time=pl.max_horizontal("time", 1))
    assert survival_summary(finished, "group")["horizon"].to_list() == [max(begun, 1)] * 3


@pytest.mark.parametrize("times", [signed(), signed(a=[5]), signed(a=[-5]), signed(a=[5, 5, 5], b=[-5, -5], c=[7])])
def test_nothing_and_next_to_nothing_are_no_reason_to_fail(times):
    curve, summary = kaplan_meier(times, "group"), survival_summary(times, "group")
    assert len(summary) == times["group"].n_unique()
    assert curve.is_empty() or curve["at_risk"].min() >= 1
    test = logrank(times, "group")
    assert test.groups == len(summary)
    assert (test.p is None) == (test.groups < 2)
    assert len(logrank_pairs(times, "group")) == math.comb(test.groups, 2)


# tests


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


# how it is shown


def runs(by: str, **groups: list[int]) -> pl.DataFrame:
    return signed(**groups).rename({"group": by}).with_columns(state=pl.lit("done"))


SHOWN = runs("model", LSTM=[700, 800, 900, -1000, 950], GPT=[300, 350, 400, 420, -50]).with_columns(
    state=pl.when(pl.col("time") == 50).then(pl.lit("diverged")).otherwise("state")
)


def test_the_table_says_how_many_and_when():
    table = survival_table("times", SHOWN, "model")
    assert table.header == [
        "model", "N", "generalised", "censored", "diverged", "rate", "median step", "mean step up to 1,000",
    ]  # fmt: skip
    rows = {label: [cell.text for cell in cells] for label, cells in table.rows}
    assert rows["LSTM"][:5] == ["5", "4", "1", "0", "0.8 [0.38, 0.96]"]
    assert rows["GPT"][:4] == ["5", "4", "0", "1"]
    assert rows["GPT"][5] == "400"  # of five, the median has no interval
    assert "1 diverged and can never get there: median and mean follow such a run to the end" in table.caption
    assert "Student" in table.caption
    assert "Brookmeyer" not in table.caption
    assert "Brookmeyer" in survival_table("times", pl.concat([SHOWN] * 2), "model").caption
    assert "unfinished" not in table.caption
    ended = survival_table("times", runs("model", a=[100, 200, 300], b=[100, 900]), "model")
    assert ended.header[-1] == "mean step"
    assert [cells[-1].text for _, cells in ended.rows] == ["200 [57.8, 693]", "500"]
    assert "never" not in ended.caption
    waiting = survival_table("times", SHOWN.with_columns(state=pl.lit("running")), "model")
    assert "unfinished" in waiting.header
    assert "still in training, censored where it stands" in waiting.caption


def test_the_log_rank_test_in_words():
    words = logrank_sentence(SHOWN, "model")
    assert words.startswith("Log-rank test over 2 groups of model: χ² = ")
    assert words.endswith(
        " by permutation (the share of all exchanges of groups among runs that give at least this χ²)."
    )
    paired = logrank_sentence(SHOWN.with_columns(seed=pl.Series([0, 1, 2, 3, 4] * 2)), "model")
    assert "all exchanges of groups among runs of the same seed" in paired
    assert paired.endswith("; with 5 runs in a group no p below 0.062 is within reach.")
    assert "of 10,000 random exchanges" in logrank_sentence(runs("x", a=[*range(1, 9)], b=[*range(5, 13)]), "x")
    small = logrank_sentence(runs("r_train", a=[1, 2], b=[5, 6, 7]), "r_train")
    assert "rough" not in small
    assert "with 2 to 3 runs in a group no p below 0.1 is within reach" in small
    assert "cannot be told apart" in logrank_sentence(runs("r_train", a=[-5], b=[-5]), "r_train")
    assert "one group of r_train only" in logrank_sentence(runs("r_train", a=[5]), "r_train")


def test_pairs_in_words_come_before_others_only_where_they_differ():
    three = runs(
        "model", LSTM=[700, 800, 900, -1000, 950], GPT=[300, 350, 400, 420, 300], RNN=[500, 800, -1000, 950, 90]
    )
    words = logrank_sentence(three, "model")
    assert "Of 3 pairs 1 differs at 0.05 after Holm's correction: GPT before LSTM (p = 0.024). " in words
    assert "Not told apart: GPT and RNN (p = 0." in words
    assert "LSTM and RNN (p = 0." in words
    assert words.count("before") == 1
    none = logrank_sentence(pl.concat([SHOWN, runs("model", RNN=[-1000] * 5)]), "model")
    assert "Of 3 pairs none differ at 0.05 after Holm's correction. Not told apart: " in none
    many = {name: [100 * i + j for j in range(7)] for i, name in enumerate("abcdef", 1)}
    words = logrank_sentence(runs("x", **many), "x")
    assert "Of 15 pairs 15 differ" in words
    assert words.endswith("; ….")
    few = logrank_sentence(runs("x", a=[1, 2], b=[5, 6], c=[10, 11]), "x")
    assert few.endswith(
        "With 2 runs in a group no pair can differ at 0.05 after Holm's correction for 3 pairs: "
        "no corrected p below 1 is within reach."
    )
    assert "before" not in few
    alone = logrank_sentence(runs("x", a=[50, 60], b=[-10], c=[-10]), "x")
    assert "before" not in alone


def layer(chart, mark: str) -> pl.DataFrame:
    """The rows of the layer with this mark."""
    spec = chart.to_dict()
    (found,) = [part for part in spec["layer"] if part["mark"]["type"] == mark]
    return pl.DataFrame(spec["datasets"][found["data"]["name"]], infer_schema_length=None)


@pytest.mark.parametrize("log_x", [False, True])
def test_lines_go_up_by_one_run_and_marks_sit_on_them(log_x):
    chart = survival_curves(SHOWN, "model", "Generalisation", log_x)
    lines = layer(chart, "line")
    gpt = lines.filter(label="GPT").sort("step", "share")
    # the run that diverged is followed to the end
    assert gpt["share"].to_list() == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 0.8])
    assert gpt["step"][-1] == 1000
    lstm = runs("model", LSTM=[700, 800])
    ends = layer(survival_curves(pl.concat([SHOWN.filter(model="GPT"), lstm]), "model", "", log_x), "line")
    assert ends.filter(label="LSTM").sort("step", "share").select("step", "share").rows()[-1] == (800, 1)
    assert lines["step"].min() == (50 / 1.5 if log_x else 0)
    assert layer(chart, "tick").select("label", "step", "share").rows() == [("LSTM", 1000, pytest.approx(0.8))]
    assert layer(chart, "text").select("label", "step", "share").rows() == [("GPT", 50, 0)]
    bands = layer(chart, "area")
    assert bands.filter(pl.col("low") > pl.col("high")).is_empty()


def test_numbers_are_shown_in_their_order_and_names_as_they_come():
    times = pl.concat([runs("x", a=[5 * k, 6 * k]).with_columns(x=pl.lit(k / 10)) for k in (9, 1, 10)])
    labels = [label for label, _ in survival_table("t", times, "x").rows]
    assert labels == ["0.1", "0.9", "1"]
    assert [label for label, _ in survival_table("t", SHOWN, "model").rows] == ["LSTM", "GPT"]


def test_figures_of_every_kind_can_be_written(tmp_path):
    many = pl.concat([runs("x", a=[5 * k, -60 * k]).with_columns(x=pl.lit(k / 10)) for k in range(1, 10)])
    figures = [
        survival_figure("nine", many, "x", "Nine", log_x=True),
        survival_figure("first", runs("x", a=[7]).with_columns(time=0), "x", "At step 0", log_x=True),
    ]
    page = write_report(Report("Survival", "", [Section("Curves", figures=figures)]), tmp_path)
    for figure in figures:
        assert (page.parent / "figures" / f"{figure.name}.png").stat().st_size > 1000
        assert "N = " in figure.caption
        assert ("Shaded" in figure.caption) == (figure.name != "nine")
    with pytest.raises(UserError, match="no runs to compare by x"):
        survival_figure("empty", many.head(0), "x", "Empty")
