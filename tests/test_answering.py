"""Lines answered together: as each alone, as a loop without a state and as all texts say, whatever way models read."""

import functools

import pytest
import torch
from searching import all_texts

from shoal.decoding import Beam, choice
from shoal.decoding.answers import EMPTY, answer
from shoal.decoding.finite import DivergedError
from shoal.errors import UserError
from shoal.registry import MODELS
from shoal.tasks.pairs.codec import PairCodec
from shoal.tasks.pairs.vocabulary import Types
from shoal.tasks.settings import Sizes

BOS, EOS, V, LONGEST, T = 1, 2, 6, 4, 3
LINES = ["ab", "", "c", "abca", "b", "ca", " \u2028", "abc", "aa"]
GPT = {"num_layers": 1, "num_heads": 2, "embedding_size": 8}
FAMILIES = {
    "gpt": GPT,
    "lstm": {"num_layers": 1, "embedding_size": 8},
    "encoder_decoder": GPT,
    "lstm_encoder_decoder": {"num_layers": 1, "embedding_size": 8},
    "encoder_translator": GPT,
    "non_autoregressive": GPT,
}
AT_ONCE = ["encoder_translator", "non_autoregressive"]
SEARCHED = [name for name in FAMILIES if name not in AT_ONCE]


def codec():
    letters = Types("letters", list("abc"))
    return PairCodec(letters, letters, LONGEST)


def some(family, R=2):
    """Models whose every parameter matters, by run, and how they read."""
    part, sizes = MODELS[family](**FAMILIES[family]), Sizes(V, LONGEST + 1, 0, V, LONGEST + 1)
    models = {}
    for seed in range(R):
        model = part.build(sizes.joined() if part.reads == "sequence" else sizes).double().eval()
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                is_scale = parameter.ndim == 1 and name.endswith("weight")
                parameter.normal_(is_scale, 1.0 if parameter.ndim > 1 else 0.1, generator=generator)
        models[f"run{seed}"] = model
    return models, part.reads


def following(model, reads, line):
    """Log probabilities of the token after some, from the whole text each time and without a cache."""
    source = [*codec().source.encode(line), EOS]

    @functools.cache
    def after(text):
        if reads == "sequence":
            logits = model(torch.tensor([[*source, BOS, *text]]))[0][0, -1]
        elif reads == "pair":
            seen = torch.ones(1, len(source), dtype=torch.bool)
            logits = model(torch.tensor([source]), torch.tensor([[BOS, *text]]), seen)[0][0, -1]
        else:
            padded = torch.tensor([source + [0] * (LONGEST + 1 - len(source))])
            logits = model(padded, torch.arange(LONGEST + 1).unsqueeze(0) < len(source))[0][0, len(text)]
        return logits.log_softmax(-1).tolist()

    return after


def alike(found, expected):
    """The same texts with the same numbers."""
    assert [[own.tokens for own in line] for line in found] == [[own.tokens for own in line] for line in expected]
    assert [[(own.text, own.finished) for own in line] for line in found] == [
        [(own.text, own.finished) for own in line] for line in expected
    ]
    mine, theirs = ([own.log_p for line in lines for own in line] for lines in (found, expected))
    assert mine == pytest.approx(theirs, abs=1e-9)


BEAMS = [None, Beam(1), Beam(3), Beam(2, "keeps", "n_best", 1.0)]


@pytest.mark.parametrize(
    ("family", "beam"),
    [(family, beam) for family in SEARCHED for beam in BEAMS] + [(family, None) for family in AT_ONCE],
    ids=lambda own: own if isinstance(own, str) else "greedy" if own is None else f"{own.width} {own.finished}",
)
def test_neighbours_order_and_other_models_change_nothing(family, beam):
    models, reads = some(family)
    whole = answer(models, reads, codec(), LINES, T, beam, at_once=4)
    backwards = answer(models, reads, codec(), LINES[::-1], T, beam, at_once=3)
    for member, (run, model) in enumerate(models.items()):
        alike(whole.answers[member], backwards.answers[member][::-1])
        assert whole.steps[member].tolist() == backwards.steps[member].tolist()[::-1]
        for place, line in enumerate(LINES):
            alone = answer({run: model}, reads, codec(), [line], T, beam)
            alike(whole.answers[member][place : place + 1], alone.answers[0])
            assert int(whole.saved[member, place]) == int(alone.saved[0, 0])


