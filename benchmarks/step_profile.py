"""Profile of one training step on each engine. ``python -m benchmarks.step_profile [THREADS]``.

One member of the default run on one thread, or as many as asked for, on each engine: self time by kind of operation,
from ``torch.profiler``, and the median step without the profiler.
"""

import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from shoal.fast.engine import ENGINES
from shoal.fast.kernels import CompiledLibrary
from shoal.fast.memory import keep_freed_memory
from shoal.spec import RunSpec
from shoal.training.plan import Cohort
from shoal.training.stack import Stack
from shoal.training.step import train_step

STEPS = 30
KINDS = {
    "products": ("mm",),
    "LSTM cells": ("lstm_", "sigmoid", "tanh"),
    "attention, softmax": ("attend_", "softmax"),
    "LayerNorm": ("add_norm_", "layer_norm", "rsqrt", "mean"),
    "GELU": ("gelu",),
    "the optimizer's kernel": ("adam",),
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
    """Kind of an operation, by its name."""
    plain = name.removeprefix("aten::").removesuffix("Backward")
    return next((kind for kind, parts in KINDS.items() if any(part in plain for part in parts)), "the rest")


@contextmanager
def kernels_recorded() -> Iterator[None]:
    """Context in which recorded calls of kernels are visible to the profiler."""
    bound = CompiledLibrary.bound

    def recorded(self: CompiledLibrary, name: str, *arguments: Any) -> Callable[[], Any]:
        call = bound(self, name, *arguments)

        def run() -> None:
            with record_function(name):
                call()

        return run

    CompiledLibrary.bound = recorded  # type: ignore[method-assign]
    try:
        yield
    finally:
        CompiledLibrary.bound = bound  # type: ignore[method-assign]


def breakdown(model: str, engine: str) -> dict[str, float]:
    """Milliseconds per step by kind, and of the whole step."""
    cohort, times = Cohort((RunSpec(model=model),)), []
    stack = Stack(cohort, torch.device("cpu"), engine)
    for _ in range(STEPS):
        start = time.perf_counter()
        train_step(stack)
        times.append((time.perf_counter() - start) * 1e3)
    with kernels_recorded():
        stack = Stack(cohort, torch.device("cpu"), engine)
        for _ in range(3):
            train_step(stack)
        with profile(activities=[ProfilerActivity.CPU]) as recorded:
            for _ in range(STEPS):
                train_step(stack)
    by_kind: dict[str, float] = defaultdict(float)
    for event in recorded.key_averages():
        by_kind[kind(event.key)] += event.self_cpu_time_total / 1e3 / STEPS
    return {"median step": median(times[5:]), **by_kind}


def main() -> None:
    """Measure and print a Markdown table."""
    torch.set_num_threads(int(sys.argv[1]) if len(sys.argv) > 1 else 1)
    keep_freed_memory()
    columns = {(model, engine): breakdown(model, engine) for model in ("lstm", "gpt") for engine in reversed(ENGINES)}
    print("| | " + " | ".join(f"{model} {engine}" for model, engine in columns) + " |")
    print("| --- |" + " ---: |" * len(columns))
    for name in ("median step", *KINDS, "the rest"):
        cells = [
            f"{cells_of_column[name]:.1f}" if cells_of_column.get(name) else "–" for cells_of_column in columns.values()
        ]
        print(f"| {name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
