r"""
When beam search may stop
=========================

A beam search may stop before its last step without changing its result, by a rule that depends on the score.

Hypotheses of a beam search end at different steps. Let :math:`\mathrm{best}_{\le t}` be the best score of those that
have ended by step :math:`t`. The rule: stop as soon as the score of the best live hypothesis is
:math:`s^1 \le \mathrm{best}_{\le t}`. A score is a sum of log probabilities, each at most 0, so a live hypothesis can
only lose, and nothing that comes later can be better. That is the proof that *T3.4* asks for.

*Source: exercises on transformers, T3.4, equations (10) to (13).* Two things are missing there (E23). The rule finds
the best of what beam search *would still come to*, which need not be the likeliest sequence of all. And with scores
that are divided by lengths the rule, as it is written, is wrong.
"""

import torch

import shoal
from shoal.decoding import Beam, beam_search, exhaustive_search
from shoal.decoding.answers import answer
from shoal.gallery import Axis, Choice, Panel, bars, check, dots, figure, trained
from shoal.keyed import fold, uniform

# %%
# 300 random models
# -----------------
# Each has a vocabulary of four tokens, of which 0 ends a sequence; what follows a text is a hash of the model and the
# whole text, so that no two texts are continued alike. They are searched side by side, as prompts of one model.

V, B, EOS = 4, 3, 0


class Random:
    """Models whose logits are hashes of the number of the model and of all tokens so far."""

    def start(self, models):
        text = fold(torch.zeros(1, 1, dtype=torch.int64), torch.arange(models))  # (1, models)
        return {"text": text}, self.logits(text)

    def logits(self, text):
        return 4 * uniform(text, V).double()

    def step(self, tokens, state, counts=None, *, last=False):
        text = fold(state["text"], tokens[..., 0])
        return self.logits(text).unsqueeze(2), {"text": text}

    def select(self, state, rows):
        return {"text": state["text"][:, rows] if rows.ndim == 1 else state["text"].gather(1, rows)}


def search(models, T, stop, penalty=0.0, record=False):
    """Beam search of all models with a stopping rule; ended hypotheses keep their place, as in equation (12)."""
    model = Random()
    beam = Beam(B, "keeps", stop, penalty)
    return beam_search(model, *model.start(models), T, beam, eos=EOS, record=record)


def best_texts(searched):
    """The best hypothesis of each model, as a list of tokens."""
    return searched.hypotheses.tokens[0, :, 0].tolist()


T = 12
whole, stopped = (search(300, T, stop) for stop in ("none", "optimal"))
changed = sum(one != other for one, other in zip(best_texts(whole), best_texts(stopped), strict=True))
check("results that the rule changes, of 300", changed, 0)

# %%
# Steps saved, counted by the search, and again by reading equation (13) off the trees of searches that never stop.


def literal_steps(tree, T, score):
    """First step at which no live hypothesis scores above the best ended one, by a rule that compares ``score``."""
    best = float("-inf")
    for step in range(1, T + 1):
        these = [candidate for candidate in tree.candidates if candidate.step == step]
        best = max([best, *(score(candidate) for candidate in these if candidate.fate == "finished")])
        live = [score(candidate) for candidate in these if candidate.fate == "kept"]
        if step == T or not live or max(live) <= best:
            return step
    return T


def log_p(candidate):
    """Score as in the document: the log probability."""
    return candidate.log_p


recorded = search(300, T, "none", record=True)
trees = recorded.trees[0]
literal = sum(literal_steps(tree, T, log_p) for tree in trees)
steps, all_steps = stopped.steps.sum().item(), whole.steps.sum().item()
check("steps with the rule, of all models", steps, literal)
print(f"{all_steps - steps:,} of {all_steps:,} steps are saved, {1 - steps / all_steps:.0%}")

# %%
# Best of all?
# ------------
# The document says that the result is "the overall highest-probability completed beam". It is the best that this
# search would still find. Up to eight tokens all sequences can be looked at: in some models the likeliest one was
# pruned on the way, with or without the rule.

model = Random()
short = search(300, 8, "optimal")
true = exhaustive_search(model, *model.start(300), 8, 1, eos=EOS, most=300 * V**8)
gap = (true.log_p[0, :, 0] - short.hypotheses.log_p[0, :, 0]).clamp(min=0)
missed = int((gap > 1e-9).sum())
unstopped = search(300, 8, "none")
missed_without = int((true.log_p[0, :, 0] - unstopped.hypotheses.log_p[0, :, 0] > 1e-9).sum())
check("models whose likeliest sequence is missed, with the rule", missed, missed_without, erratum="E23")
check("some model's likeliest sequence is missed", missed > 0, True, document="no", erratum="E23")
print(f"{missed} of 300 models; the largest gap is {gap.max():.3f} nats")

# %%
# Scores by length
# ----------------
# Dividing by the length, :math:`s / |y|`, lets a live hypothesis become better. Comparing present scores, as the rule
# is written, changes results. The library compares with a bound instead, the score that a live hypothesis of log
# probability :math:`s` could have at the longest length, :math:`s / T`: it changes none, and saves fewer steps.


def mean(candidate):
    """Score divided by the length."""
    return candidate.log_p / candidate.step


