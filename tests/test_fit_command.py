"""``shoal fit scaling``: a table in, a table and a page out, and one line for every mistake."""

import gzip
import hashlib
import json
import re
import shlex

import numpy as np
import polars as pl
import pytest
from shown import loaded_from_outside, text_of

from shoal.analysis import ScalingLaw
from shoal.cli import main

LAW = ScalingLaw(E=1.7, A=400.0, B=900.0, alpha=0.34, beta=0.31)
RESAMPLES = ["--resamples", "20"]


def table(n=30, noise=0.01):
    rng = np.random.default_rng(0)
    N, D = 10 ** rng.uniform(7.5, 10, n), 10 ** rng.uniform(8.5, 11, n)
    return pl.DataFrame({"parameters": N, "tokens": D, "loss": LAW.loss(N, D) * np.exp(noise * rng.standard_normal(n))})


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def undrawn(monkeypatch):
    """Numbers and tables only: drawing takes seconds."""
    monkeypatch.setattr("shoal.report.write_report", lambda report, folder: folder / "index.html")


def fit(*words):
    return main(["fit", "scaling", *words])


def test_a_table_becomes_a_page(here, capsys):
    frame = table()
    frame[3, "loss"] *= 1.5
    frame.write_csv("runs.csv")
    assert fit("runs.csv", *RESAMPLES, "--budgets", "1e20", "5.76e23") == 0
    out = capsys.readouterr().out
    for words in ("The law", "α", "Held-out error", "5.76e23", "1 of 30 runs are outliers"):
        assert words in out
    folder = here / "fit-runs"
    assert out.strip().endswith(f"report: {folder.relative_to(here) / 'index.html'}")
    page = (folder / "index.html").read_text(encoding="utf-8")
    assert loaded_from_outside(page) == []
    assert {path.stem for path in (folder / "figures").iterdir()} == {
        "loss-parameters", "residuals", "best-use", "held-out",
    }  # fmt: skip
    assert {path.stem for path in (folder / "tables").iterdir()} == {"estimates", "best-use", "held-out", "outliers"}
    numbers = json.loads((folder / "fit.json").read_text(encoding="utf-8"))
    assert numbers["outlier_rows"] == [4]
    assert numbers["without_outliers"]["runs"] == 29
    assert numbers["all_runs"]["estimates"]["E"]["low"] < numbers["all_runs"]["estimates"]["E"]["high"]


def test_a_page_without_intervals_or_held_out_runs(here):
    flop = [1e19] * 7 + [1e20]
    N = pl.Series([1e8, 2e8, 4e8, 8e8, 1.6e9, 3.2e9, 6.4e9, 1e9])
    frame = pl.DataFrame({"N": N, "C": flop}).with_columns(D=pl.col("C") / 6 / pl.col("N"))
    frame.with_columns(L=LAW.loss(pl.col("N"), pl.col("D"))).write_csv("runs.csv")
    assert fit("runs.csv", "--resamples", "0", "--budgets", "1e20") == 0
    text = next(here.rglob("report.md")).read_text(encoding="utf-8")
    assert "interval" not in text and "bootstrap" not in text and "resample" not in text.split("Made by")[0]
    page = (here / "fit-runs" / "index.html").read_text(encoding="utf-8")
    assert "no held-out error" in text_of(page)
    assert not (here / "fit-runs" / "figures" / "held-out.png").exists()


def test_without_resamples_no_table_has_a_column_of_intervals(here, capsys, undrawn):
    table().write_csv("runs.csv")
    assert fit("runs.csv", *RESAMPLES, "--predict", "N=1e9,D=1e11") == 0
    with_intervals = capsys.readouterr().out
    assert with_intervals.count("95%") > 4 and "bootstrap resamples" in with_intervals
    assert fit("runs.csv", "--resamples", "0", "--predict", "N=1e9,D=1e11", "--out", "other") == 0
    without = capsys.readouterr().out
    assert "95%" not in without and "interval" not in without and "resample" not in without


def test_the_same_command_prints_the_same_and_may_write_over_its_own(here, capsys, undrawn):
    table().write_csv("runs.csv")
    fit("runs.csv", *RESAMPLES, "--seed", "3")
    first = capsys.readouterr().out
    assert fit("runs.csv", *RESAMPLES, "--seed", "3") == 0
    assert capsys.readouterr().out == first
    fit("runs.csv", *RESAMPLES, "--seed", "4")
    assert capsys.readouterr().out != first


