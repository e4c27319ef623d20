"""A step of GPTs as one call of a compiled library: against the lifted model, on every processor there is here."""

import ctypes
import itertools
import shutil
import subprocess
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from shoal.decoding import FastGPT, Sampling, Stacked, choice, decoder_for, generate
from shoal.decoding.compiled_gpt import PAGE, SOURCE
from shoal.fast.build import FLAGS, PLAIN_FLAGS, Kernels, compiled
from shoal.keyed import fold
from shoal.models import GPT
from shoal.models.feed_forward import NON_LINEARITIES
from shoal.models.gpt import NORM_POSITIONS
from shoal.models.norms import NORMS
from shoal.models.positions import POSITIONS

pytestmark = pytest.mark.skipif(compiled(SOURCE).library is None, reason=compiled(SOURCE).note)
some = settings(max_examples=40, deadline=None)
seeds = st.integers(0, 2**31)
PROCESSORS = {  # vectors of 512 bits or fewer, of 256 or fewer, of 128
    "this": FLAGS,
    "without AVX-512": (*FLAGS, "-mno-avx512f"),
    "any": PLAIN_FLAGS,
}


@pytest.fixture(scope="module")
def libraries(tmp_path_factory) -> dict[str, ctypes.CDLL]:
    """The library as other processors would have it, as far as this compiler and this processor know them."""
    found, folder, compiler = {}, tmp_path_factory.mktemp("libraries"), shutil.which("cc")
    for number, (name, flags) in enumerate(PROCESSORS.items()):
        made = folder / f"{number}.so"
        if (
            compiler
            and not subprocess.run([compiler, "-o", made, SOURCE, *flags, "-lm"], capture_output=True).returncode
        ):
            found[name] = ctypes.CDLL(str(made))
    return found or {"this": compiled(SOURCE).library}


@pytest.fixture(autouse=True)
def without_gradients():
    with torch.no_grad():
        yield


def with_library(library: ctypes.CDLL | None):
    return mock.patch("shoal.decoding.compiled_gpt.compiled", lambda source: Kernels(library, ""))


forms = st.fixed_dictionaries(
    {
        "norm": st.sampled_from(list(NORMS)),
        "norm_position": st.sampled_from(NORM_POSITIONS),
        "positions": st.sampled_from(POSITIONS),
        "non_linearity": st.sampled_from(NON_LINEARITIES),
        "multiplier": st.sampled_from([1.0, 2.5, 4.0]),
        **{name: st.booleans() for name in ("bias_attention", "bias_classifier", "bias_ffn", "bias_norm")},
    }
)
sizes = st.fixed_dictionaries(
    {
        "heads": st.integers(1, 3),
        "head_size": st.sampled_from([4, 6, 10, 16, 24, 44]),
        "layers": st.integers(1, 2),
        "V": st.sampled_from([2, 5, 16, 65]),
        "T": st.integers(6, 40),
    }
)
SMALL = {"heads": 2, "head_size": 10, "layers": 2, "V": 21, "T": 12}


def members(R: int, seed: int, size: dict, form: dict) -> tuple[GPT, dict[str, Tensor]]:
    """A model, and parameters of R members, every one of which matters."""
    width = size["heads"] * size["head_size"]
    model = GPT(size["heads"], size["layers"], width, size["V"], size["T"], **form).eval()
    generator, drawn = torch.Generator().manual_seed(seed), {}
    for name, parameter in model.named_parameters():
        scale = 1.0 if "norm" in name else parameter.shape[-1] ** -0.5
        drawn[name] = scale * torch.randn(R, *parameter.shape, generator=generator)
    return model, drawn


def lifted(model: GPT, parameters: dict[str, Tensor]) -> Stacked:
    """The oracle, in float64."""
    return Stacked(model.double(), {name: own.double() for name, own in parameters.items()})


def cached(state: dict[str, Tensor], T: int) -> tuple[Tensor, Tensor]:
    """Keys ``(L, R, N, H, head_size, T)`` and values ``(L, R, N, H, T, head_size)`` of rows that share no page."""
    if state["keys"].ndim == 6:  # by PyTorch's operations
        return state["keys"][..., :T], state["values"][..., :T, :]
    keys, values = state["keys"].movedim(3, 5).flatten(5, 6), state["values"].movedim(3, 4).flatten(4, 5)
    return keys[..., :T], values[..., :T, :]


def cleared(decoder, N: int, T: int) -> dict[str, Tensor]:
    """State at the start with 0 in places that are not in use, which may hold anything."""
    state = decoder.start(N, T)
    for name in ("keys", "values"):
        state[name].zero_()
    return state


