"""Words and numbers of reports say what the runs say: in what they differ, what is in bold, and one run is one run."""

import polars as pl
import pytest
from helpers import TINY

import shoal
from shoal.lab import Lab
from shoal.measures import EQUATIONS
from shoal.report.by import setting_axis
from shoal.report.panels import band_note, curve_panels
from shoal.report.runs import report_runs
from shoal.report.shades import painted
from shoal.report.summary import show, ten_figures
from shoal.report.survival import rates_sentence, survival_table
from shoal.report.words import damage_sentences
from shoal.spec import RunSpec, grid
from shoal.studies import Form, Results, sanity
from shoal.studies.own_axes import own_grid
from shoal.studies.own_grid import report_own_grid


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """LSTMs and GPTs at two weight decays and two learning rates."""
    path = tmp_path_factory.mktemp("both") / "lab"
    for model in ("lstm", "gpt"):
        heads = {"num_heads": 2} if model == "gpt" else {}
        spec = RunSpec(**{**TINY, "model": model, "n_steps": 4, **heads})
        shoal.train(grid(spec, weight_decay=[0.0, 1.0], lr=[1e-3, 1e-2], seed=[0, 1]), path, workers=1)
    return Lab(path)


def unlike(records, by="weight_decay"):
    return own_grid(Results(records), [by], None, None).unlike


def test_models_differ_in_model_and_in_no_setting_that_comes_with_it(both):
    told = unlike(both.records().where(lr=1e-3))
    assert "differ in model:" in told and "of its own" in told
    assert "means and rates are over all" not in told  # each model has its own
    mixed = unlike(both.records())
    assert "differ in model and lr;" in mixed and "--lr " in mixed
    ids = [run.id for run in both.records() if run.spec.lr == {"lstm": 1e-3, "gpt": 1e-2}[run.spec.model]]
    assert "differ in model and lr;" in unlike(both.records(ids))
    assert unlike(both.records().where(model="gpt", lr=1e-3)) == ""


def test_a_slope_stands_only_beside_a_trend_that_its_test_finds(tmp_path):
    spec = RunSpec(**{**TINY, "model": "lstm", "n_steps": 60, "eval_period": 10})
    records = shoal.train(
        grid(spec, lr=[1e-4, 1e-3, 1e-2], weight_decay=[0.0, 0.01], seed=[0, 1, 2, 3]), tmp_path / "lab"
    )
    for by, has_slope in (("lr", True), ("weight_decay", False)):
        results = Results(records)
        report = report_own_grid(own_grid(results, [by], None, None), {"lab": results}, "shoal report")
        told = [answer for answer in report.answers if "ρ = " in answer]
        assert told
        assert any(", slope " in answer for answer in told) == has_slope
        assert any("not corrected" in answer for answer in told) == has_slope


def test_small_numbers_are_short():
    assert show(7.69e-6, 5.7e-7, False) == "7.69e-06 ± 5.7e-07"
    assert show(1.3e-3, 2e-4, False) == "0.00130 ± 0.00020"
    assert show(0.0, 0.0, False) == "0.0000 ± 0.0000"


def test_up_to_six_numbers_have_a_colour_each_and_seven_a_bar():
    for n, names in ((6, 6), (7, 0)):
        runs = pl.DataFrame({"weight_decay": [k / 4 for k in range(n)]})
        axis, column = setting_axis(runs, ["weight_decay"], in_legend=True)
        assert len(axis.names) == names
        shown = runs.with_columns(column) if names else runs
        assert painted(shown, axis)["fill"].n_unique() == n
    curves = pl.DataFrame({"run": ["a", "b"], "step": [1, 1], "setting": ["0", "1"], "valid_loss": [1.0, 2.0]})
    curves = curves.with_columns(train_loss="valid_loss", train_accuracy=pl.lit(0.5), valid_accuracy=pl.lit(0.5))
    axis, _ = setting_axis(pl.DataFrame({"setting": ["0", "1"]}), ["setting"])
    assert "'orient': 'top'" in str(curve_panels(curves, axis, "t").to_dict())  # and not beyond a narrow screen's right


def test_why_nothing_is_in_bold_is_said(both):
    extrema = both.records().extrema()
    labels = dict.fromkeys(extrema["run"], "all")
    caption = ten_figures(extrema.with_columns(last_step=pl.int_range(len(extrema))), labels).caption
    assert "Nothing is in bold, because" in caption
    assert "Nothing is in bold" not in ten_figures(extrema, labels, EQUATIONS).caption


def test_one_run_is_one_run(both):
    one = both.records().where(model="gpt", lr=1e-3, seed=0, weight_decay=1.0)
    texts = [band_note("N = 1"), *damage_sentences({"a1": "x"}, 1), *report_runs(one, "shoal report").answers]
    times = pl.DataFrame({"time": [5], "observed": [False], "decay": [1.0], "state": ["done"]})
    texts += [rates_sentence(times, "decay"), sanity.answer(Results(one), Form())]
    assert not [text for text in texts if "1 runs" in text]
    assert sum("1 run" in text for text in texts) == 5


def test_the_median_of_a_setting_of_which_half_got_there_is_a_lower_bound_and_written_as_one():
    times = pl.DataFrame(
        {"time": [200, 200, 4000, 4000, 700, 750, 750, 800], "observed": [True, True, False, False] + [True] * 4}
    ).with_columns(decay=pl.Series([0.0] * 4 + [0.5] * 4), state=pl.lit("done"))
    half, whole = (cells for _, cells in survival_table("t", times, "decay").rows)
    header = survival_table("t", times, "decay").header
    place = header.index("median step") - 1
    assert (half[place].text, whole[place].text) == ("≥ 200", "750")
    told = rates_sentence(times, "decay")
    assert "2 of 4 at decay 0 (" in told and "median step ≥ 200" in told and "median step 750" in told


@pytest.mark.parametrize(("level", "words"), [(0.3, "less than"), (0.72, "about what"), (0.89, "more than")])
def test_on_the_way_to_generalising_accuracy_is_set_beside_what_the_symmetry_gives(level, words):
    class Some:
        curves = pl.DataFrame(
            {
                "run": ["a"] * 3,
                "step": [1, 2, 3],
                "train_accuracy": [0.5, 1.0, 1.0],
                "valid_accuracy": [0.0, level, level],
            }
        )

    told = sanity._on_the_way(Some(), [0.65, 0.74])
    assert told == f"{level:.2f} [{level:.2f}, {level:.2f}], {words} this alone gives"
