"""``shoal reproduce NAME``: a published setting over many seeds, beside the published numbers."""

from shoal.commands.config import add_config
from shoal.commands.dry_run import add_dry_run
from shoal.commands.parsing import (
    STUDY,
    Options,
    Parser,
    add_execution,
    add_lab,
    add_settings,
    read_execution,
    read_values,
    refuse_unread,
)
from shoal.commands.study import add_form, refuse_times
from shoal.output import say, say_list


def arguments(parser: Parser) -> None:
    """Flags of the command."""
    add_config(parser)
    parser.add_argument("names", nargs="*", metavar="NAME", help="the reproductions; without one, their list")
    add_lab(parser)
    add_form(parser)
    add_execution(parser)
    add_dry_run(parser)
    add_settings(parser, STUDY)


def run(options: Options) -> int:
    """List the reproductions, or train and judge some."""
    from shoal.studies.reproductions import NAMES, get_reproduction

    if not options.names:
        refuse_unread(options, "reproduce without the name of a reproduction lists them and", "lab")
        say_list(NAMES.items())
        return 0
    for name in options.names:
        refuse_times(options, name)
    reproductions = {name: get_reproduction(name) for name in options.names}

    from shoal.commands.questions import run_studies
    from shoal.studies import Form

    form = Form(options.quick, options.seeds, read_values(options))
    if options.read_from:
        say(options.read_from)
    return run_studies(reproductions, form, options.lab, read_execution(options), options.dry_run)
