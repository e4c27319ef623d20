"""Examination of a lab, as of a database: every checksum, id and list is compared with the files, and with each other.

Files in the way are never deleted but moved into the lab's folder ``aside``, and a file is written again only where
other files hold its content too. Of finished runs the files are removed that their trainer was to remove at the end,
when it was killed before.
"""

from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

from shoal.errors import AccessError, DiskError, LabError, UserError
from shoal.lab.check_decodes import check_decodes
from shoal.lab.check_labels import check_deletions, deleted_of, settled_labels
from shoal.lab.check_models import check_models
from shoal.lab.cohort import CohortFolder, is_finished
from shoal.lab.continuing import check_going_on
from shoal.lab.damage import damage_of
from shoal.lab.files import check_own, is_there, names_in, read_json, write_json
from shoal.lab.finding import Finding
from shoal.lab.keeping import others_than
from shoal.lab.lab import FORMAT, MARK, PARTS, Lab, check_mark, write_mark
from shoal.lab.mends import finish, held, move, rename, replace
from shoal.lab.names import check_name
from shoal.lab.rebuild import manifest_of, status_of
from shoal.lab.shapes import StudyNote
from shoal.lab.survey import is_pending, settled, survey
from shoal.lab.tunings import check_tunings

ROUNDS = 5  # of repairs, each of which can bring to light what the one before hid


def examine(path: Path) -> list[Finding]:
    """Findings about a lab: its damage, and remarks.

    Raises:
        LabError: there is no lab, it is of a newer format, or one of its folders is a link, behind which is nothing of
            the lab.
    """
    check_own(path / name for name in PARTS)
    findings = list(_mark(path))
    for name in names_in(path / "cohorts"):
        folder = CohortFolder(path / "cohorts" / name)
        try:
            of_cohort = [] if is_pending(folder) else [*_cohort(folder)]
        except LabError as error:
            of_cohort = [Finding(str(error))]
        findings += of_cohort if is_there(folder.path) else []  # it was deleted meanwhile
    tunings = check_tunings(path, survey(path).index.keys())
    others = [*_studies(path), *tunings, *settled_labels(path), *check_deletions(path)]
    return [*findings, *settled(path, lambda: [*_copies(path)]), *others]


def repair(path: Path) -> Iterator[str]:
    """Mend damage where nothing is lost by it; yields a line for each change."""
    for _ in range(ROUNDS):
        mends = [finding.mend for finding in examine(path) if finding.mend is not None]
        if not mends:
            return
        try:
            if _is_old(path):  # versions that know only its format would write beside the checksums of what is mended
                yield _write_mark(path)
        except (LabError, DiskError) as error:
            yield f"not mended: {error}"
            return
        for mend in mends:
            try:
                did = mend()
            except (LabError, DiskError) as error:  # a trainer has come, or the disk is full
                did = f"not mended: {error}"
            if did:
                yield did


# the lab


def _is_old(path: Path) -> bool:
    """Return True if a lab is of an earlier format; :class:`AccessError` where the system does not let that be read."""
    try:
        return check_mark(path / MARK) < FORMAT
    except AccessError:
        raise
    except LabError:  # lost or damaged: to write it again is the first mend
        return False


def _write_mark(path: Path) -> str:
    return replace(path, path / MARK, partial(write_mark, path))


def _mark(path: Path) -> Iterator[Finding]:
    mark = path / MARK
    if is_there(mark):
        try:
            read_json(mark)
        except AccessError as error:
            yield Finding(str(error))
        except LabError as error:
            yield Finding(str(error), partial(_write_mark, path))
        else:
            check_mark(mark)
    elif is_there(path / "cohorts"):
        yield Finding(f"{mark} is missing", partial(_write_mark, path))
    else:
        Lab(path).check_there()  # raises what is to be said where there is something else, or nothing
        raise UserError(f"lab {path} holds no runs")


