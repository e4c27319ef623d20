"""Findings on top of a page of any runs are computed from them; restarts of EM are no replicates."""

import numpy as np
import polars as pl
import pytest
from helpers import TINY

import shoal
from shoal.analysis.fits import best_of_restarts
from shoal.lab import Lab
from shoal.report.findings import findings
from shoal.report.fits import fits_sentences
from shoal.report.runs import report_runs
from shoal.spec import RunSpec, grid
from shoal.studies import Results
from shoal.studies.own_axes import own_grid
from shoal.studies.own_grid import report_own_grid

SEQUENCES = {"task": "sequences", "drawn_states": 2, "drawn_sequences": 12, "drawn_length": 15, "drawn_size": 4}


@pytest.fixture(scope="module")
def equations(tmp_path_factory):
    """Two settings of three seeds; the training equations are so few that some runs memorise them."""
    path = tmp_path_factory.mktemp("found") / "lab"
    base = {**TINY, "model": "lstm", "lr": 0.03, "n_steps": 80, "eval_period": 10, "r_train": 0.3}
    shoal.train(grid(RunSpec(**base), weight_decay=[0.0, 1.0], seed=[0, 1, 2]), path, workers=1)
    return Lab(path)


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """Two numbers of states, four restarts each, few updates."""
    path = tmp_path_factory.mktemp("fitted") / "lab"
    base = RunSpec(**SEQUENCES, n_steps=12, eval_first=3, eval_period=4)
    shoal.train(grid(base, num_states=[2, 3], seed=range(4)), path, workers=1)
    return Lab(path)


def test_a_page_of_equations_begins_with_who_memorised_and_generalised_when_and_the_best(equations):
    records = equations.records()
    report = report_runs(records, "shoal report")
    told, medians = report.answers
    best = records.extrema()
    memorised = best.filter(pl.col("train_accuracy") >= np.float32(0.99)).height
    assert memorised > 0
    which = "all" if memorised == 6 else f"{memorised} of 6"
    assert told.startswith(f"LSTM, 6 runs: {which} memorised (A_train ≥ 0.99; ")
    generalised = best.filter(pl.col("valid_accuracy") >= np.float32(0.99)).height
    assert generalised == 0 and "none generalised (A_val ≥ 0.99)" in told
    top = best.sort("valid_accuracy", "valid_loss", descending=[True, False]).row(0, named=True)
    assert f"best A_val {top['valid_accuracy']:.4f}, of run {top['run'][:8]} (weight_decay " in told
    assert "--by" in medians


def test_medians_are_of_all_runs_and_those_that_did_not_get_there_count_as_later(equations):
    records = equations.records()
    curves = records.curves().filter(pl.col("train_accuracy") >= np.float32(0.99))
    steps = curves.group_by("run").agg(pl.col("step").min())["step"].sort().to_list()
    steps += [np.inf] * (6 - len(steps))
    told = findings(records, dict.fromkeys(records.ids, "LSTM"))[0]
    if np.isfinite(steps[3]):
        assert f"median step {(steps[2] + steps[3]) / 2:g} [" in told
    elif np.isfinite(steps[2]):
        assert f"median step ≥ {steps[2]:g}" in told
    else:
        assert "no median step" in told


def test_text_is_told_by_its_smallest_validation_loss(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("the quick brown fox jumps over the lazy dog " * 20)
    base = {"task": "text", "text": str(path), "model": "gpt", "context_length": 8, "n_steps": 6, "eval_period": 3}
    spec = RunSpec(**base, embedding_size=8, num_heads=2, num_layers=1, train_batch_size=4)
    records = shoal.train(grid(spec, seed=[0, 1]), tmp_path / "lab", workers=1)
    (told,) = report_runs(records, "shoal report").answers
    top = records.extrema().sort("valid_loss").row(0, named=True)
    assert told.startswith(
        f"GPT, 2 runs: best L_val {top['valid_loss']:.4g} nats per token, of run {top['run'][:8]} (seed "
    )
    assert f"at step {top['t_valid_loss']:,}" in told
    assert "memorised" not in told


def test_of_hidden_markov_models_the_best_restart_is_told_and_what_has_not_converged_first(fitted):
    records = fitted.records()
    fits = records.fits()
    answers = report_runs(records, "shoal report").answers
    late = fits.filter(~pl.col("converged")).height
    assert late and answers[0].startswith(f"EM of {late} of 8 runs had not converged after ")
    assert not any("memorised" in answer or "L_val" in answer for answer in answers)
    states = pl.DataFrame([(run.id, run.spec.num_states) for run in records], ["run", "K"], orient="row")
    best = best_of_restarts(fits.join(states, on="run"), ["K"]).sort("K").to_dicts()
    for row in best:
        (told,) = [answer for answer in answers if answer.startswith(f"HMM, num_states {row['K']}: ")]
        assert row["run"][:8] in told and f"{row['log_likelihood']:,.2f}".replace("-", "−") in told
        assert (f"by {row['again']} of 4" if row["again"] > 1 else "once in 4") in told
    (chosen,) = [answer for answer in answers if "AIC" in answer and "choose" in answer]
    assert f"num_states {min(best, key=lambda row: row['bic'])['K']}" in chosen


def test_criteria_compare_fits_of_the_same_sequences_alone(fitted):
    fits = fitted.records().fits().with_columns(setting=pl.col("run").str.head(1))
    assert any("choose" in text for text in fits_sentences(fits, one_data_set=True))
    assert not any("choose" in text for text in fits_sentences(fits, one_data_set=False))
    converged = fits.with_columns(converged=pl.lit(True))
    assert not any("had not converged" in text for text in fits_sentences(converged, one_data_set=True))


def by_states(results, sources=None):
    return report_own_grid(own_grid(results, ["num_states"], None, None), sources or {"lab": results}, "shoal report")


def test_by_a_setting_restarts_are_neither_averaged_nor_tested(fitted):
    results = Results(fitted.records())
    report = by_states(results)
    names = [table.name for section in report.sections for table in section.tables]
    assert names[0] == "fits"
    assert not any(name.startswith(("trends", "pairs", "times", "by-")) for name in names)
    assert not any("p = " in answer or "ρ" in answer or "±" in answer for answer in report.answers)
    best = report.sections[0].tables[0]
    assert [label for label, _ in best.rows] == ["num_states 2", "num_states 3"]
    assert {"AIC", "BIC", "held out [95 %]", "found again", "converged"} <= set(best.header)
    held = dict(fitted.records().fits().select("run", "valid_log_likelihood").rows())
    assert best.data["valid_log_likelihood"].to_list() == [held[run] for run in best.data["run"]]
    assert report.answers[0].startswith("EM of ") and any("choose" in answer for answer in report.answers)


def test_of_several_sets_of_sequences_no_criterion_chooses(tmp_path):
    base = RunSpec(**SEQUENCES, num_states=2, n_steps=4)
    records = shoal.train(grid(base, data_seed=[0, 1], seed=[0, 1]), tmp_path / "lab", workers=1)
    results = Results(records)
    report = report_own_grid(own_grid(results, ["data_seed"], None, None), {"lab": results}, "shoal report")
    assert not any("choose" in answer for answer in report.answers)
    assert [cell.best for _, cells in report.sections[0].tables[0].rows for cell in cells] == [False] * 18
    assert any("AIC and BIC compare none" in answer for answer in report.answers)
