"""Attention knockout: accuracy of a model where no later position may attend to a given position.

Attention weights do not show what attention is needed for: a head may attend to a position that nothing depends on. So
attention to a position is cut, and the loss of accuracy is measured.

Source: Geva et al. 2023, "Dissecting Recall of Factual Associations in Auto-Regressive Language Models", section 4.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import polars as pl
import torch
from torch import Tensor

from shoal.models import GPT, Block, MultiHeadedAttention
from shoal.objectives import get_loss_and_accuracy

CHUNK = 2048  # sequences at once


@contextmanager
def knocked_out(model: GPT, key: int, layers: Sequence[int] | None = None) -> Iterator[None]:
    """Context in which no position after ``key`` attends to it, in these layers (from 0; None: in all).

    The position's own computation stays as it is; its result reaches no other position.
    """
    with ExitStack() as stack:
        for layer in range(len(model.decoder.blocks)) if layers is None else layers:
            block = model.decoder.blocks[layer]
            assert isinstance(block, Block)  # as a list of modules it has lost its type
            stack.enter_context(_cut(block.self_attn, key))
        yield


@contextmanager
def _cut(attention: MultiHeadedAttention, key: int) -> Iterator[None]:
    """Context in which no query after ``key`` attends to it; earlier cuts stay."""
    visible, attributes = attention.visible, vars(attention)
    before = attributes.get("visible")

    def without(queries: int, keys: int, device: torch.device) -> Tensor:
        seen = visible(queries, keys, device)
        seen[key + 1 :, key] = False
        return seen

    attributes["visible"] = without  # stands before the method of its class
    try:
        yield
    finally:
        if before is None:
            del attributes["visible"]
        else:
            attributes["visible"] = before


def knockouts(model: GPT, inputs: Tensor, targets: Tensor, eq_positions: Tensor, mask: Tensor) -> pl.DataFrame:
    """Accuracy without attention to each position in turn.

    Args:
        model: the model; its attention is as before when the function returns.
        inputs: ``(N, S)``, int64.
        targets: ``(N, S)``, int64.
        eq_positions: ``(N,)``; targets after them are scored, as in :func:`shoal.objectives.get_loss_and_accuracy`.
        mask: ``(N, S)``, 1 where the target is not padding.

    Returns:
        ``key`` (from 0 to the last but one, because no later position attends to the last; null: nothing is cut),
        ``layer`` (the only layer in which attention is cut, from 0; null: all layers; a model of one layer has only
        these rows), ``result``, the share of sequences whose first scored token is right, and ``accuracy``, the share
        of those whose scored tokens are all right (each predicted behind the right tokens before it).
    """
    scored = (inputs, targets, eq_positions, mask)
    layers = len(model.decoder.blocks)
    rows: list[tuple[int | None, int | None, float, float]] = [(None, None, *_right(model, *scored))]
    for key in range(inputs.shape[1] - 1):
        for layer in [None, *(range(layers) if layers > 1 else [])]:
            with knocked_out(model, key, None if layer is None else [layer]):
                rows.append((key, layer, *_right(model, *scored)))
    schema = {"key": pl.Int64, "layer": pl.Int64, "result": pl.Float64, "accuracy": pl.Float64}
    return pl.DataFrame(rows, schema, orient="row")


@torch.no_grad()
def _right(model: GPT, *scored: Tensor) -> tuple[float, float]:
    """Share of sequences whose first scored token is right, and share of those whose scored tokens are all right."""
    first = every = 0.0
    for inputs, targets, eq_positions, mask in zip(*(torch.split(part, CHUNK) for part in scored), strict=True):
        logits = model.eval()(inputs)[0]
        at = (eq_positions + 1).unsqueeze(-1)  # (n, 1)
        first += float((logits.argmax(-1).gather(-1, at) == targets.gather(-1, at)).sum())
        every += float(get_loss_and_accuracy(logits, targets, eq_positions, mask, reduction="sum")[1])
    return first / len(scored[0]), every / len(scored[0])
