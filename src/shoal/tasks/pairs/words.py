r"""Tokeniser of lines into words by rule, and its exact inverse up to white space.

A token is the first of these that fits at a place of the line:

1. an apostrophe (``'`` or ``’``) behind a letter or digit, with the letters and digits after it: ``'s``, ``'t``;
2. letters, digits and underscores, as many as there are (``\w`` of Python);
3. any other sign that is not white space, alone.

A token that stands at the beginning of the line or behind white space is written with a space before it, so that only
the kind and amount of white space are lost: ``"Don't  go!"`` is ``" Don"``, ``"'t"``, ``" go"`` and ``"!"``.
"""

import re
from collections.abc import Iterable

_TOKEN = re.compile(r"(?<=\w)['’]\w+|\w+|[^\w\s]")


def split_words(line: str) -> list[str]:
    """Tokens of a line.

    >>> split_words("Don't  go!")
    [' Don', "'t", ' go', '!']
    """
    tokens = []
    for match in _TOKEN.finditer(line):
        start = match.start()
        is_joined = start > 0 and not line[start - 1].isspace()
        tokens.append(match.group() if is_joined else f" {match.group()}")
    return tokens


def join_words(tokens: Iterable[str]) -> str:
    """Line of these tokens, with one space where there was white space, and none at its ends.

    >>> join_words([" Don", "'t", " go", "!"])
    "Don't go!"
    """
    return "".join(tokens).removeprefix(" ")