def close(found: Tensor, expected: Tensor) -> None:
    """Within 5e-5 of the largest: LayerNorm of 4 numbers that are almost equal makes 1.6e-5 of rounding."""
    scale = max(1.0, float(expected.abs().max())) if expected.numel() else 1.0
    torch.testing.assert_close(found.double(), expected.double(), atol=5e-5 * scale, rtol=0)


@pytest.mark.parametrize("processor", PROCESSORS)
@some
@given(seeds, sizes, forms, st.integers(1, 3), st.integers(1, 19), st.booleans())
def test_every_logit_is_that_of_the_lifted_model(libraries, processor, seed, size, form, R, N, is_ragged):
    """Of any size and any number of rows: a prompt, tokens one by one, rows copied, rows moved, tokens by twos."""
    if processor not in libraries:
        pytest.skip(f"no library for {processor}")
    model, parameters = members(R, seed, size, form)
    with with_library(libraries[processor]):
        decoder = decoder_for(model, parameters)
    assert isinstance(decoder, FastGPT) and decoder.compiled is not None
    oracle, generator = lifted(model, parameters), torch.Generator().manual_seed(seed)
    rows = [torch.randint(N, (R, N), generator=generator) for _ in range(2)]
    turns = [3, 1, 1, 1] if size["T"] < 9 else [size["T"] - 5, 1, 2, 1, 1]  # of several pages, as a rule
    counts = turns[0] - torch.randint(3, (N,), generator=generator) if is_ragged else None
    ours, theirs = decoder.start(N, size["T"]), oracle.start(N, size["T"])
    for turn, n in enumerate(turns):
        tokens = torch.randint(size["V"], (R, N, n), generator=generator)
        real = counts if turn == 0 else None
        found, ours = decoder.step(tokens, ours, real)
        expected, theirs = oracle.step(tokens, theirs, real)
        for row, own in enumerate([n] * N if real is None else real.tolist()):
            close(found[:, row, :own], expected[:, row, :own])
        assert torch.equal(ours["lengths"], theirs["lengths"])
        if turn < 2:
            ours = decoder.reorder(ours, rows[turn]) if turn else decoder.select(ours, rows[turn])
            theirs = oracle.select(theirs, rows[turn])


@pytest.mark.parametrize("processor", PROCESSORS)
@some
@given(seeds, sizes, forms, st.integers(2, 17))
def test_a_row_has_the_same_bits_alone_and_in_any_batch(libraries, processor, seed, size, form, N):
    """And of one member of several, token by token and all at once."""
    if processor not in libraries:
        pytest.skip(f"no library for {processor}")
    model, parameters = members(2, seed, size, form)
    with with_library(libraries[processor]):
        decoder, n = decoder_for(model, parameters), 5
        alone = decoder_for(model, {name: own[1:] for name, own in parameters.items()})
    tokens = torch.randint(size["V"], (2, N, n), generator=torch.Generator().manual_seed(seed))
    whole, state = decoder.step(tokens, decoder.start(N, size["T"]))
    last, _ = decoder.step(tokens, decoder.start(N, size["T"]), last=True)
    assert torch.equal(last[:, :, 0], whole[:, :, -1])
    row = seed % N
    own, steps = alone.start(1, size["T"]), []
    for at in range(n):
        logits, own = alone.step(tokens[1:, row : row + 1, at : at + 1], own)
        steps.append(logits[0, 0, 0])
    assert torch.equal(torch.stack(steps), whole[1, row])
    for here, there in zip(cached(own, n), cached(state, n), strict=True):
        assert torch.equal(here[:, 0, 0], there[:, 1, row])


def test_threads_change_no_bit():
    size = {"heads": 2, "head_size": 32, "layers": 2, "V": 65, "T": 12}
    for R, N in ((1, 40), (3, 5), (2, 1)):
        model, parameters = members(R, 3, size, {"norm_position": "pre", "bias_ffn": True})
        decoder, found = decoder_for(model, parameters), []
        tokens = torch.randint(65, (R, N, 3), generator=torch.Generator().manual_seed(0))
        before = torch.get_num_threads()
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            try:
                logits, state = decoder.step(tokens, cleared(decoder, N, 12))
                found.append([logits, *state.values()])
            finally:
                torch.set_num_threads(before)
        assert all(torch.equal(*pair) for other in found[1:] for pair in zip(found[0], other, strict=True))


