"""Hidden Markov models as runs of a lab: trained, killed, continued, certified, deleted, and refused."""

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import polars as pl
import pytest

import shoal
from shoal.errors import LabError, UserError
from shoal.hmm import HMM, Gaussian, Sequences, arrays_of, expected_counts, fit, native, random_models, stacked
from shoal.hmm.enumeration import enumerated
from shoal.lab import Lab
from shoal.spec import RunSpec, grid
from shoal.tasks.sequences.data import cut, held_out, resampled
from shoal.tasks.sequences.drawing import truth
from shoal.testing import ExecutorContract
from shoal.training.certificate import certify
from shoal.training.loop import Options, train_cohort
from shoal.training.plan import plan

SMALL = {"task": "sequences", "drawn_states": 2, "drawn_sequences": 12, "drawn_length": 15, "drawn_size": 4}


def small(**settings) -> RunSpec:
    return RunSpec(**{**SMALL, "n_steps": 12, "eval_first": 3, "eval_period": 4, "tolerance": 0.0, **settings})


class TestExecutorOfEM(ExecutorContract):
    settings: ClassVar[dict[str, Any]] = {**SMALL, "n_steps": 12, "tolerance": 0.0}
    other: ClassVar[dict[str, Any]] = {"num_states": 3}


def fitted_apart(spec: RunSpec):
    """The same fit by the functions on arrays; twice, because a model alone may be computed state by state."""
    data = spec.task_part.data()
    sequences = Sequences(data.values, data.lengths)
    training = sequences.subset(np.flatnonzero(~data.is_valid))
    V = spec.num_symbols or None
    start = random_models(training, spec.num_states, 1, spec.init_seed, V=V, covariance=spec.covariance)
    weights = resampled(data.is_valid, spec.bootstrap_seed)
    how = {"iterations": spec.n_steps, "tolerance": spec.tolerance, "update": spec.update}
    return fit(stacked([start, start]), sequences, weights=weights, **how), sequences, data.is_valid


CASES = {
    "categorical": {"num_states": 2},
    "six states": {"num_states": 6},
    "resampled": {"num_states": 2, "bootstrap_seed": 3},
    "gaussian": {"emissions": "gaussian", "drawn_size": 2},
    "full": {"emissions": "gaussian", "covariance": "full", "drawn_size": 2},
    "conditional": {"update": "conditional"},
}


@pytest.mark.parametrize("case", CASES)
def test_a_run_beside_others_is_the_fit_of_its_model_alone(case, tmp_path):
    specs = grid(small(**CASES[case]), seed=[0, 1, 2])
    records = shoal.train(specs, tmp_path)
    assert len(records.cohorts()) == 1
    for spec in specs:
        expected, sequences, is_valid = fitted_apart(spec)
        one = records.fitted(spec)
        for name, array in arrays_of(expected.model).items():
            assert np.array_equal(arrays_of(one.model)[name][0], array[0])
            assert array.dtype == np.float64
        assert (one.log_likelihood, one.updates) == (expected.log_likelihood[0], expected.iterations[0])
        curve = records[spec].curve()
        steps = curve["step"].to_list()
        assert steps == sorted({0, 1, 2, 3, *range(4, one.updates, 4), one.updates})
        n = sequences.seen[np.repeat(~is_valid, sequences.lengths)].sum()
        if case != "resampled":
            assert np.allclose(curve["train_loss"], -expected.history[steps, 0] / n, rtol=1e-6)
        counts = expected_counts(expected.model, sequences)
        held = -counts.log_likelihood[0, is_valid].sum() / sequences.subset(np.flatnonzero(is_valid)).n_seen
        assert curve["valid_loss"][-1] == pytest.approx(held, rel=1e-6)
        assert isinstance(records.model(spec), HMM)


def test_a_run_that_converges_leaves_and_the_others_go_on(tmp_path):
    specs = grid(small(n_steps=400), tolerance=[1e-1, 1e-9], init_seed=[0, 1], seed=0)
    records = shoal.train(specs, tmp_path)
    for spec in specs:
        expected, *_ = fitted_apart(spec)
        assert records.fitted(spec).updates == expected.iterations[0] < 400
        assert records.fitted(spec).converged
    assert records.runs()["state"].unique().to_list() == ["done"]


