"""``shoal check --repair``: whom it must not disturb, where it must not write, and what comes after it."""

import errno
import os
import shutil
from pathlib import Path

import pytest
from damaging import SPECS, UNFINISHED, contents, first_status, made, of

import shoal
from shoal.cli import main
from shoal.errors import LabError
from shoal.lab import Lab, check
from shoal.lab.check import Finding, examine, repair
from shoal.lab.cohort import CohortFolder
from shoal.lab.files import read_json, write_json
from shoal.training.certificate import certify
from shoal.training.loop import Options, train_cohort


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return made(tmp_path_factory.mktemp("mends") / "lab").path


@pytest.fixture
def lab(whole, tmp_path):
    """A copy to damage."""
    return Lab(shutil.copytree(whole, tmp_path / "lab"))


# who trains, who may look, and what is elsewhere


def renamed(lab, specs):
    return CohortFolder(of(lab, specs).path.rename(lab.path / "cohorts" / "renamed"))


def copied(lab, specs):
    return CohortFolder(shutil.copytree(of(lab, specs).path, lab.path / "cohorts" / "copy"))


@pytest.mark.parametrize("misplaced", [renamed, copied])
def test_no_cohort_is_moved_from_under_its_trainer(lab, misplaced):
    folder = misplaced(lab, UNFINISHED)
    (finding,) = [finding for finding in examine(lab.path) if finding.mend is not None]
    with folder.training():
        with pytest.raises(LabError, match="is being trained"):  # who came after it was found
            finding.mend()
        assert main(["check", "--repair", "--lab", str(lab.path)]) == 0
        assert folder.checkpoint_path.is_file()
    assert main(["check", "--repair", "--lab", str(lab.path)]) == 0
    assert not folder.path.exists()


LINKS = {
    "cohorts": lambda lab: lab.path / "cohorts",
    "aside": lambda lab: lab.path / "aside",
    "a folder aside": lambda lab: lab.path / "aside" / "studies",
    "a study": lambda lab: lab.path / "studies" / "evil",
    "a cohort": lambda lab: of(lab, SPECS).path,
    "what was set aside": lambda lab: of(lab, UNFINISHED).path / "set-aside",
}


@pytest.mark.parametrize("what", LINKS)
def test_no_link_is_followed_out_of_the_lab(lab, what, tmp_path):
    victim, link = tmp_path / "victim", LINKS[what](lab)
    if link.exists():
        link.rename(victim)
    victim.mkdir(exist_ok=True)
    (victim / "mine.json").write_text("{}")
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(victim)
    (lab.path / "studies" / "sanity" / "quick.json").write_text("{")  # asks to be moved
    before = {path: path.read_bytes() for path in sorted(victim.rglob("*")) if path.is_file()}
    assert main(["check", "--repair", "--lab", str(lab.path)]) in (1, 2)
    assert link.is_symlink()
    assert before == {path: path.read_bytes() for path in sorted(victim.rglob("*")) if path.is_file()}


def test_nothing_is_removed_behind_a_link_by_who_trains(lab, tmp_path):
    folder = of(lab, UNFINISHED)
    shutil.copytree(folder.parts.path, tmp_path / "mine")
    (folder.path / "set-aside").symlink_to(tmp_path / "mine")
    with pytest.raises(LabError, match="is a link"):
        train_cohort(folder, Options())
    assert len(list((tmp_path / "mine").iterdir())) == 3


SHUT = {
    "the mark": lambda lab: lab.path / "shoal-lab.json",
    "a study's note": lambda lab: lab.path / "studies" / "sanity" / "quick.json",
    "a cohort.json": lambda lab: of(lab, SPECS).path / "cohort.json",
    "a certificate": lambda lab: of(lab, SPECS).path / "certificate.json",
    "a status": lambda lab: of(lab, UNFINISHED).path / "status.json",
}


@pytest.mark.parametrize("what", SHUT)
def test_what_may_not_be_read_is_not_damaged_and_stays(lab, what, monkeypatch, capsys):
    path, opened = SHUT[what](lab), os.open
    write_json(of(lab, SPECS).path / "certificate.json", {})
    (lab.path / "studies" / "x.json").write_text("{")  # which is damaged: what can be mended is only where the mark is
    before = contents(lab.path)

    def refuse(name, *arguments, **options):
        if Path(name) == path:
            raise PermissionError(errno.EACCES, "Permission denied")
        return opened(name, *arguments, **options)

    monkeypatch.setattr(os, "open", refuse)
    (finding,) = [finding for finding in examine(lab.path) if finding.what.startswith(f"{path} cannot be read")]
    assert finding.mend is None
    assert main(["check", "--repair", "--lab", str(lab.path)]) == 1
    assert "Permission denied" in capsys.readouterr().out
    assert path.read_bytes() == before[str(path.relative_to(lab.path))]
    assert (lab.path / "studies" / "x.json").exists() == (what == "the mark")


