"""What cannot be printed ends nothing, and is said where it can be."""

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import TINY, tiny
from hypothesis import given
from hypothesis import strategies as st

import shoal
from shoal.cli import main
from shoal.lab import Lab
from shoal.output import Output, printing, spelled

TRAIN = [word for name, value in TINY.items() for word in (f"--{name.replace('_', '-')}", str(value))]
COMMAND = [sys.executable, "-m", "shoal"]


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    path = tmp_path_factory.mktemp("console") / "lab"
    shoal.train([tiny(seed=seed) for seed in (0, 1)], path, workers=1)
    return str(path)


def shell(line: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A line of bash in which ``"$@"`` is the command."""
    return subprocess.run(
        ["bash", "-c", line, "bash", *COMMAND, *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize("encoding", ["latin-1", "ascii", "utf-8"])
def test_a_table_is_printed_in_any_encoding(lab, encoding):
    done = shell('"$@"', "runs", "--lab", lab, PYTHONIOENCODING=encoding, COLUMNS="60")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[0].split()[0] == "run"
    assert "t(A)" in done.stdout
    assert ("Δ" in done.stdout) == (encoding == "utf-8")


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        ('"$@" | head -1; exit ${PIPESTATUS[0]}', 0, ""),
        ('"$@" >&-', 0, ""),
        ('"$@" >/dev/full', 1, "No space left on device"),
    ],
)
def test_a_list_that_nobody_reads_ends_quietly_and_one_that_cannot_be_written_is_said(lab, line, code, said):
    done = shell(line, "runs", "--lab", lab)
    assert done.returncode == code
    assert said in done.stderr
    assert done.stderr.count("\n") == bool(said)


@pytest.mark.parametrize(
    ("line", "code", "workers"),
    [
        ('"$@" | head -1; exit ${PIPESTATUS[0]}', 0, "1"),
        ('"$@" >/dev/full', 1, "1"),
        ('"$@" >&- 2>&-', 0, "2"),
        *(
            pytest.param(line, code, "2", marks=pytest.mark.slow)
            for line, code in (
                ('"$@" | head -1; exit ${PIPESTATUS[0]}', 0),
                ('"$@" >/dev/full', 1),
                ('"$@" >&-', 0),
                ('"$@" >/dev/full 2>&1', 1),
            )
        ),
    ],
)
def test_training_goes_on_without_a_reader_and_says_so_where_it_can(line, code, workers, tmp_path):
    path = str(tmp_path / "lab")
    done = shell(line, "train", *TRAIN, "--model", "lstm", "gpt", "--workers", workers, "--lab", path)
    assert done.returncode == code, done.stderr
    assert Lab(path).records().runs()["state"].to_list() == ["done", "done"]
    assert not Lab(path).records().damage()
    assert done.stderr.count("\n") == ("2>&" not in line)
    assert ("shoal runs --lab" in done.stderr) == ("2>&" not in line)


signs = st.characters(codec="utf-8") | st.sampled_from("Δ†–−·≥…×±αℓ∞")


@given(text=st.text(signs), encoding=st.sampled_from(["ascii", "latin-1", "cp1252", "koi8-r", "utf-8"]))
def test_whatever_is_spelled_can_be_encoded_and_what_could_be_is_left_alone(text, encoding):
    out = spelled(text, encoding)
    out.encode(encoding)
    assert spelled(out, encoding) == out
    kept = [sign for sign in text if sign.encode(encoding, "ignore")]
    remaining = iter(out)
    assert all(sign in remaining for sign in kept)  # in their order


class Broken(io.StringIO):
    """A stream that takes some characters and then no more."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room = room

    def write(self, text: str) -> int:
        if self.tell() + len(text) > self.room:
            raise OSError(28, "No space left on device")
        return super().write(text)


@given(lines=st.lists(st.text(st.characters(codec="ascii", categories=["L"]), max_size=9)), room=st.integers(0, 60))
def test_lines_that_are_lost_are_counted(lines, room):
    stream = Broken(room)
    out = Output(stream)
    for line in lines:
        out.write(f"{line}\n")
    assert out.lost == len(lines) - stream.getvalue().count("\n")
    assert (out.why is None) == (out.lost == 0)


def test_streams_are_put_back(capsys):
    before = sys.stdout, sys.stderr
    with printing():
        print("said")
    assert (sys.stdout, sys.stderr) == before
    assert capsys.readouterr().out == "said\n"


def test_a_library_does_not_get_a_closed_stream_number(tmp_path):
    """The first file to be opened would be standard output, and what libraries print would be in it."""
    code = "import os, sys; from shoal.output import printing\n"
    code += "with printing(): print(os.open(sys.argv[1], 0), file=sys.stderr)"
    (tmp_path / "file").touch()
    done = subprocess.run(
        ["bash", "-c", '"$@" >&- <&-', "bash", sys.executable, "-c", code, str(tmp_path / "file")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(done.stderr) > 2


LONG = "x" * 5000


@pytest.mark.parametrize(
    "command",
    [
        ["train", "--p", LONG],
        ["train", "--p", "7" * 5000],
        ["train", "--model", LONG],
        ["train", "--model", "x y " * 1500],
        ["train", f"--{LONG}", "1"],
        ["train", "--seed", *["7"] * 50, LONG],
        [LONG],
        ["runs", "--lab", LONG],
        ["study", "run", LONG],
        ["study", "run", "sanity", "--seeds", "7" * 5000],
        ["fit", "scaling", LONG],
        ["fit", "scaling", "/".join([LONG[:100]] * 50)],
        ["certify", LONG],
    ],
    ids=lambda command: " ".join(command)[:30],
)
def test_a_message_does_not_repeat_a_long_value(command, capsys):
    assert main(command) == 2
    error = capsys.readouterr().err
    assert 10 < len(error) < 1000
    assert error.count("\n") == 1


def test_a_name_that_no_file_can_have_is_refused_before_anything_is_read(lab, capsys):
    assert main(["report", "--name", LONG, "--lab", lab]) == 2
    assert capsys.readouterr().out == ""
    assert not Path(lab, "reports").exists()
