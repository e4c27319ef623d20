"""Extrema against brute force, and the tables that show them."""

import csv
import io
import math
import re
import statistics

import polars as pl
import pytest
import vl_convert
from hypothesis import given, settings
from hypothesis import strategies as st

import shoal
from shoal.analysis import (
    extrema,
    first_step_at_least,
    get_extrema_performance_steps,
    get_extrema_performance_steps_per_trials,
    mean_and_std,
)
from shoal.errors import UserError
from shoal.report import Cell, Table
from shoal.report.each_run import per_run_table
from shoal.report.panels import BEST, MODEL, Axis, budget_panels, curve_panels, summary_panels
from shoal.report.quantities import QUANTITIES
from shoal.report.summary import show, ten_figures
from shoal.spec import RunSpec

some = settings(max_examples=25, deadline=None)
COLUMNS = ("train_loss", "valid_loss", "train_accuracy", "valid_accuracy")
# a few values, so that the best is often reached more than once
VALUES = st.sampled_from([0.0, 0.25, 0.5, 1.0, math.nan])

Curve = dict[str, list]


@st.composite
def curves(draw) -> Curve:
    """One run's evaluations in order of steps, of which the first is always a number."""
    steps = sorted(draw(st.lists(st.integers(0, 60), min_size=1, max_size=8, unique=True)))
    n = len(steps)
    own = {name: [0.5, *draw(st.lists(VALUES, min_size=n - 1, max_size=n - 1))] for name in COLUMNS}
    return {"step": steps, **own}


runs = st.lists(curves(), min_size=1, max_size=4)
horizons = st.none() | st.integers(60, 90) | st.just("first")


def horizon(t_max: int | str | None, trials: list[Curve]) -> int | None:
    """A horizon before which every run was evaluated at least once."""
    return max(curve["step"][0] for curve in trials) if t_max == "first" else t_max


def frame(trials: list[Curve]) -> pl.DataFrame:
    return pl.concat([pl.DataFrame({"run": [f"run{i}"] * len(c["step"]), **c}) for i, c in enumerate(trials)])


def practical(curve: Curve) -> dict:
    """One run as the practical's dictionaries."""
    splits = {
        "train": {q: curve[f"train_{q}"] for q in ("loss", "accuracy")},
        "test": {q: curve[f"valid_{q}"] for q in ("loss", "accuracy")},
    }
    return {**splits, "all_steps": curve["step"]}


def brute_force(curve: Curve, t_max: int | None) -> dict[str, tuple[float, int]]:
    """The best value of each column and its first step, one number at a time."""
    out = {}
    for name in COLUMNS:
        best, at = None, None
        for step, value in zip(curve["step"], curve[name], strict=True):
            if math.isnan(value) or (t_max is not None and step > t_max):
                continue
            if best is None or (value < best if name.endswith("loss") else value > best):
                best, at = value, step
        out[name] = (best, at)
    return out


@some
@given(runs, horizons, st.randoms())
def test_extrema_equal_brute_force(trials, t_max, random):
    t_max = horizon(t_max, trials)
    rows = frame(trials).rows(named=True)
    random.shuffle(rows)
    found = {row["run"]: row for row in extrema(pl.DataFrame(rows), t_max).rows(named=True)}
    assert found.keys() == {f"run{i}" for i in range(len(trials))}
    for i, curve in enumerate(trials):
        row, expected = found[f"run{i}"], brute_force(curve, t_max)
        for name, (best, at) in expected.items():
            assert (row[name], row[f"t_{name}"]) == (best, at)
        for q in ("loss", "accuracy"):
            assert row[f"delay_{q}"] == expected[f"valid_{q}"][1] - expected[f"train_{q}"][1]


