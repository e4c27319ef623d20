"""Search of a tuning: generations are proposed, trained up to their rungs in the lab, and read from there.

What is proposed is written to the lab before it is trained, and depends on finished generations alone. So a search that
was interrupted, however, goes on to the same proposals and the same curves.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from shoal.lab import Lab
from shoal.lab.tunings import Generation, TuningNote, write_tuning
from shoal.spec import RunSpec
from shoal.tuning.budget import SECONDS, SETTINGS, largest_cost
from shoal.tuning.halving import ladder
from shoal.tuning.proposals import propose
from shoal.tuning.request import Request
from shoal.tuning.trials import Stand, Trial, ranked, read_generation, seconds_of

Train = Callable[[Sequence[RunSpec], int | None], None]


@dataclass
class Search:
    """Search of a tuning in a lab.

    Attributes:
        name: name of the tuning.
        request: what was asked for.
        note: its record, which grows by a generation at a time.
        lab: the lab.
        train: function that trains runs, up to a step where one is given.
        say: callback with a line about each generation.
        trials: trials so far, in order.
    """

    name: str
    request: Request
    note: TuningNote
    lab: Lab
    train: Train
    say: Callable[[str], None]
    trials: list[Trial] = field(default_factory=list)

    def run(self) -> None:
        """Train generation after generation, until the budget or the space is used up."""
        number = 0
        while number < len(self.note.generations) or self._propose():
            self._train(number)
            number += 1
            self.say(self._line(number))

    def spent(self) -> float:
        """Cost of all trials in the unit of the budget, counted from the lab."""
        unit = self.request.budget.unit
        if unit == SETTINGS:
            return float(len(self.trials))
        if unit == SECONDS:
            held = self.lab.index()
            return seconds_of(self.lab.records(run for trial in self.trials for run in trial.runs if run in held))
        return math.fsum(
            trial.steps * self.request.cost_of(self._specs(trial.settings)) / len(trial.runs) for trial in self.trials
        )

    def best(self) -> Trial | None:
        """The best finished trial; None where none has finished."""
        finished = [trial for trial in self.trials if trial.state == "finished"]
        return ranked(finished, self.request.objective.higher_is_better)[0] if finished else None

    def _specs(self, settings: Mapping[str, Any]) -> list[RunSpec]:
        return self.request.runs_of(dict(settings))

    def _propose(self) -> bool:
        """Write down the next generation, as large as the budget allows; returns False where there is none."""
        request, n = self.request, self.request.generation
        left = request.budget.amount - self.spent()
        if left <= 0:
            return False
        sampler, seed, number = request.sampler, request.tune_seed, len(self.note.generations)
        higher = request.objective.higher_is_better
        proposals = propose(request.space, sampler, seed, number, self.trials, n, higher)
        specs = [self._specs(settings) for settings in proposals]
        n = self._affordable(specs, left)
        if n == 0:
            return False
        rungs, sizes = ladder(request.base, n, request.halving)
        runs = [[spec.id for spec in of_setting] for of_setting in specs[:n]]
        self.note.generations.append(Generation(settings=proposals[:n], runs=runs, rungs=rungs, sizes=sizes))
        write_tuning(self.lab.path, self.name, self.note)
        return True

    def _affordable(self, specs: Sequence[Sequence[RunSpec]], left: float) -> int:
        """Largest number of these settings that the rest of the budget pays for, whichever of them stay."""
        request = self.request
        if request.budget.unit == SETTINGS:
            return min(len(specs), int(left))
        per_step = [request.cost_of(of_setting) for of_setting in specs]
        if request.budget.unit == SECONDS:
            steps = sum(trial.steps for trial in self.trials)
            seconds = self.spent() / steps if steps else 0.0  # of a step of one run, unknown before the first
            per_step = [seconds * len(of_setting) for of_setting in specs]
        fitting = [
            n
            for n in range(1, len(specs) + 1)
            if largest_cost(per_step[:n], *ladder(request.base, n, request.halving)) <= left * (1 + 1e-9)
        ]
        return max(fitting, default=0)

    def _train(self, number: int) -> None:
        """Train a generation up to its last rung, and take up its trials."""
        generation, first = self.note.generations[number], len(self.trials)
        runs = [run for trial in generation.runs for run in trial]
        while True:
            stand = Stand.of(self.lab, runs, self.request.objective)
            trials, waiting, rung = read_generation(stand, generation, number, first)
            if not waiting:
                break
            self.train([spec for place in waiting for spec in self._specs(generation.settings[place])], rung)
        self.trials += trials

    def _line(self, generations: int) -> str:
        best, budget = self.best(), self.request.budget
        value = "none finished" if best is None else f"best {self.request.objective.column} {best.value:.5g}"
        spent = f"{budget.told(self.spent())} of {budget.told(budget.amount)}"
        return f"generation {generations}: {len(self.trials)} settings, {spent}; {value}"
