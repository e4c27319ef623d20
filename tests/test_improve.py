"""The study of variants: what is compared and corrected together, and what it says where results are missing."""

from types import SimpleNamespace

import polars as pl
import pytest

from shoal.analysis import holm
from shoal.errors import UserError
from shoal.studies import Form, Results, improve

FORM = Form(quick=True)
LAST = 2600


def curve(run, time, loss):
    """Evaluations of a run that generalises at ``time``."""
    accuracies = {0: 0.02, time: 1.0, LAST: 1.0} if time < LAST else {0: 0.02, LAST: 0.1}
    return [
        {
            "run": run,
            "step": step,
            "train_loss": 0.1,
            "valid_loss": loss,
            "train_accuracy": 1.0,
            "valid_accuracy": value,
        }
        for step, value in accuracies.items()
    ]


def results_of(times, state="done", losses=None, unknown=()):
    """Results in which the variants generalise at a time for each of the first seeds; the others have none yet."""
    runs, curves = [], []
    places = dict.fromkeys(improve.VARIANTS, 0)
    names = FORM.names(improve)
    named = {spec.id: names[spec.id] for spec in FORM.specs(improve)} | dict.fromkeys(unknown, "unknown")
    for run, variant in named.items():
        seed = places.get(variant, 0)
        places[variant] = seed + 1
        own = times.get(variant, [])
        known = seed < len(own)
        runs.append(
            {"run": run, "state": state if known else "waiting", "step": LAST * known, "seed": seed, "model": "gpt"}
        )
        if known:
            curves += curve(run, own[seed], (losses or {}).get(variant, 0.1))
    results = object.__new__(Results)
    results.specs, results.runs = {}, pl.DataFrame(runs).with_columns(parameters=1000)
    settings = results.runs.select("run", "seed", "model", "parameters")
    results.curves = pl.DataFrame(curves).join(settings, on="run", how="left", maintain_order="left")
    cost = {"seconds": 0.0021, "ratio": 1.5, "low": 1.25, "high": 1.75, "engine": "compiled"}
    results.measured, results.damage = dict.fromkeys(improve.VARIANTS, cost), {}
    return results


@pytest.fixture
def reported(monkeypatch):
    """The report of some results, without what needs a lab."""

    def finished(name, title, question, answers, sections, results, form):
        return SimpleNamespace(answers=answers, sections=sections)

    monkeypatch.setattr(improve, "finished", finished)
    return lambda results, form=FORM: improve.report(results, form)


def tables_of(report):
    return {table.name: table for section in report.sections for table in section.tables}


def labels_of(table):
    return [label for label, _ in table.rows]


def test_runs_without_results_are_no_variant(reported):
    report = reported(results_of({"baseline": [500, 600], "pre-norm": [400, 650], "Muon": [300]}))
    times = tables_of(report)["times-09"]
    assert labels_of(times) == ["baseline", "pre-norm", "Muon"]
    assert [cells[0].text for _, cells in times.rows] == ["2", "2", "1"]
    assert not times.header[-1].endswith("up to 0")
    assert report.answers[0] == "Better than the baseline, 0 of 2 variants: none."
    assert report.answers[2].startswith(
        "Compared were 3 figures (time to A_val ≥ 0.9, time to A_val ≥ 0.99, log₁₀ L_val) by a sign-flip test"
    )
    assert labels_of(tables_of(report)["costs"]) == ["baseline", "pre-norm", "Muon"]


def test_runs_of_another_form_of_the_study_are_not_taken_for_the_baseline(reported):
    report = reported(results_of({"baseline": [500], "Muon": [300], "unknown": [100]}, unknown=["another"]))
    assert report.answers[0] == "Left out: 1 of 3 runs are of no variant of this study."
    times = tables_of(report)["times-09"]
    assert [(label, cells[0].text) for label, cells in times.rows] == [("baseline", "1"), ("Muon", "1")]


def test_those_that_lead_are_named_if_there_are_any(reported):
    report = reported(results_of({"baseline": [500, 500], "Muon": [300, 300], "Lion": [700, 700], "SGD": [500, 400]}))
    assert report.answers[3:] == [
        f"A_val ≥ {threshold}: most often sooner than the baseline: Muon (2 of 2 pairs), SGD (1 of 2 pairs)."
        for threshold in (0.9, 0.99)
    ]
    none = reported(results_of({"baseline": [500, 500], "Lion": [700, 700], "SGD": [500, 500]}))
    assert len(none.answers) == 3
    assert none.answers[2].endswith("no corrected p can be below 1.")


def test_a_variant_without_pairs_does_not_hide_those_that_lead(reported):
    done = {"baseline": [500], "ReLU": [300]}
    results = results_of(done | {"pre-norm": [400], "RMSNorm": [400], "no norm": [400]})
    unfinished = pl.col("run").replace_strict(FORM.names(improve)).is_in(["pre-norm", "RMSNorm", "no norm"])
    seed = pl.when(unfinished).then(pl.col("seed") + 50).otherwise("seed")
    results.runs = results.runs.with_columns(seed.alias("seed"))
    results.curves = results.curves.with_columns(seed.alias("seed"))
    assert reported(results).answers[3] == "A_val ≥ 0.9: most often sooner than the baseline: ReLU (1 of 1 pairs)."


