"""Trials of a tuning, read from the lab: what each reached, at which step, and what it cost."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from shoal.lab import Lab, Records
from shoal.lab.cohort import is_over
from shoal.lab.tunings import Generation
from shoal.tuning.halving import staying

STATES = ("finished", "left", "waiting", "diverged")  # from the best


@dataclass(frozen=True)
class Trial:
    """A setting that was tried.

    Attributes:
        number: number of the trial, from 0, in the order of the proposals.
        generation: number of its generation, from 0.
        settings: values of the searched settings, by name.
        runs: ids of its runs, one for each seed.
        state: ``finished``, ``left`` at a rung, ``diverged``, or ``waiting`` for training.
        step: step of its value.
        value: mean of the objective over its runs; None where one of them diverged, or nothing was measured.
        steps: steps that its runs have trained for the tuning, all together.
        rung: step of the last rung that it was trained up to.
    """

    number: int
    generation: int
    settings: Mapping[str, Any]
    runs: tuple[str, ...]
    state: str
    step: int
    value: float | None
    steps: int
    rung: int = 0


@dataclass(frozen=True)
class Objective:
    """Quantity by which trials are ranked.

    Attributes:
        column: recorded column, such as ``valid_loss``.
        higher_is_better: true where the largest value is the best.
        takes_best: true where a run counts by its best evaluation so far, because training keeps that model; else by
            its last.
    """

    column: str
    higher_is_better: bool
    takes_best: bool


@dataclass(frozen=True)
class Stand:
    """Standing of the runs of a tuning in the lab.

    Attributes:
        members: state and step of each run that the lab holds.
        curves: their measurements.
        objective: what they are ranked by.
    """

    members: Mapping[str, Mapping[str, Any]]
    curves: Mapping[str, Sequence[tuple[int, float]]]
    objective: Objective

    @classmethod
    def of(cls, lab: Lab, runs: Sequence[str], objective: Objective) -> "Stand":
        """Standing of some runs; those that the lab does not hold are left out."""
        index = lab.index()
        folders = {run: index[run] for run in runs if run in index}
        stands = {folder.path: folder.stand() for folder in folders.values()}
        members = {run: stands[folder.path][0]["members"][run] for run, folder in folders.items()}
        curves: dict[str, list[tuple[int, float]]] = {run: [] for run in members}
        for _, rows in stands.values():
            if objective.column in rows.columns:
                table = rows.filter(pl.col("run").is_in(list(curves))).sort("step")
                for run, step, value in table.select("run", "step", objective.column).iter_rows():
                    curves[run].append((step, value))
        return cls(members, curves, objective)

    def has_reached(self, run: str, step: int) -> bool:
        """Return True if a run has no more steps to train up to a rung."""
        member = self.members.get(run)
        return member is not None and (is_over(member) or member["step"] >= step)

    def value(self, run: str, step: int) -> float | None:
        """Objective of a run up to a step; None where it has diverged by then, or nothing finite was measured."""
        member = self.members.get(run)
        if member is None or (member["state"] == "diverged" and member["step"] <= step):
            return None
        values = [value for at, value in self.curves[run] if at <= step]
        if self.objective.takes_best:
            values = [value for value in values if value is not None and math.isfinite(value)]
            values = sorted(values, reverse=not self.objective.higher_is_better)
        return values[-1] if values and values[-1] is not None and math.isfinite(values[-1]) else None

    def mean(self, runs: Sequence[str], step: int) -> float | None:
        """Mean of the objective over some runs; None where one has none."""
        values = [value for run in runs if (value := self.value(run, step)) is not None]
        return sum(values) / len(values) if len(values) == len(runs) else None

    def steps(self, run: str, step: int) -> int:
        """Steps that a run has trained up to a rung."""
        return min(self.members[run]["step"], step) if run in self.members else 0


def read_generation(
    stand: Stand, generation: Generation, number: int, first: int
) -> tuple[list[Trial], list[int], int]:
    """Trials of a generation as the lab has them, and the places of those that train up to the next rung.

    Args:
        stand: standing of its runs.
        generation: the generation.
        number: its number.
        first: number of its first trial.

    Returns:
        The trials; which of them have yet to train, none where the generation is done; and the step of their rung.
    """
    places = list(range(len(generation.runs)))
    ends: dict[int, tuple[str, int]] = {}  # state and last rung
    waiting: list[int] = []
    rung = 0
    for at, rung in enumerate(generation.rungs):
        if any(not stand.has_reached(run, rung) for place in places for run in generation.runs[place]):
            waiting = places
            ends |= dict.fromkeys(places, ("waiting", rung))
            break
        values = [stand.mean(generation.runs[place], rung) for place in places]
        is_last = at == len(generation.rungs) - 1
        ends |= dict.fromkeys(places, ("left", rung))
        ends |= {place: ("diverged", rung) for place, value in zip(places, values, strict=True) if value is None}
        best = staying(values, len(places) if is_last else generation.sizes[at + 1], stand.objective.higher_is_better)
        places = [places[place] for place in best]
        if is_last:
            ends |= dict.fromkeys(places, ("finished", rung))
    trials = [_trial(stand, generation, number, first, place, *ends[place]) for place in range(len(generation.runs))]
    return trials, waiting, rung


def _trial(stand: Stand, generation: Generation, number: int, first: int, place: int, state: str, rung: int) -> Trial:
    runs = tuple(generation.runs[place])
    return Trial(
        number=first + place,
        generation=number,
        settings=generation.settings[place],
        runs=runs,
        state=state,
        step=min(stand.steps(run, rung) for run in runs),
        value=None if state in ("diverged", "waiting") else stand.mean(runs, rung),
        steps=sum(stand.steps(run, rung) for run in runs),
        rung=rung,
    )


def ranked(trials: Sequence[Trial], higher_is_better: bool) -> list[Trial]:
    """Trials from the best: finished ones, then those that left at the latest rung, and diverged ones last."""
    sign = -1.0 if higher_is_better else 1.0

    def rank(trial: Trial) -> tuple[float, ...]:
        place = STATES.index(trial.state)
        return place, -trial.step, 0.0 if trial.value is None else sign * trial.value, trial.number

    return sorted(trials, key=rank)


def seconds_of(records: Records) -> float:
    """Processor seconds that the cohorts of these runs have trained, by their sessions."""
    sessions = [session for folder in records.cohorts() for session in folder.status()["sessions"]]
    return sum(float(session.get("cpu_seconds", 0.0)) for session in sessions)
