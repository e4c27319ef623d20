"""Scores of every token of a split: against loops written by hand, and against what training records."""

import math
import shutil
from functools import cache

import numpy as np
import polars as pl
import pytest
import torch
from torch import nn

import shoal
from shoal.analysis.scored import split_by_position, split_counts, split_total, split_units
from shoal.cli import main
from shoal.errors import UserError
from shoal.lab import Lab
from shoal.spec import RunSpec
from shoal.tasks.build import build_model
from shoal.tasks.text.data import TextData, load_text, windows
from shoal.tasks.text.scoring import in_blocks, score_split, scored_bytes
from shoal.tasks.text.units import count_text
from shoal.training.loop import Options, train_cohort
from shoal.training.plan import plan

WORDS = "the cat sat on a mat and saw the dog; é was there, ünd 12 men with hats. "


@cache
def words(seed: int, n: int) -> str:
    return " ".join(np.random.default_rng(seed).choice(WORDS.split(), n))


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "some.txt"
    path.write_text(words(0, 500), encoding="utf-8")
    return str(path)


def spec_of(path, model="gpt", **settings):
    heads = {"num_heads": 2} if model == "gpt" else {}
    return RunSpec(
        **{
            "task": "text",
            "text": path,
            "model": model,
            "num_layers": 2,
            "embedding_size": 8,
            "lr": 1e-2,
            "context_length": 7,
            "train_batch_size": 4,
            "n_steps": 6,
            "eval_period": 3,
            "warmup_steps": 2,
            **heads,
            **settings,
        }
    )


def model_of(spec):
    """Away from its initial values, so that tokens differ."""
    model = build_model(spec)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(spec.seed))
    return model.eval()


def by_hand(model, tokens, context, stride):
    """Each token of a text from the window that scores it, one at a time."""
    found = []
    with torch.no_grad():
        for target in range(1, len(tokens)):
            window = 0 if target <= context else math.ceil((target - context) / stride)
            start = window * stride
            log_p = model(tokens[start:target].unsqueeze(0))[0][0, -1].double().log_softmax(-1)
            found.append(-float(log_p[tokens[target]]))
    return np.array(found)


@pytest.mark.parametrize("model", ["lstm", "gpt"])
@pytest.mark.parametrize("stride", [None, 1, 3, 7])
@pytest.mark.parametrize("split", ["train", "valid"])
def test_every_token_is_scored_as_by_hand(path, model, stride, split):
    spec = spec_of(path, model)
    data, own = spec.task_part.data(), model_of(spec)
    tokens = (data.train if split == "train" else data.valid)[:60]
    part = TextData(torch.cat([tokens, tokens]), 60, data.tokenizer)
    found = score_split(own, part, split, context_length=7, stride=stride)
    np.testing.assert_allclose(found.numpy(), by_hand(own, tokens, 7, stride or 7), atol=1e-5)


@pytest.mark.parametrize("model", ["lstm", "gpt"])
def test_batches_and_neighbours_move_nothing(path, model):
    specs = [spec_of(path, model, seed=seed) for seed in range(3)]
    data, models = specs[0].task_part.data(), [model_of(spec) for spec in specs]
    stacked = score_split(models, data, context_length=7, stride=5)
    assert stacked.dtype == torch.float64
    assert stacked.shape == (3, len(data.valid) - 1)
    assert torch.equal(score_split(models, data, context_length=7, stride=5), stacked)  # the same bits
    for size in (1, 7, 4096):
        again = score_split(models, data, context_length=7, stride=5, batch=size)
        np.testing.assert_allclose(again, stacked, atol=2e-6)
        for own, one, row in zip(models, again, stacked, strict=True):
            alone = score_split(own, data, context_length=7, stride=5, batch=size)
            assert split_total(one) / len(one) == pytest.approx(split_total(row) / len(row), abs=1e-6)
            assert split_total(alone) / len(alone) == pytest.approx(split_total(row) / len(row), abs=1e-6)


