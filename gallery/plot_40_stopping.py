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
from shoal.decoding import Beam, beam_search, decoder_for, exhaustive_search
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


def log_p(candidate):
    """Score as in the document: the log probability."""
    return candidate.log_p


def never(candidate):
    """What a live hypothesis can still reach where there is no rule: anything."""
    return float("inf")


def literal_steps(tree, T, score, reach=None):
    """First step at which no live hypothesis can exceed the best ended one.

    ``reach`` is what a live hypothesis counts as: by default its own score, as the rule is written.
    """
    best, reach = float("-inf"), reach or score
    for step in range(1, T + 1):
        these = [candidate for candidate in tree.candidates if candidate.step == step]
        best = max([best, *(score(candidate) for candidate in these if candidate.fate == "finished")])
        live = [reach(candidate) for candidate in these if candidate.fate == "kept"]
        if step == T or not live or max(live) <= best:
            return step
    return T


recorded = search(300, T, "none", record=True)
trees = recorded.trees[0]
literal, literal_all = (sum(literal_steps(tree, T, log_p, reach) for tree in trees) for reach in (log_p, never))
steps, all_steps = stopped.steps.sum().item(), whole.steps.sum().item()
check("steps with the rule, of all models", steps, literal)
check("steps without it", all_steps, literal_all)
check("share of the steps that it saves", 1 - steps / all_steps, 1 - literal / literal_all, 1e-12)

# %%
# Best of all?
# ------------
# The document says that the result is "the overall highest-probability completed beam". It is the best that this
# search would still find. Up to eight tokens all sequences can be looked at: in some models the likeliest one was
# pruned on the way, with or without the rule.

model = Random()
short = search(300, 8, "optimal")
true = exhaustive_search(model, *model.start(300), 8, 1, eos=EOS, most=300 * V**8)
without = search(300, 8, "none")


def rescored(tokens):
    """Log probabilities of the models' texts ``(300, T)``, token after token up to the end."""
    total, (state, logits) = torch.zeros(300, dtype=torch.float64), model.start(300)
    is_open = torch.ones(300, dtype=torch.bool)
    for token in tokens.T:
        total += torch.where(is_open, logits[0].log_softmax(-1).gather(1, token[:, None])[:, 0], 0.0)
        is_open &= token != EOS
        logits, state = model.step(token[None, :, None], state)
        logits = logits[:, :, 0]
    return total


likeliest = true.tokens[0, :, 0]
missed, missed_without = (
    int((true.log_p[0, :, 0] - found.hypotheses.log_p[0, :, 0] > 1e-9).sum()) for found in (short, without)
)
check("models whose likeliest sequence is missed, with the rule", missed, missed_without, erratum="E23")
other = sum(one != text for one, text in zip(best_texts(short), likeliest.tolist(), strict=True))
check("models whose likeliest sequence is another text than the result", other, missed)
check("some model's likeliest sequence is missed", missed > 0, True, document="no", erratum="E23")
gap = (true.log_p[0, :, 0] - short.hypotheses.log_p[0, :, 0]).max()
expected = (rescored(likeliest) - rescored(short.hypotheses.tokens[0, :, 0])).max()
check("largest gap (nats)", gap, expected, 1e-9)

# %%
# Scores by length
# ----------------
# Dividing by the length, :math:`s / |y|`, lets a live hypothesis become better. Comparing present scores, as the rule
# is written, changes results. The library compares with a bound instead, the score that a live hypothesis of log
# probability :math:`s` could have at the longest length, :math:`s / T`: it changes none, and saves fewer steps.


def mean(candidate):
    """Score divided by the length."""
    return candidate.log_p / candidate.step


def bound(candidate):
    """Largest mean that a live hypothesis can still have, at twelve tokens."""
    return candidate.log_p / T


def result(tree, end, score):
    """Text and score of the best hypothesis that has ended by a step."""
    ended = [c for c in tree.candidates if c.fate in ("finished", "cut") and c.step <= end]
    if not ended:
        return [], float("-inf")
    best = max(ended, key=score)
    nodes, tokens, node = {c.node: c for c in tree.candidates}, [], best
    while node is not None:
        tokens.insert(0, node.token)
        node = nodes.get(node.parent)
    return tokens, score(best)


