"""Benchmark of hidden Markov models beside hmmlearn. ``python -m benchmarks.hmm [ROUNDS]``.

Expected counts, the larger part of an update of EM, of one model and one sequence: by hmmlearn, as one iteration of
``fit`` with ``implementation="scaling"``, its faster one, and by shoal. Rounds alternate between the two,
on one thread; medians of processor time and of the ratios of a round are reported, and the largest memory of a process
that does nothing else. Before that, the log-likelihoods must agree. Restarts are compared with one fit of shoal's own.

Shapes: ``K`` states, ``n`` observations, ``V`` symbols, ``D`` dimensions.
"""

import logging
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from shoal.hmm import HMM, Categorical, Sequences, best_of, expected_counts, random_models

V, D = 16, 4


@dataclass(frozen=True)
class Case:
    """Case: observations of one kind, and the ratio below which something is wrong."""

    kind: str
    K: int
    n: int
    floor: float

    def __str__(self) -> str:
        return f"{self.kind}, K = {self.K}, n = {self.n:,}"


CASES = (
    *(Case("symbols", K, 1_000_000, floor) for K, floor in ((2, 4.0), (8, 7.0), (32, 12.0))),
    *(Case("diagonal", K, 100_000, floor) for K, floor in ((2, 1.0), (8, 2.0), (32, 2.0))),
    Case("full", 8, 100_000, 2.0),
)
MEMORY = """
from benchmarks.hmm import Case, made, most
from shoal.hmm import expected_counts
before = most()
model, data = made(Case({kind!r}, {K}, {n}, 0.0))
expected_counts(model, data)
print(most(), before)
"""


def made(case: Case) -> tuple[HMM, Sequences]:
    """One random model, and a sequence of noise."""
    generator = np.random.default_rng(0)
    if case.kind == "symbols":
        data = Sequences(generator.integers(0, V, case.n, dtype=np.int32))
    else:
        data = Sequences(generator.standard_normal((case.n, D)))
    return random_models(data, case.K, 1, covariance="full" if case.kind == "full" else "diagonal"), data


def theirs(model: HMM, data: Sequences) -> Any:
    """Model of hmmlearn with the same parameters, ready for one iteration without priors."""
    from hmmlearn import hmm  # an extra; nothing else here needs it

    shared = {"n_iter": 1, "init_params": "", "implementation": "scaling"}
    emissions = model.emissions
    if isinstance(emissions, Categorical):
        other = hmm.CategoricalHMM(model.K, **shared)
        other.n_features, other.emissionprob_ = V, emissions.probabilities[0]
    else:
        kind = "full" if emissions.is_full else "diag"
        other = hmm.GaussianHMM(model.K, covariance_type=kind, covars_prior=0, min_covar=0, **shared)
        other.n_features, other.means_, other.covars_ = D, emissions.means[0], emissions.covariances[0]
    other.startprob_, other.transmat_ = model.start[0], model.transitions[0]
    return other


def seconds(run: Callable[[], object]) -> float:
    """Processor time of one call."""
    began = time.process_time()
    run()
    return time.process_time() - began


def measure(case: Case, rounds: int) -> list[tuple[float, float]]:
    """Seconds of hmmlearn and of shoal, in turns."""
    model, data = made(case)
    values = data.values.reshape(case.n, -1)
    score = theirs(model, data).score(values)
    if abs(expected_counts(model, data).log_likelihood[0, 0] - score) > 1e-9 * abs(score):
        raise RuntimeError(f"{case}: another log-likelihood than hmmlearn's")
    times = []
    for _ in range(rounds):
        fit = theirs(model, data).fit  # made anew: a fit changes it
        times.append((seconds(partial(fit, values)), seconds(lambda: expected_counts(model, data))))
    return times


def most() -> int:
    """Largest memory of this process until now, in MiB; on Linux alone."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) // 1024


def memory(case: Case) -> tuple[int, int]:
    """Largest memory of a process in MiB, and that before its data were made."""
    program = MEMORY.format(kind=case.kind, K=case.K, n=case.n)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    after, before = done.stdout.split()
    return int(after), int(before)


def restarts(rounds: int) -> float:
    """Cost of 64 restarts of 30 updates in units of one: K = 8, n = 2,000."""
    data = Sequences(np.random.default_rng(0).integers(0, V, 2000))
    ratios = []
    for _ in range(rounds):
        one, many = (seconds(partial(best_of, data, 8, R, iterations=30, tolerance=0.0)) for R in (1, 64))
        ratios.append(many / one)
    return median(ratios)


def main() -> int:
    """Measure, print a Markdown table, and return 1 if a ratio is below its floor."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    logging.getLogger("hmmlearn").setLevel(logging.ERROR)  # one iteration does not converge
    print("| expected counts | hmmlearn, ms | shoal, ms | ratio | floor | memory, MiB | before data |")
    print("| --- |" + " ---: |" * 6)
    is_slow = False
    for case in CASES:
        times, (after, before) = measure(case, rounds), memory(case)
        there, here = (1e3 * median(pair[side] for pair in times) for side in (0, 1))
        ratio = median(a / b for a, b in times)
        is_slow |= ratio < case.floor
        print(f"| {case} | {there:.1f} | {here:.2f} | {ratio:.1f} | {case.floor:g} | {after} | {before} |", flush=True)
    cost = restarts(rounds)
    print(f"\n64 restarts cost {cost:.1f} times as much as one (at most 10).")
    return int(is_slow or cost > 10)


if __name__ == "__main__":
    sys.exit(main())
