"""The LSTM encoder-decoder against torch.nn.LSTM with packed sequences, and the equations of Luong et al. by loops."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from shoal.decoding import Stacked
from shoal.errors import UserError
from shoal.models import LSTMEncoder, LSTMEncoderDecoder, select
from shoal.models.dropout import Dropout
from shoal.models.families import count_parameters
from shoal.models.pair_settings import LSTMEncoderDecoderSettings
from shoal.tasks import Sizes

some = settings(max_examples=15, deadline=None)
seeds = st.integers(0, 2**31)
S, T, VS, V, D = 6, 5, 11, 8, 6
SIZES = Sizes(V, T, 0, VS, S)
depths = st.tuples(st.integers(1, 3), st.integers(1, 3))


def close(found: Tensor, expected: Tensor, *, atol: float = 1e-5) -> None:
    torch.testing.assert_close(found, expected, atol=atol, rtol=0)


def randomised(module: nn.Module, seed: int = 0) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(std=0.5, generator=generator)
    return module


def small(seed: int = 0, layers: tuple[int, int] = (2, 2), bidirectional: bool = True, **more) -> LSTMEncoderDecoder:
    model = LSTMEncoderDecoder(V, VS, 4, D, *layers, bidirectional=bidirectional, **more)
    return randomised(model, seed).eval()


def ragged(seed: int, rows: int, longest: int = S) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    source = torch.randint(VS, (rows, longest), generator=generator)
    lengths = torch.randint(1, longest + 1, (rows, 1), generator=generator)
    return source, torch.arange(longest) < lengths


def targets(seed: int, rows: int, n: int = T) -> Tensor:
    return torch.randint(V, (rows, n), generator=torch.Generator().manual_seed(seed + 1))


def in_torchs_order(cell: nn.Module, of) -> Tensor:
    """Something of each gate of a cell, one after the other."""
    return torch.cat([of(gate) for gate in (cell.input_gate, cell.forget_gate, cell.candidate_cell, cell.output_gate)])


def each_layer(own: LSTMEncoder):
    """Suffixes of the names that torch.nn.LSTM's parameters have, with our cells."""
    for suffix, cells in (("", own.forwards), ("_reverse", own.backwards)):
        yield from ((f"l{layer}{suffix}", cell) for layer, cell in enumerate(cells))


