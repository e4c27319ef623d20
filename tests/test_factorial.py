"""The variance of a factorial against brute force, its model's own expectation and recovered shares."""

import itertools
import math

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from polars.testing import assert_frame_equal
from scipy import stats

from shoal.analysis import decompose, holm
from shoal.analysis.factorial import SEEDS, f_test, sums_of_squares, variance_components
from shoal.errors import UserError
from shoal.report import Report, Section, factorial_figure, factorial_notes, factorial_table, write_report

some = settings(max_examples=25, deadline=None)
cells = array_shapes(min_dims=2, max_dims=3, min_side=2, max_side=4).flatmap(
    lambda shape: arrays(np.float64, shape, elements=st.integers(-8, 8).map(float))
)


def frame(values: np.ndarray, name: str = "loss") -> pl.DataFrame:
    """A row per cell of three factors."""
    rows = [dict(zip(SEEDS, index, strict=True)) | {name: float(values[index])} for index in np.ndindex(values.shape)]
    return pl.DataFrame(rows)


def effects(rng: np.random.Generator, shape: tuple[int, ...], variances: dict[tuple[int, ...], float]) -> np.ndarray:
    """Normal random effects of every source."""
    out = np.zeros(shape)
    for source, variance in variances.items():
        own = [size if axis in source else 1 for axis, size in enumerate(shape)]
        out = out + math.sqrt(variance) * rng.normal(size=own)
    return out


def brute_force(values: np.ndarray) -> dict[tuple[int, ...], float]:
    """Sums of squares of three factors, cell by cell, from the textbook's formula of each effect."""
    a, b, c = values.shape
    mean = values.mean()

    def m(i=None, j=None, k=None) -> float:
        index = tuple(slice(None) if at is None else at for at in (i, j, k))
        return float(values[index].mean())

    out = dict.fromkeys([(0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2)], 0.0)
    for i, j, k in itertools.product(range(a), range(b), range(c)):
        out[0,] += (m(i) - mean) ** 2
        out[1,] += (m(j=j) - mean) ** 2
        out[2,] += (m(k=k) - mean) ** 2
        out[0, 1] += (m(i, j) - m(i) - m(j=j) + mean) ** 2
        out[0, 2] += (m(i, k=k) - m(i) - m(k=k) + mean) ** 2
        out[1, 2] += (m(j=j, k=k) - m(j=j) - m(k=k) + mean) ** 2
        rest = m(i, j, k) - m(i, j) - m(i, k=k) - m(j=j, k=k) + m(i) + m(j=j) + m(k=k) - mean
        out[0, 1, 2] += rest**2
    return out


@some
@given(cells)
def test_sums_of_squares_add_up_to_the_total(values):
    found = sums_of_squares(values)
    assert len(found) == 2**values.ndim - 1
    assert sum(found.values()) == pytest.approx(((values - values.mean()) ** 2).sum(), abs=1e-9)


@some
@given(arrays(np.float64, (3, 2, 4), elements=st.integers(-8, 8).map(float)))
def test_sums_of_squares_equal_brute_force(values):
    found = sums_of_squares(values)
    for source, expected in brute_force(values).items():
        assert found[source] == pytest.approx(expected, abs=1e-9)


@some
@given(st.lists(st.floats(0, 5), min_size=7, max_size=7), st.tuples(*[st.integers(2, 6)] * 3))
def test_components_are_what_the_expected_mean_squares_were_made_of(variances, shape):
    a, b, c = shape
    va, vb, vc, vab, vac, vbc, rest = variances
    expected = {  # Searle, Casella and McCulloch, three-way crossed, all random, one run per cell
        (0,): rest + c * vab + b * vac + b * c * va,
        (1,): rest + c * vab + a * vbc + a * c * vb,
        (2,): rest + b * vac + a * vbc + a * b * vc,
        (0, 1): rest + c * vab,
        (0, 2): rest + b * vac,
        (1, 2): rest + a * vbc,
        (0, 1, 2): rest,
    }
    assert list(variance_components(expected, shape).values()) == pytest.approx(variances, abs=1e-9)


