"""Pretrained embeddings in training: controls in one stack, frozen rows, widths, identity, resuming, bad input."""

import json
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from pair_files import parallel

import shoal
from shoal.cli import main
from shoal.errors import UserError
from shoal.lab import Lab
from shoal.spec import RunSpec
from shoal.tasks.build import build_model, initial_model
from shoal.training.plan import Cohort, plan
from shoal.training.stack import Stack

CPU = torch.device("cpu")
SMALL = {"embedding_size": 8, "num_heads": 2, "num_layers": 1, "train_batch_size": 10, "n_steps": 6, "eval_period": 3}
SMALL |= {"warmup_steps": 1, "min_frequency": 1}
GERMAN = ["ein", "der", "hund", "kind", "mann", "schläft", "rennt", "."]
ENGLISH = ["a", "the", "dog", "child", "man", "sleeps", "."]


def vectors(folder, words, name, width=8, scale=1.0):
    random = np.random.default_rng(len(name))
    rows = {word: scale * random.normal(0, 0.4, width) for word in words}
    path = folder / name
    path.write_text("".join(f"{word} {' '.join(f'{x:.4f}' for x in row)}\n" for word, row in rows.items()))
    return str(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("pretrained")


@pytest.fixture(scope="module")
def pairs(folder):
    files = parallel(folder, 20, 8)
    german = vectors(folder, GERMAN, "de.txt")
    return {"task": "translation", "vocabularies": "separate", "max_length": 12, **SMALL, **files, "embeddings": german}


@pytest.fixture(scope="module")
def text(folder):
    path = folder / "text.txt"
    path.write_text("the dog sleeps .\na man sleeps .\nthe child sleeps .\n" * 20)
    english = vectors(folder, ENGLISH, "en.txt")
    given = {"task": "text", "model": "gpt", "text": str(path), "tokenizer": "words", "context_length": 6}
    return {**SMALL, **given, "embeddings": english}


def source_table(spec):
    return initial_model(spec).get_parameter(spec.model_part.tables()["source"]).detach()


def test_rows_are_the_files_in_the_places_of_their_words(pairs):
    spec = RunSpec(**pairs, seed=0)
    vocabulary = spec.task_part.data().codec.source
    lines = Path(pairs["embeddings"]).read_text().splitlines()
    rows = {line.split()[0]: [float(x) for x in line.split()[1:]] for line in lines}
    table = source_table(spec)
    for token, name in enumerate(vocabulary.types, vocabulary.first):
        if name.strip() in rows:
            np.testing.assert_allclose(table[token], rows[name.strip()], rtol=1e-6)
    assert table[0].tolist() == [0.0] * 8  # padding
    assert "!" not in rows and table[vocabulary.encode("!")[0]].abs().sum() > 0
    rest, own = (dict(make(spec).named_parameters()) for make in (initial_model, build_model))
    changed = [name for name in rest if not torch.equal(rest[name], own[name])]
    assert changed == ["source_embedding.tokens.weight"]


def test_controls_are_members_of_one_stack(pairs):
    kinds = ("pretrained", "permuted", "random", "initial")
    specs = [RunSpec(**pairs, embedding_rows=rows, seed=seed) for rows in kinds for seed in (0, 1)]
    assert len({spec.id for spec in specs}) == 8
    (cohort,) = plan(specs)
    assert len(cohort) == 8


@pytest.mark.parametrize("model", ["encoder_decoder", "encoder_translator", "non_autoregressive"])
def test_frozen_rows_keep_their_bits_under_decay(pairs, tmp_path, model):
    given = {**pairs, "model": model, "freeze_embeddings": True, "weight_decay": 1.0, "lr": 1e-2, "decay_all": True}
    specs = [RunSpec(**given, embedding_rows=rows, seed=s) for rows in ("pretrained", "permuted") for s in (0, 1)]
    stack = Stack(Cohort(tuple(specs)), CPU)
    name = "source_embedding.tokens.weight"
    assert name not in stack.layout.shapes and stack.theta.shape[1] == stack.layout.size
    records = shoal.train(specs, tmp_path / "lab", workers=1)
    for spec in specs:
        after = records.model(spec.id).get_parameter(name).detach()
        assert torch.equal(after, source_table(spec))
    assert len({source_table(spec).numpy().tobytes() for spec in specs}) == 4
    tuned = RunSpec(**{**given, "freeze_embeddings": False}, seed=0)
    after = shoal.train(tuned, tmp_path / "lab", workers=1).model(tuned.id).get_parameter(name).detach()
    assert not torch.equal(after, source_table(tuned))


def test_a_member_alone_trains_as_in_the_stack(pairs, tmp_path):
    given = {**pairs, "freeze_embeddings": True}
    specs = [RunSpec(**given, embedding_rows=rows, seed=0) for rows in ("pretrained", "permuted", "random")]
    together = shoal.train(specs, tmp_path / "lab", workers=1)
    alone = shoal.train(specs[1], tmp_path / "alone", workers=1)
    first, second = (records.model(specs[1].id).state_dict() for records in (together, alone))
    for name, tensor in first.items():
        torch.testing.assert_close(tensor, second[name], rtol=1e-5, atol=1e-6)
    assert not torch.equal(together.model(specs[0].id).state_dict()["classifier.weight"], first["classifier.weight"])


def test_frozen_rows_are_held_once_where_members_agree(pairs):
    given = {**pairs, "freeze_embeddings": True, "embedding_missing": "zero", "embedding_rows": "pretrained"}
    name = "source_embedding.tokens.weight"
    same = Stack(Cohort(tuple(RunSpec(**given, init_seed=0, seed=seed) for seed in (0, 1))), CPU)
    assert name in same.frozen and not same.frozen_each
    differing = Stack(Cohort(tuple(RunSpec(**given, seed=seed) for seed in (0, 1))), CPU)
    assert name not in differing.frozen and differing.frozen_each[name].shape[0] == 2


def test_both_sides_and_a_projection(pairs, folder):
    english = vectors(folder, ENGLISH, "wide.txt", width=5)
    german = vectors(folder, GERMAN, "wider.txt", width=5)
    given = {**pairs, "embeddings": german, "target_embeddings": english, "embedding_side": "both"}
    with pytest.raises(UserError, match="embedding_size=8"):
        RunSpec(**given)
    spec = RunSpec(**given, embedding_projection=True, freeze_embeddings=True)
    model = initial_model(spec)
    for side, n in (("source", spec.source_tokens), ("target", spec.target_tokens)):
        assert model.get_parameter(f"{side}_embedding.tokens.weight").shape == (n, 5)
        assert model.get_parameter(f"{side}_embedding.projection.weight").shape == (8, 5)
    kept = spec.task_part.kept()["embeddings"]
    assert set(kept["sides"]) == {"source", "target"} and kept["width"] == 5
    one_side = initial_model(spec.replace(embedding_side="source", target_embeddings=""))
    assert one_side.get_parameter("target_embedding.tokens.weight").shape == (spec.target_tokens, 8)


@pytest.mark.parametrize("model", ["gpt", "lstm"])
def test_a_text_in_words(text, tmp_path, model, capsys):
    heads = {} if model == "gpt" else {"num_heads": None}
    given = {**text, **heads, "model": model, "freeze_embeddings": True}
    spec = RunSpec(**{name: value for name, value in given.items() if value is not None}, seed=0)
    records = shoal.train(spec, tmp_path / "lab", workers=1)
    name = spec.model_part.tables()["source"]
    assert torch.equal(records.model(spec.id).get_parameter(name).detach(), source_table(spec))
    tokenizer = spec.task_part.data().tokenizer
    assert tokenizer.decode(tokenizer.encode("the dog sleeps .\na cat")) == " the dog sleeps .\na <unk>"
    assert main(["generate", spec.id[:8], "--lab", str(tmp_path / "lab"), "--prompt", "the dog", "--samples", "1"]) == 0
    assert "dog" in capsys.readouterr().out


def test_a_projected_gpt_decodes_as_it_trains(text, folder, tmp_path, capsys):
    wide = vectors(folder, ENGLISH, "wide.txt", width=5)
    spec = RunSpec(**{**text, "embeddings": wide}, embedding_projection=True, positions="learned", seed=0)
    shoal.train(spec, tmp_path / "lab", workers=1)
    assert main(["generate", spec.id[:8], "--lab", str(tmp_path / "lab"), "--prompt", "the dog", "--samples", "1"]) == 0


def test_runs_are_identified_by_content(pairs, folder, tmp_path):
    spec = RunSpec(**pairs, seed=0)
    moved = tmp_path / "moved.txt"
    moved.write_text(Path(pairs["embeddings"]).read_text())
    assert RunSpec(**{**pairs, "embeddings": str(moved)}, seed=0).id == spec.id
    moved.write_text(Path(pairs["embeddings"]).read_text().replace("0.", "0.1", 1))
    assert RunSpec(**{**pairs, "embeddings": str(moved)}, seed=0).id != spec.id
    without = {name: value for name, value in pairs.items() if name != "embeddings"}
    old = RunSpec(**without, seed=0)
    assert not any(name.startswith(("embed", "freeze")) and name != "embedding_size" for name in old.canonical())
    dump = {name: value for name, value in old.dump().items() if name not in ("embeddings_key", "embeddings_width")}
    assert RunSpec.restored(dump).id == old.id


def test_models_are_loaded_without_the_file_and_training_is_not(text, tmp_path):
    path = tmp_path / "en.txt"
    path.write_text(Path(text["embeddings"]).read_text())
    spec = RunSpec(**{**text, "embeddings": str(path)}, seed=0)
    records = shoal.train(spec, tmp_path / "lab", workers=1)
    before = records.model(spec.id).state_dict()
    path.unlink()
    after = Lab(tmp_path / "lab").records().model(spec.id).state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    path.write_text(Path(text["embeddings"]).read_text().replace("0.", "0.2", 1))
    with pytest.raises(UserError, match="content"):
        RunSpec.restored(spec.dump()).task_part.kept()


def test_coverage_is_printed_before_training_and_kept(text, tmp_path, capsys):
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in text.items()]
    lab = ["--lab", str(tmp_path / "lab")]
    assert main(["train", *flags, "--seed", "0", "1", *lab]) == 0
    err_and_out = "".join(capsys.readouterr())
    # the, a, dog, child, man, sleeps and the full stop are in the file: 7 of 7 types
    assert "7 of 7 types" in err_and_out and "100.00 %" in err_and_out
    spec = RunSpec(**text, seed=0)
    record = Lab(tmp_path / "lab").records().kept(spec.id)["embeddings"]
    assert record["sides"]["source"]["splits"]["train"]["tokens_as_is"] > 100
    assert json.loads(json.dumps(record)) == record


