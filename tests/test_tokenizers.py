"""Tokens of a text: there and back, the same in every process, and what is refused."""

import hashlib
import itertools
import json
import os
import pickle
import re
import subprocess
import sys
from collections import Counter

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from shoal.errors import UserError
from shoal.tasks.text import bpe
from shoal.tasks.text.tokenizers import KINDS, ByteTokenizer, CharTokenizer, from_json, make_tokenizer

pytest.importorskip("tokenizers", reason="pip install 'shoal[text]'")

some = settings(max_examples=60, deadline=None)
TRAIN = "the cat sat on the mat, and the other cats sat on other mats: 12 + 34 = 46!\r\n" * 3 + "café naïve 日本 🐕🐕\n"
HARD = [
    "",
    "\0",
    "a\0b",
    "é🐕",
    "日本語",
    "\r\n\r\n",
    "  \t x  ",
    "<|endoftext|> <unk>[PAD]</s>",
    "👩‍👩‍👧",
    "e\u0301",
    "\x1c\x85\u2028\ufeff",
]


@pytest.fixture(scope="module")
def learned():
    return make_tokenizer("bpe", TRAIN, TRAIN, 300)


def kinds_for(text: str, learned):
    return [*([make_tokenizer("chars", "", text)] if text else []), ByteTokenizer(), learned]


def shaken(text: str) -> st.SearchStrategy[str]:
    """Texts of the parts of another."""
    return st.lists(st.sampled_from(text.split(" ") + list(text)), max_size=30).map("".join)


@some
@given(st.one_of(st.text(), st.sampled_from(HARD), shaken(TRAIN)))
@example("".join(HARD))
def test_there_and_back(learned, text):
    for tokenizer in kinds_for(text, learned):
        tokens = tokenizer.encode(text)
        assert tokens.dtype == torch.int64
        assert tokens.ndim == 1
        assert tokenizer.decode(tokens) == tokenizer.decode(tokens.tolist()) == text
        assert tokenizer.decode_bytes(tokens) == text.encode()
        assert int(tokenizer.token_bytes()[tokens].sum()) == len(text.encode())
        assert tokenizer.token_bytes().shape == (tokenizer.vocabulary_size,)


@some
@given(st.text(min_size=1), st.data())
def test_a_part_has_its_own_bytes(learned, text, data):
    """Case T4: part of a character is no U+FFFD of three bytes."""
    for tokenizer in kinds_for(text, learned):
        tokens = tokenizer.encode(text)
        start = data.draw(st.integers(0, len(tokens)))
        part = tokens[start : data.draw(st.integers(start, len(tokens)))]
        assert len(tokenizer.decode_bytes(part)) == int(tokenizer.token_bytes()[part].sum())
        assert tokenizer.decode(part) == tokenizer.decode_bytes(part).decode("utf-8", "replace")


def test_the_vocabulary_has_the_size_asked_for(learned):
    assert learned.vocabulary_size == 300
    assert make_tokenizer("bpe", TRAIN, TRAIN, 257).vocabulary_size == 257


def test_people_see_where_bytes_are_no_text(learned):
    for tokenizer in (ByteTokenizer(), learned):
        assert tokenizer.decode([0xC3, 0x61]) == "\ufffda"
        assert tokenizer.decode_bytes([0xC3, 0x61]) == b"\xc3a"


def test_characters_are_those_of_the_whole_text_in_order():
    tokenizer = make_tokenizer("chars", "ba", "ba🐕\né")
    assert [tokenizer.decode([i]) for i in range(tokenizer.vocabulary_size)] == ["\n", "a", "b", "é", "🐕"]
    assert tokenizer.token_bytes().tolist() == [1, 1, 1, 2, 4]


