"""Words of a text and their Pig Latin in letters, split by word: no word of one split is in the other."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from shoal.errors import OtherDataError, UserError
from shoal.keyed import bits, fold
from shoal.tasks.base import Task
from shoal.tasks.pairs.codec import PairCodec
from shoal.tasks.pairs.data import Pairs, Scoring, pair_task
from shoal.tasks.pairs.vocabulary import Types
from shoal.tasks.pig_latin.rules import RULES, pig_latin, rule_of, words_of
from shoal.tasks.text.corpus import read_corpus

ALPHABET = "abcdefghijklmnopqrstuvwxyz"
_KEPT = 4


@dataclass(frozen=True, eq=False)
class Words:
    """Distinct words of a text.

    Attributes:
        words: the words, each once, in alphabetical order.
        pairs: the words and their Pig Latin, in this order.
        groups: mask of the words of each rule, ``(N,)`` bool; for rules with at least two words.
        occurrences: number of words of the text, repetitions included.
    """

    words: list[str]
    pairs: Pairs
    groups: dict[str, Tensor]
    occurrences: int

    def split(self, valid_share: float, split_seed: int) -> tuple[Tensor, Tensor]:
        """Training and validation words; each rule has the same share in both, and at least one word in each.

        Returns:
            Indices ``(n,)`` int64 of each, in alphabetical order. Their numbers depend on no seed.
        """
        order = bits(fold(torch.tensor(0), split_seed), len(self.words)).argsort(stable=True)  # (N,)
        parts = [order[inside[order]] for inside in self.groups.values()]
        valid = torch.cat([part[: n_valid(len(part), valid_share)] for part in parts])
        trains = torch.ones(len(order), dtype=torch.bool)
        trains[valid] = False
        return trains.nonzero().squeeze(1), valid.sort().values


def n_valid(words: int, valid_share: float) -> int:
    """Number of validation words among the words of one rule, of which there are at least two."""
    return min(max(1, round(words * valid_share)), words - 1)


def letters_codec(max_length: int) -> PairCodec:
    """Codec whose tokens are the letters a to z."""
    letters = Types("letters", list(ALPHABET))
    return PairCodec(letters, letters, max_length, lowercase=True)


_loaded: dict[tuple[object, ...], Words] = {}
_loading = threading.Lock()


def load_words(paths: Sequence[str], key: str | None, max_length: int, moved: str) -> Words:
    """Distinct words of a text; the same object at every call, so that members of a stack share them.

    Args:
        paths: see :func:`shoal.tasks.text.corpus.read_corpus`.
        key: key of the content that the text must have.
        max_length: largest number of letters of a word.
        moved: see :mod:`shoal.tasks.pig_latin.rules`.

    Raises:
        UserError: the text cannot be read, has another content, or too few words.
    """
    corpus = read_corpus(paths)
    if key is not None and corpus.key != key:
        raise OtherDataError(
            f"text {', '.join(paths)} is not the one that the run began with: its content is {corpus.key}, that of the "
            f"run {key}",
            "name the text of the run with --text, or train anew",
        )
    known = (corpus.key, max_length, moved)
    with _loading:
        if known not in _loaded:
            _loaded[known] = _words(corpus.text, max_length, moved)
            while len(_loaded) > _KEPT:
                del _loaded[next(iter(_loaded))]
        return _loaded[known]


def _words(text: str, max_length: int, moved: str) -> Words:
    every = list(words_of(text, max_length))
    words = sorted(set(every))
    codec = letters_codec(max_length)
    targets = [codec.target.encode(pig_latin(word, moved)) for word in words]
    pairs = Pairs.of([codec.source.encode(word) for word in words], targets)
    rules = [rule_of(word, moved) for word in words]
    inside = {rule: torch.tensor([of_word == rule for of_word in rules], dtype=torch.bool) for rule in RULES}
    groups = {rule: which for rule, which in inside.items() if which.sum() > 1}
    if not groups:
        raise UserError(
            f"a text for Pig Latin needs two different words of one rule at least, of {max_length} letters a to z at "
            f"most; this one has {' '.join(words) or 'none'}"
        )
    return Words(words, pairs, groups, len(every))


def pig_latin_task(words: Words, reads: str, valid_share: float, split_seed: int, scoring: Scoring) -> Task:
    """Task of words for the engine, with one group per rule."""
    train, valid = words.split(valid_share, split_seed)
    return pair_task(words.pairs, reads, train, valid, words.groups, scoring)
