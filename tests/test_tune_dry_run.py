"""``shoal tune --dry-run``: its proposals and its count of settings are those of the tuning, and it writes nothing."""

import pytest

from shoal.cli import main
from shoal.errors import UserError
from shoal.lab import Lab
from shoal.lab.tunings import read_tuning
from shoal.spec import RunSpec
from shoal.tasks.build import count_run_parameters
from shoal.tuning import tune
from shoal.tuning.outlook import largest_corner, look_ahead
from shoal.tuning.request import read_request

SMALL = RunSpec(
    model="gpt", p=5, embedding_size=8, num_layers=1, num_heads=2, n_steps=12, eval_first=4, eval_period=4,
    train_batch_size=8, seed=0,
)  # fmt: skip
SEARCH = ["lr=log:1e-4:1e-1", "weight_decay=0,0.1,1"]
ASKED = {"sampler": "qmc", "generation": 4, "halving": 2, "tune_seed": 3, "fresh_seeds": 0, "objective": None}
HOW = {"threads": 1, "workers": 1, "engine": "plain", "report": False}
FLAGS = (  # of the command
    "tune --model gpt --p 5 --embedding-size 8 --num-layers 1 --num-heads 2 --n-steps 12 --eval-first 4 --eval-period "
    "4 --train-batch-size 8 --seed 0 --generation 4 --halving 2 --fresh-seeds 2 --engine plain --threads 1 --workers 1"
)


@pytest.fixture(autouse=True)
def short_trials(monkeypatch):
    """Trials of a moment."""
    monkeypatch.setattr("shoal.training.shape_costs.TRIAL_SECONDS", 0.02)


@pytest.mark.parametrize("budget", ["24steps", pytest.param("61steps", marks=pytest.mark.slow), "5settings"])
def test_proposals_and_count_are_those_of_the_tuning(tmp_path, budget):
    outlook = look_ahead(SMALL, SEARCH, budget, str(tmp_path / "lab"), **ASKED)
    assert not (tmp_path / "lab").exists()
    tuning = tune(SMALL, SEARCH, budget, tmp_path / "lab", **ASKED, **HOW)
    first = read_tuning(tmp_path / "lab", "tuning").generations[0]
    assert (first.settings, first.runs, first.rungs) == (
        outlook.generation.settings,
        outlook.generation.runs,
        outlook.generation.rungs,
    )
    assert outlook.whole * len(first.runs) + outlook.settings_beside == len(tuning.trials)
    assert outlook.steps == sum(trial.steps for trial in tuning.trials if trial.generation == 0)
    positions = 8 * SMALL.task_part.sizes().positions
    assert outlook.flop == pytest.approx(outlook.steps * 6 * count_run_parameters(SMALL) * positions)
    after = look_ahead(SMALL, SEARCH, budget, str(tmp_path / "lab"), **ASKED)
    assert (after.tried, after.spent, after.generation) == (len(tuning.trials), tuning.spent, None)


def test_a_small_space_bounds_what_a_budget_pays_for(tmp_path):
    outlook = look_ahead(SMALL, ["weight_decay=0,0.1,1,2,3"], "100000steps", str(tmp_path / "lab"), **ASKED)
    assert (outlook.whole, outlook.settings_beside) == (1, 1)


def test_nothing_is_known_of_seconds_before_the_first_generation(tmp_path):
    outlook = look_ahead(SMALL, SEARCH, "60s", str(tmp_path / "lab"), **ASKED)
    assert (outlook.cost, outlook.whole) == (None, None) and len(outlook.runs) == 4


def test_memory_is_that_of_the_largest_corner(tmp_path):
    base = RunSpec(model="gpt", p=5, num_heads=2)
    request = read_request(base, ["num_layers=linear:1:4", "embedding_size=16,64,32"], "9settings", **ASKED)
    (corner,) = largest_corner(request)
    assert (corner.num_layers, corner.embedding_size) == (4, 64)
    with pytest.raises(UserError, match="GiB"):
        look_ahead(base, ["embedding_size=16,1000000"], "9settings", str(tmp_path / "lab"), **ASKED)


def test_command(tmp_path, capsys):
    lab = tmp_path / "lab"
    words = [*FLAGS.split(), "--search", *SEARCH, "--budget", "24steps", "--lab", str(lab), "--dry-run"]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert not lab.exists()
    for text in ("lr=log:1e-4:1e-1", "24 steps", "1 generation", "FLOP", "memory:", "time:", "fresh seeds"):
        assert text in out
    assert main([*words, "--sampler", "tpr"]) == 2
    assert main([*FLAGS.split(), "--search", *SEARCH, "--budget", "11steps", "--lab", str(lab), "--dry-run"]) == 2
    assert not Lab(lab).runs() and not lab.exists()
