r"""
Greedy search, beam search, and what they miss
==============================================

Greedy search, beam search and exhaustive search look for the likeliest text; the first two can miss it.

A model gives :math:`\log p(w_t \mid w_{0:t-1})`. The likeliest sequence of :math:`T` words from a vocabulary of
:math:`N` is among :math:`N^T`. Greedy search takes the likeliest word at each step; beam search keeps the :math:`B`
likeliest sequences (*Algorithm 1*); exhaustive search looks at all.

This page searches with the library's own functions, ``generate_from``, ``beam_search`` and ``exhaustive_search``, which
take any object that steps: here a tree of words, then a GPT that is trained in the page.

*Source: exercises on representations, R2, questions 1 to 5. The document's answers are a student's; where they are
wrong, the row of the errata stands beside the number.*
"""

import torch

import shoal
from shoal.decoding import Beam, beam_search, check_exhaustive, decoder_for, exhaustive_search, generate_from
from shoal.gallery import Axis, Panel, Slider, check, dots, figure, line, rule, trained, words

# %%
# All sequences
# -------------
# *Questions 1 and 2.* There are :math:`N^T` sequences of :math:`T` words behind BOS. With 10,000 words, ten of them
# make :math:`10^{40}`. The library refuses to look at so many.

check("sequences of 10 words of a vocabulary of 10,000", 10_000**10, 1e40)
try:
    check_exhaustive(10_000, 10)
except shoal.UserError as error:
    print(error)

# %%
# A tree of words
# ---------------
# *Question 4.* The tree of the document, with log probabilities at its edges. Those below *a red* stand only in a
# picture that is lost; call the best of them :math:`x` (E21). ``Tree`` steps through it as a model does.

WORDS = ["the", "a", "green", "red", "blue", "circle", "rectangle", "ellipse", "square", "triangle"]
EDGES = {
    (): {"the": -1.7, "a": -2.0},
    ("the",): {"green": -3.6, "red": -3.3},
    ("a",): {"blue": -2.7, "red": -2.9},
    ("the", "red"): {"circle": -5.0, "rectangle": -4.7},
    ("a", "blue"): {"ellipse": -5.6, "square": -5.2},
}


class Tree:
    """Model of one member whose log probabilities are the edges of the tree, with ``x`` below *a red*."""

    def __init__(self, x):
        self.edges = {**EDGES, ("a", "red"): {"triangle": x}}

    def start(self):
        state = {"text": torch.full((1, 1, 3), -1)}
        return state, self.after(state)

    def after(self, state):
        rows = []
        for tokens in state["text"][0].tolist():
            below = self.edges.get(tuple(WORDS[token] for token in tokens if token >= 0), {})
            rows.append([below.get(word, float("-inf")) for word in WORDS])
        return torch.tensor([rows], dtype=torch.float64)  # (1, N, V)

    def step(self, tokens, state, counts=None, *, last=False):
        text = state["text"].clone()
        length = (text[0, 0] >= 0).sum()
        text[..., length] = tokens[..., 0]
        return self.after({"text": text}).unsqueeze(2), {"text": text}

    def select(self, state, rows):
        return {"text": state["text"][:, rows] if rows.ndim == 1 else state["text"][:, rows[0]]}


def beam(x, B):
    """The ``B`` best sequences that a beam search of width ``B`` finds, as pairs of text and log probability."""
    tree = Tree(x)
    searched = beam_search(tree, *tree.start(), 3, Beam(B), from_logits=False, record=True)
    best = searched.hypotheses
    texts = [" ".join(WORDS[token] for token in tokens) for tokens in best.tokens[0, 0]]
    return list(zip(texts, best.log_p[0, 0].tolist(), strict=True)), searched


# %%
# *4(a).* Greedy search follows −1.7, −3.3 and −4.7.

tree = Tree(-5.5)
greedy = generate_from(tree, *tree.start(), 3)
check("greedy: the words", " ".join(WORDS[token] for token in greedy.tokens[0, 0]), "the red rectangle")
GREEDY = check("greedy: log probability", beam(-5.5, 1)[0][0][1], -9.7, 1e-9)

# %%
# *4(b).* A beam of two. Step 2 keeps the two best of four: *a blue* and *a red*, both better than *the red*, which the
# document keeps. So the sequence of greedy search is lost, and both survivors begin with *a*.

