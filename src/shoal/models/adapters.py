"""Low-rank adapters of frozen linear layers: LoRA, and QLoRA, whose frozen weights are stored in a few bits.

Sources: Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models"; Dettmers et al. 2023, "QLoRA". An adapted
layer computes ``x W^T + b + (alpha / rank) (x A^T) B^T``. A starts from U(-1/sqrt(in), 1/sqrt(in)) and B from 0, as in
the library peft, so that an adapter changes nothing at first.

Frozen tensors are buffers that are not saved: a stack of members holds them once, no update rule sees them, and a kept
adapter has only tensors of its own.

Shapes: ``r`` width of the adapter: its rank, and rows of zeros up to the largest rank that trains beside it.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from shoal.errors import UserError, nearest
from shoal.models.dropout import Dropout
from shoal.quantisation import AbsmaxCodes, BlockCodes

Codes = AbsmaxCodes | BlockCodes
Quantise = Callable[[Tensor], Codes]
OUTPUTS = ("W_O", "classifier")  # layers that are not adapted by default: outputs of attention, and the head


class FrozenLinear(nn.Module):
    """Linear layer whose weight and bias do not train; the weight as it is, or in codes.

    Args:
        weight: weight, ``(out, in)``, or its codes, which are dequantised whenever they are used, forwards and
            backwards.
        bias: bias, ``(out,)``, or None.
    """

    def __init__(self, weight: Tensor | Codes, bias: Tensor | None) -> None:
        super().__init__()
        self.quantised = None if isinstance(weight, Tensor) else weight
        for name, tensor in ({"values": weight} if isinstance(weight, Tensor) else weight.tensors).items():
            self.register_buffer(name, tensor, persistent=False)
        self.register_buffer("bias", bias, persistent=False)
        self.out_features: int = weight.shape[0]
        self.in_features: int = weight.shape[1]

    @property
    def weight(self) -> Tensor:
        """Weight that the layer computes with, ``(out, in)``."""
        values = self._buffers.get("values")
        if values is not None:
            return values
        scales = (buffer for buffer in self.buffers() if buffer.is_floating_point())
        return self._stored().dequantise().to(next(scales).dtype)  # of the precision that the model was moved to

    def write_weight(self, out: Tensor) -> None:
        """Dequantise the weight of a layer in codes to an array ``(out, in)``."""
        self._stored().dequantise(out)

    def _stored(self) -> Codes:
        """Codes made of the layer's buffers, which may have moved to another device since."""
        assert self.quantised is not None
        return self.quantised.of({name: self._buffers[name] for name in self.quantised.tensors})  # type: ignore[misc]

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer: ``(*dims, in) -> (*dims, out)``."""
        if self.quantised is None:
            return F.linear(x, self.weight, self._buffers["bias"])
        outputs: Tensor = _Dequantised.apply(x, self._stored)  # type: ignore[no-untyped-call]
        bias = self._buffers["bias"]
        return outputs if bias is None else outputs + bias


class _Dequantised(torch.autograd.Function):
    """Product with a weight in codes, ``(*dims, in) -> (*dims, out)``.

    The weight is dequantised again for the backward pass instead of being kept, so that a training step holds one such
    matrix at a time. Members of a stack are more rows of one product.
    """

    @staticmethod
    def forward(x: Tensor, stored: Callable[[], Codes]) -> Tensor:
        """Dequantise and multiply."""
        return F.linear(x, stored().dequantise().to(x.dtype))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Remember where the codes are."""
        ctx.stored = inputs[1]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """Gradient of the inputs; codes have none."""
        return gradient @ ctx.stored().dequantise().to(gradient.dtype), None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, None], x: Tensor, stored: Callable[[], Codes]) -> tuple[Tensor, int]:
        """Product of all members at once."""
        assert in_dims[0] is not None
        outputs: Tensor = _Dequantised.apply(x.movedim(in_dims[0], 0), stored)  # type: ignore[no-untyped-call]
        return outputs, 0