@pytest.mark.parametrize(
    ("known", "text", "says"),
    [
        ("abcde\n", "ab\ncé", ["'é'", "U+00E9", "line 2", "column 2", "'e'"]),
        ("abq", "aQ", ["'Q'", "line 1", "column 2", "'q'"]),
        ("ab'-\"", "a’", ["U+2019", '"\'"']),
        ("ab'-", "—", ["U+2014", "'-'"]),
        ("abyz", "x", ["'y'"]),
        ("ab", "a\nb", ["'\\n'", "column 2"]),
        ("ab", "\ud83d", ["U+D83D"]),
    ],
)
def test_an_unknown_character_is_named(known, text, says):
    with pytest.raises(UserError) as caught:
        make_tokenizer("chars", "", known).encode(text)
    assert "\n" not in str(caught.value)
    assert all(word in str(caught.value) for word in says), caught.value


def test_what_spells_a_special_token_is_text(learned):
    for text in ("<|endoftext|>", "<unk>", "[PAD]", "</s>", "[CLS]"):
        assert learned.encode(text).tolist() == literal_tokens(learned, text)
        assert len(learned.encode(text)) > 1


def ascii_words(text: str) -> list[str]:
    """GPT-2's pattern for text in ASCII."""
    pattern = r"'s|'t|'re|'ve|'m|'ll|'d| ?[A-Za-z]+| ?[0-9]+| ?[^\sA-Za-z0-9]+|\s+(?!\S)|\s+"
    found = re.findall(pattern, text)
    assert "".join(found) == text
    return found


def merged(word: list[bytes], pair: tuple[bytes, bytes]) -> list[bytes]:
    """The word with the pair merged wherever it is, from the left."""
    out, rest = [], list(word)
    while rest:
        if tuple(rest[:2]) == pair:
            out.append(pair[0] + pair[1])
            del rest[:2]
        else:
            out.append(rest.pop(0))
    return out


def merges_in_bytes(tokenizer) -> tuple[list[bytes], list[tuple[bytes, bytes]]]:
    tokens = [tokenizer.decode_bytes([token]) for token in range(tokenizer.vocabulary_size)]
    return tokens, [(tokens[a], tokens[b]) for a, b in tokenizer.to_json()["merges"]]


def literal_tokens(tokenizer, text: str) -> list[int]:
    """Each merge in turn, wherever it applies: what byte-pair encoding is."""
    tokens, merges = merges_in_bytes(tokenizer)
    out = []
    for word in ascii_words(text):
        parts = [bytes([byte]) for byte in word.encode()]
        for pair in merges:
            parts = merged(parts, pair)
        out += [tokens.index(part) for part in parts]
    return out


@some
@given(shaken(TRAIN.encode("ascii", "ignore").decode()) | st.text(st.sampled_from("thecaso ,.'\n\t12!"), max_size=60))
def test_byte_pairs_are_those_of_the_definition(learned, text):
    assert learned.encode(text).tolist() == literal_tokens(learned, text)


def test_each_merge_was_the_most_frequent_pair():
    text = "low lower lowest newer newest wider wide widest, slow slowest\n" * 2 + "aaaa aaaaa"
    tokenizer = make_tokenizer("bpe", text, text, 283)
    tokens, merges = merges_in_bytes(tokenizer)
    assert tokens[:256] == [bytes([byte]) for byte in range(256)]
    words = [[bytes([byte]) for byte in word.encode()] for word in ascii_words(text)]
    for pair in merges:
        counts = Counter(two for word in words for two in itertools.pairwise(word))
        assert counts[pair] == max(counts.values())
        words = [merged(word, pair) for word in words]
    assert all(len(word) == 1 for word in words)  # so this is all that the text gives


def test_merges_are_learned_from_what_is_trained_on():
    train, valid = "abab abab " * 20, "xyxyxyxyxyxyxyxy " * 99
    tokenizer = make_tokenizer("bpe", train, train + valid, 258)
    assert tokenizer.to_json()["trained_on"] == hashlib.sha256(train.encode()).hexdigest()[:16]
    assert len(tokenizer.encode("xyxy")) == 4
    assert tokenizer.decode_bytes([256, 257]) == b"ababab"