def changed_by_rule(trees, T, score):
    """Steps of the rule as written, and two counts of the results that it changes: by score and by text."""
    ends = [literal_steps(tree, T, score) for tree in trees]
    cut, final = (
        [result(tree, end, score) for tree, end in zip(trees, at, strict=True)] for at in (ends, [T] * len(ends))
    )
    by_score = sum(one[1] < other[1] - 1e-9 for one, other in zip(cut, final, strict=True))
    by_text = sum(one[0] != other[0] for one, other in zip(cut, final, strict=True))
    return sum(ends), by_score, by_text


kinds = {"sum": (0.0, log_p, log_p), "mean per token": (1.0, mean, bound)}
rules = ("as written", "with a bound")
counts = {"score": [], "rule": [], "changed": [], "saved": []}
for kind, (penalty, score, reach) in kinds.items():
    full = search(300, T, "none", penalty)
    bounded = search(300, T, "optimal", penalty)
    final = torch.tensor([result(tree, T, score)[1] for tree in trees], dtype=torch.float64)
    differences = (final - full.hypotheses.scores[0, :, 0]).abs()
    check(f"difference of the results from those of the trees, {kind}", differences.max(), 0, 1e-12)
    end, naive, by_text = changed_by_rule(trees, T, score)
    changed = sum(one != other for one, other in zip(best_texts(full), best_texts(bounded), strict=True))
    used = bounded.steps.sum().item()
    check(f"steps of the rule with a bound, {kind}", used, sum(literal_steps(tree, T, score, reach) for tree in trees))
    for name, number, n_steps in ((rules[0], naive, end), (rules[1], changed, used)):
        counts["score"].append(kind)
        counts["rule"].append(rules.index(name))
        counts["changed"].append(number)
        counts["saved"].append(100 * (1 - n_steps / all_steps))
    check(f"results changed by the rule as written, {kind}", naive, by_text if penalty else 0)
    check(f"results changed by the rule with a bound, {kind}", changed, 0)
changes = counts["changed"][2] > 0
check("the rule as written changes results, mean per token", changes, True, document="no", erratum="E23")

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
AT_MOST, BOS, END = 7, 1, 2
STAGES = (25, 50, 100, 200, 400)


sizes = {"embedding_size": 32, "num_heads": 4, "digits": 6, "min_length": 2, "max_length": 6}
examples = {"train_examples": 4000, "valid_examples": 50, "train_batch_size": 64}
run = trained(
    shoal.RunSpec(task="sorting", model="gpt", **sizes, **examples, n_steps=400, save_model_step=25, lr=5e-3, seed=0)
)
reads, codec = run.spec.model_part.reads, run.spec.task_part.codec


def sort_by(gpt, stop, penalty):
    """Answers of the GPT to all lines, by a beam of three, with the trees of its search."""
    return answer({"gpt": gpt}, reads, codec, lines, AT_MOST, Beam(B, "keeps", stop, penalty), record=True)


def prompts_of(lines):
    """Tokens of the lines with BOS behind them, ``(N, S)``, and how many each has."""
    tokens, seen = codec.encode_sources(lines)
    lengths = seen.sum(1)
    return torch.nn.functional.pad(tokens, (0, 1)).scatter(1, lengths.unsqueeze(1), BOS), lengths + 1


def log_p_of_sorted(gpt):
    """Log probability that the GPT gives to each sorted list and its end, by a forward pass over all tokens."""
    answers, seen = codec.encode_targets([" ".join(sorted(line.split())) for line in lines])
    scores = []
    for prompt, n, tokens, m in zip(*prompts_of(lines), answers, seen.sum(1), strict=True):
        with torch.no_grad():
            logits, _ = gpt(torch.cat([prompt[:n], tokens[: m - 1]]).unsqueeze(0))
        steps = logits[0, n - 1 :].double().log_softmax(-1)
        scores.append(steps.gather(1, tokens[:m, None]).sum().item())
    return scores


def mean_bound(candidate):
    """Largest mean that a live hypothesis can still have, at seven tokens."""
    return candidate.log_p / AT_MOST


