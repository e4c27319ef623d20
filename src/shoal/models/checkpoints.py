"""Checkpoints of GPT-2's architecture: a folder with ``config.json`` and safetensors, as transformers saves them.

Source: Radford et al. 2019; names of tensors of ``GPT2LMHeadModel``. Matrices of its ``Conv1D`` are ``(in, out)``, and
queries, keys and values are one matrix.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from shoal.errors import UserError
from shoal.models.families_of_bases import GPT2Settings, is_size, sizes_of

CONFIG = "config.json"
ACTIVATIONS = {"gelu_new": "gelu_new", "gelu_pytorch_tanh": "gelu_new", "gelu": "gelu", "relu": "relu"}
_PLAIN = {"scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False, "add_cross_attention": False}
_SIZES = ("n_embd", "n_layer", "n_head", "vocab_size", "n_positions")
_LARGEST = 2**24  # of a size: GPT-2's vocabulary has 50,257 tokens
_IGNORED = (".attn.bias", ".attn.masked_bias")  # causal masks of older checkpoints


def read_gpt2(folder: Path) -> tuple[str, dict[str, Tensor]]:
    """Description and tensors of the GPT that computes what a checkpoint does.

    Raises:
        UserError: the folder holds none, or one with a setting that cannot be computed.
    """
    from shoal.models.bases import describe

    config = _config(folder / CONFIG)
    width, layers = config["n_embd"], config["n_layer"]
    is_tied = bool(config.get("tie_word_embeddings", True))
    part = GPT2Settings(
        num_layers=layers,
        embedding_size=width,
        num_heads=config["n_head"],
        multiplier=(config.get("n_inner") or 4 * width) / width,
        non_linearity=ACTIVATIONS[config.get("activation_function", "gelu_new")],
        norm_position="pre",
        positions="learned",
        bias_ffn=True,
        bias_classifier=False,
        share_embeddings=is_tied,
        dropout_at="everywhere",
    )
    sizes = sizes_of(vocabulary_size=config["vocab_size"], sequence_length=config["n_positions"])
    tensors = _renamed(_tensors(folder), layers, is_tied)
    return describe(GPT2Settings.name, part, sizes), tensors


def _config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {' '.join(str(error).split())}") from None
    kind = config.get("model_type") if isinstance(config, dict) else None
    if kind != "gpt2":
        raise UserError(f"{path} is of architecture {kind!r}; gpt2 can be read")
    _check_sizes(path, config)
    for name, value in _PLAIN.items():
        if config.get(name, value) != value:
            raise UserError(f"{path} has {name}={config[name]}; {value} can be read")
    if config.get("layer_norm_epsilon", 1e-5) != 1e-5:
        raise UserError(f"{path} has layer_norm_epsilon={config['layer_norm_epsilon']}; 1e-05 can be read")
    if str(config.get("activation_function", "gelu_new")) not in ACTIVATIONS:
        raise UserError(
            f"{path} has activation_function={str(config['activation_function'])[:40]!r}; one of "
            f"{' '.join(ACTIVATIONS)} can be read"
        )
    return dict(config)


def _check_sizes(path: Path, config: Mapping[str, Any]) -> None:
    """Raise :class:`UserError` where a size is missing, no number of a size, or does not fit another."""
    for name in _SIZES:
        if name not in config:
            raise UserError(f"{path} has no {name}")
    for name in (*_SIZES, "n_inner"):
        value = config.get(name)
        is_open = name == "n_inner" and value is None  # four times n_embd
        if not (is_open or (is_size(value) and 0 < value <= _LARGEST)):
            raise UserError(f"{path} has {name}={str(value)[:40]}, where an integer from 1 to {_LARGEST:,} should be")
    if config["n_embd"] % config["n_head"]:
        raise UserError(f"{path} has n_embd={config['n_embd']}, which n_head={config['n_head']} does not divide")


def _tensors(folder: Path) -> dict[str, Tensor]:
    """All tensors of the folder's safetensors files, in float32, without the prefix of the language model."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise UserError(f"{folder} has no .safetensors file")
    if pipes := [path for path in files if not path.is_file()]:
        raise UserError(f"{pipes[0]} is not a regular file")
    tensors: dict[str, Tensor] = {}
    try:
        for path in files:
            with safe_open(path, "pt") as file:
                names = file.keys()
                tensors |= {name.removeprefix("transformer."): file.get_tensor(name).float() for name in names}
    except (SafetensorError, OSError, RuntimeError) as error:
        raise UserError(f"{path} is damaged: {' '.join(str(error).split())}") from None
    return {name: tensor for name, tensor in tensors.items() if not name.endswith(_IGNORED)}


def _renamed(tensors: Mapping[str, Tensor], layers: int, is_tied: bool) -> dict[str, Tensor]:
    """Tensors of a checkpoint under the names of :class:`shoal.models.GPT`.

    Raises:
        UserError: one is missing, or is there beside them.
    """
    left, renamed = dict(tensors), {}

    def take(name: str) -> Tensor:
        if name not in left:
            raise UserError(f"the checkpoint has no tensor {name}")
        return left.pop(name)

    def linear(source: str, targets: Iterable[str]) -> None:
        names = list(targets)
        weight, bias = take(f"{source}.weight").T, take(f"{source}.bias")  # (out, in), (out,)
        for name, part, shift in zip(names, weight.chunk(len(names)), bias.chunk(len(names)), strict=True):
            renamed[f"{name}.weight"], renamed[f"{name}.bias"] = part.contiguous(), shift.contiguous()

    def norm(source: str, target: str) -> None:
        renamed[f"{target}.weight"], renamed[f"{target}.bias"] = take(f"{source}.weight"), take(f"{source}.bias")

    renamed["embedding.tokens.weight"] = take("wte.weight")
    renamed["embedding.positions.weight"] = take("wpe.weight")
    for layer in range(layers):
        block, at = f"decoder.blocks.{layer}", f"h.{layer}"
        linear(f"{at}.attn.c_attn", [f"{block}.self_attn.{name}" for name in ("W_Q", "W_K", "W_V")])
        linear(f"{at}.attn.c_proj", [f"{block}.self_attn.W_O"])
        linear(f"{at}.mlp.c_fc", [f"{block}.ffn.0"])
        linear(f"{at}.mlp.c_proj", [f"{block}.ffn.2"])
        norm(f"{at}.ln_1", f"{block}.self_attn_norm")
        norm(f"{at}.ln_2", f"{block}.ffn_norm")
    norm("ln_f", "decoder.norm")
    head = left.pop("lm_head.weight", None)
    renamed["classifier.weight"] = renamed["embedding.tokens.weight"] if is_tied or head is None else head
    if left:
        raise UserError(f"the checkpoint has a tensor that GPT-2 has not: {next(iter(left))}")
    return {name: tensor.to(torch.float32) for name, tensor in renamed.items()}
