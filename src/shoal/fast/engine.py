"""Which engine computes a cohort, and why.

- ``compiled``: prefix by prefix, with kernels compiled for this machine's CPU; what it saves is products not made
  twice and passes over memory.
- ``prefixes``: prefix by prefix, with PyTorch's own operations; on any device.
- ``plain``: the model as it is written, lifted over the members by ``torch.func.vmap``; covers everything.
"""

from dataclasses import dataclass
from typing import Any

import torch

from shoal.fast.adam import FusedAdam
from shoal.fast.build import SECONDS, is_compiled, kernels
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
    if device.type != "cpu" or config.precision != "float32":
        return Choice("prefixes", f"the kernels are for float32 on the CPU, not {config.precision} on {device.type}")
    if wanted is None and seconds < 4 * SECONDS and not is_compiled():
        return Choice("prefixes", f"about {seconds:.0f} s of training are not worth {SECONDS:.0f} s of compiling")
    found = kernels()
    if found.library is None:
        return Choice("prefixes", found.note)
    return Choice("compiled", found.note if wanted is None else "asked for")


def available(engine: str, device: torch.device) -> tuple[str, str]:
    """The engine with which a cohort that was begun with ``engine`` can go on here, and why that one."""
    if engine == "compiled" and device.type != "cpu":
        return "prefixes", "the kernels are for the CPU"
    if engine == "compiled" and kernels().library is None:
        return "prefixes", kernels().note
    return engine, "the same"


def choose_scorer(engine: str, members: Members) -> PrefixScorer | None:
    """What computes the objective, or None where the model itself has to."""
    config = members.config
    if torch.cuda.is_available():  # the switch is the process's: each cohort sets it
        torch.backends.cuda.matmul.fp32_precision = "tf32" if config.precision == "tf32" else "ieee"
    if engine == "plain" or not covers(config, members.model, members.task):
        return None
    library = kernels().library if engine == "compiled" else None
    if library is not None:
        return CompiledScorer(members, library)
    ops = TorchOps(torch.bfloat16 if config.precision == "bfloat16" else None)
    return PrefixScorer(members, ops)


def fused_update(engine: str, optimizer: str) -> FusedAdam | None:
    """The optimizer as one kernel, where there is one."""
    library = kernels().library if engine == "compiled" and optimizer in ("adam", "adamw") else None
    return None if library is None else FusedAdam(library, decoupled=optimizer == "adamw")
