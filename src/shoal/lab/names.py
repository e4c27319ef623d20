"""Names that users give: of what becomes part of a path, and of runs by the beginnings of their ids."""

import re
from collections.abc import Collection, Sequence

from shoal.errors import UserError, nearest

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")  # file systems have names of up to 255 bytes


def check_name(name: str, kind: str) -> str:
    """The name itself, when it is safe as part of a path.

    Raises:
        UserError: it has path separators, ``..`` or other signs.
    """
    if not _NAME.fullmatch(name) or ".." in name:
        raise UserError(
            f"{kind} name {name!r} is not allowed: letters, digits, '-', '_' and '.' only, at most 100, and no '..'"
        )
    return name


def find_run(name: str, runs: Collection[str], notes: Sequence[str] = ()) -> str:
    """The one run whose id begins with ``name``; ``notes`` say what else there may be.

    Raises:
        UserError: none does, several do, or ``name`` is no id at all.
    """
    if name in runs:
        return name
    check_name(name, "run")
    found = [run for run in runs if run.startswith(name)]
    if len(found) > 1:
        raise UserError(f"run {name!r} is ambiguous: {' '.join(found[:4])}{' …' if len(found) > 4 else ''}")
    if not found:
        raise UserError("; ".join([f"no run {name!r} among {len(runs)} runs{nearest(name, runs)}", *notes]))
    return found[0]
