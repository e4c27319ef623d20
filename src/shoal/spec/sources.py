"""Where a part from outside of shoal comes from, and which version of its code it is: told by a hash."""

import hashlib
import importlib.util
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from pathlib import Path

from shoal.errors import UserError
from shoal.registry import KINDS

_MOST_FILES = 10_000


def sources_of(names: Mapping[str, str]) -> dict[str, dict[str, str | None]]:
    """``package``, ``version`` and ``source`` of each part that shoal does not ship, by its kind.

    Args:
        names: of a run's parts, by kind.

    Raises:
        UserError: a part cannot be imported, or its code cannot be read.
    """
    return {kind: source_of(name) for kind, name in names.items() if kind in KINDS and KINDS[kind].is_outside(name)}


def source_of(place: str) -> dict[str, str | None]:
    """The top package of a place ``module:Class``, its version where it was installed, and a hash of its code."""
    package = place.partition(":")[0].partition(".")[0]
    digest = hashlib.sha256()
    for name, path in _files(package):
        try:
            content = path.read_bytes()
        except OSError as error:
            raise UserError(f"the code of package {package} cannot be read: {error.strerror}: {path}") from None
        digest.update(f"{name} {len(content)}\n".encode())
        digest.update(content)
    return {"package": package, "version": _version(package), "source": digest.hexdigest()[:16]}


def _files(package: str) -> list[tuple[str, Path]]:
    """The Python files of a package or of a module, in order: what each is called within the package, and its path."""
    found = importlib.util.find_spec(package)
    if found is None or not (found.submodule_search_locations or found.origin):
        raise UserError(f"package {package} cannot be found")
    if not found.submodule_search_locations:
        path = Path(str(found.origin))
        return [(path.name, path)]
    tops = map(Path, found.submodule_search_locations)
    inside = [(top, sorted(path.relative_to(top).parts for path in top.rglob("*.py"))) for top in tops]
    files = [("/".join(parts), top.joinpath(*parts)) for top, several in inside for parts in several]
    if len(files) > _MOST_FILES:
        raise UserError(f"package {package} has {len(files):,} files of code; {_MOST_FILES:,} at most are looked at")
    return files


def _version(package: str) -> str | None:
    for distribution in packages_distributions().get(package, []):
        try:
            return version(distribution)
        except PackageNotFoundError:
            continue
    return None
