"""The studies of Pig Latin and sorting on tiny data: what is written, how it is counted, compared and told."""

import json
from functools import lru_cache

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from shown import dressed_numbers, foreign_signs, in_words, unset_in_latex

import shoal
from shoal.analysis import answer_errors
from shoal.analysis.answer_errors import edit_distance, pig_latin_error, sorting_error
from shoal.analysis.translation import score_interval
from shoal.cli import main
from shoal.decoding.finite import DivergedError
from shoal.errors import UserError
from shoal.lab import Lab
from shoal.studies import Form, Results, free_running, free_running_scores, pig_latin, sorting
from shoal.studies.free_running_frames import by_group, compared, scored_of, share_right, statistics_of, times_of
from shoal.studies.free_running_scores import LONGER, _with_more_positions, check_split, measured
from shoal.tasks.build import build_task
from shoal.tasks.pairs.vocabulary import BOS, EOS
from shoal.tasks.pig_latin.rules import pig_latin as in_pig_latin

TEXT = "the quick brown fox jumps over a lazy dog and string theory shows open eyes to cheap thrills in april"
TINY = {"embedding_size": ["16"], "num_layers": ["1"], "train_batch_size": ["32"], "warmup_steps": ["2"]}
NUMBERS = {"digits": ["12"], "min_length": ["1"], "max_length": ["3"], "train_examples": ["300"], "lr": ["0.02"]}


def form_of(**more):
    some = {"valid_examples": ["18"], "n_steps": ["80"], "eval_period": ["20"]}
    return Form(quick=True, seeds=2, settings={**TINY, **NUMBERS, **some, **more})


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """Runs that have learned a part of it, so that some answers are right and some are not."""
    path = tmp_path_factory.mktemp("sorting") / "lab"
    return shoal.train(form_of().specs(sorting), path, workers=1)


@pytest.fixture(scope="module")
def found(lab):
    """As it comes back from the lab's note."""
    return json.loads(json.dumps(sorting.measure_models(form_of(), lab), allow_nan=False))


@pytest.fixture(scope="module")
def report(lab, found):
    return sorting.report(Results(lab, found), form_of())


@pytest.fixture(scope="module")
def scored(lab, found):
    return scored_of(sorting.ASKED, Results(lab, found))


def tables_of(report):
    return {table.name: table for section in report.sections for table in section.tables}


@pytest.mark.parametrize("quick", [True, False])
def test_all_families_are_asked_the_same(quick):
    specs = Form(quick).specs(sorting)
    assert {spec.model for spec in specs} == set(free_running.FAMILIES)
    assert len({(spec.model, spec.seed) for spec in specs}) == len(free_running.FAMILIES) * free_running.SEEDS[quick]
    assert free_running.SEEDS[quick] >= 3
    for name in ("split_seed", "n_steps", "train_batch_size"):
        assert len({spec.get(name) for spec in specs}) == 1
    with pytest.raises(UserError, match="split_seed"):
        check_split([specs[0], specs[1].replace(split_seed=9)])


def alone(model, spec, source):
    """What a model writes by itself: the whole of it is computed anew before each token."""
    written = []
    for _ in range(spec.task_part.sizes().sequence_length):
        if spec.model_part.reads == "source":
            width = spec.task_part.sizes().sequence_length
            tokens = torch.tensor([[*source, *[0] * (width - len(source))]])
            logits, _ = model(tokens, torch.arange(width).unsqueeze(0) < len(source))
            token = int(logits[0, len(written)].argmax())
        elif spec.model_part.reads == "pair":
            logits, _ = model(
                torch.tensor([source]), torch.tensor([[BOS, *written]]), torch.ones(1, len(source)).bool()
            )
            token = int(logits[0, -1].argmax())
        else:
            logits, _ = model(torch.tensor([[*source, BOS, *written]]))
            token = int(logits[0, -1].argmax())
        written.append(token)
        if token == EOS:
            break
    return written


