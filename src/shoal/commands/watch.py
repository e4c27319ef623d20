"""``shoal watch``: a lab while it trains, from any terminal, without touching it."""

import argparse
import signal
import sys
import time
from typing import TYPE_CHECKING

from shoal.commands.parsing import Parser, add_lab
from shoal.errors import UserError

if TYPE_CHECKING:
    from types import FrameType

    from rich.console import Console

    from shoal.lab.watching import Watcher

_LOOK = 0.2  # seconds between two looks at the size of the terminal
_LONGEST = 3600.0


def arguments(parser: Parser) -> None:
    """Flags of the command."""
    add_lab(parser)
    parser.flag("every", type=float, default=2.0, metavar="S", help="seconds between two looks at the lab; default 2")
    parser.flag("once", action="store_true", help="print the table once, as is done where the output is no terminal")


def run(options: argparse.Namespace) -> int:
    """Show the lab until Ctrl-C, or print it once; 0."""
    if not _LOOK <= options.every <= _LONGEST:
        raise UserError(f"every must be a number of seconds from {_LOOK:g} to {_LONGEST:g}, got {options.every:g}")

    from rich.console import Console

    from shoal.lab import Lab
    from shoal.lab.watching import Watcher

    Lab(options.lab)  # what is no lab is refused; what is not there yet may come
    watcher = Watcher(options.lab)
    if options.once or not sys.stdout.isatty():
        return _print_once(watcher, Console(highlight=False))
    return _watch(watcher, Console(highlight=False), options.every)


def _print_once(watcher: "Watcher", console: "Console") -> int:
    from shoal.commands.watch_screen import screen, signs_for
    from shoal.lab import Lab

    seen = watcher.look()
    if not seen.cohorts:
        Lab(watcher.path).records()  # says that there is no such lab, where there is none
        raise UserError("; ".join([*seen.lines]) or f"lab {watcher.path} holds no runs")
    for line in screen(seen, str(watcher.path), console.width, None, time.time(), signs_for(sys.stdout.encoding)):
        console.print(line, soft_wrap=not line.no_wrap)
    return 0


def _watch(watcher: "Watcher", console: "Console", every: float) -> int:
    """Show the lab on a screen of its own, which goes when this ends, however it does; what it showed last stays."""
    from rich.live import Live
    from rich.text import Text

    from shoal.commands.watch_screen import screen, signs_for

    signs = signs_for(sys.stdout.encoding)
    before = signal.signal(signal.SIGTERM, _end)
    lines: list[Text] = []
    try:
        with Live(console=console, screen=True, auto_refresh=False, vertical_overflow="crop") as live:
            while True:
                seen, looked = watcher.look(), time.monotonic()
                size = None
                while size is None or time.monotonic() - looked < every:
                    if size != console.size:
                        size = console.size
                        lines = screen(seen, str(watcher.path), size.width, size.height - 1, time.time(), signs)
                        live.update(Text("\n").join(lines), refresh=True)
                    time.sleep(_LOOK)
    except KeyboardInterrupt:
        for line in lines:
            console.print(line)
        return 0
    finally:
        signal.signal(signal.SIGTERM, before)


def _end(number: int, frame: "FrameType | None") -> None:
    raise SystemExit(128 + number)
