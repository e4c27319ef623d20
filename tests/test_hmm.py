"""Hidden Markov models: against every path, one way of computing against the other, and what goes wrong elsewhere."""

import ctypes
import math
import shutil
import subprocess
import sys
from unittest import mock

import numpy as np
import paths
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.errors import UserError
from shoal.fast.build import FLAGS, PLAIN_FLAGS
from shoal.hmm import (
    HMM,
    Categorical,
    Gaussian,
    Sequences,
    conditional_counts,
    expected_counts,
    fit,
    log_likelihood,
    maximised,
    messages,
    native,
    pairwise_posteriors,
    posterior_transitions,
    random_models,
    sample,
    stacked,
    viterbi,
)
from shoal.hmm import counts as counts_module

WAYS = ("compiled", "in logarithms")
some = settings(max_examples=12, deadline=None)
seeds = st.integers(0, 2**31)
START = [0.5, 0.2, 0.3]
MOVES = [[0.6, 0.3, 0.1], [0.05, 0.15, 0.8], [0.5, 0.25, 0.25]]  # not symmetric
TABLE = [[0.4, 0.3, 0.2, 0.1], [0.05, 0.15, 0.3, 0.5], [0.25, 0.05, 0.6, 0.1]]
MEANS = [[0.0, 1.0], [3.0, -1.0], [-2.0, 0.5]]
MATRICES = [[[1.0, 0.3], [0.3, 0.5]], [[2.0, -0.8], [-0.8, 1.0]], [[0.7, 0.0], [0.0, 0.2]]]


@pytest.fixture(params=WAYS)
def way(request):
    """Each way of computing; the first is missing without a compiler."""
    with computed(request.param):
        yield request.param


def computed(way):
    if way == "compiled":
        if native.library() is None:
            pytest.skip("there is no C compiler")
        return mock.patch("builtins.id", id)  # nothing is changed
    return mock.patch.object(native, "library", lambda: None)


def symbols(start=START, moves=MOVES, table=TABLE) -> HMM:
    return HMM([start], [moves], Categorical([table]))


def drawn(R: int, K: int, seed: int, V: int = 0, D: int = 0, full: bool = False) -> HMM:
    """R random models of V symbols, or of D dimensions."""
    generator = np.random.default_rng(seed)
    start, moves = generator.dirichlet(np.ones(K), R), generator.dirichlet(np.ones(K), (R, K))
    if V:
        return HMM(start, moves, Categorical(generator.dirichlet(np.ones(V), (R, K))))
    factors = generator.normal(size=(R, K, D, D))
    covariances = np.einsum("rkde,rkfe->rkdf", factors, factors) + 0.3 * np.eye(D)
    variances = generator.uniform(0.5, 2, (R, K, D))
    return HMM(start, moves, Gaussian(2 * generator.normal(size=(R, K, D)), covariances if full else variances))


def observed(lengths, seed: int, V: int = 0, D: int = 0, missing: float = 0.1) -> Sequences:
    generator, n = np.random.default_rng(seed + 1), int(np.sum(lengths))
    if V:
        values = generator.integers(0, V, n)
        values[generator.random(n) < missing] = -1
        return Sequences(values, lengths)
    vectors = 2 * generator.normal(size=(n, D))
    vectors[generator.random(n) < missing] = np.nan
    return Sequences(vectors, lengths)


ONE = [0, 3, -1, 2, 1, 0]
VECTORS = [[0.1, 1.2], [2.5, -1.5], [math.nan, math.nan], [-1.8, 0.4], [1.0, 0.0]]
EXAMPLES = {
    "symbols": (symbols(), Sequences(ONE), paths.of_symbols(START, MOVES, TABLE, ONE)),
    "full": (
        HMM([START], [MOVES], Gaussian([MEANS], [MATRICES])),
        Sequences(VECTORS),
        paths.of_vectors(START, MOVES, MEANS, MATRICES, VECTORS),
    ),
    "diagonal": (
        HMM([START], [MOVES], Gaussian([[m[:1] for m in MEANS]], [[c[0][:1] for c in MATRICES]])),
        Sequences([x[:1] for x in VECTORS]),
        paths.of_vectors(START, MOVES, [m[:1] for m in MEANS], MATRICES, [x[:1] for x in VECTORS]),
    ),
}


