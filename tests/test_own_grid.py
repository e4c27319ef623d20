"""Own grids by their settings: the numbers of a study's own page, blocks, pairs, labs and forms side by side."""

import dataclasses
import itertools
import json
import re

import numpy as np
import polars as pl
import pytest
from helpers import TINY, tiny_grid
from polars.testing import assert_frame_equal
from shown import dressed_numbers, foreign_signs, in_words, unset_in_latex

import shoal
from shoal.analysis import Metric, compare
from shoal.analysis.blocks import going_with
from shoal.cli import main
from shoal.errors import UserError
from shoal.lab import Lab
from shoal.report.along import log_base
from shoal.report.by import check_axes, setting_axis
from shoal.report.panels import Axis, summary_panels
from shoal.report.shades import painted
from shoal.studies import Form, Results, own_pairs, regularization
from shoal.studies.crossing import crossing
from shoal.studies.own_axes import Thresholds, own_grid
from shoal.studies.own_grid import report_own_grid

LOW = (0.2, 0.5)  # accuracies that some of these short runs reach


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """LSTMs of the grid of the study of weight decay, few steps each."""
    path = tmp_path_factory.mktemp("own") / "lab"
    base = {**TINY, "model": "lstm", "lr": 0.02, "n_steps": 60, "eval_period": 3}
    shoal.train(shoal.grid(shoal.RunSpec(**base), weight_decay=[0.25, 0.5, 0.75, 1.0], seed=[0, 1, 2]), path, workers=1)
    return Lab(path)


@pytest.fixture(scope="module")
def crossed(tmp_path_factory):
    """Two optimizers at two learning rates on three seeds."""
    path = tmp_path_factory.mktemp("crossed") / "lab"
    base = {"model": "lstm", "n_steps": 20, "weight_decay": 0.5}
    shoal.train(tiny_grid(base, optimizer=["adamw", "lion"], lr=[1e-3, 1e-2], seed=[0, 1, 2]), path, workers=1)
    return Lab(path)


def page(results, *by, thresholds=None, stay=None, sources=None):
    grid = own_grid(results, by, thresholds, stay)
    return report_own_grid(grid, sources or {"lab": results}, "shoal report --by …")


def table(report, name):
    return next(table for section in report.sections for table in section.tables if table.name == name)


def files(path):
    return {found: found.stat().st_mtime_ns for found in path.rglob("*")}


# the numbers of a study's own page


def test_a_page_by_weight_decay_has_the_numbers_of_the_study(lab):
    results = Results(lab.records())
    own = page(results, "weight_decay", thresholds=LOW)
    study = regularization.report(results, Form(quick=True, thresholds=LOW))
    assert_frame_equal(table(own, "by-weight_decay").data, table(study, "by-weight-decay").data)
    # beside the trends an own grid tests any difference, which is corrected together with them; and no run generalised,
    # so that first steps of best values are no times
    trends, of_study = table(own, "trends").data, table(study, "trends").data
    same = [name for name in of_study.columns if name not in ("case", "p_corrected")]
    assert_frame_equal(trends.head(2).select(same), of_study.head(2).select(same))
    assert trends["difference_p"].null_count() == trends["p"].null_count() == 2
    assert not any("t_f(A_val)" in answer for answer in own.answers)
    times = [
        own_table.name
        for section in study.sections
        for own_table in section.tables
        if own_table.name.startswith("times-")
    ]
    assert len(times) == 2
    for name in times:
        assert_frame_equal(table(own, name).data, table(study, name).data)
    (told,) = [section.paragraphs for section in study.sections if section.title.startswith("Time")]
    tests = [re.search(r"Log-rank test.*", text) for text in told]
    assert any(tests)  # some runs got there
    for found in filter(None, tests):
        assert any(found[0] in answer for answer in own.answers)


def test_every_answer_says_of_how_many_runs_it_is(lab):
    own = page(Results(lab.records()), "weight_decay", thresholds=LOW)
    told = " ".join(own.answers)
    assert "N = 12 runs" in told and "Holm" in told and "Wilson" in told
    assert all(f"{value} (3)" in told for value in ("0.25", "0.5", "0.75", "1"))


