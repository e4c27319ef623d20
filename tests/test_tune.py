"""Tuning: the same proposals and curves after any interruption, a budget that the lab counts, and an honest winner."""

import math
import subprocess
import sys
import time

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pair_files import parallel, sentences
from polars.testing import assert_frame_equal
from torch.nn.functional import cross_entropy

import shoal
from shoal.errors import LabError, RunFailed, UserError
from shoal.lab import Lab
from shoal.lab.check import examine, repair
from shoal.lab.tunings import TuningNote, note_path, read_tuning, write_tuning
from shoal.spec import RunSpec
from shoal.studies.language_scores import best_steps
from shoal.tasks.pairs.data import pair_batch
from shoal.tuning import tune
from shoal.tuning.budget import largest_cost, read_budget
from shoal.tuning.final import judge
from shoal.tuning.halving import evaluated_before, ladder, staying
from shoal.tuning.proposals import propose
from shoal.tuning.space import read_space
from shoal.tuning.trials import Trial

SMALL = RunSpec(
    model="gpt", p=5, embedding_size=8, num_layers=1, num_heads=2, n_steps=12, eval_first=4, eval_period=4,
    train_batch_size=8, seed=0,
)  # fmt: skip
SEARCH = ["lr=log:1e-4:1e-1", "weight_decay=0,0.1,1"]
HOW = {"threads": 1, "workers": 1, "engine": "plain", "report": False, "fresh_seeds": 0}
FEW = {"generation": 4, "halving": 2}  # rungs at 3, 6 → 4, and 12


def steps_in_lab(lab) -> int:
    return sum(member["step"] for folder in Lab(lab).cohorts() for member in folder.status()["members"].values())


def proposals(lab, name="tuning") -> list[dict]:
    note = read_tuning(Lab(lab).path, name)
    return [trial for generation in note.generations for trial in generation.settings]


class Killed(BaseException):
    """What a test raises in the place of SIGKILL."""


def killing(monkeypatch, at: int) -> None:
    """Let the training of a tuning end before its call number ``at``."""
    from shoal.tuning import api

    calls, train = [0], shoal.train

    def dying(*args, **more):
        if calls[0] == at:
            raise Killed
        calls[0] += 1
        return train(*args, **more)

    monkeypatch.setattr(api, "train", dying)


# the budget


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["random", "qmc", "tpe"])
def test_steps_of_the_lab_sum_to_what_was_spent_within_the_budget(tmp_path, sampler):
    tuning = tune(SMALL, SEARCH, "150steps", tmp_path, sampler=sampler, **FEW, **HOW)
    assert steps_in_lab(tmp_path) == tuning.spent == sum(trial.steps for trial in tuning.trials)
    one = SMALL.n_steps
    assert 150 - one < tuning.spent <= 150
    assert len({(t.settings["lr"], t.settings["weight_decay"]) for t in tuning.trials}) == len(tuning.trials)


@pytest.mark.slow
def test_what_is_asked_for_is_the_total(tmp_path):
    few = tune(SMALL, SEARCH, "3settings", tmp_path, **FEW, **HOW)
    assert len(few.trials) == 3
    more = tune(SMALL, SEARCH, "6settings", tmp_path, **FEW, **HOW)
    assert len(more.trials) == 6
    before = steps_in_lab(tmp_path)
    again = tune(SMALL, SEARCH, "6settings", tmp_path, **FEW, **HOW)
    assert (again.table().equals(more.table()), steps_in_lab(tmp_path)) == (True, before)
    assert proposals(tmp_path)[:3] == [dict(t.settings) for t in sorted(few.trials, key=lambda t: t.number)]


@pytest.mark.slow
def test_a_small_space_ends_the_search(tmp_path):
    tuning = tune(SMALL, ["weight_decay=0,0.1,1"], "1000000steps", tmp_path, **FEW, **HOW)
    assert sorted(t.settings["weight_decay"] for t in tuning.trials) == [0, 0.1, 1]


@pytest.mark.slow
def test_budget_in_operations_counts_six_for_each_parameter_and_position(tmp_path):
    from shoal.tasks.build import count_run_parameters

    step = 6 * count_run_parameters(SMALL) * 8 * SMALL.task_part.sizes().positions
    tuning = tune(SMALL, SEARCH, f"{40 * step}FLOP", tmp_path, **FEW, **HOW)
    assert tuning.spent == pytest.approx(steps_in_lab(tmp_path) * step)
    assert tuning.spent <= 40 * step


