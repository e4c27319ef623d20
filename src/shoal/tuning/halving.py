"""Successive halving: after each rung the better 1/η of a generation's settings go on, to η times as many steps.

Settings of a generation train side by side up to a rung; those that leave it keep their state, and the stack is
compacted. The choice is synchronous: it waits for all settings of the generation, and so depends on no timing.

Source: Jamieson and Talwalkar 2016, *Non-stochastic Best Arm Identification and Hyperparameter Optimization*.
"""

from collections.abc import Sequence

from shoal.spec import RunSpec


def ladder(spec: RunSpec, n: int, eta: int) -> tuple[list[int], list[int]]:
    """Rungs of a generation and the number of settings that train up to each.

    The last rung is the whole training, and each before it is 1/η of the next, rounded down to a step at which runs are
    evaluated; there are as many as it takes to leave one setting, as far as the steps allow. ``eta`` 1 stops nothing.

    >>> ladder(RunSpec(n_steps=900, eval_first=10, eval_period=50), 9, 3)
    ([100, 300, 900], [9, 3, 1])
    >>> ladder(RunSpec(n_steps=900, eval_first=10, eval_period=500), 9, 3)
    ([10, 900], [9, 3])
    """
    sizes = [n]
    while eta > 1 and sizes[-1] > 1:
        sizes.append(max(1, sizes[-1] // eta))
    rungs = [spec.n_steps]
    for power in range(1, len(sizes)):
        rung = evaluated_before(spec, spec.n_steps // eta**power)
        if not 0 < rung < rungs[0]:
            break
        rungs.insert(0, rung)
    return rungs, sizes[: len(rungs)]


def evaluated_before(spec: RunSpec, step: int) -> int:
    """The last step up to this one at which runs are evaluated."""
    return max(min(step, spec.eval_first), step // spec.eval_period * spec.eval_period)


def staying(values: Sequence[float | None], size: int, higher_is_better: bool) -> list[int]:
    """Places of the best ``size`` values, in their order; of equal ones the first, and never one that is None."""
    places = [place for place, value in enumerate(values) if value is not None]
    sign = -1.0 if higher_is_better else 1.0
    ranked = sorted(places, key=lambda place: (sign * (values[place] or 0.0), place))
    return sorted(ranked[:size])
