"""Names of a run's best values, and notes about them, by the measures of its task."""

import math
from dataclasses import dataclass

import polars as pl

from shoal.analysis.times import reaches
from shoal.measures import EQUATIONS, SPLITS, Measures
from shoal.report.words import listed


@dataclass(frozen=True)
class Quantity:
    """A column of :func:`shoal.analysis.extrema`, its symbol, whether small is good, and whether it is a step."""

    column: str
    symbol: str
    small_is_best: bool
    is_step: bool

    @property
    def is_delay(self) -> bool:
        """Return True for a number of steps between two, of which neither a small nor a large one is best."""
        return self.column.startswith("delay_")


def quantities_of(measures: Measures) -> tuple[Quantity, ...]:
    """Best values, then the step of each, and delays where there is anything between which they could be.

    >>> [quantity.symbol for quantity in quantities_of(EQUATIONS)][-3:]
    ['t_f(A_val)', 'Δt(L)', 'Δt(A)']
    """
    both = [(measure, split) for measure in measures.recorded for split in SPLITS]
    best = [Quantity(f"{s}_{m.name}", m.symbol_of(s), not m.higher_is_better, False) for m, s in both]
    steps = [Quantity(f"t_{q.column}", f"t_f({q.symbol})", True, True) for q in best]
    delays = [Quantity(f"delay_{m.name}", f"Δt({m.symbol})", True, True) for m in measures.recorded]
    return (*best, *steps, *(delays if measures.generalised else ()))


OPEN = "†"
QUANTITIES = quantities_of(EQUATIONS)


@dataclass(frozen=True)
class Panel:
    """A quantity of a run.

    Attributes:
        column: its column.
        title: of its axis.
        log: a logarithmic axis.
        domain: of its axis.
        top: upper end of its axis, where larger values are cut off.
        about: a further remark for captions.
        step_of: of the first step of a best value what the runs' task measures.
    """

    column: str
    title: str
    log: bool = False
    domain: tuple[float, float] | None = None
    top: float | None = None
    about: str = ""
    step_of: Measures | None = None


def panels_of(measures: Measures) -> tuple[Panel, ...]:
    """One for each measure on each split, for curves and for best values."""
    return tuple(
        Panel(
            f"{split}_{measure.name}",
            measure.symbol_of(split) + (f" ({measure.unit})" if measure.unit else ""),
            measure.is_log,
            plain(measure.bounds),
        )
        for measure in measures.recorded
        for split in SPLITS
    )


def best_panels_of(measures: Measures) -> tuple[Panel, ...]:
    """Panels for best values, and one for the first step of each."""
    steps = (
        Panel(f"t_{split}_{measure.name}", f"t_f({measure.symbol_of(split)})", step_of=measures)
        for measure in measures.recorded
        for split in SPLITS
    )
    return (*panels_of(measures), *steps)


def plain(bounds: tuple[float, float] | None) -> tuple[float, float] | None:
    """Bounds as those of an axis, whole numbers written as such; None where one of them is infinite."""
    if bounds is None or not all(map(math.isfinite, bounds)):
        return None
    low, high = (int(bound) if bound == int(bound) else bound for bound in bounds)
    return low, high


def competing_note(measures: Measures) -> str:
    """Rule by which groups compete for the best step, in words."""
    if measures.generalised is None:
        return "No step is in bold: a run that is at its best early only stopped getting better sooner."
    learned = measures.learned_on("and")
    return (
        f"The best step is in bold where two groups or more can be compared: all of their runs reached {learned}, and "
        f"the value has no {OPEN}. No delay Δt is in bold."
    )


def symbols_note(measures: Measures) -> str:
    """Meaning of each symbol of :func:`quantities_of`."""
    first, *others = measures.recorded
    sentences = []
    for measure in measures.recorded:
        text = " and ".join(measure.symbol_of(split) for split in SPLITS) + f": {measure.extreme} {measure.words}"
        text += f" on the training and on the validation {measures.things}" * (measure is first)
        text += f" ({about})" if (about := measure.about or measure.unit) else ""
        sentences.append(text + " over the evaluated steps" * (measure is first))
    sentences.append("t_f: first evaluated step of that best value")
    if measures.generalised is not None:
        valid, train = first.symbol_of("valid"), first.symbol_of("train")
        likewise = f", and {listed([f'Δt({measure.symbol})' for measure in others])} likewise" if others else ""
        sentences.append(
            f"Δt({first.symbol}) = t_f({valid}) − t_f({train}){likewise}, the delay between memorising and "
            "generalising, given only where every run did both"
        )
    return (
        f"{'. '.join(sentences)}. {steps_note(measures)} {OPEN}: the best value of some run is its last evaluation, "
        "and might have become better still."
    )


def steps_note(measures: Measures) -> str:
    """Meaning of the step of a best value."""
    if measures.generalised is None:
        return "t_f is the step after which a run got no better."
    return (
        f"t_f is a time to memorise or to generalise only where the run did ({measures.learned_on('or')}); elsewhere "
        "it is the step after which the run got no better."
    )


COMPETING, SYMBOLS = competing_note(EQUATIONS), symbols_note(EQUATIONS)


def is_open(step: str, measures: Measures = EQUATIONS) -> pl.Expr:
    """Expression that is true where a best value came at the last evaluation: a longer run may improve on it.

    ``step`` names the column of a first step, or that of a delay, for which one of its two steps is enough. A value
    that is the best possible one cannot improve.
    """
    if step.startswith("delay_"):
        name = step.removeprefix("delay_")
        return is_open(f"t_train_{name}", measures) | is_open(f"t_valid_{name}", measures)
    column = step.removeprefix("t_")
    measure, at_end = measures[column], pl.col(step) == pl.col("last_step")
    return at_end if measure.best is None else at_end & ~reaches(column, measure.best, measure)


def got_there(split: str, measures: Measures) -> pl.Expr:
    """Expression that is true where a run's best value on a split reaches the threshold for having learned.

    The step of that value is then a time to memorise or to generalise. True of every run where the task has no such
    threshold.
    """
    if measures.learned is None:
        return pl.lit(True)
    return reaches(f"{split}_{measures.shown.name}", measures.learned, measures.shown)


def did_both(measures: Measures) -> pl.Expr:
    """Expression that is true where a run both memorised and generalised."""
    return pl.all_horizontal(got_there(split, measures) for split in SPLITS)
