"""``shoal bench``: how long a training step takes, beside the same runs trained by other means."""

import argparse
import os
import shlex
import sys
from pathlib import Path

from shoal.commands.parsing import Parser
from shoal.errors import UserError

BUSY = 0.5  # load average from which something else is running


def arguments(parser: Parser) -> None:
    """Flags of the command."""
    parser.flag("configurations", nargs="+", metavar="NAME", help="default small tiny (default small)")
    parser.flag("models", nargs="+", metavar="MODEL", help="lstm gpt (both)")
    parser.flag("methods", nargs="+", metavar="METHOD", help="plain compiled torch_nn jax shoal (all)")
    parser.flag("members", type=int, nargs="+", metavar="R", help="numbers of members that shoal trains at once")
    parser.flag("pairs", type=int, help="measurements of each method, each beside one of plain (5)")
    parser.flag("steps", type=int, help="training steps of a measurement of few members (10; small: 80)")
    parser.flag("device", help="cpu or cuda (cpu)")
    parser.flag("quick", action="store_true", help="a smoke test of under a minute, whose times mean nothing")
    parser.flag("out", metavar="DIR", help="folder for the results (docs/results; --quick: build/bench)")


def run(options: argparse.Namespace) -> int:
    """Measure, print the tables and keep them."""
    root = _checkout()
    if str(root) not in sys.path:
        sys.path.insert(0, str(root))  # the processes that measure take it over
    from benchmarks.cases import Request

    names = ("configurations", "models", "methods", "members", "pairs", "steps", "device")
    given = {name: getattr(options, name) for name in names}
    given = {name: value for name, value in given.items() if value is not None}
    if options.quick:  # torch.compile takes a minute to warm up
        quick = {"configurations": ["tiny"], "methods": ["plain", "torch_nn", "jax", "shoal"], "pairs": 2}
        given = {**quick, **given}
    request = Request(**given)
    if request.device != "cpu":
        from shoal.training.api import choose_device

        choose_device(request.device)
    folder = _writable(
        Path(options.out) if options.out else root / ("build/bench" if options.quick else "docs/results")
    )

    from benchmarks.harness import measure
    from benchmarks.results import tables, write_results
    from shoal.report.console import print_table

    load = os.getloadavg()[0]
    if load > BUSY:
        print(f"the machine is busy (load average {load:.2f}), which slows methods unequally: measure when it is idle")
    outcome = measure(request, lambda line: print(line, flush=True))
    for table in tables(outcome.results):
        print(f"\n{table.caption}")
        print_table(table)
    print(f"\nresults: {write_results(outcome, request, _command(options), load, folder)}")
    return 0 if outcome.is_whole else 1


def _command(options: argparse.Namespace) -> str:
    """What was asked for, for the record."""
    words = ["shoal", "bench"]
    for name, value in vars(options).items():
        if value not in (None, False):
            values = value if isinstance(value, list) else [] if value is True else [value]
            words += [f"--{name}", *map(str, values)]
    return shlex.join(words)


def _checkout() -> Path:
    """The root of the repository that this module is part of."""
    root = Path(__file__).resolve().parents[3]
    if not (root / "benchmarks" / "harness.py").is_file():
        raise UserError(
            "shoal bench needs a checkout of shoal's repository: what it compares with is in its folder benchmarks/, "
            "which the installed package does not have"
        )
    return root


def _writable(folder: Path) -> Path:
    """The folder itself, made and found writable before the time is spent."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out {folder} cannot be made: {error.strerror}") from None
    if not os.access(folder, os.W_OK):
        raise UserError(f"--out {folder} cannot be written")
    return folder
