"""A lab of which something is damaged: the file is named, and the rest goes on."""

import json
import re
import shutil

import polars as pl
import pytest
from damaging import the_note
from helpers import rewrite, tiny_grid

import shoal
from shoal.cli import main
from shoal.errors import LabError
from shoal.lab import Lab, Records
from shoal.lab.cohort import CohortFolder
from shoal.lab.files import read_json

pytestmark = pytest.mark.usefixtures("without_pictures")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Two cohorts of two finished runs each, LSTMs and GPTs."""
    path = tmp_path_factory.mktemp("damage") / "lab"
    specs = tiny_grid({"n_steps": 4}, seed=[0, 1]) + tiny_grid({"model": "gpt", "n_steps": 4}, seed=[0, 1])
    shoal.train(specs, path, workers=1)
    lab = Lab(path)
    lab.note_study("sanity", "quick", {"quick": True, "runs": lab.runs()})
    for folder in lab.cohorts():
        folder.write_certificate({"steps": 1, "members": 2, "alone": {}, "record": None})
    return path


@pytest.fixture
def lab(whole, tmp_path):
    """A copy to damage."""
    return Lab(shutil.copytree(whole, tmp_path / "lab"))


READERS = {
    "cohort.json": lambda lab, folder: folder.manifest(),
    "status.json": lambda lab, folder: folder.status(),
    "certificate.json": lambda lab, folder: folder.certificate(),
    "quick.json": lambda lab, folder: the_note(lab),
}


def every_change(value):
    """The value with one of its parts replaced by something of another type, or left out, for each part in turn."""
    yield "nothing"
    if isinstance(value, dict):
        for key in value:
            yield {other: value[other] for other in value if other != key}
            for change in every_change(value[key]):
                yield {**value, key: change}
    if isinstance(value, list):
        for place in range(len(value)):
            for change in every_change(value[place]):
                yield [*value[:place], change, *value[place + 1 :]]


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("content", ["{}", "[]", "null", "3", '{"members": [{}]}', '{"members": {"a": 1}}', "{"])
def test_a_file_that_holds_something_else_is_named_in_one_line(lab, name, content):
    folder = lab.cohorts()[0]
    path = (lab.path / "studies" / "sanity" if name == "quick.json" else folder.path) / name
    path.write_text(content)
    with pytest.raises(LabError, match=f"{re.escape(str(path))} is damaged") as failure:
        READERS[name](lab, folder)
    assert "\n" not in str(failure.value)


@pytest.mark.parametrize("name", ["cohort.json", "status.json"])
def test_whatever_is_changed_where_there_is_no_checksum_is_read_or_refused(lab, name):
    path = lab.cohorts()[0].path / name
    refused = 0
    for content in every_change(read_json(path)):
        path.write_text(json.dumps(content))
        folder = CohortFolder(path.parent)
        try:
            folder.status()
            Records({spec.id: folder for spec in folder.specs()}).runs()
        except LabError as error:
            assert str(path) in str(error)
            refused += 1
    assert refused > 10


# what is done to the first of the two cohorts, and the file that is named
DAMAGES = {
    "checksum": (lambda folder: flip(next((folder.path / "metrics").iterdir())), r"metrics/000000-\w+\.parquet"),
    "metrics": (lambda folder: shutil.rmtree(folder.path / "metrics"), "metrics"),
    "status": (lambda folder: (folder.path / "status.json").write_text("{}"), "status.json"),
    "another's status": (lambda folder: rename_runs(folder), "status.json"),
}


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def rename_runs(folder):
    status = folder.status()
    status["members"] = {run[::-1]: member for run, member in status["members"].items()}
    folder.write_status(status)


@pytest.mark.parametrize("how", DAMAGES)
def test_runs_and_reports_show_the_others_and_name_what_is_damaged(lab, how, capsys):
    damaged, sound = lab.cohorts()
    lost, kept = ([member["run"] for member in folder.manifest()["members"]] for folder in (damaged, sound))
    damage, named = DAMAGES[how]
    damage(damaged)
    path = ["--lab", str(lab.path)]
    told = rf"Damaged: 2 of 4 runs \({lost[0][:8]}, {lost[1][:8]}\): {damaged.path}/{named} is damaged.*"
    told += rf"; move {damaged.path} out of the lab to train it anew.*\."

    assert main(["runs", *path]) == 1
    *rows, last = capsys.readouterr().out.splitlines()
    assert re.fullmatch(told, last)
    shown = {row.split()[0]: row for row in rows}
    assert all("damaged" in shown[run] and row_figures(shown[run]) == ["–"] * 6 for run in lost)
    assert all("done" in shown[run] and "–" not in row_figures(shown[run])[:5] for run in kept)  # the sixth: a delay

    assert main(["report", *path]) == 1
    page = (lab.path / "reports" / "runs" / "report.md").read_text()
    assert re.search(told, page)
    assert "2 runs in 1 setting" in page
    assert main(["report", "sanity", *path]) == 1
    assert re.search(told, (lab.path / "reports" / "sanity-quick" / "report.md").read_text())
    assert main(["report", lost[0], *path]) == 2
    assert re.search(rf"every one of these 1 runs is damaged: {damaged.path}/{named}", capsys.readouterr().err)

    assert main(["resume", *path]) == 1
    out = capsys.readouterr().out
    assert "every run of the lab that is not damaged is finished" in out
    assert re.search(told, out)


def row_figures(row):
    return row.split()[-6:]


def test_a_lost_last_file_of_metrics_is_noticed_as_well_as_one_before(lab):
    folder = lab.cohorts()[0]
    metrics = folder.metrics()
    rewrite(folder, metrics.filter(pl.col("step") < 4), metrics.filter(pl.col("step") == 4))
    assert lab.records().damage() == {}
    first, last = sorted((folder.path / "metrics").iterdir())
    content = last.read_bytes()
    last.unlink()
    assert len(lab.records().damage()) == 2
    last.write_bytes(content)
    first.unlink()
    with pytest.raises(LabError, match="file 000000 is missing"):
        lab.records().curves()


def test_a_run_that_has_not_got_to_its_first_row_is_not_damaged(lab):
    folder = lab.cohorts()[0]
    status = folder.status()
    for member in status["members"].values():
        member |= {"state": "waiting", "step": 0}
    folder.write_status({**status, "metrics": []})
    shutil.rmtree(folder.path / "metrics")
    assert lab.records().damage() == {}


def test_a_cohort_of_which_the_runs_cannot_be_known_stops_none_of_the_others(lab, capsys):
    damaged, sound = lab.cohorts()
    lost, kept = ([member["run"] for member in folder.manifest()["members"]] for folder in (damaged, sound))
    specs = damaged.specs()
    (damaged.path / "cohort.json").write_text("{}")
    path = ["--lab", str(lab.path)]
    told = f"which runs cohort {damaged.id} holds cannot be known: {damaged.path}/cohort.json is damaged: "

    assert main(["runs", *path]) == 1
    out = capsys.readouterr().out
    assert all(run in out for run in kept)
    assert out.splitlines()[-1].startswith(told)
    assert main(["report", *path]) == 1
    assert told in (lab.path / "reports" / "runs" / "report.md").read_text()
    assert main(["report", "sanity", *path]) == 1
    page = (lab.path / "reports" / "sanity-quick" / "report.md").read_text()
    assert re.search(rf"Damaged: 2 of 4 runs \(.*\): {told}", page)
    assert main(["report", lost[0], *path]) == 2
    assert told in capsys.readouterr().err
    assert main(["resume", *path]) == 1
    assert told in capsys.readouterr().out

    said = []
    (new,) = tiny_grid({"n_steps": 4}, seed=[7])
    assert shoal.train([new], lab, workers=1, say=said.append).runs()["state"].to_list() == ["done"]
    assert [line for line in said if line.startswith(f"warning: {told}")]
    before = {path: path.read_bytes() for path in damaged.path.rglob("*") if path.is_file()}
    with pytest.raises(LabError, match=rf"cohort {damaged.id}, whose cohort.json is damaged or missing; move"):
        shoal.train(specs, lab, workers=1)
    assert {path: path.read_bytes() for path in damaged.path.rglob("*") if path.is_file()} == before
    shutil.rmtree(damaged.path)
    assert shoal.train(specs, lab, workers=1).damage() == {}


def test_a_damaged_status_stops_the_training_of_its_own_runs_alone(lab):
    damaged = lab.cohorts()[0]
    (damaged.path / "status.json").write_text("{}")
    shoal.train(tiny_grid({"n_steps": 4}, seed=[7]), lab, workers=1)
    assert lab.unfinished() == []
    with pytest.raises(LabError, match=f"{damaged.path}/status.json is damaged.*; move {damaged.path}"):
        shoal.train(damaged.specs(), lab, workers=1)


def test_of_a_damaged_checkpoint_or_model_it_is_said_what_to_do(lab):
    folder = lab.cohorts()[0]
    folder.checkpoint_path.write_bytes(b"damaged")
    with pytest.raises(
        LabError, match=f"checkpoint.safetensors is damaged: .*; move {folder.path} out of the lab to train it anew"
    ):
        folder.load_checkpoint()
    run = next(iter(folder.status()["members"]))
    path = next(iter(folder.models(run).values()))
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(
        LabError, match=f"safetensors is damaged: .*; move {folder.path} out of the lab to train it anew"
    ):
        lab.records().model(run)


def test_without_its_status_a_finished_cohort_is_damaged_and_not_new(lab, capsys):
    folder = lab.cohorts()[0]
    (folder.path / "status.json").unlink()
    assert main(["runs", "--lab", str(lab.path)]) == 1
    assert f"status.json is missing; move {folder.path} out of the lab to train it anew" in capsys.readouterr().out
    before = [path.read_bytes() for path in sorted((folder.path / "metrics").iterdir())]
    main(["resume", "--lab", str(lab.path)])
    assert [path.read_bytes() for path in sorted((folder.path / "metrics").iterdir())] == before


def test_a_damaged_certificate_is_named_in_the_report_and_nothing_else_is_lost(lab):
    path = lab.cohorts()[0].path / "certificate.json"
    path.write_text("{}")
    assert main(["report", "--lab", str(lab.path)]) == 0
    assert f"{path} is damaged" in (lab.path / "reports" / "runs" / "report.md").read_text()
