"""Study of hidden Markov models on the letters of a text: with two states, vowels and consonants.

Source: document L, question 3; Cave and Neuwirth 1980, who scores vowels and consonants so.
"""

import sys
from collections.abc import Mapping
from typing import Any

import numpy as np

from shoal.lab import Records
from shoal.report import Report
from shoal.studies.base import Form, Grid
from shoal.studies.hmm_pages import (
    emissions_section,
    restarts_section,
    restarts_sentences,
    states_section,
    states_sentences,
    update_section,
    update_sentences,
)
from shoal.studies.hmm_scores import RESAMPLES, STATES, UPDATE, measured
from shoal.studies.parts import finished
from shoal.studies.results import Results

MEASURED = 2  # 1: intervals of held-out likelihoods were percentiles
QUESTION = "What do the hidden states of the letters of a text stand for, and how many are there?"
SHOWN = 2
VOWELS = "aeiou"
COMMON: Mapping[bool, Mapping[str, Any]] = {
    True: {"n_steps": 600, "tolerance": 1e-4},
    False: {"n_steps": 2000, "tolerance": 1e-3},
}
NUMBERS = {True: (1, 2, 3, 4), False: (1, 2, 3, 4, 6, 8, 12)}
RESTARTS = {True: 8, False: 16}
BOOTSTRAPS = {True: 12, False: 100}
NEEDS = ("text",)  # settings that have no default


def grids(quick: bool) -> list[Grid]:
    """Grids over numbers of states, over resamples of blocks with two states, and of the other update."""
    common = {"task": "sequences", "model": "hmm", **COMMON[quick]}
    alike = {"num_states": (SHOWN,)}
    seeds = range(RESTARTS[quick])
    return [
        Grid(common, {"num_states": NUMBERS[quick], "seed": seeds}, STATES),
        Grid(common, {**alike, "bootstrap_seed": range(1, 1 + BOOTSTRAPS[quick]), "seed": range(4)}, RESAMPLES),
        Grid({**common, "update": "conditional", "n_steps": 20}, {**alike, "seed": range(2)}, UPDATE),
    ]


def measure_models(form: Form, records: Records) -> dict[str, Any]:
    """Held-out likelihoods, agreement of restarts, and intervals over resampled blocks."""
    return measured(form, sys.modules[__name__], records, SHOWN)


def report(results: Results, form: Form) -> Report:
    """Report on the letters of each state, the number of states, restarts, and the document's update."""
    scores = results.measured
    if not scores:
        note = "Not measured yet: `shoal study run letters` looks at the kept models when the runs are done."
        return finished("letters", "Letters of a text", QUESTION, [note], [], results, form)
    sections = [states_section(scores), restarts_section(scores)]
    answers = [*states_sentences(scores), *restarts_sentences(scores)]
    if "model" in scores and scores["symbols"]:
        about = "the letters that each of two states emits: nothing but the order of letters told them apart."
        sections.insert(0, emissions_section(scores, "Letters of two states", about))
        answers.insert(0, letters_sentence(scores))
    sections.append(update_section(scores))
    title = "Letters of a text"
    return finished("letters", title, QUESTION, [*answers, *update_sentences(scores)], sections, results, form)


def letters_sentence(scores: Mapping[str, Any]) -> str:
    """Sentence on the letters that belong to each state: those that it is the likeliest state of."""
    arrays, symbols = scores["model"]["arrays"], scores["symbols"]
    table, moves = np.array(arrays["probabilities"]), np.array(arrays["transitions"])
    values, vectors = np.linalg.eig(moves.T)
    stationary = np.abs(np.real(vectors[:, int(np.argmax(np.real(values)))]))
    joint = table * (stationary / stationary.sum())[:, None]  # (K, V)
    of_letter = joint.argmax(axis=0)
    named = ["space" if symbol == " " else symbol for symbol in symbols]
    groups = [[name for name, k in zip(named, of_letter, strict=True) if k == state] for state in range(len(table))]
    vowels = [letter for letter in VOWELS if letter in symbols]
    state = int(np.bincount([of_letter[symbols.index(letter)] for letter in vowels], minlength=len(table)).argmax())
    together = sum(of_letter[symbols.index(letter)] == state for letter in vowels)
    shares = joint[state].sum()
    stays = ", ".join(f"{moves[k, k]:.2f}" for k in range(len(moves)))
    turns = ": the two take turns" if (np.diagonal(moves) < 0.5).all() else ""
    return (
        f"With {len(table)} states {together} of the vowels {' '.join(vowels)} belong to one state, with "
        f"{' '.join(letter for letter in groups[state] if letter not in VOWELS) or 'nothing'} beside them; the other "
        f"has {' '.join(groups[1 - state]) or 'none'}. The state of the vowels holds {shares:.0%} of the letters, and "
        f"the probabilities of staying are {stays}{turns}."
    )
