"""The command line: ``shoal COMMAND …``.

Each command is a module of :mod:`shoal.commands`, loaded only when it is called, so that help and mistakes answer
without waiting for torch. Exit codes: 0 done, 1 a run failed or is damaged, 2 the request was wrong, 130 interrupted.
"""

import importlib
import os
import sys
from collections.abc import Sequence

from shoal.commands.parsing import Parser
from shoal.errors import DiskError, RunFailed, UserError, nearest

COMMANDS = {
    "train": "train runs; any flag may take several values, which makes a grid",
    "study": "list, run and report the studies",
    "reproduce": "train published settings and compare with the published numbers",
    "report": "a report of any runs of the lab",
    "runs": "what the lab holds",
    "resume": "go on with everything that was interrupted",
    "certify": "retrain runs alone and compare them with the stack that trained them",
    "fit": "fit a scaling law to a table of training runs",
}


def overview() -> str:
    """What ``shoal --help`` prints."""
    width = max(map(len, COMMANDS))
    commands = "\n".join(f"  {name:{width}}  {about}" for name, about in COMMANDS.items())
    return (
        "shoal trains many small sequence models side by side and shows when and why they generalise.\n\n"
        f"usage: shoal COMMAND [flags]\n\ncommands:\n{commands}\n\n"
        "Flags are written with - or _; every command but fit takes --lab DIR (default ./lab).\n"
        "shoal COMMAND --help says more.\n"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        return _run(arguments)
    except UserError as error:
        return _fail(error, 2)
    except DiskError as error:
        return _fail(f"{error}; what was flushed before is intact, and `shoal resume` goes on from it", 1)
    except RunFailed as error:
        return _fail(error, 1)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader is gone, as with `| head`
        return 1
    except KeyboardInterrupt as stop:
        print(f"\n{stop}" if str(stop) else "\ninterrupted", file=sys.stderr)
        return 130


def _run(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(overview(), end="", flush=True)
        return 0 if arguments else 2
    if arguments[0] == "--version":
        from importlib.metadata import version

        print(f"shoal {version('shoal')}", flush=True)
        return 0
    name = arguments.pop(0)
    if name not in COMMANDS:
        raise UserError(f"unknown command {name!r}: one of {' '.join(COMMANDS)}{nearest(name, COMMANDS)}")
    command = importlib.import_module(f"shoal.commands.{name}")
    parser = Parser(prog=f"shoal {name}", description=COMMANDS[name])
    command.arguments(parser)
    code = int(command.run(parser.parse(arguments)))
    sys.stdout.flush()
    return code


def _fail(problem: object, code: int) -> int:
    print(f"shoal: {' '.join(str(problem).split())}", file=sys.stderr)
    return code
