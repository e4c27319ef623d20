"""What is lost, changed, copied or shut away in a lab: named, never shown as something else, and never deleted."""

import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import polars as pl
import pytest
from damaging import SPECS, UNFINISHED, contents, flip, made, of, the_note
from helpers import rewrite, tiny_grid, unseal

import shoal
from shoal.cli import main
from shoal.errors import LabError
from shoal.lab import Lab
from shoal.lab.check import examine
from shoal.lab.files import read_json
from shoal.lab.frames import write_frame
from shoal.measures import EQUATIONS
from shoal.spec import RunSpec
from shoal.training.loop import Options, train_cohort

ALL = [*SPECS, *UNFINISHED]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return made(tmp_path_factory.mktemp("faults") / "lab").path


@pytest.fixture
def lab(whole, tmp_path):
    """A copy to damage."""
    return Lab(shutil.copytree(whole, tmp_path / "lab"))


def without_gaps(row):
    """The settings that a run has; what only others of the table have is left out."""
    return {name: value for name, value in row.items() if value is not None}


def shown(path):
    """What a lab shows of each run that it does not call damaged: its state, step, settings and curve."""
    records = Lab(path).records()
    damage = records.damage()
    records = records.without(damage)
    rows = {row["run"]: without_gaps(row) for row in records.runs().iter_rows(named=True)}
    specs = records.specs
    curves = records.curves().select("run", "step", *EQUATIONS.columns, "l2_norm")
    return {run: (rows[run], specs[run].given(), curves.filter(run=run).rows()) for run in records.ids}


# bits


