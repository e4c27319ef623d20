"""Benchmark of an LSTM on characters beside ``torch.nn.LSTM`` in a plain loop.

Usage: ``python -m benchmarks.char_lstm TEXT [R ...]``.

The model has 2 layers of width 128 and learns from batches of 32 windows of 64 characters, its gradient clipped to a
norm of 1. The loop trains a model of the same sizes (embedding, ``torch.nn.LSTM``, linear classifier) by
``torch.optim.AdamW``, one run at a time; shoal trains a stack of ``R`` runs by the engine that a long training of them
is given. One thread; a pair is some steps of the loop, as many of one of the runs, and the loop again; medians and
quartiles of the ratios are reported, in processor time.
"""

import math
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median, quantiles

import torch
from torch import nn
from torch.nn import functional as F

from shoal.fast.denormals import flushed_denormals
from shoal.fast.engine import choose_engine
from shoal.fast.memory import keep_freed_memory
from shoal.spec import RunSpec
from shoal.training.plan import Cohort
from shoal.training.stack import Stack
from shoal.training.step import train_step

B, S, D, L = 32, 64, 128, 2
PAIRS, STEPS, WARM = 9, 4, 4


class Loop:
    """Plain loop of a model on the characters of a text."""

    def __init__(self, text: str) -> None:
        characters = sorted(set(text))
        places = {character: place for place, character in enumerate(characters)}
        self.data, V = torch.tensor([places[character] for character in text]), len(characters)  # (N,)
        self.embedding, self.classifier = nn.Embedding(V, D), nn.Linear(D, V)
        self.lstm = nn.LSTM(D, D, L, batch_first=True)
        modules = nn.ModuleList([self.embedding, self.lstm, self.classifier])
        self.parameters = list(modules.parameters())
        self.optimizer = torch.optim.AdamW(self.parameters, lr=1e-3)

    def step(self) -> None:
        """Train for one step."""
        starts = torch.randint(len(self.data) - S, (B,)).tolist()
        windows = torch.stack([self.data[start : start + S + 1] for start in starts])  # (B, S + 1)
        logits = self.classifier(self.lstm(self.embedding(windows[:, :-1]))[0])  # (B, S, V)
        loss = F.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten())
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()


def stack_of(path: str, R: int) -> Stack:
    """Stack of ``R`` runs of different seeds."""
    sizes = {"context_length": S, "num_layers": L, "embedding_size": D, "train_batch_size": B}
    first = RunSpec(task="text", text=[path], model="lstm", tokenizer="chars", n_steps=2001, clip=1.0, **sizes)
    runs = Cohort(tuple(first.replace(seed=seed) for seed in range(R)))
    choice = choose_engine(runs.shared, math.inf, torch.device("cpu"))
    return Stack(runs, torch.device("cpu"), choice.engine, choice.products)


def seconds(step: Callable[[], None], steps: int) -> float:
    """Processor time of a step."""
    start = time.process_time()
    for _ in range(steps):
        step()
    return (time.process_time() - start) / steps


def report(loop: Loop, path: str, R: int) -> None:
    """Measure and print a row."""
    step = partial(train_step, stack_of(path, R))
    seconds(loop.step, WARM), seconds(step, WARM)
    pairs = []
    for _ in range(PAIRS):
        before, of_run, after = (
            seconds(loop.step, STEPS),
            seconds(step, max(1, STEPS // R)) / R,
            seconds(loop.step, STEPS),
        )
        pairs.append(((before + after) / 2, of_run))
    low, middle, high = quantiles([plain / of_run for plain, of_run in pairs], n=4)
    plain, of_run = (1e3 * median(times) for times in zip(*pairs, strict=True))
    print(f"| {R} | {plain:.1f} | {of_run:.1f} | {middle:.2f} ({low:.2f} to {high:.2f}) |", flush=True)


def main() -> None:
    """Measure and print a Markdown table."""
    path, *sizes = sys.argv[1:]
    torch.set_num_threads(1)
    keep_freed_memory()
    loop = Loop(Path(path).read_text(encoding="utf-8"))
    print("| R | the loop, ms | a run, ms | ratio |\n| ---: | ---: | ---: | ---: |")
    with flushed_denormals():
        for R in [int(size) for size in sizes] or [1, 2, 4]:
            report(loop, path, R)


if __name__ == "__main__":
    main()