pairs, searched = beam(-5.5, 2)
second = [candidate for candidate in searched.trees[0][0].candidates if candidate.step == 2]
check("step 2, first place", second[0].log_p, -4.7, 1e-9)
check("step 2, second place", second[1].log_p, -4.9, 1e-9, document="-5.0 (the red)", erratum="E12")
check("step 2, what becomes of the red", second[2].fate, "pruned", document="kept", erratum="E12")
check("first sequence, x = -5.5", pairs[0][0], "a blue square", document="the red rectangle", erratum="E12")
check("log probability of the first sequence", pairs[0][1], -9.9, 1e-9, document="-9.7", erratum="E12")
check("second sequence, x = -5.5", pairs[1][0], "a blue ellipse", document="a blue square", erratum="E12")
check("log probability of the second sequence", pairs[1][1], -10.3, 1e-9, document="-9.9", erratum="E12")

# %%
# In Algorithm 1 all :math:`B` hypotheses begin as BOS with score 0, and the first step finds each word :math:`B` times
# (E13). The library expands one hypothesis in the first step and :math:`B` in each later one.

check("hypotheses expanded, B = 2, T = 3", searched.expanded[0, 0], 1 + 2 * (3 - 1), document="6", erratum="E13")

# %%
# The answer depends on x
# -----------------------
# With :math:`x > -4.8` the beam of two finds something better than greedy search, with less it does worse than greedy
# search, although it looks at more. A beam of three keeps *the red* and has the greedy sequence again. Move :math:`x`.

values = [round(-7 + 0.1 * k, 1) for k in range(31)]
found = {B: {x: beam(x, B)[0] for x in values} for B in (1, 2, 3)}
worse = [x for x in values if found[2][x][0][1] < GREEDY - 1e-9]
check("largest x (of tenths) at which two are worse than greedy", max(worse), -4.9, 1e-9, erratum="E21")
check("x at which two and greedy are equal", max(worse) + 0.1, -4.8, 1e-9, erratum="E21")
check("number of x at which three are worse than greedy", sum(found[3][x][0][1] < GREEDY - 1e-9 for x in values), 0)
for x in (-6.0, -4.0):
    tree = Tree(x)
    best = exhaustive_search(tree, *tree.start(), 3, 1, from_logits=False)
    check(f"best of all sequences and of three beams, x = {x}", best.log_p[0, 0, 0], found[3][x][0][1], 1e-9)

places = {(): (0, 0)}
for level, names in enumerate((("the", "a"), ("the green", "the red", "a blue", "a red")), 1):
    for k, name in enumerate(names):
        places[tuple(name.split())] = (level, (k + 0.5) * 8 / len(names) - 4)
leaves = ("the red circle", "the red rectangle", "a blue ellipse", "a blue square", "a red triangle")
for k, name in enumerate(leaves):
    places[tuple(name.split())] = (3, -2.6 + 1.45 * k)
edges = {"x": [], "x0": [], "y0": [], "x1": [], "y1": [], "kind": []}
names = {"x0": [], "y0": [], "word": []}
numbers = {"x": [], "x0": [], "y0": [], "edge": []}
for path, (across, up) in places.items():
    names["x0"].append(across)
    names["y0"].append(-up)
    names["word"].append(path[-1] if path else "BOS")


def ends(before, across, up):
    """Beginning and end of an edge, which leave room for the words."""
    return before[0] + 0.2, -before[1], across - 0.2, -up


for x in values:
    tree = Tree(x)
    survivors = [tuple(text.split()) for text, _ in found[2][x]]
    for path, (across, up) in places.items():
        if path:
            before = places[path[:-1]]
            kept = any(text[: len(path)] == path for text in survivors)
            added = tree.edges[path[:-1]][path[-1]]
            kind = "kept to the end" if kept else "pruned"
            for name, value in zip(edges, (x, *ends(before, across, up), kind), strict=True):
                edges[name].append(value)
            middle = ((before[0] + across) / 2, -(before[1] + up) / 2)
            for name, value in zip(numbers, (x, *middle, f"{added:g}".replace("-", "−")), strict=True):
                numbers[name].append(value)

