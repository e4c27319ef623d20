"""``shoal check``: what is wrong with a lab is found, and what can be mended is, without losing anything."""

import json
import shutil

import polars as pl
import pytest
from damaging import SPECS, UNFINISHED, contents, first_status, flip, made, of

import shoal
from shoal.cli import main
from shoal.lab import Lab
from shoal.lab.check import examine
from shoal.lab.tensors import load_tensors, save_tensors

pytestmark = pytest.mark.usefixtures("without_pictures")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return made(tmp_path_factory.mktemp("check") / "lab").path


@pytest.fixture
def lab(whole, tmp_path):
    """A copy to damage."""
    return Lab(shutil.copytree(whole, tmp_path / "lab"))


def test_a_whole_lab_is_clean_and_repair_changes_nothing(lab, capsys):
    before = contents(lab.path)
    for words in ([], ["--repair"]):
        assert main(["check", "--lab", str(lab.path), *words]) == 0
        assert "nothing is wrong" in capsys.readouterr().out
    assert contents(lab.path) == before


def test_a_folder_that_is_no_lab_is_refused_and_nothing_is_made_in_it(tmp_path, capsys):
    (tmp_path / "mine.txt").write_text("mine")
    for path in (tmp_path, tmp_path / "none"):
        assert main(["check", "--repair", "--lab", str(path)]) == 2
        assert capsys.readouterr().err.startswith("shoal: ")
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def lose_cohort(lab, specs):
    (of(lab, specs).path / "cohort.json").unlink()


def copy_part(lab, specs, name):
    folder = of(lab, specs)
    first = folder.parts.path / folder.parts.there()[0]
    shutil.copy(first, folder.parts.path / name.format(first.stem.partition("-")[2]))


# what is done to a lab that can be undone, and whether files that were there have to be moved away for it
MENDED = {
    "the mark is lost": lambda lab: (lab.path / "shoal-lab.json").unlink(),
    "the mark is damaged": lambda lab: (lab.path / "shoal-lab.json").write_text("{"),
    "a cohort.json is lost": lambda lab: lose_cohort(lab, SPECS),
    "a cohort.json of unfinished runs is lost": lambda lab: lose_cohort(lab, UNFINISHED),
    "a cohort.json is damaged": lambda lab: flip(of(lab, SPECS).path / "cohort.json"),
    "the status of unfinished runs is damaged": lambda lab: flip(of(lab, UNFINISHED).path / "status.json"),
    "an older status is put back": first_status,
    "a file of metrics is copied": lambda lab: copy_part(lab, SPECS, "000003-{}.parquet"),
    "a file of metrics is copied by hand": lambda lab: copy_part(lab, SPECS, "000000-{} (copy).parquet"),
    "a file of unfinished metrics is copied": lambda lab: copy_part(lab, UNFINISHED, "000001-{}.parquet"),
    "a link leads nowhere": lambda lab: (of(lab, SPECS).parts.path / "000003-0.parquet").symlink_to("nowhere"),
    "a cohort is copied": lambda lab: shutil.copytree(of(lab, SPECS).path, lab.path / "cohorts" / "a copy"),
    "a cohort is renamed": lambda lab: of(lab, SPECS).path.rename(lab.path / "cohorts" / "renamed"),
    "models of another run are there": lambda lab: shutil.copytree(
        of(lab, SPECS).path / "models" / SPECS[0].id, of(lab, SPECS).path / "models" / "0123456789abcdef"
    ),
    "a certificate is damaged": lambda lab: (of(lab, SPECS).path / "certificate.json").write_text("{}"),
}


@pytest.mark.parametrize("what", MENDED)
def test_what_other_files_say_too_is_mended(lab, what, capsys):
    before, path = contents(lab.path), ["--lab", str(lab.path)]
    expected = lab.records().curves()
    MENDED[what](lab)
    damaged = contents(lab.path)
    assert main(["check", *path]) == 1
    assert contents(lab.path) == damaged  # looking changes nothing
    out = capsys.readouterr().out
    assert "damage: " in out
    assert "--repair" in out
    assert main(["check", "--repair", *path]) == 0, capsys.readouterr().out
    after = contents(lab.path)
    changed = {name for name in before if after.get(name) != before[name]}
    # only these are written again, and where runs stand is as it was
    assert {name.rpartition("/")[2] for name in changed} <= {"cohort.json", "status.json"}
    for name in changed:
        assert json.loads(after[name])["members"] == json.loads(before[name])["members"]
    found = Lab(lab.path).records([*SPECS, *UNFINISHED])
    assert found.curves().sort("run", "step").equals(expected.sort("run", "step"))
    assert found.damage() == {}
    # nothing is gone: every file that was there is there or aside
    kept = {*after.values(), *(file.read_bytes() for file in (lab.path / "aside").rglob("*") if file.is_file())}
    assert set(damaged.values()) <= kept


