"""A training process that is killed loses at most what was not flushed, and goes on to the same bits."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import killing
import pytest
import torch

import shoal
from shoal.lab import Lab

HERE = Path(__file__).parent
PYTHONPATH = os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])
ENVIRONMENT = {**os.environ, "PYTHONPATH": PYTHONPATH, "OMP_NUM_THREADS": "1"}


def assert_same_lab(found: Lab, expected: shoal.Records) -> None:
    records = found.records(list(expected.specs.values()))
    assert records.runs()["state"].to_list() == ["done"] * len(records)
    assert records.curves().equals(expected.curves())
    for run in records.ids:
        assert list(records.model_files(run)) == list(expected.model_files(run))
        for step in records.model_files(run):
            other = expected.model(run, step).state_dict()
            for name, tensor in records.model(run, step).state_dict().items():
                assert torch.equal(tensor, other[name])


@pytest.mark.parametrize(("which", "kills", "seed"), [("half", 5, 7), pytest.param("", 60, 5, marks=pytest.mark.slow)])
def test_killed_at_random_moments_a_lab_ends_with_the_same_bits(tmp_path, which, kills, seed):
    expected = shoal.train(killing.RUNS[which](), tmp_path / "whole", workers=1, threads=1)
    command = [sys.executable, str(HERE / "killing.py"), str(tmp_path / "killed"), str(kills), str(seed), which]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[1]) >= min(kills, 10), done.stdout
    lab = Lab(tmp_path / "killed")
    sessions = [len(folder.status()["sessions"]) for folder in lab.cohorts()]
    assert sum(sessions) > 3  # it did go on from flushes, several times
    assert_same_lab(lab, expected)


@pytest.mark.slow
def test_members_whose_batches_have_forms_end_with_the_bits_that_they_have_alone(tmp_path):
    """Killed while they join each other's stacks."""
    expected = shoal.train(killing.RUNS["ragged"](), tmp_path / "whole", workers=1, threads=1, places=1)
    command = [sys.executable, str(HERE / "killing.py"), str(tmp_path / "killed"), "12", "3", "ragged"]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[1]) >= 5, done.stdout
    assert_same_lab(Lab(tmp_path / "killed"), expected)


def flags() -> list[str]:
    """Two cohorts that train for long enough to be interrupted."""
    settings = "--p 5 --embedding-size 8 --num-layers 1 --n-steps 100000 --eval-first 0 --eval-period 10"
    return [
        sys.executable,
        "-m",
        "shoal",
        "train",
        *settings.split(),
        "--model",
        "lstm",
        "gpt",
        "--flush-seconds",
        "0.2",
    ]


def has_flushed(folder: Path) -> bool:
    """Whether the record of a cohort says that it trains: it is written after the checkpoint, at the end of a flush."""
    status = folder / "status.json"
    return (folder / "checkpoint.safetensors").exists() and '"state": "running"' in status.read_text()


def started(lab: Path, workers: int = 2) -> subprocess.Popen[str]:
    """A process that has flushed the cohorts of its workers at least once; two are what it has where it is not told."""
    more = [] if workers == 2 else ["--workers", str(workers)]
    process = subprocess.Popen(
        [*flags(), *more, "--lab", str(lab)],
        env=ENVIRONMENT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    deadline = time.monotonic() + 90
    while sum(has_flushed(folder) for folder in lab.glob("cohorts/*")) < workers:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return process


@pytest.mark.parametrize(
    ("number", "workers"),
    [
        (signal.SIGINT, 2),
        (signal.SIGTERM, 1),
        pytest.param(signal.SIGTERM, 2, marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, 1, marks=pytest.mark.slow),
    ],
)
def test_a_signal_finishes_the_step_flushes_and_says_how_to_go_on(tmp_path, number, workers):
    process = started(tmp_path / "lab", workers)
    os.killpg(process.pid, number)  # as a terminal or a batch system does: the workers get it too
    out, error = process.communicate(timeout=60)
    assert process.returncode == 130, (out, error)
    assert "shoal resume --lab" in error
    assert 0 < out.index("· stopping") < out.index("· interrupted")
    lab = Lab(tmp_path / "lab")
    begun = [folder for folder in lab.cohorts() if folder.checkpoint_path.exists()]
    assert len(begun) == workers
    for folder in begun:
        assert not folder.is_training()
        step = max(member["step"] for member in folder.status()["members"].values())
        assert folder.metrics()["step"].max() == step // 10 * 10


def workers_of(process: subprocess.Popen[str]) -> list[int]:
    """The processes that train for it."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    commands = {child: Path(f"/proc/{child}/cmdline").read_text() for child in children}
    return [int(child) for child, command in commands.items() if "spawn_main" in command]


def test_ctrl_c_while_workers_start_is_an_interruption_and_no_failure(tmp_path):
    command = [*flags(), "--lab", str(tmp_path / "lab")]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen(command, env=ENVIRONMENT, text=True, start_new_session=True, **pipes)
    deadline = time.monotonic() + 90
    while len(workers_of(process)) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    time.sleep(0.3)  # they import
    os.killpg(process.pid, signal.SIGINT)
    out, error = process.communicate(timeout=90)
    assert process.returncode == 130, (out, error)
    assert "shoal resume --lab" in error
    assert "Traceback" not in error


SCRIPT = """
import shoal
specs = shoal.grid(shoal.RunSpec(p=5, embedding_size=8, num_layers=1, n_steps=3), model=["lstm", "gpt"])
records = shoal.train(specs, {lab!r}, workers=2)
print(len(records), sorted(set(records.runs()["state"])))
"""


def test_a_script_needs_no_guard_for_workers(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(lab=str(tmp_path / "lab")))
    done = subprocess.run([sys.executable, str(script)], env=ENVIRONMENT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "2 ['done']\n"  # once


def test_a_second_signal_ends_at_once_and_says_how_to_go_on(tmp_path):
    process = started(tmp_path / "lab", workers=1)
    for _ in range(2):
        process.send_signal(signal.SIGINT)
        time.sleep(0.05)
    out, error = process.communicate(timeout=60)
    assert process.returncode in (130, -signal.SIGINT), (out, error)  # the latter when it came after all was done
    assert re.search("stopped; (everything up to this step|what was flushed) is kept. To go on: shoal resume", error)
    assert "Traceback" not in error


def test_a_worker_that_is_killed_is_said_and_the_others_flush_and_end(tmp_path):
    process = started(tmp_path / "lab")
    workers = workers_of(process)
    assert len(workers) == 2
    os.kill(workers[0], signal.SIGKILL)  # as the kernel does where memory runs out
    out, error = process.communicate(timeout=60)
    assert process.returncode == 1, (out, error)
    assert "ended with exit code -9: perhaps for lack of memory" in error
    assert "Traceback" not in error
    lab = Lab(tmp_path / "lab")
    assert not any(folder.is_training() for folder in lab.cohorts())
    assert set(lab.records().runs()["state"]) == {"interrupted"}


def test_workers_end_when_their_parent_is_killed(tmp_path):
    process = started(tmp_path / "lab")
    process.kill()
    process.communicate(timeout=60)
    deadline = time.monotonic() + 30
    folders = Lab(tmp_path / "lab").cohorts()
    while any(folder.is_training() for folder in folders):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert set(Lab(tmp_path / "lab").records().runs()["state"]) == {"interrupted"}
