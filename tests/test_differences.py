"""Any difference between the values of a setting: against scipy, enumeration of all exchanges, and simulation."""

import itertools

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from shoal.analysis import any_difference, trend
from shoal.report.panels import Axis
from shoal.studies.answers import Case, direction, how_it_goes

DECAY = Axis("decay", "weight decay")


def complete(values):
    """One row per run: ``values`` are those of each seed (rows) at each setting (columns)."""
    return pl.DataFrame(
        [(seed, float(place), float(y)) for seed, row in enumerate(values) for place, y in enumerate(row)],
        ["seed", "decay", "y"],
        orient="row",
    )


numbers = st.integers(0, 4)  # with ties
tables = st.tuples(st.integers(2, 5), st.integers(3, 5)).flatmap(
    lambda shape: st.lists(
        st.lists(numbers, min_size=shape[1], max_size=shape[1]), min_size=shape[0], max_size=shape[0]
    )
)


@given(tables)
@settings(max_examples=25, deadline=None)
def test_in_complete_blocks_the_statistic_is_that_of_friedman(values):
    found = any_difference(complete(values), "decay", "y", draws=20)
    if all(len(set(row)) == 1 for row in values):
        assert found.chi2 is None and found.p is None
        return
    assert found.chi2 == pytest.approx(stats.friedmanchisquare(*np.array(values, float).T).statistic)


@given(st.lists(st.lists(numbers, min_size=1, max_size=4), min_size=3, max_size=4))
@settings(max_examples=25, deadline=None)
def test_of_one_block_the_statistic_is_that_of_kruskal_and_wallis(groups):
    rows = [(seed, place, y) for place, ys in enumerate(groups) for seed, y in enumerate(ys, 10 * place)]
    frame = pl.DataFrame(rows, ["seed", "decay", "y"], orient="row")  # no seed is shared
    found = any_difference(frame, "decay", "y", draws=20)
    if frame["y"].n_unique() == 1:
        assert found.chi2 is None
    else:
        assert found.chi2 == pytest.approx(stats.kruskal(*groups).statistic)


def friedman(values):
    """Friedman's statistic without ties, from its textbook formula."""
    blocks, k = values.shape
    sums = (values.argsort(axis=1).argsort(axis=1) + 1).sum(axis=0)
    return 12 / (blocks * k * (k + 1)) * float((sums**2).sum()) - 3 * blocks * (k + 1)


@pytest.mark.parametrize("shape", [(2, 3), (3, 3), (2, 4)])
def test_p_is_the_share_of_all_exchanges_within_blocks(shape):
    values = np.random.default_rng(sum(shape)).standard_normal(shape) + np.arange(shape[1]) % 2
    found = any_difference(complete(values), "decay", "y")
    every = [
        friedman(np.array(rows)) for rows in itertools.product(*(list(itertools.permutations(row)) for row in values))
    ]
    assert found.exact
    assert found.p == pytest.approx(np.mean(np.array(every) >= friedman(values) - 1e-9))
    assert found.smallest_p == pytest.approx(np.mean(np.array(every) >= max(every) - 1e-9))


def test_blocks_of_several_sizes_count_all_their_runs_and_what_stands_alone_counts_nothing():
    whole = complete([[1, 3, 2], [2, 5, 3], [1, 4, 0]])
    alone = pl.concat([whole, pl.DataFrame({"seed": [9], "decay": [1.0], "y": [-100.0]})])
    assert any_difference(alone, "decay", "y") == any_difference(whole, "decay", "y")
    less = whole.filter((pl.col("seed") > 0) | (pl.col("decay") > 0))  # a seed has two values
    found = any_difference(less, "decay", "y")
    every = {}
    for first in itertools.permutations([3.0, 2.0]):
        for second in itertools.permutations([2.0, 5.0, 3.0]):
            for third in itertools.permutations([1.0, 4.0, 0.0]):
                ys = [*first, *second, *third]
                every[tuple(ys)] = any_difference(less.with_columns(y=pl.Series(ys)), "decay", "y", draws=72).chi2
    seen = every[3.0, 2.0, 2.0, 5.0, 3.0, 1.0, 4.0, 0.0]
    assert found.p == pytest.approx(np.mean(np.array(list(every.values())) >= seen - 1e-9))
    assert (found.highest, found.values) == (1.0, 3)


