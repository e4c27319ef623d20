"""How times to a threshold are shown: tables, sentences and figures."""

import polars as pl
import pytest
from times import signed

from shoal.errors import UserError
from shoal.report import (
    Report,
    Section,
    TimesQuestion,
    logrank_sentences,
    survival_curves,
    survival_figure,
    survival_table,
    write_report,
)


def logrank_sentence(times: pl.DataFrame, by: str) -> str:
    """The answer to one question that is asked alone."""
    (sentence,) = logrank_sentences([TimesQuestion(times, by)])
    return sentence


def runs(by: str, **groups: list[int]) -> pl.DataFrame:
    return signed(**groups).rename({"group": by}).with_columns(state=pl.lit("done"))


SHOWN = runs("model", LSTM=[700, 800, 900, -1000, 950], GPT=[300, 350, 400, 420, -50]).with_columns(
    state=pl.when(pl.col("time") == 50).then(pl.lit("diverged")).otherwise("state")
)


def test_no_mean_stands_under_its_median_because_it_was_cut_off():
    # as in the quick sanity check: one group goes to 4,000, of the other one run ends at 2,600 without
    table = survival_table("t", runs("model", LSTM=[3000, 3200, 3350, 3400], GPT=[1200, 1500, 1800, -2600]), "model")
    place = [name.startswith("mean step") for name in table.header[1:]].index(True)
    means = {label: cells[place].text for label, cells in table.rows}
    assert table.header[1 + place] == "mean step up to 2,600"
    assert means["LSTM"] == "–"
    assert means["GPT"].startswith("1,775")  # of 1,200, 1,500, 1,800 and 2,600
    whole = survival_table("t", runs("model", LSTM=[3000, 3200], GPT=[1200, 1500]), "model")
    assert [cells[place].text.split(" ")[0] for _, cells in whole.rows] == ["3,100", "1,350"]


def test_the_table_says_how_many_and_when():
    table = survival_table("times", SHOWN, "model")
    assert table.header == [
        "model", "N", "reached", "censored", "diverged", "rate", "median step", "mean step up to 1,000",
    ]  # fmt: skip
    rows = {label: [cell.text for cell in cells] for label, cells in table.rows}
    assert rows["LSTM"][:5] == ["5", "4", "1", "0", "0.8 [0.38, 0.96]"]
    assert rows["GPT"][:4] == ["5", "4", "0", "1"]
    assert rows["GPT"][5] == "400"  # of five, the median has no interval
    assert "1 diverged and can never reach it: median and mean count it to the end" in table.caption
    assert "Student" in table.caption
    assert "Brookmeyer" not in table.caption
    assert "Brookmeyer" in survival_table("times", pl.concat([SHOWN] * 2), "model").caption
    assert "unfinished" not in table.caption
    ended = survival_table("times", runs("model", a=[100, 200, 300], b=[100, 900]), "model")
    assert ended.header[-1] == "mean step"
    assert [cells[-1].text for _, cells in ended.rows] == ["200 [57.8, 693]", "500"]
    assert "never" not in ended.caption
    waiting = survival_table("times", SHOWN.with_columns(state=pl.lit("running")), "model")
    assert "unfinished" in waiting.header
    assert "still in training, censored" in waiting.caption


def test_the_table_says_how_many_fell_back_where_times_tell():
    fell_back = pl.Series([True, True, False, False, False] + [False] * 5)
    table = survival_table("times", SHOWN.with_columns(fell_back=fell_back), "model")
    place = table.header[1:].index("fell back")
    assert {label: cells[place].text for label, cells in table.rows} == {"LSTM": "2", "GPT": "0"}
    assert "Fell back: " in table.caption
    assert "Fell back: " not in survival_table("times", SHOWN, "model").caption


def test_the_log_rank_test_in_words():
    words = logrank_sentence(SHOWN, "model")
    assert words.startswith("LSTM and GPT cannot be told apart")
    assert "Log-rank test over 2 groups of model: χ² = " in words
    assert words.endswith(" by permutation (all exchanges of groups among runs).")
    paired = logrank_sentence(SHOWN.with_columns(seed=pl.Series([0, 1, 2, 3, 4] * 2)), "model")
    assert "all exchanges of groups among runs of the same seed" in paired
    assert paired.endswith("; with 5 runs in a group no p below 0.062 is possible.")
    assert "10,000 random exchanges" in logrank_sentence(runs("x", a=[*range(1, 9)], b=[*range(5, 13)]), "x")
    small = logrank_sentence(runs("r_train", a=[1, 2], b=[5, 6, 7]), "r_train")
    assert "rough" not in small
    assert "with 2 to 3 runs in a group no p below 0.1 is possible" in small
    assert "Too few runs" in logrank_sentence(runs("r_train", a=[-5], b=[-5]), "r_train")
    assert "one group of r_train" in logrank_sentence(runs("r_train", a=[5]), "r_train")


def test_pairs_in_words_come_before_others_only_where_they_differ():
    three = runs(
        "model", LSTM=[700, 800, 900, -1000, 950], GPT=[300, 350, 400, 420, 300], RNN=[500, 800, -1000, 950, 90]
    )
    words = logrank_sentence(three, "model")
    assert "Of 3 pairs 1 differs at 0.05 after correction for their number (Shaffer): GPT before LSTM (p = 0.0" in words
    assert "No significant difference: GPT and RNN (p = 0." in words
    assert "LSTM and RNN (p = 0." in words
    assert words.count("before") == 1
    none = logrank_sentence(runs("x", **{name: [*range(i, 16, 3)] for i, name in enumerate("abc", 1)}), "x")
    assert none.startswith("No two groups of x can be told apart")
    assert "before" not in none
    many = {name: [100 * i + j for j in range(7)] for i, name in enumerate("abcdef", 1)}
    words = logrank_sentence(runs("x", **many), "x")
    assert "Of 15 pairs 15 differ" in words
    assert words.endswith("; ….")
    few = logrank_sentence(runs("x", a=[1, 2], b=[5, 6], c=[10, 11], d=[20, 21]), "x")
    assert "no pair can differ at 0.05 after correction for 6 pairs" in few
    assert few.endswith("no corrected p below 1 is possible.")
    assert "before" not in few
    alone = logrank_sentence(runs("x", a=[50, 60], b=[-10], c=[-10]), "x")
    assert "before" not in alone


