"""Settings of the task of Pig Latin."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from shoal.errors import UserError
from shoal.spec.fields import choice, setting
from shoal.tasks.pairs.settings import PairSettings, told_filled
from shoal.tasks.pig_latin.rules import ADDED, MOVED
from shoal.tasks.settings import Counts, Sizes
from shoal.tasks.text.corpus import read_corpus
from shoal.tasks.text.settings import Paths

if TYPE_CHECKING:
    from shoal.tasks.base import Task
    from shoal.tasks.pig_latin.data import Words

LETTERS = 26


class PigLatin(PairSettings):
    """Settings of Pig Latin: the distinct words of an English text, in letters (:mod:`shoal.tasks.pig_latin.rules`).

    Words are split so that none is in both splits; scores are reported by rule, too. A run's identity depends on the
    content of the text (``text_key``) and not on its path.
    """

    name: ClassVar[str] = "pig_latin"
    label: ClassVar[str] = "Pig Latin"
    reads_files: ClassVar[bool] = True

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
    moved: str = choice(
        "cluster", "letters that move to the end: all first consonants, or one or a block such as sh", MOVED
    )
    max_length: int = setting(
        20, "largest number of letters; longer words are left out", "an integer in [1, 100]", ge=1, le=100
    )
    valid_share: float = setting(
        0.1, "share of the words that validates, of each rule", "above 0 and below 1", gt=0, lt=1, allow_inf_nan=False
    )

    def derived(self) -> list[str]:
        """See :class:`Part`: the key of the text."""
        return ["text_key"] if self.text else []

    def check(self) -> None:
        """See :class:`Part`."""
        if not self.text and self.text_key is None:
            raise UserError("task pig_latin needs a text: --text FILE (text=… from Python)")
        if self.text_key is None:
            object.__setattr__(self, "text_key", read_corpus(self.text).key)
            self.words()

    def check_new(self) -> None:
        """See :class:`Part`: the text must be the one that its key names."""
        super().check_new()
        if self.text and "text_key" in self.model_fields_set:
            key = read_corpus(self.text).key
            if key != self.text_key:
                raise UserError(f"text_key must be that of the text, {key}, or left out, got {self.text_key}")

    def words(self) -> "Words":
        """Distinct words of the text.

        Raises:
            UserError: the text cannot be read, or is not that of the run.
        """
        from shoal.tasks.pig_latin.data import load_words

        if not self.text:
            raise UserError(f"the text {self.text_key} of this run was not named: --text FILE")
        return load_words(self.text, self.text_key, self.max_length, self.moved)

    def conventions(self) -> list[str]:
        """See :class:`TaskSettings`: also the length limit."""
        return [*super().conventions(), f"length limit: words of more than {self.max_length} letters are left out"]

    def sizes(self) -> Sizes:
        """See :class:`TaskSettings`; sources have as many positions as targets, so that one stands below the other."""
        V, length = 3 + LETTERS, self.max_length + ADDED + 1
        return Sizes(V, length, 0, V, length)

    def counts(self) -> Counts:
        """See :class:`TaskSettings`."""
        from shoal.tasks.pairs.data import n_scored
        from shoal.tasks.pig_latin.data import n_valid

        words = self.words()
        sizes = [int(inside.sum()) for inside in words.groups.values()]
        valid = [n_valid(size, self.valid_share) for size in sizes]
        left = [size - n for size, n in zip(sizes, valid, strict=True)]
        alone = len(words.words) - sum(sizes)  # of rules with one word
        scored = sum(n_scored([*left, *([alone] if alone else [])], sum(valid)))
        return Counts(sum(left) + alone, sum(valid) + scored, held=0)  # one text for all members

    def build_for(self, reads: str, split_seed: int) -> "Task":
        """See :class:`TaskSettings`."""
        from shoal.tasks.pig_latin.data import pig_latin_task

        return pig_latin_task(self.words(), reads, self.valid_share, split_seed, self.scoring())

    def kept(self) -> Mapping[str, Any]:
        """See :class:`TaskSettings`: the codec of letters, the number of words by rule, and the share of padding."""
        from shoal.tasks.pig_latin.data import letters_codec

        words = self.words()
        rules = {rule: int(inside.sum()) for rule, inside in words.groups.items()}
        batches = {"widths": 1, "real_share": round(words.pairs.real_share(), 4)}  # all as wide as the longest word
        codec = letters_codec(self.max_length).to_json()
        return {"text_key": self.text_key, "codec": codec, "words": rules, "batches": batches}

    @classmethod
    def beside(cls, kept: Mapping[str, Any]) -> list[str]:
        """See :class:`TaskSettings`: the number of words by rule, and the share of padding in batches."""
        rules = kept.get("words") or {}
        if not rules:
            return []
        by_rule = ", ".join(f"{n:,} {rule}" for rule, n in rules.items())
        return [
            f"beside, of text {str(kept.get('text_key', ''))[:8]}: {sum(rules.values()):,} different words ({by_rule})",
            *told_filled(kept),
        ]

    def place(self) -> tuple[str, Mapping[str, Any]] | None:
        """See :class:`TaskSettings`."""
        return (self.text_key, {"text": list(self.text)}) if self.text and self.text_key else None

    def sizes_named(self) -> list[str]:
        """See :class:`TaskSettings`."""
        return ["max_length"]
