"""Attention knockout: how much a model still gets right when nobody may look back at a position.

Where attention goes does not say what it is good for: a head may look at a position that nothing depends on. So the
looks at a position are cut, and what is lost is counted.

Source: Geva et al. 2023, "Dissecting Recall of Factual Associations in Auto-Regressive Language Models", section 4.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import polars as pl
import torch
from torch import Tensor

from shoal.models import GPT
from shoal.objectives import get_loss_and_accuracy

CHUNK = 2048  # sequences at once


@contextmanager
def knocked_out(model: GPT, key: int, layers: Sequence[int] | None = None) -> Iterator[None]:
    """Within, no position after ``key`` sees it, in these layers (from 0; None: in all).

    What the position itself computes stays as it is: what it knows can go nowhere else.
    """
    blocks = model.decoder.blocks
    chosen = [blocks[layer].self_attn for layer in (range(len(blocks)) if layers is None else layers)]

    def visible(queries: int, keys: int) -> Tensor:
        seen = torch.ones(queries, keys, dtype=torch.bool).tril()  # (queries, keys)
        seen[key + 1 :, key] = False
        return seen

    for attention in chosen:
        vars(attention)["visible"] = visible  # stands before the method of its class
    try:
        yield
    finally:
        for attention in chosen:
            del vars(attention)["visible"]


def knockouts(model: GPT, inputs: Tensor, targets: Tensor, eq_positions: Tensor, mask: Tensor) -> pl.DataFrame:
    """Accuracy without each position in turn: the share of sequences whose every scored token is predicted.

    Args:
        model: in which looks are cut, and given back as it was.
        inputs: ``(N, S)``, int64.
        targets: ``(N, S)``, int64.
        eq_positions: ``(N,)``; targets after them are scored, as in :func:`shoal.objectives.get_loss_and_accuracy`.
        mask: ``(N, S)``, 1 where the target is not padding.

    Returns:
        ``key`` (from 0, but for the last, which nobody looks back at; null: nothing is cut), ``layer`` (the only one
        in which looks are cut, from 0; null: all layers) and ``accuracy``. A model of one layer has no rows of its own.
    """
    scored = (inputs, targets, eq_positions, mask)
    layers = len(model.decoder.blocks)
    rows: list[tuple[int | None, int | None, float]] = [(None, None, _accuracy(model, *scored))]
    for key in range(inputs.shape[1] - 1):
        for layer in [None, *(range(layers) if layers > 1 else [])]:
            with knocked_out(model, key, None if layer is None else [layer]):
                rows.append((key, layer, _accuracy(model, *scored)))
    return pl.DataFrame(rows, {"key": pl.Int64, "layer": pl.Int64, "accuracy": pl.Float64}, orient="row")


@torch.no_grad()
def _accuracy(model: GPT, *scored: Tensor) -> float:
    right = 0.0
    for inputs, targets, eq_positions, mask in zip(*(torch.split(part, CHUNK) for part in scored), strict=True):
        logits = model.eval()(inputs)[0]
        right += float(get_loss_and_accuracy(logits, targets, eq_positions, mask, reduction="sum")[1])
    return right / len(scored[0])
