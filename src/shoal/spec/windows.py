"""Runs whose objective is computed over windows of tokens, and precisions that no other engine has for them."""

from typing import Any

from shoal.errors import UserError
from shoal.spec.fields import Part


def windows_refusal(config: Any) -> str | None:
    """Reason why the objective of a run with these settings is not computed over windows; None where it is."""
    if not makes_windows(config.task_part):
        return f"the batches of task {config.task!r} are not said to be windows of tokens"
    part = config.model_part.computing()
    of_base = "" if part is config.model_part else f" on a base of {type(part).__name__}"
    if not (_says(config.model_part, "reads_windows") and _says(part, "reads_windows")):
        return f"engine windows does not serve model {config.model!r}{of_base}"
    if of_base and config.precision != "float32":
        return f"engine windows serves model {config.model!r} in float32"
    return None


def makes_windows(task: Part) -> bool:
    """Return True if a task says that its batches are windows of tokens."""
    return _says(task, "makes_windows")


def _says(part: Part, name: str) -> bool:
    """Class attribute of a part, which one from outside sets itself: it may differ from what it inherits."""
    kind = type(part)
    return bool(getattr(kind, name)) and (name in vars(kind) or kind.__module__.startswith("shoal."))


def check_precision(config: Any) -> None:
    """Raise :class:`UserError` for a precision in which no engine computes a run."""
    if config.precision == "float32" or (config.precision == "bfloat16" and windows_refusal(config) is None):
        return
    if config.precision == "bfloat16" and makes_windows(config.task_part):
        raise UserError(f"precision=bfloat16 does not apply here, only float32: {windows_refusal(config)}")
    alone = [kind for kind in ("task", "model") if not config.parts[kind].shares_prefixes]
    if alone:
        raise UserError(
            f"precision={config.precision} does not apply to {alone[0]} {config.names[alone[0]]!r}: it is "
            "one of the engines of shared prefixes"
        )
    if (dropout := config.get("dropout", 0.0)) > 0:
        raise UserError(f"dropout={dropout} does not apply to precision {config.precision!r}, only to float32")
