"""Kept models that a command asks for, those of one shape and one vocabulary together, so that they answer at once."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from shoal.commands.parsing import Parser
from shoal.errors import UserError, nearest

if TYPE_CHECKING:
    from torch import nn

    from shoal.decoding.beam import Beam
    from shoal.lab import Records
    from shoal.spec import RunSpec

BEST = "best"  # shoal.lab.kept.BEST, without its polars
_UNSEEN = ("initialisation", "dropout", "dropout_at")  # settings that change nothing of what a kept model computes
_SEARCH = ("finished", "stop", "length_penalty")  # what only a search with several beams can be asked for


@dataclass(frozen=True)
class Alike:
    """Models of one family, shape and vocabulary.

    Attributes:
        models: by run.
        spec: of the first.
        kept: what their tasks keep of what was asked for, read.
    """

    models: "dict[str, nn.Module]"
    spec: "RunSpec"
    kept: Any


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


def models_by_shape(
    records: "Records", what: str, read: Callable[[Any], Any], step: int | str | None = None, average: int = 1
) -> list[Alike]:
    """The models of runs, those of one family, shape and vocabulary together.

    Args:
        records: of the runs.
        what: in what their tasks keep, what they must have in common.
        read: makes of that what it stands for, or raises :class:`LabError`.
        step: of the models; the last that was kept when not given, or ``best``.
        average: how many kept models a model is the mean of.

    Raises:
        UserError: a model is not there.
        LabError: its file is damaged.
    """
    for folder in records.cohorts():
        folder.check_sources()
    groups: list[tuple[Any, Alike]] = []
    for run, spec in records.specs.items():
        model, kept = records.model(run, step, average=average), records.kept(run).get(what)
        # Heads and positions, for example, change what a model computes and none of its shapes.
        settings = {name: value for name, value in spec.model_part.as_json.items() if name not in _UNSEEN}
        shape = {name: p.shape for name, p in model.named_parameters()}
        own = (spec.names["model"], settings, spec.sizes(), shape, kept)
        for known, group in groups:
            if known == own and _same_buffers(model, next(iter(group.models.values()))):
                group.models[run] = model
                break
        else:
            with records.cohort_of(run).with_way_out():
                groups.append((own, Alike({run: model}, spec, read(kept))))
    return [group for _, group in groups]


def _same_buffers(one: "nn.Module", other: "nn.Module") -> bool:
    mine, theirs = dict(one.named_buffers()), dict(other.named_buffers())
    return mine.keys() == theirs.keys() and all(mine[name].equal(theirs[name]) for name in mine)


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
