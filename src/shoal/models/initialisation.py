"""Initial values other than PyTorch's own."""

import math

import torch
from torch import nn

INITIALISATIONS = ("torch", "scaled_normal")


@torch.no_grad()
def scaled_normal(model: nn.Module, d_model: int) -> None:
    """Draw every matrix, embeddings included, from N(0, 1/d_model) and set every bias to 0; norms keep their values.

    The embedding of padding stays 0. Source: the code of Nanda et al. 2023.
    """
    for module in model.modules():
        if not isinstance(module, (nn.Linear, nn.Embedding)):
            continue
        module.weight.normal_(0.0, 1 / math.sqrt(d_model))
        if isinstance(module, nn.Embedding) and module.padding_idx is not None:
            module.weight[module.padding_idx] = 0.0
        if isinstance(module, nn.Linear) and module.bias is not None:
            module.bias.zero_()
