"""State for decoding against the models without one, and what is generated from it."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from shoal.decoding import Beam, Sampling, Stacked, beam_search, exhaustive_search, generate, generate_from
from shoal.keyed import fold, uniform
from shoal.models import GPT, LSTMLM, select
from shoal.models.gpt import NORM_POSITIONS
from shoal.models.positions import POSITIONS

some = settings(max_examples=20, deadline=None)
seeds = st.integers(0, 2**31)
T, V = 8, 9  # context and vocabulary of all models here
FORMS = [
    {},
    *({"positions": kind, "norm_position": where} for kind, where in itertools.product(POSITIONS, NORM_POSITIONS)),
]
every = pytest.mark.parametrize("form", FORMS, ids=lambda form: " ".join(form.values()) or "lstm")
forms = st.sampled_from(FORMS)


def close(found: Tensor, expected: Tensor, *, atol: float = 1e-5) -> None:
    torch.testing.assert_close(found, expected, atol=atol, rtol=0)


def small(form: dict, seed: int = 0) -> nn.Module:
    """A model whose every parameter matters; its logits are a few units large."""
    model = GPT(2, 2, 8, V, T, **form) if form else LSTMLM(V, 6, 8, 2)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.5, generator=generator)
    return model.eval()


def members(form: dict, R: int, seed: int = 0) -> tuple[nn.Module, dict[str, Tensor], list[nn.Module]]:
    """A model, the parameters of R members, and each of them as a model of its own."""
    alone = [small(form, seed + r) for r in range(R)]
    each = [dict(member.named_parameters()) for member in alone]
    stacked = {name: torch.stack([own[name].detach() for own in each]) for name in each[0]}
    return small(form, 10**6), stacked, alone


@pytest.fixture(autouse=True)
def without_gradients():
    with torch.no_grad():
        yield


# ---- the state of a model


@every
def test_cached_logits_are_the_uncached_at_every_position(form):
    model, tokens = small(form), torch.randint(V, (3, T), generator=torch.Generator().manual_seed(0))
    expected = model(tokens)[0]
    state, found = model.start(3, T), []
    for t in range(T):
        before = {name: tensor.clone() for name, tensor in state.items()}
        logits, after = model.step(tokens[:, t : t + 1], state)
        assert all(torch.equal(before[name], state[name]) for name in state)  # nothing in place
        assert {name: tensor.shape for name, tensor in after.items()} == {n: x.shape for n, x in state.items()}
        state = after
        found.append(logits)
    close(torch.cat(found, dim=1), expected)
    assert state["lengths"].tolist() == [T] * 3


@some
@given(seeds, forms, st.lists(st.integers(1, 4), min_size=1, max_size=5), st.integers(0, 2))
def test_a_prompt_may_come_in_any_parts(seed, form, parts, spare):
    parts = [n for n, end in zip(parts, itertools.accumulate(parts), strict=True) if end <= T]
    model, S = small(form, seed), sum(parts)
    tokens = torch.randint(V, (2, S), generator=torch.Generator().manual_seed(seed))
    state, found = model.start(2, min(S + spare, T)), []
    for part in tokens.split(parts, dim=1):
        logits, state = model.step(part, state)
        found.append(logits)
    close(torch.cat(found, dim=1), model(tokens)[0])


def ragged(seed: int, rows: int, longest: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(V, (rows, longest), generator=generator)
    return tokens, torch.randint(1, longest + 1, (rows,), generator=generator)


@some
@given(seeds, forms, st.integers(1, 5), st.integers(1, 5))
def test_rows_of_different_lengths_are_each_as_alone(seed, form, rows, P):
    model, (prompts, counts) = small(form, seed), ragged(seed, rows, P)
    more = torch.randint(V, (rows, T - P), generator=torch.Generator().manual_seed(seed + 1))
    logits, state = model.step(prompts, model.start(rows, T), counts)
    last, _ = model.step(prompts, model.start(rows, T), counts, last=True)
    for b, n in enumerate(counts.tolist()):
        close(logits[b, :n], model(prompts[b : b + 1, :n])[0][0])
        close(last[b, 0], logits[b, n - 1])
    for t in range(T - P):  # and go on from their own ends
        logits, state = model.step(more[:, t : t + 1], state)
        for b, n in enumerate(counts.tolist()):
            whole = torch.cat([prompts[b, :n], more[b, : t + 1]]).unsqueeze(0)
            close(logits[b, 0], model(whole)[0][0, -1])
    assert state["lengths"].tolist() == [n + T - P for n in counts.tolist()]


@some
@given(seeds, forms, st.integers(1, 4), st.integers(1, 4))
def test_padding_and_neighbours_change_nothing(seed, form, rows, P):
    model, (prompts, counts) = small(form, seed), ragged(seed, rows, P)
    other = torch.where(torch.arange(P) < counts.unsqueeze(1), prompts, (prompts + 1) % V)
    other[1:] = (other[1:] + 3) % V
    found = []
    for tokens in (prompts, other):
        _, state = model.step(tokens, model.start(rows, T), counts)
        logits, _ = model.step(torch.full((rows, 1), 2), state)
        found.append([logits[0], *(tensor[0] for tensor in state.values())])
    assert all(torch.equal(*pair) for pair in zip(*found, strict=True))


@some
@given(seeds, forms, st.lists(st.integers(0, 3), min_size=1, max_size=6))
def test_selected_rows_go_on_where_they_were(seed, form, rows):
    model, (prompts, counts) = small(form, seed), ragged(seed, 4, 4)
    _, state = model.step(prompts, model.start(4, T), counts)
    more = torch.randint(V, (len(rows), 3), generator=torch.Generator().manual_seed(seed))
    logits, after = model.step(more, select(state, torch.tensor(rows)))
    for place, row in enumerate(rows):
        whole = torch.cat([prompts[row, : counts[row]], more[place]]).unsqueeze(0)
        close(logits[place], model(whole)[0][0, -3:])
    assert after["lengths"].tolist() == [int(counts[row]) + 3 for row in rows]


@some
@given(seeds, forms, st.integers(1, 3))
def test_lifted_over_members_each_is_as_alone(seed, form, R):
    model, parameters, alone = members(form, R, seed)
    prompts, counts = ragged(seed, 4, 4)
    stacked, each = Stacked(model, parameters), prompts.expand(R, 4, 4)
    first, state = stacked.step(each, stacked.start(4, T), counts)
    picked = torch.randint(4, (R, 3), generator=torch.Generator().manual_seed(seed))
    more = torch.randint(V, (R, 3, 2), generator=torch.Generator().manual_seed(seed))
    own, _ = stacked.step(more, stacked.select(state, picked))
    shared, _ = stacked.step(more, stacked.select(state, torch.tensor([3, 0, 0])))
    assert state["lengths"].shape == (R, 4)
    for r, member in enumerate(alone):
        logits, before = member.step(prompts, member.start(4, T), counts)
        close(first[r], logits)
        close(own[r], member.step(more[r], select(before, picked[r]))[0])
        close(shared[r], member.step(more[r], select(before, torch.tensor([3, 0, 0])))[0])


@every
def test_past_the_end_of_a_state_there_are_no_logits_rather_than_wrong_ones(form):
    if not form:
        return  # an LSTM's state has no end
    model, tokens = small(form), torch.randint(V, (2, 6))
    _, state = model.step(tokens[:, :4], model.start(2, 4), torch.tensor([4, 3]))
    logits, after = model.step(tokens[:, 4:5], state)
    assert logits[0].isnan().all() and logits[1].isfinite().all()
    again, _ = model.step(tokens[:, 5:], after)
    assert again.isnan().all()
    close(logits[1, 0], model(torch.cat([tokens[1, :3], tokens[1, 4:5]]).unsqueeze(0))[0][0, -1])


@pytest.mark.parametrize("positions", POSITIONS)
def test_a_table_of_positions_has_an_end_and_the_others_none(positions):
    model = small({"positions": positions})
    tokens = torch.randint(V, (1, T + 3))
    if positions in ("rotary", "none"):
        close(model.step(tokens, model.start(1, T + 3))[0], model(tokens)[0])
        return
    with pytest.raises(ValueError, match=f"ends at {T}.* {T + 1}"):
        model.start(1, T + 1)
    with pytest.raises(ValueError, match=f"ends at {T}"):
        model(tokens)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_state_is_of_the_models_type(dtype):
    for form in ({}, {"positions": "rotary"}):
        model = small(form).to(dtype)
        state = model.start(2, 3)
        assert {t.dtype for name, t in state.items() if name != "lengths"} == {dtype}
        assert {t.shape[0] for t in state.values()} == {2}
        assert {t.dtype for name, t in model.start(2, 3, dtype=torch.bfloat16).items()} == {torch.int64, torch.bfloat16}


# ---- what is generated


def by_hand(model: nn.Module, prompt: list[int], n: int, context: int | None, pick) -> tuple[list[int], list[float]]:
    """Go on token by token without a state; ``pick(logits, position) -> token``."""
    text, log_p = list(prompt), []
    for _ in range(n):
        window = text if context is None else text[-context:]
        logits = model(torch.tensor([window]))[0][0, -1]
        token = pick(logits, len(text))
        log_p.append(float(logits.log_softmax(-1)[token]))
        text.append(token)
    return text, log_p


@some
@given(seeds, forms, st.integers(1, 3), st.integers(1, 4), st.integers(0, 9), st.sampled_from([None, 3, T]))
def test_greedy_search_is_an_argmax_loop_without_a_state(seed, form, R, N, n, context):
    model, parameters, alone = members(form, R, seed)
    prompts, lengths = ragged(seed, N, 10 if context or form else 4)  # longer than the context, too
    found = generate(model, parameters, prompts, lengths, n, context_length=context, padding=7)
    assert found.tokens.shape == (R, N, prompts.shape[1] + n)
    assert found.log_p.shape == (R, N, n)
    assert torch.equal(found.lengths, (lengths + n).expand(found.tokens.shape[:2]))
    for r, member in enumerate(alone):
        for row, length in enumerate(lengths.tolist()):
            limit = context or (T if form else None)
            text, log_p = by_hand(member, prompts[row, :length].tolist(), n, limit, lambda x, _: int(x.argmax()))
            assert found.tokens[r, row, : length + n].tolist() == text
            assert (found.tokens[r, row, length + n :] == 7).all()
            close(found.log_p[r, row], torch.tensor(log_p, dtype=torch.float32), atol=1e-4)


@some
@given(seeds, forms, st.integers(1, 3), st.integers(1, 5), st.sampled_from([None, 3, T]), st.booleans())
def test_a_row_ends_at_its_first_end_and_its_neighbours_go_on(seed, form, R, N, context, drawn):
    model, parameters, _ = members(form, R, seed)
    prompts, lengths = ragged(seed, N, 4)
    how = {"keys": fold(torch.zeros(R, dtype=torch.int64), torch.arange(R)), "context_length": context, "padding": 7}
    n, sampling = 3 if form and context is None else 6, Sampling(temperature=2.0) if drawn else None
    endless = generate(model, parameters, prompts, lengths, n, sampling, **how)
    eos = int(endless.tokens[0, 0, int(lengths[0])])  # which comes at once somewhere
    found = generate(model, parameters, prompts, lengths, n, sampling, eos=eos, **how)
    stacked = Stacked(model, parameters)
    logits, state = stacked.step(prompts.expand(R, -1, -1), stacked.start(N, T), lengths, last=True)
    for r in range(R):
        for row, length in enumerate(lengths.tolist()):
            text = endless.tokens[r, row, length : length + n].tolist()
            count = text.index(eos) + 1 if eos in text else n
            assert int(found.lengths[r, row]) == length + count
            assert found.tokens[r, row, : length + count].tolist() == endless.tokens[r, row, : length + count].tolist()
            assert (found.tokens[r, row, length + count :] == 7).all()
            close(found.log_p[r, row, :count], endless.log_p[r, row, :count])
            assert (found.log_p[r, row, count:] == 0).all()
    if context is None and not drawn:  # the same from states
        again = generate_from(stacked, state, logits[:, :, 0], n, eos=eos, padding=7)
        close(again.log_p, found.log_p, atol=1e-4)
        assert torch.equal(again.lengths, found.lengths - lengths)
        for row, length in enumerate(lengths.tolist()):
            assert torch.equal(again.tokens[:, row], found.tokens[:, row, length : length + n])


@every
def test_searches_find_what_all_texts_without_a_state_say(form):
    R, n = 2, 2
    model, parameters, alone = members(form, R)
    prompts, lengths = ragged(1, 3, 5)
    stacked = Stacked(model, parameters)
    logits, state = stacked.step(prompts.expand(R, -1, -1), stacked.start(3, 6), lengths, last=True)
    whole = exhaustive_search(stacked, state, logits[:, :, 0], n, V**n)
    beam = beam_search(stacked, state, logits[:, :, 0], n, Beam(V**n)).hypotheses
    narrow = beam_search(stacked, state, logits[:, :, 0], n, Beam(4)).hypotheses
    close(beam.scores, whole.scores)
    every = torch.cartesian_prod(*[torch.arange(V)] * n)  # (V ** n, n)
    for r, member in enumerate(alone):
        for row, length in enumerate(lengths.tolist()):
            texts = torch.cat([prompts[row, :length].expand(len(every), -1), every], dim=1)
            log_p = member(texts)[0][:, length - 1 : -1].log_softmax(-1)  # (V ** n, n, V)
            summed = log_p.gather(-1, every.unsqueeze(-1)).squeeze(-1).sum(-1)
            close(whole.scores[r, row].float(), summed.sort(descending=True).values)
            for found in (whole, beam, narrow):
                places = found.tokens[r, row] @ torch.tensor([V, 1])
                close(found.scores[r, row].float(), summed[places])


SAMPLED = Sampling(temperature=1.5, top_k=7, top_p=0.95)


@some
@given(seeds, forms, st.integers(1, 3))
def test_a_sample_is_a_function_of_member_row_and_position(seed, form, R):
    model, parameters, alone = members(form, R, seed)
    prompts, lengths = ragged(seed, 4, 5)
    keys, rows = fold(torch.tensor(seed), torch.arange(R)), torch.tensor([5, 0, 2**40, 9])
    drawn = {"sampling": SAMPLED, "max_new_tokens": 8}
    together = generate(model, parameters, prompts, lengths, keys=keys, rows=rows, **drawn)
    order = torch.tensor([2, 0, 3, 1])
    other = generate(model, parameters, prompts[order], lengths[order], keys=keys, rows=rows[order], **drawn)
    assert torch.equal(other.tokens, together.tokens[:, order])
    for r, row in itertools.product(range(R), range(4)):
        own = {name: tensor[r : r + 1] for name, tensor in parameters.items()}
        one, length = slice(row, row + 1), int(lengths[row])
        single = generate(
            model, own, prompts[one, :length], lengths[one], keys=keys[r : r + 1], rows=rows[one], **drawn
        )
        assert torch.equal(single.tokens[0, 0], together.tokens[r, row, : length + 8])
        close(single.log_p[0, 0], together.log_p[r, row], atol=1e-4)
        key = fold(keys[r], rows[row])

        def pick(logits: Tensor, position: int, key: Tensor = key) -> int:
            p = literally_filtered(logits.tolist(), SAMPLED)
            u, total = float(uniform(fold(key, position), 1)), 0.0
            for token, share in enumerate(p):
                total += share
                if total > u:
                    return token
            raise AssertionError

        text, _ = by_hand(alone[r], prompts[row, :length].tolist(), 8, T if form else None, pick)
        assert text == together.tokens[r, row, : length + 8].tolist()


def literally_filtered(logits: list[float], how: Sampling) -> list[float]:
    """Probabilities after temperature, top-k and top-p, by lists and loops."""
    scaled = [x / how.temperature for x in logits]
    if how.top_k is not None and how.top_k < len(scaled):
        least = sorted(scaled, reverse=True)[how.top_k - 1]
        scaled = [x if x >= least else -math.inf for x in scaled]
    weights = [math.exp(x - max(scaled)) for x in scaled]
    p = [w / sum(weights) for w in weights]
    if how.top_p is not None and how.top_p < 1:
        kept, mass = set(), 0.0
        for token in sorted(range(len(p)), key=lambda i: (-p[i], i)):
            if mass >= how.top_p:
                break
            kept.add(token)
            mass += p[token]
        p = [share if token in kept else 0.0 for token, share in enumerate(p)]
    return [share / sum(p) for share in p]


def test_keys_rows_and_positions_each_make_another_sample():
    model, parameters, _ = members({"positions": "none"}, 1)
    parameters = {name: torch.zeros_like(tensor).expand(2, *tensor.shape[1:]) for name, tensor in parameters.items()}
    prompts, lengths = torch.zeros(2, 1, dtype=torch.int64), torch.ones(2, dtype=torch.int64)
    keys = torch.tensor([1, 2])
    found = generate(model, parameters, prompts, lengths, 60, Sampling(), keys=keys)  # every token is as likely
    texts = [tuple(text.tolist()) for text in found.tokens.flatten(0, 1)]
    assert len(set(texts)) == 4
    assert all(len(set(text)) == V for text in texts)
    assert torch.equal(found.tokens, generate(model, parameters, prompts, lengths, 60, Sampling(), keys=keys).tokens)


def test_the_model_is_given_back_as_it_was():
    model = GPT(2, 2, 8, V, T, dropout=0.5, dropout_at="everywhere").train()
    parameters = {name: p.detach().unsqueeze(0) for name, p in model.named_parameters()}
    prompts, lengths = torch.zeros(1, 2, dtype=torch.int64), torch.tensor([2])
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    first = generate(model, parameters, prompts, lengths, 12)
    assert model.training
    assert torch.equal(first.tokens, generate(model, parameters, prompts, lengths, 12).tokens)  # nothing dropped out
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_tied_parameters_are_given_once():
    model = GPT(2, 1, 8, V, T, share_embeddings=True, positions="learned").eval()
    other = GPT(2, 1, 8, V, T, share_embeddings=True, positions="learned").eval()
    parameters = {name: p.detach().unsqueeze(0) for name, p in other.named_parameters()}
    assert "classifier.weight" not in parameters
    stacked, tokens = Stacked(model, parameters), torch.randint(V, (1, 2, 5))
    close(stacked.step(tokens, stacked.start(2, 5))[0][0], other(tokens[0])[0])
    with pytest.raises(ValueError, match=r"embedding\.tokens\.weight"):
        Stacked(model, {"decoder.norm.weight": torch.ones(1, 8)})


def test_what_makes_no_generation_is_refused():
    model, parameters, _ = members({}, 1)
    prompts, ones = torch.zeros(2, 3, dtype=torch.int64), torch.ones(2, dtype=torch.int64)
    for lengths in (torch.tensor([0, 1]), torch.tensor([1, 4]), torch.tensor([1])):
        with pytest.raises(ValueError, match="lengths"):
            generate(model, parameters, prompts, lengths, 2)
    with pytest.raises(ValueError, match="max_new_tokens"):
        generate(model, parameters, prompts, ones, -1)
    with pytest.raises(ValueError, match="context_length"):
        generate(model, parameters, prompts, ones, 1, context_length=0)
    with pytest.raises(ValueError, match="keys"):
        generate(model, parameters, prompts, ones, 2, Sampling())
    table, of_table, _ = members({"positions": "learned"}, 1)
    with pytest.raises(ValueError, match="table of positions"):
        generate(table, of_table, prompts, ones, 30, context_length=T + 1)
