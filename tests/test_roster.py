"""Who has a place when memory runs out, and steps between two looks: none of it changes a result."""

import os
import subprocess
import sys
from itertools import pairwise

import pytest
import torch
from helpers import CPU, one_cohort, tiny, tiny_grid
from hypothesis import given, settings
from hypothesis import strategies as st
from recording import recorded
from test_scheduling import MIXED, begun, each_alone, results

from shoal.errors import LabError, UserError
from shoal.lab.cohort import CohortFolder
from shoal.lab.tensors import load_tensors, save_tensors
from shoal.training import loop
from shoal.training.due import is_evaluated, is_saved, steps_until_due
from shoal.training.launches import Launches
from shoal.training.loop import Options, Session, train_cohort
from shoal.training.memory import is_out_of_memory
from shoal.training.roster import Roster
from shoal.training.stack import Stack


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def room_for(monkeypatch, most: int, after: int = 0) -> list[int]:
    """From some calls on steps of more members than that find no memory, in the middle of what they do."""
    real, sizes = loop.train_steps, []

    def train_steps(stack, n):
        sizes.append(len(stack.cohort))
        real(stack, n)
        if len(stack.cohort) > most and len(sizes) > after:
            raise torch.OutOfMemoryError("CUDA out of memory")  # parameters have changed already

    monkeypatch.setattr(loop, "train_steps", train_steps)
    return sizes


@pytest.mark.parametrize(("most", "after"), [(4, 0), (1, 0), (2, 3), (3, 7)])
def test_where_memory_runs_out_fewer_train_side_by_side_to_the_same_bits(tmp_path, monkeypatch, most, after):
    expected = each_alone(MIXED)
    folder = begun(tmp_path / "together", MIXED)
    sizes = room_for(monkeypatch, most, after)
    with pytest.warns(UserWarning, match="ran out of memory") as caught:
        assert train_cohort(folder, Options(flush_seconds=0)) == "done"
    assert sizes[-1] <= most
    tried = [int(str(warning.message).split(" with ")[1].split()[0]) for warning in caught]
    assert all(2 * later <= earlier for earlier, later in pairwise(tried))
    assert results(folder) == expected


@pytest.mark.filterwarnings("ignore:.*ran out of memory")
@pytest.mark.parametrize("stops", [(5, 1, 7), (6, 6, 6)])
def test_parked_members_survive_an_interruption(tmp_path, monkeypatch, stops):
    folder = begun(tmp_path / "together", MIXED)
    room_for(monkeypatch, 2, after=4)
    parked = 0
    for steps in stops:
        asked = iter(range(steps))
        train_cohort(folder, Options(flush_seconds=0, stop=lambda asked=asked: next(asked, None) is None))
        checkpoint = folder.load_checkpoint()
        assert checkpoint is not None
        parked += len(checkpoint[1]["parked"])
        for run in checkpoint[1]["parked"]:
            assert folder.status()["members"][run]["state"] == "waiting"
            assert folder.status()["members"][run]["step"] > 0
    assert parked > 0
    train_cohort(folder, Options(flush_seconds=0))
    assert results(folder) == each_alone(MIXED)


def test_fewer_places_on_resume_park_members(tmp_path):
    specs = tiny_grid({}, seed=range(4))
    folder = begun(tmp_path / "together", specs)
    asked = iter(range(5))
    train_cohort(folder, Options(stop=lambda: next(asked, None) is None))
    session = Session(folder, Options(places=1))
    assert (len(session.roster.members), len(session.roster.parked)) == (1, 3)
    session.run()
    assert results(folder) == each_alone(specs)


def test_members_that_have_left_do_not_hide_that_others_fit(tmp_path, monkeypatch):
    specs = [tiny(seed=9, n_steps=40), *tiny_grid({}, n_steps=[6], seed=range(7))]
    folder = begun(tmp_path / "together", specs)
    asked = iter(range(6))
    train_cohort(folder, Options(stop=lambda: next(asked, None) is None))
    checkpoint = folder.load_checkpoint()
    assert checkpoint is not None and (len(checkpoint[1]["members"]), len(checkpoint[1]["finished"])) == (8, 7)
    real = Stack.__init__

    def small(self, cohort, *rest):
        if len(cohort) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory")
        real(self, cohort, *rest)

    monkeypatch.setattr(Stack, "__init__", small)
    with pytest.warns(UserWarning, match="with 8 members side by side"):
        assert train_cohort(folder, Options()) == "done"
    monkeypatch.undo()
    assert results(folder) == each_alone(specs)


