"""Every shipped study builds and trains, and says what its runs show."""

import polars as pl
import pytest

import shoal
from shoal.report import write_report
from shoal.spec import RunSpec
from shoal.studies import NAMES, get_study, sanity
from shoal.training.plan import plan
from shoal.training.stack import Stack
from shoal.training.step import train_step


@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_every_study_builds_and_trains_one_step(name, quick):
    import torch

    study = get_study(name)
    specs = study.runs(quick, seeds=None)
    assert len(specs) == len(set(specs))
    for cohort in plan(specs):
        stack = Stack(cohort, torch.device("cpu"))
        before = stack.theta.detach().clone()
        train_step(stack, 1)
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
