"""Deleting runs: whatever ends it, every other run is there, whole and once, and goes on to the same bits."""

import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from damaging import contents, flip
from helpers import fastest, tiny_grid, unseal

import shoal
from shoal.cli import main
from shoal.errors import DiskError, LabError, UserError
from shoal.lab import Lab, survey
from shoal.lab.check import examine, repair
from shoal.lab.cohort import CohortFolder
from shoal.training.loop import Options, train_cohort
from shoal.training.plan import plan

# members that are done, in the stack and waiting for a place, and a cohort of others that are all done
MIXED = tiny_grid({"model": "gpt", "save_statistic_step": 4, "eval_period": 1}, n_steps=[8, 40], seed=[0, 1])
DONE = tiny_grid({"n_steps": 8, "save_statistic_step": 4, "save_model_step": 4}, seed=[0, 1, 2])
SHORT, LONG = MIXED[0].id, MIXED[3].id
PLACES = [0, *(pytest.param(place, marks=pytest.mark.slow) for place in (1, 2)), 3]


def begun(lab, specs, steps, places=None):
    """A cohort that was trained for so many steps of its stack."""
    (cohort,) = plan(specs)
    folder = lab.cohort(cohort.id)
    if not folder.path.exists():
        folder.create(list(cohort.members), threads=1, **fastest(cohort.shared))
    asked = iter(range(steps))
    train_cohort(folder, Options(stop=lambda: next(asked, None) is None, places=places))
    return folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    lab = Lab(tmp_path_factory.mktemp("deleting") / "lab").create()
    folder = begun(lab, MIXED, 12, places=3)
    states = {member["state"] for member in folder.status()["members"].values()}
    assert states == {"done", "running"}
    begun(lab, DONE, 100)
    done = lab.records(DONE)
    done.keep_hypotheses(DONE[0].id, 8, "set", ["a", "b"], ["x", "y"])
    done.keep_hypotheses(DONE[1].id, 8, "set", ["a", "c"], ["x", "y"])
    for decode in done.decodes():
        done.cohort_of(decode.run).decodes.keep_scores(decode, ["0" * 64], {"length": (1.0, "")})
    alone = {run.id: {"loss": 0.0, "parameters": 0.0, "parameters_relative": 0.0} for run in DONE[:2]}
    certificate = {"steps": 1, "members": 3, "alone": alone, "record": None}
    done.cohorts()[0].write_certificate(certificate)
    lab.note_study("sanity", "quick", {"quick": True, "runs": [spec.id for spec in DONE]})
    lab.label(DONE[0].id, name="first", tag="good", note="one\ntwo")
    lab.label([spec.id for spec in [*DONE, *MIXED]], group="all")
    return lab.path


@pytest.fixture
def lab(whole, tmp_path):
    """A copy to delete from."""
    return Lab(shutil.copytree(whole, tmp_path / "lab"))


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """All runs, trained at once."""
    return shoal.train([*MIXED, *DONE], tmp_path_factory.mktemp("alone"), workers=1, threads=1)


def shown(records):
    """What is on record of each run."""
    curves = {run: records.cohort_of(run).metrics().filter(run=run).sort("step").rows() for run in records.ids}
    rows = {row["run"]: row for row in records.runs().drop("name", "group", "tags", "note", strict=False).to_dicts()}
    models = {
        run: {step: records.model(run, step).state_dict() for step in records.model_files(run)} for run in records.ids
    }
    decodes = {run: [d.hypotheses for d in records.decodes() if d.run == run] for run in records.ids}
    return curves, rows, models, decodes, records.scores().sort("decode").rows()


def assert_same(found, expected):
    """The very same of what is on record of some runs."""
    for one, other in zip(found[:2] + found[3:], expected[:2] + expected[3:], strict=True):
        assert one == other
    for run, models in found[2].items():
        assert models.keys() == expected[2][run].keys()
        for step, state in models.items():
            assert all(torch.equal(tensor, expected[2][run][step][name]) for name, tensor in state.items())


def assert_nothing_wrong(lab):
    assert [finding.what for finding in examine(lab.path) if "were deleted" not in finding.what] == []
    assert lab.unreadable() == []
    assert lab.records().damage() == {}
    assert not list(lab.path.glob("deleting/*"))


def assert_goes_on(lab, uninterrupted):
    """To the bits of runs that nothing was deleted beside."""
    shoal.resume(lab, workers=1)
    records = lab.records()
    assert set(records.runs()["state"]) == {"done"}
    for run in records.ids:
        own, other = (some.cohort_of(run).metrics().filter(run=run).sort("step") for some in (records, uninterrupted))
        assert own.rows() == other.rows()
        assert list(records.model_files(run)) == list(uninterrupted.model_files(run))
        other_model = uninterrupted.model(run).state_dict()
        assert all(torch.equal(tensor, other_model[name]) for name, tensor in records.model(run).state_dict().items())
    assert_nothing_wrong(lab)


