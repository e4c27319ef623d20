r"""
Attention is message passing on a graph
=======================================

A graph neural network passes messages along edges, and an attention head is one on the graph of who sees whom.

A graph neural network updates the state :math:`h_i` of each vertex from the messages of those that have an edge to it:

.. math:: h_i^{t+1} = q\bigl(h_i^t,\ \mathrm{Agg}(\{f_{ji}(h_j^t) : v_j \in \mathcal N(v_i)\})\bigr) .

An attention head updates the state of each token from all tokens, :math:`h_i' = \sum_j \mathrm{softmax}_j(Q h_i \cdot K
h_j)\, V h_j`. This page shows, on a head of a trained model, that the second is a case of the first.

*Source: a course on deep learning, T3.6, with its questions (a) to (e).*
"""

import torch

import shoal
from shoal.exact import (
    Graph,
    attention_by_messages,
    fully_connected,
    message_passing,
    seen_graph,
    softmax_average,
    total,
)
from shoal.gallery import Axis, Choice, Panel, check, dots, figure, rule, trained, words
from shoal.tasks import get_arithmetic_dataset


def aggregate_alone(h, aggregate):
    """Update that forgets the state before: q(h, Agg) = Agg."""
    return aggregate


# %%
# T3.6 (a): the sum as aggregation
# --------------------------------
# If Agg is the sum over the neighbours, :math:`h_i^{t+1} = q\bigl(h_i^t, \sum_{j:\, v_j \in \mathcal N(v_i)}
# f_{ji}(h_j^t)\bigr)`. In the library, ``message_passing(graph, h, f, total, q)``. On a graph of three vertices with
# the edges 1 → 2 and 3 → 2, vertex 2 receives both messages and the others nothing:

h = torch.tensor([[1.0], [10.0], [100.0]])
sums = message_passing(Graph(3, [(0, 1), (2, 1)]), h, lambda sender, _: 2 * sender, total, aggregate_alone)
check("sum that vertex 2 receives of f(x) = 2x", sums[1, 0], 202)
check("sum that vertex 1 receives", sums[0, 0], 0)

# %%
# T3.6 (b): a numeric example
# ---------------------------
# Vertex 1 receives from vertices 2, 3 and 4, with the shares 0.6, 0.2 and 0.2 and :math:`f(x) = 2x`. The update is
# :math:`q(h, a) = W h^\top + \max(a, 0)` with :math:`W = (1, 1)`. The aggregate is :math:`(-0.8, 0.8)`, :math:`W
# h_1^\top = 1 - 1 = 0`, and so :math:`h_1` becomes :math:`(0, 0.8)`.

h = torch.tensor([[1.0, -1], [-1, 1], [0, -1], [1, 0]], dtype=torch.float64)
graph = Graph(4, [(1, 0), (2, 0), (3, 0)])
shares = torch.tensor([[0.6], [0.2], [0.2]], dtype=torch.float64)
W = torch.ones(1, 2, dtype=torch.float64)


def message(sender, receiver):
    """Message 2 h_j, times the share of the edge."""
    return shares * 2 * sender


aggregate = message_passing(graph, h, message, total, aggregate_alone)[0]
check("aggregate of vertex 1, first entry", aggregate[0], -0.8, 1e-12, document="not given", erratum="E16")
check("aggregate of vertex 1, second entry", aggregate[1], 0.8, 1e-12, document="not given", erratum="E16")
after = message_passing(graph, h, message, total, lambda h, a: h @ W.T + a.clamp(min=0))[0]
check("vertex 1 after the step, first entry", after[0], 0, 1e-12, document="not given", erratum="E16")
check("vertex 1 after the step, second entry", after[1], 0.8, 1e-12, document="not given", erratum="E16")

# %%
# T3.6 (c): edges of a sentence
# -----------------------------
# "I eat red apples" as a fully connected graph has an edge from each of the 4 tokens to each of the 3 others: 12.
# Attention itself has 16, because a token attends to itself as well.

tokens = ["I", "eat", "red", "apples"]
edges = len(fully_connected(len(tokens)).edges)
check("edges between different tokens", edges, 12, document="not given", erratum="E17")
check("edges of attention, with those to itself", len(fully_connected(len(tokens), loops=True).edges), 16)

# %%
# T3.6 (d): a head as a graph neural network
# ------------------------------------------
# The graph is that of who may see whom. There are two ways to write the head:
#
# * The message is :math:`f_{ji}(h_j) = \alpha_{ij} V h_j`, and Agg is the sum. Then :math:`f_{ji}` must know the weight
#   :math:`\alpha_{ij}`, which depends on the scores of *all* tokens and not on the two ends of the edge.
# * The message is the pair :math:`(Q h_i \cdot K h_j,\ V h_j)`, which depends on the two ends alone, and Agg is the
#   average of the values weighted by the softmax of the scores. So the normalising belongs into Agg.
#
# In both, :math:`q(h_i, a) = a`. (Even the score needs :math:`h_i`, where the definition gives :math:`f_{ji}` only
# :math:`h_j`; the query of the receiver is part of what the edge :math:`j \to i` is.)
#
# Both are computed here for all heads of a GPT that has learned addition modulo 7, on the equation "3 + 5 =".

