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
from shoal.tuning.standing import Standing
from shoal.tuning.trials import STATES, Stand, Trial, ranked, read_generation, seconds_of

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
        follow: callback with the standing before each rung.
        trials: trials so far, in order.
    """

    name: str
    request: Request
    note: TuningNote
    lab: Lab
    train: Train
    say: Callable[[str], None]
    follow: Callable[[Standing], None] = lambda standing: None
    trials: list[Trial] = field(default_factory=list)

    def run(self) -> None:
        """Train generation after generation, until the budget or the space is used up."""
        number = 0
        while number < len(self.note.generations) or self._propose():
            self._train(number)
            number += 1
            self.say(self._line(number))

    def end(self) -> None:
        """Write down that the tuning has come to its end."""
        self.note.done = True
        write_tuning(self.lab.path, self.name, self.note)

    def spent(self, beside: Sequence[Trial] = ()) -> float:
        """Cost of all trials in the unit of the budget, counted from the lab; also of trials that train."""
        unit, trials = self.request.budget.unit, [*self.trials, *beside]
        if unit == SETTINGS:
            return float(len(trials))
        if unit == SECONDS:
            held = self.lab.index()
            return seconds_of(self.lab.records(run for trial in trials for run in trial.runs if run in held))
        return math.fsum(
            trial.steps * self.request.cost_of(self.specs_of(trial.settings)) / len(trial.runs) for trial in trials
        )

    def best(self) -> Trial | None:
        """The best finished trial; None where none has finished."""
        finished = [trial for trial in self.trials if trial.state == "finished"]
        return ranked(finished, self.request.objective.higher_is_better)[0] if finished else None

    def specs_of(self, settings: Mapping[str, Any]) -> list[RunSpec]:
        """Runs of a setting."""
        return self.request.runs_of(dict(settings))

    def _propose(self) -> bool:
        """Write down the next generation; returns False where there is none."""
        if (generation := self.proposed()) is None:
            return False
        self.note.generations.append(generation)
        write_tuning(self.lab.path, self.name, self.note)
        return True

    def proposed(self) -> Generation | None:
        """The next generation, as large as the budget allows; None where there is none."""
        request, n = self.request, self.request.generation
        left = request.budget.amount - self.spent()
        if left <= 0:
            return None
        sampler, seed, number = request.sampler, request.tune_seed, len(self.note.generations)
        higher = request.objective.higher_is_better
        proposals = propose(request.space, sampler, seed, number, self.trials, n, higher)
        specs = [self.specs_of(settings) for settings in proposals]
        n = self._affordable(specs, left)
        if n == 0:
            return None
        rungs, sizes = ladder(request.base, n, request.halving)
        runs = [[spec.id for spec in of_setting] for of_setting in specs[:n]]
        return Generation(settings=proposals[:n], runs=runs, rungs=rungs, sizes=sizes)

    def read(self) -> int | None:
        """Take up the trials of the lab without training; the number, from 0, of a generation that is not done."""
        for number, generation in enumerate(self.note.generations):
            stand = Stand.of(self.lab, [run for trial in generation.runs for run in trial], self.request.objective)
            trials, waiting, _ = read_generation(stand, generation, number, len(self.trials))
            self.trials += trials
            if waiting:
                return number
        return None

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
            self._note_left(stand, generation, trials)
            if not waiting:
                break
            self.follow(self._standing(stand, generation, (trials, waiting, rung)))
            self.train([spec for place in waiting for spec in self.specs_of(generation.settings[place])], rung)
        self.trials += trials

    def _note_left(self, stand: Stand, generation: Generation, trials: Sequence[Trial]) -> None:
        """Write down the runs that go on no more, those of a trial that diverged too, before the others train on."""
        ended = [trial for trial in trials if trial.state in ("left", "diverged")]
        left = {run: stand.steps(run, trial.rung) for trial in ended for run in trial.runs}
        if left != generation.left:
            generation.left = left
            write_tuning(self.lab.path, self.name, self.note)

    def _standing(
        self, stand: Stand, generation: Generation, course: tuple[Sequence[Trial], Sequence[int], int]
    ) -> Standing:
        """Standing before these places of a generation train up to a rung."""
        trials, waiting, rung = course
        states = [trial.state for trial in [*self.trials, *trials]]
        at = generation.rungs.index(rung)
        return Standing(
            generation=self.note.generations.index(generation) + 1,
            rung=at + 1,
            n_rungs=len(generation.rungs),
            from_step=min(stand.steps(run, rung) for place in waiting for run in generation.runs[place]),
            to_step=rung,
            states={state: states.count(state) for state in STATES},
            spent=self.spent(trials),
            cost=self._cost_of(stand, generation, waiting, rung),
            budget=self.request.budget,
            column=self.request.objective.column,
            best=self._best_so_far(stand, generation, waiting, rung),
        )

    def standing_of_comparison(self) -> Standing:
        """Standing when all generations are done, before winner and default train on fresh seeds."""
        states, best = [trial.state for trial in self.trials], self.best()
        counts = {state: states.count(state) for state in STATES}
        budget, column = self.request.budget, self.request.objective.column
        value = None if best is None else best.value
        return Standing(0, 1, 1, 0, self.request.base.n_steps, counts, self.spent(), 0.0, budget, column, value)

    def _cost_of(self, stand: Stand, generation: Generation, places: Sequence[int], rung: int) -> float:
        """Cost of training these places up to a rung; 0 in seconds, which the lab counts afterwards, and settings."""
        if self.request.budget.unit in (SECONDS, SETTINGS):
            return 0.0
        return math.fsum(
            self.request.budget.per_step(spec) * (rung - stand.steps(spec.id, rung))
            for place in places
            for spec in self.specs_of(generation.settings[place])
            if not stand.has_reached(spec.id, rung)
        )

    def _best_so_far(self, stand: Stand, generation: Generation, places: Sequence[int], rung: int) -> float | None:
        """Best value of a finished setting; where there is none, of those that train, at the rung before."""
        if (best := self.best()) is not None:
            return best.value
        before = max((step for step in generation.rungs if step < rung), default=0)
        values = [value for place in places if (value := stand.mean(generation.runs[place], before)) is not None]
        if not values:
            return None
        return max(values) if self.request.objective.higher_is_better else min(values)

    def _line(self, generations: int) -> str:
        best, budget = self.best(), self.request.budget
        value = "none finished" if best is None else f"best {self.request.objective.column} {best.value:.5g}"
        spent = f"{budget.told(self.spent())} of {budget.told(budget.amount)}"
        return f"generation {generations}: {len(self.trials)} settings, {spent}; {value}"
