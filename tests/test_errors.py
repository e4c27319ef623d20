"""Which valid name was probably meant."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.errors import LONGEST_VALUE, nearest


def meant(name: str, *allowed: str) -> str | None:
    found = re.fullmatch(r"; did you mean '(.*)'\?", nearest(name, allowed))
    return found[1] if found else None


@pytest.mark.parametrize(
    ("name", "allowed", "expected"),
    [
        ("LSTM", ("gpt", "lstm"), "lstm"),
        ("adamW", ("adam", "adamw"), "adamw"),  # case costs nothing, a missing letter one
        ("ADAM", ("adamw", "adam"), "adam"),
        ("gtp", ("lstm", "gpt"), "gpt"),  # neighbours swapped are one change: of three signs that is a third
        ("weight-decay", ("weight_decay",), "weight_decay"),
        ("--weigth-decay", ("--weight-decay", "--weight_decay"), "--weight-decay"),
        ("wieght_decya", ("weight_decay",), "weight_decay"),
        ("mamba", ("lstm", "gpt"), None),
        ("ca", ("abc",), None),
        ("", ("lstm",), None),
        ("lstm", (), None),
        ("lr", ("p", "q", "lr_floor"), "lr_floor"),  # the beginning of one
        ("Power", ("nanda-2023", "power-2022", "power-2023"), "power-2022"),
        ("steps", ("warmup_steps", "n_steps"), "n_steps"),  # the field's names for settings
        ("--learning-rate", ("--lr", "--lr-floor"), "--lr"),
        ("wd", ("p", "weight_decay"), "weight_decay"),
        ("epochs", ("lr", "p"), None),
        ("depth", ("depth", "num_layers"), "depth"),
        ("lrs", ("lr_schedule", "lr_st"), None),
        ("s", ("seed_of_all",), None),
    ],
)
def test_the_name_that_was_meant(name, allowed, expected):
    assert meant(name, *allowed) == expected


def test_of_names_equally_near_the_first_is_meant():
    assert meant("bat", "cat", "hat") == "cat"
    assert meant("bat", "hat", "cat") == "hat"


def test_what_nobody_would_have_typed_is_not_compared():
    assert nearest("a" * (LONGEST_VALUE + 1), ["a" * LONGEST_VALUE]) == ""


words = st.text("abc", max_size=6)


def distance(a: str, b: str) -> int:
    """Optimal string alignment, by its recursion."""
    if not a or not b:
        return len(a) + len(b)
    ways = [distance(a[1:], b) + 1, distance(a, b[1:]) + 1, distance(a[1:], b[1:]) + (a[0] != b[0])]
    if len(a) > 1 and len(b) > 1 and a[:2] == b[1::-1]:
        ways.append(distance(a[2:], b[2:]) + 1)
    return min(ways)


@settings(max_examples=100, deadline=None)
@given(name=words, allowed=st.lists(words, min_size=1, max_size=3, unique=True))
def test_a_name_is_meant_that_is_nearest_and_at_most_a_third_away(name, allowed):
    begun = [other for other in allowed if other.startswith(name) and len(name) > 1]
    far = {other: distance(name, other) for other in allowed}
    close = {other: n for other, n in far.items() if 3 * n <= max(len(name), len(other))}
    assert meant(name, *allowed) == (min(close, key=close.__getitem__) if close else next(iter(begun), None))
