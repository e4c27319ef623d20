"""Settings of the task of sorting numbers."""

from collections.abc import Mapping
from functools import cached_property
from math import comb
from typing import TYPE_CHECKING, Any, ClassVar

from shoal.errors import UserError
from shoal.spec.fields import setting
from shoal.tasks.pairs.settings import BucketedPairs, told_filled
from shoal.tasks.settings import Counts, Sizes

if TYPE_CHECKING:
    from shoal.tasks.base import Task
    from shoal.tasks.pairs.buckets import Buckets
    from shoal.tasks.pairs.codec import PairCodec

MOST_NUMBERS = 200_000_000  # of all examples together


class Sorting(BucketedPairs):
    """Settings of sorting numbers from 0 up to ``digits``, one token each, repetitions included.

    There are equally many examples of each length. The validation split is a set of multisets: no training example has
    the same numbers in whatever order. Each length is reported separately, too.
    """

    name: ClassVar[str] = "sorting"
    label: ClassVar[str] = "sorting"

    digits: int = setting(100, "different numbers", "an integer in [2, 10000]", ge=2, le=10_000)
    min_length: int = setting(10, "numbers of the shortest example", "an integer of at least 1", ge=1)
    max_length: int = setting(20, "numbers of the longest example", "an integer in [1, 1000]", ge=1, le=1000)
    train_examples: int = setting(
        50_000, "examples that train, drawn once, with repetition", "an integer of at least 1", ge=1
    )
    valid_examples: int = setting(
        1000, "examples that validate, all of other multisets", "an integer of at least 1", ge=1
    )

    def check(self) -> None:
        """See :class:`Part`: there must be twice as many multisets as validate."""
        super().check()
        if self.min_length > self.max_length:
            raise UserError(
                f"min_length must be at most max_length, got min_length={self.min_length} and "
                f"max_length={self.max_length}"
            )
        for name in ("train_examples", "valid_examples"):
            if (n := getattr(self, name)) < len(self.lengths):
                raise UserError(f"{name} must be at least 1 of each of the {len(self.lengths)} lengths, got {n}")
        total = (self.train_examples + self.valid_examples) * 2 * (self.max_length + 1)
        if total > MOST_NUMBERS:
            raise UserError(f"train_examples={self.train_examples} make {total:,} tokens; at most {MOST_NUMBERS:,} fit")
        most = [self.multisets(length) // 2 for length in self.lengths]
        for length, n, limit in zip(self.lengths, self.of_each(self.valid_examples), most, strict=True):
            if n > limit:
                raise UserError(
                    f"valid_examples={self.valid_examples} needs {n} multisets of length {length}; of {self.digits} "
                    f"numbers there are {self.multisets(length):,}, of which half at most validate: at most "
                    f"{min(most) * len(most)} are possible"
                )

    @property
    def lengths(self) -> range:
        """Lengths of examples, from the shortest to the longest."""
        return range(self.min_length, self.max_length + 1)

    def of_each(self, n: int) -> list[int]:
        """Number of examples of each length, of ``n`` in all."""
        return [len(range(place, n, len(self.lengths))) for place in range(len(self.lengths))]

    def multisets(self, length: int) -> int:
        """Number of multisets of a length.

        >>> Sorting(min_length=6, max_length=6, digits=3, valid_examples=7).multisets(6)
        28
        """
        return comb(length + self.digits - 1, length)

    def sizes(self) -> Sizes:
        """See :class:`TaskSettings`."""
        V = 3 + self.digits
        return Sizes(V, self.max_length + 1, 0, V, self.max_length + 1)

    def counts(self) -> Counts:
        """See :class:`TaskSettings`."""
        from shoal.tasks.pairs.data import n_scored

        n_all = self.train_examples + self.valid_examples
        scored = sum(n_scored(self.of_each(self.train_examples), self.valid_examples))
        held = n_all * (2 * (self.max_length + 1) + 2 + len(self.lengths))
        return Counts(self.train_examples, self.valid_examples + scored, held=held)

    def build_for(self, reads: str, split_seed: int) -> "Task":
        """See :class:`TaskSettings`."""
        from shoal.tasks.sorting.data import sorting_task

        return sorting_task(self, reads, split_seed)

    def buckets(self) -> "Buckets":
        """See :class:`BucketedPairs`; lengths take turns whatever the seed."""
        from shoal.tasks.sorting.data import buckets_of

        return buckets_of(self.min_length, self.max_length, self.train_examples, self.valid_examples)

    @cached_property
    def codec(self) -> "PairCodec":
        """Codec between ``"3 1 2"`` and tokens."""
        from shoal.tasks.pairs.codec import PairCodec
        from shoal.tasks.pairs.vocabulary import Types

        numbers = Types("numbers", [str(number) for number in range(self.digits)])
        return PairCodec(numbers, numbers, self.max_length)

    def kept(self) -> Mapping[str, Any]:
        """See :class:`TaskSettings`: the codec of numbers, and the share of padding in batches."""
        return {"codec": self.codec.to_json(), "batches": self.filled()}

    @classmethod
    def beside(cls, kept: Mapping[str, Any]) -> list[str]:
        """See :class:`TaskSettings`: the share of padding in batches."""
        return told_filled(kept)

    @classmethod
    def units(cls, kept: Mapping[str, Any]) -> Mapping[str, float]:
        """See :class:`TaskSettings`: there are no units besides nats per token."""
        return {}

    def sizes_named(self) -> list[str]:
        """See :class:`TaskSettings`."""
        return ["digits", "max_length", "train_examples"]
