"""Baseline of a plain training loop on the characters of a text: nanoGPT's small CPU setting, eager, one run at a time.

Source: github.com/karpathy/nanoGPT at 3adf61e, ``model.py`` and ``train.py``, with the settings that its README gives
for a CPU. The model draws its parameters in nanoGPT's order and the loop its windows from where that leaves the
generator, so that a seed trains as it does there when nothing is evaluated on the way, to the bit on one thread.

Differences: nothing is evaluated or kept while it trains, and a loss is that of every token of a split, not of a few
random windows.

Shapes: ``B`` batch, ``S`` sequence, ``D`` width, ``H`` heads, ``V`` vocabulary, ``L`` layers.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shoal.errors import UserError


@dataclass(frozen=True)
class Setting:
    """Settings of nanoGPT by its names; the values are those of its README for a CPU.

    Attributes:
        block_size: tokens of a window.
        max_iters: updates after the first: nanoGPT's loop makes ``max_iters + 1``.
        lr_decay_iters: update from which the learning rate is ``min_lr``.
        eval_interval: updates between two evaluations.
    """

    n_layer: int = 4
    n_head: int = 4
    n_embd: int = 128
    block_size: int = 64
    batch_size: int = 12
    max_iters: int = 2000
    learning_rate: float = 1e-3
    min_lr: float = 1e-4
    warmup_iters: int = 100
    lr_decay_iters: int = 2000
    beta1: float = 0.9
    beta2: float = 0.99
    weight_decay: float = 0.1
    grad_clip: float = 1.0
    eval_interval: int = 250


SMALL_CPU = Setting()


class LayerNorm(nn.Module):
    """Layer normalisation without a bias."""

    def __init__(self, n_embd: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(n_embd))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise: ``(*dims, D) -> (*dims, D)``."""
        return F.layer_norm(x, self.weight.shape, self.weight)


