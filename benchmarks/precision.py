"""Comparison of the times to generalise in lower precisions. ``python -m benchmarks.precision --lab DIR``.

Trains the quick form of the study ``sanity`` over many seeds in float32 and in the other precisions, and compares the
steps at which validation accuracy first reached 0.99. Runs that never did count as later than all that did. The test is
a permutation of ranks (Mann-Whitney), two-sided, with 20,000 seeded permutations: few seeds and many ties ask for no
approximation.
"""

import argparse
from collections.abc import Sequence

import numpy as np
import polars as pl

import shoal
from shoal.studies import Form, get_study

PERMUTATIONS = 20_000


def times(records: shoal.Records) -> list[float]:
    """Steps at which the runs generalised, infinite where they did not."""
    reached = records.curves().filter(pl.col("valid_accuracy") >= 0.99).group_by("run").agg(pl.col("step").min())
    first_steps = dict(reached.iter_rows())
    return [float(first_steps.get(run, np.inf)) for run in records.ids]


def p_value(one: Sequence[float], other: Sequence[float], seed: int = 0) -> float:
    """Two-sided probability of as large a difference of mean ranks when labels are exchanged."""
    values = np.array([*one, *other])
    order = {value: rank for rank, value in enumerate(np.unique(values))}
    counts = np.bincount([order[value] for value in values])
    middle = np.cumsum(counts) - (counts - 1) / 2  # mean rank of tied values
    ranks = np.array([middle[order[value]] for value in values])
    generator, n = np.random.default_rng(seed), len(one)

    def distance(ranks: np.ndarray) -> float:
        return abs(float(ranks[:n].mean() - ranks[n:].mean()))

    observed = distance(ranks)
    more = sum(distance(generator.permutation(ranks)) >= observed - 1e-12 for _ in range(PERMUTATIONS))
    return (more + 1) / (PERMUTATIONS + 1)


def describe(steps: Sequence[float]) -> str:
    """Median, quartiles, and number of runs that generalised, as text."""
    quartiles = np.quantile(np.array(steps), [0.25, 0.5, 0.75], method="inverted_cdf")
    low, middle, high = (f"{value:,.0f}" if np.isfinite(value) else "never" for value in quartiles)
    return f"median {middle} ({low} to {high}), {int(np.isfinite(steps).sum())} of {len(steps)} runs"


def main() -> None:
    """Train and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lab", default="precision-lab")
    parser.add_argument("--seeds", type=int, default=16)
    parser.add_argument("--models", nargs="+", default=["lstm", "gpt"])
    parser.add_argument("--precisions", nargs="+", default=["bfloat16"])
    options = parser.parse_args()
    for model in options.models:
        base = next(spec for spec in Form(quick=True).specs(get_study("sanity")) if spec.model == model)
        results = {}
        for precision in ("float32", *options.precisions):
            specs = shoal.grid(base, precision=[precision], stop_after_generalizing=[0], seed=range(options.seeds))
            results[precision] = times(shoal.train(specs, options.lab, say=print))
            print(f"{model} {precision}: {describe(results[precision])}", flush=True)
        for precision in options.precisions:
            p = p_value(results["float32"], results[precision])
            print(f"{model} {precision} against float32: p = {p:.3f}", flush=True)


if __name__ == "__main__":
    main()