def test_a_mend_that_fails_stops_no_other(lab, monkeypatch, capsys):
    folder, rename = renamed(lab, SPECS), Path.rename
    (lab.path / "studies" / "sanity" / "quick.json").write_text("{")

    def refuse(path, to):
        if path == folder.path:
            raise OSError(errno.EROFS, "Read-only file system")
        return rename(path, to)

    monkeypatch.setattr(Path, "rename", refuse)
    assert main(["check", "--repair", "--lab", str(lab.path)]) == 1
    out = capsys.readouterr().out
    assert "not mended: " in out
    assert "Read-only file system" in out
    assert (lab.path / "aside" / "studies" / "sanity" / "quick.json").is_file()


def test_a_mend_that_has_nothing_left_to_do_says_nothing(lab, monkeypatch):
    first_status(lab)
    folder = of(lab, SPECS)
    findings = [finding for finding in examine(lab.path) if finding.mend is not None]
    (finding,) = findings
    finding.mend()
    monkeypatch.setattr(check, "examine", lambda path: [Finding(finding.what, finding.mend)])  # as of before
    assert list(repair(lab.path)) == []
    assert folder.is_finished()


def test_what_a_lab_says_does_not_steer_the_terminal(lab, capsys):
    (lab.path / "studies" / "a\x1b[31m.json").write_text("{")
    for words in ([], ["--repair"]):
        main(["check", "--lab", str(lab.path), *words])
        out = capsys.readouterr().out
        assert "\x1b" not in out
    assert "a�[31m.json" in out


# what comes after


def test_runs_go_on_where_their_cohort_has_been_renamed_and_named_back(lab, tmp_path):
    expected = shoal.train(UNFINISHED, tmp_path / "alone", workers=1, threads=1).curves()
    folder = renamed(lab, UNFINISHED)
    asked = iter(range(8))
    assert train_cohort(folder, Options(stop=lambda: next(asked, None) is None)) == "interrupted"
    assert main(["check", "--repair", "--lab", str(lab.path)]) == 0
    assert not folder.path.exists()
    assert shoal.train(UNFINISHED, lab, workers=1).curves().equals(expected)


def test_what_is_mended_or_certified_makes_a_lab_of_todays_format(tmp_path, capsys):
    place = Path(__file__).parent / "vectors" / "lab"
    lab = Lab(shutil.copytree(place, tmp_path / "mended"))
    assert read_json(lab.path / "shoal-lab.json") == {"format": 1}
    (folder,) = lab.unfinished()
    (folder.path / "status.json").write_text("{")
    assert main(["check", "--repair", "--lab", str(lab.path)]) == 0
    assert "shoal-lab.json" in capsys.readouterr().out.splitlines()[0]  # before anything else
    assert read_json(lab.path / "shoal-lab.json") == {"format": 2}
    lab = Lab(shutil.copytree(place, tmp_path / "certified"))
    certify(lab.cohorts()[0], [], steps=1)
    assert read_json(lab.path / "shoal-lab.json") == {"format": 2}


def killed_at_the_end(lab, monkeypatch):
    """A cohort whose trainer died with the last status written; one file of metrics was measured twice."""
    folder = of(lab, UNFINISHED)
    with monkeypatch.context() as patch:
        patch.setattr(CohortFolder, "finish", lambda folder: None)
        assert train_cohort(folder, Options()) == "done"
    aside = folder.path / "set-aside"
    aside.mkdir()
    shutil.copy(folder.parts.path / folder.parts.there()[0], aside)
    assert folder.has_checkpoint()
    return folder


@pytest.mark.parametrize("by", ["check", "the next trainer"])
def test_what_a_killed_trainer_was_to_remove_in_the_end_is_removed(lab, by, monkeypatch, capsys):
    folder = killed_at_the_end(lab, monkeypatch)
    curves = folder.metrics()
    if by == "check":
        assert main(["check", "--lab", str(lab.path)]) == 0
        assert "note: " in capsys.readouterr().out
        assert folder.has_checkpoint()
        assert main(["check", "--repair", "--lab", str(lab.path)]) == 0
    else:
        assert train_cohort(folder, Options()) == "done"
    assert not folder.has_checkpoint()
    assert not (folder.path / "set-aside").exists()
    assert folder.metrics().equals(curves)


def test_a_checkpoint_that_may_hold_a_lost_model_is_kept(lab, monkeypatch):
    folder = killed_at_the_end(lab, monkeypatch)
    folder.models(UNFINISHED[0].id)[40].unlink()
    assert main(["check", "--repair", "--lab", str(lab.path)]) == 1
    assert folder.has_checkpoint()


def test_a_run_that_a_cohort_names_twice_is_refused(lab):
    path = of(lab, SPECS).path / "cohort.json"
    manifest = read_json(path)
    write_json(path, {**manifest, "members": manifest["members"] + manifest["members"][:1]})
    with pytest.raises(LabError, match=SPECS[0].id):
        of(lab, SPECS).manifest()
