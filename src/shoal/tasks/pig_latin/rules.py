"""Rules of Pig Latin, and the words of a text.

The beginning of a word moves to its end, before ``ay``:

- ``vowel``: a word that begins with a, e, i, o or u moves nothing and gets ``way``: ``apple`` is ``appleway``;
- ``consonant``: a word that begins with one consonant moves it: ``pig`` is ``igpay``;
- ``cluster``: a word that begins with several moves them together: ``string`` is ``ingstray``, ``the`` is ``ethay``.

The consonants that move are defined in one of two ways. ``cluster``: all letters before the first vowel, where y is a
vowel unless it begins the word, and u belongs to a q before it (``quick`` is ``ickquay``, ``square`` is ``aresquay``);
a word without a vowel gets ``ay`` and no more (``hmm`` is ``hmmay``). ``blocks``: the first letter alone, unless the
word begins with one of :data:`BLOCKS`, which moves as a block (``shop`` is ``opshay``, ``string`` is ``tringsay``).
"""

import re
from collections.abc import Iterator

VOWELS = "aeiou"
BLOCKS = ("sh", "ch", "th", "wh", "ph", "qu")
RULES = ("vowel", "consonant", "cluster")
MOVED = ("cluster", "blocks")
ADDED = 3  # letters at most: way
_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")
_LETTERS = re.compile("[a-z]+")
_BEGINNING = re.compile("(?:qu|y(?=.)|[^aeiouy])?(?:qu|[^aeiouy])*")
_BLOCK = re.compile("|".join([*BLOCKS, "[^aeiou]"]))


def beginning(word: str, moved: str = "cluster") -> str:
    """Letters of a word that move.

    >>> [beginning(word) for word in ("apple", "yellow", "quick", "rhythm")]
    ['', 'y', 'qu', 'rh']
    >>> [beginning(word, "blocks") for word in ("apple", "string", "shop", "quick")]
    ['', 's', 'sh', 'qu']
    """
    match = (_BEGINNING if moved == "cluster" else _BLOCK).match(word)
    return match.group() if match else ""


def pig_latin(word: str, moved: str = "cluster") -> str:
    """A word of the letters a to z in Pig Latin.

    >>> " ".join(map(pig_latin, "the quick brown fox in my hmm".split()))
    'ethay ickquay ownbray oxfay inway ymay hmmay'
    """
    first = beginning(word, moved)
    return f"{word}way" if not first else f"{word[len(first) :]}{first}ay"


def rule_of(word: str, moved: str = "cluster") -> str:
    """Rule of a word, one of :data:`RULES`."""
    return RULES[min(len(beginning(word, moved)), 2)]


def words_of(text: str, max_length: int) -> Iterator[str]:
    """Words of a text in lower case, repetitions included.

    A word is letters of any alphabet, with apostrophes between them; those that have another letter than a to z, or an
    apostrophe, or more than ``max_length`` letters, are left out.
    """
    for match in _WORD.finditer(text.lower()):
        word = match.group()
        if len(word) <= max_length and _LETTERS.fullmatch(word):
            yield word
