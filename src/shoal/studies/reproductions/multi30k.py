"""Reproduction of Multi30k, German to English, by a transformer encoder-decoder of three layers on either side.

Source: Trevett, "PyTorch Seq2Seq", tutorial 6 ("Attention is All You Need"), by its code and its notebook.
"""

import math
import sys
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from shoal.analysis.forced import forced
from shoal.analysis.sentence_scores import BLEU, text_scores
from shoal.lab import Records
from shoal.report import Report, Section
from shoal.report.summary import provenance
from shoal.spec import RunSpec
from shoal.studies.base import Form, Grid
from shoal.studies.reproductions.page import ABOUT_DEVIATIONS, BESIDE
from shoal.studies.reproductions.scores import (
    SCORE_RULE,
    PublishedScore,
    judge_scores,
    scores_beside,
    told_scores,
)
from shoal.studies.results import Results
from shoal.studies.translation import learning_curves
from shoal.studies.translation_scores import GREEDY, encoded, families, measured
from shoal.studies.translation_tables import examples_table, map_figures, scored_lines, scores_table
from shoal.tasks.build import calling
from shoal.tasks.pairs.vocabulary import UNKNOWN
from shoal.tasks.pairs.words import split_words

TITLE = "Reproduction: Multi30k by Trevett's transformer"
SOURCE = (
    "Ben Trevett, PyTorch Seq2Seq, tutorial 6 (Attention is All You Need): Multi30k, German to English, one run: test "
    "perplexity 5.32 and BLEU 36.52; settings from its code."
)
NEEDS = ("source", "target", "valid_source", "valid_target")
SCORED = ("BLEU", "chrF2")  # of answers, when the runs are done
SETTINGS: Mapping[str, Any] = {
    "task": "translation",
    "model": "encoder_decoder",
    "tokenizer": "words",
    "vocabularies": "separate",
    "min_frequency": 2,
    "lowercase": True,
    "max_length": 99,  # and EOS: 100 positions
    "too_long": "cut",
    "num_layers": 3,
    "embedding_size": 256,
    "num_heads": 8,
    "multiplier": 2,
    "non_linearity": "relu",
    "norm": "layernorm",
    "norm_position": "post",
    "positions": "learned",
    "scale_embeddings": True,
    "initialisation": "xavier_weights",
    "dropout": 0.1,
    "dropout_at": "neurons_too",
    "tie_embeddings": "none",
    "optimizer": "adam",
    "lr": 5e-4,
    "lr_schedule": "constant",
    "lr_floor": 0.0,
    "warmup_steps": 0,
    "weight_decay": 0.0,
    "clip": 1.0,
    "train_batch_size": 128,
    "keep_best": True,
}
FULL: Mapping[str, Any] = {"n_steps": 2320, "eval_first": 0, "eval_period": 232}  # ten passes of 232 batches
QUICK: Mapping[str, Any] = {
    "num_layers": 2,
    "embedding_size": 128,
    "num_heads": 4,
    "train_batch_size": 64,
    "n_steps": 900,
    "lr": 1e-3,
    "eval_first": 0,
    "eval_period": 150,
}
SEEDS = {True: 2, False: 4}
LONGEST = 50  # tokens of an answer, as in the source
TOKENISED, PERPLEXITY = "BLEU of lower-case tokens", "perplexity of batch means"
BATCH = 128  # pairs of a batch of the source's evaluation
_WHERE = {name: SETTINGS[name] for name in ("embedding_size", "num_layers", "lr", "train_batch_size")}
_WHERE |= {"n_steps": FULL["n_steps"]}
PUBLISHED = (
    PublishedScore("test BLEU, lower-case tokens", 36.52, "notebook, one run", TOKENISED, _WHERE),
    PublishedScore("test perplexity of batch means", 5.32, "notebook, one run", PERPLEXITY, _WHERE),
)
DEVIATIONS = (
    "Tokens are ours, by rule, and not spaCy's: 8,040 and 5,993 of them stand in the vocabularies and not 7,853 and "
    "5,893. Perplexity and BLEU of tokens are of other tokens, therefore. But for these rows the model has "
    "theirs, parameter for parameter (9,038,341 there).",
    "BLEU of lower-case tokens is sacreBLEU's of our tokens between spaces (tok:none), theirs torchtext's of spaCy's; "
    "both count a word that is in no vocabulary as one token. Where every order matches, as here, both are the same "
    "function of the counts.",
    "The compared perplexity is computed as there: the exponential of the mean over batches of 128 pairs, sorted by "
    "both lengths, of each batch's mean loss per token. In it a token of a short sentence, which is easier, counts "
    "more. Every other perplexity here is the exponential of all nats over all tokens.",
    "Sources begin with no BOS; there they do.",
    "A pass has 232 batches and not 227, because each of 13 buckets of lengths ends in a smaller one; the model is "
    "evaluated behind each of ten passes, and the best by validation loss is scored, as there.",
)


