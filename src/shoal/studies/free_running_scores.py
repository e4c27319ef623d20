"""What models write on their own for all that was held out, beside what they predict behind the right tokens.

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
HELD_OUT, LONGER = "held-out", "longer"  # what hypotheses are kept as
DIGITS = 4  # of attention weights


@dataclass(frozen=True)
class Asked:
    """What a study asks of one task.

    Attributes:
        name: of the study.
        title: of its page.
        question: what it asks.
        things: what is held out, such as ``"words"``.
        groups: by name, what tells a source's group: a text, or a number where groups have an order.
        main: the name of the group that goes into sentences.
        rule: the right answer to a source, by rule and without learning.
        simpler: by name, simpler rules, as baselines.
        error: the kind of error of a source, its right answer and what was written instead.
        example: whether a source is one to show maps of.
        longer: the run's settings with sources longer than those that it was trained on; None where that is not asked.
        chosen: how the settings were chosen, a sentence.
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
    """All runs must hold the same out, so that they can be compared item by item.

    Raises:
        UserError: they do not.
    """
    seeds = sorted({spec.split_seed for spec in specs})
    if len(seeds) > 1:
        raise UserError(
            f"split_seed must be the same for all runs of this study, got {' '.join(map(str, seeds))}: what they write "
            "is compared item by item"
        )


def measured(asked: Asked, specs: Sequence[RunSpec], records: Records) -> dict[str, Any]:
    """Everything that the report needs and training does not record.

    Args:
        asked: of the task.
        specs: of the runs, which say where a text lies now.
        records: the same runs.

    Returns:
        ``items``: ``sources`` and ``targets``, as texts. ``rules``: by name, the share that each rule has right.
        ``runs``: of each last model its ``step``, what it ``wrote`` where that is not right, by the item's place, which
        are ``unfinished``, which are not whole under teacher forcing, ``forced_wrong``, the share of the tokens right
        under it, ``tokens``, and the ``decode`` under which the texts are kept. ``longer``: the same of longer sources,
        or why of a run there is nothing, ``refused``. ``maps``: see :func:`_maps`.
    """
    families = _by_model([spec for spec in specs if spec.id in records.specs and records.model_files(spec.id)])
    if not families:
        return {}
    first = next(iter(families.values()))[0]
    sources, targets = _items(records, first)
    found: dict[str, Any] = {"items": {"sources": sources, "targets": targets}, "runs": {}, "maps": []}
    rules = {"the rule": asked.rule, **asked.simpler}
    pairs = list(zip(sources, targets, strict=True))
    found["rules"] = {
        name: sum(rule(first, source) == target for source, target in pairs) / len(pairs)
        for name, rule in rules.items()
    }
    with flushed_denormals():
        for name in list(families):
            models = {spec.id: records.model(spec.id) for spec in families[name]}
            wrote = _written_by_some(models, families[name][0], codec_of(records.kept(first.id)), sources, targets)
            own = families[name] = [spec for spec in families[name] if spec.id in models]
            if not own:
                del families[name]
                continue
            for spec in own:
                written = wrote.texts[spec.id]
                step = max(records.model_files(spec.id))
                settings = {"beams": 1, "max_new_tokens": own[0].task_part.sizes().sequence_length}
                kept = records.keep_hypotheses(spec.id, step, HELD_OUT, written, sources, settings)
                forced = _forced(models[spec.id], spec)
                found["runs"][spec.id] = {"step": step, "decode": kept.id, **wrote.told[spec.id], **forced}
            found["maps"] += _maps(asked, own[0], models[own[0].id], records, sources, targets)
        if asked.longer is not None:
            found["longer"] = _longer(asked, families, records)
    return found


def _written_by_some(models: dict[str, nn.Module], *others: Any) -> "_Written":
    """As :func:`_written`, without the models whose numbers are not finite, which leave ``models``."""
    while models:
        try:
            return _written(models, *others)
        except DivergedError as error:
            for run in error.runs:
                del models[run]
    return _Written({}, {})


def _by_model(specs: Sequence[RunSpec]) -> dict[str, list[RunSpec]]:
    found: dict[str, list[RunSpec]] = {}
    for spec in specs:
        found.setdefault(spec.model, []).append(spec)
    return found


def _items(records: Records, spec: RunSpec) -> tuple[list[str], list[str]]:
    """Sources and targets of the whole validation split."""
    codec, task = codec_of(records.kept(spec.id)), build_task(spec)
    valid = task.scored["valid"]
    sources = [codec.decode_source(row) for row in task.tensors["source"][valid]]
    return sources, [codec.decode_target(row) for row in task.tensors["target"][valid]]


@dataclass(frozen=True)
class _Written:
    """Texts by run, and what the note says of them."""

    texts: Mapping[str, list[str]]
    told: Mapping[str, dict[str, Any]]


