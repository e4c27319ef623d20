"""One self-contained HTML page, with its figures and tables as files beside it."""

import html
import json
import re
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from shoal.errors import UserError
from shoal.lab.files import write
from shoal.report.glossary import Linker
from shoal.report.markdown import to_markdown
from shoal.report.reading import Place, Reading, Shared, places_in_words, reading
from shoal.report.table import Table, with_subscripts
from shoal.report.terms import Term

if TYPE_CHECKING:
    from shoal.report.figures import Figure

FIGURE_FILES = ("pdf", "svg", "png")
TABLE_FILES = ("csv", "md", "tex")
_ADDRESSES = 66 * 2**30  # bytes: what the address space of a process grows by at its first figure, and a little
_ADDRESS = re.compile(r"https?://[^\s<>&\"]+[^\s<>&\".,;:)]")
_HOVER = (
    "Point at a curve, or tap it, to see its values. With the keyboard, Tab goes to a chart and the arrow keys from "
    "point to point. "
)
_TERMS = (
    "A word underlined with dots is explained where you point at it, tap it or reach it with Tab, and in the "
    '<a href="#glossary">glossary</a>.'
)
_EXPORTS = "window.vegaEmbed = vegaEmbed;"  # what the page's own script uses of the bundle


@dataclass(frozen=True)
class Section:
    """A heading with paragraphs, figures and tables, in this order.

    Attributes:
        title: the heading.
        paragraphs: before the figures.
        figures: before the tables.
        tables: at the end.
        about: contents in a sentence or two, for the list of sections at the top of the page.
    """

    title: str
    paragraphs: Sequence[str] = ()
    figures: "Sequence[Figure]" = ()
    tables: Sequence[Table] = ()
    about: str = ""


@dataclass(frozen=True)
class Report:
    """Report of a study or a set of runs.

    Attributes:
        title: of the page.
        lead: the question, in a sentence.
        sections: figures and tables.
        answers: results, one statement each.
    """

    title: str
    lead: str
    sections: Sequence[Section]
    answers: Sequence[str] = ()


def check_drawing() -> None:
    """Raise :class:`UserError` where no figure could be drawn: V8 would end the process without a message."""
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
    """Delete figures and tables of an earlier page, so that no file beside this page seems to belong to it."""
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


@cache
def _bundle() -> str:
    """JavaScript of the charts, the same on each page and a second of a processor to make."""
    import vl_convert

    return vl_convert.javascript_bundle(_EXPORTS)


def _page(report: Report, has_files: bool = True) -> str:
    from shoal.report.figures import FONT

    package = resources.files("shoal.report")
    template, hover = (package.joinpath(name).read_text(encoding="utf-8") for name in ("page.html", "hover.js"))
    guide, linked = reading(report), Linker(_dressed)
    charts = {figure.name: figure.spec for section in report.sections for figure in section.figures}
    # nothing in it ends or begins an element
    data = json.dumps(charts, separators=(",", ":")).replace("<", "\\u003c")
    values = {
        "FONT": FONT,
        "TITLE": html.escape(report.title),
        "LEAD": linked(report.lead),
        "ANSWERS": _list(report.answers, linked),
        "START": _start(report, guide, linked),
        "BODY": "".join(
            _section(section, number, places, guide, linked, has_files)
            for number, (section, places) in enumerate(zip(report.sections, guide.sections, strict=True), 1)
        ),
        "GLOSSARY": _glossary(linked.used),
        "CHARTS": data,
        "HOVER": hover,
        "VEGA": _bundle() if charts else "",
    }
    for name, value in values.items():
        template = template.replace(f"<!--{name}-->", value)
    return template


def _dressed(text: str) -> str:
    """HTML with subscripts, and with addresses as links."""
    return _ADDRESS.sub(r'<a href="\g<0>">\g<0></a>', with_subscripts(text))


def _list(texts: Sequence[str], linked: Linker) -> str:
    items = "".join(f"<li>{linked(text)}</li>\n" for text in texts)
    return f'<ul class="answers">\n{items}</ul>\n' if texts else ""