def hump(seeds=4, heights=(0.56, 0.83, 0.86, 0.44)):
    rows = [
        ("gpt", seed, decay, height + 0.01 * seed, 1.0, 10.0**-height)
        for seed in range(seeds)
        for decay, height in zip((0.0, 0.5, 1.0, 2.0), heights, strict=True)
    ]
    return pl.DataFrame(rows, ["model", "seed", "decay", "valid_accuracy", "train_loss", "valid_loss"], orient="row")


def test_a_hump_is_found_and_said_to_be_highest_in_the_middle():
    columns = [("valid_accuracy", "A_val"), ("log_valid_loss", "L_val"), ("train_loss", "L_train")]
    (up, down, same), table = how_it_goes([Case("GPT", hump(), DECAY)], columns, "trends", any_differences=True)
    assert not up.is_clear
    assert direction(up, False).startswith("differs between settings, highest at 1 (p = ")
    assert "no clear rise or fall (ρ = " in direction(up, False)
    assert direction(down, True).startswith("differs between settings, lowest at 1 (p = ")
    assert "lowest at 2 and highest at 1" in direction(up, None)
    assert direction(same, True) == "is the same everywhere"
    assert up.family is down.family and up.family.tests == 4  # two trends and two differences
    assert up.apart_corrected == pytest.approx(min(1, 4 * up.apart.p), rel=0.01)
    assert table.data["highest_at"].to_list() == [1.0, 2.0, None]
    assert all(len(cells) == len(table.header) - 1 for _, cells in table.rows)


def test_a_clear_trend_is_no_hump_and_noise_is_neither():
    columns = [("valid_accuracy", "A_val")]
    (rise,), _ = how_it_goes([Case("r", hump(6, (0.1, 0.2, 0.3, 0.4)), DECAY)], columns, "t", any_differences=True)
    assert direction(rise, False).startswith("improves (")
    noise = hump().with_columns(valid_accuracy=pl.Series(np.random.default_rng(0).random(16)))
    (nothing,), _ = how_it_goes([Case("n", noise, DECAY)], columns, "t", any_differences=True)
    assert direction(nothing, False).startswith("shows no clear rise or fall (")
    assert "no clear difference between settings (p = " in direction(nothing, False)


def test_where_a_difference_cannot_be_found_it_is_not_tested_and_weakens_no_other_test():
    columns = [("valid_accuracy", "A_val")]
    for frame in (hump(1), hump(8).filter(pl.col("decay") < 1)):  # one seed; two values, where a trend says all
        (one,), table = how_it_goes([Case("c", frame, DECAY)], columns, "t", any_differences=True)
        assert one.apart is None and one.family.tests == 1
        assert one.corrected == trend(frame, "decay", "valid_accuracy", log2=False).p
        assert table.data["difference_p"].to_list() == [None]


@pytest.mark.slow
@pytest.mark.parametrize("blocks", [3, 4, 8])
def test_five_in_a_hundred_equal_settings_at_most_are_said_to_differ(blocks):
    """The level, with heavy tails and blocks that are far apart; and the power of a hump of two deviations."""
    rng, draws = np.random.default_rng(blocks), 1000
    flat, humped = [], []
    for _ in range(draws // 2):
        values = rng.standard_t(2, (blocks, 4)) + 10 * rng.standard_normal((blocks, 1))
        flat.append(any_difference(complete(values), "decay", "y", draws=400).p <= 0.05)
        values = rng.standard_normal((blocks, 4)) + [0, 2, 2, 0] + 10 * rng.standard_normal((blocks, 1))
        humped.append(any_difference(complete(values), "decay", "y", draws=400).p <= 0.05)
    assert np.mean(flat) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / len(flat))
    assert np.mean(humped) >= {3: 0.35, 4: 0.6, 8: 0.95}[blocks]
