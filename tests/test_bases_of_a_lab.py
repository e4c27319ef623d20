"""Bases of adapters in a lab: they are not deleted under their adapters, and are read wherever their cohort is."""

import shlex
from pathlib import Path

import adapted
import pytest
import torch

import shoal
from shoal.cli import main
from shoal.commands.finetune import base_of, fine_tuned
from shoal.errors import DiskError, UserError
from shoal.lab import Lab
from shoal.lab.check import examine
from shoal.lab.resting import resting
from shoal.lab.tensors import load_tensors, save_tensors
from shoal.lab.tunings import TuningNote, write_tuning

SHAPE = {"task": "text", "num_layers": 1, "embedding_size": 8, "num_heads": 2, "context_length": 8, "model": "gpt"}
HOW = {"train_batch_size": 4, "eval_period": 10, "eval_batch_size": 256, "n_steps": 3, "tokenizer": "chars"}
TRAINING = {"engine": "plain", "workers": 1}


@pytest.fixture
def lab(tmp_path):
    """Lab with two bases in one cohort, and an adapter on the first, of a text in the base's characters."""
    text = str(adapted.text_file(tmp_path))
    bases = [shoal.RunSpec(**SHAPE, **HOW, text=text, seed=seed) for seed in (0, 1)]
    shoal.train(bases, tmp_path / "lab", **TRAINING)
    asked = {name: [value] for name, value in HOW.items() if name != "tokenizer"}
    (adapter,) = fine_tuned(base_of(bases[0].id, str(tmp_path / "lab")), {**asked, "text": [text], "seed": [5]})
    assert adapter.tokenizer_of
    shoal.train(adapter, tmp_path / "lab", **TRAINING)
    return Lab(tmp_path / "lab"), bases[0].id, bases[1].id, adapter.id


def logits(lab, run):
    with torch.no_grad():
        return lab.records([run]).model(run).eval()(adapted.tokens()[:, :8] % 20)[0]


def test_a_base_is_not_deleted_under_its_adapter(lab, capsys):
    lab, base, other, adapter = lab
    before = lab.runs()
    for runs in ([base], [base, other]):
        with pytest.raises(UserError) as told:
            lab.delete(runs)
        assert base in str(told.value) and adapter[:8] in str(told.value) and "\n" not in str(told.value)
    assert main(["delete", base, "--yes", "--lab", str(lab.path)]) == 2
    assert lab.runs() == before and logits(lab, adapter).isfinite().all()
    assert adapter[:8] in capsys.readouterr().err


def test_it_is_deleted_with_its_adapter_or_after_it(lab):
    lab, base, other, adapter = lab
    lab.delete([adapter])
    lab.delete([base])
    assert lab.runs() == [other]


def test_both_are_deleted_together(lab):
    lab, base, other, adapter = lab
    lab.delete([base, adapter])
    assert lab.runs() == [other]


def test_an_adapter_is_read_when_its_bases_cohort_gets_another_folder(lab, tmp_path):
    lab, base, other, adapter = lab
    before, spec = logits(lab, adapter), lab.records([adapter]).specs[adapter]
    lab.delete([other])
    for place in (spec.base_model, spec.tokenizer_of):
        assert not Path(place).exists()
    assert torch.equal(logits(lab, adapter), before)
    assert lab.records([adapter]).specs[adapter].id == adapter
    lab.path.rename(tmp_path / "moved")
    moved = Lab(tmp_path / "moved")
    assert torch.equal(logits(moved, adapter), before)
    with pytest.raises(UserError):
        moved.delete([base])


def test_an_adapter_of_another_lab_is_read_likewise(lab, tmp_path):
    lab, _, other, adapter = lab
    spec = lab.records([adapter]).specs[adapter]
    shoal.train(spec, tmp_path / "second", **TRAINING)
    before = logits(Lab(tmp_path / "second"), adapter)
    lab.delete([other])
    assert torch.equal(logits(Lab(tmp_path / "second"), adapter), before)


def test_the_command_of_a_tuning_names_a_base_where_it_is_now(lab, tmp_path):
    lab, _, other, adapter = lab
    path = lab.records([adapter]).specs[adapter].base_model
    note = TuningNote(asked={"command": f"shoal tune --model finetuned --base-model {path} --name mine"}, done=False)
    write_tuning(lab.path, "mine", note)
    lab.delete([other])
    moved = lab.path.rename(tmp_path / "my lab")
    (line,) = resting(moved, Lab(moved).unfinished()).lines(moved)
    words = shlex.split(line.partition("shoal tune ")[2])
    assert Path(words[words.index("--base-model") + 1]).is_file() and words[-2:] == ["--lab", str(moved)]
    assert words[:2] == ["--model", "finetuned"] and words[-4:-2] == ["--name", "mine"]


def test_a_base_that_is_not_there_any_more_is_named_by_an_examination(lab, tmp_path):
    lab, base, _, adapter = lab
    assert not [finding for finding in examine(lab.path) if finding.is_damage]
    (path,) = lab.records([base]).cohort_of(base).models(base).values()
    path.rename(tmp_path / "elsewhere.safetensors")
    said = [finding.what for finding in examine(lab.path) if "the base of 1 run" in finding.what]
    assert len(said) == 1 and adapter in said[0] and "put it back at its place" in said[0]


def test_adapters_that_give_no_numbers_are_not_merged(lab, tmp_path, capsys):
    lab, _, _, adapter = lab
    (path,) = lab.records([adapter]).cohort_of(adapter).models(adapter).values()
    tensors, metadata = load_tensors(path)
    save_tensors(path, {name: tensor * float("nan") for name, tensor in tensors.items()}, metadata)
    assert main(["merge", adapter, str(tmp_path / "merged.safetensors"), "--lab", str(lab.path)]) == 2
    assert "logits that are not finite" in capsys.readouterr().err
    assert not (tmp_path / "merged.safetensors").exists()


def test_a_full_disk_under_a_merge_speaks_of_no_training(lab, tmp_path, capsys, monkeypatch):
    def full(*_):
        raise DiskError("could not write merged.safetensors: No space left on device")

    monkeypatch.setattr("shoal.lab.tensors.save_tensors", full)
    assert main(["merge", lab[3], str(tmp_path / "merged.safetensors"), "--lab", str(lab[0].path)]) == 1
    assert "No space left" in (told := capsys.readouterr().err)
    assert "resume" not in told
