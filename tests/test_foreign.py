"""What someone else wrote into a lab breaks the reading of nothing but itself, whatever its values are."""

import json
import os
import shlex
import shutil

import polars as pl
import pytest
import torch
from helpers import tiny_grid
from test_hostile import ESCAPES, changed, resettled

import shoal
from shoal.cli import main
from shoal.errors import LabError
from shoal.fast.engine import ENGINES
from shoal.lab.check import examine
from shoal.lab.rebuild import manifest_of, status_of
from shoal.lab.shapes import Engine
from shoal.lab.tensors import load_tensors, save_tensors
from shoal.measures import EQUATIONS
from shoal.training.loop import Options, train_cohort

pytestmark = pytest.mark.usefixtures("without_pictures")

FOREIGN, KEPT = (tiny_grid({"p": p}, seed=[0])[0] for p in (7, 5))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A lab with two cohorts of one run each, trained to their ends."""
    path = tmp_path_factory.mktemp("made") / "lab"
    shoal.train([FOREIGN, KEPT], lab=path)
    return path


@pytest.fixture
def lab(made, tmp_path):
    """A copy of it."""
    return shoal.Lab(shutil.copytree(made, tmp_path / "lab"))


def check_the_other_is_shown(lab, capsys, named, commands=("runs", "report")):
    """With what is damaged of the foreign cohort; ``named`` is what is said of it."""
    for command in commands:
        assert main([command, "--lab", str(lab.path)]) == 1, command
        said = capsys.readouterr()
        assert KEPT.id[:8] in said.out and named in said.out + said.err


@pytest.mark.parametrize("step", [10**30, 2**31, -1])
def test_a_step_that_no_run_takes_is_damage_of_its_cohort_alone(lab, capsys, step):
    def change(status):
        next(iter(status["members"].values()))["step"] = step

    changed(lab.index()[FOREIGN.id], "status.json", change)
    check_the_other_is_shown(lab, capsys, "step: input should be")


@pytest.mark.parametrize(
    ("name", "value"),
    [("threads", 10**30), ("seconds", 1e999), ("seconds", -1.0), ("processor", "\ud800"), ("engine", "\x1b[31mE")],
)
def test_a_session_that_there_cannot_have_been_is_damage_of_its_cohort_alone(lab, capsys, name, value):
    changed(lab.index()[FOREIGN.id], "status.json", lambda status: status["sessions"][0].update({name: value}))
    check_the_other_is_shown(lab, capsys, "status.json is damaged")


VALUES = [
    ("lr", {"a": [1]}),
    ("lr", "fast"),
    ("lr", float("nan")),
    ("lr", 2**200),
    ("p", 2**200),
    ("p", 7.5),
    ("p", True),
    ("bias", 3),
    ("operator", ["+"]),
    ("operation_orders", [2, 2**200]),
    ("operation_orders", [[2]]),
    ("of_a_later_version", {"a": 1}),
]


@pytest.mark.parametrize(("name", "value"), VALUES)
def test_a_value_that_no_setting_has_is_damage_of_its_cohort_alone(lab, capsys, name, value):
    resettled(lab.index()[FOREIGN.id], **{name: value})
    check_the_other_is_shown(lab, capsys, f"cohort.json is damaged: members.0.spec.{name}", ["runs"])
    assert set(lab.records().curves()["run"]) == {KEPT.id}


@pytest.mark.parametrize(("name", "value"), [("lr", 1), ("clip", float("inf")), ("p", None), ("later", [1, 2])])
def test_a_value_that_some_version_could_have_is_none(lab, name, value):
    resettled(lab.index()[FOREIGN.id], **{name: value})
    assert len(lab.records().runs()) == 2


def test_engines_are_known_by_their_names(lab, capsys):
    assert Engine.__args__ == ENGINES
    changed(lab.index()[FOREIGN.id], "cohort.json", lambda content: content.update(engine="\x1b[31mE"))
    check_the_other_is_shown(lab, capsys, "cohort.json is damaged: engine", ["runs"])


# checkpoints


@pytest.fixture
def begun(tmp_path):
    """An interrupted cohort of two runs."""
    specs = tiny_grid({"n_steps": 40}, seed=range(2))
    (cohort,) = shoal.training.plan(specs)
    folder = shoal.Lab(tmp_path / "lab").create().cohort(cohort.id)
    folder.create(list(cohort.members), threads=1)
    asked = iter(range(5))
    assert train_cohort(folder, Options(stop=lambda: next(asked, None) is None)) == "interrupted"
    return folder


def rewritten(folder, change):
    """The checkpoint with other metadata, or another state."""
    state, metadata = load_tensors(folder.checkpoint_path)
    where = json.loads(metadata["where"])
    change(state, metadata, where)
    if "where" in metadata and metadata["where"] != "nope":
        metadata["where"] = json.dumps(where)
    save_tensors(folder.checkpoint_path, state, {name: text for name, text in metadata.items() if text is not None})


CHECKPOINTS = {
    "no JSON": lambda state, metadata, where: metadata.update(where="nope"),
    "no number of parts": lambda state, metadata, where: metadata.update(metrics=None, parts="x"),
    "parts that are no names": lambda state, metadata, where: metadata.update(metrics="[1]"),
    "half a sign": lambda state, metadata, where: metadata.update(metrics='["\\ud800"]'),
    "places in words": lambda state, metadata, where: where.update(places="x"),
    "no places": lambda state, metadata, where: where.update(places=0),
    "nothing of who generalised": lambda state, metadata, where: where.pop("generalised"),
    "accuracies of something else": lambda state, metadata, where: where.update(accuracies={"train": [1]}),
    "an ending in words": lambda state, metadata, where: where.update(finished={where["members"][0]: "done"}),
    "an ending after the end": lambda state, metadata, where: where.update(
        finished={where["members"][0]: {"state": "done", "step": 41}}
    ),
    "a run twice": lambda state, metadata, where: where.update(members=where["members"][:1] * 2),
    "steps of no members": lambda state, metadata, where: state.update(steps=torch.tensor(3)),
    "complex steps": lambda state, metadata, where: state.update(steps=torch.ones(2, dtype=torch.complex64)),
    "no steps": lambda state, metadata, where: state.pop("steps"),
}


@pytest.mark.parametrize("what", CHECKPOINTS)
def test_a_checkpoint_that_no_training_writes_is_named(begun, what):
    rewritten(begun, CHECKPOINTS[what])
    with pytest.raises(LabError, match=r"checkpoint.safetensors .*; move"):
        train_cohort(begun, Options())
    changed(begun, "status.json", lambda status: status.update(sessions="?"))
    assert status_of(begun) is None
    list(examine(begun.path.parent.parent))


def test_a_checkpoint_of_an_earlier_version_is_gone_on_from(begun):
    def change(state, metadata, where):
        metadata.update(metrics=None, manifest=None)
        for name in ("parked", "accuracies"):
            where.pop(name)

    rewritten(begun, change)
    assert train_cohort(begun, Options()) == "done"


@pytest.mark.parametrize("manifest", ["[]", "null", "{", "threads", "spec", "[" * 100_000])
def test_a_manifest_that_is_none_is_not_written_again(begun, manifest):
    whole = json.loads(load_tensors(begun.checkpoint_path)[1]["manifest"])
    (begun.path / "cohort.json").unlink()
    assert manifest_of(begun) is not None
    if manifest == "threads":
        manifest = json.dumps({**whole, "threads": 100_000})
    elif manifest == "spec":
        whole["members"][0]["spec"]["lr"] = 0.5  # which another id says
        manifest = json.dumps(whole)
    rewritten(begun, lambda state, metadata, where: metadata.update(manifest=manifest))
    assert manifest_of(begun) is None
    assert any("cohort.json is missing" in finding.what for finding in examine(begun.path.parent.parent))


def test_of_a_file_of_tensors_it_is_said_what_is_wrong(tmp_path, monkeypatch):
    path = tmp_path / "x.safetensors"
    with pytest.raises(LabError, match="is missing"):
        load_tensors(path)
    os.mkfifo(path)
    with pytest.raises(LabError, match="not a regular file"):
        load_tensors(path)
    path.unlink()
    with path.open("wb") as file:
        file.truncate(2**40)  # of which the disk holds nothing
    with pytest.raises(LabError, match="1,099,511,627,776 bytes"):
        load_tensors(path)


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("unable to mmap 9 bytes")])
def test_a_file_that_memory_cannot_hold_is_named(tmp_path, monkeypatch, error):
    save_tensors(tmp_path / "x", {"a": torch.ones(1)}, {})

    def refuse(*_):
        raise error

    monkeypatch.setattr("shoal.lab.tensors.safe_open", refuse)
    with pytest.raises(LabError, match=r"x is damaged: .*m"):
        load_tensors(tmp_path / "x")


# what is printed


def test_progress_and_questions_print_text_alone(capsys):
    from shoal.commands.progress import line
    from shoal.output import say
    from shoal.training.snapshot import Snapshot

    say(f"cohort {ESCAPES}\n")
    said = capsys.readouterr().out + line(
        Snapshot("\x1b[31m", ESCAPES, "plain", 1, 0, 1, "done", EQUATIONS, None, None, 0, 0, None, None)
    )
    assert not set("\x1b\x07\x9b\u202e") & set(said) and said.count("\n") == 1


# notes of studies


@pytest.mark.parametrize("content", ["{", '{"quick": true, "runs": [], "seeds": 0}', '{"quick": 1}'])
def test_a_note_that_cannot_be_read_is_named_and_the_others_are_shown(tmp_path, monkeypatch, capsys, content):
    lab = shoal.Lab(tmp_path / "lab").create()
    lab.note_study("sanity", "quick", {"quick": True, "runs": []})
    (lab.path / "studies" / "sanity" / "full.json").write_text(content)
    shown = []
    monkeypatch.setattr("shoal.commands.questions._report_page", lambda page, lab: shown.append(page.name) or 0)
    for command in (["study", "report", "--all"], ["study", "report", "sanity"], ["report", "sanity"]):
        assert main([*command, "--lab", str(lab.path)]) == 1
        assert "full.json is damaged" in capsys.readouterr().out
    assert shown == ["sanity-quick"] * 3
    (lab.path / "studies" / "sanity" / "quick.json").unlink()
    assert main(["study", "report", "sanity", "--lab", str(lab.path)]) == 2
    assert "full.json is damaged" in capsys.readouterr().err


@pytest.mark.slow
def test_a_note_that_cannot_be_read_does_not_keep_its_study_from_training(tmp_path, monkeypatch, capsys):
    lab = shoal.Lab(tmp_path / "lab").create()
    lab.note_study("sanity", "quick", {"quick": True, "runs": []})
    (lab.path / "studies" / "sanity" / "quick.json").write_text("{")
    monkeypatch.setattr("shoal.commands.questions._report_page", lambda page, lab: 0)
    tiny = shlex.split("--p 7 --embedding-size 16 --num-layers 1 --n-steps 2 --seeds 1 --engine plain")
    assert main(["study", "run", "sanity", "--quick", *tiny, "--lab", str(lab.path)]) == 1
    assert "quick.json is damaged" in capsys.readouterr().out
    assert set(pl.Series(lab.records().runs()["state"])) == {"done"}


def test_more_seeds_than_a_grid_has_are_refused_before_they_are_listed(tmp_path, capsys):
    assert main(["study", "run", "sanity", "--seeds", str(10**12), "--lab", str(tmp_path / "lab")]) == 2
    assert "1,000,000,000,000 runs" in capsys.readouterr().err
    assert not (tmp_path / "lab").exists()
