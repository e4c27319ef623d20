r"""
Greedy search, beam search, and what they miss
==============================================

Greedy search, beam search and exhaustive search look for the likeliest text; the first two can miss it.

A model gives :math:`\log p(w_t \mid w_{0:t-1})`. The likeliest sequence of :math:`T` words from a vocabulary of
:math:`N` is among :math:`N^T`. Greedy search takes the likeliest word at each step; beam search keeps the :math:`B`
likeliest sequences (*Algorithm 1*); exhaustive search looks at all.

This page searches with the library's own functions, ``generate_from``, ``beam_search`` and ``exhaustive_search``, which
take any object that steps: here a tree of words, then GPTs of several vocabularies, then one that the page trains.

*Source: exercises on representations, R2, questions 1 to 5. The document's answers are a student's; where they are
wrong, the row of the errata stands beside the number.*
"""

import torch
from torch.utils.flop_counter import FlopCounterMode

import shoal
from shoal.decoding import Beam, beam_search, check_exhaustive, decoder_for, exhaustive_search, generate_from
from shoal.gallery import Axis, Choice, Panel, Slider, add_rows, check, dots, figure, line, rule, trained, words
from shoal.models import GPT
from shoal.tasks import get_arithmetic_dataset

# %%
# All sequences
# -------------
# *Questions 1 and 2.* There are :math:`N^T` sequences of :math:`T` words behind BOS. Exhaustive search over a small GPT
# finds as many, each once, and their probabilities sum to 1. With 10,000 words, ten of them make :math:`10^{40}`, at
# which the library refuses to look.


def sequences(N, T):
    """Number of sequences of T words from a vocabulary of N."""
    return N**T


def gpt(N):
    """GPT of two layers with N tokens, which has learned nothing, in float64."""
    torch.manual_seed(N)
    return GPT(num_heads=4, num_layers=2, embedding_size=32, vocabulary_size=N, sequence_length=8).double().eval()


def decoder_of(model):
    """The library's fastest decoder of one model."""
    return decoder_for(model, {name: tensor.detach().unsqueeze(0) for name, tensor in model.named_parameters()})


def begin(decoder, T, prompts=((0,),)):
    """State and logits after each prompt, ``(1, n, N)``, with places for ``T`` tokens; token 0 stands for BOS."""
    tokens = torch.tensor(prompts).unsqueeze(0)  # (1, n, S)
    _, n, S = tokens.shape
    logits, state = decoder.step(tokens, decoder.start(n, S + T - 1), last=True)
    return state, logits[:, :, 0]


for N, T in ((2, 8), (5, 1), (5, 5), (16, 3)):
    decoder = decoder_of(gpt(N))
    every = exhaustive_search(decoder, *begin(decoder, T), T, best=sequences(N, T))
    check(f"different sequences, N = {N}, T = {T}", len(set(map(tuple, every.tokens[0, 0].tolist()))), sequences(N, T))
    check(f"sum of their probabilities, N = {N}, T = {T}", every.log_p.exp().sum(), 1, 1e-9)

check("sequences of 10 words of a vocabulary of 10,000", sequences(10_000, 10), 1e40)
try:
    check_exhaustive(10_000, 10)
except shoal.UserError as error:
    refused = str(error)
check("the library's words for as many", refused.partition(" texts")[0].rpartition(" ")[2], "10^40")

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
# search, although it looks at more. A beam of three keeps *the red* and has the greedy sequence again. Move :math:`x`
# and the width :math:`B`; a beam of one is greedy search.

values = [round(-7 + 0.1 * k, 1) for k in range(31)]
found = {B: {x: beam(x, B)[0] for x in values} for B in (1, 2, 3)}
worse = [x for x in values if found[2][x][0][1] < GREEDY - 1e-9]
check("largest x (of tenths) at which two are worse than greedy", max(worse), -4.9, 1e-9, erratum="E21")
check("tenths of x at which they are, from -7 to -4.9", len(worse), 22, erratum="E21")
check("beam of two less greedy search at x = -4.8", found[2][-4.8][0][1] - GREEDY, 0, 1e-9, erratum="E21")
check("beam of two less greedy search at x = -4.7", found[2][-4.7][0][1] - GREEDY, 0.1, 1e-9, erratum="E21")
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
edges, names, numbers, best = {}, {}, {}, {}
for path, (across, up) in places.items():
    add_rows(names, x0=across, y0=-up, word=path[-1] if path else "BOS")