@pytest.mark.parametrize("kind", EXAMPLES)
def test_messages_and_posteriors_are_sums_over_every_path(way, kind):
    model, data, every = EXAMPLES[kind]
    found, n = messages(model, data), every.n
    close = {"rtol": 1e-12, "atol": 1e-300}
    np.testing.assert_allclose(np.exp(found.log_alpha[0]), [every.alpha(i) for i in range(n)], **close)
    np.testing.assert_allclose(np.exp(found.log_beta[0]), [every.beta(i) for i in range(n)], **close)
    np.testing.assert_allclose(np.exp(found.log_alpha[0, 0]), START, **close)
    np.testing.assert_allclose(found.posteriors[0], [every.posterior(i) for i in range(n)], **close)
    np.testing.assert_allclose(pairwise_posteriors(model, data)[0], [every.pair(i) for i in range(n - 1)], **close)
    transitions = [every.transition(i) for i in range(n - 1)]
    np.testing.assert_allclose(posterior_transitions(model, data)[0], transitions, **close)
    np.testing.assert_allclose(conditional_counts(model, data)[0], np.sum(transitions, axis=0), **close)
    np.testing.assert_allclose(found.log_likelihood, math.log(every.evidence), rtol=1e-12)
    np.testing.assert_allclose(log_likelihood(model, data).log_likelihood, math.log(every.evidence), rtol=1e-12)
    path, p = every.best()
    assert viterbi(model, data).states[0].tolist() == list(path)
    np.testing.assert_allclose(viterbi(model, data).log_probability, math.log(p), rtol=1e-12)


@pytest.mark.parametrize("R", [1, 9])
def test_an_update_is_what_every_path_expects(way, R):
    """Ragged sequences, one of length 1, each with its weight; the model stands among others."""
    sequences, weights = [[0, 3, -1, 2], [1], [2, 2, 0]], [1.0, 2.0, 0.5]
    model, at = stacked([drawn(R - 1, 3, 0, V=4), symbols()] if R > 1 else [symbols()]), R - 1
    starts, pairs, table = np.zeros(3), np.zeros((3, 3)), np.zeros((3, 4))
    for sequence, weight in zip(sequences, weights, strict=True):
        every = paths.of_symbols(START, MOVES, TABLE, sequence)
        starts += weight * np.array(every.posterior(0))
        for i in range(every.n - 1):
            pairs += weight * np.array(every.pair(i))
        for i, y in enumerate(sequence):
            table[:, y] += weight * np.array(every.posterior(i)) if y >= 0 else 0.0
    data = Sequences.of(sequences)
    counts = expected_counts(model, data, weights)
    for name, expected in (("starts", starts), ("pairs", pairs), ("emitted", table)):
        np.testing.assert_allclose(getattr(counts, name)[at], expected, rtol=1e-12)
    new = maximised(model, counts)
    np.testing.assert_allclose(new.start[at], starts / starts.sum(), rtol=1e-12)
    np.testing.assert_allclose(new.transitions[at], pairs / pairs.sum(axis=1, keepdims=True), rtol=1e-12)
    np.testing.assert_allclose(new.emissions.probabilities[at], table / table.sum(axis=1, keepdims=True), rtol=1e-12)


@pytest.mark.parametrize("kind", ["full", "diagonal"])
def test_an_update_of_gaussians_is_what_every_path_expects(way, kind):
    model, data, every = EXAMPLES[kind]
    seen = [i for i in range(every.n) if data.seen[i]]
    shares = np.array([every.posterior(i) for i in seen])  # (n, K)
    x = data.values[seen]
    means = shares.T @ x / shares.sum(axis=0)[:, None]
    difference = x[:, None] - means
    matrices = np.einsum("nk,nkd,nke->kde", shares, difference, difference) / shares.sum(axis=0)[:, None, None]
    new = maximised(model, expected_counts(model, data)).emissions
    np.testing.assert_allclose(new.means[0], means, rtol=1e-11)
    expected = matrices if kind == "full" else np.diagonal(matrices, axis1=1, axis2=2)
    np.testing.assert_allclose(new.covariances[0], expected, rtol=1e-10, atol=1e-13)


