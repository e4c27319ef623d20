r"""
When beam search may stop
=========================

Hypotheses of a beam search end at different steps. Let :math:`\mathrm{best}_{\le t}` be the best score of those that
have ended by step :math:`t`. The rule: stop as soon as the best live hypothesis has :math:`s^1 \le \mathrm{best}_{\le t}`.
A score is a sum of log probabilities, each at most 0, so a live hypothesis can only lose, and nothing that comes later
can be better (*T3.4*).

*Source: exercises on transformers, T3.4, equations (10) to (13).* Two things are missing there (E23): the rule finds the
best of what beam search *would still come to*, which need not be the likeliest sequence of all; and with scores that
are divided by lengths the rule, as it is written, is wrong.
"""

import torch

import shoal
from shoal.decoding import Beam, beam_search, decoder_for, exhaustive_search
from shoal.gallery import Axis, Choice, Panel, bars, check, dots, figure, line, trained
from shoal.keyed import fold, uniform
from shoal.tasks import get_arithmetic_dataset

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
    Panel([bars(counts, "rule", "changed")], Axis(names=rules), Axis("of 300"), title="Results changed"),
    Panel([bars(counts, "rule", "saved")], Axis(names=rules), Axis("%", domain=(0, 100)), title="Steps saved"),
    move=Choice("score", "score", "mean per token"),
    caption="For 300 random models, a beam of three and up to twelve tokens: what the rule changes and what it saves.",
    alternative="With sums neither rule changes a result. With means the rule as written changes "
    f"{counts['changed'][2]} of 300 results and saves {counts['saved'][2]:.0f} % of the steps; with a bound it changes "
    f"{counts['changed'][3]} and saves {counts['saved'][3]:.0f} %.",
)

# %%
# A trained model
# ---------------
# A GPT that has learned sums of two and of three numbers modulo 7. Behind ``a + b`` it may go on with ``=`` or with
# another ``+``, so that equations end at different steps.

spec = shoal.RunSpec(
    model="gpt", p=7, r_train=0.8, operation_orders=(2, 3), embedding_size=32, num_heads=4, n_steps=500, lr=3e-3, seed=0
)
_, tokenizer, _, _ = get_arithmetic_dataset(p=7, q=7, operator="+", r_train=0.8, operation_orders=[2, 3])
gpt = trained(spec).model()
parameters = {name: tensor.detach().unsqueeze(0) for name, tensor in gpt.named_parameters()}
prompts = torch.stack([tokenizer.encode(f"BOS {a} + {b}") for a in range(7) for b in range(7)])
(eos,) = tokenizer.encode("EOS").tolist()


def by_gpt(stop, penalty, T=5):
    """Beam search of the GPT behind all prompts; five tokens finish the longest equation."""
    decoder = decoder_for(gpt, parameters)
    length = prompts.shape[1] + T - 1  # the last token is never read
    logits, state = decoder.step(prompts.unsqueeze(0), decoder.start(len(prompts), length), last=True)
    return beam_search(decoder, state, logits[:, :, 0], T, Beam(B, "keeps", stop, penalty), eos=eos)


shown = {"score": [], "step": [], "prompts": []}
for kind, penalty in kinds.items():
    full, stopped = (by_gpt(stop, penalty) for stop in ("none", "optimal"))
    same = sum(one != other for one, other in zip(best_texts(full), best_texts(stopped), strict=True))
    check(f"results that the rule changes in the GPT, {kind}", same, 0)
    saved = (full.steps.sum() - stopped.steps.sum()).item()
    first = tokenizer.decode(stopped.hypotheses.written(0, 0, 0))
    print(
        f"{kind}: {saved} of {full.steps.sum().item()} steps saved; {tokenizer.decode(prompts[0])} goes on as {first}"
    )
    for step in range(1, 6):
        shown["score"].append(kind)
        shown["step"].append(step)
        shown["prompts"].append((stopped.steps[0] == step).sum().item())

figure(
    Panel([bars(shown, "step", "prompts")], Axis("step at which the search stops"), Axis("prompts"), width=420),
    move=Choice("score", "score", "sum"),
    caption=f"{len(prompts)} prompts a + b, a beam of three, at most five tokens. Bounds for means need more steps.",
    alternative=f"With sums {shown['prompts'][2]} of {len(prompts)} searches stop at step 3, where a short equation "
    f"ends; with means {shown['prompts'][7]} do.",
)
