"""Paired comparisons and trends against enumeration, closed forms and scipy; and how they are shown."""

import itertools
import math

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal
from scipy import stats

from shoal.analysis import Metric, compare, holm, pairs, slope_difference, trend
from shoal.analysis.paired import cohens_d_z, rank_biserial, sign_flip_test, superiority
from shoal.errors import UserError
from shoal.report import (
    Report,
    Section,
    comparison_figure,
    comparison_notes,
    comparison_table,
    forest,
    write_report,
)

some = settings(max_examples=25, deadline=None)
differences = st.lists(st.integers(-4, 4), min_size=1, max_size=7).map(lambda values: np.array(values, np.float64))

LOSS, ACCURACY = Metric("loss", larger_is_better=False), Metric("accuracy", larger_is_better=True)
TIME = Metric("time", larger_is_better=False, observed="observed")


# what differences say


@some
@given(differences)
def test_the_test_counts_every_pattern_of_signs(d):
    p, smallest = sign_flip_test(d)
    flipped = [abs(np.mean(np.array(signs) * d)) for signs in itertools.product((1, -1), repeat=len(d))]
    assert p == pytest.approx(np.mean(np.array(flipped) >= abs(d.mean()) - 1e-12))
    assert smallest == min(2 / 2 ** len(d), 1)
    assert p >= smallest


def test_many_pairs_are_flipped_at_random_and_the_same_each_time():
    d = np.random.default_rng(0).normal(0.45, 1, 14)
    exact = stats.permutation_test(
        (d,), lambda v, axis: v.mean(axis=axis), permutation_type="samples", vectorized=True, n_resamples=2**14
    ).pvalue
    p, smallest = sign_flip_test(d)
    assert p == pytest.approx(exact, abs=0.01)
    assert p == sign_flip_test(d)[0] != sign_flip_test(d, seed=1)[0]
    assert smallest == pytest.approx(2 / 10_000)
    assert sign_flip_test(np.ones(13), resamples=10**5)[1] == 2 / 2**13


@some
@given(differences)
def test_rank_biserial_equals_its_definition(d):
    ranked = [(rank, value) for rank, value in zip(stats.rankdata(np.abs(d[d != 0])), d[d != 0], strict=True)]
    if not ranked:
        assert rank_biserial(d) is None
        return
    for_it, against = (sum(r for r, v in ranked if v * sign > 0) for sign in (1, -1))
    assert rank_biserial(d) == pytest.approx((for_it - against) / (for_it + against))
    assert rank_biserial(-d) == pytest.approx(-rank_biserial(d))


@some
@given(differences)
def test_superiority_has_wilsons_interval_with_ties_as_halves(d):
    share, low, high = superiority(d)
    assert share == pytest.approx(((d > 0).sum() + (d == 0).sum() / 2) / len(d))
    assert 0 <= low <= share <= high <= 1
    if (d != 0).all():
        wilson = stats.binomtest(int((d > 0).sum()), len(d)).proportion_ci(method="wilson")
        assert (low, high) == pytest.approx((wilson.low, wilson.high))
    assert superiority(-d) == pytest.approx((1 - share, 1 - high, 1 - low))


@pytest.mark.parametrize("n", [2, 5, 12])
def test_the_interval_of_d_z_puts_what_was_seen_at_its_tails(n):
    d = np.random.default_rng(n).normal(0.8, 1, n)
    d_z, low, high = cohens_d_z(d)
    assert d_z == pytest.approx(d.mean() / d.std(ddof=1))
    t = stats.ttest_1samp(d, 0).statistic
    # the noncentral t by its definition, (z + nc) / s, and not by the function that found the interval
    s = np.sqrt(stats.chi2.ppf((np.arange(200_000) + 0.5) / 200_000, n - 1) / (n - 1))
    for end, tail in ((low, 0.975), (high, 0.025)):
        assert stats.norm.cdf(t * s - end * math.sqrt(n)).mean() == pytest.approx(tail, abs=1e-4)


def test_the_interval_of_d_z_holds_what_it_should():
    rng = np.random.default_rng(3)
    intervals = [cohens_d_z(rng.normal(0.5, 1, 6)) for _ in range(200)]
    assert np.mean([low <= 0.5 <= high for _, low, high in intervals]) == pytest.approx(0.95, abs=0.045)


