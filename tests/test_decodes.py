"""Hypotheses and scores in the lab: as they were, scored again by sacreBLEU's own command, and examined."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import tiny_grid
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.cli import main
from shoal.errors import DiskError, LabError, UserError
from shoal.lab import Lab, files
from shoal.lab.check import examine
from shoal.lab.decodes import Decodes, sha256_of_lines
from shoal.training.plan import plan

SPECS = tiny_grid({}, seed=[0, 1])
RUNS = [spec.id for spec in SPECS]
SOURCE = ["Ein Mann läuft .", "Zwei Hunde", "Eine Frau"]
REFERENCE = ["A man is running in the park.", "Two dogs play.", "A woman"]
SAID = ["A man is running in a park.", "Two dogs\nplay\n.", ""]
TEXTS = st.text(st.characters(exclude_categories=["Cs"])) | st.sampled_from(["\n", "a\n\nb\n", "\r\n", "\x85\u2028 x"])


@pytest.fixture
def lab(tmp_path):
    lab = Lab(tmp_path / "lab").create()
    (cohort,) = plan(SPECS)
    lab.cohort(cohort.id).create(list(cohort.members), threads=1)
    return lab


def kept(lab, run=RUNS[0], said=SAID, name="test", step=10, **settings):
    return lab.records([run]).keep_hypotheses(run, step, name, said, SOURCE, settings)


def only(lab):
    (cohort,) = plan(SPECS)
    return lab.cohort(cohort.id)


def damage(lab):
    return [finding for finding in examine(lab.path) if finding.is_damage]


@settings(max_examples=30, deadline=None)
@given(texts=st.lists(TEXTS, min_size=1, max_size=6))
def test_hypotheses_are_read_as_they_were_and_their_file_has_a_line_for_each(texts, tmp_path_factory):
    decodes = Decodes(tmp_path_factory.mktemp("lab"))
    decode = decodes.keep(RUNS[0], 3, "test", texts, {"beams": 4, "length_penalty": 0.6}, sha256_of_lines(SOURCE))
    again = decodes.read(decode.id)
    assert again == decode
    assert list(again.hypotheses) == texts
    assert again.path.read_bytes().count(b"\n") == len(texts)
    assert (again.run, again.step, again.name) == (RUNS[0], 3, "test")
    assert again.settings == {"beams": 4, "length_penalty": 0.6}
    assert "shoal" in again.versions


def test_another_setting_has_another_file_and_the_same_is_kept_once(lab):
    first = kept(lab, beams=1)
    before = first.path.read_bytes(), first.path.stat().st_mtime_ns
    others = [
        kept(lab, beams=2),
        kept(lab, beams=1, step=20),
        kept(lab, beams=1, name="valid"),
        kept(lab, RUNS[1], beams=1),
        kept(lab, said=["x", *SAID[1:]], beams=1),
    ]
    assert kept(lab, beams=1) == first
    assert (first.path.read_bytes(), first.path.stat().st_mtime_ns) == before
    assert len({decode.id for decode in [first, *others]}) == 6
    records = lab.records()
    assert {decode.id for decode in records.decodes()} == {first.id, *(decode.id for decode in others)}
    assert [decode.name for decode in records.decodes("valid")] == ["valid"]
    assert {decode.run for decode in lab.records([RUNS[1]]).decodes()} == {RUNS[1]}
    assert not examine(lab.path)


def test_what_cannot_be_kept_is_refused_and_leaves_nothing(lab):
    for wrong in (
        lambda: kept(lab, said=SAID[:2]),
        lambda: kept(lab, said=["\ud800", *SAID[1:]]),
        lambda: kept(lab, name="../test"),
        lambda: kept(lab, run=RUNS[0], step=-1),
        lambda: kept(lab, beams=float("nan")),
        lambda: kept(lab, beams={"a": 1}),
        lambda: lab.records().keep_hypotheses("ffff", 1, "test", SAID, SOURCE),
        lambda: only(lab).decodes.keep(RUNS[0], 1, "test", [], {}, sha256_of_lines([])),
    ):
        with pytest.raises(UserError):
            wrong()
    assert not (only(lab).path / "decodes").exists()


def test_a_process_that_is_killed_between_text_and_note_loses_nothing(lab, monkeypatch):
    write, calls = files.write, []

    def once(path, content):
        calls.append(path)
        if len(calls) > 1:
            raise DiskError("full")
        write(path, content)

    monkeypatch.setattr("shoal.lab.decodes.write", once)
    monkeypatch.setattr("shoal.lab.files.write", once)
    with pytest.raises(DiskError):
        kept(lab)
    monkeypatch.undo()
    assert lab.records().decodes() == []
    (finding,) = examine(lab.path)
    assert not finding.is_damage
    assert list(kept(lab).hypotheses) == SAID
    assert not examine(lab.path)


# scores


def by_command(reference, hypotheses, *flags):
    """Name to (score, signature), as sacreBLEU's own command says them."""
    words = [sys.executable, "-m", "sacrebleu", str(reference), "-i", str(hypotheses), "-m", "bleu", "chrf", "-w", "12"]
    out = subprocess.run([*words, *flags], capture_output=True, text=True, check=True).stdout
    return {said["name"]: (said["score"], said["signature"]) for said in json.loads(out)}


