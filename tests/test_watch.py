"""``shoal watch``: what it shows at any width, and that it touches nothing."""

import fcntl
import os
import pty
import re
import select
import shutil
import struct
import subprocess
import sys
import termios
import time

import polars as pl
import pytest
from helpers import rewrite, tiny, tiny_grid
from hypothesis import given, settings
from hypothesis import strategies as st

import shoal
from shoal.cli import main
from shoal.commands.watch_screen import screen
from shoal.lab.locks import held_locks, is_seen_held, locked
from shoal.lab.watching import SeenCohort, SeenLab, SeenRun, Watcher
from shoal.measures import EQUATIONS
from shoal.report.sparks import ASCII, BLOCKS, height_of, panel, place_of, span_of, sparkline


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A lab of two cohorts."""
    path = tmp_path_factory.mktemp("watched") / "lab"
    shoal.train([*tiny_grid({}, seed=[0, 1], weight_decay=[0.1, 1.0]), tiny(model="gpt", n_steps=6)], path, workers=1)
    return path


@pytest.fixture
def lab(made, tmp_path):
    """The same, to be changed."""
    return shutil.copytree(made, tmp_path / "lab")


def listing(folder):
    """What would change if anything was made, removed or written there."""
    return {
        str(path): (about.st_mtime_ns, about.st_ctime_ns, about.st_size, about.st_ino)
        for path in [folder, *sorted(folder.rglob("*"))]
        for about in [path.lstat()]
    }


LOOKED_AT = """
import os, sys
from shoal.cli import main
wrong = []
def hear(event, arguments):
    if event.startswith("fcntl.") and event != "fcntl.ioctl":
        wrong.append(event)
    if event == "open" and isinstance(arguments[2], int) and "lab" in str(arguments[0]).split(os.sep):
        if arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            wrong.append(arguments[0])
    if event in ("os.mkdir", "os.remove", "os.rename", "os.utime", "os.chmod"):
        wrong.append(event)
