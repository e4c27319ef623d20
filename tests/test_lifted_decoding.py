"""Caches of lifted models that translate: written in place, and with the answers of those that are copied whole."""

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from shoal.decoding import Beam, Stacked, beam_search, decoder_for, generate_from
from shoal.models import EncoderDecoder
from shoal.models.lstm_encoder_decoder import LSTMEncoderDecoder

R, N, S, T, V, EOS = 3, 8, 7, 9, 11, 2

families = pytest.mark.parametrize("family", ["encoder_decoder", "lstm_encoder_decoder"])


def new(family: str) -> nn.Module:
    if family == "encoder_decoder":
        return EncoderDecoder(2, 2, 2, 8, V, T, V, S).eval()
    return LSTMEncoderDecoder(V, V, 8, 8, 2, 2).eval()


def lifted(family: str, seed: int = 6) -> Stacked:
    """Members with matrices so large that texts and their lengths differ, by source and by member."""
    model, generator, parameters = new(family), torch.Generator().manual_seed(seed), {}
    for name, parameter in model.named_parameters():
        drawn = torch.randn(R, *parameter.shape, generator=generator)
        parameters[name] = drawn if parameter.ndim > 1 else 0.1 * drawn + ("norm" in name and "weight" in name)
    stacked = decoder_for(model, parameters)
    assert isinstance(stacked, Stacked)
    return stacked


def behind_bos(stacked: Stacked, seed: int = 0) -> tuple[dict[str, Tensor], Tensor]:
    """State and logits after BOS, of sources of unequal lengths."""
    generator = torch.Generator().manual_seed(seed)
    source = torch.randint(3, V, (N, S), generator=generator)
    seen = torch.arange(S) < torch.randint(1, S + 1, (N, 1), generator=generator)
    logits, state = stacked.step(torch.ones(R, N, 1, dtype=torch.int64), stacked.begin(source, seen, T), last=True)
    return state, logits[:, :, 0]


class Copied:
    """The same members, by a step that copies every cache and moves of all rows, of which it counts those that move."""

    def __init__(self, stacked: Stacked) -> None:
        self.stacked, self.moves = stacked, 0

    def step(self, *args, **options) -> tuple[Tensor, dict[str, Tensor]]:
        with torch.inference_mode(False), torch.no_grad():  # in which a state is not changed
            return self.stacked.step(*args, **options)

    def select(self, state: dict[str, Tensor], rows: Tensor) -> dict[str, Tensor]:
        self.moves += int((rows != torch.arange(rows.shape[-1])).sum())
        return self.stacked.select(state, rows)


@families
@pytest.mark.parametrize("width", [1, 4])
@torch.no_grad()
def test_beams_find_the_same_bits_as_with_copies(family, width):
    found, stacked = [], lifted(family)
    copied = Copied(stacked)
    for model in (stacked, copied):
        state, logits = behind_bos(stacked)
        found.append(beam_search(model, state, logits, T - 1, Beam(width), eos=EOS).hypotheses)
    for name in ("tokens", "lengths", "log_p", "finished"):
        assert torch.equal(getattr(found[0], name), getattr(found[1], name))
    assert len(found[0].lengths.unique()) > 1
    assert copied.moves > R * N or width == 1


@families
@torch.no_grad()
def test_greedy_search_finds_the_same_bits_as_with_copies(family):
    stacked = lifted(family)
    found = [generate_from(model, *behind_bos(stacked), T - 1, eos=EOS) for model in (stacked, Copied(stacked))]
    assert torch.equal(found[0].tokens, found[1].tokens) and torch.equal(found[0].log_p, found[1].log_p)
    assert len(found[0].lengths.unique()) > 1


class Made(TorchDispatchMode):
    """Largest tensor of real numbers that an operation makes, in numbers."""

    largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if isinstance(out, Tensor) and out.is_floating_point() and not any(out is arg for arg in args):
            self.largest = max(self.largest, out.numel())
        return out


