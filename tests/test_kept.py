"""What a task keeps with its models: tied to its cohort, held to its data, and read without importing anything."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from damaging import contents
from test_hostile import changed

import shoal
from shoal.cli import main
from shoal.errors import LabError, UserError
from shoal.lab.check import examine, repair
from shoal.lab.cohort import CohortFolder
from shoal.lab.files import read_json, write_json
from shoal.lab.keeping import keeping, others_than
from shoal.tasks.text.settings import Text
from shoal.training.certificate import certify
from shoal.training.continuation import found_again, places_of
from shoal.training.loop import Options, train_cohort
from shoal.training.plan import plan

WORDS = "the quick brown fox jumps over the lazy dog. " * 20
SMALL = {"model": "gpt", "num_layers": 1, "num_heads": 2, "embedding_size": 8, "context_length": 8, "lr": 1e-2}
SMALL |= {"train_batch_size": 4, "n_steps": 6, "eval_period": 3, "warmup_steps": 1, "positions": "learned"}


def spec_of(folder, words=WORDS, name="text.txt", **changes):
    path = folder / name
    path.write_text(words)
    return shoal.RunSpec(**{"task": "text", "text": str(path), **SMALL, **changes})


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A lab with runs of two texts of one length and one number of characters."""
    top = tmp_path_factory.mktemp("kept")
    specs = [spec_of(top), spec_of(top, WORDS.replace("fox", "FOX").replace("quick", "QUICK"), "other.txt")]
    shoal.train(specs, top / "lab", workers=1)
    return top, [spec.id for spec in specs]


@pytest.fixture
def lab(made, tmp_path):
    return shoal.Lab(shutil.copytree(made[0] / "lab", tmp_path / "lab"))


@pytest.fixture
def one(lab, made):
    return lab.index()[made[1][0]]


def begun(folder, spec, steps=2):
    """A lab with an interrupted cohort of one run, and its folder."""
    (cohort,) = plan([spec])
    own = shoal.Lab(folder / "lab").create().cohort(cohort.id)
    own.create([spec], threads=1)
    asked = iter(range(steps))
    assert train_cohort(own, Options(stop=lambda: next(asked, None) is None)) == "interrupted"
    return own


def refused(capsys, *words):
    """The one line that is said to a command that is refused."""
    capsys.readouterr()
    assert main([*words]) != 0
    error = capsys.readouterr().err
    assert error.count("\n") == 1, error
    return error


def unlisted(folder, keeps=None):
    """As an earlier version wrote a cohort down: without checksums of what is kept."""

    def change(manifest):
        manifest.pop("keeps", None)
        if keeps is not None:
            manifest["keeps"] = keeps

    changed(folder, "cohort.json", change)


# tied to its cohort


def test_what_another_cohort_keeps_is_found_and_made_again(lab, one, made, capsys):
    right = one.kept()
    shutil.copy(lab.index()[made[1][1]].path / "task.json", one.path / "task.json")
    with pytest.raises(LabError, match=r"task\.json"):
        one.kept()
    assert "task.json" in refused(capsys, "generate", made[1][0], "--prompt", "the", "--lab", str(lab.path))
    (finding,) = examine(lab.path)
    finding.mend()
    assert one.kept() == right and not examine(lab.path)


def test_data_that_give_something_else_mend_nothing(one, lab, monkeypatch):
    (one.path / "task.json").unlink()
    monkeypatch.setattr(Text, "kept", lambda self: {"tokenizer": {"kind": "bytes"}, "counts": {}, "ngram": None})
    (finding,) = examine(lab.path)
    assert finding.is_damage and finding.mend is None


def test_a_cohort_that_is_written_again_keeps_what_it_kept(lab, one, made):
    said = read_json(one.path / "cohort.json")["keeps"]
    (one.path / "cohort.json").unlink()
    list(repair(lab.path))
    assert read_json(one.path / "cohort.json")["keeps"] == said and not examine(lab.path)
    shutil.copy(lab.index()[made[1][1]].path / "task.json", one.path / "task.json")
    assert len(examine(lab.path)) == 1


@pytest.mark.parametrize("keeps", [None, ["counts", "ngram", "tokenizer"]])
def test_cohorts_of_earlier_versions_are_read_as_they_are(lab, made, keeps):
    one = lab.index()[made[1][0]]
    unlisted(one, keeps)
    again = shoal.Lab(lab.path)
    assert again.records([made[1][0]]).kept(made[1][0])["tokenizer"]["kind"] == "chars"
    assert not examine(lab.path)


def test_last_bits_are_nothing_else_and_more_is():
    kept = {"ngram": {"order": 3, "nats": [0.1 + 0.2, 1.5]}, "tokenizer": {"kind": "bytes"}}
    said = keeping(kept)["keeps"]
    assert others_than(said, {**kept, "ngram": {"nats": [0.3, 1.5], "order": 3}}) == []
    assert others_than(said, {**kept, "ngram": {"nats": [0.30001, 1.5], "order": 3}}) == ["ngram"]
    assert others_than(said, {"ngram": kept["ngram"]}) == ["tokenizer"]
    assert keeping({}) == {}


