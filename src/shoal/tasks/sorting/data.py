"""Data of the sorting task: validation multisets are chosen first, then training examples of other multisets are drawn.

Everything is a pure function of the split's seed (:mod:`shoal.keyed`). ``L`` numbers of an example.
"""

import threading
from collections.abc import Iterator
from functools import lru_cache
from itertools import combinations_with_replacement, count
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from shoal.errors import UserError
from shoal.keyed import bits, fold
from shoal.tasks.base import Task
from shoal.tasks.pairs.buckets import Buckets
from shoal.tasks.pairs.data import Pairs, pair_task
from shoal.tasks.pairs.vocabulary import EOS, PAD, SPECIALS

if TYPE_CHECKING:
    from shoal.tasks.sorting.settings import Sorting

LISTED = 20_000  # a length of at most so many multisets has them listed to choose from; else examples are drawn
MOST_ROUNDS = 10_000
_ROUNDS, _FEW, _FRESH = 100, 64, 1 / 4  # when to give up drawing distinct multisets as examples are drawn
_AT_ONCE = 2**22  # random numbers
_VALID, _TRAIN, _SPREAD = 1, 2, 3  # purposes of random numbers
_KEPT = 2**25  # numbers of examples that are cached for members of a stack, of many split seeds
_made: dict[tuple[object, ...], Pairs] = {}
_making = threading.Lock()


def sorting_task(settings: "Sorting", reads: str, split_seed: int) -> Task:
    """Task of examples for the engine, with one group per length; training ones first, lengths in turn."""
    pairs = sorting_pairs(settings, split_seed)
    lengths = pairs.source_length - 1
    groups = {f"length{length}": lengths == length for length in settings.lengths} if len(settings.lengths) > 1 else {}
    number, n = torch.arange(len(pairs)), settings.train_examples
    return pair_task(pairs, reads, number[:n], number[n:], groups, settings.scoring(), settings.batched())


@lru_cache(maxsize=4)
def buckets_of(min_length: int, max_length: int, train_examples: int, valid_examples: int) -> Buckets:
    """Buckets of examples whose lengths take turns, in each split."""
    turns = [torch.arange(n) % (max_length - min_length + 1) for n in (train_examples, valid_examples)]
    lengths = torch.cat(turns) + min_length + 1  # with EOS
    return Buckets(lengths, lengths, train_examples)


def sorting_pairs(settings: "Sorting", split_seed: int) -> Pairs:
    """All examples, training ones first; the same object at every call."""
    names = ("digits", "min_length", "max_length", "train_examples", "valid_examples")
    known = (split_seed, *(getattr(settings, name) for name in names))
    with _making:
        if known not in _made:
            _made[known] = _pairs(settings, split_seed)
            while len(_made) > 1 and sum(pairs.held for pairs in _made.values()) > _KEPT:
                del _made[next(iter(_made))]
        return _made[known]


def draw_numbers(key: Tensor, n: int, length: int, digits: int, reserved: Tensor) -> Tensor:
    """Random examples of a length: each number is equally likely, and reserved multisets are excluded.

    Args:
        key: int64, a scalar.
        n: number of examples.
        length: L.
        digits: numbers are from 0 to ``digits`` − 1.
        reserved: multisets, each sorted, ``(m, L)`` int64.

    Returns:
        ``(n, L)`` int64.
    """
    examples = torch.empty(n, length, dtype=torch.int64)
    left = torch.arange(n)
    several = set(_multisets(reserved))
    for attempt in range(MOST_ROUNDS):
        keys = fold(fold(key, attempt), left)  # (m,)
        drawn = bits(keys, length) % digits  # (m, L)
        is_reserved = torch.tensor([row in several for row in _multisets(drawn)], dtype=torch.bool)
        examples[left[~is_reserved]] = drawn[~is_reserved]
        left = left[is_reserved]
        if not len(left):
            return examples
    raise UserError(
        f"almost all examples of {length} of {digits} numbers have validation multisets: lower valid_examples"
    )


