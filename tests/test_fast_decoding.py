"""Decoders written for a family against the models, one member and one row at a time, and against any model lifted."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from shoal.decoding import FastGPT, FastLSTM, Stacked, decoder_for, generate
from shoal.models import GPT, LSTMLM
from shoal.models.feed_forward import NON_LINEARITIES
from shoal.models.gpt import NORM_POSITIONS
from shoal.models.norms import NORMS
from shoal.models.positions import POSITIONS

some = settings(max_examples=60, deadline=None)
seeds = st.integers(0, 2**31)
T, V = 9, 7  # context and vocabulary
CLOSE = {torch.float32: 1e-5, torch.float64: 1e-12}

gpts = st.fixed_dictionaries(
    {
        "norm": st.sampled_from(list(NORMS)),
        "norm_position": st.sampled_from(NORM_POSITIONS),
        "positions": st.sampled_from(POSITIONS),
        "non_linearity": st.sampled_from(NON_LINEARITIES),
        **{
            name: st.booleans()
            for name in ("bias_attention", "bias_classifier", "bias_ffn", "bias_norm", "share_embeddings")
        },
    }
)
lstms = st.fixed_dictionaries({name: st.booleans() for name in ("bias_lstm", "bias_classifier", "share_embeddings")})
forms = st.one_of(gpts, gpts, lstms)


def new(form: dict) -> nn.Module:
    return GPT(2, 2, 8, V, T, multiplier=3, **form) if "norm" in form else LSTMLM(V, 8, 8, 2, **form)


def members(form: dict, R: int, seed: int, dtype: torch.dtype) -> tuple[nn.Module, dict[str, Tensor], list[nn.Module]]:
    """A model, the parameters of R members, and each of them as a model of its own; every parameter matters."""
    generator, alone = torch.Generator().manual_seed(seed), []
    for _ in range(R):
        model = new(form).to(dtype).eval()
        for name, parameter in model.named_parameters():
            scale = 1.0 if "norm" in name else parameter.shape[-1] ** -0.5
            drawn = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.data.copy_(drawn * scale)
        alone.append(model)
    each = [dict(model.named_parameters()) for model in alone]
    stacked = {name: torch.stack([own[name].detach() for own in each]) for name in each[0]}
    return new(form).to(dtype).eval(), stacked, alone


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=CLOSE[found.dtype], rtol=CLOSE[found.dtype])


@pytest.fixture(autouse=True)
def without_gradients():
    with torch.no_grad():
        yield


class Texts:
    """What the rows of every member have been told so far, and what the models say about it without a state."""

    def __init__(self, alone: list[nn.Module], N: int) -> None:
        self.alone = alone
        self.rows: list[list[list[int]]] = [[[] for _ in range(N)] for _ in alone]

    def tell(self, tokens: Tensor, counts: list[int]) -> None:
        for own, theirs in zip(self.rows, tokens.tolist(), strict=True):
            for row, new, count in zip(own, theirs, counts, strict=True):
                row += new[:count]

    def take(self, rows: Tensor) -> None:
        each = rows.expand(len(self.rows), -1).tolist()
        self.rows = [[list(own[row]) for row in wanted] for own, wanted in zip(self.rows, each, strict=True)]

    def check(self, logits: Tensor, counts: list[int], end: int) -> None:
        """Logits ``(R, N, n, V)`` after each of the last ``counts`` tokens."""
        for r, row in itertools.product(range(len(self.rows)), range(len(counts))):
            text, new = self.rows[r][row], counts[row]
            inside = text[:end]
            expected = self.alone[r](torch.tensor([inside]))[0][0][len(text) - new :]
            close(logits[r, row, : len(expected)], expected)
            assert logits[r, row, len(expected) : new].isnan().all()  # there was no place


@some
@given(seeds, forms, st.integers(1, 3), st.integers(1, 4), st.sampled_from([torch.float32, torch.float64]), st.data())
def test_every_logit_is_the_models_own(seed, form, R, N, dtype, data):
    """Ragged prompts, parts of any size, rows taken and reordered, up to the end of the context and past it."""
    model, parameters, alone = members(form, R, seed, dtype)
    decoder, generator = decoder_for(model, parameters), torch.Generator().manual_seed(seed)
    assert isinstance(decoder, FastGPT if "norm" in form else FastLSTM)
    end = data.draw(st.integers(4, T))
    texts, state = Texts(alone, N), decoder.start(N, end)
    for _ in range(data.draw(st.integers(1, 6))):
        n = data.draw(st.integers(1, 4))
        least = 0 if all(row for own in texts.rows for row in own) else 1
        counts = data.draw(st.none() | st.lists(st.integers(least, n), min_size=N, max_size=N))
        tokens = torch.randint(V, (R, N, n), generator=generator)
        given = None if counts is None else torch.tensor(counts)
        kept = decoder.select(state, torch.arange(N))
        logits, state = decoder.step(tokens, state, given)
        last, again = decoder.step(tokens, kept, given, last=True)
        counts = counts or [n] * N
        texts.tell(tokens, counts)
        texts.check(logits, counts, end if "norm" in form else 10**6)
        for row, count in enumerate(counts):
            if count:
                torch.testing.assert_close(
                    last[:, row, 0], logits[:, row, count - 1], atol=CLOSE[dtype], rtol=CLOSE[dtype], equal_nan=True
                )
        assert torch.equal(again["lengths"], state["lengths"])
        assert state["lengths"].tolist() == [[len(row) for row in own] for own in texts.rows]
        how = data.draw(st.sampled_from(["stay", "select", "reorder"]))
        if how == "stay":
            continue
        rows = torch.randint(N, (R, N) if data.draw(st.booleans()) else (N,), generator=generator)
        state = decoder.select(state, rows) if how == "select" else decoder.reorder(state, rows)
        texts.take(rows)


@some
@given(seeds, forms, st.integers(1, 3), st.integers(1, 5))
def test_lifted_by_hand_as_lifted_by_vmap(seed, form, R, N):
    model, parameters, _ = members(form, R, seed, torch.float64)
    generator = torch.Generator().manual_seed(seed)
    prompts, counts = torch.randint(V, (R, N, 4), generator=generator), torch.randint(1, 5, (N,), generator=generator)
    rows, more = torch.randint(N, (R, N), generator=generator), torch.randint(V, (R, N, 2), generator=generator)
    found = []
    for decoder in (decoder_for(model, parameters), Stacked(model, parameters)):
        first, state = decoder.step(prompts, decoder.start(N, T), counts)
        forked = decoder.step(more, decoder.select(state, rows))[0]
        moved = decoder.reorder(state, rows)
        second, moved = decoder.step(more[:, :, :1], moved)
        third, after = decoder.step(more[:, :, 1:], moved, torch.ones(N, dtype=torch.int64), last=True)
        real = torch.where(torch.arange(4).unsqueeze(-1) < counts.view(-1, 1, 1), first, 0)
        found.append([real, forked, torch.cat([second, third], dim=2), after["lengths"]])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=1e-12)
    close(found[0][1], found[0][2])


@some
@given(seeds, forms, st.integers(2, 4))
def test_neighbours_change_nothing(seed, form, N):
    """Of equally large batches, to the bit: other rows' texts, lengths, and what stands in padding."""
    model, parameters, _ = members(form, 2, seed, torch.float32)
    generator = torch.Generator().manual_seed(seed)
    own = torch.randint(V, (2, 1, 3), generator=generator)
    found = []
    for _ in range(2):
        decoder = decoder_for(model, parameters)
        counts = torch.randint(1, 4, (N,), generator=generator)
        counts[:2] = torch.tensor([2, 3])
        prompts = torch.randint(V, (2, N, 3), generator=generator)
        prompts[:, :1, :2] = own[..., :2]
        logits, state = decoder.step(prompts, decoder.start(N, T), counts)
        after = torch.randint(V, (2, N, 1), generator=generator)
        after[:, :1] = own[..., 2:]
        found.append([logits[:, 0, :2], decoder.step(after, state)[0][:, 0]])
    assert all(torch.equal(*pair) for pair in zip(*found, strict=True))