def test_tokens_follow_from_flop(here, capsys, undrawn):
    frame = table()
    frame.write_csv("a.csv")
    frame.select(
        N="parameters", C=6 * pl.col("parameters") * pl.col("tokens"), L="loss", note=pl.lit('says "x", y')
    ).write_csv("b.csv")
    frame.select(size="parameters", words="tokens", nats="loss").write_csv("c.csv")
    assert fit("a.csv", *RESAMPLES, "--out", "a") == 0
    assert fit("b.csv", *RESAMPLES, "--out", "b") == 0
    assert "tokens: C / (6 N)" in capsys.readouterr().out
    names = ["--parameters", "size", "--tokens", "words", "--loss", "nats"]
    assert fit("c.csv", *RESAMPLES, "--out", "c", *names) == 0
    laws = [json.loads((here / x / "fit.json").read_text())["all_runs"]["estimates"] for x in "abc"]
    for name in ("E", "B", "alpha", "beta"):
        assert laws[1][name]["estimate"] == pytest.approx(laws[0][name]["estimate"], rel=1e-4)
        assert laws[2][name]["estimate"] == laws[0][name]["estimate"]


def test_tokens_and_flop_may_disagree(here, capsys, undrawn):
    frame = table().with_columns(flop=6 * pl.col("parameters") * pl.col("tokens"))
    frame.write_csv("same.csv")
    frame.with_columns(pl.col("flop") * 1.3).write_csv("other.csv")
    assert fit("same.csv", "--resamples", "0") == 0
    assert "differs" not in capsys.readouterr().out
    assert fit("other.csv", "--resamples", "0") == 0
    assert "flop differs from 6 parameters tokens by up to 30%: tokens is used" in capsys.readouterr().out
    assert fit("other.csv", "--resamples", "0", "--flop", "flop") == 0
    assert "tokens: flop / (6 parameters)" in capsys.readouterr().out


def test_rows_and_outliers_can_be_left_out(here, capsys, undrawn):
    frame = table()
    frame[3, "loss"] *= 1.5
    frame.write_csv("runs.csv")
    assert fit("runs.csv", *RESAMPLES, "--drop-rows", "4") == 0
    out = capsys.readouterr().out
    assert "29 runs" in out
    assert "outliers" not in out
    assert fit("runs.csv", *RESAMPLES, "--drop-outliers") == 0
    assert "they are left out, and both fits are shown" in capsys.readouterr().out


def numbers(folder):
    return json.loads((folder / "fit.json").read_text(encoding="utf-8"))


def test_the_same_table_wrapped_otherwise_gives_the_same_law(here, undrawn):
    frame = table(12)
    frame.write_csv("a.csv")
    wrapped = frame.select(
        model=pl.lit("gpt"),
        params=(pl.col("parameters") / 1e6).map_elements(repr, pl.String),
        tokens=(pl.col("tokens") / 1e9).map_elements(lambda x: f"{x!r}B", pl.String),
        loss=pl.col("loss").map_elements(repr, pl.String),
    )
    other = wrapped.with_columns(model=pl.lit("lstm"), loss=pl.lit(""))
    german = pl.concat([wrapped, other]).write_csv(separator=";").replace(".", ",")
    (here / "b.tsv.gz").write_bytes(gzip.compress(german.replace(";", "\t").encode("utf-16")))
    assert fit("a.csv", *RESAMPLES) == 0
    flags = ["--units", "params=M", "--where", "model=gpt"]
    assert fit("b.tsv.gz", *RESAMPLES, *flags) == 0
    assert fit("b.tsv.gz", *RESAMPLES, "--units", "params=M", "--drop-incomplete", "--out", "c") == 0
    laws = [numbers(here / name)["all_runs"]["estimates"] for name in ("fit-a", "fit-b", "c")]
    for name, row in laws[0].items():
        assert laws[1][name] == pytest.approx(row, rel=1e-6)
        assert laws[2][name] == laws[1][name]
    assert numbers(here / "fit-b")["left_out"] == ["12 of 24 rows have model = gpt; the others are left out"]


def test_what_is_left_out_is_said_on_the_terminal_and_on_the_page(here, capsys, without_pictures):
    frame = table(30).with_columns(pl.all().cast(pl.String))
    for row in (2, 5, 9):
        frame[row, "loss"] = ""
    frame[11, "loss"] = "diverged"
    frame.write_csv("runs.csv")
    assert fit("runs.csv", "--resamples", "0", "--drop-incomplete", "--drop-rows", "1") == 0
    out = capsys.readouterr().out
    assert "25 runs" in out
    page = (here / "fit-runs" / "index.html").read_text(encoding="utf-8")
    report = (here / "fit-runs" / "report.md").read_text(encoding="utf-8")
    for words in (
        "1 row left out by number: row 1",
        "4 of 29 rows left out as incomplete",
        "no loss in 3 (rows 3 6 10)",
    ):
        assert words in out
        assert words in text_of(page)
        assert words in report


