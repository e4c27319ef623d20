"""Examples of the study of translation: answers of the models to some sentences, and their attention."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn.functional import pad

from shoal.analysis.corpus_scores import chrf2
from shoal.analysis.sentence_scores import CHRF2
from shoal.tasks.pairs.vocabulary import BOS, EOS, PAD

if TYPE_CHECKING:
    from shoal.studies.translation_scores import Models

EACH = 2  # sentences of each kind
MAPS = 2  # sentences whose attention is shown
LENGTHS = (5, 11)  # tokens of their sources, with EOS
GREEDY = "greedy"


def examples(
    families: Sequence["Models"], best: Mapping[str, str], sources: Sequence[str], references: Sequence[str]
) -> list[dict[str, Any]]:
    """Examples: the worst, the middle and the best sentences of one family's best model, with all models' answers.

    Sentences are ranked by their chrF2 in greedy search, equal ones in their order. The family is that of
    the lowest loss among those that read a target, or the first.

    Returns:
        ``kind`` (``worst``, ``median``, ``best``), ``line`` from 1, ``source``, ``reference``, ``by`` (the family that
        ranks), and for each family ``answers`` and ``chrf`` in percent.
    """
    chrf, texts = {}, {}
    for family in families:
        place = list(family.runs.values()).index(best[family.name])
        chrf[family.name] = chrf2(family.scores[GREEDY].statistics[CHRF2].values[place])  # (n,)
        texts[family.name] = family.answers[GREEDY].best(best[family.name])
    ranking = next((family.name for family in families if family.name == "encoder_decoder"), families[-1].name)
    order = [int(line) for line in np.argsort(chrf[ranking], kind="stable")]
    middle = max(0, (len(order) - EACH) // 2)
    kinds = {"worst": order[:EACH], "median": order[middle : middle + EACH], "best": order[::-1][:EACH]}
    return [
        {
            "kind": kind,
            "line": line + 1,
            "source": sources[line],
            "reference": references[line],
            "by": ranking,
            "answers": {name: family[line] for name, family in texts.items()},
            "chrf": {name: float(family[line]) for name, family in chrf.items()},
        }
        for kind, lines in kinds.items()
        for line in lines
    ]


@torch.no_grad()
def attention_maps(
    families: Sequence["Models"], best: Mapping[str, str], sources: Sequence[str]
) -> list[dict[str, Any]]:
    """Attention of decoders to the source while they write, for the first few sentences of some length.

    Returns:
        For each sentence its ``line`` from 1, ``source`` and ``panels``: ``model``, ``layer`` from 1 of ``layers``,
        ``heads`` over which weights are means, ``keys`` and ``queries`` (tokens of the source, and those written), and
        ``weights``, one row for each of these.
    """
    codec = families[0].codec
    lengths = [len(codec.source.encode(codec.prepared(line))) + 1 for line in sources]
    chosen = [place for place, n in enumerate(lengths) if LENGTHS[0] <= n <= LENGTHS[1]][:MAPS]
    shown = [
        {
            "line": place + 1,
            "source": sources[place],
            "panels": [
                panel for family in families for panel in _panels(family, best[family.name], place, sources[place])
            ],
        }
        for place in chosen
    ]
    return [one for one in shown if one["panels"]]


def _panels(family: "Models", run: str, place: int, line: str) -> list[dict[str, Any]]:
    """Panel of each layer with cross-attention; of a family without it, none."""
    if family.reads == "sequence":
        return []
    source, seen = family.codec.encode_sources([line])
    answered = family.answers[GREEDY]
    (first, *_) = answered.answers[answered.runs.index(run)][place]
    n, S = len(first.tokens), source.shape[1]
    if family.reads == "source":  # places of the source beyond its end are those of a longer target
        more = (0, max(0, n - S))
        inputs = [pad(source, more, value=PAD), pad(seen, more, value=False)]
    else:
        inputs = [source, torch.tensor([[BOS, *first.tokens[:-1]]]), seen]
    _, details = family.models[run](*inputs, details=True)
    if "cross" not in details:
        return []
    cross = details["cross"][0, :, :, :n, :S]  # (L, H, T, S)
    keys = [_named(family.codec.decode_source([token]), token) for token in source[0].tolist()]
    queries = [_named(family.codec.decode_target([token]), token) for token in first.tokens]
    return [
        {
            "model": family.name,
            "layer": layer + 1,
            "layers": len(cross),
            "heads": cross.shape[1],
            "keys": keys,
            "queries": queries,
            "weights": [[round(weight, 4) for weight in row] for row in weights.mean(0).tolist()],
        }
        for layer, weights in enumerate(cross)
    ]


def _named(text: str, token: int) -> str:
    return "EOS" if token == EOS else text.strip() or "␣"
