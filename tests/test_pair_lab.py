"""Tasks of sources and targets in the lab and on the command line: trained, gone on with, certified, without data."""

import errno
from pathlib import Path

import polars as pl
import pytest
import torch
from pair_files import english, parallel, sentences

import shoal
from shoal.cli import main
from shoal.errors import DiskError
from shoal.lab.cohort import CohortFolder
from shoal.tasks.pairs.codec import codec_of

SMALL = "--model gpt --num-layers 1 --num-heads 2 --embedding-size 8 --train-batch-size 4 --eval-period 3"
TASKS = {
    "translation": "--min-frequency 1",
    "pig_latin": "",
    "sorting": "--min-length 2 --max-length 4 --digits 6 --train-examples 40 --valid-examples 9",
}


def flags_of(task, folder):
    """The flags of a small run of a task."""
    places = {"translation": lambda: parallel(folder, 20, 8), "pig_latin": lambda: {"text": english(folder)}}
    found = places.get(task, dict)()
    own = [word for name, path in found.items() for word in (f"--{name.replace('_', '-')}", path)]
    return ["--task", task, *own, *TASKS[task].split(), *SMALL.split()]


@pytest.mark.parametrize("task", TASKS)
def test_a_task_is_trained_gone_on_with_and_certified(tmp_path, capsys, task):
    own, lab = flags_of(task, tmp_path), ["--lab", str(tmp_path / "lab")]
    assert main(["train", *own, "--seed", "0", "1", "--n-steps", "6", *lab]) == 0
    out = capsys.readouterr().out
    assert ("beside" in out) == (task != "sorting")
    records = shoal.Lab(tmp_path / "lab").records()
    assert main(["certify", *records.ids, *lab]) == 0
    for command in ("resume", "runs"):
        assert main([command, *lab]) == 0
    curves = records.curves()
    assert len(records) == 2 and {"valid_loss", "valid_accuracy", "valid_forced_exact"} <= set(curves.columns)
    grouped = {"pig_latin": "valid_loss_cluster", "sorting": "valid_forced_exact_length3"}
    assert task not in grouped or grouped[task] in curves.columns
    numbers = curves.select(pl.col(pl.Float32, pl.Float64))
    assert numbers.select(pl.all().is_finite().all()).row(0) == (True,) * numbers.width


@pytest.mark.parametrize("convention, share", [("torch", "0.1/V "), ("fairseq", "0.1/(V-1)"), ("joeynmt", "0.1/(V-2)")])
def test_what_changes_the_loss_and_the_pairs_is_said_at_the_start(tmp_path, capsys, convention, share):
    own, lab = [*flags_of("translation", tmp_path), "--n-steps", "3"], ["--lab", str(tmp_path / "lab")]
    smoothed = ["--label-smoothing", "0.1", "--label-smoothing-convention", convention]
    assert main(["train", *own, *smoothed, "--lowercase", "true", "--max-length", "13", *lab]) == 0
    start = capsys.readouterr().out.split("step 0/3")[0]
    assert [convention in line and share in line for line in start.splitlines()].count(True) == 1
    assert "lower-cas" in start and "13 tokens" in start
    assert main(["train", *own, *lab]) == 0
    start = capsys.readouterr().out.split("step 0/3")[0]
    assert "smoothing" not in start and "lower-cas" not in start and "64 tokens" in start


def test_a_text_says_its_label_smoothing_at_the_start(tmp_path, capsys):
    path = tmp_path / "a.txt"
    path.write_text("a small dog sleeps on a mat. " * 40)
    own = ["--task", "text", "--text", str(path), "--tokenizer", "chars", *SMALL.split(), "--context-length", "8"]
    assert main(["train", *own, "--n-steps", "3", "--label-smoothing", "0.2", "--lab", str(tmp_path / "lab")]) == 0
    assert "convention torch: 0.2/V " in capsys.readouterr().out.split("step 0/3")[0]


def test_a_task_has_a_usual_model(tmp_path):
    lab = tmp_path / "lab"
    flags = [word for word in flags_of("sorting", tmp_path) if word not in ("--model", "gpt")]
    assert main(["train", *flags, "--n-steps", "3", "--lab", str(lab)]) == 0
    assert shoal.Lab(lab).records().runs()["model"].to_list() == ["encoder_decoder"]


