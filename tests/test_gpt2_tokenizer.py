"""Tokenizers of GPT-2 folders: the tokens of the library transformers, and models in their own vocabulary."""

import json
import shutil
from pathlib import Path

import adapted
import pytest
import torch
from safetensors.torch import load_file, save_file

import shoal
from shoal.cli import main
from shoal.commands.finetune import base_of
from shoal.errors import UserError
from shoal.lab import Lab
from shoal.models.bases import read_base
from shoal.tasks.build import build_model
from shoal.tasks.text.corpus import split
from shoal.tasks.text.tokenizers import from_json, read_tokenizer

pytest.importorskip("tokenizers", reason="pip install 'shoal[text]'")

VECTORS = Path(__file__).parent / "vectors"
HERE = VECTORS / "gpt2_tokenizer"
TEXTS = json.loads((HERE / "texts.json").read_text(encoding="utf-8"))
FORMS = {"vocab.json and merges.txt": HERE, "tokenizer.json": HERE / "one"}
V = 430  # of the model, whose last tokens no text has


@pytest.fixture
def folder(tmp_path):
    """Folder with a GPT-2 of its own vocabulary, and its tokenizer."""
    place = tmp_path / "model"
    place.mkdir()
    config = json.loads((VECTORS / "gpt2" / "config.json").read_text())
    (place / "config.json").write_text(json.dumps({**config, "vocab_size": V}))
    tensors = load_file(VECTORS / "gpt2" / "model.safetensors")
    (name,) = (name for name in tensors if name.endswith("wte.weight"))
    torch.manual_seed(0)
    save_file({**tensors, name: torch.randn(V, 16)}, place / "model.safetensors")
    shutil.copy(HERE / "one" / "tokenizer.json", place)
    return place


def in_cache(folder: Path, cache: Path) -> None:
    """Put a model into a cache as Hugging Face's tools do, under the name organisation/tiny."""
    place = cache / "models--organisation--tiny"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text("abc123")
    shutil.copytree(folder, place / "snapshots" / "abc123")


@pytest.mark.parametrize("form", FORMS)
def test_tokens_are_those_of_transformers(form):
    tokenizer = read_tokenizer(str(FORMS[form]))
    for text, tokens in TEXTS:
        assert tokenizer.encode(text).tolist() == tokens, text
        assert tokenizer.decode_bytes(tokens) == text.encode()
        assert tokenizer.token_bytes()[torch.tensor(tokens, dtype=torch.int64)].sum() == len(text.encode())


def test_long_texts_are_cut_where_no_token_is(monkeypatch):
    tokenizer = read_tokenizer(str(HERE))
    text = "".join(text for text, _ in TEXTS)
    whole = tokenizer.encode(text).tolist()
    monkeypatch.setattr("shoal.tasks.text.bpe.PIECE", 7)
    assert tokenizer.encode(text).tolist() == whole


def test_both_forms_are_one_tokenizer_there_and_back():
    one, other = (read_tokenizer(str(place)) for place in FORMS.values())
    again = from_json(json.loads(json.dumps(one.to_json())))
    assert one.key == other.key == again.key and again.vocabulary_size == 421
    assert all(again.encode(text).tolist() == tokens for text, tokens in TEXTS)


def test_a_model_has_as_many_tokens_as_its_table(folder):
    tokenizer = read_tokenizer(str(folder))
    assert tokenizer.vocabulary_size == V and tokenizer.decode_bytes([V - 1, 5]) == tokenizer.decode_bytes([5])
    config = folder / "config.json"
    config.write_text(config.read_text().replace(str(V), "400"))
    with pytest.raises(UserError, match="399"):
        read_tokenizer(str(folder))


def test_a_text_is_in_the_tokens_that_the_base_was_trained_with(folder):
    text, tokens = max(TEXTS, key=lambda pair: len(pair[1]))
    path = folder.parent / "text.txt"
    path.write_bytes(text.encode())
    base = base_of(str(folder), "nowhere")
    spec = shoal.RunSpec(
        task="text", model="finetuned", text=str(path), n_steps=3, **{**base, "context_length": 8}
    )  # fmt: skip
    data = spec.task_part.data()
    parts = [read_tokenizer(str(folder)).encode(part) for part in split(text, spec.valid_share)]
    assert data.train.tolist() == parts[0].tolist() and data.valid.tolist() == parts[1].tolist()
    assert data.tokens[:20].tolist() == tokens[:20] and spec.vocabulary_size == V
    with torch.no_grad():
        expected = read_base(str(folder)).module().eval()(data.tokens[None, :8])[0]
        assert torch.equal(build_model(spec).eval()(data.tokens[None, :8])[0], expected)


