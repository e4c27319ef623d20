"""Choice of the engine that computes a cohort.

- ``compiled``: prefix by prefix, with kernels compiled for this machine's CPU or GPU; it saves repeated products,
  passes over memory and, on a GPU, launches.
- ``prefixes``: prefix by prefix, with PyTorch's own operations; on any device.
- ``windows``: windows of tokens, such as those of a text or pairs of sentences, with kernels for this machine's CPU, in
  programs that are laid out once.
- ``plain``: the model as it is written, lifted over the members by ``torch.func.vmap``; covers everything. Where the
  task fuses, attention is one operation of PyTorch's and Adam one kernel.
"""

from dataclasses import dataclass
from typing import Any

import torch

from shoal.errors import UserError
from shoal.fast import matmul
from shoal.fast.adam import FusedAdam
from shoal.fast.build import SECONDS, is_compiled
from shoal.fast.build import SOURCE as TREES
from shoal.fast.fused import FusedKernels, fused_kernels
from shoal.fast.multiplication import choose_products
from shoal.fast.ops import TorchOps
from shoal.fast.scorer import CompiledScorer, Members, PrefixScorer, check_served, refusal
from shoal.fast.window_kernels import SOURCE as WINDOWS
from shoal.fast.window_kernels import window_kernels
from shoal.fast.windows import WindowScorer, check_windows
from shoal.spec.windows import makes_windows, windows_refusal

ENGINES = ("compiled", "prefixes", "windows", "plain")
COMPILED = {"compiled": "prefixes", "windows": "plain"}  # engines that need kernels, and what goes on without them
SOURCES = {"compiled": (TREES,), "windows": (TREES, WINDOWS, matmul.SOURCE)}  # of their kernels on the CPU
ON_CPU = "its kernels are for the CPU"


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
        if engine == "windows" != wanted and not makes_windows(config.task_part):
            continue  # the reason that is said is that of the prefixes
        refused = _refusal(engine, config, seconds, device, wanted)
        if refused is None:
            why = engine_kernels(engine, device).note if engine in COMPILED and wanted is None else why
            return Choice(engine, why, products_for(engine, config, device))
        why = refused
    raise AssertionError("plain computes everything")


def _refusal(engine: str, config: Any, seconds: float, device: torch.device, wanted: str | None) -> str | None:
    """Reason why an engine does not compute a cohort; None where it does."""
    if engine == "plain":
        return None
    if (why := windows_refusal(config) if engine == "windows" else refusal(config)) is not None:
        return why
    if engine == "prefixes":
        return None
    if engine == "windows" and device.type != "cpu":
        return ON_CPU
    is_rounded = config.precision == "bfloat16"
    if is_rounded and device.type != "cpu":
        return "the kernels for a GPU are for float32, not for bfloat16"
    sources = (*SOURCES[engine], *([matmul.SOURCES["bfloat16"]] if is_rounded else []))
    is_needed = is_rounded and engine == "windows"  # engine plain computes in float32
    if (
        wanted is None
        and not is_needed
        and device.type == "cpu"
        and seconds < 4 * SECONDS * len(sources)
        and not is_compiled(*sources)
    ):
        return f"about {seconds:.0f} s of training are not worth {SECONDS * len(sources):.0f} s of compiling"
    kernels = engine_kernels(engine, device)
    return kernels.note if kernels.library_for is None else None


def available(engine: str, device: torch.device) -> tuple[str, str]:
    """Engine with which a cohort that was begun with ``engine`` can be resumed here, and the reason."""
    if engine in COMPILED and engine_kernels(engine, device).library_for is None:
        return COMPILED[engine], engine_kernels(engine, device).note
    return engine, "the same"


def products_for(engine: str, config: Any, device: torch.device) -> str:
    """Faster library of matrix products for an engine: one of :data:`shoal.fast.multiplication.PRODUCTS`."""
    width = getattr(config.model_part.computing(), "embedding_size", 0)
    return choose_products(width, device, config.precision) if engine in COMPILED else "torch"


def choose_scorer(engine: str, members: Members, products: str | None = None) -> PrefixScorer | WindowScorer | None:
    """Scorer that computes the objective; None where the model itself does, engine ``plain``.

    Args:
        engine: engine of the members.
        members: the members.
        products: library of the matrix products; the faster one where not given.

    Raises:
        UserError: the engine does not serve these members, or their precision.
    """
    config = members.config
    if torch.cuda.is_available():  # the switch is the process's: each cohort sets it
        torch.backends.cuda.matmul.fp32_precision = "tf32" if config.precision == "tf32" else "ieee"
    if engine == "plain":
        if config.precision != "float32":
            raise UserError(f"engine plain computes in float32, got precision={config.precision}")
        return None
    device = members.theta.device
    kernels = engine_kernels(engine, device) if engine in COMPILED else None
    if engine == "windows":
        check_windows(members.model, members.task, config.task_part.frozen_tables(config))
        if kernels is None or kernels.library_for is None:
            why = kernels and kernels.note
            raise UserError(f"engine windows does not serve this run, because {why}: ask for engine plain")
        return WindowScorer(members, kernels.library_for, products or products_for(engine, config, device))
    check_served(members.model, members.task)
    library_for = kernels.library_for if kernels else None
    if library_for is not None:
        return CompiledScorer(members, library_for, products or products_for(engine, config, device))
    ops = TorchOps(torch.bfloat16 if config.precision == "bfloat16" else None)
    return PrefixScorer(members, ops)


def engine_kernels(engine: str, device: torch.device) -> FusedKernels:
    """Kernels of a device that an engine computes with, those of ``windows`` besides those on trees."""
    if engine != "windows":
        return fused_kernels(device)
    if device.type != "cpu":
        return FusedKernels(None, ON_CPU)
    trees, others = fused_kernels(device), [window_kernels(), matmul.library()]
    lacking = [one.note for one in others if one.library is None]
    if trees.library_for is None or lacking:
        return FusedKernels(None, trees.note if trees.library_for is None else lacking[0])
    return FusedKernels(trees.library_for, trees.note, f"{trees.key} {others[0].key}")


def uses_kernels(engine: str, config: Any, device: torch.device) -> bool:
    """Return True if kernels compute a part of a cohort where this machine has them; they change the last bits.

    ``plain`` has them for the update alone, of tasks that fuse.
    """
    if engine == "plain":
        return config.task_part.fuses and config.rule.kernel is not None and device.type == "cpu"
    return engine in COMPILED


def fused_update(engine: str, config: Any, device: torch.device) -> FusedAdam | None:
    """Update rule as one kernel, where there is one."""
    kernel = config.rule.kernel
    library_for = fused_kernels(device).library_for if kernel and uses_kernels(engine, config, device) else None
    return None if library_for is None else FusedAdam(library_for(None), decoupled=kernel == "adamw")
