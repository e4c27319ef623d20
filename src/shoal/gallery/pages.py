"""Pages of the gallery as programs: what they import, and a run of one in this process."""

import ast
import contextlib
import io
import runpy
import time
from dataclasses import dataclass
from pathlib import Path

from shoal.errors import UserError
from shoal.gallery.checks import Recording, fresh

ALLOWED = {"shoal", "torch"}  # packages that a page may import


@dataclass(frozen=True)
class PageRun:
    """Run of a page.

    Attributes:
        page: the page.
        recording: its checks and figures.
        output: text that it printed.
        seconds: wall-clock time.
    """

    page: Path
    recording: Recording
    output: str
    seconds: float


def foreign_imports(text: str) -> list[str]:
    """Modules beside ``shoal`` and ``torch`` that a page imports, relative ones included, in the order of its lines."""
    modules: list[tuple[int, str]] = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            modules += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            modules.append((node.lineno, "." * node.level + (node.module or "")))
        elif isinstance(node, ast.Name) and node.id == "__import__":
            modules.append((node.lineno, node.id))
    return [name for _, name in sorted(modules) if name.split(".")[0] not in ALLOWED]


def run_page(page: Path) -> PageRun:
    """Run a page as ``python PAGE`` does, within this process.

    Raises:
        UserError: there is no such file.
        Exception: whatever the page raises: :class:`~shoal.gallery.Off` where a check fails.
    """
    if not page.is_file():
        raise UserError(f"no page {str(page)!r}")
    recording, output, start = fresh(), io.StringIO(), time.perf_counter()
    with contextlib.redirect_stdout(output):
        runpy.run_path(str(page), run_name="__main__")
    return PageRun(page, recording, output.getvalue(), time.perf_counter() - start)
