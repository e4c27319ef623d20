"""Tables as people have them: the same numbers whatever they are wrapped in, and nothing left out without a word."""

import gzip
import math
import re

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.commands.quantities import COMMA, POINT, decimal_mark, factor, read_count, read_number
from shoal.commands.run_table import Reading, read_runs
from shoal.errors import UserError

HEADER = ["N", "D", "L", "note"]
VALUES = [
    (1.3e9, 2.6e10, 2.5, "a"),
    (7e9, 1.4e12, 2.125, "b"),
    (125e6, 2.5e9, 3.0625, "größer"),
    (410e6, 8.2e9, 2.9, "a"),
]


def as_frame(values=VALUES):
    rows = [(i, *value[:3]) for i, value in enumerate(values, start=1)]
    return pl.DataFrame(rows, ["row", "parameters", "tokens", "loss"], orient="row")


def text(rows, separator=",", end="\n", header=HEADER):
    return "".join(separator.join(row) + end for row in [header, *rows])


def read(tmp_path, content, name="runs.csv", **options):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_runs(path, Reading(**options))


def assert_same(table, frame, rel=1e-12):
    assert table.runs["row"].to_list() == frame["row"].to_list()
    for name in ("parameters", "tokens", "loss"):
        assert table.runs[name].to_list() == pytest.approx(frame[name].to_list(), rel=rel)


# wrapping


def write_number(value, mark, style):
    plain = {
        "plain": lambda: f"{value:.12g}" if value < 1e6 else f"{value:.0f}",
        "power": lambda: f"{value:.10e}",
        "grouped": lambda: f"{value:,.10g}" if value < 1e6 else f"{value:,.0f}",
        "suffix": lambda: next(
            (f"{value / size:.12g}{sign}" for sign, size in (("T", 1e12), ("B", 1e9), ("M", 1e6)) if value >= size),
            f"{value:.12g}",
        ),
    }[style]()
    return plain.translate(str.maketrans(",.", ".,")) if mark == COMMA else plain


@given(
    separator=st.sampled_from(",;\t|"),
    mark=st.sampled_from([POINT, COMMA]),
    style=st.sampled_from(["plain", "power", "grouped", "suffix"]),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp1252"]),
    end=st.sampled_from(["\n", "\r\n", "\r"]),
    zipped=st.booleans(),
    trailing=st.booleans(),
    announced=st.booleans(),
)
@settings(max_examples=150, deadline=None)
def test_the_numbers_are_the_same_whatever_the_wrapping(
    tmp_path_factory, separator, mark, style, encoding, end, zipped, trailing, announced
):
    rows = [
        [write_number(N, mark, style), write_number(D, mark, style), write_number(L, mark, "plain"), note]
        for N, D, L, note in VALUES
    ]
    quoted = [[f'"{cell}"' if separator in cell else cell for cell in row] for row in rows]
    content = text([[*row[:-1], row[-1] + separator * trailing] for row in quoted], separator, end)
    content = (f"sep={separator}{end}" if announced else "") + content
    mark_of_order = {"utf-16-le": "\ufeff", "utf-16-be": "\ufeff"}.get(encoding, "")
    raw = (mark_of_order + content).encode(encoding)
    folder = tmp_path_factory.mktemp("table")
    table = read(folder, gzip.compress(raw) if zipped else raw, name="runs.csv.gz" if zipped else "runs.tsv")
    assert_same(table, as_frame())
    assert ("decimal commas" in table.notes) == (mark == COMMA)


