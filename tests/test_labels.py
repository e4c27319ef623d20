"""Names, tags, notes and groups: given when training or later, found wherever a run is named, and never in the way."""

import json
import shutil

import polars as pl
import pytest
from damaging import contents, flip
from helpers import tiny_grid
from hypothesis import given, settings
from hypothesis import strategies as st

import shoal
from shoal.cli import main
from shoal.errors import LabError, UserError
from shoal.lab import Lab
from shoal.lab.check import examine, repair
from shoal.lab.names import check_label, check_note, is_label
from shoal.studies import reproductions

SPECS = tiny_grid({"n_steps": 2}, seed=[0, 1, 2])
A, B, C = (spec.id for spec in SPECS)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return (
        shoal.train(SPECS, tmp_path_factory.mktemp("labels") / "lab", workers=1, threads=1).cohorts()[0].path.parents[1]
    )


@pytest.fixture
def lab(whole, tmp_path):
    """A copy to label."""
    return Lab(shutil.copytree(whole, tmp_path / "lab"))


def shoal_says(capsys, *words):
    """Exit code, output and errors of a command."""
    code = main([*map(str, words)])
    said = capsys.readouterr()
    return code, said.out, said.err


# words


@pytest.mark.parametrize("what", ["name", "group", "tag"])
@pytest.mark.parametrize(
    "word",
    [
        *("", "a/b", "a\\b", "..", "a..b", ".a", "-a", "_a", "a b", "a\tb", "a\nb", "a\x1b[31mb", "a\x00b", "x" * 81),
        *("x" * 300, "a\u202eb", "a\u200bb", "a:b", "a*", "a,b", "\u0301a", "a\ud800", "😀"),
    ],
)
def test_words_that_steer_or_separate_are_refused(lab, capsys, what, word):
    before = contents(lab.path)
    with pytest.raises(UserError, match="not allowed"):
        lab.label(A, **{what: word or " "})
    code, out, error = shoal_says(capsys, "label", A, f"--{what}", word or " ", "--lab", lab.path)
    assert (code, out, error.count("\n")) == (2, "", 1)
    assert "\x1b" not in error
    assert len(error) < 400
    assert contents(lab.path) == before


@pytest.mark.parametrize("word", ["z", "first-try", "v1.2_b", "größer", "実験", "x" * 80, "0-9", "नमस्ते"])
def test_words_of_any_script_are_names(lab, capsys, word):
    lab.label(A, name=word, tag=word, group=f"{word[:70]}-g")
    assert lab.records(word).ids == [A]
    assert lab.records(f"{word[:70]}-g").ids == [A]
    assert lab.records().where(tag=word).ids == [A]
    assert shoal_says(capsys, "check", "--lab", lab.path)[0] == 0


@settings(max_examples=50)
@given(st.text(max_size=90))
def test_whatever_is_a_word_has_no_separator_and_no_control_character(text):
    if is_label(text):
        assert 0 < len(text) <= 80
        assert text.isprintable()
        assert not set(text) & set("/\\ :*?\"'<>|\x00")
        assert check_label(text, "tag")
    else:
        with pytest.raises(UserError):
            check_label(text, "tag")


def test_a_name_composed_otherwise_is_the_same(lab):
    lab.label(A, name="cafe\u0301")
    assert lab.records("caf\u00e9").ids == [A]
    assert lab.records("cafe\u0301").ids == [A]
    with pytest.raises(UserError, match="taken"):
        lab.label(B, name="caf\u00e9")


@pytest.mark.parametrize("name", ["3f2a", "cafe", "0", "ABC", A])
def test_what_could_be_the_beginning_of_an_id_is_no_name(lab, name):
    with pytest.raises(UserError, match="ids of runs"):
        lab.label(A, name=name)
    with pytest.raises(UserError, match="ids of runs"):
        lab.label(A, group=name)
    lab.label(A, tag=name)


