"""``shoal check``: examine a lab, and mend what can be mended without losing anything."""

import argparse
from pathlib import Path

from shoal.commands.parsing import Parser, add_lab


def arguments(parser: Parser) -> None:
    """Flags of the command."""
    add_lab(parser)
    parser.flag(
        "repair",
        action="store_true",
        help="mend what can be mended without losing anything: what is in the way is moved to LAB/aside, never deleted",
    )


def run(options: argparse.Namespace) -> int:
    """Print a line for each finding; return 1 if the lab is damaged, with ``--repair`` after the repair, else 0."""
    from shoal.errors import printable
    from shoal.lab.check import examine, repair
    from shoal.lab.lab import Lab
    from shoal.report.words import counted

    path = Path(options.lab)
    if options.repair:
        examine(path)  # refuses what is no lab before anything is made in it
        with Lab.held(path):
            for line in repair(path):
                print(printable(line))
    findings = examine(path)
    for finding in findings:
        mend = "; shoal check --repair mends it" if finding.mend is not None and not options.repair else ""
        print(printable(f"{'damage' if finding.is_damage else 'note'}: {finding.what}{mend}"))
    damage = sum(finding.is_damage for finding in findings)
    print(printable(f"lab {path}: {counted(damage, 'problem') if damage else 'nothing is wrong'}"))
    return int(damage > 0)