@given(
    units=st.tuples(st.sampled_from([None, "M", "B", "1e6", "1e3"]), st.sampled_from([None, "B", "T", "2.5e8"])),
    flop=st.sampled_from([None, "GFLOP", "PFLOP-days", "1e18", "EFLOPs", "TFLOP/s-hours"]),
)
@settings(max_examples=40, deadline=None)
def test_units_are_taken_off(tmp_path_factory, units, flop):
    sizes = {None: 1.0, "M": 1e6, "B": 1e9, "T": 1e12, "GFLOP": 1e9, "PFLOP-days": 8.64e19, "EFLOPs": 1e18,
             "TFLOP/s-hours": 3.6e15}  # fmt: skip
    N, D, C = (sizes[unit] if unit in sizes else float(unit) for unit in (*units, flop))
    folder = tmp_path_factory.mktemp("table")
    named = [f"params={units[0]}"] * (units[0] is not None)
    content = text(([repr(n / N), repr(d / D), repr(loss), note] for n, d, loss, note in VALUES))
    table = read(folder, content, units=[*named, *[f"D={units[1]}"] * (units[1] is not None)])
    assert_same(table, as_frame(), rel=1e-9)
    rows = [[repr(n / N), repr(6 * n * d / C), repr(loss)] for n, d, loss, _ in VALUES]
    by_flop = read(
        folder, text(rows, header=["N", "flops", "L"]), units=[*named, *[f"flops={flop}"] * (flop is not None)]
    )
    assert_same(by_flop, as_frame(), rel=1e-9)


def test_a_column_that_seems_to_count_millions_is_said(tmp_path):
    rows = [[str(N / 1e6), str(D / 1e6), str(L), note] for N, D, L, note in VALUES]
    few = [[str(N / 1e9), str(D), str(L), note] for N, D, L, note in VALUES]
    assert any("--units parameters=M" in doubt for doubt in read(tmp_path, text(few)).doubts)
    assert read(tmp_path, text(few), units=["N=B"]).doubts == []
    assert not any("parameters" in doubt for doubt in read(tmp_path, text(rows), units=["N=M"]).doubts)


@pytest.mark.parametrize(
    ("column", "unit"),
    [("size (M)", "M"), ("params_B", "B"), ("count [millions]", "millions"), ("N", ""), ("n_params", "")],
)
def test_a_unit_in_the_name_of_a_column_is_asked_about(tmp_path, column, unit):
    content = text([["1300", "2e10", "2.5", "a"]], header=[column, "D", "L", "note"])
    (doubt,) = read(tmp_path, content, columns={"parameters": column}).doubts or [""]
    assert (f"--units parameters={unit}" in doubt) == bool(unit)
    assert read(tmp_path, content, columns={"parameters": column}, units=["params=M"]).doubts == []


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("1.3B", 1.3e9), ("1.3 b", 1.3e9), ("125M", 1.25e8), ("70 million", 7e7), ("2T", 2e12), ("3k", 3e3),
        ("1e9", 1e9), ("+2", 2.0), (".5", 0.5), ("5.", 5.0), ("1.5e3M", 1.5e9), ("1'300'000", 1.3e6),
        ("1 300 000", 1.3e6), ("1_300", 1300.0), ("-4", -4.0), ("1,300,000.5", 1300000.5), ("2 bn", 2e9),
    ],
)  # fmt: skip
def test_counts_are_read_as_they_are_written(written, value):
    assert read_count(written, POINT) == pytest.approx(value, rel=1e-15)


@pytest.mark.parametrize(
    "written",
    ["", "B", "1.3Q", "1.3E", "e9", "1,30", "1,3000", "1.2.3", "1..2", "--1", "inf", "nan", "0x10", "1 2", "1e", "~3",
     "1.3B tokens", "5%", "1,300 000", "3 GFLOP"],
)  # fmt: skip
def test_what_is_no_count_is_not_guessed(written):
    assert math.isnan(read_count(written, POINT))


@given(st.floats(1e-12, 1e25))
def test_every_number_that_python_writes_is_read_to_the_bit(value):
    assert read_number(repr(value), POINT) == value
    assert read_number(repr(value).replace(".", ","), COMMA) == value


