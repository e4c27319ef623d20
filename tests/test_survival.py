"""Times to a threshold, their curves and summaries, against textbooks, brute force and scipy."""

import math
from fractions import Fraction

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal
from scipy import stats
from times import LEUKAEMIA, samples, signed

from shoal.analysis import (
    kaplan_meier,
    logrank,
    logrank_pairs,
    median_time,
    restricted_times,
    survival_summary,
)
from shoal.analysis.survival import outlasting

some = settings(max_examples=25, deadline=None)


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
    assert (a["median"], b["median"]) == (550, None)
    assert b["restricted_mean"] == pytest.approx((300 + 400 + 4 * 800) / 6)
    assert a["restricted_mean"] == 550
    assert logrank_pairs(times, "group")["z"].item() > 0
    horizon = times.with_columns(time=pl.when(state="diverged").then(800).otherwise("time"))
    assert logrank(times, "group") == logrank(horizon.drop("state"), "group")


# the summary


def crosses_half(curve: list[tuple[int, Fraction]]) -> float | None:
    """The median as R's print.survfit takes it from a curve (``minmin``), in exact fractions."""
    half = Fraction(1, 2)
    below = [(step, survival) for step, survival in curve if survival <= half]
    if not below:
        return None
    lower = [step for step, survival in below if survival < half]
    return (below[0][0] + lower[0]) / 2 if below[0][1] == half and lower else below[0][0]


def exact_curve(times: list[tuple[int, bool]]) -> list[tuple[int, Fraction]]:
    """The product limit in exact fractions."""
    survival, out = Fraction(1), []
    for step in sorted({time for time, _ in times}):
        n, d = sum(time >= step for time, _ in times), sum(time == step and seen for time, seen in times)
        survival *= Fraction(n - d, n)
        out.append((step, survival))
    return out


@pytest.mark.parametrize(
    ("times", "median"),  # print(survfit(Surv(abs(x), x > 0) ~ 1)) of R
    [
        ([1, 2, 3, 4], 2.5),
        ([1, 2, 3, 4, 5], 3),
        ([1, 1, 1, 5, 6, 7], 3),
        ([1, 2, -3, 4], 3),  # ½ from 2 to 4
        ([1, 2, -3, -4], 2),  # ½ to the end
        ([1, -2, 3, 4, 5, 6], 4),  # 5/6 · 3/4 · 2/3 is below ½
        ([1, -2, -3, -4], None),
        ([6900, 7400], 7150),
        ([-6900], None),
    ],
)
def test_the_median_is_the_one_that_r_prints(times, median):
    assert median_time(signed(a=times)) == median
    assert survival_summary(signed(a=times))["median"].item() == median


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 9), st.sampled_from([True, True, False])), max_size=24))
def test_the_median_is_that_of_exact_fractions(runs):
    """Shares that come to exactly one half, as (5/6)(4/5)(3/4), come to it with rounding."""
    frame = pl.DataFrame(runs, {"time": pl.Int64, "observed": pl.Boolean}, orient="row")
    assert median_time(frame) == crosses_half(exact_curve(runs))
    if runs and all(seen for _, seen in runs):
        assert median_time(frame) == np.median([time for time, _ in runs])


@some
@given(samples())
def test_the_interval_of_the_median_is_where_the_edges_of_the_band_cross_one_half(times):
    times = pl.concat([times] * 6)  # with fewer than six runs there is none
    row = survival_summary(times).row(0, named=True)
    curve = brute_force_curve(times.select("time", "observed").rows())
    lows, highs, highest = [], [], 1.0
    for step, (survival, low, high) in curve.items():
        # the formula says nothing of the ends; the upper edge stays where it was
        highest = highest if math.isnan(high) else high
        lows.append((step, low if 0 < survival < 1 else round(survival)))
        highs.append((step, highest if survival < 1 else 1.0))
    survivals = [(step, survival) for step, (survival, _, _) in curve.items()]
    for name, edge in (("median", survivals), ("median_low", lows), ("median_high", highs)):
        expected = crosses_half([(step, Fraction(value).limit_denominator(10**9)) for step, value in edge])
        assert row[name] == expected, name


def test_there_is_no_rate_while_runs_are_in_training():
    times = pl.DataFrame(
        {
            "run": ["a", "b", "c", "d"],
            "group": ["x", "x", "y", "y"],
            "time": [100, 40, 100, 100],
            "observed": [True, False, True, False],
            "state": ["running", "running", "running", "done"],
        }
    )
    x, y = survival_summary(times, "group").sort("group").rows(named=True)
    assert x["unfinished"] == 1
    assert x["rate"] is x["rate_low"] is x["rate_high"] is None
    assert (y["unfinished"], y["rate"]) == (0, 0.5)  # one got there already, the other will not


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
