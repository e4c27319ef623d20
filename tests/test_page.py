"""The page and its files: for every reader, program and printer."""

import re
from dataclasses import replace
from itertools import pairwise

import polars as pl
import pytest
import vl_convert
from hypothesis import given, settings
from hypothesis import strategies as st
from shown import HAS_PDFLATEX, dressed_numbers, faults_of_pdflatex, unset_in_latex

from shoal.report import Cell, Figure, Report, Section, Table, learning_curves, survival_curves, write_report
from shoal.report.figures import FONT, log_steps
from shoal.report.latex import escaped
from shoal.report.page import lone_page
from shoal.report.panels import BEST, MODEL, Axis, summary_panels

WIDE = Table(
    "wide",
    ["setting", *(f"t_f(A_val) {i}" for i in range(8))],
    [(f"GPT, weight_decay {i / 4}", [Cell("7,850 ± 1,350†", best=i == j) for j in range(8)]) for i in range(4)],
    "Of “everything” – 100 % & more: χ² ≥ 10⁻³·b, ‖θ‖₂ ∝ Cᵇ, R² of Müller’s Δt(A) → 0; a_b <i> | ^ ~ \\ {x} # $ …",
)
LONG = Table("long", ["run", "A_val"], [(f"r{i}", [Cell("−0.5")]) for i in range(130)], "Many.")
LONG_AND_WIDE = Table("long-and-wide", WIDE.header, [row for row in WIDE.rows for _ in range(18)], WIDE.caption)
WORDS = Table("words", ["", "why"], [("what happened " * 5, [Cell("1 of 3 runs as early or earlier " * 4)])], "Why.")
TABLES = [WIDE, LONG, LONG_AND_WIDE, WORDS]


@given(st.text())
@settings(max_examples=300, deadline=None)
def test_any_text_can_be_set_by_pdflatex(text):
    assert unset_in_latex(escaped(text)) == []


@pytest.mark.parametrize(
    ("text", "latex"),
    [
        ("10⁻³ Cᵇ R² ‖θ‖₂", r"10$^{-3}$ C$^{b}$ R$^{2}$ $\|$$\theta$$\|$$_{2}$"),
        ("p < 0.0001, ρ –0.5", r"p $<$ 0.0001, $\rho$ --0.5"),
        ("Δt(A) Σ", r"$\Delta t$(A) $\Sigma$"),
        ("L_val a_train é", r"$L_{\mathrm{val}}$ a\_train \'{e}"),
        ("中", "{}[U+4E2D]"),
        ("* a", "{}* a"),
    ],
)
def test_signs_have_their_commands(text, latex):
    assert escaped(text) == latex


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_every_column_of_a_table_is_in_latex_beside_the_labels(table):
    latex = table.to_latex()
    assert unset_in_latex(latex) == []
    wanted = len(table.rows) * (len(table.header) - 1)
    body = [line for line in latex.splitlines() if line.endswith("\\\\") and "&" in line]
    cells = sum(line.count(" & ") for line in body if not line.startswith((" &", "setting", "run")))
    assert cells == wanted
    assert ("longtable" in latex) == table.name.startswith("long")


@pytest.mark.slow
@pytest.mark.skipif(not HAS_PDFLATEX, reason="there is no pdflatex")
@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_tables_compile_and_stay_on_the_page(table, tmp_path):
    assert faults_of_pdflatex([table.to_latex()], tmp_path) == []


def test_a_csv_file_is_of_raw_numbers_where_there_are_any():
    data = pl.DataFrame({"run": ["a"], "A_val": [0.1 + 0.2], "open": [True], "seeds": [[1, 2]], "none": [None]})
    table = Table("t", ["run", "A_val"], [("a", [Cell("0.300 ± 0.001†")])], "", data)
    assert table.to_csv().splitlines() == ["run,A_val,open,seeds,none", "a,0.30000000000000004,true,1 2,"]
    assert dressed_numbers(table.to_csv()) == []
    bare = Table("t", table.header, table.rows, "")
    assert dressed_numbers(Table.to_csv.__wrapped__(bare)) == ["0.300 ± 0.001†"]
    with pytest.raises(AssertionError, match="table t"):  # as of each table that a test writes
        bare.to_csv()


CURVES = pl.DataFrame({"run": ["a", "a"], "step": [1, 1000]}).with_columns(
    pl.lit(0.5).alias(f"{split}_{name}") for split in ("train", "valid") for name in ("loss", "accuracy")
)


