"""Damage to a cohort's record: all of it is reported, before any number is shown."""

from collections.abc import Mapping
from typing import Any

import polars as pl

from shoal.errors import LabError
from shoal.lab.cohort import FINISHED, CohortFolder, is_finished
from shoal.lab.continuing import check_going_on


def damage_of(folder: CohortFolder) -> dict[str, str]:
    """Damage, as a line with a remedy, of each member whose state or curves cannot be read whole; by run.

    A run is also damaged when rows are missing that were written before its state was: the row of the last step of a
    run that is done, every row of one that diverged. So is one that has begun and cannot go on, for lack of a
    checkpoint.
    """
    runs = [member["run"] for member in folder.manifest()["members"]]
    try:
        status, metrics = folder.stand()
        stuck = _stuck(folder, status)
    except LabError as error:
        return dict.fromkeys(runs, str(error))
    last = dict(metrics.group_by("run").agg(pl.col("step").max()).iter_rows())
    lost = f"{folder.path / 'metrics'} is damaged: rows of finished runs are missing; {folder.way_out()}"
    states = status["members"]
    damage = {run: lost for run in runs if _lacks_rows(states[run], last.get(run))}
    return damage | {run: stuck for run in runs if stuck and states[run]["state"] not in FINISHED}


def _lacks_rows(member: Mapping[str, Any], last: int | None) -> bool:
    """Return True if rows are missing between a member's last row, if any, and its status."""
    if member["state"] == "done":
        return last is None or last < member["step"]
    return member["state"] == "diverged" and last is None


def _stuck(folder: CohortFolder, status: dict[str, Any]) -> str | None:
    """Reason why unfinished members cannot continue, if any that shows without reading the checkpoint."""
    while not is_finished(status) and not folder.has_checkpoint():
        try:
            with folder.with_way_out():
                check_going_on(folder, status, None)
            return None
        except LabError as error:
            why = str(error)
        now = folder.status()
        if now == status and not folder.has_checkpoint():
            return why
        status = now  # that was flushed in between
    return None
