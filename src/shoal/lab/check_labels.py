"""Examination of labels, and of files that killed deletions left."""

import time
from collections.abc import Collection, Iterator
from functools import partial
from pathlib import Path

from shoal.errors import LabError
from shoal.lab.deleting import DELETED, clear, deleted_runs, leftovers, lost_labels
from shoal.lab.files import check_own, is_there, read_json
from shoal.lab.finding import Finding
from shoal.lab.labels import read_labels
from shoal.lab.mends import move
from shoal.lab.shapes import Deleted
from shoal.lab.survey import survey

LOOKS, WAIT = 5, 0.05  # seconds apart: a deletion takes a run away first and its labels next


def settled_labels(lab: Path) -> list[Finding]:
    """Findings about labels that are there at several looks, against the runs that the lab holds at each."""
    for look in range(LOOKS + 1):
        known = survey(lab)
        findings = [*check_labels(lab, known.index, not known.unknown)]
        if not findings or look == LOOKS:
            break
        time.sleep(WAIT)
    return findings


def check_labels(lab: Path, runs: Collection[str], is_known: bool) -> Iterator[Finding]:
    """Findings about labels: damaged files, names given twice, and runs that no cohort holds.

    Args:
        lab: its folder.
        runs: ids of all runs of the lab.
        is_known: true where these are all: every ``cohort.json`` could be read.
    """
    labels = read_labels(lab)
    for path, why in labels.damage.items():
        mend = partial(move, lab, path) if path.is_file() and not path.is_symlink() else None
        yield Finding(why, mend)
    if not is_known:
        return
    gone = lost_labels(lab)
    lost = [run for run in labels.runs if run not in runs and run not in gone]
    for run in lost:
        yield Finding(
            f"{lab / 'labels' / 'runs' / f'{run}.json'} labels run {run}, which no cohort holds", is_damage=False
        )
    for line in labels.absent({*runs, *gone}):
        yield Finding(line)


def check_deletions(lab: Path) -> Iterator[Finding]:
    """Findings about ``deleted.json``, and about files that a killed deletion left."""
    path = lab / DELETED
    if is_there(path):
        try:
            read_json(path, Deleted)
        except LabError as error:
            yield Finding(f"{error}; it only says which runs were deleted", partial(move, lab, path))
    check_own([lab / "deleting"])
    left, labelled = leftovers(lab), lost_labels(lab)
    if left or labelled:
        where = f"{left[0]}{' …' if len(left) > 1 else ''}" if left else f"labels of {len(labelled)} runs"
        yield Finding(
            f"{where}: of a deletion that is under way or was killed, and needed by no run",
            partial(_clear, lab),
            is_damage=False,
        )


def _clear(lab: Path) -> str:
    removed = clear(lab)
    return f"removed what a deletion had left: {' '.join(map(str, removed))}" if removed else ""


def deleted_of(lab: Path, runs: Collection[str]) -> list[str]:
    """Runs among these that were deleted."""
    deleted = deleted_runs(lab)
    return [run for run in runs if run in deleted]