labels = {1: "greedy", 2: "beam of 2", 3: "beam of 3"}
lines = {
    "at": values * 3,
    "best": [found[B][x][0][1] for B in labels for x in values],
    "search": [name for name in labels.values() for _ in values],
}
now = {"x": lines["at"], "at": lines["at"], "best": lines["best"]}
figure(
    Panel(
        [
            rule(edges, "x0", "y0", "x1", "y1", colour="kind"),
            words(names, "x0", "y0", "word"),
            words(numbers, "x0", "y0", "edge", at="above"),
        ],
        Axis(hidden=True, domain=(-0.2, 3.4)),
        Axis(hidden=True, domain=(-4, 4)),
        title="The tree, and what a beam of two keeps",
        width=420,
        height=300,
    ),
    Panel(
        [line(lines, "at", "best", "search"), dots(now, "at", "best", size=60)],
        Axis("x, log probability of the lost edge"),
        Axis("log probability of the best sequence", domain=(-10, -8.8)),
        title="The best that each search finds",
    ),
    move=Slider("x", "x", -5.5),
    colours=["kept to the end", "pruned", *labels.values()],
    caption="Left: edges with their log probabilities. Right: a beam of two lies below greedy search where x is less "
    "than −4.8, where greedy search and a beam of three agree; above it both beams find the same, and more.",
    alternative=f"With x = −5.5 the beam of two ends at {found[2][-5.5][0][1]:.1f}, greedy search and a beam of three "
    f"at {GREEDY:.1f}. With x = −4 both beams end at {found[2][-4.0][0][1]:.1f}.",
)

# %%
# What a beam costs
# -----------------
# *Question 3.* The document counts :math:`O(TBN)` operations and :math:`O(TB)` numbers. Missing are the model, which
# reads :math:`1 + B(T - 1)` sequences, the choice of the :math:`B` best among :math:`BN` scores, which scans them
# :math:`B` times if it is done as it is written, :math:`O(TB^2N)`, and the :math:`BN` scores that a step holds (E14).
#
# Counted on a GPT that has learned addition modulo 11, which writes whole equations behind BOS:

spec = shoal.RunSpec(model="gpt", p=11, r_train=0.7, embedding_size=32, num_heads=4, n_steps=600, lr=3e-3, seed=0)
model = trained(spec).model()
parameters = {name: tensor.detach().unsqueeze(0) for name, tensor in model.named_parameters()}


class Counted:
    """Decoder that counts the sequences that its model reads, and the largest number of scores of a step."""

    def __init__(self):
        self.decoder, self.read, self.scores = decoder_for(model, parameters), 0, 0

    def start(self, T):
        bos = torch.zeros(1, 1, 1, dtype=torch.int64)
        logits, state = self.decoder.step(bos, self.decoder.start(1, T), last=True)
        self.read = 1
        return state, logits[:, :, 0]

    def step(self, tokens, state, counts=None, *, last=False):
        logits, state = self.decoder.step(tokens, state, counts, last=last)
        self.read += tokens.shape[1]
        self.scores = max(self.scores, logits.numel())
        return logits, state

    def select(self, state, rows):
        return self.decoder.select(state, rows)

    def reorder(self, state, rows):
        return self.decoder.reorder(state, rows)


rows = {"T": [], "B": [], "read": [], "what": []}
for T in (2, 3, 4, 5, 6):
    for B in (1, 2, 4, 8, 16):
        counted = Counted()
        state, logits = counted.start(T)
        N = logits.shape[-1]
        beam_search(counted, state, logits, T, Beam(B, stop="none"))
        if (T, B) in ((6, 1), (6, 8), (6, 16), (3, 16)):
            check(f"sequences that the model reads, T = {T}, B = {B}", counted.read, 1 + B * (T - 1))
            check(f"scores of a step, T = {T}, B = {B}", counted.scores, B * N, erratum="E14")
        for what, count in (("sequences read", counted.read), ("scores of a step", counted.scores)):
            rows["T"].append(T)
            rows["B"].append(B)
            rows["read"].append(count)
            rows["what"].append(what)

figure(
    Panel(
        [line(rows, "B", "read", "what"), dots(rows, "B", "read", "what")],
        Axis("width B of the beam"),
        Axis("number"),
        width=420,
    ),
    move=Slider("T", "tokens T", 6),
    caption=f"Sequences that the model reads in a search of T tokens, and scores that a step holds, N = {N} tokens.",
    alternative=f"Both grow in proportion to B: at T = 6 and B = 16 the model reads {1 + 16 * 5} sequences, and a step "
    f"holds {16 * N} scores.",
)

# %%
# *Question 5.* Greedy search cannot undo a choice. Beam search costs :math:`B` times as much, can still miss the best,
# and, as the tree shows, can even do worse than greedy search.
