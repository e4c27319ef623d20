"""Members leave the stack when they are done, others take their places, and none of it changes a result."""

import json
import resource
import subprocess
import sys
import tempfile
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from helpers import CPU, one_cohort, tiny, tiny_grid

import shoal
from shoal.errors import UserError
from shoal.lab import Lab
from shoal.lab.cohort import CohortFolder
from shoal.lab.tensors import load_tensors
from shoal.measures import EQUATIONS, Generalised
from shoal.spec import RunSpec
from shoal.tasks.arithmetic.settings import Arithmetic
from shoal.training import executor, memory
from shoal.training.loop import Options, Session, train_cohort
from shoal.training.plan import plan, spread
from shoal.training.roster import Roster


def begun(tmp_path, specs: list[RunSpec], engine: str = "prefixes") -> CohortFolder:
    lab = Lab(tmp_path).create()
    cohort = one_cohort(specs)
    folder = lab.cohort(cohort.id)
    folder.create(list(cohort.members), threads=1, engine=engine)
    return folder


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def theta_bytes(path) -> bytes:
    """Every tensor of a kept model."""
    return b"".join(tensor.numpy().tobytes() for _, tensor in sorted(load_tensors(path)[0].items()))


def results(folder: CohortFolder) -> dict[str, object]:
    """Every row, every kept model and how each run ended, by run."""
    frame, status = folder.metrics(), folder.status()["members"]
    found: dict[str, object] = {}
    for spec in folder.specs():
        files = folder.models(spec.id)
        models = {step: theta_bytes(path) for step, path in files.items()}
        found[spec.id] = (frame.filter(run=spec.id).sort("step").rows(), models, status[spec.id])
    return found


@cache
def alone(spec: RunSpec) -> dict[str, object]:
    """The results of a run that has no neighbours; several tests ask for the same."""
    with tempfile.TemporaryDirectory() as path:
        folder = begun(Path(path), [spec])
        train_cohort(folder, Options())
        return results(folder)


def each_alone(specs: list[RunSpec]) -> dict[str, object]:
    return {run: found for spec in specs for run, found in alone(spec).items()}


MIXED = [
    *tiny_grid({}, n_steps=[4, 9, 15], seed=[0, 1]),
    tiny(seed=5, lr=1e30, clip=float("inf")),  # diverges
    tiny(seed=6, n_steps=1),
]


@pytest.mark.parametrize("places", [1, 2, 3, None])
def test_members_that_share_places_learn_what_they_learn_alone(tmp_path, places):
    folder = begun(tmp_path / "together", MIXED)
    assert train_cohort(folder, Options(places=places)) == "done"
    found = results(folder)
    assert found == each_alone(MIXED)
    ends = {run: ending for run, (_, _, ending) in found.items()}
    assert [ends[spec.id]["state"] for spec in MIXED] == ["done"] * 6 + ["diverged", "done"]
    assert [ends[spec.id]["step"] for spec in MIXED[:6]] == [4, 4, 9, 9, 15, 15]


def test_a_member_that_is_done_and_keeps_its_place_for_a_while_is_left_alone(tmp_path):
    specs = [tiny(seed=100, n_steps=4), *tiny_grid({}, seed=range(9))]  # one place of ten is too few to compact for
    session = Session(begun(tmp_path / "together", specs), Options())
    for _ in range(6):
        session.advance()
    assert len(session.roster.members) == 10 and session.roster.gone.tolist() == [True] + [False] * 9
    session.run()
    assert results(session.folder) == each_alone(specs)


@pytest.mark.parametrize("stops", [(2,), (5, 1, 7), (1, 1, 1, 1, 1, 1, 1, 1)])
def test_a_queue_goes_on_exactly_after_interruptions(tmp_path, stops):
    folder = begun(tmp_path / "stopped", MIXED)
    for steps in stops:
        asked = iter(range(steps))
        assert (
            train_cohort(folder, Options(places=2, stop=lambda asked=asked: next(asked, None) is None)) == "interrupted"
        )
    assert train_cohort(folder, Options(places=3)) == "done"  # as many places as then fit
    whole = begun(tmp_path / "whole", MIXED)
    train_cohort(whole, Options())
    assert results(folder) == results(whole)