@pytest.mark.slow
def test_budget_in_seconds_is_that_of_the_lab(tmp_path):
    tuning = tune(SMALL, SEARCH, "0.01s", tmp_path, **FEW, **HOW)
    assert len(tuning.trials) == 4  # nothing is known of a first generation
    seconds = [s["cpu_seconds"] for folder in Lab(tmp_path).cohorts() for s in folder.status()["sessions"]]
    assert tuning.spent == pytest.approx(sum(seconds))


# the same again


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["random", "tpe"])
@pytest.mark.parametrize("at", [0, 1, 2, 4])
def test_killed_and_asked_again_it_proposes_and_measures_the_same(tmp_path, monkeypatch, sampler, at):
    asked = {"sampler": sampler, **FEW, **HOW, "fresh_seeds": 2}
    whole = tune(SMALL, SEARCH, "90steps", tmp_path / "whole", **asked)
    with monkeypatch.context() as patch:
        killing(patch, at)
        with pytest.raises(Killed):
            tune(SMALL, SEARCH, "90steps", tmp_path / "killed", **asked)
    again = tune(SMALL, SEARCH, "90steps", tmp_path / "killed", **asked)
    assert proposals(tmp_path / "killed") == proposals(tmp_path / "whole")
    assert_frame_equal(again.table(), whole.table())
    assert again.final == whole.final
    curves = [Lab(tmp_path / name).records().curves().sort("run", "step") for name in ("whole", "killed")]
    assert_frame_equal(*curves)


COMMAND = (
    "tune --model gpt --p 5 --embedding-size 8 --num-layers 1 --num-heads 2 --n-steps 90 --eval-first 2 "
    "--eval-period 10 --seed 0 --threads 1 --workers 1 --engine plain --flush-seconds 0.05 --search lr=log:1e-4:3e-2 "
    "weight_decay=0,1 --budget 300steps --generation 4 --halving 2 --fresh-seeds 2"
)


@pytest.mark.slow
def test_killed_by_the_system_at_any_flush_it_goes_on_to_the_same(tmp_path):
    def begun(lab):
        return subprocess.Popen(
            [sys.executable, "-m", "shoal", *COMMAND.split(), "--lab", str(lab)], stdout=subprocess.DEVNULL
        )

    assert begun(tmp_path / "whole").wait(300) == 0
    killed, kills = tmp_path / "killed", 0
    for flushes in (1, 4, 9):
        process = begun(killed)
        while process.poll() is None and len(list(killed.glob("cohorts/*/metrics/*"))) < flushes:
            time.sleep(0.002)
        kills += process.poll() is None
        process.kill()
        process.wait()
    assert kills > 1
    assert begun(killed).wait(300) == 0
    assert read_tuning(killed, "tuning") == read_tuning(tmp_path / "whole", "tuning")
    curves = [Lab(tmp_path / name).records().curves().sort("run", "step") for name in ("whole", "killed")]
    assert_frame_equal(*curves)


@pytest.mark.parametrize("places", [1, 3])
def test_waiting_settings_take_the_places_of_those_that_leave_and_nothing_else_changes(tmp_path, places):
    few = {**FEW, **HOW, "generation": 3}
    whole = tune(SMALL, SEARCH, "24steps", tmp_path / "whole", **few)
    one = tune(SMALL, SEARCH, "24steps", tmp_path / "one", places=places, **few)
    assert len(whole.trials) > 1 and {trial.state for trial in whole.trials} == {"finished", "left"}
    assert_frame_equal(one.table(), whole.table())


@pytest.mark.slow
def test_a_run_of_a_tuning_has_the_bits_of_the_run_alone(tmp_path):
    tuning = tune(SMALL, SEARCH, "60steps", tmp_path / "tuned", **FEW, **HOW)
    alone = shoal.train(tuning.winner, tmp_path / "alone", threads=1, workers=1, engine="plain").curves()
    tuned = Lab(tmp_path / "tuned").records([tuning.winner.id]).curves()
    assert_frame_equal(tuned, alone)


@pytest.mark.slow
def test_what_the_lab_holds_is_not_trained_again_and_counts(tmp_path):
    first = tune(SMALL, SEARCH, "60steps", tmp_path, name="one", **FEW, **HOW)
    before = steps_in_lab(tmp_path)
    second = tune(SMALL, SEARCH, "60steps", tmp_path, name="two", **FEW, **HOW)
    assert steps_in_lab(tmp_path) == before
    assert second.table().equals(first.table()) and second.spent == first.spent
    assert not [finding for finding in examine(tmp_path) if finding.is_damage]


