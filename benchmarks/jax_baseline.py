"""Baseline of the same models in JAX: ``jit``, ``vmap`` over runs, ``lax.scan`` over steps, optax for AdamW.

Parameters have shoal's names and shapes and start from shoal's initial values, so that runs of the same seed can be
compared. A training set that does not fit in one batch is sampled with replacement, by a key per run and step. The four
gates of an LSTM layer are one product, and their input part is computed for all time steps at once; the rest is left to
XLA. Products are in full float32 on every device.

Shapes: ``R`` members, ``B`` batch, ``S`` sequence, ``D`` width, ``H`` heads, ``V`` vocabulary, ``N`` examples.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from benchmarks.plain import History, betas, check, datasets, new_history, with_seed
from shoal import RunSpec
from shoal.tasks.build import build_model

_MISSING: ImportError | None = None
try:
    import jax
    import jax.numpy as jnp
    import optax
except ImportError as error:
    _MISSING = error

Array = Any  # a jax.Array; the type must be there without JAX
Parameters = Mapping[str, Array]  # by shoal's names
Data = Sequence[Array]  # inputs (N, S), targets (N, S), eq_positions (N,), mask (N, S); the training set first
State = tuple[Parameters, Any]  # parameters and the optimizer's state


def linear(params: Parameters, name: str, x: Array) -> Array:
    """Linear layer ``x W^T + b`` of this name; without ``b`` where the layer has none."""
    y = x @ params[f"{name}.weight"].T
    return y + params[f"{name}.bias"] if f"{name}.bias" in params else y


def layer_norm(params: Parameters, name: str, x: Array, eps: float = 1e-5) -> Array:
    """Layer normalisation, ``(*dims, D) -> (*dims, D)``."""
    centred = x - x.mean(axis=-1, keepdims=True)
    variance = jnp.square(centred).mean(axis=-1, keepdims=True)
    return centred * jax.lax.rsqrt(variance + eps) * params[f"{name}.weight"] + params[f"{name}.bias"]


def lstm_layer(params: Parameters, name: str, x: Array) -> Array:
    """LSTM layer, ``(B, S, input_size) -> (B, S, D)``."""
    gates = [f"{name}.{gate}" for gate in ("forget_gate", "input_gate", "output_gate", "candidate_cell")]
    weight = jnp.concatenate([params[f"{gate}.weight"] for gate in gates])  # (4 D, input_size + D)
    bias = jnp.concatenate([params[f"{gate}.bias"] for gate in gates])  # (4 D,)
    B, _, input_size = x.shape
    W, U = weight[:, :input_size], weight[:, input_size:]

    def cell(state: tuple[Array, Array], from_x: Array) -> tuple[tuple[Array, Array], Array]:
        h, c = state
        f, i, o, c_tilde = jnp.split(from_x + h @ U.T, 4, axis=-1)  # (B, D) each
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(c_tilde)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
        return (h, c), h

    zeros = jnp.zeros((B, U.shape[1]), x.dtype)
    _, outputs = jax.lax.scan(cell, (zeros, zeros), (x @ W.T + bias).swapaxes(0, 1), unroll=True)  # (S, B, D)
    return outputs.swapaxes(0, 1)


def lstm(params: Parameters, tokens: Array, spec: RunSpec) -> Array:
    """LSTM language model: tokens ``(B, S)`` -> logits ``(B, S, V)``."""
    x = params["embedding.weight"][tokens]  # (B, S, D)
    for layer in range(spec.num_layers):
        x = lstm_layer(params, f"lstm.layers.{layer}", x)
    return linear(params, "classifier", x)


def attention(params: Parameters, name: str, x: Array, num_heads: int) -> Array:
    """Causal self-attention, ``(B, S, D) -> (B, S, D)``."""
    B, S, D = x.shape
    q, k, v = (linear(params, f"{name}.{W}", x).reshape(B, S, num_heads, -1) for W in ("W_Q", "W_K", "W_V"))
    scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) / np.sqrt(D // num_heads)  # (B, H, S, S)
    visible = np.tril(np.ones((S, S), dtype=bool))  # (S, S), True = may be seen
    weights = jax.nn.softmax(jnp.where(visible, scores, -jnp.inf), axis=-1)  # (B, H, S, S)
    return linear(params, f"{name}.W_O", jnp.einsum("bhqk,bkhd->bqhd", weights, v).reshape(B, S, D))


def sinusoidal_embeddings(n_positions: int, dimension: int) -> np.ndarray:
    """Position encoding of the practical, ``(n_positions, D)``."""
    i = np.arange(dimension)  # (D,)
    angles = np.arange(n_positions)[:, None] / 10000 ** (i // 2 / dimension)  # (n_positions, D)
    return np.where(i % 2 == 0, np.sin(angles), np.cos(angles)).astype(np.float32)


def gpt(params: Parameters, tokens: Array, spec: RunSpec) -> Array:
    """GPT: tokens ``(B, S)`` -> logits ``(B, S, V)``."""
    assert spec.num_heads is not None
    x = params["embedding.tokens.weight"][tokens]  # (B, S, D)
    x = x + sinusoidal_embeddings(tokens.shape[1], spec.embedding_size)
    for layer in range(spec.num_layers):
        block = f"decoder.blocks.{layer}"
        x = layer_norm(
            params, f"{block}.self_attn_norm", x + attention(params, f"{block}.self_attn", x, spec.num_heads)
        )
        hidden = jax.nn.gelu(linear(params, f"{block}.ffn.0", x), approximate=False)  # (B, S, d_ff)
        x = layer_norm(params, f"{block}.ffn_norm", x + linear(params, f"{block}.ffn.2", hidden))
    return linear(params, "classifier", x)


MODELS: Mapping[str, Callable[[Parameters, Array, RunSpec], Array]] = {"lstm": lstm, "gpt": gpt}


def loss_and_accuracy(params: Parameters, batch: Sequence[Array], spec: RunSpec) -> tuple[Array, Array]:
    """Loss and accuracy of each equation's right-hand side, ``(B,)`` each."""
    inputs, targets, eq_positions, mask = batch
    logits = MODELS[spec.model](params, inputs, spec)  # (B, S, V)
    rhs = (jnp.arange(targets.shape[1]) > eq_positions[:, None]) & (mask != 0)  # (B, S), True = counts
    log_p = jax.nn.log_softmax(logits)  # (B, S, V)
    nll = -jnp.take_along_axis(log_p, targets[:, :, None], axis=-1)[:, :, 0]  # (B, S)
    loss = jnp.where(rhs, nll, 0.0).sum(axis=1) / rhs.sum(axis=1)  # (B,)
    right = (logits.argmax(axis=-1) == targets) | ~rhs  # (B, S)
    return loss, right.all(axis=1)


