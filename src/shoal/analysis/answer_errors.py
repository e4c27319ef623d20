"""Kinds of error in a wrong answer: Pig Latin letter by letter, sorted numbers by order and count."""

from collections import Counter

UNFINISHED = "no end"
OTHER_RULE, NO_ENDING, ORDER = "another rule", "ending lost", "letters in another order"
EXCHANGED, LEFT_OUT, TOO_MANY = "one letter exchanged", "one letter left out", "one letter too many"
SEVERAL = "several letters"
NUMBER_ORDER, REPEATS = "right numbers, wrong order", "in order, repeats miscounted"
NUMBERS_LEFT_OUT, NUMBERS_TOO_MANY = "in order, numbers left out", "in order, numbers too many"
OTHER_NUMBERS, NOT_IN_ORDER = "in order, other numbers", "other numbers, not in order"


def pig_latin_error(word: str, right: str, written: str) -> str:
    """Kind of error of a wrong Pig Latin word; the first kind that applies.

    >>> pig_latin_error("string", "ingstray", "tringsay"), pig_latin_error("string", "ingstray", "ingtsray")
    ('another rule', 'letters in another order')
    >>> pig_latin_error("pig", "igpay", "ibpay"), pig_latin_error("pig", "igpay", "igp")
    ('one letter exchanged', 'ending lost')
    """
    moved = {word[k:] + word[:k] + ending for k in range(len(word) + 1) for ending in ("ay", "way")}
    if written in moved - {right}:
        return OTHER_RULE
    if not written.endswith("ay"):
        return NO_ENDING
    if sorted(written) == sorted(right):
        return ORDER
    if edit_distance(written, right) > 1:
        return SEVERAL
    return EXCHANGED if len(written) == len(right) else LEFT_OUT if len(written) < len(right) else TOO_MANY


def sorting_error(source: str, right: str, written: str) -> str:
    """Kind of error of a wrong answer to a sorting question; the first kind that applies.

    Args:
        source: the numbers to sort, separated by spaces, in any order.
        right: the same numbers, sorted.
        written: the model's answer.

    >>> sorting_error("2 1 1", "1 1 2", "1 2"), sorting_error("2 1 3", "1 2 3", "1 3 2")
    ('in order, repeats miscounted', 'right numbers, wrong order')
    """
    wanted, given = ([int(number) for number in text.split()] for text in (right, written))
    missing, extra = Counter(wanted) - Counter(given), Counter(given) - Counter(wanted)
    if not missing and not extra:
        return NUMBER_ORDER
    if given != sorted(given):
        return NOT_IN_ORDER
    if set(wanted) == set(given):
        return REPEATS
    return OTHER_NUMBERS if missing and extra else NUMBERS_LEFT_OUT if missing else NUMBERS_TOO_MANY


def edit_distance(first: str, second: str) -> int:
    """Edit distance of two words: the fewest letters to exchange, leave out or add (Levenshtein 1966).

    >>> edit_distance("kitten", "sitting")
    3
    """
    before = list(range(len(second) + 1))
    for i, a in enumerate(first, 1):
        row = [i]
        for j, b in enumerate(second, 1):
            row.append(min(before[j] + 1, row[-1] + 1, before[j - 1] + (a != b)))
        before = row
    return before[-1]
