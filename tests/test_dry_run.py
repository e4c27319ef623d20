"""``--dry-run``: what it counts is what training then does, and it writes nothing."""

import os
import re
from types import SimpleNamespace

import pytest
import torch
from helpers import CPU, TINY, one_cohort, tiny, tiny_grid
from hypothesis import given
from hypothesis import strategies as st

import shoal
from shoal.cli import main
from shoal.lab.lab import Lab
from shoal.training import shape_costs
from shoal.training.api import arrange
from shoal.training.forecast import forecast, makespan
from shoal.training.loop import Options, train_cohort
from shoal.training.plan import Cohort
from shoal.training.shape_costs import _Trial

FLAGS = [word for name, value in TINY.items() for word in (f"--{name.replace('_', '-')}", str(value))]


@pytest.fixture(autouse=True)
def short_trials(monkeypatch):
    """Trials of a moment."""
    monkeypatch.setattr("shoal.training.shape_costs.TRIAL_SECONDS", 0.05)


def foreseen(specs, path, workers=1, **settings):
    work = arrange(specs, Lab(path), CPU, workers, 1, settings.get("engine"), {}, lambda line: None)
    return work, forecast(work, CPU, **settings)


REQUESTS = {
    "two shapes": tiny_grid({}, seed=[0, 1], num_layers=[1, 2]),
    "kept models": tiny_grid({"save_model_step": 4}, seed=[0, 1, 2]),
    "a last step that is kept anyway": tiny_grid({"save_model_step": 6}, seed=[0, 1]),
    "of different lengths": tiny_grid({"eval_period": 2}, seed=[0, 1], n_steps=[3, 7, 12]),
    "evaluated at its end alone": tiny_grid({"eval_first": 1, "eval_period": 1000}, seed=[0]),
}


SLOW = {"two shapes", "a last step that is kept anyway"}  # some ten seconds each


@pytest.mark.parametrize(
    "request_",
    [pytest.param(specs, id=name, marks=[pytest.mark.slow] * (name in SLOW)) for name, specs in REQUESTS.items()],
)
def test_what_is_counted_is_what_training_does(request_, tmp_path):
    work, found = foreseen(request_, tmp_path / "lab")
    assert not (tmp_path / "lab").exists()
    records = shoal.train(request_, tmp_path / "lab", workers=1)
    assert {cohort.id for cohort in work.new} == {folder.id for folder in records.cohorts()}
    assert sum(piece.runs for piece in found.pieces) == len(records)
    assert sum(piece.steps for piece in found.pieces) == records.runs()["step"].sum()
    assert sum(piece.evaluations for piece in found.pieces) == len(records.curves())
    assert sum(piece.models for piece in found.pieces) == sum(len(records.model_files(run)) for run in records.ids)
    engines = {folder.id: folder.manifest()["engine"] for folder in records.cohorts()}
    assert [piece.engine for piece in found.pieces] == [engines[cohort.id] for cohort in work.new]


def test_of_runs_that_were_interrupted_what_is_left_counts(tmp_path):
    specs = tiny_grid({"eval_first": 12}, seed=[0, 1])
    cohort, stops = one_cohort(specs), iter(range(5))
    folder = Lab(tmp_path / "lab").create().cohort(cohort.id)
    folder.create(list(cohort.members), threads=1)
    assert train_cohort(folder, Options(stop=lambda: next(stops, None) is None)) == "interrupted"
    before = shoal.Lab(tmp_path / "lab").records().runs()["step"].sum()
    assert 0 < before < 24
    rows = len(shoal.Lab(tmp_path / "lab").records().curves())
    work, found = foreseen([*specs, tiny(seed=7, eval_first=12)], tmp_path / "lab")
    (going_on, new) = found.pieces
    assert going_on.steps == 24 - before
    assert new.steps == 12
    shoal.train(specs, tmp_path / "lab", workers=1)
    assert going_on.evaluations == len(shoal.Lab(tmp_path / "lab").records(specs).curves()) - rows
    work, found = foreseen(specs, tmp_path / "lab")
    assert (found.pieces, len(work.held), found.high) == ([], 2, 0.0)


def test_the_estimate_has_a_range_and_a_memory_that_is_not_below_what_was_seen(tmp_path):
    _, found = foreseen(tiny_grid({}, seed=[0, 1, 2]), tmp_path / "lab", engine="prefixes", side_by_side=2)
    (piece,) = found.pieces
    assert 0 < found.low <= found.high
    assert (piece.side_by_side, piece.engine) == (2, "prefixes")
    assert 0 < piece.memory <= piece.most_memory
    assert torch.get_num_threads() == 1


def test_shapes_beyond_the_time_for_trials_are_estimated_by_their_operations(tmp_path, monkeypatch):
    monkeypatch.setattr("shoal.training.shape_costs.ALL_SECONDS", 0.0)
    _, found = foreseen(tiny_grid({}, num_layers=[1, 2]), tmp_path / "lab")
    assert [piece.costs.is_measured for piece in found.pieces] == [True, False]
    assert all(0 < piece.low <= piece.high and piece.memory > 0 for piece in found.pieces)


