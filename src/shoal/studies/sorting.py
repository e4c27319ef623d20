"""Study of sorting: model families sort numbers, also more numbers than they were trained on.

Source: minGPT's demo sorts 6 of 3 numbers, of which there are 729 inputs; here lengths differ and what is held out are
multisets, so that no held-out answer is trained on.
"""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from shoal.analysis.answer_errors import sorting_error
from shoal.lab import Records
from shoal.report import Report
from shoal.spec import RunSpec
from shoal.studies import free_running
from shoal.studies.base import Form, Grid
from shoal.studies.free_running_scores import Asked, check_split, measured
from shoal.studies.results import Results

# Chosen from one run each of 400 to 800 steps on seed 100, which has another split. LSTM encoder-decoder: 70 % of whole
# answers right with a learning rate of 0.002, 76 % with 0.004. Rotary positions with GPT-2's initial values against
# sinusoidal ones with torch's: 96 and 86 % (encoder-decoder), 63 and 62 % (GPT); sinusoidal with GPT-2's: none. The
# full form's learning rates, of larger models, are half of these and were not tried.
COMMON: Mapping[bool, Mapping[str, Any]] = {
    True: {
        "digits": 50,
        "min_length": 4,
        "max_length": 10,
        "train_examples": 20_000,
        "valid_examples": 700,
        "embedding_size": 64,
        "train_batch_size": 64,
        "lr": 2e-3,
        "n_steps": 1_500,
        "eval_period": 100,
    },
    False: {"embedding_size": 128, "train_batch_size": 128, "lr": 1e-3, "n_steps": 5_000, "eval_period": 250},
}
# Rotary positions depend on distances and extend beyond the trained ones, as do sinusoidal ones. An answer that is
# predicted position by position depends on its place, which distances do not show. Sinusoids have an amplitude of 1,
# beside which tokens that start from N(0, 0.02²) are negligible.
ABSOLUTE: Mapping[str, Any] = {"positions": "vaswani", "initialisation": "torch"}
OWN: Mapping[bool, Mapping[str, Any]] = {
    True: {"lstm_encoder_decoder": {"lr": 4e-3}, "encoder_translator": ABSOLUTE},
    False: {"lstm_encoder_decoder": {"lr": 2e-3}, "encoder_translator": ABSOLUTE},
}
MORE = 4  # numbers beyond those of the longest trained example
EACH = 100  # sources of each length beyond


def _repeats(spec: RunSpec, source: str) -> str:
    numbers = source.split()
    return "all different" if len(set(numbers)) == len(numbers) else "some repeated"


def _sorted(spec: RunSpec, source: str) -> str:
    return " ".join(map(str, sorted(map(int, source.split()))))


def _copied(spec: RunSpec, source: str) -> str:
    return source


def _without_repeats(spec: RunSpec, source: str) -> str:
    return " ".join(map(str, sorted(set(map(int, source.split())))))


def _longer(spec: RunSpec) -> RunSpec:
    return spec.replace(
        min_length=spec.max_length + 1,
        max_length=spec.max_length + MORE,
        train_examples=MORE,
        valid_examples=MORE * EACH,
    )


ASKED = Asked(
    name="sorting",
    title="Sorting",
    question="Which of decoder-only, encoder-decoder, recurrent and encoder-only models learn to sort numbers, and do "
    "they sort multisets that they have never seen, and longer ones?",
    things="multisets",
    groups={"numbers": lambda spec, source: len(source.split()), "repeats": _repeats},
    main="repeats",
    rule=_sorted,
    simpler={"the source as it is": _copied, "sorted, each number once": _without_repeats},
    error=sorting_error,
    example=lambda source: len(source.split()) == 6 and len(set(source.split())) < 6,
    longer=_longer,
    chosen="Learning rates, positions and initial values are from one shorter run each on another seed and split; "
    "sizes and steps are those that two cores train in minutes.",
)


def grids(quick: bool) -> list[Grid]:
    """Grids of every family over the same seeds and the same held-out multisets."""
    return free_running.grids("sorting", COMMON[quick], "rotary", quick, OWN[quick])


def check(specs: Sequence[RunSpec]) -> None:
    """Raise :class:`UserError` unless all runs have the same held-out multisets."""
    check_split(specs)


def measure_models(form: Form, records: Records) -> dict[str, Any]:
    """Answers of the last models to every held-out multiset, and to longer sources."""
    return measured(ASKED, form.specs(sys.modules[__name__]), records)


def report(results: Results, form: Form) -> Report:
    """Report with exact match by length, beside teacher forcing and beyond trained lengths; times; errors; maps."""
    return free_running.report(ASKED, results, form)