def test_sacrebleu_s_own_command_says_the_same_number_and_signature(lab, tmp_path):
    pytest.importorskip("sacrebleu")
    reference = tmp_path / "reference.txt"
    reference.write_bytes("".join(line + "\n" for line in REFERENCE).encode())
    decode = kept(lab)
    said = lab.records().keep_scores(decode, [REFERENCE])
    theirs = by_command(reference, decode.path)
    for own, name in (("BLEU", "BLEU"), ("chrF2", "chrF2")):
        assert said["scores"][own]["score"] == pytest.approx(theirs[name][0], abs=1e-9)
        assert said["scores"][own]["signature"] == theirs[name][1]
    lower = by_command(reference, decode.path, "-lc")
    assert said["scores"]["BLEU lc"]["score"] == pytest.approx(lower["BLEU"][0], abs=1e-9)
    assert said["scores"]["BLEU lc"]["signature"] == lower["BLEU"][1]
    assert said["references"] == [sha256_of_lines(REFERENCE)]
    assert not examine(lab.path)


def test_scores_are_a_table_and_another_reference_or_signature_has_another_file(lab):
    pytest.importorskip("sacrebleu")
    first, second = kept(lab, RUNS[0]), kept(lab, RUNS[1])
    records = lab.records()
    for _ in range(2):
        records.keep_scores(first, [REFERENCE])
    records.keep_scores(first, [REFERENCE, SAID])
    records.keep_scores(first, [REFERENCE], "char")
    records.keep_scores(second, [REFERENCE])
    table = records.scores()
    assert table.columns == ["run", "step", "name", "decode", "references", "score", "value", "signature"]
    assert table["run"].to_list() == [RUNS[0]] * 12 + [RUNS[1]] * 4
    assert table.filter(score="BLEU").select("decode", "references", "signature").n_unique() == 4
    assert lab.records([RUNS[1]]).scores()["decode"].unique().to_list() == [second.id]
    assert Lab(lab.path).records([]).scores().columns == table.columns
    assert not examine(lab.path)


# damage


