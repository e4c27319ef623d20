"""``shoal certify RUN…``: how far runs trained alone deviate from the stack that trained them."""

import argparse

from shoal.commands.parsing import Parser, add_lab
from shoal.output import say


def arguments(parser: Parser) -> None:
    """Flags of the command."""
    add_lab(parser)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="ids, or beginnings of ids")
    parser.flag("steps", type=int, default=100, help="steps to retrain (100)")
    parser.flag("device", help="cpu or cuda; cuda where there is one")


def run(options: argparse.Namespace) -> int:
    """Certify and print one line per run."""
    from shoal.lab import Lab
    from shoal.report.certificates import unit_of_losses
    from shoal.report.words import counted
    from shoal.training.api import choose_device
    from shoal.training.certificate import certify

    device = choose_device(options.device)
    records = Lab(options.lab).records(options.runs)
    for folder in records.cohorts():
        certificate = certify(folder, records.ids, options.steps, device)
        steps, unit = certificate["steps"], unit_of_losses([folder])
        all_there_are = " (its shortest run has no more)" if steps < options.steps else ""
        say(f"cohort {folder.id}: {counted(certificate['members'], 'member')}, first {steps} steps{all_there_are}")
        for name, deviation in certificate["alone"].items():
            say(
                f"  {name} alone against stacked: losses differ by at most {deviation['loss']:.2g}{unit}, parameters "
                f"by {deviation['parameters']:.2g} ({deviation['parameters_relative']:.2g} of the largest value in "
                f"{deviation['parameters_where']})"
            )
        if certificate["record"] is not None:
            say(f"  the stack retrained against the record: losses differ by at most {certificate['record']:.2g}")
    return 0