shown = {"line": [], "steps": [], "rule": [], "training": []}
used, naive = {}, {}
for n_steps in STAGES:
    gpt = run.model(n_steps)
    of_sorted = log_p_of_sorted(gpt)
    for place, (kind, (penalty, score, _)) in enumerate(kinds.items()):
        full, stopped = (sort_by(gpt, stop, penalty) for stop in ("none", "optimal"))
        different = sum(one != other for one, other in zip(full.best("gpt"), stopped.best("gpt"), strict=True))
        named = f"{kind}, {n_steps} training steps"
        check(f"answers that the rule changes, {named}", different, 0)
        _, naive[kind, n_steps], by_text = changed_by_rule(full.trees[0], AT_MOST, score)
        check(f"answers that the rule as written changes, {named}", naive[kind, n_steps], by_text if penalty else 0)
        reach = mean_bound if penalty else log_p
        literal = sum(literal_steps(tree, AT_MOST, score, reach) for tree in full.trees[0])
        used[kind, n_steps] = stopped.steps.sum().item()
        check(f"steps of the search, {named}", used[kind, n_steps], literal)
        texts, best = stopped.best("gpt"), [answers[0].log_p for answers in stopped.answers[0]]
        are_sorted = sum(text.split() == sorted(line.split()) for text, line in zip(texts, lines, strict=True))
        by_score = sum(abs(one - other) < 1e-4 for one, other in zip(best, of_sorted, strict=True))
        check(f"lists that are sorted, of {len(lines)}, {named}", are_sorted, by_score)
        shown["line"] += [number + 0.2 * place - 0.1 for number in range(len(lines))]
        shown["steps"] += stopped.steps[0].tolist()
        shown["rule"] += [kind] * len(lines)
        shown["training"] += [n_steps] * len(lines)

# %%
# The bound of a mean is loose: it supposes that all further tokens of a live hypothesis have a probability of 1. The
# rule as it is written, for means, ends searches of a GPT that is still unsure too early, as with random models. Once
# the GPT knows where a list ends, even this rule changes nothing.

more = {n_steps: used["mean per token", n_steps] - used["sum", n_steps] for n_steps in (50, 400)}
check("means take more steps than sums after 50 training steps", more[50] > 0, True)
check("they take fewer more after 400 training steps", more[400] < more[50], True)
for n_steps, expected in ((50, True), (400, False)):
    named = f"the rule as written changes answers, mean per token, {n_steps} training steps"
    check(named, naive["mean per token", n_steps] > 0, expected)

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

# %%
# And the likeliest answer of all? For lists of two to four digits and answers of up to five tokens, the GPT can score
# every sequence. While it is unsure, the beam of three misses the likeliest one for some lists, for sums and for means.
# Once it has learned to sort, none is missed: a model that is sure of itself is searched easily.

few, LONGEST = lines[:9], 5


def begun(gpt):
    """The GPT as it stands behind BOS of each of the few lines: what steps, its state, and its logits."""
    prompts, lengths = prompts_of(few)
    decoder = decoder_for(gpt, {name: tensor.detach().unsqueeze(0) for name, tensor in gpt.named_parameters()})
    state = decoder.start(len(few), prompts.shape[1] + LONGEST - 1)
    logits, state = decoder.step(prompts.unsqueeze(0), state, lengths, last=True)
    return decoder, state, logits[:, :, 0]


missed, by_rule = {}, 0
for n_steps in (50, 100, 400):
    gpt = run.model(n_steps)
    for kind, (penalty, *_) in kinds.items():
        with_rule, without = (
            beam_search(*begun(gpt), LONGEST, Beam(B, "keeps", stop, penalty), eos=END) for stop in ("optimal", "none")
        )
        every = exhaustive_search(*begun(gpt), LONGEST, 1, eos=END, length_penalty=penalty)
        gaps = every.scores[0, :, 0] - with_rule.hypotheses.scores[0, :, 0]
        missed[kind, n_steps] = int((gaps > 1e-5).sum())
        texts, likeliest = best_texts(with_rule), every.tokens[0, :, 0].tolist()
        others = sum(one != other for one, other in zip(texts, likeliest, strict=True))
        named = f"lists whose likeliest answer is missed, of {len(few)}, {kind}, {n_steps} training steps"
        check(named, missed[kind, n_steps], others, erratum="E23")
        by_rule += sum(one != other for one, other in zip(texts, best_texts(without), strict=True))
check("answers to them that the rule changes", by_rule, 0)
for kind in kinds:
    check(f"some are missed after 50 training steps, {kind}", missed[kind, 50] > 0, True, document="no", erratum="E23")
    check(f"some are missed after 400 training steps, {kind}", missed[kind, 400] > 0, False)
