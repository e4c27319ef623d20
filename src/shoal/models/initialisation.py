"""Initial values of parameters, other than a model's default.

The defaults are those of the practical: PyTorch's for embeddings, the classifier and every linear layer of a GPT;
Xavier and zero biases for the gates of an LSTM. With them a seed gives the initial parameters of the practical's code,
bit for bit.
"""

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch import nn

from shoal.models.attention import MultiHeadedAttention
from shoal.models.gpt import Block


def pytorch(model: nn.Module, d_model: int) -> None:
    """Draw every linear layer but the classifier as PyTorch does: weights and biases uniform within ±1/√inputs."""
    for layer in _inner_layers(model):
        layer.reset_parameters()


def xavier(model: nn.Module, d_model: int) -> None:
    """Draw every linear layer but the classifier with :func:`xavier_linear`."""
    for layer in _inner_layers(model):
        xavier_linear(layer)


@torch.no_grad()
def xavier_all(model: nn.Module, d_model: int) -> None:
    """Draw every matrix, embeddings and classifier included, uniformly within ±√(6 / (rows + columns)); biases are 0.

    ``torch.nn.Transformer`` draws its own matrices so, the Annotated Transformer (Rush 2018) all. The embedding of
    padding stays 0.
    """
    for module in model.modules():
        if isinstance(module, nn.Linear):
            xavier_linear(module)
        elif isinstance(module, nn.Embedding):
            nn.init.xavier_uniform_(module.weight)
    _clear_padding(model)


@torch.no_grad()
def xavier_weights(model: nn.Module, d_model: int) -> None:
    """Draw every matrix as :func:`xavier_all` does and leave the biases as they are: uniform within ±1/√inputs.

    The code of Trevett's "PyTorch Seq2Seq" draws its transformer so.
    """
    for module in model.modules():
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.xavier_uniform_(module.weight)
    _clear_padding(model)


def xavier_linear(layer: nn.Linear) -> None:
    """Draw a weight uniformly within ±√(6 / (inputs + outputs)) and set the bias to 0.

    Source: Glorot and Bengio 2010.
    """
    nn.init.xavier_uniform_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def scaled_normal(model: nn.Module, d_model: int) -> None:
    """Draw every matrix, embeddings included, from N(0, 1/d_model) and set every bias to 0; norms keep their values.

    The embedding of padding stays 0.
    """
    _normal(model, 1 / math.sqrt(d_model))


@torch.no_grad()
def _normal(model: nn.Module, std: float) -> None:
    for module in model.modules():
        if not isinstance(module, (nn.Linear, nn.Embedding)):
            continue
        module.weight.normal_(0.0, std)
        if isinstance(module, nn.Linear) and module.bias is not None:
            module.bias.zero_()
    _clear_padding(model)  # when all are drawn: a tied classifier has drawn the embedding's weight again


def _clear_padding(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.Embedding) and module.padding_idx is not None:
            module.weight[module.padding_idx] = 0.0


def gpt2(model: nn.Module, d_model: int) -> None:
    """Draw every matrix, embeddings included, from N(0, 0.02²), but the last of each residual branch more narrowly.

    Those, ``W_O`` of attention and the last matrix of a feed-forward layer, have a standard deviation of 0.02/√(2 L),
    so that the sum of ``2 L`` branches does not grow with ``L``; in a decoder with cross-attention there are ``3 L``.
    Biases are 0; norms, and the 0 of padding, stay.

    Source: Radford et al. 2019, section 2.3, with the numbers of the code of GPT-2 and nanoGPT.
    """
    _normal(model, 0.02)
    for stack in model.modules():
        if isinstance(stack, nn.ModuleList):
            branches = [layer for block in stack if isinstance(block, Block) for layer in _last_of_branches(block)]
            for layer in branches:
                nn.init.normal_(layer.weight, 0.0, 0.02 / math.sqrt(len(branches)))


def _last_of_branches(block: Block) -> list[nn.Linear]:
    attentions = [module.W_O for module in block.modules() if isinstance(module, MultiHeadedAttention)]
    return [*attentions, [module for module in block.ffn.modules() if isinstance(module, nn.Linear)][-1]]


def nanda(model: nn.Module, d_model: int) -> None:
    """Draw as :func:`scaled_normal`, but the classifier from N(0, 1/V), as in the code of Nanda et al. 2023."""
    scaled_normal(model, d_model)
    classifier = model.get_submodule("classifier")
    assert isinstance(classifier, nn.Linear)
    nn.init.normal_(classifier.weight, 0.0, 1 / math.sqrt(classifier.out_features))


@torch.no_grad()
def torch_attention(model: nn.Module, d_model: int) -> None:
    """Draw attention as ``torch.nn.MultiheadAttention`` does, and leave everything else.

    Queries, keys and values are one matrix ``(3 D, D)`` there, drawn as by :func:`xavier_linear`; the projection back
    is drawn as by :func:`pytorch`; all biases are 0.
    """
    for module in model.modules():
        if not isinstance(module, MultiHeadedAttention):
            continue
        module.W_O.reset_parameters()
        inner = (module.W_Q, module.W_K, module.W_V)
        stacked = torch.cat([layer.weight for layer in inner])  # (3 D, D)
        nn.init.xavier_uniform_(stacked)
        for layer, weight in zip(inner, stacked.chunk(3), strict=True):
            layer.weight.copy_(weight)
        for layer in (*inner, module.W_O):
            if layer.bias is not None:
                layer.bias.zero_()


INITIALISATIONS: Mapping[str, Callable[[nn.Module, int], None]] = MappingProxyType(
    {
        "torch": pytorch,
        "xavier": xavier,
        "xavier_all": xavier_all,
        "xavier_weights": xavier_weights,
        "torch_attention": torch_attention,
        "scaled_normal": scaled_normal,
        "nanda": nanda,
        "gpt2": gpt2,
    }
)


def _inner_layers(model: nn.Module) -> list[nn.Linear]:
    classifier = model.get_submodule("classifier")
    return [module for module in model.modules() if isinstance(module, nn.Linear) and module is not classifier]