def test_past_the_end_there_is_nan_and_nothing_is_written_to_a_place_that_is_seen():
    model, parameters = members(2, 1, SMALL, {})
    decoder, T = decoder_for(model, parameters), 5
    counts = torch.tensor([4, 2, 0])
    logits, state = decoder.step(torch.zeros(2, 3, 4, dtype=torch.int64), cleared(decoder, 3, T), counts)
    kept = [tensor.clone() for tensor in cached(state, T)]
    assert kept[0][:, :, 1, ..., 2:].abs().max() == 0  # padding
    for real, is_past in ((None, True), (torch.tensor([1, 3, 2]), False)):
        again = decoder.select(state, torch.arange(3))
        last, _ = decoder.step(torch.ones(2, 3, 3, dtype=torch.int64), again, real, last=True)
        assert last.isnan().all(-1).tolist() == [[[is_past], [False], [False]]] * 2
    logits, state = decoder.step(torch.ones(2, 3, 3, dtype=torch.int64), state)
    assert logits.isnan().all(-1).tolist() == [[[False, True, True], [False, False, False], [False, False, False]]] * 2
    assert torch.equal(cached(state, 4)[0][:, :, 0], kept[0][:, :, 0, ..., :4])
    last, _ = decoder.step(torch.ones(2, 3, 1, dtype=torch.int64), state, last=True)
    assert last.isnan().all(-1).tolist() == [[[True], [True], [False]]] * 2
    assert torch.equal(cached(state, 4)[1][:, :, 0], kept[1][:, :, 0, :, :4])


@pytest.mark.parametrize("norm", list(NORMS))
@pytest.mark.parametrize("non_linearity", NON_LINEARITIES)
def test_a_member_that_is_not_finite_says_so_and_leaves_the_others_alone(norm, non_linearity):
    model, parameters = members(3, 1, SMALL, {"norm": norm, "non_linearity": non_linearity})
    tokens = torch.tensor([[[3, 1]], [[3, 1]], [[3, 1]]])
    expected, _ = decoder_for(model, parameters).step(tokens, decoder_for(model, parameters).start(1, 4))
    for name in parameters:
        if name.startswith("decoder.blocks.1"):
            spoiled = {**parameters, name: parameters[name].clone()}
            spoiled[name][1] = torch.nan
            decoder = decoder_for(model, spoiled)
            found, _ = decoder.step(tokens, decoder.start(1, 4))
            assert found[1].isnan().any() and torch.equal(found[::2], expected[::2])


@pytest.mark.parametrize("token", [-1, 21, 2**40])
def test_a_token_that_there_is_not_is_refused_and_changes_nothing(token):
    model, parameters = members(2, 1, SMALL, {})
    decoder, tokens = decoder_for(model, parameters), torch.zeros(2, 3, 2, dtype=torch.int64)
    _, state = decoder.step(tokens, cleared(decoder, 3, 6))
    before = {name: own.clone() for name, own in state.items()}
    tokens[1, 2, 1] = token
    with pytest.raises(IndexError):
        decoder.step(tokens, state)
    assert all(torch.equal(before[name], state[name]) for name in before)


def test_tokens_and_counts_of_other_rows_than_the_state_are_refused():
    model, parameters = members(2, 1, SMALL, {})
    decoder = decoder_for(model, parameters)
    for size, counts in (((2, 4, 1), None), ((1, 3, 1), None), ((2, 3, 0), None), ((2, 3, 2), torch.tensor([1, 2]))):
        with pytest.raises(ValueError, match="counts"):
            decoder.step(torch.zeros(size, dtype=torch.int64), decoder.start(3, 6), counts)


def test_a_state_that_lies_otherwise_and_numbers_of_other_kinds_are_taken_too():
    model, parameters = members(2, 1, SMALL, {"positions": "rotary"})
    decoder, generator = decoder_for(model, parameters), torch.Generator().manual_seed(0)
    tokens = torch.randint(21, (2, 3, 2), generator=generator)
    _, state = decoder.step(tokens, decoder.start(3, 6))
    other = decoder.select(state, torch.arange(3))
    other["keys"] = other["keys"].transpose(0, 1).contiguous().transpose(0, 1)
    small = tokens[:, :, :1].to(torch.int32).transpose(0, 1).contiguous().transpose(0, 1)
    expected, _ = decoder.step(tokens[:, :, :1], state, last=True)
    found, _ = decoder.step(small, other, torch.ones(3, dtype=torch.int64))
    close(found, expected)