def test_doubts_about_units_are_warnings_on_the_page(here, capsys, without_pictures):
    table(12).select("tokens", "loss", pl.col("parameters").alias("size (M)")).write_csv("runs.csv")
    assert fit("runs.csv", "--resamples", "0", "--parameters", "size (M)") == 0
    (warned,) = (line for line in capsys.readouterr().out.splitlines() if "--units parameters=M" in line)
    assert warned.startswith("warning: ")
    assert warned.removeprefix("warning: ") in (here / "fit-runs" / "report.md").read_text(encoding="utf-8")


def test_forms_and_predictions_reach_the_page(here, capsys, without_pictures):
    table(40).write_csv("runs.csv")
    words = ["--tied", "--irreducible", "1.7", "--delta", "0.0123456789", "--predict", "N=1B,D=2e10", "C=1e24,N=70B"]
    assert fit("runs.csv", *RESAMPLES, *words) == 0
    out = capsys.readouterr().out
    page = (here / "fit-runs" / "index.html").read_text(encoding="utf-8")
    found = numbers(here / "fit-runs")
    assert found["form"] == {"tied": True, "irreducible": 1.7, "delta": 0.0123456789}
    law = {name: row["estimate"] for name, row in found["all_runs"]["estimates"].items()}
    assert law["alpha"] == law["beta"]
    assert law["E"] == pytest.approx(1.7, rel=1e-12)
    inside, beyond = found["predictions"]
    assert (beyond["parameters"], beyond["tokens"]) == (70e9, pytest.approx(1e24 / 6 / 70e9))
    for row in (inside, beyond):
        expected = law["E"] + law["A"] * row["parameters"] ** -law["alpha"] + law["B"] * row["tokens"] ** -law["beta"]
        assert row["loss"] == pytest.approx(expected)
        assert row["run_low"] < row["low"] <= row["high"] < row["run_high"]
    warned = [warning for warning in found["warnings"] if "extrapolated" in warning]
    N, D = table(40)["parameters"], table(40)["tokens"]
    for times in (70e9 / N.max(), 1e24 / 6 / 70e9 / D.max(), 1e24 / 6 / (N * D).max()):
        assert f"{times:,.3g} times the largest" in warned[0]
    for words in ("α = β", "E held at 1.7", "N = 7e10", "one run, 95%", "Huber losses (delta 0.0123457)"):
        assert words in text_of(page)
    assert "Predicted loss" in out
    assert warned[0] in out
    assert (here / "fit-runs" / "tables" / "predicted-loss.csv").is_file()


def test_the_command_on_the_page_gives_the_same_again(here, capsys, undrawn):
    table(20).with_columns(kind=pl.lit("a b")).write_csv("runs.csv")
    words = [
        "--resamples",
        "0",
        "--irreducible",
        "0",
        "--delta",
        "0.0123456789",
        "--where",
        "kind=a b",
        "--units",
        "N=1",
    ]
    assert fit("runs.csv", *words, "--out", "a") == 0
    first = numbers(here / "a")
    assert main([*shlex.split(first["command"])[1:], "--out", "b"]) == 0
    again = numbers(here / "b")
    assert first["file_sha256"] == hashlib.sha256((here / "runs.csv").read_bytes()).hexdigest()
    for found in (first, again):
        found.pop("seconds"), found.pop("sha256", None)  # the checksum is of all the others
    assert again == first


def test_a_law_that_is_no_better_than_a_constant_is_warned_of_on_the_page(here, capsys, without_pictures):
    frame = table(40)
    share = (frame["parameters"] * frame["tokens"]).log()
    share = (share - share.min()) / (share.max() - share.min())
    frame.with_columns(loss=3 + 3 * (share - 0.75).abs()).write_csv("runs.csv")
    assert fit("runs.csv", "--resamples", "0") == 0
    (warned,) = (line for line in capsys.readouterr().out.splitlines() if "a constant" in line and "warning" in line)
    page = (here / "fit-runs" / "report.md").read_text(encoding="utf-8")
    assert warned.removeprefix("warning: ") in page


@pytest.mark.slow
def test_thousands_of_runs_are_drawn_in_part(here):
    frame = table(3000)
    frame[1234, "loss"] *= 1.5
    frame.write_csv("runs.csv")
    assert fit("runs.csv", *RESAMPLES) == 0
    page = here / "fit-runs" / "index.html"
    text = (here / "fit-runs" / "report.md").read_text(encoding="utf-8")
    assert re.search("Of these 3,000 points those at the same place are drawn once", text)
    assert "| 1235 |" in text
    assert page.stat().st_size < 4_000_000
    assert numbers(here / "fit-runs")["all_runs"]["runs"] == 3000