@pytest.mark.parametrize("piece", [1, 7, 50])
def test_long_texts_have_the_tokens_of_the_whole(monkeypatch, piece):
    text = (TRAIN + "it's 'll?!  \n\n x. y,\tz\u00a0 é: \r\n a.b    c   d \n\n\n   e") * 3
    learned = make_tokenizer("bpe", text, text, 320)
    whole = learned.encode(text)
    monkeypatch.setattr(bpe, "PIECE", piece)
    assert learned.encode(text).tolist() == whole.tolist()
    assert make_tokenizer("bpe", text, text, 320).to_json() == learned.to_json()


@pytest.mark.parametrize(("size", "says"), [(255, ["255", "256"]), (0, ["256"]), (-1, ["256"]), (2**30, ["1,048,576"])])
def test_impossible_sizes_are_refused(size, says):
    with pytest.raises(UserError) as caught:
        make_tokenizer("bpe", TRAIN, TRAIN, size)
    assert all(word in str(caught.value) for word in says)


def test_what_the_text_does_not_give_is_refused():
    """With both numbers, of which the one that is named is possible and the next is not."""
    with pytest.raises(UserError, match="1,000") as caught:
        make_tokenizer("bpe", "abc abd", "abc abd", 1000)
    most = int(re.search(r"at most (\d+)", str(caught.value))[1])
    assert make_tokenizer("bpe", "abc abd", "", most).vocabulary_size == most
    with pytest.raises(UserError, match=f"{most}.*{most + 1}"):
        make_tokenizer("bpe", "abc abd", "", most + 1)
    assert make_tokenizer("bpe", "", "", 256).encode("é").tolist() == [195, 169]


def test_asking_for_what_there_is_not_is_refused():
    for asked in [("char", "a", "a", None), ("bpe", "a", "a", None), ("chars", "", "", None), ("chars", "a", "a", 65)]:
        with pytest.raises(UserError):
            make_tokenizer(*asked)
    with pytest.raises(UserError, match="'bytes'"):
        make_tokenizer("byte", "a", "a")
    for size in (True, 300.0, "300"):
        with pytest.raises(UserError, match="vocabulary_size"):
            make_tokenizer("bpe", TRAIN, TRAIN, size)


def test_half_a_pair_is_refused(learned):
    for tokenizer in (ByteTokenizer(), learned):
        with pytest.raises(UserError, match="offset 2"):
            tokenizer.encode("ab\udc80")
    for kind in KINDS:
        with pytest.raises(UserError):
            make_tokenizer(kind, "\ud800", "\ud800", 256 if kind == "bpe" else None).encode("\ud800")


@pytest.mark.parametrize("token", [-1, 1_000_000])
def test_tokens_outside_the_vocabulary_are_refused(learned, token):
    for tokenizer in kinds_for("abc", learned):
        for decode in (tokenizer.decode, tokenizer.decode_bytes):
            with pytest.raises(UserError, match=str(token)):
                decode([0, token])
        with pytest.raises(UserError):
            tokenizer.decode(torch.tensor([tokenizer.vocabulary_size]))


def test_a_tokenizer_is_kept_as_json(learned):
    """Case T2: what is kept is the vocabulary, whatever becomes of the text."""
    for tokenizer in (make_tokenizer("chars", "", "abc"), ByteTokenizer(), learned):
        again = from_json(json.loads(json.dumps(tokenizer.to_json())))
        assert (again.kind, again.key) == (tokenizer.kind, tokenizer.key)
        assert again.to_json() == tokenizer.to_json()
        assert again.vocabulary_size == tokenizer.vocabulary_size
        assert again.encode("abcabc").tolist() == tokenizer.encode("abcabc").tolist()
        assert pickle.loads(pickle.dumps(tokenizer)).encode("cab").tolist() == tokenizer.encode("cab").tolist()
    assert make_tokenizer("chars", "", "xyz").key != make_tokenizer("chars", "", "abc").key


def test_the_key_is_of_what_a_tokenizer_does(learned):
    said = learned.to_json()
    assert from_json({**said, "trained_on": "0" * 16}).key == learned.key
    assert from_json({**said, "merges": said["merges"][:-1]}).key != learned.key
    assert len({learned.key, ByteTokenizer().key, CharTokenizer("ab").key}) == 3