def choose_multisets(key: Tensor, n: int, length: int, digits: int, multisets: int) -> Tensor:
    """Random examples of a length, no two of which have the same multiset, ``(n, L)`` int64.

    Where there are few multisets each is equally likely. Else examples are drawn as training examples are, which
    favours even multisets: of 300 numbers below 3 about 100 are of each kind. Where the likely multisets run out, so
    that most draws are repetitions, each multiset is equally likely there, too; so most of the likely ones are left to
    train on.

    Args:
        key: int64, a scalar.
        n: number of examples, at most half of the multisets.
        length: L.
        digits: numbers are from 0 to ``digits`` − 1.
        multisets: number of multisets of this length.
    """
    if multisets <= LISTED:
        every = torch.tensor(list(combinations_with_replacement(range(digits), length)), dtype=torch.int64)
        chosen = every[bits(key, multisets).argsort(stable=True)[:n]]
        order = bits(fold(fold(key, 1), torch.arange(n)), length).argsort(dim=-1, stable=True)
        return chosen.gather(-1, order)
    seen: set[bytes] = set()
    examples: list[Tensor] = []
    for attempt in range(_ROUNDS):
        missing = n - len(seen)
        drawn = bits(fold(fold(key, attempt), torch.arange(missing)), length) % digits
        examples.append(_distinct(drawn, seen))
        if len(seen) == n:
            return torch.cat(examples)
        if missing >= _FEW and len(examples[-1]) < _FRESH * missing:
            break
    return _spread_multisets(fold(key, _SPREAD), n, length, digits)


def _spread_multisets(key: Tensor, n: int, length: int, digits: int) -> Tensor:
    """Random examples as in :func:`choose_multisets`, where each multiset is equally likely.

    A multiset is a choice of places for ``digits`` - 1 bars among ``length`` stars ("stars and bars"): a number is how
    many bars stand before its star. As at most half of all are chosen, at least every second one that is drawn is new,
    but for those that come twice in one round.
    """
    stars = length + digits - 1
    rows = max(1, _AT_ONCE // stars)
    seen: set[bytes] = set()
    examples: list[Tensor] = []
    for attempt in count():
        missing = min(n - len(seen), rows)
        if not missing:
            break
        keys = fold(fold(key, attempt), torch.arange(missing))  # (m,)
        places = bits(keys, stars).argsort(dim=-1, stable=True)[:, :length].sort(-1).values  # (m, L), of the stars
        numbers = places - torch.arange(length)
        order = bits(fold(keys, 1), length).argsort(dim=-1, stable=True)
        examples.append(_distinct(numbers.gather(-1, order), seen))
    return torch.cat(examples)


def _pairs(settings: "Sorting", split_seed: int) -> Pairs:
    """Pairs of each length, validation and then training; dealt out so that lengths take turns."""
    key, S = fold(torch.tensor(0), split_seed), settings.max_length + 1
    n_train, n_valid = settings.train_examples, settings.valid_examples
    source = torch.full((n_train + n_valid, S), PAD)
    target, turn = source.clone(), len(settings.lengths)
    for place, length in enumerate(settings.lengths):
        length_key = fold(key, length)
        n = settings.of_each(n_valid)[place], settings.of_each(n_train)[place]
        valid = choose_multisets(fold(length_key, _VALID), n[0], length, settings.digits, settings.multisets(length))
        train = draw_numbers(fold(length_key, _TRAIN), n[1], length, settings.digits, valid.sort(-1).values)
        for rows, start, end in ((train, 0, n_train), (valid, n_train, n_train + n_valid)):
            source[start + place : end : turn, :length] = rows + SPECIALS
            target[start + place : end : turn, :length] = rows.sort(-1).values + SPECIALS
        for first in (place, n_train + place):
            last = n_train if first == place else n_train + n_valid
            source[first:last:turn, length] = target[first:last:turn, length] = EOS
    lengths = (source != PAD).sum(-1)
    return Pairs(source, target, lengths, lengths)


def _multisets(rows: Tensor) -> Iterator[bytes]:
    """Key of the multiset of each row ``(n, L)``."""
    return (row.tobytes() for row in rows.sort(-1).values.numpy())


def _distinct(rows: Tensor, seen: set[bytes]) -> Tensor:
    """Rows ``(n, L)`` whose multiset is in no earlier row and not in ``seen``, to which it is added."""
    fresh = []
    for multiset in _multisets(rows):
        fresh.append(multiset not in seen)
        seen.add(multiset)
    return rows[torch.tensor(fresh, dtype=torch.bool)]