@pytest.mark.parametrize("place", PLACES)
def test_others_of_its_cohort_are_whole_and_go_on_to_the_same_bits(lab, place, uninterrupted):
    gone = MIXED[place].id
    left = [run for run in lab.runs() if run != gone]
    expected, order = shown(lab.records(left)), left
    assert lab.delete(gone) == [gone]
    assert lab.runs() == order  # also in the order in which they are listed
    assert_same(shown(lab.records(left)), expected)
    assert_nothing_wrong(lab)
    assert gone.encode() not in b"".join((lab.path / name).read_bytes() for name in files_of(lab, "cohorts"))
    assert_goes_on(lab, uninterrupted)


def files_of(lab, folder):
    return [name for name in contents(lab.path) if name.startswith(folder)]


def test_what_it_wrote_is_gone_and_what_others_wrote_is_not(lab):
    gone = DONE[0].id
    lab.delete("first")
    assert_nothing_wrong(lab)
    assert [decode.run for decode in lab.records().decodes()] == [DONE[1].id]
    assert lab.records().scores()["run"].to_list() == [DONE[1].id]
    certificate = lab.records(DONE[1].id).cohorts()[0].certificate()
    assert list(certificate["alone"]) == [DONE[1].id]
    assert lab.labels().runs == {}
    assert gone not in lab.labels().groups["all"].runs
    assert not [name for name in contents(lab.path) if gone in name]
    lab.delete([DONE[1].id, DONE[2].id])
    assert_nothing_wrong(lab)
    assert len(lab.cohorts()) == 1


def test_runs_of_several_cohorts_and_all_of_one(lab, uninterrupted):
    gone = [MIXED[1].id, *(spec.id for spec in DONE)]
    lab.delete(gone)
    assert sorted(lab.runs()) == sorted({spec.id for spec in MIXED} - {MIXED[1].id})
    assert_nothing_wrong(lab)
    assert_goes_on(lab, uninterrupted)
    lab.delete("all")  # by the name of a group
    assert lab.runs() == []
    assert lab.labels().groups == {}
    assert_nothing_wrong(lab)


def test_a_deleted_run_can_be_trained_again(lab, uninterrupted):
    lab.delete(LONG)
    shoal.train(MIXED[3], lab, workers=1, threads=1)
    assert_goes_on(lab, uninterrupted)


# killed


class Killed(BaseException):
    """What no clean-up of ours hears."""


class Killer:
    """Ends the process, as far as files can tell, before its n-th change of the file system."""

    CALLS = ("rename", "replace", "link", "mkdir", "unlink", "rmdir", "utime")

    def __init__(self, monkeypatch, most=None, error=Killed):
        self.calls = 0
        for name in self.CALLS:
            monkeypatch.setattr(os, name, self.counted(getattr(os, name), most, error))

    def counted(self, call, most, error):
        def counting(*arguments, **options):
            if most is not None and self.calls >= most:
                raise error
            self.calls += 1
            return call(*arguments, **options)

        return counting


def changes(lab, runs):
    """How many there are."""
    with pytest.MonkeyPatch.context() as patch:
        killer = Killer(patch)
        lab.delete(runs)
        return killer.calls


def killed(lab, runs, at):
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        Killer(patch, at)
        lab.delete(runs)


MOMENTS = [pytest.param(17, id="some"), pytest.param(1, id="all", marks=pytest.mark.slow)]
BOTH = [LONG, DONE[0].id, DONE[1].id]


@pytest.mark.parametrize("every", MOMENTS)
@pytest.mark.parametrize("again", ["delete", pytest.param("check", marks=pytest.mark.slow)])
def test_killed_at_any_moment_nothing_of_the_others_is_lost_and_the_same_again_finishes(
    whole, tmp_path, every, again, capsys
):
    n = changes(Lab(shutil.copytree(whole, tmp_path / "counted")), BOTH)
    assert n > 40
    left = [run for run in Lab(whole).runs() if run not in BOTH]
    expected = shown(Lab(whole).records(left))
    seen = set()
    for at in range(0, n, every):
        lab = Lab(shutil.copytree(whole, tmp_path / f"{again}-{at}"))
        killed(lab, BOTH, at)
        assert [run for run in lab.runs() if run not in BOTH] == left
        assert_same(shown(lab.records(left)), expected)
        assert lab.unreadable() == []
        assert lab.records().damage() == {}
        assert [finding.what for finding in examine(lab.path) if finding.is_damage] == []
        seen.add(len(lab.runs()))
        if again == "check":
            list(repair(lab.path))
            assert_nothing_wrong(lab)
        assert main(["delete", *BOTH[:1], "first", BOTH[2], "--yes", "--lab", str(lab.path)]) == 0
        assert lab.runs() == left
        assert_same(shown(lab.records(left)), expected)
        assert_nothing_wrong(lab)
        assert lab.labels().runs == {}
        shutil.rmtree(lab.path)
    capsys.readouterr()
    assert len(seen) == 3  # nothing, one cohort and both were done


