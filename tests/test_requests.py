"""Requests that are allowed and large: answered, refused or told of at once."""

import importlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from helpers import TINY, shapes, tiny
from hypothesis import given, settings
from hypothesis import strategies as st

import shoal
from shoal.cli import main
from shoal.errors import UserError
from shoal.interrupts import ignore_interrupts
from shoal.report import Figure, Report, Section, page
from shoal.spec import RunSpec, grid
from shoal.spec.grid import MOST_RUNS
from shoal.tasks.arithmetic.settings import equations_of
from shoal.tasks.build import build_task, count_examples
from shoal.training import executor, groups, memory
from shoal.training.plan import Cohort


def never(*_: object, **__: object) -> None:
    pytest.fail("something was made")


@pytest.mark.parametrize("values", [range(10**9), iter(range(MOST_RUNS + 1)), [0] * (MOST_RUNS + 1)])
def test_a_grid_is_counted_before_its_runs_are_made(values, monkeypatch):
    monkeypatch.setattr(RunSpec, "__init__", never)
    with pytest.raises(UserError, match=f"a grid has at most {MOST_RUNS:,}"):
        grid(None, seed=values)
    with pytest.raises(UserError, match="make 1,000,000 runs"):
        grid(None, seed=range(1000), lr=[1e-3] * 1000)