@pytest.mark.slow
def test_a_name_is_one_tuning(tmp_path):
    tune(SMALL, SEARCH, "2settings", tmp_path, **FEW, **HOW)
    for changes in ({"sampler": "random"}, {"tune_seed": 1}, {"halving": 3}, {"objective": "valid_accuracy"}):
        with pytest.raises(UserError):
            tune(SMALL, SEARCH, "4settings", tmp_path, **{**FEW, **HOW, **changes})
    with pytest.raises(UserError):
        tune(SMALL, ["lr=log:1e-4:1e-2"], "4settings", tmp_path, **FEW, **HOW)


def test_a_damaged_note_is_named_and_moved_aside_by_a_repair(tmp_path):
    lab = Lab(tmp_path / "lab").create()
    write_tuning(lab.path, "mine", TuningNote(asked={}))
    assert not examine(lab.path)
    path = note_path(lab.path, "mine")
    path.write_text(path.read_text().replace("asked", "askee"))
    (finding,) = examine(lab.path)
    assert "mine.json" in finding.what and finding.is_damage
    with pytest.raises(UserError):
        tune(SMALL, SEARCH, "20steps", lab, name="mine", **FEW, **HOW)
    assert list(repair(lab.path)) and not path.exists()


def outside(generation):
    generation.settings[0]["lr"] = 0.5


def of_another_kind(generation):
    generation.settings[0]["lr"] = "0.001"


def of_other_runs(generation):
    generation.settings[0], generation.settings[1] = generation.settings[1], generation.settings[0]


def too_few(generation):
    del generation.settings[-1]


def without_rungs(generation):
    generation.rungs.clear()


@pytest.mark.parametrize("change", [outside, of_another_kind, of_other_runs, too_few, without_rungs])
def test_a_note_of_trials_that_this_search_has_not_proposed_is_refused(tmp_path, change):
    tune(SMALL, SEARCH, "20steps", tmp_path, **FEW, **HOW)
    note = read_tuning(tmp_path, "tuning")
    tune(SMALL, SEARCH, "20steps", tmp_path, **FEW, **HOW)  # as it is, it goes on
    change(note.generations[0])
    write_tuning(tmp_path, "tuning", note)
    before = note_path(tmp_path, "tuning").read_bytes()
    with pytest.raises(LabError, match=r"tuning\.json is damaged: generation 0 is none of this search; move"):
        tune(SMALL, SEARCH, "40steps", tmp_path, **FEW, **HOW)
    assert note_path(tmp_path, "tuning").read_bytes() == before


# diverged trials


def test_a_diverged_trial_is_last_and_never_the_best(tmp_path):
    wild = SMALL.replace(n_steps=8)
    tuning = tune(wild, ["lr=1e30,1e-3,1e-2,3e-3"], "1000steps", tmp_path, **{**FEW, "halving": 1}, **HOW)
    assert [t.state for t in tuning.trials] == ["finished"] * 3 + ["diverged"]
    assert tuning.trials[-1].settings == {"lr": 1e30} and tuning.trials[-1].value is None
    assert tuning.winner.lr < 1


def test_none_finished_is_one_line(tmp_path):
    with pytest.raises(RunFailed) as told:
        tune(SMALL, ["lr=1e30,2e30,3e30,4e30"], "1000steps", tmp_path, **FEW, **HOW)
    assert "none of 4 finished" in str(told.value) and "\n" not in str(told.value)


# fresh seeds


@pytest.mark.slow
def test_winner_and_default_train_on_seeds_that_no_trial_had_with_as_many_steps(tmp_path):
    specs = [SMALL, SMALL.replace(seed=3)]
    tuning = tune(specs, SEARCH, "200steps", tmp_path, **FEW, **{**HOW, "fresh_seeds": 3})
    assert all(len(trial.runs) == 2 for trial in tuning.trials)
    sides = {side: Lab(tmp_path).records(tuning.final.runs[side]) for side in ("winner", "default")}
    seeds = [spec.seed for spec in sides["winner"].specs.values()]
    assert seeds == [spec.seed for spec in sides["default"].specs.values()] and not {0, 3} & {*seeds}
    assert {spec.n_steps for records in sides.values() for spec in records.specs.values()} == {SMALL.n_steps}
    values = [
        [curve.sort("step")["valid_loss"][-1] for curve in records.curves().partition_by("run", maintain_order=True)]
        for records in sides.values()
    ]
    assert tuning.verdict.difference == pytest.approx(np.mean(np.subtract(*values)), rel=1e-6)


