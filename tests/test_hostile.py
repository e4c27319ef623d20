"""A lab that someone else made is data: reading it neither hangs, nor reaches outside, nor steers the terminal."""

import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
import tracemalloc

import polars as pl
import pytest
import torch
from helpers import tiny_grid
from hypothesis import given
from hypothesis import strategies as st

import shoal
from shoal.cli import main
from shoal.errors import LabError, printable
from shoal.lab.files import LARGEST_JSON, read
from shoal.lab.frames import read_frame, write_frame
from shoal.lab.tensors import load_tensors, save_tensors
from shoal.report import Report, Section, write_report
from shoal.report.console import print_table
from shoal.report.markdown import to_markdown
from shoal.report.table import Cell, Table
from shoal.spec.identity import identify
from shoal.training.loop import Options, train_cohort

pytestmark = pytest.mark.usefixtures("without_pictures")

ESCAPES = "\x1b[31mred \x07 \x9b2J \u202e"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A lab with one cohort of two runs, trained to its end."""
    path = tmp_path_factory.mktemp("made") / "lab"
    shoal.train(tiny_grid({}, seed=[0, 1]), lab=path)
    return path


@pytest.fixture
def lab(made, tmp_path):
    """A copy of it."""
    return shoal.Lab(shutil.copytree(made, tmp_path / "lab"))


def changed(folder, name, change):
    """Change a JSON file of a cohort as who made the lab could."""
    path = folder.path / name
    content = json.loads(path.read_text())
    content.pop("sha256", None)
    change(content)
    path.write_text(json.dumps(content))


def resettled(folder, **settings):
    """Give the first run of a cohort settings, and all that names it the id that they have."""
    manifest = json.loads((folder.path / "cohort.json").read_text())
    before = manifest["members"][0]["run"]
    after = identify({**manifest["members"][0]["spec"], **settings})
    changed(folder, "cohort.json", lambda content: content["members"][0]["spec"].update(settings))
    for name in ("cohort.json", "status.json"):
        path = folder.path / name
        path.write_text(path.read_text().replace(before, after))
    status = json.loads((folder.path / "status.json").read_text())
    status.pop("sha256", None)
    (part,) = (folder.path / "metrics").iterdir()
    rows = read_frame(part).with_columns(pl.col("run").replace(before, after))
    status["metrics"] = [write_frame(part.with_name("000000"), rows).name]
    part.unlink()
    (folder.path / "status.json").write_text(json.dumps(status))
    vars(folder).pop("_checked_manifest", None)


def everything_under(path):
    return {item: item.lstat().st_mtime_ns for item in path.rglob("*")}


@pytest.mark.parametrize("threads", [100_000, 0, -1, 2**70])
def test_threads_that_no_machine_starts_are_refused(lab, threads):
    (folder,) = lab.cohorts()
    changed(folder, "cohort.json", lambda content: content.update(threads=threads))
    with pytest.raises(LabError, match="threads"):
        folder.manifest()


@pytest.mark.parametrize("name", ["../../../../etc", "[/bold]", "", "ABCDEF0123456789", "0123456789abcdef\n"])
def test_an_id_that_is_none_is_refused(lab, name):
    (folder,) = lab.cohorts()
    changed(folder, "cohort.json", lambda content: content["members"][0].update(run=name))
    with pytest.raises(LabError, match="run"):
        folder.manifest()


@pytest.mark.parametrize("what", ["last_steps", "steps", "members", "finished"])
def test_a_checkpoint_trains_nothing_but_its_runs_to_their_ends(tmp_path, what):
    folder = shoal.Lab(tmp_path / "lab").create().cohort("c")
    specs = tiny_grid({}, seed=range(2))
    folder.create(specs, threads=1)
    asked = iter(range(5))
    assert train_cohort(folder, Options(stop=lambda: next(asked, None) is None)) == "interrupted"
    state, metadata = load_tensors(folder.checkpoint_path)
    where = json.loads(metadata["where"])
    if what == "last_steps":
        state["last_steps"] = torch.full_like(state["last_steps"], 10**12)
    elif what == "steps":
        state["steps"] = torch.full_like(state["steps"], -(10**12))
    elif what == "members":
        where["members"][0] = "f" * 16
    else:
        where["finished"]["f" * 16] = {"state": "done", "step": 10**6}
    save_tensors(folder.checkpoint_path, state, {**metadata, "where": json.dumps(where)})
    with pytest.raises(LabError, match="its steps are not those of the cohort's runs"):
        train_cohort(folder, Options())


@pytest.mark.parametrize("what", ["cohort.json", "status.json", "certificate.json", "part", "model", "checkpoint"])
@pytest.mark.parametrize("how", ["pipe", "link", "folder", "device"])
def test_what_is_no_file_is_neither_waited_for_nor_followed(lab, tmp_path, what, how):
    (folder,) = lab.cohorts()
    run = folder.manifest()["members"][0]["run"]
    (part,) = (folder.path / "metrics").iterdir()
    model = next(iter(folder.models(run).values()))
    path = {"part": part, "model": model, "checkpoint": folder.checkpoint_path}.get(what, folder.path / what)
    kept = tmp_path / "kept"
    path.rename(kept) if path.exists() else kept.write_bytes(b"")
    if how == "pipe":
        os.mkfifo(path)
    elif how == "folder":
        path.mkdir()
    else:
        path.symlink_to(kept if how == "link" else "/dev/zero")
    acts = {
        "cohort.json": lambda: lab.cohort(folder.id).manifest(),
        "status.json": folder.status,
        "certificate.json": folder.certificate,
        "part": folder.metrics,
        "model": lambda: lab.records().model(run),
        "checkpoint": folder.load_checkpoint,
    }
    with pytest.raises(LabError, match=r"a link|regular file|cannot be read"):
        acts[what]()


@pytest.mark.parametrize("inner", ["", "metrics", "models", "models/RUN"])
def test_no_folder_of_a_cohort_leads_elsewhere(lab, tmp_path, inner):
    (folder,) = lab.cohorts()
    run = folder.manifest()["members"][0]["run"]
    path, outside = folder.path / inner.replace("RUN", run), tmp_path / "outside"
    path.rename(outside)
    path.symlink_to(outside)
    before = everything_under(outside)
    lines = io.StringIO()
    with contextlib.redirect_stderr(lines), contextlib.redirect_stdout(lines):
        for command in ("resume", "runs", "report"):
            assert main([command, "--lab", str(lab.path)]) in (0, 1, 2)
    with pytest.raises(LabError, match="is a link"):
        train_cohort(folder, Options())
    assert everything_under(outside) == before
    assert "is a link" in lines.getvalue()


@pytest.mark.parametrize("inner", ["reports", "reports/runs", "reports/runs/figures", "reports/runs/tables"])
def test_no_report_is_written_elsewhere(lab, tmp_path, capsys, inner):
    path, outside = lab.path / inner, tmp_path / "outside"
    outside.mkdir()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(outside)
    assert main(["report", "--lab", str(lab.path)]) == 2
    assert not list(outside.iterdir())
    assert "is a link" in capsys.readouterr().err


def test_a_lab_may_lie_behind_a_link(lab, tmp_path):
    (tmp_path / "link").symlink_to(lab.path)
    assert len(shoal.Lab(tmp_path / "link").records().runs()) == 2


def test_large_files_are_not_read(lab, monkeypatch):
    (folder,) = lab.cohorts()
    with (folder.path / "status.json").open("r+b") as file:
        file.truncate(3 * 2**30)  # of which the disk holds nothing
    with pytest.raises(LabError, match="3,221,225,472 bytes"):
        folder.status()


def test_a_part_that_claims_too_many_rows_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr("shoal.lab.frames._MOST_ROWS", 99)
    path = write_frame(tmp_path / "000000", pl.DataFrame({"step": range(100)}))
    with pytest.raises(LabError, match="100 rows"):
        read_frame(path)


@given(text=st.text(st.characters(codec="utf-8")))
def test_what_is_printed_steers_no_terminal(text):
    assert not any(sign < " " or "\x7f" <= sign < "\xa0" for sign in printable(text))
    assert len(printable(text)) == len(text)


def test_cells_are_text(capsys):
    table = Table(
        "t", ["setting", "[bold]x"], [("[/bold]", [Cell("[red]1[/red]", best=True)]), (ESCAPES, [Cell("[")])], ""
    )
    print_table(table)
    out = capsys.readouterr().out
    assert "[/bold]" in out and "[red]1[/red]" in out and "[bold]x" in out
    assert "\x1b[31m" not in out and "\x9b" not in out and "\x07" not in out


def test_settings_that_are_no_settings_are_shown_as_text(lab, capsys):
    (folder,) = lab.cohorts()

    resettled(folder, operator=f"[/bold]{ESCAPES}<script>")
    run = folder.manifest()["members"][0]["run"]
    assert main(["runs", "--lab", str(lab.path)]) == 0
    assert "<script>" in (shown := capsys.readouterr().out) and run[:8] in shown  # it is a run like any other
    for command in ("runs", "resume", "report"):
        assert main([command, "--lab", str(lab.path)]) in (0, 1, 2)
        said = "".join(capsys.readouterr())
        assert "Traceback" not in said and "\x1b[31m" not in said and "\x9b" not in said


def test_reports_hold_no_elements_but_their_own(tmp_path):
    evil = "<script>alert(1)</script> [a](javascript:b) <!--VEGA--> </script><img src=x>"
    table = Table("t", [evil, evil], [(evil, [Cell(evil)])], evil)
    report = Report(evil, evil, [Section(evil, [evil], tables=[table])], [evil])
    for text in (to_markdown(report), write_report(report, tmp_path).read_text()):
        assert "<script>alert" not in text and "<img" not in text
    assert "](javascript" not in to_markdown(report)
    assert "A_val < 0.9" in to_markdown(Report("A_val < 0.9", "", []))


def test_a_command_line_says_what_is_wrong_without_steering_the_terminal():
    command = [sys.executable, "-m", "shoal", "runs", "--lab", f"\x1b[31m{'x' * 10}\n/y"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert "\x1b" not in done.stderr + done.stdout


def test_reading_a_small_file_takes_no_memory_of_the_largest(tmp_path):
    (tmp_path / "x").write_bytes(b"{}")
    tracemalloc.start()
    try:
        assert read(tmp_path / "x", LARGEST_JSON) == b"{}"
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()
