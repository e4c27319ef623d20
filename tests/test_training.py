"""Training into a lab: nothing twice, exact continuation, faults."""

import errno
import time

import polars as pl
import pytest
import torch
from helpers import denormals_are_flushed, fastest, one_cohort, rewrite, tiny, tiny_grid

import shoal
from shoal.errors import DiskError, LabError, UserError
from shoal.fast.build import kernels
from shoal.lab import Lab
from shoal.training import plan
from shoal.training.continuation import engine_of
from shoal.training.loop import Options, Session, train_cohort


def parameters(records: shoal.Records) -> dict[str, dict[str, torch.Tensor]]:
    return {run: records.model(run).state_dict() for run in records.ids}


def assert_same(found: shoal.Records, expected: shoal.Records) -> None:
    """Same curves and parameters, to the last bit."""
    assert found.ids == expected.ids
    assert found.curves().equals(expected.curves())
    states, others = parameters(found), parameters(expected)
    for run, state in states.items():
        assert all(torch.equal(tensor, others[run][name]) for name, tensor in state.items())


def test_runs_are_grouped_by_the_shapes_of_their_tensors():
    specs = shoal.grid(model=["lstm", "gpt"], weight_decay=[0.5, 1.0], seed=[0, 1, 2])
    cohorts = plan([*specs, *specs])
    assert [len(cohort) for cohort in cohorts] == [6, 6]
    assert [cohort.shared.model for cohort in cohorts] == ["lstm", "gpt"]
    varied = shoal.grid(lr=[1e-3, 1e-2], operator=["+", "*"], r_train=[0.3, 0.5], clip=[1.0, 2.0], n_steps=[5, 9])
    assert len(plan(varied)) == 1
    algebra = shoal.grid(p=120, operator=["+", "s5:xy", "s5:xyx", "x^3+xy"], equation_format=["full", "operands"])
    assert [len(cohort) for cohort in plan(algebra)] == [4, 4]
    assert [cohort.shared.p for cohort in plan(shoal.grid(operator=["+", "x^2+y^2", "s5:xy"]))] == [31, 120]
    for name, values in {"train_batch_size": [64, 128], "optimizer": ["adam", "adamw"], "p": [5, 7]}.items():
        assert len(plan(shoal.grid(**{name: values}))) == 2


def test_nothing_is_trained_twice(tmp_path):
    specs = tiny_grid({}, seed=[0, 1])
    first = shoal.train(specs, tmp_path / "lab")
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "lab" / "cohorts").rglob("*") if path.is_file()}
    again = shoal.train([*specs, tiny(seed=2)], tmp_path / "lab")
    assert again.ids[:2] == first.ids
    assert {path: path.stat().st_mtime_ns for path in files} == files
    assert [len(folder.specs()) for folder in Lab(tmp_path / "lab").cohorts()] == [2, 1]


@pytest.mark.parametrize(
    "base",
    [
        {},
        {"model": "gpt", "dropout": 0.2, "train_batch_size": 4},
        {"optimizer": "lion", "lr_schedule": "cosine", "label_smoothing": 0.1},
        {"optimizer": "muon", "lr_schedule": "linear", "warmup_steps": 10},
    ],
)
def test_a_stopped_run_goes_on_bit_for_bit(tmp_path, base):
    specs = tiny_grid(base | {"n_steps": 40}, seed=[0, 1], lr=[1e-3, 3e-3])
    expected = shoal.train(specs, tmp_path / "whole", workers=1)
    lab = Lab(tmp_path / "parts").create()
    (cohort,) = plan(specs)
    folder = lab.cohort(cohort.id)
    folder.create(list(cohort.members), threads=1, **fastest(cohort.shared))
    for steps in (0, 1, 7, 13, 100):
        asked = iter(range(steps))
        outcome = train_cohort(folder, Options(stop=lambda asked=asked: next(asked, None) is None))
    assert outcome == "done"
    assert len(folder.status()["sessions"]) == 5
    assert all(session["cpu_seconds"] > 0 for session in folder.status()["sessions"])
    assert_same(lab.records(specs), expected)


