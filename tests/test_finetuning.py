"""Fine-tuning: adapters beside the libraries peft and transformers, on a base that is held once and never changes."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import adapted
import pytest
import torch
from safetensors.torch import load_file, save_file

import shoal
from shoal.cli import main
from shoal.errors import UserError
from shoal.fast.engine import engine_kernels
from shoal.lab import Lab
from shoal.models.adapters import FrozenLinear, LoRALinear, adapt, adapted_names, freeze, stored_bytes
from shoal.models.bases import read_base
from shoal.models.finetuned import merged
from shoal.models.linear_block import LinearBlock
from shoal.quantisation import quantise_blocks
from shoal.tasks.build import build_model, build_task, count_run_parameters
from shoal.testing import ModelContract
from shoal.testing.base import stack_of
from shoal.training.step import train_steps

HERE = Path(__file__).parent / "vectors"
VECTORS = load_file(HERE / "adapters.safetensors")
GPT2 = HERE / "gpt2"
SMALL = {"num_layers": 1, "embedding_size": 8, "context_length": 8, "tokenizer": "bytes", "n_steps": 6, "seed": 3}
SHORT = {"task": "text", "train_batch_size": 4, "eval_period": 10, "eval_batch_size": 256, "lr": 1e-2}
TUNED = {"model": "finetuned", "tokenizer": "bytes", "context_length": 8, "n_steps": 5}


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """Folder with a text and a lab that holds a GPT and an LSTM of it."""
    folder = tmp_path_factory.mktemp("finetuning")
    text = str(adapted.text_file(folder))
    gpt = shoal.RunSpec(**SMALL, **SHORT, text=text, model="gpt", num_heads=2)
    lstm = shoal.RunSpec(**SMALL, **SHORT, text=text, model="lstm")
    records = shoal.train([gpt, lstm], folder / "lab", engine="plain", workers=1)
    files = {spec.model: str(next(iter(records.cohort_of(spec.id).models(spec.id).values()))) for spec in (gpt, lstm)}
    return {"folder": folder, "text": text, "records": records, **files, "runs": {"gpt": gpt.id, "lstm": lstm.id}}


def tuned(lab, base="gpt", **settings):
    return shoal.RunSpec(**{**SHORT, **TUNED, "text": lab["text"], "base_model": lab[base], **settings})


# against the libraries


def test_a_checkpoint_of_gpt2_has_the_logits_of_transformers():
    with torch.no_grad():
        logits = read_base(str(GPT2)).module().eval()(adapted.tokens())[0]
    assert (logits - VECTORS["logits"]).abs().max() < 1e-4


@pytest.mark.parametrize("engine", ["plain", "windows"])
def test_adapters_take_the_steps_of_peft(engine):
    if engine == "windows" and engine_kernels(engine, torch.device("cpu")).library_for is None:
        pytest.skip("no compiler")
    specs = adapted.specs(GPT2)
    stack = stack_of(*specs, engine=engine)
    with torch.no_grad():
        for slot in stack.layout:
            for member, spec in enumerate(specs):
                first = VECTORS[f"{member}.first.{slot.name.removeprefix('base.')}"]
                rows, columns = first.shape
                place = stack.theta[member, slot.start : slot.start + slot.size].view(slot.shape)
                place.zero_()[:rows, :columns] = first
                assert spec.lora_rank in first.shape
    losses = adapted.trained(stack, adapted.STEPS)  # (steps, R)
    for member in range(len(specs)):
        assert (losses[:, member] - VECTORS[f"{member}.losses"]).abs().max() < 2e-5
        assert losses[0, member] - losses[-1, member] > 0.1
        state = stack.member(member)
        for slot in stack.layout:
            last = VECTORS[f"{member}.last.{slot.name.removeprefix('base.')}"]
            rows, columns = last.shape
            assert (state[slot.name][:rows, :columns] - last).abs().max() < 2e-4
            assert not state[slot.name][rows:].any() and not state[slot.name][:, columns:].any()


# a base that is held once


@pytest.mark.parametrize("base", ["gpt", "lstm"])
@pytest.mark.parametrize("adapter", ["lora", "full"])
def test_adapters_change_no_bit_of_a_logit_at_first(lab, base, adapter):
    model = build_model(tuned(lab, base, adapter=adapter)).eval()
    before = lab["records"].model(lab["runs"][base])
    tokens = adapted.tokens()[:, :8]
    with torch.no_grad():
        assert torch.equal(model(tokens)[0], before(tokens)[0])


@pytest.mark.parametrize("optimizer", ["adamw", "lion", "muon"])
def test_training_changes_adapters_alone_and_no_padding(lab, optimizer):
    before = {name: tensor.clone() for name, tensor in read_base(lab["gpt"]).tensors.items()}
    ranks = (1, 3)
    specs = [
        tuned(lab, lora_rank=r, lora_alpha=2.0, lora_width=4, weight_decay=1.0, decay_all=True, optimizer=optimizer)
        for r in ranks
    ]
    stack = stack_of(*specs)
    assert stack.theta.shape == (2, 4 * sum(map(sum, ADAPTED)))
    first = stack.theta.detach().clone()
    train_steps(stack, 4)
    assert (stack.theta != first).any(1).all()
    for member, rank in enumerate(ranks):
        for name, tensor in stack.member(member).items():
            assert not (tensor[rank:] if name.endswith(".A") else tensor[:, rank:]).any()
            assert (tensor[:rank] if name.endswith(".A") else tensor[:, :rank]).any()
    held = list(stack.model.buffers())
    for name, tensor in before.items():
        assert any(tensor.shape == other.shape and torch.equal(tensor, other) for other in held), name
    assert all(torch.equal(before[name], tensor) for name, tensor in read_base(lab["gpt"]).tensors.items())


ADAPTED = [(8, 8)] * 3 + [(32, 8), (8, 32)]  # W_Q, W_K, W_V and the two matrices of the feed-forward layer


def test_members_share_the_tensors_of_their_base(lab):
    models = [build_model(tuned(lab, seed=seed)) for seed in range(3)]
    names = [name for name, _ in models[0].named_buffers() if not name.endswith(".scale")]
    assert len(names) > 10
    for name in names:
        assert len({model.get_buffer(name).data_ptr() for model in models}) == 1
    assert all(not set(names) & set(model.state_dict()) for model in models)
    coded = [build_model(tuned(lab, adapter="qlora", seed=seed)) for seed in range(2)]
    codes = [name for name, _ in coded[0].named_buffers() if name.endswith(".codes")]
    assert len(codes) == 6 and all(len({model.get_buffer(name).data_ptr() for model in coded}) == 1 for name in codes)


@pytest.mark.parametrize(("base", "adapter"), [("gpt", "qlora"), ("lstm", "lora"), ("gpt", "full")])
def test_a_member_trains_alone_as_in_the_stack(lab, base, adapter):
    own = {} if adapter == "full" else {"lora_width": 3}
    several = [
        tuned(lab, base, adapter=adapter, seed=seed, lr=lr, **own, **({} if adapter == "full" else lora))
        for seed, lr, lora in [(0, 1e-2, {"lora_rank": 1}), (1, 3e-3, {"lora_rank": 3, "lora_alpha": 9.0})]
    ]
    stack = stack_of(*several)
    train_steps(stack, 3)
    for member, spec in enumerate(several):
        alone = stack_of(spec)
        train_steps(alone, 3)
        assert (alone.theta[0] - stack.theta[member]).abs().max() < 1e-6


def test_gradients_through_codes_are_those_of_the_weights_they_stand_for():
    torch.manual_seed(0)
    codes = quantise_blocks(torch.randn(6, 10))
    stored, plain = FrozenLinear(codes, torch.randn(6)), codes.dequantise()
    x, seen = torch.randn(3, 4, 10, requires_grad=True), torch.randn(3, 4, 6)
    for outputs in (stored(x), torch.vmap(stored)(x)):
        expected = x @ plain.T + stored.bias
        assert (outputs - expected).abs().max() < 1e-5
        (gradient,) = torch.autograd.grad(outputs, x, seen)
        assert (gradient - seen @ plain).abs().max() < 1e-5


def test_codes_are_dequantised_once_for_all_members(lab, monkeypatch):
    counted = []
    dequantise = shoal.quantisation.BlockCodes.dequantise
    monkeypatch.setattr(
        shoal.quantisation.BlockCodes, "dequantise", lambda codes: counted.append(codes.shape) or dequantise(codes)
    )
    steps = {}
    for R in (1, 3):
        stack = stack_of(*(tuned(lab, adapter="qlora", seed=seed) for seed in range(R)))
        train_steps(stack, 1)
        counted.clear()
        train_steps(stack, 1)
        steps[R] = len(counted)
    # forwards, and backwards but for the first block's queries, keys and values, whose inputs need no gradient …
    assert steps[1] == steps[3] <= 2 * 6


def test_a_quantised_base_is_stored_in_half_a_byte_per_number(lab):
    model = build_model(tuned(lab, adapter="qlora", double_quantization=True))
    stored = stored_bytes(model)
    assert stored["parameters"] == 4 * 64 + 2 * 256
    assert stored["bytes"] / stored["parameters"] < 0.6
    large = {name for name, b in model.named_buffers() if b.dtype == torch.float32 and b.ndim == 2 and len(b) > 1}
    assert {name.removeprefix("base.") for name in large} == {
        "embedding.tokens.weight",
        "embedding.position_encoding",
        "classifier.values",
    }


def test_merging_goes_onto_the_weights_that_were_trained_on(lab):
    spec = tuned(lab, adapter="qlora", lora_rank=2)
    model = build_model(spec)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
        tokens = adapted.tokens()[:, :8]
        logits = model.eval()(tokens)[0]
        assert (merged(model, spec.model_part)(tokens)[0] - logits).abs().max() < 1e-4 * logits.abs().max()
        other = build_model(tuned(lab, lora_rank=2))
        other.load_state_dict(model.state_dict())
        assert (other.eval()(tokens)[0] - logits).abs().max() > 1e-3


MEASURED = """
import resource, sys
sys.path.insert(0, sys.argv[1])
import adapted
specs = [adapted.large(sys.argv[2], seed) for seed in range(int(sys.argv[3]))]
from shoal.testing import ModelContract
from shoal.testing.base import stack_of
from shoal.training.step import train_steps
train_steps(stack_of(*specs), 2)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
def test_the_memory_of_more_adapters_is_theirs_and_not_the_bases(tmp_path):
    adapted.large_base(tmp_path)
    peaks = []
    for members in (2, 18):
        words = [sys.executable, "-c", MEASURED, str(Path(__file__).parent), str(tmp_path), str(members)]
        done = subprocess.run(
            words, capture_output=True, text=True, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
        )
        peaks.append(1024 * int(done.stdout))
    base = (tmp_path / "base.safetensors").stat().st_size
    assert base > 12e6
    assert (peaks[1] - peaks[0]) / 16 < 0.6 * base