def test_unfinished_runs_go_on_to_the_same_bits_from_files_that_were_written_again(lab, tmp_path):
    expected = shoal.train(UNFINISHED, tmp_path / "alone", workers=1, threads=1).curves()
    folder = of(lab, UNFINISHED)
    (folder.path / "cohort.json").unlink()
    flip(folder.path / "status.json")
    assert main(["check", "--repair", "--lab", str(lab.path)]) == 0
    assert shoal.train(UNFINISHED, lab, workers=1).curves().equals(expected)


# what is done that cannot be undone
LEFT = {
    "a file of metrics is lost": lambda lab: next(iter(sorted(of(lab, SPECS).parts.path.iterdir()))).unlink(),
    "the last file of metrics is lost": lambda lab: sorted(of(lab, SPECS).parts.path.iterdir())[-1].unlink(),
    "a file of metrics is damaged": lambda lab: flip(sorted(of(lab, SPECS).parts.path.iterdir())[-1]),
    "a model is damaged": lambda lab: flip(of(lab, SPECS).models(SPECS[0].id)[12]),
    "a model is another's": lambda lab: shutil.copy(
        of(lab, SPECS).models(SPECS[1].id)[12], of(lab, SPECS).models(SPECS[0].id)[12]
    ),
    "a last model is lost": lambda lab: of(lab, SPECS).models(SPECS[0].id)[12].unlink(),
    "a checkpoint is lost": lambda lab: of(lab, UNFINISHED).checkpoint_path.unlink(),
    "a checkpoint is damaged": lambda lab: flip(of(lab, UNFINISHED).checkpoint_path),
    "a cohort is lost": lambda lab: shutil.rmtree(of(lab, SPECS).path),
    "nothing says what the runs were": lambda lab: (
        lose_cohort(lab, SPECS),
        shutil.rmtree(of(lab, SPECS).path / "models"),
    ),
}


@pytest.mark.parametrize("what", LEFT)
def test_what_cannot_be_mended_is_named_and_left_as_it_is(lab, what, capsys):
    LEFT[what](lab)
    damaged = contents(lab.path)
    for words in ([], ["--repair"]):
        assert main(["check", "--lab", str(lab.path), *words]) == 1
        assert str(lab.path) in capsys.readouterr().out
    assert contents(lab.path) == damaged


@pytest.mark.parametrize("change", [lambda tensor: tensor[:1].clone(), None])
def test_a_model_of_another_shape_is_no_model_of_its_cohort(lab, change):
    """Its checksum, run and step are right: only the other models tell."""
    path = of(lab, SPECS).models(SPECS[0].id)[12]
    tensors, metadata = load_tensors(path)
    name = min(tensors)
    shape = tuple(tensors[name].shape)
    changed = {name: change(tensors[name])} if change else {}
    save_tensors(path, {**{key: value for key, value in tensors.items() if key != name}, **changed}, metadata)
    (finding,) = examine(lab.path)
    assert f"models of one cohort have one shape: {name} is " in finding.what and f"{shape} in " in finding.what
    assert str(path) in finding.what and ("(1,) in " if change else "none in ") in finding.what
    assert finding.mend is None


def test_a_cohort_in_training_is_left_alone(lab):
    with of(lab, SPECS).training():
        flip(of(lab, SPECS).path / "cohort.json")
        (finding,) = [finding for finding in examine(lab.path) if str(of(lab, SPECS).path) in finding.what]
    assert finding.mend is None
    assert not finding.is_damage


def test_a_status_that_is_lost_for_good_is_written_again_without_its_sessions(lab):
    folder = of(lab, SPECS)
    (folder.path / "status.json").unlink()
    assert main(["check", "--repair", "--lab", str(lab.path)]) == 0
    assert folder.status()["sessions"] == []
    assert set(lab.records(SPECS).runs()["state"]) == {"done"}
    assert main(["report", "--lab", str(lab.path)]) == 0
    assert folder.metrics().select(pl.len()).item() == 26
