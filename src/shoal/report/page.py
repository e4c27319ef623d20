"""One self-contained HTML page, with its figures and tables as files beside it."""

import html
import json
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from shoal.errors import UserError
from shoal.lab.files import write
from shoal.report.markdown import to_markdown
from shoal.report.table import Table, with_subscripts

if TYPE_CHECKING:
    from shoal.report.figures import Figure

FIGURE_FILES = ("pdf", "svg", "png")
TABLE_FILES = ("csv", "md", "tex")
_ADDRESSES = 66 * 2**30  # bytes: what the address space of a process grows by at its first figure, and a little
_EXPORTS = "window.vegaEmbed = vegaEmbed;"  # what the page's own script uses of the bundle


@dataclass(frozen=True)
class Section:
    """A heading with paragraphs, figures and tables, in this order."""

    title: str
    paragraphs: Sequence[str] = ()
    figures: "Sequence[Figure]" = ()
    tables: Sequence[Table] = ()


@dataclass(frozen=True)
class Report:
    """What a study or a set of runs has to say.

    Attributes:
        title: of the page.
        lead: what was asked.
        sections: figures and tables.
        answers: what was found, one statement each.
    """

    title: str
    lead: str
    sections: Sequence[Section]
    answers: Sequence[str] = ()


def check_drawing() -> None:
    """Raise :class:`UserError` where no figure could be drawn: V8 would end the process and not say why."""
    from shoal.training.groups import left_in_process

    left = left_in_process()
    if left is not None and left < _ADDRESSES:
        raise UserError(
            f"figures are drawn by V8, which reserves {_ADDRESSES / 2**30:,.0f} GiB of addresses, whatever it uses of "
            f"them; {left / 2**30:,.1f} GiB are left under the limit of this process (ulimit -v): raise it"
        )


def write_report(report: Report, folder: Path) -> Path:
    """Write ``index.html``, ``report.md``, ``figures/NAME.{pdf,svg,png}`` and ``tables/NAME.{csv,md,tex}``.

    Figures and tables that an earlier page left there are removed.

    Returns:
        The page's path. It needs no network: the charts' code is in it.

    Raises:
        UserError: there are figures, and a limit of the process keeps them from being drawn.
    """
    if any(section.figures for section in report.sections):
        check_drawing()
    for section in report.sections:
        for figure in section.figures:
            _write_figure(figure, folder / "figures")
        for table in section.tables:
            _write_table(table, folder / "tables")
    write(folder / "report.md", to_markdown(report).encode())
    page = folder / "index.html"
    write(page, _page(report).encode())
    _remove_others(folder / "figures", [f.name for s in report.sections for f in s.figures], FIGURE_FILES)
    _remove_others(folder / "tables", [t.name for s in report.sections for t in s.tables], TABLE_FILES)
    return page


def _remove_others(folder: Path, names: Container[str], kinds: Container[str]) -> None:
    """What an earlier page has left, so that nothing beside this one seems to be of it."""
    for path in list(folder.iterdir()) if folder.is_dir() else []:
        if path.suffix[1:] in kinds and path.stem not in names and path.is_file():
            path.unlink()


def drawn(figure: "Figure", kinds: Sequence[str] = FIGURE_FILES) -> dict[str, bytes]:
    """A figure as files of some of the kinds of :data:`FIGURE_FILES`, by kind."""
    import vl_convert

    svg = vl_convert.vegalite_to_svg(figure.spec)
    made: dict[str, Callable[[], bytes]] = {
        "svg": svg.encode,
        "pdf": lambda: vl_convert.svg_to_pdf(svg),
        "png": lambda: vl_convert.svg_to_png(svg, scale=2),
    }
    return {kind: made[kind]() for kind in kinds}


def _write_figure(figure: "Figure", folder: Path) -> None:
    for kind, content in drawn(figure).items():
        write(folder / f"{figure.name}.{kind}", content)


def _write_table(table: Table, folder: Path) -> None:
    write(folder / f"{table.name}.csv", table.to_csv().encode())
    write(folder / f"{table.name}.md", table.to_markdown().encode())
    write(folder / f"{table.name}.tex", table.to_latex().encode())


def lone_page(report: Report) -> str:
    """The page alone, as HTML, of which no figure or table is a file beside it."""
    return _page(report, has_files=False)


def _page(report: Report, has_files: bool = True) -> str:
    import vl_convert

    from shoal.report.figures import FONT

    template = resources.files("shoal.report").joinpath("page.html").read_text(encoding="utf-8")
    body, charts = "", {}
    figures = tables = 0
    for section in report.sections:
        body += f"<section>\n<h2>{with_subscripts(section.title)}</h2>\n"
        body += "".join(f"<p>{with_subscripts(paragraph)}</p>\n" for paragraph in section.paragraphs)
        if section.figures:
            body += '<div class="figures">\n'
        for figure in section.figures:
            figures += 1
            charts[figure.name] = figure.spec
            body += _figure(figure, figures, has_files)
        if section.figures:
            body += "</div>\n"
        for table in section.tables:
            tables += 1
            body += _table(table, tables, has_files)
        body += "</section>\n"
    # nothing in it ends or begins an element
    data = json.dumps(charts, separators=(",", ":")).replace("<", "\\u003c")
    values = {
        "FONT": FONT,
        "TITLE": html.escape(report.title),
        "LEAD": with_subscripts(report.lead),
        "ANSWERS": _list(report.answers),
        "BODY": body,
        "CHARTS": data,
        "VEGA": vl_convert.javascript_bundle(_EXPORTS) if charts else "",
    }
    for name, value in values.items():
        template = template.replace(f"<!--{name}-->", value)
    return template


def _list(texts: Sequence[str]) -> str:
    items = "".join(f"<li>{with_subscripts(text)}</li>\n" for text in texts)
    return f'<ul class="answers">\n{items}</ul>\n' if texts else ""


def _figure(figure: "Figure", number: int, has_files: bool) -> str:
    files = _links("figures", figure.name, FIGURE_FILES) if has_files else ""
    caption = f"<b>Figure {number}.</b> {with_subscripts(figure.caption)} {files}"
    chart = f'<div class="chart" id="{figure.name}" role="img" aria-label="{html.escape(figure.alt)}"></div>'
    return f"<figure>\n{chart}\n<figcaption>{caption}</figcaption>\n</figure>\n"


def _table(table: Table, number: int, has_files: bool) -> str:
    files = _links("tables", table.name, TABLE_FILES) if has_files else ""
    caption = f"<b>Table {number}.</b> {with_subscripts(table.caption)} {files}"
    named = f'role="region" tabindex="0" aria-label="{html.escape(f"Table {number}")}"'  # to be scrolled by keyboard
    body = f'<div class="scroll" {named}>{table.to_html()}</div>\n<figcaption>{caption}</figcaption>'
    return f'<figure class="table">\n{body}\n</figure>\n'


def _links(folder: str, name: str, kinds: Sequence[str]) -> str:
    links = " ".join(f'<a href="{folder}/{name}.{kind}">{kind}</a>' for kind in kinds)
    return f'<span class="files">{links}</span>'