class TestAdapters(ModelContract):
    """Contract of model families, for adapters on a quantised base."""

    @pytest.fixture
    def spec(self, lab):
        return tuned(lab, adapter="qlora", lora_rank=2, lora_alpha=4.0)


# kept adapters


def test_a_kept_adapter_has_its_own_tensors_and_goes_on_no_other_base(lab, tmp_path):
    base = tmp_path / "base.safetensors"
    shutil.copy(lab["gpt"], base)
    spec = tuned(lab, base_model=str(base), lora_rank=2)
    records = shoal.train([spec], lab["folder"] / "lab", engine="plain", workers=1)
    (path,) = records.cohort_of(spec.id).models(spec.id).values()
    assert sum(tensor.numel() for tensor in load_file(path).values()) == count_run_parameters(spec) == 2 * 128
    assert spec.id == tuned(lab, lora_rank=2).id, "the path of a base is no part of a run's identity"
    tokens = adapted.tokens()[:, :8]
    with torch.no_grad():
        logits = records.model(spec.id)(tokens)[0]
        assert not torch.equal(logits, lab["records"].model(lab["runs"]["gpt"])(tokens)[0])
    tensors = {name: tensor + 0.5 for name, tensor in load_file(base).items()}
    save_file(tensors, base, metadata={"spec": json.dumps(lab["records"].specs[lab["runs"]["gpt"]].dump())})
    with pytest.raises(UserError):
        Lab(lab["folder"] / "lab").records(spec.id).model(spec.id)


