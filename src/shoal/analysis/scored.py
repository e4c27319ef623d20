"""Loss of a scored split in units that do not depend on tokens, and by position in the context."""

from typing import TYPE_CHECKING

import polars as pl

from shoal.tasks.text.scoring import in_blocks, scored_bytes
from shoal.tasks.text.units import TextCounts, count_text, loss_by_position, total_nats, units

if TYPE_CHECKING:
    from torch import Tensor

    from shoal.tasks.text.data import TextData


def split_total(nats: "Tensor") -> float:
    """Total nats of the scores of one model from :func:`shoal.tasks.text.scoring.score_split`, ``(n,)``."""
    return total_nats([nats.numpy()])[0]


def split_counts(data: "TextData", split: str = "valid") -> TextCounts:
    """Amounts of scored text of a split: all of its tokens but the first."""
    tokens = len(data.train if split == "train" else data.valid) - 1
    return count_text(scored_bytes(data, split), tokens)


def split_units(nats: "Tensor", data: "TextData", split: str = "valid") -> dict[str, float]:
    """Loss of one model on a split, ``(n,)``, in all units of :data:`shoal.tasks.text.units.UNITS`."""
    return units(split_total(nats), split_counts(data, split))


def split_by_position(nats: "Tensor", context_length: int) -> pl.DataFrame:
    """Mean loss at each position of the blocks of one model, ``(n,)``; see :func:`loss_by_position`."""
    blocks, counts = in_blocks(nats, context_length)
    return loss_by_position(blocks.numpy(), counts.numpy())