@pytest.mark.parametrize("failing", [1, 2, 3])
def test_a_flush_may_run_out_of_memory(tmp_path, monkeypatch, failing):
    specs = tiny_grid({}, seed=range(4))
    folder, real, calls = begun(tmp_path / "together", specs), Roster.state, []

    def state(self):
        calls.append(len(self.members))
        if len(calls) == failing:
            raise MemoryError
        return real(self)

    monkeypatch.setattr(Roster, "state", state)
    asked = iter(range(6))
    with pytest.warns(UserWarning, match="ran out of memory with"):
        stopped = train_cohort(folder, Options(stop=lambda: next(asked, None) is None))
        assert stopped == "interrupted"
        assert train_cohort(folder, Options(flush_seconds=0)) == "done"
    monkeypatch.undo()
    assert results(folder) == each_alone(specs)


def test_a_shortage_does_not_outlast_its_session(tmp_path, monkeypatch):
    folder = begun(tmp_path, tiny_grid({}, seed=range(4)))
    with monkeypatch.context() as patch, pytest.warns(UserWarning, match="ran out of memory"):
        room_for(patch, 2)
        asked = iter(range(5))
        train_cohort(folder, Options(flush_seconds=0, stop=lambda: next(asked, None) is None))
    session = Session(folder, Options())
    session.advance()
    assert len(session.roster.members) == 4


def test_a_member_that_does_not_fit_alone_is_said(tmp_path, monkeypatch):
    folder = begun(tmp_path, tiny_grid({}, seed=range(2)))
    room_for(monkeypatch, 0)
    with (
        pytest.warns(UserWarning, match="ran out of memory with 2 members"),
        pytest.raises(UserError, match=r"ran out of memory with one member in its stack"),
    ):
        train_cohort(folder, Options())


def test_a_checkpoint_of_parked_members_with_rows_missing_is_refused(tmp_path):
    folder = begun(tmp_path, tiny_grid({}, seed=range(4)))
    asked = iter(range(5))
    train_cohort(folder, Options(stop=lambda: next(asked, None) is None))
    state, metadata = load_tensors(folder.checkpoint_path)
    save_tensors(folder.checkpoint_path, {name: tensor[:3] for name, tensor in state.items()}, metadata)
    for places in (2, 4):
        with pytest.raises(LabError, match=r"checkpoint\.safetensors holds .* of shape \(3"):
            Session(folder, Options(places=places))


def test_other_errors_are_not_taken_for_a_lack_of_memory(tmp_path, monkeypatch):
    def train_steps(stack, n):
        raise RuntimeError("something else")

    monkeypatch.setattr(loop, "train_steps", train_steps)
    with pytest.raises(RuntimeError, match="something else"):
        train_cohort(begun(tmp_path, [tiny()]), Options())


def test_what_pytorch_says_when_memory_runs_out_is_understood():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**62, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)
    assert is_out_of_memory(MemoryError())
    for said in (
        "CUDA error: out of memory",
        "CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate",
        "std::bad_alloc",
        "could not create a primitive",
    ):
        assert is_out_of_memory(RuntimeError(said))
    try:
        try:
            raise torch.OutOfMemoryError("CUDA out of memory")
        finally:
            raise RuntimeError("the recording is invalid")
    except RuntimeError as error:
        assert is_out_of_memory(error)
    for said in ("shapes do not fit", "could not create a primitive descriptor for a matmul primitive"):
        assert not is_out_of_memory(RuntimeError(said))


SHORT = """
import io, resource, sys, torch
import polars as pl
from pathlib import Path
from shoal.lab import Lab
from shoal.spec import RunSpec, grid
from shoal.training.loop import Options, train_cohort
from shoal.training.plan import plan
torch.set_num_threads(1)
specs = grid(RunSpec(model="lstm", n_steps=3, eval_first=0, eval_period=3), seed=range(16))
(cohort,) = plan(specs)
folder = Lab(sys.argv[1]).create().cohort(cohort.id)
folder.create(specs, threads=1, engine="prefixes")
pl.DataFrame({"x": [1.0]}).write_parquet(io.BytesIO())  # takes its memory before the limit: it aborts where it has none
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**29, used + 2**29))
print(train_cohort(folder, Options(places=16)), len(folder.metrics()))
"""


def test_memory_that_runs_out_before_there_is_a_stack_ends_in_words_and_not_never(tmp_path, monkeypatch):
    folder = begun(tmp_path, tiny_grid({}, seed=range(4)))

    def lacking(*_):
        monkeypatch.setattr(CohortFolder, "load_checkpoint", lacking)  # from the first step on there is none
        raise MemoryError

    monkeypatch.setattr("shoal.training.loop.train_steps", lacking)
    with pytest.warns(UserWarning, match="ran out of memory with"), pytest.raises(UserError, match="one member"):
        train_cohort(folder, Options(places=4))


