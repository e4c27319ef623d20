"""Benchmark of overheads: help, planning many runs, opening a large lab. ``python -m benchmarks.overhead``.

Medians of five, each in its own process where start-up is measured. The shares of evaluation and recording in training
are measured by ``python -m benchmarks``.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import polars as pl

from shoal.lab import Lab
from shoal.spec import RunSpec, grid
from shoal.training.plan import plan, spread

RUNS, PER_COHORT = 10_000, 100


def seconds(action: Callable[[], object], repeats: int = 5) -> float:
    """Median time of an action."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        action()
        times.append(time.perf_counter() - start)
    return median(times)


def command(*words: str) -> None:
    """Run ``shoal``, refusing to time a failure."""
    subprocess.run([sys.executable, "-m", "shoal", *words], check=True, capture_output=True)


def large_lab(path: Path, specs: list[RunSpec]) -> Lab:
    """Lab of finished runs with a row of metrics each, made without training them."""
    lab = Lab(path).create()
    for start in range(0, len(specs), PER_COHORT):
        members = specs[start : start + PER_COHORT]
        folder = lab.cohort(f"cohort{start:06d}")
        folder.create(members, threads=1)
        row = {"train_loss": 0.0, "valid_loss": 0.0, "train_accuracy": 1.0, "valid_accuracy": 1.0, "l2_norm": 1.0}
        frame = pl.DataFrame([{"run": spec.id, "step": spec.n_steps, **row} for spec in members])
        folder.write_metrics(0, frame.cast(dict.fromkeys(row, pl.Float32)))
        done = {spec.id: {"state": "done", "step": spec.n_steps} for spec in members}
        folder.write_status({"members": done, "sessions": []})
    return lab


def main() -> None:
    """Measure and print one JSON object, in seconds."""
    base = RunSpec(model="gpt")
    values = {"weight_decay": [0.1 * i for i in range(1, 11)], "lr": [1e-4 * i for i in range(1, 11)]}
    results = {"help": seconds(lambda: command("--help")), "train help": seconds(lambda: command("train", "--help"))}
    specs = grid(base, **values, seed=range(RUNS // 100))
    assert len(specs) == RUNS
    results["grid of 10,000"] = seconds(lambda: grid(base, **values, seed=range(RUNS // 100)), 3)
    fresh = [grid(base, **values, seed=range(RUNS // 100)) for _ in range(3)]
    results["plan of 10,000"] = seconds(lambda: spread(plan(fresh.pop()), 2), 3)
    with tempfile.TemporaryDirectory() as folder:
        lab = large_lab(Path(folder) / "lab", specs)
        results["open: index"] = seconds(lambda: Lab(lab.path).index())
        results["open: records and runs"] = seconds(lambda: Lab(lab.path).records().runs())
        results["open: curves"] = seconds(lambda: Lab(lab.path).records().curves())
        results["open: damage"] = seconds(lambda: Lab(lab.path).records().damage())
        results["10,000 held runs asked for"] = seconds(lambda: Lab(lab.path).records(spec.id for spec in specs))
    print(json.dumps({name: round(value, 3) for name, value in results.items()}, indent=1))


if __name__ == "__main__":
    main()
