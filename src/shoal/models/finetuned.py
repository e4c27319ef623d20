"""Fine-tuned model: a base with low-rank adapters, or all of whose parameters train."""

import copy
from collections.abc import Callable
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from shoal.models.adapters import Codes, FrozenLinear, LoRALinear, adapt, adapted_names, freeze, linear_names
from shoal.models.bases import Base, check_key, read_base
from shoal.models.dropout import Dropout
from shoal.models.families_of_bases import part_of
from shoal.quantisation import quantise_absmax, quantise_blocks

if TYPE_CHECKING:
    from shoal.models.adapter_settings import FineTunedSettings

DECODING = ("context_length", "start", "step", "begin")  # of a model that decodes, which are the base's
_FROZEN: dict[tuple[Any, ...], nn.Module] = {}
_MOST_HELD = 4


class FineTuned(nn.Module):
    """Base that is fine-tuned; it is called, and decodes, as the base does."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base

    def forward(self, *inputs: Any, **options: Any) -> Any:
        """Call the base."""
        return self.base(*inputs, **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.base, name) if name in DECODING else super().__getattr__(name)


def build_finetuned(part: "FineTunedSettings") -> FineTuned:
    """Model of these settings with its adapters' initial values, from torch's global generator.

    All models of one base share its tensors, and those of one quantisation its codes.

    Raises:
        UserError: the base cannot be read, or is not that of the settings.
    """
    base = read_base(part.base_model)
    check_key(base, part.base_key or base.key, part.base_model)
    if part.adapter == "full":
        model = copy.deepcopy(base.module())
        for parameter in model.parameters():
            parameter.data = parameter.detach().clone()  # the base's own must not be changed
        return FineTuned(_dropping(model, part.dropout))
    assert part.lora_rank is not None and part.lora_width is not None and part.lora_alpha is not None
    model, numbers = _frozen(base, part), (part.lora_rank, part.lora_width, part.lora_alpha, part.lora_dropout)
    adapt(model, adapted_names(base.module(), part.targets), *numbers)
    return FineTuned(model)


def _frozen(base: Base, part: "FineTunedSettings") -> nn.Module:
    """Frozen base, quantised where the settings ask for it; its tensors are those of every other one like it."""
    quantise = quantiser(part)
    key = (base.key, *part.quantised_by)
    if key not in _FROZEN:
        model = base.module()
        freeze(model, quantise)
        while len(_FROZEN) >= _MOST_HELD:
            del _FROZEN[next(iter(_FROZEN))]
        _FROZEN[key] = model
    known = _FROZEN[key]
    return _dropping(copy.deepcopy(known, {id(buffer): buffer for buffer in known.buffers()}), part.dropout)


def _dropping(model: nn.Module, p: float) -> nn.Module:
    for module in model.modules():
        if isinstance(module, Dropout):
            module.p = p
    return model


def quantiser(part: "FineTunedSettings") -> Callable[[Tensor], Codes] | None:
    """Function that gives the codes of a weight by these settings; None where weights stay as they are."""
    if part.quantization is None:
        return None
    if part.quantization == "absmax":
        return partial(quantise_absmax, bits=part.quantization_bits or 4, rounding=part.quantization_rounding)
    return partial(quantise_blocks, kind=part.quantization, double=part.double_quantization)


@cache
def adapted_shapes(described: str, targets: tuple[str, ...]) -> dict[str, tuple[int, int]]:
    """Name and shape ``(out, in)`` of each adapted layer of a described base; no file is read.

    Raises:
        UserError: see :func:`shoal.models.adapters.adapted_names`.
    """
    model = _described(described)
    layers: dict[str, Any] = {name: model.get_submodule(name) for name in adapted_names(model, targets)}
    return {name: (layer.out_features, layer.in_features) for name, layer in layers.items()}


@cache
def size_of(described: str) -> dict[str, int]:
    """Numbers of parameters of a described base: of ``all``, and of the linear layers that are ``quantised``."""
    model = _described(described)
    layers: list[Any] = [model.get_submodule(name) for name in linear_names(model)]
    return {
        "all": sum(parameter.numel() for parameter in model.parameters()),
        "quantised": sum(layer.weight.numel() for layer in layers),
    }


@cache
def _described(described: str) -> nn.Module:
    part, sizes = part_of(described)
    with torch.device("meta"):
        return part.build(sizes)


def merged(model: FineTuned, part: "FineTunedSettings") -> nn.Module:
    """Model of the base's family with the adapters added to its weights, ``W + (alpha / rank) B A``.

    Adapters of a quantised base are added to the weights that they were trained on, dequant(W), and layers without an
    adapter have these, too. A base that was trained as a whole is returned as it is.
    """
    base, (family, sizes) = read_base(part.base_model), part_of(str(part.base_settings))
    state = dict(base.tensors) if part.adapter != "full" else model.base.state_dict()
    for name, module in model.base.named_modules():
        if isinstance(module, LoRALinear | FrozenLinear) and not name.endswith(".frozen"):
            state[f"{name}.weight"] = module.weight.detach().clone()
    with torch.random.fork_rng(devices=[]):
        result = family.build(sizes)
    result.load_state_dict(state)
    return result.eval()
