"""Deletion of runs, after which every other run is in the lab, whole and once, at whichever moment it is ended.

A cohort all of whose runs go is moved out of ``cohorts`` in one step and then removed. Of one of which some stay the
rest becomes a cohort of its own (``splitting.py``): made in the folder ``deleting``, moved beside the old one, where it
counts for nothing as long as that is there (``survey.is_pending``), and live in the one step that moves the old one
away. What a process that was killed leaves is removed by the next deletion, or by ``shoal check --repair``.

``deleted.json`` keeps which runs were deleted, or were to be: so the same command, given again, knows names that are
gone already, and a study that asks for such a run is not said to have lost it.
"""

import os
import shutil
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from shoal.errors import DiskError, LabError
from shoal.lab.cohort import CohortFolder
from shoal.lab.files import check_own, is_there, names_in, read_json, sync_folder, write_json
from shoal.lab.folder import REPLACES
from shoal.lab.homes import base_run
from shoal.lab.labels import Labels, forget, read_labels
from shoal.lab.mends import move
from shoal.lab.shapes import Deleted
from shoal.lab.sizes import bytes_of_cohort, bytes_of_runs
from shoal.lab.splitting import split
from shoal.lab.survey import is_pending, survey

DELETING, DELETED = "deleting", "deleted.json"
_MOST_NAMED = 3  # adapters of a base


@dataclass(frozen=True)
class Cut:
    """Runs to be deleted from one cohort.

    Attributes:
        folder: the cohort.
        runs: ids of the runs that are deleted.
        left: ids of the runs that stay.
        bytes: approximate size of what is deleted; see :func:`shoal.lab.sizes.bytes_of_runs`.
    """

    folder: CohortFolder
    runs: tuple[str, ...]
    left: tuple[str, ...]
    bytes: int


def plan_deletion(lab: Path, runs: Collection[str]) -> list[Cut]:
    """Cuts by cohort that a deletion of these runs would make; nothing is changed.

    Raises:
        LabError: a run is being trained, is held by several cohorts, or is the base of adapters that are to stay; or
            runs of a damaged cohort are to stay.
    """
    surveyed = survey(lab)
    check_bases(lab, {folder.path: folder for folder in surveyed.index.values()}.values(), runs)
    wanted: dict[Path, tuple[CohortFolder, list[str]]] = {}
    for run in dict.fromkeys(runs):
        if run in surveyed.held:
            held = " and ".join(folder.id for folder in surveyed.held[run])
            raise LabError(
                f"run {run} is held by cohorts {held}: move one of them out of the lab first; shoal check names the "
                "one that is not read"
            )
        folder = surveyed.index[run]
        wanted.setdefault(folder.path, (folder, []))[1].append(run)
    cuts = []
    for folder, to_delete in wanted.values():
        _check_still(folder, to_delete)
        sizes = bytes_of_runs(folder)
        left = tuple(run for run in sizes if run not in to_delete)
        freed = sum(sum(sizes[run].values()) for run in to_delete) if left else sum(bytes_of_cohort(folder).values())
        cuts.append(Cut(folder, tuple(to_delete), left, freed))
    return cuts


def check_bases(lab: Path, folders: Iterable[CohortFolder], runs: Collection[str]) -> None:
    """Raise :class:`LabError` where adapters of the lab are to stay, and the run whose model is their base is not.

    Args:
        lab: folder of the lab.
        folders: its cohorts; damaged ones are passed over.
        runs: ids of the runs that are to be deleted.
    """
    adapters: dict[str, list[str]] = {}
    for folder in folders:
        try:
            members = folder.manifest()["members"]
        except LabError:
            continue
        for member in members:
            base = base_run(member["spec"], lab)
            if base in runs and member["run"] not in runs:
                adapters.setdefault(str(base), []).append(member["run"])
    for base, dependent in adapters.items():
        named = " ".join(run[:8] for run in dependent[:_MOST_NAMED])
        more = f" and {len(dependent) - _MOST_NAMED:,} more" if len(dependent) > _MOST_NAMED else ""
        raise LabError(
            f"run {base} cannot be deleted: it is the base of {len(dependent):,} adapter{'s' * (len(dependent) != 1)} "
            f"({named}{more}), which cannot be read without it; delete these with it, or keep it"
        )


def _check_still(folder: CohortFolder, runs: Collection[str]) -> None:
    """Raise :class:`LabError` where a process trains the cohort."""
    if folder.is_training():
        first = next(iter(runs))
        raise LabError(
            f"run {first}{' …' if len(runs) > 1 else ''} cannot be deleted while its cohort {folder.id} is being "
            "trained: stop that first (Ctrl-C), or wait until it has ended"
        )


def delete(lab: Path, cuts: Iterable[Cut]) -> None:
    """Delete runs. The caller holds the lab (:meth:`shoal.lab.Lab.planning`).

    Raises:
        LabError: a cohort began to be trained, or is damaged and runs of it are to stay; those before it are deleted.
        DiskError: the disk refuses; likewise.
    """
    cuts = list(cuts)
    runs = [run for cut in cuts for run in cut.runs]
    clear(lab)
    labels = read_labels(lab)
    noted = _note(lab, runs, labels)
    for cut in cuts:
        _delete_of(lab, cut)
    forget(lab, runs, labels)
    if not noted:  # the disk was full, and now there may be room
        _note(lab, runs, labels)
    with suppress(OSError):
        (lab / DELETING).rmdir()


