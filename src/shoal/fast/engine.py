"""Choice of the engine that computes a cohort.

- ``compiled``: prefix by prefix, with kernels compiled for this machine's CPU or GPU; it saves repeated products,
  passes over memory and, on a GPU, launches.
- ``prefixes``: prefix by prefix, with PyTorch's own operations; on any device.
- ``plain``: the model as it is written, lifted over the members by ``torch.func.vmap``; covers everything. Where the
  task fuses, attention is one operation of PyTorch's and Adam one kernel.
"""

from dataclasses import dataclass
from typing import Any

import torch

from shoal.fast.adam import FusedAdam
from shoal.fast.build import SECONDS, is_compiled
from shoal.fast.fused import fused_kernels
from shoal.fast.multiplication import choose_products
from shoal.fast.ops import TorchOps
from shoal.fast.scorer import CompiledScorer, Members, PrefixScorer, check_served, refusal

ENGINES = ("compiled", "prefixes", "plain")


@dataclass(frozen=True)
class Choice:
    """Engine, the reason for its choice, and the library of its matrix products."""

    engine: str
    why: str
    products: str = "torch"


def choose_engine(config: Any, seconds: float, device: torch.device, wanted: str | None = None) -> Choice:
    """Engine for a cohort: the first of the wanted ones that does not refuse it.

    Args:
        config: the spec of any member.
        seconds: approximate duration of the training, to decide whether compiling is worth its time.
        device: device of the training.
        wanted: engine that was asked for; where it refuses, the next simpler one is chosen, with the reason.
    """
    first = ENGINES.index(wanted) if wanted else 0
    why = "asked for"
    for engine in ENGINES[first:]:
        refused = _refusal(engine, config, seconds, device, wanted)
        if refused is None:
            why = fused_kernels(device).note if engine == "compiled" and wanted is None else why
            return Choice(engine, why, products_for(engine, config, device))
        why = refused
    raise AssertionError("plain computes everything")


def _refusal(engine: str, config: Any, seconds: float, device: torch.device, wanted: str | None) -> str | None:
    """Reason why an engine does not compute a cohort; None where it does."""
    if engine == "plain":
        return None
    if (why := refusal(config)) is not None:
        return why
    if engine == "prefixes":
        return None
    if config.precision == "bfloat16":
        return "the kernels are for float32, not for bfloat16"
    if wanted is None and device.type == "cpu" and seconds < 4 * SECONDS and not is_compiled():
        return f"about {seconds:.0f} s of training are not worth {SECONDS:.0f} s of compiling"
    kernels = fused_kernels(device)
    return kernels.note if kernels.library_for is None else None


def available(engine: str, device: torch.device) -> tuple[str, str]:
    """Engine with which a cohort that was begun with ``engine`` can be resumed here, and the reason."""
    if engine == "compiled" and fused_kernels(device).library_for is None:
        return "prefixes", fused_kernels(device).note
    return engine, "the same"


def products_for(engine: str, config: Any, device: torch.device) -> str:
    """Faster library of matrix products for an engine: one of :data:`shoal.fast.multiplication.PRODUCTS`."""
    return choose_products(config.get("embedding_size", 0), device) if engine == "compiled" else "torch"


def choose_scorer(engine: str, members: Members, products: str | None = None) -> PrefixScorer | None:
    """Scorer that computes the objective; None where the model itself does, engine ``plain``.

    Args:
        engine: engine of the members.
        members: the members.
        products: library of the matrix products; the faster one where not given.

    Raises:
        UserError: the engine does not serve these members.
    """
    config = members.config
    if torch.cuda.is_available():  # the switch is the process's: each cohort sets it
        torch.backends.cuda.matmul.fp32_precision = "tf32" if config.precision == "tf32" else "ieee"
    if engine == "plain":
        return None
    check_served(members.model, members.task)
    library_for = fused_kernels(members.theta.device).library_for if engine == "compiled" else None
    if library_for is not None:
        return CompiledScorer(members, library_for, products or products_for(engine, config, members.theta.device))
    ops = TorchOps(torch.bfloat16 if config.precision == "bfloat16" else None)
    return PrefixScorer(members, ops)


def uses_kernels(engine: str, config: Any, device: torch.device) -> bool:
    """Return True if kernels compute a part of a cohort where this machine has them; they change the last bits.

    ``plain`` has them for the update alone, of tasks that fuse.
    """
    if engine == "plain":
        return config.task_part.fuses and config.rule.kernel is not None and device.type == "cpu"
    return engine == "compiled"


def fused_update(engine: str, config: Any, device: torch.device) -> FusedAdam | None:
    """Update rule as one kernel, where there is one."""
    kernel = config.rule.kernel
    library_for = fused_kernels(device).library_for if kernel and uses_kernels(engine, config, device) else None
    return None if library_for is None else FusedAdam(library_for(None), decoupled=kernel == "adamw")
