"""Trains in a child process that is killed at random moments; run by test_kill.py.

    python killing.py LAB KILLS SEED

The parent has imported everything and never computes, so that each child starts training at once.
"""

import os
import random
import signal
import sys
import time

import torch
from helpers import tiny_grid

import shoal
from shoal.spec import RunSpec


def specs() -> list[RunSpec]:
    """Two cohorts with state to lose in minibatches, dropout and member lengths, long enough to be killed often."""
    lstm = tiny_grid({"train_batch_size": 4, "save_model_step": 200}, n_steps=[1000, 1200], seed=[0, 1])
    gpt = tiny_grid({"model": "gpt", "dropout": 0.1, "n_steps": 720}, lr=[1e-3, 1e-2])
    return lstm + gpt


def child(lab: str) -> None:
    torch.set_num_threads(1)
    shoal.train(specs(), lab, workers=1, threads=1, flush_seconds=0.05)


def main(lab: str, kills: int, seed: int) -> None:
    moments = random.Random(seed)
    killed = 0
    while True:
        pid = os.fork()
        if pid == 0:
            child(lab)
            os._exit(0)
        if killed < kills:
            time.sleep(moments.uniform(0.05, 0.8))
            os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        if os.WIFSIGNALED(status):
            killed += 1
        else:
            print(f"killed {killed} times, exit code {os.waitstatus_to_exitcode(status)}")
            sys.exit(os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
