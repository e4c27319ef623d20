"""Flags of commands that decode with kept models: choice of the models, and settings of the search."""

import argparse
from typing import TYPE_CHECKING

from shoal.commands.parsing import Parser
from shoal.errors import UserError, nearest

if TYPE_CHECKING:
    from shoal.decoding.beam import Beam
    from shoal.lab import Records

BEST = "best"  # shoal.lab.kept.BEST, without its polars
_SEARCH = ("finished", "stop", "length_penalty")  # what only a search with several beams can be asked for


def add_models(parser: Parser, several: bool = False) -> None:
    """Declare ``--step``, which may name ``several``, and ``--average``, which choose among a run's kept models."""
    more = "; several joined by commas" if several else ""
    parser.flag("step", help=f"step at which the models were kept, or best{more}; default the last")
    parser.flag(
        "average", type=int, default=1, help="number of kept steps, up to --step, whose models are averaged; default 1"
    )


def add_search(parser: Parser) -> None:
    """Declare ``--beams`` and the settings of a beam search."""
    parser.flag("beams", type=int, default=1, help="width of the beam; default 1, greedy search")
    parser.flag(
        "finished",
        help="what a hypothesis that ends does with its place: releases it to the next, or keeps it; default releases",
    )
    parser.flag("stop", help="rule that ends the search: optimal, n_best, first or none; default optimal")
    parser.flag(
        "length-penalty", type=float, help="x of log p / length ** x, by which hypotheses are compared; default 0"
    )


def read_step(value: str | None) -> int | str | None:
    """Value of ``--step``: a step, ``best``, or None.

    Raises:
        UserError: it is no step, nor ``best``.
    """
    if value is None or value == BEST:
        return value
    if not (value.isascii() and value.isdecimal()):
        raise UserError(
            f"--step must be a step at which models were kept, or {BEST}, got {value!r}{nearest(value, [BEST])}"
        )
    return int(value)


def read_steps(value: str | None) -> list[int | str | None]:
    """Values of a ``--step`` that may name several, joined by commas.

    Raises:
        UserError: as :func:`read_step`, or one is named twice.
    """
    steps: list[int | str | None] = [None] if value is None else [read_step(word) for word in value.split(",")]
    if twice := [step for step in steps if steps.count(step) > 1]:
        raise UserError(f"--step names {twice[0]} twice")
    return steps


def read_beam(options: argparse.Namespace, *others: str) -> "Beam | None":
    """Beam search by the flags of :func:`add_search`; None for the likeliest token each time.

    Args:
        options: the flags.
        others: further flags that need several beams.

    Raises:
        UserError: a flag of the beam search is given with one beam, or has a value that is not allowed.
    """
    asked = {name: value for name in _SEARCH if (value := getattr(options, name)) is not None}
    if options.beams == 1:
        for name in [*asked, *(name for name in others if getattr(options, name) is not None)]:
            raise UserError(
                f"--{name.replace('_', '-')} does not apply to greedy search; it applies to --beams of 2 or more"
            )
        return None
    from shoal.decoding.beam import Beam

    return Beam(options.beams, **asked)


def notes_of_steps(records: "Records", step: int | str | None, average: int) -> list[str]:
    """Line for each run on the steps of its models, where they are chosen by the best evaluation or averaged.

    Raises:
        UserError: there is no such model.
    """
    if step != BEST and average == 1:
        return []
    notes = []
    for run in records.ids:
        steps = records.model_steps(run, step, average)
        mean = f"mean of the models of {len(steps)} steps" if len(steps) > 1 else "model of step"
        notes.append(f"run {run[:8]}: {mean} {', '.join(f'{at:,}' for at in steps)}")
    return notes