@pytest.mark.slow
def test_a_page_says_what_was_left_out(tmp_path):
    lab = tmp_path / "lab"
    assert main(["train", *flags_of("translation", tmp_path), "--n-steps", "3", "--lab", str(lab)]) == 0
    assert main(["report", "--lab", str(lab)]) == 0
    (page,) = lab.glob("reports/*/report.md")
    text = page.read_text()
    assert "validation sources that train, too: 0" in text and "nats/word" in text


@pytest.mark.parametrize("task", TASKS)
def test_a_run_goes_on_as_if_it_had_not_stopped(tmp_path, monkeypatch, capsys, task):
    own = [*flags_of(task, tmp_path), "--n-steps", "9", "--save-statistic-step", "3"]
    assert main(["train", *own, "--lab", str(tmp_path / "whole")]) == 0
    real, calls = CohortFolder.write_metrics, []

    def full_from_the_third_flush(self, part, frame):
        calls.append(part)
        if len(calls) == 3:
            raise DiskError(errno.ENOSPC, "No space left on device")
        return real(self, part, frame)

    monkeypatch.setattr(CohortFolder, "write_metrics", full_from_the_third_flush)
    assert main(["train", *own, "--lab", str(tmp_path / "lab")]) != 0
    assert main(["resume", "--lab", str(tmp_path / "lab")]) == 0
    curves = [shoal.Lab(tmp_path / name).records().curves() for name in ("whole", "lab")]
    assert curves[0].equals(curves[1])


def test_a_model_speaks_without_its_data(tmp_path):
    lab = tmp_path / "lab"
    assert main(["train", *flags_of("translation", tmp_path), "--n-steps", "3", "--lab", str(lab)]) == 0
    for path in tmp_path.glob("*.txt"):
        path.unlink()
    records = shoal.Lab(lab).records()
    (run,) = records.ids
    codec = codec_of(records.kept(run))
    german, text = sentences(20)
    tokens, seen = codec.encode_sources(german)
    assert [codec.decode_source(row) for row in tokens] == german and bool(seen[:, 0].all())
    targets, _ = codec.encode_targets(text)
    assert [codec.decode_target(row) for row in targets] == text
    model = records.model(run)
    with torch.no_grad():
        assert model(tokens)[0].shape[-1] == codec.target.size


def test_moved_files_are_named_anew(tmp_path, capsys):
    own, lab = flags_of("translation", tmp_path), ["--lab", str(tmp_path / "lab")]
    assert main(["train", *own, "--n-steps", "3", *lab]) == 0
    (tmp_path / "new").mkdir()
    for path in tmp_path.glob("*.txt"):
        path.rename(tmp_path / "new" / path.name)
    capsys.readouterr()
    moved = [str(Path(word).parent / "new" / Path(word).name) if word.endswith(".txt") else word for word in own]
    assert main(["train", *moved, "--n-steps", "3", *lab]) == 0
    assert len(shoal.Lab(tmp_path / "lab").records()) == 1


def test_of_wrong_files_one_thing_is_advised_that_was_not_done(tmp_path, capsys):
    own, lab = flags_of("translation", tmp_path), ["--lab", str(tmp_path / "lab")]
    assert main(["train", *own, "--n-steps", "3", *lab]) == 0
    (run,) = shoal.Lab(tmp_path / "lab").records().ids
    (tmp_path / "other.txt").write_text("ein\n" * 20)
    (tmp_path / "source.txt").rename(tmp_path / "moved.txt")
    files = ("--source", "--target", "--valid-source", "--valid-target")

    def said(*words):
        assert main(["certify", run, *words, "--steps", "1", *lab]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert all(f"{flag} " in error.replace(",", " ") for flag in files)
        return error

    capsys.readouterr()
    wrong = said("--source", str(tmp_path / "other.txt"))
    assert "train anew" in wrong and "shoal certify" not in wrong
    assert "shoal certify" in said()
    (tmp_path / "source.txt").write_text("der\n" * 20)
    changed = said()
    assert "shoal certify" in changed and "train anew" not in changed
    (tmp_path / "valid_target.txt").unlink()
    assert "shoal certify" in said("--source", str(tmp_path / "moved.txt"))


@pytest.mark.parametrize("words", ["", "--source nowhere.txt", "--valid-share 2"])
def test_a_mistake_is_one_line(tmp_path, capsys, words):
    task = "pig_latin" if "share" in words else "translation"
    own = flags_of(task, tmp_path)[: None if "share" in words else 2]
    assert main(["train", *own, *words.split(), *SMALL.split(), "--lab", str(tmp_path / "lab")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
