"""A report as Markdown, for a repository or a notebook; its figures are the PNGs beside the page."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from shoal.report.glossary import by_name, terms_in
from shoal.report.reading import Shared, places_in_words, reading
from shoal.report.table import as_markdown

if TYPE_CHECKING:
    from shoal.report.page import Report


def to_markdown(report: "Report") -> str:
    """The page's text, its figures by name and its tables in full."""
    lines = [*_head(report), *_body(report)]
    entries = [
        f"- **{term.name}**: {as_markdown(term.meaning)}" for term in by_name(terms_in("\n".join(_prose(report))))
    ]
    return "\n".join([*lines, "", "## Glossary", "", *entries, ""] if entries else lines)


def _alternative(text: str) -> str:
    """Text that can stand between the brackets of an image."""
    return text.replace("\\", "\\\\").replace("[", "\\[").replace("]", "\\]").replace("\n", " ")


def _head(report: "Report") -> Iterator[str]:
    """Title, question and answers, the list of the sections, and the sentences that captions of several share."""
    guide = reading(report)
    yield from (f"# {as_markdown(report.title)}", "", as_markdown(report.lead), "")
    yield from (f"- {as_markdown(answer)}" for answer in report.answers)
    if any(section.about for section in report.sections):
        yield from ("", "## On this page", "")
        for section, places, about in zip(report.sections, guide.sections, guide.abouts, strict=True):
            shown = f" ({places_in_words(places)})" if places else ""
            yield f"- {as_markdown(section.title)}{shown}{f': {as_markdown(about)}' if about else ''}"
    if guide.of_several:
        yield from ("", "## How to read this page", "", *_shared_sentences(guide.of_several))


def _shared_sentences(several: Sequence[Shared]) -> Iterator[str]:
    """Sentences that captions share, behind the numbers of their figures and tables."""
    for shared in several:
        yield f"- **{places_in_words(shared.places)}.** {as_markdown(' '.join(shared.sentences))}"


def _body(report: "Report") -> Iterator[str]:
    """The sections."""
    guide = reading(report)
    for section, places in zip(report.sections, guide.sections, strict=True):
        yield from ("", f"## {as_markdown(section.title)}", "")
        for paragraph in section.paragraphs:
            yield from (as_markdown(paragraph), "")
        if several := guide.of_section(places):
            yield from (*_shared_sentences(several), "")
        for figure, place in zip(section.figures, places, strict=False):
            yield from (f"![{_alternative(as_markdown(figure.alt))}](figures/{figure.name}.png)", "")
            yield from (f"**{place}.** {as_markdown(guide.captions[place])}", "")
        for table, place in zip(section.tables, places[len(section.figures) :], strict=True):
            grid, _, _ = table.to_markdown().partition("\n\n")
            yield from (grid, "", f"**{place}.** {as_markdown(guide.captions[place])}", "")


def _prose(report: "Report") -> Iterator[str]:
    """Texts of the page: question, answers, paragraphs, captions and names of columns."""
    yield from (report.lead, *report.answers)
    for section in report.sections:
        yield from (section.about, *section.paragraphs)
        yield from (figure.caption for figure in section.figures)
        yield from (text for table in section.tables for text in (table.caption, *table.header))