@given(st.text("0123456789.,eE+-'_ x", max_size=12))
def test_no_text_is_read_otherwise_than_python_reads_it(written):
    got = read_number(written, POINT)
    if not math.isnan(got):
        assert got == float("".join(sign for sign in written if sign not in ",'_ "))
        assert len(re.split("[,'_ ]", written)) == 1 or re.match(r"[+-]?\d{1,3}([,'_ ])\d{3}", written)
    elif not set(written) & set(",'_ x"):
        with pytest.raises(ValueError, match="could not convert"):
            float(written)


def test_amounts_of_compute_have_their_units():
    assert factor("PFLOP-days", True) == pytest.approx(1e15 * 86400)
    assert factor("pf-day", True) == factor("PFLOP/s-days", True) == factor("PFLOPs-days", True) == 8.64e19
    assert factor("ZFLOP", True) == 1e21
    assert read_count("3 EFLOP", POINT, flop=True) == 3e18
    assert factor("PFLOP/s", True) is None  # a rate is no amount
    assert factor("GFLOP", False) is None


def test_a_comma_that_can_be_read_both_ways_is_asked_about(tmp_path):
    losses = ("2,500", "2,125", "3,062", "2,900")
    rows = [[str(int(N)), str(int(D)), L, note] for (N, D, _, note), L in zip(VALUES, losses, strict=True)]
    content = text(rows, ";")
    with pytest.raises(UserError, match=r"'2,500' may be 2500 or 2.5.*--decimal"):
        read(tmp_path, content)
    assert read(tmp_path, content, decimal=COMMA).runs["loss"].to_list() == [2.5, 2.125, 3.062, 2.9]
    assert read(tmp_path, content, decimal=POINT).runs["loss"].to_list() == [2500, 2125, 3062, 2900]
    with pytest.raises(UserError, match=r"decimal point and .* a decimal comma"):
        read(tmp_path, content.replace("2,500", "2.5").replace("2,125", "2,1"))
    rows[0][2] = "2,5"  # one cell settles it for all
    assert read(tmp_path, text(rows, ";")).runs["loss"].to_list() == [2.5, 2.125, 3.062, 2.9]


@given(st.lists(st.sampled_from(["1.5", "1,5", "1,500", "1.500", "1500", "x", "1.000.000", "1,000,000"]), max_size=6))
def test_the_mark_is_only_decided_where_no_cell_says_otherwise(cells):
    mark, why = decimal_mark(cells)
    points, commas = {"1.5", "1,000,000"} & set(cells), {"1,5", "1.000.000"} & set(cells)
    if points and commas:
        assert mark is None
        assert "decimal comma" in why
    elif points or commas:
        assert mark == (POINT if points else COMMA)
    else:
        assert mark == (None if "1,500" in cells else POINT)


# rows


TORN = text(
    [
        ["1.3B", "26B", "2.5", "a"],
        ["7B", "1.4T", "", "b"],
        ["125M", "2.5B"],
        ["410M", "8.2B", "2.9", "a"],
        ["1B", "nan", "2.8", "b"],
        ["1B", '"3"B', "2.8", "c"],
        ["2B", "40B", "inf", "b"],
        ["3B", "6B", "2.7", "c"],
    ]
)


def test_a_row_that_cannot_be_used_is_named_with_all_that_are_like_it(tmp_path):
    with pytest.raises(
        UserError, match=r"row 2 \(line 3\): L must be .*got ''; 4 more of 8 rows .*3 5 6 7.*--drop-inc"
    ):
        read(tmp_path, TORN)


