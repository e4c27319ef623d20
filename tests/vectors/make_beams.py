"""Beam searches of the library transformers for ``tests/test_beams_of_transformers.py``: ``beams.json``.

Where transformers is installed: ``PYTHONPATH=src:tests python tests/vectors/make_beams.py``.
"""

import json
from pathlib import Path

import torch

SEEDS, SHARPNESS, ENDING, WIDTH, NEW = list(range(5)), 3.0, 3.0, 4, 14
ASKED = [
    {"early_stopping": "never", "length_penalty": 0.0},
    {"early_stopping": "never", "length_penalty": 1.0},
    {"early_stopping": True, "length_penalty": 0.0},
]


def main() -> None:
    import gpt2  # which stands beside the tests
    import transformers  # which only this and slow tests need

    prompts = gpt2.sentences(1, 5)
    models = [gpt2.weights(seed, SHARPNESS, ENDING) for seed in SEEDS]
    searched = [
        {
            **how,
            "found": [
                [gpt2.beams_of_the_library(own, prompt, WIDTH, NEW, **how) for prompt in prompts] for own in models
            ],
        }
        for how in ASKED
    ]
    made = {
        "transformers": transformers.__version__,
        "torch": torch.__version__,
        "seeds": SEEDS,
        "sharpness": SHARPNESS,
        "ending": ENDING,
        "width": WIDTH,
        "max_new_tokens": NEW,
        "prompts": prompts,
        "searched": searched,
    }
    Path(__file__).with_name("beams.json").write_text(json.dumps(made) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
