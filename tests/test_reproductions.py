"""Reproductions: the rule of the verdict, and that every reproduction asks for what it says."""

import math
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
from scipy import stats

from shoal import RunSpec, grid, train
from shoal.analysis import holm
from shoal.errors import UserError
from shoal.studies import Form, Results
from shoal.studies.reproductions import NAMES, get_reproduction
from shoal.studies.reproductions.curves import FEWEST, PublishedCurve, compare_curve, worded_curve
from shoal.studies.reproductions.page import _table, conclusion, judged
from shoal.studies.reproductions.verdict import (
    _TIMES,
    CONSISTENT,
    INCONSISTENT,
    NOT_RUN,
    TOO_FEW,
    Published,
    compare,
    compare_times,
    worded,
)
from shoal.studies.results import trained_equations
from shoal.tasks.arithmetic.settings import equations_of
from shoal.training.due import is_evaluated

N_STEPS = 10_000


def results_of(*runs):
    """Results of runs, each a dictionary: its state and last step, and its accuracies by step, perhaps those on the
    training equations apart."""
    rows = [
        {
            "run": f"run-{i}",
            "state": run.get("state", "done"),
            "step": run.get("step", N_STEPS),
            "model": "gpt",
            "seed": i,
        }
        for i, run in enumerate(runs)
    ]
    curves = []
    for row, run in zip(rows, runs, strict=True):
        train = run.get("train", run["accuracy"])
        for step in sorted({0, row["step"], *train, *run["accuracy"]}):
            both = {"train": train.get(step, 0.01), "valid": run["accuracy"].get(step, 0.01)}
            curve = {f"{split}_accuracy": accuracy for split, accuracy in both.items()}
            curves.append({"run": row["run"], "step": step, "train_loss": 1.0, "valid_loss": 1.0} | curve)
    results = object.__new__(Results)
    results.records, results.specs = None, {row["run"]: None for row in rows}
    results.measured, results.damage = {}, {}
    results.runs, results.curves = pl.DataFrame(rows), pl.DataFrame(curves, infer_schema_length=None)
    return results


def at(*steps):
    """Runs that get there at these steps, and were evaluated just before."""
    return [{"accuracy": {step - 1: 0.0, step: 1.0}} for step in steps]


def one(value, *runs, **published):
    """The verdict on a number alone."""
    verdict = compare(Published("an event", value, "someone", **published), results_of(*runs))
    return worded(verdict, verdict.p)


def compared(value, reached=(), ended=(), diverged=(), **published):
    """The verdict, alone, for runs that got there, ended without, or diverged."""
    rows = (
        [(t, True, False) for t in reached] + [(t, False, False) for t in ended] + [(t, False, True) for t in diverged]
    )
    times = pl.DataFrame(rows, {name: kind for name, kind in _TIMES.items() if name != "before"}, orient="row")
    verdict = compare_times(Published("an event", value, "someone", **published), times)
    return worded(verdict, verdict.p)


SPREAD = [80, 100, 125, 90, 110]  # geometric mean 99.8, deviation of the logarithms 0.174


@pytest.mark.parametrize(
    ("value", "reached", "ended", "diverged", "word"),
    [
        (100, SPREAD, [], [], CONSISTENT),
        (150, SPREAD, [], [], CONSISTENT),  # outside of all, which says little of five
        (200, SPREAD, [], [], INCONSISTENT),
        (50, SPREAD, [], [], INCONSISTENT),
        (100, [100], [], [], TOO_FEW),
        (100, [80, 125], [], [], TOO_FEW),
        (500, [80, 125], [], [], TOO_FEW),
        (1e6, [80, 125], [], [], INCONSISTENT),  # even two can be far
        (100, [20, 100, 500, 90, 2000], [], [], TOO_FEW),
        (100, [], [200, 200], [], TOO_FEW),
        (100, [50], [80, 80], [], TOO_FEW),
        (100, SPREAD, [130], [], CONSISTENT),
        (40, SPREAD, [130], [], INCONSISTENT),
        (100, SPREAD, [], [10], CONSISTENT),  # which counts as late
    ],
)
def test_a_time_is_compared_with_the_interval_of_one_more(value, reached, ended, diverged, word):
    found = compared(value, reached, ended, diverged)
    assert found.word == word
    if word == CONSISTENT:
        assert found.interval[0] < value < found.interval[1]
    if word == INCONSISTENT:
        assert not found.interval[0] < value < found.interval[1]


