"""Tables on terminals of any width: every number is there, whole."""

import io
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from shoal.commands.progress import Progress, live_table, time_left
from shoal.measures import EQUATIONS
from shoal.report import Cell, Table
from shoal.report.console import blocks, print_keys, print_table
from shoal.training.snapshot import Snapshot

numbers = st.one_of(
    st.integers(-(10**9), 10**9).map("{:,}".format),
    st.floats(-1e6, 1e6).map("{:.4g}".format),
    st.integers(0, 10**6).map("{:,}†".format),
    st.tuples(st.integers(0, 10**5), st.integers(0, 999)).map(lambda pair: f"{pair[0]:,} ± {pair[1]}"),
)
words = st.sampled_from(["done", "interrupted at step 4,000", "–", "x^2+xy", "a verdict in a whole sentence of words"])
ids = st.integers(0, 2**64 - 1).map("{:016x}".format)


@st.composite
def tables(draw: st.DrawFn) -> Table:
    n_columns, n_rows = draw(st.integers(0, 12)), draw(st.integers(0, 6))
    label = draw(st.sampled_from([ids, numbers, words]))
    names = [f"column_{index}" if index % 3 else f"t_f({index})" for index in range(n_columns)]
    rows = [
        (draw(label), [Cell(draw(st.one_of(numbers, words)), draw(st.booleans())) for _ in names])
        for _ in range(n_rows)
    ]
    return Table("t", [draw(st.sampled_from(["", "run", "weight decay"])), *names], rows, "A table.")


def words_of(text: str) -> list[str]:
    return sorted(text.split())


@settings(max_examples=150, deadline=None)
@given(table=tables(), width=st.integers(40, 200))
def test_every_number_of_a_table_is_whole_at_any_width(table, width):
    with pytest.MonkeyPatch.context() as patch:
        out = io.StringIO()
        patch.setattr("sys.stdout", out)
        patch.setenv("COLUMNS", str(width))
        print_table(table)
    printed = out.getvalue()
    note = " ".join(printed.partition("columns with – in each")[2].split())
    left_out = set(note.partition("left out: ")[2].split(", "))
    kept = [place for place, name in enumerate(table.header[1:]) if name not in left_out]
    for place in range(len(table.header) - 1):
        assert place in kept or {row[place].text for _, row in table.rows} == {"–"}
    cells = [row[place].text for _, row in table.rows for place in kept]
    shown = words_of(printed)
    for word in words_of(" ".join([*cells, *(table.header[1:][place] for place in kept)])):
        assert word in shown
        shown.remove(word)
    for label, _ in table.rows:  # in every block: whole, or the beginning of an id
        if re.fullmatch("[0-9a-f]{16}", label):
            assert any(len(word) >= 8 and label.startswith(word) for word in shown)
        else:
            assert all(word in shown for word in label.split())
    longest = max(map(len, shown), default=0)
    assert max(map(len, printed.splitlines()), default=0) <= max(width, 2 * longest + 50)
    if all(len(text) < 17 for text in [*cells, *table.header, *(label for label, _ in table.rows)]):
        assert max(map(len, printed.splitlines()), default=0) <= width


def test_signs_that_occur_have_their_key_once(capsys):
    caption = "Runs. †: at its last evaluation. Δt(A) –: it did not do both. –: nothing."
    header = ["run", "t_f(A_val)", "Δt(A)"]

    def keys(*rows: list[str]) -> list[str]:
        table = Table("t", header, [("a", [Cell(text) for text in row]) for row in rows], caption)
        print_keys(table, table)
        return capsys.readouterr().out.splitlines()

    assert keys(["4", "3"]) == []
    assert keys(["4†", "3"], ["5†", "3"]) == ["†: at its last evaluation."]
    assert keys(["–", "3"]) == ["–: nothing."]  # not that of another column
    assert "Δt(A) –: it did not do both." in keys(["4†", "–"])