def _delete_of(lab: Path, cut: Cut) -> None:
    folder, place = cut.folder, lab / DELETING
    _make(place)
    _check_still(folder, cut.runs)
    with folder.training(wait=0.0):
        if not cut.left:
            _rename(folder.path, place / folder.id)
        else:
            rest = split(folder, cut.runs, place)
            target = folder.path.with_name(rest.id)
            _vacate(lab, CohortFolder(target))
            write_json(rest.path / REPLACES, {"cohort": folder.id})
            _rename(rest.path, target)
            _rename(folder.path, place / folder.id)  # the moment: what is left takes its place, the rest is gone
            _unlink(target / REPLACES)
    _remove(place / folder.id)


def _vacate(lab: Path, target: CohortFolder) -> None:
    """Remove files that a killed deletion left in the place of a cohort; :class:`LabError` where a cohort is there."""
    if not is_there(target.path):
        return
    if target.contents() and not is_pending(target):
        raise LabError(f"cohort {target.id} holds the runs that are to stay, too: move {target.path} out of the lab")
    _rename(target.path, lab / DELETING / f"{target.id}.before")
    _remove(lab / DELETING / f"{target.id}.before")


# what is left of a deletion that was killed


def leftovers(lab: Path) -> list[Path]:
    """Paths that a killed deletion left; their content is elsewhere in the lab too, or was to be deleted."""
    pending = [path for path in _cohorts(lab) if is_pending(CohortFolder(path))]
    marks = [path / REPLACES for path in _cohorts(lab) if path not in pending and os.path.lexists(path / REPLACES)]
    return [*(lab / DELETING / name for name in names_in(lab / DELETING)), *pending, *marks]


def clear(lab: Path) -> list[Path]:
    """Remove the :func:`leftovers` of killed deletions and the labels of deleted runs. The caller holds the lab.

    Returns:
        The removed paths.

    Raises:
        LabError: the folder of deletions is a link.
        DiskError: the disk refuses.
    """
    check_own([lab / DELETING])
    paths = leftovers(lab)
    for path in paths:
        if path.name == REPLACES:
            _unlink(path)
        elif path.parent.name == "cohorts":
            _make(lab / DELETING)
            _rename(path, lab / DELETING / f"{path.name}.before")
            _remove(lab / DELETING / f"{path.name}.before")
        else:
            _remove(path)
    gone, labels = lost_labels(lab), read_labels(lab)
    if gone:
        forget(lab, gone, labels)
    with suppress(OSError):
        (lab / DELETING).rmdir()
    return [*paths, *(lab / "labels" / "runs" / f"{run}.json" for run in gone)]


def lost_labels(lab: Path) -> list[str]:
    """Deleted runs that still have a label or a group; none while a ``cohort.json`` cannot be read."""
    deleted, surveyed = deleted_runs(lab), survey(lab)
    if not deleted or surveyed.unknown:
        return []
    labels = read_labels(lab)
    known = dict.fromkeys([*labels.runs, *(run for group in labels.groups.values() for run in group.runs)])
    return [run for run in known if run in deleted and run not in surveyed.index]


def _cohorts(lab: Path) -> list[Path]:
    return [lab / "cohorts" / name for name in names_in(lab / "cohorts")]


# which runs were deleted


def deleted_runs(lab: Path) -> dict[str, dict[str, Any]]:
    """Deletions on record by run: ``at``, the time, and ``name``. Runs trained again since are among them.

    A damaged file counts as empty: ``shoal check`` names it.
    """
    path = lab / DELETED
    try:
        return dict(read_json(path, Deleted)["runs"]) if is_there(path) else {}
    except LabError:
        return {}


def find_deleted(word: str, deleted: Mapping[str, Mapping[str, Any]]) -> str | None:
    """Id of the deleted run with this id, unambiguous beginning of an id, or name; None where there is none."""
    named = [run for run, deletion in deleted.items() if deletion.get("name") == word]
    matching = named or [run for run in deleted if word and run.startswith(word)]
    return matching[-1] if named or len(matching) == 1 else None


def _note(lab: Path, runs: Iterable[str], labels: Labels) -> bool:
    """Write deletions to ``deleted.json``; false where the disk is full, which does not stop a deletion."""
    at = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    deletions = {run: {"at": at, "name": labels.of(run).name} for run in runs}
    before = deleted_runs(lab)
    try:
        if is_there(lab / DELETED) and not before:
            move(lab, lab / DELETED)  # it is damaged
        write_json(lab / DELETED, {"runs": {**before, **deletions}})
    except DiskError:
        return False
    return True


# files


def _make(folder: Path) -> None:
    check_own([folder])
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise DiskError(f"could not make {folder}: {error.strerror or error}") from error


def _rename(path: Path, to: Path) -> None:
    try:
        path.rename(to)
        sync_folder(to.parent)
        sync_folder(path.parent)
    except OSError as error:
        raise DiskError(f"could not move {path} to {to}: {error.strerror or error}") from error


def _unlink(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise DiskError(f"could not remove {path}: {error.strerror or error}") from error


def _remove(path: Path) -> None:
    """Remove a file, or a folder with all below; links are removed and not followed."""
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    except OSError as error:
        raise DiskError(f"could not remove {path}: {error.strerror or error}; remove it by hand") from error
