"""The non-autoregressive transformer: an encoder-decoder that reads BOS alone, beside torch.nn."""

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F
from torch_twins import (
    VS,
    S,
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

from shoal import RunSpec
from shoal.errors import UserError
from shoal.models import EncoderDecoder, NonAutoregressive
from shoal.models.families import count_parameters
from shoal.models.pair_settings import NonAutoregressiveSettings
from shoal.tasks import Sizes

some = settings(max_examples=15, deadline=None)
seeds = st.integers(0, 2**31)
shapes = st.fixed_dictionaries({"pre": st.booleans(), "activation": st.sampled_from(["relu", "gelu"])})
TABLES = ("sinusoidal", "vaswani", "learned")
BOS = 1


def small(seed: int = 0, layers: tuple[int, int] = (2, 2), **more) -> NonAutoregressive:
    """A model whose every parameter matters."""
    return randomised(NonAutoregressive(2, *layers, 8, V, VS, S, 2, **more), seed).eval()


@some
@given(seeds, shapes, st.integers(1, 4), st.sampled_from(TABLES))
def test_it_equals_torchs_transformer_that_reads_places_forward_and_backward(seed, form, B, positions):
    where = "pre" if form["pre"] else "post"
    more = {"non_linearity": form["activation"], "bias_ffn": True, "norm_position": where, "positions": positions}
    own = small(seed, (2, 1), **more).double().train()
    twin, classifier = torch_transformer(form, (2, 1)), nn.Linear(8, V).double()
    tables = [nn.Embedding(rows, 8).double() for rows in (VS, 1)]
    embeddings = [own.source_embedding, own.target_embedding]
    pairs = of_stack(twin.encoder, own.encoder) + of_stack(twin.decoder, own.decoder)
    pairs += of_linear(classifier, own.classifier)
    pairs += [(table.weight, [ours.tokens.weight]) for table, ours in zip(tables, embeddings, strict=True)]
    places: list[Tensor] = []
    for embedding in embeddings:
        if positions == "learned":
            places.append(torch.zeros(S, 8, dtype=torch.float64, requires_grad=True))
            pairs.append((places[-1], [embedding.positions.weight]))
        else:
            places.append(embedding.create_sinusoidal_embeddings(S, 8, positions))
    copied(pairs)
    source, seen = ragged(seed, B)
    found = own(source, seen)[0]
    x, y = tables[0](source) + places[0], (tables[1].weight + places[1]).expand(B, -1, -1)
    mask = torch.ones(S, S, dtype=torch.bool).triu(1)
    padding = {"src_key_padding_mask": ~seen, "memory_key_padding_mask": ~seen}
    expected = classifier(twin(x, y, tgt_mask=mask, **padding))
    close(found, expected)
    right = torch.randint(V, (B * S,), generator=torch.Generator().manual_seed(seed))
    for logits in (found, expected):
        F.cross_entropy(logits.flatten(0, 1), right, reduction="sum").backward()
    assert_same_gradients(pairs, own)


@some
@given(seeds, st.integers(1, 4), st.sampled_from(TABLES))
def test_it_is_the_encoder_decoder_with_bos_in_place_of_every_token(seed, B, positions):
    own = small(seed, positions=positions)
    whole = EncoderDecoder(2, 2, 2, 8, V, S, VS, S, 2, positions=positions).eval()
    known = own.state_dict()
    table = whole.target_embedding.tokens.weight.detach().clone()
    table[BOS] = known["target_embedding.tokens.weight"][0]
    whole.load_state_dict(known | {"target_embedding.tokens.weight": table})
    source, seen = ragged(seed, B)
    found, weights = own(source, seen, details=True)
    expected, theirs = whole(source, torch.full_like(source, BOS), seen, details=True)
    close(found, expected)
    assert weights.keys() == theirs.keys() == {"encoder", "decoder", "cross"}
    for name, value in weights.items():
        close(value, theirs[name])


@some
@given(seeds, st.integers(1, 4))
def test_what_pads_changes_no_bit(seed, B):
    own, (source, seen) = small(seed), ragged(seed, B)
    found = [own(torch.where(seen, source, padding), seen)[0] for padding in (0, 5)]
    assert torch.equal(*found) and not found[0].isnan().any()


def test_without_a_table_of_places_it_is_refused():
    for positions in ("rotary", "none"):
        with pytest.raises(UserError, match=f"unknown positions '{positions}'") as refused:
            NonAutoregressiveSettings(positions=positions)
        assert "\n" not in str(refused.value) and "learned" in str(refused.value)
        with pytest.raises(ValueError, match="no table"):
            small(positions=positions)
    with pytest.raises(UserError, match="one vocabulary"):
        NonAutoregressiveSettings(tie_embeddings="all").build(Sizes(V, S, 0, VS, S))
    with pytest.raises(UserError, match="tie_embeddings"):
        NonAutoregressiveSettings(tie_embeddings="decoder")
    with pytest.raises(UserError, match="sources to read"):
        RunSpec(task="arithmetic", model="non_autoregressive")


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from(TABLES),
    st.sampled_from(["none", "all"]),
    st.sampled_from([None, 1, 3]),
    st.integers(4, 9),
    st.integers(4, 9),
    st.tuples(st.integers(4, 7), st.integers(4, 7)),
)
def test_closed_form_counts_equal_counting(positions, tied, depth, vocabulary, of_sources, lengths):
    assume(tied == "none" or vocabulary == of_sources)
    part = NonAutoregressiveSettings(
        positions=positions, tie_embeddings=tied, num_decoder_layers=depth, embedding_size=8, num_heads=2
    )
    sizes = Sizes(vocabulary, lengths[0], 0, of_sources, lengths[1])
    model = part.build(sizes)
    named = dict(model.named_parameters())
    tables = sum(p.numel() for name, p in named.items() if name.partition(".")[0].endswith("_embedding"))
    assert part.count(sizes) == count_parameters(model, part.roles(model))
    assert part.count_tables(sizes) == tables
    assert part.count(sizes) + tables == sum(p.numel() for p in model.parameters())
    longest = torch.zeros(2, max(lengths), dtype=torch.int64)
    assert model(longest, longest == 0)[0].shape == (2, max(lengths), vocabulary)
