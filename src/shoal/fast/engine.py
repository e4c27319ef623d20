"""Which engine computes a cohort, and why.

- ``compiled``: prefix by prefix, with kernels compiled for this machine's CPU or GPU; what it saves is products not
  made twice, passes over memory and, on a GPU, launches.
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
from shoal.fast.ops import TorchOps
from shoal.fast.scorer import CompiledScorer, Members, PrefixScorer, check_served, refusal

ENGINES = ("compiled", "prefixes", "plain")


@dataclass(frozen=True)
class Choice:
    """An engine and why it was chosen."""

    engine: str
    why: str


def choose_engine(config: Any, seconds: float, device: torch.device, wanted: str | None = None) -> Choice:
    """The engine for a cohort: the first of those that are wanted and do not refuse it.

    Args:
        config: the spec of any member.
        seconds: about how long the training takes, to see whether compiling is worth its time.
        device: where it trains.
        wanted: the engine that was asked for; where it refuses, the next simpler one computes, and says why.
    """
    first = ENGINES.index(wanted) if wanted else 0
    why = "asked for"
    for engine in ENGINES[first:]:
        refused = _refusal(engine, config, seconds, device, wanted)
        if refused is None:
            return Choice(engine, fused_kernels(device).note if engine == "compiled" and wanted is None else why)
        why = refused
    raise AssertionError("plain computes everything")


def _refusal(engine: str, config: Any, seconds: float, device: torch.device, wanted: str | None) -> str | None:
    """Why an engine does not compute a cohort; None where it does."""
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
    found = fused_kernels(device)
    return found.note if found.library_for is None else None


def available(engine: str, device: torch.device) -> tuple[str, str]:
    """The engine with which a cohort that was begun with ``engine`` can go on here, and why that one."""
    if engine == "compiled" and fused_kernels(device).library_for is None:
        return "prefixes", fused_kernels(device).note
    return engine, "the same"


def choose_scorer(engine: str, members: Members) -> PrefixScorer | None:
    """What computes the objective; None where the model itself does, engine ``plain``.

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
        return CompiledScorer(members, library_for)
    ops = TorchOps(torch.bfloat16 if config.precision == "bfloat16" else None)
    return PrefixScorer(members, ops)


def uses_kernels(engine: str, config: Any, device: torch.device) -> bool:
    """Whether kernels compute something of a cohort where this machine has them; they move the last bits.

    ``plain`` has them for the update alone, of tasks that fuse.
    """
    if engine == "plain":
        return config.task_part.fuses and config.rule.kernel is not None and device.type == "cpu"
    return engine == "compiled"


def fused_update(engine: str, config: Any, device: torch.device) -> FusedAdam | None:
    """The optimizer as one kernel, where there is one."""
    kernel = config.rule.kernel
    library_for = fused_kernels(device).library_for if kernel and uses_kernels(engine, config, device) else None
    return None if library_for is None else FusedAdam(library_for(None), decoupled=kernel == "adamw")
