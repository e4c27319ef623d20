"""Writes the vectors beside it: ``python tests/vectors/make.py``. Nothing here is computed by shoal.

Data comes from plain loops over strings, the LSTM from ``torch.nn.LSTM``, the transformer from the functions below; all
in float64, rounded to float32 at the end.
"""

import hashlib
import json
import math
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor
from torch.nn import functional as F

HERE = Path(__file__).parent
P, WIDTH, LAYERS, HEADS, MULTIPLIER, ROWS = 5, 8, 2, 2, 2, 4

DEFAULTS = {"r_train": 0.5, "operation_orders": [2], "is_symmetric": False, "shuffle": True, "seed": 42}
SETTINGS = [
    {"p": 5, "q": 5, "operator": "+"},
    {"p": 5, "q": 5, "operator": "+", "shuffle": False, "r_train": 0.3},
    {"p": 7, "q": 7, "operator": "-", "seed": 0, "r_train": 0.9},
    {"p": 7, "q": 5, "operator": "*", "operation_orders": [3], "seed": 1},
    {"p": 4, "q": 6, "operator": "-", "operation_orders": [2, 3], "seed": 2, "r_train": 0.7},
    {"p": 5, "q": 5, "operator": "/", "operation_orders": [2, 3], "seed": 3},
    {"p": 7, "q": 7, "operator": "/", "is_symmetric": True, "operation_orders": [3], "seed": 4},
    {"p": 5, "q": 5, "operator": "*", "is_symmetric": True, "operation_orders": [2, 3], "seed": 5},
    {"p": 5, "q": 5, "operator": "+", "operation_orders": [2, 3], "seed": 6, "per_order": True},
]


def equation(operands: list[int], q: int, operator: str) -> str:
    """The text of one equation; the last operands of a division are its divisors, the first its result."""
    shown, result = list(operands), operands[0]
    for other in operands[1:]:
        if operator == "+":
            result = (result + other) % q
        elif operator == "-":
            result = (result - other) % q
        else:
            result = (result * other) % q
    if operator == "/":
        shown[0], result = result, operands[0]
    return f"BOS {f' {operator} '.join(map(str, shown))} = {result} EOS"


def equations(p: int, q: int, operator: str, order: int, is_symmetric: bool) -> list[str]:
    texts = []
    first = 1 if operator == "/" else 0
    for a in range(p):
        for b in range(first, p):
            if order == 2:
                if not is_symmetric or a <= b:
                    texts.append(equation([a, b], q, operator))
                continue
            for c in range(first, p):
                if not is_symmetric or a <= b <= c:
                    texts.append(equation([a, b, c], q, operator))  # noqa: PERF401 (loops are the point)
    return texts


def dataset(**settings) -> tuple[list[str], int, list[list[str]]]:
    """Vocabulary, length of a row of inputs, and the texts of both splits."""
    settings = {"per_order": False, **DEFAULTS, **settings}
    p, q, operator, orders = (settings[name] for name in ("p", "q", "operator", "operation_orders"))
    vocabulary = [str(number) for number in range(max(p, q))] + [operator, "=", "BOS", "EOS", "PAD"]
    texts = []
    for order in orders:
        texts += equations(p, q, operator, order, settings["is_symmetric"])
    if settings["shuffle"]:
        np.random.RandomState(settings["seed"]).shuffle(texts)
    quota = {}
    for text in texts:
        part = len(text.split()) if settings["per_order"] else 0
        quota[part] = quota.get(part, 0) + 1
    quota = {part: round(count * settings["r_train"]) for part, count in quota.items()}
    train, valid = [], []
    for text in texts:
        part = len(text.split()) if settings["per_order"] else 0
        (train if quota[part] > 0 else valid).append(text)
        quota[part] -= 1
    return vocabulary, 2 * max(orders) + 2, [train, valid]


def encoded(texts: list[str], vocabulary: list[str], length: int) -> dict[str, Tensor]:
    """Inputs, targets, the place of ``=`` in the targets, and which targets are not padding."""
    rows = {"inputs": [], "targets": [], "eq_positions": [], "mask": []}
    for text in texts:
        words = text.split()
        words += ["PAD"] * (length + 1 - len(words))
        rows["inputs"].append([vocabulary.index(word) for word in words[:-1]])
        rows["targets"].append([vocabulary.index(word) for word in words[1:]])
        rows["eq_positions"].append(words[1:].index("="))
        rows["mask"].append([int(word != "PAD") for word in words[1:]])
    return {name: torch.tensor(values, dtype=torch.int64) for name, values in rows.items()}


