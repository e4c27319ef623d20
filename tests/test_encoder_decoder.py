"""Encoder, encoder-decoder and encoder translator against torch.nn, with ragged sources, and step by step."""

import itertools
import math

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F
from torch_twins import (
    VS,
    S,
    T,
    V,
    assert_same_gradients,
    close,
    copied,
    of_linear,
    of_stack,
    ragged,
    randomised,
    torch_transformer,
)

from shoal.decoding import Stacked
from shoal.errors import UserError
from shoal.models import CrossDecoder, Encoder, EncoderDecoder, EncoderTranslator, NonAutoregressive, Variant, select
from shoal.models.dropout import Dropout
from shoal.models.families import count_parameters
from shoal.models.gpt import NORM_POSITIONS
from shoal.models.initialisation import INITIALISATIONS
from shoal.models.pair_settings import (
    EncoderDecoderSettings,
    EncoderTranslatorSettings,
    LSTMEncoderDecoderSettings,
    NonAutoregressiveSettings,
)
from shoal.models.positions import POSITIONS
from shoal.models.settings import NON_LINEARITIES, NORMS
from shoal.tasks import Sizes

some = settings(max_examples=15, deadline=None)
few = settings(max_examples=6, deadline=None)
seeds = st.integers(0, 2**31)
FORMS = [{"positions": kind, "norm_position": where} for kind, where in itertools.product(POSITIONS, NORM_POSITIONS)]
every = pytest.mark.parametrize("form", FORMS, ids=lambda form: " ".join(form.values()))
forms = st.sampled_from(FORMS)


def small(form: dict, seed: int = 0, layers: tuple[int, int] = (2, 2), **more) -> EncoderDecoder:
    """An encoder-decoder whose every parameter matters."""
    return randomised(EncoderDecoder(2, *layers, 8, V, T, VS, S, 2, **form, **more), seed).eval()


def translator(form: dict, seed: int = 0, **more) -> EncoderTranslator:
    """An encoder translator likewise."""
    return randomised(EncoderTranslator(2, 2, 8, VS, V, S, 2, **form, **more), seed).eval()


def targets(seed: int, rows: int, n: int = T) -> Tensor:
    return torch.randint(V, (rows, n), generator=torch.Generator().manual_seed(seed + 1))


# ---- torch.nn with the same weights

shapes = st.fixed_dictionaries({"pre": st.booleans(), "activation": st.sampled_from(["relu", "gelu"])})


def arguments(form: dict) -> dict:
    where = "pre" if form["pre"] else "post"
    return {
        "non_linearity": form["activation"],
        "variant": Variant(norm_position=where, bias_ffn=True),
    }


