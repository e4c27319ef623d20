"""Settings of the task of language modelling."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import BeforeValidator

from shoal.errors import UserError
from shoal.measures import Measure, Measures
from shoal.spec.fields import SHARE, choice, set_default, setting
from shoal.tasks.pretrained import Side, words_of
from shoal.tasks.settings import Counts, Sizes, fitting, smoothing_lines
from shoal.tasks.text.corpus import Corpus, read_corpus, split
from shoal.tasks.text.other_tokenizer import MIN_FREQUENCY, OtherTokenizer

if TYPE_CHECKING:
    from shoal.tasks.base import Task
    from shoal.tasks.text.data import TextData

TOKENIZERS = ("chars", "bytes", "bpe", "words")
WINDOWS = ("random", "blocks")
BPE_SIZE = 1024  # default size of a vocabulary of byte pairs
BYTES = 256
MEASURES = Measures(
    (
        Measure("loss", "L", "loss", "nats per token", is_log=True),
        Measure("accuracy", "A", "share of next tokens that are predicted", "", True, (0.0, 1.0)),
    ),
    things="windows",
)


def _paths(value: Any) -> Any:
    """Absolute paths from one path, or several joined by commas: a run may be resumed from another folder."""
    if isinstance(value, str):  # a list, such as that of a record, has whole names
        value = [value] if _is_there(value) else value.split(",")
    paths = list(value) if isinstance(value, list | tuple) else [value]
    if not all(isinstance(path, str | Path) and str(path) for path in paths):
        raise ValueError
    return tuple(str(Path(path).absolute()) for path in paths)


def _is_there(path: str) -> bool:
    try:
        return Path(path).exists()
    except (OSError, ValueError):  # no name of a file, such as one that is too long
        return False


Paths = Annotated[tuple[str, ...], BeforeValidator(_paths)]


class Text(OtherTokenizer):
    """Settings of language modelling: the next token of each window is predicted from those before it.

    The identity of a run depends on the content of its text (``text_key``), not on its path.
    """

    name: ClassVar[str] = "text"
    label: ClassVar[str] = "text"
    reads_files: ClassVar[bool] = True
    fuses: ClassVar[bool] = True
    makes_windows: ClassVar[bool] = True
    suggests: ClassVar[Mapping[str, Any]] = {
        "train_batch_size": 32,
        "eval_batch_size": 64,
        "n_steps": 10_001,
        "eval_first": 0,
        "eval_period": 500,
        "lr_schedule": "cosine",
        "lr_floor": 0.1,
        "warmup_steps": 100,
        "weight_decay": 0.1,
        "decay_all": False,
    }

    text: Paths = setting(
        (), "the text", "a file, a folder of .txt and .txt.gz files, or several joined by commas", operational=True
    )
    text_key: str | None = setting(
        None,
        "the text's content, as the first digits of its SHA-256; computed where the text is given",
        "16 hexadecimal digits",
        derived=True,
        pattern="^[0-9a-f]{16}$",
    )
    tokenizer: str = choice(
        "chars", "kind of tokens; bpe: byte pairs, words: by rule, both learned from the training split", TOKENIZERS
    )
    vocabulary_size: int | None = setting(
        None,
        f"tokens of bpe ({BPE_SIZE} when not given); chars, bytes and words have their own",
        "an integer of at least 2",
        ge=2,
    )
    min_frequency: int | None = setting(
        None,
        f"fewest occurrences in the training split of a word that is a token ({MIN_FREQUENCY} when not given)",
        "an integer of at least 1",
        ge=1,
    )
    context_length: int = setting(64, "most tokens that a prediction can see", "an integer of at least 1", ge=1)
    windows: str = choice(
        "random", "training windows: each anywhere, or blocks in a new order and place each pass", WINDOWS
    )
    valid_share: float = setting(
        0.1, "share of the text, its end, that validates", "above 0 and below 1", gt=0, lt=1, allow_inf_nan=False
    )
    eval_stride: int | None = setting(
        None,
        "tokens that each scored window adds: the context length (blocks) when not given; fewer give all but the first "
        "a longer context",
        "an integer of at least 1, at most the context length",
        follows="context_length",
        ge=1,
    )
    label_smoothing: float = setting(
        0.0, "label smoothing: share of the target spread over all tokens while training", in_float32=True, **SHARE
    )

    def fill(self) -> None:
        """Set the stride to the context length, and the vocabulary size where it does not depend on the text."""
        set_default(self, "eval_stride", self.context_length)
        set_default(self, "vocabulary_size", {"bpe": BPE_SIZE, "bytes": BYTES}.get(self.tokenizer))
        set_default(self, "min_frequency", MIN_FREQUENCY if self.tokenizer == "words" else None)
        self.fill_embeddings()

    @classmethod
    def suggest(cls, given: Mapping[str, Any]) -> Mapping[str, Any]:
        """See :class:`TaskSettings`: a warm-up that ends, and no floor where nothing falls."""
        return fitting(cls.suggests, given)

    def derived(self) -> list[str]:
        """See :class:`Part`: the key of the text, and the vocabulary size unless it was given."""
        if not self.text:
            return []
        if self.tokenizer_of:
            return ["text_key", "vocabulary_size", "tokenizer_key"]
        is_default = self.tokenizer != "bpe" or self.vocabulary_size == BPE_SIZE
        is_usual = self.tokenizer == "words" and self.min_frequency == MIN_FREQUENCY
        names = ["vocabulary_size"] * is_default + ["min_frequency"] * is_usual
        return ["text_key", *names, *self.derived_of_embeddings()]

    def check(self) -> None:
        """See :class:`Part`."""
        if not self.text and self.text_key is None:
            raise UserError("task text needs a text: --text FILE (text=… from Python)")
        assert self.eval_stride is not None
        if self.eval_stride > self.context_length:
            raise UserError(
                f"eval_stride must be at most the context length, got eval_stride={self.eval_stride} and "
                f"context_length={self.context_length}"
            )
        if self.tokenizer != "words" and self.min_frequency is not None:
            raise UserError(
                f"min_frequency={self.min_frequency} does not apply to tokenizer {self.tokenizer!r}; it applies to "
                "words"
            )
        if self.text_key is None:
            corpus = read_corpus(self.text)
            object.__setattr__(self, "text_key", corpus.key)
            self._check_text(corpus)
        elif self.vocabulary_size is None:
            raise UserError(
                f"text_key={self.text_key} alone does not give the vocabulary size of {self.tokenizer}; it is computed "
                "where the text is given without it: --text FILE (text=… from Python)"
            )
        self.check_embeddings(self.tokenizer)

    def check_new(self) -> None:
        """See :class:`Part`: the text must be the one that its key names."""
        super().check_new()
        if self.text and "text_key" in self.model_fields_set:
            corpus = read_corpus(self.text)
            if corpus.key != self.text_key:
                raise UserError(f"text_key must be that of the text, {corpus.key}, or left out, got {self.text_key}")
            self._check_text(corpus)
        self.check_new_embeddings()

    def _check_text(self, corpus: Corpus) -> None:
        """Set the vocabulary size that the text gives, and check that each split has a window."""
        is_other = self.take_tokenizer()
        vocabulary, n_train, n_valid = _sizes_of(corpus, self.tokenizer, self.valid_share)
        if is_other or self.tokenizer == "words":
            data = self.data()
            vocabulary, n_train, n_valid = data.tokenizer.vocabulary_size, len(data.train), len(data.valid)
        if not is_other and vocabulary is not None and self.vocabulary_size not in (None, vocabulary):
            raise UserError(
                f"vocabulary_size={self.vocabulary_size} does not apply to tokenizer {self.tokenizer!r}, which has "
                f"{vocabulary} tokens here; it applies to bpe"
            )
        if vocabulary is not None:
            object.__setattr__(self, "vocabulary_size", vocabulary)
        if vocabulary is None:
            data = self.data()
            n_train, n_valid = len(data.train), len(data.valid)
        check_windows(n_train, n_valid, self.context_length, self.valid_share)

    def measures(self) -> Measures:
        """See :class:`TaskSettings`: there is no criterion of having generalised."""
        return MEASURES

    def sizes(self) -> Sizes:
        """See :class:`TaskSettings`."""
        assert self.vocabulary_size is not None
        return Sizes(self.vocabulary_size, self.context_length, table_width=self.table_widths()["source"])

    def counts(self) -> Counts:
        """See :class:`TaskSettings`."""
        data = self.data()
        starts, _ = data.scored_windows(self.context_length, self.eval_stride or self.context_length)
        return Counts(len(data.train) - self.context_length, len(starts), held=0)  # one text for all members

    def shuffled(self) -> int:
        """See :class:`TaskSettings`: blocks; windows that begin anywhere have no order."""
        return self.counts().drawn // self.context_length if self.windows == "blocks" else 0

    def data(self) -> "TextData":
        """Text in tokens.

        Raises:
            UserError: the text cannot be read, or is not that of the run.
        """
        from shoal.tasks.text.data import load_text

        if not self.text:
            raise UserError(f"the text {self.text_key} of this run was not named: --text FILE")
        how = (self.tokenizer, self.vocabulary_size, self.valid_share, self.min_frequency, self.other_tokenizer())
        return load_text(self.text, self.text_key, *how)

    def side(self, name: str) -> Side:
        """See :class:`PretrainedSettings`; the end of a line is no word."""
        import numpy as np

        from shoal.tasks.text.word_tokenizer import LINE, SPECIALS, WordTokenizer

        data = self.data()
        assert isinstance(data.tokenizer, WordTokenizer)
        counts = {}
        for split_name, tokens in (("train", data.train), ("valid", data.valid)):
            counts[split_name] = np.bincount(tokens.numpy(), minlength=data.tokenizer.vocabulary_size)
            counts[split_name][LINE] = 0
        types, train = data.tokenizer.types, data.train
        return Side(types, SPECIALS, counts, lambda: words_of(types, SPECIALS, _lines(train.tolist(), LINE)))

    def kept(self) -> Mapping[str, Any]:
        """See :class:`TaskSettings`: the tokenizer, the amount of validation text, and the n-gram baseline."""
        data = self.data()
        numbers = {"counts": data.counts(), "ngram": data.baseline()}
        tokenizer = data.tokenizer.to_json()
        return {"text_key": self.text_key, "tokenizer": tokenizer, **numbers, **self.kept_embeddings()}

    @classmethod
    def units(cls, kept: Mapping[str, Any]) -> Mapping[str, float]:
        """See :class:`TaskSettings`: bits per character and per byte of the validation text."""
        counts = kept.get("counts", {})
        return {
            f"bits/{one}": counts["tokens"] / (math.log(2) * counts[several])
            for one, several in (("char", "characters"), ("byte", "bytes"))
            if counts.get(several)
        }

    @classmethod
    def beside(cls, kept: Mapping[str, Any]) -> list[str]:
        """See :class:`TaskSettings`: the best n-gram."""
        if not kept.get("ngram") or not kept.get("counts"):
            return cls.before(kept)
        baseline, loss = kept["ngram"], kept["ngram"]["nats_per_token"]
        bits = "".join(f", {loss * factor:.3f} {name}" for name, factor in cls.units(kept).items())
        whose = f"{str(kept.get('text_key', ''))[:8]} in {kept.get('tokenizer', {}).get('kind', 'tokens')}"
        return [
            f"beside, of text {whose}: the best n-gram (Witten–Bell, order {baseline['order']} of 1 to "
            f"{baseline['orders']}) has {loss:.3f} nats per token{bits} on the same {kept['counts']['tokens']:,} "
            "tokens",
            *cls.before(kept),
        ]

    def conventions(self) -> list[str]:
        """See :class:`TaskSettings`: label smoothing, which is PyTorch's."""
        return smoothing_lines(self.label_smoothing)

    def place(self) -> tuple[str, Mapping[str, Any]] | None:
        """See :class:`TaskSettings`."""
        place = (self.text_key, {"text": list(self.text)}) if self.text and self.text_key else None
        return self.place_embeddings(place)

    def build(self, split_seed: int) -> "Task":
        """See :class:`TaskSettings`; the split is the text's own and depends on no seed."""
        from shoal.tasks.text.data import text_task

        assert self.eval_stride is not None
        return text_task(self.data(), self.context_length, self.eval_stride, self.windows, self.label_smoothing)

    def sizes_named(self) -> list[str]:
        """See :class:`TaskSettings`."""
        return ["vocabulary_size", "context_length"]