def test_a_column_that_says_nothing_is_left_out_where_the_table_is_too_wide(capsys, monkeypatch):
    def printed(width, *last):
        rows = [(f"row {number}", [Cell("0.1234567"), Cell("–"), Cell(text)]) for number, text in enumerate(last)]
        monkeypatch.setenv("COLUMNS", str(width))
        print_table(Table("t", ["row", "A_val", "Δt(A)", "t_f(A_val)"], rows, ""))
        return capsys.readouterr().out.splitlines()

    assert "Δt(A)" in printed(40, "1", "–")[0]  # there is room for it
    narrow = printed(28, "1", "–")
    assert max(map(len, narrow)) <= 28 and "t_f(A_val)" in narrow[0] and "Δt(A)" not in narrow[0]
    assert " ".join(narrow[3:]).endswith("left out: Δt(A)")


@given(alike=st.integers(0, 15), width=st.integers(40, 60))
@settings(deadline=None)
def test_shortened_ids_tell_runs_apart(alike, width):
    runs = ["a" * alike + "b" * (16 - alike), "a" * 16]
    rows = [(run, [Cell("0.1234567")] * 6) for run in runs]
    with pytest.MonkeyPatch.context() as patch:
        out = io.StringIO()
        patch.setattr("sys.stdout", out)
        patch.setenv("COLUMNS", str(width))
        print_table(Table("t", ["run", *"abcdef"], rows, ""))
    first = [line.split()[0] for line in out.getvalue().splitlines()[1:3]]
    assert first[0] != first[1]
    assert all(run.startswith(shown) for run, shown in zip(runs, first, strict=True))


@given(widths=st.lists(st.integers(1, 60), min_size=1, max_size=20), width=st.integers(20, 120))
def test_blocks_hold_every_column_once_and_are_as_wide_as_they_may_be(widths, width):
    found = blocks(widths, width)
    assert [column for block in found for column in block[1:]] == list(range(1, len(widths)))
    assert all(block[0] == 0 for block in found)
    for block in found:
        used = sum(widths[column] + 2 for column in block) - 2
        assert used <= width or len(block) <= 2


snapshots = st.builds(
    Snapshot,
    cohort=ids,
    title=st.sampled_from(["gpt, 2 layers, d 128", "lstm, 1 layer, d 16"]),
    engine=st.just("compiled"),
    members=st.integers(1, 70_000),
    step=st.integers(0, 2**31),
    n_steps=st.integers(1, 2**31 - 1),
    state=st.sampled_from(["starting", "running", "done", "interrupted"]),
    measures=st.just(EQUATIONS),
    train=st.none() | st.just((0.0, 0.5, 1.0)),
    valid=st.none() | st.just((0.0, 0.25, 1.0)),
    generalised=st.integers(0, 70_000),
    diverged=st.integers(0, 99),
    steps_per_second=st.none() | st.floats(0, 1e5),
    seconds_left=st.none() | st.floats(0, 3e7),
)


@settings(max_examples=150, deadline=None)
@given(cohorts=st.lists(snapshots, min_size=1, max_size=4), width=st.integers(40, 200))
def test_what_the_live_table_shows_is_whole_and_says_where_each_cohort_stands(cohorts, width):
    out = io.StringIO()
    Console(file=out, width=width).print(live_table(cohorts, width))
    header, *lines = out.getvalue().splitlines()
    assert len(lines) == len(cohorts)  # no row is wrapped
    assert "…" not in out.getvalue()
    for line, snapshot in zip(lines, cohorts, strict=True):
        words = line.split()
        assert words[0] == snapshot.cohort[:4]
        assert f"{snapshot.step:,}" in words
        assert line.endswith(time_left(snapshot))
        if re.search(r"\bof\b", header):
            assert f"{snapshot.n_steps:,}" in words
        if "valid" in header.split() and snapshot.valid:
            assert "A 0.25 [0.00, 1.00]" in line


@pytest.mark.parametrize("height", [6, 40])
def test_on_a_short_terminal_cohorts_that_train_are_seen(height):
    from test_cli import snapshot

    out = io.StringIO()
    with Progress(Console(file=out, force_terminal=True, width=120, height=height)) as progress:
        for index in range(20):
            progress(snapshot(cohort=f"{index:04x}", state="running" if index % 5 == 0 else "done"))
        latest = out.getvalue().rpartition("cohort")[2]
    training = {f"{index:04x}" for index in range(0, 20, 5)}
    assert training <= set(latest.split())
    every = out.getvalue().rpartition("cohort")[2]  # once it is over
    assert {f"{index:04x}" for index in range(20)} <= set(every.split())