def test_a_lab_can_be_moved_with_its_adapters(lab, tmp_path):
    shutil.copytree(lab["folder"] / "lab", tmp_path / "before")
    (base,) = (
        Lab(tmp_path / "before")
        .cohort(lab["records"].cohort_of(lab["runs"]["gpt"]).id)
        .models(lab["runs"]["gpt"])
        .values()
    )
    spec = tuned(lab, base_model=str(base), lora_rank=1, seed=77)
    shoal.train([spec], tmp_path / "before", engine="plain", workers=1)
    tokens = adapted.tokens()[:, :8]
    with torch.no_grad():
        logits = Lab(tmp_path / "before").records(spec.id).model(spec.id)(tokens)[0]
        (tmp_path / "before").rename(tmp_path / "after")
        assert torch.equal(Lab(tmp_path / "after").records(spec.id).model(spec.id)(tokens)[0], logits)


# the document's module


@pytest.mark.parametrize(("width", "heads", "rank"), [(8, 2, 1), (16, 3, 4)])
def test_adapters_have_the_parameters_of_the_document(width, heads, rank):
    torch.manual_seed(0)
    model = LinearBlock(width, heads)
    x = torch.randn(2, 5, width)
    before = model(x).detach()
    names = adapted_names(model)
    freeze(model)
    adapt(model, names, rank, rank, 1.0)
    counted = {part: sum(p.numel() for p in model.get_submodule(part).parameters()) for part in ("attention", "ffn")}
    assert counted == {"attention": 6 * heads * width * rank, "ffn": 2 * width * rank}
    assert isinstance(model.attention.W_O, FrozenLinear)
    assert torch.equal(model(x), before)
    quantised = LinearBlock(width, heads)
    freeze(quantised, quantise_blocks)
    assert stored_bytes(quantised)["parameters"] == 3 * heads * width**2 + heads * width**2 + width**2


