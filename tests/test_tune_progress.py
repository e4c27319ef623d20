"""Progress of a tuning: generation, rung, trials, spent budget and the best so far, as the lab has them."""

import io

import pytest
from rich.console import Console

from shoal.commands.tune_progress import TuneProgress, cells
from shoal.lab import Lab
from shoal.measures import EQUATIONS
from shoal.spec import RunSpec
from shoal.training.snapshot import Snapshot
from shoal.tuning import tune
from shoal.tuning.budget import read_budget
from shoal.tuning.standing import Standing, share_done

SMALL = RunSpec(
    model="gpt", p=5, embedding_size=8, num_layers=1, num_heads=2, n_steps=12, eval_first=4, eval_period=4,
    train_batch_size=8, seed=0,
)  # fmt: skip
HOW = {"threads": 1, "workers": 1, "engine": "plain", "report": False, "generation": 4, "halving": 2}
STANDING = Standing(
    2, 1, 3, 100, 300, {"waiting": 3, "left": 6, "finished": 1, "diverged": 2}, 900.0, 600.0, read_budget("9000steps"),
    "valid_loss", 1.25,
)  # fmt: skip


def snapshot(cohort="a", step=0, n_steps=100, members=1, **more) -> Snapshot:
    about = {"title": "gpt", "engine": "plain", "state": "running", "measures": EQUATIONS, "train": None, "valid": None}
    about |= {"generalised": 0, "diverged": 0, "steps_per_second": None, "seconds_left": None, **more}
    return Snapshot(cohort=cohort, step=step, n_steps=n_steps, members=members, **about)


def test_standings_are_those_of_the_lab_at_each_rung(tmp_path):
    standings, steps = [], []

    def follow(standing):
        members = [m for folder in Lab(tmp_path).cohorts() for m in folder.status()["members"].values()]
        standings.append(standing)
        steps.append(sum(member["step"] for member in members))

    tuning = tune(SMALL, ["lr=log:1e-4:1e-1"], "60steps", tmp_path, fresh_seeds=2, follow=follow, **HOW)
    rungs = [s for s in standings if s.generation]
    assert [s.spent for s in standings] == steps
    assert [s.spent + s.cost for s in rungs] == steps[1:]  # each rung's cost is what the lab counts after it
    assert [(s.from_step, s.to_step) for s in rungs[:3]] == [(0, 3), (3, 4), (4, 12)] == [
        (s.from_step, s.to_step) for s in rungs if s.generation == 1
    ]  # fmt: skip
    assert [s.states for s in rungs[:3]] == [
        {"finished": 0, "left": left, "waiting": 4 - left, "diverged": 0} for left in (0, 2, 3)
    ]
    last = standings[-1]
    assert last.generation == 0 and last.best == tuning.trials[0].value
    assert sum(last.states.values()) == len(tuning.trials) and not last.states["waiting"]
    assert rungs[0].best is None and all(s.best is not None for s in rungs[1:])


def test_share_of_a_rung_counts_the_steps_of_all_cohorts():
    first = [snapshot("a", step=10, n_steps=20, members=4), snapshot("b", step=0, n_steps=30, members=2)]
    last = [snapshot("a", step=20, n_steps=20, members=4), snapshot("b", step=0, n_steps=30, members=2)]
    assert share_done(first, first) == 0
    assert share_done(first, last) == pytest.approx(40 / 100)
    assert share_done([], []) == 1


def test_half_a_rung_is_half_its_steps_and_cost():
    shown = cells(STANDING, 0.5, None)
    assert shown["step"] == "200 of 300" and shown["spent"].startswith("1,200 of 9,000")
    assert (shown["in training"], shown["left at a rung"], shown["finished"], shown["diverged"]) == ("3", "6", "1", "2")
    assert "1.25" in shown["best valid_loss"]


@pytest.mark.parametrize("width", [22, 50, 80, 120, 200])
def test_on_a_narrow_terminal_whole_columns_are_left_out(width):
    out = io.StringIO()
    with TuneProgress(Console(file=out, force_terminal=True, color_system=None, width=width)) as progress:
        progress.follow(STANDING)
        progress(snapshot(step=4, n_steps=12, members=3))
        progress(snapshot(step=8, n_steps=12, members=3, seconds_left=4.0))
    text = out.getvalue()
    assert "…" not in text and "1,200 of 9,000 steps" in text
    assert "200 of 300" in text.replace("1,200 of", "") or width < 80
    assert ("next rung in" in text) == (width > 120)


def test_elsewhere_there_is_one_line_for_each_rung():
    out = io.StringIO()
    with TuneProgress(Console(file=out, width=60)) as progress:
        for rung in (1, 2):
            progress.follow(Standing(**{**STANDING.__dict__, "rung": rung}))
            for step in range(100):
                progress(snapshot(step=step))
    lines = out.getvalue().splitlines()
    assert [f"rung {rung} of 3" in line for rung, line in zip((1, 2), lines, strict=True)] == [True, True]