def test_rows_that_cannot_be_read_can_be_dropped_by_number(tmp_path):
    table = read(tmp_path, TORN, drop_rows=[2, 3, 5, 6, 7])
    assert table.runs["row"].to_list() == [1, 4, 8]
    assert table.runs["tokens"].to_list() == pytest.approx([26e9, 8.2e9, 6e9])
    assert table.left_out == ["5 rows left out by number: rows 2 3 5 6 7"]
    with pytest.raises(UserError, match=r"row 6 \(line 7\) has broken quotes"):
        read(tmp_path, TORN, drop_rows=[2, 3, 5, 7])
    with pytest.raises(UserError, match=r"row 3 \(line 4\) has 2 cells"):
        read(tmp_path, TORN, drop_rows=[2, 5, 6, 7])
    with pytest.raises(UserError, match="--drop-rows 9: the rows are 1 to 8"):
        read(tmp_path, TORN, drop_rows=[9])


def test_incomplete_rows_are_left_out_at_once_and_counted(tmp_path):
    table = read(tmp_path, TORN, drop_incomplete=True)
    assert table.runs["row"].to_list() == [1, 4, 8]
    (said,) = table.left_out
    for words in ("5 of 8 rows left out", "no L in 1 (row 2)", "malformed lines in 2 (rows 3 6)", "no D in 1 (row 5)",
                  "L 'inf' in 1 (row 7)"):  # fmt: skip
        assert words in said
    assert read(tmp_path, text([[*map(str, v)] for v in VALUES]), drop_incomplete=True).left_out == []
    with pytest.raises(UserError, match="no row is left: 1 of 1 row left out"):
        read(tmp_path, text([["1B", "2B", "", "a"]]), drop_incomplete=True)


def test_eighty_five_rows_without_a_loss_are_one_line(tmp_path):
    rows = [["1e9", "2e10", "" if i % 7 < 2 else "2.5", "a"] for i in range(307)]
    missing = sum(row[2] == "" for row in rows)
    table = read(tmp_path, text(rows), drop_incomplete=True)
    assert len(table.runs) == 307 - missing
    assert f"{missing} of 307 rows left out as incomplete: no L in {missing} (rows 1 2 8 9" in table.left_out[0]
    assert len(table.left_out[0]) < 120


def test_an_unclosed_quote_does_not_take_the_rest_of_the_table_with_it(tmp_path):
    rows = [[f"{i}e9", f"{i}e10", "2.5", "a"] for i in range(1, 7)]
    rows[2][3] = '"open'
    table = read(tmp_path, text(rows), drop_incomplete=True)
    assert table.runs["row"].to_list() == [1, 2, 4, 5, 6]
    two_lines = text([*rows[:2], ["3e9", "3e10", "2.5", '"two\nlines"'], *rows[3:]])
    assert read(tmp_path, two_lines).runs["parameters"].to_list() == [i * 1e9 for i in range(1, 7)]


def test_a_cluster_without_a_name_is_no_cluster(tmp_path):
    rows = [[*map(str, value[:3]), "" if i == 1 else "s"] for i, value in enumerate(VALUES)]
    with pytest.raises(UserError, match=r"row 2 .*note must name a cluster, got ''"):
        read(tmp_path, text(rows), columns={"group": "note"})
    assert read(tmp_path, text(rows), columns={"group": "note"}, drop_incomplete=True).runs["row"].to_list() == [
        1,
        3,
        4,
    ]


# --where


WHERE = text(
    [["1e9", "2e10", "2.5", note, width, "x=1"] for note, width in
     [("adam", "64"), ("adam", "128"), ("sgd", "64.0"), ("sgd", "6.4e1"), ("a,b", "256"), ("", "0.5k")]],
    header=["N", "D", "L", "opt", "width", "odd=name"],
).replace("a,b", '"a,b"')  # fmt: skip


