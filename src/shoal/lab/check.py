"""Examining a lab like a database: every checksum, id and list is held to the files, and to each other.

Nothing is ever deleted: what is in the way is moved into the lab's folder ``aside``, and what is written again is what
other files say too.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from shoal.errors import LabError, UserError
from shoal.lab.cohort import CohortFolder, is_finished
from shoal.lab.continuing import check_going_on
from shoal.lab.damage import damage_of
from shoal.lab.files import is_there, names_in, read_json, set_aside, write_json
from shoal.lab.lab import MARK, Lab, check_mark, write_mark
from shoal.lab.names import check_name
from shoal.lab.rebuild import manifest_of, status_of
from shoal.lab.shapes import StudyNote
from shoal.lab.survey import survey
from shoal.lab.tensors import load_tensors

ROUNDS = 5  # of repairs, each of which can bring to light what the one before hid


@dataclass(frozen=True)
class Finding:
    """Something that is not as it should be.

    Attributes:
        what: which file, and what is wrong with it, and perhaps what to do.
        mend: does what cannot lose anything and says what it did; None where that does not help.
        is_damage: whether anything can be wrong with what the lab shows; else it is only good to know.
    """

    what: str
    mend: Callable[[], str] | None = None
    is_damage: bool = True


def examine(path: Path) -> list[Finding]:
    """Everything that is wrong with a lab, and what is good to know.

    Raises:
        LabError: there is no lab, or it is of a newer format.
    """
    found = list(_mark(path))
    for name in names_in(path / "cohorts"):
        folder = CohortFolder(path / "cohorts" / name)
        try:
            found += _cohort(folder)
        except LabError as error:
            found.append(Finding(str(error)))
    return [*found, *_copies(path), *_studies(path)]


def repair(path: Path) -> Iterator[str]:
    """Mend what can be mended without losing anything; says what it did."""
    for _ in range(ROUNDS):
        mends = [finding.mend for finding in examine(path) if finding.mend is not None]
        for mend in mends:
            try:
                yield mend()
            except LabError as error:  # a trainer has come
                yield f"not mended: {error}"
        if not mends:
            return


# the lab


def _mark(path: Path) -> Iterator[Finding]:
    mark = path / MARK
    if is_there(mark):
        try:
            read_json(mark)
        except LabError as error:
            yield Finding(str(error), partial(_replace, path, mark, partial(write_mark, path)))
        else:
            check_mark(mark)
    elif is_there(path / "cohorts"):
        yield Finding(f"{mark} is missing", partial(_replace, path, mark, partial(write_mark, path)))
    else:
        Lab(path)  # raises what is to be said where there is something else
        raise UserError(f"there is no lab at {path}")


def _copies(path: Path) -> Iterator[Finding]:
    """Cohorts of which runs are read from another, or that have another's name."""
    index = survey(path).index
    for name in names_in(path / "cohorts"):
        folder = CohortFolder(path / "cohorts" / name)
        try:
            runs = [member["run"] for member in folder.manifest()["members"]]
        except LabError:
            continue  # told of already
        others = sorted({index[run].id for run in runs if run in index and index[run].path != folder.path})
        if others:
            whole = all(index[run].path != folder.path for run in runs)
            mend = partial(_move, path, folder.path) if whole else None
            yield Finding(f"{folder.path} holds runs that cohort {' '.join(others)} holds too, which is read", mend)
        elif folder.id != folder.own_id():
            free = not is_there(folder.path.with_name(folder.own_id()))
            mend = partial(_rename, folder) if free else None
            yield Finding(f"{folder.path} holds the runs of cohort {folder.own_id()}", mend)


def _studies(path: Path) -> Iterator[Finding]:
    index = survey(path).index
    for note in _notes(path / "studies"):
        study = note.stem if note.parent.name == "studies" else note.parent.name
        try:
            check_name(study, "study")
            check_name(note.stem, "form")
            runs = read_json(note, StudyNote)["runs"]
        except UserError as error:
            yield Finding(f"{error}; to have it again, run the study again", partial(_move, path, note))
            continue
        lost = [run for run in runs if run not in index]
        if lost:
            yield Finding(
                f"{note} asks for {len(lost)} of {len(runs)} runs ({lost[0]}{' …' if len(lost) > 1 else ''}) that no "
                f"cohort holds; to train them, run study {study} again"
            )


