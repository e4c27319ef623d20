"""Which settings a table of what models write tells apart, and by what."""

import shoal
from shoal.report.translation import settings_of

BASE = shoal.RunSpec(task="sorting", digits=20, embedding_size=16)


def test_a_label_of_one_family_says_what_differs():
    specs = [BASE.replace(lr=lr, seed=seed) for lr in (1e-3, 1e-2) for seed in (0, 1)]
    assert {label: len(runs) for label, runs in settings_of(specs).items()} == {"lr=0.001": 2, "lr=0.01": 2}
    assert list(settings_of(specs[:2])) == [BASE.model]


def test_of_several_families_a_label_says_what_differs_within_each():
    specs = [BASE.replace(model="gpt", lr=lr) for lr in (1e-3, 1e-2)]
    specs += [shoal.RunSpec(task="sorting", digits=20, embedding_size=16, model="lstm", seed=s) for s in (0, 1)]
    found = settings_of(specs)
    assert {label: len(runs) for label, runs in found.items()} == {
        "model=gpt, lr=0.001": 1,
        "model=gpt, lr=0.01": 1,
        "model=lstm": 2,
    }
