"""The table of ``shoal runs``: its columns, order, thresholds and forms for programs."""

import csv
import io
import json
import math

import polars as pl
import pytest
from helpers import rewrite, tiny_grid
from hypothesis import given
from hypothesis import strategies as st

import shoal
from shoal.cli import main
from shoal.errors import UserError
from shoal.measures import EQUATIONS
from shoal.report.run_columns import find_column, read_keys, run_columns, sort_runs, titles_of, to_csv, to_json

VALUES = {0: [0.1, 0.5, 0.4, 0.95], 1: [0.1, 0.2, 0.3, 0.45], 2: [0.6, 0.1, 0.1, 0.1]}  # A_val by seed
STEPS = [0, 3, 5, 12]


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """Three runs whose curves are made up."""
    path = tmp_path_factory.mktemp("table") / "lab"
    records = shoal.train(tiny_grid({"weight_decay": 0.5}, seed=[0, 1, 2]), path, workers=1)
    seeds = dict(records.runs()["run", "seed"].iter_rows())
    (folder,) = records.cohorts()
    measured = folder.metrics()
    rows = pl.DataFrame(
        [(run, step, value) for run, seed in seeds.items() for step, value in zip(STEPS, VALUES[seed], strict=True)],
        {"run": pl.String, "step": pl.Int64, "valid_accuracy": pl.Float32},
        orient="row",
    )
    rewrite(folder, rows.join(measured.drop("valid_accuracy"), on=["run", "step"]).select(measured.columns))
    return path


def run_json(lab, capsys, *words):
    assert main(["runs", "--lab", str(lab), "--json", *words]) == 0
    return json.loads(capsys.readouterr().out)


def test_json_and_csv_hold_every_column_as_raw_numbers(lab, capsys):
    rows = run_json(lab, capsys, "--threshold", "0.5")
    assert main(["runs", "--lab", str(lab), "--csv", "--threshold", "0.5"]) == 0
    texts = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    records = shoal.Lab(lab).records()
    best, settings = records.extrema(), records.runs()
    assert [row["run"] for row in rows] == records.ids
    assert set(settings.columns) | set(best.columns) <= rows[0].keys()
    for row, text in zip(rows, texts, strict=True):
        (spec,) = settings.filter(run=row["run"]).to_dicts()
        (own,) = best.filter(run=row["run"]).to_dicts()
        assert {name: row[name] for name in spec} == spec
        assert {name: row[name] for name in own} == own
        assert row["patience"] is None
        assert text["patience"] == ""
        assert float(text["valid_loss"]) == own["valid_loss"]
        assert row["last_valid_accuracy"] == pytest.approx(VALUES[row["seed"]][-1])


@pytest.mark.parametrize("threshold", [0.1, 0.3, 0.5, 0.9, 1.0])
def test_a_threshold_gives_the_first_step_at_which_it_is_reached(threshold, lab, capsys):
    rows = run_json(lab, capsys, "--threshold", str(threshold))
    for row in rows:
        there = [step for step, value in zip(STEPS, VALUES[row["seed"]], strict=True) if value >= threshold]
        assert row[f"t_valid_accuracy_{threshold:g}"] == (there[0] if there else None)


def test_a_run_that_did_not_get_there_shows_how_far_that_is_known(lab, capsys):
    command = ["runs", "--lab", str(lab), "--threshold", "0.5", "--sort", "A_val:desc"]
    assert main(command) == 0
    header, *lines = capsys.readouterr().out.splitlines()
    assert header.split()[-1] == "t(A_val≥0.5)"
    assert [line.split()[-1] for line in lines[:3]] == ["3", "0", ">12"]  # below them, the key of its signs


def test_chosen_columns_stand_in_the_order_that_was_asked_for(lab, capsys):
    columns = ["seed", "A_val", "weight-decay", "run"]
    assert main(["runs", "--lab", str(lab), "--columns", *columns, "--sort", "-seed"]) == 0
    header, *lines = capsys.readouterr().out.splitlines()
    assert header.split() == columns
    assert [line.split()[:3] for line in lines] == [
        ["2", "0.6000", "0.5"],
        ["1", "0.4500", "0.5"],
        ["0", "0.9500", "0.5"],
    ]
    rows = run_json(lab, capsys, "--columns", *columns)
    assert list(rows[0]) == ["seed", "valid_accuracy", "weight_decay", "run"]


