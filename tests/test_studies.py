"""Every shipped study and reproduction builds and trains, and shows what there is of its runs."""

import re
from dataclasses import replace

import polars as pl
import pytest
import torch
from helpers import tiny
from shown import HAS_PDFLATEX, dressed_numbers, faults_of_pdflatex, foreign_signs, in_words, unset_in_latex

import shoal
from shoal.analysis import Metric, compare
from shoal.errors import LabError
from shoal.lab import Lab
from shoal.report import write_report
from shoal.report.figures import long_curves
from shoal.report.reading import sentences
from shoal.report.runs import report_runs
from shoal.spec import RunSpec
from shoal.studies import NAMES, Form, Results, attention, get_study, improve, reproductions, sanity
from shoal.studies.compute_scaling import _distinct
from shoal.tasks import get_arithmetic_dataset
from shoal.tasks.build import build_task
from shoal.training.plan import Cohort, plan
from shoal.training.stack import Stack
from shoal.training.step import train_step

# those that need files, sorting and hmm have tests of their own
EVERY = {
    name: study
    for get, names in ((get_study, NAMES), (reproductions.get_reproduction, reproductions.NAMES))
    for name in names
    for study in [get(name)]
    if not getattr(study, "NEEDS", ()) and name not in ("sorting", "hmm")
}
# runs of all studies in seconds: what changes their shapes is what the studies are about, so it stays
SMALL = {
    "p": ["5"],
    "n_steps": ["6"],
    "eval_first": ["2"],
    "eval_period": ["2"],
    "train_batch_size": ["8"],
    "warmup_steps": ["2"],
}
AXES = {"model-scaling": "embedding_size", "compute-scaling": "train_batch_size"}


@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize("name", EVERY)
def test_every_study_builds_and_trains_one_step(name, quick):
    specs = Form(quick).specs(EVERY[name])
    assert len(specs) == len(set(specs))
    fewer = {"p": 5, "train_batch_size": 8}  # the same models and settings on fewer equations
    for cohort in plan(RunSpec(**{**spec.given(), **fewer}) for spec in specs):
        stack = Stack(Cohort(cohort.members[:1]), torch.device("cpu"))
        before = stack.theta.detach().clone()
        for _ in range(1 + cohort.shared.warmup_from_zero):  # whose first step stays where it is
            train_step(stack)
        assert bool((stack.theta.detach() != before).any(dim=1).all())


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """Tiny runs of every study, in one lab."""
    path = tmp_path_factory.mktemp("studies") / "lab"
    specs = dict.fromkeys(spec for name, study in EVERY.items() for spec in form_of(name).specs(study))
    return shoal.train(list(specs), path, workers=1)


def form_of(name):
    settings = {key: value for key, value in SMALL.items() if AXES.get(name) != key}
    if AXES.get(name) != "embedding_size":
        settings["embedding_size"] = ["8"]
    if name == "mixed-orders":
        settings["p"] = ["3"]
    return Form(quick=True, seeds=2, settings=settings)


def results_of(records, specs):
    return Results(Lab(records.cohorts()[0].path.parent.parent).records(spec.id for spec in specs))


@pytest.mark.parametrize("name", EVERY)
def test_every_report_shows_figures_tables_and_answers(name, lab):
    form = form_of(name)
    report = EVERY[name].report(results_of(lab, form.specs(EVERY[name])), form)
    figures = [figure for section in report.sections for figure in section.figures]
    for figure in figures:
        assert figure.spec["datasets"]
        assert in_words(figure)
        assert not foreign_signs(figure.spec)
    assert report.answers
    assert figures or name == "attention"  # nothing has generalised
    assert len({figure.name for figure in figures}) == len(figures)
    tables = [table for section in report.sections for table in section.tables]
    assert len({table.name for table in tables}) == len(tables)
    for table in tables:
        assert all(len(cells) == len(table.header) - 1 for _, cells in table.rows)
        assert unset_in_latex(table.to_latex()) == []
        assert dressed_numbers(table.to_csv()) == []
    assert any(form.flags() in paragraph for paragraph in report.sections[-1].paragraphs)
    assert all(section.about for section in report.sections)  # what one sees there
    firsts = [sentences(shown.caption)[0] for shown in (*figures, *tables)]
    assert sorted(firsts) == sorted(set(firsts))  # no two captions say that they are of the same