def test_decoding_needs_no_library(learned, monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    tokens = learned.encode("the cats")
    fresh = from_json(learned.to_json())
    assert fresh.decode(tokens) == "the cats"
    for need in (lambda: fresh.encode("the cats"), lambda: make_tokenizer("bpe", TRAIN, TRAIN, 300)):
        with pytest.raises(UserError, match=re.escape("pip install 'shoal[text]'")):
            need()
    assert len(make_tokenizer("bytes", "a", "a").encode("a")) == 1


PAIR = [97, 98]
DOUBLED = [[97, 97], *([256 + i, 256 + i] for i in range(40))]


@pytest.mark.parametrize(
    "hostile",
    [
        None, [], "chars", 3, {}, {"kind": None}, {"kind": ["chars"]}, {"kind": "x" * 10**6}, {"kind": "gpt2"},
        {"kind": "chars"}, {"kind": "chars", "characters": ""}, {"kind": "chars", "characters": ["a"]},
        {"kind": "chars", "characters": "ba"}, {"kind": "chars", "characters": "aa"},
        {"kind": "chars", "characters": "a\ud800"}, {"kind": "chars", "characters": "a", "more": 1},
        {"kind": "bytes", "characters": "a"}, {"kind": "bpe", "merges": []},
        *({"kind": "bpe", "merges": [], "trained_on": bad} for bad in (None, "", "0" * 15, "0" * 17, "G" * 16, [1])),
        *({"kind": "bpe", "merges": bad, "trained_on": "0" * 16} for bad in (
            None, {}, "ab", [PAIR, PAIR], [[97]], [[97, 98, 99]], ["ab"], [[97, "b"]], [[97, 98.0]], [[True, 98]],
            [[-1, 98]], [[256, 98]], [[97, 10**30]], [[97, None]], [[[97], 98]], DOUBLED, DOUBLED[:11],
        )),
    ],
    ids=lambda hostile: repr(hostile)[:40],
)  # fmt: skip
def test_what_is_no_tokenizer_is_refused(hostile):
    with pytest.raises(UserError) as caught:
        from_json(hostile)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_there_are_bounds_to_what_is_read():
    with pytest.raises(UserError, match="1,048,576"):
        from_json({"kind": "bpe", "merges": [PAIR] * (2**20 + 1), "trained_on": "0" * 16})
    longest = from_json({"kind": "bpe", "merges": DOUBLED[:10], "trained_on": "0" * 16})
    assert int(longest.token_bytes().max()) == bpe.LONGEST_TOKEN == 1024


@given(st.lists(st.tuples(st.integers(0, 262), st.integers(0, 262)).map(list), max_size=8))
@some
def test_whatever_merges_are_taken_come_back(merges):
    """Also those that no training makes: a pair of parts of characters, one token made by two pairs."""
    try:
        tokenizer = from_json({"kind": "bpe", "merges": merges, "trained_on": "0" * 16})
    except UserError:
        return
    text = "".join(chr(token) for token in range(256)) * 2 + "aaaabab"
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_two_pairs_may_make_one_token():
    said = {"kind": "bpe", "merges": [[97, 98], [98, 99], [256, 99], [97, 257]], "trained_on": "0" * 16}
    tokenizer = from_json(said)
    assert tokenizer.vocabulary_size == 259
    assert tokenizer.encode("abc").tolist() == [258]


def test_training_is_the_same_in_every_process():
    code = (
        "import json; from shoal.tasks.text.tokenizers import make_tokenizer\n"
        f"text = {TRAIN!r} + ' '.join(str(i * i % 977) + 'thx'[i % 3] for i in range(3000))\n"
        "print(json.dumps(make_tokenizer('bpe', text, text, 500).to_json()))"
    )
    said = set()
    for seed, threads, parallel in (("0", "1", "false"), ("1", "4", "true")):
        asked = {"PYTHONHASHSEED": seed, "RAYON_NUM_THREADS": threads, "TOKENIZERS_PARALLELISM": parallel}
        done = subprocess.run([sys.executable, "-c", code], env=os.environ | asked, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        said.add(done.stdout)
    assert len(said) == 1
    assert len(json.loads(said.pop())["merges"]) >= 244