def arithmetic() -> list[dict]:
    entries = []
    for settings in SETTINGS:
        vocabulary, length, splits = dataset(**settings)
        entry = {"settings": {**DEFAULTS, **settings}, "vocabulary": " ".join(vocabulary), "max_length": length}
        for name, texts in zip(("train", "valid"), splits, strict=True):
            tensors = encoded(texts, vocabulary, length)
            hashes = {part: hashlib.sha256(t.numpy().tobytes()).hexdigest() for part, t in tensors.items()}
            entry[name] = {"size": len(texts), "first": texts[:2], "sha256": hashes}
        entries.append(entry)
    return entries


def draw(shapes: dict[str, tuple[int, ...]], seed: int) -> dict[str, Tensor]:
    """Float32 weights, so that rounding them changes nothing; norms near 1 and everything else small."""
    generator = torch.Generator().manual_seed(seed)
    state = {name: torch.randn(shape, generator=generator) / 2 for name, shape in shapes.items()}
    return {name: 1 + t if name.endswith("_norm.weight") else t for name, t in state.items()}


def lstm_shapes(size: int) -> dict[str, tuple[int, ...]]:
    shapes = {"embedding.weight": (size, WIDTH), "classifier.weight": (size, WIDTH), "classifier.bias": (size,)}
    for layer in range(LAYERS):
        for gate in ("forget_gate", "input_gate", "candidate_cell", "output_gate"):
            shapes[f"lstm.layers.{layer}.{gate}.weight"] = (WIDTH, 2 * WIDTH)
            shapes[f"lstm.layers.{layer}.{gate}.bias"] = (WIDTH,)
    return shapes


def gpt_shapes(size: int) -> dict[str, tuple[int, ...]]:
    shapes = {"embedding.tokens.weight": (size, WIDTH), "classifier.weight": (size, WIDTH), "classifier.bias": (size,)}
    for layer in range(LAYERS):
        block = f"decoder.blocks.{layer}"
        for name in "QKVO":
            shapes[f"{block}.self_attn.W_{name}.weight"] = (WIDTH, WIDTH)
            shapes[f"{block}.self_attn.W_{name}.bias"] = (WIDTH,)
        for norm in ("self_attn_norm", "ffn_norm"):
            shapes[f"{block}.{norm}.weight"] = shapes[f"{block}.{norm}.bias"] = (WIDTH,)
        shapes[f"{block}.ffn.0.weight"] = (MULTIPLIER * WIDTH, WIDTH)
        shapes[f"{block}.ffn.2.weight"] = (WIDTH, MULTIPLIER * WIDTH)
    return shapes


def lstm(state: dict[str, Tensor], tokens: Tensor) -> dict[str, Tensor]:
    """Logits and final states by ``torch.nn.LSTM``, whose gates stand in the order i, f, g, o."""
    module = torch.nn.LSTM(WIDTH, WIDTH, LAYERS, batch_first=True).double()
    weights = {}
    for layer in range(LAYERS):
        gates = [f"lstm.layers.{layer}.{g}" for g in ("input_gate", "forget_gate", "candidate_cell", "output_gate")]
        both = torch.cat([state[f"{gate}.weight"] for gate in gates])
        weights[f"weight_ih_l{layer}"], weights[f"weight_hh_l{layer}"] = both[:, :WIDTH], both[:, WIDTH:]
        weights[f"bias_ih_l{layer}"] = torch.cat([state[f"{gate}.bias"] for gate in gates])
        weights[f"bias_hh_l{layer}"] = torch.zeros(4 * WIDTH, dtype=torch.float64)
    embedded = F.embedding(tokens, state["embedding.weight"])
    outputs, (h, c) = torch.func.functional_call(module, weights, (embedded,))
    return {"logits": F.linear(outputs, state["classifier.weight"], state["classifier.bias"]), "h": h, "c": c}