def flipped(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def changed(path, **values):
    """Changed by someone who also makes the checksum right again."""
    said = json.loads(path.read_text(encoding="utf-8"))
    said.pop("sha256")
    files.write_json(path, said | values)


DAMAGE = {
    "a bit of the hypotheses": lambda text, note, scores: flipped(text),
    "a line more": lambda text, note, scores: text.write_bytes(text.read_bytes() + b"more\n"),
    "no hypotheses": lambda text, note, scores: text.unlink(),
    "a bit of the note": lambda text, note, scores: flipped(note),
    "the note of another run": lambda text, note, scores: changed(note, run=RUNS[1]),
    "other settings": lambda text, note, scores: changed(note, settings={"beams": 9}),
    "the place of a line end": lambda text, note, scores: changed(note, newlines={"0": [999]}),
    "a bit of the scores": lambda text, note, scores: flipped(scores),
    "scores of other hypotheses": lambda text, note, scores: changed(scores, hypotheses="0" * 64),
    "another reference": lambda text, note, scores: changed(scores, references=["0" * 64]),
    "a name for other settings": lambda text, note, scores: note.rename(note.with_name(f"test-{'0' * 16}.json")),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_named_and_moved_aside_and_then_made_again(lab, kind, capsys):
    pytest.importorskip("sacrebleu")
    decode = kept(lab)
    lab.records().keep_scores(decode, [REFERENCE])
    untouched = kept(lab, RUNS[1])
    (scores,) = (only(lab).path / "scores").iterdir()
    DAMAGE[kind](decode.path, decode.path.with_suffix(".json"), scores)
    assert damage(lab)
    records = lab.records()
    (key,) = records.damaged_decodes().keys() & {decode.id, scores.stem, f"test-{'0' * 16}"} - (
        {scores.stem}
        if kind not in ("a bit of the scores", "scores of other hypotheses", "another reference")
        else set()
    )
    assert all("shoal check --repair" in why for why in records.damaged_decodes().values())
    assert untouched in records.decodes()
    assert (decode in records.decodes()) == (key == scores.stem)
    assert records.scores().is_empty()
    assert main(["check", "--lab", str(lab.path)]) == 1
    assert str(scores.parent.parent) in capsys.readouterr().out
    assert main(["check", "--repair", "--lab", str(lab.path)]) == 0
    assert not damage(lab)
    again = kept(lab)
    lab.records().keep_scores(again, [REFERENCE])
    assert [own.id for own in lab.records([RUNS[0]]).decodes()] == [decode.id]
    assert lab.records([RUNS[1]]).decodes() == [untouched]
    assert not damage(lab)


def test_what_is_damaged_and_made_again_says_the_way_out(lab):
    decode = kept(lab)
    flipped(decode.path)
    with pytest.raises(LabError, match=f"shoal check --repair --lab {lab.path}"):
        kept(lab)


@pytest.mark.parametrize("name", ["decodes", "scores"])
def test_a_file_in_the_place_of_a_folder_is_damage_and_moved_aside(lab, name):
    (only(lab).path / name).write_text("mine")
    (finding,) = damage(lab)
    assert str(only(lab).path / name) in finding.what
    assert lab.records().damaged_decodes()
    assert lab.records().decodes() == []
    with pytest.raises(LabError, match="shoal check --repair"):
        kept(lab)
    assert main(["check", "--repair", "--lab", str(lab.path)]) == 0
    assert list(kept(lab).hypotheses) == SAID
    assert [path.read_text() for path in (lab.path / "aside").rglob(name)] == ["mine"]


@pytest.mark.parametrize(
    "wrong", [{"step": -1}, {"step": "x"}, {"beams": float("nan")}, {"beams": {"a": 1}}, {"beams": object()}]
)
def test_a_wrong_argument_is_no_damage_of_the_lab(lab, wrong):
    with pytest.raises(UserError) as caught:
        kept(lab, **wrong)
    assert not isinstance(caught.value, LabError)
    assert str(lab.path) not in str(caught.value)


def test_hypotheses_of_another_cohort_are_damage(lab):
    decode = kept(lab)
    foreign = only(lab).decodes.keep("0" * 16, 1, "test", SAID, {}, sha256_of_lines(SOURCE))
    (finding,) = damage(lab)
    assert str(foreign.path) in finding.what
    assert [own.id for own in lab.records().decodes()] == [decode.id]


@pytest.mark.parametrize("name", ["decodes", "scores"])
def test_a_linked_folder_is_refused(lab, name, tmp_path):
    pytest.importorskip("sacrebleu")
    decode, before = kept(lab), lab.records()
    place = only(lab).path / name
    shutil.rmtree(place, ignore_errors=True)
    (tmp_path / "elsewhere").mkdir()
    place.symlink_to(tmp_path / "elsewhere")
    assert any("link" in finding.what for finding in damage(lab))
    with pytest.raises(UserError, match="link"):
        kept(Lab(lab.path))
    for records in (before, before.snapshot()):  # of those who looked before
        with pytest.raises(UserError, match="link"):
            records.keep_scores(decode, [REFERENCE])
        if name == "decodes":
            with pytest.raises(LabError, match="link"):
                records.keep_hypotheses(RUNS[0], 99, "test", SAID, SOURCE)
    assert not list(Path(tmp_path / "elsewhere").iterdir())
