"""Stacking certificate: members trained alone, compared with the stack that trained them.

In exact arithmetic the two are equal. They differ by the order of floating-point sums, and by the growth of these
differences in training; the certificate measures both.
"""

import math
from collections.abc import Sequence
from typing import Any

import polars as pl
import torch
from torch import Tensor

from shoal.errors import UserError
from shoal.fast.denormals import flushed_denormals
from shoal.fast.engine import available
from shoal.fast.multiplication import available_products
from shoal.lab.cohort import CohortFolder
from shoal.lab.environment import environment
from shoal.lab.lab import Lab
from shoal.spec import RunSpec
from shoal.training.continuation import Places, check_data, found_again, precision_of
from shoal.training.due import is_evaluated
from shoal.training.em_certificate import certify_em
from shoal.training.engines import em_engine, is_fitted_by_em
from shoal.training.frozen import tables_agree
from shoal.training.memory import places
from shoal.training.plan import Cohort
from shoal.training.stack import Stack
from shoal.training.step import evaluate, train_step

_MOVED = "if it was moved, name its path: shoal certify RUN {flags} (data=… from Python)"
_COMPARED = ("train_loss", "valid_loss")


def certify(
    folder: CohortFolder,
    runs: Sequence[str],
    steps: int = 100,
    device: torch.device | None = None,
    data: Places | None = None,
) -> dict[str, Any]:
    """Retrain a cohort's first steps, stacked and each of ``runs`` alone, and record the largest deviations.

    Args:
        folder: the cohort.
        runs: members to train alone.
        steps: number of steps; at most those of the shortest member.
        device: device of the training; the CPU when not given.
        data: current paths of data, by their identity; as :func:`shoal.training.continuation.places_of` gives them.

    Returns:
        Content of ``certificate.json``: for each run the largest absolute deviation of the losses (nats) over all
        evaluations up to ``steps``, and of the parameters after them, absolute and relative; and under ``record`` the
        largest deviation of the retrained stack's losses from the recorded ones.
    """
    if steps < 1:
        raise UserError(f"steps must be an integer of at least 1, got {steps}")
    device = device or torch.device("cpu")
    folder.check_sources()
    # the requested runs are among those that fit
    specs = sorted(found_again(folder.specs(), data or {}), key=lambda spec: spec.id not in runs)
    place = specs[0].task_part.place()
    check_data(folder, specs[0], _MOVED, place is not None and place[0] in (data or {}))
    Lab(folder.path.parent.parent).create()  # of today's format, that of the certificate
    manifest = folder.manifest()
    if is_fitted_by_em(specs[0].model):
        return _certify_em(folder, specs, runs, min(steps, *(spec.n_steps for spec in specs)))
    engine, _ = available(str(manifest.get("engine", "plain")), device)
    products = available_products(str(manifest.get("products", "torch")), device, precision_of(manifest))
    cohort = Cohort(tuple(specs[: places(specs[0], len(specs), device, engine, one_table=tables_agree(specs))]))
    steps = min(steps, *(spec.n_steps for spec in cohort.members))
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(manifest["threads"])
        made_with = {**environment(device), "engine": engine, "products": products}
        made_with |= {"precision": cohort.shared.precision}
        with flushed_denormals():
            stack, losses = _train(cohort, steps, device, engine, products)
            members = {}
            for index, spec in enumerate(cohort.members):
                if spec.id in runs:
                    alone, alone_losses = _train(Cohort((spec,)), steps, device, engine, products)
                    loss = float((losses[:, :, index] - alone_losses[:, :, 0]).abs().max())
                    members[spec.id] = {"loss": loss, **_deviation(stack, index, alone)}
    finally:
        torch.set_num_threads(threads)
    certificate = {
        "steps": steps,
        "members": len(cohort),
        "alone": members,
        "record": _record_deviation(folder, cohort, steps, losses),
        "environment": made_with,
    }
    folder.write_certificate(certificate)
    return certificate


def _certify_em(folder: CohortFolder, specs: Sequence[RunSpec], runs: Sequence[str], steps: int) -> dict[str, Any]:
    """Certificate of a cohort that EM fits, with ``alpha``, ``beta``, ``xi`` and more of each run, and ``fall``."""
    made_with = {**environment(torch.device("cpu")), "engine": em_engine().engine, "precision": "float64"}
    deviations, losses = certify_em(specs, runs, steps)
    record = _record_deviation(folder, Cohort(tuple(specs)), steps, losses)
    certificate = {"steps": steps, "members": len(specs), **deviations, "record": record, "environment": made_with}
    folder.write_certificate(certificate)
    return certificate


def _train(cohort: Cohort, steps: int, device: torch.device, engine: str, products: str) -> tuple[Stack, Tensor]:
    """Stack after ``steps``, and its losses at each scheduled evaluation, ``(T, 2, R)`` float64."""
    stack = Stack(cohort, device, engine, products)
    losses = []
    for step in range(steps + 1):
        if step > 0:
            train_step(stack)
        if is_evaluated(cohort.shared, step) or step == steps:
            values = evaluate(stack, {})
            losses.append(torch.stack([values[name] for name in _COMPARED]))
    return stack, torch.stack(losses)


def _deviation(stack: Stack, index: int, alone: Stack) -> dict[str, Any]:
    """Largest absolute deviation of a trained parameter, its tensor's name, and that relative to its largest value.

    Parameters that the outputs do not depend on are measured separately (biases of attention keys, which cancel in
    softmax): their gradient is rounding, which Adam scales up to full steps without any effect.
    """
    stacked, single = stack.member(index), alone.member(0)
    largest = {slot.name: float((stacked[slot.name] - single[slot.name]).abs().max()) for slot in stack.layout}
    unseen = set(stack.cohort.shared.model_part.without_effect(list(largest)))
    keys = [value for name, value in largest.items() if name in unseen]
    seen = {name: value for name, value in largest.items() if name not in unseen}
    where = max(seen, key=lambda name: seen[name])
    scale = float(single[where].abs().max())
    return {
        "parameters": seen[where],
        "parameters_relative": seen[where] / scale if scale else 0.0,
        "parameters_where": where,
        "key_biases": max(keys, default=0.0),
    }


def _record_deviation(folder: CohortFolder, cohort: Cohort, steps: int, losses: Tensor) -> float | None:
    """Largest difference between the retrained stack's losses and those on record, which are float32."""
    record = folder.metrics()
    if record.is_empty():
        return None
    largest = 0.0
    scheduled = [step for step in range(steps + 1) if is_evaluated(cohort.shared, step) or step == steps]
    for index, spec in enumerate(cohort.members):
        recorded = record.filter((pl.col("run") == spec.id) & pl.col("step").is_in(scheduled)).sort("step")
        for row in recorded.iter_rows(named=True):
            again = losses[scheduled.index(row["step"]), :, index].float().tolist()
            largest = max(largest, *(_gap(now, row[name]) for now, name in zip(again, _COMPARED, strict=True)))
    return largest


def _gap(now: float, then: float) -> float:
    """Distance of two losses; 0 between NaN and NaN, infinite between NaN and a number."""
    if math.isnan(now) or math.isnan(then):
        return 0.0 if math.isnan(now) and math.isnan(then) else math.inf
    return 0.0 if now == then else abs(now - then)
