"""Survey of a lab: the cohort that holds each run, and lines about cohorts that cannot be read."""

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from shoal.errors import LabError
from shoal.lab.cohort import FINISHED, CohortFolder
from shoal.lab.damage import damage_of
from shoal.lab.files import is_there, names_in, read_json
from shoal.lab.folder import REPLACES
from shoal.lab.shapes import Replaces

T = TypeVar("T")
LOOKS = 10  # at most, while cohorts come or go


@dataclass(frozen=True)
class Survey:
    """Survey of the cohorts of a lab.

    Attributes:
        index: the folder of each run that is known of, oldest cohort first.
        unknown: a line for each cohort whose runs cannot be known, with a remedy.
        copies: a line for each cohort that holds runs which are read from another, with a remedy.
        held: the folders that hold a run, of those that several hold.
    """

    index: Mapping[str, CohortFolder]
    unknown: list[str]
    copies: list[str]
    held: Mapping[str, list[CohortFolder]] = field(default_factory=dict)


def survey(path: Path) -> Survey:
    """Look at every cohort of the lab at ``path``; one that cannot be read becomes a line and hides no other."""
    return settled(path, lambda: _survey(path))


def settled(path: Path, look: Callable[[], T]) -> T:
    """Result of a look at the cohorts of a lab, repeated while cohorts come or go.

    One that takes the place of another could be missed with it, or be taken for a copy of it.
    """
    for _ in range(LOOKS):
        before = names_in(path / "cohorts")
        result = look()
        if names_in(path / "cohorts") == before:
            break
    return result


def _survey(path: Path) -> Survey:
    index: dict[str, CohortFolder] = {}
    held: dict[str, list[CohortFolder]] = {}
    cohorts, unknown = find_cohorts(path)
    for folder in cohorts:
        try:
            runs = [member["run"] for member in folder.manifest()["members"]]
        except LabError as error:
            unknown.append(_unknown(folder, error))
            continue
        for run in runs:
            index.setdefault(run, folder)
            held.setdefault(run, []).append(folder)
    several = {run: folders for run, folders in held.items() if len(folders) > 1}
    chosen = _choose(several)
    return Survey({**index, **chosen}, unknown, _copies(several, chosen), several)


def find_cohorts(path: Path) -> tuple[list[CohortFolder], list[str]]:
    """The cohorts of a lab that have a ``cohort.json``, oldest first, and a line for each that has lost it.

    One that a deletion has not put into the place of another yet is none.
    """
    cohorts, lost = [], []
    for name in names_in(path / "cohorts"):
        folder = CohortFolder(path / "cohorts" / name)
        try:
            with folder.with_way_out():
                if is_pending(folder):
                    continue
                if is_there(folder.path / "cohort.json"):
                    with suppress(FileNotFoundError):  # moved away since: the look is repeated
                        cohorts.append((folder.path.joinpath("cohort.json").lstat().st_mtime_ns, name, folder))
                elif folder.contents():
                    raise LabError(f"{folder.path / 'cohort.json'} is missing")
        except LabError as error:
            lost.append(_unknown(folder, error))
    return [folder for _, _, folder in sorted(cohorts, key=lambda entry: entry[:2])], lost


def is_pending(folder: CohortFolder) -> bool:
    """Return True if a cohort is the rest of another that is still there, from which runs are to be deleted.

    In the moment in which that is moved away, in one step, this takes its place: no run is ever in neither.
    """
    path = folder.path / REPLACES
    try:
        whole = read_json(path, Replaces)["cohort"] if is_there(path) else folder.id
        return whole != folder.id and is_there(folder.path.with_name(whole) / "cohort.json")
    except LabError:  # it is damaged, or another user's
        return False


def _unknown(folder: CohortFolder, error: LabError) -> str:
    return f"which runs cohort {folder.id} holds cannot be known: {error}"


def _choose(several: Mapping[str, Iterable[CohortFolder]]) -> dict[str, CohortFolder]:
    """Folder to read each run from that several hold: where it is whole and furthest, else the one of its own name."""
    folders = {folder.path: folder for held in several.values() for folder in held}
    ranks: dict[tuple[Path, str], tuple[int, ...]] = {}
    for folder in folders.values():
        damage = damage_of(folder)
        members = {} if damage else folder.status()["members"]
        for run in (member["run"] for member in folder.manifest()["members"]):
            at = members.get(run, {"state": "waiting", "step": -1})
            ranks[folder.path, run] = (at["state"] in FINISHED, at["step"], folder.id == folder.own_id())
    return {run: max(held, key=lambda folder: ranks[folder.path, run]) for run, held in several.items()}


def _copies(several: Mapping[str, Iterable[CohortFolder]], chosen: Mapping[str, CohortFolder]) -> list[str]:
    """Lines about folders with runs that are read from another, one for each pair of folders."""
    counts: dict[tuple[str, str], int] = {}
    path = {folder.id: folder.path for held in several.values() for folder in held}
    for run, held in several.items():
        for folder in held:
            if folder.path != chosen[run].path:
                pair = (folder.id, chosen[run].id)
                counts[pair] = counts.get(pair, 0) + 1
    return [
        f"cohort {copy} holds {n} run{'s' * (n != 1)} that cohort {original} holds too, which is the one that is read; "
        f"move {path[copy]} out of the lab"
        for (copy, original), n in counts.items()
    ]
