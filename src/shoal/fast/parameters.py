"""Parameters of a stack's members by their names in the model, as operations take them.

``R`` members, ``D`` and ``E`` widths.
"""

from collections.abc import Mapping

from shoal.fast.ops import Array, Norm, Ops


def linear_of(parameters: Mapping[str, Array], ops: Ops[Array], *names: str) -> tuple[Array, Array | None]:
    """Weight and bias of one or more linear layers over the same input, ``(R, E, D)`` and ``(R, E)``."""
    if len(names) == 1:
        return parameters[f"{names[0]}.weight"], parameters.get(f"{names[0]}.bias")
    biases = [parameters[f"{name}.bias"] for name in names if f"{name}.bias" in parameters]
    return ops.join([parameters[f"{name}.weight"] for name in names]), ops.join(biases) if biases else None


def norm_of(parameters: Mapping[str, Array], name: str, kind: str) -> Norm[Array]:
    """Parameters of a norm of the model and its kind, ``layernorm`` or ``rmsnorm``; None where it has no such norm."""
    weight = parameters.get(f"{name}.weight")
    return None if weight is None else (weight, parameters.get(f"{name}.bias"), kind)
