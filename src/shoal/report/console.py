"""Tables on the terminal.

Nothing of a table is cut. Where it is wider than the terminal its ids are shortened to beginnings that tell them apart;
where that is not enough columns of nothing but – are left out, which is said below, and the others follow each other in
blocks, each with the labels of the rows; and where a column does not fit beside the labels, both are wrapped between
words, of which a number is one.
"""

import re
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from textwrap import wrap

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from shoal.errors import printable
from shoal.lab import Records
from shoal.output import readable, say, terminal_width
from shoal.report.each_run import per_run_table, varying_settings
from shoal.report.quantities import OPEN
from shoal.report.reading import sentences
from shoal.report.table import Table
from shoal.report.words import NOTHING, damage_sentences

_MOST_ROWS = 40
_MOST_SETTINGS = 8  # model and seed among them
_GAP = 2  # between two columns
_ID = re.compile(r"[0-9a-f]{16}")
_SIGN = re.compile(rf"(?:(\S+) )?([{OPEN}{NOTHING}]): ")  # begins the sentence of a caption that explains a sign
_SHORT_ID = 8  # digits of a shortened id, as in sentences: enough for the other runs of most labs, too


def print_table(table: Table) -> None:
    """A table as text, the best in bold; on a terminal of a long one the first rows, in a file or a pipe all."""
    most = _MOST_ROWS if sys.stdout.isatty() else len(table.rows)
    rows = table.rows[:most]
    columns = [[_text(name, "bold")] for name in table.header]
    for label, cells in rows:
        columns[0].append(_text(label))
        for column, cell in zip(columns[1:], cells, strict=True):
            column.append(_text(cell.text, "bold" if cell.best else ""))
    width, left_out = terminal_width(), list[str]()
    if not _fits(columns, width):
        columns[0] = _shortened(columns[0])
    if not _fits(columns, width):
        left_out = [column[0].plain for column in columns[1:] if {text.plain for text in column[1:]} == {NOTHING}]
        columns = [column for column in columns if column[0].plain not in left_out]
    for number, block in enumerate(blocks([_width(column) for column in columns], width)):
        if number:
            say()
        _print_block([columns[index] for index in block], width)
    if len(table.rows) > most:
        say(f"… and {len(table.rows) - most} more rows, which a file or a pipe has too")
    if left_out:
        for line in wrap(f"columns with {NOTHING} in each of these rows are left out: {', '.join(left_out)}", width):
            say(line)


def print_keys(*tables: Table) -> None:
    """Print the meaning of † and – below tables whose cells have them, each sentence once, as captions say it."""
    for line in dict.fromkeys(line for table in tables for line in _keys(table)):
        say(line)


def _keys(table: Table) -> list[str]:
    """Sentences of a caption such as ``†: …`` or, of one column, ``Δt(A) –: …``, whose sign stands in a cell."""
    keys = []
    for sentence in sentences(table.caption):
        begins = _SIGN.match(sentence)
        columns = [*range(len(table.header) - 1)]
        if begins and begins[1]:
            columns = [place for place in columns if table.header[place + 1] == begins[1]]
        if begins and any(begins[2] in cells[place].text for _, cells in table.rows for place in columns):
            keys.append(sentence)
    return keys


def _text(text: str, style: str = "") -> Text:
    """Text of a cell as it stands: no part of it is read as markup or as a control sequence of the terminal."""
    return Text(readable(printable(text)), style)


def blocks(widths: Sequence[int], width: int) -> list[list[int]]:
    """Blocks of columns that fit side by side: the first column is in every block, each other in one, in order.

    >>> blocks([16, 6, 6, 12], 80), blocks([16, 6, 6, 12], 32)
    ([[0, 1, 2, 3]], [[0, 1, 2], [0, 3]])
    """
    groups, used = [[0]], widths[0]
    for column, column_width in enumerate(widths[1:], start=1):
        if len(groups[-1]) > 1 and used + _GAP + column_width > width:
            groups.append([0])
            used = widths[0]
        groups[-1].append(column)
        used += _GAP + column_width
    return groups


def _fits(columns: Sequence[Sequence[Text]], width: int) -> bool:
    return sum(map(_width, columns)) + _GAP * (len(columns) - 1) <= width


def _width(column: Sequence[Text]) -> int:
    return max(cell_len(text.plain) for text in column)


def _longest_word(column: Sequence[Text]) -> int:
    return max((cell_len(word) for text in column for word in text.plain.split()), default=0)


def _shortened(labels: Sequence[Text]) -> list[Text]:
    """Ids of runs as beginnings that no two share; other labels as they are."""
    ids = {text.plain for text in labels[1:]}
    if not ids or not all(map(_ID.fullmatch, ids)):
        return list(labels)
    digits = next(n for n in range(_SHORT_ID, 17) if len({run[:n] for run in ids}) == len(ids))
    return [labels[0], *(text[:digits] for text in labels[1:])]


def _print_block(columns: Sequence[Sequence[Text]], width: int) -> None:
    grid = RichTable(box=None, pad_edge=False, show_header=False)
    widths = [_width(column) for column in columns]
    if sum(widths) + _GAP * (len(widths) - 1) > width:  # the labels and one column: half of the terminal for each
        longest = [_longest_word(column) for column in columns]
        widths[0] = max(longest[0], min(widths[0], width // 2))
        widths[1:] = [max(longest[1], min(widths[1], width - _GAP - widths[0]))] if len(widths) > 1 else []
    for index, column_width in enumerate(widths):
        grid.add_column(justify="left" if index == 0 else "right", width=column_width)
    for cells in zip(*columns, strict=True):
        grid.add_row(*cells)
    Console(width=max(width, sum(widths) + _GAP * (len(widths) - 1)), highlight=False).print(grid)


def print_titled(section: str, table: Table) -> None:
    """Print a table under the title of its section and the first sentence of its caption, which tells tables apart."""
    first_sentence, end, _ = table.caption.partition(". ")
    say()
    say(f"{section}: {first_sentence}{end.strip()}")
    print_table(table)


def print_extrema(
    records: Records, damaged: Collection[str] = (), arranged: Callable[[Table], Table] = lambda table: table
) -> None:
    """Print a table of the best values of each run and the steps at which they were first reached.

    ``arranged`` returns the table with the rows in the order in which they are to be printed.
    """
    settings = varying_settings(records)
    table = arranged(per_run_table(records, settings[:_MOST_SETTINGS], damaged))
    print_table(table)
    print_keys(table)
    if rest := settings[_MOST_SETTINGS:]:
        say(f"… runs differ in more settings: {', '.join(rest)}")
    for line in records.without(damaged).beside():
        say(line)


def print_runs(records: Records, unreadable: Sequence[str] = ()) -> int:
    """Print the table of runs, the damaged runs and the unreadable cohorts; return 1 if any are, else 0."""
    damage = records.damage()
    if len(records):
        print_extrema(records, damage)
    return print_damage(damage, len(records), unreadable)


def print_damage(damage: Mapping[str, str], n: int, unreadable: Sequence[str] = ()) -> int:
    """Print the damage of some of ``n`` runs and the cohorts that are unreadable; return 1 if there are any, else 0."""
    lines = [*damage_sentences(damage, n), *unreadable]
    for line in lines:
        say(line)
    return int(bool(lines))
