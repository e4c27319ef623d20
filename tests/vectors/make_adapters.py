"""Make the folder ``gpt2`` and ``adapters.safetensors``: a tiny GPT-2, its logits, and training by the library peft.

Run where transformers and peft are installed: ``PYTHONPATH=src:tests python tests/vectors/make_adapters.py``.

Each adapter is trained alone, by torch's AdamW with clipping, on the batches that the stack of
``tests/adapted.py`` draws for it.
"""

from pathlib import Path

import adapted
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from transformers import GPT2Config, GPT2LMHeadModel

HERE = Path(__file__).parent


def library_model() -> GPT2LMHeadModel:
    """Tiny GPT-2 without dropout, saved beside this file."""
    torch.manual_seed(0)
    sizes = {"n_layer": 2, "n_head": 2, "n_embd": 16, "vocab_size": 256, "n_positions": 16}
    config = GPT2Config(**sizes, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, initializer_range=0.2)
    model = GPT2LMHeadModel(config).eval()
    model.save_pretrained(HERE / "gpt2")
    return model


def trained_by_peft(spec, batches: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Losses before each step, and the adapters at first and in the end, by our names."""
    base = GPT2LMHeadModel.from_pretrained(HERE / "gpt2")
    torch.manual_seed(spec.seed)
    config = LoraConfig(
        r=spec.lora_rank,
        lora_alpha=spec.lora_alpha,
        target_modules=["c_fc", "mlp.c_proj"],
        fan_in_fan_out=True,
        lora_dropout=0.0,
    )
    model = get_peft_model(base, config).train()
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    made = {f"first.{adapted.ours(name)}": p.detach().clone() for name, p in trained.items()}
    optimizer = torch.optim.AdamW(trained.values(), lr=spec.lr, weight_decay=spec.weight_decay)
    losses = []
    for batch in batches:
        logits = model(batch["inputs"]).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch["targets"].flatten())
        losses.append(loss.detach())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained.values(), spec.clip)
        optimizer.step()
    made |= {f"last.{adapted.ours(name)}": p.detach().clone() for name, p in trained.items()}
    return {**made, "losses": torch.stack(losses)}


def main() -> None:
    """Write the files beside this one."""
    model = library_model()
    tokens = adapted.tokens()
    with torch.no_grad():
        tensors = {"logits": model(tokens).logits}
    specs = adapted.specs(HERE / "gpt2")
    for member, spec in enumerate(specs):
        for name, tensor in trained_by_peft(spec, adapted.batches(specs, member)).items():
            tensors[f"{member}.{name}"] = tensor
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, HERE / "adapters.safetensors")


if __name__ == "__main__":
    main()