def fake_gensim(monkeypatch):
    """A library with gensim's names that gives every word a row of its own."""

    class Word2Vec:
        def __init__(self, sentences, vector_size, **_):
            names = sorted({word for sentence in sentences for word in sentence})
            random = np.random.default_rng(0)
            self.wv = type("", (), {})()
            self.wv.index_to_key, self.wv.vectors = names, random.normal(0, 1, (len(names), vector_size))

    module = ModuleType("gensim.models")
    module.Word2Vec = Word2Vec
    package = ModuleType("gensim")
    package.__spec__ = ModuleSpec("gensim", None)
    monkeypatch.setitem(sys.modules, "gensim", package)
    monkeypatch.setitem(sys.modules, "gensim.models", module)


def test_word2vec_is_trained_on_the_training_split_alone(pairs, monkeypatch):
    fake_gensim(monkeypatch)
    spec = RunSpec(**pairs, embedding_rows="word2vec", seed=0)
    side = spec.task_part.side("source")
    assert len(side.sentences()) == 20 and set(side.sentences()[0]) <= {*GERMAN, "!"}
    rows = initial_model(spec).get_parameter("source_embedding.tokens.weight").detach()
    assert rows[4:].abs().sum(1).min() > 0 and rows.shape[1] == 8
    without = {name: value for name, value in pairs.items() if name != "embeddings"}
    alone = RunSpec(**without, embedding_rows="word2vec", seed=0)
    assert torch.equal(source_table(alone), rows)


