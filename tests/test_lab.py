"""What is kept stays readable: atomic files, checksums, formats, names."""

import errno
import os
import stat
import subprocess
import sys

import polars as pl
import pytest
import torch
from helpers import tiny, tiny_grid
from hypothesis import given, settings
from hypothesis import strategies as st

import shoal
from shoal.errors import DiskError, LabError, UserError
from shoal.lab import Lab, get_all_checkpoints, get_all_checkpoints_per_trials
from shoal.lab.files import read_json, write_json
from shoal.lab.frames import read_frame, schema_of, write_frame
from shoal.lab.names import find_run
from shoal.lab.tensors import load_tensors, save_tensors
from shoal.measures import EQUATIONS
from shoal.models.settings import LSTMSettings


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """A lab with four finished runs of two cohorts."""
    path = tmp_path_factory.mktemp("labs") / "lab"
    specs = tiny_grid({"save_model_step": 6}, seed=[0, 1]) + tiny_grid({"model": "gpt"}, n_steps=[8, 12])
    shoal.train(specs, path, workers=1)
    return Lab(path)


def test_tensors_come_back_as_they_were(tmp_path):
    tensors = {"a": torch.randn(3, 2), "b": torch.tensor([True, False]), "c": torch.tensor(5)}
    save_tensors(tmp_path / "x.safetensors", tensors, {"step": "3"})
    found, metadata = load_tensors(tmp_path / "x.safetensors", like=tensors)
    assert metadata == {"step": "3"}
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_flipped_bit_and_any_truncation_is_found(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("flip") / "x.safetensors"
    save_tensors(path, {"a": torch.arange(6.0), "b": torch.arange(3)}, {"step": "3"})
    content = bytearray(path.read_bytes())
    if data.draw(st.booleans(), label="truncate"):
        del content[data.draw(st.integers(0, len(content) - 1), label="length") :]
    else:
        content[data.draw(st.integers(0, len(content) - 1), label="byte")] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(content)
    with pytest.raises(LabError, match="damaged"):
        load_tensors(path)


def test_a_checkpoint_of_another_shape_is_refused(tmp_path):
    save_tensors(tmp_path / "x.safetensors", {"a": torch.zeros(3)}, {})
    with pytest.raises(LabError, match=r"shape \(3,\).*expected \(4,\)"):
        load_tensors(tmp_path / "x.safetensors", like={"a": torch.zeros(4)})
    with pytest.raises(LabError, match="holds"):
        load_tensors(tmp_path / "x.safetensors", like={"b": torch.zeros(3)})
    with pytest.raises(LabError, match="is missing"):
        load_tensors(tmp_path / "y.safetensors")


def test_a_file_system_on_which_folders_cannot_be_synced_keeps_labs_too(tmp_path, monkeypatch):
    real, refused = os.fsync, []

    def fsync(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            refused.append(descriptor)
            raise OSError(errno.EINVAL, "Invalid argument")
        real(descriptor)

    monkeypatch.setattr("os.fsync", fsync)
    write_json(tmp_path / "a" / "b" / "x.json", 1)
    assert read_json(tmp_path / "a" / "b" / "x.json") == 1
    assert len(refused) == 3  # of the two folders that are new, and of the file's own


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_failed_write_leaves_the_old_file_and_no_scratch(tmp_path, monkeypatch, call):
    write_json(tmp_path / "x.json", {"a": 1})

    def fail(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync" if call == "fsync" else "pathlib.Path.replace", fail)
    with pytest.raises(DiskError, match=r"could not write .*x\.json: No space left on device"):
        write_json(tmp_path / "x.json", {"a": 2})
    assert read_json(tmp_path / "x.json") == {"a": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]


def test_a_file_larger_than_the_system_allows_is_a_disk_error(tmp_path):
    """The system's own limit on file sizes stands for a full disk: the failure comes in the middle of a write."""
    code = (
        "import resource, signal, pathlib, sys\n"
        "from shoal.lab.files import write\n"
        "from shoal.errors import DiskError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "try: write(pathlib.Path(sys.argv[1]) / 'x', bytes(5000))\n"
        "except DiskError as error: print(error)\n"
    )
    out = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True).stdout
    assert "File too large" in out
    assert list(tmp_path.iterdir()) == []


def test_a_lab_that_cannot_be_one_is_refused_and_left_as_it_was(tmp_path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "mine.txt").write_text("mine")
    (tmp_path / "newer").mkdir()
    (tmp_path / "newer" / "shoal-lab.json").write_text('{"format": 99}')
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "shoal-lab.json").write_text("{")
    for name, words in (("file", "is a file"), ("folder", "not a lab"), ("newer", "format 99"), ("odd", "damaged")):
        with pytest.raises(LabError, match=words):
            shoal.train([tiny()], tmp_path / name)
    assert (tmp_path / "file").read_text() == "mine"
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["mine.txt"]


def test_a_lab_that_cannot_be_written_is_refused(tmp_path, monkeypatch):
    def refuse(*arguments, **options):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("pathlib.Path.mkdir", refuse)
    with pytest.raises(LabError, match=r"cannot be written: Permission denied"):
        shoal.train([tiny()], tmp_path / "lab")


@pytest.mark.parametrize("name", ["../x", "a/b", "a\\b", "..", ".hidden", "", "a b", "x..y", "/etc"])
def test_names_that_could_leave_the_lab_are_refused(lab, name):
    with pytest.raises(UserError, match="not allowed"):
        lab.note_study(name, "full", {})
    with pytest.raises(UserError, match="not allowed"):
        lab.note_study("sanity", name, {})
    with pytest.raises(UserError, match="not allowed"):
        lab.study_notes(name)
    with pytest.raises(UserError, match="not allowed"):
        lab.report_folder(name)
    with pytest.raises(UserError, match="not allowed"):
        lab.records([name])


def test_runs_are_found_by_the_beginning_of_their_id(lab):
    run = lab.runs()[0]
    assert lab.records([run[:8]]).ids == [run]
    with pytest.raises(UserError, match="ambiguous"):
        find_run("a", ["ab", "ac"])
    with pytest.raises(UserError, match="no run 'zzzz'"):
        lab.records(["zzzz"])
    with pytest.raises(LabError, match="is not in lab"):
        lab.records([tiny(seed=99)])


def test_a_run_of_records_is_named_by_the_beginning_of_its_id(lab):
    records = lab.records()
    run = records.ids[0]
    assert records.all_metrics(run[:8]) == records.all_metrics(run)
    assert records.model_files(run[:8]) == records.model_files(run)
    assert records.model(run[:8]).state_dict().keys() == records.model(run).state_dict().keys()
    assert get_all_checkpoints(records, run[:8]) == get_all_checkpoints(records, run)
    assert lab.records(run[:8]).ids == [run]
    for ask in (records.all_metrics, records.model_files, records.model):
        with pytest.raises(UserError, match="no run 'nope' among 4 runs"):
            ask("nope")


def test_records_say_what_was_asked_and_what_came_out(lab):
    records = lab.records()
    runs = records.runs()
    assert runs["state"].to_list() == ["done"] * 4
    assert runs["step"].to_list() == [12, 12, 8, 12]
    curves = records.curves()
    assert curves["run"].unique(maintain_order=True).to_list() == records.ids
    steps = {run: curves.filter(run=run)["step"].to_list() for run in records.ids}
    assert list(steps.values()) == [[0, 1, 2, 3, 5, 10, 12]] * 2 + [[0, 1, 2, 3, 5, 8], [0, 1, 2, 3, 5, 10, 12]]
    assert {"model", "seed", "n_steps"} <= set(curves.columns)
    assert not curves.select("train_loss", "valid_loss", "l2_norm").null_count().sum_horizontal().item()
    assert set(records.extrema()["run"]) == set(records.ids)


def test_kept_models_are_the_ones_that_were_measured(lab):
    records = lab.records()
    run = records.ids[0]
    assert list(records.model_files(run)) == [0, 6, 12]
    norm = torch.cat([p.detach().flatten() for p in records.model(run).parameters()]).norm().item()
    assert norm == pytest.approx(records.curves().filter(run=run)["l2_norm"][-1], rel=1e-6)
    with pytest.raises(LabError, match="no model of step 7; kept: 0 6 12"):
        records.model(run, step=7)


def test_the_practicals_reading_of_checkpoints(lab):
    records = lab.records(lab.runs()[:2])
    files, metrics = get_all_checkpoints(records, records.ids[0])
    assert [path.stem for path in files] == ["000000000", "000000006", "000000012"]
    assert metrics["all_steps"] == [0, 1, 2, 3, 5, 10, 12]
    models, together = get_all_checkpoints_per_trials(records, just_files=False)
    assert len(models) == 2
    assert isinstance(models[1][0], torch.nn.Module)
    assert together["test"]["accuracy"][0] == metrics["test"]["accuracy"]
    extrema = shoal.analysis.get_extrema_performance_steps_per_trials(together)
    assert extrema["min_train_loss"] == pytest.approx(records.extrema()["train_loss"].mean())


def test_every_session_says_with_what_it_was_made(lab):
    for folder in lab.records().cohorts():
        (session,) = folder.status()["sessions"]
        assert session["torch"] == torch.__version__
        assert {"shoal", "device", "precision", "threads", "git_commit", "processor", "time"} <= set(session)


COLUMNS = schema_of(EQUATIONS.columns)
ROWS = pl.DataFrame(
    {"run": ["a", "b"], "step": [1, 2], **{name: [0.5, 0.25] for name in list(COLUMNS)[2:]}}, schema_overrides=COLUMNS
)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_flipped_bit_and_any_truncation_of_the_metrics_is_found(tmp_path_factory, data):
    path = write_frame(tmp_path_factory.mktemp("flip") / "000000", ROWS)
    assert read_frame(path, EQUATIONS.columns).equals(ROWS)
    content = bytearray(path.read_bytes())
    if data.draw(st.booleans(), label="truncate"):
        del content[data.draw(st.integers(0, len(content) - 1), label="length") :]
    else:
        content[data.draw(st.integers(0, len(content) - 1), label="byte")] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(content)
    with pytest.raises(LabError, match=r"000000-\w+\.parquet is damaged"):
        read_frame(path)


@pytest.mark.parametrize(
    "frame",
    [
        ROWS.drop("valid_loss"),
        ROWS.with_columns(pl.col("train_loss").cast(pl.Float64)),
        ROWS.with_columns(pl.col("step").cast(pl.String)),
        ROWS.with_columns(pl.lit("x").alias("norm")),
    ],
)
def test_a_table_of_something_else_is_named_also_where_its_checksum_is_right(tmp_path, frame):
    with pytest.raises(LabError, match="is not a table of metrics"):
        read_frame(write_frame(tmp_path / "000000", frame), EQUATIONS.columns)


def test_a_lab_whose_making_was_killed_is_still_a_lab_to_be(tmp_path):
    (tmp_path / "lab").mkdir()
    (tmp_path / "lab" / ".shoal-lab.json.0a1b2c3d.tmp").write_text("{")
    shoal.train([tiny()], tmp_path / "lab", workers=1)
    assert Lab(tmp_path / "lab").records().runs()["state"].to_list() == ["done"]


def test_runs_of_an_earlier_trajectory_are_trained_anew_and_never_shown_as_these(tmp_path, monkeypatch):
    path, spec = tmp_path / "lab", tiny(n_steps=4)
    with monkeypatch.context() as earlier:
        earlier.setattr(LSTMSettings, "trajectory", 1)
        shoal.train([tiny(n_steps=4)], path, workers=1)
        (old,) = Lab(path).runs()
    assert spec.id != old
    with pytest.raises(LabError, match=rf"run {old} is of an earlier version of shoal, whose lstm trained differently"):
        Lab(path).records().specs  # noqa: B018 (reading is the point)
    assert shoal.train([spec], path, workers=1).ids == [spec.id]
    assert Lab(path).runs() == [old, spec.id]
    assert Lab(path).records([spec]).specs == {spec.id: spec}
