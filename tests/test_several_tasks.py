"""A lab with runs of several tasks: what its tables and pages show of each beside the others."""

import json
from argparse import Namespace

import pytest

import shoal
from shoal.cli import main
from shoal.commands.choice import page_name

SORTING = {"task": "sorting", "min_length": 2, "max_length": 6, "digits": 8, "train_examples": 40, "valid_examples": 12}
SMALL = {"embedding_size": 8, "num_layers": 1, "n_steps": 6, "eval_period": 2, "train_batch_size": 8}
SEQUENCES = {"task": "sequences", "drawn_states": 2, "drawn_sequences": 12, "drawn_length": 15, "drawn_size": 4}
REACHED = "50"  # by every loss of these tasks


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    path = tmp_path_factory.mktemp("several") / "lab"
    specs = [
        shoal.RunSpec(model="gpt", num_heads=2, **SORTING, **SMALL),
        shoal.RunSpec(model="hmm", num_states=2, n_steps=3, **SEQUENCES),
        shoal.RunSpec(model="gpt", num_heads=2, p=5, **SMALL),
    ]
    shoal.train(specs, path, workers=1)
    return path


def said(capsys, *words):
    assert main(list(words)) == 0
    return capsys.readouterr().out


def test_losses_of_several_tasks_stand_in_one_column_of_first_steps(lab, capsys):
    tasks = ["--task", "sorting", "sequences"]
    rows = json.loads(said(capsys, "runs", "--lab", str(lab), *tasks, "--threshold", REACHED, "--json"))
    assert {row["task"] for row in rows} == {"sorting", "sequences"}
    alone = {}
    for task in ("sorting", "sequences"):
        words = ["runs", "--lab", str(lab), "--task", task, "--threshold", REACHED, "--json"]
        (row,) = json.loads(said(capsys, *words))
        alone[row["run"]] = row[f"t_valid_loss_{REACHED}"]
    assert {row["run"]: row[f"t_valid_loss_{REACHED}"] for row in rows} == alone
    assert None not in alone.values()
    assert [name for name in rows[0] if name.startswith("t_valid_loss_")] == [f"t_valid_loss_{REACHED}"]


def test_each_task_has_the_column_of_its_own_measure(lab, capsys):
    rows = json.loads(said(capsys, "runs", "--lab", str(lab), "--threshold", "1", "--json"))
    steps = {row["task"]: (row["t_valid_loss_1"], row["t_valid_accuracy_1"]) for row in rows}
    assert steps["arithmetic"][0] is None
    assert {task for task, (_, of_accuracy) in steps.items() if of_accuracy is not None} <= {"arithmetic"}


def test_chosen_columns_keep_the_first_steps_that_were_asked_for(lab, capsys):
    words = ["runs", "--lab", str(lab), "--task", "sorting", "--columns", "seed", "--threshold", REACHED]
    header, *_ = said(capsys, *words).splitlines()
    assert header.split() == ["run", "seed", f"t(L_val≤{REACHED})"]
    header, row = said(capsys, *words, "--csv").splitlines()
    assert header == f"seed,t_valid_loss_{REACHED}"
    assert row.split(",")[1]


def test_a_value_of_another_measure_than_the_heading_says_which(lab, capsys):
    lines = said(capsys, "watch", "--once", "--lab", str(lab)).splitlines()
    rows = {task: [line for line in lines if task in line.split()[1:2]] for task in ("sorting", "sequences")}
    heading = next(line for line in lines if line.split()[:2] == ["run", "task"])
    for (row,) in rows.values():
        assert ("A_val" in heading) == ("L_val " in row)
    (row,) = [line for line in lines if "arithmetic" in line.split()[1:2]]
    assert ("A_val" in heading) != ("A_val " in row)


@pytest.mark.slow
def test_pages_of_other_runs_stand_beside_each_other(lab, capsys):
    for task in ("sorting", "arithmetic"):
        said(capsys, "report", "--lab", str(lab), "--task", task)
        assert f"--task {task}" in (lab / f"reports/runs-task-{task}/report.md").read_text()
    said(capsys, "report", "--lab", str(lab), "--task", "sorting")
    assert {path.name for path in (lab / "reports").iterdir()} >= {"runs-task-sorting", "runs-task-arithmetic"}


def choice(*what, **flags):
    return Namespace(what=list(what), settings=[], **dict.fromkeys(("state", "tag", "group")) | flags)


def test_names_of_pages_are_told_apart_where_signs_are_lost():
    assert page_name("runs", choice()) == "runs"
    assert page_name("runs", choice("first")) == "runs-first"
    names = [page_name("runs", choice(*what)) for what in (["größe"], ["grüße"], ["a" * 90], ["a" * 91])]
    assert len({*names}) == 4
    assert all(name.isascii() and len(name) <= 90 for name in names)


@pytest.mark.parametrize("words", [["label"], ["check"], ["runs"], ["report", "--by", "lr", "--other-lab", "x"]])
def test_a_lab_that_is_not_there_is_named_with_those_beside_it(words, lab, capsys):
    assert main([*words, "--lab", str(lab.parent / "lap")]) == 2
    assert "there is no lab" in (told := capsys.readouterr().err)
    assert "labs beside it: lab" in told
