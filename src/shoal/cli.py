"""The command line: ``shoal COMMAND …``.

Each command is a module of :mod:`shoal.commands`, loaded only when it is called, so that help and mistakes answer
without waiting for torch. Exit codes: 0 done, also where a reader such as ``| head`` wanted no more; 1 a run failed or
is damaged, or what was to be printed could not be written; 2 the request was wrong; 130 interrupted.
"""

import importlib
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from os import PathLike, fsdecode
from types import FrameType

from shoal.commands.parsing import Parser
from shoal.errors import DiskError, RunFailed, UserError, nearest, printable, shortened
from shoal.interrupts import ignore_interrupts
from shoal.output import Output, printing

COMMANDS = {
    "train": "train runs; any flag may take several values, which makes a grid",
    "tune": "search settings with a budget, and compare the winner with the default on fresh seeds",
    "finetune": "fine-tune a kept model by low-rank adapters, on a base in full precision or a few bits, or as a whole",
    "merge": "add the adapters of a fine-tuned run to its base, and write the model to a file",
    "study": "list, run and report the studies",
    "reproduce": "train published settings and compare with the published numbers",
    "report": "write a report of any runs of the lab",
    "runs": "list the runs of the lab with their results",
    "watch": "show a live table and small curves of a lab that trains, without changing it",
    "label": "name, tag and note runs, and group them",
    "delete": "delete runs, with all that was measured and kept of them",
    "du": "show the bytes of each cohort or run on the disk",
    "check": "examine a lab: checksums, ids, lists and copies; --repair mends what it can without losing anything",
    "resume": "continue all training that was interrupted",
    "generate": "let kept models of text continue a prompt",
    "translate": "let kept models answer every line of a file; --reference scores what they write",
    "certify": "retrain runs alone, and report how far they differ from the stack that trained them",
    "fit": "fit a scaling law to a table of training runs",
    "score": "score files of translations by BLEU and chrF, with intervals and paired tests",
    "completion": "print the script by which bash, zsh or fish completes these commands",
}


_NO_MEMORY = ("failed to map segment", "annot allocate memory")  # what the loader of libraries says then


def overview() -> str:
    """Text of ``shoal --help``."""
    width = max(map(len, COMMANDS))
    commands = "\n".join(f"  {name:{width}}  {about}" for name, about in COMMANDS.items())
    return (
        "shoal trains many small sequence models side by side and shows when and why they generalise.\n\n"
        f"usage: shoal COMMAND [flags]\n\ncommands:\n{commands}\n\n"
        "Flags are written with - or _; every command but fit, score and completion takes --lab DIR (default ./lab).\n"
        "shoal COMMAND --help says more.\n"
    )


def versions() -> str:
    """The versions of shoal, Python and PyTorch for ``shoal --version``; PyTorch is not imported for it."""
    from importlib.metadata import PackageNotFoundError, version
    from platform import python_version

    def installed(name: str) -> str:
        try:
            return version(name)
        except PackageNotFoundError:
            return "(not installed)"

    return f"shoal {installed('shoal')}, Python {python_version()}, PyTorch {installed('torch')}"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code; ``argv`` as the shell gave it, when not given."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    with printing() as (out, error), _interrupted_once(ends=argv is None):
        try:
            code = _guarded(arguments)
        except SystemExit:  # of argparse, after --help
            if _account(0, out, error):
                return 1
            raise
        return _account(code, out, error)


def _guarded(arguments: list[str]) -> int:
    """Run one command; an error becomes a line on standard error and an exit code."""
    try:
        return _run(arguments)
    except UserError as error:
        return _fail(error, 2)
    except DiskError as error:
        return _fail(f"{error}; what was flushed before is intact, and `shoal resume` goes on from it", 1)
    except RunFailed as error:
        return _fail(error, 1)
    except OSError as error:  # of a path that was asked for, such as a name that is too long
        if not isinstance(error.filename, str | bytes | PathLike):
            raise
        return _fail(f"{printable(fsdecode(error.filename))}: {error.strerror}", 2)
    except MemoryError:
        return _fail("memory ran out, or the limit of this process on it (ulimit -v)", 1)
    except ImportError as error:
        if not any(sign in str(error) for sign in _NO_MEMORY):
            raise
        return _fail(f"memory ran out, or the limit of this process on it (ulimit -v), at {error}", 1)
    except KeyboardInterrupt as stop:
        print(f"\n{stop}" if str(stop) else "\ninterrupted", file=sys.stderr)
        return 130


@contextmanager
def _interrupted_once(ends: bool) -> Iterator[None]:
    """Let Ctrl-C interrupt once; further ones are ignored, because the process is ending already.

    Args:
        ends: whether the process ends with the command, so that Ctrl-C stays ignored behind it.
    """

    def interrupt(number: int, frame: FrameType | None) -> None:
        ignore_interrupts()
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGINT, interrupt)
    except ValueError:  # not the main thread, which has the signals
        yield
        return
    try:
        yield
    finally:
        if ends:
            ignore_interrupts()
        else:
            signal.signal(signal.SIGINT, before)


def _account(code: int, out: Output, error: Output) -> int:
    """Report lines that one stream could not write on the other stream; return the exit code, 1 instead of 0 then.

    Where the reader of a stream has left, only training that went on without it is reported.
    """
    for stream, other, name in ((out, error, "standard output"), (error, out, "standard error")):
        if not stream.lost or (stream.is_unread and not stream.again):
            continue
        lines = f"{stream.lost} line{'s' * (stream.lost != 1)}"
        why = stream.why.strerror if stream.why else ""
        where = f"; {stream.again}" if stream.again else ""
        print(f"shoal: {lines} could not be written to {name}: {why}{where}", file=other)
        code = code if code or stream.is_unread else 1
    return code


def _run(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(overview(), end="")
        return 0 if arguments else 2
    if arguments[0] == "help":  # shoal help COMMAND
        return _run([*arguments[1:2], "--help"])
    if arguments[0] == "--version":
        print(versions())
        return 0
    if arguments[0] == "__complete":  # for the scripts of shoal completion
        from shoal.commands.completing import complete

        print("".join(f"{line}\n" for line in complete([*COMMANDS], arguments[1:])), end="")
        return 0
    name = arguments.pop(0)
    if name not in COMMANDS:
        raise UserError(f"unknown command {name!r}: one of {' '.join(COMMANDS)}{nearest(name, COMMANDS)}")
    command = importlib.import_module(f"shoal.commands.{name}")
    parser = Parser(arguments, prog=f"shoal {name}", description=COMMANDS[name])
    command.arguments(parser)
    return int(command.run(parser.parse(arguments)))


def _fail(problem: object, code: int) -> int:
    print(f"shoal: {printable(shortened(' '.join(str(problem).split())))}", file=sys.stderr)
    return code