def test_commands(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    in_cache(folder, tmp_path / "cache")
    text, lab = str(adapted.text_file(tmp_path)), str(tmp_path / "lab")
    how = ["--text", text, "--context-length", "8", "--n-steps", "2", "--train-batch-size", "4", "--eval-period", "2"]
    how += ["--lora-rank", "1", "--seed", "0", "--engine", "plain", "--workers", "1", "--lab", lab]
    assert main(["finetune", "organisation/tiny", *how]) == 0
    assert main(["finetune", str(folder), *how]) == 0
    (run,) = Lab(lab).runs()  # the path of a base and of its tokenizer is no part of a run's identity
    shutil.rmtree(folder)
    shutil.rmtree(tmp_path / "cache" / "models--organisation--tiny" / "refs")
    assert main(["generate", run, "--prompt", "12 of", "--max-new-tokens", "3", "--lab", lab]) == 0
    assert "12 of" in capsys.readouterr().out
    assert main(["merge", run, str(tmp_path / "merged.safetensors"), "--lab", lab]) == 0
    assert base_of(str(tmp_path / "merged.safetensors"), lab)["tokenizer_of"]


def test_a_downloaded_model_is_found_by_its_name_and_nothing_is_downloaded(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    text = str(adapted.text_file(tmp_path))
    asked = {"task": "text", "model": "finetuned", "text": text, "context_length": 8}
    for name in ("organisation/tiny", "organisation/other"):
        for act in (lambda name=name: base_of(name, "lab"), lambda name=name: shoal.RunSpec(**asked, base_model=name)):
            with pytest.raises(UserError) as told:
                act()
            assert name in str(told.value) and str(tmp_path / "cache") in str(told.value)
            assert "\\n" not in str(told.value)
    in_cache(folder, tmp_path / "cache")
    by_name, by_path = (
        shoal.RunSpec(**asked, base_model=name, tokenizer_of=name) for name in ("organisation/tiny", str(folder))
    )
    assert by_name.id == by_path.id and Path(by_name.base_model).is_absolute()
    with pytest.raises(UserError):
        base_of("organisation/../tiny", "lab")


WRONG = {
    "another model": {"model": {"type": "WordPiece"}},
    "no vocabulary": {"model.vocab": None},
    "a prefix of pieces": {"model.continuing_subword_prefix": "##"},
    "dropout": {"model.dropout": 0.1},
    "a space before": {"pre_tokenizer.add_prefix_space": True},
    "another division": {"pre_tokenizer": {"type": "Whitespace"}},
    "a normalizer": {"normalizer": {"type": "NFC"}},
    "an added token that takes spaces": {"added_tokens": [{"id": 420, "content": "<|endoftext|>", "lstrip": True}]},
    "an added token without a number": {"added_tokens": [{"content": "<|endoftext|>"}]},
    "a merge of what is not there": {"model.merges": [["a", "nowhere"]]},
    "a merge that makes nothing": {"model.merges": [["!", "#"]]},
    "no pairs": {"model.merges": ["abc"]},
    "a token of no bytes": {"model.vocab.日": 421},
    "a number twice": {"model.vocab.ab": 3},
    "no list": [],
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_other_tokenizers_are_refused_in_one_line(tmp_path, wrong):
    content = json.loads((HERE / "one" / "tokenizer.json").read_text(encoding="utf-8"))
    for place, value in wrong.items() if isinstance(wrong, dict) else ():
        *above, name = place.split(".")
        part = content
        for key in above:
            part = part[key]
        part[name] = value
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(content if isinstance(wrong, dict) else wrong))
    with pytest.raises(UserError) as told:
        read_tokenizer(str(tmp_path))
    assert "\n" not in str(told.value) and str(path) in str(told.value)


def test_a_byte_without_a_token_is_named(tmp_path):
    shutil.copy(HERE / "merges.txt", tmp_path)
    vocabulary = json.loads((HERE / "vocab.json").read_text(encoding="utf-8"))
    del vocabulary["~"]
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
    with pytest.raises(UserError, match="byte 126"):
        read_tokenizer(str(tmp_path))


def test_a_checkpoint_of_many_tokens_without_a_tokenizer_is_refused(folder):
    (folder / "tokenizer.json").unlink()
    with pytest.raises(UserError, match="430 tokens and no tokenizer"):
        base_of(str(folder), "nowhere")