def _start(report: Report, guide: Reading, linked: Linker) -> str:
    """List of the sections with a line about each, and the sentences that captions of several sections share."""
    out = ""
    if len(report.sections) > 1:
        items = []
        sections = zip(report.sections, guide.sections, guide.abouts, strict=True)
        for number, (section, places, seen) in enumerate(sections, 1):
            shown = f" ({places_in_words(places)})" if places else ""
            about = f": {linked(seen)}" if seen else ""
            items.append(f'<li><a href="#section-{number}">{with_subscripts(section.title)}</a>{shown}{about}</li>\n')
        out += f'<nav>\n<h2>On this page</h2>\n<ul class="contents">\n{"".join(items)}</ul>\n</nav>\n'
    has_figures = any(section.figures for section in report.sections)
    if not guide.shared and not has_figures:
        return out
    linked.begin_section()
    out += (
        f'<section id="how-to-read">\n<h2>How to read this page</h2>\n<p>{_HOVER if has_figures else ""}{_TERMS}</p>\n'
    )
    return f"{out}{_shared_sentences(guide.of_several, guide, linked)}</section>\n"


def _shared_sentences(several: Sequence[Shared], guide: Reading, linked: Linker, before: str = "") -> str:
    """Sentences that captions share, under the numbers of their figures and tables with ``before`` before these."""
    out = ""
    for shared in several:
        items = "".join(f"<li>{linked(sentence)}</li>\n" for sentence in shared.sentences)
        number = guide.shared.index(shared) + 1
        out += f'<h3 id="read-{number}">{before}{places_in_words(shared.places)}</h3>\n<ul>\n{items}</ul>\n'
    return f'<div class="reading">\n{out}</div>\n' if out else ""


def _section(
    section: Section, number: int, places: Sequence[Place], guide: Reading, linked: Linker, has_files: bool
) -> str:
    linked.begin_section()
    out = f'<section id="section-{number}">\n<h2>{with_subscripts(section.title)}</h2>\n'
    out += "".join(f"<p>{linked(paragraph)}</p>\n" for paragraph in section.paragraphs)
    out += _shared_sentences(guide.of_section(places), guide, linked, "How to read ")
    if section.figures:
        figures = (
            _figure(figure, place, guide, linked, has_files)
            for figure, place in zip(section.figures, places, strict=False)
        )
        out += f'<div class="figures">\n{"".join(figures)}</div>\n'
    for table, place in zip(section.tables, places[len(section.figures) :], strict=True):
        out += _table(table, place, guide, linked, has_files)
    return f"{out}</section>\n"


def _figure(figure: "Figure", place: Place, guide: Reading, linked: Linker, has_files: bool) -> str:
    files = _links("figures", figure.name, FIGURE_FILES) if has_files else ""
    named = f'role="img" aria-label="{html.escape(figure.alt)}" tabindex="0"'  # arrows go through its values
    chart = f'<div class="chart" id="{figure.name}" {named}></div>'
    return f"<figure>\n{chart}\n{_caption(place, guide, linked, files)}\n</figure>\n"


def _table(table: Table, place: Place, guide: Reading, linked: Linker, has_files: bool) -> str:
    files = _links("tables", table.name, TABLE_FILES) if has_files else ""
    named = f'role="region" tabindex="0" aria-label="{place}"'  # to be scrolled by keyboard
    body = f'<div class="scroll" {named}>{table.to_html(linked)}</div>\n{_caption(place, guide, linked, files)}'
    return f'<figure class="table">\n{body}\n</figure>\n'


def _caption(place: Place, guide: Reading, linked: Linker, files: str) -> str:
    group = next((number for number, shared in enumerate(guide.shared, 1) if place in shared.places), None)
    how = "" if group is None else f' <a class="how" href="#read-{group}">how to read it</a>'
    return f"<figcaption><b>{place}.</b> {linked(guide.captions[place])}{how} {files}</figcaption>"


def _links(folder: str, name: str, kinds: Sequence[str]) -> str:
    links = " ".join(f'<a href="{folder}/{name}.{kind}">{kind}</a>' for kind in kinds)
    return f'<span class="files">{links}</span>'


def _glossary(terms: Sequence[Term]) -> str:
    """The terms that are linked, each with its meaning."""
    if not terms:
        return ""
    entries = "".join(
        f'<dt id="term-{term.key}">{with_subscripts(term.name)}</dt><dd>{_dressed(term.meaning)}</dd>\n'
        for term in terms
    )
    return f'<section id="glossary">\n<h2>Glossary</h2>\n<dl>\n{entries}</dl>\n</section>\n'
