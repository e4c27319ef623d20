"""Fits of hidden Markov models that fail, or score sequences that they hold impossible: in the lab and on its pages."""

import json
import math
import shutil

import numpy as np
import pytest

import shoal
from shoal.errors import UserError
from shoal.hmm import HMM, Sequences, maximised
from shoal.hmm.selection import best_of
from shoal.lab import Lab
from shoal.lab.check import examine
from shoal.lab.tensors import load_tensors, save_tensors
from shoal.report.runs import report_runs
from shoal.spec import RunSpec, grid
from shoal.studies import Form, Results, get_study
from shoal.studies.hmm_pages import states_sentences
from shoal.studies.own_axes import own_grid
from shoal.studies.own_grid import report_own_grid
from shoal.tasks.sequences.data import resampled
from shoal.training.certificate import certify
from shoal.training.loop import Options, train_cohort
from shoal.training.plan import plan

SEEN, UNSEEN = "0 1 0 1\n", "0 0 1 2\n"  # no sequence that trains holds a 2
PLACE = "symbol '2' at position 3 of sequence 1 is impossible"


def of_lines(path, text, **settings) -> RunSpec:
    path.write_text(text)
    given = {"observations": str(path), "valid_share": 0.5, "n_steps": 5, "tolerance": 0.0}
    return RunSpec(**{"task": "sequences", **given, **settings})


@pytest.fixture(scope="module")
def impossible(tmp_path_factory):
    """Records of runs whose validation sequences hold a symbol that did not train, and one whose sequences do not."""
    folder = tmp_path_factory.mktemp("impossible")
    base = of_lines(folder / "a.txt", (SEEN + UNSEEN) * 4)
    return shoal.train(grid(base, num_states=[1, 2], seed=[0, 1]), folder / "lab")


def test_an_impossible_sequence_that_was_held_out_is_named_and_is_no_fault_of_the_fit(impossible):
    fits = impossible.fits()
    assert fits["valid_log_likelihood"].to_list() == [-math.inf] * 4
    assert fits["valid_problem"].to_list() == [PLACE] * 4
    assert fits["problem"].to_list() == [""] * 4  # it says nothing of training
    assert impossible.runs()["state"].to_list() == ["done"] * 4
    assert math.isfinite(fits["log_likelihood"].min())
    report = report_runs(impossible, "shoal report")
    (told,) = [answer for answer in report.answers if answer.startswith("Held out")]
    assert "2 of 2 settings is −∞" in told and told.count(PLACE) == 2
    assert any("AIC" in answer and "held-out" not in answer for answer in report.answers if "choose" in answer)
    (table,) = [table for section in report.sections for table in section.tables if table.name == "fits"]
    column = table.header.index("held out [95 %]") - 1
    assert {cells[column].text for _, cells in table.rows} == {"−∞"}


def test_pages_by_a_setting_say_so_too(impossible):
    results = Results(impossible)
    report = report_own_grid(own_grid(results, ["num_states"], None, None), {"lab": results}, "shoal report")
    assert any(PLACE in answer for answer in report.answers)


def test_a_study_compares_no_number_of_states_by_what_all_hold_impossible(tmp_path):
    text = "ab" * 25 + "ba" * 25  # blocks of 10, of which every other validates
    (tmp_path / "a.txt").write_text(text * 3 + "ab" * 9 + "#b" + text)
    study = get_study("letters")
    settings = {"text": [str(tmp_path / "a.txt")], "alphabet": ["chars"], "block_length": ["10"], "n_steps": ["3"]}
    settings |= {"num_states": ["1", "2"], "seed": ["0"], "valid_share": ["0.5"]}
    form = Form(quick=True, settings=settings)
    specs = form.specs(study)
    data = specs[0].task_part.data()
    (block,) = np.flatnonzero([data.symbols.index("#") in row for row in data.values.reshape(-1, 10)])
    assert data.is_valid[block]
    shoal.train(specs, tmp_path / "lab", workers=1)
    records = Lab(tmp_path / "lab").records(spec.id for spec in specs)
    measured = study.measure_models(form, records)
    assert [row["held"] for row in measured["numbers"]] == [-math.inf] * 2
    assert all(math.isnan(row["below"]) for row in measured["numbers"])
    report = study.report(Results(records, json.loads(json.dumps(measured))), form)
    (told,) = [answer for answer in report.answers if answer.startswith("Held out")]
    assert f"symbol '#' at position 8 of sequence {block} is impossible" in told
    assert not any("cannot be told" in answer or "every other number" in answer for answer in report.answers)
    assert not any("nan" in answer.lower() for answer in report.answers)


