"""``shoal certify RUN…``: deviation of runs trained alone from the stack that trained them."""

import argparse
from typing import TYPE_CHECKING, Any

from shoal.commands.parsing import Parser, add_lab
from shoal.errors import UserError
from shoal.output import say

if TYPE_CHECKING:
    from collections.abc import Iterable

    from shoal.spec import RunSpec
    from shoal.training.continuation import Places


def arguments(parser: Parser) -> None:
    """Flags of the command."""
    add_lab(parser)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="ids or their beginnings, or names of runs or groups")
    parser.flag("steps", type=int, default=100, help="steps to retrain; default 100")
    parser.flag("device", help="cpu or cuda; cuda where there is one")
    for name in _says_where():
        parser.flag(name, metavar="NEW", help="where the data lie now, if they were moved since")


def run(options: argparse.Namespace) -> int:
    """Certify and print one line per run."""
    from shoal.lab import Lab
    from shoal.report.certificates import unit_of_losses
    from shoal.report.words import counted
    from shoal.training.certificate import certify
    from shoal.training.requests import choose_device

    device = choose_device(options.device)
    records = Lab(options.lab).records(options.runs)
    places = _places(options, records.specs.values())
    for folder in records.cohorts():
        certificate = certify(folder, records.ids, options.steps, device, places)
        steps, unit = certificate["steps"], unit_of_losses([folder])
        all_there_are = " (its shortest run has no more steps)" if steps < options.steps else ""
        say(f"cohort {folder.id}: {counted(certificate['members'], 'member')}, first {steps} steps{all_there_are}")
        for name, deviation in certificate["alone"].items():
            share = f"{deviation['parameters_relative']:.2g} times the largest of {deviation['parameters_where']}"
            say(
                f"  {name} alone against stacked: losses differ by at most {deviation['loss']:.2g}{unit}, parameters "
                f"by at most {deviation['parameters']:.2g}{f' ({share})' if deviation['parameters'] else ''}"
            )
        for name, one in certificate["alone"].items():
            if "alpha" in one:
                say(
                    f"  {name} against every path of its first {one['observations']} observations: α differs by at "
                    f"most {one['alpha']:.2g} of its largest value, β by {one['beta']:.2g}, ξ by {one['xi']:.2g}, the "
                    f"log-likelihood by {one['log_likelihood']:.2g} nats"
                )
        if "fall" in certificate:
            say(f"  the largest fall of a likelihood at an update: {certificate['fall']:.2g} of it")
        if certificate["record"] is not None:
            say(f"  the stack retrained against the record: losses differ by at most {certificate['record']:.2g}")
    return 0


def _says_where() -> list[str]:
    """Settings of shoal's tasks that are paths of data."""
    from shoal.registry import TASKS

    tasks = [task for task in TASKS.shipped() if task.reads_files]
    return list(dict.fromkeys(name for task in tasks for name in task.having("operational")))


def _places(options: argparse.Namespace, specs: "Iterable[RunSpec]") -> "Places":
    """Places of the tasks' data, by kind of data, with the paths that flags give in place of those of the runs.

    Raises:
        UserError: a flag gives a path that none of the runs reads.
    """
    given = {name: value for name in _says_where() if (value := getattr(options, name)) is not None}
    places: dict[str, dict[str, Any]] = {}
    read: set[str] = set()
    for spec in specs:
        place = spec.task_part.place()
        if place is not None and (moved := {name: given[name] for name in given.keys() & place[1].keys()}):
            places[place[0]] = {**place[1], **moved}
            read |= moved.keys()
    for name in given.keys() - read:
        raise UserError(f"--{name.replace('_', '-')} does not apply to these runs, whose task has no such data")
    return places