@pytest.mark.parametrize("by", [["optimizer"], ["optimizer", "lr"], ["lr"], ["seed"]])
def test_figures_and_tables_of_every_kind_of_axis_can_be_shown(by, crossed):
    own = page(Results(crossed.records()), *by, thresholds=[0.2])
    figures = [figure for section in own.sections for figure in section.figures]
    tables = [found for section in own.sections for found in section.tables]
    assert len({figure.name for figure in figures}) == len(figures) > 1
    assert len({found.name for found in tables}) == len(tables)
    for figure in figures:
        assert in_words(figure)
        assert not foreign_signs(figure.spec)
    for found in tables:
        assert all(len(cells) == len(found.header) - 1 for _, cells in found.rows)
        assert unset_in_latex(found.to_latex()) == []
        assert dressed_numbers(found.to_csv()) == []


def test_means_are_over_runs_that_have_a_partner_and_the_others_are_counted(crossed):
    records = crossed.records()
    unlike = [run.id for run in records if run.spec.lr == 1e-2 and run.spec.optimizer == "lion"]
    own = page(Results(records.without(unlike)), "optimizer", thresholds=[0.2])
    assert table(own, "by-optimizer").data["N"].to_list() == [3, 3]  # and not 6 of adamw, at two learning rates
    assert any("differ in lr" in answer and "3 are left out" in answer for answer in own.answers)
    alone = [run.id for run in records if (run.spec.lr == 1e-2) != (run.spec.optimizer == "lion")]
    own = page(Results(records.without(alone)), "optimizer", thresholds=[0.2])  # lr goes with the optimizer
    assert table(own, "by-optimizer").data["N"].to_list() == [3, 3]


def test_labels_of_runs_are_no_settings_in_which_they_differ(crossed):
    records = crossed.records()
    before = page(Results(records), "optimizer", thresholds=[0.2]).answers
    crossed.label(records.ids[0], name="mine", note="a note", tag="first")
    try:
        assert page(Results(crossed.records()), "optimizer", thresholds=[0.2]).answers == before
    finally:
        crossed.label(records.ids[0], clear=True)


def test_where_nobody_generalised_that_is_said_first_and_first_steps_have_no_trend(crossed):
    own = page(Results(crossed.records().where(optimizer="lion")), "lr", thresholds=[1.0])
    assert "No run of 6" in own.answers[0]
    assert not [name for name in table(own, "trends").data["quantity"] if name.startswith("t_")]


def test_one_run_per_value_leaves_nothing_to_test(crossed):
    records = crossed.records().where(seed=0, lr=1e-3)
    own = page(Results(records), "optimizer", thresholds=[0.2])
    assert "N = 2 runs" in " ".join(own.answers)
    assert not re.search(r"p [=<] 0\.0", " ".join(own.answers))


# axes


@pytest.mark.parametrize(
    ("values", "base"),
    [([16, 32, 64], 2), ([1e-4, 3e-4, 1e-3], 10), ([1, 2, 3], None), ([0.1, 0.5, 0.9], None), ([0.0, 1.0], None)],
)
def test_numbers_stand_where_they_are_evenly_spaced(values, base):
    assert log_base(values) == base


def test_what_has_no_order_is_a_name():
    runs = pl.DataFrame({"bias": [True, False], "patience": [5, None], "seed": [1, 0], "lr": [0.1, 0.2]})
    for name, names in (("bias", ("false", "true")), ("patience", ("5", "none")), ("seed", ("0", "1"))):
        axis, column = setting_axis(runs, [name])
        assert tuple(text for _, text in axis.names) == names
        assert set(runs.select(column)[name]) == set(names)
    axis, column = setting_axis(runs, ["lr"])
    assert not axis.names and runs.select(column).equals(runs.select("lr"))


def test_few_numbers_and_settings_together_are_names():
    runs = pl.DataFrame({"run": ["a" * 16, "b" * 16, "c" * 16], "lr": [0.2, 0.1, 0.2], "bias": [True, None, True]})
    axis, column = setting_axis(runs, ["lr"], in_legend=True)
    assert [text for _, text in axis.names] == ["lr 0.1", "lr 0.2"]
    assert runs.select(column)[axis.column].to_list() == ["lr 0.2", "lr 0.1", "lr 0.2"]
    axis, column = setting_axis(runs, ["lr", "bias"])
    assert [text for _, text in axis.names] == ["lr 0.2, bias true", "lr 0.1, bias none"]
    assert runs.select(column)[axis.column].to_list() == ["lr 0.2, bias true", "lr 0.1, bias none", "lr 0.2, bias true"]
    axis, column = setting_axis(runs, ["run"])
    joined = runs.select("run", column).join(runs, on="run")  # the column of ids is left for joins
    assert joined[axis.column].to_list() == [f"run {letter * 8}" for letter in "abc"]


