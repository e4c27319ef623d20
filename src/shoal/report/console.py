"""Tables on the terminal."""

import shutil
import sys
from collections.abc import Collection, Mapping, Sequence

from rich.console import Console
from rich.table import Table as RichTable

from shoal.lab import Records
from shoal.report.summary import per_run_table, varying_settings
from shoal.report.table import Table
from shoal.report.words import damage_sentences

_MOST_ROWS = 40
_MOST_SETTINGS = 8  # model and seed among them
_WIDEST = 2000  # columns of a file or pipe, which has no width of its own: lines there are as long as they need to be


def print_table(table: Table) -> None:
    """A table as text, the best in bold; of a long one the first rows."""
    rich_table = RichTable(box=None, pad_edge=False, header_style="bold")
    for index, name in enumerate(table.header):
        rich_table.add_column(name, justify="left" if index == 0 else "right", no_wrap=True)
    for label, cells in table.rows[:_MOST_ROWS]:
        rich_table.add_row(label, *(f"[bold]{cell.text}[/bold]" if cell.best else cell.text for cell in cells))
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else _WIDEST
    Console(width=width, highlight=False).print(rich_table)
    if len(table.rows) > _MOST_ROWS:
        print(f"… and {len(table.rows) - _MOST_ROWS} more rows")


def print_titled(section: str, table: Table) -> None:
    """The table under the title of its section and what its caption says first, which tells like tables apart."""
    said, end, _ = table.caption.partition(". ")
    print(f"\n{section}: {said}{end.strip()}")
    print_table(table)


def print_extrema(records: Records, damaged: Collection[str] = ()) -> None:
    """The best accuracies of each run and the first step of each."""
    settings = varying_settings(records)
    print_table(per_run_table(records, settings[:_MOST_SETTINGS], damaged))
    if rest := settings[_MOST_SETTINGS:]:
        print(f"… runs differ in more settings: {', '.join(rest)}")


def print_runs(records: Records, unreadable: Sequence[str] = ()) -> int:
    """The same with what is damaged, and lines about cohorts that cannot be read; 1 where there is such a thing."""
    damage = records.damage()
    if len(records):
        print_extrema(records, damage)
    return print_damage(damage, len(records), unreadable)


def print_damage(damage: Mapping[str, str], n: int, unreadable: Sequence[str] = ()) -> int:
    """What is damaged of ``n`` runs, and what to do; 1 where something is."""
    lines = [*damage_sentences(damage, n), *unreadable]
    for line in lines:
        print(line)
    return int(bool(lines))
