"""Session of a cohort that EM fits: hidden Markov models side by side, in float64.

An update is a step. The expected counts of an update give the likelihood of the model before it, on the training and on
the validation sequences, so that an evaluation costs nothing. A member leaves when an update gains less than its
tolerance, at its last step, or when its likelihood falls or is 0. No Python work in an update grows with the members.

Source: Baum, Petrie, Soules and Weiss 1970; see :mod:`shoal.hmm.em`, of which a member's updates have the bits.

Shapes: ``R`` members, ``S`` sequences.
"""

import json
import time
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace

import numpy as np
import polars as pl
import torch

from shoal.errors import UserError
from shoal.hmm import HMM, Counts, Problem, arrays_of, conditional_counts, degeneracies, expected_counts, maximised
from shoal.hmm.counts import impossible_observations, in_lanes
from shoal.hmm.data import Array
from shoal.hmm.em import FALL, falls
from shoal.lab.cohort import CohortFolder
from shoal.measures import SPLITS
from shoal.training.due import is_evaluated, is_saved
from shoal.training.em_roster import NEVER, EMRoster, Fitted
from shoal.training.engines import em_engine, em_kernels
from shoal.training.roster import Ending
from shoal.training.session import BaseSession, Options

_LATTICE = 1 << 23  # numbers of an array of messages, where the other update needs them


@dataclass(frozen=True, eq=False)
class Evaluated:
    """Evaluation of models.

    Attributes:
        counts: expected counts of the training sequences.
        train: log-likelihood of the training sequences, each times its weight, ``(R,)``, in nats.
        valid: log-likelihood of the validation sequences, ``(R,)``.
        losses: nats per observation that is not missing, on each split, ``(R,)`` each.
    """

    counts: Counts
    train: Array
    valid: Array
    losses: dict[str, Array]