def test_mean_squares_of_drawn_effects_are_those_expected():
    rng, shape = np.random.default_rng(0), (4, 3, 5)
    variances = {(0,): 2.0, (1,): 0.5, (0, 1): 1.0, (1, 2): 0.3, (0, 1, 2): 0.4}
    drawn = []
    for _ in range(1500):
        squares = sums_of_squares(effects(rng, shape, variances))
        mean_squares = {s: v / math.prod(shape[axis] - 1 for axis in s) for s, v in squares.items()}
        drawn.append(list(variance_components(mean_squares, shape).values()))
    sources = list(sums_of_squares(np.zeros(shape)))
    found = dict(zip(sources, np.mean(drawn, axis=0), strict=True))
    for source in sources:
        assert found[source] == pytest.approx(variances.get(source, 0.0), abs=0.15)


def test_the_shares_that_were_put_in_come_out():
    values = effects(np.random.default_rng(4), (12, 12, 12), {(0,): 6.0, (1,): 3.0, (0, 1, 2): 1.0})
    table = decompose(frame(values), "loss", log2=False).table
    shares = dict(zip(map(tuple, table["source"]), table["component_share"], strict=True))
    assert shares["init_seed",] == pytest.approx(0.6, abs=0.2)
    assert shares["split_seed",] == pytest.approx(0.3, abs=0.2)
    assert shares["order_seed",] == pytest.approx(0, abs=0.01)
    assert shares[SEEDS] == pytest.approx(0.1, abs=0.06)
    assert table["component_share"].sum() == pytest.approx(1)
    assert table["share"].sum() == pytest.approx(1)
    assert table["share_by_chance"].sum() == pytest.approx(1)
    assert table.filter(pl.col("low") > pl.col("high")).is_empty()


REST = (0, 1, 2)
VARIANCES = {
    "remainder alone": {REST: 1.0},
    "one main effect": {(0,): 1.0, REST: 1.0},
    "main effects": {(0,): 1.0, (1,): 1.0, (2,): 1.0, REST: 1.0},
    "one interaction": {(0, 1): 10.0, REST: 0.5},
    "all": dict.fromkeys([(0,), (1,), (2,), (0, 1), (0, 2), (1, 2), REST], 1.0),
}


def simulated(shape, variances, samples, seed=8):
    """For each source: how often the interval held the true share, and how often p was at most 0.05."""
    rng, held, rejected = np.random.default_rng(seed), [], []
    for sample in range(samples):
        table = decompose(frame(effects(rng, shape, variances)), "loss", log2=False, draws=800, seed=sample).table
        shares = [variances.get(tuple(SEEDS.index(name) for name in source), 0.0) for source in table["source"]]
        truth = pl.Series(shares) / sum(shares)
        held.append(((table["low"] <= truth) & (truth <= table["high"])).to_list())
        rejected.append(((table["p"] <= 0.05).fill_null(False)).to_list())
    return np.mean(held, axis=0), np.mean(rejected, axis=0)


def test_an_interval_holds_a_remainder_that_is_all_there_is():
    """Its true share is 1 and that of the others 0: the ends of what a share can be."""
    held, rejected = simulated((3, 3, 3), VARIANCES["remainder alone"], 100)
    assert held.min() >= 0.86
    assert rejected.max() <= 0.14


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANCES)
@pytest.mark.parametrize("shape", [(2, 2, 2), (3, 3, 3), (2, 3, 5), (3, 4, 6)])
def test_intervals_hold_the_share_and_tests_keep_their_level(name, shape):
    variances = VARIANCES[name]
    held, rejected = simulated(shape, variances, 300)
    assert held.min() >= 0.87
    absent = [source not in variances for source in sums_of_squares(np.zeros(shape))]
    assert rejected[absent].max(initial=0.0) <= 0.05 + 0.045