@pytest.mark.parametrize("model", ["lstm", "gpt"])
def test_it_is_what_training_records(path, tmp_path, model):
    spec = spec_of(path, model, eval_stride=3, save_model_step=3, dropout=0.1)
    records = shoal.train(spec, tmp_path / "lab", workers=1)
    data, curve = spec.task_part.data(), records.curves()
    steps = [step for step in records.model_files(spec.id) if step]
    assert steps == [3, 6]
    for step in steps:
        found = score_split(records.model(spec.id, step), data, context_length=7, stride=3)
        (recorded,) = curve.filter(pl.col("step") == step)["valid_loss"]
        assert split_total(found) / len(found) == pytest.approx(recorded, abs=1e-5)


def test_models_come_back_as_they_were(path):
    spec = spec_of(path, dropout=0.5)
    own = build_model(spec).train()
    first = score_split(own, spec.task_part.data(), context_length=7)
    assert own.training
    assert torch.equal(score_split(own, spec.task_part.data(), context_length=7), first)


@pytest.mark.parametrize(
    ("tokenizer", "size"), [("chars", None), ("bytes", None), ("bpe", 270)], ids=["chars", "bytes", "bpe"]
)
@pytest.mark.parametrize("split", ["train", "valid"])
def test_what_is_counted_is_what_is_scored(path, tokenizer, size, split):
    data = load_text([path], None, tokenizer, size, 0.1)
    tokens = data.train if split == "train" else data.valid
    counts = split_counts(data, split)
    assert scored_bytes(data, split) == data.tokenizer.decode_bytes(tokens[1:])
    assert counts.tokens == len(tokens) - 1 == sum(len(range(a, b)) for _, a, b in windows(0, len(tokens), 7, 3))
    assert counts.bytes == int(data.tokenizer.token_bytes()[tokens[1:]].sum())
    assert counts == count_text(data.tokenizer.decode_bytes(tokens[1:]), len(tokens) - 1)


class Table(nn.Module):
    """The same distribution everywhere."""

    def __init__(self, log_p):
        super().__init__()
        self.log_p = nn.Parameter(torch.as_tensor(log_p, dtype=torch.float32))

    def forward(self, tokens):
        return (self.log_p.expand(*tokens.shape, -1),)


def test_characters_bytes_and_byte_pairs_stand_in_one_table(path):
    """A unigram of bytes, told in each kind of tokens, has the same bits per byte (but for the first token)."""
    text, size = words(0, 500), 270
    share = int(len(text) * 0.9)
    p = np.bincount(np.frombuffer(text.encode(), np.uint8), minlength=256) + 1.0
    nats_of_byte = -np.log(p / p.sum())
    table = {}
    for tokenizer in ("chars", "bytes", "bpe"):
        data = load_text([path], None, tokenizer, size if tokenizer == "bpe" else None, 0.1)
        tokens = range(data.tokenizer.vocabulary_size)
        raw = [data.tokenizer.decode_bytes([token]) for token in tokens]
        log_p = np.array([-nats_of_byte[np.frombuffer(own, np.uint8)].sum() for own in raw])
        found = score_split(Table(log_p), data, context_length=7)
        # the model's distribution is normalised, which adds the same to every token
        shift = float(np.log(np.exp(log_p).sum()))
        nats = split_total(found) - shift * len(found)
        first = data.tokenizer.decode_bytes(data.valid[:1])
        rest = text[share:].encode()[len(first) :]
        assert nats == pytest.approx(nats_of_byte[np.frombuffer(rest, np.uint8)].sum(), rel=1e-6)
        table[tokenizer] = split_units(found, data)
        counts = split_counts(data)
        assert table[tokenizer]["bits_per_byte"] * counts.bytes * math.log(2) == pytest.approx(split_total(found))
        assert table[tokenizer]["perplexity_per_token"] == pytest.approx(math.exp(split_total(found) / counts.tokens))
    assert table["bytes"]["bits_per_character"] > table["bytes"]["bits_per_byte"]  # é and ü have two


