"""What is damaged of a cohort's record: told before its numbers are shown, and without stopping at the first."""

from collections.abc import Mapping
from typing import Any

import polars as pl

from shoal.errors import LabError
from shoal.lab.cohort import FINISHED, CohortFolder, is_finished
from shoal.lab.continuing import check_going_on


def damage_of(folder: CohortFolder) -> dict[str, str]:
    """What is wrong, and what to do, for each member whose state or curves cannot be read whole.

    A run is also damaged when rows are missing that were written before its state was: of one that is done the row of
    its last step, of one that diverged every row. So is one that has begun and cannot go on, for lack of a checkpoint.
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
    found = {run: lost for run in runs if _lacks_rows(states[run], last.get(run))}
    return found | {run: stuck for run in runs if stuck and states[run]["state"] not in FINISHED}


def _lacks_rows(member: Mapping[str, Any], last: int | None) -> bool:
    """Whether a member has got further than its last row, if any, says."""
    if member["state"] == "done":
        return last is None or last < member["step"]
    return member["state"] == "diverged" and last is None


def _stuck(folder: CohortFolder, status: dict[str, Any]) -> str | None:
    """Why the members that are not finished cannot go on, where that can be seen without reading the checkpoint."""
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
