"""Training with progress on the terminal, for the commands that train, and the message after an interruption."""

import argparse
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from shoal.commands.progress import Progress
from shoal.interrupts import ignore_interrupts
from shoal.lab import Lab, Records
from shoal.lab.names import check_label
from shoal.output import say, seen_again
from shoal.spec import RunSpec
from shoal.training import Interrupted, plan, resume, train
from shoal.training.arrangement import unfinished
from shoal.training.preflight import check_parts
from shoal.training.requests import check_execution, check_precision


def train_with_progress(specs: Sequence[RunSpec], lab: str, **settings: Any) -> Records:
    """:func:`shoal.train` with progress; prints the numbers of new, continued and finished runs first."""
    label = {name: settings.pop(name) for name in ("name", "tag", "note") if name in settings}
    device = check_execution(**settings)
    check_precision(specs, device, settings.get("engine"))
    check_parts(specs, device)
    Lab(lab).check_label([spec.id for spec in specs], **label)
    seen_again(_where(lab))
    say(_outline(specs, Lab(lab).create()))
    with Progress() as progress:
        try:
            return train(specs, lab, watch=progress, say=say, **settings, **label)
        except KeyboardInterrupt as stop:
            raise _stopped(lab, stop) from None


def read_label(options: argparse.Namespace) -> dict[str, Any]:
    """Arguments of :func:`shoal.train` from the flags of :func:`shoal.commands.parsing.add_label`.

    Raises:
        UserError: a word is not allowed, or a name is that of a study.
    """
    from shoal.commands.pages import check_run_name

    label = {name: value for name in ("name", "tag", "note") if (value := getattr(options, name)) is not None}
    if options.name is not None:
        check_run_name(check_label(options.name, "name"), Lab(options.lab))
    return label


def resume_with_progress(lab: str, runs: Sequence[str] | None = None, **settings: Any) -> Records:
    """:func:`shoal.resume`, shown."""
    seen_again(_where(lab))
    with Progress() as progress:
        try:
            return resume(lab, runs, watch=progress, say=say, **settings)
        except KeyboardInterrupt as stop:
            raise _stopped(lab, stop) from None


def _where(lab: str) -> str:
    return f"training went on, and `shoal runs --lab {lab}` shows what became of it"


def _stopped(lab: str, stop: KeyboardInterrupt) -> Interrupted:
    """Message after an interruption, with the command that goes on; ignores further ones, so that it is printed."""
    with suppress(ValueError):  # not the main thread, which has the signals
        ignore_interrupts()
    saved = "everything up to this step is kept" if isinstance(stop, Interrupted) else "what was flushed is kept"
    return Interrupted(f"stopped; {saved}. To go on: shoal resume --lab {lab}")


def _outline(specs: Sequence[RunSpec], lab: Lab) -> str:
    index = lab.index()
    new = plan(spec for spec in specs if spec.id not in index)
    begun, damaged = unfinished(index[spec.id] for spec in specs if spec.id in index)
    parts = []
    if new:
        parts.append(f"{_count(sum(map(len, new)), 'new run')} of {_count(len(new), 'shape')}")
    held = sum(spec.id in index for spec in specs)
    going_on = sum(spec.id in index and index[spec.id] in begun for spec in specs)
    if going_on:
        parts.append(f"{_count(going_on, 'run')} to continue")
    if held := held - going_on:
        parts.append(f"{_count(held, 'run')} already in the lab{' or damaged' if damaged else ''}")
    return f"{_count(len(specs), 'run')}: {', '.join(parts)}"


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}{'s' * (n != 1)}"