def test_losses_by_position_are_those_of_the_blocks(path):
    spec = spec_of(path)
    data, own = spec.task_part.data(), model_of(spec)
    nats = score_split(own, data, context_length=7)
    blocks, counts = in_blocks(nats, 7)
    assert int(counts.sum()) == len(nats)
    assert torch.equal(blocks[counts], nats)
    found = split_by_position(nats, 7)
    assert found["position"].to_list() == [1, 2, 3, 4, 5, 6, 7]
    for position, loss, n in found.select("position", "loss", "n").iter_rows():
        own_nats = nats[position - 1 :: 7]
        assert (loss, n) == (pytest.approx(float(own_nats.mean())), len(own_nats))
    stacked = torch.stack([nats, 2 * nats])
    assert torch.equal(in_blocks(stacked, 7)[0][1], 2 * blocks)


def test_weights_are_tokens_and_not_batches():
    """Of a last block that is shorter each token counts as much as any other."""
    nats = torch.tensor([0.1, 0.2, 0.1, 0.3, 0.5, 0.1, 0.4, 0.2], dtype=torch.float64)
    for size in (1, 2, 3, 5, 8):
        blocks, counts = in_blocks(nats, size)
        assert math.exp(float(blocks[counts].sum() / counts.sum())) == pytest.approx(1.26807, abs=1e-5)
    assert math.exp(split_total(nats) / len(nats)) == pytest.approx(math.exp(1.9 / 8), abs=1e-12)


@pytest.mark.parametrize("model", ["lstm", "gpt"])
def test_an_untrained_model_knows_nothing(path, model):
    own = {"initialisation": "gpt2"} if model == "gpt" else {}
    spec = spec_of(path, model, embedding_size=32, **own)
    data = spec.task_part.data()
    nats = score_split(build_model(spec), data, context_length=7)
    assert float(nats.mean()) == pytest.approx(math.log(data.tokenizer.vocabulary_size), abs=0.1)


@pytest.mark.parametrize("model", ["lstm", "gpt"])
def test_a_target_is_not_seen_before_it_is_predicted(path, model):
    spec = spec_of(path, model)
    own = model_of(spec)
    tokens = spec.task_part.data().valid[:7].unsqueeze(0)
    usual = own(tokens)[0]
    for t in range(1, 7):
        changed = tokens.clone()
        changed[0, t] = (changed[0, t] + 1) % spec.vocabulary_size
        logits = own(changed)[0]
        assert torch.equal(logits[:, :t], usual[:, :t])  # which predict the tokens up to t
        assert not torch.equal(logits[:, t], usual[:, t])


def test_byte_pairs_are_learned_from_what_trains(tmp_path):
    train, made = words(1, 900)[:2700], []
    for seed in (2, 3):
        path = tmp_path / f"{seed}.txt"
        text = train + words(seed, 900)[:300]
        path.write_text(text, encoding="utf-8")
        data = load_text([str(path)], None, "bpe", 270, 0.1)
        made.append(data)
        assert data.tokenizer.decode(data.train) == train
        assert data.tokenizer.decode(data.valid) == text[len(train) :]  # so that the two are apart and all there is
        assert len(data.train) + len(data.valid) == len(data.tokens)
    assert made[0].tokenizer.merges == made[1].tokenizer.merges
    assert not torch.equal(made[0].valid, made[1].valid)


def test_what_cannot_be_scored_is_refused(path):
    spec = spec_of(path)
    data, own = spec.task_part.data(), build_model(spec)
    for options, says in (
        ({"split": "vaild"}, "unknown split 'vaild': one of train valid; did you mean 'valid'"),
        ({"context_length": 0}, "context_length must be an integer of at least 1, got 0"),
        ({"stride": 8}, "stride must be at most the context length 7, got 8"),
        ({"batch": 0}, "batch must be"),
    ):
        with pytest.raises(UserError, match=says.replace("(", r"\(")):
            score_split(own, data, **{"context_length": 7, **options})
    with pytest.raises(UserError, match="no model to score"):
        score_split([], data, context_length=7)
    with pytest.raises(UserError, match="must have one shape"):
        score_split([own, build_model(spec_of(path, embedding_size=4))], data, context_length=7)
    with pytest.raises(UserError, match="has 1 tokens"):
        score_split(own, TextData(data.tokens[:8], 7, data.tokenizer), context_length=7)