def test_what_is_written_is_what_each_model_says_alone(lab, found):
    n_right = 0
    for run in lab.ids:
        spec, model, own = lab.specs[run], lab.model(run), found["runs"][run]
        task, codec = build_task(spec), spec.task_part.codec
        for place, number in enumerate(task.scored["valid"].tolist()):
            source = task.tensors["source"][number][: task.tensors["source_length"][number]].tolist()
            target = task.tensors["target"][number][: task.tensors["target_length"][number]].tolist()
            written = alone(model, spec, source)
            assert (str(place) not in own["wrote"]) == (written == target)
            assert own["wrote"].get(str(place), codec.decode_target(target)) == codec.decode_target(written)
            assert (place in own["unfinished"]) == (written[-1] != EOS)
            n_right += written == target
    assert 0.1 < n_right / len(lab.ids) / 18 < 0.9  # else this shows little


def test_greedy_answers_and_teacher_forcing_go_wrong_at_the_same_items(lab, found, scored):
    assert (scored["right"] == scored["forced"]).all()
    last = lab.curves().sort("step").group_by("run").last()
    for run, share, tokens in last.select("run", "valid_forced_exact", "valid_accuracy").iter_rows():
        assert scored.filter(run=run)["forced"].mean() == pytest.approx(share, abs=1e-6)
        assert found["runs"][run]["tokens"] == pytest.approx(tokens, abs=1e-6)
    assert found["rules"]["the rule"] == 1
    assert all(share < 1 for name, share in found["rules"].items() if name != "the rule")


def test_what_was_written_can_be_read_in_the_lab(lab, found, scored):
    kept = {decode.run: decode for decode in lab.decodes("held-out")}
    for run, decode in kept.items():
        assert found["runs"][run]["decode"] == decode.id
        own = scored.filter(run=run).sort("item")
        assert list(decode.hypotheses) == own["wrote"].to_list()
        assert all(w == t for w, t, r in own.select("wrote", "target", "right").iter_rows() if r)
    assert kept.keys() == set(lab.ids) == {decode.run for decode in lab.decodes(LONGER)}


def test_longer_sources_meet_the_same_model(lab, found):
    lengths = {len(source.split()) for source in found["longer"]["items"]["sources"]}
    assert lengths == {4, 5, 6, 7}
    for run in lab.ids:
        spec, model = lab.specs[run], lab.model(run)
        further = _with_more_positions(model, sorting.ASKED.longer(spec))
        source, seen = torch.tensor([[5, 4, EOS]]), torch.ones(1, 3, dtype=torch.bool)
        given = {
            "pair": (source, torch.tensor([[BOS, 4]]), seen),
            "sequence": (torch.tensor([[5, 4, EOS, BOS, 4]]),),
            "source": (source, seen),
        }[spec.model_part.reads]
        with torch.no_grad():
            torch.testing.assert_close(further(*given)[0], model(*given)[0])


def test_learned_positions_end_where_they_were_trained(lab, tmp_path):
    form = form_of(model=["encoder_decoder"], positions=["learned"], n_steps=["4"])
    own = shoal.train(form.specs(sorting), tmp_path / "lab", workers=1)
    told = sorting.measure_models(form, own)
    assert told["longer"]["runs"] == {}
    assert set(told["longer"]["refused"]) == {"encoder_decoder"}
    page = sorting.report(Results(own, told), form)
    assert not any(figure.name == "beyond" for section in page.sections for figure in section.figures)


def test_intervals_are_over_seeds_and_items_and_never_empty(scored):
    for (_,), own in scored.group_by("model"):
        share, whole = share_right(own), score_interval(statistics_of(own))
        assert share["mean"] == pytest.approx(100 * own["right"].mean())
        if len(set(whole.by_seed)) > 1:
            assert (share["low"], share["high"]) == (whole.low, whole.high)
    every = scored.filter(model=scored["model"][0]).with_columns(right=True)
    share = share_right(every)
    low, high = stats.binomtest(18, 18).proportion_ci(0.95, method="wilson")
    whole = score_interval(statistics_of(every))
    assert (share["low"], share["high"]) == (pytest.approx(min(whole.low, 100 * low)), 100 * high)
    assert whole.low < 100


