"""Split of a cohort: its members without some, as a cohort of its own, with the same bits of all that stay.

    cohort.json              without these members
    status.json              likewise
    metrics/, set-aside/     file by file without their rows, under the same numbers
    checkpoint.safetensors   without their rows of every tensor
    certificate.json         without their deviations
    models/, decodes/ …      linked, file by file, without theirs

A member's trajectory depends on its spec alone, so that the others go on to the bits to which they would have gone.
"""

import os
import shutil
import stat
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from shoal.errors import DiskError, LabError
from shoal.lab.cohort import CohortFolder, name_of_cohort
from shoal.lab.continuing import check_going_on
from shoal.lab.damage import damage_of
from shoal.lab.files import check_own, is_there, names_in, sync_folder, write_json
from shoal.lab.parts import Parts

_WRITTEN = ("cohort.json", "status.json", "certificate.json", "checkpoint.safetensors", "metrics", "set-aside")
_LEFT = ("lock", "lock-holder.json", "replaces.json")


def split(folder: CohortFolder, gone: Collection[str], place: Path) -> CohortFolder:
    """Write the rest of a cohort as a new one in the folder ``place``. The caller holds the cohort.

    Args:
        folder: the cohort, which stays as it is.
        gone: those of its runs that the new one does not have.
        place: where the new folder goes, on the same file system.

    Raises:
        LabError: the record of a run that is to stay is damaged, so that the new record could lack some of it.
        DiskError: the disk is full or refuses.
    """
    manifest = folder.manifest()
    members = [member for member in manifest["members"] if member["run"] not in gone]
    check_whole(folder, [member["run"] for member in members])
    new = CohortFolder(place / name_of_cohort(member["run"] for member in members))
    try:
        new.path.mkdir(parents=True)
        _link_all(folder, new, gone)
        sync_folder(place)
    except OSError as error:
        raise DiskError(f"could not write {new.path}: {error.strerror or error}") from error
    write_json(new.path / "cohort.json", {**manifest, "members": members})
    _copy_time(folder.path / "cohort.json", new.path / "cohort.json")  # runs are listed by it
    names = _write_metrics(folder, new, gone)
    _write_checkpoint(folder, new, gone, names)
    _write_status(folder, new, gone, names)
    _write_certificate(folder, new, gone)
    if new.is_finished():
        new.finish()
    return new


def check_whole(folder: CohortFolder, runs: Collection[str]) -> None:
    """Raise :class:`LabError` where the record of one of these runs is not whole."""
    if wrong := [why for run, why in damage_of(folder).items() if run in runs]:
        raise LabError(
            f"cohort {folder.id} is damaged, so that the {len(runs)} of its runs that are to stay cannot be written "
            f"anew; all of them can be deleted together, or see what shoal check finds: {wrong[0]}"
        )
    if not folder.is_finished():
        checkpoint = folder.load_checkpoint()
        counted = None if checkpoint is None else checkpoint[2]
        with folder.with_way_out():
            check_going_on(folder, folder.status(), counted)
            folder.parts.check_counted(counted or [])


def _copy_time(source: Path, target: Path) -> None:
    about = source.lstat()
    with suppress(OSError):
        os.utime(target, ns=(about.st_atime_ns, about.st_mtime_ns))


# files that are not written anew


def _link_all(folder: CohortFolder, new: CohortFolder, gone: Collection[str]) -> None:
    dropped = {Path("models") / run for run in gone} | {Path(name) for name in (*_WRITTEN, *_LEFT)}
    dropped |= _texts_of(folder, gone)
    for name in names_in(folder.path):
        _link(folder.path, new.path, Path(name), dropped)
    sync_folder(new.path)


def _texts_of(folder: CohortFolder, gone: Collection[str]) -> set[Path]:
    """Files of hypotheses and scores of these runs. One whose note is damaged stays: its run is not known."""
    decodes, texts = folder.decodes, set()
    for key in decodes.there():
        with suppress(LabError):
            if decodes.read(key).run in gone:
                texts |= {Path("decodes") / f"{key}.json", Path("decodes") / f"{key}.txt"}
                texts |= {Path("scores") / f"{name}.json" for name in decodes.scored(key)}
    return texts