@pytest.mark.slow
@pytest.mark.parametrize("n", [3, 5, 8])
@pytest.mark.parametrize("skewed", [False, True])
def test_the_interval_of_the_mean_difference_holds_it_as_often_as_it_says(n, skewed):
    """Of normal differences, and of differences of lognormal times; the BCa bootstrap's hold it in 85 % with n = 5."""
    rng, runs_ = np.random.default_rng(n), 1000
    draws = rng.standard_normal((runs_, 2, n))
    values = np.exp(draws) if skewed else draws
    frame = pl.DataFrame(
        {
            "variant": np.tile(np.repeat(["old", "new"], n), runs_),
            "seed": np.tile(np.arange(n), 2 * runs_),
            "sample": np.repeat(np.arange(runs_), 2 * n),
            "loss": values.ravel(),
        }
    )
    held = []
    for (_,), own in frame.group_by("sample"):
        row = compare(own, [LOSS], "variant", "old", resamples=1).row(0, named=True)
        held.append(row["low"] <= 0 <= row["high"])
    assert 0.935 <= np.mean(held) <= (0.985 if skewed else 0.965)


def test_the_interval_of_the_mean_difference_is_students():
    d = np.random.default_rng(6).exponential(1, 12)
    frame = runs(new=list(enumerate(3 + d)), old=[(i, 3.0) for i in range(12)])
    (row,) = compare(frame, [LOSS], "setting", "old").rows(named=True)
    expected = stats.ttest_1samp(d, 0).confidence_interval(0.95)
    assert (row["low"], row["high"]) == pytest.approx((expected.low, expected.high))


@pytest.mark.parametrize("d", [[], [2.0], [1.0, 1.0, 1.0], [0.0, 0.0], [0, 0, 0, 1.0], [1e-9, 1e9], [1, 1, 1, 1.00001]])
def test_little_is_no_reason_to_fail(d):
    d = np.array(d, dtype=np.float64)
    assert (cohens_d_z(d)[0] is None) == (len(d) < 2 or np.ptp(d) == 0)
    p, smallest = sign_flip_test(d)
    assert (p is None) == (smallest is None) == (len(d) == 0)


# runs in pairs


def runs(**settings_: list[tuple[int, float]]) -> pl.DataFrame:
    """Seed and loss of the runs of each setting."""
    rows = [{"setting": name, "seed": seed, "loss": loss} for name, own in settings_.items() for seed, loss in own]
    return pl.DataFrame(rows, infer_schema_length=None)


def test_pairs_share_a_seed_and_gaps_are_named():
    frame = runs(new=[(3, 1.0), (1, 2.0), (9, math.nan), (7, 5.0)], old=[(1, 2.5), (2, 0.1), (3, 0.0), (9, 4.0)])
    found = pairs(frame, LOSS, "setting", "new", "old")
    assert found.select("pair", "baseline", "variant", "difference", "score").rows() == [
        (1, 2.5, 2.0, -0.5, 0.5),
        (2, 0.1, None, None, None),
        (3, 0.0, 1.0, 1.0, -1.0),
        (7, None, 5.0, None, None),
        (9, 4.0, None, None, None),
    ]
    (row,) = compare(frame, [LOSS], "setting", "old").rows(named=True)
    assert (row["n"], row["missing_variant"], row["missing_baseline"]) == (2, [2, 9], [7])
    assert (row["mean_difference"], row["better"], row["worse"], row["tied"]) == (0.25, 1, 1, 0)
    notes = comparison_notes(compare(frame, [LOSS], "setting", "old"))
    assert notes[:2] == [
        "new, loss: the variant has no value for seed 2 and 9; left out.",
        "new, loss: the baseline has no value for seed 7; left out.",
    ]
    assert "With 2 pairs no p value can be below 0.5" in notes[2]


def test_runs_still_in_training_have_no_value_yet():
    states = ["done", "running", "diverged", "interrupted"]
    frame = runs(new=[(i, 1.0) for i in range(4)], old=[(i, 2.0) for i in range(4)])
    frame = frame.with_columns(state=pl.Series(states + ["done"] * 4))
    assert compare(frame, [LOSS], "setting", "old")["missing_variant"].to_list() == [[1, 3]]
    times = frame.with_columns(time=pl.lit(100), observed=pl.Series([True, True, False, False] + [True] * 4))
    assert compare(times, [TIME], "setting", "old")["missing_variant"].to_list() == [[3]]


