"""Cost of a training step relative to another's, measured in turns.

Durations that were recorded while a study trained cannot be compared: cohorts differ in size, and the speed of a
machine varies by the minute. So steps of each case are measured here next to steps of the baseline, window by window,
and only windows that are neighbours in time are compared.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import torch

from shoal.fast.denormals import flushed_denormals
from shoal.fast.engine import choose_engine
from shoal.spec import RunSpec
from shoal.training.plan import Cohort
from shoal.training.stack import Stack
from shoal.training.step import train_step

MEMBERS = 4  # trained side by side: the fixed cost of a step is shared, as in a study


@dataclass(frozen=True)
class StepCost:
    """Cost of a step of one run.

    Attributes:
        seconds: processor time, median over windows.
        ratio: ratio to the baseline's, median over pairs of windows.
        low: lowest ratio.
        high: highest ratio.
        engine: engine that computed it; ``plain`` where the fast engines do not support the model.
    """

    seconds: float
    ratio: float
    low: float
    high: float
    engine: str


def step_costs(
    cases: Mapping[str, Sequence[RunSpec]], baseline: str, pairs: int = 7, steps: int = 10
) -> dict[str, StepCost]:
    """Cost of a training step of each case, on one thread of this machine's processor.

    Args:
        cases: runs by the name of their case; the first few of each are trained side by side.
        baseline: name of the case that the others are compared with.
        pairs: number of pairs of windows, one of the case and one of the baseline.
        steps: number of steps of a window.
    """
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        with flushed_denormals():
            usual = _stack(cases[baseline])
            return {
                name: _beside(usual if name == baseline else _stack(specs), usual, pairs, steps)
                for name, specs in cases.items()
            }
    finally:
        torch.set_num_threads(threads)


def _stack(specs: Sequence[RunSpec]) -> Stack:
    device = torch.device("cpu")
    engine = choose_engine(specs[0], float("inf"), device).engine
    stack = Stack(Cohort(tuple(specs[:MEMBERS])), device, engine)
    for _ in range(2):  # the first steps allocate what later ones use
        train_step(stack)
    return stack


def _beside(case: Stack, usual: Stack, pairs: int, steps: int) -> StepCost:
    seconds, ratios = [], []
    for pair in range(pairs):
        order = [case, usual] if pair % 2 else [usual, case]
        spent = {stack: _window(stack, steps) for stack in dict.fromkeys(order)}
        seconds.append(spent[case])
        ratios.append(spent[case] / spent[usual])
    engine = "plain" if case.scorer is None else case.engine
    return StepCost(median(seconds), median(ratios), min(ratios), max(ratios), engine)


def _window(stack: Stack, steps: int) -> float:
    """Processor time of a step of one member, in seconds."""
    began = time.process_time()
    for _ in range(steps):
        train_step(stack)
    return (time.process_time() - began) / (steps * len(stack.cohort))