@pytest.mark.parametrize("direction", [1, -1])
def test_a_law_without_a_best_use_is_shown_without_one(here, capsys, without_pictures, direction):
    frame = table(30)
    N, D = frame["parameters"].to_numpy(), frame["tokens"].to_numpy()
    frame.with_columns(loss=1 + (N if direction > 0 else D) ** -0.3).write_csv("runs.csv")  # of the other independent
    assert fit("runs.csv", "--resamples", "0", "--out", "out") == 0
    out = capsys.readouterr().out
    assert "is at 0" in out or "names no best use" in (here / "out" / "report.md").read_text()


def test_clusters_widen_the_intervals(here, undrawn):
    frame = table(noise=0.02)
    pl.concat([frame] * 4).with_row_index("one").write_csv("runs.csv")
    widths = []
    for flags in (["--group", "one"], []):
        assert fit("runs.csv", "--resamples", "60", "--out", "out", *flags) == 0
        alpha = numbers(here / "out")["all_runs"]["estimates"]["alpha"]
        widths.append(alpha["high"] - alpha["low"])
    assert widths[1] > 1.3 * widths[0]
    assert numbers(here / "out")["all_runs"]["clusters"] == len(frame)


GOOD = table(8).write_csv()


def cell(column, row, value):
    frame = table(8).with_columns(pl.all().cast(pl.String))
    frame[row - 1, column] = value
    return frame.write_csv()


WRONG = {
    "not-there": (None, "cannot be read: No such file"),
    "empty": ("", "is empty"),
    "blank": ("\n\n", "is empty"),
    "header": ("parameters,tokens,loss\n", "holds a header and no training run"),
    "binary": (b"\x89PNG\r\n\x1a\n\xff\xfe", "not a table of separated values: it is not UTF-8"),
    "wide": (GOOD.encode("utf-16-le"), "holds zero bytes"),
    "torn-mark": (GOOD.encode("utf-16")[:-1], "it is not utf-16 text"),
    "torn-gzip": (gzip.compress(GOOD.encode())[:-12], "compressed by gzip and damaged"),
    "quote": ('parameters,tokens,loss\n1,2,"3\n', r"row 1 \(line 2\) has broken quotes.*--drop-incomplete"),
    "header-quote": ('parameters,"tokens,loss\n1,2,3\n', "not a table of separated values: line 1, its header"),
    "one-column": ("loss\n1\n2\n", "no column of parameters"),
    "ragged": (GOOD + "1,2\n", r"row 9 \(line 10\) has 2 cells, its header has 3"),
    "no-loss": (GOOD.replace("loss", "lost"), "no column of loss .*its columns are parameters tokens lost.*'lost'"),
    "no-size": (GOOD.replace("parameters", "x"), "no column of parameters .*--parameters"),
    "no-data": (GOOD.replace("tokens", "x"), "no column of tokens or training FLOP .*--tokens or --flop"),
    "two-losses": ("N,D,loss,L\n1,1,1,1\n", "2 columns of loss, 'loss' and 'L'.*--loss"),
    "twice": ("N,D,loss,loss\n1,1,1,1\n", "2 columns of loss"),
    "negative": (cell("loss", 3, "-2"), r"row 3 \(line 4\): loss must be a finite number above 0, got '-2'"),
    "zero": (cell("tokens", 1, "0"), r"row 1 \(line 2\): tokens must be a finite number above 0, got '0'"),
    "nan": (cell("loss", 2, "NaN"), r"row 2 \(line 3\): loss .* got 'NaN'"),
    "inf": (cell("parameters", 2, "inf"), "row 2 .*parameters .* got 'inf'"),
    "text": (cell("parameters", 8, "7Q"), "row 8 .*parameters .* got '7Q'"),
    "several": (cell("loss", 2, "").replace("\n", ",\n"), "row 2 .*loss .* got ''.*--drop-incomplete"),
    "contradiction": (cell("loss", 2, "2,1"), "decimal point and .* a decimal comma: say which with --decimal"),
    "missing": (cell("loss", 2, ""), "row 2 .*loss .* got ''"),
    "few": ("\n".join(GOOD.splitlines()[:6]), "at least 6 runs, got 5"),
    "same": (GOOD.splitlines()[0] + 8 * ("\n" + GOOD.splitlines()[1]), "3 or more values of parameters .*got 1"),
}


