"""Snapshots of cohorts: all records of one moment, for results of several files of a cohort that may be training."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import polars as pl

from shoal.errors import LabError
from shoal.lab.cohort import FINISHED, CohortFolder

T = TypeVar("T")


class CohortSnapshot(CohortFolder):
    """Snapshot of a cohort: every record is read once, at the beginning; one that could not be read stays unreadable.

    A run's ``step`` is that of its last row where that is beyond the step in ``status.json``: a trainer writes the
    rows first. Models are read when asked for: each is written once.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        live = CohortFolder(path)
        # first, so that a process that ended since is not taken to have been interrupted
        self._training = live.is_training()
        self._asked = _read(live.manifest)
        begun = live.has_checkpoint()  # it is removed at the end, and is not there at the beginning
        self._stand = _read(live.stand)
        self._begun = begun or live.has_checkpoint()
        self._status = _read(live.status) if isinstance(self._stand, LabError) else _brought_up(*self._stand)
        self._certificate = _read(live.certificate)

    def is_training(self) -> bool:
        return self._training

    def has_checkpoint(self) -> bool:
        return self._begun

    def manifest(self) -> dict[str, Any]:
        return _once(self._asked)

    def stand(self) -> tuple[dict[str, Any], pl.DataFrame]:
        _, rows = _once(self._stand)
        return _once(self._status), rows

    def certificate(self) -> dict[str, Any] | None:
        return _once(self._certificate)

    def status(self) -> dict[str, Any]:
        return _once(self._status)


def _brought_up(status: dict[str, Any], metrics: pl.DataFrame) -> dict[str, Any]:
    """Status in which members that are not finished are at the step of their last rows."""
    last = dict(metrics.group_by("run").agg(pl.col("step").max()).iter_rows())
    members = {
        run: member if member["state"] in FINISHED else {**member, "step": max(member["step"], last.get(run, 0))}
        for run, member in status["members"].items()
    }
    return {**status, "members": members}


def _read(read: Callable[[], T]) -> T | LabError:
    try:
        return read()
    except LabError as error:
        return error


def _once(record: T | LabError) -> T:
    if isinstance(record, LabError):
        raise record
    return record
