"""Small parallel texts and word lists for tests."""

from itertools import product

WORDS = {"ein": "a", "der": "the", "hund": "dog", "kind": "child", "mann": "man", "schläft": "sleeps", "rennt": "runs"}
PUNCTUATION = (".", "!")


def sentences(n):
    """So many pairs of a tiny German and its English, of 2 to 8 words."""
    every = product(("ein", "der"), ("hund", "kind", "mann"), ("schläft", "rennt"), PUNCTUATION)
    whole = [f"{' '.join(words[:3])}{words[3]}" for words in every]
    pairs = [*whole, *(f"{one} {other}" for one, other in product(whole, whole))][:n]
    english = []
    for german in pairs:
        for word, other in WORDS.items():
            german = german.replace(word, other)
        english.append(german)
    return pairs, english


def parallel(folder, n_train=40, n_valid=12, lines=None):
    """Four files in a folder, as settings."""
    source, target = sentences(n_train + n_valid)
    made = {
        "source": source[:n_train],
        "target": target[:n_train],
        "valid_source": source[n_train:],
        "valid_target": target[n_train:],
    } | (lines or {})
    found = {}
    for name, own in made.items():
        path = folder / f"{name}.txt"
        path.write_text("".join(f"{line}\n" for line in own), encoding="utf-8", newline="\n")
        found[name] = str(path)
    return found


ENGLISH = (
    "the quick brown fox jumps over a lazy dog while she sings of strange things apple orange under every other tree "
    "string throw school shop cheese quiet queen yellow young you my rhythm why eye in on at up it is us "
    "green blue black brown white small big table chair window door house garden river mountain star sun moon"
)


def english(folder):
    path = folder / "english.txt"
    path.write_text(ENGLISH, encoding="utf-8")
    return str(path)