def test_what_is_nan_throughout_is_null_in_frames_and_named_in_dictionaries():
    """In data frames it says nothing of the other runs; in the practical's dictionaries it is named with its split."""
    curve = {"step": [0, 10], **{name: [0.5, 0.75] for name in COLUMNS}, "valid_loss": [math.nan, math.nan]}
    for t_max, last in ((None, 10), (0, 0)):
        other = {**curve, "valid_loss": [0.5, math.nan]}
        best = extrema(frame([curve, other]), t_max).to_dicts()
        assert [row["valid_loss"] for row in best] == [None, 0.5]
        assert [row["t_valid_loss"] for row in best] == [None, 0]
        assert [row["delay_loss"] for row in best] == [None, 0]
        assert {row["train_loss"] for row in best} == {0.5}
        with pytest.raises(UserError, match=f"test loss is NaN in all of . evaluations? up to step {last}") as d:
            get_extrema_performance_steps(practical(curve), t_max)
        assert "T_max" not in str(d.value)
    with pytest.raises(UserError, match="no evaluation up to T_max=5"):
        get_extrema_performance_steps(practical({"step": [10], **{name: [0.5] for name in COLUMNS}}), 5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"test": {"loss": [0.5]}}, "the metrics have no test accuracy"),
        ({"train": {"loss": [0.5, 0.1], "accuracy": [0.5]}}, "train loss has 2 values of 1 steps"),
        ({"all_steps": [None]}, "all_steps must hold numbers, got None"),
        ({"all_steps": []}, "no evaluation$"),
    ],
)
def test_dictionaries_of_another_shape_are_refused(change, message):
    metrics = practical({"step": [10], **{name: [0.5] for name in COLUMNS}}) | change
    with pytest.raises(UserError, match=message):
        get_extrema_performance_steps(metrics)
    with pytest.raises(UserError, match="train loss has 1 trials, all_steps has 2"):
        get_extrema_performance_steps_per_trials({**metrics, "train": {"loss": [[1.0]]}, "all_steps": [[1], [2]]})


def test_the_practicals_steps_may_come_in_any_order():
    curve = {"step": [20, 0, 10], **{name: [1.0, 0.5, 1.0] for name in COLUMNS}}
    found = get_extrema_performance_steps(practical(curve))
    assert found["max_test_accuracy_step"] == 10
    assert get_extrema_performance_steps(practical(curve), 5)["max_test_accuracy"] == 0.5


NAMES = dict(zip(COLUMNS, ("min_train_loss", "min_test_loss", "max_train_accuracy", "max_test_accuracy"), strict=True))


@some
@given(curves(), horizons)
def test_the_practicals_extrema_equal_brute_force(curve, t_max):
    t_max = horizon(t_max, [curve])
    found = get_extrema_performance_steps(practical(curve), t_max)
    assert len(found) == 8
    for name, expected in brute_force(curve, t_max).items():
        assert (found[NAMES[name]], found[f"{NAMES[name]}_step"]) == expected


@some
@given(runs, horizons)
def test_the_practicals_trials_are_averaged_with_population_deviations(trials, t_max):
    t_max = horizon(t_max, trials)
    each = [practical(curve) for curve in trials]
    together = {split: {q: [m[split][q] for m in each] for q in ("loss", "accuracy")} for split in ("train", "test")}
    found = get_extrema_performance_steps_per_trials({**together, "all_steps": [m["all_steps"] for m in each]}, t_max)
    expected = [brute_force(curve, t_max) for curve in trials]
    for name, short in NAMES.items():
        for index, suffix in enumerate(("", "_step")):
            values = [trial[name][index] for trial in expected]
            assert found[f"{short}{suffix}"] == pytest.approx(statistics.fmean(values))
            assert found[f"{short}{suffix}_std"] == pytest.approx(statistics.pstdev(values), abs=1e-12)