def gpt(state: dict[str, Tensor], tokens: Tensor) -> dict[str, Tensor]:
    """Logits, hidden states and attention weights, one head and one query at a time."""
    length = tokens.shape[1]
    positions = torch.zeros(length, WIDTH, dtype=torch.float64)
    for pos in range(length):
        for i in range(WIDTH):
            angle = pos / 10000 ** ((i // 2) / WIDTH)
            positions[pos, i] = math.cos(angle) if i % 2 else math.sin(angle)
    x = state["embedding.tokens.weight"][tokens] + positions
    hidden_states, attentions = [x], []
    for layer in range(LAYERS):
        own = {name: t for name, t in state.items() if name.startswith(f"decoder.blocks.{layer}.")}
        own = {name.removeprefix(f"decoder.blocks.{layer}."): t for name, t in own.items()}
        attended, weights = attention(own, x)
        x = F.layer_norm(x + attended, (WIDTH,), own["self_attn_norm.weight"], own["self_attn_norm.bias"])
        inner = x @ own["ffn.0.weight"].T
        inner = inner * (1 + torch.erf(inner / math.sqrt(2))) / 2  # gelu
        x = F.layer_norm(x + inner @ own["ffn.2.weight"].T, (WIDTH,), own["ffn_norm.weight"], own["ffn_norm.bias"])
        hidden_states.append(x)
        attentions.append(weights)
    logits = x @ state["classifier.weight"].T + state["classifier.bias"]
    return {"logits": logits, "hidden_states": torch.stack(hidden_states, 1), "attentions": torch.stack(attentions, 1)}


def attention(own: dict[str, Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    size, length = WIDTH // HEADS, x.shape[1]
    q, k, v = (x @ own[f"self_attn.W_{name}.weight"].T + own[f"self_attn.W_{name}.bias"] for name in "QKV")
    context, weights = [], []
    for head in range(HEADS):
        part = slice(head * size, (head + 1) * size)
        rows = []
        for s in range(length):
            scores = (q[:, None, s, part] * k[:, : s + 1, part]).sum(-1) / math.sqrt(size)  # (B, s + 1)
            rows.append(F.pad(torch.exp(scores) / torch.exp(scores).sum(-1, keepdim=True), (0, length - s - 1)))
        weights.append(torch.stack(rows, 1))  # (B, S, S)
        context.append(weights[-1] @ v[..., part])
    joined = torch.cat(context, -1)
    return joined @ own["self_attn.W_O.weight"].T + own["self_attn.W_O.bias"], torch.stack(weights, 1)


def score(logits: Tensor, data: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Loss and accuracy of each row, over the tokens after ``=`` and before padding."""
    losses, right = [], []
    for row, eq in enumerate(data["eq_positions"].tolist()):
        end = int(data["mask"][row].sum())
        answer, target = logits[row, eq + 1 : end], data["targets"][row, eq + 1 : end]
        losses.append(F.cross_entropy(answer, target))
        right.append(float((answer.argmax(-1) == target).all()))
    return torch.stack(losses), torch.tensor(right)


def vectors(kind: str) -> dict[str, Tensor]:
    vocabulary, length, (train, _) = dataset(p=P, q=P, operator="+", operation_orders=[2, 3], seed=0)
    chosen = [text for text in train if len(text.split()) == 7][: ROWS // 2]
    chosen += [text for text in train if len(text.split()) == 9][: ROWS - len(chosen)]
    data = encoded(chosen, vocabulary, length)
    shapes, forward, seed = {"lstm": (lstm_shapes, lstm, 1), "gpt": (gpt_shapes, gpt, 2)}[kind]
    state = draw(shapes(len(vocabulary)), seed)
    precise = {name: t.double().requires_grad_() for name, t in state.items()}
    outputs = forward(precise, data["inputs"])
    for row, eq in enumerate(data["eq_positions"].tolist()[::2]):  # as drawn no answer is right: half are made so
        data["targets"][2 * row, eq + 1 : eq + 3] = outputs["logits"][2 * row, eq + 1 : eq + 3].argmax(-1)
    loss, accuracy = score(outputs["logits"], data)
    loss.mean().backward()
    found = {**outputs, "loss": loss, "accuracy": accuracy}
    found |= {f"state.{name}": t for name, t in state.items()}
    found |= {f"grad.{name}": t.grad for name, t in precise.items()}
    return {**data, **{name: t.detach().float().contiguous() for name, t in found.items()}}


def main() -> None:
    for kind in ("lstm", "gpt"):
        (HERE / f"{kind}.safetensors").write_bytes(save(vectors(kind)))
    text = json.dumps(arithmetic(), indent=1, ensure_ascii=False)
    (HERE / "arithmetic.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
