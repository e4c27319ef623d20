"""The study of translation and the reproduction of Multi30k on tiny texts: what is measured, said, and refused."""

import itertools
import json
import math
import re
import sys
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
import torch
from pair_files import parallel, sentences
from shown import dressed_numbers, foreign_signs, in_words, unset_in_latex

import shoal
from shoal.analysis.corpus_scores import chrf2
from shoal.analysis.forced import forced, forced_shuffled, free_right, some_pairs, with_other_sources
from shoal.analysis.prediction import fit_log_normal, predict
from shoal.analysis.sentence_scores import CHRF2, text_scores
from shoal.cli import main
from shoal.errors import UserError
from shoal.lab import Lab
from shoal.report.each_run import model_label
from shoal.report.words import number
from shoal.studies import Form, Results, translation
from shoal.studies.reproductions import multi30k
from shoal.studies.reproductions.scores import PublishedScore, compare_score, judge_scores
from shoal.studies.reproductions.verdict import CONSISTENT, INCONSISTENT, NOT_RUN, TOO_FEW
from shoal.studies.translation_answers import _gained, answers_of, apart_of, still_falling
from shoal.studies.translation_samples import attention_maps, examples
from shoal.studies.translation_scores import GREEDY, by_length, encoded, families, oddities
from shoal.tasks.build import count_run_parameters
from shoal.tasks.pairs.codec import codec_of
from shoal.tasks.pairs.data import Pairs

ORDER = tuple(translation.OWN)
SMALL = {
    "embedding_size": ["8"],
    "n_steps": ["6"],
    "eval_period": ["3"],
    "warmup_steps": ["2"],
    "train_batch_size": ["20"],
    "min_frequency": ["1"],
    "max_length": ["12"],
}


def settings(folder, **more):
    files = parallel(folder, 40, 12)
    german, english = sentences(76)
    for name, lines in (("test_source", german[52:76]), ("test_target", english[52:76])):
        path = folder / f"{name}.txt"
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", newline="\n")
        files[name] = str(path)
    return {name: [path] for name, path in files.items()} | SMALL | more


@pytest.fixture(scope="module")
def form(tmp_path_factory):
    return Form(quick=True, seeds=2, settings=settings(tmp_path_factory.mktemp("pairs")))


@pytest.fixture(scope="module")
def lab(form, tmp_path_factory):
    return shoal.train(form.specs(translation), tmp_path_factory.mktemp("translation") / "lab", workers=1)


@pytest.fixture(scope="module")
def found(form, lab):
    """As it comes back from the lab's note."""
    return json.loads(json.dumps(translation.measure_models(form, lab), allow_nan=False))


def pairs_of(n=20):
    random = np.random.default_rng(0)
    rows = [[list(random.integers(4, 9, random.integers(1, 6))) for _ in range(n)] for _ in range(2)]
    return Pairs.of(*rows)


def model_of(family, lab):
    return next((lab.model(run), spec) for run, spec in lab.specs.items() if spec.model == family)


# the files


def test_a_test_split_is_no_part_of_a_run(form):
    without = {name: value for name, value in form.settings.items() if not name.startswith("test_")}
    other = Form(quick=True, seeds=2, settings=without)
    assert [spec.id for spec in other.specs(translation)] == [spec.id for spec in form.specs(translation)]
    split, sources, targets = form.specs(translation)[0].task_part.final_lines()
    assert (split, len(sources), len(targets)) == ("test", 24, 24)
    assert other.specs(translation)[0].task_part.final_lines()[0] == "valid"


@pytest.mark.parametrize("missing", ["test_source", "test_target"])
def test_half_a_test_split_is_refused(form, missing):
    half = {name: value for name, value in form.settings.items() if name != missing}
    with pytest.raises(UserError, match=f"missing: --{missing.replace('_', '-')} FILE"):
        Form(quick=True, settings=half).specs(translation)


