"""Budget of a tuning in training steps, floating-point operations, processor seconds or settings."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from shoal.errors import UserError, nearest
from shoal.spec import RunSpec
from shoal.tasks.build import count_run_parameters

STEPS, FLOP, SECONDS, SETTINGS = "steps", "FLOP", "s", "settings"
_UNITS = {"step": STEPS, "steps": STEPS, "FLOP": FLOP, "s": SECONDS, "setting": SETTINGS, "settings": SETTINGS}
_PREFIXES = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18}
_WORDS = re.compile(r"([0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?)\s*([A-Za-z]*)")
FORMS = "60000steps, 2PFLOP, 600s or 20settings"


@dataclass(frozen=True)
class Budget:
    """Most that the trials of a tuning may cost in all; what was spent before counts.

    Attributes:
        amount: the number.
        unit: :data:`STEPS` of all runs together, :data:`FLOP`, processor :data:`SECONDS`, or :data:`SETTINGS`.
    """

    amount: float
    unit: str

    def per_step(self, spec: RunSpec) -> float:
        """Cost of a step of a run, in steps or operations: 6 for each parameter and position of a batch."""
        if self.unit != FLOP:
            return 1.0
        return 6.0 * count_run_parameters(spec) * spec.task_part.batch_positions(spec.train_batch_size)

    def told(self, amount: float, of: float | None = None) -> str:
        """An amount in this unit, perhaps of another: ``60,000 steps``, ``2.1e+12 FLOP``, ``90 of 900 steps``."""
        unit = "s of a processor" if self.unit == SECONDS else self.unit
        form = ".4g" if self.unit == FLOP else ",.0f"
        amounts = [format(value, form) for value in (amount, of) if value is not None]
        return f"{' of '.join(amounts)} {unit}"


def read_budget(text: str) -> Budget:
    """Budget of a text such as ``60000steps``, ``2PFLOP``, ``600s`` or ``20settings``.

    Raises:
        UserError: it is none, or not above 0.
    """
    match = _WORDS.fullmatch(str(text).strip().replace(",", "").replace("_", ""))
    if match is None:
        raise UserError(f"budget must be a number and its unit, such as {FORMS}, got {text!r}")
    number, word = float(match[1]), match[2]
    prefix = word[:1] if word not in _UNITS and word[1:] in _UNITS else ""
    unit = _UNITS.get(word.removeprefix(prefix))
    if unit is None or prefix not in _PREFIXES or (unit == SECONDS and prefix):
        near = nearest(word, _UNITS) if word else ""
        raise UserError(f"budget has an unknown unit {word!r}, got {text!r}: such as {FORMS}{near}")
    amount = number * _PREFIXES[prefix]
    if not 0 < amount < math.inf:
        raise UserError(f"budget must be above 0, got {text!r}")
    return Budget(amount, unit)


def largest_cost(per_step: Sequence[float], rungs: Sequence[int], sizes: Sequence[int]) -> float:
    """Largest cost of a generation: at each rung the dearest settings may be those that stay.

    Args:
        per_step: cost of a step of each setting, all of its runs together.
        rungs: steps of the rungs, upwards.
        sizes: number of settings that train up to each.
    """
    dearest, cost, before = sorted(per_step, reverse=True), 0.0, 0
    for rung, size in zip(rungs, sizes, strict=True):
        cost += sum(dearest[:size]) * (rung - before)
        before = rung
    return cost
