"""The tree of a beam search: what each step looked at, kept and let go, as plain data and as text.

Of each step the ``2 b + 1`` likeliest candidates are kept, which are those that a step of a beam chooses among.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from shoal.decoding.ranking import Candidates

KEPT, FINISHED, CUT, PRUNED = "kept", "finished", "cut", "pruned"
FATES = (KEPT, FINISHED, CUT, PRUNED)
WHY = ("it reached the longest length", "its rule stopped it", "nothing was left to go on with")
_BAR, _TEE, _END, _GAP = "│  ", "├─ ", "└─ ", "   "


@dataclass(frozen=True)
class Candidate:
    """A hypothesis that a step looked at.

    Attributes:
        step: its length in tokens, from 1.
        rank: among the step's candidates, the likeliest first, from 0.
        node: its own number, from 1; 0 is the root.
        parent: the node that it continues.
        token: by which token.
        added: log probability of that token, in nats.
        log_p: of the whole hypothesis.
        score: that with its length penalty.
        fate: one of :data:`FATES`: kept, to go on; finished, by the end of the sentence; cut, at the longest length; or
            pruned.
    """

    step: int
    rank: int
    node: int
    parent: int
    token: int
    added: float
    log_p: float
    score: float
    fate: str


@dataclass(frozen=True)
class BeamTree:
    """What a beam search of one prompt looked at.

    Attributes:
        candidates: by step, then by rank.
        steps: how far it went.
        why: why no further.
    """

    candidates: tuple[Candidate, ...]
    steps: int
    why: str

    def rows(self, names: Sequence[str] | None = None) -> list[dict[str, Any]]:
        """Of each candidate its fields by name, and its token as ``name``; a data frame takes it as it is."""
        return [{**vars(own), "name": _name(own.token, names)} for own in self.candidates]

    def text(self, names: Sequence[str] | None = None, root: str = "BOS") -> str:
        """The tree as lines, children under their parents, with the log probability up to each.

        Args:
            names: of the tokens, by index; their numbers when not given.
            root: what the prompt is called.
        """
        children: dict[int, list[Candidate]] = {}
        for own in self.candidates:
            children.setdefault(own.parent, []).append(own)
        lines = [root]

        def write(node: int, before: str) -> None:
            below = sorted(children.get(node, []), key=lambda own: (-own.added, own.token))
            for own in below:
                is_last = own is below[-1]
                fate = "" if own.fate == KEPT else f"  {own.fate}"
                lines.append(f"{before}{_END if is_last else _TEE}{_name(own.token, names)} {own.log_p:.2f}{fate}")
                write(own.node, before + (_GAP if is_last else _BAR))

        write(0, "")
        return "\n".join([*lines, f"{self.steps} step{'s' * (self.steps != 1)}: {self.why}"])


def _name(token: int, names: Sequence[str] | None) -> str:
    return str(token) if names is None else names[token]


class Recorder:
    """Keeps what the steps of a search looked at, of ``R`` members and ``N`` prompts."""

    def __init__(self, R: int, N: int) -> None:
        self.found: list[list[list[Candidate]]] = [[[] for _ in range(N)] for _ in range(R)]
        self.live: list[list[list[Candidate]]] = [[[] for _ in range(N)] for _ in range(R)]

    def step(
        self,
        prompts: Tensor,
        is_open: Tensor,
        candidates: Candidates,
        scores: Tensor,
        fates: Sequence[tuple[str, Tensor]],
        order: Tensor,
        length: int,
    ) -> None:
        """Add a step.

        Args:
            prompts: which of the ``N`` each place holds, ``(R, M)``.
            is_open: whether it is still searched, ``(R, M)``.
            candidates: ``(R, M, c)``.
            scores: theirs, ``(R, M, c)``.
            fates: which of them have each fate, ``(R, M, c)``; those of which nothing is said are pruned.
            order: which of them live on in each of the ``b`` places, ``(R, M, b)``.
            length: theirs in tokens.
        """
        listed = (candidates.log_p, candidates.parent, candidates.token, scores)
        log_p, parents, tokens, scored = (tensor.tolist() for tensor in listed)
        of = [(fate, own.tolist()) for fate, own in fates]
        living, prompt_of = order.tolist(), prompts.tolist()
        for r, m in is_open.nonzero().tolist():
            found, before = self.found[r][prompt_of[r][m]], self.live[r][prompt_of[r][m]]
            new: dict[int, Candidate] = {}
            for rank, value in enumerate(log_p[r][m]):
                if value == -math.inf:
                    break  # they are sorted
                parent = before[parents[r][m][rank]] if before else None
                new[rank] = Candidate(
                    step=length,
                    rank=rank,
                    node=len(found) + 1,
                    parent=0 if parent is None else parent.node,
                    token=tokens[r][m][rank],
                    added=value - (0.0 if parent is None else parent.log_p),
                    log_p=value,
                    score=scored[r][m][rank],
                    fate=next((fate for fate, own in of if own[r][m][rank]), PRUNED),
                )
                found.append(new[rank])
            self.live[r][prompt_of[r][m]] = [new[rank] for rank in living[r][m] if rank in new]

    def trees(self, steps: Tensor, reasons: Tensor) -> tuple[tuple[BeamTree, ...], ...]:
        """Of each member and prompt, with how far it went and why no further, ``(R, N)`` each."""
        return tuple(
            tuple(
                BeamTree(tuple(found), int(steps[r, n]), WHY[int(reasons[r, n])]) for n, found in enumerate(of_member)
            )
            for r, of_member in enumerate(self.found)
        )
