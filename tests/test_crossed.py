"""Tests of one setting where others are crossed with it: against scipy, enumeration, least squares and simulation."""

import itertools
import math

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

import shoal
from shoal.analysis import any_difference, logrank, slope_difference, trend
from shoal.analysis.blocks import comparable, crossed
from shoal.errors import UserError
from shoal.report.panels import Axis
from shoal.spec import RunSpec
from shoal.studies.answers import Case, direction, how_it_goes
from shoal.studies.crossing import crossing
from shoal.studies.model_scaling import DEPTH, SIZE, WIDTH
from shoal.studies.slopes import who_scales_better

some = settings(max_examples=30, deadline=None)

# The smallest validation loss of each of the GPTs of docs/results/model-scaling.md, with 1, 2 and 3 layers.
PUBLISHED = {
    (0, 64): (0.5184, 0.7682, 0.2396),
    (42, 64): (0.6093, 0.4311, 0.3834),
    (0, 128): (0.00798, 0.003175, 0.0002667),
    (42, 128): (0.6401, 0.0005796, 0.0004484),
    (0, 256): (0.001828, 0.001382, 0.0007208),
    (42, 256): (0.000427, 0.008033, 0.0002513),
}
GPTS = pl.DataFrame(
    [
        (seed, width, depth, math.log10(loss), depth * (12 * width**2 + width))
        for (seed, width), losses in PUBLISHED.items()
        for depth, loss in enumerate(losses, 1)
    ],
    ["seed", "embedding_size", "num_layers", "loss", "parameters"],
    orient="row",
)


def test_depth_is_asked_of_runs_of_one_seed_and_width():
    found = trend(GPTS, "num_layers", "loss", within="embedding_size", log2=False)
    assert found.rho == pytest.approx(-5 / 6)
    losses = np.array(list(PUBLISHED.values()))
    page = stats.page_trend_test(-losses, method="exact")  # the same test, of one side
    assert found.p == pytest.approx(2 * page.pvalue)  # 0.0031
    assert (found.names, found.blocks, found.runs, found.alone) == (("seed", "embedding_size"), 6, 18, 0)
    assert found.exact
    # over widths too, whose differences are then noise
    assert stats.spearmanr(GPTS["num_layers"], GPTS["loss"]).statistic == pytest.approx(-0.41, abs=0.01)
    across = trend(GPTS, "num_layers", "loss", log2=False)
    assert across.p > 0.05
    assert across.slope == pytest.approx(found.slope)  # each width has each depth: lines are not led astray