def test_groups_add_up_and_models_are_paired(scored):
    frame = by_group(scored, "numbers")
    for (model,), own in frame.group_by("model"):
        whole = (own["mean"] * own["items"]).sum() / own["items"].sum()
        assert whole == pytest.approx(100 * scored.filter(model=model)["right"].mean())
    better = scored.with_columns(right=pl.when(pl.col("model") == "GPT").then(True).otherwise(pl.col("item") < 4))
    tests = compared(better)
    assert len(tests) == 6
    ahead = [one for one in tests if "GPT" in (one.first, one.second)]
    assert all(abs(one.score) == pytest.approx(100 * 14 / 18) and one.corrected < 0.05 for one in ahead)
    assert all(one.corrected == 1 for one in tests if one not in ahead)


def test_first_steps_are_those_of_the_curves(lab, found):
    form = Form(quick=True, seeds=2, settings=form_of().settings, thresholds=(0.05, 0.3))
    results = Results(lab, found)
    times = times_of(results, form)
    curves = lab.curves()
    for row in times.filter(measure="forced_exact").to_dicts():
        steps = []
        for run in lab.ids:
            if results.specs[run].model_part.label == row["model"]:
                own = curves.filter(pl.col("run") == run).sort("step")
                there = [s for s, x in own.select("step", "valid_forced_exact").iter_rows() if x >= row["share"]]
                steps += there[:1]
        assert (row["reached"], row["first"], row["last"]) == (
            len(steps),
            min(steps, default=None),
            max(steps, default=None),
        )
    assert times["reached"].sum() > 0


def test_maps_add_up_and_have_tokens_on_both_axes(lab, found):
    for own in found["maps"]:
        weights = np.array(own["weights"])
        assert weights.shape[2:] == (len(own["written"]), len(own["read"]))
        assert weights.sum(-1) == pytest.approx(1, abs=0.01)
        source = own["source"].split()
        assert own["read"][: len(source) + 1] == [*source, "EOS"]
        assert own["written"] == [*sorted(source, key=int), "EOS"]
    assert {own["model"] for own in found["maps"]} == set(free_running.FAMILIES)


def test_every_table_and_figure_says_what_it_shows(report):
    tables = tables_of(report)
    assert {"exact-match", "differences", "by-numbers", "by-repeats", "beyond-numbers", "times", "errors"} <= set(
        tables
    )
    for table in tables.values():
        assert dressed_numbers(table.to_csv()) == []
        assert unset_in_latex(table.to_latex()) == []
        assert table.caption
    figures = [figure for section in report.sections for figure in section.figures]
    assert {"curves", "by-numbers", "by-repeats", "beyond"} < {figure.name for figure in figures}
    for figure in figures:
        assert in_words(figure)
        assert foreign_signs(figure.spec) == set()


def test_the_errors_that_are_counted_are_those_that_were_made(report, scored):
    data = tables_of(report)["errors"].data
    assert data["answers"].sum() == scored.filter(~pl.col("right")).height
    assert scored.filter(pl.col("right") != pl.col("error").is_null()).is_empty()
    known = {value for name, value in vars(answer_errors).items() if name.isupper()}
    assert set(data["error"]) <= known


def test_before_it_is_measured_the_curves_are_shown(lab):
    page = sorting.report(Results(lab), form_of())
    assert [figure.name for section in page.sections for figure in section.figures] == ["curves"]


def test_one_model_and_one_seed_are_shown(lab, found):
    only = lab.where(model="gpt", seed=0)
    page = sorting.report(Results(only, found), form_of(model=["gpt"]))
    assert tables_of(page)["exact-match"].data["mean"][0] == pytest.approx(
        100 * (1 - len(found["runs"][only.ids[0]]["wrote"]) / 18)
    )


