"""The tree of a beam search as a picture: what each step kept, and what it let go."""

from collections.abc import Sequence
from typing import Any

import altair as alt
import polars as pl

from shoal.decoding import BeamTree, Candidate
from shoal.decoding.tree import CUT, FATES, FINISHED, KEPT, PRUNED
from shoal.report.figures import COLOURS, Chart, styled

_COLOURS = {KEPT: COLOURS[0], FINISHED: COLOURS[2], CUT: COLOURS[4], PRUNED: "#8c8c8c"}
_SHAPES = {KEPT: "circle", FINISHED: "square", CUT: "diamond", PRUNED: "cross"}
_ROW, _STEP = 26, 150  # pixels of a line of text, and from a step to the next
MOST_ROWS = 60  # leaves; of more a reader would see a thicket


def beam_tree(tree: BeamTree, title: str, names: Sequence[str] | None = None, root: str = "BOS") -> Chart:
    """Steps from left to right, each candidate below its parent's edge, with the log probability up to it.

    Where there are more than :data:`MOST_ROWS` leaves, those that were pruned are left out, and the words beside the
    picture say so.

    Args:
        tree: of one prompt.
        title: over the picture.
        names: of the tokens, by index; their numbers when not given.
        root: what the prompt is called.
    """
    shown = _shown(tree)
    heights = _heights(shown)
    nodes, edges = _drawn(shown, heights, names, root)
    colours = alt.Scale(domain=list(_COLOURS), range=list(_COLOURS.values()))
    shapes = alt.Scale(domain=list(_SHAPES), range=list(_SHAPES.values()))
    colour = alt.Color("fate:N", title=None, scale=colours, legend=alt.Legend(orient="bottom"))
    shape = alt.Shape("fate:N", title=None, scale=shapes, legend=alt.Legend(orient="bottom"))
    last = tree.steps
    x = alt.X(
        "step:Q",
        title="tokens",
        scale=alt.Scale(domain=[0, last + 0.9], nice=False),  # room for the last labels
        axis=alt.Axis(values=list(range(last + 1)), grid=False, format="d"),
    )
    lowest = max(heights.values())
    y = alt.Y("y:Q", axis=None, scale=alt.Scale(domain=[lowest + 0.5, -0.5], nice=False))
    lines = alt.Chart(edges).encode(x, y, alt.X2("step2"), alt.Y2("y2"), colour)
    dash = alt.condition(f"datum.fate === '{PRUNED}'", alt.value([3, 3]), alt.value([1, 0]))
    layers = [lines.mark_rule(strokeWidth=1.4).encode(strokeDash=dash)]
    for dy, some in ((-10, nodes.filter(~pl.col("leaf"))), (0, nodes.filter("leaf"))):
        text = alt.Chart(some).encode(x, y, alt.Text("label:N"))
        form: Any = {"align": "left", "baseline": "middle", "dx": 8, "dy": dy, "fontSize": 11}
        # Edges pass behind what stands above a node.
        layers += [text.mark_text(**form, stroke="white", strokeWidth=4, strokeJoin="round"), text.mark_text(**form)]
    layers.append(alt.Chart(nodes).mark_point(filled=True, size=60, opacity=1).encode(x, y, colour, shape))
    size = {"width": _STEP * (last + 1), "height": max(_ROW * (lowest + 1), 2 * _ROW)}
    return styled(alt.layer(*layers).properties(title=title, **size), _told(tree, shown, title, names))


def _drawn(
    shown: list[Candidate], heights: dict[int, float], names: Sequence[str] | None, root: str
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Nodes with their labels, and edges to them."""
    parents = {own.parent for own in shown}
    steps = {0: 0} | {own.node: own.step for own in shown}
    nodes = [{"step": 0, "y": heights[0], "label": root, "fate": KEPT, "leaf": not shown}]
    edges = []
    for own in shown:
        name, y = str(own.token) if names is None else names[own.token], heights[own.node]
        label = f"{name} −{abs(own.log_p):.2f}"
        nodes.append({"step": own.step, "y": y, "label": label, "fate": own.fate, "leaf": own.node not in parents})
        edges.append((steps[own.parent], heights[own.parent], own.step, y, own.fate))
    columns = {"step": pl.Int64, "y": pl.Float64, "step2": pl.Int64, "y2": pl.Float64, "fate": pl.String}
    return pl.DataFrame(nodes), pl.DataFrame(edges, schema=columns, orient="row")


def _shown(tree: BeamTree) -> list[Candidate]:
    parents = {own.parent for own in tree.candidates}
    leaves = sum(own.node not in parents for own in tree.candidates)
    return [own for own in tree.candidates if leaves <= MOST_ROWS or own.fate != PRUNED]


def _heights(shown: list[Candidate]) -> dict[int, float]:
    """Of each node its row: leaves from above in their order, others in the middle of their children."""
    children: dict[int, list[Candidate]] = {}
    for own in shown:
        children.setdefault(own.parent, []).append(own)
    heights: dict[int, float] = {}

    def place(node: int, next_row: int) -> int:
        below = sorted(children.get(node, []), key=lambda own: (-own.added, own.token))
        for own in below:
            next_row = place(own.node, next_row)
        heights[node] = (heights[below[0].node] + heights[below[-1].node]) / 2 if below else float(next_row)
        return next_row if below else next_row + 1

    place(0, 0)
    return heights


def _told(tree: BeamTree, shown: list[Candidate], title: str, names: Sequence[str] | None) -> str:
    by_node = {own.node: own for own in tree.candidates}
    done = sorted((own for own in tree.candidates if own.fate in (FINISHED, CUT)), key=lambda own: -own.score)
    texts = []
    for own in done[:3]:
        path, at = [], own.node
        while at:
            path.append(by_node[at].token)
            at = by_node[at].parent
        words = " ".join(str(token) if names is None else names[token] for token in reversed(path))
        texts.append(f"{words!r} with {own.log_p:.2f} ({own.fate})")
    counts = ", ".join(f"{sum(own.fate == fate for own in tree.candidates)} {fate}" for fate in FATES)
    hidden = "" if len(shown) == len(tree.candidates) else " Pruned ones are not drawn."
    best = "; ".join(texts) or "none"
    return f"{title}. Of {len(tree.candidates)} candidates in {tree.steps} steps: {counts}.{hidden} Best: {best}."
