"""Tables with the same contents in HTML, Markdown, LaTeX and CSV."""

import csv
import html
import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import polars as pl

from shoal.report.latex import to_latex

# The symbols of the tables in plain text: L_train, A_val, r_train, t_f(...), Δt(L).
_SENTENCE = 32  # characters from which a cell holds words and not a number
_SUBSCRIPT = re.compile(r"(?<![A-Za-z_])([LArt])_(train|val|f)(?![A-Za-z_])")
_ELEMENT = re.compile(r"<(?=[A-Za-z/!?])")
_DELAY = re.compile(r"Δt(?:\(([LA])\))?")


@dataclass(frozen=True)
class Cell:
    """Text, and whether it is the best of its row."""

    text: str
    best: bool = False


@dataclass(frozen=True)
class Table:
    """A table with a caption that explains every symbol in it.

    Attributes:
        name: name of its files.
        header: column names; the first is over the row labels.
        rows: row labels with one cell per further column.
        caption: explanation of the table and its symbols.
        data: the same for programs: raw numbers, with a column each for a mean, its deviation, the number of runs and
            every flag. None where the texts are all there is.
    """

    name: str
    header: Sequence[str]
    rows: Sequence[tuple[str, Sequence[Cell]]]
    caption: str
    data: pl.DataFrame | None = None

    def to_csv(self) -> str:
        """Comma-separated values of ``data``, lists with spaces between; or the texts."""
        if self.data is not None:
            return self.data.with_columns(
                pl.col(name).cast(pl.List(pl.String)).list.join(" ")
                for name, kind in self.data.schema.items()
                if isinstance(kind, pl.List)
            ).write_csv()
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(self.header)
        writer.writerows([label, *(cell.text for cell in cells)] for label, cells in self.rows)
        return out.getvalue()

    def to_markdown(self) -> str:
        """A pipe table, the best in bold; numbers stand under each other, columns with a sentence on the left."""
        wordy = self._wordy()
        rules = ["---" if not place or is_wordy else "---:" for place, is_wordy in enumerate(wordy)]
        lines = [[*map(as_markdown, self.header)], rules]
        for label, cells in self.rows:
            texts = [f"**{as_markdown(cell.text)}**" if cell.best else as_markdown(cell.text) for cell in cells]
            lines.append([as_markdown(label), *texts])
        grid = "".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |\n" for line in lines)
        return f"{grid}\n{as_markdown(self.caption)}\n"

    def _wordy(self) -> list[bool]:
        """True for each column that has a sentence in one of its rows."""
        rows = [(label, *(cell.text for cell in cells)) for label, cells in self.rows]
        return [any(len(row[place]) > _SENTENCE for row in rows) for place in range(len(self.header))]

    def to_latex(self) -> str:
        """LaTeX source of the table for pdflatex, see :mod:`shoal.report.latex`."""
        return to_latex(self)

    def to_html(self, titled: Callable[[str], str] | None = None) -> str:
        """A ``table`` element, the best in bold; columns with a sentence are set as text, the others as numbers.

        Args:
            titled: makes HTML of the name of a column; as of a cell when not given.
        """
        grid = [[Cell(name) for name in self.header], *([Cell(label), *cells] for label, cells in self.rows)]
        wordy = self._wordy()
        head, *body = [
            [
                _element("th" if not (i and j) else "td", cell, wordy[j], _html if i else titled)
                for j, cell in enumerate(row)
            ]
            for i, row in enumerate(grid)
        ]
        rows = "".join(f"<tr>{''.join(row)}</tr>\n" for row in body)
        return f"<table>\n<thead><tr>{''.join(head)}</tr></thead>\n<tbody>\n{rows}</tbody>\n</table>\n"


def as_markdown(text: str) -> str:
    """The text on one line, with nothing in it that Markdown takes for an element of HTML or for a link.

    >>> as_markdown("p < 0.01, <b>, [a](b)")
    'p < 0.01, &lt;b>, [a]&#40;b)'
    """
    return _ELEMENT.sub("&lt;", " ".join(text.splitlines())).replace("](", "]&#40;")


def with_subscripts(text: str) -> str:
    """HTML in which ``L_val`` has its subscript, and ``Δt`` its slant."""
    return _html(text)


def _element(tag: str, cell: Cell, wordy: bool, dressed: Callable[[str], str] | None) -> str:
    text = (dressed or _html)(cell.text)
    text = f"<b>{text}</b>" if cell.best else text
    return f'<{tag} class="words">{text}</{tag}>' if wordy else f"<{tag}>{text}</{tag}>"


def _html(text: str) -> str:
    text = _SUBSCRIPT.sub(r"<i>\1</i><sub>\2</sub>", html.escape(text))
    return _DELAY.sub(lambda found: "Δ<i>t</i>" + (f"(<i>{found[1]}</i>)" if found[1] else ""), text)