@pytest.mark.parametrize(
    ("where", "rows"),
    [
        (["opt=adam"], [1, 2]),
        (["width=64"], [1, 3, 4]),
        (["width=64", "opt=sgd"], [3, 4]),
        (["width=64,128"], [1, 2, 3, 4]),
        (["width=64", "width=128"], [1, 2, 3, 4]),
        (["opt=a,b"], [5]),
        (["opt=adam,sgd", "width=128"], [2]),
        (["width=500"], [6]),
        (["opt="], [6]),
        (["odd=name=x=1"], [1, 2, 3, 4, 5, 6]),
        (["N=1B", "width=256"], [5]),
    ],
)
def test_rows_are_chosen_by_the_values_of_columns(tmp_path, where, rows):
    table = read(tmp_path, WHERE, where=where)
    assert table.runs["row"].to_list() == rows
    assert table.left_out[0].startswith(f"{len(rows)} of 6 rows have")


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("optt=adam", "no column 'optt': its columns are N D L opt width odd=name; did you mean 'opt'"),
        ("opt=adamm", "no row has opt='adamm': it is adam sgd a,b ''; did you mean 'adam'"),
        ("width=63", "no row has width='63': it is 64 128 64.0"),
        ("width=64,63", "no row has width='63'"),
        ("width", "must be COLUMN=VALUE"),
    ],
)
def test_a_condition_that_nothing_meets_is_refused(tmp_path, where, message):
    with pytest.raises(UserError, match=message):
        read(tmp_path, WHERE, where=[where])


def test_conditions_that_nothing_meets_together_are_refused(tmp_path):
    with pytest.raises(UserError, match="no row has opt = adam and width = 256 together"):
        read(tmp_path, WHERE, where=["opt=adam", "width=256"])


def test_numbers_of_a_column_are_compared_by_its_own_mark(tmp_path):
    rows = [["1e9", "2e10", "2.5", rate] for rate in ("1.000", "1000", "0.5")]
    assert read(tmp_path, text(rows, header=["N", "D", "L", "rate"]), where=["rate=1000"]).runs["row"].to_list() == [2]
    rows = [["1e9", "2e10", "2,5", rate] for rate in ("1.000", "0,5", "1")]
    german = text(rows, ";", header=["N", "D", "L", "rate"])
    assert read(tmp_path, german, where=["rate=1000"]).runs["row"].to_list() == [1]
    assert read(tmp_path, german, where=["rate=0.5"]).runs["row"].to_list() == [2]
    assert read(tmp_path, german, where=["rate=0,5"]).runs["row"].to_list() == [2]


def test_rows_that_are_not_chosen_need_not_be_readable(tmp_path):
    content = text([["1e9", "2e10", "2.5", "a"], ["x", "", "", "b"], ["1e9", "2e10", "2.5", "a"]])
    assert read(tmp_path, content, where=["note=a"]).runs["row"].to_list() == [1, 3]


def test_a_header_with_commas_of_its_own(tmp_path):
    rows = [["1000000000", "20000000000", "2,5"], ["2000000000", "30000000000", "2,25"]]
    content = text(rows, ";", header=["size (N, params)", "D", "L"])
    table = read(tmp_path, content, columns={"parameters": "size (N, params)"})
    assert table.runs["loss"].to_list() == [2.5, 2.25]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"where": ["q" * 5000 + "=1"]},
        {"where": ["c1=" + "7" * 5000]},
        {"columns": {"loss": "y" * 5000}},
        {"columns": {"parameters": "c1", "tokens": "c2", "loss": "c3"}, "units": ["z" * 5000]},
    ],
)
def test_messages_stay_short_and_printable(tmp_path, options):
    header = ["\x1b[31m" + "x" * 5000, *(f"c{i}" for i in range(2000))]
    with pytest.raises(UserError) as error:
        read(tmp_path, text([["1"] * 2001], header=header), **options)
    assert str(error.value).replace(str(tmp_path), "").isprintable()
    assert len(str(error.value)) < 600


@given(st.binary(max_size=200))
@settings(max_examples=150, deadline=None)
def test_any_bytes_are_a_table_or_one_line(tmp_path_factory, content):
    folder = tmp_path_factory.mktemp("bytes")
    for raw in (content, b"N,D,L\n" + content, gzip.compress(content)[: len(content)]):
        try:
            table = read(folder, raw, drop_incomplete=True)
        except UserError as error:
            assert "\n" not in str(error)
        else:
            assert (table.runs.select("parameters", "tokens", "loss").to_numpy() > 0).all()