def test_best_of_many_that_are_equal_is_no_winner():
    """Of forty equal settings the best is chosen by noise; fresh seeds say so in 95 of 100 cases."""
    rng, wrong, better = np.random.default_rng(0), 0, 0
    for _ in range(500):
        fresh = rng.normal(size=(2, 5))  # whatever the noise was by which the winner was chosen
        verdict = judge(fresh[0].tolist(), fresh[1].tolist(), higher_is_better=False)
        wrong += verdict.is_better or verdict.is_worse
        better += verdict.is_better
    assert 0.02 < wrong / 500 < 0.08 and better / 500 < 0.05


def test_a_real_difference_is_found():
    rng = np.random.default_rng(1)
    found = [
        judge((rng.normal(size=5) - 3).tolist(), rng.normal(size=5).tolist(), higher_is_better=False).is_better
        for _ in range(50)
    ]
    assert np.mean(found) > 0.8
    lower = judge([1.0, 1.1, 0.9], [2.0, 2.2, 2.1], higher_is_better=False)
    higher = judge([1.0, 1.1, 0.9], [2.0, 2.2, 2.1], higher_is_better=True)
    assert (lower.is_better, lower.is_worse, higher.is_better, higher.is_worse) == (True, False, False, True)


def test_a_winner_that_diverges_on_fresh_seeds_is_none():
    verdict = judge([1.0, 1.1, None], [2.0, 2.2, 2.1], higher_is_better=False)
    assert (verdict.pairs, verdict.diverged, verdict.is_better) == (2, (1, 0), False)
    assert judge([None], [1.0], higher_is_better=False).difference is None


def test_a_test_split_that_is_not_there_is_told_before_a_tuning(tmp_path):
    files = {
        **parallel(tmp_path, 30, 8),
        "test_source": str(tmp_path / "no.de"),
        "test_target": str(tmp_path / "no.en"),
    }
    base = RunSpec(task="translation", model="encoder_decoder", embedding_size=8, num_heads=2, n_steps=8, **files)
    with pytest.raises(UserError, match=r"no\.de"):
        tune(base, ["lr=1e-3,3e-2"], "1000steps", tmp_path / "lab", **{**HOW, "engine": None})
    assert not (tmp_path / "lab").exists()


@pytest.mark.slow
def test_a_translation_is_scored_on_its_test_split_once(tmp_path, monkeypatch):
    files = parallel(tmp_path, 60, 12)
    source, target = sentences(90)
    for name, lines in (("test_source", source[72:]), ("test_target", target[72:])):
        files[name] = str(tmp_path / name)
        (tmp_path / name).write_text("".join(f"{line}\n" for line in lines))
    base = RunSpec(
        task="translation", model="encoder_decoder", embedding_size=8, num_heads=2, num_layers=1, n_steps=8,
        eval_first=0, eval_period=4, train_batch_size=16, keep_best=True, seed=0, **files,
    )  # fmt: skip
    asked = (base, ["lr=1e-3,3e-2"], "1000steps", tmp_path / "lab")
    tuning = tune(*asked, **{**HOW, "fresh_seeds": 2, "engine": None})
    assert tuning.final.column == "test_loss" and all(tuning.final.scores.values())
    shorter = {**files, "valid_source": files["test_source"], "valid_target": files["test_target"]}
    run = tuning.final.runs["winner"][0]
    records = Lab(tmp_path / "lab").records([run])
    scored = base.replace(**{name: shorter[name] for name in ("valid_source", "valid_target")}).task_part
    pairs = scored.data().pairs
    rest = torch.arange(len(pairs))[scored.data().n_train :]
    model, curve = records.model(run, best_steps(records)[run]).eval(), pair_batch(pairs.tensors, rest, reads="pair")
    logits, *_ = model(curve["source"], curve["inputs"], curve["seen"])
    nats = cross_entropy(logits.mT, curve["targets"], reduction="none")[curve["scored"]].mean()
    assert tuning.final.scores[run] == pytest.approx(nats.item(), rel=1e-5)

    def never(*given):
        raise AssertionError("scored again")

    monkeypatch.setattr("shoal.tuning.final._scores", never)
    assert tune(*asked, **{**HOW, "fresh_seeds": 2, "engine": None}).final == tuning.final