CURVES = "loss and shares of tokens right while training, with the right tokens before each scored one."
SCORES = "what the same translations of the test split score by each convention."
EXAMPLES = "the worst, the middle and the best translations, beside source and reference."
MAPS = "a bright cell is a token of the source (column) that is read while one is written (row)."


def grids(quick: bool) -> list[Grid]:
    """Grid of ten epochs of the published model over four seeds; in the quick form, two of a smaller one over two."""
    return [Grid({**SETTINGS, **(QUICK if quick else FULL)}, {"seed": range(SEEDS[quick])})]


def measure_models(form: Form, records: Records) -> dict[str, Any]:
    """Answers of the kept models with their scores, and BLEU of lower-case tokens by run."""
    specs = form.specs(sys.modules[__name__])
    note = measured(specs, records, {GREEDY: None}, LONGEST)
    if not note:
        return note
    task: Any = specs[0].task_part
    _, _, references = task.final_lines()
    wanted = [tokenised(line) for line in references]
    hypotheses = {decode.id: decode.hypotheses for decode in records.decodes()}
    note["tokenised"] = {
        run: float(text_scores([[tokenised(line) for line in texts]], [wanted], "none").statistics[BLEU].corpus()[0])
        for run, entry in note["runs"].items()
        for texts in [hypotheses[entry["searches"][GREEDY]["decode"]]]
    }
    note["batch_means"] = _batch_means(specs, records)
    return note


def _batch_means(specs: Sequence[RunSpec], records: Records) -> dict[str, float]:
    """Mean over batches of the loss per token of each run's kept model, in nats, by run."""
    (family,) = families(specs, records)
    _, sources, references = family.spec.task_part.final_lines()  # type: ignore[attr-defined]  # of a translation
    pairs, _ = encoded(family.codec, sources, references)
    lengths = [(n - 1, m - 1) for n, m in zip(pairs.source_length.tolist(), pairs.target_length.tolist(), strict=True)]
    means = {}
    for run, model in family.models.items():
        losses = forced(model, family.reads, pairs, calling=calling(family.spec))
        nats, tokens = losses.nats.double().sum(1).tolist(), pairs.target_length.tolist()
        means[run] = batch_mean(nats, tokens, lengths)
    return means


def batch_mean(
    nats: Sequence[float], tokens: Sequence[int], lengths: Sequence[tuple[int, int]], size: int = BATCH
) -> float:
    """Mean over batches of each one's loss per token, in nats, as the source's evaluation takes it.

    Its batches are those of torchtext's ``BucketIterator`` without shuffling: pairs sorted by ``interleave_keys`` of
    both lengths, which takes the bits of the two numbers in turns.

    Args:
        nats: loss of each target, summed over its tokens.
        tokens: number of tokens of each target, EOS included.
        lengths: number of words of each source and target.
        size: number of pairs of a batch.
    """
    order = sorted(range(len(nats)), key=lambda pair: _interleaved(*lengths[pair]))
    batches = [order[start : start + size] for start in range(0, len(order), size)]
    return fmean(sum(nats[i] for i in batch) / sum(tokens[i] for i in batch) for batch in batches)


