"""Runs that left a tuning at a rung: no unfinished work, left alone by the rest of the lab, and trained on by name."""

import shlex

import pytest
from polars.testing import assert_frame_equal

import shoal
from shoal.cli import main
from shoal.errors import UserError
from shoal.lab import Lab
from shoal.lab.resting import resting
from shoal.lab.tunings import note_path, read_tuning, write_tuning
from shoal.lab.watching import Watcher
from shoal.spec import RunSpec
from shoal.tuning import tune
from shoal.tuning.budget import read_budget
from shoal.tuning.request import command_of, read_request

SMALL = RunSpec(
    model="gpt", p=5, embedding_size=8, num_layers=1, num_heads=2, n_steps=12, eval_first=4, eval_period=4,
    train_batch_size=8, seed=0,
)  # fmt: skip
SEARCH = ["lr=log:1e-4:1e-1"]
HOW = {"threads": 1, "workers": 1, "engine": "plain", "report": False, "fresh_seeds": 0, "generation": 4, "halving": 2}
TRAINING = {"workers": 1, "progress": False}


class Killed(BaseException):
    """What a test raises in the place of SIGKILL."""


def killed_at(monkeypatch, lab, call: int, **more) -> None:
    """A tuning that is killed at a call of the training."""
    calls, train = [0], shoal.train

    def dying(*args, **given):
        calls[0] += 1
        if calls[0] > call:
            raise Killed
        return train(*args, **given)

    with monkeypatch.context() as patch:
        patch.setattr("shoal.tuning.api.train", dying)
        with pytest.raises(Killed):
            tune(SMALL, SEARCH, "24steps", lab, **{**HOW, **more})


def states(lab) -> dict[str, tuple[str, int]]:
    return {run: (state, step) for run, state, step in Lab(lab).records().runs()["run", "state", "step"].iter_rows()}


@pytest.fixture
def tuned(tmp_path):
    tuning = tune(SMALL, SEARCH, "24steps", tmp_path, **HOW)
    return tmp_path, {trial.runs[0]: trial for trial in tuning.trials}


def test_losers_are_no_unfinished_work(tuned):
    lab, trials = tuned
    before = states(lab)
    left = {run for run, trial in trials.items() if trial.state == "left"}
    assert left and {run for run, (state, _) in before.items() if state == "left"} == left
    said = []
    assert shoal.resume(lab, say=said.append, **TRAINING).ids == []
    assert states(lab) == before
    (line,) = said
    assert f"{len(left)} run" in line and f"shoal resume {next(run for run in before if run in left)[:8]}" in line
    seen = {run.run: run.state for cohort in Watcher(lab).look().cohorts for run in cohort.runs}
    assert {run for run, state in seen.items() if state == "left"} == left
    assert set(Lab(lab).records().where(state="left").ids) == left


def test_one_is_trained_on_by_its_id_and_the_others_are_not(tuned):
    lab, trials = tuned
    before = states(lab)
    run, *others = [run for run, trial in trials.items() if trial.state == "left"]
    assert shoal.resume(lab, run[:8], **TRAINING).ids == [run]
    after = states(lab)
    assert after[run] == ("done", SMALL.n_steps) and {r: after[r] for r in others} == {r: before[r] for r in others}
    alone = shoal.train(Lab(lab).records().specs[run], lab / "alone", threads=1, engine="plain", **TRAINING)
    assert_frame_equal(Lab(lab).records([run]).curves(), alone.curves())


def test_training_one_by_its_settings_leaves_the_other_losers(tuned):
    lab, trials = tuned
    before, specs = states(lab), Lab(lab).records().specs
    run, *others = [run for run, trial in trials.items() if trial.state == "left"]
    shoal.train(specs[run], lab, **TRAINING)
    assert {r: states(lab)[r] for r in others} == {r: before[r] for r in others} and states(lab)[run][0] == "done"


def test_one_that_was_trained_past_its_rung_is_unfinished_work(tuned):
    lab, trials = tuned
    run = next(run for run, trial in trials.items() if trial.state == "left")
    spec = Lab(lab).records().specs[run]
    shoal.train(spec, lab, until=trials[run].step + 1, **TRAINING)
    assert states(lab)[run] == ("waiting", trials[run].step + 1)
    others = {r: state for r, state in states(lab).items() if state[0] == "left"}
    assert run in shoal.resume(lab, **TRAINING).ids and states(lab)[run][0] == "done"
    assert others.items() <= states(lab).items()