def test_extrema_of_nothing_are_refused():
    curve = {"step": [5, 6], **{name: [0.5, 0.4] for name in COLUMNS}}
    with pytest.raises(UserError, match="no evaluation up to T_max"):
        get_extrema_performance_steps(practical(curve), T_max=4)
    none = {"train": {"loss": [], "accuracy": []}, "test": {"loss": [], "accuracy": []}, "all_steps": []}
    with pytest.raises(UserError, match="no trials"):
        get_extrema_performance_steps_per_trials(none)


@some
@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 1), st.floats(-5, 5)), min_size=1, max_size=9))
def test_means_and_deviations_are_of_the_population(rows):
    table = pl.DataFrame(rows, schema=["label", "half", "value"], orient="row").with_columns(note=pl.lit("text"))
    found = mean_and_std(table, ["label", "half"])
    assert found.columns == ["label", "half", "N", "value", "value_std"]
    groups = list(dict.fromkeys((label, half) for label, half, _ in rows))
    assert [(row["label"], row["half"]) for row in found.rows(named=True)] == groups
    for row in found.rows(named=True):
        values = [value for label, half, value in rows if (label, half) == (row["label"], row["half"])]
        assert row["N"] == len(values)
        assert row["value"] == pytest.approx(statistics.fmean(values), abs=1e-9)
        deviation = statistics.pstdev(values) if len(values) > 1 else None
        assert row["value_std"] == (deviation if deviation is None else pytest.approx(deviation, abs=1e-6))


@some
@given(runs, st.sampled_from([0.25, 0.5, 0.9, 2.0]))
def test_the_first_step_at_a_threshold_equals_brute_force(trials, threshold):
    trials = [{**c, "train_loss": [0.0 if math.isnan(v) else v for v in c["train_loss"]]} for c in trials]
    found = first_step_at_least(frame(trials).sample(fraction=1, shuffle=True, seed=1), "train_loss", threshold)
    assert found.columns == ["run", "step"]
    steps = dict(found.rows())
    for i, curve in enumerate(trials):
        reached = [s for s, v in zip(curve["step"], curve["train_loss"], strict=True) if v >= threshold]
        assert steps.pop(f"run{i}") == (min(reached) if reached else None)
    assert not steps


def test_what_is_not_a_number_reaches_no_threshold():
    curve = {"step": [0, 10, 20], **{name: [math.nan, 0.5, 1.0] for name in COLUMNS}}
    assert first_step_at_least(frame([curve]), "valid_accuracy", 0.9).rows() == [("run0", 20)]


TABLE = Table(
    name="some",
    header=["", "A & B <i>", "L_val"],
    rows=[("t_f(L_val)", [Cell("7,850 ± 350", best=True), Cell("−1 %")]), ("Δt(A)", [Cell("$3"), Cell("#4")])],
    caption="Loss L_train in 100 % & more",
)


def test_a_table_as_csv():
    assert list(csv.reader(io.StringIO(Table.to_csv.__wrapped__(TABLE)))) == [
        ["", "A & B <i>", "L_val"],
        ["t_f(L_val)", "7,850 ± 350", "−1 %"],
        ["Δt(A)", "$3", "#4"],
    ]


def test_a_table_as_markdown():
    assert TABLE.to_markdown().splitlines() == [
        "|  | A & B &lt;i> | L_val |",
        "| --- | ---: | ---: |",
        "| t_f(L_val) | **7,850 ± 350** | −1 % |",
        "| Δt(A) | $3 | #4 |",
        "",
        "Loss L_train in 100 % & more",
    ]


def test_columns_with_a_sentence_stand_on_the_left():
    sentence = "three men cook in a small kitchen"
    table = Table("t", ["", "text", "n"], [("a", [Cell(sentence), Cell("1")]), ("b", [Cell("-"), Cell("2")])], "c")
    assert table.to_markdown().splitlines()[1] == "| --- | --- | ---: |"