@pytest.mark.parametrize("beam", [None, Beam(2)])
def test_members_answer_the_same_in_groups_of_any_size(monkeypatch, beam):
    models, reads = some("gpt", 5)
    found = []
    for size in (5, 2, 1):
        monkeypatch.setattr(choice, "members_at_once", lambda *_, size=size: size)
        found.append(answer(models, reads, codec(), LINES, T, beam, at_once=4, record=beam is not None))
    for other in found[1:]:
        for member in range(5):
            alike(found[0].answers[member], other.answers[member])
        assert torch.equal(found[0].steps, other.steps) and torch.equal(found[0].saved, other.saved)
        torch.testing.assert_close(found[0].margins, other.margins, atol=1e-9, rtol=0, equal_nan=True)
        assert [[tree and len(tree.candidates) for tree in of_run] for of_run in found[0].trees] == [
            [tree and len(tree.candidates) for tree in of_run] for of_run in other.trees
        ]


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_search_is_a_loop_over_whole_texts(family):
    models, reads = some(family, 8)
    found = answer(models, reads, codec(), LINES, T, at_once=4)
    ended = 0
    for member, model in enumerate(models.values()):
        for place, line in enumerate(LINES):
            (own,) = found.answers[member][place]
            if not line.strip():
                continue
            after, text, log_p = following(model, reads, line), (), 0.0
            while len(text) < T and EOS not in text:
                log_ps = after(text)
                best = max(range(V), key=log_ps.__getitem__)
                text, log_p = (*text, best), log_p + log_ps[best]
            ended += text[-1] == EOS
            assert own.tokens == text
            assert own.log_p == pytest.approx(log_p, abs=1e-9)
            assert own.finished == (text[-1] == EOS)
    assert ended > 2


@pytest.mark.parametrize("family", SEARCHED)
def test_a_beam_of_all_texts_finds_all_texts_in_their_order(family):
    models, reads = some(family)
    lines = ["abca", "", "c"]
    found = answer(models, reads, codec(), lines, T, Beam(V**T, stop="n_best"), at_once=2)
    for member, model in enumerate(models.values()):
        for place in (0, 2):
            every = all_texts(following(model, reads, lines[place]), V, T, EOS)
            own = found.answers[member][place]
            assert [one.tokens for one in own] == [text for _, text, _ in every]
            assert [one.log_p for one in own] == pytest.approx([log_p for *_, log_p in every], abs=1e-9)


@pytest.mark.parametrize("family", FAMILIES)
def test_an_empty_line_has_an_empty_answer_in_its_place(family):
    models, reads = some(family)
    searches = [None] if reads == "source" else [None, Beam(2)]
    for beam in searches:
        found = answer(models, reads, codec(), ["", "ab", " \t", "c", ""], T, beam)
        for member, run in enumerate(models):
            assert [found.answers[member][place] for place in (0, 2, 4)] == [(EMPTY,)] * 3
            assert [found.best(run)[place] for place in (0, 2, 4)] == [""] * 3
            assert found.margins[member, [0, 2, 4]].tolist() == [torch.inf] * 3
            assert bool(found.margins[member, [1, 3]].isnan().all()) == (beam is None)  # not computed, and not far
            assert found.steps[member, [0, 2, 4]].tolist() == [0, 0, 0]
            assert (found.steps[member, [1, 3]] > 0).all()
        nothing = answer(models, reads, codec(), ["", ""], T, beam)
        assert nothing.answers == (((EMPTY,),) * 2,) * 2


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("number", [torch.nan, 1e308])
def test_a_model_that_diverged_is_named(family, number):
    models, reads = some(family, 3)
    with torch.no_grad():
        for parameter in models["run1"].parameters():
            parameter.fill_(number)
    for beam in [None] if reads == "source" else [None, Beam(2)]:
        with pytest.raises(DivergedError, match="run run1 gives") as caught:
            answer(models, reads, codec(), LINES, T, beam, at_once=2)
        assert caught.value.runs == ("run1",)
        assert answer({"run0": models["run0"], "run2": models["run2"]}, reads, codec(), LINES, T, beam).runs


@pytest.mark.parametrize("beam", [None, Beam(V)])
def test_a_model_whose_later_steps_are_not_finite_is_named(beam):
    models, reads = some("encoder_decoder", 3)
    with torch.no_grad():
        models["run2"].target_embedding.tokens.weight[3:] = torch.nan  # of every letter, and not of BOS
    with pytest.raises(DivergedError) as caught:
        answer(models, reads, codec(), LINES, T, beam)
    assert caught.value.runs == ("run2",)


def test_trees_stand_beside_their_lines():
    models, reads = some("encoder_decoder")
    found = answer(models, reads, codec(), LINES, T, Beam(2), at_once=2, record=True)
    for member in range(2):
        for place, line in enumerate(LINES):
            tree = found.trees[member][place]
            assert (tree is None) == (not line.strip())
            if tree is None:
                continue
            assert tree.steps == int(found.steps[member, place])
            best = max((own for own in tree.candidates if own.fate in ("finished", "cut")), key=lambda own: own.score)
            assert best.log_p == pytest.approx(found.answers[member][place][0].log_p, abs=1e-9)


@pytest.mark.parametrize(
    ("family", "lines", "T", "width", "said"),
    [
        ("gpt", [], T, None, "not one line"),
        ("gpt", ["a"], 0, None, "got 0"),
        ("gpt", ["a"], T, V**T + 1, "216"),
        ("gpt", ["a", "ad"], T, None, "source 2: 'd' is not in the vocabulary"),
        ("gpt", ["a", "", "abcab"], T, None, "source 3 has 5 tokens"),
        ("encoder_translator", ["a"], T, 2, "all positions at once"),
    ],
)
def test_what_cannot_be_answered_is_refused(family, lines, T, width, said):
    models, reads = some(family)
    with pytest.raises(UserError, match=said):
        answer(models, reads, codec(), lines, T, width and Beam(width))