def _written(
    models: Mapping[str, nn.Module], spec: RunSpec, codec: "PairCodec", sources: list[str], targets: list[str]
) -> _Written:
    found = answer(models, spec.model_part.reads, codec, sources, spec.task_part.sizes().sequence_length)
    texts, told = {}, {}
    for run, answers in zip(found.runs, found.answers, strict=True):
        texts[run] = [own[0].text for own in answers]
        ended = [own[0].finished for own in answers]
        right = [t == w and e for t, w, e in zip(texts[run], targets, ended, strict=True)]
        told[run] = {
            "wrote": {str(place): texts[run][place] for place, is_right in enumerate(right) if not is_right},
            "unfinished": [place for place, is_ended in enumerate(ended) if not is_ended],
        }
    return _Written(texts, told)


@torch.no_grad()
def _forced(model: nn.Module, spec: RunSpec) -> dict[str, Any]:
    """What of the validation split is right behind the right tokens."""
    task = build_task(spec)
    valid = task.scored["valid"]
    parts = [pair_objective(model, task.batch(task.tensors, own)) for own in torch.split(valid, _AT_ONCE)]
    exact, share, tokens = (
        torch.cat([part[name] for part in parts]) for name in ("forced_exact", "accuracy", "weight")
    )
    wrong = (exact == 0).nonzero().squeeze(1).tolist()
    return {"forced_wrong": wrong, "tokens": float((share * tokens).sum() / tokens.sum())}


def _longer(asked: Asked, families: Mapping[str, Sequence[RunSpec]], records: Records) -> dict[str, Any]:
    """What the models write for sources longer than any that they were trained on."""
    assert asked.longer is not None
    found: dict[str, Any] = {"runs": {}, "refused": {}}
    for own in families.values():
        spec = asked.longer(own[0])
        if own[0].get("positions") == "learned":
            found["refused"][own[0].model] = "its positions are learned, and there are none beyond those trained"
            continue
        models = {run.id: _with_more_positions(records.model(run.id), spec) for run in own}
        codec, task = codec_of(spec.task_part.kept()), build_task(spec)
        valid = task.scored["valid"]
        sources = [codec.decode_source(row) for row in task.tensors["source"][valid]]
        targets = [codec.decode_target(row) for row in task.tensors["target"][valid]]
        found["items"] = {"sources": sources, "targets": targets}
        wrote = _written(models, spec, codec, sources, targets)
        for run in own:
            step = max(records.model_files(run.id))
            settings = {"beams": 1, "max_new_tokens": spec.task_part.sizes().sequence_length}
            kept = records.keep_hypotheses(run.id, step, LONGER, wrote.texts[run.id], sources, settings)
            found["runs"][run.id] = {"step": step, "decode": kept.id, **wrote.told[run.id]}
    return found


def _with_more_positions(model: nn.Module, spec: RunSpec) -> nn.Module:
    """The same parameters in a model whose positions, none of them learned, go further."""
    longer = build_model(spec)
    own = dict(model.named_parameters())
    with torch.no_grad():
        for name, parameter in longer.named_parameters():
            parameter.copy_(own[name])
    return longer.eval()


def _maps(
    asked: Asked, spec: RunSpec, model: nn.Module, records: Records, sources: list[str], targets: list[str]
) -> list[dict[str, Any]]:
    """Where a model looks when it writes the right answer: of two examples where it looks back from a target, else one.

    Returns:
        ``model``, ``run``, ``source``, ``weights`` ``(L, H, Q, K)``, the tokens that are ``written`` (Q) and those that
        are ``read`` (K).
    """
    chosen = [place for place, source in enumerate(sources) if asked.example(source)] or [0]
    number = 2 if spec.model_part.reads == "pair" else 1
    codec = codec_of(records.kept(spec.id))
    found = []
    for place in chosen[:: max(1, len(chosen) // number)][:number]:
        source, target = codec.source.encode(sources[place]), codec.target.encode(targets[place])
        weights, written, read = _attention(model, spec, source, target)
        names = [[_name(codec, token) for token in tokens] for tokens in (written, read)]
        rounded = torch.round(weights, decimals=DIGITS).tolist()
        about = {"model": spec.model, "run": spec.id, "source": sources[place]}
        found.append({**about, "weights": rounded, "written": names[0], "read": names[1]})
    return found


@torch.no_grad()
def _attention(model: Any, spec: RunSpec, source: list[int], target: list[int]) -> tuple[Tensor, list[int], list[int]]:
    """Weights ``(L, H, Q, K)``, the tokens that are written and those that are read."""
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
    """What a token is called on an axis."""
    return {BOS: "BOS", EOS: "EOS"}.get(token) or codec.target.decode([token])