def test_wrong_requests_are_named():
    frame = runs(new=[(1, 1.0)], old=[(1, 2.0), (1, 3.0)])
    with pytest.raises(UserError, match=r"several runs have setting='old' and seed=1"):
        pairs(frame, LOSS, "setting", "new", "old")
    with pytest.raises(UserError, match=r"no run has setting='odl': one of new old; did you mean 'old'"):
        pairs(frame, LOSS, "setting", "new", "odl")
    with pytest.raises(UserError, match="unknown column 'los'"):
        compare(frame, [Metric("los", False)], "setting", "old")
    with pytest.raises(UserError, match="nothing to compare with setting='old'"):
        compare(frame.filter(setting="old"), [LOSS], "setting", "old")
    with pytest.raises(UserError, match=r"unknown effect 'dz': one of d_z superiority; did you mean 'd_z'"):
        forest(compare(runs(new=[(1, 1.0)], old=[(1, 2.0)]), [LOSS], "setting", "old"), "", "dz")


def timed(new: list[int], old: list[int]) -> pl.DataFrame:
    """Times of the pairs, censored ones negative, diverged ones 0."""
    rows = [
        {
            "setting": name,
            "seed": seed,
            "time": abs(t) or 15,
            "observed": t > 0,
            "state": "done" if t else "diverged",
        }
        for name, times in (("new", new), ("old", old))
        for seed, t in enumerate(times)
    ]
    return pl.DataFrame(rows)


def test_censored_pairs_keep_the_sign_they_have():
    frame = timed([40, 90, -100, -100, 100, 0, 120], [60, -100, -100, 70, -100, 50, -300])
    found = pairs(frame, TIME, "setting", "new", "old")
    assert found["horizon"].unique().to_list() == [100]
    assert found["difference"].to_list() == [-20, -10, 0, 30, 0, 50, 0]
    assert np.sign(found["score"].to_list()).tolist() == [1, 1, 0, -1, 1, -1, 0]
    assert found["censored"].to_list() == [False, True, True, True, True, True, True]
    # ranks of 40 50 60 70 90 100, then the eight that were not there by step 100
    assert found["score"].to_list() == [2, 5.5, 0, -6.5, 4.5, -8.5, 0]


def test_a_half_of_a_pair_does_not_move_the_horizon():
    frame = pl.concat([timed([40, 90], [60, -100]), timed([-10], []).with_columns(seed=pl.lit(9, pl.Int64))])
    assert pairs(frame, TIME, "setting", "new", "old")["horizon"].unique().to_list() == [100]


def test_censored_times_have_no_d_z_but_a_superiority():
    (row,) = compare(timed([40, 50, 60, 70], [-100, -100, 90, -100]), [TIME], "setting", "old").rows(named=True)
    assert (row["d_z"], row["n_censored"], row["horizon"]) == (None, 3, 100)
    assert (row["superiority"], row["rank_biserial"], row["p"], row["smallest_p"]) == (1, 1, 0.125, 0.125)
    assert row["mean_difference"] == pytest.approx(np.mean([-60, -50, -30, -30]))
    (row,) = compare(timed([40, 50, 60, 70], [80, 20, 90, 85]), [TIME], "setting", "old").rows(named=True)
    assert row["d_z"] == pytest.approx(-np.mean([-40, 30, -30, -15]) / np.std([-40, 30, -30, -15], ddof=1))


times = st.lists(st.tuples(*[st.sampled_from([-100, -100, 0, 20, 40, 60, 100, -60])] * 2), min_size=1, max_size=6)


@some
@given(times)
def test_swapping_variant_and_baseline_turns_every_effect_round(values):
    new, old = [v for v, _ in values], [v for _, v in values]
    there, back = (
        compare(frame, [TIME], "setting", "old", resamples=99).row(0, named=True)
        for frame in (timed(new, old), timed(old, new))
    )
    for name in ("mean_difference", "median_difference", "rank_biserial"):
        assert there[name] is back[name] is None or there[name] == pytest.approx(-back[name])
    assert there["superiority"] == pytest.approx(1 - back["superiority"])
    assert (there["better"], there["worse"], there["p"]) == (back["worse"], back["better"], pytest.approx(back["p"]))


