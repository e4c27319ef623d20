"""Words of a command as its parser reads them, without running it."""

from shoal.commands import train
from shoal.commands.parsing import Parser, read_settings


def options_of(module, *words):
    """Options that a module of a command reads from its words."""
    parser = Parser(words, prog=f"shoal {module.__name__.rpartition('.')[2]}")
    module.arguments(parser)
    return parser.parse(words)


def specs_of(*words):
    """Runs that ``shoal train`` would train."""
    return read_settings(options_of(train, *words))
