"""A small lab to damage, and what is done to it."""

from pathlib import Path
from typing import Any

from helpers import fastest, tiny_grid

from shoal.errors import LabError
from shoal.lab import Lab
from shoal.lab.cohort import CohortFolder
from shoal.spec import RunSpec
from shoal.training.loop import Options, train_cohort
from shoal.training.plan import plan

SPECS = tiny_grid({"n_steps": 12, "save_statistic_step": 4, "eval_period": 1}, seed=[0, 1])
UNFINISHED = tiny_grid({"model": "gpt", "n_steps": 40, "save_statistic_step": 4, "eval_period": 1}, seed=[0, 1])


def made(path: Path) -> Lab:
    """A finished cohort of LSTMs and an interrupted one of GPTs, with three files of metrics each."""
    lab = Lab(path).create()
    for specs, steps in ((SPECS, 100), (UNFINISHED, 12)):
        (cohort,) = plan(specs)
        folder = lab.cohort(cohort.id)
        folder.create(list(cohort.members), threads=1, **fastest(cohort.shared))
        asked = iter(range(steps))
        train_cohort(folder, Options(stop=lambda asked=asked: next(asked, None) is None))
        assert len(folder.parts.there()) == 3
    lab.note_study("sanity", "quick", {"quick": True, "runs": [spec.id for spec in SPECS]})
    return lab


def of(lab: Lab, specs: list[RunSpec]) -> CohortFolder:
    """The cohort of these runs."""
    (cohort,) = plan(specs)
    return lab.cohort(cohort.id)


def contents(path: Path) -> dict[str, bytes]:
    """Every file but locks and what was set aside, by its name."""
    return {
        str(file.relative_to(path)): file.read_bytes()
        for file in sorted(path.rglob("*"))
        if file.is_file() and file.name != "lock" and "aside" not in file.relative_to(path).parts[:1]
    }


def flip(path: Path) -> None:
    """Change a bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def first_status(lab: Lab) -> None:
    """As a backup of the status from before the last flushes puts it back."""
    folder = of(lab, SPECS)
    status = folder.status()
    running = {run: {"state": "running", "step": 4} for run in status["members"]}
    folder.write_status({**status, "members": running, "metrics": status["metrics"][:1]})


def the_note(lab: Lab) -> dict[str, Any]:
    """What the lab noted of its study; what is wrong with it raised."""
    notes, unreadable = lab.study_notes("sanity")
    if unreadable:
        raise LabError(unreadable[0])
    return notes[0]
