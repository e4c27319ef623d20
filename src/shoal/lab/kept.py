"""Choice among a run's kept models: that of a step, the best, or the last few."""

from collections.abc import Iterable

import polars as pl

from shoal.errors import LabError, UserError
from shoal.lab.cohort import CohortFolder

BEST = "best"


def kept_steps(
    folder: CohortFolder, run: str, step: int | str | None = None, average: int = 1, period: int | None = None
) -> list[int]:
    """The steps of the models that are to be averaged, the last of them last; of one model its own.

    Args:
        folder: the run's cohort.
        run: its id.
        step: of the last model; ``best`` is that of the lowest validation loss, None the last that was kept.
        average: number of models: the last that were kept every ``period`` up to that step; the initial one, of step 0,
            is none of them, nor is a best one in between.
        period: the run's ``save_model_step``.

    Raises:
        UserError: there can be no such step or number.
        LabError: it was not kept, or fewer were.
    """
    if isinstance(average, bool) or not isinstance(average, int) or average < 1:
        raise UserError(f"average must be an integer of at least 1, got {average!r}")
    if step is not None and step != BEST and (isinstance(step, bool) or not isinstance(step, int)):
        raise UserError(f"step must be an integer or {BEST!r}, got {step!r}")
    files = list(folder.models(run))
    if not files:
        which = "kept no model" if step is None else f"has no model of step {step}; kept: none"
        raise LabError(f"run {run} {which}; where it has ended its model is lost, and `shoal check` says what else is")
    last = max(files) if step is None else _best(folder, run, files) if isinstance(step, str) else step
    if last not in files:
        raise LabError(f"run {run} has no model of step {last}; kept: {_listed(files)}")
    if average == 1:
        return [last]
    regular = [at for at in files if 0 < at < last and period is not None and at % period == 0]
    if len(regular) + 1 < average:
        raise LabError(
            f"run {run} has {len(regular) + 1} models to average up to step {last}, not {average}; "
            f"save_model_step keeps more, and here it is {'not set' if period is None else period}"
        )
    return [*regular[len(regular) + 1 - average :], last]


def _best(folder: CohortFolder, run: str, files: list[int]) -> int:
    """The step of the lowest validation loss, where its model was kept.

    Losses are on record in float32: of evaluations that are equal there, the last whose model was kept is taken.
    """
    losses = folder.metrics().filter((pl.col("run") == run) & pl.col("valid_loss").is_finite())
    lowest = losses.filter(pl.col("valid_loss") == pl.col("valid_loss").min())["step"].sort().to_list()
    candidates: list[int] = [step for step in lowest if step in files]
    if not candidates:
        at = f"that of step {lowest[0]}, " if lowest else ""
        raise LabError(
            f"run {run} has no model of its lowest validation loss, {at}which keep_best keeps when a run ends; "
            f"kept: {_listed(files)}"
        )
    return candidates[-1]


def _listed(steps: Iterable[int]) -> str:
    return " ".join(map(str, steps))
