"""Parallel text in tokens: vocabularies from the training split alone, pairs that are left out, and counts."""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

from shoal.errors import OtherDataError, UserError
from shoal.tasks.base import Task
from shoal.tasks.pairs.buckets import Buckets
from shoal.tasks.pairs.codec import PairCodec
from shoal.tasks.pairs.data import Batching, Pairs, Scoring, count_targets, pair_task
from shoal.tasks.pairs.vocabulary import UNK, Vocabulary, learn_vocabulary
from shoal.tasks.translation.corpus import ParallelText, read_parallel

_KEPT = 4
SPLITS = (("train", "source", "target"), ("valid", "valid_source", "valid_target"))


@dataclass(frozen=True)
class Encoding:
    """Encoding of lines as tokens, by the settings of the task."""

    tokenizer: str
    vocabularies: str
    vocabulary_size: int | None
    min_frequency: int | None
    lowercase: bool
    max_length: int
    too_long: str


@dataclass(frozen=True, eq=False)
class TranslationData:
    """Parallel text in tokens.

    Attributes:
        pairs: training pairs, then validation pairs.
        n_train: number of training pairs.
        codec: codec between lines and tokens.
        counts: amounts of the validation targets: ``targets``, ``tokens``, ``characters``, ``bytes``, ``words``.
        told: numbers to report, of each split ``train_`` and ``valid_``: pairs with an ``empty`` side and pairs with a
            side that is too ``long``; and ``duplicates``, validation pairs whose source is in the training file, too.
        scored_lines: indices, from 0, in the validation files of the validation pairs.
        unknown: number of UNK tokens in the validation targets.
    """

    pairs: Pairs
    n_train: int
    codec: PairCodec
    counts: dict[str, int]
    told: dict[str, int]
    scored_lines: list[int]
    unknown: int

    @property
    def n_valid(self) -> int:
        """Number of validation pairs."""
        return len(self.pairs) - self.n_train

    @cached_property
    def buckets(self) -> Buckets:
        """Buckets of all pairs by their lengths."""
        return Buckets(self.pairs.source_length, self.pairs.target_length, self.n_train)


_loaded: dict[tuple[object, ...], TranslationData] = {}
_loading = threading.Lock()


def load_translation(paths: Mapping[str, str], key: str | None, encoding: Encoding) -> TranslationData:
    """Parallel text in tokens; the same object at every call, so that members of a stack share it.

    Raises:
        UserError: a file cannot be read, or they have another content, or a vocabulary or split is not possible.
    """
    text = read_parallel(paths)
    if key is not None and text.key != key:
        flags = " ".join(f"--{name.replace('_', '-')}" for name in paths)
        raise OtherDataError(
            f"the files {', '.join(paths.values())} are not those that the run began with: their content is "
            f"{text.key}, that of the run {key}",
            f"name the files of the run with {flags}, or train anew",
        )
    known = (text.key, encoding)
    with _loading:
        if known not in _loaded:
            _loaded[known] = encode_parallel(text, encoding)
            while len(_loaded) > _KEPT:
                del _loaded[next(iter(_loaded))]
        return _loaded[known]


def learn_codec(sources: Sequence[str], targets: Sequence[str], encoding: Encoding) -> PairCodec:
    """Codec with the vocabularies of the training split's lines."""

    def learn(lines: Sequence[str]) -> Vocabulary:
        prepared = [line.lower() for line in lines] if encoding.lowercase else lines
        return learn_vocabulary(encoding.tokenizer, prepared, encoding.vocabulary_size, encoding.min_frequency)

    if encoding.vocabularies == "joint":
        source = target = learn([*sources, *targets])
    else:
        source, target = learn(sources), learn(targets)
    return PairCodec(source, target, encoding.max_length, encoding.lowercase, cuts=True)


def encode_parallel(text: ParallelText, encoding: Encoding) -> TranslationData:
    """Parallel text in tokens. Pairs with an empty side are left out of both splits, as are those with a side that is
    too long, unless it is cut to its first tokens, with EOS behind them."""
    codec = learn_codec(text.lines["source"], text.lines["target"], encoding)
    sources: list[list[int]] = []
    targets: list[list[int]] = []
    left_out: dict[str, int] = {}
    n, scored_lines, scored_texts = 0, [], []
    for split, source, target in SPLITS:
        n = len(sources)
        left_out |= {f"{split}_empty": 0, f"{split}_long": 0}
        for place, lines in enumerate(zip(text.lines[source], text.lines[target], strict=True)):
            prepared = [codec.prepared(line) for line in lines]
            rows = codec.source.encode(prepared[0]), codec.target.encode(prepared[1])
            if not all(rows):
                left_out[f"{split}_empty"] += 1
                continue
            is_long = max(map(len, rows)) > encoding.max_length
            left_out[f"{split}_long"] += is_long
            if is_long and encoding.too_long == "drop":
                continue
            sources.append(rows[0][: encoding.max_length])
            targets.append(rows[1][: encoding.max_length])
            if split == "valid":
                scored_lines.append(place)
                is_cut = len(rows[1]) > encoding.max_length
                scored_texts.append(codec.target.decode(targets[-1]) if is_cut else prepared[1])
    _check_split("training", "source", n, len(text.lines["source"]), left_out, "train", encoding)
    _check_split(
        "validation", "valid_source", len(sources) - n, len(text.lines["valid_source"]), left_out, "valid", encoding
    )
    known = set(map(codec.prepared, text.lines["source"]))
    left_out["duplicates"] = sum(codec.prepared(text.lines["valid_source"][place]) in known for place in scored_lines)
    counts = count_targets(scored_texts, sum(len(row) + 1 for row in targets[n:]))
    unknown = sum(row.count(UNK) for row in targets[n:]) if getattr(codec.target, "has_unknown", False) else 0
    return TranslationData(Pairs.of(sources, targets), n, codec, counts, left_out, scored_lines, unknown)


def _check_split(
    words: str, name: str, left: int, lines: int, left_out: Mapping[str, int], split: str, encoding: Encoding
) -> None:
    if left:
        return
    empty, long = left_out[f"{split}_empty"], left_out[f"{split}_long"]
    if not lines:
        raise UserError(f"the {words} split ({name}) has no line")
    reasons = [f"{empty:,} with an empty side"] if empty else []
    reasons += [f"{long:,} with one of more than max_length={encoding.max_length} tokens"] if long else []
    advice = "; too_long=cut keeps pairs with a long side" if long else ""
    raise UserError(
        f"no pair of the {words} split ({name}) is left of {lines:,}: all are left out, {' and '.join(reasons)}{advice}"
    )


def translation_task(data: TranslationData, reads: str, scoring: Scoring, batching: Batching | None) -> Task:
    """Task of parallel text for the engine; its split is that of the files and depends on no seed."""
    number = torch.arange(len(data.pairs))
    train, valid = number[: data.n_train], number[data.n_train :]
    return pair_task(data.pairs, reads, train, valid, scoring=scoring, batching=batching)