def test_the_test_of_censored_times_keeps_its_level():
    rng = np.random.default_rng(11)
    rejected = 0
    for _ in range(200):
        both = np.ceil(rng.exponential(80, (2, 7)) * rng.uniform(0.5, 2, 7))  # seeds differ, settings do not
        signed = np.where(both > 100, -100, both).astype(int)
        rejected += compare(timed(*signed.tolist()), [TIME], "setting", "old", resamples=9)["p"][0] <= 0.05
    assert rejected / 200 <= 0.05 + 0.035


def test_p_values_are_corrected_over_all_rows():
    rng = np.random.default_rng(0)
    frame = pl.DataFrame(
        [
            {"setting": s, "seed": i, "loss": rng.normal() + shift, "accuracy": rng.normal()}
            for s, shift in (("old", 0), ("a", 3), ("b", 0.5))
            for i in range(8)
        ]
    )
    found = compare(frame, [LOSS, ACCURACY], "setting", "old", resamples=199)
    assert found.select("variant", "metric").rows() == [(v, m) for v in "ab" for m in ("loss", "accuracy")]
    assert found["p_holm"].to_list() == holm(found["p"].to_list())
    worse = found.filter(variant="a", metric="loss").row(0, named=True)
    assert worse["mean_difference"] > 2 > 0 > worse["d_z"]  # a larger loss is a worse one
    shuffled = frame.sample(fraction=1, shuffle=True, seed=3)
    again = compare(shuffled, [LOSS, ACCURACY], "setting", "old", resamples=199)
    assert_frame_equal(found, again.sort("variant", maintain_order=True))


# trends


def grown(seeds: int, slopes: dict[str, float], noise: float = 1.0, rng_seed: int = 0) -> pl.DataFrame:
    rng = np.random.default_rng(rng_seed)
    return pl.DataFrame(
        [
            {"seed": seed, "d": 2**k, "model": model, "y": shift + slope * k + noise * rng.normal()}
            for seed in range(seeds)
            for shift in [5 * rng.normal()]
            for model, slope in slopes.items()
            for k in range(4, 8)
        ]
    )


def test_a_trend_is_scipys_rank_correlation_and_numpys_line():
    frame = grown(6, {"gpt": 1.0})
    found = trend(frame, "d", "y")
    ranks = [stats.rankdata(own["y"]) for _, own in frame.group_by("seed", maintain_order=True)]
    assert found.rho == pytest.approx(np.corrcoef(np.log2(frame["d"]), np.concatenate(ranks))[0, 1])
    one = trend(frame.filter(seed=0), "d", "y")  # within one seed it is Spearman's
    assert one.rho == pytest.approx(stats.spearmanr(frame.filter(seed=0)["d"], frame.filter(seed=0)["y"]).statistic)
    assert found.slope == pytest.approx(np.polyfit(np.log2(frame["d"]), frame["y"], 1)[0])
    assert (found.runs, found.units, found.dropped) == (24, 6, 0)
    slopes = [np.polyfit(np.log2(own["d"]), own["y"], 1)[0] for _, own in frame.group_by("seed")]
    expected = stats.ttest_1samp(slopes, 0).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert found.p < 0.01  # within seeds, whose shifts hide it from a test that permutes freely
    assert stats.spearmanr(frame["d"], frame["y"]).pvalue > 0.05
    assert trend(frame, "d", "y", log2=False).slope == pytest.approx(np.polyfit(frame["d"], frame["y"], 1)[0])


def test_a_rise_and_a_fall_that_cancel_are_no_trend():
    frame = pl.DataFrame({"seed": [0] * 5 + [1] * 5, "d": [1, 2, 4, 8, 16] * 2, "y": [*range(5), *range(4, -1, -1)]})
    found = trend(frame, "d", "y")
    assert (found.rho, math.copysign(1, found.rho), found.p) == (0, 1, pytest.approx(1))