@pytest.mark.parametrize(
    ("value", "reached", "ended", "word"),
    [
        (150, SPREAD, [], CONSISTENT),
        (1e6, SPREAD, [], CONSISTENT),
        (80, SPREAD, [], CONSISTENT),
        (50, SPREAD, [], INCONSISTENT),
        (100, [50, 101], [], TOO_FEW),
        (100, [50], [80], TOO_FEW),
    ],
)
def test_a_bound_contradicts_only_runs_that_are_later(value, reached, ended, word):
    found = compared(value, reached, ended, is_bound=True)
    assert found.word == word
    assert found.interval is None or found.interval[1] == math.inf


def test_times_of_several_runs_are_compared_as_a_sample():
    alike, later = (90.0, 115.0, 100.0, 85.0, 130.0), (300.0, 250.0, 420.0, 380.0, 500.0)
    same, other = compared(alike, SPREAD), compared(later, SPREAD)
    assert (same.word, other.word) == (CONSISTENT, INCONSISTENT)
    assert same.interval[0] < 1 < same.interval[1] and other.interval[1] < 0.5
    assert other.p == pytest.approx(2 / math.comb(10, 5))  # exact: only two of all divisions are as extreme
    censored = compared(later, [80, 100, 125], [100, 100])
    assert censored.word in (CONSISTENT, INCONSISTENT, TOO_FEW) and censored.p is not None
    assert compared((300.0, 400.0), [80, 100]).word == TOO_FEW  # no p is small enough
    assert compared(alike, [], [200, 200]).word == TOO_FEW


def test_without_two_that_got_there_nothing_is_said_but_what_happened():
    found = one(1000, {"state": "diverged", "step": 50, "accuracy": {}}, {"accuracy": {}}, is_bound=True)
    assert found.word == TOO_FEW and found.p is None
    assert "0 of 2 runs reached it" in found.why and "1 diverged" in found.why
    assert one(1000, {"accuracy": {}}, where={"model": "lstm"}).word == NOT_RUN


def test_the_first_step_of_the_best_accuracy_counts_for_runs_that_generalised():
    done = at(8000, 9000, 9500, 8500)
    column = "t_valid_accuracy"
    best = {"accuracy": {150: 0.995, 9100: 1.0}}
    assert one(8700, *done, best, column=column).times["time"].to_list() == [8000, 9000, 9500, 8500, 9100]
    never, broken = {"accuracy": {150: 0.03}}, {"state": "diverged", "step": 400, "accuracy": {150: 1.0}}
    training = {"state": "running", "step": 5000, "accuracy": {150: 0.995}}  # may still improve
    found = one(8700, *done, never, broken, training, column=column)
    assert found.times["observed"].to_list() == [True] * 4 + [False] * 3
    assert found.times["time"].to_list()[4:6] == [N_STEPS, N_STEPS]  # a diverged run outlasts all
    assert found.times["time"].to_list()[6] == 150
    memorised = [{"accuracy": {}, "train": {step - 1: 0.0, step: 1.0}} for step in (80, 85, 90)]
    assert one(82.5, *memorised, column="t_train_accuracy").word == CONSISTENT
    assert one(820, *memorised, column="t_train_accuracy").word == INCONSISTENT


def test_times_are_no_more_exact_than_the_grid_of_evaluations():
    same = [{"accuracy": {100: 0.0, 200: 0.0, 300: 1.0}} for _ in range(4)]
    found = one(310, *same)
    assert found.word == CONSISTENT and found.interval[0] < 250 and found.interval[1] > 350
    fine = [{"accuracy": {299: 0.0, 300: 1.0}} for _ in range(4)]
    assert one(310, *fine).word == INCONSISTENT


def test_a_published_mean_is_compared_with_the_interval_of_a_mean():
    runs = at(5000, 7000, 8500, 6500, 9000)
    alone, mean = (one(7000, *runs, column="t_valid_accuracy", runs=m) for m in (1, 2))
    assert alone.interval[0] < mean.interval[0] < mean.interval[1] < alone.interval[1]
    assert mean.p_rank is None and alone.p_rank is not None
    assert {p.runs for p in get_reproduction("practical").PUBLISHED} == {2}


def card_of(numbers, curves=()):
    return SimpleNamespace(PUBLISHED=numbers, CURVES=curves)