@pytest.mark.parametrize("every", [pytest.param(19, id="some"), pytest.param(1, id="all", marks=pytest.mark.slow)])
def test_killed_at_any_moment_others_can_train_on_and_the_same_again_finishes(whole, tmp_path, every, uninterrupted):
    n = changes(Lab(shutil.copytree(whole, tmp_path / "counted")), [LONG])
    for at in range(every // 2, n, every):
        lab = Lab(shutil.copytree(whole, tmp_path / f"lab-{at}"))
        killed(lab, [LONG], at)
        shoal.resume(lab, workers=1)
        if LONG in lab.runs():
            lab.delete(LONG)
        lab.clear()
        assert len(lab.runs()) == 6
        assert_goes_on(lab, uninterrupted)
        shutil.rmtree(lab.path)


@pytest.mark.parametrize("every", MOMENTS)
def test_a_disk_that_refuses_anything_is_told_and_nothing_of_the_others_is_lost(whole, tmp_path, every):
    n = changes(Lab(shutil.copytree(whole, tmp_path / "counted")), BOTH)
    left = [run for run in Lab(whole).runs() if run not in BOTH]
    for at in range(0, n - 1, every):  # the last removes an empty folder
        lab = Lab(shutil.copytree(whole, tmp_path / f"lab-{at}"))
        with pytest.MonkeyPatch.context() as patch, pytest.raises((DiskError, LabError)):
            Killer(patch, at, OSError(28, "No space left on device"))
            lab.delete(BOTH)
        assert [run for run in lab.runs() if run not in BOTH] == left
        assert [finding.what for finding in examine(lab.path) if finding.is_damage] == []
        lab.delete([run for run in BOTH if run in lab.runs()])
        assert lab.runs() == left
        assert_nothing_wrong(lab)
        shutil.rmtree(lab.path)


@pytest.mark.parametrize(("kills", "seed"), [pytest.param(40, 5, marks=pytest.mark.slow)])
def test_killed_by_the_system_at_random_moments(lab, kills, seed, uninterrupted):
    gone = [MIXED[1].id, DONE[0].id, MIXED[3].id, DONE[1].id, MIXED[0].id]
    left = [run for run in lab.runs() if run not in gone]
    expected = shown(lab.records(left))
    command = [sys.executable, str(Path(__file__).with_name("killing.py")), str(lab.path), str(kills), str(seed)]
    done = subprocess.run([*command, "delete", *gone], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[1]) >= min(kills, 3), done.stdout
    assert lab.runs() == left
    assert_same(shown(lab.records(left)), expected)
    assert_nothing_wrong(lab)
    assert_goes_on(lab, uninterrupted)


# beside others


def test_what_trains_is_refused_and_nothing_is_changed(lab, capsys):
    folder = lab.records(LONG).cohorts()[0]
    before = contents(lab.path)
    with folder.training():
        for runs in ([LONG], [DONE[0].id, SHORT]):
            assert main(["delete", *runs, "--yes", "--lab", str(lab.path)]) == 2
            said = capsys.readouterr().err
            assert said.count("\n") == 1
            assert "being trained" in said
        assert contents(lab.path) == before
        lab.delete(DONE[0].id)  # another cohort
    assert_nothing_wrong(lab)


def test_others_that_train_meanwhile_are_not_disturbed(lab, tmp_path):
    specs = tiny_grid({"n_steps": 300, "eval_period": 10}, seed=[5, 6])
    expected = shoal.train(specs, tmp_path / "alone", workers=1, threads=1)
    trainer = threading.Thread(target=shoal.train, args=(specs, lab), kwargs={"flush_seconds": 0.01, "workers": 1})
    trainer.start()
    for run in [LONG, DONE[0].id, DONE[1].id, DONE[2].id]:
        lab.delete(run)
    trainer.join()
    assert lab.records(specs).curves().equals(expected.curves())
    assert_nothing_wrong(lab)


def test_who_was_to_train_it_finds_that_it_is_gone_and_makes_nothing(lab):
    planned = lab.records(LONG).cohorts()[0]
    assert planned.specs()
    lab.delete(LONG)
    before = contents(lab.path)
    with pytest.raises(LabError, match="not in the lab any more"):
        train_cohort(planned, Options())
    with pytest.raises(LabError, match="not in the lab any more"):
        planned.write_certificate({})
    assert contents(lab.path) == before
    assert not planned.path.exists()


def test_who_waits_for_its_lock_does_not_train_where_it_was(lab, tmp_path):
    folder = lab.records(LONG).cohorts()[0]
    failed = []

    def wait():
        try:
            train_cohort(CohortFolder(folder.path), Options())
        except LabError as error:
            failed.append(str(error))

    waiter = threading.Thread(target=wait)
    with folder.training():
        waiter.start()
        waiter.join(0.3)
        folder.path.rename(tmp_path / "away")
    waiter.join()
    assert len(failed) == 1
    assert not folder.path.exists()


def test_a_reader_that_began_before_says_so_and_shows_nothing_else(lab):
    records = lab.records(MIXED)
    assert len(records.specs) == 4
    lab.delete(LONG)
    assert records.damage().keys() == {spec.id for spec in MIXED}
    assert set(records.runs()["state"]) == {"damaged"}
    with pytest.raises(LabError, match="not in the lab any more"):
        records.keep_hypotheses(SHORT, 8, "set", ["a"], ["x"])


def test_who_reads_meanwhile_always_finds_every_other_run(lab):
    stay, stop, missed = {MIXED[0].id, DONE[2].id}, threading.Event(), []

    def read():
        while not stop.is_set():
            here = Lab(lab.path)
            missed.extend(stay - here.index().keys())
            missed.extend(here.unreadable())
            missed.extend(finding.what for finding in examine(lab.path) if finding.is_damage)

    reader = threading.Thread(target=read)
    reader.start()
    for spec in [*MIXED[1:], *DONE[:2]]:
        lab.delete(spec.id)
    stop.set()
    reader.join()
    assert missed == []


@pytest.mark.parametrize("seen", [0, 1, 2])
def test_who_looks_while_one_takes_the_place_of_another_finds_one_of_them(lab, seen, monkeypatch):
    """The moment of a deletion comes after so many cohorts of three were looked at."""
    expected = [run for run in lab.runs() if run != LONG]
    rename = os.rename

    def kill_at_the_moment(source, target, **options):
        if Path(source).parent.name == "cohorts":
            raise Killed
        rename(source, target, **options)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr(os, "rename", kill_at_the_moment)
        lab.delete(LONG)
    old = lab.records(LONG).cohorts()[0]
    asked = iter(range(9))

    def is_pending(folder):
        answer = looked_at(folder)
        if next(asked) == seen:
            old.path.rename(lab.path / "deleting" / old.id)
        return answer

    looked_at = survey.is_pending
    monkeypatch.setattr(survey, "is_pending", is_pending)
    found = lab.survey()
    assert not old.path.exists()
    assert list(found.index) == expected
    assert (found.unknown, found.copies) == ([], [])


# what a checkpoint can look like


@pytest.mark.parametrize("place", PLACES)
def test_members_that_wait_with_what_they_have_become(tmp_path, place, uninterrupted):
    """Four side by side, and then one after the other: the others are parked."""
    lab = Lab(tmp_path / "lab").create()
    folder = begun(lab, MIXED, 4)
    begun(lab, MIXED, 2, places=1)
    where = folder.load_checkpoint()[1]
    assert (len(where["members"]), len(where["parked"])) == (1, 3)
    lab.delete(MIXED[place].id)
    assert_nothing_wrong(lab)
    assert_goes_on(lab, uninterrupted)


def test_what_has_not_begun_stays_what_it_is(tmp_path, uninterrupted):
    lab = Lab(tmp_path / "lab").create()
    folder = begun(lab, MIXED, 3, places=2)
    running = [run for run, at in folder.status()["members"].items() if at["state"] == "running"]
    assert len(running) == 2
    lab.delete(running)
    assert_nothing_wrong(lab)
    assert_goes_on(lab, uninterrupted)


def test_a_cohort_that_nobody_has_trained(tmp_path, uninterrupted):
    lab = Lab(tmp_path / "lab").create()
    (cohort,) = plan(MIXED)
    lab.cohort(cohort.id).create(list(cohort.members), threads=1, **fastest(cohort.shared))
    lab.delete(LONG)
    assert_nothing_wrong(lab)
    assert_goes_on(lab, uninterrupted)


def test_a_lab_of_an_earlier_version(lab, uninterrupted):
    unseal(lab.path)
    lab.delete([LONG, DONE[0].id])
    assert lab.records().damage() == {}
    assert_goes_on(lab, uninterrupted)


# what is refused


def test_nothing_is_deleted_because_something_else_is_damaged(lab, capsys):
    folder = lab.records(LONG).cohorts()[0]
    flip(folder.parts.path / folder.parts.there()[0])
    before = contents(folder.path)
    assert main(["delete", LONG, "--yes", "--lab", str(lab.path)]) == 2
    assert "damaged" in capsys.readouterr().err
    assert contents(folder.path) == before
    assert main(["delete", "--state", "damaged", "--yes", "--lab", str(lab.path)]) == 0  # all of them together
    assert sorted(lab.runs()) == sorted(spec.id for spec in DONE)
    assert_nothing_wrong(lab)


def test_a_run_that_two_cohorts_hold_is_refused(lab):
    folder = lab.records(LONG).cohorts()[0]
    shutil.copytree(folder.path, folder.path.with_name("copy"))
    before = contents(lab.path)
    with pytest.raises(LabError, match="held by cohorts"):
        lab.delete(LONG)
    assert contents(lab.path) == before


def test_a_link_in_a_cohort_is_followed_by_nothing(lab, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "dear").write_text("kept")
    folder = lab.records(LONG).cohorts()[0]
    (folder.path / "notes").symlink_to(outside)
    with pytest.raises(LabError, match="is a link"):
        lab.delete(LONG)
    lab.delete([spec.id for spec in MIXED])
    assert (outside / "dear").read_text() == "kept"
    assert_nothing_wrong(lab)


@pytest.mark.parametrize("words", [["nosuch"], ["first", "../x"], [], ["--state", "nosuch"], ["--tag", "nosuch"]])
def test_what_is_not_there_is_refused_in_a_line(lab, words, capsys):
    before = contents(lab.path)
    assert main(["delete", *words, "--yes", "--lab", str(lab.path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert contents(lab.path) == before


class Terminal:
    """Someone who says this when asked."""

    def __init__(self, answer):
        self.answer = answer

    def isatty(self):
        return True

    def readline(self):
        return self.answer


@pytest.mark.parametrize(("answer", "deleted"), [("y\n", True), ("yes\n", True), ("n\n", False), ("", False)])
def test_it_asks_first(lab, answer, deleted, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", Terminal(answer))
    assert main(["delete", "first", "--lab", str(lab.path)]) == 0
    assert ("first" in capsys.readouterr().out) and ((DONE[0].id not in lab.runs()) is deleted)


def test_where_nobody_can_be_asked_it_needs_yes(lab, capsys):
    before = contents(lab.path)
    assert main(["delete", "first", "--lab", str(lab.path)]) == 2
    assert "--yes" in capsys.readouterr().err
    assert contents(lab.path) == before


def test_deleted_runs_are_known_of(lab, capsys):
    assert main(["delete", "first", DONE[1].id[:6], "--yes", "--lab", str(lab.path)]) == 0
    assert main(["delete", "first", DONE[1].id, "--yes", "--lab", str(lab.path)]) == 0  # done already
    assert "deleted already" in capsys.readouterr().out
    with pytest.raises(UserError, match="was deleted"):
        lab.records("first")
    assert main(["check", "--lab", str(lab.path)]) == 0  # the study that asks for them has not lost them
    said = capsys.readouterr().out
    assert "were deleted" in said
    assert "nothing is wrong" in said


def test_linked_where_the_file_system_has_no_links(lab, monkeypatch):
    left = [spec.id for spec in DONE[1:]]
    expected = shown(lab.records(left))

    def refuse(*arguments, **options):
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    lab.delete(DONE[0].id)
    assert_same(shown(lab.records(left)), expected)
    assert_nothing_wrong(lab)


def test_sizes_are_those_of_the_files(lab, capsys):
    assert main(["du", "--json", "--lab", str(lab.path)]) == 0
    import json

    rows = json.loads(capsys.readouterr().out)
    held = sum(len(file) for name, file in contents(lab.path).items())
    assert sum(row["total"] for row in rows) == held
    assert [row["total"] for row in rows] == sorted((row["total"] for row in rows), reverse=True)
    assert main(["du", "all", "--csv", "--lab", str(lab.path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 8
    models = sum(int(line.split(",")[3]) for line in lines[1:])
    assert models == sum(len(file) for name, file in contents(lab.path).items() if "/models/" in name)
    assert isinstance(Path(lab.path), Path)