MIXED = "N,D,loss\n3.162M,100M,3.1\n1M,50M,3.4\n0.01,2.5M,4\n0.02,2.5M,4\n"


def test_numbers_without_the_unit_of_their_column_are_doubted(tmp_path):
    (tmp_path / "runs.csv").write_text(MIXED)
    (doubt,) = read_runs(tmp_path / "runs.csv", Reading()).doubts
    assert "column 'N' has '3.162M' in row 1 and '0.01' in row 3, and in 1 more like it" in doubt
    assert not read_runs(tmp_path / "runs.csv", Reading(units=["N=M"])).doubts
    (tmp_path / "runs.csv").write_text(MIXED.replace("0.01", "2."))
    assert "and '2.' in row 3" in read_runs(tmp_path / "runs.csv", Reading()).doubts[0]
    (tmp_path / "runs.csv").write_text(MIXED.replace("0.01", "10000").replace("0.02", "20,000".replace(",", "")))
    assert not read_runs(tmp_path / "runs.csv", Reading()).doubts


ABOVE = [
    "# my runs, 2024\n",
    "# a\n# b, c\n\n",
    "My runs\n\n",
    "sep=,\n# from a sheet\n",
    "Loss\n",
    "# N, D and loss of runs\n",
]


@pytest.mark.parametrize("above", ABOVE)
def test_lines_above_the_header_are_left_out_and_said(tmp_path, above):
    plain, titled = tmp_path / "plain.csv", tmp_path / "titled.csv"
    plain.write_text("N,D,loss\n1e6,1e8,3.1\n2e6,1e8,x\n")
    titled.write_text(above + "N,D,loss\n1e6,1e8,3.1\n2e6,1e8,x\n")
    tables = [read_runs(path, Reading(drop_incomplete=True)) for path in (plain, titled)]
    assert tables[0].runs.equals(tables[1].runs)
    lines = above.count("\n") + 1
    assert f"the header is in line {lines}; what stands above it is left out" in tables[1].notes
    with pytest.raises(UserError, match=rf"row 2 \(line {lines + 2}\)"):
        read_runs(titled, Reading())


def test_a_header_that_is_a_comment_is_the_header(tmp_path):
    (tmp_path / "runs.csv").write_text("# N,D,loss\n1e6,1e8,3.1\n")
    table = read_runs(tmp_path / "runs.csv", Reading())
    assert table.columns["parameters"] == "N" and len(table.runs) == 1
    (tmp_path / "runs.csv").write_text("#params,D,loss\n1e6,1e8,3.1\n")
    assert read_runs(tmp_path / "runs.csv", Reading({"parameters": "#params"})).columns["parameters"] == "#params"


def test_blank_lines_above_the_header_are_nothing_to_say(tmp_path):
    (tmp_path / "runs.csv").write_text("\n\nN,D,loss\n1e6,1e8,3.1\n")
    table = read_runs(tmp_path / "runs.csv", Reading())
    assert not table.notes and len(table.runs) == 1


def test_a_header_of_two_lines_within_quotes_is_one_record(tmp_path):
    (tmp_path / "runs.csv").write_text('"run\nid",N,D,loss\na,1e6,1e8,3.1\n')
    table = read_runs(tmp_path / "runs.csv", Reading({"group": "run\nid"}))
    assert table.runs["group"].to_list() == ["a"] and not table.notes


def test_a_first_line_that_names_a_column_is_the_header_whatever_follows(tmp_path):
    (tmp_path / "runs.csv").write_text("size,D,loss\nN,D,loss\n1,2,3\n")
    with pytest.raises(UserError, match="no column of parameters"):
        read_runs(tmp_path / "runs.csv", Reading())
