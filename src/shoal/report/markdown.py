"""A report as Markdown, for a repository or a notebook; its figures are the PNGs beside the page."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from shoal.report.table import as_markdown

if TYPE_CHECKING:
    from shoal.report.page import Report


def to_markdown(report: "Report") -> str:
    """The page's text, its figures by name and its tables in full."""
    return "\n".join(_lines(report))


def _alternative(text: str) -> str:
    """Text that can stand between the brackets of an image."""
    return text.replace("\\", "\\\\").replace("[", "\\[").replace("]", "\\]").replace("\n", " ")


def _lines(report: "Report") -> Iterator[str]:
    yield from (f"# {as_markdown(report.title)}", "", as_markdown(report.lead), "")
    yield from (f"- {as_markdown(answer)}" for answer in report.answers)
    figures = tables = 0
    for section in report.sections:
        yield from ("", f"## {as_markdown(section.title)}", "")
        for paragraph in section.paragraphs:
            yield from (as_markdown(paragraph), "")
        for figure in section.figures:
            figures += 1
            yield from (f"![{_alternative(as_markdown(figure.alt))}](figures/{figure.name}.png)", "")
            yield from (f"**Figure {figures}.** {as_markdown(figure.caption)}", "")
        for table in section.tables:
            tables += 1
            grid, _, _ = table.to_markdown().partition("\n\n")
            yield from (grid, "", f"**Table {tables}.** {as_markdown(table.caption)}", "")
