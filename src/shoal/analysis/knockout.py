"""Attention knockout: how much a model still gets right when nobody may look back at a position.

Where attention goes does not say what it is good for: a head may look at a position that nothing depends on. So the
looks at a position are cut, and what is lost is counted.

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
    """Within, no position after ``key`` sees it, in these layers (from 0; None: in all).

    What the position itself computes stays as it is: what it knows can go nowhere else.
    """
    with ExitStack() as stack:
        for layer in range(len(model.decoder.blocks)) if layers is None else layers:
            block = model.decoder.blocks[layer]
            assert isinstance(block, Block)  # as a list of modules it has lost its type
            stack.enter_context(_cut(block.self_attn, key))
        yield


@contextmanager
def _cut(attention: MultiHeadedAttention, key: int) -> Iterator[None]:
    """Within, no query after ``key`` sees it; what was cut before stays so."""
    visible, own = attention.visible, vars(attention)
    before = own.get("visible")

    def without(queries: int, keys: int, device: torch.device) -> Tensor:
        seen = visible(queries, keys, device)
        seen[key + 1 :, key] = False
        return seen

    own["visible"] = without  # stands before the method of its class
    try:
        yield
    finally:
        if before is None:
            del own["visible"]
        else:
            own["visible"] = before


def knockouts(model: GPT, inputs: Tensor, targets: Tensor, eq_positions: Tensor, mask: Tensor) -> pl.DataFrame:
    """What is still right without each position in turn.

    Args:
        model: in which looks are cut, and given back as it was.
        inputs: ``(N, S)``, int64.
        targets: ``(N, S)``, int64.
        eq_positions: ``(N,)``; targets after them are scored, as in :func:`shoal.objectives.get_loss_and_accuracy`.
        mask: ``(N, S)``, 1 where the target is not padding.

    Returns:
        ``key`` (from 0, but for the last, which nobody looks back at; null: nothing is cut), ``layer`` (the only one
        in which looks are cut, from 0; null: all layers; a model of one layer has no rows of its own), ``result``, the
        share of sequences whose first scored token is right, and ``accuracy``, of those whose every one is. Of these
        the second and later are predicted where the first has been given.
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
    """The share of sequences whose first scored token is right, and of those whose every one is."""
    first = every = 0.0
    for inputs, targets, eq_positions, mask in zip(*(torch.split(part, CHUNK) for part in scored), strict=True):
        logits = model.eval()(inputs)[0]
        at = (eq_positions + 1).unsqueeze(-1)  # (n, 1)
        first += float((logits.argmax(-1).gather(-1, at) == targets.gather(-1, at)).sum())
        every += float(get_loss_and_accuracy(logits, targets, eq_positions, mask, reduction="sum")[1])
    return first / len(scored[0]), every / len(scored[0])
