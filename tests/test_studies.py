"""Every shipped study builds and trains, and says what its runs show."""

import polars as pl
import pytest
import torch

import shoal
from shoal.errors import LabError
from shoal.lab import Lab
from shoal.report import write_report
from shoal.report.figures import band, long_curves
from shoal.report.runs import report_runs
from shoal.spec import RunSpec
from shoal.studies import NAMES, get_study, sanity
from shoal.training.plan import plan
from shoal.training.stack import Stack
from shoal.training.step import train_step


@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_every_study_builds_and_trains_one_step(name, quick):
    study = get_study(name)
    specs = study.runs(quick, seeds=None)
    assert len(specs) == len(set(specs))
    for cohort in plan(specs):
        stack = Stack(cohort, torch.device("cpu"))
        before = stack.theta.detach().clone()
        train_step(stack)
        assert bool((stack.theta.detach() != before).any(dim=1).all())


def test_sanity_asks_for_the_practicals_defaults():
    specs = sanity.runs(quick=False)
    assert [(spec.model, spec.seed) for spec in specs] == [("lstm", 0), ("lstm", 42), ("gpt", 0), ("gpt", 42)]
    spec = specs[-1]
    assert (spec.p, spec.r_train, spec.num_layers, spec.embedding_size, spec.num_heads) == (31, 0.5, 2, 128, 4)
    assert (spec.train_batch_size, spec.n_steps, spec.lr, spec.weight_decay) == (512, 10_001, 1e-3, 1.0)
    assert len({spec.seed for spec in sanity.runs(quick=True)}) >= 4
    assert {spec.seed for spec in sanity.runs(quick=False, seeds=[7])} == {7}


def test_the_answer_is_computed_from_the_curves():
    curves = pl.DataFrame(
        {
            "run": ["a", "a", "b", "b"],
            "model": ["gpt"] * 4,
            "step": [10, 500, 10, 500],
            "train_accuracy": [1.0, 1.0, 0.5, 1.0],
            "valid_accuracy": [0.2, 0.995, 0.1, 0.98],
        }
    )
    assert sanity.answer(curves, "gpt") == (
        "GPT: 2 of 2 runs reached training accuracy 1 (at step 255 in the median, 10 to 500), and 1 of 2 runs reached "
        "validation accuracy 0.99 (at step 500)."
    )


def test_the_report_of_sanity_has_its_four_figures_and_ten_rows(tmp_path):
    small = {"p": 5, "num_layers": 1, "embedding_size": 8, "n_steps": 6}
    specs = [RunSpec(model=model, seed=seed, **small) for model in sanity.MODELS for seed in (0, 1)]
    records = shoal.train(specs, tmp_path / "lab", workers=1)
    report = sanity.report(records, quick=True)
    page = write_report(report, tmp_path / "report")
    assert [figure.name for figure in report.sections[0].figures] == [
        "lstm-loss",
        "lstm-accuracy",
        "gpt-loss",
        "gpt-accuracy",
    ]
    (table,) = report.sections[1].tables
    assert len(table.rows) == 10
    assert table.header == ["", "LSTM", "GPT"]
    assert "N = 2" in table.caption
    for name in ("lstm-loss.pdf", "gpt-accuracy.svg", "lstm-accuracy.png"):
        assert (page.parent / "figures" / name).stat().st_size > 1000
    assert "ten-figures.tex" in page.read_text()


def test_reports_show_what_can_be_shown_of_diverged_and_perfect_runs(tmp_path):
    small = {"p": 5, "num_layers": 1, "embedding_size": 8, "n_steps": 6, "optimizer": "sgd", "clip": float("inf")}
    specs = [RunSpec(seed=0, **small), RunSpec(seed=0, lr=1e38, **small)]
    records = shoal.train(specs, tmp_path / "lab", workers=1)
    assert records.runs()["state"].to_list() == ["done", "diverged"]
    text = write_report(report_runs(records, "shoal report"), tmp_path / "report").read_text()
    assert "diverged at step" in text
    curves = pl.DataFrame(
        {"run": ["a"] * 3, "step": [1, 2, 3], "train_loss": [1.0, 0.0, 1e-6], "valid_loss": [1.0, float("nan"), 2.0]}
    )
    assert long_curves(curves, "loss").filter(split="training")["value"].to_list() == [1.0, 1e-6, 1e-6]
    assert len(band(curves, "loss").filter(split="validation")) == 2


def test_a_lab_without_results_is_said_to_be_one(tmp_path):
    lab = Lab(tmp_path / "lab").create()
    (cohort,) = plan([RunSpec(p=5)])
    lab.cohort(cohort.id).create(list(cohort.members), threads=1)
    for report in (lambda: report_runs(lab.records(), ""), lambda: sanity.report(lab.records(), quick=True)):
        with pytest.raises(LabError, match="none of these runs has been evaluated yet"):
            report()