@pytest.mark.parametrize("engine", ["prefixes", "compiled"])
def test_a_cohort_of_unequal_data_goes_on_in_the_very_same_stack(tmp_path, engine):
    specs = tiny_grid({"p": 7, "n_steps": 15}, r_train=[0.2, 0.4], seed=range(5))
    specs.append(tiny(p=7, r_train=0.8, n_steps=4))  # the longest batches; done early, and too few to compact for
    whole, stopped = (begun(tmp_path / name, specs, engine) for name in ("whole", "stopped"))
    train_cohort(whole, Options())
    asked = iter(range(6))
    assert train_cohort(stopped, Options(stop=lambda: next(asked, None) is None)) == "interrupted"
    train_cohort(stopped, Options())
    assert results(stopped) == results(whole)


def test_a_step_does_not_go_through_the_members_in_python(tmp_path, monkeypatch):
    session = Session(begun(tmp_path, tiny_grid({"n_steps": 9, "eval_first": 0}, seed=range(4))), Options())
    session.advance()
    looked = []
    monkeypatch.setattr(Roster, "waiting", property(lambda self: looked.append(self) or []))
    assert session.run() == "done"
    assert len(looked) == 0  # who waits is found out when the stack changes, and only then


def test_more_places_are_taken_on_resume(tmp_path):
    folder = begun(tmp_path, tiny_grid({}, seed=range(4)))
    asked = iter(range(3))
    train_cohort(folder, Options(places=1, stop=lambda: next(asked, None) is None))
    session = Session(folder, Options(places=3))
    session.advance()
    assert len(session.roster.members) == 3


def test_the_stack_is_compacted_and_the_waiting_take_places(tmp_path):
    specs = tiny_grid({}, n_steps=[3, 6, 9], seed=[0, 1])
    session = Session(begun(tmp_path, specs), Options(places=4))
    seen = []
    while not session.roster.is_done:
        session.advance()
        seen.append((len(session.roster.members), len(session.roster.waiting)))
    assert seen[0] == (4, 2)  # four places, two wait
    assert seen[3] == (4, 0)  # after three steps two are done, and the two that waited have joined
    assert seen[-1] == (2, 0)  # at the end only those of nine steps are left
    assert len(seen) == 3 + 9


def test_a_run_that_has_generalised_stops_after_as_many_steps_as_it_was_told(tmp_path, monkeypatch):
    easily = replace(EQUATIONS, generalised=Generalised("accuracy", 0.1))  # such small tasks are memorised, and no more
    monkeypatch.setattr(Arithmetic, "measures", lambda self: easily)
    base = {"p": 7, "r_train": 0.8, "lr": 0.01, "seed": 1, "embedding_size": 16}
    easy = {**base, "n_steps": 600, "eval_first": 0, "eval_period": 10}
    whole = begun(tmp_path / "whole", [tiny(**easy)])
    train_cohort(whole, Options())
    curve = whole.metrics().sort("step")
    reached = int(curve.filter(curve["valid_accuracy"] >= 0.1)["step"][0])
    assert 0 < reached < 550
    specs = {patience: tiny(**easy, stop_after_generalizing=patience) for patience in (0, 10, 25)}
    folder = begun(tmp_path / "stopped", [*specs.values(), tiny(**easy)])
    train_cohort(folder, Options())
    status = folder.status()["members"]
    for patience, spec in specs.items():
        assert status[spec.id] == {"state": "done", "step": reached + patience}
        own = folder.metrics().filter(run=spec.id).sort("step")
        assert own["step"].to_list()[-1] == reached + patience
        kept = curve.filter(curve["step"].is_in(own["step"].implode()))
        shared = own.filter(own["step"].is_in(kept["step"].implode()))
        assert shared.drop("run").rows() == kept.drop("run").rows()  # the same trajectory, up to there
        assert list(folder.models(spec.id)) == [reached + patience]
    assert status[tiny(**easy).id]["step"] == 600


def test_a_cohort_is_divided_between_the_cores_longest_first():
    specs = tiny_grid({}, seed=range(5)) + tiny_grid({"n_steps": 500}, num_layers=[2], seed=[0])
    pieces = spread(plan(specs), 2)
    assert [len(piece) for piece in pieces] == [1, 3, 2]
    assert {spec for piece in pieces for spec in piece.members} == set(specs)
    assert pieces[0].seconds > pieces[1].seconds > pieces[2].seconds