def test_fewer_places_change_no_bit(tmp_path):
    specs = grid(small(n_steps=20, tolerance=1e-3), seed=range(5))
    together, apart = (shoal.train(specs, tmp_path / name, places=places) for name, places in (("a", 5), ("b", 2)))
    for spec in specs:
        ours, theirs = together.fitted(spec), apart.fitted(spec)
        assert ours.log_likelihood == theirs.log_likelihood
        assert np.array_equal(ours.model.transitions, theirs.model.transitions)
    assert together.curves().sort("run", "step").equals(apart.curves().sort("run", "step"))


def test_a_run_alone_has_the_bits_that_it_has_beside_others(tmp_path):
    specs = grid(small(num_states=6), seed=range(2))
    beside, alone = shoal.train(specs, tmp_path / "a"), shoal.train(specs[0], tmp_path / "b")
    assert np.array_equal(alone.model(specs[0]).transitions, beside.model(specs[0]).transitions)


def test_runs_that_pause_go_on_to_the_same_bits(tmp_path):
    specs = grid(small(), seed=range(3))
    whole = shoal.train(specs, tmp_path / "whole")
    shoal.train(specs, tmp_path / "parts", until=5)
    assert Lab(tmp_path / "parts").records().runs()["step"].to_list() == [5, 5, 5]
    shoal.train(specs[:1], tmp_path / "parts", until=8)
    assert Lab(tmp_path / "parts").records().runs()["step"].to_list() == [8, 5, 5]
    parts = shoal.train(specs, tmp_path / "parts", until=12)
    assert parts.runs()["state"].unique().to_list() == ["done"]
    assert parts.curves().sort("run", "step").equals(whole.curves().sort("run", "step"))


def test_a_stopped_training_goes_on_to_the_same_bits(tmp_path):
    specs = grid(small(n_steps=60, tolerance=1e-2), seed=range(4))
    whole = shoal.train(specs, tmp_path / "whole")
    folder = Lab(tmp_path / "parts").create().cohort(plan(specs)[0].id)
    folder.create(specs, 1, engine="compiled")
    calls, places = itertools.count(1), itertools.cycle([3, 1, 4, 2])  # with fewer, who has begun has to wait
    while train_cohort(folder, Options(stop=lambda: next(calls) % 5 == 0, places=next(places))) == "interrupted":
        pass
    parts = Lab(tmp_path / "parts").records()
    assert parts.curves().sort("run", "step").equals(whole.curves().sort("run", "step"))
    for spec in specs:
        assert np.array_equal(parts.model(spec).transitions, whole.model(spec).transitions)
    assert len(folder.status()["sessions"]) > 8
    assert [whole.fitted(spec).updates for spec in specs] == [parts.fitted(spec).updates for spec in specs]
    assert folder.status()["sessions"][0]["precision"] == "float64"


KILLED = """
import shoal, sys
from test_hmm_runs import long_specs
shoal.train(long_specs(), sys.argv[1], workers=1, flush_seconds=0.02)
"""


def long_specs():
    return grid(small(n_steps=600, num_states=3, save_model_step=100), seed=range(4))


@pytest.mark.slow
def test_killed_at_any_moment_it_goes_on_to_the_same_bits(tmp_path):
    whole = shoal.train(long_specs(), tmp_path / "whole")
    here = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    kills = 0
    while True:
        child = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path / "parts")], env=here)
        begun = time.monotonic()
        while child.poll() is None and time.monotonic() - begun < 60:
            status = list((tmp_path / "parts").glob("cohorts/*/status.json"))
            steps = [m["step"] for s in status for m in json.loads(s.read_text())["members"].values()]
            if steps and min(steps) > 120 * (kills + 1) and kills < 4:
                child.send_signal(signal.SIGKILL)
                kills += 1
                break
            time.sleep(0.005)
        if child.wait() == 0:
            break
    assert kills
    parts = Lab(tmp_path / "parts").records()
    assert parts.curves().sort("run", "step").equals(whole.curves().sort("run", "step"))
    for spec in long_specs():
        for step in (200, 600):
            assert np.array_equal(parts.model(spec, step).transitions, whole.model(spec, step).transitions)


