"""The folder of one cohort: what was asked, what was measured, where training stands, and the models kept.

    cohort.json              members and their specs, the threads and engine they train with; written once
    status.json              where each member stands, and the environment of every session that trained it
    metrics/000000-SHA.parquet   what was measured up to the first flush, then 000001-…, one per flush
    checkpoint.safetensors   all that exact resume needs, as of the last flush
    models/RUN/000010001.safetensors
    certificate.json         how far members trained alone deviate from the stack

A flush writes the metrics since the last one and then a checkpoint that counts the metrics files. A process killed in
between leaves one file too many, which the resumed run drops: no row is lost and none is there twice.
"""

import fcntl
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
from pydantic import BaseModel

from shoal.errors import LabError, UserError
from shoal.lab.files import read_json, write_json
from shoal.lab.frames import EMPTY, read_frame, write_frame
from shoal.lab.locks import locked
from shoal.lab.shapes import Certificate, Manifest, Status
from shoal.spec import RunSpec

# torch takes longer to load than most of what is read of a lab without it
if TYPE_CHECKING:
    from torch import Tensor

FINISHED = ("done", "diverged")


class CohortFolder:
    """Reads and writes one cohort's folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def id(self) -> str:
        return self.path.name

    def way_out(self) -> str:
        """What to do when a file of the cohort is damaged."""
        return f"remove {self.path} to train it anew"

    @contextmanager
    def with_way_out(self) -> Iterator[None]:
        """Say besides what is wrong with a file what to do."""
        try:
            yield
        except LabError as error:
            raise LabError(f"{error}; {self.way_out()}") from None

    def _read(self, name: str, shape: type[BaseModel]) -> dict[str, Any]:
        with self.with_way_out():
            return dict(read_json(self.path / name, shape))

    # what was asked

    def create(
        self, specs: list[RunSpec], threads: int, metrics: Iterable[str] = (), engine: str = "plain", why: str = ""
    ) -> None:
        """Write down the members in order, what is recorded of them besides, and how they are computed and why so."""
        members = [{"run": spec.id, "spec": spec.model_dump(mode="json")} for spec in specs]
        how = {"threads": threads, "engine": engine, "why": why}
        write_json(self.path / "cohort.json", {**how, "metrics": sorted(metrics), "members": members})

    def check_free(self) -> None:
        """Raise :class:`LabError` where members are written down already: what is there would become someone else's."""
        if (self.path / "cohort.json").exists():
            raise LabError(f"these runs are in cohort {self.id}, whose cohort.json is damaged; {self.way_out()}")

    def manifest(self) -> dict[str, Any]:
        """``threads``, ``engine`` and ``why``, ``metrics``, and ``members``, each with its ``run`` and ``spec``."""
        return self._read("cohort.json", Manifest)

    def specs(self) -> list[RunSpec]:
        """The members' specs in the order in which they are stacked.

        Raises:
            LabError: settings of a member are not allowed, or meant something else to the shoal that trained it.
        """
        members = self.manifest()["members"]
        try:
            specs = [RunSpec.restored(member["spec"]) for member in members]
        except UserError as error:
            raise LabError(f"{self.path / 'cohort.json'} is damaged: {error}; {self.way_out()}") from None
        for member, spec in zip(members, specs, strict=True):
            if spec.id != member["run"]:
                raise LabError(
                    f"run {member['run']} is of an earlier version of shoal, whose {spec.model} trained differently "
                    f"with these settings; {self.way_out()}"
                )
        return specs

    # where it stands

    def status(self) -> dict[str, Any]:
        """``members``: ``{run: {"state", "step"}}``, state waiting, running, done or diverged; and ``sessions``."""
        if not (self.path / "status.json").exists():
            if self._metrics_files() and not self.checkpoint_path.exists():  # nothing else says what became of them
                raise LabError(f"{self.path / 'status.json'} is missing; {self.way_out()}")
            members = {member["run"]: {"state": "waiting", "step": 0} for member in self.manifest()["members"]}
            return {"members": members, "sessions": []}
        return self._read("status.json", Status)

    def write_status(self, status: Mapping[str, Any]) -> None:
        write_json(self.path / "status.json", status)

    def is_finished(self) -> bool:
        """Whether every member is done or diverged."""
        return all(member["state"] in FINISHED for member in self.status()["members"].values())

    # what was measured

    def write_metrics(self, part: int, frame: pl.DataFrame) -> None:
        written = write_frame(self.path / "metrics" / f"{part:06d}", frame)
        for path in self._metrics_files():
            if path.stem.startswith(f"{part:06d}-") and path != written:
                path.unlink()

    def drop_metrics(self, parts: int) -> None:
        """Remove the files that no checkpoint counts: what they hold will be measured again."""
        for path in self._metrics_files()[parts:]:
            path.unlink()

    def _metrics_files(self) -> list[Path]:
        return sorted((self.path / "metrics").glob("[0-9]*.parquet"))

    def metrics(self) -> pl.DataFrame:
        """Every flushed row: ``run``, ``step`` and one column per measured quantity.

        Raises:
            LabError: a file is damaged, or one before the last is missing.
        """
        files = self._metrics_files()
        parts = {path.stem.partition("-")[0] for path in files}
        for part in map("{:06d}".format, range(len(parts))):
            if part not in parts:
                raise LabError(f"{self.path / 'metrics'} is damaged: file {part} is missing; {self.way_out()}")
        frames = []
        for path in files:
            with self.with_way_out(), suppress(FileNotFoundError):  # dropped by a resumed trainer since it was listed
                frames.append(read_frame(path))
        return pl.concat(frames, how="diagonal") if frames else pl.DataFrame(schema=EMPTY)

    # what exact resume needs

    @property
    def checkpoint_path(self) -> Path:
        return self.path / "checkpoint.safetensors"

    def save_checkpoint(self, state: "Mapping[str, Tensor]", where: Mapping[str, Any], parts: int) -> None:
        """Everything as it stands after ``parts`` files of metrics; ``where`` is any JSON."""
        from shoal.lab.tensors import save_tensors

        metadata = {"cohort": self.id, "where": json.dumps(where), "parts": str(parts)}
        save_tensors(self.checkpoint_path, state, metadata)

    def load_checkpoint(self) -> "tuple[dict[str, Tensor], dict[str, Any], int] | None":
        """State, ``where`` and number of metrics files of the last flush; None when there was none.

        Raises:
            LabError: the checkpoint is damaged, or of another cohort.
        """
        from shoal.lab.tensors import load_tensors

        if not self.checkpoint_path.exists():
            return None
        with self.with_way_out():
            state, metadata = load_tensors(self.checkpoint_path)
            if metadata.get("cohort") != self.id:
                raise LabError(f"{self.checkpoint_path} is of cohort {metadata.get('cohort')}, expected {self.id}")
            if "where" not in metadata:
                raise LabError(f"{self.checkpoint_path} is of an earlier version of shoal")
        return state, json.loads(metadata["where"]), int(metadata["parts"])

    def check_checkpoint(self, state: "Mapping[str, Tensor]", like: "Mapping[str, Tensor]") -> None:
        """Raise :class:`LabError` when a loaded state has not the names, shapes and types of ``like``."""
        from shoal.lab.tensors import check_like

        with self.with_way_out():
            check_like(self.checkpoint_path, state, like)

    # models

    def save_model(self, spec: RunSpec, step: int, state: "Mapping[str, Tensor]") -> None:
        from shoal.lab.tensors import save_tensors

        path = self.path / "models" / spec.id / f"{step:09d}.safetensors"
        save_tensors(path, state, {"run": spec.id, "step": str(step), "spec": spec.model_dump_json()})

    def models(self, run: str) -> dict[int, Path]:
        """The kept models of a run by step, in order."""
        return {int(path.stem): path for path in sorted((self.path / "models" / run).glob("[0-9]*.safetensors"))}

    # how it compares with training alone

    def certificate(self) -> dict[str, Any] | None:
        """What :func:`shoal.training.certificate.certify` found; None when it was never asked."""
        path = self.path / "certificate.json"
        return dict(read_json(path, Certificate)) if path.exists() else None

    def write_certificate(self, certificate: Mapping[str, Any]) -> None:
        write_json(self.path / "certificate.json", certificate)

    # one trainer at a time

    def clean(self) -> None:
        """Remove the half-written files of a process that was killed. Only for who holds the cohort."""
        for path in self.path.rglob(".*.tmp"):
            path.unlink(missing_ok=True)

    @contextmanager
    def training(self, wait: float = 10.0) -> Iterator[None]:
        """Hold the cohort for training; the hold ends with the process, however it ends.

        Raises:
            LabError: another process still trains it after ``wait`` seconds.
        """
        busy = f"cohort {self.id} is being trained by another process; once that has ended, the same command goes on"
        with locked(self.path / "lock", wait, busy):
            yield

    def is_training(self) -> bool:
        """Whether a process is training it now."""
        try:
            descriptor = os.open(self.path / "lock", os.O_RDONLY)
        except OSError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
        return False