def torch_lstm(own: LSTMEncoder, layers: int, bias: bool, both: bool) -> nn.LSTM:
    """``torch.nn.LSTM`` with the same weights."""
    twin = nn.LSTM(4, D // 2 if both else D, layers, bias=bias, bidirectional=both, batch_first=True).double()
    with torch.no_grad():
        for name, cell in each_layer(own):
            weight = in_torchs_order(cell, lambda gate: gate.weight)
            getattr(twin, f"weight_ih_{name}").copy_(weight[:, : cell.input_size])
            getattr(twin, f"weight_hh_{name}").copy_(weight[:, cell.input_size :])
            if bias:
                getattr(twin, f"bias_ih_{name}").copy_(in_torchs_order(cell, lambda gate: gate.bias))
                getattr(twin, f"bias_hh_{name}").zero_()
    return twin


@some
@given(seeds, st.integers(1, 4), st.integers(1, 3), st.booleans(), st.booleans())
def test_the_encoder_equals_torchs_lstm_of_packed_sequences_forward_and_backward(seed, B, layers, both, bias):
    own = randomised(LSTMEncoder(4, D, layers, bias=bias, bidirectional=both), seed).double()
    twin, (_, seen) = torch_lstm(own, layers, bias, both), ragged(seed, B)
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(B, S, 4, dtype=torch.float64, generator=generator)
    weights = torch.randn(B, S, D, dtype=torch.float64, generator=generator)
    inputs = [x.clone().requires_grad_(), x.clone().requires_grad_()]
    found, (h, c) = own(inputs[0], seen)
    packed = pack_padded_sequence(inputs[1], seen.sum(1), batch_first=True, enforce_sorted=False)
    outputs, (twin_h, twin_c) = twin(packed)
    expected, _ = pad_packed_sequence(outputs, batch_first=True, total_length=S)
    close(found[seen], expected[seen])
    for ours, theirs in ((h, twin_h), (c, twin_c)):
        close(ours, theirs.unflatten(0, (layers, 1 + both)).transpose(1, 2).flatten(2))
    for out, final in ((found, h), (expected, twin_h)):
        ((out * weights)[seen].sum() + final.square().sum()).backward()
    close(inputs[0].grad, inputs[1].grad)
    for name, cell in each_layer(own):
        theirs = [getattr(twin, f"weight_{kind}_{name}").grad for kind in ("ih", "hh")]
        close(in_torchs_order(cell, lambda gate: gate.weight.grad), torch.cat(theirs, dim=1))
        if bias:
            close(in_torchs_order(cell, lambda gate: gate.bias.grad), getattr(twin, f"bias_ih_{name}").grad)


@some
@given(seeds, depths, st.integers(1, 3), st.booleans())
@torch.no_grad()
def test_decoder_and_attention_are_the_papers_equations_place_by_place(seed, layers, B, both):
    model = small(seed, layers, both).double()
    (source, seen), target = ragged(seed, B), targets(seed, B)
    memory, (h, c) = model.encoder(model.source_embedding(source), seen)
    logits, details = model(source, target, seen, details=True)
    for b in range(B):
        deepest = layers[0] - 1
        state = [(h[min(layer, deepest), b], c[min(layer, deepest), b]) for layer in range(layers[1])]
        for t in range(T):
            x = model.target_embedding.weight[target[b, t]]
            for layer, cell in enumerate(model.decoder.layers):
                i, f, g, o = (
                    gate.weight @ torch.cat([x, state[layer][0]]) + gate.bias
                    for gate in (cell.input_gate, cell.forget_gate, cell.candidate_cell, cell.output_gate)
                )
                after = f.sigmoid() * state[layer][1] + i.sigmoid() * g.tanh()
                state[layer] = (o.sigmoid() * after.tanh(), after)
                x = state[layer][0]
            counted = [s for s in range(S) if seen[b, s]]
            e = [math.exp(float(x @ model.attention.W_a.weight @ memory[b, s])) for s in counted]
            context = sum(weight / sum(e) * memory[b, s] for weight, s in zip(e, counted, strict=True))
            attended = torch.tanh(model.attention.W_c.weight @ torch.cat([context, x]))
            close(logits[b, t], model.classifier(attended), atol=1e-10)
            expected = torch.zeros(S, dtype=torch.float64)
            expected[counted] = torch.tensor(e, dtype=torch.float64) / sum(e)
            close(details["cross"][b, 0, 0, t], expected, atol=1e-10)
    assert model(source, target, seen)[1] is None


@some
@given(seeds, depths, st.integers(1, 4), st.booleans())
def test_padding_changes_no_bit_and_how_much_of_it_only_the_rounding(seed, layers, B, both):
    model, (source, seen), target = small(seed, layers, both), ragged(seed, B), targets(seed, B)
    found = []
    longest = int(seen.sum(1).max())
    for tokens, own in ((source, seen), ((source + 1) % VS, seen), (source[:, :longest], seen[:, :longest])):
        tokens = torch.where(own, source[:, : own.shape[1]], tokens)
        logits = model(tokens, target, own)[0]
        loss = F.cross_entropy(logits.flatten(0, 1), target.flatten())
        found.append([logits.detach(), *torch.autograd.grad(loss, list(model.parameters()))])
    assert all(torch.equal(*pair) for pair in zip(*found[:2], strict=True))
    for one, other in zip(found[0], found[2], strict=True):
        close(one, other, atol=1e-6 * max(1.0, float(other.abs().max())))


@pytest.mark.parametrize("both", [True, False])
def test_a_source_of_padding_alone_makes_no_nan_and_rows_are_as_alone(both):
    model, source, target = small(bidirectional=both), ragged(0, 3)[0], targets(0, 3)
    seen = torch.arange(S) < torch.tensor([[2], [S], [0]])
    logits = model(source, target, seen)[0]
    close(logits[:1], model(source[:1, :2], target[:1], seen[:1, :2])[0], atol=1e-6)
    gradients = torch.autograd.grad(logits.square().sum(), list(model.parameters()))
    assert all(own.isfinite().all() for own in (logits, *gradients))


@pytest.mark.parametrize("both", [True, False])
def test_logits_hang_on_the_target_up_to_their_place_and_on_what_counts_of_the_source(both):
    model, (source, seen), target = small(bidirectional=both), ragged(3, 3), targets(0, 3)
    before = model(source, target, seen)[0]
    for t in range(T):
        changed = target.clone()
        changed[:, t] = (target[:, t] + 1) % V
        after = model(source, changed, seen)[0]
        assert torch.equal(after[:, :t], before[:, :t])
        assert (after[:, t] != before[:, t]).any(-1).all()
    for place in range(S):
        changed = source.clone()
        changed[:, place] = (source[:, place] + 1) % VS
        differs = (model(changed, target, seen)[0] != before).flatten(1).any(1)
        assert torch.equal(differs, seen[:, place])


@pytest.mark.parametrize(("dtype", "atol"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
@some
@given(seeds, depths, st.booleans())
@torch.no_grad()
def test_cached_logits_are_the_uncached_at_every_position(dtype, atol, seed, layers, both):
    model, (source, seen), target = small(seed, layers, both).to(dtype), ragged(seed, 4), targets(seed, 4)
    state, found = model.begin(source, seen, T), []
    memory = {name: tensor.clone() for name, tensor in state.items() if name.startswith("memory")}
    for t in range(T):
        before = {name: tensor.clone() for name, tensor in state.items()}
        logits, after = model.step(target[:, t : t + 1], state)
        assert all(torch.equal(before[name], state[name]) for name in state)
        state = after
        found.append(logits)
    close(torch.cat(found, dim=1), model(source, target, seen)[0], atol=atol)
    assert all(torch.equal(memory[name], state[name]) for name in memory)
    assert state["lengths"].tolist() == [T] * 4


@some
@given(seeds, depths, st.lists(st.integers(0, 3), min_size=1, max_size=5), st.integers(1, 4), st.integers(1, 3))
@torch.no_grad()
def test_beginnings_go_on_in_any_order_and_members_as_alone(seed, layers, rows, n, R):
    alone = [small(seed + r, layers) for r in range(R)]
    named = [dict(member.named_parameters()) for member in alone]
    stacked = Stacked(alone[0], {name: torch.stack([own[name].detach() for own in named]) for name in named[0]})
    (source, seen), target = ragged(seed, 4), targets(seed, 4, n)
    counts = torch.randint(1, n + 1, (4,), generator=torch.Generator().manual_seed(seed))
    state = stacked.begin(source, seen, T)
    assert {tuple(tensor.shape[:2]) for tensor in state.values()} == {(R, 4)}
    last, state = stacked.step(target.expand(R, 4, n), state, counts, last=True)
    more = targets(seed + 9, len(rows), 2)
    after, _ = stacked.step(more.expand(R, -1, 2), stacked.select(state, torch.tensor(rows)))
    for r, member in enumerate(alone):
        _, own = member.step(target, member.begin(source, seen, T), counts)
        close(after[r], member.step(more, select(own, torch.tensor(rows)))[0])
        for b, count in enumerate(counts.tolist()):
            close(last[r, b, 0], member(source[b : b + 1], target[b : b + 1, :count], seen[b : b + 1])[0][0, -1])
        for place, row in enumerate(rows):
            whole = torch.cat([target[row, : counts[row]], more[place]]).unsqueeze(0)
            close(after[r, place], member(source[row : row + 1], whole, seen[row : row + 1])[0][0, -2:])


def test_dropout_acts_on_all_that_does_not_recur():
    model, (source, seen), target = small(layers=(3, 2), dropout=0.5).train(), ragged(0, 3), targets(0, 3)
    drops = {name: module for name, module in model.named_modules() if isinstance(module, Dropout)}
    assert sorted(drops) == [
        "attention_drop",
        "decoder.dropouts.0",
        "encoder.dropouts.0",
        "encoder.dropouts.1",
        "source_drop",
        "target_drop",
    ]
    for name in drops:
        for module in drops.values():
            module.p = 0.0
        still = model(source, target, seen)[0]
        drops[name].p = 0.5
        assert not torch.equal(model(source, target, seen)[0], still), name


chosen = st.fixed_dictionaries(
    {
        "num_encoder_layers": st.sampled_from([None, 1, 3]),
        "num_decoder_layers": st.sampled_from([None, 1, 2]),
        "num_layers": st.integers(1, 2),
        "hidden_size": st.sampled_from([None, 4, 10]),
        **dict.fromkeys(("bias", "bias_classifier", "bidirectional"), st.booleans()),
    }
)


@settings(max_examples=50, deadline=None)
@given(chosen, st.sampled_from(["none", "decoder", "all"]), st.integers(4, 9), st.integers(4, 9))
def test_closed_form_counts_equal_counting(own, ties, vocabulary, of_sources):
    if ties != "none":
        own = {**own, "hidden_size": None}
    part = LSTMEncoderDecoderSettings(**own, embedding_size=6, tie_embeddings=ties)
    sizes = Sizes(vocabulary, T, 0, vocabulary if ties == "all" else of_sources, S)
    model = part.build(sizes)
    roles, named = part.roles(model), dict(model.named_parameters())
    tables = sum(p.numel() for name, p in named.items() if name.partition(".")[0].endswith("_embedding"))
    assert part.count(sizes) == count_parameters(model, roles) == sum(p.numel() for p in named.values()) - tables
    assert part.count_tables(sizes) == tables
    assert part.without_effect(list(named)) == []


@pytest.mark.parametrize(("width", "vocabulary"), [(32, 12), (128, 50), (256, 3000), (128, 8000)])
@torch.no_grad()
def test_an_untrained_models_loss_is_the_logarithm_of_the_vocabulary(width, vocabulary):
    torch.manual_seed(0)
    model = LSTMEncoderDecoderSettings(embedding_size=width).build(Sizes(vocabulary, 9, 0, vocabulary, 9)).eval()
    source, target, answers = torch.randint(vocabulary, (3, 20, 9))
    logits = model(source, target, torch.ones(20, 9).bool())[0]
    assert abs(float(F.cross_entropy(logits.flatten(0, 1), answers.flatten())) - math.log(vocabulary)) < 0.1


def test_what_does_not_go_together_is_refused_in_one_line():
    wrong = [
        ({"hidden_size": 7}, "even hidden_size"),
        ({"hidden_size": 64, "tie_embeddings": "decoder"}, "hidden_size equal to embedding_size"),
        ({"initialisation": "gpt2"}, "unknown initialisation"),
    ]
    for asked, told in wrong:
        with pytest.raises(UserError, match=told) as refused:
            LSTMEncoderDecoderSettings(**asked)
        assert "\n" not in str(refused.value)
    with pytest.raises(UserError, match="one vocabulary"):
        LSTMEncoderDecoderSettings(tie_embeddings="all").build(SIZES)
    with pytest.raises(ValueError, match="even hidden_size, got 7"):
        LSTMEncoder(4, 7, 1, bidirectional=True)
    assert LSTMEncoderDecoderSettings(num_decoder_layers=2).describe() == "1 + 2 layers, d 128"