def test_a_certificate_compares_with_every_path_and_with_the_member_alone(tmp_path):
    records = shoal.train(grid(small(num_states=3, n_steps=30), seed=range(3)), tmp_path)
    (folder,) = records.cohorts()
    certificate = certify(folder, records.ids[:1], 30)
    (one,) = certificate["alone"].values()
    assert (one["loss"], one["parameters"], certificate["record"]) == (0, 0, 0)
    assert max(one[name] for name in ("alpha", "beta", "xi", "log_likelihood")) < 1e-12
    assert certificate["fall"] <= 1e-9
    assert folder.certificate()["alone"].keys() == set(records.ids[:1])


def test_every_path_gives_the_pairs_of_a_case_by_hand():
    start, moves = np.array([[0.6, 0.4]]), np.array([[[0.7, 0.3], [0.4, 0.6]]])
    table = np.array([[[0.5, 0.4, 0.1], [0.1, 0.3, 0.6]]])
    model = HMM(start, moves, shoal_categorical(table))
    sums = enumerated(model, Sequences([0, 1, 2]))
    assert np.log(sums.likelihood) == pytest.approx(-3.316489, abs=1e-6)
    assert sums.pairs.sum(axis=0).ravel() == pytest.approx([0.753252, 0.746196, 0.081808, 0.418743], abs=1e-6)
    assert sums.alpha[0].tolist() == [0.6, 0.4]
    assert sums.beta[-1].tolist() == [1.0, 1.0]


def shoal_categorical(table):
    from shoal.hmm import Categorical

    return Categorical(table)


def test_a_deleted_run_leaves_the_others_as_they_were(tmp_path):
    specs = grid(small(), seed=range(3))
    records = shoal.train(specs, tmp_path, name="restarts", tag="hmm")
    certify(records.cohorts()[0], records.ids, 5)
    before = {spec.id: records.fitted(spec).log_likelihood for spec in specs}
    lab = Lab(tmp_path)
    lab.delete(specs[0].id)
    left = Lab(tmp_path).records()
    assert set(left.ids) == {spec.id for spec in specs[1:]}
    assert {run: left.fitted(run).log_likelihood for run in left.ids} == {s.id: before[s.id] for s in specs[1:]}
    assert left.where(tag="hmm").ids == left.ids


# degenerate fits


