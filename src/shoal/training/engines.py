"""Engine of a cohort, whichever rule trains it: one of :mod:`shoal.fast.engine`, or the kernels of EM."""

from collections.abc import Mapping
from typing import Any

import torch

from shoal.errors import UserError
from shoal.fast.build import compiled
from shoal.fast.engine import Choice, available, choose_engine
from shoal.hmm import native
from shoal.registry import MODELS
from shoal.training.plan import Cohort


def is_fitted_by_em(model: str) -> bool:
    """Return True if EM fits the models of a family."""
    return bool(MODELS[model].fitted_by == "em")


def engine_for(cohort: Cohort, device: torch.device, wanted: str | None = None) -> Choice:
    """Engine for a new cohort; see :func:`shoal.fast.engine.choose_engine`."""
    if is_fitted_by_em(cohort.shared.model):
        return em_engine()
    return choose_engine(cohort.shared, cohort.seconds, device, wanted)


def engine_again(manifest: Mapping[str, Any], device: torch.device) -> tuple[str, str]:
    """Engine with which a cohort can be resumed here, and the reason."""
    if is_fitted_by_em(manifest["members"][0]["spec"]["model"]):
        return em_engine().engine, em_engine().why
    return available(str(manifest.get("engine", "plain")), device)


def em_engine() -> Choice:
    """Engine of EM on this machine: its kernels, or numpy without a compiler."""
    kernels = compiled(native.SOURCE)
    return Choice("plain" if kernels.library is None else "compiled", kernels.note)


def em_kernels() -> dict[str, str]:
    """Record entry ``kernels`` of this machine; empty without a compiler."""
    kernels = compiled(native.SOURCE)
    return {} if kernels.library is None else {"kernels": kernels.key}


def check_engine(model: str, engine: str | None) -> None:
    """Raise :class:`UserError` for an engine that was asked for and that EM does not have."""
    if is_fitted_by_em(model) and engine not in (None, "compiled"):
        raise UserError(f"engine {engine} does not apply to model {model!r}; compiled does")