for x in values:
    tree = Tree(x)
    for path, (across, up) in list(places.items())[1:]:
        before = places[path[:-1]]
        added = tree.edges[path[:-1]][path[-1]]
        middle = {"x0": (before[0] + across) / 2, "y0": -(before[1] + up) / 2}
        add_rows(numbers, x=x, **middle, edge=f"{added:g}".replace("-", "−"))
        ends = {"x0": before[0] + 0.2, "y0": -before[1], "x1": across - 0.2, "y1": -up}  # with room for the words
        for B in (1, 2, 3):
            kept = any(tuple(text.split())[: len(path)] == path for text, _ in found[B][x])
            add_rows(edges, x=x, B=B, **ends, kind="kept to the end" if kept else "pruned")
SEARCHES = {1: "greedy, B = 1", 2: "beam of 2", 3: "beam of 3"}
for B, name in SEARCHES.items():
    add_rows(best, B=B, at=values, best=[found[B][x][0][1] for x in values], search=name)
lines = {name: column for name, column in best.items() if name != "B"}
now = {"x": best["at"], **best}
figure(
    Panel(
        [
            rule(edges, "x0", "y0", "x1", "y1", colour="kind"),
            words(names, "x0", "y0", "word"),
            words(numbers, "x0", "y0", "edge", at="above"),
        ],
        Axis(hidden=True, domain=(-0.2, 3.4)),
        Axis(hidden=True, domain=(-4, 4)),
        title="The tree, and what a beam of B keeps",
        width=420,
        height=300,
    ),
    Panel(
        [line(lines, "at", "best", "search"), dots(now, "at", "best", size=60)],
        Axis("x, log probability of the lost edge"),
        Axis("log probability of the best sequence", domain=(-10, -8.8)),
        title="The best that each search finds",
    ),
    move=[Slider("x", "x", -5.5), Slider("B", "width B", 2)],
    colours=["kept to the end", "pruned", *SEARCHES.values()],
    caption="Left: edges with their log probabilities. Right: a beam of two lies below greedy search where x is less "
    "than −4.8, where greedy search and a beam of three agree; above it both beams find the same, and more.",
    alternative=f"With x = −5.5 the beam of two ends at {found[2][-5.5][0][1]:.1f}, greedy search and a beam of three "
    f"at {GREEDY:.1f}. With x = −4 both beams end at {found[2][-4.0][0][1]:.1f}.",
)

# %%
# What a beam costs
# -----------------
# *Question 3.* The document counts :math:`O(TBN)` operations and :math:`O(TB)` numbers. Missing are the model, which
# reads :math:`1 + B(T - 1)` sequences, the choice of the :math:`B` best among :math:`BN` scores, which looks at all of
# them :math:`B` times if it is done as it is written, :math:`O(TB^2N)` (with a heap :math:`O(TBN \log B)`), and the
# :math:`BN` scores that a step holds (E14).
#
# Here Algorithm 1 runs as it is written, but for its first step (E13), on GPTs of 16 to 128 tokens, and counts. What a
# search costs does not depend on what its model has learned. The library's search finds the same sequences.


