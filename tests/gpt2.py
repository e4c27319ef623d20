"""Small GPT-2 models whose weights are a formula, as ours and as the library transformers builds them."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from shoal.decoding import Beam, Searched, Stacked, beam_search
from shoal.models import GPT

V, D, H, L, T = 11, 16, 2, 2, 32  # vocabulary, width, heads, layers, positions
EOS, PAD = 2, 0
SHAPES = {
    "wte.weight": (V, D),
    "wpe.weight": (T, D),
    **{
        f"h.{layer}.{name}": shape
        for layer in range(L)
        for name, shape in {
            "ln_1.weight": (D,),
            "ln_1.bias": (D,),
            "attn.c_attn.weight": (D, 3 * D),  # applied from the right
            "attn.c_attn.bias": (3 * D,),
            "attn.c_proj.weight": (D, D),
            "attn.c_proj.bias": (D,),
            "ln_2.weight": (D,),
            "ln_2.bias": (D,),
            "mlp.c_fc.weight": (D, 4 * D),
            "mlp.c_fc.bias": (4 * D,),
            "mlp.c_proj.weight": (4 * D, D),
            "mlp.c_proj.bias": (D,),
        }.items()
    },
    "ln_f.weight": (D,),
    "ln_f.bias": (D,),
    "lm_head.weight": (V, D),
}


def mixed(number: np.ndarray) -> np.ndarray:
    """SplitMix64: each number to 64 bits that look random, by integers alone."""
    with np.errstate(over="ignore"):
        z = number + np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def weights(seed: int, sharpness: float, ending: float) -> dict[str, Tensor]:
    """All parameters by GPT-2's names, from -0.5 to 0.5, of the last layer times ``sharpness``.

    ``ending`` is what the logit of the end of a sentence is raised by, for the most part.
    """
    made = {}
    for which, (name, shape) in enumerate(SHAPES.items()):
        count = int(np.prod(shape))
        numbers = np.arange(count, dtype=np.uint64) + np.uint64((seed * 100 + which) << 32)
        centred = (mixed(mixed(numbers)) >> np.uint64(40)).astype(np.float64) / 2**24 - 0.5
        values = torch.tensor(centred.reshape(shape), dtype=torch.float32)
        if name.startswith("ln") or ".ln_" in name:
            made[name] = values + 1 if name.endswith("weight") else values
        else:
            made[name] = values * (sharpness if name == "lm_head.weight" else 1.0)
    shift = made["ln_f.bias"]
    made["lm_head.weight"][EOS] += ending * shift / shift.square().sum()
    return made


def sentences(seed: int, count: int = 4) -> list[list[int]]:
    """Prompts of different lengths, without special tokens."""
    numbers = mixed(np.arange(8 * count, dtype=np.uint64) + np.uint64((seed + 1) << 40)) % np.uint64(V - 3)
    rows = (3 + numbers.reshape(count, 8).astype(np.int64)).tolist()
    return [row[: 1 + (seed + n) % 5] for n, row in enumerate(rows)]


def ours(values: dict[str, Tensor]) -> GPT:
    """As a model of this package."""
    model = GPT(
        H,
        L,
        D,
        V,
        T,
        bias_classifier=False,
        norm_position="pre",
        positions="learned",
        bias_ffn=True,
        non_linearity="gelu",
    )
    state = {
        "embedding.tokens.weight": values["wte.weight"],
        "embedding.positions.weight": values["wpe.weight"],
        "decoder.norm.weight": values["ln_f.weight"],
        "decoder.norm.bias": values["ln_f.bias"],
        "classifier.weight": values["lm_head.weight"],
    }
    for layer in range(L):
        theirs, own = f"h.{layer}.", f"decoder.blocks.{layer}."
        for kind in ("weight", "bias"):
            q, k, v = values[f"{theirs}attn.c_attn.{kind}"].split(D, dim=-1)
            linear = {
                "self_attn.W_Q": q,
                "self_attn.W_K": k,
                "self_attn.W_V": v,
                "self_attn.W_O": values[f"{theirs}attn.c_proj.{kind}"],
                "ffn.0": values[f"{theirs}mlp.c_fc.{kind}"],
                "ffn.2": values[f"{theirs}mlp.c_proj.{kind}"],
            }
            state |= {
                f"{own}{name}.{kind}": tensor.T if kind == "weight" else tensor for name, tensor in linear.items()
            }
            state[f"{own}self_attn_norm.{kind}"] = values[f"{theirs}ln_1.{kind}"]
            state[f"{own}ffn_norm.{kind}"] = values[f"{theirs}ln_2.{kind}"]
    model.load_state_dict(state)
    return model.eval()


def theirs(values: dict[str, Tensor]) -> Any:
    """As a model of transformers, which has to be there."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=V,
        n_positions=T,
        n_embd=D,
        n_layer=L,
        n_head=H,
        activation_function="gelu",
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        tie_word_embeddings=False,
        bos_token_id=1,
        eos_token_id=EOS,
        pad_token_id=PAD,
    )
    model = GPT2LMHeadModel(config)
    named = {name if name == "lm_head.weight" else f"transformer.{name}": x for name, x in values.items()}
    model.load_state_dict(named)
    return model.eval()


def beams_of_the_library(
    values: dict[str, Tensor], prompt: list[int], b: int, new: int, **how: Any
) -> list[tuple[list[int], float]]:
    """The ``b`` hypotheses of a prompt, new tokens up to the end of the sentence, with their scores."""
    tokens = torch.tensor([prompt])
    with torch.no_grad():
        found = theirs(values).generate(
            tokens,
            attention_mask=torch.ones_like(tokens),
            num_beams=b,
            num_return_sequences=b,
            max_new_tokens=new,
            do_sample=False,
            return_dict_in_generate=True,
            output_scores=True,
            **{"early_stopping": "never", "length_penalty": 0.0, **how},
        )
    texts = [
        text[: text.index(EOS) + 1] if EOS in text else text for text in found.sequences[:, len(prompt) :].tolist()
    ]
    return list(zip(texts, found.sequences_scores.tolist(), strict=True))


def our_beams(
    values: list[dict[str, Tensor]], prompts: list[list[int]], beam: Beam, new: int
) -> tuple[list[list[list[tuple[list[int], float]]]], Searched]:
    """Those of several models and prompts at once: by model, prompt and rank."""
    models = [dict(ours(own).named_parameters()) for own in values]
    stacked = Stacked(
        ours(values[0]), {name: torch.stack([own[name].detach() for own in models]) for name in models[0]}
    )
    lengths = torch.tensor([len(prompt) for prompt in prompts])
    tokens = torch.tensor([prompt + [PAD] * (int(lengths.max()) - len(prompt)) for prompt in prompts])
    with torch.no_grad():
        state = stacked.start(len(prompts), int(lengths.max()) + new - 1)
        logits, state = stacked.step(tokens.expand(len(values), -1, -1), state, lengths, last=True)
    found = beam_search(stacked, state, logits[:, :, 0], new, beam, eos=EOS, padding=PAD)
    best, shape = found.hypotheses, found.hypotheses.lengths.shape
    return [
        [[(best.written(r, n, k), float(best.scores[r, n, k])) for k in range(shape[2])] for n in range(shape[1])]
        for r in range(shape[0])
    ], found