def test_a_table_as_latex():
    assert TABLE.to_latex().splitlines() == [
        r"% Needs \usepackage{booktabs}.",
        r"\begin{table}",
        r"\centering",
        r"\caption{Loss $L_{\mathrm{train}}$ in 100 \% \& more}",
        r"\begin{tabular}{lrr}",
        r"\toprule",
        r" & A \& B $<$i$>$ & $L_{\mathrm{val}}$ \\",
        r"\midrule",
        r"$t_{\mathrm{f}}$($L_{\mathrm{val}}$) & \textbf{7,850 $\pm$ 350} & $-$1 \% \\",
        r"$\Delta t$(A) & \$3 & \#4 \\",
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]


def test_a_table_as_html():
    assert TABLE.to_html().splitlines() == [
        "<table>",
        "<thead><tr><th></th><th>A &amp; B &lt;i&gt;</th><th><i>L</i><sub>val</sub></th></tr></thead>",
        "<tbody>",
        "<tr><th><i>t</i><sub>f</sub>(<i>L</i><sub>val</sub>)</th><td><b>7,850 ± 350</b></td><td>−1 %</td></tr>",
        "<tr><th>Δ<i>t</i>(<i>A</i>)</th><td>$3</td><td>#4</td></tr>",
        "</tbody>",
        "</table>",
    ]


def bare_underscores(latex: str) -> list[str]:
    """Underscores outside of mathematics, at which LaTeX stops."""
    return re.findall(r"\S*(?<!\\)_\S*", re.sub(r"(?<!\\)\$.*?(?<!\\)\$", "", latex))


def test_names_of_settings_are_escaped_in_latex():
    table = Table("t", ["", "weight_decay"], [("num_layers", [Cell("a_b")])], "by train_batch_size")
    assert bare_underscores(table.to_latex()) == []


@pytest.mark.parametrize(
    ("mean", "std", "is_step", "text"),
    [
        (7850, 350, True, "7,850 ± 350"),
        (12345678, 0, True, "12,345,678 ± 0"),
        (-650, 10, True, "−650 ± 10"),
        (0.0008, 0.0, False, "0.0008 ± 0.0000"),
        (1, 0, False, "1.0000 ± 0.0000"),
        (0.99794, 0.0021, False, "0.9979 ± 0.0021"),
        (0.5, 0.25, False, "0.50 ± 0.25"),
        (123.4, 56, False, "123.40 ± 56.00"),
        (3e-5, 0, False, "3.00e-05 ± 0.0e+00"),
        (1e-12, 0, False, "1.00e-12 ± 0.0e+00"),
        (82.5, 5.5, True, "82.5 ± 5.5"),
        (0.000132, 3e-8, False, "0.000132000 ± 0.000000030"),
        (7850, None, True, "7,850"),
        (-12, None, True, "−12"),
        (0.99794, None, False, "0.9979"),
        (0.000132, None, False, "0.000132"),
    ],
)
def test_numbers_are_shown_with_the_digits_that_mean_something(mean, std, is_step, text):
    assert show(mean, std, is_step) == text


def some_extrema(**values: dict[str, float]) -> pl.DataFrame:
    """Two runs of each label whose ten figures are 1 but for the given ones."""
    rows = []
    for label, own in values.items():
        usual = dict.fromkeys((q.column for q in QUANTITIES), 1.0) | {"last_step": 10_000.0}
        rows += [{"run": f"{label}{i}", **usual, **own} for i in (0, 1)]
    return pl.DataFrame(rows)


LABELS = {"a0": "LSTM", "a1": "LSTM", "b0": "GPT", "b1": "GPT"}


