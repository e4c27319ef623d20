"""Kept models that a command asks for, of one shape and one vocabulary, so that they answer together."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from shoal.errors import UserError

if TYPE_CHECKING:
    from torch import nn

    from shoal.lab import Records


def models_by_shape(
    records: "Records", what: str, step: "int | str | None" = None, average: int = 1
) -> "list[dict[str, nn.Module]]":
    """The models of runs, those of one shape and of one vocabulary together.

    Args:
        records: of the runs.
        what: in what their tasks keep, what they must have in common.
        step: of the models; the last that was kept when not given, or ``best``.
        average: how many kept models a model is the mean of.

    Raises:
        UserError: a model is not there.
        LabError: its file is damaged.
    """
    for folder in records.cohorts():
        folder.check_sources()
    groups: list[tuple[Any, dict[str, nn.Module]]] = []
    for run in records.specs:
        model = records.model(run, step, average=average)
        shape = {name: p.shape for name, p in model.named_parameters()}
        own = (records.specs[run].names, shape, records.kept(run).get(what))
        for known, models in groups:
            if known == own:
                models[run] = model
                break
        else:
            groups.append((own, {run: model}))
    return [models for _, models in groups]


def check_one_shape(groups: "Sequence[Mapping[str, nn.Module]]") -> None:
    """Raise :class:`UserError` where there are several shapes or vocabularies."""
    if len(groups) > 1:
        first, second = (next(iter(group)) for group in groups[:2])
        raise UserError(f"runs {first[:8]} and {second[:8]} have not one shape and vocabulary: ask for them one by one")