def test_a_whole_text_of_one_row_is_the_same_in_any_batch():
    model, parameters, _ = members({"norm": "layernorm", "positions": "rotary"}, 2, 5, torch.float64)
    prompts, lengths = (
        torch.randint(V, (5, 4), generator=torch.Generator().manual_seed(0)),
        torch.tensor([4, 1, 3, 2, 4]),
    )
    together = generate(model, parameters, prompts, lengths, 12)
    for row, length in enumerate(lengths.tolist()):
        alone = generate(model, parameters, prompts[row : row + 1, :length], lengths[row : row + 1], 12)
        assert torch.equal(alone.tokens[:, 0], together.tokens[:, row, : length + 12])
        close(alone.log_p[:, 0], together.log_p[:, row])


def test_no_rows_and_rows_that_stay():
    model, parameters, _ = members({"norm": "none"}, 2, 1, torch.float32)
    decoder = decoder_for(model, parameters)
    logits, state = decoder.step(torch.zeros(2, 0, 3, dtype=torch.int64), decoder.start(0, T))
    assert logits.shape == (2, 0, 3, V)
    _, state = decoder.step(torch.zeros(2, 3, 2, dtype=torch.int64), decoder.start(3, T))
    before = {name: tensor.clone() for name, tensor in state.items()}
    after = decoder.reorder(state, torch.arange(3))
    for name in before:  # places that are not in use are anything
        torch.testing.assert_close(after[name], before[name], atol=0, rtol=0, equal_nan=True)