def test_what_is_crossed_is_found_in_the_settings():
    runs = GPTS.with_columns(hidden_size=pl.col("embedding_size"), lr=pl.lit(1e-3), init_seed=pl.col("seed"))
    assert crossing(runs, "num_layers") == (("seed",), ("embedding_size",))  # not what follows it, nor what is constant
    assert crossing(runs, "embedding_size") == (("seed",), ("num_layers",))
    # the number of parameters cannot vary where depth and width are held
    assert crossing(runs, "parameters", ("num_layers", "embedding_size")) == (("seed",), ())
    alike = runs.with_columns(parameters=pl.col("num_layers") % 2)  # several depths of one size are no other setting
    assert crossing(alike, "parameters", ("num_layers", "embedding_size")) == (("seed",), ())
    assert crossing(runs.with_columns(seed=pl.lit(0)), "num_layers") == (("init_seed",), ("embedding_size",))
    one = runs.filter(seed=0).with_columns(init_seed=pl.lit(0))
    assert crossing(one, "num_layers") == (("seed",), ("embedding_size",))
    both = runs.with_columns(batch=pl.col("embedding_size") // 64)
    assert crossed(both, "num_layers", ["batch", "embedding_size"]) == ("batch",)  # the first stands for both


@pytest.mark.parametrize(("axis", "made_of"), [(DEPTH, ()), (WIDTH, ()), (SIZE, ("num_layers", "embedding_size"))])
def test_a_study_asks_within_what_is_crossed(axis, made_of):
    frame = GPTS.with_columns(valid_loss=10 ** pl.col("loss"), train_loss=pl.lit(1.0))
    ((found,), table) = how_it_goes([Case("all", frame, axis, made_of)], [("log_valid_loss", "L")], "t")
    others = {"num_layers": ("seed", "embedding_size"), "embedding_size": ("seed", "num_layers")}
    assert found.found.names == others.get(axis.column, ("seed",))
    assert [cells[-1].text for _, cells in table.rows] == [" and ".join(found.found.names)]
    assert found.corrected == found.found.p  # one test
    assert "left out" not in table.caption


def test_tables_say_which_runs_were_left_out_and_where_seeds_were():
    frame = GPTS.with_columns(valid_loss=10 ** pl.col("loss"), train_loss=pl.lit(1.0), valid_accuracy=pl.lit(0.5))
    holes = frame.filter((pl.col("embedding_size") < 256) | (pl.col("num_layers") == 1))
    (_, table) = how_it_goes([Case("all", holes, DEPTH)], [("log_valid_loss", "L")], "t")
    assert [cells[4].text for _, cells in table.rows] == ["12 (2 left out)"]
    assert "left out" in table.caption.lower()
    assert "too few runs share one" not in table.caption
    (_, table) = how_it_goes(
        [Case("all", frame.with_columns(seed=pl.int_range(18)), DEPTH)], [("log_valid_loss", "L")], "t"
    )
    assert [cells[-1].text for _, cells in table.rows] == ["embedding_size"]
    assert "too few runs share one" in table.caption
    both = pl.concat([frame.with_columns(model=pl.lit("gpt")), holes.with_columns(model=pl.lit("lstm"))])
    ((_, table),) = who_scales_better({"t": [Case("all", both, DEPTH)]})
    assert {cells[-2].text for _, cells in table.rows} == {"2 (8 runs left out)"}
    assert "Left out: runs" in table.caption


def test_words_go_by_the_corrected_p():
    frame = GPTS.with_columns(valid_loss=10 ** pl.col("loss"), train_loss=pl.lit(1.0))
    case = Case("all", frame, DEPTH)
    loss = ("log_valid_loss", "L_val")
    ((alone,), _) = how_it_goes([case], [loss], "t")
    assert direction(alone, True).startswith("improves (ρ = −0.83, p = 0.0031)")
    (many, *_), table = how_it_goes([case] * 20, [loss], "t")
    assert many.corrected == pytest.approx(20 * alone.found.p)
    assert direction(many, True) == "shows no clear rise or fall (ρ = −0.83, p = 0.0031, corrected 0.063)"
    assert [cells[2].text for _, cells in table.rows] == ["0.063"] * 20
    assert "20 tests" in table.caption


def test_so_many_questions_of_so_few_runs_cannot_be_told():
    rows = [(seed, 2**k, 10.0**-k, 1.0) for seed in range(2) for k in range(4)]
    case = Case(
        "all", pl.DataFrame(rows, ["seed", "size", "valid_loss", "train_loss"], orient="row"), Axis("size", "s", 2)
    )
    loss = ("log_valid_loss", "L_val")
    (one,), _ = how_it_goes([case], [loss], "t")
    assert one.found.p == one.found.smallest_p == pytest.approx(2 / 24**2)
    assert direction(one, True).startswith("improves")
    (first, *_), _ = how_it_goes([case] * 20, [loss], "t")
    assert direction(first, True).startswith("has too few runs to test")
    assert f"no corrected p below {20 * 2 / 24**2:.2g} is possible" in direction(first, True)
    few = Case("few", case.frame.filter(pl.col("size") < 8), case.axis)
    ((alone,), _) = how_it_goes([few], [loss], "t")
    assert "no p below 0.056 is possible" in direction(alone, True)


# blocks


def test_blocks_hold_runs_that_differ_in_what_is_asked_alone():
    found = comparable(GPTS, "num_layers", "seed", "embedding_size")
    assert (len(found.rows), found.runs, found.alone) == (6, 18, 0)
    for rows in found.rows:
        own = GPTS[rows]
        assert (own["seed"].n_unique(), own["embedding_size"].n_unique(), own["num_layers"].n_unique()) == (1, 1, 3)
    with pytest.raises(UserError, match="unknown column 'width': one of seed embedding_size"):
        comparable(GPTS, "num_layers", "seed", "width")


def test_seeds_that_are_not_shared_are_left_out_of_the_blocks_and_settings_are_not():
    apart = GPTS.with_columns(seed=pl.int_range(18))
    found = comparable(apart, "num_layers", "seed", "embedding_size")
    assert (found.names, len(found.rows), found.alone) == (("embedding_size",), 3, 0)
    few = GPTS.with_columns(seed=pl.when(pl.int_range(18) < 3).then(pl.lit(0)).otherwise(pl.int_range(18)))
    assert comparable(few, "num_layers", "seed", "embedding_size").names == ("embedding_size",)  # 3 of 18 share one
    most = GPTS.with_columns(seed=pl.when(pl.int_range(18) < 9).then(pl.col("seed")).otherwise(pl.int_range(18)))
    found = comparable(most, "num_layers", "seed", "embedding_size")
    assert (found.names, found.runs, found.alone) == (("seed", "embedding_size"), 9, 9)
    diagonal = GPTS.filter(pl.col("embedding_size") == 32 * 2 ** pl.col("num_layers"))
    found = trend(diagonal, "num_layers", "loss", within="embedding_size")
    assert (found.rho, found.p, found.slope, found.alone, found.blocks) == (None, None, None, 6, 0)


# the test


@st.composite
def designs(draw) -> pl.DataFrame:
    """Runs of a few seeds and settings with holes, ties and repeats."""
    size = draw(st.integers(2, 7))
    column = st.lists(st.integers(0, 2), min_size=size, max_size=size)
    return pl.DataFrame({name: draw(column) for name in ("seed", "other", "x", "y")})


def by_brute_force(frame: pl.DataFrame, names: tuple[str, ...]) -> tuple[float, float] | None:
    """ρ and p from every permutation, repeated ones too."""
    groups = [own for _, own in frame.group_by(names, maintain_order=True)] if names else [frame]
    groups = [own for own in groups if own["x"].n_unique() > 1]

    def scores(own, name):
        ranks = stats.rankdata(own[name])
        return (ranks - ranks.mean()) / (len(ranks) + 1)

    a = np.concatenate([[], *(scores(own, "x") for own in groups)])
    b = [scores(own, "y") for own in groups]
    seen = a @ np.concatenate([[], *b])
    spread = math.sqrt(sum(a**2) * sum(np.concatenate([[], *b]) ** 2))
    if spread == 0:
        return None
    every = [abs(a @ np.concatenate(order)) for order in itertools.product(*map(itertools.permutations, b))]
    return seen / spread, float(np.mean(np.array(every) >= abs(seen) - 1e-9))


@some
@given(designs())
def test_the_test_counts_permutations_within_blocks_whatever_the_design(frame):
    found = trend(frame, "x", "y", within="other", log2=False)
    assert set(found.names) in ({"seed", "other"}, {"other"})
    assert found.runs + found.alone == len(frame)
    expected = by_brute_force(frame, found.names)
    if expected is None:
        assert found.rho is found.p is None
    else:
        assert (found.rho, found.p) == pytest.approx(expected)
        assert found.smallest_p <= found.p + 1e-12


def test_random_permutations_are_drawn_where_there_are_too_many():
    rng = np.random.default_rng(0)
    rows = [(s, w, d, d + 30 * rng.normal()) for s in range(2) for w in range(2) for d in range(12)]
    frame = pl.DataFrame(rows, ["seed", "w", "d", "y"], orient="row")
    found = trend(frame, "d", "y", within="w", log2=False)
    assert not found.exact
    assert found.smallest_p == pytest.approx(1 / 10_001)
    # of many values the sum is about normal
    sums = sum(stats.spearmanr(own["d"], own["y"]).statistic for _, own in frame.group_by("seed", "w"))
    normal = 2 * stats.norm.sf(abs(sums) / math.sqrt(4 / 11))
    assert found.p == pytest.approx(normal, rel=0.3)


@pytest.mark.slow
@pytest.mark.parametrize(("slope", "low", "high"), [(0.4, 0.55, 0.75), (0.0, 0.0, 0.075)])
def test_level_and_power_of_a_trend_where_depth_is_crossed_with_width(slope, low, high):
    """0.8 between depths would be noise to a test within seeds alone, which then finds 0.4 in 13 of 100."""
    rng, found = np.random.default_rng(5), []
    cells = [(seed, depth, width) for seed in range(2) for depth in range(3) for width in range(3)]
    frame = pl.DataFrame(cells, ["seed", "depth", "width"], orient="row")
    for _ in range(400):
        y = [0.8 * depth + slope * width + 0.4 * rng.normal() for _, depth, width in cells]
        runs = frame.with_columns(y=pl.Series(y))
        found.append(trend(runs, "width", "y", within="depth", log2=False).p <= 0.05)
    assert low <= np.mean(found) <= high


# slopes


def lines(frame: pl.DataFrame, names: list[str]) -> float:
    """The slope of y over x with an intercept for each group, by least squares."""
    groups = frame.select(pl.struct(names).rank("dense")).to_series().to_numpy() - 1
    design = np.column_stack([frame["x"].to_numpy(), np.eye(groups.max() + 1)[groups]])
    return float(np.linalg.lstsq(design, frame["y"].to_numpy(), rcond=None)[0][0])


def test_slopes_are_of_lines_within_the_other_settings():
    rng = np.random.default_rng(1)
    rows = [
        (model, seed, other, x, 10.0 * other + slope * x + seed + rng.normal())
        for model, slope in (("lstm", 1.0), ("gpt", -1.0))
        for seed in range(3)
        for other, xs in ((0, (1, 2, 3)), (1, (3, 4, 5)))  # larger x where the other setting is higher
        for x in xs
    ]
    frame = pl.DataFrame(rows, ["model", "seed", "other", "x", "y"], orient="row")
    own = frame.filter(model="gpt")
    found = trend(own, "x", "y", within="other", log2=False)
    assert found.slope == pytest.approx(np.mean([lines(part, ["other"]) for _, part in own.group_by("seed")]))
    assert found.slope < 0 < trend(own, "x", "y", log2=False).slope  # without the other setting it seems to rise
    assert found.rho < 0
    difference = slope_difference(frame, "x", "y", "model", "lstm", "gpt", within="other", log2=False)
    per_seed = [
        lines(part.filter(model="gpt"), ["other"]) - lines(part.filter(model="lstm"), ["other"])
        for _, part in frame.group_by("seed")
    ]
    assert difference.difference == pytest.approx(np.mean(per_seed))
    expected = stats.ttest_1samp(per_seed, 0)
    assert difference.p == pytest.approx(expected.pvalue)
    assert (difference.low, difference.high) == pytest.approx(tuple(expected.confidence_interval(0.95)))
    # of combinations that one model lacks nothing is used
    holes = frame.filter(~((pl.col("model") == "gpt") & (pl.col("other") == 1)))
    half = slope_difference(holes, "x", "y", "model", "lstm", "gpt", within="other", log2=False)
    assert (difference.alone, half.alone) == (0, 9)
    only = frame.filter(other=0)
    assert half.first_slope == pytest.approx(
        np.mean([lines(part, ["other"]) for _, part in only.filter(model="lstm").group_by("seed")])
    )


def test_who_scales_better_is_corrected_over_all_questions_of_a_page():
    rows = [
        {"model": model, "seed": seed, "size": 2**k, "train_loss": 1.0, "valid_accuracy": 0.5}
        | {"valid_loss": 10 ** ((-0.2 if model == "gpt" else 0.0) * k + 0.02 * (seed - 1) * k * (model == "gpt"))}
        for model in ("lstm", "gpt")
        for seed in range(3)
        for k in range(4)
    ]
    case = Case("all", pl.DataFrame(rows), Axis("size", "size s", log=2))
    (told, table), *_ = who_scales_better({"a": [case]})
    p = 2 * stats.t.sf(0.2 / (0.02 / math.sqrt(3)), 2)
    assert table.rows[0][1][5].text == f"{p:.2g}"
    assert told[0].startswith("In terms of log₁₀ L_val the GPT scales better (")
    many = who_scales_better({str(i): [case] for i in range(20)})
    for told, table in many:
        assert told[0].startswith("In terms of log₁₀ L_val no model clearly scales better (")
        assert table.rows[0][1][6].text == f"{20 * p:.2g}"
        assert table.rows[0][1][-1].text == "open"


def test_settings_of_real_runs_are_crossed_as_they_were_asked_for(tmp_path):
    base = RunSpec(model="lstm", p=5, num_layers=1, embedding_size=8, n_steps=2)
    specs = shoal.grid(base, num_layers=[1, 2], embedding_size=[8, 16], seed=[0, 1])
    runs = shoal.train(specs, tmp_path / "lab", workers=1).runs()
    assert crossing(runs, "num_layers") == (("seed",), ("embedding_size",))
    assert crossing(runs, "embedding_size") == (("seed",), ("num_layers",))
    assert crossing(runs.with_columns(size=pl.int_range(8)), "size", ("num_layers", "embedding_size"))[1] == ()


def with_null_seeds():
    """Twelve runs at three widths, of which four have no seed on record."""
    rng = np.random.default_rng(3)
    return pl.DataFrame(
        {
            "model": ["lstm", "gpt"] * 6,
            "width": [8] * 4 + [16] * 4 + [32] * 4,
            "seed": [0, 0, 1, 1, 0, None, 1, None, 0, None, 1, None],
            "loss": rng.normal(size=12),
            "time": rng.integers(1, 50, 12),
            "observed": [True] * 12,
        }
    )


def test_a_null_seed_is_no_seed_in_any_test():
    """One rule: a run without a seed on record shares it with no other, and is left out where runs share seeds."""
    frame = with_null_seeds()
    known = frame.drop_nulls("seed")
    blocks = comparable(frame, "width", "seed")
    assert blocks.names == ("seed",) and blocks.alone == 4
    assert logrank(frame, "width").blocks == ("seed",)
    for test in (any_difference, trend):
        whole, left = test(frame, "width", "loss", draws=40_000), test(known, "width", "loss", draws=40_000)
        assert whole.p == left.p
    assert whole.alone == left.alone + 4 and whole.units == 2 and (whole.low, whole.high) == (left.low, left.high)
    no_seed = frame.with_columns(seed=pl.lit(None, dtype=pl.Int64))
    assert comparable(no_seed, "width", "seed").names == () and logrank(no_seed, "width").blocks == ()
    assert any_difference(no_seed, "width", "loss").p == any_difference(no_seed, "width", "loss", ()).p


def test_slopes_are_compared_on_seeds_that_are_known():
    frame = with_null_seeds()
    slopes = slope_difference(frame, "width", "loss", "model", "lstm", "gpt")
    known = slope_difference(frame.drop_nulls("seed"), "width", "loss", "model", "lstm", "gpt")
    assert slopes.alone == known.alone + 4 and slopes.missing == known.missing
    assert (slopes.units, slopes.difference) == (known.units, known.difference)
