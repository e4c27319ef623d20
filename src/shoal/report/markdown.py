"""A report as Markdown, for a repository or a notebook; its figures are the PNGs beside the page."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from shoal.report.page import Report


def to_markdown(report: "Report") -> str:
    """The page's text, its figures by name and its tables in full."""
    return "\n".join(_lines(report))


def _alternative(text: str) -> str:
    """Text that can stand between the brackets of an image."""
    return text.replace("\\", "\\\\").replace("[", "\\[").replace("]", "\\]").replace("\n", " ")


def _lines(report: "Report") -> Iterator[str]:
    yield from (f"# {report.title}", "", report.lead, "")
    yield from (f"- {answer}" for answer in report.answers)
    figures = tables = 0
    for section in report.sections:
        yield from ("", f"## {section.title}", "")
        for paragraph in section.paragraphs:
            yield from (paragraph, "")
        for figure in section.figures:
            figures += 1
            yield from (f"![{_alternative(figure.alt)}](figures/{figure.name}.png)", "")
            yield from (f"**Figure {figures}.** {figure.caption}", "")
        for table in section.tables:
            tables += 1
            grid, _, _ = table.to_markdown().partition("\n\n")
            yield from (grid, "", f"**Table {tables}.** {table.caption}", "")