@pytest.mark.parametrize("call", [1, 2])
def test_an_interrupted_tuning_goes_on_by_its_command_alone(tmp_path, monkeypatch, call):
    lab, whole = tmp_path / "lab", tune(SMALL, SEARCH, "24steps", tmp_path / "whole", name="mine", **HOW)
    killed_at(monkeypatch, lab, call, name="mine")
    before, said = states(lab), []
    assert shoal.resume(lab, say=said.append, **TRAINING).ids == []
    assert states(lab) == before
    command = next(line for line in said if "shoal tune" in line).partition("shoal tune ")[2]
    words = shlex.split(command)
    assert words[-2:] == ["--lab", str(lab)]
    assert main(["tune", *words, "--threads", "1", "--workers", "1", "--engine", "plain"]) == 0
    assert read_tuning(lab, "mine").generations == read_tuning(tmp_path / "whole", "mine").generations
    assert not resting(lab, Lab(lab).cohorts()).begun
    assert sorted(states(lab).values()) == sorted(states(tmp_path / "whole").values())
    assert whole.winner.id in states(lab)


def test_other_runs_of_the_lab_go_on(tuned):
    lab, trials = tuned
    other = SMALL.replace(p=7, seed=9)
    shoal.train(other, lab, until=2, **TRAINING)
    assert shoal.resume(lab, **TRAINING).ids == [other.id]
    assert states(lab)[other.id] == ("done", SMALL.n_steps)
    assert "left" in {states(lab)[run][0] for run in trials}


def test_runs_of_an_earlier_versions_tuning_are_left_alone(tuned):
    lab, _ = tuned
    note = read_tuning(lab, "tuning")
    note.done, note.asked = None, {key: value for key, value in note.asked.items() if key != "command"}
    for generation in note.generations:
        generation.left = {}
    write_tuning(lab, "tuning", note)
    before, said = states(lab), []
    assert shoal.resume(lab, say=said.append, **TRAINING).ids == [] and states(lab) == before
    assert "--name tuning" in said[0] and "left" not in {state for state, _ in before.values()}


def test_a_damaged_note_of_a_tuning_trains_nobody(tuned):
    lab, _ = tuned
    path = note_path(lab, "tuning")
    path.write_text(path.read_text().replace("asked", "askee"))
    before = states(lab)
    with pytest.raises(UserError, match=r"tuning\.json"):
        shoal.resume(lab, **TRAINING)
    assert states(lab) == before
    other = SMALL.replace(p=7)  # of no cohort that it could say something about
    shoal.train(other, lab, **TRAINING)
    assert states(lab) == {**before, other.id: ("done", SMALL.n_steps)}


def test_commands(tuned, capsys):
    lab, trials = tuned
    run = next(run for run, trial in trials.items() if trial.state == "left")
    assert main(["resume", "--lab", str(lab)]) == 0
    assert "left alone: 3 runs" in capsys.readouterr().out
    assert main(["runs", "--state", "left", "--lab", str(lab)]) == 0
    assert "left at the rung" in capsys.readouterr().out
    assert main(["resume", run[:8], "--lab", str(lab)]) == 0
    assert main(["resume", "nobody", "--lab", str(lab)]) == 2


def test_runs_beside_a_diverged_seed_have_left(tmp_path):
    """Of one trial: its other seeds wait for nothing, since the trial has ended."""
    how = {"optimizer": "sgd", "clip": float("inf"), "train_batch_size": 512, "eval_period": 12, "eval_first": 12}
    base = SMALL.replace(**how, n_steps=48)
    specs = [base.replace(seed=seed) for seed in (0, 3)]  # with lr=15 they diverge at steps 8 and 16
    tuning = tune(specs, ["lr=0.01,0.02,0.03,15"], "4settings", tmp_path, **{**HOW, "sampler": "random"})
    (diverged,) = [trial for trial in tuning.trials if trial.state == "diverged"]
    before = states(tmp_path)
    assert {before[run][0] for run in diverged.runs} == {"diverged", "left"}
    assert not [state for state, _ in before.values() if state in ("waiting", "interrupted")]
    said = []
    assert shoal.resume(tmp_path, say=said.append, **TRAINING).ids == [] and states(tmp_path) == before
    assert f"{sum(state == 'left' for state, _ in before.values())} runs" in said[0]


def test_a_run_of_an_ended_tuning_that_was_begun_again_is_unfinished_work(tuned):
    lab, trials = tuned
    run = next(run for run, trial in trials.items() if trial.state == "finished")
    spec = Lab(lab).records().specs[run]
    Lab(lab).delete([run])
    shoal.train(spec, lab, until=2, **TRAINING)
    assert shoal.resume(lab, **TRAINING).ids == [run] and states(lab)[run] == ("done", SMALL.n_steps)


@pytest.mark.parametrize("budget", ["1234567steps", "1.23456789012PFLOP", "0.1234567s", "20settings"])
def test_the_command_asks_for_the_same_budget(budget):
    request = read_request(SMALL, SEARCH, budget, "random", 2, 4, 0, 0, None)
    words = shlex.split(command_of("mine", request))
    assert read_budget(words[words.index("--budget") + 1]) == request.budget