@pytest.mark.slow
@pytest.mark.skipif(not HAS_PDFLATEX, reason="there is no pdflatex")
@pytest.mark.parametrize("name", EVERY)
def test_every_table_of_every_report_compiles_and_stays_on_the_page(name, lab, tmp_path, monkeypatch):
    monkeypatch.setattr(attention, "GENERALISED", 0.0)
    form = form_of(name)
    report = EVERY[name].report(results_of(lab, form.specs(EVERY[name])), form)
    tables = [table.to_latex() for section in report.sections for table in section.tables]
    assert faults_of_pdflatex(tables, tmp_path) == []


def test_attention_shows_where_heads_look_and_what_is_lost_without(lab, monkeypatch):
    monkeypatch.setattr(attention, "GENERALISED", 0.0)  # every tiny model is one to look into
    form = form_of("attention")
    report = attention.report(results_of(lab, form.specs(attention)), form)
    assert [len(section.figures) for section in report.sections] == [2, 0, 0, 0]
    tables = {table.name: table for section in report.sections for table in section.tables}
    assert tables["by-head"].header == ["", "BOS", "a", "+", "b", "=", "focus"]
    assert tables["one-position"].header == ["", "BOS", "a", "+", "b", "=", "none"]
    assert len(tables["one-position"].rows) == 2 * 4  # runs, heads of the one layer
    for _, cells in tables["one-position"].rows:
        assert sum(float(cell.text) for cell in cells) == pytest.approx(1, abs=0.004)
    assert tables["knockout"].header == ["without", "result, all layers", "right-hand side, all layers"]
    assert [name for name, _ in tables["knockout"].rows] == ["nothing", "BOS", "a", "+", "b", "="]
    assert "right results over all 25 equations where no later position" in tables["knockout"].caption
    assert sum("attention knockout" in answer for answer in report.answers) == 1
    assert "over 2 runs whose model has" in tables["by-position"].caption
    assert report.answers[-1].startswith("So '=' ")


def test_an_order_of_which_nothing_validates_has_no_ten_figures(tmp_path):
    form = form_of("mixed-orders")
    form = replace(form, seeds=1, settings={**form.settings, "r_train": ["0.95"]})
    specs = form.specs(EVERY["mixed-orders"])
    shoal.train(specs, tmp_path / "lab", workers=1)
    report = EVERY["mixed-orders"].report(Results(Lab(tmp_path / "lab").records(spec.id for spec in specs)), form)
    (section,) = (section for section in report.sections if section.title == "Ten numbers of each order")
    assert [table.name for table in section.tables] == ["ten-all", "ten-ternary"]  # all 9 binary equations train
    assert section.tables[1].caption.startswith("Ternary equations. Mean ± ")


def test_attention_is_asked_of_the_longest_equations_and_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(attention, "GENERALISED", 0.0)
    form = replace(form_of("attention"), seeds=1)
    form = replace(form, settings={**form.settings, "p": ["3"], "operation_orders": ["2,3"], "num_layers": ["2"]})
    specs = form.specs(attention)
    shoal.train(specs, tmp_path / "lab", workers=1)
    report = attention.report(Results(Lab(tmp_path / "lab").records(spec.id for spec in specs)), form)
    assert report.sections[1].title == "Attention weights over all 27 equations with 3 operands"
    (knockout,) = report.sections[2].tables
    assert "of the one run whose model has" in report.sections[1].tables[1].caption
    assert knockout.header[1:4] == ["result, all layers", "result, layer 1", "result, layer 2"]
    assert [name for name, _ in knockout.rows] == ["nothing", "BOS", "a", "+₁", "b", "+₂", "c", "="]


def test_attention_is_that_of_the_model_that_was_kept(lab):
    form = form_of("attention")
    results = results_of(lab, form.specs(attention))
    last = max(results.curves["step"])
    high = pl.when(pl.col("step") == last)
    results.curves = results.curves.with_columns(valid_accuracy=high.then(1.0).otherwise(0.0))
    assert attention._generalised(results) == results.runs["run"].to_list()
    results.curves = results.curves.with_columns(valid_accuracy=high.then(0.0).otherwise(1.0))
    assert attention._generalised(results) == []
    results.curves = results.curves.filter(pl.col("step") < last)  # the kept model is later than what was evaluated
    assert attention._generalised(results) == []