def test_rounding_is_no_fall_of_a_run_however_near_0_its_likelihood_is(tmp_path):
    random = np.random.default_rng(0)
    values = np.concatenate([random.normal(0, 1, 100), random.normal(4, 1, 100)])
    fitted = best_of(Sequences(values), K=2, restarts=2, tolerance=0.0, iterations=100)
    values = values * np.exp(fitted.log_likelihood / len(values))  # of which the densities multiply to 1
    text = " ".join(map(repr, values.tolist()))
    base = of_lines(tmp_path / "a.txt", f"{text}\n{text}\n", emissions="gaussian", num_states=2, n_steps=100)
    records = shoal.train(grid(base, seed=range(3)), tmp_path / "lab")
    fits = records.fits()
    assert fits["log_likelihood"].abs().min() < 1e-6
    assert fits["problem"].to_list() == [""] * 3 and records.runs()["state"].to_list() == ["done"] * 3
    assert certify(records.cohorts()[0], records.ids[:1], 100)["fall"] < 1e-9


def test_a_likelihood_that_falls_ends_the_run_as_failed(tmp_path, monkeypatch):
    """The M-step is broken at the third update, as no data can break it."""
    base = of_lines(tmp_path / "a.txt", "0 1 0 1 1 0\n0 0 1 1 1 0\n" * 6, n_steps=9)
    updates = []

    def broken(model, counts, floor):
        """Emissions of the other state, from the third update on."""
        updates.append(1)
        found = maximised(model, counts, floor)
        other = found.permuted(np.array([[1, 0]] * len(found))).emissions
        return HMM(found.start, found.transitions, other) if len(updates) >= 3 else found

    monkeypatch.setattr("shoal.training.em.maximised", broken)
    (cohort,) = plan(grid(base, seed=range(3)))
    folder = Lab(tmp_path / "lab").create().cohort(cohort.id)
    folder.create(list(cohort.members), threads=1)
    train_cohort(folder, Options())
    records = Lab(tmp_path / "lab").records()
    runs = records.runs()
    assert runs["state"].to_list() == ["diverged"] * 3
    assert runs["problem"].str.contains("the log-likelihood fell at update 3").all()
    assert records.fits()["problem"].str.contains("fell").all()


def test_bic_of_a_resample_counts_what_was_drawn(tmp_path):
    base = of_lines(tmp_path / "a.txt", "".join("0 1 " * n + "1\n" for n in range(1, 13)), bootstrap_seed=3)
    records = shoal.train(base, tmp_path / "lab")
    (row,) = records.fits().to_dicts()
    data, one = base.task_part.data(), records.fitted(base)
    n = float(resampled(data.is_valid, 3) @ data.counts)
    assert one.observations == n != base.num_observations
    assert row["bic"] == pytest.approx(row["parameters"] * math.log(n) - 2 * row["log_likelihood"])


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ("3.0 3.0 3.0", "dimension 0 is 3 in every training sequence: a Gaussian needs data that vary"),
        ("1e-310 2e-310 3e-310", "dimension 0 varies by less than float64 can square: give it in a smaller unit"),
        ("1e-170 2e-170 3e-170", "dimension 0 varies by less than float64 can square: give it in a smaller unit"),
    ],
)
def test_data_without_a_variance_make_no_run(tmp_path, values, said):
    with pytest.raises(UserError, match=said):
        of_lines(tmp_path / "a.txt", f"{values}\n" * 4, emissions="gaussian")