def test_places_follow_the_memory_that_is_free(monkeypatch):
    spec = RunSpec()
    each = memory.stack_bytes(spec, 1, "prefixes")
    monkeypatch.setattr(memory, "free_bytes", lambda device: 10 * each)
    assert memory.places(spec, 100, CPU, "prefixes") == 5  # half of what is free
    assert memory.places(spec, 3, CPU, "prefixes") == 3
    by_program = memory.places(spec, 100, CPU, "compiled")  # the values of some members' passes at once
    assert 5 < by_program < 100
    assert (
        memory.stack_bytes(spec, by_program, "compiled")
        <= 5 * each
        < memory.stack_bytes(spec, by_program + 1, "compiled")
    )
    assert memory.places(spec, 100, CPU, "compiled", share=0.01) == 1
    monkeypatch.setattr(memory, "free_bytes", lambda device: 10**18)
    assert memory.places(spec, 10**6, CPU, "compiled") == 65_535
    monkeypatch.setattr(memory, "free_bytes", lambda device: each // 2)
    with pytest.raises(UserError, match=r"embedding_size=128.* needs about .* GiB"):
        memory.places(spec, 1, CPU, "compiled")


def test_free_memory_is_a_plausible_number():
    assert 2**20 < memory.free_bytes(CPU) < 2**50


def test_free_memory_ends_where_the_process_may_have_no_more_addresses():
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + 2**26, before[1]))
    try:
        assert 2**25 < memory.free_bytes(CPU) <= 2**26
        resource.setrlimit(resource.RLIMIT_AS, (used - 2**26, before[1]))
        assert memory.free_bytes(CPU) == 0
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


MEASURE = """
import json, sys, torch
from dataclasses import replace
from pathlib import Path
from shoal.spec import RunSpec, grid
from shoal.training.plan import plan
from shoal.training.stack import Stack
from shoal.training.step import evaluate, train_step
torch.set_num_threads(1)
def memory(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))
def train(R):
    (cohort,) = plan(grid(RunSpec(**json.loads(sys.argv[1])), seed=range(R)))
    stack = Stack(cohort, torch.device("cpu"), sys.argv[2])
    for _ in range(2):
        train_step(stack)
    evaluate(stack, {})
train(1)  # what is loaded once
before, R = memory("VmRSS"), 12
Path("/proc/self/clear_refs").write_text("5")  # forget the peak
train(R)
print(memory("VmHWM") - before)
"""


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["compiled", "prefixes", "plain"])
@pytest.mark.parametrize(
    "settings",
    [
        '{"model": "gpt"}',
        '{"model": "lstm"}',
        '{"model": "gpt", "operation_orders": "2,3", "p": 17}',
        '{"model": "lstm", "embedding_size": 32, "train_batch_size": 64, "eval_batch_size": 256}',
    ],
)
def test_the_estimate_is_not_below_what_a_member_takes(settings, engine):

    done = subprocess.run([sys.executable, "-c", MEASURE, settings, engine], capture_output=True, text=True, check=True)
    measured, estimated = float(done.stdout), memory.stack_bytes(RunSpec(**json.loads(settings)), 12, engine)
    assert measured <= estimated < 8 * measured, (measured / 2**20, estimated / 2**20)


def test_precisions_that_may_change_results_are_warned_of(tmp_path):
    said: list[str] = []
    shoal.train([tiny(precision="bfloat16", n_steps=2)], tmp_path / "lab", say=said.append)
    assert not any("warning" in line for line in said)  # no difference was found for the LSTM
    shoal.train([tiny(model="gpt", precision="bfloat16", n_steps=2)], tmp_path / "lab", say=said.append)
    assert any("warning" in line and "bfloat16" in line for line in said)


def test_wrong_numbers_of_places_are_refused(tmp_path):
    with pytest.raises(UserError, match="places must be an integer of at least 1, got 0"):
        shoal.train([tiny()], tmp_path / "lab", places=0)
    with pytest.raises(
        UserError, match=r"engine must be one of compiled prefixes windows plain, got 'compile'.*compiled"
    ):
        shoal.train([tiny()], tmp_path / "lab", engine="compile")
    with pytest.raises(UserError, match="engine plain computes in float32"):
        shoal.train([tiny(precision="bfloat16")], tmp_path / "lab", engine="plain")
    with pytest.raises(UserError, match="tf32 needs device cuda"):
        shoal.train([tiny(precision="tf32")], tmp_path / "lab", device="cpu")
    assert not (tmp_path / "lab").exists()


@pytest.mark.parametrize(("allowed", "threads"), [("", 4), ("1", 1), ("2,1", 2), ("64", 4), ("many", 4), ("0", 4)])
def test_a_worker_takes_its_share_of_the_cores_and_no_more_than_openmp_may(monkeypatch, allowed, threads):
    monkeypatch.setattr(executor, "cores", lambda: 8)
    monkeypatch.setenv("OMP_NUM_THREADS", allowed)
    assert executor.threads_per_worker(2) == threads