def evaluated(model: HMM, data: Fitted, weights: Array, update: str = "pairwise") -> Evaluated:
    """Expected counts of models and the likelihoods that come with them.

    Args:
        model: models, R of them.
        data: data of the cohort.
        weights: weights of sequences, ``(R, S)``.
        update: ``pairwise`` or ``conditional``, see :func:`shoal.hmm.fit`.
    """
    counts = _counts(model, data, weights)
    if update == "conditional":
        step = max(1, _LATTICE // (len(data.sequences.values) * model.K))
        rows = np.arange(len(model))
        parts = [rows[first : first + step] for first in range(0, len(rows), step)]
        pairs = [conditional_counts(model.select(part), data.sequences, weights[part]) for part in parts]
        counts = replace(counts, pairs=np.concatenate(pairs))
    with np.errstate(invalid="ignore"):
        train = np.where(weights > 0, counts.log_likelihood * weights, 0.0).sum(axis=1)
    valid = np.ascontiguousarray(counts.log_likelihood[:, data.is_valid]).sum(axis=1)  # each row in one order
    n_train = np.maximum((weights * data.counts).sum(axis=1), 1.0)
    losses = {"train": -train / n_train, "valid": -valid / data.counts[data.is_valid].sum()}
    return Evaluated(counts, train, valid, losses)


def _counts(model: HMM, data: Fitted, weights: Array) -> Counts:
    """Counts with the bits that a model has beside others, also where it is alone."""
    if len(model) > 1 or in_lanes(1, model.K) or not in_lanes(2, model.K):
        return expected_counts(model, data.sequences, weights)
    return expected_counts(model.select([0, 0]), data.sequences, weights[[0, 0]]).select(np.array([0]))


class EMSession(BaseSession):
    """Session of one process that fits one cohort by EM."""

    roster: EMRoster

    def __init__(self, folder: CohortFolder, options: Options) -> None:
        super().__init__(folder, options)
        if names := self.manifest["metrics"]:
            raise UserError(
                f"metric {names[0]!r} does not apply to models fitted by EM, which have no parameters in torch"
            )
        self.engine, self.products = em_engine().engine, "torch"
        self.planned = options.places or len(self.specs)
        self.data = Fitted(self.shared)
        self.roster = EMRoster(self.specs, self.data, self.planned, options.until)
        if (flushed := self._last_flush()) is not None:
            state, where = flushed
            self.planned = self.roster.places = options.places or where["places"]
            self.roster.restore(state, where, folder.check_checkpoint)
        how = {"precision": "float64", "engine": self.engine, "products": self.products}
        kernels = em_kernels()
        if any(session.get("kernels") != kernels.get("kernels") for session in folder.status()["sessions"]):
            warnings.warn(
                f"cohort {folder.id} goes on with kernels compiled otherwise than before, or without: the last bits of "
                "what follows will differ",
                stacklevel=2,
            )
        self._begin(torch.device("cpu"), {**how, **kernels})

    def advance(self) -> int:
        """See :class:`BaseSession`: one update of every member."""
        roster = self.roster
        roster.fill()
        began, members = time.monotonic(), len(roster.members)
        now = evaluated(roster.current, self.data, roster.weights, self.shared.update)
        going, endings = self._standing(now)
        self._record(now, endings)
        counts = now.counts
        if endings:
            roster.leave(endings)
            counts = counts.select(going)
        if roster.members:
            roster.before = now.train[going]
            roster.model = maximised(roster.current, counts, self.data.floor)
            roster.taken += 1
            roster.pause()
        self.pace.steps.add(self, members, time.monotonic() - began)
        self.since = self.since or (time.monotonic(), self._mean_step())
        if self._flush_is_due():
            self._flush()
        self._watch("running")
        return 1

    def _standing(self, now: Evaluated) -> tuple[np.ndarray, dict[int, Ending]]:
        """Members that go on, as a mask ``(R,)``, and the endings of the others by their places."""
        roster = self.roster
        fell = falls(roster.before, now.train) > FALL  # never before the first update, where there is no number
        roster.fell_at = np.where(fell & (roster.fell_at == NEVER), roster.taken, roster.fell_at)
        with np.errstate(invalid="ignore"):
            converged = ~fell & (np.abs(now.train - roster.before) < roster.tolerance)
        impossible = now.train == -np.inf
        failed = impossible | (fell & (self.shared.update == "pairwise"))
        leaving = failed | converged | (roster.taken >= roster.last_steps)
        endings: dict[int, Ending] = {}
        for place in np.flatnonzero(leaving).tolist():
            problems = self._problems(place, now)
            words = "; ".join(problem.text for problem in problems)
            state = "diverged" if failed[place] else "done"
            step = int(roster.taken[place])
            endings[place] = {"state": state, "step": step, **({"problem": words} if words else {})}
            self._keep(place, now, problems, bool(converged[place]))
        return ~leaving, endings

    def _problems(self, place: int, now: Evaluated) -> list[Problem]:
        """Problems of a member, for which it is never the best of its restarts."""
        roster, problems = self.roster, []
        if now.train[place] == -np.inf:
            problems.append(Problem("impossible", (), self._impossible(place, now, roster.weights[place] > 0)))
        if roster.fell_at[place] != NEVER:
            at = int(roster.fell_at[place])
            problems.append(Problem("fell", (), f"the log-likelihood fell at update {at}"))
        one = roster.current.select(place)
        return [*problems, *degeneracies(one, now.counts.visits[place], self.data.floor)]

    def _impossible(self, place: int, now: Evaluated, among: np.ndarray) -> str:
        """Words for the first observation of these sequences, ``(S,)``, that a member holds impossible."""
        places = impossible_observations(now.counts.select(np.array([place])), self.data.sequences)
        first = next(one for one in places if among[one.sequence])
        name = "the observation"
        if first.symbol is not None:
            name = f"symbol {self.shared.task_part.data().symbols[first.symbol]!r}"  # type: ignore[attr-defined]
        return f"{name} at position {first.position} of sequence {first.sequence} is impossible"

    def _record(self, now: Evaluated, endings: Mapping[int, Ending]) -> None:
        """Keep rows of the members that the schedule evaluates, and models that it saves."""
        roster, spec = self.roster, self.shared
        ending = np.isin(np.arange(len(roster.members)), list(endings))
        steps = torch.from_numpy(roster.taken)
        due = np.asarray(is_evaluated(spec, steps)) | ending
        if due.any():
            losses = {f"{split}_loss": now.losses[split][due].astype(np.float32) for split in SPLITS}
            norms = _norms(roster.current)[due].astype(np.float32)
            runs = [run for run, is_due in zip(roster.members, due.tolist(), strict=True) if is_due]
            rows = {"run": runs, "step": roster.taken[due], **losses, "l2_norm": norms}
            self.rows.append(pl.DataFrame(rows, schema_overrides={"step": pl.Int64}))
            self.evaluated = int(roster.taken[due].mean())
            for split in SPLITS:
                shown = now.losses[split][due]
                self.shown[split] = (float(shown.min()), float(np.median(shown)), float(shown.max()))
        saved = np.asarray(is_saved(spec, steps)) & ~ending
        for place in np.flatnonzero(saved).tolist():
            self._keep(place, now, self._problems(place, now), False)

    def _keep(self, place: int, now: Evaluated, problems: list[Problem], converged: bool) -> None:
        roster = self.roster
        step = int(roster.taken[place])
        is_valid = self.data.is_valid
        note = {
            "log_likelihood": float(now.train[place]),
            "valid_log_likelihood": float(now.valid[place]),
            "valid_problem": self._impossible(place, now, is_valid) if now.valid[place] == -np.inf else "",
            "observations": float(roster.weights[place] @ self.data.counts),
            "updates": step,
            "converged": converged,
            "problems": [asdict(problem) for problem in problems],
        }
        spec = roster.specs[roster.members[place]]
        self.folder.save_model(spec, step, roster.alone(place), {"fit": json.dumps(note)})

    def _flush_is_due(self) -> bool:
        period = self.shared.save_statistic_step
        timely = time.monotonic() - self.flushed >= self.options.flush_seconds
        return timely or (period is not None and bool((self.roster.taken % period == 0).any()))


def _norms(model: HMM) -> Array:
    """Norm of all numbers of each model, ``(R,)``."""
    squares = [np.square(array).reshape(len(model), -1).sum(axis=1) for array in arrays_of(model).values()]
    return np.asarray(np.sqrt(np.sum(squares, axis=0)))