def test_word2vec_without_gensim_is_one_line(pairs, monkeypatch):
    monkeypatch.setitem(sys.modules, "gensim", None)
    with pytest.raises(UserError, match="gensim"):
        RunSpec(**pairs, embedding_rows="word2vec")


WRONG = {
    "width": {"embedding_size": 16},
    "no file": {"embeddings": "", "embedding_rows": "permuted"},
    "no such file": {"embeddings": "/nowhere/de.txt"},
    "kind of rows": {"embedding_rows": "permutated"},
    "pieces of a file": {"embedding_missing": "subwords"},
    "tokens": {"tokenizer": "chars", "min_frequency": None},
    "target of an encoder": {"model": "encoder_translator", "embedding_side": "target"},
    "target of the source": {"target_embeddings": "de.txt"},
    "tied and frozen": {"vocabularies": "joint", "tie_embeddings": "all", "freeze_embeddings": True},
    "projection of an LSTM": {"model": "lstm_encoder_decoder", "num_heads": None, "embedding_projection": True},
    "projection alone": {"embeddings": "", "embedding_projection": True},
}


@pytest.mark.parametrize("name", WRONG)
def test_bad_input_is_one_line_and_writes_nothing(pairs, name, tmp_path, capsys):
    given = {name: value for name, value in {**pairs, **WRONG[name]}.items() if value not in (None, "")}
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in given.items()]
    assert main(["train", *flags, "--lab", str(tmp_path / "lab")]) == 2
    out, err = capsys.readouterr()
    assert len(err.strip().splitlines()) == 1 and not out and not (tmp_path / "lab").exists()


def test_vectors_of_other_words_are_refused(pairs, folder):
    with pytest.raises(UserError, match="0 of the 9 types"):
        RunSpec(**{**pairs, "embeddings": vectors(folder, ["quark", "quartz"], "other.txt")})