def test_a_test_split_has_as_many_targets_as_sources(form, tmp_path):
    path = tmp_path / "short.txt"
    path.write_text("a dog sleeps.\n")
    specs = Form(quick=True, settings=form.settings | {"test_target": [str(path)]}).specs(translation)
    with pytest.raises(UserError, match=r"as many lines, got 24 in .* and 1 in"):
        specs[0].task_part.final_lines()


@pytest.mark.parametrize("words", [["study", "run", "translation"], ["reproduce", "multi30k"]])
def test_without_files_there_is_one_line(tmp_path, capsys, words):
    assert main([*words, "--quick", "--lab", str(tmp_path / "lab")]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert " needs" in line and "--source" in line
    assert not (tmp_path / "lab").exists()


@pytest.mark.parametrize("words", [["study", "run", "translation"], ["reproduce", "multi30k"]])
@pytest.mark.parametrize("dry", [[], ["--dry-run"]])
@pytest.mark.parametrize("wrong", [None, "a dog sleeps.\n"])
def test_a_wrong_test_split_is_told_before_anything_is_done(form, tmp_path, capsys, words, dry, wrong):
    path, lab = tmp_path / "wrong.en", tmp_path / "lab"
    if wrong is not None:
        path.write_text(wrong)
    given = {name: values[0] for name, values in form.settings.items()} | {"test_target": str(path)}
    flags = [word for name, value in given.items() for word in (f"--{name.replace('_', '-')}", value)]
    assert main([*words, "--quick", *flags, "--lab", str(lab), *dry]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert str(path) in line
    assert not lab.exists()


@pytest.mark.parametrize("words", [["study", "run", "translation"], ["reproduce", "multi30k"]])
def test_scores_that_cannot_be_computed_are_told_before_anything_is_done(form, tmp_path, capsys, monkeypatch, words):
    monkeypatch.setitem(sys.modules, "sacrebleu", None)  # as where it is not installed
    flags = [word for name, (value,) in form.settings.items() for word in (f"--{name.replace('_', '-')}", value)]
    assert main([*words, "--quick", *flags, "--lab", str(tmp_path / "lab")]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "pip install 'shoal[translation]'" in line
    assert not (tmp_path / "lab").exists()


# what is measured


def test_a_token_is_forced_as_training_scores_it(form, lab, found):
    without = {name: value for name, value in form.settings.items() if not name.startswith("test_")}
    specs = Form(quick=True, seeds=2, settings=without).specs(translation)
    _, sources, targets = specs[0].task_part.final_lines()
    (own, *_) = families(specs, lab)
    pairs, out = encoded(own.codec, sources, targets)
    assert not out
    curves = lab.curves()
    for models in families(specs, lab):
        for run, model in models.models.items():
            loss = forced(model, models.reads, pairs).total / int(pairs.target_length.sum())
            recorded = curves.filter(run=run, step=models.steps[run])["valid_loss"][0]
            assert loss == pytest.approx(recorded, abs=1e-5)
    for run, own in found["runs"].items():
        assert own["nats"] > 0 and own["step"] in lab.model_files(run)
        assert sum(n for n, _, _ in own["by_position"]) == own["tokens"] == found["tokens"]


def test_forcing_is_one_pair_at_a_time(lab):
    pairs = pairs_of()
    for family in ("encoder_decoder", "encoder_translator"):
        model, spec = model_of(family, lab)
        reads = spec.model_part.reads
        whole = forced(model, reads, pairs, at_once=7)
        for row in range(len(pairs)):
            alone = Pairs(*(part[row : row + 1] for part in pairs.tensors.values()))
            one = forced(model, reads, alone)
            assert torch.allclose(one.nats[0], whole.nats[row], atol=1e-5)
        assert whole.tokens == int(pairs.target_length.sum())


def test_a_shuffled_history_shows_nothing_that_comes_later(lab):
    pairs = pairs_of()
    model, _ = model_of("encoder_decoder", lab)
    plain, shuffled = forced(model, "pair", pairs), forced_shuffled(model, pairs, at_once=8)
    assert torch.allclose(plain.nats[:, :2], shuffled.nats[:, :2], atol=1e-5)  # nothing, or one token, to shuffle
    assert not torch.allclose(plain.nats, shuffled.nats, atol=1e-5)
    late = pairs.target.clone()
    late[:, 3:] = torch.where(late[:, 3:] > 2, 11 - late[:, 3:], late[:, 3:])  # other words behind the third
    changed = Pairs(pairs.source, late, pairs.source_length, pairs.target_length)
    assert torch.allclose(forced_shuffled(model, changed, at_once=8).nats[:, :3], shuffled.nats[:, :3], atol=1e-5)


def test_no_sentence_keeps_its_own_source():
    pairs = pairs_of(30)
    numbered = Pairs(torch.arange(30).unsqueeze(1), pairs.target, pairs.source_length, pairs.target_length)
    other = with_other_sources(numbered)
    assert sorted(other.source[:, 0].tolist()) == list(range(30))
    assert (other.source[:, 0] != torch.arange(30)).all()
    assert torch.equal(other.target, pairs.target)
    assert (other.source_length - pairs.source_length).abs().sort().values[:-1].max() <= 1


def test_free_running_is_compared_place_by_place():
    pairs = Pairs.of([[4], [4]], [[5, 6, 7], [5]])
    right = free_right([(5, 7, 7, 2, 4), ()], pairs)
    assert right.tolist() == [[True, False, True, True], [False] * 4]
    assert len(some_pairs(pairs, 5)) == 2


def test_odd_texts_are_counted(lab):
    codec = codec_of(lab.kept(lab.ids[0]))
    odd = oddities(["a a dog", "a dog", ""], [(5, 5, 6), (3, 6), ()], ["a dog", "the dog", "a"], codec)
    assert odd == {"repeating": 1 / 3, "unknown": 1 / 3, "length": 1.0}


def test_pairs_without_a_perplexity_are_left_out(lab):
    codec = codec_of(lab.kept(lab.ids[0]))
    long = " ".join(["hund"] * 13)
    pairs, out = encoded(codec, ["ein hund", "", long], ["a dog", "a", "a"])
    assert (len(pairs), out) == (1, {1, 2})
    with pytest.raises(UserError, match="none of the 1 pairs"):
        encoded(codec, [""], ["a"])


def test_what_was_written_is_in_the_lab_with_its_scores(lab, found):
    decodes = {decode.id: decode for decode in lab.decodes("test")}
    kept = lab.scores()
    searches = {(run, search): own for run, about in found["runs"].items() for search, own in about["searches"].items()}
    assert len(searches) == 2 * (1 + 1 + 2 + 2)  # models that answer at once are not searched
    for (run, search), own in searches.items():
        assert decodes[own["decode"]].run == run
        row = next(
            row
            for row in found["scores"]
            if row["model"] == found["runs"][run]["model"] and row["search"] == search and row["name"] == CHRF2
        )
        value = kept.filter(decode=own["decode"], score=CHRF2)["value"].item()
        assert row["by_seed"][found["runs"][run]["seed"]] == pytest.approx(value)
        assert row["signature"] == kept.filter(decode=own["decode"], score=CHRF2)["signature"].item()


def test_differences_are_paired_and_corrected_together(found):
    assert len(found["differences"]) == 2 * (6 + 2)  # scores; pairs of families, and beams against greedy search
    for row in found["differences"]:
        model, search = row["first"].split(", ")
        other, by = row["second"].split(", ")
        means = [
            own["score"]
            for name, how in ((model, search), (other, by))
            for own in found["scores"]
            if (own["model"], own["search"], own["name"]) == (name, how, row["name"])
        ]
        assert row["score"] == pytest.approx(means[0] - means[1])
        assert row["corrected"] >= row["p"]


def test_maps_are_of_the_tokens_that_were_written(found):
    assert found["maps"]
    for own in found["maps"]:
        assert {panel["model"] for panel in own["panels"]} == {
            "encoder_decoder",
            "lstm_encoder_decoder",
            "non_autoregressive",
        }
        for panel in own["panels"]:
            assert np.sum(panel["weights"], axis=1) == pytest.approx(1, abs=0.01)
            assert np.shape(panel["weights"]) == (len(panel["queries"]), len(panel["keys"]))
            assert panel["keys"][-1] == "EOS"


def test_a_family_that_reads_both_as_one_sequence_has_no_map(form, lab):
    own = families(form.specs(translation), lab)[0]
    joined = SimpleNamespace(reads="sequence", name="gpt", codec=own.codec)
    assert attention_maps([joined], {"gpt": "run"}, ["ein kleiner hund rennt ."]) == []


def test_examples_are_the_worst_the_middle_and_the_best(found):
    references = [f"a dog sleeps {word}." for word in ("here", "there", "now", "then", "alone", "well", "long", "ill")]
    texts = [text[: 2 + 2 * place] for place, text in enumerate(references)]  # each is more of its reference
    order = [3, 0, 7, 5, 1, 6, 2, 4]
    wanted, written = ([lines[place] for place in order] for lines in (references, texts))
    answered = SimpleNamespace(best=lambda run: written)
    own = SimpleNamespace(
        name="encoder_decoder",
        runs={0: "run"},
        scores={GREEDY: text_scores([written], [wanted])},
        answers={GREEDY: answered},
    )
    shown = examples([own], {"encoder_decoder": "run"}, wanted, wanted)
    assert [one["kind"] for one in shown] == ["worst"] * 2 + ["median"] * 2 + ["best"] * 2
    assert [order[one["line"] - 1] for one in shown] == [0, 1, 3, 4, 7, 6]
    assert [one["answers"]["encoder_decoder"] for one in shown] == [texts[place] for place in (0, 1, 3, 4, 7, 6)]
    assert len(found["examples"]) == 6


def test_lengths_are_grouped():
    sources = [" ".join(["word"] * n) for n in (1, 2, 2, 3, 4, 5, 5, 6, 7, 9, 9, 12)]
    written = ["right." if place % 3 else "wrong." for place in range(12)]
    own = SimpleNamespace(name="any", scores={GREEDY: text_scores([written, written], [["right."] * 12])})
    rows = by_length([own], sources)
    assert [(row["low"], row["high"], row["lines"]) for row in rows] == [(1, 2, 3), (3, 5, 4), (6, 7, 2), (9, 12, 3)]
    assert [row["exact"] for row in rows] == pytest.approx([200 / 3, 50, 100, 200 / 3])


# the page


def test_the_page_shows_figures_tables_and_answers(lab, found, form):
    report = translation.report(Results(lab, found), form)
    figures = [figure for section in report.sections for figure in section.figures]
    assert {"curves", "positions", "lengths", "attention-1"} <= {figure.name for figure in figures}
    for figure in figures:
        assert figure.spec["datasets"]
        assert figure.spec["config"]["legend"]["labelLimit"] >= 7 * max(
            map(len, map(model_label, ORDER))
        )  # none is cut
        assert in_words(figure)
        assert foreign_signs(figure.spec) <= set("äöüß")  # of the text
    tables = {table.name: table for section in report.sections for table in section.tables}
    for table in tables.values():
        assert all(len(cells) == len(table.header) - 1 for _, cells in table.rows)
        assert unset_in_latex(table.to_latex()) == []
        assert dressed_numbers(table.to_csv()) == []
    assert "tok:13a" in tables["scores"].caption
    assert any(form.flags() in paragraph for paragraph in report.sections[-1].paragraphs)


def test_answers_are_of_the_numbers(found):
    told = answers_of(found)
    runs = [own for own in found["runs"].values() if own["model"] == "encoder_decoder"]
    mean = math.exp(sum(own["nats"] / own["tokens"] for own in runs) / len(runs))
    assert any(f"{mean:.3g}" in line for line in told if line.startswith("encoder-decoder"))
    assert not any("validation split (" in line for line in told)
    flattering = answers_of(found | {"split": "valid"})
    assert any("no test split was given" in line for line in flattering)


def test_exchanged_inputs_are_told_with_what_they_are_no_measure_of(found):
    told = {line.split(":")[0]: line for line in answers_of(found) if "random order" in line}
    assert set(told) == {"encoder-decoder", "LSTM encoder-decoder"}
    for line in told.values():
        assert "never trained" in line.split("random order")[1] and "misleads" in line
    assert "cross-attention alone" in told["encoder-decoder"]
    assert "cross-attention alone" not in told["LSTM encoder-decoder"]  # its first state is the encoder's last
    reasons = [line for line in answers_of(found) if "teacher forcing" in line and "cross-attention" in line]
    assert len(reasons) == 1 and "is not measured for the LSTM encoder-decoder." in reasons[0]
    alone = found | {"runs": {run: own for run, own in found["runs"].items() if own["model"] != "encoder_translator"}}
    assert not any(line in reasons for line in answers_of(alone))


def test_both_steps_from_the_translator_to_the_encoder_decoder_are_told(found):
    (line,) = [line for line in answers_of(found) if "BOS in place of every" in line]
    nats, bleu = {}, {}
    for model in ("encoder_translator", "non_autoregressive", "encoder_decoder"):
        runs = [own for own in found["runs"].values() if own["model"] == model]
        nats[model] = np.mean([own["nats"] / own["tokens"] for own in runs])
        (bleu[model],) = [
            own["score"]
            for own in found["scores"]
            if (own["model"], own["search"], own["name"]) == (model, GREEDY, "BLEU")
        ]
    parts = line.partition("Beside that, the history")
    for (first, second), part in zip(itertools.pairwise(nats), parts[::2], strict=True):
        for gained, unit in ((nats[first] - nats[second], "nats per token"), (bleu[second] - bleu[first], "BLEU")):
            verb = "gains" if gained >= 0 else "loses"
            assert re.search(rf"{verb} {re.escape(number(abs(gained)))} \[[^]]*\] {unit}", part)
    assert "a decoder with cross-attention" in parts[0] and "paired over 2 seeds" in line
    runs = {run: own for run, own in found["runs"].items() if (own["model"], own["seed"]) != ("encoder_translator", 1)}
    assert any("paired over 1 seed," in line for line in answers_of(found | {"runs": runs}))
    none = {run: own for run, own in runs.items() if (own["model"], own["seed"]) != ("non_autoregressive", 0)}
    assert not any("BOS in place of" in line for line in answers_of(found | {"runs": none}))
    without = {run: own for run, own in found["runs"].items() if own["model"] != "non_autoregressive"}
    answers = answers_of(found | {"runs": without})
    assert not any("BOS in place of" in line for line in answers)
    assert any(
        line.endswith("is not measured: that would take models trained without one of them.") for line in answers
    )


def test_gains_and_losses_are_told_as_such(lab, found):
    assert _gained(0.4, 0.1, 0.7) == "gains 0.4 [0.1, 0.7]" and _gained(-0.4, -0.7, 0.1) == "loses 0.4 [−0.1, 0.7]"


def test_runs_that_might_have_become_better_are_counted(lab, found):
    results = Results(lab, found)
    (told,) = still_falling(results, found | {"runs": {run: own | {"step": 6} for run, own in found["runs"].items()}})
    assert told.count("2 of 2 runs") == 4 and "non-autoregressive encoder-decoder 2 of 2" in told
    assert (
        still_falling(results, found | {"runs": {run: own | {"step": 3} for run, own in found["runs"].items()}}) == []
    )


def test_what_else_families_differ_in_is_told(lab, found):
    (line,) = apart_of(Results(lab, found), found)
    for spec in lab.specs.values():
        assert f"{count_run_parameters(spec):,} " in line and f"({spec.lr:g})" in line
        assert spec.model_part.describe() in line
    assert "norms post" in line and "norms pre" in line and line.count("norms") == 3  # an LSTM has none


def test_of_runs_that_are_not_measured_the_page_has_curves(lab, form):
    report = translation.report(Results(lab), form)
    assert [figure.name for section in report.sections for figure in section.figures] == ["curves"]
    assert "Not measured" in report.answers[0]


# the reproduction


SCORE = PublishedScore("a score", 36.5, "someone", "BLEU")


def test_a_published_score_is_judged_by_one_more_run():
    ours = [35.9, 36.2, 36.6, 36.9]
    near = compare_score(SCORE, ours)
    expected = predict(fit_log_normal(ours, [True] * 4), 36.5)
    assert (near.word, near.prediction) == (CONSISTENT, expected)
    assert compare_score(SCORE, [36.0]).word == TOO_FEW
    assert compare_score(SCORE, []).word == NOT_RUN
    results = type("Any", (), {"of": lambda self, **where: type("Some", (), {"specs": dict.fromkeys("abcd")})()})()

    def judged(values):
        (verdict,) = judge_scores([SCORE], {"BLEU": dict(zip("abcd", values, strict=True))}, results)
        return verdict.word

    assert judged(ours) == CONSISTENT
    assert judged([30.9, 31.2, 31.6, 31.9]) == INCONSISTENT
    assert judged([30.0, 33.0, 37.0, 41.0]) == TOO_FEW


@pytest.mark.parametrize("quick", [True, False])
def test_the_card_holds_the_published_settings(tmp_path, quick):
    files = {name: value for name, value in settings(tmp_path).items() if name not in SMALL}
    specs = Form(quick, settings=files).specs(multi30k)
    spec = specs[0]
    assert len(specs) == multi30k.SEEDS[quick]
    assert (spec.optimizer, spec.warmup_steps, spec.clip, spec.lowercase) == ("adam", 0, 1.0, True)
    sizes = (spec.num_encoder_layers, spec.num_decoder_layers, spec.embedding_size, spec.num_heads, spec.multiplier)
    assert quick or sizes == (3, 3, 256, 8, 2)
    wanted = multi30k.PUBLISHED[0].where
    assert all(spec.get(name) == value for name, value in wanted.items()) != quick


def test_lower_case_tokens_are_scored():
    assert multi30k.tokenised("Two <unk> don't sleep.") == "two ⁇ don 't sleep ."


def test_a_mean_over_batches_counts_each_batch_alike():
    nats, tokens, lengths = [1.0, 9.0, 2.0, 4.0], [1, 3, 2, 2], [(1, 1), (4, 4), (2, 2), (2, 3)]
    # by both lengths: (1, 1) | (2, 2) (2, 3) | (4, 4), in batches of two
    assert multi30k.batch_mean(nats, tokens, lengths, 2) == pytest.approx(((1 + 2) / 3 + (4 + 9) / 5) / 2)
    assert multi30k.batch_mean(nats, tokens, lengths, 9) == pytest.approx(16 / 8)


@pytest.mark.slow
def test_the_card_is_trained_measured_and_judged(tmp_path, capsys):
    files = settings(tmp_path) | {"warmup_steps": ["0"]}
    own = [word for name, (value,) in files.items() for word in (f"--{name.replace('_', '-')}", value)]
    words = ["reproduce", "multi30k", "--quick", "--workers", "1", "--lab", str(tmp_path / "lab"), *own]
    assert main(words) == 0
    (note,), _ = Lab(tmp_path / "lab").study_notes("multi30k")
    assert note["measured"]["tokenised"].keys() == note["measured"]["batch_means"].keys() == set(note["runs"])
    told = capsys.readouterr().out
    assert "none of our runs has these settings" in told


def test_chrf_of_a_group_is_the_mean_of_its_sentences(form, lab, found):
    models = families(form.specs(translation), lab)[0]
    texts = {decode.run: decode.hypotheses for decode in lab.decodes("test")}
    _, sources, references = form.specs(translation)[0].task_part.final_lines()
    scored = text_scores([texts[run] for run in models.runs.values()], [references])
    single = chrf2(scored.statistics[CHRF2].values).mean(axis=0)
    words = np.array([len(line.split()) for line in sources])
    rows = pl.DataFrame(found["by_length"]).filter(model=models.name)
    for row in rows.to_dicts():
        inside = (words >= row["low"]) & (words <= row["high"])
        assert row["chrf"] == pytest.approx(single[inside].mean())