def test_the_ten_figures_mark_the_best_of_each_row():
    frame = some_extrema(
        a={"train_loss": 0.5, "valid_accuracy": 0.95, "t_valid_loss": 300.0}, b={"delay_accuracy": -5.0}
    )
    table = ten_figures(frame, LABELS)
    assert table.header == ["", "LSTM", "GPT"]
    assert [label for label, _ in table.rows] == [q.symbol for q in QUANTITIES]
    best = {label: [cell.best for cell in cells] for label, cells in table.rows}
    assert best.pop("L_train") == [True, False]
    assert best.pop("A_val") == [False, True]
    assert best.pop("t_f(L_val)") == [False, True]
    assert best.pop("Δt(A)") == [False, False]  # neither a small nor a large delay is best
    assert len(best) == 6
    assert not any(mark for marks in best.values() for mark in marks)  # both the same: none is the best
    assert dict(table.rows)["t_f(L_val)"][0].text == "300 ± 0"
    assert "LSTM: N = 2, GPT: N = 2" in table.caption


def test_of_many_settings_each_is_a_row_of_the_ten_figures():
    letters = "abcdefgh"
    frame = some_extrema(**{letter: {"valid_accuracy": 0.9 + i / 100} for i, letter in enumerate(letters)})
    table = ten_figures(frame, {run: run[0].upper() for run in frame["run"]})
    assert table.header[1:] == [q.symbol for q in QUANTITIES]
    assert [label.split()[0] for label, _ in table.rows] == [letter.upper() for letter in letters]
    best = [cells[table.header.index("A_val") - 1].best for _, cells in table.rows]
    assert best == [False] * 7 + [True]
    assert table.data.select("label", "N", "valid_accuracy").row(-1) == ("H", 2, pytest.approx(0.97))


def test_steps_of_runs_that_never_generalised_are_not_the_best():
    never = {"valid_accuracy": 0.1, "t_valid_accuracy": 0.1}
    frame = some_extrema(a=never, b={"t_valid_accuracy": 9000.0}, c={"t_valid_accuracy": 9500.0, "t_valid_loss": 700.0})
    labels = {run: run[0] for run in frame["run"]}
    marks = {label: [cell.best for cell in cells] for label, cells in ten_figures(frame, labels).rows}
    assert marks["t_f(A_val)"] == [False, True, False]
    assert marks["t_f(L_val)"] == [False, True, False]  # nor where they are as small as the best
    frame = some_extrema(a=never, b={"t_valid_accuracy": 9000.0})
    marks = {label: [cell.best for cell in cells] for label, cells in ten_figures(frame, LABELS).rows}
    assert marks["t_f(A_val)"] == [False, False]  # one that competes with nobody is not the best
    frame = frame.with_columns(valid_accuracy=pl.lit(0.1))
    marks = {label: [cell.best for cell in cells] for label, cells in ten_figures(frame, LABELS).rows}
    assert marks["t_f(A_val)"] == [False, False]
    assert marks["L_train"] == [False, False]


def test_the_best_are_marked_together_where_others_are_worse():
    frame = some_extrema(a={}, b={}, c={"train_loss": 2.0, "valid_accuracy": 0.1})
    labels = {run: run[0] for run in frame["run"]}
    marks = {label: [cell.best for cell in cells] for label, cells in ten_figures(frame, labels).rows}
    assert marks["L_train"] == marks["A_val"] == [True, True, False]
    assert marks["A_train"] == [False, False, False]
    assert marks["t_f(A_val)"] == [False, False, False]  # the third did not get there, and the others are equal


def test_what_was_best_at_the_end_is_marked_and_is_not_the_best_step():
    open_ = {"valid_loss": 0.1, "t_valid_loss": 900.0, "last_step": 900.0}
    frame = some_extrema(a=open_, b={"t_valid_loss": 500.0, "delay_loss": 7.0, "last_step": 900.0})
    rows = dict(ten_figures(frame, LABELS).rows)
    assert [(cell.text, cell.best) for cell in rows["t_f(L_val)"]] == [("900 ± 0†", False), ("500 ± 0", False)]
    assert [(cell.text, cell.best) for cell in rows["Δt(L)"]] == [("1 ± 0†", False), ("7 ± 0", False)]
    assert [cell.text for cell in rows["t_f(L_train)"]] == ["1 ± 0", "1 ± 0"]
    # an accuracy of 1 cannot become better; one below can, and one run of two is enough
    late = {"t_valid_accuracy": 500.0, "last_step": 500.0}
    marks = dict(ten_figures(some_extrema(a=late, b=late | {"valid_accuracy": 0.95}), LABELS).rows)["t_f(A_val)"]
    assert [cell.text for cell in marks] == ["500 ± 0", "500 ± 0†"]
    half = frame.with_columns(t_valid_loss=pl.Series([900.0, 700.0, 500.0, 500.0]))
    assert dict(ten_figures(half, LABELS).rows)["t_f(L_val)"][0].text == "800 ± 100†"