def test_only_what_is_in_use_moves():
    model, parameters, _ = members({"norm": "none"}, 1, 1, torch.float64)  # by PyTorch's operations
    decoder = decoder_for(model, parameters)
    _, state = decoder.step(torch.randint(V, (1, 2, 3)), decoder.start(2, T))
    state["keys"][..., 3:], state["values"][..., 3:, :] = torch.nan, torch.nan
    state["keys"][..., 1, :, 3:] = state["values"][..., 1, 3:, :] = 1.0
    after = decoder.reorder(state, torch.tensor([0, 0]))
    assert after["keys"] is state["keys"]  # in place
    assert after["keys"].isnan().sum() + after["values"].isnan().sum() == before_nan(state)


def before_nan(state: dict[str, Tensor]) -> int:
    """Numbers behind what is in use in the first row of a state."""
    return int(state["keys"][:, :, 0, :, :, 3:].numel() + state["values"][:, :, 0, :, 3:].numel())


def test_what_belongs_to_a_source_stays():
    model, parameters, _ = members({"bias_lstm": True}, 2, 1, torch.float32)
    stacked = Stacked(model, parameters)
    state = stacked.start(3, T) | {"memory_seen": torch.arange(6).view(2, 3)}
    state["h"] = torch.randn(state["h"].shape)
    after = stacked.reorder(state, torch.tensor([2, 0, 0]))
    assert after["memory_seen"] is state["memory_seen"]
    assert torch.equal(after["h"], state["h"][:, [2, 0, 0]])


def test_a_scratch_of_inference_mode_is_not_written_outside_it():
    model, parameters, _ = members({"norm": "rmsnorm"}, 1, 1, torch.float32)
    decoder, tokens = decoder_for(model, parameters), torch.zeros(1, 2, 1, dtype=torch.int64)
    with torch.inference_mode():
        expected = decoder.step(tokens, decoder.start(2, T))[0]
    found, _ = decoder.step(tokens, decoder.start(2, T))
    assert torch.equal(found, expected) and not found.is_inference()
    with torch.inference_mode():
        assert torch.equal(decoder.step(tokens, decoder.start(2, T))[0], expected)


# ---- which decoder


class Own(GPT):
    pass


def parameters_of(model: nn.Module, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    return {name: p.detach().to(dtype).unsqueeze(0) for name, p in model.named_parameters()}


def test_what_is_not_as_this_library_makes_it_is_lifted_as_it_is():
    known = GPT(2, 1, 8, V, T, dropout=0.5)
    assert type(decoder_for(known.eval(), parameters_of(known))) is FastGPT
    assert type(decoder_for(known.train(), parameters_of(known))) is Stacked  # its dropout acts
    still = GPT(2, 1, 8, V, T)
    assert type(decoder_for(still, parameters_of(still))) is FastGPT
    assert type(decoder_for(still, parameters_of(still, torch.bfloat16))) is Stacked
    own = Own(2, 1, 8, V, T)
    assert type(decoder_for(own, parameters_of(own))) is Stacked
    hooked = GPT(2, 1, 8, V, T)
    hooked.decoder.blocks[0].register_forward_hook(lambda *_: None)
    assert type(decoder_for(hooked, parameters_of(hooked))) is Stacked
    changed = GPT(2, 1, 8, V, T)
    changed.decoder.blocks[0].ffn[1] = nn.Tanh()
    assert type(decoder_for(changed, parameters_of(changed))) is Stacked
    longer = GPT(2, 1, 8, V, T)
    longer.decoder.blocks[0].ffn.append(nn.Linear(8, 8))
    assert type(decoder_for(longer, parameters_of(longer))) is Stacked
    other = GPT(2, 2, 8, V, T)
    other.decoder.blocks[1].ffn[1] = nn.ReLU()
    assert type(decoder_for(other, parameters_of(other))) is Stacked  # not every block is as the first


def test_values_that_are_missing_are_named():
    model = LSTMLM(V, 8, 8, 1)
    with pytest.raises(ValueError, match=r"classifier\.bias"):
        decoder_for(model, {name: p for name, p in parameters_of(model).items() if name != "classifier.bias"})


@pytest.mark.parametrize("positions", ["sinusoidal", "learned"])
def test_a_table_of_positions_has_an_end(positions):
    model = GPT(2, 1, 8, V, T, positions=positions)
    with pytest.raises(ValueError, match=f"ends at {T}"):
        decoder_for(model, parameters_of(model)).start(1, T + 1)
