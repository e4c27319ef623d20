"""``shoal tune --dry-run``: search space, first proposals, cost of a generation, and what the budget pays for."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from shoal.output import say

if TYPE_CHECKING:
    from shoal.report.table import Table
    from shoal.spec import RunSpec
    from shoal.tuning.outlook import Outlook


def tune_dry_run(
    specs: "Sequence[RunSpec]",
    search: Sequence[str],
    budget: str,
    lab: str,
    asked: Mapping[str, Any],
    execution: Mapping[str, Any],
) -> int:
    """Print the outlook on a tuning, with an estimate of time and memory; write nothing, return 0.

    Args:
        specs: the default, one run for each seed.
        search: search space.
        budget: most that all trials cost.
        lab: path of the lab.
        asked: other arguments of :func:`shoal.tune`.
        execution: how to train, see :func:`shoal.commands.parsing.read_execution`.

    Raises:
        UserError: as the tuning would, or where a model of the search space does not fit into the memory.
    """
    from shoal.report.console import print_table
    from shoal.training.requests import check_execution
    from shoal.tuning.outlook import look_ahead

    given = {name: value for name, value in execution.items() if value is not None}
    device = check_execution(**execution)
    outlook = look_ahead(specs, search, budget, lab, execution=given, device=device, **asked)
    say("dry run: nothing is trained and nothing is written")
    for line in head_lines(outlook):
        say(line)
    if outlook.generation is None:
        return 0
    print_table(proposals_table(outlook))
    for line in cost_lines(outlook):
        say(line)
    _say_time(outlook, lab, execution)
    return 0


def head_lines(outlook: "Outlook") -> list[str]:
    """Lines on the search space, and on what the lab holds of the tuning."""
    from shoal.report.words import counted

    request, count = outlook.request, outlook.request.space.count
    settings = "any number of settings" if count == float("inf") else counted(int(count), "different setting")
    lines = [f"search space: {' '.join(request.space.texts)} ({settings})"]
    if outlook.tried:
        spent = request.budget.told(outlook.spent, of=request.budget.amount)
        lines.append(f"in the lab: {counted(outlook.tried, 'setting')}, {spent}")
    if outlook.going_on is not None:
        lines.append(f"generation {outlook.going_on} is not done and goes on first; the next depends on it")
    elif outlook.generation is None:
        lines.append("the budget or the space is used up: no setting would be tried")
    return lines


def proposals_table(outlook: "Outlook") -> "Table":
    """The next generation's settings."""
    from shoal.report.table import Cell, Table
    from shoal.report.words import setting_text
    from shoal.tasks.build import count_run_parameters

    assert outlook.generation is not None
    rows = [
        (
            f"{outlook.tried + place}",
            [*(Cell(setting_text(value)) for value in settings.values()), Cell(f"{count_run_parameters(runs[0]):,}")],
        )
        for place, (settings, runs) in enumerate(zip(outlook.generation.settings, outlook.runs, strict=True))
    ]
    return Table("proposals", ["trial", *outlook.request.space.names, "parameters"], rows, "")


def cost_lines(outlook: "Outlook") -> list[str]:
    """Lines on rungs, the cost of a generation, what the budget pays for, and the fresh seeds."""
    from shoal.report.words import counted

    request, generation = outlook.request, outlook.generation
    assert generation is not None
    rungs = [f"{size} up to step {rung:,}" for size, rung in zip(generation.sizes, generation.rungs, strict=True)]
    lines = [
        f"rungs: settings train {', '.join(rungs)}",
        f"a generation: at most {outlook.steps:,.0f} steps of all runs together, {outlook.flop:.3g} FLOP",
    ]
    left = request.budget.told(request.budget.amount - outlook.spent)
    if outlook.whole is None:
        lines.append(f"budget: {left}; how many generations that pays for is known after the first")
    else:
        several = counted(outlook.whole, "generation")
        beside = f" and one of {counted(outlook.settings_beside or 0, 'setting')}" if outlook.settings_beside else ""
        lines.append(f"budget: {left} pay for {several} of {counted(len(outlook.runs), 'setting')}{beside}")
    if request.fresh_seeds:
        runs = counted(2 * request.fresh_seeds, "run")
        lines.append(f"fresh seeds: {runs} of {request.base.n_steps:,} steps, beyond the budget")
    return lines


def _say_time(outlook: "Outlook", lab: str, execution: Mapping[str, Any]) -> None:
    """Print an estimate of the time and memory of the generation, by a trial of its runs."""
    from shoal.commands.dry_run import duration, estimated, memory_line

    specs = [spec for of_setting in outlook.runs for spec in of_setting]
    work, forecast, device = estimated(specs, lab, execution)
    if not forecast.pieces:
        say(f"the lab holds all of its {len(work.held):,} runs")
        return
    share = outlook.steps / sum(piece.steps for piece in forecast.pieces)
    low, high = (duration(min(1.0, share) * seconds) for seconds in (forecast.low, forecast.high))
    say(f"time: {low} to {high} for this generation on {device.type}, its share of the steps of all runs to their end")
    say(memory_line(forecast, device))