@some
@given(st.lists(st.sampled_from([2600.0, 4000.0]), min_size=4, max_size=4))
def test_the_best_are_only_of_runs_that_were_trained_for_as_many_steps(ends):
    frame = some_extrema(a={"train_loss": 0.5, "t_valid_loss": 300.0, "delay_accuracy": -5.0}, b={})
    table = ten_figures(frame.with_columns(last_step=pl.Series(ends)), LABELS)
    best = [cell.best for _, cells in table.rows for cell in cells]
    assert any(best) == ("The best of each row is in bold" in table.caption) == (len(set(ends)) == 1)


def test_one_run_has_no_deviation():
    frame = some_extrema(a={}, b={"valid_loss": 0.5}).filter(pl.col("run") != "a1")
    table = ten_figures(frame, LABELS)
    for _, (one, two) in table.rows:
        assert "±" not in one.text
        assert "±" in two.text
    assert "one run does not have" in table.caption
    assert "one run does not have" not in ten_figures(some_extrema(a={}, b={}), LABELS).caption


def test_runs_that_were_best_at_their_end_are_marked_in_their_table(tmp_path):
    spec = RunSpec(p=5, num_layers=1, embedding_size=16, n_steps=40, lr=1e-2, eval_first=2, eval_period=20)
    records = shoal.train([spec], tmp_path / "lab", workers=1)
    best = records.extrema()
    (_, cells), *_ = per_run_table(records, []).rows
    shown = dict(zip(per_run_table(records, []).header[1:], cells, strict=True))
    for symbol, name in (("t_f(A_train)", "train_accuracy"), ("t_f(A_val)", "valid_accuracy")):
        open_ = best[f"t_{name}"].item() == best["last_step"].item() == 40 and best[name].item() < 1
        assert shown[symbol].text == f"{best[f't_{name}'].item()}" + "†" * open_
    assert "†" in shown["t_f(A_train)"].text  # so that something is shown


def test_the_ten_figures_of_one_setting_have_no_best_and_a_population_deviation():
    frame = some_extrema(a={}).with_columns(valid_loss=pl.Series([0.2, 0.4]))
    table = ten_figures(frame, LABELS)
    assert table.header == ["", "LSTM"]
    assert not any(cell.best for _, cells in table.rows for cell in cells)
    assert dict(table.rows)["L_val"][0].text == "0.30 ± 0.10"


def test_the_ten_figures_can_be_set_in_latex():
    assert bare_underscores(ten_figures(some_extrema(a={}, b={}), LABELS).to_latex()) == []


def test_ticks_name_the_settings_as_they_are():
    decays = [0.25, 0.5, 0.75, 1.0]
    frame = pl.DataFrame(
        {"run": list("abcd"), "model": ["lstm"] * 4, "weight_decay": decays, "valid_loss": [4.0, 3.0, 2.0, 1.0]}
    )
    panel = next(panel for panel in BEST if panel.column == "valid_loss")
    chart = summary_panels(frame, Axis("weight_decay", "weight decay"), MODEL, "t", [panel])
    svg = vl_convert.vegalite_to_svg(chart.to_dict())
    assert [decay for decay in decays if f">{decay:g}<" not in svg] == []


