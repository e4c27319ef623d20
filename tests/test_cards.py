"""Reproduction cards: the rule of the verdict, and that every card asks for what it says."""

import polars as pl
import pytest

from shoal.errors import UserError
from shoal.studies import Form, Results
from shoal.studies.cards import NAMES, get_card
from shoal.studies.cards.page import _table, conclusion
from shoal.studies.cards.verdict import _TIMES, Published, Verdict, _between, _under, judge
from shoal.studies.results import trained_equations
from shoal.tasks.build import build_data, count_run_tokens

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


def word(value, *runs, **published):
    return judge(Published("an event", value, "someone", **published), results_of(*runs)).word


def compared(value, reached=(), ended=(), diverged=(), **published):
    """The word and the reason for runs that got there, ended without, or diverged."""
    rows = (
        [(t, True, False) for t in reached] + [(t, False, False) for t in ended] + [(t, False, True) for t in diverged]
    )
    times = pl.DataFrame(rows, _TIMES, orient="row")
    found = Published("an event", value, "someone", **published)
    return (_under if found.is_bound else _between)(found, times)


@pytest.mark.parametrize(
    ("value", "reached", "ended", "diverged", "word"),
    [
        (100, [90, 110], [], [], "covered"),
        (100, [100], [], [], "covered"),
        (100, [50, 60], [], [], "not covered"),
        (100, [150, 160], [], [], "not covered"),
        (100, [], [200, 200], [], "not covered"),
        (100, [50], [200], [], "covered"),
        (100, [50], [80], [], "open"),
        (100, [], [80, 80], [], "open"),
        (100, [150], [80], [], "open"),
        (100, [50], [], [20], "covered"),
        (100, [], [], [20, 20], "not covered"),
        (100, [50], [], [], "open"),  # one run has no range
        (100, [150], [], [], "open"),
    ],
)
def test_a_time_is_covered_between_the_earliest_and_the_latest(value, reached, ended, diverged, word):
    assert compared(value, reached, ended, diverged)[0] == word


@pytest.mark.parametrize(
    ("reached", "ended", "diverged", "word"),
    [
        ([50, 99], [], [], "covered"),
        ([50, 60, 101], [], [], "covered"),
        ([50, 101], [], [], "not covered"),
        ([50], [200], [], "not covered"),
        ([50], [80], [], "open"),
        ([50, 60], [80], [], "covered"),
        ([], [], [20, 20], "not covered"),
        ([50, 60], [], [20], "covered"),
    ],
)
def test_a_bound_is_covered_when_more_than_half_of_the_runs_stay_under_it(reached, ended, diverged, word):
    assert compared(100, reached, ended, diverged, is_bound=True)[0] == word


def test_runs_that_all_diverged_miss_a_bound():
    found = judge(
        Published("an event", 1000, "someone", is_bound=True),
        results_of(*[{"state": "diverged", "step": 50, "accuracy": {}}] * 2),
    )
    assert (found.word, found.why) == ("not covered", "2 of 2 runs take longer than 1,000 or diverged")


def test_the_first_step_of_the_best_accuracy_counts_for_runs_that_generalised():
    late, later = {"accuracy": {9000: 1.0}}, {"accuracy": {9500: 0.995}}
    never, diverged = {"accuracy": {150: 0.03}}, {"state": "diverged", "step": 400, "accuracy": {150: 0.03}}
    broken = {"state": "diverged", "step": 400, "accuracy": {150: 1.0}}
    column = "t_valid_accuracy"
    assert word(8700, {"accuracy": {150: 0.995}}, late, later, column=column) == "covered"
    assert word(8700, never, late, later, column=column) == "not covered"
    assert word(8700, diverged, late, later, column=column) == "not covered"
    assert word(8700, broken, late, later, column=column) == "not covered"
    assert word(8700, never | {"state": "running", "step": 5000}, late, later, column=column) == "open"
    # what it has may still improve: it cannot be the early one, and may be the late one
    training = {"state": "running", "step": 5000, "accuracy": {150: 0.995}}
    assert word(8700, training, late, column=column) == "open"
    assert word(200, training, late, column=column) == "open"
    assert word(100, training, late, column=column) == "not covered"
    memorised = never | {"train": {80: 1.0}}
    assert word(100, memorised, late, column="t_train_accuracy") == "covered"
    assert word(100, memorised, late, column=column) == "not covered"
    assert word(150, never, late, column="t_train_accuracy") == "not covered"


def test_a_published_mean_is_compared_with_means():
    early, late = {"accuracy": {1000: 1.0}}, {"accuracy": {3000: 1.0}}
    published = Published("an event", 1500, "someone", column="t_valid_accuracy", runs=2)
    mixed = judge(published, results_of(early, late, late, early))
    assert mixed.why == "all 2 means of 2 runs are later; the earliest to get there at 2,000"
    found = judge(published, results_of(early, early, late, late, late))
    assert (found.word, found.why) == ("covered", "1 of 2 means of 2 runs as early or earlier, 1 as late or later")
    assert found.times["time"].to_list() == [1000, 3000]
    never = {"accuracy": {}}
    assert (
        judge(published, results_of(early, never, early, never)).why
        == "all 2 means of 2 runs are later; none got there"
    )
    lost = {"state": "diverged", "step": 50, "accuracy": {}}
    assert judge(published, results_of(early, lost, early, early)).word == "covered"
    assert judge(published, results_of(early, late)).word == "open"
    assert judge(published, results_of(early)).why == "fewer than 2 of our runs have these settings"
    assert {p.runs for p in get_card("practical").PUBLISHED} == {2}


