"""Benchmark of decoding beside transformers, on the same weights. ``python -m benchmarks.decoding [ROUNDS]``.

A GPT-2 of nanoGPT's small CPU setting (4 layers, width 128, 4 heads, 65 tokens; GELU by erf) continues prompts of one
token by 63 more: by ``generate`` of the library transformers, with its cache, and by shoal with the same parameters.
Rounds alternate between the two, on one thread; medians of the ratios of a round are reported, in processor time and in
wall time. Before that, both must give the same tokens.

Shapes: ``R`` members, ``N`` prompts, ``D`` width.
"""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import Tensor

from shoal.decoding import Beam, Searched, beam_search, decoders_for, generate
from shoal.models import GPT

NEW, CONTEXT, V, D, H, L = 63, 64, 65, 128, 4, 4
SCALE = 4.0  # of initial matrices, so that no two tokens are nearly as likely


@dataclass(frozen=True)
class Case:
    """Case of decoding: ``beam`` hypotheses of each of ``N`` prompts, 1 for greedy search, by ``R`` members."""

    beam: int
    N: int
    R: int

    def __str__(self) -> str:
        return f"{'greedy' if self.beam == 1 else f'beam {self.beam}'}, {self.N} rows, R = {self.R}"


CASES = tuple(Case(beam, N, R) for beam in (1, 4) for N in (1, 16) for R in (1, 8))


@dataclass(frozen=True)
class Times:
    """Times of one round, in microseconds per new token of a row and member.

    Attributes:
        cpu: processor time.
        wall: wall time.
    """

    cpu: float
    wall: float


def gpt2(seed: int) -> Any:
    """Model ``GPT2LMHeadModel`` of a seed, in evaluation mode; it has no token that ends a text."""
    from transformers import GPT2Config, GPT2LMHeadModel  # an extra; nothing else here needs it

    torch.manual_seed(seed)
    sizes = {"n_layer": L, "n_embd": D, "n_head": H, "vocab_size": V, "n_positions": CONTEXT}
    ends = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": 0}
    model = GPT2LMHeadModel(GPT2Config(**sizes, **ends, activation_function="gelu")).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(SCALE)
    return model


def shoal_gpt() -> GPT:
    """Model of the same architecture in shoal."""
    tied: dict[str, Any] = {"bias_classifier": False, "share_embeddings": True}
    return GPT(H, L, D, V, CONTEXT, norm_position="pre", positions="learned", bias_ffn=True, **tied).eval()


def mapped(theirs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Parameters of a ``GPT2LMHeadModel`` by their names in shoal; its matrices are ``(inputs, outputs)``."""
    parameters = {
        "embedding.tokens.weight": theirs["transformer.wte.weight"],
        "embedding.positions.weight": theirs["transformer.wpe.weight"],
        "decoder.norm.weight": theirs["transformer.ln_f.weight"],
        "decoder.norm.bias": theirs["transformer.ln_f.bias"],
    }
    names = {"attn.c_proj": "self_attn.W_O", "mlp.c_fc": "ffn.0", "mlp.c_proj": "ffn.2"}
    norms = {"ln_1": "self_attn_norm", "ln_2": "ffn_norm"}
    for layer in range(L):
        there, here = f"transformer.h.{layer}", f"decoder.blocks.{layer}"
        for kind in ("weight", "bias"):
            parts = theirs[f"{there}.attn.c_attn.{kind}"].chunk(3, dim=-1)
            parameters |= {f"{here}.self_attn.W_{x}.{kind}": part.t() for x, part in zip("QKV", parts, strict=True)}
            parameters |= {f"{here}.{name}.{kind}": theirs[f"{there}.{old}.{kind}"].t() for old, name in names.items()}
            parameters |= {f"{here}.{name}.{kind}": theirs[f"{there}.{old}.{kind}"] for old, name in norms.items()}
    return {name: tensor.detach().contiguous() for name, tensor in parameters.items()}


def theirs(model: Any, prompts: Tensor, beam: int) -> Tensor:
    """Tokens by transformers, ``(N, 1 + NEW)``."""
    tokens: Tensor = model.generate(
        prompts,
        attention_mask=torch.ones_like(prompts),
        max_new_tokens=NEW,
        do_sample=False,
        num_beams=beam,
        length_penalty=0.0,
        early_stopping="never" if beam > 1 else False,
    )
    return tokens


def ours(model: GPT, parameters: dict[str, Tensor], prompts: Tensor, beam: int) -> Tensor:
    """Tokens by shoal, ``(R, N, 1 + NEW)``."""
    if beam == 1:
        return generate(model, parameters, prompts, torch.ones(len(prompts), dtype=torch.int64), NEW).tokens
    N, settings, groups = len(prompts), Beam(width=beam, stop="n_best"), []
    for decoder in decoders_for(model, parameters, N * beam, CONTEXT):
        each = prompts.expand(decoder.size, N, 1)
        logits, state = decoder.step(each, decoder.start(N, CONTEXT), last=True)
        groups.append(beam_search(decoder, state, logits[:, :, 0], NEW, settings))
    best = Searched.of_groups(groups).hypotheses.tokens[:, :, 0]  # (R, N, NEW)
    return torch.cat([prompts.expand(len(best), N, 1), best], dim=-1)


def timed(run: Callable[[], Any], tokens: int) -> Times:
    """Times of one call, per token."""
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    return Times(cpu * 1e6 / tokens, wall * 1e6 / tokens)


def measure(case: Case, rounds: int) -> list[tuple[Times, Times]]:
    """Measure both in turns: transformers, on one of the models, then shoal, on all of them."""
    models = [gpt2(seed) for seed in range(case.R)]
    each = [mapped(model.state_dict()) for model in models]
    stacked = {name: torch.stack([state_dict[name] for state_dict in each]) for name in each[0]}
    prompts = torch.arange(case.N).unsqueeze(1) % V  # (N, 1)
    model = shoal_gpt()
    shoal_tokens = ours(model, stacked, prompts, case.beam)
    for member, other in enumerate(models):
        if not torch.equal(shoal_tokens[member], theirs(other, prompts, case.beam)):
            raise RuntimeError(f"{case}: other tokens than transformers', model {member}")
    times = []
    for turn in range(rounds):
        there = timed(partial(theirs, models[turn % case.R], prompts, case.beam), case.N * NEW)
        here = timed(partial(ours, model, stacked, prompts, case.beam), case.R * case.N * NEW)
        times.append((there, here))
    return times


def main() -> None:
    """Measure and print a Markdown table."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 15
    torch.set_num_threads(1)
    print("| µs per token and member | transformers, CPU | shoal, CPU | ratio | ratio, wall |")
    print("| --- |" + " ---: |" * 4)
    for case in CASES:
        times = measure(case, rounds)
        there, here = (median(pair[side].cpu for pair in times) for side in (0, 1))
        ratios = [median(getattr(a, kind) / getattr(b, kind) for a, b in times) for kind in ("cpu", "wall")]
        print(f"| {case} | {there:,.0f} | {here:,.0f} | {ratios[0]:.2f} | {ratios[1]:.2f} |", flush=True)


if __name__ == "__main__":
    main()