class CausalSelfAttention(nn.Module):
    """Causal attention of ``H`` heads; queries, keys and values are one product."""

    def __init__(self, setting: Setting) -> None:
        super().__init__()
        self.n_head = setting.n_head
        self.c_attn = nn.Linear(setting.n_embd, 3 * setting.n_embd, bias=False)
        self.c_proj = nn.Linear(setting.n_embd, setting.n_embd, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer: ``(B, S, D) -> (B, S, D)``."""
        B, S, D = x.shape
        q, k, v = (part.view(B, S, self.n_head, -1).transpose(1, 2) for part in self.c_attn(x).split(D, dim=2))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)  # (B, H, S, D / H)
        projected: Tensor = self.c_proj(y.transpose(1, 2).reshape(B, S, D))
        return projected


class MLP(nn.Module):
    """Feed-forward layer: two products with a GELU (erf) between them."""

    def __init__(self, n_embd: int) -> None:
        super().__init__()
        self.c_fc = nn.Linear(n_embd, 4 * n_embd, bias=False)
        self.c_proj = nn.Linear(4 * n_embd, n_embd, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer: ``(B, S, D) -> (B, S, D)``."""
        projected: Tensor = self.c_proj(F.gelu(self.c_fc(x)))
        return projected


class Block(nn.Module):
    """Block of attention and MLP, each behind its LayerNorm and beside its residual."""

    def __init__(self, setting: Setting) -> None:
        super().__init__()
        self.ln_1 = LayerNorm(setting.n_embd)
        self.attn = CausalSelfAttention(setting)
        self.ln_2 = LayerNorm(setting.n_embd)
        self.mlp = MLP(setting.n_embd)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer: ``(B, S, D) -> (B, S, D)``."""
        x = x + self.attn(self.ln_1(x))
        out: Tensor = x + self.mlp(self.ln_2(x))
        return out


class GPT(nn.Module):
    """GPT with learned positions, pre-norm blocks, and a classifier tied to the token embedding.

    Every matrix starts from N(0, 0.02²), those that write to the residual stream from N(0, 0.02² / 2L).
    """

    def __init__(self, setting: Setting, vocab_size: int) -> None:
        super().__init__()
        self.wte = nn.Embedding(vocab_size, setting.n_embd)
        self.wpe = nn.Embedding(setting.block_size, setting.n_embd)
        self.h = nn.ModuleList([Block(setting) for _ in range(setting.n_layer)])
        self.ln_f = LayerNorm(setting.n_embd)
        self.lm_head = nn.Linear(setting.n_embd, vocab_size, bias=False)
        self.wte.weight = self.lm_head.weight
        # The order of the draws is nanoGPT's: it draws the shared matrix twice and the residual projections again.
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
        for name, parameter in self.named_parameters():
            if name.endswith("c_proj.weight"):
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * setting.n_layer))

    def forward(self, idx: Tensor) -> Tensor:
        """Predict the next tokens: tokens ``(B, S)`` -> logits ``(B, S, V)``."""
        x = self.wte(idx) + self.wpe(torch.arange(idx.shape[1], device=idx.device))  # (B, S, D)
        for block in self.h:
            x = block(x)
        logits: Tensor = self.lm_head(self.ln_f(x))
        return logits


def count_parameters(setting: Setting, vocab_size: int) -> int:
    """Number of parameters without the table of positions, which nanoGPT's ``get_num_params`` leaves out too.

    >>> count_parameters(SMALL_CPU, vocab_size=65)
    795904
    """
    D, L = setting.n_embd, setting.n_layer
    return 12 * L * D**2 + (2 * L + 1) * D + vocab_size * D


def get_lr(setting: Setting, it: int) -> float:
    """Learning rate of update ``it``, the first being 0: linear warm-up, then a cosine down to ``min_lr``."""
    if it < setting.warmup_iters:
        return setting.learning_rate * (it + 1) / (setting.warmup_iters + 1)
    if it > setting.lr_decay_iters:
        return setting.min_lr
    ratio = (it - setting.warmup_iters) / (setting.lr_decay_iters - setting.warmup_iters)
    return setting.min_lr + 0.5 * (1 + math.cos(math.pi * ratio)) * (setting.learning_rate - setting.min_lr)


def encode(text: str) -> tuple[Tensor, int]:
    """Characters as their ranks in the sorted alphabet of the text, ``(n,)``, and the size of that alphabet."""
    alphabet = sorted(set(text))
    ranks = {character: rank for rank, character in enumerate(alphabet)}
    return torch.tensor([ranks[character] for character in text]), len(alphabet)


def count_train(setting: Setting, n: int) -> int:
    """Number of ``n`` tokens that are trained on: the first nine tenths, as nanoGPT rounds them.

    Raises:
        UserError: those or the others make no window with its next token.

    >>> count_train(SMALL_CPU, 1_115_394)
    1003854
    """
    n_train = int(n * 0.9)
    if n - n_train <= setting.block_size:
        raise UserError(f"a tenth of a text must be longer than {setting.block_size} characters, got {n} in all")
    return n_train


class Trainer:
    """Trainer of one run on a text, whose first nine tenths are trained on and the rest is validated on.

    Args:
        seed: seed of parameters and windows.
        text: the text.
        setting: sizes and optimisation.
        compiled: train by ``torch.compile`` of model and loss, as nanoGPT does by default.
        device: device of model and windows.

    Attributes:
        steps_done: updates so far.
        loss: loss of the last update's batch, before it; nats per token.

    Raises:
        UserError: the text is too short for a window.
    """

    def __init__(
        self,
        seed: int,
        text: str,
        *,
        setting: Setting = SMALL_CPU,
        compiled: bool = False,
        device: torch.device | str = "cpu",
    ) -> None:
        self.setting = setting
        self.device = torch.device(device)
        tokens, vocab_size = encode(text)
        n_train = count_train(setting, len(tokens))
        self.train, self.valid = tokens[:n_train], tokens[n_train:]
        torch.manual_seed(seed)
        self.model = GPT(setting, vocab_size).to(self.device)
        self.objective: Callable[[Tensor, Tensor], Tensor] = self._objective
        if compiled:
            self.objective = torch.compile(self._objective)
        self.generator = torch.Generator().set_state(torch.get_rng_state())
        parameters = list(self.model.parameters())
        groups = [
            {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": setting.weight_decay},
            {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
        ]
        # nanoGPT takes AdamW's fused form on a GPU only; on the CPU torch's default is one parameter after another
        fused = True if self.device.type == "cuda" else None
        self.optimizer = torch.optim.AdamW(
            groups, lr=setting.learning_rate, betas=(setting.beta1, setting.beta2), fused=fused
        )
        self.steps_done = 0
        self.loss = torch.tensor(math.nan)

    def get_batch(self) -> tuple[Tensor, Tensor]:
        """Windows of the training part, drawn with replacement, and their next tokens: ``(B, S)`` each."""
        S = self.setting.block_size
        starts = torch.randint(len(self.train) - S, (self.setting.batch_size,), generator=self.generator).tolist()
        inputs = torch.stack([self.train[i : i + S] for i in starts])
        targets = torch.stack([self.train[i + 1 : i + 1 + S] for i in starts])
        return inputs.to(self.device), targets.to(self.device)

    def step(self, n: int = 1) -> None:
        """Make ``n`` updates; returns when they are done."""
        for _ in range(n):
            self._update(*self.get_batch())
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _objective(self, inputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(self.model(inputs).flatten(0, 1), targets.flatten())

    def _update(self, inputs: Tensor, targets: Tensor) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = get_lr(self.setting, self.steps_done)
        loss = self.objective(inputs, targets)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.model.parameters(), self.setting.grad_clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.loss = loss.detach()
        self.steps_done += 1

    def evaluate(self) -> dict[str, float]:
        """Losses in nats per token, in blocks, of the validation part and of equally many first training characters."""
        parts = {"train": self.train[: len(self.valid)], "valid": self.valid}
        values = {}
        for name, tokens in parts.items():
            nats, n_tokens = evaluate(self.model, tokens.to(self.device), self.setting.block_size)
            values[f"{name}_loss"] = nats / n_tokens
        return values


@torch.no_grad()
def evaluate(
    model: nn.Module, tokens: Tensor, block_size: int, *, stride: int | None = None, batch_size: int = 128
) -> tuple[float, int]:
    """Total loss in nats over every token but the first, each scored once.

    Windows of ``block_size`` inputs start every ``stride`` tokens, and all but the first score their last ``stride``
    tokens, which have at least ``block_size - stride`` tokens before them in the window. The last window ends with the
    tokens. Of ``n`` tokens ``n - 1`` are scored.

    Args:
        model: tokens ``(B, S)`` -> logits ``(B, S, V)``.
        tokens: ``(n,)``, at least two.
        block_size: inputs of a window.
        stride: tokens from one window to the next; ``block_size``, blocks side by side, when not given.
        batch_size: number of windows per forward pass.

    Returns:
        The sum of the nats, in float64, and the number of scored tokens.
    """
    n, stride = len(tokens) - 1, block_size if stride is None else stride
    if not 1 <= stride <= block_size:
        raise ValueError(f"stride must be from 1 to block_size = {block_size}, got {stride}")
    scored_before = block_size - stride  # positions of a window that the one before it has scored
    starts = [start for start in range(0, n, stride) if start == 0 or start + scored_before < n]
    whole = [start for start in starts if start + block_size <= n]
    batches = [whole[i : i + batch_size] for i in range(0, len(whole), batch_size)]
    batches += [starts[len(whole) :]] if len(whole) < len(starts) else []  # one at most, which is shorter
    was_training = model.training
    model.eval()
    nats, n_scored = 0.0, 0
    for batch in batches:
        S = min(block_size, n - batch[0])
        windows = torch.stack([tokens[start : start + S + 1] for start in batch])  # (B, S + 1)
        logits = model(windows[:, :-1])  # (B, S, V)
        nll = F.cross_entropy(logits.transpose(1, 2), windows[:, 1:], reduction="none")  # (B, S)
        first = torch.tensor(batch, device=nll.device) == 0  # (B,)
        counts = first[:, None] | (torch.arange(S, device=nll.device) >= scored_before)  # (B, S), True = counts
        nats += nll[counts].double().sum().item()
        n_scored += int(counts.sum())
    model.train(was_training)
    return nats, n_scored