class LoRALinear(nn.Module):
    """Frozen linear layer with a low-rank adapter.

    Attributes:
        A: ``(r, in)``; rows from the rank on are zeros and stay so, because their gradient is zero.
        B: ``(out, r)``, likewise with columns.
        scale: alpha over rank, a scalar; a number of each member of a stack.
        per_member: buffers that may differ between members of a stack.

    Args:
        frozen: the layer.
        rank: rank of the adapter.
        width: number of rows of A, at least the rank.
        alpha: factor of the adapter, before it is divided by the rank.
        dropout: dropout probability of the adapter's inputs.
    """

    per_member: ClassVar[Sequence[str]] = ("scale",)

    def __init__(self, frozen: FrozenLinear, rank: int, width: int, alpha: float, dropout: float = 0.0) -> None:
        super().__init__()
        self.frozen = frozen
        bound = 1 / math.sqrt(frozen.in_features)
        drawn = torch.empty(rank, frozen.in_features).uniform_(-bound, bound)
        self.A = nn.Parameter(torch.cat([drawn, drawn.new_zeros(width - rank, frozen.in_features)]))
        self.B = nn.Parameter(torch.zeros(frozen.out_features, width))
        self.drop = nn.Identity() if dropout == 0 else Dropout(dropout)
        self.scale: Tensor
        self.register_buffer("scale", torch.tensor(alpha / rank), persistent=False)

    @property
    def weight(self) -> Tensor:
        """Weight of the layer with its adapter merged, ``(out, in)``, for models that use it themselves."""
        return self.frozen.weight + self.scale * (self.B @ self.A)

    @property
    def bias(self) -> Tensor | None:
        """Bias of the layer, ``(out,)``."""
        return self.frozen._buffers["bias"]

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer: ``(*dims, in) -> (*dims, out)``."""
        outputs: Tensor = self.frozen(x) + self.scale * F.linear(F.linear(self.drop(x), self.A), self.B)
        return outputs


def linear_names(model: nn.Module, heads: Sequence[str] = OUTPUTS[1:]) -> list[str]:
    """Names of a model's linear layers but for those of its head, in the order of its modules."""
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name.rpartition(".")[2] not in heads
    ]


def adapted_names(model: nn.Module, targets: Sequence[str] = ()) -> list[str]:
    """Names of the linear layers to adapt.

    Args:
        model: the model.
        targets: ends or parts of names, such as ``W_Q`` or ``ffn``; none for every linear layer but the outputs of
            attention and the head (:data:`OUTPUTS`).

    Raises:
        UserError: a target matches no linear layer, or one whose weight is tied to another parameter.
    """
    names = linear_names(model, ())
    if not targets:
        return [name for name in names if name.rpartition(".")[2] not in OUTPUTS]
    chosen: dict[str, None] = {}
    for target in targets:
        matching = [name for name in names if f".{target}." in f".{name}."]
        if not matching:
            parts = list(dict.fromkeys(part for name in names for part in name.split(".") if not part.isdecimal()))
            raise UserError(
                f"lora_targets: {target!r} is no linear layer: one of {' '.join(parts)}{nearest(target, parts)}"
            )
        chosen |= dict.fromkeys(matching)
    tied = _tied(model)
    for name in chosen:
        if name in tied:
            raise UserError(
                f"lora_targets: {name} has the weight of {tied[name]}, and an adapter would untie the two: leave it out"
            )
    return [name for name in names if name in chosen]


def _tied(model: nn.Module) -> dict[str, str]:
    """Modules whose weight is a parameter of another module, with that module."""
    first = {parameter: name.rpartition(".")[0] for name, parameter in model.named_parameters()}
    every = model.named_parameters(remove_duplicate=False)
    pairs = ((name.rpartition(".")[0], first[parameter]) for name, parameter in every)
    return {name: other for name, other in pairs if name != other}


def freeze(model: nn.Module, quantise: Quantise | None = None) -> dict[str, FrozenLinear]:
    """Turn all parameters of a model into buffers that are not saved, and its linear layers into frozen ones.

    Args:
        model: the model; it is changed.
        quantise: function that gives the codes of a weight, for all linear layers but the head.

    Returns:
        The frozen linear layers by name.
    """
    coded = linear_names(model) if quantise is not None else []
    frozen = {}
    for name in linear_names(model, ()):
        layer: Any = model.get_submodule(name)
        weight = layer.weight.detach()
        codes = quantise(weight) if quantise is not None and name in coded else weight
        frozen[name] = FrozenLinear(codes, None if layer.bias is None else layer.bias.detach())
        model.set_submodule(name, frozen[name])
    for module in model.modules():
        for name, parameter in list(module._parameters.items()):
            del module._parameters[name]
            module.register_buffer(name, None if parameter is None else parameter.detach(), persistent=False)
        module._non_persistent_buffers_set |= set(module._buffers)
    return frozen


def adapt(model: nn.Module, names: Sequence[str], rank: int, width: int, alpha: float, dropout: float = 0.0) -> None:
    """Put adapters on frozen linear layers, in the order of their names; arguments as for :class:`LoRALinear`."""
    for name in names:
        frozen = model.get_submodule(name)
        assert isinstance(frozen, FrozenLinear)
        model.set_submodule(name, LoRALinear(frozen, rank, width, alpha, dropout))


def stored_bytes(model: nn.Module) -> dict[str, int]:
    """Bytes and numbers of a model's frozen layers in codes: ``codes`` and scales in ``bytes``, of ``parameters``."""
    layers = [module for module in model.modules() if isinstance(module, FrozenLinear) and module.quantised is not None]
    tensors = [tensor for layer in layers for tensor in layer._stored().tensors.values()]
    return {
        "bytes": sum(tensor.numel() * tensor.element_size() for tensor in tensors),
        "parameters": sum(layer.out_features * layer.in_features for layer in layers),
    }