def test_a_study_is_counted_before_its_runs_are_made(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr("shoal.studies.base.RunSpec", never)
    assert main(["study", "run", "sanity", "--seeds", "200000", "--lab", str(tmp_path / "lab")]) == 2
    assert "make 200,000 runs" in capsys.readouterr().err
    assert not (tmp_path / "lab").exists()


def test_planning_of_many_runs_is_told_of_first(capsys):
    assert main(["train", "--seed", *map(str, range(6000)), "--dropout", "2"]) == 2  # refused at the first
    assert "planning 6,000 runs" in capsys.readouterr().out


@settings(max_examples=40, deadline=None)
@given(settings=shapes, r_train=st.floats(0.3, 0.9))
def test_the_sizes_of_data_are_known_before_it_is_made(settings, r_train):
    try:
        spec = RunSpec(**{**settings, "r_train": r_train, "num_heads": 2 if settings["model"] == "gpt" else None})
    except UserError:
        return
    task = build_task(spec)
    sizes = spec.task_part.sizes()
    assert task.tensors["inputs"].max() < sizes.vocabulary_size == len(equations_of(spec).tokenizer)
    assert count_examples(spec) == (len(task.scored["train"]), sum(map(len, task.scored.values())))
    stored = sum(tensor.numel() * tensor.element_size() for tensor in task.tensors.values())
    free_of_data = memory.stack_bytes(spec, 1, "plain") - 2 * stored
    assert free_of_data > 0
    S = sizes.sequence_length
    assert task.tensors["inputs"].shape[1] == S
    assert stored == 8 * len(task.tensors["inputs"]) * (3 * S + 1)  # what the estimate says of it


def test_data_that_does_not_fit_is_refused_before_it_is_made(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(memory, "free_bytes", lambda device: 2 * 2**30)
    monkeypatch.setattr("shoal.tasks.arithmetic.data.arithmetic_data", never)
    command = ["train", "--p", "3162", "--embedding-size", "8", "--num-layers", "1", "--lab", str(tmp_path / "lab")]
    assert main(command) == 2
    assert "one run with p=3162" in capsys.readouterr().err
    assert not list(tmp_path.glob("lab/cohorts/*"))


@pytest.mark.parametrize(("p", "told"), [(3162, True), (31, False)])
def test_evaluations_that_take_longer_than_training_are_told_of(p, told, tmp_path, monkeypatch):
    said: list[str] = []
    monkeypatch.setattr("shoal.training.api.execute", lambda *_, **__: False)
    monkeypatch.setattr(memory, "free_bytes", lambda device: 2**40)
    with pytest.raises(shoal.Interrupted):
        shoal.train(RunSpec(p=p), tmp_path / "lab", workers=1, say=said.append)
    assert any("eval_first" in line for line in said) == told
    cohort = Cohort((RunSpec(p=p),))
    assert (cohort.evaluation_seconds * cohort.evaluations > cohort.seconds) == told


@pytest.mark.parametrize("left", [0, 60 * 2**30])
def test_a_page_that_cannot_be_drawn_is_refused_and_not_begun(left, tmp_path, monkeypatch):
    monkeypatch.setattr(groups, "left_in_process", lambda: left)
    monkeypatch.setattr(page, "_write_figure", never)
    figure = Figure("f", None, "A figure.")
    with pytest.raises(UserError, match="ulimit -v"):
        page.write_report(Report("t", "", [Section("s", figures=[figure])]), tmp_path / "page")
    assert not (tmp_path / "page").exists()
    page.write_report(Report("t", "", [Section("s", ["Words."])]), tmp_path / "page")  # which draws nothing


@pytest.mark.parametrize(
    "limit", [pytest.param(kib, marks=pytest.mark.slow) for kib in (600_000, 3_000_000, 20_000_000)]
)
def test_a_report_under_a_limit_of_addresses_is_one_line(limit, tmp_path):
    path = str(tmp_path / "lab")
    shoal.train(tiny(), path, workers=1)
    command = ["bash", "-c", f'ulimit -v {limit}; "$@"', "bash", sys.executable, "-m", "shoal", "report", "--lab", path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode in (1, 2)
    assert done.stderr.count("\n") == 1, done.stderr
    assert "ulimit -v" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("gap", [0.0, 0.05, 0.3])
@pytest.mark.parametrize("wait", ["start", "cohorts", "checkpoint"])
def test_eight_times_ctrl_c_is_an_interruption_without_a_traceback(wait, gap, tmp_path):
    flags = [word for name, value in TINY.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    command = [sys.executable, "-m", "shoal", "train", *flags, "--model", "lstm", "gpt", "--flush-seconds", "0.2"]
    command[command.index("--n-steps") + 1] = "1000000"
    process = subprocess.Popen(
        [*command, "--lab", str(tmp_path / "lab")],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    signs = {"start": "lab", "cohorts": "lab/cohorts/*", "checkpoint": "lab/cohorts/*/checkpoint.safetensors"}
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob(signs[wait])):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    for _ in range(8):
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGINT)
        time.sleep(gap)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130, error
    assert "Traceback" not in error and "Exception ignored" not in error
    assert error.strip().count("\n") == 0


def test_what_another_thread_hears_while_a_worker_starts_is_put_off():
    """A signal of the process goes to any thread that does not block it, and Python interrupts the main one."""
    done = threading.Event()
    other = threading.Thread(target=done.wait)
    other.start()
    stop, seen = executor.StopFlag(), []
    try:
        with stop.listening():
            stop.asked = True  # so that the next one interrupts
            with pytest.raises(KeyboardInterrupt), executor._unheard():
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(0.05)
                seen.append("the end")
    finally:
        done.set()
        other.join()
    assert seen == ["the end"]


@pytest.mark.parametrize("error", [MemoryError(), ImportError("libx.so: failed to map segment from shared object")])
def test_memory_that_runs_out_at_an_import_is_one_line(error, monkeypatch, capsys):
    def load(name: str) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(importlib, "import_module", load)
        assert main(["runs"]) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_equations_are_in_the_order_of_loops():
    from shoal.tasks.arithmetic.data import arithmetic_data

    data = arithmetic_data(5, 5, "/", 0.5, [2, 3], shuffle=False)
    pairs = [(a, b) for a in range(5) for b in range(1, 5)]
    divisors = data.tokens[: len(pairs), 3]
    assert divisors.tolist() == [b for _, b in pairs]
    assert data.eq_positions.dtype == torch.int64
    assert data.eq_positions.tolist() == [3] * 20 + [5] * 80


LONG = 300 * "a"  # no file system has names of so many signs
WITH_PATHS = {
    "merge": "merge 98f1 {0}.safetensors",
    "fine-tuning on a run": "finetune {0} --text {1}",
    "fine-tuning on a folder": "finetune a/{0} --text {1}",
    "fine-tuning on a file": "finetune {0}.safetensors --text {1}",
    "translation": "translate 98f1 {0}",
    "a source": "train --task translation --source {0} --target {1} --valid-source {1} --valid-target {1} --dry-run",
    "a text": "train --task text --text {0} --dry-run",
    "observations": "train --task sequences --observations {0} --dry-run",
    "vectors": "train --task text --text {1} --embeddings {0} --dry-run",
    "a report of a fit": "fit scaling {1} --out {0}",
    "a table": "fit scaling {0}.csv",
    "a tree": "generate 98f1 --prompt a --beams 2 --tree {0}.svg",
    "scores": "score --hypotheses {0} --reference {1}",
    "a lab": "runs --lab {0}",
}


@pytest.mark.parametrize("what", WITH_PATHS)
def test_names_that_no_file_can_have_are_one_line(what, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text("a b\n" * 9)
    assert main(WITH_PATHS[what].format(LONG, "text.txt").split()) in (1, 2)
    told = capsys.readouterr()
    assert told.err.count("\n") == 1 and len(told.err) < 2 * len(LONG) + 300
    assert sorted(path.name for path in tmp_path.iterdir()) == ["text.txt"]


RACE = r"""
import os, signal, subprocess, sys, time
from shoal.interrupts import ignore_interrupts
signal.signal(signal.SIGINT, signal.SIG_IGN)
sent = "import os, signal, sys\nwhile True: os.kill(int(sys.argv[1]), signal.SIGINT)"
sender = subprocess.Popen([sys.executable, "-c", sent, str(os.getpid())], stderr=subprocess.DEVNULL)
until = time.monotonic() + 3
while time.monotonic() < until:
    signal.signal(signal.SIGINT, lambda *_: None)
    ignore_interrupts()
sender.kill()
"""


@pytest.mark.slow
def test_ctrl_c_between_two_handlers_prints_nothing():
    """Thousands each second, of which one arrives now and then just as its handler is removed."""
    done = subprocess.run([sys.executable, "-c", RACE], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_other_errors_that_nobody_catches_are_told_while_ctrl_c_is_ignored(monkeypatch):
    told = []
    monkeypatch.setattr(sys, "unraisablehook", told.append)
    raised = [SimpleNamespace(exc_value=OSError(text)) for text in ("Signal 2 ignored due to race condition", "disk")]
    monkeypatch.setattr("shoal.interrupts.signal.signal", lambda *_: [sys.unraisablehook(one) for one in raised])
    ignore_interrupts()
    assert told == raised[1:] and sys.unraisablehook == told.append