def test_p_values_are_corrected_for_what_a_card_tried_and_for_no_more():
    runs = at(800, 1000, 1250, 900, 1100)
    near = Published("near", 1750, "someone", threshold=0.9)
    (alone,), _ = judged(card_of([near]), results_of(*runs))
    assert 0.01 < alone.p <= 0.05 and alone.word == INCONSISTENT
    absent = Published("elsewhere", 10, "someone", where={"model": "lstm"})
    (same, untried), _ = judged(card_of([near, absent]), results_of(*runs))
    assert same.p_holm == alone.p_holm and untried.word == NOT_RUN
    others = [Published(f"at {value}", value, "someone", threshold=0.9) for value in (950, 1050)]
    found, _ = judged(card_of([near, *others]), results_of(*runs))
    assert [verdict.p_holm for verdict in found] == holm([verdict.p for verdict in found])
    assert [verdict.word for verdict in found] == [CONSISTENT] * 3


def test_the_conclusion_speaks_of_what_was_tried():
    runs = at(800, 1000, 1250, 900, 1100)
    numbers = [Published(f"at {value}", value, "someone") for value in (1000, 9000)]
    absent = [Published("elsewhere", 10, "someone", where={"model": "lstm"})] * 4
    verdicts, _ = judged(card_of([*numbers, *absent]), results_of(*runs))
    first, contradicted = conclusion(verdicts)
    assert "of the 2 published numbers tried" in first and "6" not in first
    assert "1 consistent" in first and "1 not consistent" in first
    assert "at 9000" in contradicted and "9,000" in contradicted
    assert "independent" in first
    (alone,) = conclusion(verdicts[:1])
    assert "of the 1 published number tried" in alone and "independent" not in alone
    (nothing,) = conclusion(verdicts[2:])
    assert "none of 4" in nothing


def test_the_table_shows_published_decimals_and_what_was_compared():
    published = Published("it happens", 82.5, "someone", column="t_valid_accuracy")
    runs = at(80, 81, 90, 95)
    table = _table(judged(card_of([published]), results_of(*runs))[0])
    texts = [cell.text for cell in table.rows[0][1]]
    assert texts[:4] == ["82.5", "someone", "4 / 4", "85.5 [80, 95]"] and CONSISTENT in texts


EARLY = {"p": 7, "embedding_size": 32, "num_heads": 2, "num_layers": 1, "model": "gpt", "n_steps": 12}
EARLY |= {"warmup_steps": 6, "warmup_from_zero": True, "initialisation": "nanda", "eval_first": 12, "lr": 3e-3}
EARLY |= {"positions": "learned", "equation_format": "operands"}


@pytest.fixture(scope="module")
def early(tmp_path_factory):
    """Losses of the first steps of 16 seeds, by what is wrong with them, and a published curve of another seed."""
    lab = tmp_path_factory.mktemp("lab")
    wrong = {"nothing": {}, "warm-up": {"warmup_from_zero": False}, "initial values": {"initialisation": "torch"}}
    found = {}
    for name, change in wrong.items():
        specs = grid(RunSpec(**{**EARLY, **change}), seed=range(16))
        found[name] = train(specs, lab=lab / name).curves()
    theirs = train([RunSpec(**EARLY, seed=99)], lab=lab / "theirs").curves()
    steps = (0, 1, 2, 6, 12)
    losses = {
        column: {step: theirs.filter(step=step)[column].item() for step in steps}
        for column in ("train_loss", "valid_loss")
    }
    return PublishedCurve("a curve", losses, "someone"), {
        name: curves.filter(pl.col("step").is_in(steps)) for name, curves in found.items()
    }


def test_a_wrong_warm_up_or_initial_value_shows_in_the_first_steps(early):
    curve, ours = early
    found = {name: compare_curve(curve, curves) for name, curves in ours.items()}
    words = {name: worded_curve(verdict, verdict.p).word for name, verdict in found.items()}
    assert words == {"nothing": CONSISTENT, "warm-up": INCONSISTENT, "initial values": INCONSISTENT}
    worst = {name: verdict.points.sort("p")["step"][0] for name, verdict in found.items()}
    assert worst["warm-up"] == 1  # the one step that it does not take