def test_an_orphaned_metrics_file_is_replaced_not_counted_twice(tmp_path):
    """As a kill between the two halves of a flush leaves it."""
    specs = [tiny(n_steps=30)]
    expected = shoal.train(specs, tmp_path / "whole", workers=1, threads=1)
    lab = Lab(tmp_path / "parts").create()
    (cohort,) = plan(specs)
    folder = lab.cohort(cohort.id)
    folder.create(list(cohort.members), threads=1, **fastest(cohort.shared))
    asked = iter(range(10))
    train_cohort(folder, Options(stop=lambda: next(asked, None) is None))
    folder.write_metrics(1, folder.metrics().with_columns(pl.col("step") + 1000))
    assert train_cohort(folder, Options()) == "done"
    assert_same(lab.records(specs), expected)


def test_members_keep_their_own_length_and_schedule(tmp_path):
    records = shoal.train(tiny_grid({}, n_steps=[4, 12]), tmp_path / "lab")
    curves = records.curves()
    assert [curves.filter(run=run)["step"].max() for run in records.ids] == [4, 12]
    assert [list(records.model_files(run)) for run in records.ids] == [[4], [12]]
    alone = shoal.train([tiny(n_steps=4)], tmp_path / "alone")
    ours = curves.filter(run=records.ids[0])
    assert ours["valid_loss"].to_list() == pytest.approx(alone.curves()["valid_loss"].to_list(), abs=1e-6)


def test_divergence_is_recorded_and_neighbours_do_not_notice(tmp_path):
    # a first step of this length makes every later loss overflow
    specs = tiny_grid({"optimizer": "sgd", "clip": float("inf"), "eval_first": 0, "eval_period": 1}, lr=[0.1, 1e38])
    records = shoal.train(specs, tmp_path / "lab", threads=1)  # with more, a smaller stack may add in another order
    healthy, ill = records.runs().iter_rows(named=True)
    assert (healthy["state"], healthy["step"]) == ("done", 12)
    assert ill["state"] == "diverged"
    assert 1 <= ill["step"] <= 12
    curves = records.curves()
    assert curves.filter(run=ill["run"])["step"].max() == ill["step"] - 1
    assert list(records.model_files(ill["run"])) == [ill["step"] - 1]
    twin = shoal.train(tiny_grid(specs[0].given(), lr=[0.1, 0.01]), tmp_path / "twin", threads=1)
    for name in ("train_loss", "valid_loss", "l2_norm"):
        assert curves.filter(run=healthy["run"])[name].equals(twin.curves().filter(run=healthy["run"])[name])
    assert shoal.train(specs, tmp_path / "lab").runs()["state"].to_list() == ["done", "diverged"]


def test_a_full_disk_stops_with_what_was_flushed_and_goes_on_later(tmp_path, monkeypatch):
    specs = [tiny(n_steps=40, save_statistic_step=10)]
    expected = shoal.train(specs, tmp_path / "whole", workers=1)
    from shoal.lab.cohort import CohortFolder

    real, calls = CohortFolder.write_metrics, []

    def full_from_the_third_flush(self, part, frame):
        calls.append(part)
        if len(calls) >= 3:
            raise DiskError(errno.ENOSPC, "No space left on device")
        return real(self, part, frame)

    with monkeypatch.context() as patch:
        patch.setattr(CohortFolder, "write_metrics", full_from_the_third_flush)
        with pytest.raises(DiskError, match="No space left"):
            shoal.train(specs, tmp_path / "lab", workers=1)
    lab = Lab(tmp_path / "lab")
    assert lab.records().curves()["step"].max() == 20
    assert lab.records().runs()["state"].to_list() == ["interrupted"]
    assert_same(shoal.resume(tmp_path / "lab", workers=1), expected)