@pytest.mark.parametrize(
    ("asked", "named"),
    [(["weight_dekay"], "weight_decay"), (["p"], "weight_decay"), (["weight_decay", "weight-decay"], "twice")],
)
def test_an_axis_that_is_none_is_refused_with_what_could_be_meant(asked, named):
    runs = pl.DataFrame({"run": ["a", "b"], "seed": [0, 1], "weight_decay": [0.5, 1.0], "p": [5, 5]})
    with pytest.raises(UserError, match=named):
        check_axes(runs, asked)


def test_names_along_an_axis_are_not_joined_and_keep_apart(crossed):
    extrema = Results(crossed.records()).extrema
    names = Axis("optimizer", "optimizer", names=(("adamw", "adamw"), ("lion", "lion")))
    spec = summary_panels(extrema, names, Axis("lr", "lr", 10), "by optimizer").to_dict()
    marks = [layer["mark"]["type"] for layer in spec["concat"][0]["layer"]]
    assert "line" not in marks and "tick" in marks
    places = {row["_place"] for rows in spec["datasets"].values() for row in rows if "_place" in row}
    assert len(places) == 4  # two optimizers, two learning rates beside each other
    assert {round(place) for place in places} == {0, 1}


def test_many_names_have_colours_of_their_own():
    names = tuple((f"n{i}", f"n{i}") for i in range(12))
    frame = painted(pl.DataFrame({"x": [name for name, _ in names]}), Axis("x", "x", names=names))
    assert frame["fill"].n_unique() == 12


@pytest.mark.parametrize("wrong", [[1.5], [0.0], [float("nan")], [0.5, 0.5]])
def test_thresholds_are_values_of_what_is_measured(wrong, lab):
    with pytest.raises(UserError, match="threshold"):
        Thresholds.of(lab.records().measures(), wrong, None)
    with pytest.raises(UserError, match="stay"):
        Thresholds.of(lab.records().measures(), None, 0)


# blocks and pairs


def test_settings_of_parts_from_outside_are_held_too():
    frame = pl.DataFrame({"seed": [0, 0, 0, 0], "lr": [1, 1, 2, 2], "theirs": [1, 2, 1, 2]})
    assert crossing(frame, "lr") == (("seed",), ())
    assert crossing(frame, "lr", more=frame.columns) == (("seed",), ("theirs",))
    assert crossing(frame.rename({"theirs": "lab"}), "lr") == (("seed",), ("lab",))


def test_what_goes_with_an_axis_is_said(tmp_path):
    specs = [spec for lr, n in ((1e-3, 8), (1e-2, 12)) for spec in tiny_grid({"lr": lr, "n_steps": n}, seed=[0, 1])]
    own = page(Results(shoal.train(specs, tmp_path / "lab", workers=1)), "lr")
    assert "n_steps" in " ".join(own.answers)
    frame = pl.DataFrame({"a": [1, 1, 2], "b": [3, 3, 4], "c": [1, 2, 1]})
    assert going_with(frame, "a", frame.columns) == ("b",)


def test_pairs_of_one_seed_count_once():
    rng = np.random.default_rng(0)
    rows = [
        {"setting": s, "lr": lr, "seed": seed, "loss": float(rng.normal()), "pair": f"{seed} {lr}"}
        for s, lr, seed in itertools.product("ab", (1, 2), range(4))
    ]
    frame = pl.DataFrame(rows)
    (found,) = compare(frame, [Metric("loss", False)], "setting", "a", "pair", unit="seed").to_dicts()
    loss = {(row["setting"], row["lr"], row["seed"]): row["loss"] for row in rows}
    means = np.array([np.mean([loss["b", lr, seed] - loss["a", lr, seed] for lr in (1, 2)]) for seed in range(4)])
    assert (found["n"], found["mean_difference"]) == (4, pytest.approx(means.mean()))
    flips = [abs(np.mean(means * signs)) for signs in itertools.product((1, -1), repeat=4)]
    assert found["p"] == pytest.approx(np.mean(np.array(flips) >= abs(means.mean()) - 1e-12))
    assert found["smallest_p"] == pytest.approx(1 / 8)
    (alone,) = compare(frame, [Metric("loss", False)], "setting", "a", "pair").to_dicts()
    assert alone["n"] == 8
    with pytest.raises(UserError, match="several"):
        compare(
            frame.with_columns(
                pair=pl.col("lr").cast(pl.String) + pl.col("setting").rank("dense").cast(pl.String)
            ).with_columns(pair=pl.lit("x") + pl.col("seed").cast(pl.String)),
            [Metric("loss", False)],
            "setting",
            "a",
            "pair",
            unit="lr",
        )