def test_the_test_of_a_trend_permutes_within_seeds():
    frame = pl.DataFrame({"seed": [0] * 3 + [1] * 3, "d": [1, 2, 4] * 2, "y": [0.0, 2, 1, 10, 11, 13]})

    def rho(order, x=(1, 2, 3, 1, 2, 3), y=(1, 3, 2, 1, 2, 3)):  # ranks within seeds
        return abs(np.corrcoef(x, np.array(y)[list(order)])[0, 1])

    every = [
        rho(first + tuple(3 + i for i in second))
        for first, second in itertools.product(itertools.permutations(range(3)), repeat=2)
    ]
    exact = np.mean(np.array(every) >= rho(range(6)) - 1e-12)
    found = trend(frame, "d", "y")
    assert (found.p, found.exact, found.names, found.blocks) == (pytest.approx(exact), True, ("seed",), 2)
    apart = frame.with_columns(seed=pl.Series(range(6)))
    ranks = stats.rankdata(frame["d"]), stats.rankdata(frame["y"])
    free = [rho(order, *ranks) for order in itertools.permutations(range(6))]
    exact = np.mean(np.array(free) >= rho(range(6), *ranks) - 1e-12)
    found = trend(apart, "d", "y")
    assert (found.p, found.exact, found.names, found.blocks) == (pytest.approx(exact), True, (), 1)


@pytest.mark.parametrize("sizes", [3, 12])
def test_a_trend_does_not_depend_on_the_order_of_rows_and_says_what_it_could_find(sizes):
    rows = [(seed, 2**k, 10 * seed + (k * k) % 13) for seed in range(2) for k in range(sizes)]
    frame = pl.DataFrame(rows, ["seed", "d", "y"], orient="row")
    found = trend(frame, "d", "y")
    assert found.exact == (sizes == 3)
    assert all(trend(frame.sample(fraction=1, shuffle=True, seed=i), "d", "y") == found for i in range(9))
    if sizes == 3:
        assert found.p == found.smallest_p == pytest.approx(2 / 36)


def test_slopes_that_are_all_the_same_have_no_interval():
    frame = pl.DataFrame({"seed": [0] * 3 + [1] * 3, "d": [1, 2, 4] * 2, "y": [0.5, 0.75, 1] * 2})
    frame = frame.with_columns(model=pl.lit("lstm"))
    both = pl.concat([frame, frame.with_columns(y=pl.lit(1.0), model=pl.lit("gpt"))])
    found = slope_difference(both, "d", "y", "model", "lstm", "gpt")
    assert (found.difference, found.low, found.high) == (pytest.approx(-0.25), None, None)


def test_slopes_are_compared_over_the_seeds_that_both_have():
    frame = grown(8, {"gpt": 1.0, "lstm": 3.0})
    frame = frame.filter(~((pl.col("model") == "gpt") & (pl.col("seed") == 3)))
    found = slope_difference(frame, "d", "y", "model", "gpt", "lstm")
    assert (found.units, found.missing, found.dropped) == (7, (3,), 0)
    shared = frame.filter(pl.col("seed") != 3)
    lines = {model: np.polyfit(np.log2(own["d"]), own["y"], 1)[0] for (model,), own in shared.group_by("model")}
    assert found.first_slope == pytest.approx(lines["gpt"])
    assert found.difference == pytest.approx(lines["lstm"] - lines["gpt"])
    apart = [
        [
            np.polyfit(np.log2(own["d"]), own["y"], 1)[0]
            for _, own in shared.filter(model=m).sort("seed").group_by("seed", maintain_order=True)
        ]
        for m in ("lstm", "gpt")
    ]
    expected = stats.ttest_rel(*apart).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert found.low > 0
    back = slope_difference(frame, "d", "y", "model", "lstm", "gpt")
    assert (back.difference, back.low, back.high) == pytest.approx((-found.difference, -found.high, -found.low))


@pytest.mark.parametrize("seeds", [2, 4])
def test_slopes_of_noise_rarely_differ(seeds):
    clear = 0
    for draw in range(100):
        found = slope_difference(
            grown(seeds, {"gpt": 0.0, "lstm": 0.0}, rng_seed=draw), "d", "y", "model", "gpt", "lstm"
        )
        clear += not found.low <= 0 <= found.high
    assert clear <= 11  # of 100 at 5 %; a bootstrap over two seeds gave about 50