def test_lines_of_a_budget_are_coloured_by_their_logarithm_and_a_loss_of_nothing_is_shown():
    runs = pl.DataFrame(
        [(b, c, loss) for b in (32, 64, 128, 256, 512, 1024, 2048, 4096) for c, loss in ((10.0, 0.5), (100.0, 0.01))],
        ["train_batch_size", "compute", "valid_loss"],
        orient="row",
    ).with_columns(valid_loss=pl.when(train_batch_size=64, compute=100.0).then(0.0).otherwise("valid_loss"))
    seen = []

    def best(kept, panel):
        seen.append((panel.column, kept["valid_loss"].min()))
        return kept.group_by("compute").agg(pl.col(panel.column).min()).sort("compute")

    (panel,) = (panel for panel in BEST if panel.column == "valid_loss")
    axes = Axis("compute", "C", log=10), Axis("train_batch_size", "B", log=2)
    chart = budget_panels(runs, *axes, "t", [panel], best).to_dict()
    assert seen == [("valid_loss", 0.01)]  # a logarithmic axis has no 0
    lines, points, edge = chart["concat"][0]["layer"]
    assert "fill" not in points["encoding"] and not points["mark"].get("filled")  # the bar would become discs
    colour = lines["encoding"]["color"]
    assert (colour["type"], colour["title"], colour["scale"]["domain"]) == ("quantitative", "B", [5.0, 12.0])
    drawn = chart["datasets"][edge["data"]["name"]]
    assert [row["valid_loss"] for row in drawn] == [0.5, 0.01]
    vl_convert.vegalite_to_svg(chart)


def test_a_panel_without_values_says_so_and_the_others_are_drawn():
    curves = pl.DataFrame(
        {"run": ["a", "a", "b"], "step": [0, 10, 0], "valid_loss": [1.0, 0.5, 1.0], "valid_accuracy": [0.1, None, 0.1]}
    ).with_columns(wd=pl.lit(1.0), model=pl.lit("gpt"))
    panels = [panel for panel in BEST if panel.column in ("valid_loss", "valid_accuracy")]
    decay = Axis("wd", "weight decay")
    for chart, told in (
        (curve_panels(curves, decay, "t", panels), 1),
        (curve_panels(curves.filter(step=0), decay, "t", panels), 2),
        (summary_panels(curves.with_columns(valid_loss=math.nan), decay, MODEL, "t", panels[:1]), 1),
    ):
        svg = vl_convert.vegalite_to_svg(chart.to_dict())
        assert svg.count(">no values of") == told


def test_a_sentence_in_a_table_may_take_several_lines():
    table = Table(
        "t",
        ["", "n", "why"],
        [
            ("a", [Cell("0.25 ± 0.01"), Cell("1 of 3 runs as early or earlier, 2 later")]),
            ("what happened " * 3, [Cell("1"), Cell("no")]),
        ],
        "",
    )
    assert '<tr><th class="words">a</th>' in table.to_html()
    assert '<tr><th class="words">what happened what' in table.to_html()
    assert "<td>0.25 ± 0.01</td>" in table.to_html()
    assert '<td class="words">1 of 3' in table.to_html()
    assert '<td>1</td><td class="words">no</td>' in table.to_html()
    assert '<th class="words"></th><th>n</th><th class="words">why</th>' in table.to_html()


@pytest.mark.parametrize("t_max", [-5, "x", float("nan"), True, [3]])
def test_a_last_step_that_is_none_is_refused(t_max):
    curves = pl.DataFrame({"run": ["a"], "step": [0], **{name: [0.5] for name in COLUMNS}})
    with pytest.raises(UserError, match=f"t_max must be a number of steps of at least 0, got {re.escape(repr(t_max))}"):
        extrema(curves, t_max)


def test_without_evaluations_there_are_all_columns_and_no_rows():
    curves = pl.DataFrame({"run": ["a"], "step": [0], **{name: [0.5] for name in COLUMNS}})
    assert extrema(curves.clear()).schema == extrema(curves).schema
