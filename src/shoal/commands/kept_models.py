"""Flags of commands that let kept models speak: which of them, and how they search."""

import argparse
from typing import TYPE_CHECKING

from shoal.commands.parsing import Parser
from shoal.errors import UserError, nearest

if TYPE_CHECKING:
    from shoal.decoding.beam import Beam
    from shoal.lab import Records

BEST = "best"  # shoal.lab.kept.BEST, without its polars
_SEARCH = ("finished", "stop", "length_penalty")  # what only a search with several beams can be asked for


def add_models(parser: Parser) -> None:
    """``--step`` and ``--average``: which of a run's kept models."""
    parser.flag("step", help="of the models: a step at which they were kept, or best (the last)")
    parser.flag("average", type=int, default=1, help="models of so many kept steps up to there, averaged (1)")


def add_search(parser: Parser) -> None:
    """``--beams`` and what a search with several can be asked for."""
    parser.flag("beams", type=int, default=1, help="places of the beam; 1 takes the likeliest token each time (1)")
    parser.flag(
        "finished",
        help="what a hypothesis that ends does with its place: releases it to the next, or keeps it (releases)",
    )
    parser.flag("stop", help="when the search is over: optimal, n_best, first or none (optimal)")
    parser.flag("length-penalty", type=float, help="compare log p / length ** x of hypotheses (0)")


def read_step(value: str | None) -> int | str | None:
    """What ``--step`` says.

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


def read_beam(options: argparse.Namespace, *others: str) -> "Beam | None":
    """How to search, by the flags of :func:`add_search`; None takes the likeliest token each time.

    Args:
        options: the flags.
        others: further flags that need several beams.

    Raises:
        UserError: what only a beam can be asked for is asked without one, or no beam has it.
    """
    asked = {name: value for name in _SEARCH if (value := getattr(options, name)) is not None}
    if options.beams == 1:
        for name in [*asked, *(name for name in others if getattr(options, name) is not None)]:
            raise UserError(
                f"--{name.replace('_', '-')} does not apply to one beam; it applies to --beams of 2 or more"
            )
        return None
    from shoal.decoding.beam import Beam

    return Beam(options.beams, **asked)


def notes_of_steps(records: "Records", step: int | str | None, average: int) -> list[str]:
    """Of which steps the models are, where that was not said: by the best evaluation, or as a mean. One line each.

    Raises:
        UserError: there is no such model.
    """
    if step != BEST and average == 1:
        return []
    said = []
    for run in records.ids:
        steps = records.model_steps(run, step, average)
        mean = f"mean of the models of {len(steps)} steps" if len(steps) > 1 else "model of step"
        said.append(f"run {run[:8]}: {mean} {', '.join(f'{at:,}' for at in steps)}")
    return said
