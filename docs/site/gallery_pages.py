"""Hooks of sphinx-gallery: pictures for the overview, numbers of all pages as JSON and as a table."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

from shoal.gallery import checks

HEADER = """# Numbers of the gallery

Every number that a page of the gallery checks, as this build computed it: the value, what is expected by a derivation
apart from the page, and the largest difference at which the build does not stop. Where the source document says
otherwise, its claim and the row of the [errata](errata.md) stand beside it. As data: {download}`numbers.json`.
"""


def record(gallery_conf: dict[str, Any], name: str, when: str) -> None:
    """Begin a page with a new recording, and write its checks when it has ended."""
    if when == "before":
        checks.fresh()
        return
    folder = Path(gallery_conf["src_dir"]) / "_numbers"
    folder.mkdir(exist_ok=True)
    page = Path(name).stem
    (folder / f"{page}.json").write_text(checks.current().to_json(), encoding="utf-8")


def scrape(block: Any, variables: dict[str, Any], gallery_conf: dict[str, Any], **options: Any) -> str:
    """Write a picture of each new figure, of which sphinx-gallery makes the thumbnail; the figure itself is HTML."""
    paths = variables["image_path_iterator"]
    drawn = variables.setdefault("figures_drawn", 0)
    figures = checks.current().figures
    for figure in figures[drawn:]:
        figure.save(next(paths))
    variables["figures_drawn"] = len(figures)
    return ""


def write_numbers(app: Any) -> None:
    """Page with the table of all checks, made when the gallery has run."""
    source = Path(app.srcdir)
    pages = {path.stem: json.loads(path.read_text("utf-8")) for path in sorted((source / "_numbers").glob("*.json"))}
    names = {path.stem for path in Path(app.config.sphinx_gallery_conf["examples_dirs"]).glob("*.py")}
    faults = {"did not run": names - set(pages), "are not there, but left numbers": set(pages) - names}
    if any(faults.values()):  # the build must not pass where a page was not run
        said = [f"{' '.join(sorted(these))} {what}" for what, these in faults.items() if these]
        raise RuntimeError(f"pages of the gallery: {'; '.join(said)}")
    (source / "numbers.json").write_text(json.dumps(pages, ensure_ascii=False, indent=1), encoding="utf-8")
    lines = [HEADER]
    for page, rows in pages.items():
        lines += [f"\n## {_title(source / 'gallery' / f'{page}.rst')}\n", f"[The page](gallery/{page}.rst)\n"]
        lines += [
            "| quantity | value | expected | within | the document says | erratum |",
            "| --- | ---: | ---: | ---: | --- | --- |",
        ]
        lines += [_row(row) for row in rows]
    (source / "numbers.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _title(page: Path) -> str:
    """Title of a page: the line above the first underline of ``=``."""
    lines = page.read_text("utf-8").splitlines()
    return next(line for line, below in pairwise(lines) if line and set(below) == {"="})


def _row(row: dict[str, Any]) -> str:
    def cell(value: Any) -> str:
        return (checks.shown(value) if isinstance(value, float) else str(value)).replace("|", "\\|").replace("_", "\\_")

    erratum = f"[{row['erratum']}](errata.md#{row['erratum'].lower()})" if row["erratum"] else ""
    within = cell(row["tolerance"]) if row["tolerance"] else "equal"
    cells = (cell(row["name"]), cell(row["value"]), cell(row["expected"]), within, cell(row["document"]), erratum)
    return f"| {' | '.join(cells)} |"


def _made_files(app: Any, config: Any) -> None:
    """Add the scripts that lie among the sources to those of the site."""
    config.html_static_path = [*config.html_static_path, str(Path(app.srcdir) / "_made")]


def setup(app: Any) -> dict[str, Any]:
    """Register the hook that runs behind the gallery's own."""
    app.connect("config-inited", _made_files)
    app.connect("builder-inited", write_numbers, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True, "version": "1"}