def test_optimizers_are_paired_on_seeds_over_learning_rates(crossed):
    results = Results(crossed.records())
    own = page(results, "optimizer", thresholds=[0.99])
    rows = {
        row["metric"].split(":")[-1]: row
        for row in next(
            section.tables[0].data for section in own.sections if section.title.startswith("Beside")
        ).to_dicts()
    }
    extrema = results.extrema.with_columns(pl.col("valid_loss").log10())
    mean = {
        name: extrema.filter(optimizer=name).group_by("seed").agg(pl.col("valid_loss").mean()).sort("seed")
        for name in ("adamw", "lion")
    }
    differences = (mean["lion"]["valid_loss"] - mean["adamw"]["valid_loss"]).to_list()
    shown = next(section.tables[0] for section in own.sections if section.title.startswith("Beside"))
    assert rows["log₁₀ L_val"]["n"] == 3
    assert rows["log₁₀ L_val"]["mean_difference"] == pytest.approx(np.mean(differences))
    assert not any("time" in label for label, _ in shown.rows)  # nobody got there: all pairs would tie


# labs and forms


def test_a_run_that_is_in_two_forms_counts_once(lab):
    results = Results(lab.records())
    few = Results(lab.records().where(seed=[0, 1]))
    sides = {"all": results, "few": few}
    both = Results.joined(sides, "form")
    assert len(both.runs) == 20 and len(both.once().runs) == 12
    own, alone = page(both, "weight_decay", "form", sources=sides), page(results, "weight_decay")
    assert_frame_equal(table(own, "trends").data.drop("case"), table(alone, "trends").data.drop("case"))
    assert "8 runs" in own.answers[0] and "of 8 every" in own.answers[0]
    compared = next(
        section.tables[0].data
        for section in own.sections
        if "form" in section.title and section.tables and "Beside" in section.title
    )
    assert compared["mean_difference"].to_list() == [0.0] * len(compared)


@pytest.mark.slow
def test_two_labs_stand_side_by_side(lab, tmp_path, capsys):
    base = {**TINY, "model": "lstm", "lr": 0.02, "n_steps": 30, "eval_period": 3}
    shoal.train(
        shoal.grid(shoal.RunSpec(**base), weight_decay=[0.25, 1.0], seed=[0, 1, 2]), tmp_path / "other", workers=1
    )
    assert main(["report", "--lab", str(lab.path), "--other-lab", str(tmp_path / "other"), "--name", "sides"]) == 0
    told = (lab.path / "reports/sides/report.md").read_text()
    assert "lab (12) and other (6)" in told and "With it n_steps changes" in told
    assert len(list((lab.path / "reports/sides/tables").glob("runs-*.csv"))) == 2
    assert not (tmp_path / "other" / "reports").exists()


@pytest.mark.slow
def test_forms_of_a_study_stand_beside_each_other_with_their_answers(lab, capsys):
    for form, seeds in ((Form(quick=True), [0, 1, 2]), (Form(quick=True, seeds=2), [0, 1])):
        lab.note_study("regularization", form.name, {**form.to_json(), "runs": lab.records().where(seed=seeds).ids})
    names = ["regularization-quick", "regularization-quick-seeds-2"]
    assert main(["report", *names, "--lab", str(lab.path)]) == 0
    told = (lab.path / f"reports/runs-by-form-{'-'.join(names)}/report.md").read_text()
    assert all(f"{name}: With the weight decay" in told for name in names)
    assert main(["report", names[0], "--by", "weight_decay", "--lab", str(lab.path)]) == 0
    assert (lab.path / f"reports/runs-by-weight_decay-{names[0]}/index.html").exists()