def make_optimizer(spec: RunSpec) -> Any:
    """AdamW after clipping, as in the practical's loop."""
    beta1, beta2 = betas(spec)
    adamw = optax.adamw(spec.lr, b1=beta1, b2=beta2, eps=spec.eps, weight_decay=spec.weight_decay)
    return optax.chain(optax.clip_by_global_norm(spec.clip), adamw)


def train_one(state: State, data: Data, key: Array, step: Array, spec: RunSpec, n_train: int) -> State:
    """Train one member for one step: on the whole training set where it fits in a batch, else on a random batch."""
    params, optimizer_state = state
    batch = [tensor[:n_train] for tensor in data]
    if spec.train_batch_size < n_train:
        indices = jax.random.randint(jax.random.fold_in(key, step), (spec.train_batch_size,), 0, n_train)  # (B,)
        batch = [tensor[indices] for tensor in data]
    gradient = jax.grad(lambda params: loss_and_accuracy(params, batch, spec)[0].mean())(params)
    updates, optimizer_state = make_optimizer(spec).update(gradient, optimizer_state, params)
    return optax.apply_updates(params, updates), optimizer_state


def evaluate_one(params: Parameters, data: Data, spec: RunSpec, n_train: int) -> dict[str, Array]:
    """Loss and accuracy of one member on each split, scored in passes of ``eval_batch_size``."""
    starts = range(0, len(data[0]), spec.eval_batch_size)
    passes = [[tensor[start : start + spec.eval_batch_size] for tensor in data] for start in starts]
    scores = [loss_and_accuracy(params, batch, spec) for batch in passes]
    values = {}
    for name, parts in zip(("loss", "accuracy"), zip(*scores, strict=True), strict=True):
        whole = jnp.concatenate(parts)  # (N,)
        values[f"train_{name}"], values[f"valid_{name}"] = whole[:n_train].mean(), whole[n_train:].mean()
    return values