@pytest.mark.slow
def test_permuted_labels_give_no_winner(tmp_path):
    """Results of equations are exchanged at random: nothing generalises, and no setting is shown to."""
    base = RunSpec(
        task="outside:Permuted", model="gpt", p=7, embedding_size=16, num_layers=1, num_heads=2, n_steps=300,
        eval_first=10, eval_period=10, train_batch_size=32, seed=0,
    )  # fmt: skip
    tuning = tune(
        base, SEARCH, "6000steps", tmp_path, objective="valid_accuracy", **{**HOW, "fresh_seeds": 5, "engine": None}
    )
    assert tuning.trials[0].value >= tuning.verdict.winner  # the best of many looks better than it is
    assert not tuning.verdict.is_better


# parts


@settings(max_examples=50)
@given(st.integers(1, 40), st.integers(1, 5), st.integers(1, 200), st.integers(0, 20), st.integers(1, 50))
def test_rungs_are_evaluated_and_leave_ever_fewer(n, eta, n_steps, first, period):
    spec = RunSpec(n_steps=n_steps, eval_first=first, eval_period=period)
    rungs, sizes = ladder(spec, n, eta)
    assert len(rungs) == len(sizes) and rungs[-1] == n_steps and sizes[0] == n
    assert rungs == sorted(set(rungs)) and sizes == sorted(sizes, reverse=True) and sizes[-1] >= 1
    assert all(rung <= first or rung % period == 0 for rung in rungs[:-1])
    assert largest_cost([1.0] * n, rungs, sizes) <= n * n_steps


def test_rungs_of_the_usual_generation():
    assert ladder(RunSpec(n_steps=2700, eval_first=10, eval_period=100), 9, 3) == ([300, 900, 2700], [9, 3, 1])
    assert evaluated_before(RunSpec(eval_first=10, eval_period=100), 99) == 10


def test_the_best_stay_and_none_without_a_value():
    assert staying([3.0, None, 1.0, 2.0], 2, higher_is_better=False) == [2, 3]
    assert staying([3.0, None, 1.0, 3.0], 2, higher_is_better=True) == [0, 3]
    assert staying([None, None], 1, higher_is_better=True) == []


@pytest.mark.parametrize("sampler", ["random", "qmc", "tpe"])
def test_fewer_proposals_are_a_beginning_of_more_and_within_the_space(sampler):
    space = read_space(SMALL, ["lr=log:1e-4:1e-1", "dropout=linear:0:0.5", "weight_decay=0,0.1,1"])
    tried = [
        Trial(n, 0, {"lr": 1e-3 * (n + 1), "dropout": 0.1, "weight_decay": 0.1}, (), state, 4, value, 4)
        for n, (state, value) in enumerate([("finished", 1.0), ("left", 2.0), ("diverged", None)])
    ]
    more = propose(space, sampler, 7, 1, tried, 12, False)
    assert propose(space, sampler, 7, 1, tried, 5, False) == more[:5]
    assert len({tuple(s.items()) for s in more}) == 12
    assert all(1e-4 <= s["lr"] <= 0.1 and 0 <= s["dropout"] <= 0.5 and s["weight_decay"] in (0, 0.1, 1) for s in more)
    assert propose(space, sampler, 8, 1, tried, 5, False) != more[:5]


@pytest.mark.parametrize("sampler", ["random", "qmc", "tpe"])
def test_what_was_tried_is_not_proposed_again(sampler):
    space, trials = read_space(SMALL, ["weight_decay=0,0.1,1", "dropout=0,0.5"]), []
    for generation in range(3):
        for proposal in propose(space, sampler, 0, generation, trials, 2, False):
            trials.append(Trial(len(trials), generation, proposal, (), "finished", 4, float(len(trials)), 4))
    assert len({tuple(trial.settings.items()) for trial in trials}) == len(trials) == 6
    assert propose(space, sampler, 0, 3, trials, 2, False) == []


def test_tpe_goes_where_values_were_better():
    space = read_space(SMALL, ["lr=log:1e-4:1e-1"])
    rates = np.logspace(-4, -1, 20).tolist()
    trials = [Trial(n, 0, {"lr": lr}, (), "finished", 4, float(n), 4) for n, lr in enumerate(rates)]
    up, down = (np.mean([math.log10(s["lr"]) for s in propose(space, "tpe", 0, 1, trials, 20, way)]) for way in (1, 0))
    assert up > -2 and down < -3


