"""Bases of fine-tuned models as engine ``windows`` takes them: by the names that their families give their parameters.

A fine-tuned model holds its base under the name ``base``. Parameters of a frozen base are buffers, one for all members
of a stack: tensors, or the codes of a weight, which are dequantised where it is read.

``R`` members, ``E`` outputs and ``D`` inputs of a linear layer.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from shoal.fast.lstm import GATES
from shoal.fast.ops import Array
from shoal.fast.program import Value
from shoal.fast.window_ops import Adapter, WindowOps
from shoal.models.adapters import FrozenLinear, LoRALinear
from shoal.models.finetuned import FineTuned

PREFIX = "base."
FROZEN = ".frozen"  # end of the name of a layer within its adapter


def module_of(model: nn.Module) -> nn.Module:
    """Module of a model's family: itself, or its base where it is fine-tuned."""
    return model.base if type(model) is FineTuned else model


def short(model: nn.Module, name: str) -> str:
    """Name of a tensor or module of a model in the module of its family."""
    return name.removeprefix(PREFIX) if type(model) is FineTuned else name


class OfBase:
    """Settings of a fine-tuned run with those of its base's family in place of its own, as families read them."""

    def __init__(self, config: Any) -> None:
        self._config, self._part = config, config.model_part.computing()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._part if hasattr(self._part, name) else self._config, name)

    def get(self, name: str, default: Any = None) -> Any:
        """Setting by its name, or the default where there is none."""
        return getattr(self, name, default)


@dataclass(frozen=True)
class Frozen:
    """Part of a fine-tuned model that does not train, by the names that its family gives parameters.

    Attributes:
        tensors: ``(*shape)`` each.
        coded: layers whose weight ``(E, D)`` is stored in codes, by the name of the weight.
        scales: factor of each adapter, ``(R,)``, by the name of its layer.
    """

    tensors: Mapping[str, Tensor]
    coded: Mapping[str, FrozenLinear]
    scales: Mapping[str, Tensor]

    @classmethod
    def of(cls, model: nn.Module, per_member: Mapping[str, Tensor]) -> "Frozen":
        """Frozen tensors of a model; none but where it is fine-tuned by adapters.

        Args:
            model: the model.
            per_member: buffers in which the members of its stack differ, ``(R,)`` each.
        """
        tensors: dict[str, Tensor] = {}
        coded: dict[str, FrozenLinear] = {}
        scales: dict[str, Tensor] = {}
        for name, module in module_of(model).named_modules() if type(model) is FineTuned else ():
            layer = name.removesuffix(FROZEN)
            if isinstance(module, LoRALinear):
                scales[layer] = per_member[f"{PREFIX}{layer}.scale"]
            elif isinstance(module, FrozenLinear):
                if module.quantised is None:
                    tensors[f"{layer}.weight"] = module.weight
                else:
                    coded[f"{layer}.weight"] = module
                if (bias := module._buffers["bias"]) is not None:
                    tensors[f"{layer}.bias"] = bias
            else:
                others = {f"{name}.{key}": buffer for key, buffer in module.named_buffers(recurse=False)}
                tensors |= {key: buffer for key, buffer in others.items() if buffer.dtype == torch.float32}
        return cls(tensors, coded, scales)

    def values(self, R: int) -> dict[str, Value]:
        """Constants of a program of ``R`` members."""
        every = {
            name: Value(tensor.expand(R, *tensor.shape), is_parameter=True, is_constant=True)
            for name, tensor in self.tensors.items()
        }
        for name, layer in self.coded.items():
            data = torch.empty(R, layer.out_features, layer.in_features, device="meta")
            every[name] = Value(data, is_parameter=True, is_constant=True, write=layer.write_weight)
        return every

    def arrays(self, R: int) -> dict[str, Tensor]:
        """Tensors of ``R`` members, ``(R, *shape)`` each, for operations of PyTorch's."""
        every = {**self.tensors, **{name: layer.weight for name, layer in self.coded.items()}}
        return {name: tensor.expand(R, *tensor.shape) for name, tensor in every.items()}

    def adapted(
        self, parameters: Mapping[str, Array], members: slice, ops: WindowOps[Array]
    ) -> tuple[dict[str, Array], dict[str, Adapter[Array]]]:
        """Parameters, with merged weights of gates, which a layer of LSTM cells takes as they are; and the adapters.

        Args:
            parameters: parameters of some members by the names of their family.
            members: these members.
            ops: the operations.
        """
        adapters = {
            name: Adapter(parameters[f"{name}.A"], parameters[f"{name}.B"], scale[members])
            for name, scale in self.scales.items()
        }
        gates = [name for name in parameters if name.endswith(".weight") and name.split(".")[-2] in GATES]
        layers = [name.removesuffix(".weight") for name in gates]
        merged = {
            f"{layer}.weight": ops.merged(parameters[f"{layer}.weight"], adapters.get(layer))
            for layer in layers
            if layer in adapters or f"{layer}.weight" in self.coded
        }
        return {**parameters, **merged}, adapters