sys.addaudithook(hear)
code = main(["watch", "--once", "--lab", sys.argv[1]])
print(code, wrong, "torch" in sys.modules)
"""


def test_looking_takes_no_lock_writes_nothing_and_needs_no_torch(lab):
    (next((lab / "cohorts").iterdir()) / "lock").touch()
    before = listing(lab)
    out = subprocess.run(
        [sys.executable, "-c", LOOKED_AT, str(lab)], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert out[-1] == "0 [] False"
    assert listing(lab) == before


def test_what_is_shown_is_what_the_lab_holds(lab):
    seen = Watcher(lab).look()
    assert seen.count() == {"done": 5}
    assert seen.lines == []
    records = shoal.Lab(lab).records()
    text = "\n".join(line.plain for line in screen(seen, "lab", 120, None, time.time()))
    for run, value in records.curves().sort("step").group_by("run").last().select("run", "valid_accuracy").iter_rows():
        (line,) = (line for line in text.splitlines() if line.startswith(run[:8]))
        assert f"{value:.2f}" in line.split()
    assert "5 done" in text


def test_a_change_is_seen_and_what_has_not_changed_is_not_read_again(lab, monkeypatch):
    watcher = Watcher(lab)
    first = watcher.look()
    monkeypatch.setattr("shoal.lab.parts.read_frame", lambda *arguments: pytest.fail("it was read again"))
    assert watcher.look().count() == first.count()
    folder = next(folder for folder in shoal.Lab(lab).cohorts() if len(folder.manifest()["members"]) == 4)
    status = folder.status()
    run = next(iter(status["members"]))
    status["members"][run] = {"state": "running", "step": 7}
    folder.write_status(status)
    assert watcher.look().count() == {"interrupted": 1, "done": 4}


def test_a_lab_that_vanishes_or_is_damaged_becomes_a_line_and_comes_back(lab, tmp_path):
    watcher = Watcher(lab)
    assert len(watcher.look().cohorts) == 2
    lab.rename(tmp_path / "away")
    assert watcher.look() == SeenLab([], [])
    lab.write_text("a file")
    assert len(watcher.look().lines) == 1
    lab.unlink()
    (tmp_path / "away").rename(lab)
    assert len(watcher.look().cohorts) == 2
    shutil.rmtree(lab / "cohorts")
    assert watcher.look().cohorts == []
    (lab / "cohorts" / ("0" * 16)).mkdir(parents=True)
    (lab / "cohorts" / ("0" * 16) / "cohort.json").write_text("{")
    seen = watcher.look()
    assert seen.cohorts == []
    assert len(seen.lines) == 1
    assert all(line.plain for line in screen(seen, "lab", 60, 24, time.time()))


def test_one_damaged_cohort_hides_no_other(lab):
    broken = shoal.Lab(lab).cohorts()[0]
    broken.path.joinpath("status.json").write_text("{")
    seen = Watcher(lab).look()
    assert len(seen.cohorts) == 1
    assert len(seen.lines) == 1
    assert broken.id[:8] in seen.lines[0]


def test_a_lock_that_is_held_is_seen_without_being_taken(tmp_path):
    path = tmp_path / "lock"
    assert is_seen_held(path, held_locks()) is False
    path.touch()
    if held_locks() is None or os.major(path.lstat().st_dev) == 0:
        pytest.skip("the system does not tell which locks are held here")
    assert is_seen_held(path, held_locks()) is False
    with locked(path, 1.0, "busy"):
        assert is_seen_held(path, held_locks()) is True
        assert is_seen_held(tmp_path / "other", held_locks()) is False
    assert is_seen_held(path, held_locks()) is False


@pytest.mark.parametrize("is_held", [True, False, None])
@pytest.mark.parametrize("age", [1.0, 1000.0])
def test_running_is_what_holds_its_lock_or_where_that_is_not_known_was_flushed_lately(is_held, age, lab, monkeypatch):
    folder = shoal.Lab(lab).cohorts()[0]
    status = folder.status()
    status["members"] = {run: {"state": "running", "step": 5} for run in status["members"]}
    folder.write_status(status)
    os.utime(folder.path / "status.json", (time.time() - age, time.time() - age))
    monkeypatch.setattr("shoal.lab.watching.is_seen_held", lambda *arguments: is_held)
    (state,) = (cohort.state for cohort in Watcher(lab).look().cohorts if cohort.id == folder.id)
    assert state == ("running" if is_held or (is_held is None and age < 60) else "interrupted")


runs = st.lists(
    st.tuples(st.sampled_from(["waiting", "running", "done", "diverged"]), st.integers(0, 2**31)),
    min_size=1,
    max_size=30,
)


@st.composite
def cohorts(draw):
    number = draw(st.integers(0, 2**64 - 1))
    members = [
        SeenRun(
            f"{(number + place) % 2**64:016x}", state, step, 2**31, {"model": "gpt", "seed": place, "lr": place / 7}
        )
        for place, (state, step) in enumerate(draw(runs))
    ]
    values = st.floats(0, 1) | st.just(float("nan"))
    rows = [
        {"run": run.run, "step": step, **{name: draw(values) for name in EQUATIONS.columns}, "l2_norm": 1.0}
        for run in members[:3]
        for step in sorted(draw(st.sets(st.integers(0, 10**5), max_size=3)))
    ]
    kinds = {"run": pl.String, "step": pl.Int64, **dict.fromkeys([*EQUATIONS.columns, "l2_norm"], pl.Float32)}
    state = draw(st.sampled_from(["waiting", "running", "interrupted", "done"]))
    left = draw(st.none() | st.floats(0, 3e7)) if state == "running" else None
    title = draw(st.sampled_from(["gpt, 2 layers, d 128", "an extraordinarily long name of a model of one's own"]))
    return SeenCohort(f"{number:016x}", title, members, EQUATIONS, pl.DataFrame(rows, kinds), state, 0.0, left)


@settings(max_examples=60, deadline=None)
@given(
    several=st.lists(cohorts(), max_size=5),
    width=st.integers(60, 200),
    height=st.none() | st.integers(12, 60),
    signs=st.sampled_from([BLOCKS, ASCII]),
    lines=st.lists(st.just("cohort 0000: damaged"), max_size=1),
)
def test_the_screen_fits_into_any_terminal_of_sixty_columns(several, width, height, signs, lines):
    shown = screen(SeenLab(several, lines), "/a/lab" * 20, width, height, 1e9, signs)
    assert max((line.cell_len for line in shown), default=0) <= width
    if height is not None:
        assert len(shown) <= height
    if signs == ASCII:
        assert all(ord(sign) < 0x2500 for line in shown for sign in line.plain)
    for cohort in several[:1]:
        assert any(line.plain.startswith(cohort.id[:4]) for line in shown)
    for header in (line.plain for line in shown if line.plain.startswith("run ")):
        titles = header.split()
        assert len(titles) == len({*titles})  # a column of values and one of curves have names of their own


curves = st.lists(st.tuples(st.integers(0, 5000), st.floats(0, 1)), max_size=30, unique_by=lambda point: point[0]).map(
    sorted
)


@given(curve=curves, width=st.integers(1, 60))
def test_a_sparkline_shows_the_last_value_of_each_cell(curve, width):
    line = sparkline(curve, width, 5000, (0.0, 1.0))
    assert len(line) == width
    last = {place_of(step, 5000, width): value for step, value in curve}
    for cell, value in last.items():
        assert line[cell] == BLOCKS[min(7, int(value * 8))]
    assert line[max(last, default=-1) + 1 :].strip() == ""
    assert " " not in line[min(last, default=0) : max(last, default=-1) + 1]


@given(curve=curves, width=st.integers(1, 40), height=st.integers(1, 8), is_log=st.booleans())
def test_every_value_that_a_panel_keeps_has_its_dot(curve, width, height, is_log):
    lines = panel([curve], width, height, 5000, (0.0, 1.0), is_log)
    assert [len(line) for line in lines] == [width] * height
    dots = {
        (2 * x + dx, 4 * y + dy)
        for y, line in enumerate(lines)
        for x, sign in enumerate(line.replace(" ", "\u2800"))
        for dy, row in enumerate(((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80)))
        for dx, bit in enumerate(row)
        if (ord(sign) - 0x2800) & bit
    }
    for x, value in {place_of(step, 5000, 2 * width): value for step, value in curve}.items():
        level = height_of(value, (0.0, 1.0), is_log, 4 * height)
        assert (x, 4 * height - 1 - level) in dots


def test_an_axis_without_bounds_spans_its_curves():
    assert span_of([[(0, 3.0), (1, float("nan"))], [(0, 0.5)]], None, False) == (0.5, 3.0)
    assert span_of([[(0, 0.0), (1, 2.0)]], None, True) == (2.0, 2.0)
    assert height_of(5.0, (2.0, 2.0), False, 8) == 4


WRONG = {
    "--every 0": "every must be",
    "--every nan": "every must be",
    "--every x": "must be a number",
    "--once": "there is no lab",
}


@pytest.mark.parametrize("flags", WRONG)
def test_a_wrong_request_is_one_line_and_makes_no_lab(flags, tmp_path, capsys):
    assert main(["watch", *flags.split(), "--lab", str(tmp_path / "lab")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert WRONG[flags] in error
    assert not (tmp_path / "lab").exists()


def on_terminal(words, columns, rows, until):
    """Run a command on a terminal of its own, Ctrl-C once it has shown a text; its exit code and all that it wrote."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "-m", "shoal", *words],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm-256color", "PYTHONIOENCODING": "utf-8"},
        process_group=0,
    )
    os.close(theirs)
    out, asked, end = b"", False, time.monotonic() + 60
    while time.monotonic() < end:
        if select.select([ours], [], [], 0.2)[0]:
            try:
                out += os.read(ours, 65536)
            except OSError:  # it has ended
                break
        if until in out.decode(errors="replace") and not asked:
            os.kill(process.pid, 2)
            asked = True
    os.close(ours)
    return process.wait(10), out.decode()


