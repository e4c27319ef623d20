"""Texts: which files are read, what identifies them, and what is refused."""

import gzip
import hashlib
import os
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.errors import UserError
from shoal.tasks.text import corpus
from shoal.tasks.text.corpus import read_corpus, split

SHAKESPEARE = Path(__file__).parents[2] / "shared" / "data" / "tinyshakespeare.txt"


def write(path: Path, content: str | bytes) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


def refused(*paths: str) -> str:
    with pytest.raises(UserError) as caught:
        read_corpus(paths)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_text_is_read_as_it_is(tmp_path):
    said = "\ufeffé🐕\r\nno\0w\rthen\n\n \u2028"
    found = read_corpus([write(tmp_path / "a.txt", said)])
    assert found.text == said
    assert found.files == (str(tmp_path / "a.txt"),)


def test_the_key_is_of_the_content(tmp_path):
    plain = read_corpus([write(tmp_path / "a.txt", "one"), write(tmp_path / "b", "tw€")])
    packed = read_corpus([write(tmp_path / "c.gz", gzip.compress(b"one", mtime=0)), write(tmp_path / "d.txt", "tw€")])
    by_hand = b"\3" + bytes(7) + b"one" + b"\5" + bytes(7) + "tw€".encode()
    assert plain.key == packed.key == hashlib.sha256(by_hand).hexdigest()[:16]
    assert plain.text == packed.text == "onetw€"
    otherwise = [("onet", "w€"), ("tw€", "one"), ("onetw€",), ("one", "twé")]
    keys = {
        read_corpus([write(tmp_path / f"{i}{j}", said) for j, said in enumerate(parts)]).key
        for i, parts in enumerate(otherwise)
    }
    assert len(keys | {plain.key}) == 5


def test_a_packed_text_may_have_several_members(tmp_path):
    assert (
        read_corpus([write(tmp_path / "a.gz", gzip.compress(b"a\r\n", mtime=0) + gzip.compress(b"b", mtime=0))]).text
        == "a\r\nb"
    )


def test_a_folder_stands_for_its_texts(tmp_path):
    for name in ("b.txt", "a/z.txt", "a.txt", "a/.hidden.txt", ".git/x.txt", "c.md", "Z.txt"):
        write(tmp_path / "in" / name, name + "|")
    write(tmp_path / "in" / "a-1.txt.gz", gzip.compress(b"packed|", mtime=0))
    write(tmp_path / "out" / "secret.txt", "secret")
    (tmp_path / "in" / "linked").symlink_to(tmp_path / "out")
    (tmp_path / "in" / "folder.txt").mkdir()
    found = read_corpus([str(tmp_path / "in")])
    assert found.text == "Z.txt|packed|a.txt|a/z.txt|b.txt|"
    assert [Path(file).name for file in found.files] == ["Z.txt", "a-1.txt.gz", "a.txt", "z.txt", "b.txt"]


def test_files_and_folders_come_in_the_order_asked_for(tmp_path):
    write(tmp_path / "in" / "a.txt", "A")
    write(tmp_path / "in" / "b.txt", "B")
    assert read_corpus([write(tmp_path / "z", "Z"), str(tmp_path / "in")]).text == "ZAB"


def test_links_lead_out_of_no_folder(tmp_path):
    secret = write(tmp_path / "secret", "secret")
    write(tmp_path / "in" / "a.txt", "A")
    (tmp_path / "in" / "b.txt").symlink_to(secret)
    assert "b.txt" in refused(str(tmp_path / "in"))
    (tmp_path / "asked").symlink_to(secret)
    assert read_corpus([str(tmp_path / "asked")]).text == "secret"


@pytest.mark.parametrize("name", ["pipe", "in/pipe.txt"])
def test_pipes_are_refused_and_not_waited_for(tmp_path, name):
    (tmp_path / "in").mkdir()
    os.mkfifo(tmp_path / name)
    message = refused(str(tmp_path / name.split("/")[0]))
    assert "pipe" in message
    assert "regular" in message


def test_devices_are_refused():
    assert "regular" in refused("/dev/zero")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", ["empty"]),
        (b"abc\xff", ["UTF-8", "0xff", "offset 3"]),
        ("aé".encode()[:-1], ["UTF-8", "0xc3", "offset 1"]),
        (b"ok\xed\xa0\x80", ["UTF-8", "0xed", "offset 2"]),  # half of a surrogate pair
        ("one".encode("utf-16"), ["UTF-8", "0xff", "offset 0"]),
        (gzip.compress(b"one", mtime=0), ["UTF-8", "offset 1", ".gz"]),
    ],
)
def test_what_is_no_text_is_refused(tmp_path, content, says):
    message = refused(write(tmp_path / "a.txt", content))
    assert all(word in message for word in ("a.txt", *says))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (gzip.compress(b"one" * 100, mtime=0)[:-9], "cut short"),
        (gzip.compress(b"one" * 100, mtime=0)[:4], "cut short"),
        (b"one, unpacked", "gzip"),
        (gzip.compress(b"one", mtime=0) + b"rest", "gzip"),
        (gzip.compress(b"one", mtime=0)[:-8] + bytes(8), "gzip"),
        (gzip.compress(b"", mtime=0)[:10] + b"\xff" * 20, "gzip"),
        (gzip.compress(b"", mtime=0), "empty"),
        (b"", "empty"),
        (gzip.compress(b"on\xfe", mtime=0), "offset 2"),
    ],
)
def test_what_is_not_whole_is_refused(tmp_path, content, says):
    message = refused(write(tmp_path / "a.txt.gz", content))
    assert "a.txt.gz" in message
    assert says in message