@pytest.mark.slow
def test_f_tests_find_what_is_there():
    _, rejected = simulated((3, 3, 3), VARIANCES["one interaction"], 200)
    assert rejected[3] >= 0.9
    _, rejected = simulated((4, 4, 4), VARIANCES["one main effect"], 200)
    assert rejected[0] >= 0.7


@some
@given(arrays(np.float64, (3, 4), elements=st.integers(-8, 8).map(float)))
def test_f_of_two_factors_is_that_of_the_two_way_analysis_of_variance(values):
    """Each main effect over the remainder, as in a textbook of analysis of variance without replication."""
    cells_ = [(i, j, values[i, j]) for i, j in np.ndindex(values.shape)]
    table = decompose(
        pl.DataFrame(cells_, [*SEEDS[:2], "loss"], orient="row"), "loss", SEEDS[:2], log2=False, draws=50
    ).table
    rows, columns = values.mean(axis=1, keepdims=True), values.mean(axis=0, keepdims=True)
    rest = ((values - rows - columns + values.mean()) ** 2).sum() / 6
    for place, (means, n, df) in enumerate(((rows, 4, 2), (columns, 3, 3))):
        mean_square = n * ((means - values.mean()) ** 2).sum() / df
        if min(rest, mean_square) < 1e-9:
            assert table["F"][place] is table["p"][place] is None
            continue
        assert table["F"][place] == pytest.approx(mean_square / rest)
        assert table["p"][place] == pytest.approx(stats.f.sf(mean_square / rest, df, 6))
    assert table["p"][-1] is None
    assert table["p_holm"].to_list() == holm(table["p"].to_list())


def test_f_of_three_factors_is_exact_for_pairs_and_satterthwaites_for_single_ones():
    """The mean squares of 27 runs of an LSTM, by hand."""
    sources = list(sums_of_squares(np.zeros((3, 3, 3))))
    df = dict(zip(sources, [2, 2, 2, 4, 4, 4, 8], strict=True))
    squares = dict(zip(sources, [0.757, 0.362, 0.437, 3.05, 0.806, 0.361, 1.15], strict=True))
    ms = {source: squares[source] / df[source] for source in sources}
    F, p = f_test(ms, df, (0, 1))
    assert pytest.approx(5.304, abs=1e-3) == F
    assert p == pytest.approx(0.0219, abs=1e-4)
    # E[MS_A] + E[MS_ABC] = E[MS_AB] + E[MS_AC] where A brings nothing
    a, ab, ac, rest = 0.3785, 0.7625, 0.2015, 0.14375
    F, p = f_test(ms, df, (0,))
    assert pytest.approx((a + rest) / (ab + ac)) == F
    dfs = (a + rest) ** 2 / (a**2 / 2 + rest**2 / 8), (ab + ac) ** 2 / (ab**2 / 4 + ac**2 / 4)
    assert p == pytest.approx(stats.f.sf(F, *dfs))
    assert f_test(ms, df, (0, 1, 2)) == (None, None)


@some
@given(
    arrays(np.float64, (2, 3, 2), elements=st.integers(1, 60).map(float), unique=True),
    st.sampled_from([0.5, 3.0]),
    st.randoms(),
)
def test_shares_do_not_depend_on_units_places_or_the_order_of_rows(values, factor, random):
    given_table = decompose(frame(values), "loss", draws=50).table
    order = [random.sample(range(size), size) for size in values.shape]
    rows = frame(factor * values[np.ix_(*order)]).rows()
    random.shuffle(rows)
    other = decompose(pl.DataFrame(rows, schema=[*SEEDS, "loss"], orient="row"), "loss", draws=50).table
    assert_frame_equal(given_table, other, abs_tol=1e-9)  # of logarithms, a factor is a shift


def test_logarithms_are_taken_of_what_has_one():
    values = np.array([[[1.0, 2], [4, 8]], [[2, 4], [8, 16]]])
    table = decompose(frame(values), "loss").table
    assert table["sum_of_squares"].to_list() == pytest.approx([2, 8, 2, 0, 0, 0, 0])
    with pytest.raises(UserError, match="loss=0 has no logarithm"):
        decompose(frame(values - 1), "loss")
    times = frame(values - 1, "time").with_columns(pl.col("time").cast(pl.Int64), observed=True)
    found = decompose(times, "time", observed="observed")  # 0 has the logarithm of 1
    assert found.horizon == 15
    assert_frame_equal(found.table, decompose(frame(np.maximum(values - 1, 1)), "loss").table)


