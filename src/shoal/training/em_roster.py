"""Members of a cohort that EM fits: models that learn, runs that wait for a place, and endings.

A place is a row of every array. What a member computes does not depend on its neighbours.

Shapes: ``R`` members, ``K`` states, ``S`` sequences, ``n`` observations of all of them, ``D`` dimensions.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from shoal.hmm import HMM, Sequences, arrays_of, model_of, random_models
from shoal.hmm.data import Array
from shoal.hmm.em import variance_floor
from shoal.spec import RunSpec
from shoal.tasks.sequences.data import Observations, resampled
from shoal.training.roster import Ending, State

NEVER = -1  # step of a fall that was not


class Fitted:
    """Data of a cohort that EM fits, the same for all members.

    Attributes:
        sequences: all sequences.
        training: those that train.
        is_valid: True for each that validates, ``(S,)``.
        counts: observations of each that are not missing, ``(S,)``.
        floor: smallest variance in each dimension, ``(D,)``; None of symbols.
    """

    def __init__(self, spec: RunSpec) -> None:
        observations: Observations = spec.task_part.data()  # type: ignore[attr-defined]  # of sequences
        self.sequences = Sequences(observations.values, observations.lengths)
        self.is_valid, self.counts = observations.is_valid, observations.counts
        self.training = self.sequences.subset(np.flatnonzero(~self.is_valid))
        self.floor = None if self.sequences.is_symbols else variance_floor(self.training, spec.variance_floor)

    def start(self, spec: RunSpec) -> HMM:
        """Model at which a run begins, by its ``init_seed``."""
        V = spec.num_symbols or None
        return random_models(self.training, spec.num_states, 1, spec.init_seed, V=V, covariance=spec.covariance)

    def weights(self, spec: RunSpec) -> Array:
        """Weight of each sequence in the training of a run, ``(S,)``."""
        return resampled(self.is_valid, spec.bootstrap_seed)


class EMRoster:
    """Standing of the members; see :class:`shoal.training.session.Standing`.

    Attributes:
        specs: all runs, by id.
        data: the data.
        members: runs that learn, in the order of the arrays.
        model: their models.
        weights: weights of sequences, ``(R, S)``.
        last_steps: largest number of updates of each, ``(R,)``.
        tolerance: gain in nats at which each has converged, ``(R,)``.
        taken: number of updates of each, ``(R,)``.
        before: log-likelihood before the last update, ``(R,)``; NaN before the first.
        fell_at: update at which it fell first, ``(R,)``; -1 where it never did.
        finished: endings of runs that have left.
        places: largest number of members that learn side by side.
        until: step at which each run pauses, before that step is evaluated; a run without an entry stays where it is.
            None where none pauses.
    """

    def __init__(
        self, specs: Sequence[RunSpec], data: Fitted, places: int, until: Mapping[str, int] | None = None
    ) -> None:
        self.specs, self.until = {spec.id: spec for spec in specs}, until
        self.data, self.places = data, places
        self.members: list[str] = []
        self.finished: dict[str, Ending] = {}
        self.parked: dict[str, State] = {}
        self._set({}, [])

    def _set(self, arrays: Mapping[str, Any], members: list[str]) -> None:
        self.members = members
        self.model: HMM | None = None
        self.weights = np.zeros((len(members), len(self.data.counts)))
        self.last_steps = np.array([self.specs[run].n_steps for run in members], dtype=np.int64)
        self.tolerance = np.array([self.specs[run].tolerance for run in members])
        self.taken = np.zeros(len(members), dtype=np.int64)
        self.before, self.fell_at = np.full(len(members), np.nan), np.full(len(members), NEVER)
        for place, run in enumerate(members):
            self.weights[place] = self.data.weights(self.specs[run])
        if members:
            self.model = model_of({name: arrays[name] for name in arrays if name not in _COUNTED})
            self.taken, self.before, self.fell_at = (np.array(arrays[name]) for name in _OWN)

    @property
    def current(self) -> HMM:
        """Models of the members.

        Raises:
            AssertionError: there is none.
        """
        assert self.model is not None
        return self.model

    def pause_of(self, run: str) -> int:
        """Step at which a run pauses; ``sys.maxsize`` where none does, or where it ends there or before."""
        if self.until is None or self.until.get(run, 0) >= self.specs[run].n_steps:
            return sys.maxsize
        return self.until.get(run, 0)

    @property
    def waiting(self) -> list[str]:
        """Runs that wait for a place; those that have begun come first, and those that pause are not among them."""
        known = self.finished.keys() | set(self.members) | self.parked.keys()
        begun = [run for run, row in self.parked.items() if int(row["steps"]) < self.pause_of(run)]
        return [*begun, *(run for run in self.specs if run not in known and self.pause_of(run) > 0)]

    @property
    def is_done(self) -> bool:
        """Return True if every member has left or pauses."""
        return not self.members and not self.waiting

    def fill(self) -> None:
        """Give free places to runs that wait."""
        joining = self.waiting[: self.places - len(self.members)]
        if not joining:
            return
        rows = [] if not self.members else [self._arrays()]
        for run in joining:
            parked = self.parked.pop(run, None)
            rows.append(self._begun(run) if parked is None else {name: parked[name].numpy() for name in parked})
        joined = {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
        self._set(joined, [*self.members, *joining])

    def _begun(self, run: str) -> dict[str, Any]:
        counted = (np.zeros(1, dtype=np.int64), np.full(1, np.nan), np.full(1, NEVER))
        last = np.array([self.specs[run].n_steps], dtype=np.int64)
        start = arrays_of(self.data.start(self.specs[run]))
        return {**start, **dict(zip(_OWN, counted, strict=True)), "last_steps": last}

    def pause(self) -> None:
        """Take members that pause out, with their state."""
        if self.until is None:
            return
        pausing = [place for place, run in enumerate(self.members) if self.taken[place] >= self.pause_of(run)]
        if not pausing:
            return
        arrays = self._arrays()
        for place in pausing:
            row = {name: torch.from_numpy(array[place : place + 1].copy()) for name, array in arrays.items()}
            self.parked[self.members[place]] = row
        self._keep([place for place in range(len(self.members)) if place not in pausing])

    def _keep(self, places: list[int]) -> None:
        """Drop the members of all other places."""
        rows = {name: array[places] for name, array in self._arrays().items()}
        self._set(rows, [self.members[place] for place in places])

    def leave(self, endings: Mapping[int, Ending]) -> None:
        """Let members go, by their places."""
        for place, ending in endings.items():
            self.finished[self.members[place]] = ending
        self._keep([place for place in range(len(self.members)) if place not in endings])

    def steps(self) -> dict[str, int]:
        """Number of updates of each run."""
        now = dict(zip(self.members, self.taken.tolist(), strict=True))
        now |= {run: int(row["steps"]) for run, row in self.parked.items()}
        taken = {run: int(str(ending["step"])) for run, ending in self.finished.items()}
        return {run: taken.get(run, now.get(run, 0)) for run in self.specs}

    def ends(self) -> list[int]:
        """Step at which each run ends or pauses, or has."""
        steps = self.steps()
        last = {run: max(steps[run], min(spec.n_steps, self.pause_of(run))) for run, spec in self.specs.items()}
        return [int(str(self.finished[run]["step"])) if run in self.finished else last[run] for run in self.specs]

    # for a checkpoint

    def _arrays(self) -> dict[str, Any]:
        counted = dict(zip(_OWN, (self.taken, self.before, self.fell_at), strict=True))
        return {**arrays_of(self.current), **counted, "last_steps": self.last_steps}

    def state(self) -> dict[str, Tensor]:
        """See :class:`shoal.training.session.Standing`."""
        rows = [{name: torch.from_numpy(array) for name, array in self._arrays().items()}] if self.members else []
        rows += [dict(row) for row in self.parked.values()]
        return {name: torch.cat([row[name] for row in rows]) for name in rows[0]} if rows else {}

    def where(self) -> dict[str, Any]:
        """See :class:`shoal.training.session.Standing`."""
        return {"members": self.members, "parked": list(self.parked), "finished": self.finished}

    def restore(self, state: State, where: Mapping[str, Any], check: Callable[[State, State], None]) -> None:
        """Restore the standing of a checkpoint; members for which there are no places now are parked.

        Args:
            state: tensors of :meth:`state`.
            where: JSON of :meth:`where`.
            check: function that compares the state with an example of its shapes and types.
        """
        self.finished, self.parked = dict(where["finished"]), {}
        begun = [*where["members"], *where.get("parked", [])]
        self._set({}, [])
        if not begun:
            return
        example = {name: torch.from_numpy(array) for name, array in self._begun(begun[0]).items()}
        check(state, {name: row.expand(len(begun), *row.shape[1:]) for name, row in example.items()})
        steps = dict(zip(begun, state["steps"].tolist(), strict=True))
        able = [run for run in begun if steps[run] < self.pause_of(run)][: self.places]
        rows = [begun.index(run) for run in able]
        self._set({name: tensor.numpy()[rows] for name, tensor in state.items()}, able)
        self.parked = {
            run: {name: tensor[place : place + 1].clone() for name, tensor in state.items()}
            for place, run in enumerate(begun)
            if run not in able
        }

    def alone(self, place: int) -> dict[str, Tensor]:
        """Arrays of one member's model, without the axis of members, as they are kept."""
        return {name: torch.from_numpy(array[place].copy()) for name, array in arrays_of(self.current).items()}


_OWN = ("steps", "before", "fell_at")
_COUNTED = (*_OWN, "last_steps")