def test_packed_heads_have_6dr(lab):
    spec = tuned(lab, lora_targets="W_Q,W_K,W_V", lora_rank=2)
    assert count_run_parameters(spec) == 6 * 8 * 2
    assert sum(isinstance(module, LoRALinear) for module in build_model(spec).modules()) == 3


# the command


def test_the_command_trains_ranks_as_one_cohort(lab, capsys):
    words = ["finetune", lab["runs"]["gpt"][:8], "--text", lab["text"], "--lab", str(lab["folder"] / "lab")]
    how = ["--lora-rank", "1", "2", "--lora-alpha", "4", "--n-steps", "3", "--seed", "0", "--train-batch-size", "4"]
    assert main([*words, *how, "--workers", "1"]) == 0
    assert "2 new runs of 1 shape" in capsys.readouterr().out
    records = Lab(lab["folder"] / "lab").records().where(model="finetuned", lora_alpha=[4])
    assert len(records.cohorts()) == 1
    (first, _) = records.ids
    generate = ["generate", first, "--prompt", "1 of", "--max-new-tokens", "3", "--lab", str(lab["folder"] / "lab")]
    assert main(generate) == 0
    within = str(lab["folder"] / "lab" / "reports" / "merged.safetensors")
    assert main(["merge", first, within, "--lab", str(lab["folder"] / "lab")]) == 2
    assert "whose files are its own: write the model to another folder" in capsys.readouterr().err
    out = str(lab["folder"] / "merged.safetensors")
    assert main(["merge", first, out, "--lab", str(lab["folder"] / "lab")]) == 0
    assert build_task(tuned(lab, base_model=out)).n_drawn and build_model(tuned(lab, base_model=out))


BAD = [
    ["--lora-rank", "0"],
    ["--lora-rank", "-5"],
    ["--lora-rank", "9"],
    ["--lora-rank", "1", "2"],
    ["--lora-alpha", "0"],
    ["--lora-targets", "W_Z"],
    ["--adapter", "lorra"],
    ["--adapter", "full", "--lora-rank", "2"],
    ["--quantization", "nf4"],
    ["--adapter", "qlora", "--quantization-bits", "3"],
    ["--adapter", "qlora", "--quantization", "absmax", "--double-quantization", "true"],
    ["--adapter", "qlora", "--quantization", "absmax", "--quantization-bits", "9"],
    ["--context-length", "9"],
    ["--base-model", "x"],
    ["--model", "gpt"],
]


@pytest.mark.parametrize("words", BAD, ids=" ".join)
def test_a_mistake_is_one_line_and_changes_nothing(lab, capsys, words):
    folder = lab["folder"] / "lab" / "cohorts"
    before = sorted(folder.iterdir())
    base = ["finetune", lab["runs"]["gpt"], "--text", lab["text"], "--lab", str(lab["folder"] / "lab")]
    assert main([*base, *words]) == 2
    error = capsys.readouterr().err
    assert error.startswith("shoal: ") and error.count("\n") == 1
    assert sorted(folder.iterdir()) == before


def test_a_tied_weight_is_not_adapted(lab, tmp_path, capsys):
    with pytest.raises(UserError):
        shoal.RunSpec(**{**SHORT, **TUNED, "text": lab["text"], "base_model": str(GPT2), "lora_targets": "classifier"})


def test_an_adapter_is_no_base(lab):
    spec = tuned(lab, lora_rank=1, seed=9, n_steps=1)
    records = shoal.train([spec], lab["folder"] / "lab", engine="plain", workers=1)
    (path,) = records.cohort_of(spec.id).models(spec.id).values()
    with pytest.raises(UserError):
        tuned(lab, base_model=str(path))
