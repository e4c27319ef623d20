"""What is damaged of a cohort's record: told before its numbers are shown, and without stopping at the first."""

from typing import Any

import polars as pl

from shoal.errors import LabError
from shoal.lab.cohort import CohortFolder


def damage_of(folder: CohortFolder) -> dict[str, str]:
    """What is wrong, and what to do, for each member whose state or curves cannot be read whole.

    A run is also damaged when rows are missing that were written before its state was: of one that is done the row of
    its last step, of one that diverged every row.
    """
    runs = [member["run"] for member in folder.manifest()["members"]]
    try:
        states = folder.status()["members"]  # before the metrics, which a trainer writes before it
        metrics = folder.metrics()
    except LabError as error:
        return dict.fromkeys(runs, str(error))
    last = dict(metrics.group_by("run").agg(pl.col("step").max()).iter_rows())
    unknown = f"{folder.path / 'status.json'} is damaged: it does not say where each run stands; {folder.way_out()}"
    lost = f"{folder.path / 'metrics'} is damaged: rows of finished runs are missing; {folder.way_out()}"
    found = {run: unknown for run in runs if run not in states}
    return found | {run: lost for run in runs if run in states and _lacks_rows(states[run], last.get(run))}


def _lacks_rows(member: dict[str, Any], last: int | None) -> bool:
    """Whether a member has got further than its last row, if any, says."""
    if member["state"] == "done":
        return last is None or last < member["step"]
    return member["state"] == "diverged" and last is None