@pytest.mark.parametrize("name", ["sanity", next(reversed(reproductions.NAMES)), "sanity-mine"])
@pytest.mark.parametrize("flag", ["--name", "--group"])
def test_a_name_of_a_study_is_refused(lab, capsys, name, flag):
    before = contents(lab.path)
    for command in (["label", A, flag, name], ["train", "--p", "5", "--name", name]):
        code, _, error = shoal_says(capsys, *command, "--lab", lab.path)
        assert (code, error.count("\n")) == (2, 1)
        assert name.partition("-")[0] in error
    assert contents(lab.path) == before


@pytest.mark.parametrize(("note", "why"), [("a\x1bb", "control"), ("a\x00", "control"), ("x" * 10_001, "10,001")])
def test_notes_that_steer_or_never_end_are_refused(note, why):
    with pytest.raises(UserError, match=why):
        check_note(note)
    assert check_note(" a\n\tb\n") == "a\n\tb"


# labelling


def test_labels_are_added_taken_away_and_replaced(lab):
    lab.label([A, B], tag=["one", "two"], note="first")
    lab.label(A, name="best", untag="one", tag="three", note="second\nline")
    labels = lab.labels()
    assert (labels.of(A).name, labels.of(A).tags, labels.of(A).note) == ("best", ("two", "three"), "second\nline")
    assert (labels.of(B).name, labels.of(B).tags, labels.of(B).note) == (None, ("one", "two"), "first")
    lab.label("best", name="better")
    assert lab.records("better").ids == [A]
    with pytest.raises(UserError):
        lab.records("best")
    lab.label("better", clear=True)
    lab.label(B, clear=True, tag="left")
    assert lab.labels().runs.keys() == {B}
    assert lab.labels().of(B).tags == ("left",)


