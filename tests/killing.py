"""Trains, or deletes, in a child process that is killed at random moments; run by test_kill.py and test_deleting.py.

    python killing.py LAB KILLS SEED [half|ragged]
    python killing.py LAB KILLS SEED delete RUN…   deletes instead

The parent has imported everything and never computes, so that each child starts training at once.
"""

import os
import random
import signal
import sys
import time
from collections.abc import Callable

import torch
from helpers import tiny_grid

import shoal
from shoal.lab import Lab
from shoal.spec import RunSpec, grid


def specs(share: float = 1) -> list[RunSpec]:
    """Two cohorts with state to lose in minibatches, dropout and member lengths, long enough to be killed often."""
    lengths = [round(share * steps) for steps in (1000, 1200)]
    lstm = tiny_grid({"train_batch_size": 4, "save_model_step": 200}, n_steps=lengths, seed=[0, 1])
    gpt = tiny_grid({"model": "gpt", "dropout": 0.1, "n_steps": round(share * 720)}, lr=[1e-3, 1e-2])
    return lstm + gpt


def ragged() -> list[RunSpec]:
    """Members that take turns on fewer places, whose batches have several forms."""
    base = {"task": "ragged:Ragged", "model": "gpt", "num_layers": 1, "num_heads": 2, "embedding_size": 8}
    base |= {"train_batch_size": 6, "eval_first": 0, "eval_period": 40, "save_model_step": 70}
    return grid(RunSpec(**base), n_steps=[70, 150, 200], seed=[0, 1])


RUNS: dict[str, Callable[[], list[RunSpec]]] = {"": specs, "half": lambda: specs(0.5), "ragged": ragged}


def child(lab: str, which: str) -> None:
    torch.set_num_threads(1)
    places = 3 if which == "ragged" else None
    shoal.train(RUNS[which](), lab, workers=1, threads=1, flush_seconds=0.05, places=places)


def delete(lab: str, runs: list[str]) -> None:
    """Deletes runs one after the other, those that are there."""
    for run in runs:
        if run in Lab(lab).runs():
            Lab(lab).delete(run)
    Lab(lab).clear()


def main(lab: str, kills: int, seed: int, which: str = "", *runs: str) -> None:
    moments = random.Random(seed)
    killed, moment = 0, (0.002, 0.04) if which == "delete" else (0.05, 0.8)  # seconds; a deletion takes some 0.1
    while True:
        pid = os.fork()
        if pid == 0:
            if which == "delete":
                delete(lab, list(runs))
            else:
                child(lab, which)
            os._exit(0)
        if killed < kills:
            time.sleep(moments.uniform(*moment))
            os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        if os.WIFSIGNALED(status):
            killed += 1
        else:
            print(f"killed {killed} times, exit code {os.waitstatus_to_exitcode(status)}")
            sys.exit(os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), *sys.argv[4:])
