"""Notes of tunings in a lab, ``tunings/NAME.json``: what was asked for, every generation, and final scores."""

from collections.abc import Collection, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import Field

from shoal.errors import AccessError, LabError, UserError
from shoal.lab.check_labels import deleted_of
from shoal.lab.files import check_own, is_there, names_in, read_json, write_json
from shoal.lab.finding import Finding
from shoal.lab.mends import move
from shoal.lab.names import check_name
from shoal.lab.shapes import Count, Id, Shape

FOLDER = "tunings"


class Generation(Shape):
    """Settings that were proposed together, and the rungs up to which they train.

    Attributes:
        settings: settings of each trial, by name.
        runs: ids of the runs of each trial, one for each seed.
        rungs: steps of the rungs, upwards.
        sizes: largest number of trials that train up to each rung.
        left: step at which each run has left, at a rung; of the runs that train on none.
    """

    settings: list[dict[str, Any]]
    runs: list[list[Id]]
    rungs: list[Count]
    sizes: list[Count]
    left: dict[Id, Count] = Field(default_factory=dict)


class Final(Shape):
    """Comparison of the winner of a tuning with the default on fresh seeds.

    Attributes:
        winner: settings of the winner, by name.
        seeds: the fresh seeds.
        runs: ids of the winner's runs and of the default's, by seed.
        column: what was scored, such as ``test_loss``.
        scores: score of each run; None where it diverged.
    """

    winner: dict[str, Any]
    seeds: list[Count]
    runs: dict[str, list[Id]]
    column: str
    scores: dict[Id, float | None] = Field(default_factory=dict)


class TuningNote(Shape):
    """``tunings/NAME.json``.

    Attributes:
        asked: what was asked for, with the ``command`` that asks for it again.
        generations: all generations, in order.
        finals: comparisons on fresh seeds.
        done: false from the beginning of a search to its end; None of one that an earlier version wrote.
    """

    asked: dict[str, Any]
    generations: list[Generation] = Field(default_factory=list)
    finals: list[Final] = Field(default_factory=list)
    done: bool | None = None


def note_path(lab: Path, name: str) -> Path:
    """Path of the note of a tuning.

    Raises:
        UserError: the name is not allowed.
    """
    return lab / FOLDER / f"{check_name(name, 'tuning')}.json"


def read_tuning(lab: Path, name: str) -> TuningNote | None:
    """Note of a tuning; None where the lab has none.

    Raises:
        LabError: it is damaged.
    """
    path = note_path(lab, name)
    check_own([path.parent])
    if not is_there(path):
        return None
    try:
        return TuningNote.model_validate(dict(read_json(path, TuningNote)))
    except LabError as error:
        raise LabError(f"{error}; move {path} out of the lab, and ask for the tuning again") from None


def write_tuning(lab: Path, name: str, note: TuningNote) -> None:
    """Write the note of a tuning."""
    write_json(note_path(lab, name), note.model_dump(mode="json"))


def check_tunings(lab: Path, known: Collection[str]) -> Iterator[Finding]:
    """Findings about the notes of tunings; ``known`` are the ids of the lab's runs."""
    for file in names_in(lab / FOLDER):
        path = lab / FOLDER / file
        if path.suffix != ".json" or file.startswith("."):
            continue
        try:
            note = read_tuning(lab, path.stem)
        except AccessError as error:
            yield Finding(str(error))
            continue
        except UserError as error:
            yield Finding(str(error), partial(move, lab, path))
            continue
        runs = [run for generation in note.generations for trial in generation.runs for run in trial] if note else []
        lost = [run for run in runs if run not in known]
        # a note is written before its runs, which an interrupted tuning has not begun yet
        if deleted := deleted_of(lab, lost):
            line = f"{path} asks for {len(deleted)} of {len(runs)} runs ({deleted[0]}) that were deleted"
            yield Finding(f"{line}; to train them, ask for the tuning again", is_damage=False)
