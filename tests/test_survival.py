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
from shoal.analysis.log_rank import _several
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


# the summary


@some
@given(samples())
def test_the_interval_of_the_median_holds_the_steps_at_which_the_band_holds_one_half(times):
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


@some
@given(st.lists(st.integers(1, 40), min_size=2, max_size=12))
def test_the_restricted_mean_of_known_times_is_their_mean(times):
    row = survival_summary(signed(a=times)).row(0, named=True)
    assert row["horizon"] == max(times)
    assert row["restricted_mean"] == pytest.approx(np.mean(times))
    error = np.std(times) / math.sqrt(len(times))  # Greenwood's variance of uncensored times
    if error == 0:
        assert row["restricted_mean_low"] is None
    else:
        low, high = max(np.mean(times) - 1.959964 * error, 0), min(np.mean(times) + 1.959964 * error, max(times))
        assert (row["restricted_mean_low"], row["restricted_mean_high"]) == pytest.approx((low, high), abs=1e-5)


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


def test_a_group_that_diverged_has_no_mean_and_does_not_shorten_the_others():
    times = signed(a=[-3, -2], b=[50, -100]).with_columns(state=pl.Series(["diverged"] * 2 + ["done"] * 2))
    summary = survival_summary(times, "group")
    assert summary["horizon"].to_list() == [100, 100]
    assert summary["restricted_mean"].to_list() == [None, 75]
    assert survival_summary(times.filter(group="a"), "group")["horizon"].to_list() == [3]


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
    assert pair["p"] == pair["p_holm"] == pytest.approx(test.p)


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
    assert test.p == pytest.approx(stats.chi2.sf(expected, test.df), abs=1e-8)


@some
@given(samples(groups=2))
def test_two_groups_by_the_general_formula_are_scipys(times):
    groups = [times.filter(group=g) for g in "ab"]
    chi2, df = _several([(g["time"].to_numpy().astype(float), g["observed"].to_numpy()) for g in groups])
    test = logrank(times, "group")
    assert (chi2 is None) == (test.chi2 is None)
    if chi2 is not None:
        assert (chi2, df) == (pytest.approx(test.chi2, abs=1e-9), 1)


def test_the_log_rank_test_agrees_with_permuting_the_groups():
    rng = np.random.default_rng(5)
    time = np.ceil(rng.exponential([100.0] * 25 + [125.0] * 25 + [160.0] * 25))
    group = list("a" * 25 + "b" * 25 + "c" * 25)
    times = pl.DataFrame({"group": group, "time": np.minimum(time, 250), "observed": time <= 250})
    given_test = logrank(times, "group")
    labels = times["group"].to_numpy()
    permuted = [logrank(times.with_columns(group=rng.permutation(labels)), "group").chi2 for _ in range(400)]
    assert np.mean(np.array(permuted) >= given_test.chi2) == pytest.approx(given_test.p, abs=0.05)


def test_pairs_are_corrected_for_their_number():
    times = signed(a=[1, 2, 3, 4], b=[11, 12, 13, 14], c=[-20, -20, -20, -20], d=[-20] * 4)
    pairs = logrank_pairs(times, "group")
    assert pairs.select("first", "second").rows() == list(itertools.combinations("abcd", 2))
    assert pairs["p"].to_list()[-1] is pairs["p_holm"].to_list()[-1] is None
    assert pairs["p_holm"].to_list() == holm(pairs["p"].to_list())
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
    assert rows["GPT"][5] == "350 [300, –]"
    assert "unfinished" not in table.caption
    waiting = survival_table("times", SHOWN.with_columns(state=pl.lit("running")), "model")
    assert "unfinished" in waiting.header
    assert "counted as not having got there" in waiting.caption


def test_the_log_rank_test_in_words():
    assert logrank_sentence(SHOWN, "model").startswith("Log-rank test over 2 groups of model: χ² = ")
    three = pl.concat([SHOWN, runs("model", RNN=[-1000] * 5)])
    words = logrank_sentence(three, "model")
    assert "3 groups" in words
    assert "Pairs, with Holm's correction for 3: " in words
    assert "LSTM before RNN" in words
    small = logrank_sentence(runs("r_train", a=[1, 2], b=[5, 6, 7]), "r_train")
    assert "With 2 runs in the smallest group this is rough." in small
    assert "cannot be told apart" in logrank_sentence(runs("r_train", a=[-5], b=[-5]), "r_train")
    assert "one group of r_train only" in logrank_sentence(runs("r_train", a=[5]), "r_train")
    many = {name: [10 * (i + 1)] * 6 + [-100] for i, name in enumerate("abcdef")}
    assert "Of 15 pairs " in logrank_sentence(runs("x", **many), "x")


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
    assert gpt["share"].to_list() == pytest.approx([0, 0, 0.25, 0.5, 0.75, 1, 1])
    assert gpt["step"][-1] == 1000
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
