"""Which engine computes a cohort, and why.

- ``compiled``: prefix by prefix, with kernels compiled for this machine's CPU or card; what it saves is products not
  made twice, passes over memory and, on a card, launches.
- ``prefixes``: prefix by prefix, with PyTorch's own operations; on any device.
- ``plain``: the model as it is written, lifted over the members by ``torch.func.vmap``; covers everything.
"""

from dataclasses import dataclass
from typing import Any

import torch

from shoal.fast.adam import FusedAdam
from shoal.fast.build import SECONDS, is_compiled
from shoal.fast.fused import fused_kernels
from shoal.fast.ops import TorchOps
from shoal.fast.scorer import CompiledScorer, Members, PrefixScorer, covers

ENGINES = ("compiled", "prefixes", "plain")


@dataclass(frozen=True)
class Choice:
    """An engine and why it was chosen."""

    engine: str
    why: str


def choose_engine(config: Any, seconds: float, device: torch.device, wanted: str | None = None) -> Choice:
    """The engine for a cohort.

    Args:
        config: the settings that the members share.
        seconds: about how long the training takes, to see whether compiling is worth its time.
        device: where it trains.
        wanted: the engine that was asked for.
    """
    if wanted == "plain":
        return Choice("plain", "asked for")
    if config.dropout > 0:
        return Choice("plain", f"dropout={config.dropout} gives equal prefixes unequal states")
    if wanted == "prefixes":
        return Choice("prefixes", "asked for")
    if config.precision == "bfloat16":
        return Choice("prefixes", "the kernels are for float32, not for bfloat16")
    if wanted is None and device.type == "cpu" and seconds < 4 * SECONDS and not is_compiled():
        return Choice("prefixes", f"about {seconds:.0f} s of training are not worth {SECONDS:.0f} s of compiling")
    found = fused_kernels(device)
    if found.library_for is None:
        return Choice("prefixes", found.note)
    return Choice("compiled", found.note if wanted is None else "asked for")


def available(engine: str, device: torch.device) -> tuple[str, str]:
    """The engine with which a cohort that was begun with ``engine`` can go on here, and why that one."""
    if engine == "compiled" and fused_kernels(device).library_for is None:
        return "prefixes", fused_kernels(device).note
    return engine, "the same"


def choose_scorer(engine: str, members: Members) -> PrefixScorer | None:
    """What computes the objective, or None where the model itself has to."""
    config = members.config
    if torch.cuda.is_available():  # the switch is the process's: each cohort sets it
        torch.backends.cuda.matmul.fp32_precision = "tf32" if config.precision == "tf32" else "ieee"
    if engine == "plain" or not covers(config, members.model, members.task):
        return None
    library_for = fused_kernels(members.theta.device).library_for if engine == "compiled" else None
    if library_for is not None:
        return CompiledScorer(members, library_for)
    ops = TorchOps(torch.bfloat16 if config.precision == "bfloat16" else None)
    return PrefixScorer(members, ops)


def fused_update(engine: str, optimizer: str, device: torch.device) -> FusedAdam | None:
    """The optimizer as one kernel, where there is one."""
    is_fused = engine == "compiled" and optimizer in ("adam", "adamw")
    library_for = fused_kernels(device).library_for if is_fused else None
    return None if library_for is None else FusedAdam(library_for(None), decoupled=optimizer == "adamw")