def test_a_curve_needs_four_runs_and_counts_every_step(early):
    curve, ours = early
    some = ours["warm-up"]
    few = some.filter(pl.col("run").is_in(some["run"].unique(maintain_order=True).head(3).to_list()))
    assert compare_curve(curve, few).word == TOO_FEW
    assert compare_curve(curve, few.clear()).word == NOT_RUN
    whole = compare_curve(curve, ours["nothing"])
    assert len(whole.points) == 10
    assert whole.p == pytest.approx(min(1, 10 * min(whole.points["p"])))
    first = whole.points.filter(step=0, column="train_loss").row(0, named=True)
    y = ours["nothing"].filter(step=0)["train_loss"].cast(pl.Float64).log()
    t = (math.log(first["published"]) - y.mean()) / (y.std() * math.sqrt(1 + 1 / 16))
    assert first["p"] == pytest.approx(2 * stats.t.sf(abs(t), 15))


@pytest.mark.slow
def test_a_card_of_true_numbers_is_contradicted_in_one_case_of_twenty(draws=300):
    """Six numbers of the same runs, and a curve, as one family."""
    random = np.random.default_rng(0)
    contradicted = 0
    for _ in range(draws):
        ours, theirs = np.exp(random.normal(7, 0.4, 8)), np.exp(random.normal(7, 0.4, 6))
        times = pl.DataFrame({"time": ours, "observed": True, "diverged": False})
        found = [compare_times(Published("it", float(value), "someone"), times) for value in theirs]
        rows = [
            {"run": str(run), "step": step, "train_loss": float(np.exp(start + step * random.normal(-0.1, 0.02)))}
            for run in range(9)
            for start in [random.normal(1, 0.01)]
            for step in (0, 1, 2)
        ]
        frame = pl.DataFrame(rows)
        losses = dict(frame.filter(run="8").select("step", "train_loss").iter_rows())
        curve = compare_curve(PublishedCurve("a", {"train_loss": losses}, "b"), frame.filter(pl.col("run") != "8"))
        corrected = holm([*(verdict.p for verdict in found), curve.p])
        contradicted += min(corrected) <= 0.05
    assert contradicted / draws <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / draws)


@pytest.mark.parametrize("name", [name for name in NAMES if not getattr(get_reproduction(name), "NEEDS", ())])
def test_every_published_number_has_runs_in_the_full_form(name):
    reproduction = get_reproduction(name)
    specs = Form().specs(reproduction)
    for published in reproduction.PUBLISHED:
        own = [s for s in specs if all(getattr(s, key) == value for key, value in published.where.items())]
        assert len(own) >= 5
        if not published.column.startswith("t_"):
            assert all(spec.n_steps > max(published.values) for spec in own)
    for curve in reproduction.CURVES:
        own = [s for s in specs if all(getattr(s, key) == value for key, value in curve.where.items())]
        assert len(own) >= FEWEST
        for losses in curve.losses.values():
            assert all(is_evaluated(spec, step) and step <= spec.n_steps for spec in own for step in losses)
    assert reproduction.DEVIATIONS
    assert len(Form(quick=True).specs(reproduction)) < len(specs)


def test_cards_hold_the_published_settings():
    (nanda,) = {
        (s.p, s.num_layers, s.norm, s.positions, s.beta2, s.weight_decay)
        for s in Form().specs(get_reproduction("nanda-2023"))
    }
    assert nanda == (113, 1, "none", "learned", 0.98, 1.0)
    specs = Form().specs(get_reproduction("nanda-2023"))
    assert {trained_equations(s) for s in specs} == {int(f * 113**2) for f in (0.95, 0.9, 0.8, 0.5, 0.3, 0.28)}
    assert {(s.warmup_from_zero, s.split_shuffle, s.split_seed, s.initialisation) for s in specs} == {
        (True, "python", 0, "nanda")
    }
    (power,) = {
        (s.p, s.operator, s.optimizer, s.weight_decay, s.norm_position)
        for s in Form().specs(get_reproduction("power-2022"))
    }
    assert power == (97, "/", "adam", 0.0, "post")
    (power,) = {
        (s.task_part.sizes().vocabulary_size, s.equation_format, s.positions, s.warmup_from_zero, s.split_seed)
        for s in Form().specs(get_reproduction("power-2022"))
    }
    assert power == (239, "eos", "vaswani", True, 0)
    (grokfast,) = {
        (sum(split), s.norm_position, s.initialisation, s.warmup_from_zero)
        for s in Form().specs(get_reproduction("grokfast-baseline"))
        for split in [equations_of(s).train.shape + equations_of(s).valid.shape]
    }
    assert grokfast == (97 * 96, "pre_stream", "torch_attention", True)
    with pytest.raises(UserError, match=r"unknown reproduction 'nanda'.*did you mean 'nanda-2023'"):
        get_reproduction("nanda")
