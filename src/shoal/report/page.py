"""One self-contained HTML page, with its figures and tables as files beside it."""

import html
import json
from collections.abc import Container, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from shoal.lab.files import write
from shoal.report.markdown import to_markdown
from shoal.report.table import Table, with_subscripts

if TYPE_CHECKING:
    from shoal.report.figures import Figure

FIGURE_FILES = ("pdf", "svg", "png")
TABLE_FILES = ("csv", "md", "tex")
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


def write_report(report: Report, folder: Path) -> Path:
    """Write ``index.html``, ``report.md``, ``figures/NAME.{pdf,svg,png}`` and ``tables/NAME.{csv,md,tex}``.

    Figures and tables that an earlier page left there are removed.

    Returns:
        The page's path. It needs no network: the charts' code is in it.
    """
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


def _write_figure(figure: "Figure", folder: Path) -> None:
    import vl_convert

    spec = figure.chart.to_json()
    write(folder / f"{figure.name}.svg", vl_convert.vegalite_to_svg(spec).encode())
    write(folder / f"{figure.name}.pdf", vl_convert.vegalite_to_pdf(spec))
    write(folder / f"{figure.name}.png", vl_convert.vegalite_to_png(spec, scale=2))


def _write_table(table: Table, folder: Path) -> None:
    write(folder / f"{table.name}.csv", table.to_csv().encode())
    write(folder / f"{table.name}.md", table.to_markdown().encode())
    write(folder / f"{table.name}.tex", table.to_latex().encode())


def _page(report: Report) -> str:
    import vl_convert

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
            charts[figure.name] = figure.chart.to_dict()
            body += _figure(figure, figures)
        if section.figures:
            body += "</div>\n"
        for table in section.tables:
            tables += 1
            body += _table(table, tables)
        body += "</section>\n"
    # "</" cannot stand in a script element
    data = json.dumps(charts).replace("</", "<\\/")
    values = {
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


def _figure(figure: "Figure", number: int) -> str:
    files = _links("figures", figure.name, FIGURE_FILES)
    caption = f"<b>Figure {number}.</b> {with_subscripts(figure.caption)} {files}"
    return f'<figure>\n<div class="chart" id="{figure.name}"></div>\n<figcaption>{caption}</figcaption>\n</figure>\n'


def _table(table: Table, number: int) -> str:
    files = _links("tables", table.name, TABLE_FILES)
    caption = f"<b>Table {number}.</b> {with_subscripts(table.caption)} {files}"
    body = f'<div class="scroll">{table.to_html()}</div>\n<figcaption>{caption}</figcaption>'
    return f'<figure class="table">\n{body}\n</figure>\n'


def _links(folder: str, name: str, kinds: Sequence[str]) -> str:
    links = " ".join(f'<a href="{folder}/{name}.{kind}">{kind}</a>' for kind in kinds)
    return f'<span class="files">{links}</span>'
