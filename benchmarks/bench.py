"""Benchmark of a training step beside the same runs trained by other means: ``python -m benchmarks``.

Its baselines are in this folder, which an installed package does not have: it is run in a checkout.
"""

import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.cases import Request
from benchmarks.harness import measure
from benchmarks.results import tables, write_results
from shoal.commands.parsing import Options, Parser
from shoal.errors import RunFailed, UserError
from shoal.report.console import print_table
from shoal.training.requests import choose_device

BUSY = 0.5  # load average from which something else is running
FOLDER = "build/bench"
# torch.compile takes a minute to warm up
QUICK = {"configurations": ["tiny"], "methods": ["plain", "torch_nn", "jax", "shoal"], "pairs": 2}
ASKED = ("configurations", "models", "methods", "members", "pairs", "steps", "device", "text")


def arguments(parser: Parser) -> None:
    """Flags of the script."""
    parser.flag("configurations", nargs="+", metavar="NAME", help="default small tiny text (default small)")
    parser.flag("models", nargs="+", metavar="MODEL", help="lstm gpt (both)")
    parser.flag("methods", nargs="+", metavar="METHOD", help="plain compiled torch_nn jax shoal (all)")
    parser.flag("members", type=int, nargs="+", metavar="R", help="numbers of members that shoal trains at once")
    parser.flag("pairs", type=int, help="measurements of each method, each beside one of plain (5)")
    parser.flag("steps", type=int, help="training steps of a measurement of few members (10; small: 80)")
    parser.flag("device", help="cpu or cuda (cpu)")
    parser.flag("text", metavar="FILE", help="text of the configuration text, in UTF-8")
    parser.flag("quick", action="store_true", help="a smoke test of under a minute, whose times mean nothing")
    parser.flag("out", metavar="DIR", default=FOLDER, help=f"folder for the results ({FOLDER})")


def main(words: Sequence[str] | None = None) -> int:
    """Run the benchmark of these arguments; returns 1 where shoal could not be measured, 2 for wrong arguments."""
    parser = Parser(prog="python -m benchmarks", description="training steps beside PyTorch, torch.compile and JAX")
    arguments(parser)
    try:
        return run(parser.parse(sys.argv[1:] if words is None else words))
    except (UserError, RunFailed) as error:
        print(f"benchmarks: {' '.join(str(error).split())}", file=sys.stderr)
        return 2 if isinstance(error, UserError) else 1


def run(options: Options) -> int:
    """Measure, print the tables and write them."""
    given = {name: value for name in ASKED if (value := getattr(options, name)) is not None}
    request = Request(**({**QUICK, **given} if options.quick else given))
    if request.device != "cpu":
        choose_device(request.device)
    folder = _writable(Path(options.out))
    load = os.getloadavg()[0]
    if load > BUSY:
        print(f"the machine is busy (load average {load:.2f}), which slows methods unequally: measure when it is idle")
    outcome = measure(request, lambda line: print(line, flush=True))
    for table in tables(outcome.results):
        print(f"\n{table.caption}")
        print_table(table)
    print(f"\nresults: {write_results(outcome, request, _command(options), load, folder)}")
    return 0 if outcome.is_whole else 1


def _command(options: Options) -> str:
    """Command line of the request, for the record."""
    words = ["python", "-m", "benchmarks"]
    for name in options.given:
        value = getattr(options, name)
        values = value if isinstance(value, list) else [] if value is True else [value]
        words += [f"--{name}", *map(str, values)]
    return shlex.join(words)


def _writable(folder: Path) -> Path:
    """Folder of the results, made and checked to be writable before the measurement."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out {folder} cannot be made: {error.strerror}") from None
    if not os.access(folder, os.W_OK):
        raise UserError(f"--out {folder} cannot be written")
    return folder
