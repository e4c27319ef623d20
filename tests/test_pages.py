"""Pages of studies and of runs: each form beside the others, and nothing in another's place."""

import json
import re
import shutil

import pytest
from helpers import tiny_grid
from hypothesis import given
from hypothesis import strategies as st

import shoal
from shoal.cli import main
from shoal.commands.pages import EVERY, Page, pages_of
from shoal.lab import Lab
from shoal.lab.names import check_name
from shoal.studies import Form

pytestmark = pytest.mark.usefixtures("without_pictures")

FORMS = st.builds(
    Form,
    quick=st.booleans(),
    seeds=st.none() | st.integers(1, 3),
    settings=st.dictionaries(
        st.sampled_from(["lr", "p"]), st.lists(st.sampled_from(["5", "7", None]), min_size=1, max_size=2), max_size=2
    ),
    thresholds=st.sampled_from([(0.9, 0.99), (0.9,), (0.5, 0.9)]),
)


@given(FORMS, FORMS)
def test_forms_that_are_asked_for_otherwise_have_other_names_and_titles(one, other):
    assert (one.name == other.name) == (one.flags() == other.flags())
    assert (one.title("A") == other.title("A")) == (one.flags() == other.flags())
    name = Page("sanity", one, {}).name
    assert check_name(name, "report") == name
    assert Form.from_json(json.loads(json.dumps({**one.to_json(), "runs": []}))).name == one.name


def test_no_study_has_the_name_of_a_page_of_another():
    assert not [(a, b) for a in EVERY for b in EVERY if b.startswith(f"{a}-")]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Runs that stand for those of two forms of the sanity check."""
    path = tmp_path_factory.mktemp("pages") / "lab"
    runs = shoal.train(tiny_grid({"model": "gpt"}, seed=[0, 1]), path, workers=1)
    for form, own in ((Form(), runs.ids), (Form(quick=True), runs.ids[:1])):
        Lab(path).note_study("sanity", form.name, {**form.to_json(), "runs": own})
    return path


@pytest.fixture
def lab(whole, tmp_path):
    """A copy to write pages into."""
    return Lab(shutil.copytree(whole, tmp_path / "lab"))


def pages(lab):
    return {path.parent.name: path.read_text() for path in sorted(lab.path.glob("reports/*/report.md"))}


def test_forms_of_a_study_stand_side_by_side(lab, capsys):
    where = ["--lab", str(lab.path)]
    assert main(["study", "report", "sanity", *where]) == 0
    told = re.findall(r"^report: .*reports/(.*)/index\.html$", capsys.readouterr().out, flags=re.MULTILINE)
    assert told == ["sanity", "sanity-quick"]
    both = pages(lab)
    assert both["sanity"].startswith("# Sanity check\n") and "N = 2" in both["sanity"]
    assert both["sanity-quick"].startswith("# Sanity check (quick form)\n") and "N = 1" in both["sanity-quick"]
    (lab.path / "reports/sanity/report.md").unlink()
    assert main(["report", "sanity-quick", *where]) == 0  # one of them
    assert list(pages(lab)) == ["sanity-quick"]
    assert main(["study", "report", "sanity-quick", "--threshold", "0.5", *where]) == 0
    other = pages(lab)
    (name,) = other.keys() - {"sanity-quick"}
    assert name.startswith("sanity-quick-") and "(quick form, --threshold 0.5)" in other[name]
    assert other["sanity-quick"] == both["sanity-quick"]


@pytest.mark.parametrize("command", [["report"], ["study", "report"]])
def test_a_page_that_is_not_there_is_named_with_those_that_are(command, lab, capsys):
    assert main([*command, "sanity-quik", "--lab", str(lab.path)]) == 2
    assert "did you mean 'sanity-quick'" in capsys.readouterr().err
    assert main([*command, "attention", "--lab", str(lab.path)]) == 2
    assert "'attention' was not run in lab" in capsys.readouterr().err


def test_a_lab_from_before_forms_had_names_shows_the_form_that_it_kept(lab):
    note = {"quick": True, "seeds": 1, "settings": {}, "runs": lab.runs()}
    (lab.path / "studies/sanity.json").write_text(json.dumps(note))
    assert list(pages_of(lab, "sanity")[0]) == ["sanity-quick-seeds-1", "sanity", "sanity-quick"]
    lab.note_study("sanity", "quick-seeds-1", {**note, "runs": lab.runs()[:1]})
    assert pages_of(lab, "sanity")[0]["sanity-quick-seeds-1"].note["runs"] == lab.runs()[:1]  # what came after


@pytest.mark.parametrize(
    "name",
    [
        *("sanity", "a/b", "tune-x"),
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("sanity-quick", "sanity-mine", "nanda-2023", "improve-x", "")
        ),
    ],
)
def test_a_report_of_runs_is_in_no_place_of_a_study(name, lab, capsys):
    where = ["--lab", str(lab.path)]
    assert main(["study", "report", "sanity", *where]) == 0
    before = pages(lab)
    capsys.readouterr()
    assert main(["report", "--name", name, *where]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert pages(lab) == before


def test_nothing_of_an_earlier_page_stays_beside_a_page(lab):
    where = ["--lab", str(lab.path), "--name", "mine"]
    shoal.train(tiny_grid({"model": "lstm"}, lr=[1e-3, 1e-2]), lab, workers=1)
    folder = lab.path / "reports" / "mine"
    assert main(["report", *where]) == 0
    several = {path.name for path in (folder / "figures").iterdir()}
    (folder / "figures" / "notes.txt").write_text("mine")
    assert main(["report", "--model", "gpt", *where]) == 0
    kept = {path.name for path in (folder / "figures").iterdir()} - {"notes.txt"}
    assert kept < several
    assert {path.rpartition(".")[0] for path in kept} == {"0-loss", "0-accuracy"}
    assert (folder / "figures" / "notes.txt").read_text() == "mine"