spec = shoal.RunSpec(
    model="gpt", p=7, r_train=0.7, embedding_size=16, num_layers=2, num_heads=4, n_steps=300, lr=3e-3, seed=0
)
model = trained(spec).model().double()
_, tokenizer, _, _ = get_arithmetic_dataset(p=7, q=7, operator="+", r_train=0.7)
equation = tokenizer.encode("BOS 3 + 5 =")
names = ["BOS", "3", "+", "5", "="]
with torch.no_grad():
    _, (hidden_states, attentions) = model(equation.unsqueeze(0))

drawn = {"head": [], "from_x": [], "from_y": [], "to_x": [], "to_y": [], "weight": []}
mean_context, off_two, off_one = {}, 0.0, 0.0
for layer, block in enumerate(model.decoder.blocks):
    attention, h = block.self_attn, hidden_states[0, layer]
    size = attention.head_size
    with torch.no_grad():
        q, k, v = (attention.split_heads(W(h.unsqueeze(0))) for W in (attention.W_Q, attention.W_K, attention.W_V))
        context, weights = attention.apply_attention(q, k, v)
        by_messages = []
        for head in range(attention.num_heads):
            graph = seen_graph(weights[0, head] > 0)
            alpha = weights[0, head, graph.receivers, graph.senders].unsqueeze(1)
            values = v[0, head]
            one = message_passing(graph, values, lambda sender, _, alpha=alpha: alpha * sender, total, aggregate_alone)
            two = attention_by_messages(attention, h, head)
            by_messages.append(two)
            expected = context[0, :, head * size : (head + 1) * size]
            off_one = max(off_one, (one - expected).abs().max().item())
            off_two = max(off_two, (two - expected).abs().max().item())
            for j, i in graph.edges:
                drawn["head"].append(f"layer {layer + 1}, head {head + 1}")
                drawn["from_x"].append(j)
                drawn["from_y"].append(0)
                drawn["to_x"].append(i)
                drawn["to_y"].append(1)
                drawn["weight"].append(weights[0, head, i, j].item())
        whole = attention.W_O(torch.cat(by_messages, dim=1))
        check(
            f"layer {layer + 1}: difference of all heads together from the layer",
            (whole - attention(h[None], h[None], h[None])[0][0]).abs().max(),
            0,
            1e-12,
        )
check("largest difference with weights in the message", off_one, 0, 1e-12)
check("largest difference with the softmax in Agg", off_two, 0, 1e-12)
check("edges of the causal graph of 5 tokens, loops included", len(graph.edges), 15)

ends = {"x": list(range(5)) * 2, "y": [0] * 5 + [1] * 5}
widest = max(weight for weight, x in zip(drawn["weight"][:15], drawn["to_x"][:15], strict=True) if x == 4)
figure(
    Panel(
        [
            rule(drawn, "from_x", "from_y", "to_x", "to_y", width="weight"),
            dots(ends, "x", "y", size=60),
            words({"x": range(5), "y": [-0.12] * 5, "token": names}, "x", "y", "token"),
            words({"x": range(5), "y": [1.12] * 5, "token": names}, "x", "y", "token"),
        ],
        Axis(hidden=True, domain=(-0.5, 4.5)),
        Axis(hidden=True, domain=(-0.3, 1.3)),
        title="Messages from the tokens below to those above",
        width=420,
        height=260,
    ),
    move=Choice("head", "head", "layer 1, head 1"),
    caption="The graph of an attention head of a trained GPT; the thicker an edge, the larger its weight. A token sees "
    "itself and those before it, so no edge leads to the left.",
    alternative="Fifteen edges from five tokens below to five above; the widest edge into '=' in the first head has "
    f"the weight {widest:.2f}.",
)

# %%
# T3.6 (e): long sentences
# ------------------------
# A fully connected graph of :math:`n` tokens has :math:`n^2` edges: time and memory grow with the square. And each
# vertex averages over all :math:`n` others, relevant or not. A token whose score exceeds those of the rest by a fixed
# margin of 5 has almost all of the weight among 16 tokens and almost none among 65,536: to be heard in a longer
# sentence, scores must grow with :math:`\ln n`. A graph with fewer edges, such as one of neighbours, costs less, but
# then a message needs many steps to cross the sentence, with the problem of vanishing signals that recurrent networks
# have.

for n, expected in ((16, 256), (64, 4096), (256, 65536)):
    check(f"edges of attention among {n} tokens", len(fully_connected(n, loops=True).edges), expected)
for n, expected in ((16, 0.9082), (1024, 0.1267), (65536, 0.00226)):
    scores = torch.zeros(n, 1, dtype=torch.float64)
    scores[0] = 5.0
    speaks = (torch.arange(n) == 0).double().unsqueeze(1)  # a value of 1 from the token that counts
    heard = softmax_average(torch.cat([scores, speaks], dim=1), torch.zeros(n, dtype=torch.int64), 1)[0, 0]
    check(f"weight of the token with margin 5 among {n:,}", heard, expected, 5e-4 * expected + 5e-6)