def algorithm_1(decoder, T, B):
    """Best log probability, and numbers of sequences read, of scores, of scores looked at, and held at once."""
    state, logits = begin(decoder, T)
    log_p, read, scores, looked, held = torch.zeros(1, 1, dtype=torch.float64), 1, 0, 0, 0
    for t in range(1, T + 1):
        s = (log_p + logits[0].log_softmax(-1)).flatten()  # s_b(j), of one hypothesis or of B
        scores, held = scores + len(s), max(held, len(s))
        chosen, log_p = [], torch.empty(B, 1, dtype=torch.float64)
        for b in range(B):
            largest = int(s.argmax())
            looked += len(s)
            log_p[b] = s[largest]
            s[largest] = -torch.inf  # so that the next one is found
            chosen.append(largest)
        if t < T:
            N = logits.shape[-1]
            state = decoder.select(state, torch.tensor([[place // N for place in chosen]]))
            words = torch.tensor([[[place % N] for place in chosen]])  # (1, B, 1)
            logits, state = decoder.step(words, state, last=True)
            logits, read = logits[:, :, 0], read + B
    return log_p[0].item(), read, scores, looked, held


SIZES, WIDTHS, LENGTHS = (16, 32, 64, 128), (1, 2, 4, 8, 16), (2, 3, 4, 5, 6)
counts, off = {}, {"best": 0, "expanded": 0, "read": 0, "scores": 0, "looked": 0, "held": 0}
for N in SIZES:
    decoder = decoder_of(gpt(N))
    for B in WIDTHS:
        for T in LENGTHS:
            log_p, read, scores, looked, held = counts[N, B, T] = algorithm_1(decoder, T, B)
            searched = beam_search(decoder, *begin(decoder, T), T, Beam(B, stop="none"))
            off["best"] += abs(searched.hypotheses.log_p[0, 0, 0].item() - log_p) > 1e-9
            off["expanded"] += searched.expanded.item() != read
            off["read"] += read != 1 + B * (T - 1)
            off["scores"] += scores != N + (T - 1) * B * N
            off["looked"] += looked != B * N + (T - 1) * B * B * N
            off["held"] += held != B * N
check("searches", len(counts), 4 * 5 * 5)
check("of which the library's search finds another best", off["best"], 0)
check("of which it reads another number of sequences", off["expanded"], 0)
check("sequences read are not 1 + B (T - 1)", off["read"], 0)
check("scores are not N + (T - 1) B N", off["scores"], 0)
check("scores looked at are not B N + (T - 1) B² N", off["looked"], 0)
check("scores held at once are not B N", off["held"], 0, erratum="E14")
check("sequences that the model reads, T = 6, B = 16", counts[16, 16, 6][1], 81)
check("scores of a step, T = 6, B = 16", counts[16, 16, 6][4], 256, erratum="E14")

# %%
# What is left out most is the model. With a width of :math:`D` and :math:`L` layers, reading one more token takes
# :math:`L (12 D^2 + 2 D T) + D N` multiplications: attention and feed-forward layer, their products with the :math:`T`
# places of the cache, and the classifier. PyTorch's own counter of operations finds as many; against them stand the
# :math:`N` scores that come of them.

D, L, multiplications = 32, 2, {}
for N in SIZES:
    for T in LENGTHS:
        model, token = gpt(N), torch.zeros(1, 1, dtype=torch.int64)
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            model.step(token, model.start(1, T), last=True)
        multiplications[N, T] = counter.get_total_flops() / 2  # with as many additions
off_count = sum(m != L * (12 * D**2 + 2 * D * T) + D * N for (N, T), m in multiplications.items())
check("counts of multiplications that are not L (12 D² + 2 D T) + D N", off_count, 0)
check("multiplications of one token over its scores, N = 128, T = 6", multiplications[128, 6] / 128, 230)

less = sum(read * multiplications[N, T] < looked for (N, _, T), (_, read, _, looked, _) in counts.items())
check("searches whose model multiplies less often than Algorithm 1 looks at a score", less, 0)

MEASURES = ("multiplications of the model", "scores looked at, as written", "scores", "sequences read")
against_N, against_B, against_T = {}, {}, {}
for (N, B, T), (_, read, scores, looked, _) in counts.items():
    values = (read * multiplications[N, T], looked, scores, read)
    add_rows(against_N, B=B, T=T, at=N, value=values, measure=MEASURES)
    add_rows(against_B, N=N, T=T, at=B, value=values, measure=MEASURES)
    add_rows(against_T, N=N, B=B, at=T, value=values, measure=MEASURES)


def against(rows, title, **axis):
    """Panel with each count against one of N, B and T."""
    layers = [line(rows, "at", "value", "measure"), dots(rows, "at", "value", "measure")]
    return Panel(layers, Axis(title, **axis), Axis(log=True, domain=(1, 1e8), format="~e"), width=215)


_, read, scores, looked, _ = counts[16, 4, 6]
figure(
    against(against_N, "tokens N of the vocabulary", log=True, domain=(14, 146)),
    against(against_B, "width B of the beam", log=True, domain=(0.9, 18)),
    against(against_T, "words T", format="d"),
    columns=3,
    move=[Choice("N", "tokens N", 16), Choice("B", "width B", 4), Slider("T", "words T", 6)],
    caption="What a search counts, on logarithmic axes but for T: each panel against one of N, B and T, at the chosen "
    "values of the two others. The choice as it is written grows with the square of B; the model costs most.",
    alternative=f"With N = 16, B = 4 and T = 6 the model reads {read} sequences and multiplies "
    f"{read * multiplications[16, 6]:,.0f} times; of {scores} scores, Algorithm 1 looks at one {looked:,} times. With "
    f"B = 16 it does so {counts[16, 16, 6][3]:,} times.",
)

# %%
# What a beam misses
# ------------------
# *Question 5.* Greedy search cannot undo a choice. Beam search costs :math:`B` times as much, can still miss the best,
# and, as the tree shows, can even do worse than greedy search. Here the GPT of 16 tokens, which has learned nothing and
# is sure of nothing, continues each of its tokens by :math:`T` others, and all :math:`16^T` sequences are looked at.

decoder, prompts, missed, best_gap = decoder_of(gpt(16)), [[token] for token in range(16)], {}, []
for T in (1, 2, 3, 4):
    best = exhaustive_search(decoder, *begin(decoder, T, prompts), T).log_p[0, :, 0]  # (16,)
    for B in WIDTHS:
        found_by_beam = beam_search(decoder, *begin(decoder, T, prompts), T, Beam(B)).hypotheses.log_p[0, :, 0]
        best_gap.append((best - found_by_beam).min())
        add_rows(missed, T=T, B=B, missed=(best - found_by_beam > 1e-9).sum().item())
check("least difference of the best of all sequences from that of a beam", min(best_gap), 0, 1e-9)
check("first tokens for which greedy search misses the best, T = 1", missed["missed"][0], 0)
check("some for which greedy search misses it, T = 4", missed["missed"][15] > 0, True)
check("fewer for which a beam of 8 misses it, T = 4", missed["missed"][18] < missed["missed"][15], True)

figure(
    Panel(
        [line(missed, "B", "missed"), dots(missed, "B", "missed", size=60)],
        Axis("width B of the beam", log=True, domain=(0.9, 18)),
        Axis("first tokens, of 16, with a miss", domain=(0, 16)),
        width=420,
    ),
    move=Slider("T", "words T", 4),
    caption="Number of first tokens for which a search of a GPT that has learned nothing misses the best sequence.",
    alternative=f"With T = 4 greedy search, B = 1, misses the best sequence for {missed['missed'][15]} of 16 first "
    f"tokens, a beam of 4 for {missed['missed'][17]} and a beam of 16 for {missed['missed'][19]}.",
)

# %%
# A model that has learned is sure, and greedy search is enough: a GPT that has learned addition modulo 11 answers all
# equations, and the best of its :math:`16^2` answers of two tokens, the sum and EOS, is the greedy one each time.

spec = shoal.RunSpec(model="gpt", p=11, r_train=0.7, embedding_size=32, num_heads=4, n_steps=600, lr=3e-3, seed=0)
_, tokenizer, _, _ = get_arithmetic_dataset(p=11, q=11, operator="+", r_train=0.7)
equations = [tokenizer.encode(f"BOS {a} + {b} =").tolist() for a in range(11) for b in range(11)]
decoder = decoder_of(trained(spec).model().double())
best = exhaustive_search(decoder, *begin(decoder, 2, equations), 2).tokens[0, :, 0]
greedy = generate_from(decoder, *begin(decoder, 2, equations), 2).tokens[0]
check("equations", len(equations), 121)
check("equations of which greedy search misses the best answer", (best != greedy).any(1).sum(), 0)
