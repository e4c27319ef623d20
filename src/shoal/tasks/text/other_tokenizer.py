"""Settings of a text in the tokens of an earlier run, such as the base that goes on with it."""

from typing import TYPE_CHECKING

from shoal.spec.fields import setting
from shoal.tasks.pretrained import PretrainedSettings

if TYPE_CHECKING:
    from shoal.tasks.text.tokenizers import TextTokenizer

MIN_FREQUENCY = 2  # default of words


class OtherTokenizer(PretrainedSettings):
    """Settings that name the tokenizer of an earlier run, in place of one that the text makes."""

    tokenizer_of: str = setting(
        "",
        "file with the tokenizer of an earlier run, in place of one made from this text",
        "the task.json of its cohort, or a folder with the tokenizer of a GPT-2",
        operational=True,
    )
    tokenizer_key: str = setting(
        "", "the content of that tokenizer", "16 hexadecimal digits", derived=True, pattern="^([0-9a-f]{16})?$"
    )

    def take_tokenizer(self) -> bool:
        """Take kind, key and vocabulary of an earlier run's tokenizer; returns True if there is one."""
        if not self.tokenizer_of:
            return False
        from shoal.models.hub import located_model
        from shoal.tasks.text.tokenizers import read_tokenizer

        made = read_tokenizer(self.tokenizer_of, self.tokenizer_key)
        values = {"tokenizer": made.kind, "tokenizer_key": made.key, "vocabulary_size": made.vocabulary_size}
        if made.kind == "words":  # those that it has, whatever they were chosen by
            object.__setattr__(self, "min_frequency", MIN_FREQUENCY)
        for name, value in {**values, "tokenizer_of": str(located_model(self.tokenizer_of).absolute())}.items():
            object.__setattr__(self, name, value)
        return True

    def other_tokenizer(self) -> "TextTokenizer | None":
        """Tokenizer of an earlier run; None where the text makes its own."""
        if not self.tokenizer_key:
            return None
        from shoal.tasks.text.tokenizers import read_tokenizer

        return read_tokenizer(self.tokenizer_of, self.tokenizer_key)
