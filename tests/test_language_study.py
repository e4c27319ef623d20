"""The study of language on a tiny text: what is measured, compared and said, and what is refused."""

import json
import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
import torch
from scipy import stats
from shown import dressed_numbers, foreign_signs, in_words, unset_in_latex

import shoal
from shoal.analysis import holm
from shoal.cli import main
from shoal.errors import UserError
from shoal.lab import Lab
from shoal.studies import NAMES, Form, Results, get_study, improve, language
from shoal.studies.equal_compute import EVALUATIONS, flop_per_step, multiplying, steps_for
from shoal.studies.language_scores import best_steps, measured
from shoal.studies.language_tables import in_groups
from shoal.tasks.build import build_model
from shoal.tasks.text.ngram import ngram_baseline
from shoal.tasks.text.units import count_text

WORDS = ["to", "be", "or", "not", "that", "is", "the", "question", "whether", "tis", "nobler", "in", "mind"]
SMALL = {"context_length": ["8"], "embedding_size": ["8"], "n_steps": ["20"], "warmup_steps": ["2"]}


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "words.txt"
    path.write_text("\n".join(" ".join(np.random.default_rng(seed).choice(WORDS, 9)) for seed in range(60)))
    return str(path)


def form_of(text, **more):
    return Form(quick=True, settings={"text": [text], **SMALL, **more})


@pytest.fixture(scope="module")
def lab(text, tmp_path_factory):
    form = form_of(text)
    path = tmp_path_factory.mktemp("language") / "lab"
    return shoal.train(form.specs(language), path, workers=1)


@pytest.fixture(scope="module")
def found(lab, text):
    """As it comes back from the lab's note."""
    return json.loads(json.dumps(language.measure_models(form_of(text), lab), allow_nan=False))


@pytest.fixture
def report(lab, found, text):
    return language.report(Results(lab, found), form_of(text))


def tables_of(report):
    return {table.name: table for section in report.sections for table in section.tables}


@pytest.mark.parametrize("quick", [True, False])
def test_both_models_cost_the_same(text, quick):
    specs = Form(quick, settings={"text": [text]}).specs(language)
    assert {spec.model for spec in specs} == {"lstm", "gpt"}
    assert len({(spec.model, spec.seed) for spec in specs}) == 2 * language.SEEDS[quick]
    for spec in specs:
        assert flop_per_step(spec) * spec.n_steps == pytest.approx(language.BUDGETS[quick], rel=0.02)
        assert spec.n_steps == EVALUATIONS * spec.eval_period
        model = build_model(spec)
        counted = sum(p.numel() for name, p in model.named_parameters() if not name.startswith("embedding"))
        assert multiplying(spec) == counted
        tied = spec.replace(share_embeddings=True)
        assert multiplying(tied) == counted  # the classifier multiplies whosever it is
    sizes = {multiplying(spec) for spec in specs}
    assert max(sizes) < 1.1 * min(sizes)


def test_steps_that_are_given_stay(text):
    given = {"task": "text", "text": text, "model": "lstm", "embedding_size": 8, "n_steps": 40}
    assert steps_for(1e9, given)["eval_period"] == 4
    specs = form_of(text).specs(language)
    assert {(spec.n_steps, spec.eval_period) for spec in specs} == {(20, 2)}