def _interleaved(a: int, b: int) -> int:
    """Number whose bits are those of ``a`` and of ``b`` in turns.

    >>> [_interleaved(1, 0), _interleaved(0, 1), _interleaved(3, 1), _interleaved(2, 2)]
    [2, 1, 11, 12]
    """
    return int("".join(f"{x}{y}" for x, y in zip(f"{a:016b}", f"{b:016b}", strict=True)), 2)


def tokenised(line: str) -> str:
    """Line as lower-case tokens between spaces; an unknown word is one token.

    >>> tokenised("A dog's <unk>, here.")
    "a dog 's ⁇ , here ."
    """
    return " ".join(token.strip() for token in split_words(line.lower().replace(UNKNOWN, "⁇")))


def ours(measured: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Our scores by name of a published score, by run; empty where they are not of a test split."""
    if not measured or measured["split"] != "test":
        return {}
    scores = {TOKENISED: dict(measured["tokenised"])}
    if "batch_means" in measured:  # earlier versions did not compute them
        scores[PERPLEXITY] = {run: math.exp(nats) for run, nats in measured["batch_means"].items()}
    return scores


def report(results: Results, form: Form) -> Report:
    """Report with the verdict first, then our scores by the usual conventions, curves, deviations and provenance."""
    measured = results.measured
    verdicts = judge_scores(PUBLISHED, ours(measured), results)
    changed = [] if not form.settings else [f"Settings changed for this report: {form.flags().strip()}."]
    numbered = [f"Deviation {place}: {text}" for place, text in enumerate(DEVIATIONS, 1)]
    sections = [Section("Beside the published numbers", [SCORE_RULE], tables=[scores_beside(verdicts)], about=BESIDE)]
    sections.append(Section("Learning curves", figures=[learning_curves(results)], about=CURVES))
    if measured:
        sections += [
            Section("Scores by the usual conventions", tables=[scores_table(measured)], about=SCORES),
            Section("Examples of the best run", tables=[examples_table(measured)], about=EXAMPLES),
            Section("Attention of its decoder", figures=map_figures(measured), about=MAPS),
        ]
    sections.append(
        Section("Source and deviations", [f"Source: {SOURCE}", *changed, *numbered], about=ABOUT_DEVIATIONS)
    )
    sections.append(provenance(results.records, f"shoal reproduce multi30k{form.flags()}"))
    return Report(
        title=form.title(TITLE),
        lead="Could what was published be a run of these settings?",
        answers=[*results.shortcomings(), *told_scores(verdicts), *_own_scores(measured)],
        sections=sections,
    )


def _own_scores(measured: Mapping[str, Any]) -> list[str]:
    """Sentences on the scores of our runs of this form, independent of the published ones."""
    if not measured:
        return ["Not measured yet: the same command again scores the kept models when the runs are done."]
    if measured["split"] != "test":
        return [
            f"Scores are of {scored_lines(measured)}; published ones are of a test split: --test-source, --test-target."
        ]
    per_token = {run: math.exp(losses["nats"] / losses["tokens"]) for run, losses in measured["runs"].items()}
    values = {**ours(measured), "perplexity per token": per_token}
    parts = [f"{name} {', '.join(f'{value:.2f}' for value in by_run.values())}" for name, by_run in values.items()]
    by_name = {row["name"]: row for row in measured["scores"]}
    parts += [f"{name} {', '.join(f'{value:.2f}' for value in by_name[name]['by_seed'])}" for name in by_name]
    return [f"Of each run of this form, on {scored_lines(measured)}, by greedy search: {'; '.join(parts)}."]
