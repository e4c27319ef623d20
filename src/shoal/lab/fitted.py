"""Fitted hidden Markov models of a lab, with what their fit came to."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from shoal.errors import LabError, UserError
from shoal.lab.cohort import CohortFolder
from shoal.lab.files import check_shape
from shoal.lab.shapes import FitNote

if TYPE_CHECKING:
    from shoal.hmm import HMM


@dataclass(frozen=True, eq=False)
class Fitted:
    """Model of a run after some update.

    Attributes:
        model: the model, a stack of one.
        log_likelihood: of its training sequences, each as often as it was drawn, in nats.
        valid_log_likelihood: of the validation sequences, in nats; -inf where one is impossible.
        valid_problem: which observation of theirs is, in words; empty where none is.
        observations: number of training observations that are not missing, each as often as it was drawn; None in labs
            of earlier versions.
        updates: number of updates until then.
        converged: true where the last gained less than the tolerance.
        problems: problems of the fit, in words, for which it is never the best; none of a sound one.
    """

    model: "HMM"
    log_likelihood: float
    valid_log_likelihood: float
    valid_problem: str
    observations: float | None
    updates: int
    converged: bool
    problems: tuple[str, ...]


def read_fitted(folder: CohortFolder, run: str, steps: Sequence[int]) -> Fitted:
    """Kept model of a run after the last of these steps.

    Raises:
        UserError: there are several: states of different models have no common numbers.
        LabError: the file is damaged.
    """
    from shoal.hmm import model_of
    from shoal.lab.tensors import load_tensors

    if len(steps) > 1:
        raise UserError(f"average={len(steps)} does not apply to hidden Markov models, which are not averaged")
    path = folder.models(run)[steps[-1]]
    state, metadata = load_tensors(path)
    folder.check_model(run, steps[-1], metadata)
    try:
        note: dict[str, Any] = json.loads(metadata["fit"])
        check_shape(path, note, FitNote)
        model = model_of({name: tensor.numpy()[None] for name, tensor in state.items()})
    except (KeyError, ValueError, TypeError, RecursionError) as error:
        if isinstance(error, LabError):
            raise
        raise LabError(f"{path} is damaged: it holds no fitted model ({' '.join(str(error).split())})") from None
    texts = tuple(problem["text"] for problem in note["problems"])
    return Fitted(
        model,
        note["log_likelihood"],
        note["valid_log_likelihood"],
        note.get("valid_problem", ""),
        note.get("observations"),
        note["updates"],
        note["converged"],
        texts,
    )