@pytest.mark.parametrize(
    ("reached", "ended", "why"),
    [
        ([], [200, 300], "all 2 runs are later; none got there"),
        ([300], [200], "all 2 runs are later; the earliest to get there at 300"),
        ([250.5, 300], [], "all 2 runs are later; the earliest to get there at 250.5"),
    ],
)
def test_the_earliest_is_one_that_got_there(reached, ended, why):
    assert compared(100, reached, ended)[1] == why


def test_the_chance_of_being_covered_is_that_of_one_more_run():
    """Ranks alone decide: the published run has any place among ours with the same probability."""
    for n in range(2, 6):
        words = {bound: [] for bound in (False, True)}
        for place in range(n + 1):  # so many of ours are sooner
            ours = [90] * place + [110] * (n - place)
            for bound, found in words.items():
                found.append(compared(100, ours, is_bound=bound))
        for found in words.values():
            share = sum(word == "covered" for word, _, _ in found) / (n + 1)
            assert [chance for _, _, chance in found] == pytest.approx([share] * (n + 1))
    assert compared(100, [50], [80])[2] is None
    assert compared(100, [50, 150], [80])[2] == pytest.approx(1 / 3)  # of two runs that are on a side


def test_the_conclusion_counts_what_chance_would_cover_and_names_what_is_not():
    published = Published("it happens", 82.5, "someone")
    bound = Published("it is over", 1e6, "someone", is_bound=True)
    empty = pl.DataFrame()
    words = [Verdict(published, empty, word, "because", 0.75) for word in ("covered", "not covered")]
    words += [Verdict(published, empty, word, "because") for word in ("open", "not run")]
    words += [Verdict(bound, empty, "not covered", "as it is", 0.5)]
    assert conclusion(words) == [
        "Verdict: of 5 published numbers our runs cover 1 and do not cover 2; 1 open, 1 not run. Covered 1 of the 3 "
        "decided; expected about 2 of 3, or more, if what was published and our runs came from one distribution (50% "
        "to 75% each).",
        "Not covered: it happens, 82.5 (because).",
        "Not covered: it is over, ≤ 1,000,000 (as it is).",
    ]
    (alone,) = conclusion(words[2:4])
    assert alone == "Verdict: of 2 published numbers our runs cover 0 and do not cover 0; 1 open, 1 not run."


def test_the_conclusion_says_which_verdicts_share_runs():
    two = [{"accuracy": {80: 1.0}}, {"accuracy": {90: 1.0}}]
    early, late = (Published(f"at {value}", value, "someone") for value in (70, 85))
    verdicts = [judge(published, results_of(*two)) for published in (early, late)]
    text = conclusion(verdicts)[0]
    assert "expected about 0.67 of 2, or more, if" in text
    assert "one distribution (33% each). These verdicts are not independent of each other" in text
    others = Verdict(late, pl.DataFrame(), "covered", "", 0.5, frozenset({"another"}))
    assert "2 of these verdicts are not independent" in conclusion([*verdicts, others])[0]
    assert "independent" not in conclusion([verdicts[0], others])[0]
    waiting = Verdict(late, pl.DataFrame(), "open", "", None, verdicts[0].runs)
    assert "independent" not in conclusion([verdicts[0], waiting])[0]


def test_the_table_shows_published_decimals_and_what_was_compared():
    published = Published("it happens", 82.5, "someone", column="t_valid_accuracy", runs=2)
    runs = [{"accuracy": {step: 1.0}} for step in (80, 81, 90, 95)]
    table = _table([judge(published, results_of(*runs))])
    texts = [cell.text for cell in table.rows[0][1]]
    assert texts[:5] == ["82.5", "someone", "2 / 2 means", "86.5 [80.5, 92.5]", "covered"]


@pytest.mark.parametrize("name", NAMES)
def test_every_published_number_has_runs_in_the_full_form(name):
    card = get_card(name)
    specs = Form().specs(card)
    for published in card.PUBLISHED:
        own = [s for s in specs if all(getattr(s, key) == value for key, value in published.where.items())]
        assert len(own) >= 5
        if not published.column.startswith("t_"):
            assert all(spec.n_steps > published.value for spec in own)
    assert card.DEVIATIONS
    assert len(Form(quick=True).specs(card)) < len(specs)


def test_cards_hold_the_published_settings():
    (nanda,) = {
        (s.p, s.num_layers, s.norm, s.positions, s.beta2, s.weight_decay) for s in Form().specs(get_card("nanda-2023"))
    }
    assert nanda == (113, 1, "none", "learned", 0.98, 1.0)
    specs = Form().specs(get_card("nanda-2023"))
    assert {trained_equations(s) for s in specs} == {int(f * 113**2) for f in (0.95, 0.9, 0.8, 0.5, 0.3, 0.28)}
    assert {(s.warmup_from_zero, s.split_shuffle, s.split_seed, s.initialisation) for s in specs} == {
        (True, "python", 0, "nanda")
    }
    (power,) = {
        (s.p, s.operator, s.optimizer, s.weight_decay, s.norm_position) for s in Form().specs(get_card("power-2022"))
    }
    assert power == (97, "/", "adam", 0.0, "post")
    (power,) = {
        (count_run_tokens(s), s.equation_format, s.positions, s.warmup_from_zero, s.split_seed)
        for s in Form().specs(get_card("power-2022"))
    }
    assert power == (239, "eos", "vaswani", True, 0)
    (grokfast,) = {
        (sum(split), s.norm_position, s.initialisation, s.warmup_from_zero)
        for s in Form().specs(get_card("grokfast-baseline"))
        for split in [build_data(s).train.shape + build_data(s).valid.shape]
    }
    assert grokfast == (97 * 96, "pre_stream", "torch_attention", True)
    with pytest.raises(UserError, match=r"unknown card 'nanda'.*did you mean 'nanda-2023'"):
        get_card("nanda")
