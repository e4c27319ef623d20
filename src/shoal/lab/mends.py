"""Mends of a lab: functions that make one change and return a line about it."""

from collections.abc import Callable
from pathlib import Path

from shoal.errors import DiskError
from shoal.lab.cohort import CohortFolder
from shoal.lab.files import check_own, is_there, set_aside


def held(folder: CohortFolder, act: Callable[[], str]) -> str:
    """Mend a cohort while nobody trains it.

    Raises:
        LabError: a process trains the cohort, or one of its folders is a link.
    """
    with folder.training(wait=0.0):
        return act()


def move(lab: Path, path: Path) -> str:
    """Move a file or folder out of the way, to the same place below the lab's folder ``aside``.

    Raises:
        LabError: a folder on the way there is a link: what is behind it is not the lab's.
        DiskError: the disk is full or refuses; it is where it was.
    """
    below = list(path.relative_to(lab).parents)
    check_own(place / folder for place in (lab, lab / "aside") for folder in below if place / folder != lab)
    to = set_aside(path, lab / "aside" / below[0])
    return f"moved {path} to {to}"


def replace(lab: Path, path: Path, write: Callable[[], None]) -> str:
    """Write a file anew, after the present one was moved out of the way; raises as :func:`move` does."""
    before = f", and {move(lab, path)}" if is_there(path) else ""
    write()
    return f"wrote {path} again{before}"


def rename(folder: CohortFolder) -> str:
    """Give a cohort's folder the name that it was made with; :class:`DiskError` where the disk refuses."""
    to = folder.path.with_name(folder.own_id())
    try:
        folder.path.rename(to)
    except OSError as error:
        raise DiskError(f"could not rename {folder.path} to {to}: {error.strerror or error}") from error
    return f"renamed {folder.path} to {to}"


def finish(folder: CohortFolder) -> str:
    """Remove files that a trainer was to remove; raises as :func:`held` and :meth:`CohortFolder.finish` do."""
    with folder.training(wait=0.0):
        if not folder.is_finished() or not folder.has_checkpoint():
            return ""
        folder.finish()
    return f"removed {folder.checkpoint_path}, which finished runs do not need"