def written(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


def test_a_degenerate_fit_is_named_with_its_run(tmp_path):
    lines = "\n".join(["5 5 5 5 5 5"] * 4 + [" ".join(f"{0.1 * (i % 7):.1f}" for i in range(12))] * 4) + "\n"
    path = written(tmp_path / "a.txt", lines)
    base = RunSpec(
        task="sequences", observations=path, emissions="gaussian", valid_share=0.25, num_states=3, n_steps=200
    )
    records = shoal.train(grid(base, seed=range(4)), tmp_path / "lab")
    fits = records.fits()
    assert "floor" not in fits.columns
    low = fits.filter(pl.col("problem").str.contains("floor"))
    assert len(low)
    runs = records.runs()
    assert set(runs.filter(pl.col("problem") != "")["run"]) == set(fits.filter(pl.col("problem") != "")["run"])
    for run in low["run"]:
        covariances = records.model(run).emissions.covariances
        assert np.isfinite(covariances).all()
        assert covariances.min() > 0


def test_the_other_update_falls_and_is_named(tmp_path):
    path = written(tmp_path / "a.txt", "0 0 0 1 1 1\n" * 4)
    base = RunSpec(
        task="sequences", observations=path, valid_share=0.25, update="conditional", n_steps=60, tolerance=0.0
    )
    records = shoal.train(grid(base, seed=range(12)), tmp_path / "lab")
    fits = records.fits()
    assert fits.filter(pl.col("problem").str.contains("fell"))["run"].to_list()
    assert records.runs()["state"].unique().to_list() == ["done"]  # it was to be shown
    pairs = shoal.train(grid(base.replace(update="pairwise"), seed=range(12)), tmp_path / "lab").fits()
    assert not pairs.filter(pl.col("problem").str.contains("fell"))["run"].to_list()


# data


def test_a_table_is_read_by_its_column_of_sequences(tmp_path):
    text = "sequence,x,y\na,1,2\nb,3,4\na,,\nb,5,6.5\na,7,8\n"
    spec = RunSpec(
        task="sequences",
        observations=written(tmp_path / "a.csv", text),
        values="numbers",
        valid_share=0.5,
        num_states=1,
    )
    data = spec.task_part.data()
    assert (data.lengths.tolist(), data.n_trained, spec.num_dimensions, spec.emissions) == ([3, 2], 2, 2, "gaussian")
    assert np.array_equal(data.values, [[1, 2], [np.nan, np.nan], [7, 8], [3, 4], [5, 6.5]], equal_nan=True)


def test_letters_of_a_text_are_cut_into_blocks(tmp_path):
    path = written(tmp_path / "a.txt", "Ab, c!\nÉd  ef " * 60)
    spec = RunSpec(task="sequences", text=path, block_length=50)
    data = spec.task_part.data()
    assert "".join(data.symbols[v] for v in data.values[:12]) == "ab c d ef ab"
    assert data.lengths.sum() == len(data.values)
    assert set(data.lengths[:-1]) == {50}
    assert spec.num_symbols == 27
    everything = RunSpec(task="sequences", text=path, alphabet="chars", block_length=50)
    assert (everything.num_symbols, everything.id == spec.id) == (len(set("Ab, c!\nÉd  ef ")), False)


def test_content_and_not_the_path_is_the_identity(tmp_path):
    first = RunSpec(task="sequences", observations=written(tmp_path / "a.txt", "0 1 0\n1 1 ?\n"), valid_share=0.5)
    again = RunSpec(task="sequences", observations=written(tmp_path / "b.txt", "0 1 0\n1 1 ?\n"), valid_share=0.5)
    other = RunSpec(task="sequences", observations=written(tmp_path / "c.txt", "0 1 0\n1 1 0\n"), valid_share=0.5)
    assert first == again
    assert first.id != other.id
    assert first.task_part.data().counts.tolist() == [3, 2]
    shoal.train(first, tmp_path / "lab")
    Path(tmp_path / "a.txt").write_text("1 1 1\n0 0 0\n")
    assert isinstance(Lab(tmp_path / "lab").records().model(first), HMM)
    with pytest.raises(UserError, match="not those that the run began with"):
        first.task_part.data()


def test_blocks_and_shares():
    assert cut(np.array([7, 3]), 3).tolist() == [3, 3, 1, 3]
    assert held_out(20, 0.1).sum() == 2
    assert np.flatnonzero(held_out(20, 0.1)).tolist() == [9, 19]
    weights = resampled(held_out(20, 0.1), 5)
    assert weights.sum() == 18
    assert (weights[[9, 19]] == 0).all()
    assert resampled(held_out(20, 0.1), 0).max() == 1


def test_what_is_drawn_is_of_its_model():
    spec = RunSpec(**{**SMALL, "drawn_sequences": 300, "drawn_length": 200, "drawn_states": 3})
    model, data = truth(spec.task_part), spec.task_part.data()
    powers = np.linalg.matrix_power(model.transitions, 200)[0]
    shares = np.bincount(data.values.reshape(300, 200)[:, 100:].ravel(), minlength=4) / 30_000
    assert np.abs(shares - powers @ model.emissions).max() < 0.02
    gaussian = RunSpec(**{**SMALL, "emissions": "gaussian"})
    assert gaussian.task_part.data().values.shape == (180, 4)


BAD = {
    "no state": ({"num_states": 0}, r"num_states must be an integer in \[1, 10000\]"),
    "more states than observations": ({"num_states": 200}, "at least as many observations as states"),
    "another family": ({"model": "lstm"}, "these do: hmm"),
    "another rule": ({"optimizer": "adamw"}, "these do: em"),
    "batches": ({"train_batch_size": 7}, "train_batch_size=7 does not apply"),
    "a floor of symbols": ({"variance_floor": 0.1}, "applies to gaussian"),
    "covariances of symbols": ({"covariance": "full"}, "applies to gaussian"),
    "values that disagree": ({"emissions": "gaussian", "values": "symbols"}, "categorical does"),
    "precision": ({"precision": "bfloat16"}, "does not apply to task"),
    "no symbol": ({"symbols": 2}, "allows 0 to 1"),
    "nothing to validate on": ({"drawn_sequences": 2, "valid_share": 0.1}, "none of 2 sequences"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_fitted_is_one_line(case):
    settings, words = BAD[case]
    with pytest.raises(UserError, match=words) as caught:
        RunSpec(**{**SMALL, **settings})
    assert "\n" not in str(caught.value)


FILES = {
    "an empty line": ("a.txt", "0 1\n\n1 0\n", "symbols", "line 2: a sequence needs at least 1 observation"),
    "no number": ("a.txt", "0.5 1\n0.5 x\n", "numbers", "line 2, observation 2: 'x' is no number"),
    "infinite": ("a.txt", "0.5 inf\n0.5 1\n", "numbers", "line 1, observation 2: 'inf' is no number"),
    "negative": ("a.txt", "0 1\n-3 1\n", "symbols", "line 2, observation 1: symbol -3"),
    "constant": ("a.txt", "5 5 5\n5 5 5\n", "numbers", "dimension 0 is 5 in every training sequence"),
    "all missing": ("a.txt", "? ?\n0 1\n", "symbols", "all observations of the sequences that train are missing"),
    "no column": ("a.csv", "sequnce,x\na,1\n", "symbols", "no column 'sequence'"),
    "a short row": ("a.csv", "sequence,x\na,1\na\n", "symbols", "line 3: 1 cells, expected 2"),
    "partly missing": ("a.csv", "sequence,x,y\na,1,2\na,1,\n", "numbers", "line 3: some of its 2 dimensions"),
    "one sequence": ("a.txt", "0 1 0 1\n", "symbols", "none of 1 sequences to validate on"),
}


@pytest.mark.parametrize("case", FILES)
def test_a_file_that_cannot_be_read_is_one_line_that_names_the_place(case, tmp_path):
    name, text, values, words = FILES[case]
    with pytest.raises(UserError, match=words) as caught:
        RunSpec(task="sequences", observations=written(tmp_path / name, text), values=values, valid_share=0.5)
    assert "\n" not in str(caught.value)


def test_other_engines_and_metrics_are_refused_before_anything_is_written(tmp_path):
    with pytest.raises(UserError, match="engine plain does not apply"):
        shoal.train(small(), tmp_path / "lab", engine="plain")
    with pytest.raises(UserError, match="no module"):
        shoal.train(small(), tmp_path / "lab", metrics={"norm": lambda parameters: parameters["start"].sum()})
    assert not (tmp_path / "lab").exists()


def test_models_of_several_steps_are_not_averaged(tmp_path):
    records = shoal.train(small(save_model_step=4), tmp_path)
    assert list(records.model_files(records.ids[0])) == [0, 4, 8, 12]
    with pytest.raises(UserError, match="not averaged"):
        records.model(records.ids[0], average=2)
    with pytest.raises(LabError, match="no model of step 5"):
        records.model(records.ids[0], step=5)


def test_without_a_compiler_a_fit_is_the_same_but_for_rounding(tmp_path, monkeypatch):
    spec = small(num_states=3)
    fast = shoal.train(spec, tmp_path / "fast").fitted(spec)
    monkeypatch.setattr(native, "library", lambda: None)
    slow = shoal.train(spec, tmp_path / "slow").fitted(spec)
    assert slow.log_likelihood == pytest.approx(fast.log_likelihood, rel=1e-12)
    assert np.allclose(slow.model.transitions, fast.model.transitions, atol=1e-10)


def test_other_kernels_than_before_are_named(tmp_path):
    specs = grid(small(), seed=range(2))
    folder = Lab(tmp_path).create().cohort(plan(specs)[0].id)
    folder.create(specs, 1)
    calls = itertools.count(1)
    train_cohort(folder, Options(stop=lambda: next(calls) % 6 == 0))
    status = folder.status()
    folder.write_status({**status, "sessions": [{**status["sessions"][0], "kernels": "others"}]})
    with pytest.warns(UserWarning, match="the last bits of what follows will differ"):
        assert train_cohort(folder, Options()) == "done"


def test_alone_or_beside_others_counts_have_the_same_bits():
    generator = np.random.default_rng(0)
    data = Sequences(generator.normal(size=(60, 2)), [40, 20])
    several = random_models(data, 6, 3)
    assert isinstance(several.emissions, Gaussian)
    twice = expected_counts(stacked([several.select(1)] * 2), data)
    assert np.array_equal(twice.pairs[0], expected_counts(several, data).pairs[1])