@some
@given(seeds, sizes, forms, st.integers(1, 3), st.integers(1, 5))
def test_without_a_library_logits_are_the_same_but_for_rounding(seed, size, form, R, N):
    model, parameters = members(R, seed, size, form)
    with with_library(None):
        plain = decoder_for(model, parameters)
    decoder, generator = decoder_for(model, parameters), torch.Generator().manual_seed(seed)
    assert plain.compiled is None and decoder.compiled is not None
    states = [plain.start(N, size["T"]), cleared(decoder, N, size["T"])]
    counts = torch.randint(1, 4, (N,), generator=generator)
    for n, real in ((3, counts), (1, None), (1, None)):
        tokens = torch.randint(size["V"], (R, N, n), generator=generator)
        found = [
            each.step(tokens, state, real, last=True)[0] for each, state in zip((plain, decoder), states, strict=True)
        ]
        close(*found)
        for mine, theirs in zip(*(cached(state, size["T"]) for state in states), strict=True):
            close(mine, theirs)


def test_rotary_angles_reach_as_far_as_the_longest_state():
    model, parameters = members(1, 1, SMALL, {"positions": "rotary"})
    decoder, tokens = decoder_for(model, parameters), torch.arange(11).view(1, 1, 11)
    decoder.step(tokens[..., :1], decoder.start(1, 1))
    found, _ = decoder.step(tokens, decoder.start(1, 12))
    expected, _ = decoder_for(model, parameters).step(tokens, decoder.start(1, 12))
    assert torch.equal(found, expected)


def test_only_float32_is_computed_by_the_library():
    model, parameters = members(1, 1, SMALL, {})
    assert decoder_for(model, parameters).compiled is not None
    assert decoder_for(model, {name: own.double() for name, own in parameters.items()}).compiled is None


# ---- rows that share pages


