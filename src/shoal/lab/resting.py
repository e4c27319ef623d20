"""Runs of tunings that training the rest of a lab leaves alone: losers of a rung, and trials that are not decided yet.

A run that left a tuning at a rung is paused there and no unfinished work. It is so as long as it stands at that rung:
one that was trained further by its id is a run like any other.
"""

import itertools
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shoal.errors import LabError, UserError
from shoal.lab.cohort import CohortFolder, is_over
from shoal.lab.files import check_own, names_in
from shoal.lab.homes import BASE, TOKENIZER, at_home
from shoal.lab.tunings import FOLDER, TuningNote, read_tuning

LEFT = "left"  # state of a run that left at a rung


@dataclass(frozen=True)
class Resting:
    """Unfinished runs of tunings.

    Attributes:
        left: tunings at a rung of which a run left, by run.
        undecided: tuning by run, of runs that may still go on in it.
        begun: command of each tuning that has not come to its end; empty where an earlier version noted none.
    """

    left: Mapping[str, str] = field(default_factory=dict)
    undecided: Mapping[str, str] = field(default_factory=dict)
    begun: Mapping[str, str] = field(default_factory=dict)

    @property
    def runs(self) -> set[str]:
        """All of these runs."""
        return {*self.left, *self.undecided}

    def lines(self, lab: Path | str) -> list[str]:
        """Lines for a user: how many were left alone, and the commands that train them after all."""
        lines, lab = [], shlex.quote(str(lab))
        if self.left:
            names = " ".join(dict.fromkeys(self.left.values()))
            first = next(iter(self.left))
            lines.append(
                f"left alone: {_runs(len(self.left))} that left at a rung of tuning {names}; to train one to its end: "
                f"shoal resume {first[:8]} --lab {lab}"
            )
        for name, command in self.begun.items():
            runs = _runs(sum(tuning == name for tuning in self.undecided.values()))
            if command:
                lines.append(
                    f"left alone: {runs} of tuning {name}, which has not ended; to go on: {command} --lab {lab}"
                )
            else:
                again = f"shoal tune … --name {name}, its command, goes on where it was interrupted"
                lines.append(f"left alone: {runs} of tuning {name}; {again}")
        return lines


def _runs(n: int) -> str:
    return f"{n:,} run{'s' * (n != 1)}"


def resting(lab: Path, folders: Iterable[CohortFolder]) -> Resting:
    """Unfinished runs of tunings in these cohorts of a lab; damaged cohorts are passed over.

    Raises:
        LabError: the note of a tuning is damaged, so that its runs are not known.
    """
    notes = tuning_notes(lab)
    members: dict[str, Mapping[str, Any]] = {}
    for folder in folders if notes else ():
        try:
            members |= folder.status()["members"]
        except LabError:  # named by Records.damage()
            continue
    left, undecided = {}, {}
    for name, note in notes.items():
        for run, rung in _rungs(note).items():
            if run not in members or is_over(members[run]):
                continue
            if rung is None:
                if not note.done:  # of a tuning at its end such a run was begun again since
                    undecided[run] = name
            elif members[run]["step"] == rung:
                left[run] = name
    undecided = {run: name for run, name in undecided.items() if run not in left}
    waited = {*undecided.values()}
    begun = {
        name: _at_home(str(note.asked.get("command", "")), lab)
        for name, note in notes.items()
        if note.done is False or (note.done is None and name in waited)
    }
    return Resting(left, undecided, begun)


def _at_home(command: str, lab: Path) -> str:
    """Command with the current paths of files of a lab that was moved, or of cohorts that have another folder now."""
    words = shlex.split(command)
    for flag, value in itertools.pairwise(tuple(words)):
        name = flag.removeprefix("--").replace("-", "_")
        if name in (BASE, TOKENIZER) and (now := at_home({name: value}, lab)[name]) != value:
            command = command.replace(f"{flag} {shlex.quote(value)}", f"{flag} {shlex.quote(str(now))}")
    return command


def left_runs(lab: Path) -> dict[str, set[int]]:
    """Steps of the rungs at which each run has left a tuning; damaged notes, which a check names, count as none."""
    rungs: dict[str, set[int]] = {}
    for note in tuning_notes(lab, is_strict=False).values():
        for run, rung in _rungs(note).items():
            if rung is not None:
                rungs.setdefault(run, set()).add(rung)
    return rungs


def state_text(state: str, step: int | None) -> str:
    """State of a run in words.

    >>> state_text("left", 100), state_text("interrupted", 1200), state_text("damaged", None)
    ('left at the rung of step 100', 'interrupted at step 1,200', 'damaged')
    """
    if step is None:
        return state
    return f"{state} at the rung of step {step:,}" if state == LEFT else f"{state} at step {step:,}"


def tuning_notes(lab: Path, is_strict: bool = True) -> dict[str, TuningNote]:
    """Notes of a lab's tunings by name.

    Raises:
        LabError: one is damaged; where it is not strict, that one is left out.
    """
    check_own([lab / FOLDER])
    notes: dict[str, TuningNote] = {}
    for file in names_in(lab / FOLDER):
        name = file.removesuffix(".json")
        if file.startswith(".") or name == file:
            continue
        try:
            note = read_tuning(lab, name)
        except UserError:
            if is_strict:
                raise
            continue
        if note is not None:
            notes[name] = note
    return notes


def _rungs(note: TuningNote) -> dict[str, int | None]:
    """Step of the rung at which each run of a tuning left; None of a run that has not."""
    return {
        run: generation.left.get(run) for generation in note.generations for runs in generation.runs for run in runs
    }
