"""Study of Pig Latin: model families write words that they have never read, letter by letter.

Source: the Pig Latin assignment of CSC321/421 (its rules; here split by word, so that no held-out word is trained on).
"""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from shoal.analysis.answer_errors import pig_latin_error
from shoal.lab import Records
from shoal.report import Report
from shoal.spec import RunSpec
from shoal.studies import free_running
from shoal.studies.base import Form, Grid
from shoal.studies.free_running_scores import Asked, check_split, measured
from shoal.studies.results import Results
from shoal.tasks.pig_latin.rules import beginning, pig_latin, rule_of

# The learning rate of the quick form is from one run each of 0.002 and 0.004, of 600 steps, on seed 100, which has
# another split: whole answers right were 99.7 and 99.9 % (encoder-decoder), 94 and 98 % (LSTM encoder-decoder), 90 and
# 85 % (GPT); the encoder translator's was not tried. The full form's, of larger models, is half of it and not tried.
COMMON: Mapping[bool, Mapping[str, Any]] = {
    True: {"embedding_size": 64, "train_batch_size": 64, "lr": 4e-3, "n_steps": 800, "eval_period": 50},
    False: {"embedding_size": 128, "train_batch_size": 128, "lr": 2e-3, "n_steps": 5_000, "eval_period": 250},
}
NEEDS = ("text",)  # settings that have no default


def _one_letter(spec: RunSpec, word: str) -> str:
    """Pig Latin by the rule of words that begin with one consonant, for all words."""
    return f"{word[1:]}{word[0]}ay"


def _is_example(word: str) -> bool:
    return 5 <= len(word) <= 7 and len(beginning(word)) > 1


ASKED = Asked(
    name="pig-latin",
    title="Pig Latin",
    question="Which of decoder-only, encoder-decoder, recurrent and encoder-only models learn Pig Latin, and do they "
    "write words that they have never read?",
    things="words",
    groups={"rule": lambda spec, word: rule_of(word, spec.moved), "letters": lambda spec, word: len(word)},
    main="rule",
    rule=lambda spec, word: pig_latin(word, spec.moved),
    simpler={"one letter moved in every word": _one_letter},
    error=pig_latin_error,
    example=_is_example,
    longer=None,
    chosen="The learning rate is the better of two for two of the three families that were tried, on another seed and "
    "split and for fewer steps; sizes and steps are those that two cores train in minutes.",
)


def grids(quick: bool) -> list[Grid]:
    """Grids of every family over the same seeds and the same held-out words."""
    return free_running.grids("pig_latin", COMMON[quick], "learned", quick)


def check(specs: Sequence[RunSpec]) -> None:
    """Raise :class:`UserError` unless all runs have the same held-out words."""
    check_split(specs)


def measure_models(form: Form, records: Records) -> dict[str, Any]:
    """Answers of the last models to every held-out word."""
    return measured(ASKED, form.specs(sys.modules[__name__]), records)


def report(results: Results, form: Form) -> Report:
    """Report with exact match in all and by rule and length, beside teacher forcing; times; errors; maps."""
    return free_running.report(ASKED, results, form)