def times() -> pl.DataFrame:
    """Times of 3 × 3 × 2 cells from 100 to 1,800 steps."""
    values = 100 * (1 + np.arange(18)).reshape(3, 3, 2)
    return frame(values, "time").with_columns(
        pl.col("time").cast(pl.Int64), observed=pl.lit(True), state=pl.lit("done")
    )


def at(init: int, split: int, order: int) -> pl.Expr:
    return (pl.col("init_seed") == init) & (pl.col("split_seed") == split) & (pl.col("order_seed") == order)


def test_censored_and_diverged_runs_stand_at_the_horizon_and_are_counted():
    frame_ = times().with_columns(
        observed=pl.col("time") < 1500,
        time=pl.when(at(0, 0, 0)).then(10).otherwise(pl.col("time").clip(upper_bound=1500)),
        state=pl.when(at(0, 0, 0)).then(pl.lit("diverged")).otherwise("state"),
    )
    frame_ = frame_.with_columns(observed=pl.col("observed") & ~at(0, 0, 0))
    found = decompose(frame_, "time", observed="observed")
    assert (found.censored, found.diverged, found.horizon, found.runs) == (4, 1, 1500, 18)
    known = pl.when(at(0, 0, 0)).then(1500).otherwise(pl.col("time").clip(upper_bound=1500))
    as_known = times().with_columns(time=known)
    assert_frame_equal(found.table, decompose(as_known, "time").table)
    renamed = frame_.rename({"time": "memorised", "observed": "seen"}).with_columns(
        time=pl.lit(7), observed=pl.lit(True)
    )
    assert_frame_equal(found.table, decompose(renamed, "memorised", observed="seen").table)
    (note,) = [note for note in factorial_notes(found) if "horizon" in note]
    assert note.startswith("Time to generalise: of 18 runs 4 had not reached the threshold and 1 diverged; step 1,500")
    assert "at least" in note


def test_cutting_times_off_never_adds_variance():
    whole = decompose(times(), "time", observed="observed").table["sum_of_squares"].sum()
    for horizon in (200, 900, 1700):
        cut = decompose(times(), "time", observed="observed", horizon=horizon)
        assert cut.table["sum_of_squares"].sum() <= whole
        assert cut.censored == 18 - horizon // 100


def test_levels_with_missing_cells_are_left_out_and_named():
    found = decompose(times().filter(~at(1, 2, 0)), "time")
    assert found.dropped == ("init_seed 1",)
    assert (found.factors, found.runs) == ({"init_seed": 2, "split_seed": 3, "order_seed": 2}, 12)
    assert_frame_equal(found.table, decompose(times().filter(pl.col("init_seed") != 1), "time").table)
    assert factorial_notes(found, "LSTM, time to A_val ≥ 0.9")[0] == (
        "LSTM, time to A_val ≥ 0.9: levels left out because a run with them is missing: init_seed 1."
    )
    waiting = times().with_columns(
        state=pl.when(at(1, 2, 0)).then(pl.lit("running")).otherwise("state"), observed=~at(1, 2, 0)
    )
    assert decompose(waiting, "time", observed="observed").dropped == ("init_seed 1",)
    worse = times().filter(~at(1, 2, 0) & ~at(0, 2, 1))
    assert decompose(worse, "time").dropped == ("split_seed 2",)


