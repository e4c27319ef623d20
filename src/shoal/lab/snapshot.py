"""A cohort as it stood at one moment, for what is made from several of its files while it may be training."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import polars as pl

from shoal.errors import LabError
from shoal.lab.cohort import FINISHED, CohortFolder

T = TypeVar("T")


class CohortSnapshot(CohortFolder):
    """Reads every record once, at the beginning; what could not be read cannot be read later either.

    A run's ``step`` is that of its last row where it has one beyond what ``status.json`` says: a trainer writes the
    rows first. Models are read when asked for: each is written once.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        live = CohortFolder(path)
        # in this order: a process that ended since is not taken to have been interrupted, and no row is missing that
        # was there before the status was written
        self._training = live.is_training()
        self._manifest = _read(live.manifest)
        status = _read(live.status)
        self._metrics = _read(live.metrics)
        self._status = _brought_up(status, self._metrics)
        self._certificate = _read(live.certificate)

    def is_training(self) -> bool:
        return self._training

    def manifest(self) -> dict[str, Any]:
        return _once(self._manifest)

    def metrics(self) -> pl.DataFrame:
        return _once(self._metrics)

    def certificate(self) -> dict[str, Any] | None:
        return _once(self._certificate)

    def status(self) -> dict[str, Any]:
        return _once(self._status)


def _brought_up(status: dict[str, Any] | LabError, metrics: pl.DataFrame | LabError) -> dict[str, Any] | LabError:
    """The status with members that are not finished where their last rows are."""
    if isinstance(status, LabError) or isinstance(metrics, LabError):
        return status
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


def _once(found: T | LabError) -> T:
    if isinstance(found, LabError):
        raise found
    return found
