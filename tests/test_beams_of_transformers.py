"""Beam search against the library transformers: the same hypotheses and scores, all of them.

``beams.json`` is what ``vectors/make_beams.py`` had the library find; where it is installed it is asked again, of more
models.
"""

import json
from pathlib import Path

import gpt2
import pytest

from shoal.decoding import Beam

GOLDEN = json.loads((Path(__file__).parent / "vectors" / "beams.json").read_text(encoding="utf-8"))
STOPS = {"never": "n_best", True: "first"}


def same(ours: list, theirs: list) -> int:
    """How many hypotheses are the same, with scores, of all models, prompts and ranks."""
    count = 0
    for mine, others in zip(ours, theirs, strict=True):
        for found, expected in zip(mine, others, strict=True):
            assert [text for text, _ in found] == [text for text, _ in expected]
            assert [score for _, score in found] == pytest.approx([score for _, score in expected], abs=1e-4)
            count += len(found)
    return count


@pytest.mark.parametrize(
    "asked", GOLDEN["searched"], ids=lambda own: f"{own['early_stopping']} {own['length_penalty']}"
)
def test_all_hypotheses_of_the_library_and_their_scores(asked):
    models = [gpt2.weights(seed, GOLDEN["sharpness"], GOLDEN["ending"]) for seed in GOLDEN["seeds"]]
    beam = Beam(GOLDEN["width"], "releases", STOPS[asked["early_stopping"]], asked["length_penalty"])
    ours, found = gpt2.our_beams(models, GOLDEN["prompts"], beam, GOLDEN["max_new_tokens"])
    assert same(ours, [[[tuple(own) for own in beams] for beams in model] for model in asked["found"]]) == 100
    assert int(found.hypotheses.finished.sum()) > 50  # the end of a sentence is probable
    assert float(found.margins.min()) > 1e-4  # no choice is within rounding


@pytest.mark.slow
@pytest.mark.parametrize("early_stopping", STOPS)
@pytest.mark.parametrize("length_penalty", [0.0, 1.0, -0.5])
def test_the_library_itself(early_stopping, length_penalty):
    pytest.importorskip("transformers")
    for width, new, sharpness in ((2, 20, 4.0), (5, 9, 8.0)):
        models = [gpt2.weights(seed, sharpness, 3.0) for seed in range(10, 14)]
        prompts = gpt2.sentences(2, 5)
        beam = Beam(width, "releases", STOPS[early_stopping], length_penalty)
        ours, _ = gpt2.our_beams(models, prompts, beam, new)
        how = {"early_stopping": early_stopping, "length_penalty": length_penalty}
        theirs = [[gpt2.beams_of_the_library(own, prompt, width, new, **how) for prompt in prompts] for own in models]
        assert same(ours, theirs) == 4 * 5 * width