@pytest.mark.parametrize(
    ("runs", "labels", "why"),
    [
        (B, {"name": "best"}, "taken by run"),
        (B, {"name": "both"}, "taken by a group of 2 runs"),
        (B, {"group": "best"}, "taken by run"),
        ([A, B], {"name": "new"}, "of one run"),
        ("both", {"name": "best"}, "taken by run"),
        (A, {"name": "new", "group": "new"}, "group, too"),
        (A, {"untag": "goood"}, "did you mean 'good'"),
        (B, {"untag": "good"}, "none of these runs"),
        (A, {"untag": "paired"}, "of group 'both'"),
        (A, {"tag": "x", "untag": "x"}, "added and removed"),
        (A, {"group": "both", "ungroup": "both"}, "added to group 'both' and taken out"),
        (C, {"ungroup": "both"}, "none of these"),
        (A, {"ungroup": "bot"}, "did you mean 'both'"),
        ("nosuch", {"tag": "x"}, "no run 'nosuch'"),
        (A, {"name": 3}, "must be a word"),
        (A, {"note": 3}, "must be a text"),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_is_changed(lab, runs, labels, why):
    lab.label(A, name="best", tag="good")
    lab.label([A, B], group="both")
    lab.label("both", tag="paired")
    before = contents(lab.path)
    with pytest.raises(UserError, match=why):
        lab.label(runs, **labels)
    assert contents(lab.path) == before


def test_a_group_is_labelled_by_its_name_and_its_runs_have_its_tags(lab):
    lab.label([A, B], group="pair")
    lab.label("pair", name="two", tag="t", note="n")
    lab.label(C, group="two")
    group = lab.labels().groups["two"]
    assert (group.runs, group.label.tags, group.label.note) == ((A, B, C), ("t",), "n")
    assert lab.records().where(tag="t").ids == [A, B, C]
    lab.label(A, tag="first")
    seed = lab.records().specs[B].seed
    assert lab.records().where(tag="first", seed=seed).ids == []
    assert lab.records().where(group="two", seed=seed).ids == [B]
    lab.label(A, untag="first")
    lab.label(C, ungroup="two")
    assert lab.records().where(group="two").ids == [A, B]
    lab.label("two", group="three")  # its runs
    assert lab.labels().groups["three"].runs == (A, B)
    lab.label("two", clear=True)
    assert lab.labels().groups.keys() == {"three"}
    lab.label([A, B], ungroup="three")
    assert not [name for name in contents(lab.path) if name.startswith("labels")]


# wherever a run is named


def test_a_name_finds_its_run_and_a_group_all_of_its_runs(lab):
    lab.label(A, name="best")
    lab.label([B, A], group="pair")
    records = lab.records()
    assert lab.records("best").ids == lab.records(["best"]).ids == lab.records(A[:5]).ids == [A]
    assert lab.records(["pair", C]).ids == [B, A, C]
    assert lab.records(["best", SPECS[2], "best"]).ids == [A, C]
    assert records.cohort_of("best").path == records.cohort_of(A).path
    assert records.all_metrics("best") == records.all_metrics(A)
    assert records.model_files("best") == records.model_files(A)
    assert records.model_steps("best") == [2]
    assert records.model("best") is not None
    with pytest.raises(UserError, match="did you mean 'best'"):
        lab.records("bes")
    with pytest.raises(UserError, match="did you mean 'best'"):
        records.model("bets")


def test_a_run_knows_its_labels_and_is_found_by_its_name(lab):
    lab.label(A, name="best", tag="good", note="why")
    lab.label([B, A], group="pair", tag="both")
    records = lab.records()
    best = records["best"]
    assert (best.id, best.name, best.groups, best.tags, best.note) == (A, "best", ("pair",), ("good", "both"), "why")
    assert (records[C].name, records[C].groups, records[C].tags, records[C].note) == (None, (), (), "")
    with pytest.raises(UserError, match=r"where\(group='pair'\)"):
        records["pair"]


def test_commands_take_names(lab, capsys):
    lab.label(A, name="best", tag="good")
    lab.label([A, B], group="pair")
    flag = ["--lab", lab.path]
    assert A in shoal_says(capsys, "certify", "best", "--steps", "1", *flag)[1]
    code, out, _ = shoal_says(capsys, "runs", "--tag", "good", *flag)
    assert (code, A in out, B in out, "best" in out) == (0, True, False, True)
    code, out, _ = shoal_says(capsys, "runs", "--group", "pair", *flag)
    assert (code, A in out, B in out, C in out) == (0, True, True, False)
    assert "goo" in shoal_says(capsys, "runs", "--tag", "goo", *flag)[2]
    code, out, _ = shoal_says(capsys, "report", "pair", *flag)
    assert (code, A in out, B in out, C in out) == (0, True, True, False)
    assert "best" in (lab.path / "reports" / "runs-pair" / "index.html").read_text()
    for command in (["generate", "best", "--prompt", "x"], ["translate", "best", "--source", "x"]):
        code, _, error = shoal_says(capsys, *command, *flag)
        assert code == 2
        assert "no run" not in error  # it was found, and is of another task
    code, out, _ = shoal_says(capsys, "label", *flag)
    assert (code, all(word in out for word in ("best", "good", "pair", "2 runs"))) == (0, True)
    code, out, _ = shoal_says(capsys, "delete", "best", "--yes", *flag)
    assert (code, f"{A} best, {SPECS[0].model}, seed 0, done at step 2" in out) == (0, True)
    assert lab.runs() == [B, C]


def test_flags_of_settings_choose_what_is_labelled(lab, capsys):
    flag = ["--lab", lab.path]
    assert shoal_says(capsys, "label", "--seed", "1", "2", "--tag", "late", "--group", "pair", *flag)[0] == 0
    assert {run: label.tags for run, label in lab.labels().runs.items() if label.tags} == {B: ("late",), C: ("late",)}
    # a group's name stands for its runs, where flags choose from them
    assert shoal_says(capsys, "label", "pair", "--seed", "1", "--state", "done", "--note", "here", *flag)[0] == 0
    assert [run for run in (A, B, C) if lab.labels().of(run).note] == [B]
    assert not lab.labels().groups["pair"].label.note
    before = contents(lab.path)
    for words in (["--seed", "7"], ["--state", "diverged"], ["pair", "--seed", "0"]):
        code, _, error = shoal_says(capsys, "label", *words, "--tag", "x", *flag)
        assert (code, " none matches " in error) == (2, True)
    code, _, error = shoal_says(capsys, "label", "--tag", "x", *flag)
    assert (code, "takes no flag but --lab, got --tag" in error) == (2, True)
    assert contents(lab.path) == before


def test_a_table_has_what_runs_are_called_only_where_some_are(lab):
    columns = {"name", "group", "tags", "note"}
    assert not columns & {*lab.records().runs().columns}
    lab.label(B, tag=["y", "x"])
    assert columns & {*lab.records().runs().columns} == {"tags"}
    assert lab.records().runs()["tags"].to_list() == [None, "y x", None]
    lab.label(A, name="best", note="a\nb", group="g")
    frame = lab.records().runs()
    assert frame.select("name", "group", "note").row(0) == ("best", "g", "a\nb")
    assert frame.schema["name"] == frame.schema["tags"] == pl.String
    assert not columns & {*lab.records(C).runs().columns}
    lab.label("g", note="of all")
    lab.label([B, C], group="g")
    assert lab.records().runs()["note"].to_list() == ["a\nb", "of all", "of all"]  # its own, else its group's
    assert "tags" not in lab.records().curves().columns


def test_columns_of_labels_can_be_asked_for_where_no_run_has_any(lab, capsys):
    flag = ["--lab", lab.path]
    code, out, _ = shoal_says(
        capsys, "runs", "--columns", "name", "tags", "note", "group", "seed", "--sort", "name", *flag
    )
    assert (code, out.count(A)) == (0, 1)
    header = shoal_says(capsys, "runs", "--csv", *flag)[1].splitlines()[0]
    assert header.startswith("run,state,step,name,group,tags,note,")
    lab.label(A, name="best", tag="x")
    assert shoal_says(capsys, "runs", C, "--csv", *flag)[1].splitlines()[0] == header


def test_a_snapshot_keeps_what_runs_were_called(lab):
    lab.label(A, name="best")
    snapshot = lab.records().snapshot()
    lab.label(A, name="better")
    assert snapshot.find("best") == A
    assert snapshot.where(state="done").without([B]).runs()["name"].to_list() == ["best", None]
    assert lab.records().find("better") == A


# when training


GRID = ["train", "--p", "5", "--num-layers", "1", "--embedding-size", "8", "--n-steps", "2"]


def test_one_run_has_the_name_and_several_are_a_group(tmp_path, capsys):
    flag = ["--lab", tmp_path / "lab"]
    lab = Lab(tmp_path / "lab")
    said = shoal_says(capsys, *GRID, "--seed", 7, "--name", "one", "--tag", "a", "b", "--note", "alone", *flag)
    assert said[0] == 0
    (run,) = lab.runs()
    assert lab.labels().of(run) == type(lab.labels().of(run))("one", ("a", "b"), "alone")
    said = shoal_says(capsys, *GRID, "--seed", 0, 1, "--name", "two", "--tag", "c", "--note", "pair", *flag)
    assert said[0] == 0
    group = lab.labels().groups["two"]
    assert (len(group.runs), group.label.tags, group.label.note) == (2, ("c",), "pair")
    for seeds in ([0, 1], [0], [0, 1, 2]):  # the same again, some of it, and more
        assert shoal_says(capsys, *GRID, "--seed", *seeds, "--name", "two", *flag)[0] == 0
    assert len(lab.labels().groups["two"].runs) == 3
    assert shoal_says(capsys, *GRID, "--seed", 7, "--name", "one", *flag)[0] == 0
    assert shoal_says(capsys, *GRID, "--seed", 8, 9, "--tag", "d", *flag)[0] == 0
    assert len(lab.records().where(tag="d")) == 2
    assert lab.unreadable() == []


@pytest.mark.parametrize("words", [["--seed", "8", "--name", "one"], ["--seed", "8", "9", "--name", "one"]])
@pytest.mark.parametrize("more", [["--name", "a/b"], ["--name", "x" * 300], ["--name", ""], ["--tag", "a b"]])
def test_a_name_that_is_taken_or_not_allowed_is_refused_before_anything_is_trained(lab, capsys, words, more):
    lab.label(A, name="one")
    before = contents(lab.path)
    for asked in (words, ["--seed", "8", *more]):
        code, out, error = shoal_says(capsys, *GRID, *asked, "--lab", lab.path)
        assert (code, out, error.count("\n")) == (2, "", 1)
    assert contents(lab.path) == before
    with pytest.raises(UserError):
        shoal.train(SPECS, lab, name="one", workers=1)
    assert contents(lab.path) == before


def test_a_group_that_is_taken_by_others_is_refused(lab, capsys):
    lab.label([A, B], group="pair")
    code, _, error = shoal_says(capsys, *GRID, "--seed", 8, 9, "--name", "pair", "--lab", lab.path)
    assert (code, error.count("\n")) == (2, 1)
    assert "taken by a group of 2 runs" in error
    assert len(lab.runs()) == 3


def test_nothing_is_made_where_a_label_of_a_new_lab_is_not_allowed(tmp_path, capsys):
    for asked in (["--name", "a/b"], ["--tag", "x" * 300], ["--note", "a\x1bb"], ["--name", "sanity"]):
        assert shoal_says(capsys, *GRID, *asked, "--lab", tmp_path / "lab")[0] == 2
        assert not (tmp_path / "lab").exists()


def test_labels_from_python(tmp_path):
    records = shoal.train(SPECS[:1], tmp_path / "lab", name="one", tag="t", note="n", workers=1, threads=1)
    assert records.runs().select("name", "tags", "note").row(0) == ("one", "t", "n")


# damage


@pytest.mark.parametrize("which", ["runs", "groups"])
def test_a_damaged_label_is_named_in_a_line_and_hides_no_run(lab, capsys, which):
    lab.label(A, name="best", group="pair")
    lab.label(B, name="second", group="other")
    (path, *_) = sorted((lab.path / "labels" / which).iterdir())
    flip(path)
    assert len(lab.records()) == 3
    assert len(lab.unreadable()) == 1
    code, out, _ = shoal_says(capsys, "runs", "--lab", lab.path)
    assert code == 1
    assert sum(str(path) in line for line in out.splitlines()) == 1
    assert all(run in out for run in (A, B, C))
    left = lab.labels()
    assert len(left.runs) + len(left.groups) == 3
    assert [finding.what for finding in examine(lab.path) if finding.is_damage] == [*left.damage.values()]
    list(repair(lab.path))
    assert examine(lab.path) == []
    assert (lab.path / "aside" / "labels" / which / path.name).is_file()


def test_labels_may_be_anyones(lab, tmp_path):
    lab.label(A, name="best")
    path = lab.path / "labels" / "runs" / f"{A}.json"
    for content in (
        "[]",
        "{",
        '{"name": "a/b", "tags": [], "note": ""}',
        '{"name": "\\u001b[2J", "tags": []}',
        '{"tags": ["a b"]}',
        '{"tags": 3}',
        '{"note": "\\u0007"}',
        json.dumps({"name": "x" * 300}),
        "[" * 100_000,
    ):
        path.write_text(content)
        assert len(lab.labels().damage) == 1
        assert lab.labels().runs == {}
    path.write_text('{"name": "by-hand"}')  # without a checksum
    assert lab.records("by-hand").ids == [A]
    shutil.copy(path, path.with_name(f"{B}.json"))
    assert "has" in next(iter(lab.labels().damage.values()))
    with pytest.raises(UserError, match="ambiguous"):
        lab.records("by-hand")
    shutil.rmtree(lab.path / "labels")
    (tmp_path / "outside" / "runs").mkdir(parents=True)
    (lab.path / "labels").symlink_to(tmp_path / "outside")
    with pytest.raises(LabError, match="is a link"):
        lab.label(A, name="best")
    assert list((tmp_path / "outside" / "runs").iterdir()) == []


@pytest.mark.slow  # it makes a page
def test_a_group_of_runs_that_are_not_there_is_told(lab, capsys):
    lab.label([A, B], group="pair")
    path = next((lab.path / "labels" / "groups").iterdir())
    path.write_text(json.dumps({"name": "pair", "runs": [A, "0" * 16]}))
    assert lab.records("pair").ids == [A]
    (line,) = lab.unreadable()
    assert "0000000000000000" in line
    assert shoal_says(capsys, "report", "pair", "--lab", lab.path)[0] == 1
    assert shoal_says(capsys, "check", "--lab", lab.path)[0] == 1