@pytest.mark.parametrize(
    "words",
    [
        ["--by", "weight_dekay"],
        ["--by", "p"],
        ["--by", "weight_decay", "weight_decay"],
        ["--by"],
        ["--by", "weight_decay", "--threshold", "2"],
        ["--by", "weight_decay", "--stay", "0"],
        ["--threshold", "0.5"],
        ["--by", "weight_decay", "--other-lab", "nowhere"],
        ["--by", "weight_decay", "--name", "sanity-x"],
        ["zzzz", "--by", "weight_decay"],
        ["sanity", "zzzz", "--by", "weight_decay"],
        ["--by", "weight_decay", "--seed", "7"],
    ],
)
def test_what_cannot_be_asked_is_one_line_and_writes_nothing(words, lab, capsys):
    before = files(lab.path)
    assert main(["report", *words, "--lab", str(lab.path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert files(lab.path) == before


# other tasks


def test_a_text_has_pairs_and_trends_and_times_where_they_are_asked_for(tmp_path):
    (tmp_path / "text.txt").write_text("a small text that is read again and again. " * 60)
    base = {"task": "text", "text": str(tmp_path / "text.txt"), "model": "gpt", "num_layers": 1, "num_heads": 2}
    base |= {"embedding_size": 8, "context_length": 8, "train_batch_size": 4, "n_steps": 20, "eval_first": 2}
    base |= {"eval_period": 5, "lr": 0.01}
    specs = shoal.grid(shoal.RunSpec(**base), norm=["layernorm", "rmsnorm"], seed=[0, 1])
    results = Results(shoal.train(specs, tmp_path / "lab", workers=1))
    own = page(results, "norm")
    assert not any(section.title.startswith("Time") for section in own.sections)
    reached = float(results.extrema["valid_loss"].max()) + 1e-3
    times = page(results, "norm", thresholds=[reached])
    (section,) = [section for section in times.sections if section.title.startswith("Time")]
    assert section.tables[0].data["generalised"].to_list() == [2, 2]
    low = (
        results.curves.filter(pl.col("valid_loss") <= np.float32(reached))
        .group_by("run", "norm")
        .agg(pl.col("step").min())
    )
    first = {norm: steps["step"].median() for (norm,), steps in low.group_by("norm")}
    assert dict(section.tables[0].data.select("norm", "median").iter_rows()) == first
    assert min(first.values()) > 0
    assert not any("generalis" in figure.caption for figure in section.figures)
    assert dataclasses.asdict(own_grid(results, ["norm"], None, None).waited)["thresholds"] == ()


# pairs


def test_each_of_a_few_values_is_compared_with_the_first_and_all_are_corrected_together(lab):
    own = page(Results(lab.records()), "weight_decay", thresholds=LOW)
    pairs = table(own, "pairs-weight_decay")
    rows = Results(lab.records()).evaluated.filter(weight_decay=0.75).height
    variants = [f"weight decay {value}" for value in ("0.5", "0.75", "1")]
    assert pairs.data["variant"].unique(maintain_order=True).to_list() == variants
    assert pairs.data.filter(pl.col("variant") == variants[1])["n"].unique().to_list() == [rows]
    p = pairs.data["p"].drop_nulls()
    assert len(p) == 3 * pairs.data["metric"].n_unique()
    assert f"{len(p)} of pairs" in own.answers[-1]
    assert pairs.data["p_holm"].min() >= min(1, len(p) * p.min()) - 1e-9
    assert all(variant in " ".join(own.answers) for variant in variants)
    (figure,) = [one for section in own.sections for one in section.figures if one.name == "pairs-weight_decay"]
    assert all(variant in json.dumps(figure.spec) for variant in variants)


def test_of_many_values_the_ends_are_compared_and_that_is_said(lab, monkeypatch):
    monkeypatch.setattr(own_pairs, "MOST_VALUES", 3)
    own = page(Results(lab.records()), "weight_decay", thresholds=LOW)
    assert table(own, "pairs-weight_decay").data["variant"].unique().to_list() == ["weight decay 1"]
    (section,) = [one for one in own.sections if one.title.startswith("Beside")]
    for told in (" ".join(own.answers), section.paragraphs[0]):
        assert "Of 4 values of weight decay" in told and "each of the 2 between" in told


def test_a_sentence_counts_the_pairs_in_which_a_run_did_not_get_there(lab):
    own = page(Results(lab.records()), "weight_decay", thresholds=LOW)
    (section,) = [one for one in own.sections if one.title.startswith("Beside")]
    data = table(own, "pairs-weight_decay").data.filter(pl.col("n_censored") > 0)
    assert len(data)
    for row in data.iter_rows(named=True):
        assert any(
            f"{row['n_censored']} of {row['n']} pairs with {row['variant']}" in text for text in section.paragraphs
        )