@some
@given(seeds, shapes, st.integers(1, 4), st.integers(1, 6), st.integers(1, 3))
def test_the_encoder_equals_torchs_forward_and_backward(seed, form, B, length, layers):
    own = randomised(Encoder(8, 2, layers, 2, **arguments(form)), seed).double()
    twin = torch_transformer(form, (layers, 1)).encoder
    pairs = of_stack(twin, own)
    copied(pairs)
    _, seen = ragged(seed, B, length)
    x, weights = torch.randn(2, B, length, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    inputs = [x.clone().requires_grad_(), x.clone().requires_grad_()]
    found = own(inputs[0], seen)[0]
    expected = twin(inputs[1], src_key_padding_mask=~seen)
    close(found[seen], expected[seen])
    for outputs in (found, expected):
        (outputs * weights)[seen].sum().backward()
    close(inputs[0].grad, inputs[1].grad)
    assert_same_gradients(pairs, own)


@some
@given(seeds, shapes, st.integers(1, 4), st.integers(1, 6), st.integers(1, 5), st.integers(1, 3))
def test_the_decoder_equals_torchs_forward_and_backward(seed, form, B, length, n, layers):
    own = randomised(CrossDecoder(8, 2, layers, 2, **arguments(form)), seed).double()
    twin = torch_transformer(form, (1, layers)).decoder
    pairs = of_stack(twin, own)
    copied(pairs)
    _, seen = ragged(seed, B, length)
    generator = torch.Generator().manual_seed(seed)
    x, weights = torch.randn(2, B, n, 8, dtype=torch.float64, generator=generator)
    memory = torch.randn(B, length, 8, dtype=torch.float64, generator=generator)
    inputs = [[x.clone().requires_grad_(), memory.clone().requires_grad_()] for _ in range(2)]
    found = own(*inputs[0], seen)[0]
    hidden = torch.ones(n, n, dtype=torch.bool).triu(1)
    expected = twin(*inputs[1], tgt_mask=hidden, memory_key_padding_mask=~seen)
    close(found, expected)
    for outputs in (found, expected):
        (outputs * weights).sum().backward()
    for ours, theirs in zip(*inputs, strict=True):
        close(ours.grad, theirs.grad)
    assert_same_gradients(pairs, own)


@some
@given(seeds, shapes, st.integers(1, 4), st.sampled_from(["sinusoidal", "vaswani", "learned", "none"]))
def test_the_whole_equals_torchs_transformer_forward_and_backward(seed, form, B, positions):
    where = "pre" if form["pre"] else "post"
    more = {"non_linearity": form["activation"], "bias_ffn": True, "norm_position": where, "positions": positions}
    own = small(more, seed, (2, 1)).double().train()
    twin = torch_transformer(form, (2, 1))
    tables = [nn.Embedding(VS, 8).double(), nn.Embedding(V, 8).double()]
    classifier = nn.Linear(8, V).double()
    embeddings = [own.source_embedding, own.target_embedding]
    pairs = of_stack(twin.encoder, own.encoder) + of_stack(twin.decoder, own.decoder)
    pairs += of_linear(classifier, own.classifier)
    pairs += [(table.weight, [ours.tokens.weight]) for table, ours in zip(tables, embeddings, strict=True)]
    places: list[Tensor] = []
    for embedding, rows in zip(embeddings, (S, T), strict=True):
        if positions == "learned":
            places.append(torch.zeros(rows, 8, dtype=torch.float64, requires_grad=True))
            pairs.append((places[-1], [embedding.positions.weight]))
        elif positions == "none":
            places.append(torch.zeros(rows, 8))
        else:
            places.append(embedding.create_sinusoidal_embeddings(rows, 8, positions))
    copied(pairs)
    (source, seen), target = ragged(seed, B), targets(seed, B, 5)
    found = own(source, target, seen)[0]
    x, y = tables[0](source) + places[0], tables[1](target) + places[1][:5]
    mask = torch.ones(5, 5, dtype=torch.bool).triu(1)
    padding = {"src_key_padding_mask": ~seen, "memory_key_padding_mask": ~seen}
    expected = classifier(twin(x, y, tgt_mask=mask, **padding))
    close(found, expected)
    for logits in (found, expected):
        F.cross_entropy(logits.flatten(0, 1), targets(seed + 5, B, 5).flatten(), reduction="sum").backward()
    assert_same_gradients(pairs, own)


@some
@given(seeds, shapes, st.integers(1, 4))
def test_the_translator_equals_torchs_encoder_between_embeddings_and_a_classifier(seed, form, B):
    where = "pre" if form["pre"] else "post"
    more = {"non_linearity": form["activation"], "bias_ffn": True, "norm_position": where, "positions": "learned"}
    own = translator(more, seed).double().train()
    twin = torch_transformer(form, (2, 1)).encoder
    table, place, classifier = nn.Embedding(VS, 8).double(), nn.Embedding(S, 8).double(), nn.Linear(8, V).double()
    pairs = of_stack(twin, own.encoder) + of_linear(classifier, own.classifier)
    pairs += [(table.weight, [own.source_embedding.tokens.weight])]
    pairs += [(place.weight, [own.source_embedding.positions.weight])]
    copied(pairs)
    source, seen = ragged(seed, B)
    found = own(source, seen)[0]
    expected = classifier(twin(table(source) + place.weight, src_key_padding_mask=~seen))
    close(found[seen], expected[seen])
    for logits in (found, expected):
        F.cross_entropy(logits[seen], (source % V)[seen], reduction="sum").backward()
    assert_same_gradients(pairs, own)


# ---- masks


def loss_and_gradients(model: nn.Module, inputs: tuple[Tensor, ...], scored: Tensor) -> list[Tensor]:
    """Logits where they are scored, their loss, and its gradient by every parameter."""
    logits = model(*inputs)[0][scored]
    loss = logits.square().mean() + logits.logsumexp(-1).mean()
    return [logits.detach(), loss.detach(), *torch.autograd.grad(loss, list(model.parameters()))]


@some
@given(seeds, forms, st.integers(1, 4), st.booleans())
def test_what_pads_changes_no_bit_and_how_much_of_it_only_the_rounding(seed, form, B, is_pair):
    model = small(form, seed) if is_pair else translator(form, seed)
    (source, seen), target = ragged(seed, B), targets(seed, B)
    before = [target] if is_pair else []
    scored = torch.ones_like(target).bool() if is_pair else seen
    found = []
    for padding in (0, 5):
        tokens = torch.where(seen, source, padding)
        found.append(loss_and_gradients(model, (tokens, *before, seen), scored))
    assert all(torch.equal(*pair) for pair in zip(*found, strict=True))
    longest = int(seen.sum(1).max())
    shorter = (source[:, :longest], *before, seen[:, :longest])
    again = loss_and_gradients(model, shorter, scored if is_pair else seen[:, :longest])
    for one, other in zip(again, found[0], strict=True):
        scale = max(1.0, float(other.abs().max()))
        if one.shape == other.shape:
            close(one / scale, other / scale, atol=2e-6)


@every
@pytest.mark.parametrize("is_new", [True, False])
def test_a_short_sentence_beside_a_long_one_and_one_that_is_all_padding(form, is_new):
    torch.manual_seed(0)
    model = EncoderDecoderSettings(**form, dropout=0.0).build(Sizes(V, T, 0, VS, S)) if is_new else small(form).double()
    source, target = ragged(0, 3)[0], targets(0, 3)
    seen = torch.arange(S) < torch.tensor([[2], [S], [0]])  # a token and EOS; nine; none
    logits = model(source, target, seen)[0]
    close(logits[:1], model(source[:1, :2], target[:1], seen[:1, :2])[0], atol=1e-6)
    close(logits[1:2], model(source[1:2], target[1:2], seen[1:2])[0], atol=1e-6)
    gradients = torch.autograd.grad(logits.square().sum(), list(model.parameters()))
    assert all(own.isfinite().all() for own in (logits, *gradients))
    at_once = translator(form)
    answers = at_once(source, seen)[0]
    gradients = torch.autograd.grad(answers.square().sum(), list(at_once.parameters()))
    assert all(own.isfinite().all() for own in (answers, *gradients))


@every
def test_logits_hang_on_the_target_up_to_their_place_and_on_what_counts_of_the_source(form):
    model, target = small(form), targets(0, 3)
    source, seen = ragged(3, 3)
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


@pytest.mark.parametrize("positions", ["rotary", "none"])
def test_without_a_table_of_positions_it_does_not_matter_where_a_source_begins(positions):
    model, (source, _), target = small({"positions": positions}).double(), ragged(0, 2, 4), targets(0, 2)
    seen = torch.ones(2, 4, dtype=torch.bool)
    shifted, hidden = F.pad(source, (3, 0), value=1), F.pad(seen, (3, 0), value=False)
    close(model(shifted, target, hidden)[0], model(source, target, seen)[0], atol=1e-6)  # angles are of float32
    turned = model(source[:, [1, 0, 2, 3]], target, seen)[0]
    changes = (turned - model(source, target, seen)[0]).abs().max() > 1e-3
    assert changes == (positions == "rotary")


@every
def test_details_are_weights_that_sum_to_one_over_what_may_be_seen(form):
    model, (source, seen), target = small(form, layers=(3, 2)), ragged(4, 3), targets(0, 3)
    logits, details = model(source, target, seen, details=True)
    plain, nothing = model(source, target, seen)
    assert nothing is None and torch.equal(logits, plain)
    shapes = {"encoder": (3, 3, 2, S, S), "decoder": (3, 2, 2, T, T), "cross": (3, 2, 2, T, S)}
    assert {name: tuple(own.shape) for name, own in details.items()} == shapes
    for name, own in details.items():
        close(own.sum(-1), torch.ones_like(own[..., 0]))
        if name != "decoder":
            hidden = ~seen[:, None, None, None].expand_as(own)
            assert not own[hidden].any() and (own[~hidden] > 0).all()
    assert torch.equal(details["decoder"], details["decoder"].tril())
    at_once, of_encoder = translator(form)(source, seen, details=True)
    assert set(of_encoder) == {"encoder"} and of_encoder["encoder"].shape == (3, 2, 2, S, S)
    assert torch.equal(at_once, translator(form)(source, seen)[0])


# ---- step by step


@every
@pytest.mark.parametrize(("dtype", "atol"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
@torch.no_grad()
def test_cached_logits_are_the_uncached_at_every_position(form, dtype, atol):
    model, (source, seen), target = small(form).to(dtype), ragged(3, 4), targets(0, 4)
    seen[0] = False  # a source of padding alone
    expected = model(source, target, seen)[0]
    atol *= max(1.0, float(expected.abs().max()))
    state, found = model.begin(source, seen, T), []
    memory = {name: tensor.clone() for name, tensor in state.items() if name.startswith("memory")}
    assert {len(tensor) for tensor in state.values()} == {4}
    for t in range(T):
        before = {name: tensor.clone() for name, tensor in state.items()}
        logits, after = model.step(target[:, t : t + 1], state)
        assert all(torch.equal(before[name], state[name]) for name in state)
        state = after
        found.append(logits)
    close(torch.cat(found, dim=1), expected, atol=atol)
    assert all(torch.equal(memory[name], state[name]) for name in memory)
    assert state["lengths"].tolist() == [T] * 4
    assert model.step(target[:, :1], state)[0].isnan().all()  # there is no place for more


@some
@given(seeds, forms, st.lists(st.integers(0, 3), min_size=1, max_size=5), st.integers(1, 4))
@torch.no_grad()
def test_beginnings_of_different_lengths_go_on_in_any_order(seed, form, rows, n):
    model, (source, seen), target = small(form, seed), ragged(seed, 4), targets(seed, 4, n)
    counts = torch.randint(1, n + 1, (4,), generator=torch.Generator().manual_seed(seed))
    state = model.begin(source, seen, T)
    logits, state = model.step(target, state, counts)
    last, _ = model.step(target, model.begin(source, seen, T), counts, last=True)
    more = targets(seed + 9, len(rows), 2)
    after, _ = model.step(more, select(state, torch.tensor(rows)))
    for b, count in enumerate(counts.tolist()):
        one = slice(b, b + 1)
        close(logits[b, :count], model(source[one], target[one, :count], seen[one])[0][0], atol=1e-4)
        close(last[b, 0], logits[b, count - 1], atol=1e-6)
    for place, row in enumerate(rows):
        one = slice(row, row + 1)
        whole = torch.cat([target[row, : counts[row]], more[place]]).unsqueeze(0)
        close(after[place], model(source[one], whole, seen[one])[0][0, -2:], atol=1e-4)


@few
@given(seeds, forms, st.integers(1, 3))
@torch.no_grad()
def test_lifted_over_members_each_is_as_alone(seed, form, R):
    alone = [small(form, seed + r) for r in range(R)]
    named = [dict(member.named_parameters()) for member in alone]
    stacked = Stacked(small(form), {name: torch.stack([own[name].detach() for own in named]) for name in named[0]})
    (source, seen), each = ragged(seed, 4), torch.stack([targets(seed + r, 4) for r in range(R)])
    state = stacked.begin(source, seen, T)
    assert {tuple(tensor.shape[:2]) for tensor in state.values()} == {(R, 4)}
    first, state = stacked.step(each[:, :, :3], state)
    picked = torch.randint(4, (R, 3), generator=torch.Generator().manual_seed(seed))
    rest, _ = stacked.step(each[:, :3, 3:], stacked.select(state, picked))
    for r, member in enumerate(alone):
        own = member.begin(source, seen, T)
        logits, own = member.step(each[r, :, :3], own)
        close(first[r], logits, atol=1e-4)
        close(rest[r], member.step(each[r, :3, 3:], select(own, picked[r]))[0], atol=1e-4)


def test_a_table_of_positions_has_an_end_on_either_side():
    model, (source, seen) = small({"positions": "learned"}), ragged(0, 2, S + 1)
    with pytest.raises(ValueError, match=f"ends at {T}"):
        model.begin(source[:, :S], seen[:, :S], T + 1)
    with pytest.raises(ValueError, match=f"ends at {S}"):
        model.begin(source, seen, T)
    turned = small({"positions": "rotary"})
    assert turned(source, targets(0, 2, T + 3), seen)[0].isfinite().all()


# ---- parameters


@pytest.mark.parametrize("ties", ["none", "decoder", "all"])
def test_tied_weights_are_one_tensor_that_gathers_all_gradients(ties):
    torch.manual_seed(0)
    built = {kind: EncoderDecoder(2, 1, 1, 8, V, T, V, S, tie_embeddings=kind).double() for kind in ("none", ties)}
    tied, untied = built[ties], built["none"]
    names = ["target_embedding.tokens.weight", "classifier.weight", "source_embedding.tokens.weight"]
    one = {"none": [], "decoder": names[:2], "all": names}[ties]
    assert len({id(tied.get_parameter(name)) for name in names}) == 3 - max(0, len(one) - 1)
    untied.load_state_dict(tied.state_dict())
    inputs = (ragged(0, 3)[0] % V, targets(0, 3), ragged(0, 3)[1])
    for model in built.values():
        model.zero_grad()
        model(*inputs)[0].logsumexp(-1).sum().backward()
    if one:
        close(tied.get_parameter(one[0]).grad, sum(untied.get_parameter(name).grad for name in one), atol=1e-10)
    with pytest.raises(ValueError, match=r"source \(11, 8\)"):
        EncoderDecoder(2, 1, 1, 8, V, T, VS, S, tie_embeddings="all")


@pytest.mark.parametrize("family", [EncoderTranslator, NonAutoregressive])
def test_models_without_a_table_of_targets_tie_their_classifier_to_the_source_alone(family):
    depths = (1,) if family is EncoderTranslator else (1, 1)
    tied = family(2, *depths, 8, V, V, S, tie_embeddings="all", positions="learned")
    assert tied.classifier.weight is tied.source_embedding.tokens.weight
    with pytest.raises(ValueError, match="needs weights of one shape"):
        family(2, *depths, 8, VS, V, S, tie_embeddings="all", positions="learned")
    with pytest.raises(ValueError, match="needs a table of the target's tokens"):
        family(2, *depths, 8, V, V, S, tie_embeddings="decoder", positions="learned")


def test_scaled_embeddings_are_tokens_times_the_root_of_the_width_and_positions_as_they_are():
    plain, scaled = (small({"positions": "vaswani"}, scale_embeddings=scale) for scale in (False, True))
    source, target = ragged(0, 2)[0], targets(0, 2)
    for name, tokens in (("source_embedding", source), ("target_embedding", target)):
        own, other = plain.get_submodule(name), scaled.get_submodule(name)
        close(other(tokens) - own(tokens), (math.sqrt(8) - 1) * F.embedding(tokens, own.tokens.weight))


def test_dropout_everywhere_acts_on_embeddings_weights_and_branches_and_perhaps_neurons():
    where = {
        kind: [
            name for name, module in small({"dropout_at": kind}, dropout=0.5).named_modules() if type(module) is Dropout
        ]
        for kind in ("feed_forward", "everywhere", "neurons_too")
    }
    assert len(where["feed_forward"]) == 4 and all(name.endswith("ffn_drop") for name in where["feed_forward"])
    assert len(where["everywhere"]) == 2 + 2 * 3 + 2 * 5
    assert {*where["neurons_too"]} - {*where["everywhere"]} == {
        f"{side}.blocks.{layer}.ffn.drop" for side in ("encoder", "decoder") for layer in (0, 1)
    }
    model, inputs = small({"dropout_at": "neurons_too"}, dropout=0.5).train(), (*ragged(0, 2), targets(0, 2))
    source, seen, target = inputs
    expected = model(source, target, seen)[0]
    for name in where["neurons_too"]:
        for module in model.modules():
            if isinstance(module, Dropout):
                module.p = 0.0
        still = model(source, target, seen)[0]
        model.get_submodule(name).p = 0.5
        assert not torch.equal(model(source, target, seen)[0], still), name
    assert expected.isfinite().all()


VALUES = {
    "norm": NORMS,
    "norm_position": NORM_POSITIONS,
    "positions": POSITIONS,
    "non_linearity": NON_LINEARITIES,
    "multiplier": (0.5, 1.0, 2.5),
    "num_heads": (1, 2, 4),
    "num_layers": (1, 2),
    **dict.fromkeys(("bias", "bias_classifier", "bias_norm", "bias_ffn", "scale_embeddings"), (True, False)),
}
chosen = st.fixed_dictionaries({name: st.sampled_from(values) for name, values in VALUES.items()})


@st.composite
def parts(draw) -> EncoderDecoderSettings | EncoderTranslatorSettings:
    own, is_pair = draw(chosen), draw(st.booleans())
    assume(own["norm"] != "none" or own["norm_position"] == "post")
    assume(own["bias_norm"] or own["norm"] == "layernorm")
    own |= {"embedding_size": 8, "tie_embeddings": draw(st.sampled_from(("none", "decoder", "all")[:: 2 - is_pair]))}
    if is_pair:
        return EncoderDecoderSettings(**own, num_decoder_layers=draw(st.sampled_from([None, 1, 3])))
    return EncoderTranslatorSettings(**own)


@settings(max_examples=60, deadline=None)
@given(parts(), st.integers(4, 9), st.integers(4, 9))
def test_closed_form_counts_equal_counting(part, vocabulary, of_sources):
    of_sources = vocabulary if part.tie_embeddings == "all" else of_sources
    sizes = Sizes(vocabulary, 6, 0, of_sources, 5)
    model = part.build(sizes)
    roles = part.roles(model)
    named = dict(model.named_parameters())
    assert part.count(sizes) == count_parameters(model, roles)
    tables = sum(p.numel() for name, p in named.items() if name.partition(".")[0].endswith("_embedding"))
    assert part.count_tables(sizes) == tables
    assert part.count(sizes) + tables == sum(p.numel() for p in model.parameters())
    assert set(roles) == set(named)
    assert {name for name, role in roles.items() if role == "head"} <= {"classifier.weight", "classifier.bias"}


@some
@given(parts(), seeds)
def test_what_is_without_effect_has_no_gradient_and_all_else_has_one(part, seed):
    part = part.model_copy(
        update={"non_linearity": "gelu"}
    )  # of relu all units of a small layer may be off on six examples
    sizes = Sizes(V, T, None, V, S)
    model = randomised(part.build(sizes), seed, 0.3).double().eval()
    source, seen = ragged(seed, 6)
    inputs = (source % V, seen) if part.reads == "source" else (source % V, targets(seed, 6), seen)
    names = [name for name, _ in model.named_parameters()]
    gradients = torch.autograd.grad(model(*inputs)[0].square().sum(), list(model.parameters()))
    largest = max(float(own.abs().max()) for own in gradients)
    still = {name for name, own in zip(names, gradients, strict=True) if float(own.abs().max()) < 1e-12 * largest}
    assert set(part.without_effect(names)) == still


@pytest.mark.parametrize("kind", [EncoderDecoderSettings, EncoderTranslatorSettings])
@pytest.mark.parametrize(("width", "vocabulary"), [(32, 12), (128, 50), (256, 3000), (128, 8000)])
@pytest.mark.parametrize("ties", ["none", "all"])
@torch.no_grad()
def test_an_untrained_models_loss_is_the_logarithm_of_the_vocabulary(kind, width, vocabulary, ties):
    torch.manual_seed(0)
    model = kind(embedding_size=width, tie_embeddings=ties).build(Sizes(vocabulary, 9, 0, vocabulary, 9)).eval()
    source, target, answers = torch.randint(vocabulary, (3, 20, 9))
    seen = torch.ones(20, 9).bool()
    logits = model(source, seen)[0] if kind.reads == "source" else model(source, target, seen)[0]
    assert abs(float(F.cross_entropy(logits.flatten(0, 1), answers.flatten())) - math.log(vocabulary)) < 0.1


def test_the_documents_translator_is_the_default():
    part = EncoderTranslatorSettings()
    model = part.build(Sizes(V, T, 0, VS, S))
    assert model.source_embedding.kind == "learned" and len(model.encoder.blocks) == 1
    assert isinstance(model.encoder.blocks[0].ffn[1], nn.ReLU)
    assert not any(name.startswith("encoder.norm") for name in model.state_dict())  # none but in the block: post-norm
    assert part.reads == "source" and EncoderDecoderSettings().reads == "pair"


def test_residual_branches_start_narrow_and_xavier_reaches_everything():
    sizes, deep = Sizes(300, 9, 0, 300, 9), {"embedding_size": 96, "num_layers": 4, "tie_embeddings": "all"}
    torch.manual_seed(0)
    model = EncoderDecoderSettings(**deep).build(sizes)
    for stack, branches in ((model.encoder, 8), (model.decoder, 12)):
        for name, weight in stack.named_parameters():
            if name.endswith(("W_O.weight", "ffn.2.weight")):
                assert weight.std().item() == pytest.approx(0.02 / math.sqrt(branches), rel=0.05)
            elif name.endswith(("W_Q.weight", "ffn.0.weight")):
                assert weight.std().item() == pytest.approx(0.02, rel=0.05)
    model = EncoderDecoderSettings(**deep, initialisation="xavier_all").build(sizes)
    for name, weight in model.named_parameters():
        if weight.ndim == 2:
            limit = math.sqrt(6 / sum(weight.shape))
            assert 0.95 * limit < weight.abs().max().item() <= limit, name
    assert not model.source_embedding.tokens.weight[0].any()


def test_what_does_not_go_together_is_refused_in_one_line():
    wrong = [
        ({"num_heads": 3}, "num_heads must divide"),
        ({"norm": "none"}, "norm_position=pre does not apply"),
        ({"tie_embeddings": "both"}, "unknown tie_embeddings"),
        ({"positions": "rotary", "embedding_size": 4}, "even"),
        ({"multiplier": 0.001}, "no feed-forward neuron"),
    ]
    for asked, told in wrong:
        with pytest.raises(UserError, match=told) as refused:
            EncoderDecoderSettings(**asked)
        assert "\n" not in str(refused.value)
    for part in (EncoderDecoderSettings(tie_embeddings="all"), EncoderTranslatorSettings(tie_embeddings="all")):
        with pytest.raises(UserError, match="one vocabulary"):
            part.build(Sizes(V, T, 0, VS, S))
        with pytest.raises(UserError, match="one vocabulary"):
            part.count_tables(Sizes(V, T, 0, VS, S))
    assert EncoderDecoderSettings(num_layers=3, num_decoder_layers=1).describe() == "3 + 1 layers, d 128"
    assert EncoderTranslatorSettings().describe() == "1 layer, d 128"


@pytest.mark.parametrize("form", [{}, {"non_linearity": "swiglu", "positions": "rotary"}, {"norm_position": "post"}])
@pytest.mark.parametrize(
    "kind",
    [EncoderDecoderSettings, EncoderTranslatorSettings, LSTMEncoderDecoderSettings, NonAutoregressiveSettings],
)
def test_the_estimate_of_memory_is_above_what_is_kept_for_the_backward_twice(kind, form):
    if kind is LSTMEncoderDecoderSettings and form:
        return
    if kind is NonAutoregressiveSettings and "positions" in form:
        form = form | {"positions": "vaswani"}
    part, n = kind(embedding_size=32, **form), 12
    model, kept = part.build(Sizes(V, n, 0, VS, n)), {}
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    for module in model.modules():
        if isinstance(module, Dropout):
            module.key = torch.tensor(1)  # as the engine sets it, which keeps more

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = (storage.nbytes(), storage)  # held, so that no other takes its place
        return tensor

    source, seen = torch.randint(VS, (6, n)), torch.ones(6, n).bool()
    inputs = (source, seen) if part.reads == "source" else (source, source % V, seen)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(*inputs)
    floats = sum(size for size, _ in kept.values()) / 4 / sum(tokens.numel() for tokens in inputs[:-1])
    assert 2 * floats < part.floats_per_position() < 8 * floats


def test_xavier_weights_draws_every_matrix_and_leaves_biases_as_pytorch_draws_them():
    model = small({"bias_ffn": True})
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    INITIALISATIONS["xavier_weights"](model, 8)
    matrices = [m for m in model.modules() if isinstance(m, nn.Linear | nn.Embedding)]
    assert len(matrices) > 10
    for module in matrices:
        bound = math.sqrt(6 / sum(module.weight.shape))
        assert 0.7 * bound < float(module.weight.detach().abs().max()) <= bound
        if getattr(module, "bias", None) is not None:
            (name,) = [name for name, p in model.named_parameters() if p is module.bias]
            assert torch.equal(module.bias, before[name]) and module.bias.any()