def _link(source: Path, target: Path, name: Path, dropped: Collection[Path]) -> None:
    """Link a file, or each file in a folder, at the same place of another folder."""
    if name in dropped or (name.name.startswith(".") and name.name.endswith(".tmp")):
        return
    mode = (source / name).lstat().st_mode
    if stat.S_ISDIR(mode):
        (target / name).mkdir()
        for inner in names_in(source / name):
            _link(source, target, name / inner, dropped)
        sync_folder(target / name)
    elif stat.S_ISREG(mode):
        try:
            os.link(source / name, target / name, follow_symlinks=False)
        except OSError:  # the file system has no links, or the file is another user's
            _copy(source / name, target / name)
    else:
        check_own([source / name])
        raise LabError(f"{source / name} is damaged: it is not a regular file")


def _copy(source: Path, target: Path) -> None:
    with source.open("rb") as before, target.open("wb") as after:
        shutil.copyfileobj(before, after)
        after.flush()
        os.fsync(after.fileno())


# files that are


def _write_metrics(folder: CohortFolder, new: CohortFolder, gone: Collection[str]) -> dict[str, str]:
    """Write each file of metrics without rows of these runs, and return the new names by the old ones."""
    columns = folder.measures().columns
    there = folder.parts.there()
    names = {name: _write_part(folder.parts, new.parts, name, gone, columns) for name in there}
    aside, new_aside = Parts(folder.path / "set-aside"), Parts(new.path / "set-aside")
    for name in aside.there():
        with suppress(LabError):  # what no checkpoint came to count will be measured again
            _write_part(aside, new_aside, name, gone, columns)
    return names


def _write_part(source: Parts, target: Parts, name: str, gone: Collection[str], columns: Collection[str]) -> str:
    rows = source.read_one(name, columns)
    return target.write(int(name.partition("-")[0]), rows.filter(~rows["run"].is_in(list(gone))))


def _write_status(folder: CohortFolder, new: CohortFolder, gone: Collection[str], names: Mapping[str, str]) -> None:
    if not is_there(folder.path / "status.json"):  # nobody has begun
        return
    status = folder.status()
    members = {run: at for run, at in status["members"].items() if run not in gone}
    metrics = None if status["metrics"] is None else [names[name] for name in status["metrics"]]
    new.write_status({**status, "members": members, "metrics": metrics})


def _write_checkpoint(folder: CohortFolder, new: CohortFolder, gone: Collection[str], names: Mapping[str, str]) -> None:
    checkpoint = folder.load_checkpoint()
    if checkpoint is None:
        return
    state, where, counted = checkpoint
    begun = [*where["members"], *where.get("parked", [])]
    rows = [row for row, run in enumerate(begun) if run not in gone]
    state = {name: tensor[rows] for name, tensor in state.items()} if rows else {}
    parts = folder.parts.there()[:counted] if isinstance(counted, int) else counted
    new.save_checkpoint(state, _where(where, gone), [names[name] for name in parts])


def _where(where: Mapping[str, Any], gone: Collection[str]) -> dict[str, Any]:
    """Entry ``where`` of the new checkpoint, without the spread of the last accuracies, which was of all members."""
    members = [run for run in where["members"] if run not in gone]
    parked = [run for run in where.get("parked", []) if run not in gone]
    if not members:  # whoever is parked waits for someone's place
        members, parked = parked[:1], parked[1:]
    finished = {run: ending for run, ending in where["finished"].items() if run not in gone}
    generalised = [run for run in where["generalised"] if run not in gone]
    rest = {name: value for name, value in where.items() if name != "accuracies"}
    return {**rest, "members": members, "parked": parked, "finished": finished, "generalised": generalised}


def _write_certificate(folder: CohortFolder, new: CohortFolder, gone: Collection[str]) -> None:
    """Write the certificate of the others; none where no other was trained alone."""
    certificate = folder.certificate()
    if certificate is None:
        return
    alone = {run: deviation for run, deviation in certificate["alone"].items() if run not in gone}
    if alone or not certificate["alone"]:
        write_json(new.path / "certificate.json", {**certificate, "alone": alone})
