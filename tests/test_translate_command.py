"""``shoal translate``: what it writes and keeps, what its numbers are, and what it refuses in one line."""

import gzip
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from pair_files import parallel, sentences

import shoal
from shoal.cli import main
from shoal.decoding import answers
from shoal.decoding.answers import EMPTY, Answer, Answered
from shoal.decoding.finite import DivergedError
from shoal.errors import UserError
from shoal.lab.alike import models_by_shape
from shoal.lab.check import examine
from shoal.tasks.pairs.codec import PairCodec

SMALL = {"model": "gpt", "num_layers": 1, "num_heads": 2, "embedding_size": 8, "train_batch_size": 4, "n_steps": 25}
SMALL |= {"eval_period": 5, "save_model_step": 8, "keep_best": True, "max_length": 9, "min_frequency": 1, "lr": 5e-2}
SOURCE = [*sentences(4)[0], "", "ein hund\u2028schläft."]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A lab, and ids: two seeds, other heads of the same shapes, another vocabulary, and a task without sources."""
    top = tmp_path_factory.mktemp("translate")
    first = shoal.RunSpec(task="translation", **parallel(top, 20, 8), **SMALL)
    specs = [first, *(first.replace(**own) for own in ({"seed": 1}, {"num_heads": 1}, {"min_frequency": 8}))]
    shoal.train(specs, top / "lab", workers=1)
    equations = shoal.RunSpec(p=5, embedding_size=8, num_layers=1, n_steps=1)
    shoal.train(equations, top / "lab", workers=1)
    return top, [spec.id for spec in (*specs, equations)]


@pytest.fixture
def lab(trained, tmp_path, monkeypatch):
    shutil.copytree(trained[0] / "lab", tmp_path / "lab")
    (tmp_path / "source.txt").write_text("".join(f"{line}\n" for line in SOURCE), encoding="utf-8", newline="\n")
    monkeypatch.chdir(tmp_path)
    return trained[1]


def lines_of(out):
    return out.removesuffix("\n").split("\n")


def content(folder="lab"):
    """A hash of every file of a folder by its name."""
    found = sorted(path for path in Path(folder).rglob("*") if path.is_file())
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


def put(name, text):
    Path(name).write_bytes(text.encode())


def decodes(run):
    return shoal.Lab("lab").records([run]).decodes()


@pytest.mark.parametrize("words", [[], ["--beams", "3"]])
def test_a_line_for_each_line_however_the_file_is_written(lab, capsys, words):
    text = "\n".join(SOURCE)
    forms = {"a.txt": text, "b.txt": text + "\n", "c.txt": text.replace("\n", "\r\n"), "d.txt": f"{text}\r\n"}
    written = []
    for name, form in forms.items():
        put(name, form)
        assert main(["translate", lab[0], name, *words]) == 0
        written.append(capsys.readouterr().out)
    with gzip.open("e.txt.gz", "wt", encoding="utf-8", newline="") as file:
        file.write(text)
    assert main(["translate", lab[0], "e.txt.gz", *words]) == 0
    written.append(capsys.readouterr().out)
    assert len(set(written)) == 1
    lines = lines_of(written[0])
    assert len(lines) == len(SOURCE)
    assert lines[4] == ""
    assert [list(own.hypotheses) for own in decodes(lab[0])] == [lines] * 5
    assert not examine(Path("lab"))


def test_runs_at_once_are_runs_one_by_one_in_the_order_asked(lab, capsys):
    alone = {}
    for run in lab[:4]:
        assert main(["translate", run, "source.txt", "--beams", "2", "--stop", "n_best"]) == 0
        alone[run] = lines_of(capsys.readouterr().out)
    assert len(set(map(tuple, alone.values()))) > 2
    order = [lab[3], lab[0], lab[2], lab[1]]
    assert main(["translate", *order, "source.txt", "--beams", "2", "--stop", "n_best"]) == 0
    expected = [f"{run[:8]}  {alone[run][at]}" for at in range(len(SOURCE)) for run in order]
    assert lines_of(capsys.readouterr().out) == expected
    assert all(len(decodes(run)) == 1 for run in order)  # the same as before, and kept once


def test_models_of_other_heads_have_the_same_shapes_and_do_not_answer_together(lab):
    records = shoal.Lab("lab").records(lab[:4])
    groups = models_by_shape(records, "codec", PairCodec.from_json)
    assert [list(group.models) for group in groups] == [lab[:2], [lab[2]], [lab[3]]]
    assert groups[2].kept.source.size < groups[0].kept.source.size == groups[0].spec.sizes().vocabulary_size


def test_what_is_kept_says_of_which_model_it_is(lab, capsys):
    records = shoal.Lab("lab").records(lab[:1])
    best = records.model_steps(lab[0], "best")[-1]
    asked = {"": 25, "--step 8": 8, "--step best": best, "--average 2": 25, "--step 16 --average 2": 16}
    for words, step in asked.items():
        before = {own.id for own in decodes(lab[0])}
        assert main(["translate", lab[0], "source.txt", *words.split()]) == 0
        noted = capsys.readouterr().err
        assert bool(noted) == ("average" in words or "best" in words)
        assert str(step) in noted or not noted
        (new,) = [own for own in decodes(lab[0]) if own.id not in before]
        assert new.step == step
    averaged, last = records.model(lab[0], average=2), records.model(lab[0])
    assert not all(map(torch.equal, averaged.state_dict().values(), last.state_dict().values()))


def test_models_of_several_steps_answer_in_one_call_as_each_alone(lab):
    records = shoal.Lab("lab").records(lab[:2])
    models = {f"{run}@{step}": records.model(run, step) for run in lab[:2] for step in (8, 16, 25)}
    codec = PairCodec.from_json(records.kept(lab[0])["codec"])
    for beam in (None, answers.Beam(2)):
        together = answers.answer(models, "sequence", codec, SOURCE, 9, beam)
        assert together.runs == tuple(models)
        for name, model in models.items():
            assert together.best(name) == answers.answer({name: model}, "sequence", codec, SOURCE, 9, beam).best(name)
    assert len({tuple(together.best(name)) for name in models}) > 3
    assert f"{lab[0][:8]}@16 " in str(DivergedError([f"{lab[0]}@16"]))


def test_several_steps_are_translated_at_once_with_a_row_of_scores_each(lab, capsys, monkeypatch):
    alone, calls, real = {}, [], answers.answer
    for step in ("8", "best", "25"):
        assert main(["translate", *lab[:2], "source.txt", "--step", step]) == 0
        alone[step] = [line.split("  ", 1)[1] for line in lines_of(capsys.readouterr().out)]
    before = {own.id for run in lab[:2] for own in decodes(run)}
    monkeypatch.setattr(
        answers, "answer", lambda models, *rest, **more: calls.append(models) or real(models, *rest, **more)
    )
    assert main(["translate", *lab[:2], "source.txt", "--step", "8,best,25"]) == 0
    names = [f"{run[:8]}@{step}" for run in lab[:2] for step in alone]
    wanted = [
        f"{run[:8]}@{step}  {alone[step][2 * at + own]}"
        for at in range(len(SOURCE))
        for own, run in enumerate(lab[:2])
        for step in alone
    ]
    assert lines_of(capsys.readouterr().out) == wanted
    assert [[f"{name[:8]}@{name.partition('@')[2]}" for name in of_call] for of_call in calls] == [
        sorted(names, key=lambda name: list(alone).index(name.partition("@")[2]))
    ]
    assert {own.id for run in lab[:2] for own in decodes(run)} == before  # the same, and kept once
    assert {own.step for own in decodes(lab[0])} == {
        8,
        25,
        shoal.Lab("lab").records(lab[:1]).model_steps(lab[0], "best")[0],
    }
    put("reference.txt", "".join(f"{line}\n" for line in [*sentences(4)[1], "", "a dog sleeps."]))
    pytest.importorskip("sacrebleu")
    scored = ["translate", *lab[:2], "source.txt", "--reference", "reference.txt"]
    assert main([*scored, "--step", "8,25"]) == 0
    rows = [re.split(r"  +", line.strip()) for line in lines_of(capsys.readouterr().out)[1:3]]
    for step, row in zip(("8", "25"), rows, strict=True):
        assert main([*scored, "--step", step]) == 0
        (own,) = [re.split(r"  +", line.strip()) for line in lines_of(capsys.readouterr().out)[1:2]]
        assert row[1:] == own[1:] and f"step {step}" in row[0]


@pytest.mark.parametrize("steps, told", [("8,8", "8 twice"), ("8,", "''"), ("8,9", "9"), ("8,beste", "best")])
def test_a_wrong_list_of_steps_is_one_line(lab, capsys, steps, told):
    before = content()
    assert main(["translate", lab[0], "source.txt", "--step", steps]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert told in line
    assert content() == before


def test_scores_are_those_of_sacrebleu_s_own_command(lab, capsys):
    pytest.importorskip("sacrebleu")
    put("reference.txt", "".join(f"{line}\r\n" for line in [*sentences(4)[1], "", "a dog sleeps."]))
    assert main(["translate", lab[0], "source.txt", "--reference", "reference.txt", "--beams", "2"]) == 0
    out = capsys.readouterr().out
    (decode,) = decodes(lab[0])
    command = ["-m", "sacrebleu", "reference.txt", "-i", str(decode.path), "-m", "bleu", "chrf", "-w", "2"]
    said = json.loads(subprocess.run([sys.executable, *command], capture_output=True, text=True, check=True).stdout)
    header, row = (re.split(r"  +", line.strip()) for line in out.split("\n")[:2])
    printed = {name: cell.partition(" ")[0] for name, cell in zip(header, row, strict=True)}
    for own in said:
        assert printed[own["name"]] == f"{own['score']:.2f}"
        assert own["signature"] in out
    assert str(decode.path) in out
    assert "empty sources, whose answers are empty: 1, of which 1 count as exact matches" in out


def pretended(monkeypatch, texts):
    """Let the models write these texts."""

    def written(models, reads, codec, lines, *_, **__):
        numbers = torch.ones(len(models), len(lines), dtype=torch.int64)
        own = tuple((Answer(text, (3, 2), -1.0, True),) if text else (EMPTY,) for text in texts)
        return Answered(tuple(models), (own,) * len(models), numbers, numbers * 0, numbers.double())

    monkeypatch.setattr(answers, "answer", written)


def test_texts_go_into_files_as_they_are_and_are_kept_in_utf_8_whatever_the_terminal_shows(lab, monkeypatch):
    texts = ["schläft", "a\u2028b", "two\nlines", "man\u200dman", "", "\x1b[31m"]
    pretended(monkeypatch, texts)
    seen = {}
    for encoding in ("utf-8", "ascii"):
        stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding, newline="")
        monkeypatch.setattr(sys, "stdout", stream)
        assert main(["translate", lab[0], "source.txt"]) == 0
        stream.flush()
        seen[encoding] = stream.buffer.getvalue().decode(encoding).split("\n")[:-1]
    one_line = [text.replace("\n", " ") for text in texts]
    assert seen["utf-8"] == one_line
    assert len(seen["ascii"]) == len(texts)
    (decode,) = decodes(lab[0])
    assert decode.path.read_bytes().decode("utf-8").split("\n") == [*one_line, ""]
    assert list(decode.hypotheses) == texts


def test_nobody_reads(lab, monkeypatch):
    ends = os.pipe()
    os.close(ends[0])
    with os.fdopen(ends[1], "w") as stream, monkeypatch.context() as own:
        own.setattr(sys, "stdout", stream)
        assert main(["translate", lab[0], "source.txt"]) == 0
    assert len(decodes(lab[0])) == 1


def test_a_line_that_is_cut_is_told_of_and_has_its_answer(lab, capsys):
    put("long.txt", "ein hund rennt.\n" + "der mann " * 9 + "\n")
    assert main(["translate", lab[0], "long.txt"]) == 0
    out, err = capsys.readouterr()
    assert len(lines_of(out)) == 2
    assert "1 of 2" in err and "9 tokens" in err and "line 2" in err


def test_a_tree_of_one_line(lab, capsys):
    put("one.txt", "ein hund rennt.\n")
    for ending in ("json", "txt"):
        assert main([*TREE.format(lab[0]).split(), f"tree.{ending}"]) == 0
    said = json.loads(Path("tree.json").read_text("utf-8"))
    assert {own["name"] for own in said["candidates"]} <= {"PAD", "BOS", "EOS", "<unk>", *KNOWN.split()}
    lines = Path("tree.txt").read_text("utf-8").splitlines()
    assert lines[0] == "BOS" and len(lines) == len(said["candidates"]) + 2


@pytest.mark.slow
def test_a_tree_as_a_picture_and_as_a_page(lab):
    put("one.txt", "ein hund rennt.\n")
    for ending in ("svg", "png", "pdf", "html"):
        assert main([*TREE.format(lab[0]).split(), f"tree.{ending}"]) == 0
        assert Path(f"tree.{ending}").read_bytes().startswith(BEGINS[ending])
    page = Path("tree.html").read_text("utf-8")
    assert "<html" in page
    body = page.partition("</style>")[2].partition("<script")[0]
    assert {link[0] for link in re.findall('href="([^"]+)"', body)} == {"#"}  # to places of this page alone


TREE = "translate {} one.txt --beams 3 --max-new-tokens 4 --tree"
BEGINS = {"svg": b"<svg", "png": b"\x89PNG", "pdf": b"%PDF", "html": b"<!doctype html>"}
KNOWN = "a the dog child man sleeps runs . ! ein der hund kind mann schläft rennt"
BAD = {
    "empty.txt": b"",
    "latin.txt": "ein hund schläft\n".encode("latin-1"),
    "torn.txt.gz": gzip.compress(b"ein hund\n" * 99)[:-9],
    "short.txt": "".join(f"{line}\n" for line in SOURCE[:-1]).encode(),
    "two.txt": b"a\nb\n",
    "blank.txt": b" \n",
}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("{0} nowhere.txt", "no file or folder nowhere.txt"),
        ("{0} sourec.txt", "did you mean 'source.txt'"),
        ("{0} folder", "folder"),
        ("{0} empty.txt", "empty.txt is empty"),
        ("{0} latin.txt", "not UTF-8: byte 0xe4 at offset 13"),
        ("{0} torn.txt.gz", "cut short"),
        ("{0} source.txt --reference empty.txt", "empty.txt is empty"),
        ("{0} source.txt --reference latin.txt", "not UTF-8"),
        ("{0} source.txt --reference short.txt", "6 in source.txt and 5 in short.txt"),
        ("{0} source.txt --beams 0", "from 1 to 10,000, got 0"),
        ("{0} source.txt --beams -3", "from 1 to 10,000, got -3"),
        ("{0} source.txt --beams two", "must be an integer"),
        ("{0} source.txt --beams 1000 --max-new-tokens 1", "wider than there are texts"),
        ("{0} source.txt --beams 3 --length-penalty nan", "length_penalty must be from -50 to 50, got nan"),
        ("{0} source.txt --beams 3 --length-penalty inf", "got inf"),
        ("{0} source.txt --beams 3 --length-penalty 51", "got 51"),
        ("{0} source.txt --length-penalty 1", "--length-penalty does not apply to greedy search"),
        ("{0} source.txt --beams 3 --stop optimum", "did you mean 'optimal'"),
        ("{0} source.txt --beams 3 --finished keep", "did you mean 'keeps'"),
        ("{0} source.txt --max-new-tokens 0", "from 1 to 10"),
        ("{0} source.txt --max-new-tokens 11", "from 1 to 10"),
        ("{0} source.txt --step 5", "no model of step 5; kept: "),
        ("{0} source.txt --step bset", "did you mean 'best'"),
        ("{0} source.txt --step -3", "got '-3'"),
        ("{0} source.txt --average 0", "average must be an integer of at least 1, got 0"),
        ("{0} source.txt --average 9", "not 9"),
        ("{0} source.txt --name a/b", "name 'a/b' is not allowed"),
        ("{0} {4} source.txt", "task arithmetic"),
        ("ffff source.txt", "no run 'ffff'"),
        ("{0} source.txt --tree tree.html", "--tree does not apply to greedy search"),
        ("{0} two.txt --beams 2 --tree tree.html", "1 runs and 2 lines"),
        ("{0} blank.txt --beams 2 --tree tree.txt", "empty"),
        ("{0} source.txt --lab nolab", "among 0 runs"),
    ],
)
def test_a_wrong_request_is_one_line_and_changes_nothing(lab, capsys, words, said):
    for name, own in BAD.items():
        Path(name).write_bytes(own)
    Path("folder").mkdir()
    before = content(".")
    assert main(["translate", *words.format(*lab).split()]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and said in err
    assert content(".") == before


@pytest.mark.parametrize("name", ["tree.gif", "tree", "nowhere/tree.html", "tree.htm", "folder.png"])
def test_a_tree_that_cannot_be_written_is_refused_before_anything_is_searched(lab, capsys, monkeypatch, name):
    monkeypatch.setattr(answers, "answer", lambda *_, **__: pytest.fail("searches"))
    Path("folder.png").mkdir()
    put("one.txt", "ein hund.\n")
    assert main(["translate", lab[0], "one.txt", "--beams", "2", "--tree", name]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("words", [[], ["--beams", "3"], ["--reference", "source.txt"]])
def test_a_run_that_diverged_is_named_and_nothing_is_kept(lab, capsys, monkeypatch, words):
    read = shoal.lab.Records.model

    def model(records, run, *args, **options):
        found = read(records, run, *args, **options)
        if run == lab[1]:
            torch.nn.utils.vector_to_parameters(torch.full((10**6,), 1e38), found.parameters())
        return found

    monkeypatch.setattr(shoal.lab.Records, "model", model)
    before = content()
    assert main(["translate", lab[0], lab[1], lab[3], "source.txt", *words]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and f"run {lab[1][:8]} gives numbers that are not finite" in err
    assert content() == before
    with pytest.raises(UserError, match=lab[1][:8]):
        shoal.Lab("lab").records(lab[:2]).answers(SOURCE)


def test_a_tree_writes_over_nothing_of_a_lab_and_nothing_that_is_read(lab, capsys, monkeypatch):
    monkeypatch.setattr(answers, "answer", lambda *_, **__: pytest.fail("searches"))
    put("one.txt", "ein hund.\n")
    put("right.txt", "a dog.\n")
    shutil.copytree("lab", "other")
    Path("link").symlink_to("lab", target_is_directory=True)
    Path("alias.txt").symlink_to("one.txt")
    cohort = next(Path("lab/cohorts").iterdir()).name
    places = [f"{own}/cohorts/{cohort}/cohort.json" for own in ("lab", "other", "link", "folder/../lab")]
    Path("folder").mkdir()
    before = content(".")
    for place in [*places, "lab/shoal-lab.json", "lab/reports/../new.txt", "one.txt", "alias.txt", "right.txt"]:
        Path("lab/reports").mkdir(exist_ok=True)
        words = ["translate", lab[0], "one.txt", "--reference", "right.txt", "--beams", "2", "--tree", place]
        assert main(words) == 2
        out, err = capsys.readouterr()
        assert out == "" and err.count("\n") == 1 and Path(place).name in err
    assert content(".") == before


def test_a_run_without_a_kept_model_is_refused(lab, capsys):
    for path in shoal.Lab("lab").records([lab[0]]).model_files(lab[0]).values():
        path.unlink()
    before = content()
    assert main(["translate", lab[1], lab[0], "source.txt"]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and f"{lab[0]} kept no model" in err and "shoal check" in err
    assert content() == before


def test_nothing_is_kept_where_scores_cannot_be_told(lab, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "sacrebleu", None)
    monkeypatch.setattr(answers, "answer", lambda *_, **__: pytest.fail("searched all the same"))
    shutil.copy("source.txt", "reference.txt")
    before = content()
    assert main(["translate", lab[0], "source.txt", "--reference", "reference.txt"]) == 2
    assert "shoal[translation]" in capsys.readouterr().err
    assert content() == before


def test_what_the_lab_refuses_is_shown_all_the_same(lab, capsys):
    assert main(["translate", lab[0], "source.txt"]) == 0
    shown = capsys.readouterr().out
    (decode,) = decodes(lab[0])
    assert decode.settings["max_new_tokens"] > 1
    decode.path.write_text("damaged")
    assert main(["translate", lab[0], "source.txt"]) == 2
    out, err = capsys.readouterr()
    assert out == shown
    assert "shoal check --repair" in err


@pytest.mark.parametrize("name", ["ein text.de.txt", "ü.txt", "-.txt", "..txt"])
def test_a_file_of_any_name_is_translated(lab, name):
    shutil.copy("source.txt", name)
    assert main(["translate", lab[0], f"./{name}"]) == 0
    assert len(decodes(lab[0])) == 1