def agree(model: HMM, data: Sequences, weights) -> None:
    """Both ways give the same, within 1e-12 of the largest."""
    with np.errstate(all="raise", under="ignore"):
        compiled = expected_counts(model, data, weights)
        with computed(WAYS[1]):
            expected = expected_counts(model, data, weights)
    assert (compiled.impossible == expected.impossible).all()
    for name in ("log_likelihood", "starts", "pairs", "emitted", "firsts", "seconds"):
        ours, theirs = getattr(compiled, name), getattr(expected, name)
        if theirs is not None:
            scale = max(1.0, np.abs(theirs[np.isfinite(theirs)]).max(initial=0.0))
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-12 * scale)


@pytest.mark.skipif(native.library() is None, reason="there is no C compiler")
@pytest.mark.parametrize("row_bytes", [1, counts_module._ROW_BYTES])
@some
@given(seeds, st.integers(1, 10), st.one_of(st.integers(1, 9), st.integers(15, 41)), st.integers(0, 2), st.data())
def test_both_ways_agree(row_bytes, seed, R, K, kind, data):
    """Lanes and states, packed short sequences and long ones computed in blocks, weights, missing observations."""
    lengths = data.draw(st.lists(st.integers(1, 40), min_size=1, max_size=5))
    size = {"V": data.draw(st.integers(1, 6))} if kind == 0 else {"D": data.draw(st.integers(1, 6))}
    model = drawn(R, K, seed, **size, full=kind == 2)
    weights = np.random.default_rng(seed).uniform(0, 2, (R, len(lengths)))
    with mock.patch.object(counts_module, "_ROW_BYTES", row_bytes):
        agree(model, observed(lengths, seed, **size), weights)


PROCESSORS = {"without AVX-512": (*FLAGS, "-mno-avx512f"), "any": PLAIN_FLAGS}


@pytest.mark.slow
@pytest.mark.skipif(native.library() is None or not shutil.which("cc"), reason="there is no C compiler")
@pytest.mark.parametrize("flags", PROCESSORS.values(), ids=PROCESSORS)
def test_both_ways_agree_on_other_processors(tmp_path, flags):
    """Vectors of 512 bits are right where registers have 256 or 128."""
    made = tmp_path / "kernels.so"
    if subprocess.run(["cc", "-o", made, native.SOURCE, *flags, "-lm"], capture_output=True).returncode:
        pytest.skip("this compiler does not know these flags")
    library = ctypes.CDLL(str(made))
    with mock.patch.object(native, "library", lambda: library):
        for seed, K, R in ((0, 2, 1), (1, 3, 9), (2, 8, 9), (3, 8, 1), (4, 21, 2), (5, 40, 1)):
            for size, full in (({"V": 4}, False), ({"D": 3}, False), ({"D": 3}, True)):
                agree(drawn(R, K, seed, **size, full=full), observed([40, 1, 17], seed, **size), None)
        for seed in range(10):
            agree(*thin_case(seed, 60), None)


def thinned(generator: np.random.Generator, shape: tuple[int, ...], share: float) -> np.ndarray:
    """Distributions of which some probabilities are 0 and some down to 1e-300."""
    values = generator.dirichlet(np.ones(shape[-1]), shape[:-1])
    values[generator.random(shape) < share] = 0
    kept = generator.integers(0, shape[-1], (*shape[:-1], 1))
    np.put_along_axis(values, kept, np.take_along_axis(values, kept, -1) + 1e-3, -1)
    is_tiny = generator.random(shape) < 0.05
    values[is_tiny] *= 10.0 ** -generator.integers(50, 300)
    return values / values.sum(axis=-1, keepdims=True)