def test_times_that_no_run_has_are_told_and_not_drawn(lab):
    form = replace(form_of("sanity"), thresholds=(0.5, 1.0))
    results = results_of(lab, form.specs(sanity))
    results.curves = results.curves.with_columns(valid_accuracy=pl.lit(0.5))
    report = sanity.report(results, form)
    times = next(section for section in report.sections if section.title == "Time to generalise")
    assert len(times.tables) == len(times.paragraphs) == 2
    assert [figure.name for figure in times.figures] == ["times-05"]
    assert times.paragraphs[0].startswith("Both models, A_val ≥ 0.5: ")
    assert times.paragraphs[1] == ("Both models, A_val ≥ 1: none of 4 runs reached it, so there is no figure of times.")
    form = replace(form_of("seed-variance"), thresholds=(1.0,))
    report = EVERY["seed-variance"].report(results_of(lab, form.specs(EVERY["seed-variance"])), form)
    assert "LSTM, A_val ≥ 1: none of 8 runs reached it" in report.sections[0].paragraphs[0]
    assert not any(figure.name.startswith("times") for figure in report.sections[0].figures)


def test_settings_in_tables_are_as_they_were_given(tmp_path):
    specs = [RunSpec(p=5, num_layers=1, embedding_size=8, n_steps=2, lr=lr) for lr in (0.003 * 0.2, 1e-3)]
    records = shoal.train(specs, tmp_path / "lab", workers=1)
    assert str(specs[0].lr).startswith("0.000600000")
    report = report_runs(records, "")
    (table,) = [table for table in report.sections[-1].tables if table.name == "runs"]
    assert [cells[table.header.index("lr") - 1].text for _, cells in table.rows] == ["0.0006", "0.001"]
    assert report.sections[1].tables[0].header == ["", "LSTM, lr 0.0006", "LSTM, lr 0.001"]
    assert report.lead == "2 runs in 2 settings."
    assert "Trained in 1 cohort, 1 session, " in report.sections[-1].paragraphs[3]


def test_a_budget_in_flop_counts_the_equations_that_a_step_sees(lab):
    form = form_of("compute-scaling")
    report = EVERY["compute-scaling"].report(results_of(lab, form.specs(EVERY["compute-scaling"])), form)
    told = " ".join(paragraph for section in report.sections for paragraph in section.paragraphs)
    (n,) = {len(build_task(spec).scored["train"]) for spec in form.specs(EVERY["compute-scaling"])}
    assert n == 18  # of 25 at r_train = 0.7
    assert "(18 at B = 32, 18 at B = 64, 18 at B = 128, 18 at B = 256): FLOP counts these, C counts B." in told


def test_batch_sizes_that_hold_every_equation_are_one_run_by_several_names(lab):
    form = form_of("compute-scaling")
    results = results_of(lab, form.specs(EVERY["compute-scaling"]))
    found = [results.of(train_batch_size=size, seed=0, model="gpt").extrema["valid_loss"].item() for size in (32, 256)]
    assert found[0] == pytest.approx(found[1], rel=1e-4)
    report = EVERY["compute-scaling"].report(results, form)
    assert report.answers[0] == (
        "B = 32, 64, 128 and 256 hold all 18 training equations: every step sees the whole training set, and these "
        "runs differ in name alone. Trends and power laws leave out B > 32; figures and tables show them all, at a C "
        "that counts B."
    )
    assert "LSTM with B at α = 1: L_val cannot be tested" in report.answers[3]
    assert not any("at B = 256" in answer for answer in report.answers)
    partly = pl.DataFrame({"train_batch_size": [8, 16, 32, 64]})
    kept, (told,) = _distinct(partly, 18)
    assert kept["train_batch_size"].to_list() == [8, 16, 32]
    assert told.startswith("B = 32 and 64 hold all 18 training equations")
    assert _distinct(partly, 34)[1] == []


FEW = ("sanity", "compute-scaling", "improve", "nanda-2023")  # of each kind one; the rest with the slow proofs
HALVED = [pytest.param(n, marks=() if n in FEW else pytest.mark.slow) for n in EVERY if n != "attention"]