def test_answers_are_corrected_for_how_many_questions_a_page_asks():
    clear = runs("x", a=[1, 2, 3, 4], b=[11, 12, 13, 14])  # p = 2/70
    vague = runs("x", a=[1, 3, 5, 7], b=[2, 4, 6, 8])
    (alone,) = logrank_sentences([TimesQuestion(clear, "x")])
    assert "p = 0.029 by permutation" in alone
    assert alone.startswith("X a reached it sooner than b. ")  # the conclusion first, then the numbers
    (turned,) = logrank_sentences([TimesQuestion(runs("x", a=[11, 12, 13, 14], b=[1, 2, 3, 4]), "x")])
    assert turned.startswith("X b reached it sooner than a. ")
    assert "corrected" not in alone
    two = logrank_sentences([TimesQuestion(clear, "x"), TimesQuestion(vague, "x")])
    assert "p = 0.029 by permutation" in two[0]
    assert "corrected for the 2 log-rank tests of this page (Holm) p = 0.057" in two[0]
    # pairs are told where the groups differ after correction alone, and are no clearer than they
    three = runs("x", a=[1, 2, 3, 14], b=[4, 11, 12, 15], c=[21, 22, 23, 24])  # p = 0.014
    assert " before " in logrank_sentences([TimesQuestion(three, "x")])[0]
    many = logrank_sentences([TimesQuestion(three, "x")] * 4)
    assert all(" before " not in sentence for sentence in many)


def test_the_other_settings_are_named_and_runs_without_a_counterpart_are_counted():
    times = runs("width", a=[10, 20, 30, 40], b=[110, 120, 130, 140, 1000]).with_columns(
        seed=pl.Series([0, 0, 1, 1, 0, 0, 1, 1, 2]), depth=pl.Series([1, 2, 1, 2, 1, 2, 1, 2, 1])
    )
    (told,) = logrank_sentences([TimesQuestion(times, "width", within="depth")])
    assert "among runs of the same seed and depth" in told
    assert "1 run without such a partner in another group" in told
    (nothing,) = logrank_sentences([TimesQuestion(times.with_columns(lr=pl.int_range(9)), "width", within="lr")])
    assert nothing == "Nothing can be compared: no two groups of width have runs that agree in seed and lr."


def layer(chart, mark: str) -> pl.DataFrame:
    """The rows of the layer with this mark."""
    spec = chart.to_dict()
    (found,) = [part for part in spec["layer"] if part["mark"]["type"] == mark]
    return pl.DataFrame(spec["datasets"][found["data"]["name"]], infer_schema_length=None)


@pytest.mark.parametrize("log_x", [False, True])
def test_lines_go_up_by_one_run_and_marks_sit_on_them(log_x):
    chart = survival_curves(SHOWN, "model", "Generalisation", log_x)
    lines = layer(chart, "line")
    gpt = lines.filter(label="GPT").sort("step", "share")
    # the run that diverged is followed to the end
    assert gpt["share"].to_list() == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 0.8])
    assert gpt["step"][-1] == 1000
    lstm = runs("model", LSTM=[700, 800])
    ends = layer(survival_curves(pl.concat([SHOWN.filter(model="GPT"), lstm]), "model", "", log_x), "line")
    assert ends.filter(label="LSTM").sort("step", "share").select("step", "share").rows()[-1] == (800, 1)
    assert lines["step"].min() == (50 / 1.5 if log_x else 0)
    assert layer(chart, "tick").select("label", "step", "share").rows() == [("LSTM", 1000, pytest.approx(0.8))]
    assert layer(chart, "text").select("label", "step", "share").rows() == [("GPT", 50, 0)]
    bands = layer(chart, "area")
    assert bands.filter(pl.col("low") > pl.col("high")).is_empty()


def test_numbers_are_shown_in_their_order_and_names_as_they_come():
    times = pl.concat([runs("x", a=[5 * k, 6 * k]).with_columns(x=pl.lit(k / 10)) for k in (9, 1, 10)])
    labels = [label for label, _ in survival_table("t", times, "x").rows]
    assert labels == ["0.1", "0.9", "1"]
    assert [label for label, _ in survival_table("t", SHOWN, "model").rows] == ["LSTM", "GPT"]


def test_figures_of_every_kind_can_be_written(tmp_path):
    many = pl.concat([runs("x", a=[5 * k, -60 * k]).with_columns(x=pl.lit(k / 10)) for k in range(1, 10)])
    figures = [
        survival_figure("nine", many, "x", "Nine", log_x=True),
        survival_figure("first", runs("x", a=[7]).with_columns(time=0), "x", "At step 0", log_x=True),
    ]
    page = write_report(Report("Survival", "", [Section("Curves", figures=figures)]), tmp_path)
    for figure in figures:
        assert (page.parent / "figures" / f"{figure.name}.png").stat().st_size > 1000
        assert "N = " in figure.caption
        assert ("Shaded" in figure.caption) == (figure.name != "nine")
    with pytest.raises(UserError, match="no runs to compare by x"):
        survival_figure("empty", many.head(0), "x", "Empty")
