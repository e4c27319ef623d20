"""Reversal: read a sequence of symbols, then write it backwards.

A row is ``x_1 … x_n | x_n … x_1``, in which ``|`` ends what is given; inputs drop the last token, targets the first,
and what stands after ``|`` is scored.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from shoal.parts import Counts, Generalised, Measure, Measures, Sizes, TaskSettings, UserError, setting

if TYPE_CHECKING:
    from torch import Tensor

    from shoal.parts import Batch, Model, Task

MEASURES = Measures(
    (
        Measure("loss", "L", "loss", "nats per token", is_log=True),
        Measure("right", "R", "share of sequences reversed whole", "", True, (0.0, 1.0), thresholds=(0.9, 0.99)),
    ),
    Generalised("right", 0.95),
)


class Reverse(TaskSettings):
    """Sequences to reverse, all different, some of them held out."""

    name: ClassVar[str] = "reverse"
    label: ClassVar[str] = "reversal"
    things: ClassVar[str] = "sequences"
    suggests: ClassVar[Mapping[str, Any]] = {"train_batch_size": 64, "n_steps": 2001, "eval_period": 50}

    length: int = setting(6, "symbols to reverse", "an integer of at least 1", ge=1)
    vocabulary: int = setting(8, "different symbols", "an integer of at least 2", ge=2)
    sequences: int = setting(1024, "sequences in both splits", "an integer of at least 2", ge=2, le=1_000_000)
    held_out: float = setting(
        0.25, "share of the sequences that validates", "in (0, 1)", member=True, gt=0, lt=1, allow_inf_nan=False
    )

    def check(self) -> None:
        """There are so many sequences, and both splits have one."""
        if self.length < 20 and self.sequences > (most := self.vocabulary**self.length):
            raise UserError(
                f"sequences must be at most the {most:,} that length={self.length} and vocabulary={self.vocabulary} "
                f"make, got {self.sequences:,}"
            )
        if not 0 < self.n_valid < self.sequences:
            raise UserError(f"held_out={self.held_out} leaves a split of {self.sequences} sequences empty")

    @property
    def n_valid(self) -> int:
        """How many sequences validate."""
        return round(self.sequences * self.held_out)

    def measures(self) -> Measures:
        """Loss, and whether a sequence is right from its first symbol to its last."""
        return MEASURES

    def sizes(self) -> Sizes:
        """The symbols and ``|``; ``2 n`` positions."""
        return Sizes(vocabulary_size=self.vocabulary + 1, sequence_length=2 * self.length)

    def counts(self) -> Counts:
        """See :class:`shoal.parts.TaskSettings`."""
        return Counts(self.sequences - self.n_valid, self.sequences, held=self.sequences * (2 * self.length + 1))

    def build(self, split_seed: int) -> "Task":
        """Draw the sequences and split them."""
        import torch

        from shoal.parts import Task

        chosen = distinct_rows(self.sequences, self.length, self.vocabulary, split_seed)  # (N, n)
        bar = torch.full((len(chosen), 1), self.vocabulary)
        n_train = self.sequences - self.n_valid
        return Task(
            tensors={"rows": torch.cat([chosen, bar, chosen.flip(1)], 1)},  # (N, 2 n + 1)
            drawn=n_train,
            scored={"train": torch.arange(n_train), "valid": torch.arange(n_train, self.sequences)},
            objective=reversed_right,
        )


def distinct_rows(n: int, length: int, vocabulary: int, seed: int) -> "Tensor":
    """So many different sequences in random order, ``(n, length)`` int64."""
    import torch

    random = torch.Generator().manual_seed(seed)
    rows = torch.zeros(0, length, dtype=torch.int64)
    while len(rows) < n:
        more = torch.randint(vocabulary, (n, length), generator=random)
        rows = torch.unique(torch.cat([rows, more]), dim=0)
    return rows[torch.randperm(len(rows), generator=random)[:n]]


def reversed_right(model: "Model", batch: "Batch") -> "dict[str, Tensor]":
    """Loss of the reversed half and whether all of it is right, ``(B,)`` each."""
    from shoal.parts import token_losses

    rows = batch["rows"]  # (B, 2 n + 1)
    n = rows.shape[-1] // 2
    logits, *_ = model(rows[..., :-1])  # (B, 2 n, V)
    answer, targets = logits[..., n:, :], rows[..., n + 1 :]  # (B, n, V), (B, n)
    right = (answer.argmax(-1) == targets).all(-1)
    return {"loss": token_losses(answer, targets).mean(-1), "right": right.to(logits.dtype)}
