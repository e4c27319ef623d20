"""Study of hidden Markov models on sequences drawn from a known one: how many states, which restarts agree, intervals.

Source: document L, question 3, and the statistics that a practitioner needs beside it. The sequences are drawn from a
model with three states, so that every answer can be compared with the truth.
"""

import sys
from collections.abc import Mapping
from typing import Any

from shoal.lab import Records
from shoal.report import Report
from shoal.report.fits import lost_sentences
from shoal.studies.base import Form, Grid
from shoal.studies.hmm_pages import (
    emissions_section,
    restarts_section,
    restarts_sentences,
    spread,
    states_section,
    states_sentences,
    update_section,
    update_sentences,
)
from shoal.studies.hmm_scores import RESAMPLES, STATES, UPDATE, measured
from shoal.studies.parts import finished
from shoal.studies.results import Results

MEASURED = 2  # 1: intervals of held-out likelihoods were percentiles
QUESTION = "How many hidden states do sequences have, do restarts agree on them, and are intervals right?"
TRUE = 3
COMMON: Mapping[bool, Mapping[str, Any]] = {
    True: {"drawn_sequences": 100, "drawn_length": 100, "n_steps": 1000, "tolerance": 1e-5},
    False: {"drawn_sequences": 400, "drawn_length": 200, "n_steps": 3000, "tolerance": 1e-6},
}
NUMBERS = {True: (1, 2, 3, 4, 5), False: (1, 2, 3, 4, 5, 6, 8)}
RESTARTS = {True: 8, False: 16}
BOOTSTRAPS = {True: 24, False: 100}


def grids(quick: bool) -> list[Grid]:
    """Grids over numbers of states, over resamples with the true number, and of the other update."""
    common = {"task": "sequences", "model": "hmm", "drawn_states": TRUE, "valid_share": 0.2, **COMMON[quick]}
    alike = {"num_states": (TRUE,)}
    seeds = range(RESTARTS[quick])
    return [
        Grid(common, {"num_states": NUMBERS[quick], "seed": seeds}, STATES),
        Grid(common, {**alike, "bootstrap_seed": range(1, 1 + BOOTSTRAPS[quick]), "seed": seeds}, RESAMPLES),
        Grid({**common, "update": "conditional"}, {**alike, "seed": seeds}, UPDATE),
    ]


def measure_models(form: Form, records: Records) -> dict[str, Any]:
    """Held-out likelihoods, agreement of restarts, intervals, and the distance from the truth."""
    return measured(form, sys.modules[__name__], records, TRUE)


def report(results: Results, form: Form) -> Report:
    """Report on the number of states, restarts, the fitted model beside the true one, and the document's update."""
    scores = results.measured
    if not scores:
        note = "Not measured yet: `shoal study run hmm` looks at the kept models when the runs are done."
        return finished("hmm", "Hidden Markov models", QUESTION, [note], [], results, form)
    sections = [states_section(scores), restarts_section(scores)]
    lost = lost_sentences(results.records.lost_fits())
    answers = [*lost, *states_sentences(scores), *restarts_sentences(scores)]
    if "model" in scores:
        about = "the model of the best fit beside the one that the sequences were drawn from, states matched."
        sections.append(emissions_section(scores, "The fitted model and the true one", about))
        answers += _on_truth(scores)
    sections.append(update_section(scores))
    return finished(
        "hmm", "Hidden Markov models", QUESTION, [*answers, *update_sentences(scores)], sections, results, form
    )


def _on_truth(scores: Mapping[str, Any]) -> list[str]:
    if "truth" not in scores:
        return []
    truth = scores["truth"]
    inside = (
        f"; {truth['inside']} of {truth['intervals']} {spread(scores['model']['resamples'])} hold the true value"
        if "intervals" in truth
        else ""
    )
    return [
        f"With the true number of states, {TRUE}, the best fit is at a distance of {truth['distance']:.3f} (of 3 at "
        f"most) from the model that the sequences were drawn from{inside}."
    ]