@pytest.mark.parametrize("damage", ["truncate", "flip", "shape"])
def test_a_damaged_checkpoint_is_refused_and_left_alone(tmp_path, damage):
    from shoal.lab.tensors import load_tensors, save_tensors

    lab = Lab(tmp_path / "lab").create()
    (cohort,) = plan([tiny(n_steps=40)])
    folder = lab.cohort(cohort.id)
    folder.create(list(cohort.members), threads=1, **fastest(cohort.shared))
    asked = iter(range(10))
    train_cohort(folder, Options(stop=lambda: next(asked, None) is None))
    path = folder.checkpoint_path
    content = bytearray(path.read_bytes())
    if damage == "truncate":
        path.write_bytes(content[:-100])
    elif damage == "flip":
        content[-100] ^= 4
        path.write_bytes(content)
    else:
        state, metadata = load_tensors(path)
        save_tensors(path, {**state, "theta": state["theta"][:, :-1]}, metadata)
    before = {p: p.read_bytes() for p in folder.path.rglob("*") if p.is_file()}
    for action in (lambda: shoal.resume(lab, workers=1), lambda: shoal.train([tiny(n_steps=40)], lab)):
        with pytest.raises(LabError, match=r"checkpoint\.safetensors"):
            action()
    assert {p: p.read_bytes() for p in folder.path.rglob("*") if p.is_file()} == before


def test_a_cohort_is_trained_by_one_process_at_a_time(tmp_path):
    from shoal.lab.cohort import CohortFolder
    from shoal.lab.locks import locked

    folder = CohortFolder(tmp_path)
    with folder.training():
        assert folder.is_training()
        start = time.monotonic()
        with pytest.raises(LabError, match="busy"), locked(tmp_path / "lock", 0.2, "busy"):
            pass
        assert time.monotonic() - start < 5
    assert not folder.is_training()


def test_registered_quantities_are_recorded(tmp_path):
    largest = {"largest_weight": lambda parameters: torch.stack([p.abs().max() for p in parameters.values()]).max()}
    records = shoal.train(tiny_grid({}, seed=[0, 1]), tmp_path / "lab", metrics=largest)
    for run in records.ids:
        last = records.curves().filter(run=run)["largest_weight"][-1]
        assert last == pytest.approx(max(p.abs().max().item() for p in records.model(run).parameters()))


def test_two_workers_train_what_one_trains(tmp_path):
    specs = tiny_grid({}, seed=[0, 1]) + tiny_grid({"model": "gpt"}, seed=[0, 1])
    seen = []
    recorded = {"flushed": denormals_are_flushed}
    together = shoal.train(specs, tmp_path / "two", workers=2, threads=1, watch=seen.append, metrics=recorded)
    assert {snapshot.cohort for snapshot in seen if snapshot.state == "done"} == {cohort.id for cohort in plan(specs)}
    assert together.curves()["flushed"].min() == 1
    assert_same(together, shoal.train(specs, tmp_path / "one", workers=1, threads=1, metrics=recorded))


def test_wrong_requests_are_refused_before_anything_is_made(tmp_path):
    lab = tmp_path / "lab"
    for words, wrong in {
        "list of specs is empty": {"specs": []},
        "workers must be": {"workers": 0},
        "threads must be": {"threads": -1},
        "flush_seconds must be": {"flush_seconds": 0},
        "at most 30": {"flush_seconds": 31},
        "device must be": {"device": "tpu"},
    }.items():
        with pytest.raises(UserError, match=words):
            shoal.train(**{"specs": [tiny()], "lab": lab} | wrong)
    assert not lab.exists()


def test_the_certificate_measures_what_stacking_changes(tmp_path):
    from shoal.training.certificate import certify

    records = shoal.train(tiny_grid({"model": "gpt"}, seed=[0, 1, 2]), tmp_path / "lab", workers=1, threads=1)
    (folder,) = records.cohorts()
    certificate = certify(folder, records.ids[:2], steps=10)
    assert folder.certificate() == certificate
    assert set(certificate["alone"]) == set(records.ids[:2])
    assert certificate["record"] == 0
    for deviation in certificate["alone"].values():
        assert deviation["loss"] < 1e-5
        assert deviation["parameters"] < 1e-4
    rewrite(folder, folder.metrics().with_columns(pl.col("train_loss") + 0.25))
    assert certify(folder, [], steps=10)["record"] == pytest.approx(0.25, abs=1e-6)
    with pytest.raises(UserError, match="steps must be"):
        certify(folder, [], steps=0)


def test_a_finished_cohort_is_not_trained_again_by_who_waited_for_it(tmp_path):
    records = shoal.train([tiny()], tmp_path / "lab", workers=1)
    (folder,) = records.cohorts()
    before = {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()}
    assert train_cohort(folder, Options()) == "done"
    assert {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()} == before