# Pig Latin


def test_pig_latin_runs_from_the_command_line(tmp_path, capsys):
    text, lab = tmp_path / "words.txt", tmp_path / "lab"
    text.write_text(TEXT)
    small = {**TINY, "n_steps": ["4"], "eval_period": ["2"], "model": ["gpt", "lstm_encoder_decoder"]}
    form = Form(quick=True, seeds=1, settings={"text": [str(text)], **small})
    records = shoal.train(form.specs(pig_latin), lab, workers=1)
    found = measured(pig_latin.ASKED, form.specs(pig_latin), records)
    assert all(in_pig_latin(s) == t for s, t in zip(*found["items"].values(), strict=True))
    assert set(found["items"]["sources"]) < set(TEXT.split())
    assert "longer" not in found
    page = pig_latin.report(Results(records, found), form)
    assert set(tables_of(page)["by-rule"].data["group"]) == {"vowel", "consonant", "cluster"}
    assert main(["study", "run", "pig-latin", "--quick", "--lab", str(tmp_path / "none")]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "study pig-latin needs --text" in line
    assert not Lab(tmp_path / "none").path.exists()


# kinds of errors


@lru_cache
def by_definition(first, second):
    if not first or not second:
        return len(first) + len(second)
    same = by_definition(first[1:], second[1:]) + (first[0] != second[0])
    return min(same, by_definition(first[1:], second) + 1, by_definition(first, second[1:]) + 1)


@given(st.text("ab", max_size=6), st.text("abc", max_size=6))
def test_edit_distance_is_its_definition(first, second):
    assert edit_distance(first, second) == by_definition(first, second)


@pytest.mark.parametrize(
    ("word", "written", "kind"),
    [
        ("string", "tringsay", "OTHER_RULE"),
        ("apple", "appleay", "OTHER_RULE"),
        ("pig", "igp", "NO_ENDING"),
        ("string", "ingtsray", "ORDER"),
        ("pig", "ibpay", "EXCHANGED"),
        ("brown", "ownbay", "LEFT_OUT"),
        ("brown", "ownnbray", "TOO_MANY"),
        ("brown", "unbay", "SEVERAL"),
    ],
)
def test_errors_of_pig_latin(word, written, kind):
    assert pig_latin_error(word, in_pig_latin(word), written) == getattr(answer_errors, kind)


@pytest.mark.parametrize(
    ("source", "written", "kind"),
    [
        ("3 1 2", "1 3 2", "NUMBER_ORDER"),
        ("3 1 1", "1 3", "REPEATS"),
        ("3 1 2", "1 3", "NUMBERS_LEFT_OUT"),
        ("3 1 2", "1 2 3 4", "NUMBERS_TOO_MANY"),
        ("3 1 2", "1 2 4", "OTHER_NUMBERS"),
        ("3 1 2", "4 2 1", "NOT_IN_ORDER"),
        ("10 9", "10 9", "NUMBER_ORDER"),
        ("3 1 2", "", "NUMBERS_LEFT_OUT"),
    ],
)
def test_errors_of_sorting(source, written, kind):
    right = " ".join(sorted(source.split(), key=int))
    assert sorting_error(source, right, written) == getattr(answer_errors, kind)


def test_models_whose_numbers_are_not_finite_are_left_out(monkeypatch):
    def written(models, *_):
        if wrong := [run for run in models if run.startswith("bad")]:
            raise DivergedError(wrong[:1])
        return list(models)

    monkeypatch.setattr(free_running_scores, "_written", written)
    models = dict.fromkeys(["bad0", "good", "bad1"])
    assert free_running_scores._written_by_some(models) == ["good"]
    assert list(models) == ["good"]
    models = dict.fromkeys(["bad0"])
    assert not free_running_scores._written_by_some(models).texts and not models