@pytest.mark.slow
def test_a_real_lack_of_memory_is_lived_with(tmp_path):
    """A limit on the process's addresses, half as many places again and again until they fit.

    Of an LSTM: for a GPT's gelu oneDNN makes code while it runs, and there is room for it only where malloc has left
    some, which about one time in thirty it had not.
    """
    command = [sys.executable, "-c", SHORT, str(tmp_path)]
    environment = {**os.environ, "POLARS_MAX_THREADS": "1"}  # no others that want memory at the same time
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split() == ["done", "32"]
    assert "ran out of memory with 16 members side by side" in done.stderr


@settings(max_examples=200, deadline=None)
@given(
    schedule=st.fixed_dictionaries(
        {"eval_first": st.integers(0, 9), "eval_period": st.integers(1, 9)},
        optional={"save_model_step": st.integers(1, 9), "save_statistic_step": st.integers(1, 9)},
    ),
    members=st.lists(st.tuples(st.integers(0, 30), st.integers(1, 40)), min_size=1, max_size=4),
)
def test_the_steps_until_something_is_due_are_those_of_the_schedule(schedule, members):
    spec = tiny(**schedule)
    ahead = steps_until_due(spec, *torch.tensor(members).T)

    def is_due(step: int, last: int) -> bool:
        flushed = spec.save_statistic_step is not None and step % spec.save_statistic_step == 0
        return bool(is_evaluated(spec, step) or is_saved(spec, step) or step == last or flushed)

    found = [next(n for n in range(1, 99) if is_due(step + n, last)) for step, last in members if step < last]
    assert ahead == min(found, default=1)


@pytest.mark.parametrize("is_recorded", [False, True])
@pytest.mark.parametrize("model", ["lstm", "gpt"])
def test_many_steps_between_two_looks_and_recordings_change_nothing(tmp_path, monkeypatch, model, is_recorded):
    base = {"model": model, "n_steps": 60, "eval_period": 20, "save_model_step": 25, "train_batch_size": 8}
    specs = [
        *tiny_grid(base, n_steps=[33, 60], seed=[0, 1]),
        tiny(**{**base, "seed": 5, "lr": 1e30, "clip": float("inf")}),
        tiny(**{**base, "seed": 6, "n_steps": 47}),
    ]
    expected = each_alone(specs)
    looks, real = [], Session._ahead
    monkeypatch.setattr(loop, "CHECKED", 1e9)
    if is_recorded:
        monkeypatch.setattr("shoal.training.stack.Launches", lambda device: Launches(device, recorded))
    monkeypatch.setattr(Session, "_ahead", lambda self, stack: looks.append(real(self, stack)) or looks[-1])
    folder = begun(tmp_path / "together", specs)
    train_cohort(folder, Options(places=4))
    assert max(looks) > 10
    assert repr(results(folder)) == repr(expected)  # a loss may be NaN, which equals nothing


def test_a_cpu_looks_after_a_time_not_after_a_number_of_steps(tmp_path, monkeypatch):
    session = Session(begun(tmp_path, [tiny(n_steps=1000, eval_first=0, eval_period=1000)]), Options())
    taken = [session.advance() for _ in range(2)]
    monkeypatch.setattr(loop, "CHECKED", 0.05)
    for seconds, steps in ((0.02, 2), (0.05, 1), (0.3, 1), (1e-4, loop.AT_ONCE)):
        session.pace.steps.seconds, session.pace.steps.count = seconds, 1.0
        taken.append(session.advance())
        assert taken[-1] == steps
    assert taken[:2] == [1, 1]  # before a step was measured
    assert session.advance(7) == 7


def test_the_waiting_that_have_begun_come_first():
    specs = tiny_grid({}, seed=range(5))
    roster = Roster(specs, 3, CPU, "prefixes")
    assert roster.fill().tolist() == [True] * 3
    state, where = roster.state(), roster.where()
    fewer = Roster(specs, 1, CPU, "prefixes")
    fewer.restore(state, where, lambda state, like: None)
    assert fewer.waiting == [spec.id for spec in one_cohort(specs).members[1:]]
    fewer.leave(0, {"state": "done", "step": 1})
    assert fewer.fill().tolist() == [False]  # it has begun before
    assert fewer.members == [specs[1].id]