kinds = {"sum": 0.0, "mean per token": 1.0}
rules = ("as written", "with a bound")
counts = {"score": [], "rule": [], "changed": [], "saved": []}
for kind, penalty in kinds.items():
    full = search(300, T, "none", penalty)
    bound = search(300, T, "optimal", penalty)
    score = log_p if kind == "sum" else mean
    ends = torch.tensor([literal_steps(tree, T, score) for tree in trees])
    cut = [
        max((score(c) for c in tree.candidates if c.fate == "finished" and c.step <= end), default=float("-inf"))
        for tree, end in zip(trees, ends.tolist(), strict=True)
    ]
    final = full.hypotheses.scores[0, :, 0]
    naive = int(((torch.tensor(cut, dtype=torch.float64) < final - 1e-9) & (ends < full.steps[0])).sum())
    bounded = sum(one != other for one, other in zip(best_texts(full), best_texts(bound), strict=True))
    total = full.steps.sum().item()
    for name, number, used in ((rules[0], naive, ends.sum().item()), (rules[1], bounded, bound.steps.sum().item())):
        counts["score"].append(kind)
        counts["rule"].append(rules.index(name))
        counts["changed"].append(number)
        counts["saved"].append(100 * (1 - used / total))
    if kind == "sum":
        check("results changed by the rule as written, sum", naive, 0)
    else:
        check("the rule as written changes results, mean per token", naive > 0, True, document="no", erratum="E23")
    check(f"results changed by the rule with a bound, {kind}", bounded, 0)

figure(
    Panel([bars(counts, "rule", "changed")], Axis(names=rules), Axis("results changed, of 300")),
    Panel([bars(counts, "rule", "saved")], Axis(names=rules), Axis("steps saved (%)", domain=(0, 100))),
    move=Choice("score", "score", "mean per token"),
    caption="For 300 random models, a beam of three and up to twelve tokens: what the rule changes and what it saves.",
    alternative="With sums neither rule changes a result. With means the rule as written changes "
    f"{counts['changed'][2]} of 300 results and saves {counts['saved'][2]:.0f} % of the steps; with a bound it changes "
    f"{counts['changed'][3]} and saves {counts['saved'][3]:.0f} %.",
)

# %%
# A trained model
# ---------------
# A GPT learns to sort two to six digits: it writes as many tokens as it has read, then EOS. The search does not know
# that, and may go on to seven tokens. The more the GPT has been trained, the surer it is of where a list ends. While it
# is unsure, sums end a search earlier than means; once it is nearly certain, both end it where the list ends.

lists = ("3 1 4 5 0", "5 0 2 5 0", "4 4 1 5 0")
lines = [numbers[: 2 * length - 1] for length in range(2, 6) for numbers in lists]


def trained_for(n_steps):
    """The GPT after some training steps."""
    sizes = {"embedding_size": 32, "num_heads": 4, "digits": 6, "min_length": 2, "max_length": 6}
    data = {"train_examples": 4000, "valid_examples": 50, "train_batch_size": 64}
    return trained(shoal.RunSpec(task="sorting", model="gpt", **sizes, **data, n_steps=n_steps, lr=5e-3, seed=0))


def sort_by(run, stop, penalty):
    """Answers of the GPT to all lines, by a beam of three."""
    beam = Beam(B, "keeps", stop, penalty)
    return answer({"gpt": run.model()}, run.spec.model_part.reads, run.spec.task_part.codec, lines, 7, beam)


shown = {"line": [], "steps": [], "rule": [], "training": []}
used = {}
for n_steps in (25, 50, 100, 200, 400):
    run = trained_for(n_steps)
    for place, (kind, penalty) in enumerate(kinds.items()):
        full, stopped = (sort_by(run, stop, penalty) for stop in ("none", "optimal"))
        different = sum(one != other for one, other in zip(full.best("gpt"), stopped.best("gpt"), strict=True))
        check(f"answers that the rule changes, {kind}, {n_steps} training steps", different, 0)
        used[kind, n_steps] = stopped.steps.sum().item()
        right = sum(text.split() == sorted(line.split()) for text, line in zip(stopped.best("gpt"), lines, strict=True))
        print(f"{used[kind, n_steps]} of {full.steps.sum().item()} steps; {right} of {len(lines)} lists are sorted")
        shown["line"] += [number + 0.2 * place - 0.1 for number in range(len(lines))]
        shown["steps"] += stopped.steps[0].tolist()
        shown["rule"] += [kind] * len(lines)
        shown["training"] += [n_steps] * len(lines)

# %%
# The bound of a mean is loose: it supposes that all further tokens of a live hypothesis have a probability of 1.

more = {n_steps: used["mean per token", n_steps] - used["sum", n_steps] for n_steps in (50, 400)}
check("means take more steps than sums after 50 training steps", more[50] > 0, True)
check("they take fewer more after 400 training steps", more[400] < more[50], True)

figure(
    Panel(
        [dots(shown, "steps", "line", "rule", size=70)],
        Axis("steps of the search", domain=(0, 7.2)),
        Axis("list of digits", names=[line.replace(" ", "") for line in lines]),
        height=300,
    ),
    move=Choice("training", "training steps", 50),
    caption="Steps of the search for each list of digits, which may go on to seven, with the rule for sums and the "
    "bound for means, after the chosen number of training steps.",
    alternative=f"After 50 training steps the {len(lines)} searches take {used['sum', 50]} steps with sums and "
    f"{used['mean per token', 50]} with means; after 400 they take {used['sum', 400]} and "
    f"{used['mean per token', 400]}.",
)