def test_logarithms_of_a_log_range_are_uniform():
    space = read_space(SMALL, ["lr=log:1e-4:1e-1"])
    values = [math.log10(s["lr"]) for s in propose(space, "random", 0, 0, [], 300, False)]
    assert np.mean(values) == pytest.approx(-2.5, abs=0.15)


def test_integers_stay_integers():
    space = read_space(RunSpec(model="gpt"), ["num_layers=linear:1:4", "ffn_size=log:8:512"][:1])
    values = [s["num_layers"] for s in propose(space, "tpe", 0, 0, [], 10, False)]
    assert sorted(values) == [1, 2, 3, 4] and all(type(value) is int for value in values)


@pytest.mark.parametrize(
    ("text", "amount", "unit"),
    [
        ("60000steps", 6e4, "steps"),
        ("60,000 steps", 6e4, "steps"),
        ("60ksteps", 6e4, "steps"),
        ("2PFLOP", 2e15, "FLOP"),
        ("1.5e12FLOP", 1.5e12, "FLOP"),
        ("600s", 600, "s"),
        ("20settings", 20, "settings"),
    ],
)
def test_budgets(text, amount, unit):
    budget = read_budget(text)
    assert (budget.amount, budget.unit) == (amount, unit)


@pytest.mark.parametrize("text", ["", "steps", "0steps", "-5steps", "1000", "1000stepz", "5ks", "1e999steps", "5XFLOP"])
def test_wrong_budgets(text):
    with pytest.raises(UserError):
        read_budget(text)


@pytest.mark.parametrize(
    ("search", "named"),
    [
        (["lrr=1e-3,1e-2"], "'lr'"),
        (["lr=log:1e-2:1e-4"], "empty"),
        (["lr=log:0:1"], "logarithm"),
        (["weight_decay=log:0:1"], "logarithm"),
        (["lr=log:1:1"], "one value"),
        (["lr=lgo:1:2"], "log"),
        (["lr=log:1"], "LOW:HIGH"),
        (["lr=1e-3"], "one value"),
        (["lr=1e-3,abc"], "abc"),
        (["lr=1e-3,,1"], "empty"),
        (["lr"], "NAME=VALUES"),
        ([], "nothing"),
        (["lr=1e-3,1e-2", "lr=1e-3,1e-1"], "twice"),
        (["p=5,7"], "fixed"),
        (["seed=0,1"], "seed"),
        (["n_steps=10,20"], "n_steps"),
        (["r_train=0.3,0.5"], "scored"),
        (["optimizer=log:1:2"], "range"),
        (["lr=log:nan:1"], "finite"),
    ],
)
def test_wrong_search_spaces_write_nothing(tmp_path, search, named):
    with pytest.raises(UserError) as told:
        tune(SMALL, search, "1000steps", tmp_path / "lab", **HOW)
    assert named in str(told.value) and "\n" not in str(told.value)
    assert not (tmp_path / "lab").exists()


@pytest.mark.parametrize(
    "wrong",
    [
        {"budget": "11steps"},
        {"sampler": "tpr"},
        {"halving": 0},
        {"generation": 0},
        {"tune_seed": -1},
        {"fresh_seeds": 1},
        {"objective": "train_loss"},
        {"name": "a/b"},
        {"threads": 0},
    ],
)
def test_wrong_requests_write_nothing(tmp_path, wrong):
    asked = {"budget": "1000steps", **HOW, **wrong}
    with pytest.raises(UserError):
        tune(SMALL, SEARCH, lab=tmp_path / "lab", **asked)
    assert not (tmp_path / "lab").exists()


@pytest.mark.slow
def test_page_and_command(tmp_path, capsys):
    from shoal.cli import main

    flags = (
        "--model gpt --p 5 --embedding-size 8 --num-layers 1 --num-heads 2 --n-steps 12 --eval-first 4 --eval-period 4"
    )
    words = [*flags.split(), "--train-batch-size", "8", "--seed", "0", "--search", *SEARCH, "--budget", "60steps"]
    words += ["--lab", str(tmp_path), "--name", "mine", "--engine", "plain", "--threads", "1", "--workers", "1"]
    assert main(["tune", *words, "--fresh-seeds", "2"]) == 0
    page = tmp_path / "reports" / "tune-mine"
    assert str(page / "index.html") in capsys.readouterr().out
    table = pl.read_csv(page / "tables" / "trials.csv")
    assert table["steps"].sum() <= 60 and table["state"][0] == "finished"
    assert main(["tune", *words, "--sampler", "tpr"]) == 2
    assert main(["tune", *words, "--lr", "0.1"]) == 2
