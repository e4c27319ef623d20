"""Folder of one cohort: its specs, metrics, status, checkpoint and kept models.

    cohort.json              members and their specs, the threads and engine they train with; written once
    task.json                what the task keeps with its models (``TaskSettings.kept``), such as a tokenizer
    status.json              state and step of each member, and the environment of every session that trained it
    metrics/000000-SHA.parquet   measurements up to the first flush, then 000001-…, one per flush
    checkpoint.safetensors   all that exact resume needs, as of the last flush
    models/RUN/000010001.safetensors
    certificate.json         how far members trained alone deviate from the stack

A flush writes the metrics since the last one, then a checkpoint and then a status that list all files of metrics. A
process killed in between leaves one file too many, which readers pass over and the resumed run sets aside, in the
folder set-aside, until it has measured the same again: no row is lost and none is there twice.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from shoal.errors import DiskError, LabError, UserError
from shoal.lab.files import check_shape, is_there, names_in, read_json, write_json
from shoal.lab.folder import Folder
from shoal.lab.keeping import keeping, others_than
from shoal.lab.members import check_members, check_sources, check_version, is_loaded, measures_of, said_of, spec_of
from shoal.lab.parts import Parts
from shoal.lab.shapes import Certificate, Flush, Kept, Manifest, Status
from shoal.measures import Measures
from shoal.spec import RunSpec

# torch takes longer to load than most of what is read of a lab without it
if TYPE_CHECKING:
    from torch import Tensor

FINISHED = ("done", "diverged")
_Notes = Mapping[str, str]


def name_of_cohort(runs: Iterable[str]) -> str:
    """Name of a cohort of these runs in this order: a hash."""
    return hashlib.sha256(" ".join(runs).encode()).hexdigest()[:16]


def is_finished(status: Mapping[str, Any]) -> bool:
    """Return True if every member is done or diverged."""
    return all(map(is_over, status["members"].values()))


def is_over(member: Mapping[str, Any]) -> bool:
    """Return True if a member, by its entry in a status, is done or diverged."""
    return member["state"] in FINISHED


class CohortFolder(Folder):
    """Folder of one cohort, with its readers and writers."""

    def own_id(self) -> str:
        """The name that the folder was made with: a hash of its members in order. A copy has another."""
        return name_of_cohort(member["run"] for member in self.manifest()["members"])

    # what was asked

    def create(
        self,
        specs: list[RunSpec],
        threads: int,
        metrics: Iterable[str] = (),
        engine: str = "plain",
        why: str = "",
        products: str = "torch",
    ) -> None:
        """Write ``cohort.json``: the members in order, further metrics, the threads and engine, why that engine, and
        the library of its matrix products.

        With it go what a model needs of its task beside its data (``TaskSettings.kept``), in ``task.json``, and the
        sources of parts that shoal does not ship.
        """
        content = dict(specs[0].task_part.kept())
        try:
            check_shape(self.path / "task.json", content, Kept)
        except LabError as error:
            why_not = str(error).partition(" is damaged: ")[2]
            raise UserError(f"task {specs[0].task!r} cannot be trained: what it keeps is wrong: {why_not}") from None
        members = [{"run": spec.id, "spec": spec.dump()} for spec in specs]
        how = {"threads": threads, "engine": engine, "why": why, "products": products}
        how |= {**said_of(specs[0]), **keeping(content)}
        if content:
            write_json(self.path / "task.json", content)
        write_json(self.path / "cohort.json", {**how, "metrics": sorted(metrics), "members": members})

    def kept(self) -> dict[str, Any]:
        """Artifacts that the task keeps with its models, by name; none for most tasks.

        Raises:
            LabError: it is damaged or missing, or is not what the cohort was begun with.
        """
        wanted, path = self.manifest().get("keeps", {}), self.path / "task.json"
        with self.with_way_out():
            artifacts = dict(read_json(path, Kept)) if wanted or is_there(path) else {}
            if lacking := [name for name in wanted if name not in artifacts]:
                raise LabError(f"{path} is damaged: it has no {lacking[0]}")
            if other := others_than(wanted, artifacts):
                raise LabError(f"{path} is damaged: its {other[0]} is not the one that the cohort was begun with")
        return artifacts

    def check_kept(self, spec: RunSpec) -> None:
        """Raise :class:`LabError` where the task of a run would make other artifacts now than when it was begun.

        Its data can be the same and read otherwise, such as by another version of a library that learns a tokenizer.
        """
        then = self.kept()
        if not then:
            return
        now = spec.task_part.kept()
        if other := others_than(keeping(then)["keeps"], now):
            raise LabError(
                f"cohort {self.id} cannot be gone on with: its task makes another {other[0]} here than the one that "
                f"{self.path / 'task.json'} keeps; go on with what the cohort was begun with, or train anew in "
                "another lab"
            )

    def check_sources(self) -> None:
        """Raise :class:`LabError` where the code of a part from outside of shoal is not what the cohort began with."""
        check_sources(self.manifest(), self.id)

    def check_free(self) -> None:
        """Raise :class:`LabError` where the folder has content already, which would be taken for that of these runs."""
        with self.with_way_out():
            if self.contents():
                raise LabError(f"these runs are in cohort {self.id}, whose cohort.json is damaged or missing")

    def manifest(self) -> dict[str, Any]:
        """``threads``, ``engine`` and ``why``, ``metrics``, and ``members``, each with its ``run`` and ``spec``; and
        ``measures``, where the task stands outside of shoal.

        Whatever is done with a cohort begins with this.

        Raises:
            LabError: it is damaged, a run's id is not that of its settings in any version or is there twice, or a
                folder of the cohort is a link.
        """
        self.check_links()
        return self._checked_manifest

    @cached_property  # written once, as it is read
    def _checked_manifest(self) -> dict[str, Any]:
        manifest = self._read("cohort.json", Manifest)
        try:
            check_members(manifest)
        except ValueError as error:
            raise LabError(f"{self.path / 'cohort.json'} is damaged: {error}; {self.way_out()}") from None
        return manifest

    def _check_asked(self) -> None:
        """Raise :class:`LabError` where ``cohort.json``, which was read before, has been deleted or moved away."""
        if not is_there(self.path / "cohort.json"):
            self.check_there()
            raise LabError(f"{self.path / 'cohort.json'} is missing")

    def measures(self) -> Measures:
        """Measures of the runs' task; of a task from outside of shoal those that the manifest records."""
        return measures_of(self.manifest())

    def specs(self) -> list[RunSpec]:
        """The members' specs in the order in which they are stacked.

        Raises:
            LabError: settings of a member are not allowed, or mean something else than to the shoal that trained it.
        """
        return [spec_of(member, self.path / "cohort.json", self.way_out()) for member in self.manifest()["members"]]

    def is_loaded(self) -> bool:
        """Return True if :meth:`specs` imports nothing: every part is shoal's own, or its module is loaded already."""
        return all(is_loaded(member["spec"]) for member in self.manifest()["members"])

    def check_versions(self) -> None:
        """Raise :class:`LabError` where settings mean something else than to the shoal that trained with them.

        Unlike :meth:`specs` this imports nothing.
        """
        for member in self.manifest()["members"]:
            check_version(member)

    # where it stands

    def status(self) -> dict[str, Any]:
        """Status of the cohort: state and step of every member, sessions, and files of metrics.

        Returns:
            ``members``: ``{run: {"state", "step"}}``, state waiting, running, done or diverged; ``sessions``; and
            ``metrics``, the files of metrics (None where that is not on record).

        Raises:
            LabError: it is damaged or missing, or of other runs.
        """
        runs = [member["run"] for member in self.manifest()["members"]]
        path = self.path / "status.json"
        with self.with_way_out():
            if not is_there(path):
                self._check_asked()
                if not self.parts.there() and not is_there(self.checkpoint_path):
                    members = {run: {"state": "waiting", "step": 0} for run in runs}
                    return {"members": members, "sessions": [], "metrics": []}
                if not is_there(path):  # still: it is written before them
                    raise LabError(f"{path} is missing")
            status = {"metrics": None, **read_json(path, Status)}
            if status["members"].keys() != set(runs):
                raise LabError(f"{path} is damaged: it does not say where each run stands")
        return status

    def write_status(self, status: Mapping[str, Any]) -> None:
        write_json(self.path / "status.json", status)

    def is_finished(self) -> bool:
        """Return True if every member is done or diverged."""
        return is_finished(self.status())

    # what was measured

    @property
    def parts(self) -> Parts:
        """The files of metrics."""
        return Parts(self.path / "metrics")

    def write_metrics(self, number: int, frame: pl.DataFrame) -> str:
        """Write the rows of a flush, counted from 0, and return the name of their file."""
        return self.parts.write(number, frame)

    def metrics(self) -> pl.DataFrame:
        """Every flushed row: ``run``, ``step`` and one column per measured quantity.

        Raises:
            LabError: what is there is not whole: a file is damaged, missing, or one too many.
        """
        return self.stand()[1]

    def stand(self) -> tuple[dict[str, Any], pl.DataFrame]:
        """Status and metrics of one moment, also while a trainer writes them."""
        status = self.status()
        while True:
            try:
                with self.with_way_out():
                    finished, runs = is_finished(status), status["members"]
                    return status, self.parts.read(status["metrics"], finished, runs, self.measures().columns)
            except LabError:
                now = self.status()
                if now == status:
                    raise
                status = now  # that was flushed in between

    # what exact resume needs

    def has_checkpoint(self) -> bool:
        """Return True if there is a checkpoint to continue from."""
        return is_there(self.checkpoint_path)

    @property
    def checkpoint_path(self) -> Path:
        return self.path / "checkpoint.safetensors"

    def save_checkpoint(self, state: "Mapping[str, Tensor]", where: Mapping[str, Any], parts: Sequence[str]) -> None:
        """Write the state after these files of metrics; ``where`` is any JSON."""
        from shoal.lab.tensors import save_tensors

        counted = {"parts": str(len(parts)), "metrics": json.dumps(list(parts))}
        metadata = {"cohort": self.own_id(), "where": json.dumps(where), "manifest": json.dumps(self.manifest())}
        save_tensors(self.checkpoint_path, state, metadata | counted)

    def load_checkpoint(self) -> "tuple[dict[str, Tensor], dict[str, Any], list[str] | int] | None":
        """State, ``where`` and the files of metrics of the last flush (their number, from an earlier version).

        None when there was no flush.

        Raises:
            LabError: the checkpoint is damaged, or of another cohort.
        """
        from shoal.lab.tensors import load_tensors

        with self.with_way_out():
            if not is_there(self.checkpoint_path):
                return None
            state, metadata = load_tensors(self.checkpoint_path)
            cohort, expected = metadata.get("cohort"), self.own_id()
            if cohort not in (self.id, expected):  # an earlier version wrote the folder's name
                raise LabError(f"{self.checkpoint_path} is of cohort {cohort}, expected {expected}")
            if "where" not in metadata:
                raise LabError(f"{self.checkpoint_path} is of an earlier version of shoal")
            check_shape(self.checkpoint_path, metadata, Flush)
        counted = json.loads(metadata["metrics"]) if "metrics" in metadata else int(metadata["parts"])
        return state, json.loads(metadata["where"]), counted

    def finish(self) -> None:
        """Remove the checkpoint, and files set aside that were measured again, once every member is done or diverged.

        Raises:
            LabError: files were set aside, and the metrics that are to hold the same are damaged.
            DiskError: the disk refuses.
        """
        if is_there(self.path / "set-aside"):
            self.parts.drop_measured_again(self.metrics())
        try:
            self.checkpoint_path.unlink(missing_ok=True)
        except OSError as error:
            reason = error.strerror or error
            raise DiskError(f"could not remove {self.checkpoint_path}: {reason}") from error

    def check_checkpoint(self, state: "Mapping[str, Tensor]", like: "Mapping[str, Tensor]") -> None:
        """Raise :class:`LabError` when a loaded state has not the names, shapes and types of ``like``."""
        from shoal.lab.tensors import check_like

        with self.with_way_out():
            check_like(self.checkpoint_path, state, like)

    # models

    def save_model(self, spec: RunSpec, step: int, state: "Mapping[str, Tensor]", notes: _Notes | None = None) -> None:
        """Write a model of a run after a step, with notes on it by name."""
        from shoal.lab.tensors import save_tensors

        about = {"run": spec.id, "step": str(step), "spec": json.dumps(spec.dump()), **(notes or {})}
        save_tensors(self.path / "models" / spec.id / f"{step:09d}.safetensors", state, about)

    def models(self, run: str) -> dict[int, Path]:
        """The kept models of a run by step, in order."""
        place = self.path / "models" / run
        return {int(name[:-12]): place / name for name in names_in(place) if re.fullmatch(r"\d+\.safetensors", name)}

    def check_model(self, run: str, step: int, metadata: Mapping[str, str]) -> None:
        """Raise :class:`LabError` where the metadata of a model's file are those of another run or step."""
        of = (metadata.get("run"), metadata.get("step"))
        if of != (run, str(step)):
            with self.with_way_out():
                raise LabError(f"{self.models(run)[step]} holds the model of run {of[0]} at step {of[1]}")

    # how it compares with training alone

    def certificate(self) -> dict[str, Any] | None:
        """Result of :func:`shoal.training.certificate.certify`; None where it was never called."""
        path = self.path / "certificate.json"
        return dict(read_json(path, Certificate)) if is_there(path) else None

    def write_certificate(self, certificate: Mapping[str, Any]) -> None:
        with self.adding():
            write_json(self.path / "certificate.json", certificate)