def test_a_folder_of_whoever_was_killed_before_cohort_json_is_free(tmp_path):
    spec = spec_of(tmp_path)
    lab = shoal.Lab(tmp_path / "lab").create()
    (cohort,) = plan([spec])
    write_json(lab.cohort(cohort.id).path / "task.json", {"tokenizer": {"kind": "bytes"}})
    assert not examine(lab.path)
    records = shoal.train([spec], lab, workers=1)
    assert records.runs()["state"].to_list() == ["done"] and records.kept(spec.id)["tokenizer"]["kind"] == "chars"


# held to its data


def test_a_run_goes_on_with_its_own_tokenizer_or_not_at_all(tmp_path, monkeypatch):
    spec = spec_of(tmp_path, n_steps=40)
    folder = begun(tmp_path, spec)
    usual = Text.kept
    other = {"kind": "chars", "characters": "".join(sorted(set(WORDS) - {"z"} | {"Z"}))}
    monkeypatch.setattr(Text, "kept", lambda self: {**usual(self), "tokenizer": other})
    before = contents(tmp_path / "lab")
    for refusing in (lambda: shoal.train([spec], tmp_path / "lab", workers=1), lambda: certify(folder, [spec.id], 1)):
        with pytest.raises(LabError, match="tokenizer"):
            refusing()
        assert contents(tmp_path / "lab") == before
    monkeypatch.undo()
    assert shoal.train([spec], tmp_path / "lab", workers=1).runs()["state"].to_list() == ["done"]


def test_a_moved_text_is_one_line_that_says_what_to_do(tmp_path, capsys):
    spec = spec_of(tmp_path, n_steps=40)
    begun(tmp_path, spec)
    lab = str(tmp_path / "lab")
    moved = str(tmp_path / "moved.txt")
    shutil.move(tmp_path / "text.txt", moved)
    assert "--text NEW" in refused(capsys, "resume", "--lab", lab, "--workers", "1")
    again = spec.replace(text=moved)
    (folder,) = shoal.train([again], lab, workers=1).cohorts()
    assert folder.is_finished()
    said = refused(capsys, "certify", spec.id, "--lab", lab)
    assert "text.txt" in said and "--text NEW" in said
    assert certify(folder, [spec.id], 1, data=places_of([again]))["alone"]
    asked = ("certify", spec.id, "--steps", "1", "--lab", lab)
    assert main([*asked, "--text", moved]) == 0
    other = tmp_path / "other.txt"
    other.write_text("of other words " * 20)
    assert "is not the one" in refused(capsys, *asked, "--text", str(other))
    equations = shoal.RunSpec(p=3, n_steps=2, embedding_size=4, num_layers=1)
    shoal.train([equations], lab, workers=1)
    assert "does not apply" in refused(capsys, "certify", equations.id, "--text", moved, "--lab", lab)
    (tmp_path / "text.txt").symlink_to(moved)
    assert main([*asked]) == 0


