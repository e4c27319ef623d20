"""Kept models of one family, shape and vocabulary together, so that they are computed at once."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

    from shoal.lab.records import Records
    from shoal.spec import RunSpec

_UNSEEN = ("initialisation", "dropout", "dropout_at")  # settings that change nothing of what a kept model computes


@dataclass(frozen=True)
class Alike:
    """Models of one family, shape and vocabulary.

    Attributes:
        models: by run.
        spec: of the first.
        kept: the artifact that their tasks keep under the name asked for, parsed.
    """

    models: "dict[str, nn.Module]"
    spec: "RunSpec"
    kept: Any


def models_by_shape(
    records: "Records", what: str, read: Callable[[Any], Any], step: int | str | None = None, average: int = 1
) -> list[Alike]:
    """The models of runs, those of one family, shape and vocabulary together.

    Args:
        records: of the runs.
        what: name of the artifact that their tasks keep and that they must have in common, such as ``codec``.
        read: function that parses it, or raises :class:`LabError`.
        step: of the models; the last that was kept when not given, or ``best``.
        average: number of kept models that a model is the mean of.

    Raises:
        UserError: a model is not there.
        LabError: its file is damaged.
    """
    for folder in records.cohorts():
        folder.check_sources()
    groups: list[tuple[Any, Alike]] = []
    for run, spec in records.specs.items():
        model, artifact = records.model(run, step, average=average), records.kept(run).get(what)
        # Heads and positions, for example, change what a model computes and none of its shapes.
        settings = {name: value for name, value in spec.model_part.as_json.items() if name not in _UNSEEN}
        shape = {name: p.shape for name, p in model.named_parameters()}
        key = (spec.names["model"], settings, spec.sizes(), shape, artifact)
        for known, group in groups:
            if known == key and _same_buffers(model, next(iter(group.models.values()))):
                group.models[run] = model
                break
        else:
            with records.cohort_of(run).with_way_out():
                groups.append((key, Alike({run: model}, spec, read(artifact))))
    return [group for _, group in groups]


def _same_buffers(one: "nn.Module", other: "nn.Module") -> bool:
    mine, theirs = dict(one.named_buffers()), dict(other.named_buffers())
    return mine.keys() == theirs.keys() and all(mine[name].equal(theirs[name]) for name in mine)
