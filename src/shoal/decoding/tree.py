"""Search tree of a beam search: the candidates of each step, kept and pruned, as plain data and as text.

The tree holds the ``2 b + 1`` likeliest candidates of each step, among which the step of a beam chooses.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from shoal.decoding.ranking import Candidates

KEPT, FINISHED, CUT, PRUNED = "kept", "finished", "cut", "pruned"
FATES = (KEPT, FINISHED, CUT, PRUNED)
WHY = ("it reached the longest length", "its rule stopped it", "no hypothesis was left to continue")
_BAR, _TEE, _END, _GAP = "│  ", "├─ ", "└─ ", "   "


@dataclass(frozen=True)
class Candidate:
    """Candidate of a step.

    Attributes:
        step: its length in tokens, from 1.
        rank: rank among the step's candidates, the likeliest first, from 0.
        node: its number, from 1; 0 is the root.
        parent: number of the node that it continues.
        token: the token that it adds.
        added: log probability of that token, in nats.
        log_p: log probability of the whole hypothesis.
        score: log probability with the length penalty.
        fate: one of :data:`FATES`: kept, and continued; finished, with EOS; cut, at the longest length; or pruned.
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
    """Search tree of a beam search of one prompt.

    Attributes:
        candidates: candidates by step, then by rank.
        steps: number of steps.
        why: reason why the search ended.
    """

    candidates: tuple[Candidate, ...]
    steps: int
    why: str

    def rows(self, names: Sequence[str] | None = None) -> list[dict[str, Any]]:
        """Rows for a data frame: the fields of each candidate by name, and its token as ``name``."""
        return [{**vars(candidate), "name": _name(candidate.token, names)} for candidate in self.candidates]

    def text(self, names: Sequence[str] | None = None, root: str = "BOS") -> str:
        """Tree as lines of text, children under their parents, with the log probability up to each.

        Args:
            names: names of the tokens, by index; their numbers when not given.
            root: name of the prompt.
        """
        children: dict[int, list[Candidate]] = {}
        for candidate in self.candidates:
            children.setdefault(candidate.parent, []).append(candidate)
        lines = [root]

        def write(node: int, before: str) -> None:
            below = sorted(children.get(node, []), key=lambda candidate: (-candidate.added, candidate.token))
            for candidate in below:
                is_last = candidate is below[-1]
                fate = "" if candidate.fate == KEPT else f"  {candidate.fate}"
                lines.append(
                    f"{before}{_END if is_last else _TEE}{_name(candidate.token, names)} {candidate.log_p:.2f}{fate}"
                )
                write(candidate.node, before + (_GAP if is_last else _BAR))

        write(0, "")
        return "\n".join([*lines, f"{self.steps} step{'s' * (self.steps != 1)}: {self.why}"])


def _name(token: int, names: Sequence[str] | None) -> str:
    return str(token) if names is None else names[token]


class Recorder:
    """Recorder of the candidates of a search's steps, of ``R`` members and ``N`` prompts."""

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
            prompts: index of the prompt in each place, ``(R, M)``.
            is_open: true where the place is still searched, ``(R, M)``.
            candidates: the candidates, ``(R, M, c)``.
            scores: scores of the candidates, ``(R, M, c)``.
            fates: mask of the candidates of each fate, ``(R, M, c)``; those in no mask are pruned.
            order: index of the candidate that lives on in each of the ``b`` places, ``(R, M, b)``.
            length: length of the candidates in tokens.
        """
        listed = (candidates.log_p, candidates.parent, candidates.token, scores)
        log_p, parents, tokens, scored = (tensor.tolist() for tensor in listed)
        of = [(fate, mask.tolist()) for fate, mask in fates]
        living, prompt_of = order.tolist(), prompts.tolist()
        for r, m in is_open.nonzero().tolist():
            recorded, before = self.found[r][prompt_of[r][m]], self.live[r][prompt_of[r][m]]
            new: dict[int, Candidate] = {}
            for rank, value in enumerate(log_p[r][m]):
                if value == -math.inf:
                    break  # they are sorted
                parent = before[parents[r][m][rank]] if before else None
                new[rank] = Candidate(
                    step=length,
                    rank=rank,
                    node=len(recorded) + 1,
                    parent=0 if parent is None else parent.node,
                    token=tokens[r][m][rank],
                    added=value - (0.0 if parent is None else parent.log_p),
                    log_p=value,
                    score=scored[r][m][rank],
                    fate=next((fate for fate, mask in of if mask[r][m][rank]), PRUNED),
                )
                recorded.append(new[rank])
            self.live[r][prompt_of[r][m]] = [new[rank] for rank in living[r][m] if rank in new]

    def trees(self, steps: Tensor, reasons: Tensor) -> tuple[tuple[BeamTree, ...], ...]:
        """Trees of each member and prompt, with numbers of steps and reasons of ending, ``(R, N)`` each."""
        return tuple(
            tuple(
                BeamTree(tuple(candidates), int(steps[r, n]), WHY[int(reasons[r, n])])
                for n, candidates in enumerate(of_member)
            )
            for r, of_member in enumerate(self.found)
        )