def test_figures_and_tables_can_be_read_without_seeing_and_in_the_dark(tmp_path):
    figure = Figure("f", learning_curves(CURVES, "accuracy", "A <title> [of it]"), "caption")
    table = replace(WIDE, data=CURVES)
    page = write_report(Report("r", "", [Section("s", figures=[figure], tables=[table])]), tmp_path)
    text = page.read_text()
    assert re.search(r'id="f" role="img" aria-label="A &lt;title&gt; \[of it\]\. Training accuracy[^"]*0\.5', text)
    assert "![A &lt;title> \\[of it\\]. Training accuracy" in (tmp_path / "report.md").read_text()
    assert "prefers-color-scheme: dark" in text
    colours = re.findall(r"(?<![-\w])color: (.*?);", text.partition("</style>")[0])
    assert colours
    assert all(
        colour.startswith("var(") or colour == "inherit" for colour in colours
    )  # none that stays dark on a dark page
    assert re.search(r'class="scroll" role="region" tabindex="0"', text)  # a keyboard can reach all columns
    assert f"font: 16px/1.5 {FONT};" in text
    assert figure.spec["config"]["font"] == FONT
    svg = (tmp_path / "figures" / "f.svg").read_text()
    assert len(set(re.findall(r'font-family="([^"]*)"', svg))) == 1


def test_every_page_with_figures_has_the_code_that_draws_them_and_no_other():
    figure = Figure("f", learning_curves(CURVES, "accuracy", "A"), "caption")
    drawn = [lone_page(Report(name, "", [Section("s", figures=[figure])])) for name in "ab"]
    assert all(page.count("window.vegaEmbed=") == 1 for page in drawn)
    assert "window.vegaEmbed=" not in lone_page(Report("c", "", [Section("s", tables=[WIDE])]))


def test_a_colour_bar_names_values_and_not_their_logarithms():
    frame = pl.DataFrame(
        {"run": list("abc"), "width": [64, 128, 256], "wd": [0.0, 0.5, 1.0], "valid_loss": [3.0, 2, 1]}
    )
    (panel,) = (panel for panel in BEST if panel.column == "valid_loss")
    axes = Axis("wd", "weight decay"), Axis("width", "width d", log=2)
    svg = vl_convert.vegalite_to_svg(Figure("f", summary_panels(frame, *axes, "t", [panel]), "").spec)
    texts = set(re.findall(r">([^<>]+)</text>", svg))
    assert {"64", "128", "256", "width d"} <= texts
    assert not texts & {"6", "7", "8"}


def test_no_axis_of_steps_begins_at_0k():
    frame = pl.DataFrame({"run": list("ab"), "model": "gpt", "wd": [0.0, 1.0], "t_train_accuracy": [0, 9000]})
    frame = frame.with_columns(train_accuracy=pl.lit(1.0), last_step=pl.lit(10_000))
    (panel,) = (panel for panel in BEST if panel.column == "t_train_accuracy")
    svg = vl_convert.vegalite_to_svg(
        Figure("f", summary_panels(frame, Axis("wd", "weight decay"), MODEL, "t", [panel]), "").spec
    )
    texts = re.findall(r">([^<>]+)</text>", svg)
    assert "0k" not in texts
    assert "4k" in texts


@pytest.mark.parametrize("log_x", [False, True])
def test_the_axis_of_a_survival_curve_goes_to_the_horizon(log_x):
    times = pl.DataFrame({"model": "a", "time": [100, 200], "observed": True, "followed": 10_000})
    spec = survival_curves(times, "model", "t", log_x).to_dict()
    for layer in spec["layer"]:
        assert layer["encoding"]["x"]["scale"]["domain"][1] == 10_000
    (line,) = [layer for layer in spec["layer"] if layer["mark"]["type"] == "line"]
    drawn = [(row["step"], row["share"]) for row in spec["datasets"][line["data"]["name"]]]
    assert drawn[-1] == (10_000, 1)  # and there the curve still is
    assert all(a <= b for (a, _), (b, _) in pairwise(drawn))


@pytest.mark.parametrize(
    ("steps", "least"), [([0, 20, 40, 60], 2), ([1, 10_000], 4), ([500], 1), ([0], 1), ([0, 300, 900], 3)]
)
def test_an_axis_of_steps_has_numbers_wherever_the_steps_lie(steps, least):
    values = log_steps(pl.DataFrame({"step": steps})).to_dict()["values"]
    first, last = min(filter(None, steps), default=1), max(steps)
    assert len([value for value in values if first <= value <= max(last, 1)]) >= least
