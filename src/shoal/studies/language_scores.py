"""Measurements of the study of language: the kept models' loss on every token, n-grams, and samples.

All of it is JSON, kept with the study's note, so that the report needs neither models nor text.
"""

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import polars as pl
import torch
from torch import Tensor

from shoal.analysis.scored import split_by_position, split_counts, split_total
from shoal.decoding.sampling import Sampling
from shoal.decoding.text import generate_texts
from shoal.fast.denormals import flushed_denormals
from shoal.lab import Records
from shoal.spec import RunSpec
from shoal.tasks.build import calling
from shoal.tasks.text.ngram import ORDERS, fit_ngram
from shoal.tasks.text.scoring import in_blocks, score_split
from shoal.tasks.text.units import TextCounts

if TYPE_CHECKING:
    from shoal.tasks.text.data import TextData

SAMPLING = Sampling(temperature=0.8)
SAMPLE_TOKENS = 300
PROMPT = 24  # characters


def measured(specs: list[RunSpec], records: Records) -> dict[str, Any]:
    """Measurements that the report needs and training does not record.

    Args:
        specs: specs of the runs on one text, with its current path.
        records: records of the same runs.

    Returns:
        ``counts`` of the scored text, ``tokenizer``, ``vocabulary_size``, ``trained`` (tokens of the training split);
        ``ngrams``: nats of each order, in all and ``by_position`` of the blocks; ``runs``: for each kept model the
        ``step``, its ``nats`` in blocks and ``nats_strided``, in blocks those ``by_position`` and the ``gain`` of
        :func:`half_context`; ``samples``: samples of the best run of each model.
    """
    task: Any = specs[0].task_part
    data: TextData = task.data()
    best = best_steps(records)
    runs = {}
    with flushed_denormals():
        for run in [spec.id for spec in specs if spec.id in best]:
            model, spec = records.model(run, best[run]), records.specs[run]
            options: dict[str, Any] = {"batch": spec.eval_batch_size, "calling": calling(spec)}
            context = spec.get("context_length")
            nats = score_split(model, data, context_length=context, **options)
            strided = score_split(model, data, context_length=context, stride=stride_of(context), **options)
            gain = half_context(nats, strided, context)
            runs[run] = {
                "step": best[run],
                "nats": split_total(nats),
                "nats_strided": split_total(strided),
                "by_position": split_by_position(nats, context)["loss"].to_list(),
                "gain": gain,
            }
        samples = {model: _sample(records, run, best[run], data) for model, run in _best_of_each(specs, runs).items()}
    return {
        "counts": asdict(split_counts(data)),
        "tokenizer": data.tokenizer.kind,
        "vocabulary_size": data.tokenizer.vocabulary_size,
        "trained": len(data.train),
        "ngrams": ngram_nats(data, task.context_length),
        "runs": runs,
        "samples": samples,
    }


def stride_of(context_length: int) -> int:
    """Stride of the second scoring: every token but the first few has at least half a context."""
    return max(1, context_length // 2)


def half_context(blocks: Tensor, strided: Tensor, context_length: int) -> float | None:
    """Gain from half a context more before the same tokens, in nats per token.

    The tokens are those of the first halves of all blocks but the first: in blocks the model sees so many tokens before
    them, with a stride of half a context half a context more. None where there are none.

    Args:
        blocks: nats in blocks, ``(n,)``.
        strided: nats with a stride of half the context length, ``(n,)``.
        context_length: S, even.
    """
    less = (blocks - strided)[context_length:]
    if not len(less) or context_length % 2:
        return None
    differences, counts = in_blocks(less, context_length)  # (blocks, S) each
    half = counts & (torch.arange(context_length) < context_length // 2)
    return float(differences[half].mean())


def best_steps(records: Records) -> dict[str, int]:
    """Step of each run's kept model of the lowest recorded validation loss; runs without one are left out."""
    curves = records.curves().select("run", "step", "valid_loss")
    best = {}
    for run in records.ids:
        steps = list(records.model_files(run))
        curve = curves.filter(pl.col("run") == run, pl.col("step").is_in(steps), pl.col("valid_loss").is_finite())
        if not curve.is_empty():
            best[run] = int(curve.sort("valid_loss", "step")["step"][0])
    return best


def ngram_nats(data: "TextData", context_length: int) -> list[dict[str, Any]]:
    """Scores of n-grams: ``order``, ``nats``, summed over exactly the tokens that models are scored on, all but the
    first, and ``by_position`` their mean at each place of the models' blocks."""
    fitted = fit_ngram(data.train.numpy(), data.tokenizer.vocabulary_size, max(ORDERS))
    nats = fitted.nats(data.valid.numpy())[:, 1:]
    return [
        {
            "order": order,
            "nats": float(of_order.sum()),
            "by_position": split_by_position(torch.from_numpy(of_order), context_length)["loss"].to_list(),
        }
        for order, of_order in zip(ORDERS, nats, strict=True)
    ]


def counts_of(measured: Mapping[str, Any]) -> TextCounts:
    """Amounts of scored text."""
    return TextCounts(**measured["counts"])


def _best_of_each(specs: list[RunSpec], runs: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Run of the lowest loss, by model."""
    best: dict[str, str] = {}
    for spec in specs:
        if spec.id in runs:
            other = best.setdefault(spec.model, spec.id)
            if runs[spec.id]["nats"] < runs[other]["nats"]:
                best[spec.model] = spec.id
    return best


def _sample(records: Records, run: str, step: int, data: "TextData") -> dict[str, Any]:
    """Sample of a model behind the beginning of the validation split."""
    prompt = data.tokenizer.decode(data.valid[: 4 * PROMPT])[:PROMPT]
    models = {run: records.model(run, step)}
    (sample,) = generate_texts(models, data.tokenizer, [prompt], SAMPLE_TOKENS, SAMPLING)
    return {"run": run, "step": step, "prompt": prompt, "text": sample.text}