def test_without_a_text_there_is_one_line(tmp_path, capsys):
    assert main(["study", "run", "language", "--quick", "--lab", str(tmp_path / "lab")]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "study language needs --text" in line
    assert "language" in line
    assert not (tmp_path / "lab").exists()


def test_every_unit_is_computed_from_the_kept_model(lab, found, text):
    counts = found["counts"]
    data = lab.specs[lab.ids[0]].task_part.data()
    told = count_text(data.tokenizer.decode_bytes(data.valid[1:]), len(data.valid) - 1)
    assert counts == {"tokens": told.tokens, "characters": told.characters, "bytes": told.bytes, "words": told.words}
    best = lab.curves().group_by("run").agg(pl.col("valid_loss").min())
    for run, loss in best.iter_rows():
        assert found["runs"][run]["nats"] / counts["tokens"] == pytest.approx(loss, abs=1e-5)
        assert len(found["runs"][run]["by_position"]) == 8
        assert found["runs"][run]["nats_strided"] > 0
    assert len(found["ngrams"]) == 8
    assert all(own["nats"] > 0 for own in found["ngrams"])


def test_the_model_that_is_scored_is_the_best_that_was_kept(lab):
    best = best_steps(lab)
    curves = lab.curves()
    for run, step in best.items():
        own = curves.filter(pl.col("run") == run).sort("valid_loss", "step")
        assert step == own["step"][0]
        assert step in lab.model_files(run)


def test_of_the_kept_models_the_last_need_not_be_the_best():
    rows = [("a", 10, 2.0), ("a", 20, 1.5), ("a", 30, 1.7), ("b", 10, 1.0), ("b", 30, 1.2), ("c", 30, math.nan)]
    curves = pl.DataFrame(rows, ["run", "step", "valid_loss"], orient="row")
    kept = {"a": [20, 30], "b": [30], "c": [30]}
    records = SimpleNamespace(ids=list(kept), curves=lambda: curves, model_files=lambda run: dict.fromkeys(kept[run]))
    assert best_steps(records) == {"a": 20, "b": 30}


def test_ngrams_are_scored_on_the_tokens_of_the_models(lab, found):
    data = lab.specs[lab.ids[0]].task_part.data()
    train, valid, size = data.train.numpy(), data.valid.numpy(), data.tokenizer.vocabulary_size
    whole = ngram_baseline(train, valid, size)
    unigram = np.bincount(train, minlength=size)
    c, n, types = unigram[valid[0]], unigram.sum(), (unigram > 0).sum()
    first = -math.log((c + types / size) / (n + types))  # behind nothing, whatever the order
    for own, row in zip(found["ngrams"], whole.iter_rows(named=True), strict=True):
        assert own["order"] == row["order"]
        assert own["nats"] == pytest.approx(row["nats"] - first)
        assert len(own["by_position"]) == 8


def test_what_was_measured_does_not_depend_on_when(lab, found, text):
    assert json.loads(json.dumps(measured(form_of(text).specs(language), lab))) == found


def test_half_a_context_more_is_told_of_the_same_tokens(lab, found):
    run = lab.ids[0]
    spec = lab.specs[run]
    data, model = spec.task_part.data(), lab.model(run, found["runs"][run]["step"])
    gains = []
    with torch.no_grad():
        for target in range(9, len(data.valid)):  # behind the first block of 8
            seen = (target - 1) % 8 + 1
            if seen <= 4:
                pair = []
                for length in (seen, seen + 4):
                    logits = model(data.valid[target - length : target].unsqueeze(0))[0][0, -1].double()
                    pair.append(-float(logits.log_softmax(-1)[data.valid[target]]))
                gains.append(pair[0] - pair[1])
    assert found["runs"][run]["gain"] == pytest.approx(np.mean(gains), abs=1e-6)


@pytest.mark.parametrize(("S", "per_doubling"), [(1, 1), (8, 1), (13, 2), (64, 2), (64, 1)])
def test_places_are_grouped_once_each(S, per_doubling):
    long = pl.DataFrame({"run": "a", "model": "m", "position": range(1, S + 1), "loss": [float(s) for s in range(S)]})
    grouped = in_groups(long, per_doubling)
    assert [grouped["first"][0], grouped["last"][-1]] == [1, S]
    assert grouped["first"].to_list()[1:] == [last + 1 for last in grouped["last"].to_list()[:-1]]
    assert grouped["loss"].to_list() == pytest.approx([position - 1 for position in grouped["position"]])


def test_differences_are_paired_and_corrected_together(found, lab):
    scored = language._scored(Results(lab, found))
    name, loss = language.best_ngram(found)
    tests = language.compared(scored, (name, loss))
    more = [f"{model}, 4 more tokens before" for model in ("LSTM", "GPT")]
    assert tests["what"].to_list() == ["GPT − LSTM", f"LSTM − {name}", f"GPT − {name}", *more]
    own = {
        model: np.array(scored.filter(model=model).sort("seed")["nats_per_token"].to_list())
        for model in ("LSTM", "GPT")
    }
    expected = [
        stats.ttest_rel(own["GPT"], own["LSTM"]).pvalue,
        stats.ttest_1samp(own["LSTM"], loss).pvalue,
        stats.ttest_1samp(own["GPT"], loss).pvalue,
        *(stats.ttest_1samp(scored.filter(model=model)["gain"], 0).pvalue for model in ("LSTM", "GPT")),
    ]
    assert tests["p"].to_list() == pytest.approx(expected)
    assert tests["p_holm"].to_list() == pytest.approx(holm(expected))
    low, high = stats.ttest_rel(own["GPT"], own["LSTM"]).confidence_interval()
    assert tests.row(0, named=True)["low"] == pytest.approx(low)
    assert tests.row(0, named=True)["high"] == pytest.approx(high)


def test_the_report_shows_what_it_says(report, found):
    tables = tables_of(report)
    assert {"units", "differences", "context", "ngrams", "spent", "runs"} <= tables.keys()
    figures = [figure for section in report.sections for figure in section.figures]
    assert [figure.name for figure in figures] == ["loss-compute", "context"]
    for figure in figures:
        assert figure.spec["datasets"]
        assert in_words(figure)
        assert not foreign_signs(figure.spec)
        assert language.best_ngram(found)[0] in json.dumps(figure.spec)
    for table in tables.values():
        assert all(len(cells) == len(table.header) - 1 for _, cells in table.rows)
        assert unset_in_latex(table.to_latex()) == []
        assert dressed_numbers(table.to_csv()) == []
    units = tables["units"].data
    assert units is not None
    for model in ("LSTM", "GPT"):
        own = {row["unit"]: row["mean"] for row in units.filter(model=model).iter_rows(named=True)}
        counts = found["counts"]
        assert own["bits_per_byte"] * counts["bytes"] * math.log(2) == pytest.approx(
            own["nats_per_token"] * counts["tokens"]
        )
    assert sum("paired by seed (3 pairs)" in answer for answer in report.answers) == 1
    assert any(" FLOP" in answer for answer in report.answers)


def test_intervals_of_one_seed_do_not_exist(lab, found, text):
    results = Results(lab.where(seed=0), found)
    report = language.report(results, replace(form_of(text), seeds=1))
    for row in tables_of(report)["differences"].data.iter_rows(named=True):
        assert (row["n"], row["low"], row["p"], row["p_holm"]) == (1, None, None, None)
    assert sum("too few runs to test whether that is more than chance" in answer for answer in report.answers) == 3
    assert not any("they help" in answer for answer in report.answers)


def test_one_model_alone_is_shown(lab, found, text):
    report = language.report(Results(lab.where(model="gpt"), found), form_of(text, model=["gpt"]))
    assert tables_of(report)["differences"].data["what"][0] == f"GPT − {language.best_ngram(found)[0]}"


def test_before_it_is_measured_the_curves_are_shown(lab, text):
    report = language.report(Results(lab), form_of(text))
    assert [figure.name for section in report.sections for figure in section.figures] == ["loss-compute"]
    assert any("Not measured" in answer for answer in report.answers)


def test_a_difference_that_is_there_is_found():
    rows = [
        {
            "run": f"{model}{seed}",
            "model": model,
            "seed": seed,
            "gain": None,
            "nats_per_token": 2 + shift + 0.1 * seed + 0.001 * seed * shift,
        }
        for model, shift in (("LSTM", 0.0), ("GPT", 0.2))
        for seed in range(4)
    ]
    tests = language.compared(pl.DataFrame(rows), ("5-gram", 2.2))
    paired = tests.row(0, named=True)
    assert (paired["difference"], paired["n"]) == (pytest.approx(0.2003), 4)
    assert paired["p_holm"] < 1e-6  # though seeds scatter as much as models differ
    assert tests.row(1, named=True)["p_holm"] > 0.05


def test_the_study_runs_from_the_command_line(text, tmp_path, capsys):
    lab = tmp_path / "lab"
    small = [word for name, (value,) in SMALL.items() for word in (f"--{name.replace('_', '-')}", value)]
    words = ["--quick", "--seeds", "1", "--workers", "1", "--lab", str(lab), "--text", text, *small]
    assert main(["study", "run", "language", *words]) == 0
    told = capsys.readouterr().out
    assert "measuring for language" in told
    (note,), _ = Lab(lab).study_notes("language")
    assert note["measured"]["runs"].keys() == set(note["runs"])
    assert main(["study", "report", "language", "--lab", str(lab)]) == 0
    assert (capsys.readouterr().out.split("report: ")[1]) == told.split("report: ")[1]


def test_all_studies_are_those_that_need_nothing_more(tmp_path, capsys, monkeypatch):
    asked = {}

    def run_studies(studies, form, path, execution, is_dry):
        asked.update(studies)
        return 0

    monkeypatch.setattr("shoal.commands.questions.run_studies", run_studies)
    assert main(["study", "run", "--all", "--quick", "--lab", str(tmp_path / "lab")]) == 0
    others = ("language", "translation", "embeddings", "pig-latin", "adapters", "letters")
    assert list(asked) == [name for name in NAMES if name not in others]
    told = capsys.readouterr().out
    assert "--text" in told and "--source" in told


@pytest.mark.parametrize("flag", ["--threshold", "--stay"])
@pytest.mark.parametrize("study", [["language"], ["improve", "--task", "text"]])
def test_there_is_no_time_to_generalise_on_a_text(text, tmp_path, capsys, flag, study):
    value = {"--threshold": "0.5", "--stay": "2"}[flag]
    words = [*study, "--text", text, flag, value, "--quick", "--lab", str(tmp_path / "lab")]
    assert main(["study", "run", *words]) == 2
    assert f"{flag} does not apply" in capsys.readouterr().err


# variants of a GPT


def improve_form(text):
    small = {name: value for name, value in SMALL.items() if name != "warmup_steps"}
    return Form(quick=True, seeds=2, settings={"task": ["text"], "text": [text], **small, "n_steps": ["101"]})


def test_improve_has_a_baseline_of_text(text):
    specs = improve_form(text).specs(improve)
    names = improve_form(text).names(improve)
    assert set(names.values()) == improve.TEXT_VARIANTS.keys()
    assert len(specs) == 2 * len(improve.TEXT_VARIANTS)
    assert len(improve.TEXT_VARIANTS) == len(improve.VARIANTS)
    (base,) = {spec.replace(seed=0, optimizer="adamw") for spec in specs if names[spec.id] == improve.BASELINE}
    assert (base.task, base.lr_schedule, base.warmup_steps, base.weight_decay) == ("text", "cosine", 100, 0.1)
    for quick, seeds in ((True, 10), (False, 12)):
        whole = Form(quick, settings={"task": ["text"], "text": [text]})
        assert len({spec.seed for spec in whole.specs(improve)}) == seeds
        assert (len(improve.TEXT_VARIANTS) - 1) * 2 / 2**seeds < 0.05  # the smallest corrected p


@pytest.mark.slow
def test_improve_compares_losses_on_a_text(text, tmp_path):
    form = improve_form(text)
    records = shoal.train(form.specs(improve), tmp_path / "lab", workers=1)
    report = improve.report(Results(records), form)
    tables = tables_of(report)
    assert [name for name in tables if name.startswith(("effects", "times"))] == ["effects-loss"]
    (effects,) = (table for name, table in tables.items() if name == "effects-loss")
    assert [name for name, _ in effects.rows] == [name for name in improve.TEXT_VARIANTS if name != "baseline"]
    assert dict(tables["variants"].rows)["constant rate"][0].text == "lr_schedule constant, lr_floor 0"
    extrema = records.extrema().join(records.runs().select("run", "seed"), on="run", suffix="_own")
    extrema = extrema.with_columns(name=pl.col("run").replace_strict(form.names(improve)))
    own = {name: extrema.filter(name=name).sort("seed")["valid_loss"].to_numpy() for name in ("baseline", "SwiGLU")}
    row = effects.data.filter(variant="SwiGLU").row(0, named=True)
    assert row["mean_difference"] == pytest.approx(float((own["SwiGLU"] - own["baseline"]).mean()), rel=1e-5)
    assert any("for all 17 comparisons" in answer for answer in report.answers)
    assert not any("A_val" in answer for answer in report.answers)


def test_improve_does_not_mix_tasks(text):
    with pytest.raises(UserError, match="task takes one value"):
        Form(quick=True, settings={"task": ["text", "arithmetic"], "text": [text]}).specs(get_study("improve"))
