"""Measurements of free-running models: their answers to all held-out items, beside teacher-forced predictions.

The search is greedy. All of it is JSON, kept with the study's note; the texts themselves are kept with their cohort.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from shoal.decoding.answers import answer
from shoal.decoding.finite import DivergedError
from shoal.errors import UserError
from shoal.fast.denormals import flushed_denormals
from shoal.lab import Records
from shoal.spec import RunSpec
from shoal.tasks.build import build_model, build_task
from shoal.tasks.pairs.codec import codec_of
from shoal.tasks.pairs.data import Pairs, pair_batch, pair_objective
from shoal.tasks.pairs.vocabulary import BOS, EOS

if TYPE_CHECKING:
    from shoal.tasks.pairs.codec import PairCodec

_AT_ONCE = 256  # items that are scored together
HELD_OUT, LONGER = "held-out", "longer"  # names of kept hypotheses
DIGITS = 4  # of attention weights


@dataclass(frozen=True)
class Asked:
    """Question of a study about one task.

    Attributes:
        name: name of the study.
        title: title of its page.
        question: its question.
        things: word for the held-out items, such as ``"words"``.
        groups: by name, function to a source's group: a text, or a number where groups have an order.
        main: name of the groups that are in sentences.
        rule: function to the right answer to a source, without learning.
        simpler: by name, simpler rules, as baselines.
        error: function from a source, its right answer and the model's answer to the kind of error.
        example: function that is true for sources to show attention maps of.
        longer: function to the run's settings with longer sources than those of training; None where not asked.
        chosen: sentence on the choice of settings.
    """

    name: str
    title: str
    question: str
    things: str
    groups: Mapping[str, Callable[[RunSpec, str], str | int]]
    main: str
    rule: Callable[[RunSpec, str], str]
    simpler: Mapping[str, Callable[[RunSpec, str], str]]
    error: Callable[[str, str, str], str]
    example: Callable[[str], bool]
    longer: Callable[[RunSpec], RunSpec] | None
    chosen: str


def check_split(specs: Sequence[RunSpec]) -> None:
    """Check that all runs have the same held-out items, so that they can be compared item by item.

    Raises:
        UserError: they have not.
    """
    seeds = sorted({spec.split_seed for spec in specs})
    if len(seeds) > 1:
        raise UserError(
            f"split_seed must be the same for all runs of this study, got {' '.join(map(str, seeds))}: what they write "
            "is compared item by item"
        )


def measured(asked: Asked, specs: Sequence[RunSpec], records: Records) -> dict[str, Any]:
    """Measurements that the report needs and training does not record.

    Args:
        asked: question of the study.
        specs: specs of the runs, with the current path of a text.
        records: records of the same runs.

    Returns:
        ``items``: ``sources`` and ``targets``, as texts. ``rules``: by name, the share that each rule has right.
        ``runs``: for each last model its ``step``, its wrong answers ``wrote`` by the index of the item, indices of
        ``unfinished`` answers and of those wrong under teacher forcing, ``forced_wrong``, the share of ``tokens`` right
        under it, and the ``decode`` under which the texts are kept. ``longer``: the same for longer sources, or the
        reason why a family has none, ``refused``. ``maps``: see :func:`_maps`.
    """
    families = _by_model([spec for spec in specs if spec.id in records.specs and records.model_files(spec.id)])
    if not families:
        return {}
    first = next(iter(families.values()))[0]
    sources, targets = _items(records, first)
    note: dict[str, Any] = {"items": {"sources": sources, "targets": targets}, "runs": {}, "maps": []}
    rules = {"the rule": asked.rule, **asked.simpler}
    pairs = list(zip(sources, targets, strict=True))
    note["rules"] = {
        name: sum(rule(first, source) == target for source, target in pairs) / len(pairs)
        for name, rule in rules.items()
    }
    with flushed_denormals():
        for name in list(families):
            models = {spec.id: records.model(spec.id) for spec in families[name]}
            wrote = _written_by_some(models, families[name][0], codec_of(records.kept(first.id)), sources, targets)
            of_family = families[name] = [spec for spec in families[name] if spec.id in models]
            if not of_family:
                del families[name]
                continue
            for spec in of_family:
                written = wrote.texts[spec.id]
                step = max(records.model_files(spec.id))
                settings = {"beams": 1, "max_new_tokens": of_family[0].task_part.sizes().sequence_length}
                decode = records.keep_hypotheses(spec.id, step, HELD_OUT, written, sources, settings)
                forced = _forced(models[spec.id], spec)
                note["runs"][spec.id] = {"step": step, "decode": decode.id, **wrote.entries[spec.id], **forced}
            note["maps"] += _maps(asked, of_family[0], models[of_family[0].id], records, sources, targets)
        if asked.longer is not None:
            note["longer"] = _longer(asked, families, records)
    return note


def _written_by_some(models: dict[str, nn.Module], *others: Any) -> "_Written":
    """Answers as of :func:`_written`, after removing models whose numbers are not finite from ``models``."""
    while models:
        try:
            return _written(models, *others)
        except DivergedError as error:
            for run in error.runs:
                del models[run]
    return _Written({}, {})


def _by_model(specs: Sequence[RunSpec]) -> dict[str, list[RunSpec]]:
    by_model: dict[str, list[RunSpec]] = {}
    for spec in specs:
        by_model.setdefault(spec.model, []).append(spec)
    return by_model


def _items(records: Records, spec: RunSpec) -> tuple[list[str], list[str]]:
    """Sources and targets of the whole validation split."""
    codec, task = codec_of(records.kept(spec.id)), build_task(spec)
    valid = task.scored["valid"]
    sources = [codec.decode_source(row) for row in task.tensors["source"][valid]]
    return sources, [codec.decode_target(row) for row in task.tensors["target"][valid]]


@dataclass(frozen=True)
class _Written:
    """Texts by run, and their entries in the study's note."""

    texts: Mapping[str, list[str]]
    entries: Mapping[str, dict[str, Any]]


