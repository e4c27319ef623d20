"""Checks for models whose numbers are not finite, as after training that diverged, by the names of their runs.

Shapes: ``R`` models, whose axis is the first.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor

from shoal.decoding.stepping import NotFinite
from shoal.errors import UserError


class DivergedError(UserError):
    """Error for models that give no probabilities, because their numbers are not finite.

    Attributes:
        runs: ids of their runs, or their names as the caller gave them.
    """

    def __init__(self, runs: Sequence[str]) -> None:
        self.runs = tuple(runs)
        parts = [run.partition("@") for run in runs]  # of several models of a run, RUN@STEP
        named = " ".join(f"{run[:8]}{at}{step}" for run, at, step in parts)
        whose, give, its, it = ("runs", "give", "their", "them") if len(runs) > 1 else ("run", "gives", "its", "it")
        super().__init__(
            f"{whose} {named} {give} numbers that are not finite, because {its} training diverged: leave {it} out"
        )


def check_logits(logits: Tensor, runs: Sequence[str]) -> None:
    """Raise :class:`DivergedError` where logits ``(R, …, V)`` make no probabilities; some may be -inf, not all."""
    check_finite(logits.amax(-1), runs)  # NaN is the largest


def check_finite(values: Tensor, runs: Sequence[str]) -> None:
    """Raise :class:`DivergedError` where not all values ``(R, …)`` of a run are finite."""
    is_finite = values.isfinite().flatten(1).all(1).tolist()
    if wrong := [run for run, one in zip(runs, is_finite, strict=True) if not one]:
        raise DivergedError(wrong)


@contextmanager
def by_run(runs: Sequence[str]) -> Iterator[None]:
    """Context that turns a search's error about a member into one that names its run."""
    try:
        yield
    except NotFinite as error:
        raise DivergedError([runs[error.member]]) from None
