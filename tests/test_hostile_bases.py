"""Bases of fine-tuning that are not what they say: one line, whatever is wrong with them."""

import json
import os
import shutil
from pathlib import Path

import adapted
import pytest
import torch
from safetensors.torch import load_file, save_file

import shoal
from shoal.errors import UserError
from shoal.lab.tensors import save_tensors
from shoal.models.bases import DESCRIBED, describe, read_base
from shoal.tasks.build import build_model

GPT2 = Path(__file__).parent / "vectors" / "gpt2"
SHAPE = {"task": "text", "num_layers": 1, "embedding_size": 8, "num_heads": 2, "context_length": 8, "model": "gpt"}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """Settings of a run, the state dict of its model, and the description of a merged model like it."""
    spec = shoal.RunSpec(**SHAPE, text=str(adapted.text_file(tmp_path_factory.mktemp("base"))), tokenizer="bytes")
    return spec.dump(), build_model(spec).state_dict(), describe(spec.model, spec.model_part, spec.sizes())


def refused(path):
    with pytest.raises(UserError) as told:
        read_base(str(path))
    assert "\n" not in str(told.value) and len(str(told.value)) < 500
    return str(told.value)


def written(path, tensors, dump, described=None):
    metadata = {"spec": json.dumps(dump)} if described is None else {DESCRIBED: described}
    save_tensors(path / "base.safetensors", tensors, metadata)
    return path / "base.safetensors"


def test_a_base_is_what_was_written(base, tmp_path):
    dump, tensors, described = base
    path = written(tmp_path, tensors, dump)
    assert read_base(str(path)).described == described
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    assert "its checksum does not match its content" in refused(path)
    save_file(tensors, path, metadata={"spec": json.dumps(dump)})
    assert "have no run or no checksum" in refused(path)


@pytest.mark.parametrize("dump", [5, None, [1], "gpt", {}, {"task": "text"}, {"task": 3, "model": []}])
def test_settings_of_no_run_are_refused(base, tmp_path, dump):
    assert "base" in refused(written(tmp_path, base[1], dump))


def change(tensors, name, what):
    tensors = {key: tensor.clone() for key, tensor in tensors.items()}
    if what == "missing":
        del tensors[name]
    elif what == "beside":
        tensors["more"] = torch.zeros(2)
    elif what == "shape":
        tensors[name] = tensors[name][:-1].contiguous()
    elif what == "type":
        tensors[name] = tensors[name].long()
    else:
        tensors[name].view(-1)[-1] = float(what)
    return tensors


@pytest.mark.parametrize(
    ("what", "said"),
    {
        "missing": "lacks tensor decoder.blocks.0.self_attn.W_Q.weight",
        "beside": "has, beside those of its model, tensor more",
        "shape": r"of shape (7, 8) and type torch.float32; its model needs (8, 8)",
        "type": "type torch.int64; its model needs",
        "nan": "values in tensor decoder.blocks.0.self_attn.W_Q.weight that are not finite",
        "-inf": "that are not finite",
    }.items(),
)
@pytest.mark.parametrize("merged", [False, True])
def test_tensors_are_those_of_the_model(base, tmp_path, what, said, merged):
    dump, tensors, described = base
    tensors = change(tensors, "decoder.blocks.0.self_attn.W_Q.weight", what)
    assert said in refused(written(tmp_path, tensors, dump, described if merged else None))


@pytest.mark.parametrize(
    "change",
    [
        ("settings", "num_layers", 10**9),
        ("settings", "num_layers", "x"),
        ("settings", "no_such", 1),
        ("sizes", "vocabulary_size", "x"),
        ("sizes", "vocabulary_size", -1),
        ("sizes", "vocabulary_size", 10**12),
        ("sizes", "sequence_length", 10**12),
        ("sizes", "vocabulary_size", 2.5),
        ("sizes", "no_such", 1),
    ],
    ids=str,
)
def test_a_description_of_another_model_is_refused_before_it_is_built(base, tmp_path, change):
    part, name, value = change
    content = json.loads(base[2])
    content[part][name] = value
    assert "base" in refused(written(tmp_path, base[1], None, json.dumps(content)))


@pytest.mark.parametrize("described", ["", "5", "[]", "null", '{"model": "gpt"}', '{"model": [], "settings": 1}'])
def test_no_description_is_refused(base, tmp_path, described):
    assert "the description of a base is damaged" in refused(written(tmp_path, base[1], None, described))


def test_a_pipe_is_no_base(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert "is not a regular file" in refused(tmp_path / "pipe")
    folder = shutil.copytree(GPT2, tmp_path / "gpt2")
    (tensors,) = folder.glob("*.safetensors")
    tensors.unlink()
    os.mkfifo(tensors)
    assert "is not a regular file" in refused(folder)


@pytest.mark.parametrize("name", ["n_embd", "n_layer", "n_head", "n_inner", "vocab_size", "n_positions"])
@pytest.mark.parametrize("value", ["8", {}, [], 0, -1, 8.5, float("inf"), True, 10**12])
def test_sizes_of_a_checkpoint_are_numbers(tmp_path, name, value):
    folder = shutil.copytree(GPT2, tmp_path / "gpt2")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, name: value}))
    assert f"has {name}=" in refused(folder)
    if name != "n_inner":
        (folder / "config.json").write_text(json.dumps({key: v for key, v in config.items() if key != name}))
        assert f"has no {name}" in refused(folder)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"activation_function": ["gelu"]}, "has activation_function="),
        ({"activation_function": None}, "has activation_function="),
        ({"n_head": 3}, "which n_head=3 does not divide"),
        ({"vocab_size": 7}, "has tensor embedding.tokens.weight of shape"),
        ({"n_layer": 10**6}, "has no tensor"),
    ],
)
def test_a_checkpoint_that_does_not_fit_its_sizes_is_refused(tmp_path, change, said):
    folder = shutil.copytree(GPT2, tmp_path / "gpt2")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **change}))
    assert said in refused(folder)


def test_a_checkpoint_with_a_value_that_is_not_finite_is_refused(tmp_path):
    folder = shutil.copytree(GPT2, tmp_path / "gpt2")
    (path,) = folder.glob("*.safetensors")
    tensors = load_file(path)
    name = next(key for key in tensors if key.endswith("ln_f.weight"))
    tensors[name][0] = float("nan")
    save_file(tensors, path)
    assert "values in tensor decoder.norm.weight that are not finite" in refused(folder)


def test_a_pipe_is_no_tokenizer_and_neither_is_a_giant(tmp_path):
    from shoal.tasks.text.tokenizers import read_tokenizer

    os.mkfifo(tmp_path / "pipe")
    folder = shutil.copytree(GPT2, tmp_path / "gpt2")
    giant = tmp_path / "task.json"
    giant.touch()
    os.truncate(giant, 2**40)  # without its bytes
    said = dict.fromkeys(("/dev/zero", tmp_path / "pipe"), "not a regular file") | {giant: "bytes"}
    for path, words in said.items():
        with pytest.raises(UserError, match=words):
            read_tokenizer(str(path))
    os.truncate(folder / "config.json", 2**40)
    assert "which are no settings" in refused(folder)
    with pytest.raises(UserError, match="bytes"):
        read_tokenizer(str(folder))
