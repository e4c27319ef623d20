"""Units of a loss: perplexity, bits per character and byte, and the loss by position."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.errors import UserError
from shoal.tasks.text.tokenizers import ByteTokenizer, CharTokenizer
from shoal.tasks.text.units import UNITS, TextCounts, count_text, loss_by_position, total_nats, units

some = settings(max_examples=50, deadline=None)


def test_bytes_under_a_uniform_model():
    """Case T4."""
    tokens = ByteTokenizer().encode("é🐕")
    counts = count_text(ByteTokenizer().decode_bytes(tokens), len(tokens))
    found = units(len(tokens) * math.log(256), counts)
    assert found == pytest.approx(
        {
            "nats_per_token": math.log(256),
            "bits_per_byte": 8.0,
            "bits_per_character": 24.0,
            "perplexity_per_token": 256.0,
            "perplexity_per_word": 256.0**6,
        }
    )
    part = tokens[1:]  # scored without the first, which is half of a character
    found = units(5 * math.log(256), count_text(ByteTokenizer().decode_bytes(part), 5))
    assert (found["bits_per_byte"], found["bits_per_character"]) == (pytest.approx(8.0), pytest.approx(40.0))


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_perplexity_is_of_all_tokens_together(dtype):
    """Case T6, in one batch padded or two, of lists, arrays and tensors."""
    short, long = [0.1, 0.2, 0.1], [0.3, 0.5, 0.1, 0.4, 0.2]
    padded = np.array([[*short, 9.0, math.nan], long], dtype=dtype)
    mask = np.array([[True] * 3 + [False] * 2, [True] * 5])
    asked = [
        total_nats([np.array(short, dtype), np.array(long, dtype)]),
        total_nats([padded], [mask]),
        total_nats(
            [torch.from_numpy(padded)[1:], torch.from_numpy(padded)[:1]], [mask[1:], torch.from_numpy(mask)[:1]]
        ),
    ]
    assert len(set(asked)) == 1
    nats, tokens = asked[0]
    assert tokens == 8
    found = units(nats, TextCounts(tokens, 16, 24, 2))
    assert found["perplexity_per_token"] == pytest.approx(1.26807, abs=1e-5)
    assert found["perplexity_per_word"] == pytest.approx(math.exp(0.95))
    assert found["bits_per_character"] == pytest.approx(1.9 / 16 / math.log(2))


@some
@given(st.lists(st.floats(0, 50, width=32), min_size=1, max_size=60), st.integers(1, 60), st.randoms())
def test_batches_change_no_bit(losses, size, random):
    whole = total_nats([losses])
    shuffled = random.sample(losses, len(losses))
    assert total_nats([shuffled[i : i + size] for i in range(0, len(losses), size)]) == whole
    assert whole[0] == math.fsum(losses)


def test_masks_belong_to_batches():
    for nats, masks in [([[1.0, 2.0]], [[True]]), ([[1.0]], []), ([], [[True]]), ([[1.0]], [[True], [True]])]:
        with pytest.raises(UserError):
            total_nats(nats, masks)
    assert total_nats([]) == (0.0, 0)


@some
@given(st.text())
def test_texts_are_counted_as_python_counts(text):
    counts = count_text(text, 3)
    assert counts == count_text(text.encode(), 3)
    assert counts == TextCounts(3, len(text), len(text.encode()), len(text.split()))


@some
@given(st.text(), st.data())
def test_cut_characters_are_counted_once(text, data):
    content = text.encode()
    cut = data.draw(st.integers(0, len(content)))
    parts = [count_text(part, 0) for part in (content[:cut], content[cut:])]
    assert sum(part.characters for part in parts) == len(text)
    assert sum(part.bytes for part in parts) == len(content)


@some
@given(st.text(min_size=1), st.floats(0, 1e4))
def test_what_does_not_depend_on_tokens_does_not(text, nats):
    by_character, by_byte = CharTokenizer("".join(sorted(set(text)))).encode(text), ByteTokenizer().encode(text)
    a, b = (units(nats, count_text(text, len(tokens))) for tokens in (by_character, by_byte))
    for name in ("bits_per_character", "bits_per_byte", "perplexity_per_word"):
        assert a[name] == b[name] or (math.isnan(a[name]) and not text.split())
    assert a["bits_per_character"] == pytest.approx(a["nats_per_token"] / math.log(2))
    assert b["bits_per_byte"] == pytest.approx(b["nats_per_token"] / math.log(2))


def test_what_cannot_be_said_is_not():
    counts = TextCounts(2, 2, 2, 0)
    found = units(3000.0, counts)
    assert tuple(found) == UNITS
    assert math.isnan(found["perplexity_per_word"])
    assert found["perplexity_per_token"] == math.inf
    assert math.isnan(units(math.nan, counts)["nats_per_token"])
    assert units(math.inf, counts)["bits_per_byte"] == math.inf
    for nats, wrong in ((1.0, TextCounts(0, 0, 0, 0)), (-1.0, counts)):
        with pytest.raises(UserError):
            units(nats, wrong)


def test_losses_by_position_are_means_over_rows():
    nats = np.array([[1.0, 5.0, 2.0], [3.0, 5.0, 7.0], [5.0, 5.0, 7.0]])
    frame = loss_by_position(nats, np.array([[1, 1, 1], [1, 1, 0], [1, 1, 0]], dtype=bool))
    assert frame["position"].to_list() == [1, 2, 3]
    assert frame["loss"].to_list() == [3.0, 5.0, 2.0]
    assert frame["n"].to_list() == [3, 3, 1]
    half = 4.302652729911275 * 2 / math.sqrt(3)  # Student's t of 2 degrees of freedom at 97.5 %
    assert frame["low"][0] == pytest.approx(3 - half)
    assert frame["high"][0] == pytest.approx(3 + half)
    assert (frame["low"][1], frame["high"][1]) == (5.0, 5.0)
    assert math.isnan(frame["low"][2])


def test_rows_that_do_not_count_have_no_part_in_the_interval():
    nats = np.array([[1.0, 2.0], [3.0, 4.0], [9.0, 9.0]])
    frame = loss_by_position(nats, np.array([[True, True], [True, True], [False, True]]))
    assert frame.row(0) == loss_by_position(nats[:2]).row(0)


def test_positions_without_rows_have_no_loss():
    frame = loss_by_position(np.zeros((2, 2)), np.array([[True, False]] * 2))
    assert math.isnan(frame["loss"][1])
    assert frame["n"][1] == 0
    assert len(loss_by_position(np.zeros((0, 4)))) == 4


def test_the_interval_holds_the_mean_as_often_as_it_says():
    generator = np.random.default_rng(0)
    for level in (0.8, 0.95):
        frame = loss_by_position(generator.gamma(2.0, 1.5, size=(200, 4000)), level=level)
        held = frame.select((frame["low"] < 3.0) & (frame["high"] > 3.0)).to_series().mean()
        assert held == pytest.approx(level, abs=0.02)


def test_what_is_no_matrix_is_refused():
    for asked in [(np.zeros(3),), (np.zeros((2, 3)), np.ones((3, 2), dtype=bool)), (np.zeros((2, 3)), None, 1.0)]:
        with pytest.raises(UserError):
            loss_by_position(*asked)