def _copies(path: Path) -> Iterator[Finding]:
    """Findings about cohorts of which runs are read from another, or that have another's name."""
    index = survey(path).index
    for name in names_in(path / "cohorts"):
        folder = CohortFolder(path / "cohorts" / name)
        if folder.is_training() or is_pending(folder):
            continue  # told of already
        try:
            runs = [member["run"] for member in folder.manifest()["members"]]
        except LabError:
            continue  # told of already
        others = sorted({index[run].id for run in runs if run in index and index[run].path != folder.path})
        if others:
            whole = all(index[run].path != folder.path for run in runs)
            mend = partial(held, folder, partial(move, path, folder.path)) if whole else None
            yield Finding(f"{folder.path} holds runs that cohort {' '.join(others)} holds too, which is read", mend)
        elif folder.id != folder.own_id():
            free = not is_there(folder.path.with_name(folder.own_id()))
            mend = partial(held, folder, partial(rename, folder)) if free else None
            yield Finding(f"{folder.path} holds the runs of cohort {folder.own_id()}", mend)


def _studies(path: Path) -> Iterator[Finding]:
    runs = survey(path).index.keys()
    for name in names_in(path / "studies"):
        try:
            notes = _notes(path / "studies" / name)
        except LabError as error:  # a link, or closed to whoever looks
            yield Finding(str(error))
            continue
        for note in notes:
            yield from _note(path, note, runs)


def _notes(place: Path) -> list[Path]:
    """Files of a study's notes, one for each form in which it was run; an earlier version kept one for each study.

    Raises:
        LabError: it is a link, or the system does not let it be listed.
    """
    if place.name.startswith("."):
        return []
    check_own([place])
    notes = [place, *(place / name for name in names_in(place) if not name.startswith("."))]
    return [note for note in notes if note.suffix == ".json"]


def _note(path: Path, note: Path, known: Collection[str]) -> Iterator[Finding]:
    study = note.stem if note.parent.name == "studies" else note.parent.name
    try:
        check_name(study, "study")
        check_name(note.stem, "form")
        runs = read_json(note, StudyNote)["runs"]
    except AccessError as error:
        yield Finding(str(error))
        return
    except UserError as error:
        yield Finding(f"{error}; to have it again, run the study again", partial(move, path, note))
        return
    lost = [run for run in runs if run not in known]
    deleted = deleted_of(path, lost)
    for some, why in ((deleted, "were deleted"), ([run for run in lost if run not in deleted], "no cohort holds")):
        if some:
            more = " …" if len(some) > 1 else ""
            line = f"{note} asks for {len(some)} of {len(runs)} runs ({some[0]}{more}) that {why}; to train them, "
            yield Finding(f"{line}run study {study} again", is_damage=some is not deleted)


# a cohort


def _cohort(folder: CohortFolder) -> Iterator[Finding]:
    if folder.is_training():
        yield Finding(f"{folder.path} is being trained: not examined", is_damage=False)
        return
    lab = folder.path.parent.parent
    folder.check_links()
    if not folder.contents():
        return
    try:
        with folder.with_way_out():
            if not is_there(folder.path / "cohort.json"):
                raise LabError(f"{folder.path / 'cohort.json'} is missing")
        runs = [member["run"] for member in folder.manifest()["members"]]
    except AccessError as error:
        yield Finding(str(error))
        return
    except LabError as error:
        manifest = manifest_of(folder)
        write = partial(write_json, folder.path / "cohort.json", manifest)
        mend = partial(held, folder, partial(replace, lab, folder.path / "cohort.json", write))
        yield Finding(str(error), mend if manifest is not None else None)
        return
    findings = [*_stand(folder), *check_models(folder, runs), *_task(folder)]
    yield from findings
    yield from _certificate(folder, runs)
    yield from check_decodes(folder, runs)
    yield from _remains(folder, is_whole=not any(finding.is_damage for finding in findings))