def thin_case(seed: int, n: int) -> tuple[HMM, Sequences]:
    """Models with impossible moves, from left to right or without any, and sequences that some cannot emit."""
    generator = np.random.default_rng(seed)
    K, R, share = int(generator.integers(2, 12)), int(generator.integers(1, 10)), (0.0, 0.3, 0.7)[seed % 3]
    moves = thinned(generator, (R, K, K), share)
    if seed % 5 == 0:
        moves = np.triu(moves) + 1e-9 * np.eye(K)
        moves /= moves.sum(axis=-1, keepdims=True)
    if seed % 5 == 1:
        moves = np.broadcast_to(np.eye(K), (R, K, K))
    start, lengths = thinned(generator, (R, K), share), generator.integers(1, n, 3)
    if seed % 2:
        V = int(generator.integers(2, 6))
        return HMM(start, moves, Categorical(thinned(generator, (R, K, V), share / 2))), observed(lengths, seed, V=V)
    emissions = Gaussian(10 * generator.normal(size=(R, K, 2)), generator.uniform(0.1, 2, (R, K, 2)))
    return HMM(start, moves, emissions), observed(lengths, seed, D=2)


@pytest.mark.skipif(native.library() is None, reason="there is no C compiler")
@pytest.mark.parametrize("seed", range(10))
def test_both_ways_agree_where_messages_are_lost_or_impossible(seed):
    agree(*thin_case(seed, 60), None)


@pytest.mark.skipif(native.library() is None, reason="there is no C compiler")
@pytest.mark.parametrize("at_once", [1, 50, counts_module._LATTICE])
def test_lost_sequences_of_a_model_are_computed_together_as_far_as_memory_allows(at_once, monkeypatch):
    moves = [[1 - 1e-9, 1e-9, 0.0], [0.0, 0.5, 0.5], [0.0, 0.5, 0.5]]
    model = symbols([1.0, 0.0, 0.0], moves, [[1.0, 1e-200], [0.5, 0.5], [0.5, 0.5]])
    data = Sequences(np.tile([1] + [0] * 9, 12), [10] * 12)
    monkeypatch.setattr(counts_module, "_LATTICE", at_once)
    with mock.patch.object(counts_module, "_by_logarithms", wraps=counts_module._by_logarithms) as calls:
        counts = expected_counts(model, data)
    assert calls.call_count == {1: 12, 50: 8}.get(at_once, 1)
    agree(model, data, None)
    assert counts.starts[0, 0] == pytest.approx(12)


@pytest.mark.slow
@pytest.mark.skipif(native.library() is None, reason="there is no C compiler")
@pytest.mark.parametrize("seed", range(10, 110))
def test_both_ways_agree_where_messages_are_lost_or_impossible_in_long_sequences(seed):
    agree(*thin_case(seed, 400), None)


def test_evidence_that_turns_after_a_state_has_underflown_still_counts(way):
    """Two states that are never left: 400 observations speak for one, and then 800 for the other."""
    model = symbols([0.5, 0.5], [[1.0, 0.0], [0.0, 1.0]], [[0.9, 0.1], [0.1, 0.9]])
    data = Sequences([0] * 400 + [1] * 800)
    expected = math.log(0.5) + 400 * math.log(0.1) + 800 * math.log(0.9)
    np.testing.assert_allclose(log_likelihood(model, data).log_likelihood, expected, rtol=1e-12)
    np.testing.assert_allclose(messages(model, data).posteriors[0, 0], [0, 1], atol=1e-200)
    np.testing.assert_allclose(expected_counts(model, data).visits, [[0, 1200]], atol=1e-200)


def test_a_state_that_no_path_leads_to_does_not_count_however_likely_its_future_is(way):
    """The message backwards of the second state is 9^1000 times that of the first, which is infinite in float64."""
    model = symbols([1.0, 0.0], [[1.0, 0.0], [0.0, 1.0]], [[0.9, 0.1], [0.1, 0.9]])
    counts = expected_counts(model, Sequences([1] * 1000))
    np.testing.assert_allclose(counts.log_likelihood, 1000 * math.log(0.1), rtol=1e-12)
    np.testing.assert_allclose(counts.visits, [[1000, 0]], atol=1e-200)


def test_what_is_smaller_than_float64_is_not_impossible(way):
    model = symbols([1e-250, 1.0], [[1.0, 0.0], [0.0, 1.0]], [[1.0, 1e-200], [1.0, 0.0]])
    evidence = log_likelihood(model, Sequences([1, 0]))
    assert evidence.log_likelihood[0, 0] == pytest.approx(-450 * math.log(10), rel=1e-12)
    assert evidence.impossible == ()


def test_an_outlier_of_a_thousand_deviations_has_a_likelihood(way):
    model = HMM([[0.5, 0.5]], [[[0.9, 0.1], [0.2, 0.8]]], Gaussian([[[0.0], [1.0]]], [[[1.0], [1.0]]]))
    value = log_likelihood(model, Sequences([0.0, 1000.0, 0.0])).log_likelihood
    assert np.isfinite(value) and -500_100 < value[0, 0] < -499_000


@pytest.mark.parametrize("R, K", [(1, 2), (2, 2), (1, 9)])
def test_what_is_so_far_that_its_square_is_infinite_is_impossible_and_adds_nothing(way, R, K):
    variances = np.full((R, K, 1), 1e-200)
    emissions = Gaussian(np.linspace(0, 1e-100, R * K).reshape(R, K, 1), variances)
    model = HMM(np.full((R, K), 1 / K), np.full((R, K, K), 1 / K), emissions)
    data = Sequences([0.0] * 20 + [1e60] + [0.0] * 40, [30, 31])
    counts, only = expected_counts(model, data), expected_counts(model, data.subset([1]))
    assert (counts.impossible[:, 0] == 20).all() and (counts.log_likelihood[:, 0] == -np.inf).all()
    for name in ("starts", "pairs", "emitted", "firsts", "seconds"):
        np.testing.assert_allclose(getattr(counts, name), getattr(only, name), rtol=1e-12)


@given(seeds, st.integers(1, 3), st.integers(1, 4), st.data())
@some
def test_missing_observations_are_summed_over(seed, K, V, data):
    """The probability of a sequence with gaps is the sum over everything that could stand there."""
    sequence = data.draw(st.lists(st.integers(-1, V - 1), min_size=1, max_size=5))
    model, gaps = drawn(1, K, seed, V=V), [i for i, y in enumerate(sequence) if y < 0]
    total = 0.0
    for filling in np.ndindex(*[V] * len(gaps)):
        whole = list(sequence)
        for i, y in zip(gaps, filling, strict=True):
            whole[i] = y
        total += math.exp(log_likelihood(model, Sequences(whole)).log_likelihood[0, 0])
    found = math.exp(log_likelihood(model, Sequences(sequence)).log_likelihood[0, 0])
    assert found == pytest.approx(total, rel=1e-12)


@given(seeds, st.integers(2, 6), st.sampled_from(["symbols", "diagonal", "full"]))
@some
def test_numbers_of_states_do_not_matter(seed, K, kind):
    size = {"V": 3} if kind == "symbols" else {"D": 2, "full": kind == "full"}
    model = drawn(2, K, seed, **size)
    size.pop("full", None)
    data = observed([7, 1, 12], seed, **size)
    order = np.stack([np.random.default_rng([seed, r]).permutation(K) for r in range(2)])
    one, other = expected_counts(model, data), expected_counts(model.permuted(order), data)
    np.testing.assert_allclose(other.log_likelihood, one.log_likelihood, rtol=1e-12, atol=1e-14)
    rows = np.arange(2)[:, None]
    np.testing.assert_allclose(other.visits, one.visits[rows, order], rtol=1e-10, atol=1e-14)
    pairs = one.pairs[rows[:, :, None], order[:, :, None], order[:, None, :]]
    np.testing.assert_allclose(other.pairs, pairs, rtol=1e-10, atol=1e-14)


def test_a_model_is_the_same_beside_others():
    """A stack of 11 gives each model's numbers to the bit, whatever stands beside it in its vector."""
    model, data = drawn(11, 3, 5, V=4), observed([30, 1, 17], 5, V=4)
    together = expected_counts(model, data)
    for r in (0, 7, 10):
        alone = expected_counts(model.select(r), data)
        for name in ("log_likelihood", "starts", "pairs", "emitted"):
            assert (getattr(alone, name)[0] == getattr(together, name)[r]).all()


def in_extended_precision(start, moves, table, sequence) -> float:
    """Log-likelihood by the textbook's scaled recursion in longer numbers than float64."""
    a, moves, total = np.array(start, np.longdouble), np.array(moves, np.longdouble), np.longdouble(0)
    columns = np.array(table, np.longdouble).T
    for y in sequence:
        joint = a * columns[y]
        total += np.log(joint.sum())
        a = (joint / joint.sum()) @ moves
    return float(total)


def test_a_long_sequence_keeps_its_likelihood():
    """20,000 observations, where the probability itself is e^-26,000."""
    data = Sequences(np.random.default_rng(0).integers(0, 4, 20_000))
    expected = in_extended_precision(START, MOVES, TABLE, data.values)
    found = log_likelihood(symbols(), data).log_likelihood[0, 0]
    assert found == pytest.approx(expected, rel=1e-13)


@pytest.mark.slow
@pytest.mark.parametrize("R", [1, 3])
def test_a_million_observations_keep_their_likelihood_and_are_the_sum_of_their_parts(R):
    model = stacked([symbols()] * R)
    data = Sequences(np.random.default_rng(1).integers(0, 4, 1_000_000))
    expected = in_extended_precision(START, MOVES, TABLE, data.values)
    assert log_likelihood(model, data).log_likelihood[:, 0] == pytest.approx(expected, rel=1e-12)
    parts = Sequences(data.values, [1000] * 1000)
    together = expected_counts(model, parts)
    each = [expected_counts(model, parts.subset([s])) for s in range(1000)]
    one_by_one = np.concatenate([one.log_likelihood for one in each], axis=1)
    assert (together.log_likelihood == one_by_one).all()
    np.testing.assert_allclose(together.pairs, sum(one.pairs for one in each), rtol=1e-12)
    np.testing.assert_allclose(together.emitted, sum(one.emitted for one in each), rtol=1e-12)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="memory is read as Linux tells it")