def test_what_is_no_factorial_is_refused():
    with pytest.raises(UserError, match=r"several runs share the cell init_seed 0, split_seed 0, order_seed 0"):
        decompose(pl.concat([times(), times().head(1)]), "time")
    with pytest.raises(UserError, match=r"factor 'order_seed' has one level with runs"):
        decompose(times().filter(pl.col("order_seed") == 0), "time")
    with pytest.raises(UserError, match=r"too few of the cells of .* without .* fewer than two levels"):
        decompose(times().filter(pl.col("init_seed") == pl.col("split_seed")), "time")
    with pytest.raises(UserError, match="at least two factors, got init_seed"):
        decompose(times(), "time", ["init_seed"])
    with pytest.raises(UserError, match="unknown column 'tme'"):
        decompose(times(), "tme")


def test_two_factors_are_a_factorial_too():
    found = decompose(times().filter(pl.col("order_seed") == 0), "time", ["init_seed", "split_seed"], log2=False)
    assert found.table["df"].to_list() == [2, 2, 4]
    assert found.table["source"].to_list() == [["init_seed"], ["split_seed"], ["init_seed", "split_seed"]]


def test_components_below_zero_are_shown_and_count_as_zero():
    checkerboard = pl.DataFrame({"init_seed": [0, 0, 1, 1], "split_seed": [0, 1, 0, 1], "loss": [1.0, 2, 2, 1]})
    found = decompose(checkerboard, "loss", ["init_seed", "split_seed"], log2=False)
    assert found.table["component"].to_list() == pytest.approx([-0.5, -0.5, 1])
    assert found.table["component_share"].to_list() == [0, 0, 1]
    assert factorial_notes(found, "loss") == [
        "Loss: estimated below 0, and counted as 0 in the shares: initialisation and split."
    ]


def test_equal_values_have_no_variance_to_share():
    found = decompose(times().with_columns(time=pl.lit(5)), "time")
    assert found.table["share"].null_count() == found.table["low"].null_count() == 7
    assert "no variance" in factorial_notes(found)[-1]
    assert len(factorial_notes(found)) == 1
    assert {cells[1].text for _, cells in factorial_table("t", found).rows} == {"0"}
    assert [cell.text for cell in factorial_table("t", found).rows[0][1]][-1] == "–"


def test_what_rounding_leaves_of_no_effect_is_shown_as_nothing():
    cells = [(i, s, o) for i in range(3) for s in range(3) for o in range(2)]
    frame = pl.DataFrame(cells, ["init_seed", "split_seed", "order_seed"], orient="row")
    added = 0.1 * pl.col("init_seed") + 0.7 * pl.col("split_seed") + 1.3 * pl.col("order_seed")
    found = decompose(frame.with_columns(loss=added), "loss", log2=False)
    assert 0 < found.table["sum_of_squares"][3:].sum() < 1e-20
    rows = [[cell.text for cell in cells] for _, cells in factorial_table("t", found).rows]
    assert not {row[k] for row in rows[:3] for k in (1, 3)} & {"0"}
    assert {row[k] for row in rows[3:] for k in (1, 3)} == {"0"}
    assert {row[4] for row in rows[3:]} == {"0 [0, 0]"}
    assert {row[k] for row in rows for k in (5, 6, 7)} == {"–"}  # with nothing to hold it to, nothing is tested
    assert factorial_notes(found) == []


def test_the_figure_and_the_table_say_what_they_are_of(tmp_path):
    found = decompose(times(), "time", observed="observed")
    figure, table = factorial_figure("seeds", found, "Which seed decides"), factorial_table("seeds", found)
    labels = [label for label, _ in table.rows]
    assert labels[:4] == ["initialisation", "split", "batch order", "initialisation × split"]
    assert labels[-1] == "all together (remainder)"
    assert table.rows[0][1][0].text == "2"
    for caption in (figure.caption, table.caption):
        assert "3 initialisation seeds × 3 split seeds × 2 batch order seeds (N = 18 runs" in caption
        assert "binary logarithm of the time to generalise" in caption
    (data,) = figure.chart.to_dict()["datasets"].values()
    assert [row["label"] for row in data] == labels
    page = write_report(Report("Seeds", "", [Section("Shares", figures=[figure], tables=[table])]), tmp_path)
    assert (page.parent / "figures" / "seeds.png").stat().st_size > 1000
