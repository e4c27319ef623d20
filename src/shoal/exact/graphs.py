"""Message passing on a directed graph, and attention as an instance of it.

Source: the deep learning course, problem 3.6, eq. (16): ``h_i' = q(h_i, Agg({f_ji(h_j) | v_j → v_i}))``, for all
vertices at once.

In attention, eq. (18), every token sends its value to every other. A weight of the softmax needs the scores of *all*
neighbours, which the function f_ji of one edge does not see, so its normalisation belongs into Agg:
:func:`softmax_average`. :func:`attention_by_messages` computes a head in this way.

Shapes: ``V`` vertices, ``E`` edges, ``D`` width of a state, ``M`` width of a message.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from shoal.errors import UserError
from shoal.models.attention import MultiHeadedAttention

Message = Callable[[Tensor, Tensor], Tensor]  # (states of the senders (E, D), of the receivers (E, D)) -> (E, M)
Aggregate = Callable[[Tensor, Tensor, int], Tensor]  # (messages (E, M), receivers (E,), V) -> (V, A)
Update = Callable[[Tensor, Tensor], Tensor]  # (states (V, D), aggregates (V, A)) -> (V, D')


@dataclass(frozen=True)
class Graph:
    """Directed graph: edges ``(j, i)`` from a sender j to a receiver i.

    Attributes:
        vertices: number of vertices, V; they are numbered from 0.
        edges: pairs (sender, receiver), each once.

    Raises:
        UserError: an edge ends at no vertex, or stands twice.
    """

    vertices: int
    edges: tuple[tuple[int, int], ...]

    def __init__(self, vertices: int, edges: Sequence[tuple[int, int]]) -> None:
        pairs = tuple((int(sender), int(receiver)) for sender, receiver in edges)
        for pair in pairs:
            if not all(0 <= end < vertices for end in pair):
                raise UserError(f"edge {pair}: vertices are 0 to {vertices - 1}")
        if len(set(pairs)) < len(pairs):
            raise UserError(f"edge {next(pair for pair in pairs if pairs.count(pair) > 1)} stands twice")
        object.__setattr__(self, "vertices", vertices)
        object.__setattr__(self, "edges", pairs)

    @property
    def senders(self) -> Tensor:
        """Sender of each edge, ``(E,)``, int64."""
        return torch.tensor([sender for sender, _ in self.edges], dtype=torch.int64)

    @property
    def receivers(self) -> Tensor:
        """Receiver of each edge, ``(E,)``, int64."""
        return torch.tensor([receiver for _, receiver in self.edges], dtype=torch.int64)


def fully_connected(vertices: int, loops: bool = False) -> Graph:
    """Graph with every edge between two vertices, n (n − 1) of them; with ``loops`` also those to themselves, n².

    >>> len(fully_connected(4).edges), len(fully_connected(4, loops=True).edges)
    (12, 16)
    """
    return Graph(vertices, [(j, i) for i in range(vertices) for j in range(vertices) if loops or i != j])


def seen_graph(seen: Tensor) -> Graph:
    """Graph of a mask: an edge from key j to query i where ``seen[i, j]``, ``(V, V)``, bool, True = may be seen."""
    return Graph(len(seen), [(j, i) for i, j in seen.nonzero().tolist()])


def message_passing(graph: Graph, h: Tensor, message: Message, aggregate: Aggregate, update: Update) -> Tensor:
    """One step of all vertices at once, eq. (16).

    Args:
        graph: the graph.
        h: states, ``(V, D)``.
        message: f, of the states of senders and receivers of all edges, ``(E, D)`` each.
        aggregate: Agg, such as :func:`total` or :func:`softmax_average`; 0 for a vertex that receives nothing.
        update: q, of the states and the aggregates.

    Returns:
        The states after the step, ``(V, …)``.

    Raises:
        UserError: there is not one state per vertex.
    """
    if h.ndim != 2 or len(h) != graph.vertices:
        raise UserError(f"h has the shape {tuple(h.shape)}: it must have a row for each of {graph.vertices} vertices")
    messages = message(h[graph.senders], h[graph.receivers])
    return update(h, aggregate(messages, graph.receivers, graph.vertices))


def total(messages: Tensor, receivers: Tensor, vertices: int) -> Tensor:
    """Sum of the messages that each vertex receives, ``(E, M) -> (V, M)``; the aggregation of question (a)."""
    return messages.new_zeros(vertices, *messages.shape[1:]).index_add(0, receivers, messages)


def softmax_average(messages: Tensor, receivers: Tensor, vertices: int) -> Tensor:
    """Average of messages weighted by the softmax of their scores.

    Args:
        messages: score, then value, ``(E, 1 + M)``.
        receivers: receiver of each, ``(E,)``.
        vertices: number of vertices, ``V``.

    Returns:
        ``(V, M)``; 0 for a vertex that receives nothing.
    """
    scores, values = messages[:, 0], messages[:, 1:]
    largest = scores.new_full((vertices,), -torch.inf).scatter_reduce(0, receivers, scores, "amax")
    weights = torch.exp(scores - largest[receivers]).unsqueeze(1)  # (E, 1)
    sums = total(torch.cat([weights, weights * values], dim=1), receivers, vertices)  # (V, 1 + M)
    return sums[:, 1:] / torch.where(sums[:, :1] > 0, sums[:, :1], 1.0)


def attention_by_messages(attention: MultiHeadedAttention, h: Tensor, head: int, graph: Graph | None = None) -> Tensor:
    """Context of one head, eq. (18), by passing messages.

    An edge sends its key's score for the receiver's query, and its value; both depend on its two ends alone.

    Args:
        attention: the layer whose weights are used; without rotary positions.
        h: states of the tokens, ``(V, D)``.
        head: number of the head, from 0.
        graph: who sends to whom; when not given, what the layer's mask lets be seen.

    Returns:
        ``(V, head_size)``: the average of values, before the heads are merged and multiplied by W_O.

    Raises:
        UserError: there is no such head, or the layer rotates by positions.
    """
    if head not in range(attention.num_heads):
        raise UserError(f"head {head}: the layer has 0 to {attention.num_heads - 1}")
    if attention.rotary:
        raise UserError("rotary positions are not supported: scores would depend on where the ends of an edge stand")
    n, size = len(h), attention.head_size
    if graph is None:
        graph = seen_graph(attention.visible(n, n, h.device)) if attention.causal else fully_connected(n, loops=True)
    own_part = slice(head * size, (head + 1) * size)

    def message(sender: Tensor, receiver: Tensor) -> Tensor:
        query, key, value = (
            W(ends)[:, own_part]
            for W, ends in ((attention.W_Q, receiver), (attention.W_K, sender), (attention.W_V, sender))
        )  # (E, head_size) each
        score = (query * key).sum(dim=1, keepdim=True) / size**0.5
        return torch.cat([score, value], dim=1)

    return message_passing(graph, h, message, softmax_average, lambda _, average: average)
