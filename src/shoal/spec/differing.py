"""Settings in which a run differs from the defaults of its parts: the shortest description of the run."""

from collections.abc import Mapping
from typing import Any

from shoal.registry import KINDS, USUAL
from shoal.spec.fields import Part, extra
from shoal.spec.identity import defaults
from shoal.spec.training import Seeds


def differing(names: Mapping[str, str], parts: Mapping[str, Part]) -> dict[str, Any]:
    """Name of the model, and every setting that differs from the default of the run's task, model and optimizer.

    Settings that follow another one (``hidden_size`` that of ``embedding_size``) are left out where they do, and so are
    settings that were derived from files. Of a part from outside of shoal, whose defaults are not on record, all
    settings count as different.

    Args:
        names: of task, model and optimizer.
        parts: the settings of these and of training and seeds, by their role.
    """
    usual, _ = defaults(*(names[kind] for kind in KINDS))
    usual = {**usual, **Seeds.usual()}
    settings: dict[str, Any] = {kind: name for kind, name in names.items() if kind == "model" or name != USUAL[kind]}
    for part in parts.values():
        followed = {name: extra(type(part), name)["follows"] for name in type(part).model_fields}
        following = {name for name, other in followed.items() if other and getattr(part, name) == getattr(part, other)}
        hidden = {*type(part).having("derived"), *following}
        settings |= {
            name: getattr(part, name)
            for name, value in part.as_json.items()
            if name not in hidden and (followed[name] or name not in usual or value != usual[name])
        }
    return settings