def files_of(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def flags(text, lab, *more):
    small = "--model lstm --num-layers 1 --embedding-size 16 --context-length 8 --train-batch-size 8 --warmup-steps 0"
    return ["train", "--task", "text", "--text", str(text), "--lab", str(lab), *small.split(), *more]


def test_the_vocabulary_is_part_of_the_model(tmp_path, capsys):
    """Another text in the file's place changes nothing of what was learned, and is not trained on."""
    text, lab = tmp_path / "text.txt", tmp_path / "lab"
    text.write_text("abc" * 200)
    assert main(flags(text, lab, "--n-steps", "60", "--eval-period", "30", "--lr", "0.03")) == 0
    text.write_text("xyz" * 200)
    (run,) = shoal.Lab(lab).records().ids
    capsys.readouterr()
    before = files_of(lab)
    assert main(["generate", run, "--lab", str(lab), "--prompt", "a", "--max-new-tokens", "40", "--samples", "2"]) == 0
    made = [line for line in capsys.readouterr().out.splitlines() if not line.startswith("──")]
    assert len(made) == 2
    assert all(set(line) == set("abc") for line in made)
    assert main(["generate", run, "--lab", str(lab), "--prompt", "x"]) == 2
    assert files_of(lab) == before


@pytest.fixture
def half_done(tmp_path):
    """A text, and a lab in which a run on it is half done."""
    text, lab = tmp_path / "text.txt", Lab(tmp_path / "lab").create()
    text.write_text("abc" * 200)
    (cohort,) = plan([spec_of(str(text), "lstm", n_steps=40, eval_period=10, seed=seed) for seed in range(2)])
    folder = lab.cohort(cohort.id)
    folder.create(list(cohort.members), threads=1)
    asked = iter(range(100))
    assert train_cohort(folder, Options(stop=lambda: next(asked) >= 20)) == "interrupted"
    return text, lab, list(cohort.members)


def again(text, lab, *more):
    small = "--model lstm --num-layers 2 --embedding-size 8 --lr 0.01 --context-length 7 --train-batch-size 4"
    steps = "--n-steps 40 --eval-period 10 --warmup-steps 2 --workers 1"
    task = ["--task", "text", "--text", str(text), "--lab", str(lab.path)]
    return main(["train", *task, *small.split(), *steps.split(), *more])


def test_another_text_in_its_place_is_not_gone_on_with(half_done, capsys):
    text, lab, specs = half_done
    text.write_text("xyz" * 200)
    before = files_of(lab.path)
    assert main(["resume", "--lab", str(lab.path)]) == 2
    told = capsys.readouterr()
    assert len(told.err.strip().splitlines()) == 1
    assert specs[0].text_key in told.err
    assert files_of(lab.path) == before
    assert lab.records().runs()["step"].to_list() == [20, 20]
    text.unlink()
    assert main(["resume", "--lab", str(lab.path)]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_a_text_that_has_moved_is_named_anew(half_done, tmp_path):
    """By asking for the run again with the text where it is now: all runs on the same text go on."""
    text, lab, specs = half_done
    moved = text.rename(tmp_path / "elsewhere.txt")
    assert again(moved, lab, "--seed", "0") == 0
    runs = lab.records().runs()
    assert runs["state"].to_list() == ["done", "done"]
    assert set(runs["run"]) == {spec.id for spec in specs}
    whole = shoal.train(
        [spec.replace(text=str(moved)) for spec in specs], tmp_path / "whole", engine="plain", workers=1
    )
    assert lab.records(whole.ids).curves().equals(whole.curves())


def test_scoring_survives_a_copy(path, tmp_path):
    moved = tmp_path / "moved.txt"
    shutil.copy(path, moved)
    assert spec_of(str(moved)).id == spec_of(path).id