@pytest.mark.parametrize(
    "frame",
    [
        pl.DataFrame({"seed": [0], "d": [4], "y": [1.0], "model": ["gpt"]}),
        pl.DataFrame({"seed": [0, 1], "d": [4, 8], "y": [1.0, 1.0], "model": ["gpt"] * 2}),
        pl.DataFrame({"seed": [0, 0], "d": [4, 4], "y": [1.0, None], "model": ["gpt"] * 2}),
    ],
)
def test_a_trend_of_nearly_nothing_has_none(frame):
    found = trend(frame, "d", "y")
    assert found.rho is found.p is None
    both = pl.concat([frame, frame.head(1).with_columns(model=pl.lit("lstm"))]).filter(pl.col("seed") == 0)
    nothing = slope_difference(both, "d", "y", "model", "gpt", "lstm")
    assert (nothing.units, nothing.difference, nothing.low, nothing.high) == (0, None, None, None)


def test_a_trend_over_what_has_no_logarithm_is_refused():
    frame = pl.DataFrame({"seed": [0, 1, 2], "weight_decay": [0.0, 0.5, 1.0], "y": [1.0, 2.0, 4.0]})
    with pytest.raises(UserError, match=r"weight_decay=0.0 has no logarithm"):
        trend(frame, "weight_decay", "y")
    found = trend(frame, "weight_decay", "y", log2=False)
    assert (found.rho, found.slope) == pytest.approx((1, 3))  # one line through runs of seeds of their own
    assert (found.runs, found.units, found.low, found.high) == (3, 3, None, None)


# how it is shown


def shown() -> pl.DataFrame:
    rng = np.random.default_rng(2)
    rows = [
        {"setting": s, "seed": i, "loss": 1.0 + shift + 0.2 * rng.normal(), "accuracy": 1.0, "state": "done",
         "time": min(max(int(100 * (1 + shift + rng.random())), 1), 220)}
        for s, shift in (("old", 0.5), ("smaller step", 0.4), ("much better", -90.0), ("pre-norm", 0.2))
        for i in range(6)
    ]  # fmt: skip
    frame = pl.DataFrame(rows).with_columns(observed=pl.col("time") < 220)
    return compare(frame, [LOSS, ACCURACY, TIME], "setting", "old", resamples=199)


def test_the_forest_keeps_its_marks_on_the_axis(tmp_path):
    comparison = shown()
    figures = [
        comparison_figure("effects", comparison, "Effects", "old", metrics={"loss": "L_val", "accuracy": "A_val"}),
        comparison_figure("times", comparison, "Times", "old", "superiority", {"time": "t_f(A_val)"}),
    ]
    (data,) = figures[0].chart.to_dict()["datasets"].values()
    rows = pl.DataFrame(data, infer_schema_length=None)
    assert rows["metric"].unique(maintain_order=True).to_list() == ["L_val", "A_val"]
    far = rows.filter(variant="much better", metric="L_val").row(0, named=True)
    assert (far["effect"], far["mark"]) == (5, "triangle-right")
    assert rows.filter(metric="A_val")["effect"].null_count() == 3
    assert all("N = 6 pairs" in figure.caption for figure in figures)
    page = write_report(Report("Improve", "", [Section("Effects", figures=figures)]), tmp_path)
    for figure in figures:
        assert (page.parent / "figures" / f"{figure.name}.png").stat().st_size > 1000


def test_the_table_and_its_notes():
    comparison = shown()
    table = comparison_table("compared", comparison, "old", {"loss": "L_val", "accuracy": "A_val"})
    rows = {label: [cell.text for cell in cells] for label, cells in table.rows}
    assert list(rows)[:2] == ["smaller step: L_val", "smaller step: A_val"]
    assert rows["smaller step: A_val"] == ["6", "0", "0", "–", "–", "0 / 0 / 6", "1", "1"]
    assert rows["much better: L_val"][5:7] == ["6 / 0 / 0", "0.031"]
    assert "corrected for 9 comparisons" in table.caption
    notes = comparison_notes(comparison, {"time": "t_f(A_val)"})
    assert any("times" in note.lower() and "cut off at step 220" in note for note in notes)
    assert not any("no p value" in note for note in notes)
