"""Source of a part from outside of shoal: its package, and a hash that identifies the version of its code."""

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
    """The Python files of a package or of a module, in order: the name of each within the package, and its path."""
    module_spec = importlib.util.find_spec(package)
    if module_spec is None or not (module_spec.submodule_search_locations or module_spec.origin):
        raise UserError(f"package {package} cannot be found")
    if not module_spec.submodule_search_locations:
        path = Path(str(module_spec.origin))
        return [(path.name, path)]
    tops = map(Path, module_spec.submodule_search_locations)
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
