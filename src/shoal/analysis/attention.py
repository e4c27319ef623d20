"""Attention weights averaged over many sequences, by layer, head, query and key.

``N`` sequences, ``L`` layers, ``H`` heads, ``S`` positions.
"""

import math

import polars as pl
import torch
from torch import Tensor, nn


@torch.no_grad()
def attention_weights(model: nn.Module, inputs: Tensor) -> Tensor:
    """Attention of a :class:`shoal.models.GPT`, ``(N, S) int64 -> (N, L, H, S, S)``: row = query, column = key."""
    _, (_, attentions) = model.eval()(inputs)
    weights: Tensor = attentions
    return weights


def attention_by_position(weights: Tensor) -> pl.DataFrame:
    """Mean weight from each query to each key that it can see.

    Args:
        weights: ``(N, L, H, S, S)``.

    Returns:
        ``layer``, ``head``, ``query``, ``key`` (from 0) and ``weight``, the mean over sequences.
    """
    mean = weights.double().mean(0)  # (L, H, S, S)
    L, H, S, _ = mean.shape
    index = torch.cartesian_prod(*(torch.arange(n) for n in (L, H, S, S)))  # (L H S S, 4)
    columns = {name: index[:, i].numpy() for i, name in enumerate(("layer", "head", "query", "key"))}
    frame = pl.DataFrame({**columns, "weight": mean.flatten().numpy()})
    return frame.filter(pl.col("key") <= pl.col("query"))


def attention_to_one(weights: Tensor, query: int, above: float) -> pl.DataFrame:
    """Share of sequences in which one key alone has nearly all the weight of a query, by layer, head and key.

    A mean weight of one half may be of sequences in which two keys share the weight, or of some in which one of them
    has it and some in which the other has.

    Args:
        weights: ``(N, L, H, S, S)``.
        query: the position that looks, from 0.
        above: the weight from which a key has nearly all, at least 0.5, so that it is one key at most.

    Returns:
        ``layer``, ``head``, ``key`` (from 0; null: no key alone) and ``share``, of the ``N`` sequences.
    """
    assert above >= 0.5
    shares = (weights[:, :, :, query, : query + 1] > above).double().mean(0)  # (L, H, query + 1)
    shares = torch.cat([shares, (1 - shares.sum(-1, keepdim=True)).clamp(min=0)], dim=-1)  # the rest last
    L, H, keys = shares.shape
    index = torch.cartesian_prod(*(torch.arange(n) for n in (L, H, keys)))  # (L H keys, 3)
    columns = {name: index[:, i].numpy() for i, name in enumerate(("layer", "head", "key"))}
    frame = pl.DataFrame({**columns, "share": shares.flatten().numpy()})
    return frame.with_columns(pl.when(pl.col("key") <= query).then("key"))


def focus(weights: Tensor) -> Tensor:
    """Concentration of attention, 0 (even) to 1 (on one key), ``(N, L, H, S, S) -> (L, H, S)``.

    One minus the entropy over its largest value, log(t + 1), averaged over sequences; NaN for query 0.
    """
    w = weights.double()
    entropy = -(w * w.clamp(min=1e-300).log()).sum(-1).mean(0)  # (L, H, S)
    largest = torch.tensor([math.log(t + 1) if t else math.nan for t in range(w.shape[-1])])
    return 1 - entropy / largest