class _Counted:
    """Clock by which a step takes as long as the examples that were scored in it."""

    def __init__(self, trial, monkeypatch):
        self.scored, score = [], trial._stack.score
        monkeypatch.setattr(
            trial._stack, "score", lambda part, **form: (self._note(part, form), score(part, **form))[1]
        )

    def _note(self, part, form):
        self.scored.append((part.shape[1], form["form"]))

    def time(self, work):
        before = sum(n for n, _ in self.scored)
        out = work()
        return float(sum(n for n, _ in self.scored) - before), out


def test_a_long_evaluation_is_estimated_from_a_sample(monkeypatch):
    """Without one the trial of a table of ten million equations takes minutes."""
    trial = _Trial(Cohort((tiny(p=64, train_batch_size=64, eval_batch_size=1000),)), CPU, "prefixes")
    clock = _Counted(trial, monkeypatch)
    monkeypatch.setattr(shape_costs, "SAMPLE", 512)
    monkeypatch.setattr(shape_costs, "TRIAL_SECONDS", 1e9)
    assert trial.evaluation(clock) == (64 * 64, 64 * 64)
    assert [n for n, _ in clock.scored[:2]] == [512, 512] and len(clock.scored) == 2 + 2 * 5
    clock.scored.clear()
    monkeypatch.setattr(shape_costs, "TRIAL_SECONDS", 4095.0)
    assert trial.evaluation(clock) == (64 * 64, 64 * 64)
    assert [n for n, _ in clock.scored] == [512, 512]


def test_each_form_of_batches_has_a_sample(monkeypatch):
    """Batches of long sentences take longer than those of short ones."""
    trial = _Trial(Cohort((tiny(p=64, train_batch_size=64),)), CPU, "prefixes")
    parts = [(torch.zeros(1, n, dtype=torch.long), form) for n, form in ((4, "short"), (30, "long"), (600, "long"))]
    trial._stack.passes = parts
    times = {"short": 1.0, "long": 20.0}
    monkeypatch.setattr(trial._stack, "score", lambda part, form: clock.spend(part.shape[1] * times[form]))
    clock = SimpleNamespace(spent=0.0)
    clock.spend = lambda seconds: setattr(clock, "spent", clock.spent + seconds)

    def time(work):
        before = clock.spent
        out = work()
        return clock.spent - before, out

    clock.time = time
    monkeypatch.setattr(shape_costs, "SAMPLE", 100)
    monkeypatch.setattr(shape_costs, "TRIAL_SECONDS", 5000.0)
    assert trial.evaluation(clock)[1] == pytest.approx(4 + 630 * 20)


@given(seconds=st.lists(st.floats(0, 100), max_size=12), workers=st.integers(1, 5))
def test_pieces_go_to_the_worker_that_is_free_first(seconds, workers):
    ends = [0.0] * workers
    for own in seconds:
        first = min(range(workers), key=ends.__getitem__)
        ends[first] += own
    assert makespan(seconds, workers) == pytest.approx(max(ends))


def test_a_dry_run_says_what_and_how_long_and_writes_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    lab = tmp_path / "lab"
    command = ["train", *FLAGS, "--seed", "0", "1", "--lab", str(lab)]
    assert main([*command, "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "2 runs: 2 new" in out
    assert re.search(r"^time: .* to .* in 1 process of", out, re.MULTILINE)
    assert re.search(r"^memory: \d\S* GiB .*, \d\S* GiB", out, re.MULTILINE)
    assert list(tmp_path.iterdir()) == []
    assert main(command) == 0
    before = {path: path.lstat().st_mtime_ns for path in lab.rglob("*")}
    capsys.readouterr()
    assert main(["train", *FLAGS, "--seed", "0", "1", "2", "--dry-run", "--lab", str(lab)]) == 0
    assert "3 runs: 1 new, 2 already in lab" in capsys.readouterr().out
    assert main([*command, "--dry-run"]) == 0
    assert "time:" not in capsys.readouterr().out
    assert {path: path.lstat().st_mtime_ns for path in lab.rglob("*")} == before


def test_kernels_compiled_for_a_trial_are_kept_nowhere(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("shoal.fast.build.is_compiled", lambda: False)
    places = []
    monkeypatch.setattr("shoal.training.forecast.forecast", lambda *_: places.append(os.environ["XDG_CACHE_HOME"]))
    with pytest.raises(AttributeError):  # of the forecast that there is not
        main(["train", *FLAGS, "--dry-run", "--lab", str(tmp_path / "lab")])
    assert places[0] != str(tmp_path / "cache")
    assert os.environ["XDG_CACHE_HOME"] == str(tmp_path / "cache")
    assert list(tmp_path.iterdir()) == []


WRONG = [
    "train --embedding-size 2147483644 --dry-run",
    "train --precision tf32 --device cpu --dry-run",
    "train --workers 0 --dry-run",
    "train --p 5 --dry-run --dry-run",
    "study run sanity --quick --seeds 0 --dry-run",
    "study list --dry-run",
    "reproduce --dry-run",
]


@pytest.mark.parametrize("command", WRONG)
def test_what_training_refuses_a_dry_run_refuses(command, tmp_path, capsys):
    assert main([*command.split(), "--lab", str(tmp_path / "lab")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("command", ["study run sanity --quick --seeds 1", "reproduce power-2022 --quick --seeds 1"])
def test_studies_and_reproductions_have_dry_runs(command, tmp_path, capsys):
    assert main([*command.split(), "--dry-run", "--lab", str(tmp_path / "lab")]) == 0
    assert "time: " in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []
