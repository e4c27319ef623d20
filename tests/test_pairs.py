"""Sources and targets: vocabularies, rows, batches for each way to read them, and what is scored."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pair_files import english, parallel, sentences
from torch.nn import functional as F

import shoal
from shoal import objectives
from shoal.errors import LabError, UserError
from shoal.objectives import smoothed_losses
from shoal.tasks.build import build_model, build_task
from shoal.tasks.pairs import settings as pair_settings
from shoal.tasks.pairs.codec import PairCodec, codec_of
from shoal.tasks.pairs.data import Pairs, Scoring, pair_batch, pair_objective, pair_task, some_of
from shoal.tasks.pairs.vocabulary import BOS, EOS, PAD, UNK, Types, learn_vocabulary, vocabulary_from_json
from shoal.tasks.pairs.words import join_words, split_words
from shoal.training.plan import Cohort
from shoal.training.stack import Stack
from shoal.training.step import evaluate, train_steps

CPU = torch.device("cpu")
LINES = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
ROWS = st.lists(st.lists(st.integers(4, 9), max_size=5), min_size=1, max_size=6)


# words and vocabularies


@given(LINES)
def test_words_come_back_but_for_white_space(line):
    tokens = split_words(line)
    assert join_words(tokens) == " ".join(line.split())
    assert all(token.strip() and not any(sign.isspace() for sign in token[1:]) for token in tokens)


@pytest.mark.parametrize("kind", ["words", "bpe", "chars"])
def test_a_text_that_spells_a_special_token_is_text(kind):
    lines = ["<unk> <pad> <s> </s> BOS EOS [PAD] <|endoftext|>"] * 3
    vocabulary = learn_vocabulary(kind, lines, 258 if kind == "bpe" else None)
    tokens = vocabulary.encode(lines[0])
    assert min(tokens) > UNK - (kind == "bpe")
    assert vocabulary.decode([BOS, *tokens, EOS, PAD]) == lines[0]


@pytest.mark.parametrize("kind", ["words", "chars"])
def test_what_did_not_train_is_unknown(kind):
    vocabulary = learn_vocabulary(kind, ["ab ab cd"], None, 2 if kind == "words" else None)
    assert UNK in vocabulary.encode("cd é")
    assert "<unk>" in vocabulary.decode(vocabulary.encode("é"))


def test_frequent_words_come_first_and_rare_ones_are_none():
    found = learn_vocabulary("words", ["b a b", "c a b d", "d"], None, 2)
    assert found.types == [" b", " a", " d"]
    assert learn_vocabulary("words", ["b a b", "c a b d", "d"], 2, 2).types == [" b", " a"]
    for size, said in ((4, "at most 3"), (0, "")):
        if size:
            with pytest.raises(UserError, match=said):
                learn_vocabulary("words", ["b a b", "c a b d", "d"], size, 2)


@pytest.mark.parametrize(("size", "said"), [(255, "256"), (100_000, "all that this text gives")])
def test_a_size_of_byte_pairs_that_is_not_possible_is_refused(size, said):
    with pytest.raises(UserError, match=said):
        learn_vocabulary("bpe", ["a few words"], size)


@given(LINES)
def test_byte_pairs_come_back_exactly(line):
    codec = PairCodec(BYTE_PAIRS, BYTE_PAIRS, 1000)
    tokens, seen = codec.encode_sources([line, ""])
    assert codec.decode_source(tokens[0]) == line
    assert tokens[1].tolist() == [EOS, *[PAD] * (tokens.shape[1] - 1)]
    assert seen.sum(1).tolist() == [int((tokens[0] != PAD).sum()), 1]


BYTE_PAIRS = learn_vocabulary("bpe", sentences(20)[0], 280)


@pytest.mark.parametrize("kind", ["words", "bpe", "chars", "letters", "numbers"])
def test_a_codec_is_what_was_written_down(kind):
    listed = {"letters": list("abc"), "numbers": ["0", "1"]}
    own = (
        Types(kind, listed[kind])
        if kind in listed
        else learn_vocabulary(kind, sentences(9)[0], 270 if kind == "bpe" else None)
    )
    for codec in (PairCodec(own, own, 7, lowercase=True), PairCodec(own, Types("letters", ["x"]), 9, cuts=True)):
        again = codec_of({"codec": codec.to_json()})
        assert again.to_json() == codec.to_json()
        assert (again.source is again.target) == (codec.source is codec.target)
        assert (again.source.key, again.target.key) == (codec.source.key, codec.target.key)


@pytest.mark.parametrize(
    "content",
    [
        None,
        {},
        {"kind": "words"},
        {"kind": "words", "types": ["a", "a"]},
        {"kind": "words", "types": [""]},
        {"kind": "chars", "types": "ab"},
        {"kind": [], "types": []},
        {"kind": "bpe", "merges": [[1, 300]], "trained_on": "0" * 16},
        {"kind": "words", "types": [], "more": 1},
    ],
)
def test_a_damaged_vocabulary_is_refused(content):
    with pytest.raises(LabError, match="damaged"):
        vocabulary_from_json(content)
    with pytest.raises(LabError, match="damaged"):
        codec_of({"codec": {"max_length": 3, "lowercase": False, "cuts": True, "target": content}})


def test_a_source_that_is_too_long_is_cut_or_refused():
    own = Types("letters", list("abc"))
    assert PairCodec(own, own, 2, cuts=True).encode_sources(["abc"])[0].tolist() == [[3, 4, EOS]]
    assert PairCodec(own, own, 2).too_long(["ab", "abc"]) == [1]
    with pytest.raises(UserError, match="source 2 has 3 tokens"):
        PairCodec(own, own, 2).encode_sources(["ab", "abc"])
    with pytest.raises(UserError, match="not in the vocabulary"):
        PairCodec(own, own, 2).encode_sources(["d"])
    with pytest.raises(UserError, match="token 6 is not in the vocabulary"):
        own.decode([6])


# batches


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_batches_are_the_rows_one_by_one(data):
    sources = data.draw(ROWS)
    targets = [data.draw(st.lists(st.integers(4, 9), max_size=6)) for _ in sources]
    pairs = Pairs.of(sources, targets)
    indices = torch.tensor(data.draw(st.lists(st.integers(0, len(sources) - 1), min_size=1, max_size=4)))
    longest = [max(len(rows[i]) for i in indices) + 1 for rows in (sources, targets)]
    widths = tuple(
        data.draw(st.integers(low, full.shape[1]))
        for low, full in zip(longest, (pairs.source, pairs.target), strict=True)
    )
    for asked, (S, T) in ((widths, widths), (None, (pairs.source.shape[1], pairs.target.shape[1]))):
        pair, one, source = (pair_batch(pairs.tensors, indices, asked, reads=reads) for reads in READS)
        assert pair["source"].shape == (len(indices), S) and pair["targets"].shape == (len(indices), T)
        assert one["inputs"].shape == (len(indices), S + T) and source["source"].shape == (len(indices), max(S, T))
        for row, index in enumerate(indices.tolist()):
            x, y = [*sources[index], EOS], [*targets[index], EOS]
            begun = [BOS, *targets[index]]
            assert pair["source"][row].tolist() == filled(x, S) and pair["seen"][row].tolist() == told(x, S)
            assert pair["inputs"][row].tolist() == filled(begun, T) and pair["targets"][row].tolist() == filled(y, T)
            assert pair["scored"][row].tolist() == told(y, T)
            assert one["inputs"][row].tolist() == filled([*x, *begun], S + T)
            assert one["targets"][row].tolist() == filled([*[PAD] * len(x), *y], S + T)
            assert one["scored"][row].tolist() == [False] * len(x) + told(y, S + T - len(x))
            W = max(S, T)
            assert source["source"][row].tolist() == filled(x, W) and source["seen"][row].tolist() == told(x, W)
            assert source["targets"][row].tolist() == filled(y, W) and source["scored"][row].tolist() == told(y, W)


READS = ("pair", "sequence", "source")


def filled(tokens, width):
    return [*tokens, *[PAD] * (width - len(tokens))]


def told(tokens, width):
    return [True] * len(tokens) + [False] * (width - len(tokens))


@given(st.lists(st.integers(1, 30), min_size=1, max_size=4), st.integers(1, 200))
def test_of_each_group_some_that_train_are_scored(sizes, n_valid):
    train = torch.arange(sum(sizes)) + 3
    of = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    groups = {str(n): torch.cat([torch.zeros(3, dtype=torch.bool), of == n]) for n in range(len(sizes))}
    found = some_of(train, n_valid, groups)
    assert len(set(found.tolist())) == len(found) <= n_valid // 4 + len(sizes)
    assert all(inside[found].any() for inside in groups.values())


# what is scored


class Scripted:
    """A model whose losses of the right tokens are as written."""

    def __init__(self, losses, targets, vocabulary=7):
        self.losses, self.targets, self.V = losses, targets, vocabulary

    def __call__(self, source, inputs, seen):
        logits = torch.zeros(*inputs.shape, self.V, dtype=torch.float64)
        for row, own in enumerate(self.losses):
            for place, nats in enumerate(own):
                p = math.exp(-nats)
                logits[row, place] = math.log((1 - p) / (self.V - 1))
                logits[row, place, self.targets[row][place]] = -nats
        return logits, None


@pytest.mark.parametrize("padding", [0, 3])
@pytest.mark.parametrize("size", [1, 2])
def test_perplexity_is_of_all_tokens_together(size, padding):
    """T6: exp(1.9 / 8), whatever the batches and the padding."""
    losses = [[0.1, 0.2, 0.1], [0.3, 0.5, 0.1, 0.4, 0.2]]
    targets = [[4, 5], [4, 5, 6, 5]]
    pairs = Pairs.of([[4], [4]], targets)
    target = F.pad(pairs.target, (0, padding))
    pairs = Pairs(pairs.source, target, pairs.source_length, pairs.target_length)
    nats = tokens = exact = 0.0
    for rows in torch.arange(2).split(size):
        batch = pair_batch(pairs.tensors, rows, reads="pair")
        scores = pair_objective(Scripted([losses[i] for i in rows], [[*targets[i], EOS] for i in rows]), batch)
        nats += float((scores["loss"] * scores["weight"]).sum())
        tokens += float(scores["weight"].sum())
        exact += float(scores["forced_exact"].sum())
    assert (tokens, exact) == (8, 2)
    assert math.exp(nats / tokens) == pytest.approx(1.26807, abs=1e-5)


@given(st.floats(0, 0.9), st.integers(4, 9), st.integers(0, 2**20))
def test_label_smoothing_is_as_in_three_libraries(epsilon, vocabulary, seed):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(3, vocabulary, generator=generator, dtype=torch.float64)
    targets = torch.randint(1, vocabulary, (3,), generator=generator)
    log_p = logits.log_softmax(-1)
    by_torch = F.cross_entropy(logits, targets, label_smoothing=epsilon, reduction="none")
    assert torch.allclose(smoothed_losses(logits, targets, epsilon, "torch"), by_torch)
    each = epsilon / (vocabulary - 1)  # fairseq's label_smoothed_nll_loss
    nll = -log_p.gather(-1, targets.unsqueeze(-1)).squeeze(-1)
    by_fairseq = (1 - epsilon - each) * nll + each * -log_p.sum(-1)
    assert torch.allclose(smoothed_losses(logits, targets, epsilon, "fairseq"), by_fairseq)
    wanted = torch.full_like(log_p, epsilon / (vocabulary - 2))  # the Annotated Transformer's LabelSmoothing
    wanted.scatter_(1, targets.unsqueeze(1), 1 - epsilon)
    wanted[:, PAD] = 0
    by_joey = F.kl_div(log_p, wanted, reduction="none").sum(-1)
    assert torch.allclose(smoothed_losses(logits, targets, epsilon, "joeynmt"), by_joey, atol=1e-9)


def test_a_convention_is_one_of_three():
    with pytest.raises(ValueError, match="fairseq"):
        smoothed_losses(torch.zeros(1, 4), torch.zeros(1, dtype=torch.int64), 0.1, "fairsec")
    assert objectives.CONVENTIONS == pair_settings.CONVENTIONS


def test_training_minimises_what_was_asked_for():
    pairs = Pairs.of([[4], [4]], [[4], [4, 5, 6, 5]])
    batch = pair_batch(pairs.tensors, torch.arange(2), reads="pair")
    model = Scripted([[0.9, 0.1], [0.3, 0.5, 0.1, 0.4, 0.2]], [[4, EOS], [4, 5, 6, 5, EOS]])

    def minimised(**asked):
        scores = Scoring(**asked).objective()(model, batch)
        return float((scores["loss"] * scores["weight"]).sum() / scores["weight"].sum())

    assert minimised(reduction="token") == pytest.approx(2.5 / 7)
    assert minimised(reduction="sentence") == pytest.approx((1.0 / 2 + 1.5 / 5) / 2)
    plain, smooth = (
        pair_task(pairs, "pair", torch.tensor([0]), torch.tensor([1]), scoring=Scoring(label_smoothing=e))
        for e in (0.0, 0.1)
    )
    assert plain.training_objective is None and smooth.training_objective is not None
    assert smooth.objective is pair_objective


# models that read them


MODELS = {
    "pair_models:TinyPair": {},
    "pair_models:TinySource": {},
    "gpt": {"num_layers": 1, "num_heads": 2, "initialisation": "gpt2", "norm_position": "pre"},
    "lstm": {"num_layers": 1},
}


def tiny(folder, model, lines=None, **changes):
    own = {"task": "translation", "model": model, "embedding_size": 8, "train_batch_size": 4, "n_steps": 6}
    return shoal.RunSpec(**{**own, "min_frequency": 1, **parallel(folder, 16, 20, lines), **MODELS[model], **changes})


@pytest.mark.parametrize("model", MODELS)
def test_an_evaluation_is_a_loop_over_all_tokens_whatever_the_batch_size(tmp_path, model):
    found = []
    for size in (1, 13, 128):
        spec = tiny(tmp_path, model, eval_batch_size=size)
        found.append(evaluate(Stack(Cohort((spec,)), CPU), {}))
    for column, value in found[0].items():
        assert value.item() == pytest.approx(found[1][column].item(), rel=1e-6)
        assert value.item() == pytest.approx(found[2][column].item(), rel=1e-6)
    task, module = build_task(spec), Stack(Cohort((spec,)), CPU).built_model(0).requires_grad_(False)
    nats = tokens = right = exact = 0
    for index in task.scored["valid"]:
        batch = task.batch(task.tensors, index.unsqueeze(0))
        names = [name for name in ("source", "inputs", "seen") if name in batch]
        log_p = module(*(batch[name] for name in names), **spec.model_part.calling)[0][0].log_softmax(-1)
        wrong = 0
        for place in batch["scored"][0].nonzero().squeeze(1).tolist():
            wanted = int(batch["targets"][0, place])
            nats -= float(log_p[place, wanted])
            tokens += 1
            wrong += int(log_p[place].argmax()) != wanted
            right += int(log_p[place].argmax()) == wanted
        exact += wrong == 0
    kept = spec.task_part.kept()
    assert tokens == kept["counts"]["tokens"]
    assert found[0]["valid_loss"].item() == pytest.approx(nats / tokens, rel=1e-5)
    assert found[0]["valid_accuracy"].item() == pytest.approx(right / tokens)
    assert found[0]["valid_forced_exact"].item() == pytest.approx(exact / len(task.scored["valid"]))
    assert found[0]["valid_loss"].item() == pytest.approx(math.log(spec.sizes().vocabulary_size), abs=0.1)


def test_a_share_of_targets_counts_each_alike(tmp_path):
    """And not by its tokens, as the loss does."""
    spec = tiny(tmp_path, "pair_models:TinyPair")
    stack = Stack(Cohort((spec,)), CPU)

    def objective(model, batch):
        n = batch["scored"].sum(-1)
        scores = pair_objective(model, batch)
        return {**scores, "forced_exact": (n > 6).to(scores["loss"].dtype)}

    object.__setattr__(stack.task, "objective", objective)
    found = evaluate(stack, {})["valid_forced_exact"].item()
    lengths = stack.task.tensors["target_length"][stack.task.scored["valid"]]
    assert found == pytest.approx((lengths > 6).float().mean().item())
    assert 0 < found < 1


def test_a_short_sentence_beside_a_long_one_is_what_it_is_alone(tmp_path):
    """M4: 2 targets, of one token and EOS; no NaN in what is computed or in its gradient."""
    lines = {
        "source": ["ein", "ein der hund kind mann schläft rennt ein der"] * 3,
        "target": ["a", "a the dog child man sleeps runs a the"] * 3,
    }
    lines |= {f"valid_{name}": own for name, own in lines.items()}
    for model in MODELS:
        spec = tiny(tmp_path, model, lines)
        task, module = build_task(spec), build_model(spec)

        def called(*inputs, module=module, spec=spec):
            return module(*inputs, **spec.model_part.calling)

        together = task.objective(called, task.batch(task.tensors, torch.tensor([0, 1])))
        alone = task.objective(called, task.batch(task.tensors, torch.tensor([0]), (2, 2)))
        assert float(together["weight"][0]) == 2 == float(alone["weight"][0])
        assert torch.allclose(together["loss"][:1], alone["loss"], atol=1e-6)
        together["loss"].sum().backward()
        assert all(p.grad.isfinite().all() for p in module.parameters() if p.grad is not None)


@pytest.mark.parametrize("model", ["pair_models:TinyPair", "gpt", "lstm"])
def test_a_target_changes_no_logit_before_it_is_read(tmp_path, model):
    spec = tiny(tmp_path, model)
    task, module = build_task(spec), build_model(spec).eval()
    index = int(task.tensors["target_length"].argmax())

    def logits(tensors):
        batch = task.batch(tensors, torch.tensor([index]))
        found = module(*(batch[n] for n in ("source", "inputs", "seen") if n in batch), **spec.model_part.calling)[0]
        return found[batch["scored"]]  # (T, V)

    before = logits(task.tensors)
    for place in range(int(task.tensors["target_length"][index]) - 1):
        target = task.tensors["target"].clone()
        target[index, place] = 4 if int(target[index, place]) != 4 else 5
        after = logits({**task.tensors, "target": target})
        assert torch.equal(after[: place + 1], before[: place + 1])
        assert not torch.equal(after[place + 1 :], before[place + 1 :])


def test_padding_of_the_source_changes_nothing(tmp_path):
    for model in MODELS:
        spec = tiny(tmp_path, model)
        task, module = build_task(spec), build_model(spec).eval()
        indices = task.scored["valid"]

        def called(*inputs, module=module, spec=spec):
            return module(*inputs, **spec.model_part.calling)

        tensors = dict(task.tensors)
        places = torch.arange(tensors["source"].shape[1])
        padding = places >= tensors["source_length"].unsqueeze(1)
        full = task.objective(called, task.batch(tensors, indices))
        if model.startswith("pair_models"):  # whose models are told what counts; of others nothing else is read
            tensors["source"] = torch.where(padding, 5, tensors["source"])
        moved = task.objective(called, task.batch(tensors, indices))
        if model != "pair_models:TinySource":  # which reads its own place
            assert torch.allclose(full["loss"], moved["loss"], atol=1e-6)
        wide = {**task.tensors, "source": F.pad(task.tensors["source"], (0, 2))}
        assert torch.allclose(full["loss"], task.objective(called, task.batch(wide, indices))["loss"], atol=1e-6)


@pytest.mark.parametrize("task", ["translation", "sorting"])
def test_buckets_score_what_a_shuffled_task_scores(tmp_path, task):
    """And train on every pair once a pass."""
    own = {"task": task, "model": "gpt", "embedding_size": 8, "train_batch_size": 5, "num_layers": 1, "num_heads": 2}
    more = {"min_length": 2, "max_length": 9, "train_examples": 60, "valid_examples": 16}
    own |= {"min_frequency": 1, **parallel(tmp_path)} if task == "translation" else more
    specs = [shoal.RunSpec(**own, batching=how, eval_batch_size=7) for how in ("buckets", "shuffled")]
    bucketed, shuffled = (Stack(Cohort((spec,)), CPU) for spec in specs)
    assert len(bucketed.task.forms.each) > 1 and shuffled.task.forms is None
    found, wanted = evaluate(bucketed, {}), evaluate(shuffled, {})
    for column, value in wanted.items():
        assert found[column].item() == pytest.approx(value.item(), rel=1e-5), column
    drawn = []
    for step in range(bucketed.sampler.period):
        bucketed.sampler.prepare(torch.tensor([step]))
        bucketed.at.fill_(step + 1)
        indices, counts = bucketed.draw()
        drawn += indices[counts].tolist()
        lengths = bucketed.task.tensors["source_length"][indices[0]]
        assert lengths.max() <= bucketed.form[0]
    assert sorted(drawn) == list(range(bucketed.task.n_drawn))
    assert specs[0].task_part.batch_positions(5) <= specs[1].task_part.batch_positions(5)


def test_two_members_of_other_seeds_sort_in_one_stack():
    """Their numbers differ, and the lengths of a step do not."""
    own = {"task": "sorting", "model": "gpt", "embedding_size": 8, "num_layers": 1, "num_heads": 2, "n_steps": 5}
    own |= {"min_length": 2, "max_length": 9, "train_examples": 60, "valid_examples": 16, "train_batch_size": 5}
    specs = tuple(shoal.RunSpec(**own, warmup_steps=1, seed=seed) for seed in (0, 1))
    stack = Stack(Cohort(specs), CPU)
    train_steps(stack, 5)
    alone = Stack(Cohort(specs[1:]), CPU)
    train_steps(alone, 5)
    assert torch.allclose(stack.theta[1], alone.theta[0], atol=1e-6)
    assert not torch.equal(stack.tensors["source"][0], stack.tensors["source"][1])


def test_members_share_one_text(tmp_path):
    (tmp_path / "files").mkdir()
    specs = [tiny(tmp_path / "files", "gpt", seed=seed) for seed in (0, 1)]
    stack = Stack(Cohort(tuple(specs)), CPU)
    assert all(stack.tensors[name].stride(0) == 0 for name in ("source", "target"))
    words = [shoal.RunSpec(task="pig_latin", model="gpt", text=english(tmp_path), seed=seed) for seed in (0, 1)]
    tasks = [build_task(spec) for spec in words]
    assert tasks[0].tensors["source"] is tasks[1].tensors["source"]
    assert not torch.equal(tasks[0].drawn, tasks[1].drawn)
