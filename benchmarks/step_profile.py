"""Where the time of one training step goes, before and after. ``python -m benchmarks.step_profile``.

One member of the default run on one thread, on each engine: self time by kind of operation, from ``torch.profiler``,
and the median step without the profiler.
"""

import time
from collections import defaultdict
from statistics import median

import torch
from torch.profiler import ProfilerActivity, profile

from shoal.fast.engine import ENGINES
from shoal.fast.memory import keep_freed_memory
from shoal.spec import RunSpec
from shoal.training.plan import Cohort
from shoal.training.stack import Stack
from shoal.training.step import train_step

STEPS = 30
KINDS = {
    "products": ("mm",),
    "LSTM cells": ("_LSTMLayer", "sigmoid", "tanh"),
    "attention, softmax": ("_Attend", "softmax"),
    "LayerNorm": ("_AddNorm", "layer_norm", "rsqrt", "mean"),
    "GELU": ("_GELU", "gelu"),
    "copies, gathers, fills": (
        "copy_",
        "cat",
        "stack",
        "index",
        "gather",
        "embedding",
        "fill_",
        "zero",
        "select",
        "clone",
    ),
    "other elementwise": ("add", "mul", "sub", "div", "where", "sum", "sqrt", "lerp", "square", "norm"),
}


def kind(name: str) -> str:
    """The kind of an operation, by its name."""
    plain = name.removeprefix("aten::").removesuffix("Backward")
    return next((kind for kind, parts in KINDS.items() if any(part in plain for part in parts)), "the rest")


def breakdown(model: str, engine: str) -> dict[str, float]:
    """Milliseconds per step by kind, and of the whole step."""
    stack = Stack(Cohort((RunSpec(model=model),)), torch.device("cpu"), engine)
    times = []
    for _ in range(STEPS):
        start = time.perf_counter()
        train_step(stack)
        times.append((time.perf_counter() - start) * 1e3)
    with profile(activities=[ProfilerActivity.CPU]) as recorded:
        for _ in range(STEPS):
            train_step(stack)
    found: dict[str, float] = defaultdict(float)
    for event in recorded.key_averages():
        found[kind(event.key)] += event.self_cpu_time_total / 1e3 / STEPS
    return {"median step": median(times[5:]), **found}


def main() -> None:
    """Measure and print a Markdown table."""
    torch.set_num_threads(1)
    keep_freed_memory()
    columns = {(model, engine): breakdown(model, engine) for model in ("lstm", "gpt") for engine in reversed(ENGINES)}
    print("| | " + " | ".join(f"{model} {engine}" for model, engine in columns) + " |")
    print("| --- |" + " ---: |" * len(columns))
    for name in ("median step", *KINDS, "the rest"):
        cells = [f"{found[name]:.1f}" if found.get(name) else "–" for found in columns.values()]
        print(f"| {name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