@pytest.mark.parametrize(
    "columns", [60, pytest.param(80, marks=pytest.mark.slow), pytest.param(120, marks=pytest.mark.slow)]
)
def test_on_a_terminal_it_ends_with_ctrl_c_and_gives_the_screen_back(columns, lab):
    before = listing(lab)
    code, out = on_terminal(["watch", "--lab", str(lab)], columns, 24, "5 done")
    assert code == 0
    assert out.count("\x1b[?1049h") == out.count("\x1b[?1049l") == 1
    during, after = out.split("\x1b[?1049l")
    for text in (during.rpartition("\x1b[H")[2], after):
        plain = [re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", line) for line in text.replace("^C", "").splitlines()]
        assert any("5 done" in line for line in plain)
        assert max(map(len, plain)) <= columns
    assert listing(lab) == before
    assert "Traceback" not in out


def test_curves_that_are_not_finite_are_gaps(lab):
    (folder, *_) = (folder for folder in shoal.Lab(lab).cohorts() if len(folder.manifest()["members"]) == 4)
    rewrite(folder, folder.metrics().with_columns(valid_accuracy=pl.lit(float("nan"), pl.Float32)))
    shown = screen(Watcher(lab).look(), "lab", 80, 24, time.time())
    assert any("nan" in line.plain for line in shown)