def test_what_is_not_there_is_refused(tmp_path):
    write(tmp_path / "shakespeare.txt", "a")
    assert "'shakespeare.txt'" in refused(str(tmp_path / "shakespear.txt"))
    refused(str(tmp_path / "shakespeare.txt" / "a.txt"))
    refused(str(tmp_path / "no" / "where"))
    refused("a\0b")
    refused("")
    refused("x" * 5000)
    refused(str(tmp_path / "two\nlines"))
    refused()
    (tmp_path / "none").mkdir()
    write(tmp_path / "none" / "a.md", "a")
    assert ".txt.gz" in refused(str(tmp_path / "none"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_what_may_not_be_read_is_refused(tmp_path):
    path = write(tmp_path / "a.txt", "a")
    Path(path).chmod(0)
    assert "a.txt" in refused(path)


def test_a_text_comes_once(tmp_path):
    path = write(tmp_path / "in" / "a.txt", "a")
    (tmp_path / "link").symlink_to(path)
    for other in (path, str(tmp_path / "in"), str(tmp_path / "link")):
        assert "twice" in refused(path, other)


def test_too_much_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(corpus, "MOST_BYTES", 3_000_000)
    small = write(tmp_path / "a.txt", "a" * 2_000_000)
    assert read_corpus([small]).text == "a" * 2_000_000
    bomb = write(tmp_path / "b.gz", gzip.compress(bytes(1_000_001)))
    read_corpus([bomb])
    assert "3,000,000" in refused(small, bomb)


def test_a_text_is_read_again_when_it_changes(tmp_path, monkeypatch):
    """Also within the same tick of the clock of files, which has no more than milliseconds."""
    path = write(tmp_path / "a.txt", "abc")
    about = Path(path).stat()
    assert read_corpus([path]).text == "abc"
    write(Path(path), "xyz")
    os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns))
    assert read_corpus([path]).text == "xyz"
    assert read_corpus([path]) is not read_corpus([path])  # too young to be trusted
    later = time.time_ns() + 10**10
    monkeypatch.setattr(time, "time_ns", lambda: later)
    found = read_corpus([path])
    assert read_corpus([path]) is found
    (tmp_path / "same.txt").symlink_to(path)
    linked = read_corpus([str(tmp_path / "same.txt")])
    assert linked.text is found.text
    assert linked.files == (str(tmp_path / "same.txt"),)
    write(Path(path), "longer")
    assert read_corpus([path]).text == "longer"


def test_few_texts_are_kept(tmp_path, monkeypatch):
    later = time.time_ns() + 10**10
    monkeypatch.setattr(time, "time_ns", lambda: later)
    paths = [write(tmp_path / f"{i}.txt", "a" * (i + 1)) for i in range(9)]
    first = [read_corpus([path]) for path in paths]
    assert read_corpus([paths[-1]]) is first[-1]
    assert read_corpus([paths[0]]) is not first[0]


@pytest.mark.skipif(not SHAKESPEARE.is_file(), reason="Tiny Shakespeare is not here")
def test_tiny_shakespeare():
    found = read_corpus([str(SHAKESPEARE)])
    assert len(found.text) == 1_115_394
    assert found.key == hashlib.sha256((1_115_394).to_bytes(8, "little") + SHAKESPEARE.read_bytes()).hexdigest()[:16]
    assert [len(part) for part in split(found.text, 0.1)] == [1_003_854, 111_540]


@given(st.integers(2, 5000))
@settings(deadline=None)
def test_a_tenth_is_split_as_by_nanogpt(n):
    train, valid = split("x" * n, 0.1)
    assert len(train) == int(n * 0.9)
    assert len(train) + len(valid) == n


@given(st.integers(1, 99), st.integers(1, 60))
@settings(deadline=None)
def test_a_share_is_the_decimal_number_that_it_is_written_as(percent, hundreds):
    """``int(100 * (1 - 0.9))`` is 9."""
    train, valid = split("ab" * 50 * hundreds, percent / 100)
    assert len(train) == (100 - percent) * hundreds
    assert train + valid == "ab" * 50 * hundreds


@pytest.mark.parametrize("share", [0, 1, -0.1, 1.5, float("nan"), float("inf"), True, "much", None, 10**400])
def test_shares_that_are_none_are_refused(share):
    with pytest.raises(UserError, match="valid_share"):
        split("abcdefghij", share)


@pytest.mark.parametrize(("text", "share"), [("", 0.1), ("a", 0.5), ("abc", 0.9), ("abc", 1e-300)])
def test_both_parts_have_some(text, share):
    if (text, share) == ("abc", 1e-300):
        assert split(text, share) == ("ab", "c")
        return
    with pytest.raises(UserError):
        split(text, share)