def test_without_the_baseline_the_rest_is_shown(reported):
    report = reported(results_of({"pre-norm": [400, 650], "Muon": [300]}))
    assert report.answers == ["The baseline has no results yet: there is nothing to compare the variants with."]
    tables = tables_of(report)
    assert labels_of(tables["times-09"]) == ["pre-norm", "Muon"]
    costs = [[cell.text for cell in cells] for _, cells in tables["costs"].rows]
    assert costs == [["2.10", "1.50", "1.25 to 1.75", "compiled", "1,000"]] * 2
    alone = reported(results_of({"baseline": [400]}))
    assert alone.answers == ["There is the baseline alone: nothing to compare."]
    stranger = reported(results_of({"unknown": [100]}, unknown=["another"]))
    assert stranger.answers[1] == report.answers[0]


def test_runs_in_training_have_no_pairs_yet(reported):
    report = reported(results_of({"baseline": [LAST], "Muon": [LAST]}, state="running"))
    assert "for all 0 comparisons" in report.answers[2]
    assert labels_of(tables_of(report)["times-09"]) == ["baseline", "Muon"]


def test_every_comparison_of_the_report_is_corrected_together(reported):
    seeds = 12
    usual = [500 + 10 * seed for seed in range(seeds)]
    times = dict.fromkeys(improve.VARIANTS, usual) | {"Muon": [time - 100 for time in usual]}
    report = reported(results_of(times, losses={"Lion": 0.3}))
    tables = tables_of(report)
    effects = [table for name, table in tables.items() if name.startswith("effects")]
    assert [table.name for table in effects] == ["effects-09", "effects-099", "effects-loss"]
    assert sum(len(table.rows) for table in effects) == 51
    assert [len(table.rows) for table in effects] == [17, 17, 17]
    captions = [table.caption.partition(". ")[0] for table in effects]
    assert captions == ["Time to A_val ≥ 0.9", "Time to A_val ≥ 0.99", "Log₁₀ L_val"]
    cells = [row for table in effects for _, row in table.rows]
    p = [float(row[-2].text) for row in cells]
    assert [float(row[-1].text) for row in cells] == pytest.approx(holm(p), rel=0.02)  # of rounded numbers
    assert all("corrected for 51 comparisons" in table.caption for table in effects)
    assert report.answers[:3] == [
        "Better than the baseline, 1 of 17 variants: Muon (time to A_val ≥ 0.9, time to A_val ≥ 0.99).",
        "Worse than the baseline, 1 of 17 variants: Lion (log₁₀ L_val).",
        "Compared were 3 figures (time to A_val ≥ 0.9, time to A_val ≥ 0.99, log₁₀ L_val) by a sign-flip test over "
        "pairs of the same seed, p < 0.05 after Holm's correction for all 51 comparisons. With these pairs no "
        "corrected p can be below 0.025.",
    ]


@pytest.mark.parametrize("quick", [True, False])
def test_the_smallest_corrected_p_is_below_005(quick):
    pairs = len({spec.seed for spec in Form(quick).specs(improve)})
    assert (len(improve.VARIANTS) - 1) * len(improve.METRICS) == 51
    assert 51 * max(2 / 2**pairs, 0 if pairs <= 12 else 2 / 10_000) < 0.05


def test_thresholds_make_figures_of_their_own(reported):
    report = reported(results_of({"baseline": [500], "Muon": [300]}), Form(quick=True, thresholds=(0.5,)))
    assert set(tables_of(report)) == {"variants", "effects-05", "times-05", "effects-loss", "costs"}
    assert report.answers[0] == "Better than the baseline, 0 of 1 variant: none."
    assert report.answers[2].startswith("Compared were 2 figures (time to A_val ≥ 0.5, log₁₀ L_val) by")


def test_costs_that_were_not_measured_are_said_to_be_missing(reported):
    results = results_of({"baseline": [500], "Muon": [300]})
    results.measured = {}
    report = reported(results)
    assert "costs" not in tables_of(report)
    assert report.sections[-1].paragraphs == [
        "Not measured: `shoal study run improve` measures it when the runs are done."
    ]


def test_the_table_of_variants_names_all_that_they_change(reported):
    rows = dict(tables_of(reported(results_of({"baseline": [500]})))["variants"].rows)
    changed = {name: cells[0].text for name, cells in rows.items()}
    assert changed.keys() == improve.VARIANTS.keys() - {"baseline"}
    assert changed["pre-norm"] == "norm_position pre"
    assert changed["Adam"] == "optimizer adam, weight_decay 0"
    assert changed["SGD"] == "optimizer momentum, lr 0.09, weight_decay 0, momentum 0.9"
    assert changed["Muon"] == "optimizer muon, lr 0.009, weight_decay 0.3, momentum 0.95"
    assert changed["warm-up, linear"] == "lr_schedule linear, warmup_steps 100"
    for name, text in changed.items():
        assert all(setting in text for setting in improve.VARIANTS[name]), name


def test_a_setting_that_leaves_no_room_for_a_variant_names_it():
    with pytest.raises(UserError, match=r"got warmup_steps=100 and n_steps=60 \(in the part 'warm-up' of the study\)"):
        Form(quick=True, settings={"n_steps": ["60"]}).specs(improve)