def refused(capsys, here, words, message):
    before = sorted(here.rglob("*"))
    assert main(words) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1, error
    assert re.search(message, error), error
    assert sorted(here.rglob("*")) == before


@pytest.mark.parametrize("name", WRONG)
def test_a_bad_table_is_one_line_and_nothing_is_written(name, here, capsys):
    content, message = WRONG[name]
    if content is not None:
        (here / "runs.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    refused(capsys, here, ["fit", "scaling", "runs.csv"], message)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("fit", "needs|required|KIND"),
        ("fit scalling runs.csv", "unknown fit 'scalling': one of scaling; did you mean 'scaling'"),
        ("fit scaling", "needs a file"),
        ("fit scaling .", "cannot be read: Is a directory"),
        ("fit scaling runs.csv --loss los", "no column 'los'.*did you mean 'loss'"),
        ("fit scaling runs.csv --group seed", "no column 'seed'"),
        ("fit scaling runs.csv --resamples 3", "resamples must be 0 or an integer from 20 to 100,000, got 3"),
        ("fit scaling runs.csv --seed -1", "seed must be an integer of at least 0, got -1"),
        ("fit scaling runs.csv --holdout 1", "holdout must be above 0 and at most 0.5, got 1"),
        ("fit scaling runs.csv --holdout nan", "holdout must be above 0"),
        ("fit scaling runs.csv --budgets 0", "--budgets must be finite numbers above 0, got 0"),
        ("fit scaling runs.csv --drop-rows 9", "--drop-rows 9: the rows are 1 to 8"),
        ("fit scaling runs.csv --drop-rows 1 2 --drop-rows 3", "at least 6 runs, got 5"),
        ("fit scaling runs.csv --where los=2", "no column 'los'.*did you mean 'loss'"),
        ("fit scaling runs.csv --where loss=2", "no row has loss='2': it is"),
        ("fit scaling runs.csv --where loss", "must be COLUMN=VALUE"),
        ("fit scaling runs.csv --units params=Q", "the unit of parameters must be a number, or K M B T, got 'Q'"),
        ("fit scaling runs.csv --units tokens=GFLOP", "the unit of tokens must be"),
        ("fit scaling runs.csv --units flop=M", "must be COLUMN=UNIT, of parameters or tokens"),
        ("fit scaling runs.csv --units token=M", "must be COLUMN=UNIT.*did you mean 'tokens'"),
        ("fit scaling runs.csv --units D=M --units tokens=B", "the unit of tokens is given twice"),
        ("fit scaling runs.csv --units D=0", "the unit of tokens must be .*got '0'"),
        (
            "fit scaling runs.csv --decimal commma",
            "--decimal must be point or comma, got 'commma'; did you mean 'comma'",
        ),
        ("fit scaling runs.csv --irreducible 1e9", "irreducible must be at least 0 and below the largest loss"),
        ("fit scaling runs.csv --delta 0", "delta must be from 1e-09 to 1"),
        ("fit scaling runs.csv --delta x", "--delta must be a number, got 'x'"),
        ("fit scaling runs.csv --predict N=7B", "must be two of N, D and C, such as N=7B,D=2T"),
        ("fit scaling runs.csv --predict N=7B,D=1T,C=1e21", "must be two of N, D and C"),
        ("fit scaling runs.csv --predict N=7Q,D=1T", "N must be a number above 0.*got '7Q'"),
        ("fit scaling runs.csv --predict N=7B,N=8B", "parameters is given twice"),
        ("fit scaling runs.csv --predict tokenz=7B,N=8B", "unknown 'tokenz': N, D or C; did you mean 'tokens'"),
        ("fit scaling runs.csv --predict N=7B,D=-1", "D must be a number above 0"),
        ("fit scaling runs.csv --drop-rows 1 2 3", "at least 6 runs, got 5"),
        ("fit scaling runs.csv --keep-outliers --drop-outliers", "not allowed with"),
        ("fit scaling runs.csv --out runs.csv", "--out runs.csv is not a folder"),
        ("fit scaling runs.csv --out runs.csv/x", "cannot be made"),
        ("fit scaling runs.csv --out other", "holds something that is not a report of shoal fit"),
        ("fit scaling runs.csv --out foreign", "holds something that is not a report of shoal fit"),
    ],
)
def test_a_bad_flag_is_one_line_and_nothing_is_written(words, message, here, capsys):
    (here / "runs.csv").write_text(GOOD)
    (here / "other").mkdir()
    (here / "other" / "mine.txt").write_text("mine")
    (here / "foreign").mkdir()
    (here / "foreign" / "fit.json").write_text('{"made_by": "others"}')
    refused(capsys, here, words.split(), message)