@families
@torch.no_grad()
def test_only_the_row_that_moves_is_copied(family):
    stacked = lifted(family)
    state, _ = behind_bos(stacked)
    before = {name: tensor.clone() for name, tensor in state.items()}
    rows = torch.arange(N).repeat(R, 1)
    rows[1, 5] = 2
    with torch.inference_mode(), Made() as made:
        after = stacked.reorder(state, rows)
    assert made.largest == max(tensor[0, 0].numel() for name, tensor in state.items() if not name.startswith("memory"))
    for name, tensor in after.items():
        assert tensor.data_ptr() == state[name].data_ptr()
        expected = before[name].clone()
        if not name.startswith("memory"):
            expected[1, 5] = before[name][1, 2]
        assert torch.equal(tensor, expected)
    assert not torch.equal(before["h" if "h" in before else "keys.1"], after["h" if "h" in before else "keys.1"])


def moving(state: dict[str, Tensor]) -> list[str]:
    """Names of the entries that differ between rows of a source."""
    return [name for name in state if not name.startswith(("memory", "lengths"))]


@families
@torch.no_grad()
def test_where_no_row_moves_nothing_is_copied(family):
    stacked = lifted(family)
    state, _ = behind_bos(stacked)
    with torch.inference_mode(), Made() as made:
        after = stacked.reorder(state, torch.arange(N))
    assert made.largest == 0 and all(after[name] is state[name] for name in state)


@torch.no_grad()
def test_rows_that_change_places_are_read_before_they_are_written():
    stacked = lifted("encoder_decoder")
    state, _ = behind_bos(stacked)
    rows = torch.stack([torch.arange(N).roll(1), torch.arange(N).flip(0), torch.zeros(N, dtype=torch.int64)])
    expected = stacked.select(state, rows)
    with torch.inference_mode():
        after = stacked.reorder(state, rows)
    assert all(torch.equal(after[name], expected[name]) for name in moving(state))


@torch.no_grad()
def test_entries_that_share_memory_move_once():
    stacked = lifted("lstm_encoder_decoder")
    state, _ = behind_bos(stacked)
    state |= {"c": state["h"], "same": torch.randn(1, N, 3).expand(R, N, 3)}
    rows = torch.arange(N).roll(1).repeat(R, 1)
    expected = {name: tensor[:, rows[0]] for name, tensor in state.items()}
    with torch.inference_mode():
        after = stacked.reorder(state, rows)
    assert all(torch.equal(after[name], expected[name]) for name in ("h", "c", "same"))


@torch.no_grad()
def test_a_step_writes_into_a_cache_in_inference_mode_alone():
    stacked = lifted("encoder_decoder")
    state, _ = behind_bos(stacked)
    before, tokens = {name: tensor.clone() for name, tensor in state.items()}, torch.full((R, N, 1), 4)
    copied = stacked.step(tokens, state)
    assert all(torch.equal(state[name], before[name]) for name in state)
    with torch.inference_mode():
        logits, after = stacked.step(tokens, state)
    assert torch.equal(logits, copied[0])
    assert all(torch.equal(after[name], copied[1][name]) for name in after)
    assert all(after[name].data_ptr() == state[name].data_ptr() for name in moving(state))
    assert not torch.equal(state["keys.0"], before["keys.0"])


@torch.no_grad()
def test_keys_and_values_of_a_beginning_are_apart():
    stacked = lifted("encoder_decoder")
    source = torch.randint(3, V, (N, S), generator=torch.Generator().manual_seed(0))
    tokens, seen, found = torch.ones(R, N, 1, dtype=torch.int64), torch.ones(N, S, dtype=torch.bool), []
    for in_place in (False, True):
        with torch.inference_mode(in_place):
            _, state = stacked.step(tokens, stacked.begin(source, seen, T))
            found.append(stacked.step(tokens + 3, state)[0])  # after one token alone its key does not matter
    assert torch.equal(*found)


@torch.no_grad()
def test_a_token_past_the_end_is_written_nowhere():
    stacked = lifted("encoder_decoder")
    state, _ = behind_bos(stacked)
    with torch.inference_mode():
        _, state = stacked.step(torch.full((R, N, T - 1), 3), state)
        full = {name: tensor.clone() for name, tensor in state.items()}
        logits, after = stacked.step(torch.full((R, N, 1), 5), state)
    assert logits.isnan().all()
    assert all(torch.equal(after[name], full[name]) for name in moving(full))