def _notes(folder: Path) -> Iterator[Path]:
    """What studies asked for, a file for each form in which one was run; an earlier version kept one for each study."""
    for name in names_in(folder):
        inner = names_in(folder / name) if (folder / name).is_dir() and not name.startswith(".") else []
        for note in [folder / name, *(folder / name / form for form in inner)]:
            if note.suffix == ".json" and not note.name.startswith("."):
                yield note


# a cohort


def _cohort(folder: CohortFolder) -> Iterator[Finding]:
    if folder.is_training():
        yield Finding(f"{folder.path} is being trained: not examined", is_damage=False)
        return
    lab = folder.path.parent.parent
    if not folder.contents():
        return
    try:
        with folder.with_way_out():
            if not is_there(folder.path / "cohort.json"):
                raise LabError(f"{folder.path / 'cohort.json'} is missing")
        runs = [member["run"] for member in folder.manifest()["members"]]
    except LabError as error:
        manifest = manifest_of(folder)
        write = partial(write_json, folder.path / "cohort.json", manifest)
        mend = partial(_held, folder, partial(_replace, lab, folder.path / "cohort.json", write))
        yield Finding(str(error), mend if manifest is not None else None)
        return
    yield from _stand(folder)
    yield from _models(folder, runs)
    try:
        folder.certificate()
    except LabError as error:
        path = folder.path / "certificate.json"
        again = f"shoal certify {runs[0]} makes it again"
        yield Finding(f"{error}; {again}", partial(_held, folder, partial(_move, lab, path)))
    aside = [name for name in names_in(folder.path / "set-aside") if name.endswith(".parquet")]
    if aside:
        yield Finding(
            f"{folder.path / 'set-aside'} holds {len(aside)} files of flushes that no checkpoint came to count; what "
            "is measured again to the same bits is removed at the end",
            is_damage=False,
        )


def _stand(folder: CohortFolder) -> Iterator[Finding]:
    """Status, metrics and checkpoint, held to each other."""
    try:
        folder.specs()
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
    """What would make status and metrics agree again, and lose nothing; nothing where that is not known."""
    lab, status_path = folder.path.parent.parent, folder.path / "status.json"
    try:
        status = folder.status()
    except LabError:
        status = None
    if status is not None and status["metrics"] is not None and _is_sure(folder, status):
        strays = [name for name in folder.parts.there() if name not in status["metrics"]]
        return [partial(_move, lab, folder.parts.path / name) for name in strays]
    again = status_of(folder)
    if again is None or again == status:
        return []
    return [partial(_replace, lab, status_path, partial(folder.write_status, again))]


def _is_sure(folder: CohortFolder, status: dict[str, object]) -> bool:
    """Whether no file beside those that a status lists can be of this record: all is done, or the checkpoint agrees."""
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


def _models(folder: CohortFolder, runs: list[str]) -> Iterator[Finding]:
    """Every kept model, held to its checksum and to the run and step that it is kept for."""
    lab, place = folder.path.parent.parent, folder.path / "models"
    for name in names_in(place):
        if name not in runs:
            mend = partial(_held, folder, partial(_move, lab, place / name))
            yield Finding(f"{place / name} is not of a run of cohort {folder.id}", mend)
    for run in runs:
        for step, path in folder.models(run).items():
            try:
                folder.check_model(run, step, load_tensors(path)[1])
            except LabError as error:
                yield Finding(str(error))
    try:
        members = folder.status()["members"]
    except LabError:
        return  # told of already
    done = [run for run in runs if members[run]["state"] == "done"]
    lacking = [run for run in done if members[run]["step"] not in folder.models(run)]
    if lacking:
        more = " …" if len(lacking) > 1 else ""
        yield Finding(f"{place} lacks the last model of {len(lacking)} of {len(done)} runs ({lacking[0]}{more})")


# what mends


def _held(folder: CohortFolder, act: Callable[[], str]) -> str:
    """Do it while nobody trains."""
    with folder.training(wait=0.0):
        return act()


def _move(lab: Path, path: Path) -> str:
    """Out of the way, to the same place below the lab's folder ``aside``."""
    to = set_aside(path, (lab / "aside" / path.relative_to(lab)).parent)
    return f"moved {path} to {to}"


def _replace(lab: Path, path: Path, write: Callable[[], None]) -> str:
    before = f", and {_move(lab, path)}" if is_there(path) else ""
    write()
    return f"wrote {path} again{before}"


def _rename(folder: CohortFolder) -> str:
    to = folder.path.with_name(folder.own_id())
    folder.path.rename(to)
    return f"renamed {folder.path} to {to}"
