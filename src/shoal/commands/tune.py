"""``shoal tune``: search settings of runs with a budget, and compare the winner with the default on fresh seeds."""

from typing import TYPE_CHECKING, Any

from shoal.commands.config import add_config
from shoal.commands.dry_run import add_dry_run
from shoal.commands.parsing import (
    GRID,
    Options,
    Parser,
    add_execution,
    add_lab,
    add_settings,
    read_execution,
    read_settings,
)
from shoal.errors import UserError
from shoal.output import say

if TYPE_CHECKING:
    from shoal.tuning import Tuning


def arguments(parser: Parser) -> None:
    """Flags of the command."""
    add_config(parser)
    add_lab(parser)
    parser.flag(
        "search",
        nargs="+",
        metavar="NAME=VALUES",
        help='searched settings: "lr=log:1e-4:3e-3" "dropout=linear:0:0.3" "weight_decay=0,0.1,1"',
    )
    parser.flag("budget", metavar="B", help="most that all trials cost in total: 60000steps, 2PFLOP, 600s, 20settings")
    parser.flag("sampler", default="tpe", help="random, qmc or tpe, of optuna; default tpe")
    parser.flag("halving", type=int, default=3, help="the better 1/η go on at each rung; 1 stops none; default 3")
    parser.flag("generation", type=int, default=9, help="settings that are proposed and trained together; default 9")
    parser.flag("tune-seed", type=int, default=0, help="seed of the proposals; default 0")
    parser.flag("fresh-seeds", type=int, default=5, help="seeds for comparing with the default; 0 for none; default 5")
    parser.flag("objective", metavar="COLUMN", help="what settings are ranked by; default valid_loss")
    parser.flag("name", default="tuning", help="name of the tuning; a lab can hold several; default tuning")
    add_execution(parser)
    add_dry_run(parser)
    add_settings(parser, GRID)


def run(options: Options) -> int:
    """Tune, then print what was tried and how the winner does."""
    for flag in ("search", "budget"):
        if getattr(options, flag) is None:
            example = '"lr=log:1e-4:3e-3"' if flag == "search" else "60000steps"
            raise UserError(f"tune needs --{flag}, such as --{flag} {example}")
    specs = read_settings(options)
    if options.read_from:
        say(options.read_from)
    from shoal.commands.tune_dry_run import tune_dry_run
    from shoal.commands.tune_progress import TuneProgress
    from shoal.training import Interrupted
    from shoal.tuning import tune

    names = ("sampler", "halving", "generation", "tune_seed", "fresh_seeds", "objective", "name")
    asked = {name: getattr(options, name) for name in names}
    if options.dry_run:
        return tune_dry_run(specs, options.search, options.budget, options.lab, asked, read_execution(options))
    execution = {name: value for name, value in read_execution(options).items() if value is not None}
    try:
        with TuneProgress() as progress:
            shown: dict[str, Any] = {"say": say, "watch": progress, "follow": progress.follow}
            tuning = tune(specs, options.search, options.budget, options.lab, **asked, **shown, **execution)
    except Interrupted:
        raise Interrupted("stopped; everything up to this step is kept, and the same command goes on") from None
    _show(tuning)
    return 0


def _show(tuning: "Tuning") -> None:
    from shoal.report.console import print_table
    from shoal.tuning.report import answers, trials_table

    print_table(trials_table(tuning))
    say()
    for answer in answers(tuning):
        say(f"- {answer}")
    say()
    say(f"report: {tuning.page}")