@pytest.mark.parametrize("processor", PROCESSORS)
@some
@given(
    seeds,
    st.fixed_dictionaries(
        {**{name: st.integers(1, 2) for name in ("heads", "layers")}, "head_size": st.sampled_from([4, 10, 16, 44])}
    ),
    st.sampled_from(POSITIONS),
    st.data(),
)
def test_rows_with_a_common_past_go_on_as_if_alone(libraries, processor, seed, size, positions, data):
    """To the bit, over many pages: any rows taken any number of times, of any lengths, in place and copied."""
    if processor not in libraries:
        pytest.skip(f"no library for {processor}")
    T, R, N, V = 53, 2, data.draw(st.integers(1, 6)), 7
    model, parameters = members(R, seed, {**size, "V": V, "T": T}, {"positions": positions})
    with with_library(libraries[processor]):
        decoder = decoder_for(model, parameters)
    generator, state = torch.Generator().manual_seed(seed), decoder.start(N, T)
    texts: list[list[list[int]]] = [[[] for _ in range(N)] for _ in range(R)]
    for n in data.draw(st.lists(st.integers(1, 20), min_size=1, max_size=7)):
        tokens = torch.randint(V, (R, N, n), generator=generator)
        is_even = data.draw(st.booleans())
        counts = torch.full((N,), n) if is_even else (n // torch.randint(1, 3, (N,), generator=generator)).clamp(min=1)
        logits, state = decoder.step(tokens, state, None if is_even else counts, last=True)
        for of_member, new in zip(texts, tokens.tolist(), strict=True):
            for text, more, count in zip(of_member, new, counts.tolist(), strict=True):
                text += more[:count]
        for r, i in itertools.product(range(R), range(N)):
            alone = decoder.start(1, T)
            expected, _ = decoder.step(torch.tensor(texts[r][i]).expand(R, 1, -1), alone, last=True)
            assert torch.equal(logits[r, i], expected[r, 0]) or (len(texts[r][i]) > T and logits[r, i].isnan().all())
        move = data.draw(st.sampled_from(["reorder", "of one length", "select"]))
        M = data.draw(st.integers(1, 8)) if move == "select" else N
        rows = torch.randint(N, (R, M), generator=generator)
        if move == "of one length":  # as rows of one prompt beside those of others
            rows = torch.tensor([[equally_long(own, i, seed) for i in range(N)] for own in texts])
        state = decoder.select(state, rows) if move == "select" else decoder.reorder(state, rows)
        texts, N = [[list(own[i]) for i in taken] for own, taken in zip(texts, rows.tolist(), strict=True)], M


def equally_long(texts: list[list[int]], i: int, seed: int) -> int:
    """One of the texts that are as long as text ``i``."""
    alike = [j for j, text in enumerate(texts) if len(text) == len(texts[i])]
    return alike[(seed + 7 * i) // 3 % len(alike)]


def test_a_full_page_is_there_once_and_one_in_part_for_each_row():
    """What a moved row does not own may be spoilt: it is never read."""
    size = {"heads": 2, "head_size": 6, "layers": 2, "V": 21, "T": 40}
    model, parameters = members(1, 2, size, {})
    decoder, first = decoder_for(model, parameters), torch.arange(PAGE + 3).view(1, 1, -1)
    expected, _ = decoder.step(torch.cat([first, torch.tensor([[[20]]])], dim=-1), decoder.start(1, 40), last=True)
    for move in (decoder.select, decoder.reorder):
        _, state = decoder.step(first.expand(1, 3, -1), decoder.start(3, 40))
        moved = dict(move(state, torch.tensor([[1, 1, 1]])))
        full, other = moved["pages"][0, :, 0].unique(), set(range(3))
        assert len(full) == 1 and moved["pages"][0, :, 1].unique().numel() == 3
        for name in ("keys", "values"):
            moved[name][:, :, list(other - set(full.tolist())), 0] = torch.nan
        logits, _ = decoder.step(torch.full((1, 3, 1), 20), moved, last=True)
        assert all(torch.equal(logits[0, i], expected[0, 0]) for i in range(3))


def test_a_step_of_a_beam_copies_no_more_than_a_page():
    size = {"heads": 1, "head_size": 16, "layers": 1, "V": 21, "T": 60}
    model, parameters = members(1, 2, size, {})
    decoder = decoder_for(model, parameters)
    _, state = decoder.step(torch.zeros(1, 2, 50, dtype=torch.int64), cleared(decoder, 2, 60))
    before = {name: state[name].clone() for name in ("keys", "values")}
    for name in before:
        state[name][:, :, 1, :3] = torch.inf
    decoder.reorder(state, torch.tensor([[0, 0]]))
    assert state["keys"][:, :, 1, :3].isinf().all() and state["values"][:, :, 1, :3].isinf().all()
    assert all(torch.equal(state[name][:, :, 1, 3], before[name][:, :, 0, 3]) for name in before)


# ---- members one group after the other


@pytest.mark.parametrize("sampling", [None, Sampling(temperature=1.5, top_k=9)])
@pytest.mark.parametrize("eos", [None, 3])
def test_members_write_the_same_in_groups_of_any_size(monkeypatch, sampling, eos):
    R, lengths = 5, torch.tensor([3, 1, 4])
    model, parameters = members(R, 2, SMALL, {})
    prompts = torch.randint(21, (3, 4), generator=torch.Generator().manual_seed(0))
    found, groups = [], []  # of texts whose window slides
    for cached in (0, 2 * member_bytes(model, parameters, 3, 12), 10**12):
        monkeypatch.setattr(choice, "CACHED", cached)
        groups.append(choice.members_at_once(model, parameters, 3, 12))
        keys = fold(torch.arange(R), 7)
        found.append(generate(model, parameters, prompts, lengths, 12, sampling, keys=keys, eos=eos))
    assert groups == [1, 2, R] and found[0].tokens.shape == (R, 3, 16)
    for one, other in itertools.pairwise(found):
        for name in ("tokens", "lengths", "log_p"):
            assert torch.equal(getattr(one, name), getattr(other, name)), name


def member_bytes(model: GPT, parameters: dict[str, Tensor], N: int, T: int) -> int:
    """What a step of a member reads at most: its parameters, and what its rows have in use."""
    state = decoder_for(model, {name: own[:1] for name, own in parameters.items()}).start(N, T)
    each = [*(own[0] for own in parameters.values()), state["keys"], state["values"]]
    return sum(4 * tensor.numel() for tensor in each)


def test_rows_count_as_their_keys_and_values():
    model, parameters = members(6, 2, SMALL, {})
    bytes_each = member_bytes(model, parameters, 50, 12)
    for cached, expected in ((2 * bytes_each - 1, 1), (2 * bytes_each, 2), (3 * bytes_each - 1, 2)):
        with mock.patch.object(choice, "CACHED", cached):
            assert choice.members_at_once(model, parameters, 50, 12) == expected


def test_members_stay_together_where_a_step_is_many_calls_and_threads_have_one_each():
    model, parameters = members(6, 2, SMALL, {})
    with mock.patch.object(choice, "CACHED", 0):
        assert choice.members_at_once(model, parameters, 3, 12) == 1
        with mock.patch("torch.get_num_threads", lambda: 4):
            assert choice.members_at_once(model, parameters, 3, 12) == 4
        with with_library(None):
            assert choice.members_at_once(model, parameters, 3, 12) == 6
        doubled = {name: own.double() for name, own in parameters.items()}
        assert choice.members_at_once(model, doubled, 3, 12) == 6