def _sizes_of(corpus: Corpus, tokenizer: str, valid_share: float) -> tuple[int | None, int, int]:
    """Vocabulary size, and number of tokens of each split, of a text in characters or bytes; None for other tokens.

    The sizes are cached for the runs of a grid, each of which needs them.
    """
    asked = (corpus.key, tokenizer, valid_share)
    if asked not in _sizes:
        train, valid = split(corpus.text, valid_share)
        if tokenizer == "chars":
            sizes = len(set(corpus.text)), len(train), len(valid)
        elif tokenizer == "bytes":
            sizes = BYTES, len(train.encode()), len(valid.encode())
        else:
            return None, 0, 0
        while len(_sizes) >= _KEPT:
            del _sizes[next(iter(_sizes))]
        _sizes[asked] = sizes
    return _sizes[asked]


_KEPT = 64
_sizes: dict[tuple[str, str, float], tuple[int | None, int, int]] = {}


def _lines(tokens: list[int], end: int) -> list[list[int]]:
    """Tokens line by line, without those of the ends of lines."""
    lines: list[list[int]] = [[]]
    for token in tokens:
        if token == end:
            lines.append([])
        else:
            lines[-1].append(token)
    return lines


def check_windows(n_train: int, n_valid: int, context_length: int, valid_share: float) -> None:
    """Raise :class:`UserError` where a split has too few tokens for a window."""
    if n_train <= context_length:
        raise UserError(
            f"context_length must be below the {n_train:,} tokens of the training split, got {context_length}"
        )
    if n_valid < 2:
        raise UserError(f"valid_share={valid_share} leaves {n_valid} tokens to validate on; there must be 2 at least")
