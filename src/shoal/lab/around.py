"""Labs around a path that a command would write to: the files of a lab are its own."""

from pathlib import Path

from shoal.errors import UserError, printable
from shoal.lab.lab import MARK


def check_outside_labs(path: str | Path, lab: str | Path | None, what: str) -> None:
    """Refuse a file in a lab, by its path as written or with links resolved.

    Args:
        path: the file.
        lab: a lab that is known.
        what: name of the file's content: ``tree``.

    Raises:
        UserError: it would be in a lab.
    """
    path = Path(path)
    around = {folder: None for place in (path.absolute(), path.resolve()) for folder in place.parents}
    for folder in around:
        if (folder / MARK).exists() or (lab is not None and are_same(folder, lab)):
            raise UserError(
                f"{printable(str(path))!r} is in the lab {printable(str(folder))!r}, whose files are its own: write "
                f"the {what} to another folder"
            )


def are_same(one: str | Path, other: str | Path) -> bool:
    """Return True if two paths lead to one file."""
    try:
        return Path(one).samefile(other)
    except OSError:  # one is not there
        return False
