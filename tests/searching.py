"""Models whose answers are known, by tables and by hashes of all that stands before a token; and literal searches."""

import functools
import itertools
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from shoal.keyed import fold, uniform

Texts = list[tuple[float, tuple[int, ...], float]]  # score, tokens, log probability
Model = Callable[[tuple[int, ...]], list[float]]  # log probabilities of what follows some tokens


class Hashed:
    """R random models: what follows a text is a hash of the member, the prompt and all of the text.

    Args:
        members: a number of each.
        prompts: a number of each.
        V: vocabulary.
        sharpness: how far logits lie apart.
        levels: how many different logits there are; few make ties.
        eos: a token whose logit is raised by ``ending``.
        ending: by how much.
    """

    def __init__(
        self,
        members: Sequence[int],
        prompts: Sequence[int],
        V: int,
        *,
        sharpness: float = 4.0,
        levels: int | None = None,
        eos: int | None = None,
        ending: float = 0.0,
    ) -> None:
        self.members, self.prompts, self.V = list(members), list(prompts), V
        self.sharpness, self.levels, self.eos, self.ending = sharpness, levels, eos, ending
        self.rows: list[int] = []  # of each step, all members' together
        self.moved: list[set[str]] = []  # names of what each call of select was given

    def begin(self) -> tuple[dict[str, Tensor], Tensor]:
        member, prompt = torch.tensor(self.members).unsqueeze(1), torch.tensor(self.prompts)
        key = fold(fold(torch.zeros(1, 1, dtype=torch.int64), member), prompt)  # (R, N)
        return {"text": key, "memory_key": key + 1}, self.logits(key)

    def logits(self, text: Tensor) -> Tensor:
        x = uniform(text, self.V).double()
        if self.levels is not None:
            x = (x * self.levels).floor() / self.levels
        x = x * self.sharpness
        if self.eos is not None:
            x[..., self.eos] += self.ending
        return x

    def step(self, tokens, state, counts=None, *, last=False):
        assert last
        assert tokens.shape[:2] == state["text"].shape == state["memory_key"].shape
        self.rows.append(tokens.shape[0] * tokens.shape[1])
        text = fold(state["text"], tokens[..., 0])
        return self.logits(text).unsqueeze(2), {"text": text, "memory_key": state["memory_key"]}

    def select(self, state, rows):
        self.moved.append(set(state))
        return {name: x[:, rows] if rows.ndim == 1 else x.gather(1, rows) for name, x in state.items()}

    def alone(self, r: int, n: int) -> Model:
        """Of one member and prompt, without a state."""
        start = self.begin()[0]["text"][r, n]

        @functools.cache
        def following(text: tuple[int, ...]) -> list[float]:
            key = start
            for token in text:
                key = fold(key, token)
            return self.logits(key.reshape(1, 1))[0, 0].log_softmax(-1).tolist()

        return following


class Table:
    """Models whose next token hangs on as many tokens as are told: log probabilities by the text so far."""

    def __init__(self, *following: Callable[[tuple[int, ...]], Sequence[float]]) -> None:
        self.following = following

    def begin(self, N: int = 1) -> tuple[dict[str, Tensor], Tensor]:
        R = len(self.following)
        state = {"text": torch.zeros(R, N, 20, dtype=torch.int64), "lengths": torch.zeros(R, N, dtype=torch.int64)}
        return state, self.after(state)

    def after(self, state: dict[str, Tensor]) -> Tensor:
        R, N, _ = state["text"].shape
        rows = [
            [self.following[r](tuple(state["text"][r, n, : state["lengths"][r, n]].tolist())) for n in range(N)]
            for r in range(R)
        ]
        return torch.tensor(rows, dtype=torch.float64)

    def step(self, tokens, state, counts=None, *, last=False):
        at = state["lengths"].unsqueeze(-1)
        after = {"text": state["text"].scatter(2, at, tokens), "lengths": state["lengths"] + 1}
        return self.after(after).unsqueeze(2), after

    def select(self, state, rows):
        return {
            name: x.gather(1, rows.reshape(*rows.shape, *[1] * (x.ndim - 2)).expand(*rows.shape, *x.shape[2:]))
            for name, x in state.items()
        }


def all_texts(model: Model, V: int, T: int, eos: int | None, alpha: float = 0.0) -> Texts:
    """Every text that ends, or has T tokens, the best first, by trying all."""
    found = []
    for length in range(1, T + 1):
        for text in itertools.product(range(V), repeat=length):
            ends = text[-1] == eos
            if eos in text[:-1] or not (ends or length == T):
                continue
            log_p = sum(model(text[:t])[text[t]] for t in range(length))
            found.append((log_p / length**alpha, text, log_p))
    return sorted(found, key=lambda own: (-own[0], len(own[1])))


def equations_12_and_13(model: Model, b: int, T: int, eos: int) -> tuple[Texts, list[float], int]:
    """T3.4 to the letter: every B_t, and the best finished up to each t; nothing stops it.

    Returns all that have finished or are of T tokens, the best finished up to each t, and how many were expanded.
    """
    beams: list[tuple[tuple[int, ...], float]] = [((), 0.0)]
    finished: Texts = []
    best, count = [], 0
    for _ in range(T):
        live = [(y, s) for y, s in beams if not (y and y[-1] == eos)]
        count += len(live)
        expanded = [((*y, token), s + log_p) for y, s in live for token, log_p in enumerate(model(y))]
        beams = sorted(expanded, key=lambda own: -own[1])[:b]
        finished += [(s, y, s) for y, s in beams if y[-1] == eos]
        best.append(max((s for s, _, _ in finished), default=-math.inf))
    cut = [(s, y, s) for y, s in beams if y[-1] != eos]
    return sorted(finished + cut, key=lambda own: -own[0]), best, count


def two_b_candidates(model: Model, b: int, T: int, eos: int, alpha: float) -> tuple[Texts, int]:
    """What transformers documents for early_stopping="never": 2 b candidates, of the first b those that end finish.

    Returns the b best and the steps that it took.
    """
    live: list[tuple[tuple[int, ...], float]] = [((), 0.0)]
    pool: Texts = []
    for t in range(1, T + 1):
        expanded = [((*y, token), s + log_p) for y, s in live for token, log_p in enumerate(model(y))]
        top = sorted(expanded, key=lambda own: -own[1])[: 2 * b]
        pool += [(s / t**alpha, y, s) for y, s in top[:b] if y[-1] == eos or t == T]
        pool = sorted(pool, key=lambda own: -own[0])[:b]
        live = [own for own in top if own[0][-1] != eos][:b]
        if not live:
            return pool, t
        reachable = max(live[0][1] / length**alpha for length in range(t + 1, T + 1)) if t < T else -math.inf
        if len(pool) == b and reachable <= pool[-1][0]:
            return pool, t
    return pool, T