def test_an_update_that_overflows_is_taken_back(tmp_path):
    spec = tiny(optimizer="sgd", lr=1e38, clip=float("inf"), weight_decay=10.0, n_steps=1)
    records = shoal.train([spec], tmp_path / "lab", workers=1)
    assert records.runs()["state"].to_list() == ["diverged"]
    assert all(p.isfinite().all() for p in records.model(spec.id).parameters())
    assert records.curves()["l2_norm"].is_finite().all()


def test_a_cohort_with_registered_quantities_goes_on_only_with_them(tmp_path):
    def first(parameters):
        return next(iter(parameters.values())).sum()

    specs = [tiny(n_steps=40)]
    expected = shoal.train(specs, tmp_path / "whole", threads=1, metrics={"first": first})
    lab = Lab(tmp_path / "parts").create()
    (cohort,) = plan(specs)
    folder = lab.cohort(cohort.id)
    folder.create(list(cohort.members), 1, ["first"], **fastest(cohort.shared))
    asked = iter(range(10))
    train_cohort(folder, Options(metrics={"first": first}, stop=lambda: next(asked, None) is None))
    with pytest.raises(LabError, match="records 'first' at every evaluation"):
        shoal.resume(lab, workers=1)
    shoal.resume(lab, workers=1, metrics={"first": first})
    assert_same(lab.records(specs), expected)
    with pytest.raises(UserError, match="'train_loss' is taken"):
        shoal.train([tiny(seed=5)], lab, metrics={"train_loss": first})


def test_one_damaged_cohort_does_not_keep_the_others_from_training(tmp_path):
    lab = Lab(tmp_path / "lab").create()
    specs = [tiny(n_steps=40), tiny(model="gpt")]
    for cohort in plan(specs):
        lab.cohort(cohort.id).create(list(cohort.members), threads=1, **fastest(cohort.shared))
    damaged, sound = lab.cohorts()
    damaged.write_status(damaged.status())
    damaged.checkpoint_path.write_bytes(b"nothing")
    for workers in (1, 2):
        with pytest.raises(LabError, match="damaged"):
            shoal.resume(lab, workers=workers)
        assert sound.is_finished()


@pytest.mark.parametrize("model", ["lstm", "gpt"])
@pytest.mark.parametrize("setting", [{"share_embeddings": True}, {"bias": False, "bias_classifier": False}])
def test_a_kept_model_of_any_form_loads(tmp_path, model, setting):
    spec = tiny(model=model, **setting)
    records = shoal.train([spec], tmp_path / "lab", workers=1)
    norm = torch.cat([p.detach().flatten() for p in records.model(spec.id).parameters()]).norm().item()
    assert norm == pytest.approx(records.curves()["l2_norm"][-1], rel=1e-6)


def test_a_grid_over_a_spec_read_from_the_lab_varies_what_follows_the_seed(tmp_path):
    records = shoal.train([tiny(seed=3, split_seed=1)], tmp_path / "lab", workers=1)
    (base,) = records.specs.values()
    assert shoal.grid(base, seed=[4, 5]) == [tiny(seed=4, split_seed=1), tiny(seed=5, split_seed=1)]


@pytest.mark.skipif(kernels().library is None, reason="no compiler")
def test_going_on_with_another_engine_or_other_kernels_is_said(tmp_path):
    cohort = one_cohort([tiny(n_steps=30)])
    folder = Lab(tmp_path).create().cohort(cohort.id)
    folder.create(list(cohort.members), threads=1, engine="compiled")
    stops = iter([False] * 5 + [True] * 99)
    assert train_cohort(folder, Options(stop=lambda: next(stops))) == "interrupted"
    status = folder.status()
    assert status["sessions"][0]["kernels"] == kernels().key
    status["sessions"][0]["kernels"] = "others"
    folder.write_status(status)
    with pytest.warns(UserWarning, match="goes on with kernels compiled otherwise than before"):
        Session(folder, Options())
    with pytest.warns(
        UserWarning, match=r"begun with engine compiled and goes on with prefixes \(TRITON_INTERPRET is set"
    ):
        assert engine_of(folder, torch.device("cuda")) == "prefixes"