def test_a_million_observations_take_little_memory():
    """32 states, in MiB of a process that does nothing else: messages of all observations would be 244 each."""
    program = """
import pathlib, numpy as np
from shoal.hmm import Sequences, expected_counts, random_models
data = Sequences(np.random.default_rng(0).integers(0, 16, 1_000_000))
expected_counts(random_models(data, 32, 1), data)
lines = pathlib.Path('/proc/self/status').read_text().splitlines()
print(int(next(line for line in lines if line.startswith('VmHWM')).split()[1]) // 1024)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert int(done.stdout) < (600 if native.library() is not None else 4000)


def test_pytorch_is_not_loaded():
    program = "import sys, shoal.hmm; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


IMPOSSIBLE = {
    "no state emits it": (symbols([1, 0], [[0.5, 0.5]] * 2, [[0.5, 0.5, 0], [0.2, 0.8, 0]]), [0, 1, 2, 0], 2),
    "the first": (symbols([1, 0], [[0.5, 0.5]] * 2, [[0, 1.0], [1.0, 0]]), [0, 1], 0),
    "a contradiction": (symbols([0.5, 0.5], [[1.0, 0], [0, 1.0]], [[1.0, 0], [0, 1.0]]), [0, 0, 0, 1, 1], 3),
    "the last": (symbols([1.0], [[1.0]], [[1.0, 0.0]]), [0] * 20 + [1], 20),
}


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_what_is_impossible_has_no_likelihood_and_a_place(way, name):
    model, sequence, position = IMPOSSIBLE[name]
    possible = sequence[:position] or [1]
    data = Sequences.of([possible, sequence])
    with np.errstate(all="raise", under="ignore"):
        evidence, found, counts = log_likelihood(model, data), messages(model, data), expected_counts(model, data)
    assert np.isfinite(evidence.log_likelihood[0, 0]) and evidence.log_likelihood[0, 1] == -np.inf
    [first] = evidence.impossible
    assert (first.model, first.sequence, first.position, first.symbol) == (0, 1, position, sequence[position])
    only = expected_counts(model, data.subset([0]))
    np.testing.assert_allclose(counts.pairs, only.pairs)
    np.testing.assert_allclose(counts.emitted, only.emitted)
    every = [found.log_alpha, found.log_beta, found.posteriors, found.log_filtered, counts.emitted]
    every += [pairwise_posteriors(model, data), posterior_transitions(model, data), conditional_counts(model, data)]
    assert not any(np.isnan(array).any() for array in every)
    assert (found.posteriors[0, len(possible) :] == 0).all()
    path = viterbi(model, data)
    assert path.log_probability[0, 1] == -np.inf and (path.states[0, len(possible) :] == -1).all()
    problem = fit(model, data).problems[0][0]
    assert problem.kind == "impossible" and f"position {position} of sequence 1" in problem.text


def test_what_is_sampled_has_the_frequencies_of_the_model():
    data, states = sample(symbols(), [1] * 4000 + [4000], seed=3)
    assert (data.lengths == [1] * 4000 + [4000]).all()
    np.testing.assert_allclose(np.bincount(states[:4000], minlength=3) / 4000, START, atol=0.03)
    long = states[4000:]
    for z, row in enumerate(MOVES):
        following = long[1:][long[:-1] == z]
        np.testing.assert_allclose(np.bincount(following, minlength=3) / len(following), row, atol=0.06)
        np.testing.assert_allclose(
            np.bincount(data.values[states == z], minlength=4) / (states == z).sum(), TABLE[z], atol=0.05
        )


def test_a_restart_does_not_depend_on_how_many_there_are():
    data = observed([50], 0, V=3)
    few, many = random_models(data, 3, 2, seed=5), random_models(data, 3, 9, seed=5)
    assert (few.transitions == many.transitions[:2]).all()
    assert (few.emissions.probabilities == many.emissions.probabilities[:2]).all()


SYMBOLS, NUMBERS = Sequences([0, 1, 2]), Sequences([0.5, 1.0, 2.0])
NORMAL = HMM([[1.0]], [[[1.0]]], Gaussian([[[0.0]]], [[[1.0]]]))
BAD = {
    "lengths that do not add up": (lambda: Sequences([0, 1, 2], [2, 2]), "4.*3"),
    "a length of 0": (lambda: Sequences([0, 1], [2, 0]), "sequence 1.*0"),
    "a sequence of length 0": (lambda: Sequences.of([[0], []]), "sequence 1"),
    "no observation": (lambda: Sequences([]), "no observations"),
    "no sequence": (lambda: Sequences.of([]), "at least 1"),
    "lengths that are no integers": (lambda: Sequences([0, 1], [1.5, 0.5]), "integers"),
    "a symbol below -1": (lambda: Sequences([0, -2]), "-2 at position 1"),
    "an infinite value": (lambda: Sequences([0.0, np.inf]), "inf.*row 1"),
    "a row that is missing in part": (lambda: Sequences([[0.0, 1.0], [np.nan, 1.0]]), "row 1"),
    "texts": (lambda: Sequences(["a", "b"]), "integers"),
    "a start that does not sum to 1": (lambda: symbols([0.5, 0.2, 0.2]), r"start\[0\].*0.9"),
    "a row that does not sum to 1": (lambda: symbols(moves=[[1, 0, 1], *MOVES[1:]]), r"transitions\[0, 0\].*2"),
    "a negative probability": (lambda: symbols(moves=[MOVES[0], [1.5, -0.5, 0], MOVES[2]]), r"\[0, 1, 1\].*-0.5"),
    "a probability that is NaN": (lambda: symbols(table=[*TABLE[:2], [np.nan] * 4]), r"\[0, 2, 0\].*nan"),
    "a variance of 0": (lambda: Gaussian([[[0.0]]], [[[0.0]]]), r"\[0, 0, 0\].*positive"),
    "a matrix that is no covariance": (lambda: Gaussian([[[0.0, 0]]], [[[[1, 2], [2, 1]]]]), r"\[0, 0\].*definite"),
    "a matrix that is not symmetric": (lambda: Gaussian([[[0.0, 0]]], [[[[1, 0.5], [0, 1]]]]), r"\[0, 0\].*symm"),
    "a mean that is NaN": (lambda: Gaussian([[[np.nan]]], [[[1.0]]]), r"\[0, 0, 0\].*finite"),
    "shapes that do not agree": (lambda: HMM([[1.0]], [[[1.0]]], Categorical([TABLE])), "shape"),
    "no states": (lambda: HMM(np.ones((1, 0)), np.ones((1, 0, 0)), Categorical(np.ones((1, 0, 2)))), "axes"),
    "ragged emissions": (lambda: Categorical([[[0.5, 0.5], [1.0]]]), "unequal length"),
    "ragged transitions": (lambda: symbols(moves=[[1.0], [0.5, 0.5], [1.0]]), "transitions.*unequal length"),
    "K = 1.5": (lambda: random_models(SYMBOLS, 1.5, 1), "states.*integer.*1.5"),
    "half a restart": (lambda: random_models(SYMBOLS, 1, "2"), "models.*integer.*'2'"),
    "K = 0": (lambda: random_models(SYMBOLS, 0, 1), "at least 1, got 0"),
    "fewer observations than states": (lambda: random_models(SYMBOLS, 4, 1), "3 observations for 4 states"),
    "fewer seen than states": (lambda: fit(symbols(), Sequences([0, -1, -1])), "1 observations for 3 states"),
    "a symbol outside": (lambda: fit(symbols(), Sequences([0, 1, 4, 0], [2, 2])), "4 at position 0 of sequence 1"),
    "V below the symbols": (lambda: random_models(SYMBOLS, 2, 1, V=2), "symbol 2 at position 2"),
    "numbers for symbols": (lambda: messages(symbols(), NUMBERS), "symbols"),
    "symbols for numbers": (lambda: viterbi(NORMAL, SYMBOLS), "numbers"),
    "other dimensions": (lambda: fit(NORMAL, Sequences([[1.0, 2.0]])), "2 dimensions and the models 1"),
    "constant data": (lambda: fit(NORMAL, Sequences([2.0, 2.0, 2.0])), "dimension 0 is 2.0"),
    "constant data at the start": (lambda: random_models(Sequences([[1.0, 3.0], [2.0, 3.0]]), 1, 1), "dimension 1"),
    "a variance below the floor": (lambda: fit(NORMAL, Sequences([0.0, 1e9])), "below the floor"),
    "a floor of 0": (lambda: fit(NORMAL, NUMBERS, floor=0.0), "floor"),
    "negative weights": (lambda: expected_counts(symbols(), SYMBOLS, [-1.0]), "weight -1.0 of sequence 0"),
    "weights of another shape": (lambda: expected_counts(symbols(), SYMBOLS, [1.0, 1.0]), "shape"),
    "an unknown part": (lambda: fit(symbols(), SYMBOLS, learn=["transition"]), "did you mean 'transitions'"),
    "an unknown update": (lambda: fit(symbols(), SYMBOLS, update="pairwize"), "did you mean 'pairwise'"),
    "an unknown covariance": (lambda: random_models(NUMBERS, 1, 1, covariance="diag"), "did you mean 'diagonal'"),
    "negative iterations": (lambda: fit(symbols(), SYMBOLS, iterations=-1), "at least 0"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line_that_names_the_place(name):
    act, pattern = BAD[name]
    with pytest.raises(UserError, match=pattern) as failure:
        act()
    assert "\n" not in str(failure.value)
