"""Runs that pages train for themselves, in a lab that lasts as long as the process."""

import tempfile
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from shoal.errors import UserError

if TYPE_CHECKING:
    from shoal.lab.record_views import Run
    from shoal.spec import RunSpec


@cache
def _lab() -> "tempfile.TemporaryDirectory[str]":
    return tempfile.TemporaryDirectory(prefix="shoal-gallery-")


def trained(spec: "RunSpec") -> "Run":
    """Finished run of a spec, trained silently with one thread at its first use in this process.

    Raises:
        UserError: the run failed or diverged.
    """
    import torch

    from shoal.training import train

    with torch.enable_grad():  # a page may ask for its model where it computes no gradients
        run = train([spec], lab=Path(_lab().name) / "lab", workers=1, threads=1, progress=False)[spec]
    if run.state != "done":
        raise UserError(f"run {spec.id} of the page is {run.state}, not done")
    return run