def test_runs_whose_place_is_part_of_them_stay_what_they_are(tmp_path, monkeypatch):
    (tmp_path / "placed.py").write_text(
        "from shoal.tasks.text.settings import Text\nclass Placed(Text):\n    name = 'placed'\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    specs = [spec_of(tmp_path, name=name, task="placed:Placed") for name in ("one.txt", "two.txt")]
    assert [spec.id for spec in found_again(specs, places_of(specs))] == [spec.id for spec in specs]
    ours = [spec_of(tmp_path, name=name) for name in ("one.txt", "two.txt")]
    assert [spec.text for spec in found_again(ours, places_of(ours[1:]))] == [ours[1].text] * 2


# whatever it holds


WRONG = [
    [1, 2],
    {"counts": [1]},
    {"counts": {"tokens": -5}},
    {"counts": {"tokens": 10**400}},
    {"counts": {"tokens": True}},
    {"counts": {"tokens": 1.5}},
    {"ngram": {"order": "\x1b[31m3", "orders": 6, "nats_per_token": 1.0}},
    {"ngram": {"order": 3, "orders": 6, "nats_per_token": -1.0}},
    {"ngram": {"order": 3, "orders": 6, "nats_per_token": float("inf")}},
    {"ngram": {"order": 3, "nats_per_token": 1.0}},
]


@pytest.mark.parametrize("wrong", WRONG, ids=range(len(WRONG)))
def test_what_no_task_keeps_is_damage(lab, one, made, capsys, wrong):
    unlisted(one)
    kept = {**read_json(one.path / "task.json"), **wrong} if isinstance(wrong, dict) else wrong
    (one.path / "task.json").write_text(json.dumps(kept))
    (finding,) = examine(lab.path)
    assert finding.is_damage and "task.json" in finding.what
    run = made[1][0]
    assert "damaged" in refused(capsys, "generate", run, "--prompt", "the", "--lab", str(lab.path))
    assert shoal.Lab(lab.path).records([run]).beside() == []
    assert main(["runs", "--lab", str(lab.path)]) == 0 and run[:8] in capsys.readouterr().out


def test_anything_else_can_be_kept(one):
    unlisted(one)
    write_json(one.path / "task.json", {"words": ["a", {"b": None}], "tokenizer": 3})
    assert CohortFolder(one.path).kept()["words"] == ["a", {"b": None}]


def test_a_task_that_keeps_what_cannot_be_read_is_refused_before_anything_is_written(tmp_path, monkeypatch):
    usual = Text.kept
    monkeypatch.setattr(Text, "kept", lambda self: {**usual(self), "counts": {"tokens": "many"}})
    with pytest.raises(UserError, match=r"counts\.tokens"):
        shoal.train([spec_of(tmp_path)], tmp_path / "lab", workers=1)
    assert not list((tmp_path / "lab").glob("cohorts/*/*.json"))


@pytest.mark.parametrize("name", ["seed", "foo", "lr"])
def test_parts_have_the_kinds_that_there_are(lab, made, capsys, name):
    one = lab.index()[made[1][0]]
    changed(one, "cohort.json", lambda content: content.update(parts={name: {"package": "x", "source": "y"}}))
    assert "cohort.json is damaged" in refused(capsys, "generate", made[1][0], "--prompt", "a", "--lab", str(lab.path))
    assert any("parts" in finding.what for finding in examine(lab.path))


@pytest.mark.parametrize("tokenizer", [{"kind": "bytes"}, {"kind": "chars", "characters": " et"}], ids=str)
def test_a_tokenizer_of_another_size_is_refused(lab, made, capsys, tokenizer):
    one = lab.index()[made[1][0]]
    unlisted(one)
    changed(one, "task.json", lambda content: content.update(tokenizer=tokenizer))
    said = refused(capsys, "generate", made[1][0], "--prompt", "t", "--lab", str(lab.path))
    assert "tokenizer" in said and "damaged" in said


# own code

OWN = """
from typing import ClassVar

from torch import nn

from shoal.models.settings import ModelSettings
from shoal.tasks.arithmetic.settings import Arithmetic

class Net(nn.Module):
    def __init__(self, V):
        super().__init__()
        self.embedding, self.head = nn.Embedding(V, 4), nn.Linear(4, V)

    def forward(self, tokens):
        return (self.head(self.embedding(tokens)), None)

class Plain(ModelSettings):
    name: ClassVar[str] = "plain"

    def build(self, sizes):
        return Net(sizes.vocabulary_size)

class Keeping(Arithmetic):
    name: ClassVar[str] = "keeping"

    def kept(self):
        return {"words": ["a", "b"]}
"""


def test_a_model_that_cannot_decode_is_one_line(tmp_path, monkeypatch, capsys):
    (tmp_path / "plainly.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "text.txt").write_text(WORDS)
    own = {"text": str(tmp_path / "text.txt"), "context_length": 8, "train_batch_size": 4, "warmup_steps": 1}
    spec = shoal.RunSpec(task="text", model="plainly:Plain", n_steps=3, **own)
    shoal.train([spec], tmp_path / "lab", workers=1)
    said = refused(capsys, "generate", spec.id, "--prompt", "the", "--lab", str(tmp_path / "lab"))
    assert all(name in said for name in ("Net", "context_length", "start", "step"))


CHECKED = """
import sys
from pathlib import Path

import shoal
from shoal.lab.check import examine

for lab in map(Path, sys.argv[1:]):
    found = examine(lab)
    assert bool(found) == ("None" not in lab.name), found
    records = shoal.Lab(lab).records()
    assert records.foreign() == {}
    assert ("status" in lab.name) == bool(records.damage())
    assert "elsewhere" not in sys.modules, lab
"""


def test_a_lab_is_checked_without_importing_what_it_names(tmp_path, monkeypatch):
    (tmp_path / "elsewhere.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    spec = shoal.RunSpec(task="elsewhere:Keeping", model="elsewhere:Plain", p=5, n_steps=2)
    ours = shoal.RunSpec(p=5, num_layers=1, embedding_size=4, n_steps=2)
    shoal.train([spec, ours], tmp_path / "lab", workers=1)
    labs = [tmp_path / f"lab-{lost}" for lost in (None, "cohort.json", "task.json", "status.json")]
    for lab in labs:
        shutil.copytree(tmp_path / "lab", lab)
        (shoal.Lab(lab).index()[spec.id].path / lab.name.removeprefix("lab-")).unlink(missing_ok=True)
    paths = os.pathsep.join([str(tmp_path), str(Path(shoal.__file__).parents[1])])
    command = [sys.executable, "-c", CHECKED, *map(str, labs)]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