def changed_bits(path, most, seed):
    """The file with a bit changed, for some or all of its bits, and then as it was."""
    before = path.read_bytes()
    places = range(8 * len(before))
    for place in places if most is None else sorted(random.Random(seed).sample(places, min(most, len(places)))):
        content = bytearray(before)
        content[place // 8] ^= 1 << place % 8
        path.write_bytes(content)
        yield place
    path.write_bytes(before)


MOST = [pytest.param(60, id="some"), pytest.param(None, id="all", marks=pytest.mark.slow)]


@pytest.mark.parametrize("most", MOST)
@pytest.mark.parametrize("sealed", [True, False])
def test_a_changed_bit_of_a_cohort_is_harmless_or_named_and_never_another_setting(lab, most, sealed):
    """Without a checksum, as in labs of earlier versions, settings are held to the run's id, as far as it says them."""
    if not sealed:
        unseal(lab.path)
    path = of(lab, SPECS).path / "cohort.json"
    before = of(lab, SPECS).manifest()
    named = 0
    for _ in changed_bits(path, most, seed=1):
        try:
            members = of(lab, SPECS).manifest()["members"]
            specs = of(lab, SPECS).specs()
        except LabError as error:
            assert str(path) in str(error) and "\n" not in str(error)
            assert "earlier version" not in str(error)
            named += 1
            continue
        assert [member["run"] for member in members] == [spec.id for spec in SPECS] == [spec.id for spec in specs]
        for member, expected in zip(members, before["members"], strict=True):
            settings = [name for name in expected["spec"] if sealed or name not in ("seed", *NOT_IN_ID)]
            assert [member["spec"].get(name) for name in settings] == [expected["spec"][name] for name in settings]
    assert named > 10


NOT_IN_ID = ("eval_batch_size", "save_statistic_step")


@pytest.mark.parametrize("most", MOST)
@pytest.mark.parametrize("name", ["status.json", "certificate.json", "quick.json", "shoal-lab.json"])
def test_a_changed_bit_of_any_other_json_is_harmless_or_named(lab, most, name):
    folder = of(lab, SPECS)
    folder.write_certificate({"steps": 1, "members": 2, "alone": {}, "record": None})
    readers = {
        "status.json": (folder.path, folder.status),
        "certificate.json": (folder.path, folder.certificate),
        "quick.json": (lab.path / "studies" / "sanity", lambda: the_note(lab)),
        "shoal-lab.json": (lab.path, lambda: Lab(lab.path).runs()),
    }
    place, read = readers[name]
    expected = read()
    named = 0
    for _ in changed_bits(place / name, most, seed=2):
        try:
            found = read()
        except LabError as error:
            assert str(place) in str(error) and "\n" not in str(error)
            named += 1
        else:
            # the key of the checksum may have become another, which nobody reads
            assert (
                {key: found[key] for key in expected} == expected if isinstance(expected, dict) else found == expected
            )
    assert named > 10


@pytest.mark.slow
@pytest.mark.parametrize("sealed", [True, False])
def test_whatever_bit_of_a_json_is_changed_commands_end_in_words(lab, sealed, capsys):
    """The commands themselves, on a sample of bits of every JSON file."""
    expected = shown(lab.path)
    if not sealed:
        unseal(lab.path)
    for path in sorted(lab.path.rglob("*.json")):
        for _ in changed_bits(path, 4, seed=3):
            for command in ("runs", "report", "check"):
                assert main([command, "--lab", str(lab.path)]) in (0, 1, 2)
            capsys.readouterr()
            if sealed and path.name != "shoal-lab.json":
                now = shown(lab.path)
                assert {run: expected[run] for run in now} == now


# a checkpoint


@pytest.mark.parametrize("sealed", [True, False])
def test_a_lost_checkpoint_stops_its_runs_and_deletes_nothing(lab, sealed, capsys):
    if not sealed:
        unseal(lab.path)
    of(lab, UNFINISHED).checkpoint_path.unlink()
    before = contents(lab.path)
    for how in (lambda: shoal.resume(lab, workers=1), lambda: shoal.train(UNFINISHED, lab, workers=1)):
        with pytest.raises(LabError, match=r"checkpoint\.safetensors is missing"):
            how()
        assert contents(lab.path) == before
    damage = lab.records().damage()
    assert damage.keys() == {spec.id for spec in UNFINISHED}
    assert main(["resume", "--lab", str(lab.path)]) == 2
    assert "checkpoint.safetensors is missing" in capsys.readouterr().err


@pytest.mark.parametrize("listed", [0, 1, 2])
def test_an_older_status_of_finished_runs_deletes_nothing(lab, listed):
    folder = of(lab, SPECS)
    status, rows = folder.status(), folder.metrics()
    running = {run: {"state": "running", "step": 4 * listed} for run in status["members"]}
    folder.write_status({**status, "members": running, "metrics": status["metrics"][:listed]})
    before = contents(lab.path)
    assert lab.records().damage().keys() == {spec.id for spec in SPECS}
    with pytest.raises(LabError):
        shoal.train(SPECS, lab, workers=1)
    assert contents(lab.path) == before
    assert main(["check", "--repair", "--lab", str(lab.path)]) == 0
    assert folder.metrics().equals(rows)


def test_an_older_checkpoint_is_not_gone_on_from(lab):
    folder = of(lab, UNFINISHED)
    older = folder.checkpoint_path.read_bytes()
    asked = iter(range(9))
    train_cohort(folder, Options(stop=lambda: next(asked, None) is None))
    folder.checkpoint_path.write_bytes(older)
    before = contents(lab.path)
    with pytest.raises(LabError, match=r"checkpoint\.safetensors is older than status\.json"):
        shoal.train(UNFINISHED, lab, workers=1)
    assert contents(lab.path) == before


def test_what_a_killed_flush_leaves_is_set_aside_until_it_is_measured_again_to_the_same_bits(lab):
    folder = of(lab, UNFINISHED)
    counted = folder.load_checkpoint()[2]
    asked = iter(range(6))
    older = {path: path.read_bytes() for path in (folder.checkpoint_path, folder.path / "status.json")}
    train_cohort(folder, Options(stop=lambda: next(asked, None) is None))
    more = [name for name in folder.parts.there() if name not in counted]
    (folder.parts.path / more[1]).unlink()
    for path, content in older.items():  # the checkpoint and status of before the flush
        path.write_bytes(content)
    asked = iter(range(1))
    train_cohort(folder, Options(stop=lambda: next(asked, None) is None))
    assert [path.name for path in (folder.path / "set-aside").iterdir()] == more[:1]
    changed = folder.metrics().head(2).with_columns(pl.col("train_loss") + 1)
    other = write_frame(folder.path / "set-aside" / "000009", changed)
    train_cohort(folder, Options())
    assert list((folder.path / "set-aside").iterdir()) == [other]  # which was measured once


# files of metrics


def copied(folder):
    """The first file, once more as the next."""
    first = folder.parts.there()[0]
    shutil.copy(folder.parts.path / first, folder.parts.path / f"000003{first[6:]}")


def copied_within(folder):
    """The first file, once more under the number of the second."""
    first = folder.parts.there()[0]
    shutil.copy(folder.parts.path / first, folder.parts.path / f"000001{first[6:]}")


def foreign(folder):
    """A file of another cohort in the place of the last."""
    other = of(Lab(folder.path.parent.parent), UNFINISHED if folder.id == of_id(folder, SPECS) else SPECS)
    last, theirs = folder.parts.there()[-1], other.parts.there()[-1]
    (folder.parts.path / last).unlink()
    shutil.copy(other.parts.path / theirs, folder.parts.path / theirs)


def of_id(folder, specs):
    return of(Lab(folder.path.parent.parent), specs).id


def other_columns(folder):
    """A table of something else, with a checksum that is right, in the place of the last."""
    (folder.parts.path / folder.parts.there()[-1]).unlink()
    write_frame(folder.parts.path / "000002", pl.DataFrame({"run": ["a"], "loss": ["high"]}))


def dangling(folder):
    """A link to nowhere in the place of the last."""
    last = folder.parts.path / folder.parts.there()[-1]
    last.unlink()
    last.symlink_to("nowhere")


PARTS = {
    "lost": lambda folder: (folder.parts.path / folder.parts.there()[0]).unlink(),
    "lost last": lambda folder: (folder.parts.path / folder.parts.there()[-1]).unlink(),
    "all lost": lambda folder: shutil.rmtree(folder.parts.path),
    "changed": lambda folder: flip(folder.parts.path / folder.parts.there()[1]),
    "copied": copied,
    "copied within": copied_within,
    "foreign": foreign,
    "other columns": other_columns,
    "dangling": dangling,
}


@pytest.mark.parametrize("sealed", [True, False])
@pytest.mark.parametrize("what", PARTS)
def test_a_record_whose_files_are_not_those_that_were_written_is_named(lab, what, sealed, capsys):
    if not sealed:
        unseal(lab.path)
    expected = shown(lab.path)
    PARTS[what](of(lab, SPECS))
    assert lab.records().damage().keys() == {spec.id for spec in SPECS}
    assert shown(lab.path) == {spec.id: expected[spec.id] for spec in UNFINISHED}
    assert main(["runs", "--lab", str(lab.path)]) == 1
    assert "Damaged: 2 of 4 runs" in capsys.readouterr().out


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """The curves of the unfinished runs, trained at once."""
    return shoal.train(UNFINISHED, tmp_path_factory.mktemp("alone"), workers=1, threads=1).curves()


@pytest.mark.parametrize("sealed", [True, False])
@pytest.mark.parametrize("what", PARTS)
def test_training_goes_on_only_from_the_files_that_the_checkpoint_counts(lab, what, sealed, uninterrupted):
    if not sealed:
        unseal(lab.path)
    folder = of(lab, UNFINISHED)
    PARTS[what](folder)
    before = contents(lab.path)
    try:
        curves = shoal.train(UNFINISHED, lab, workers=1).curves()
    except LabError as error:
        assert str(folder.path) in str(error)
        assert contents(lab.path) == before
    else:  # one file more, as a killed flush leaves it
        assert what == "copied"
        assert curves.equals(uninterrupted)


def test_rows_that_are_there_twice_and_rows_of_others_are_never_shown(lab):
    folder, other = of(lab, SPECS), of(lab, UNFINISHED)
    rows = folder.metrics()
    for wrong in ([rows, rows.head(1)], [rows, other.metrics()]):
        rewrite(folder, *wrong)
        with pytest.raises(LabError, match="it holds rows"):
            folder.metrics()


# one cohort's trouble


def test_a_lost_cohort_json_is_told_and_its_runs_are_not_silently_new(lab, capsys):
    (of(lab, SPECS).path / "cohort.json").unlink()
    before = contents(of(lab, SPECS).path)
    told = f"which runs cohort {of(lab, SPECS).id} holds cannot be known: {of(lab, SPECS).path}/cohort.json is missing"
    for command in (["runs"], ["report"], ["study", "report", "sanity"]):
        main([*command, "--lab", str(lab.path)])
        said = capsys.readouterr()
        assert told in said.out + said.err
    with pytest.raises(LabError, match=r"whose cohort\.json is damaged or missing"):
        shoal.train(SPECS, lab, workers=1)
    assert contents(of(lab, SPECS).path) == before


@pytest.mark.parametrize("newer", [True, False])
def test_of_a_cohort_and_its_copy_the_one_that_is_further_is_read(lab, newer, capsys):
    folder = of(lab, UNFINISHED)
    copy = lab.path / "cohorts" / ("zz copy" if newer else "00 copy")
    shutil.copytree(folder.path, copy)
    os.utime(copy / "cohort.json", (1, 1) if newer else (2e9, 2e9))
    assert lab.index()[UNFINISHED[0].id].path == folder.path  # the one of the right name, as they are equal
    asked = iter(range(9))
    train_cohort(folder, Options(stop=lambda: next(asked, None) is None))
    assert lab.index()[UNFINISHED[0].id].path == folder.path
    assert main(["runs", "--lab", str(lab.path)]) == 1
    assert f"move {copy} out of the lab" in capsys.readouterr().out
    assert set(lab.records(UNFINISHED).runs()["step"]) == {21}
    flip(folder.path / "status.json")
    assert lab.index()[UNFINISHED[0].id].path == copy  # the one that is whole
    assert lab.records(UNFINISHED).damage() == {}


def test_a_lost_mark_is_said_with_what_mends_it(lab, capsys):
    (lab.path / "shoal-lab.json").unlink()
    assert main(["runs", "--lab", str(lab.path)]) == 2
    assert f"shoal check --repair --lab {lab.path}" in capsys.readouterr().err
    assert main(["check", "--repair", "--lab", str(lab.path)]) == 0
    assert main(["runs", "--lab", str(lab.path)]) == 0


def test_runs_of_a_damaged_cohort_do_not_keep_others_from_training(lab):
    flip(of(lab, SPECS).path / "status.json")
    new = tiny_grid({"n_steps": 4}, seed=[7])
    with pytest.raises(LabError, match=r"status\.json is damaged"):
        shoal.train([*ALL, *new], lab, workers=1)
    assert set(lab.records([*UNFINISHED, *new]).runs()["state"]) == {"done"}


@pytest.mark.parametrize("sealed", [True, False])
def test_a_changed_setting_of_one_run_is_damage_of_its_cohort_alone(lab, sealed, capsys):
    if not sealed:
        unseal(lab.path)
    expected = shown(lab.path)
    path = of(lab, SPECS).path / "cohort.json"
    path.write_text(path.read_text().replace('"lr": 0.001', '"lr": 0.002', 1))
    assert shown(lab.path) == {spec.id: expected[spec.id] for spec in UNFINISHED}
    for command in ("runs", "report"):
        assert main([command, "--lab", str(lab.path)]) == 1
        assert f"{path} is damaged" in capsys.readouterr().out


PROBE = """
import sys
from shoal.cli import main
from shoal.lab import Lab
for lab in sys.argv[1:]:
    print(sorted(Lab(lab).records().damage()), len(Lab(lab).records()))
    print([main([*words, "--lab", lab]) for words in (["runs"], ["check"])])
    print("that was", lab)
"""


@pytest.fixture
def somebody_else(whole):
    """Makes labs in a folder that everybody may read (pytest's own are of mode 700), and looks at them as nobody."""
    nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", sys.executable, "-c"]
    environment = {**os.environ, "PYTHONPATH": str(Path(shoal.__file__).parents[1])}

    def look(code, *words):
        return subprocess.run([*nobody, code, *words], capture_output=True, text=True, timeout=300, env=environment)

    if os.getuid() != 0 or not shutil.which("setpriv") or look("import shoal").returncode:
        pytest.skip("nobody else can be asked: that needs root, setpriv, and a Python that others may run")
    with tempfile.TemporaryDirectory() as folder:

        def readable(name):
            lab = Lab(shutil.copytree(whole, Path(folder) / name))
            for path in (Path(folder), *lab.path.rglob("*")):
                path.chmod(0o755 if path.is_dir() else 0o644)
            return lab

        yield readable, look


def test_what_another_user_may_not_read_hides_nothing_else_and_is_not_to_be_removed(somebody_else):
    readable, look = somebody_else
    shut = {"folder": "", "metrics": "metrics", "cohort": "cohort.json", "status": "status.json"}
    labs = {name: readable(name) for name in shut}
    for name, lab in labs.items():
        (of(lab, SPECS).path / shut[name]).chmod(0o000)
    done = look(PROBE, *(str(lab.path) for lab in labs.values()))
    assert done.returncode == 0, done.stderr
    rest = done.stdout
    for name, lab in labs.items():
        said, _, rest = rest.partition(f"that was {lab.path}\n")
        first, *lines, codes = said.splitlines()
        hidden = sorted(spec.id for spec in SPECS) if name in ("metrics", "status") else []
        assert first == f"{hidden} {4 if hidden else 2}", name
        assert codes == "[1, 1]", said + done.stderr
        assert all(any(spec.id in line for line in lines) for spec in UNFINISHED), name
        assert "Permission denied" in said, name
        assert "train it anew" not in said, name


# while it is written


@pytest.mark.slow
def test_who_reads_while_it_is_written_never_sees_damage(tmp_path):
    specs = tiny_grid({"n_steps": 400, "eval_period": 10}, seed=[0, 1])
    lab = Lab(tmp_path / "lab").create()
    trainer = threading.Thread(target=shoal.train, args=(specs, lab), kwargs={"workers": 1, "flush_seconds": 0.01})
    trainer.start()
    seen = [0]
    while trainer.is_alive():
        assert lab.records().damage() == {}
        assert not [finding for finding in examine(lab.path) if finding.is_damage]
        seen.append(len(lab.records().curves()))
    trainer.join()
    assert seen == sorted(seen)
    assert len(set(seen)) > 3
    assert set(lab.records().runs()["state"]) == {"done"}


# earlier versions


def test_a_lab_of_an_earlier_version_is_read_and_gone_on_with(tmp_path):
    lab = Lab(shutil.copytree(Path(__file__).parent / "vectors" / "lab", tmp_path / "lab"))
    assert lab.records().damage() == {}
    assert main(["check", "--lab", str(lab.path)]) == 0
    runs = lab.records().runs()
    assert sorted(runs["state"]) == ["done", "done", "interrupted", "interrupted"]
    specs = list(lab.records().specs.values())
    assert all(isinstance(spec, RunSpec) for spec in specs)
    expected = shoal.train(specs, tmp_path / "new", workers=1, threads=1, engine="plain")
    found = shoal.resume(lab, workers=1)
    assert set(found.runs()["state"]) == {"done"}
    assert lab.records(specs).curves()["step"].equals(expected.curves()["step"])
    for name in ("train_loss", "valid_loss"):
        apart = (lab.records(specs).curves()[name] - expected.curves()[name]).abs().max()
        assert apart < 1e-4  # another machine rounds otherwise
    assert lab.records().damage() == {}
    assert json.loads((found.cohorts()[0].path / "status.json").read_text())["sha256"]
    assert read_json(lab.path / "shoal-lab.json") == {"format": 2}  # which earlier versions refuse
