"""Studies: one module per question, and studies from outside of shoal.

A study from outside is a value at a place ``package.module:study``, which a package can offer under a short name (entry
points of the group ``shoal.studies``). Its pages are called by the place, with a dot for the colon.
"""

import importlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, cast

from shoal.errors import UserError, nearest
from shoal.registry import at_place, is_place, offered

if TYPE_CHECKING:
    from shoal.studies.base import Form, Grid, Study
    from shoal.studies.results import Results

__all__ = ["NAMES", "Form", "Grid", "Results", "Study", "get_study", "name_of_study"]

# with the question of each, so that a list needs no study's module
NAMES: Mapping[str, str] = MappingProxyType(
    {
        "sanity": "an LSTM and a GPT memorise modular addition and much later generalise",
        "data-scaling": "how much training data it takes to generalise: r_train from 0.1 to 0.9",
        "mixed-orders": "binary and ternary sums learned together, and which of them first",
        "model-scaling": "depth and width: L layers of width d, against the number of parameters",
        "compute-scaling": "batch size and number of steps: the best way to spend a budget of compute",
        "regularization": "weight decay, and the norm of the parameters before and after generalisation",
        "attention": "where the heads of a GPT that has generalised look",
        "seed-variance": "initialisation, split or batch order: which seed decides when a run generalises",
        "improve": "norms, positions, activation, tying, optimizer, smoothing, schedule: what helps a GPT, pairwise",
        "language": "an LSTM and a GPT learn a text (--text FILE) at equal compute, beside n-grams",
        "translation": "an encoder alone, a transformer and an LSTM encoder-decoder translate (--source FILE …)",
        "embeddings": "what pretrained rows of words gain over permuted, random and word2vec's (--embeddings FILE …)",
        "pig-latin": "which families write unseen words of a text (--text FILE) in Pig Latin on their own",
        "adapters": "full fine-tuning, LoRA and QLoRA of a kept model on another text (--base-model FILE --text FILE)",
        "sorting": "which families sort unseen multisets of numbers on their own, and longer ones",
        "hmm": "hidden Markov models: how many states, which restarts agree, intervals, beside a known truth",
        "letters": "hidden Markov models of the letters of a text (--text FILE): vowels and consonants",
    }
)


def get_study(name: str) -> "Study":
    """Study of this name.

    Args:
        name: name of one of shoal's own, a short one that a package offers, a place, or a result of
            :func:`name_of_study`.

    Raises:
        UserError: there is none, or the object at the place is no study.
    """
    if name in NAMES:
        return cast("Study", importlib.import_module(f"shoal.studies.{name.replace('-', '_')}"))
    outside = name_of_study(name)
    if outside is None:
        known = [*NAMES, *offered("study")]
        raise UserError(
            f"unknown study {name!r}: one of {' '.join(known)}, or the place of your own, such as package.module:study"
            f"{nearest(name, known)}"
        )
    module, _, attribute = outside.rpartition(".")
    study = at_place(f"{module}:{attribute}", f"study {name!r}")
    if isinstance(study, type) or not all(callable(getattr(study, part, None)) for part in ("grids", "report")):
        raise UserError(
            f"{name!r} is no study: it must be a value, such as a module or an object, that has grids(quick) and "
            "report(results, form)"
        )
    return cast("Study", study)


def name_of_study(name: str) -> str | None:
    """Name of a study's pages: its own name, or the place of one from outside with a dot for the colon.

    >>> name_of_study("sanity"), name_of_study("package.module:study"), name_of_study("nothing")
    ('sanity', 'package.module.study', None)
    """
    if name in NAMES:
        return name
    place = offered("study").get(name, name)
    if not is_place(place):
        module, _, attribute = place.rpartition(".")
        place = f"{module}:{attribute}"
    return place.replace(":", ".") if is_place(place) else None


def __getattr__(name: str) -> Any:
    """Load a name on first use, because results import statistics and figures."""
    if name not in __all__:
        raise AttributeError(f"module 'shoal.studies' has no attribute {name!r}")
    return getattr(importlib.import_module(f"shoal.studies.{'results' if name == 'Results' else 'base'}"), name)