def train_many(
    state: State, data: Data, keys: Array, done: Array, n: int, spec: RunSpec, n_train: int
) -> tuple[State, dict[str, Array]]:
    """Train every member for ``n`` steps after ``done`` of them.

    Returns:
        The new state, and the statistics after every step, ``(n, R)`` each; 0 where the schedule does not evaluate.
    """
    train = jax.vmap(partial(train_one, spec=spec, n_train=n_train), in_axes=(0, 0, 0, None))
    evaluate = jax.vmap(partial(evaluate_one, spec=spec, n_train=n_train))

    def one_step(state: State, step: Array) -> tuple[State, dict[str, Array]]:
        state = train(state, data, keys, step)
        params, _ = state
        skipped = jax.tree.map(
            lambda value: jnp.zeros(value.shape, value.dtype), jax.eval_shape(evaluate, params, data)
        )
        due = (step <= spec.eval_first) | (step % spec.eval_period == 0)
        return state, jax.lax.cond(due, lambda: evaluate(params, data), lambda: skipped)

    state, values = jax.lax.scan(one_step, state, done + 1 + jnp.arange(n))
    return state, values


class Trainer:
    """Trainer of several runs at once.

    ``step(n)`` is one compiled call; each new ``n`` is compiled anew, so warm up with the ``n`` to be timed.

    Args:
        spec: spec of the runs; settings that the baselines do not have are refused.
        members: number of runs, of the seeds from ``spec.seed`` on.
        seeds: the seeds themselves, in place of ``members``.

    Attributes:
        params: parameters by shoal's names, ``(R, *shape)`` each.
        steps_done: optimisation steps so far.
        history: the statistics of every evaluation; each entry but the step is an array ``(R,)``.
    """

    def __init__(self, spec: RunSpec, members: int = 1, *, seeds: Sequence[int] | None = None) -> None:
        if _MISSING is not None:
            raise ImportError('the JAX baseline needs jax and optax: pip install "shoal[bench]"') from _MISSING
        check(spec)
        self.spec = spec
        seeds = range(spec.seed, spec.seed + members) if seeds is None else seeds
        specs = [with_seed(spec, seed) for seed in seeds]
        splits = [datasets(one)[:2] for one in specs]
        rows = [[torch.cat(columns) for columns in zip(*(s.tensors for s in pair), strict=True)] for pair in splits]
        # (R, N, ...) each; indices in 32 bits, which is what JAX has
        self.data = [jnp.array(torch.stack(column).numpy(), dtype=jnp.int32) for column in zip(*rows, strict=True)]
        models = [dict(build_model(one).named_parameters()) for one in specs]
        self.load({name: np.stack([model[name].detach().numpy() for model in models]) for name in models[0]})
        self.keys = jax.vmap(jax.random.key)(jnp.array([one.order_seed for one in specs], dtype=jnp.uint32))
        fixed: dict[str, Any] = {"spec": spec, "n_train": len(splits[0][0])}
        self._train = jax.jit(partial(train_many, **fixed), static_argnames="n", donate_argnums=0)
        self._evaluate = jax.jit(jax.vmap(partial(evaluate_one, **fixed)))
        self.steps_done = 0
        self.history: History = new_history()

    @property
    def params(self) -> Parameters:
        return self._state[0]

    def load(self, params: Mapping[str, np.ndarray]) -> None:
        """Start from these parameters, ``(R, *shape)`` each, with a fresh optimizer."""
        stacked = {name: jnp.array(value) for name, value in params.items()}
        self._state: State = stacked, jax.vmap(make_optimizer(self.spec).init)(stacked)

    def step(self, n: int) -> None:
        """Train ``n`` steps, with the evaluations of the schedule; returns when they are done."""
        with jax.default_matmul_precision("float32"):
            if self.steps_done == 0:
                self._record(0, self.evaluate())
            self._state, values = self._train(self._state, self.data, self.keys, self.steps_done, n=n)
        values = {name: np.asarray(value) for name, value in values.items()}  # (n, R) each
        for offset in range(n):
            step = self.steps_done + 1 + offset
            if step <= self.spec.eval_first or step % self.spec.eval_period == 0:
                self._record(step, {name: value[offset] for name, value in values.items()})
        self.steps_done += n

    def evaluate(self) -> dict[str, np.ndarray]:
        """Current statistics, ``(R,)`` each."""
        with jax.default_matmul_precision("float32"):
            return {name: np.asarray(value) for name, value in self._evaluate(self.params, self.data).items()}

    def _record(self, step: int, values: Mapping[str, Array]) -> None:
        self.history["step"].append(step)
        for name, value in values.items():
            self.history[name].append(np.asarray(value))


def run(spec: RunSpec, *, steps: int, seeds: Sequence[int]) -> dict[int, History]:
    """Train a run per seed, all at once, and return their statistics by seed."""
    trainer = Trainer(spec, seeds=seeds)
    trainer.step(steps)
    return {
        seed: {
            name: list(values) if name == "step" else [value[index].item() for value in values]
            for name, values in trainer.history.items()
        }
        for index, seed in enumerate(seeds)
    }