WRONG = {
    "--sort vlid_accuracy": "did you mean 'valid_accuracy'",
    "--columns A_vall": "did you mean 'A_val'",
    "--columns seed seed": "given twice",
    "--sort seed:down": "asc or desc",
    "--sort A_val -valid_accuracy": "given twice",
    "--csv --json": "--csv and --json",
    "--threshold 1.5": "from 0 to 1, got 1.5",
    "--threshold nan": "got nan",
    "--threshold 0.5 0.50": "given 0.5 twice",
    "--sort": "at least one value",
    "--json --columns nosuch": "unknown column 'nosuch'",
}


@pytest.mark.parametrize("flags", WRONG)
def test_a_wrong_column_or_threshold_is_one_line(flags, lab, capsys):
    assert main(["runs", "--lab", str(lab), *flags.split()]) == 2
    out, error = capsys.readouterr()
    assert out == ""
    assert error.count("\n") == 1
    assert WRONG[flags] in error


def test_what_is_damaged_is_said_beside_what_a_program_reads(tmp_path, capsys):
    records = shoal.train(tiny_grid({}, seed=[0, 1]), tmp_path / "lab", workers=1)
    (folder,) = records.cohorts()
    (part,) = (folder.path / "metrics").iterdir()
    part.write_bytes(part.read_bytes()[:-1])
    assert main(["runs", "--lab", str(tmp_path / "lab"), "--json", "--threshold", "0.5"]) == 1
    out, error = capsys.readouterr()
    assert [row["state"] for row in json.loads(out)] == ["damaged"] * 2
    assert "checksum" in error
    assert main(["runs", "--lab", str(tmp_path / "lab"), "--csv"]) == 1
    assert [row["state"] for row in csv.DictReader(io.StringIO(capsys.readouterr().out))] == ["damaged"] * 2


cells = st.none() | st.integers(-5, 5) | st.sampled_from([math.nan, math.inf, -math.inf, 0.5])


@given(
    rows=st.lists(st.tuples(cells, cells), max_size=12),
    falling=st.tuples(st.booleans(), st.booleans()),
)
def test_rows_are_sorted_as_python_sorts_them_with_what_is_missing_last(rows, falling):
    columns = [[None if cell is None else float(cell) for cell in column] for column in zip(*rows, strict=True)] or [
        [],
        [],
    ]
    frame = pl.DataFrame(
        {"n": range(len(rows)), "a": columns[0], "b": columns[1]}, {"n": pl.Int64, "a": pl.Float64, "b": pl.Float64}
    )
    found = sort_runs(frame, [("a", falling[0]), ("b", falling[1])])["n"].to_list()

    def key(place):
        out = []
        for column, down in zip(columns, falling, strict=True):
            value = column[place]
            missing = value is None or math.isnan(value)
            out.append((missing, 0.0 if missing else -value if down else value))
        return out

    assert found == sorted(range(len(rows)), key=key)


def test_programs_can_read_numbers_that_json_lacks_and_texts_of_any_kind():
    frame = pl.DataFrame(
        {"run": ["a\x1b[31m"], "note": ['two\nlines, "quoted"'], "clip": [math.inf], "tags": [["x", "y"]]}
    )
    assert json.loads(to_json(frame))[0] == {
        "run": "a\x1b[31m",
        "note": 'two\nlines, "quoted"',
        "clip": "inf",
        "tags": ["x", "y"],
    }
    assert to_json(frame).isascii()
    (row,) = csv.DictReader(io.StringIO(to_csv(frame)))
    assert (row["note"], row["clip"], row["tags"]) == ('two\nlines, "quoted"', "inf", "x y")
    assert "\x1b" not in to_csv(frame)
    assert json.loads(to_json(frame.clear())) == []


def test_every_symbol_of_the_usual_table_names_a_column(lab):
    frame = run_columns(shoal.Lab(lab).records(), (), [0.9])
    titles = titles_of(EQUATIONS, [0.9])
    for column, symbol in titles.items():
        assert find_column(symbol, frame.columns, titles) == column
    with pytest.raises(UserError):
        read_keys(["t_valid_accuracy_0.8"], frame.columns, titles)
