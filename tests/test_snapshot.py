"""A report is of one moment, also while its runs train."""

import re

import polars as pl
import pytest

from shoal.lab import Lab
from shoal.lab.cohort import CohortFolder
from shoal.report import write_report
from shoal.report.runs import report_runs
from shoal.spec import RunSpec
from shoal.studies import Form, Results, sanity

SPECS = [RunSpec(model=model, p=5, n_steps=1000, eval_first=0, eval_period=100, seed=0) for model in ("lstm", "gpt")]
SESSION = {
    "shoal": "0", "git_commit": None, "torch": "0", "python": "3", "processor": "p", "device": "cpu",
    "precision": "float32", "threads": 1,
}  # fmt: skip


def rows(steps: range) -> pl.DataFrame:
    return pl.concat(
        pl.DataFrame({"run": spec.id, "step": list(steps)}).with_columns(
            pl.lit(0.5, pl.Float32).alias(name)
            for name in ("train_loss", "train_accuracy", "valid_loss", "valid_accuracy", "l2_norm")
        )
        for spec in SPECS
    )


class Training:
    """A trainer that gets on by an evaluation whenever somebody reads what was measured."""

    def __init__(self, folder: CohortFolder) -> None:
        self.folder, self.step, self.parts = folder, 300, 1
        folder.create(SPECS, threads=1)
        folder.write_metrics(0, rows(range(0, 301, 100)))
        folder.checkpoint_path.touch()
        self.tell()

    def tell(self) -> None:
        members = {spec.id: {"state": "running", "step": self.step} for spec in SPECS}
        self.folder.write_status({"members": members, "sessions": [SESSION]})

    def get_on(self) -> None:
        self.step += 100
        self.folder.write_metrics(self.parts, rows(range(self.step, self.step + 1)))
        self.parts += 1
        self.tell()


@pytest.fixture
def training(tmp_path, monkeypatch):
    lab = Lab(tmp_path / "lab").create()
    trainer = Training(lab.cohort("c"))
    read = CohortFolder.stand
    monkeypatch.setattr(CohortFolder, "is_training", lambda folder: True)

    def and_get_on(folder):
        found = read(folder)
        trainer.get_on()
        return found

    monkeypatch.setattr(CohortFolder, "stand", and_get_on)
    return lab, trainer


def test_a_snapshot_stays_as_it_was(training):
    lab, trainer = training
    records = lab.records().snapshot()
    trainer.get_on()
    trainer.get_on()
    assert records.curves()["step"].max() == 300
    assert records.runs()["step"].to_list() == [300, 300]
    assert records.snapshot().extrema()["last_step"].to_list() == [300, 300]
    assert lab.records().curves()["step"].max() > 300  # while the lab goes on


def test_a_run_stands_where_its_last_row_is(training):
    lab, trainer = training
    trainer.folder.write_metrics(1, rows(range(400, 401)))  # a trainer writes its status last
    assert lab.records().snapshot().runs()["step"].to_list() == [400, 400]


@pytest.mark.parametrize("study", [False, True])
def test_a_report_made_while_its_runs_train_is_of_one_moment_and_says_so(training, tmp_path, study):
    lab, _ = training
    records = lab.records()
    report = sanity.report(Results(records), Form()) if study else report_runs(records, "shoal report")
    figures = [figure for section in report.sections for figure in section.figures]
    last = {row["step"] for f in figures for rows in f.spec["datasets"].values() for row in rows if "value" in row}
    tables = {table.name: table for section in report.sections for table in section.tables}
    told = {cell for _, cells in tables["runs"].rows for cell in (c.text for c in cells) if "at step" in cell}
    assert max(last) == 300
    assert told == {"running at step 300"}
    assert tables["runs"].data["last_step"].to_list() == [300, 300]
    assert "Unfinished: 2 of 2 runs" in report.answers[0]  # on top of everything else
    assert set(re.findall(r"at step (\d+)", report.answers[0])) == {"300"}
    page = write_report(report, tmp_path / "page").read_text()
    assert page.index("Unfinished") < page.index("<section ")


def test_what_is_damaged_stays_damaged(training):
    lab, trainer = training
    (part,) = trainer.folder.path.glob("metrics/*.parquet")
    part.write_bytes(b"no")
    records = lab.records().snapshot()
    part.unlink()
    assert set(records.damage()) == {spec.id for spec in SPECS}