@pytest.mark.parametrize("name", HALVED)
def test_half_a_study_is_shown_with_what_is_missing(name, lab, tmp_path):
    form = form_of(name)
    specs = form.specs(EVERY[name])
    absent = RunSpec(p=7, model=specs[0].model)
    folder = Lab(tmp_path / "lab").create()
    records = shoal.train(specs[: max(1, len(specs) // 2)], folder, workers=1)
    (cohort,) = plan([absent])
    folder.cohort(cohort.id).create(list(cohort.members), threads=1)
    report = EVERY[name].report(Results(folder.records([*records.ids, absent.id])), form)
    assert any(answer.startswith("Missing: 1 of ") for answer in report.answers)
    for section in report.sections:
        for figure in section.figures:
            figure.chart.to_dict()


def test_sanity_asks_for_the_practicals_defaults():
    specs = Form().specs(sanity)
    assert [(spec.model, spec.seed) for spec in specs] == [("lstm", 0), ("lstm", 42), ("gpt", 0), ("gpt", 42)]
    spec = specs[-1]
    assert (spec.p, spec.r_train, spec.num_layers, spec.embedding_size, spec.num_heads) == (31, 0.5, 2, 128, 4)
    assert (spec.train_batch_size, spec.n_steps, spec.lr, spec.weight_decay) == (512, 10_001, 1e-3, 1.0)
    assert len({spec.seed for spec in Form(quick=True).specs(sanity)}) >= 4


def values(name, *settings):
    found = {tuple(getattr(spec, setting) for setting in settings) for spec in Form().specs(EVERY[name])}
    return sorted(found)


def test_the_full_forms_ask_for_the_practicals_grids():
    assert [r for (r,) in values("data-scaling", "r_train")] == pytest.approx([k / 10 for k in range(1, 10)])
    assert values("mixed-orders", "p", "operation_orders", "split_per_order", "r_train") == [(11, (2, 3), True, 0.5)]
    grid = [(depth, width) for depth in (1, 2, 3) for width in (64, 128, 256)]
    assert values("model-scaling", "num_layers", "embedding_size") == grid
    assert {s.hidden_size == s.embedding_size for s in Form().specs(EVERY["model-scaling"]) if s.model == "lstm"} == {
        True
    }
    assert values("compute-scaling", "train_batch_size", "n_steps") == [(2**k, 20_001) for k in range(5, 10)]
    assert values("regularization", "weight_decay", "n_steps", "model") == [
        (k / 4, 40_001, "lstm") for k in range(1, 5)
    ]
    for name in ("data-scaling", "mixed-orders", "model-scaling", "compute-scaling", "regularization", "attention"):
        assert [seed for (seed,) in values(name, "seed")] == [0, 42]


@pytest.mark.parametrize("quick", [False, True])
def test_improve_has_pairs_enough_for_its_own_test(quick):
    pairs = len({spec.seed for spec in Form(quick).specs(EVERY["improve"])})
    comparisons = (len(improve.VARIANTS) - 1) * len(improve.METRICS)
    frame = pl.DataFrame(
        [(s, v, s + (v == "new") * 1.0) for s in range(pairs) for v in ("old", "new")],
        ["seed", "variant", "y"],
        orient="row",
    )
    found = compare(frame, [Metric("y", larger_is_better=True)], "variant", "old")
    assert found["smallest_p"].item() * comparisons < 0.05


@pytest.mark.parametrize("equation_format", ["full", "operands"])
def test_the_share_that_symmetry_answers_is_counted_on_the_equations_themselves(equation_format):
    spec = shoal.RunSpec(p=7, operator="*", r_train=0.6, seed=3, equation_format=equation_format)
    (train, valid), tokenizer, _, _ = get_arithmetic_dataset(
        7, 7, "*", 0.6, seed=spec.split_seed, equation_format=equation_format
    )

    def operands(split):
        numbers = ([int(word) for word in tokenizer.decode(row[0]).split() if word.isdecimal()] for row in split)
        return [tuple(several[:2]) for several in numbers]

    trained, others = set(operands(train)), operands(valid)
    assert len(trained) + len(others) == 49
    assert sanity.mirrored_share(spec) == sum((b, a) in trained for a, b in others) / len(others)


def test_symmetry_is_spoken_of_only_where_operands_can_be_exchanged(tmp_path):
    settings = {"p": 5, "n_steps": 3, "embedding_size": 8, "num_layers": 1}
    for operator, paragraphs in (("+", 1), ("-", 0)):
        records = shoal.train([shoal.RunSpec(operator=operator, **settings)], tmp_path / "lab", workers=1)
        assert len(sanity.plateau(Results(records), Form(quick=True))) == paragraphs


def test_the_report_of_sanity_has_its_four_figures_and_ten_rows(lab, tmp_path):
    form = form_of("sanity")
    report = sanity.report(results_of(lab, form.specs(sanity)), form)
    page = write_report(report, tmp_path / "report")
    assert [figure.name for figure in report.sections[0].figures] == [
        "lstm-loss",
        "lstm-accuracy",
        "gpt-loss",
        "gpt-accuracy",
    ]
    (table,) = report.sections[1].tables
    assert len(table.rows) == 10
    assert table.header == ["", "LSTM", "GPT"]
    assert "N = 2" in table.caption
    assert "t_f is a time to memorise or to generalise only where the run did (A_train or A_val ≥ 0.9)" in table.caption
    assert "Δt(L) = t_f(L_val) − t_f(L_train), and Δt(A) likewise, the delay between memorising and" in table.caption
    for name in ("lstm-loss.pdf", "gpt-accuracy.svg", "lstm-accuracy.png"):
        assert (page.parent / "figures" / name).stat().st_size > 1000
    assert "ten-figures.tex" in page.read_text()
    shown = page.read_text().partition('<script type="module">')[0]
    assert not re.search(r"\b[A-Za-z]?_(train|val|f)\b", shown)
    assert "<th>Δ<i>t</i>(<i>L</i>)</th>" in shown
    assert not re.search("Δt", shown)
    text = (page.parent / "report.md").read_text()
    assert "](figures/lstm-loss.png)" in text
    assert "|  | LSTM | GPT |\n| --- | ---: | ---: |\n| L_train |" in text
    assert all(f"- {answer}" in text for answer in report.answers)


def test_reports_show_what_can_be_shown_of_diverged_and_perfect_runs(tmp_path):
    small = {"p": 5, "num_layers": 1, "embedding_size": 8, "n_steps": 6, "optimizer": "sgd", "clip": float("inf")}
    specs = [RunSpec(seed=0, **small), RunSpec(seed=0, lr=1e38, **small)]
    records = shoal.train(specs, tmp_path / "lab", workers=1)
    assert records.runs()["state"].to_list() == ["done", "diverged"]
    text = write_report(report_runs(records, "shoal report"), tmp_path / "report").read_text()
    assert "diverged at step" in text
    curves = pl.DataFrame(
        {"run": ["a"] * 3, "step": [1, 2, 3], "train_loss": [1.0, 0.0, 1e-6], "valid_loss": [1.0, float("nan"), 2.0]}
    )
    assert long_curves(curves, "loss").filter(split="training")["value"].to_list() == [1.0, 1e-6, 1e-6]
    assert len(long_curves(curves, "loss").filter(split="validation")) == 2


def test_runs_on_contradictory_equations_are_read_and_said_to_be_such(tmp_path):
    whole = tiny(operator="/")
    old = RunSpec.restored({**whole.dump(), "q": 3})  # as labs from before this was refused hold it
    records = shoal.train([whole, old], tmp_path / "lab", workers=1)
    for report in (report_runs(records, ""), sanity.report(Results(records), Form())):
        assert sum(answer.startswith("Contradictory: 1 of 2 runs") for answer in report.answers) == 1
    records = Lab(tmp_path / "lab").records([whole])
    assert not any("Contradictory" in answer for answer in report_runs(records, "").answers)
    assert Lab(tmp_path / "lab").records().model(old.id) is not None


def test_a_lab_without_results_is_said_to_be_one(tmp_path):
    lab = Lab(tmp_path / "lab").create()
    (cohort,) = plan([RunSpec(p=5)])
    lab.cohort(cohort.id).create(list(cohort.members), threads=1)
    for report in (lambda: report_runs(lab.records(), ""), lambda: Results(lab.records())):
        with pytest.raises(LabError, match="none of these runs has been evaluated yet"):
            report()


def test_settings_that_only_the_model_decides_are_told_once_and_are_no_columns(lab):
    form = form_of("sanity")
    report = sanity.report(results_of(lab, form.specs(sanity)), form)
    told = " ".join(report.sections[-1].paragraphs)
    assert "initialisation xavier (lstm) torch (gpt)" in told
    assert "num_heads 4 (gpt)" in told
    assert "hidden_size 8 (lstm)" in told
    assert "beta2 0.999 (lstm) 0.98 (gpt)" in told
    assert "model lstm" not in told
    (runs,) = [table for table in report.sections[-1].tables if table.name == "runs"]
    assert runs.header[:4] == ["run", "model", "seed", "state"]