def _written(
    models: Mapping[str, nn.Module], spec: RunSpec, codec: "PairCodec", sources: list[str], targets: list[str]
) -> _Written:
    answered = answer(models, spec.model_part.reads, codec, sources, spec.task_part.sizes().sequence_length)
    texts, entries = {}, {}
    for run, answers in zip(answered.runs, answered.answers, strict=True):
        texts[run] = [hypotheses[0].text for hypotheses in answers]
        ended = [hypotheses[0].finished for hypotheses in answers]
        right = [t == w and e for t, w, e in zip(texts[run], targets, ended, strict=True)]
        entries[run] = {
            "wrote": {str(place): texts[run][place] for place, is_right in enumerate(right) if not is_right},
            "unfinished": [place for place, is_ended in enumerate(ended) if not is_ended],
        }
    return _Written(texts, entries)


@torch.no_grad()
def _forced(model: nn.Module, spec: RunSpec) -> dict[str, Any]:
    """Teacher-forced accuracy on the validation split."""
    task = build_task(spec)
    valid = task.scored["valid"]
    parts = [pair_objective(model, task.batch(task.tensors, rows)) for rows in torch.split(valid, _AT_ONCE)]
    exact, share, tokens = (
        torch.cat([part[name] for part in parts]) for name in ("forced_exact", "accuracy", "weight")
    )
    wrong = (exact == 0).nonzero().squeeze(1).tolist()
    return {"forced_wrong": wrong, "tokens": float((share * tokens).sum() / tokens.sum())}


def _longer(asked: Asked, families: Mapping[str, Sequence[RunSpec]], records: Records) -> dict[str, Any]:
    """Answers of the models to sources longer than any that they were trained on."""
    assert asked.longer is not None
    note: dict[str, Any] = {"runs": {}, "refused": {}}
    for of_family in families.values():
        spec = asked.longer(of_family[0])
        if of_family[0].get("positions") == "learned":
            note["refused"][of_family[0].model] = "its positions are learned, and there are none beyond those trained"
            continue
        models = {run.id: _with_more_positions(records.model(run.id), spec) for run in of_family}
        codec, task = codec_of(spec.task_part.kept()), build_task(spec)
        valid = task.scored["valid"]
        sources = [codec.decode_source(row) for row in task.tensors["source"][valid]]
        targets = [codec.decode_target(row) for row in task.tensors["target"][valid]]
        note["items"] = {"sources": sources, "targets": targets}
        wrote = _written(models, spec, codec, sources, targets)
        for run in of_family:
            step = max(records.model_files(run.id))
            settings = {"beams": 1, "max_new_tokens": spec.task_part.sizes().sequence_length}
            decode = records.keep_hypotheses(run.id, step, LONGER, wrote.texts[run.id], sources, settings)
            note["runs"][run.id] = {"step": step, "decode": decode.id, **wrote.entries[run.id]}
    return note


def _with_more_positions(model: nn.Module, spec: RunSpec) -> nn.Module:
    """Model of the same parameters with more positions, none of which are learned."""
    longer = build_model(spec)
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, parameter in longer.named_parameters():
            parameter.copy_(parameters[name])
    return longer.eval()


def _maps(
    asked: Asked, spec: RunSpec, model: nn.Module, records: Records, sources: list[str], targets: list[str]
) -> list[dict[str, Any]]:
    """Attention maps of a model that writes the right answer: two examples where it attends from a target, else one.

    Returns:
        ``model``, ``run``, ``source``, ``weights`` ``(L, H, Q, K)``, the tokens that are ``written`` (Q) and those that
        are ``read`` (K).
    """
    chosen = [place for place, source in enumerate(sources) if asked.example(source)] or [0]
    number = 2 if spec.model_part.reads == "pair" else 1
    codec = codec_of(records.kept(spec.id))
    maps = []
    for place in chosen[:: max(1, len(chosen) // number)][:number]:
        source, target = codec.source.encode(sources[place]), codec.target.encode(targets[place])
        weights, written, read = _attention(model, spec, source, target)
        names = [[_name(codec, token) for token in tokens] for tokens in (written, read)]
        rounded = torch.round(weights, decimals=DIGITS).tolist()
        about = {"model": spec.model, "run": spec.id, "source": sources[place]}
        maps.append({**about, "weights": rounded, "written": names[0], "read": names[1]})
    return maps


@torch.no_grad()
def _attention(model: Any, spec: RunSpec, source: list[int], target: list[int]) -> tuple[Tensor, list[int], list[int]]:
    """Attention weights ``(L, H, Q, K)``, the tokens that are written and those that are read."""
    reads = spec.model_part.reads
    batch = pair_batch(Pairs.of([source], [target]).tensors, torch.tensor([0]), reads=reads)
    written, read = [*target, EOS], [*source, EOS]
    if reads == "sequence":
        _, (_, weights) = model(batch["inputs"], details=True)  # (1, L, H, S + T, S + T)
        return weights[0, :, :, len(read) :, :], written, [*read, BOS, *target]
    if reads == "pair":
        _, details = model(batch["source"], batch["inputs"], batch["seen"], details=True)
        return details["cross"][0], written, read
    _, details = model(batch["source"], batch["seen"], details=True)
    return details["encoder"][0, :, :, : len(written), : len(read)], written, read


def _name(codec: "PairCodec", token: int) -> str:
    """Label of a token on an axis."""
    return {BOS: "BOS", EOS: "EOS"}.get(token) or codec.target.decode([token])
