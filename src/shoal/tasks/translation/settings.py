"""Settings of the task of translation."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import BeforeValidator

from shoal.errors import UserError
from shoal.models.pair_settings import PairModel
from shoal.spec.fields import choice, set_default, setting
from shoal.tasks.pairs.settings import BucketedPairs, told_filled
from shoal.tasks.pretrained import PretrainedSides, Side, words_of
from shoal.tasks.settings import Counts, Sizes
from shoal.tasks.translation.corpus import FILES, read_parallel, read_sides

if TYPE_CHECKING:
    from shoal.spec.run import RunSpec
    from shoal.tasks.base import Task
    from shoal.tasks.pairs.buckets import Buckets
    from shoal.tasks.translation.data import TranslationData

TOKENIZERS = ("words", "bpe", "chars")
BPE_SIZE = 8000  # default number of byte pairs of a vocabulary
MIN_FREQUENCY = 2
_FOUND = ("source_tokens", "target_tokens", "train_pairs", "valid_pairs")


def _path(value: Any) -> Any:
    """Absolute path: a run may be resumed from another folder."""
    if not isinstance(value, str | Path):
        raise ValueError
    return str(Path(value).absolute()) if str(value) else ""


File = Annotated[str, BeforeValidator(_path)]


def _file(about: str) -> Any:
    return setting("", about, "a UTF-8 file, gzip-compressed if its name ends in .gz", operational=True)


def _found_out(about: str) -> Any:
    return setting(None, f"{about}; counted in the files", "an integer of at least 1", derived=True, ge=1)


class Translation(PretrainedSides, BucketedPairs):
    """Settings of translation: sentences and their translations, line by line.

    The identity of a run depends on the content of the four files of training and validation (``pair_key``), not on
    their paths, and on no test split. Vocabularies are those of the training split alone.
    """

    name: ClassVar[str] = "translation"
    label: ClassVar[str] = "translation"
    reads_files: ClassVar[bool] = True
    scores: ClassVar[tuple[str, ...]] = ("BLEU", "BLEU lc", "chrF2", "exact match")

    source: File = _file("sentences to train on, to be translated")
    target: File = _file("their translations, line by line")
    valid_source: File = _file("sentences to validate on")
    valid_target: File = _file("their translations, line by line")
    test_source: File = _file("sentences for final scores; those of validation where none are given")
    test_target: File = _file("their translations, line by line")
    pair_key: str | None = setting(
        None,
        "the content of the files, as the first digits of a SHA-256; computed where they are given",
        "16 hexadecimal digits",
        derived=True,
        pattern="^[0-9a-f]{16}$",
    )
    tokenizer: str = choice(
        "words",
        "kind of tokens: words by rule, byte pairs or characters, all learned from the training split",
        TOKENIZERS,
    )
    vocabularies: str = choice("joint", "one vocabulary for sources and targets, or two", ("joint", "separate"))
    vocabulary_size: int | None = setting(
        None,
        f"byte pairs of bpe ({BPE_SIZE} when not given) or most words, in each vocabulary, besides special tokens",
        "an integer of at least 1",
        ge=1,
    )
    min_frequency: int | None = setting(
        None,
        f"fewest occurrences in the training split of a word that is a token ({MIN_FREQUENCY} when not given)",
        "an integer of at least 1",
        ge=1,
    )
    lowercase: bool = setting(False, "lower-case both sides", "true or false")
    max_length: int = setting(
        64, "tokens of a sentence at most, EOS not counted", "an integer in [1, 10000]", ge=1, le=10_000
    )
    too_long: str = choice(
        "drop", "a pair with a longer sentence is left out of its split, or cut to its first tokens", ("drop", "cut")
    )
    source_tokens: int | None = _found_out("tokens of the sources' vocabulary, special ones included")
    target_tokens: int | None = _found_out("tokens of the targets' vocabulary, special ones included")
    train_pairs: int | None = _found_out("pairs that train")
    valid_pairs: int | None = _found_out("pairs that validate")

    def fill(self) -> None:
        """Set sizes of vocabularies that were not given."""
        if self.tokenizer == "bpe":
            set_default(self, "vocabulary_size", BPE_SIZE)
        if self.tokenizer == "words":
            set_default(self, "min_frequency", MIN_FREQUENCY)
        self.fill_embeddings()

    def derived(self) -> list[str]:
        """See :class:`Part`: the key of the files, numbers counted in them, and defaults that were filled in."""
        if not self.source:
            return []
        filled = [("vocabulary_size", "bpe", BPE_SIZE), ("min_frequency", "words", MIN_FREQUENCY)]
        defaulted = [name for name, kind, usual in filled if self.tokenizer == kind and getattr(self, name) == usual]
        return ["pair_key", *_FOUND, *defaulted, *self.derived_of_embeddings()]

    def check(self) -> None:
        """See :class:`Part`."""
        super().check()
        given = [name for name in FILES if getattr(self, name)]
        if missing := [name for name in FILES if name not in given and (given or self.pair_key is None)]:
            flags = " ".join(f"--{name.replace('_', '-')} FILE" for name in missing)
            raise UserError(f"task translation needs four files; missing: {flags}")
        if bool(self.test_source) != bool(self.test_target):
            missing_test = "source" if self.test_target else "target"
            raise UserError(f"a test split is a source and its target; missing: --test-{missing_test} FILE")
        if self.tokenizer == "chars" and self.vocabulary_size is not None:
            raise UserError(
                f"vocabulary_size={self.vocabulary_size} does not apply to tokenizer 'chars', which has its own; it "
                "applies to words bpe"
            )
        if self.tokenizer != "words" and self.min_frequency is not None:
            raise UserError(
                f"min_frequency={self.min_frequency} does not apply to tokenizer {self.tokenizer!r}; it applies to "
                "words"
            )
        if self.pair_key is None:
            self._find_out()
        elif missing := [name for name in _FOUND if getattr(self, name) is None]:
            raise UserError(
                f"pair_key={self.pair_key} alone does not give {missing[0]}; it is counted where the four files are "
                "given without it"
            )
        self.check_embeddings(self.tokenizer)

    def check_new(self) -> None:
        """See :class:`Part`: the files must be those that their key names."""
        super().check_new()
        if self.source and "pair_key" in self.model_fields_set:
            asked = {name: getattr(self, name) for name in ("pair_key", *_FOUND)}
            key = read_parallel(self.files()).key
            if key != self.pair_key:
                raise UserError(f"pair_key must be that of the files, {key}, or left out, got {self.pair_key}")
            self._find_out()
            for name, value in asked.items():
                if getattr(self, name) != value:
                    raise UserError(
                        f"{name} must be that of the files, {getattr(self, name)}, or left out, got {value}"
                    )
        self.check_new_embeddings()

    def check_model(self, spec: "RunSpec") -> None:
        """See :class:`TaskSettings`: a model that reads one sequence needs one vocabulary."""
        if spec.model_part.reads == "sequence" and self.vocabularies == "separate":
            raise UserError(
                f"vocabularies=separate does not apply to model {spec.model!r}, which reads a source and its target as "
                "one sequence; vocabularies=joint does"
            )
        part = spec.model_part
        if self.vocabularies == "separate" and isinstance(part, PairModel) and part.tie_embeddings == "all":
            raise part.tied_across_vocabularies()
        super().check_model(spec)

    def _find_out(self) -> None:
        """Set numbers that depend on the content of the files; they are cached for the runs of a grid."""
        key = read_parallel(self.files()).key
        asked = (key, *(getattr(self, name) for name in _ENCODING))
        if asked not in _sizes:
            data = self._load(key)
            while len(_sizes) >= _KEPT:
                del _sizes[next(iter(_sizes))]
            _sizes[asked] = (data.codec.source.size, data.codec.target.size, data.n_train, data.n_valid)
        for name, value in zip(("pair_key", *_FOUND), (key, *_sizes[asked]), strict=True):
            object.__setattr__(self, name, value)

    def files(self) -> dict[str, str]:
        """Paths of the four files."""
        return {name: getattr(self, name) for name in FILES}

    def final_lines(self) -> tuple[str, list[str], list[str]]:
        """Test set of final scores: its name, sentences and their translations, as they stand in the files.

        Returns:
            ``"test"`` or, where no test files were named, ``"valid"``, and as many sources as targets.

        Raises:
            UserError: a file cannot be read, or the two have not as many lines.
        """
        split = "test" if self.test_source else "valid"
        source, target = (getattr(self, f"{split}_{side}") for side in ("source", "target"))
        return (split, *read_sides(source, target))

    def check_final(self) -> None:
        """See :class:`TaskSettings`: the test split, which no run reads while it trains."""
        if self.test_source:
            self.final_lines()

    def data(self) -> "TranslationData":
        """Pairs in tokens.

        Raises:
            UserError: a file cannot be read, or the files are not those of the run.
        """
        if not self.source:
            flags = " ".join(f"--{name.replace('_', '-')} FILE" for name in FILES)
            raise UserError(f"the files {self.pair_key} of this run were not named: {flags}")
        return self._load(self.pair_key)

    def _load(self, key: str | None) -> "TranslationData":
        from shoal.tasks.translation.data import Encoding, load_translation

        return load_translation(self.files(), key, Encoding(**{name: getattr(self, name) for name in _ENCODING}))

    def side(self, name: str) -> Side:
        """See :class:`PretrainedSettings`; EOS and padding are no words."""
        import numpy as np

        data = self.data()
        vocabulary: Any = getattr(data.codec, name)
        tokens, lengths = (getattr(data.pairs, f"{name}{end}").numpy() for end in ("", "_length"))  # (N, S), (N,)
        is_text = np.arange(tokens.shape[1]) < lengths[:, None] - 1  # (N, S), without EOS
        n, size = data.n_train, vocabulary.size
        splits = {"train": slice(None, n), "valid": slice(n, None)}
        counts = {split: np.bincount(tokens[at][is_text[at]], minlength=size) for split, at in splits.items()}
        types, first = vocabulary.types, vocabulary.first

        def sentences() -> list[list[str]]:
            rows = (row[mask].tolist() for row, mask in zip(tokens[:n], is_text[:n], strict=True))
            return words_of(types, first, rows)

        return Side(types, first, counts, sentences)

    def sizes(self) -> Sizes:
        """See :class:`TaskSettings`; positions for the longest sentence that is allowed, and EOS."""
        assert self.source_tokens is not None and self.target_tokens is not None
        length = self.max_length + 1
        widths = self.table_widths()
        return Sizes(self.target_tokens, length, 0, self.source_tokens, length, widths["target"], widths["source"])

    def counts(self) -> Counts:
        """See :class:`TaskSettings`."""
        from shoal.tasks.pairs.data import n_scored

        assert self.train_pairs is not None and self.valid_pairs is not None
        (scored,) = n_scored([self.train_pairs], self.valid_pairs)
        return Counts(self.train_pairs, self.valid_pairs + scored, held=0)  # one text for all members

    def build_for(self, reads: str, split_seed: int) -> "Task":
        """See :class:`TaskSettings`."""
        from shoal.tasks.translation.data import translation_task

        return translation_task(self.data(), reads, self.scoring(), self.batched())

    def conventions(self) -> list[str]:
        """See :class:`TaskSettings`: also lower-casing, and the length limit."""
        cased = (
            "lower-casing: both sides are lower-cased before they are divided into tokens, so answers are lower-case"
        )
        done = "is cut to its first tokens" if self.too_long == "cut" else "leaves its pair out of its split"
        limit = f"length limit: a sentence of more than {self.max_length} tokens, EOS not counted, {done}"
        return [*super().conventions(), *([cased] if self.lowercase else []), limit]

    def buckets(self) -> "Buckets":
        """See :class:`BucketedPairs`."""
        return self.data().buckets

    def kept(self) -> Mapping[str, Any]:
        """See :class:`TaskSettings`: the codec, and counts of validation targets and of pairs that were left out."""
        data = self.data()
        left = {**data.told, "too_long": self.too_long, "max_length": self.max_length}
        numbers = {"counts": data.counts, "left_out": left, "batches": self.filled(), "unknown": data.unknown}
        return {"pair_key": self.pair_key, "codec": data.codec.to_json(), **numbers, **self.kept_embeddings()}

    @classmethod
    def beside(cls, kept: Mapping[str, Any]) -> list[str]:
        """See :class:`TaskSettings`: numbers of pairs that were left out or cut, of unknown tokens, and of validation
        sources that are trained on, too."""
        left, counts = kept.get("left_out"), kept.get("counts")
        if not left or not counts:
            return []
        n_unknown = kept.get("unknown", 0)  # earlier versions did not count them
        share = 100 * n_unknown / counts["tokens"]
        unknown = f", {'less than 0.1' if share < 0.1 else f'{share:.1f}'} % of the tokens <unk>" if n_unknown else ""
        done = "cut" if left["too_long"] == "cut" else "left out"
        long, empty = left["train_long"], left["train_empty"]
        valid_long, valid_empty = left["valid_long"], left["valid_empty"]
        return [
            f"beside, of pairs {str(kept.get('pair_key', ''))[:8]}: {counts['targets']:,} targets validate, of "
            f"{counts['tokens']:,} tokens with EOS and {counts['words']:,} words{unknown}; longer than "
            f"{left['max_length']} tokens and {done}: {long:,} to train on and {valid_long:,} to validate on; "
            f"with an empty side and left out: {empty:,} and {valid_empty:,}; validation sources that train, too: "
            f"{left['duplicates']:,}",
            *told_filled(kept),
            *cls.before(kept),
        ]

    def place(self) -> tuple[str, Mapping[str, Any]] | None:
        """See :class:`TaskSettings`."""
        return self.place_embeddings((self.pair_key, self.files()) if self.source and self.pair_key else None)

    def sizes_named(self) -> list[str]:
        """See :class:`TaskSettings`."""
        return ["source_tokens", "target_tokens", "max_length"]


_ENCODING = (
    "tokenizer",
    "vocabularies",
    "vocabulary_size",
    "min_frequency",
    "lowercase",
    "max_length",
    "too_long",
)
_KEPT = 64
_sizes: dict[tuple[Any, ...], tuple[int, int, int, int]] = {}
