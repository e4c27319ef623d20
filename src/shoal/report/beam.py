"""Picture of the tree of a beam search: the hypotheses that each step kept, and those that it dropped."""

from collections.abc import Sequence
from typing import Any

import altair as alt
import polars as pl

from shoal.decoding import BeamTree, Candidate
from shoal.decoding.tree import CUT, FATES, FINISHED, KEPT, PRUNED
from shoal.report.figures import COLOURS, Chart, styled

_COLOURS = {KEPT: COLOURS[0], FINISHED: COLOURS[2], CUT: COLOURS[4], PRUNED: "#8c8c8c"}
_SHAPES = {KEPT: "circle", FINISHED: "square", CUT: "diamond", PRUNED: "cross"}
_ROW, _STEP = 26, 130  # pixels of a line of text, and from a step to the next
_LONGEST = 14  # signs of a token in a label, whose line is as long as a step
_TRUNK = "#b0b0b0"
_ROOM = 0.8  # steps, for the name of the prompt
MOST_ROWS = 60  # leaves; of more a reader would see a thicket


def beam_tree(tree: BeamTree, title: str, names: Sequence[str] | None = None, root: str = "BOS") -> Chart:
    """Steps from left to right: from each parent a trunk, and from that a line to each child that has its token over
    it, with the log probability up to there. Nothing crosses a label.

    Where there are more than :data:`MOST_ROWS` leaves, those that were pruned are left out, and the words beside the
    picture say so.

    Args:
        tree: of one prompt.
        title: over the picture.
        names: of the tokens, by index; their numbers when not given.
        root: label of the prompt.
    """
    shown = _shown(tree)
    heights = _heights(shown)
    nodes, edges, trunks = _drawn(shown, heights, names, root)
    colours = alt.Scale(domain=list(_COLOURS), range=list(_COLOURS.values()))
    shapes = alt.Scale(domain=list(_SHAPES), range=list(_SHAPES.values()))
    colour = alt.Color("fate:N", title=None, scale=colours, legend=alt.Legend(orient="bottom"))
    shape = alt.Shape("fate:N", title=None, scale=shapes, legend=alt.Legend(orient="bottom"))
    last = tree.steps
    x = alt.X(
        "step:Q",
        title="tokens",
        scale=alt.Scale(domain=[-_ROOM, last + 0.1], nice=False),
        axis=alt.Axis(values=list(range(last + 1)), grid=False, format="d"),
    )
    lowest = max(heights.values())
    y = alt.Y("y:Q", axis=None, scale=alt.Scale(domain=[lowest + 0.5, -0.8], nice=False))
    dash = alt.condition(f"datum.fate === '{PRUNED}'", alt.value([3, 3]), alt.value([1, 0]))
    text: Any = {"align": "left", "baseline": "bottom", "dx": 6, "dy": -2, "fontSize": 11}
    first: Any = {"align": "right", "baseline": "middle", "dx": -8, "fontSize": 11}
    at_first, labels = alt.datum.step == 0, alt.Text("label:N")
    layers = [
        alt.Chart(trunks).encode(x, y, alt.Y2("y2")).mark_rule(strokeWidth=1.4, color=_TRUNK),
        alt.Chart(edges).encode(x, y, alt.X2("step2"), colour).mark_rule(strokeWidth=1.4).encode(strokeDash=dash),
        alt.Chart(nodes).transform_filter(~at_first).mark_text(**text).encode(alt.X("from:Q"), y, labels),
        alt.Chart(nodes).transform_filter(at_first).mark_text(**first).encode(x, y, labels),
        alt.Chart(nodes).mark_point(filled=True, size=60, opacity=1).encode(x, y, colour, shape),
    ]
    size = {"width": round(_STEP * (last + _ROOM + 0.1)), "height": max(_ROW * (lowest + 1.3), 2 * _ROW)}
    return styled(alt.layer(*layers).properties(title=title, **size), _told(tree, shown, title, names))


def _drawn(
    shown: list[Candidate], heights: dict[int, float], names: Sequence[str] | None, root: str
) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """Nodes with their labels and where these begin, lines to them, and trunks from which lines go."""
    steps = {0: 0} | {candidate.node: candidate.step for candidate in shown}
    nodes = [{"step": 0, "from": 0, "y": heights[0], "label": _short(root), "fate": KEPT}]
    edges, reach = [], {0: [heights[0]]}
    for candidate in shown:
        name, y = str(candidate.token) if names is None else names[candidate.token], heights[candidate.node]
        label, begin = f"{_short(name)} −{abs(candidate.log_p):.2f}", steps[candidate.parent]
        nodes.append({"step": candidate.step, "from": begin, "y": y, "label": label, "fate": candidate.fate})
        edges.append((begin, y, candidate.step, candidate.fate))
        reach.setdefault(candidate.parent, [heights[candidate.parent]]).append(y)
    trunks = [(steps[node], min(ys), max(ys)) for node, ys in reach.items()]
    lines = {"step": pl.Int64, "y": pl.Float64, "step2": pl.Int64, "fate": pl.String}
    upright = {"step": pl.Int64, "y": pl.Float64, "y2": pl.Float64}
    columns = {"step": pl.Int64, "from": pl.Float64, "y": pl.Float64, "label": pl.String, "fate": pl.String}
    return (
        pl.DataFrame(nodes, schema=columns),
        pl.DataFrame(edges, schema=lines, orient="row"),
        pl.DataFrame(trunks, schema=upright, orient="row"),
    )


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…"


def _shown(tree: BeamTree) -> list[Candidate]:
    parents = {candidate.parent for candidate in tree.candidates}
    leaves = sum(candidate.node not in parents for candidate in tree.candidates)
    return [candidate for candidate in tree.candidates if leaves <= MOST_ROWS or candidate.fate != PRUNED]


def _heights(shown: list[Candidate]) -> dict[int, float]:
    """Row of each node: leaves from above in their order, others in the middle of their children."""
    children: dict[int, list[Candidate]] = {}
    for candidate in shown:
        children.setdefault(candidate.parent, []).append(candidate)
    heights: dict[int, float] = {}

    def place(node: int, next_row: int) -> int:
        below = sorted(children.get(node, []), key=lambda candidate: (-candidate.added, candidate.token))
        for candidate in below:
            next_row = place(candidate.node, next_row)
        heights[node] = (heights[below[0].node] + heights[below[-1].node]) / 2 if below else float(next_row)
        return next_row if below else next_row + 1

    place(0, 0)
    return heights


def _told(tree: BeamTree, shown: list[Candidate], title: str, names: Sequence[str] | None) -> str:
    by_node = {candidate.node: candidate for candidate in tree.candidates}
    done = sorted(
        (candidate for candidate in tree.candidates if candidate.fate in (FINISHED, CUT)),
        key=lambda candidate: -candidate.score,
    )
    texts = []
    for candidate in done[:3]:
        path, at = [], candidate.node
        while at:
            path.append(by_node[at].token)
            at = by_node[at].parent
        words = " ".join(str(token) if names is None else names[token] for token in reversed(path))
        texts.append(f"{words!r} with {candidate.log_p:.2f} ({candidate.fate})")
    counts = ", ".join(f"{sum(candidate.fate == fate for candidate in tree.candidates)} {fate}" for fate in FATES)
    hidden = "" if len(shown) == len(tree.candidates) else " Pruned ones are not drawn."
    best = "; ".join(texts) or "none"
    steps = f"{tree.steps} step{'s' * (tree.steps != 1)}"
    return f"{title}. Of {len(tree.candidates)} candidates in {steps}: {counts}.{hidden} Best: {best}."
