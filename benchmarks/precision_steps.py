"""Processor time of a training step in float32 and in bfloat16. ``python -m benchmarks.precision_steps [TEXT]``.

The default arithmetic runs and smaller ones, and, where the path of a text is given, nanoGPT's small CPU setting and an
LSTM on it. In turns on one thread: in float32 by the faster products, in bfloat16 by programs with our own products and
with PyTorch's, and, for equations, by engine ``prefixes``, which has no kernels. Milliseconds per member and step,
medians of the turns; a ratio is the median of those of each turn.
"""

import sys
import time
from collections.abc import Iterator
from statistics import median
from typing import Any

import torch

from shoal.fast.memory import keep_freed_memory
from shoal.spec import RunSpec
from shoal.training.plan import Cohort
from shoal.training.stack import Stack
from shoal.training.step import train_steps

TURNS, WORK = 9, 0.05  # turns; seconds of one, at least
SMALL = {"embedding_size": 32, "train_batch_size": 64}
OF_TEXT = {"task": "text", "num_layers": 2, "embedding_size": 128, "context_length": 64}
NANOGPT = {**OF_TEXT, "model": "gpt", "num_layers": 4, "num_heads": 4, "train_batch_size": 12}
CASES: dict[str, tuple[dict[str, Any], tuple[int, ...]]] = {  # settings, and numbers of members
    "LSTM, default": ({"model": "lstm"}, (1, 8)),
    "GPT, default": ({"model": "gpt"}, (1, 8)),
    "LSTM, d = 32, B = 64": ({"model": "lstm", **SMALL}, (8,)),
    "GPT, d = 32, B = 64": ({"model": "gpt", **SMALL}, (8,)),
    "nanoGPT, small": (NANOGPT, (1, 4)),
    "LSTM of characters": ({**OF_TEXT, "model": "lstm", "train_batch_size": 32}, (2,)),
}


def ways(settings: dict[str, Any], R: int) -> Iterator[tuple[str, Stack]]:
    """Stacks of ``R`` members, by how they compute."""
    engine = "windows" if "task" in settings else "compiled"
    each: list[tuple[str, str, str | None]] = [
        ("float32", engine, None),
        ("bfloat16", engine, "own"),
        ("bfloat16", engine, "torch"),
        *([("bfloat16", "prefixes", "torch")] if engine == "compiled" else []),
    ]
    for precision, by, products in each:
        specs = tuple(RunSpec(**settings, precision=precision, seed=seed) for seed in range(R))
        yield f"{precision} {by} {products or ''}".strip(), Stack(Cohort(specs), torch.device("cpu"), by, products)


def measured(settings: dict[str, Any], R: int) -> dict[str, list[float]]:
    """Seconds per member and step in each turn, by the way."""
    stacks = dict(ways(settings, R))
    for stack in stacks.values():
        train_steps(stack, 2)
    start = time.process_time()
    train_steps(next(iter(stacks.values())), 1)
    steps = max(1, round(WORK / (time.process_time() - start)))
    times: dict[str, list[float]] = {name: [] for name in stacks}
    for turn in range(TURNS):
        for name in list(stacks)[:: 1 if turn % 2 else -1]:
            start = time.process_time()
            train_steps(stacks[name], steps)
            times[name].append((time.process_time() - start) / steps / R)
    return times


def main() -> None:
    """Measure and print a Markdown table."""
    torch.set_num_threads(1)
    keep_freed_memory()
    print("| | R | " + " | ".join(("way", "ms", "times as fast as float32")) + " |\n| --- | ---: | --- | ---: | ---: |")
    for name, (settings, members) in CASES.items():
        if "task" in settings and len(sys.argv) < 2:
            continue
        of_text = {"text": sys.argv[1]} if "task" in settings else {}
        for R in members:
            times = measured({**settings, **of_text}, R)
            base = next(iter(times.values()))
            for way, each in times.items():
                ratio = median(x / y for x, y in zip(base, each, strict=True))
                print(f"| {name} | {R} | {way} | {1e3 * median(each):.3g} | {ratio:.2f} |", flush=True)


if __name__ == "__main__":
    main()