def flip(path):
    content = bytearray(path.read_bytes())
    content[-20] ^= 4
    path.write_bytes(content)


def of_another_shape(path):
    tensors, metadata = load_tensors(path)
    save_tensors(path, {name: tensor[:-1].clone() for name, tensor in tensors.items()}, metadata)


def of_no_numbers(path):
    tensors, metadata = load_tensors(path)
    save_tensors(path, {name: tensor * float("nan") for name, tensor in tensors.items()}, metadata)


def without_a_fit(path):
    tensors, metadata = load_tensors(path)
    save_tensors(path, tensors, {**metadata, "fit": "5"})


def with_a_deep_fit(path):
    tensors, metadata = load_tensors(path)
    save_tensors(path, tensors, {**metadata, "fit": "[" * 50_000})


@pytest.mark.parametrize(
    "harm", [flip, of_another_shape, of_no_numbers, without_a_fit, with_a_deep_fit, lambda path: path.unlink()]
)
def test_a_model_that_cannot_be_read_is_named_and_the_others_are_shown(impossible, tmp_path, harm):
    lab = tmp_path / "lab"
    shutil.copytree(impossible.cohorts()[0].path.parent.parent, lab)
    records = Lab(lab).records()
    run, *others = records.ids
    (path,) = records.cohort_of(run).models(run).values()
    assert not examine(lab)
    harm(path)
    records = Lab(lab).records()
    assert records.fits()["run"].to_list() == others
    assert [*records.lost_fits()] == [run]
    page = report_runs(records, "shoal report")
    (said,) = [answer for answer in page.answers if answer.startswith("Left out of all fits below")]
    assert "1 run" in said and run in said and "\n" not in said
    by = report_own_grid(own_grid(Results(records), ["num_states"], None, None), {"lab": Results(records)}, "shoal")
    assert any(run in answer for answer in by.answers if answer.startswith("Left out"))
    (finding,) = examine(lab)
    assert run in finding.what and finding.is_damage


def numbers_of(*high, below=None):
    rows = [
        {"num_states": K, "held": -1.0 + 0.1 * K, "held_low": -1.2, "held_high": 0.0, "below_high": end}
        | {"aic": -K, "bic": -K, "valid_log_likelihood": -10.0, "below": -0.1 if below is None else below[K - 1]}
        for K, end in enumerate(high, 1)
    ]
    return {"numbers": rows}


def test_what_cannot_be_told_apart_is_not_enough():
    (said,) = states_sentences(numbers_of(-0.1, 0.01, 0.0))
    assert "K = 2 cannot be told from it: these sequences do not show that more than 2 help; 3 is the largest" in said
    assert "enough" not in said


def test_a_single_validation_sequence_tells_nothing_apart():
    (said,) = states_sentences(numbers_of(math.nan, math.nan, math.nan))
    assert "nothing is told apart: no difference has an interval, which takes two sequences that are not alike" in said
    assert "every other" not in said


def test_a_number_that_holds_a_sequence_impossible_is_told_from_the_others():
    (said,) = states_sentences(numbers_of(math.nan, 0.02, 0.0, below=[-math.inf, -0.1, 0.0]))
    assert "K = 2 cannot be told from it" in said and "K = 1, 2" not in said
    (said,) = states_sentences(numbers_of(math.nan, -0.02, 0.0, below=[-math.inf, -0.1, 0.0]))
    assert "every other number is below it" in said


def test_numbers_that_all_hold_a_sequence_impossible_have_no_intervals():
    (said,) = states_sentences(numbers_of(math.nan, math.nan, 0.0, below=[-math.inf, -math.inf, 0.0]))
    assert "every other number holds one of these sequences impossible; 3 is the largest" in said


def test_one_number_of_states_is_compared_with_none():
    (said,) = states_sentences(numbers_of(math.nan))
    assert said.endswith("nats per observation.")
