"""Certificate of a cohort that EM fits: members alone against the stack, messages against every path.

Updates are made again, stacked and alone. Of the models that come out, α, β, the pairwise posteriors ξ and the
likelihood of the first observations are compared with sums over every path, and the likelihood of every update with
that before it.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from shoal.hmm import HMM, Sequences, arrays_of, maximised, messages, pairwise_posteriors, stacked
from shoal.hmm.data import Array
from shoal.hmm.em import falls
from shoal.hmm.enumeration import enumerated, longest
from shoal.spec import RunSpec
from shoal.training.due import is_evaluated
from shoal.training.em import evaluated
from shoal.training.em_roster import Fitted


def certify_em(specs: Sequence[RunSpec], runs: Sequence[str], steps: int) -> tuple[dict[str, Any], torch.Tensor]:
    """Deviations of each of ``runs`` fitted alone, and the losses of the stack.

    Args:
        specs: all members.
        runs: those to fit alone.
        steps: number of updates.

    Returns:
        ``alone``, by run, with ``fall``, the largest relative fall of a likelihood from one update to the next, over
        all members; and losses ``(T, 2, R)`` at each scheduled evaluation and after the last update.
    """
    data = Fitted(specs[0])
    stack, losses, fall = _fitted(specs, data, steps)
    alone = {}
    for index, spec in enumerate(specs):
        if spec.id in runs:
            single, own_losses, _ = _fitted([spec], data, steps)
            loss = _largest(losses[:, :, index] - own_losses[:, :, 0])
            alone[spec.id] = {"loss": loss, **_deviation(stack.select(index), single), **against_paths(single, data)}
    return {"alone": alone, "fall": fall}, torch.from_numpy(losses)


def _fitted(specs: Sequence[RunSpec], data: Fitted, steps: int) -> tuple[HMM, Array, float]:
    """Models after so many updates, losses ``(T, 2, R)``, and the largest fall of a likelihood (see ``falls``)."""
    model = stacked([data.start(spec) for spec in specs])
    weights = np.stack([data.weights(spec) for spec in specs])
    losses, fall, before = [], 0.0, None
    for step in range(steps + 1):
        now = evaluated(model, data, weights, specs[0].update)
        if before is not None:
            fall = max(fall, float(falls(before, now.train).max()))
        if is_evaluated(specs[0], step) or step == steps:
            losses.append(np.stack([now.losses["train"], now.losses["valid"]]))
        before = now.train
        if step < steps:
            model = maximised(model, now.counts, data.floor)
    return model, np.stack(losses), fall


def _deviation(member: HMM, single: HMM) -> dict[str, Any]:
    """Largest absolute deviation of a parameter, its array, and that relative to its largest value."""
    ours, theirs = arrays_of(member), arrays_of(single)
    largest = {name: _largest(ours[name] - theirs[name]) for name in ours}
    where = max(largest, key=lambda name: largest[name])
    scale = float(np.abs(theirs[where]).max())
    relative = largest[where] / scale if scale else 0.0
    return {"parameters": largest[where], "parameters_relative": relative, "parameters_where": where}


def against_paths(model: HMM, data: Fitted) -> dict[str, Any]:
    """Largest deviations from sums over every path on the first observations of the first sequence.

    Returns:
        ``alpha`` and ``beta`` relative to the largest, ``xi`` of probabilities, ``log_likelihood`` in nats, and the
        number of ``observations``.
    """
    n = min(longest(model.K), int(data.sequences.lengths[0]))
    first = Sequences(data.sequences.values[:n])
    right, lattice = enumerated(model, first), messages(model, first)
    deviations = {
        "alpha": _relative(np.exp(lattice.log_alpha[0]), right.alpha),
        "beta": _relative(np.exp(lattice.log_beta[0]), right.beta),
        "xi": _largest(pairwise_posteriors(model, first)[0] - right.pairs),
    }
    with np.errstate(divide="ignore"):
        logs = np.log(right.likelihood)
    measured = float(lattice.log_likelihood[0, 0])
    return {**deviations, "log_likelihood": 0.0 if measured == logs else abs(measured - float(logs)), "observations": n}


def _relative(measured: Array, right: Array) -> float:
    largest = float(np.abs(right).max())
    return _largest(measured - right) / largest if largest else _largest(measured)


def _largest(difference: Array) -> float:
    return float(np.abs(np.nan_to_num(difference, nan=0.0)).max()) if difference.size else 0.0