def _task(folder: CohortFolder) -> Iterator[Finding]:
    """Finding about ``task.json``, which is written again where the data are there and give the same content."""
    try:
        folder.kept()
    except AccessError as error:
        yield Finding(str(error))
    except LabError as error:
        lab, path, mend = folder.path.parent.parent, folder.path / "task.json", None
        with suppress(UserError):
            again = folder.specs()[0].task_part.kept() if folder.is_loaded() else {}
            if again and not others_than(folder.manifest().get("keeps", {}), again):
                mend = partial(held, folder, partial(replace, lab, path, partial(write_json, path, again)))
        yield Finding(str(error), mend)


def _certificate(folder: CohortFolder, runs: list[str]) -> Iterator[Finding]:
    lab = folder.path.parent.parent
    try:
        folder.certificate()
    except AccessError as error:
        yield Finding(str(error))
    except LabError as error:
        path = folder.path / "certificate.json"
        again = f"shoal certify {runs[0]} makes it again"
        yield Finding(f"{error}; {again}", partial(held, folder, partial(move, lab, path)))


def _remains(folder: CohortFolder, is_whole: bool) -> Iterator[Finding]:
    """Findings about files that only the trainer needs, which it removes at the end."""
    if is_whole and folder.has_checkpoint() and folder.is_finished():
        yield Finding(
            f"{folder.checkpoint_path} is of runs that are all finished: their trainer was killed before it removed it",
            partial(finish, folder),
            is_damage=False,
        )
    aside = [name for name in names_in(folder.path / "set-aside") if name.endswith(".parquet")]
    if aside:
        yield Finding(
            f"{folder.path / 'set-aside'} holds {len(aside)} files of flushes that no checkpoint came to count; what "
            "is measured again to the same bits is removed at the end",
            is_damage=False,
        )


def _stand(folder: CohortFolder) -> Iterator[Finding]:
    """Findings about status, metrics and checkpoint, compared with each other."""
    try:
        if folder.is_loaded():
            folder.specs()
        else:
            folder.check_versions()
    except LabError as error:
        yield Finding(str(error), is_damage=False)
    reasons = list(dict.fromkeys(damage_of(folder).values()))
    if not reasons:
        try:
            if not is_finished(folder.status()):
                _check_checkpoint(folder)
        except LabError as error:
            reasons.append(str(error))
    if not reasons:
        return
    mend = partial(_mend_stand, folder) if _stand_again(folder) else None
    yield Finding("; ".join(reasons), mend)


def _check_checkpoint(folder: CohortFolder) -> None:
    checkpoint = folder.load_checkpoint()
    counted = None if checkpoint is None else checkpoint[2]
    with folder.with_way_out():
        check_going_on(folder, folder.status(), counted)
        folder.parts.check_counted(counted or [])


def _stand_again(folder: CohortFolder) -> list[Callable[[], str]]:
    """Mends by which status and metrics agree again and nothing is lost; empty where there are none."""
    lab, status_path = folder.path.parent.parent, folder.path / "status.json"
    try:
        status = folder.status()
    except AccessError:
        return []
    except LabError:
        status = None
    if status is not None and status["metrics"] is not None and _is_sure(folder, status):
        strays = [name for name in folder.parts.there() if name not in status["metrics"]]
        return [partial(move, lab, folder.parts.path / name) for name in strays]
    again = status_of(folder)
    if again is None or again == status:
        return []
    return [partial(replace, lab, status_path, partial(folder.write_status, again))]


def _is_sure(folder: CohortFolder, status: dict[str, object]) -> bool:
    """Return True if the files that a status lists are all of its record: all has ended, or the checkpoint agrees."""
    if is_finished(status):
        return True
    try:
        checkpoint = folder.load_checkpoint()
    except LabError:
        return False
    return checkpoint is not None and checkpoint[2] == status["metrics"]


def _mend_stand(folder: CohortFolder) -> str:
    with folder.training(wait=0.0):
        return "; ".join(act() for act in _stand_again(folder))
