"""Terms of statistics and of this project that pages use, each in a sentence or two."""

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Term:
    """A word of a page and its meaning.

    Attributes:
        name: of the entry.
        meaning: one or two sentences that stand alone.
        forms: a regular expression of what it is called in a text, without regard to case; the name when not given.
    """

    name: str
    meaning: str
    forms: str = ""

    @property
    def key(self) -> str:
        """The name as part of an address in the page."""
        plain = self.name.lower().replace("δ", "delta-").replace("²", "2")
        return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")


PRACTICAL = (
    "IFT6135 Representation Learning (Université de Montréal), winter 2025, assignment 2, practical part; its code and "
    "its README: https://github.com/Tikquuss/IFT6135_W25_A2_release"
)

TERMS = (
    # runs and how they are kept
    Term(
        "run",
        "One model, trained once with one value of every setting, its seed included. The settings are hashed into the "
        "run's id, so that equal settings are the same run and are never trained twice.",
        "(?<!study )(?<!shoal )runs?",
    ),
    Term(
        "seed",
        "A number from which a run draws its initial parameters, its split into training and validation data and the "
        "order of its batches. Runs that differ in the seed alone show how much is chance.",
        "seeds?",
    ),
    Term(
        "cohort",
        "Runs whose tensors have the same shapes, which are therefore trained together as one stack; they may differ "
        "in values such as the learning rate or the seed. In a grid that trains for long, the runs of one shape are "
        "divided into one cohort per core.",
        "cohorts?",
    ),
    Term(
        "stack",
        "The parameters of several runs in one tensor, so that one operation trains all of them. Each run keeps its "
        "own data, gradient and random numbers.",
        "stack|stacked|stacking",
    ),
    Term("member", "A run as a part of a cohort or of a stack.", "members?"),
    Term(
        "certificate",
        "A repetition of the first steps of a cohort, as a stack and with some of its runs alone: the largest "
        "difference between the two is what stacking changed by rounding.",
        "certificates?",
    ),
    Term(
        "diverged",
        "Ended because loss, gradient or parameters became infinite or undefined. The run is kept as it was before.",
        "diverged?",
    ),
    Term("practical", f"The course exercise whose questions several studies ask: {PRACTICAL}.", "practical(?:['’]s)?"),
    Term(
        "p and q",
        "Of modular arithmetic the moduli: operands are the numbers from 0 to p − 1, and results are taken modulo q, "
        "which is p where nothing else is said. Of a test, p is the p value.",
        r"p and q|(?-i:[pq])(?= \d)|modul(?:us|i)|modular",
    ),
    Term(
        "operation order",
        "The number of operands of an equation: 2 in a + b (binary), 3 in a + b + c (ternary).",
        r"operation[ _]orders?|(?:binary|ternary) (?:equations?|sums?)",
    ),
    Term("N (runs)", "The number of runs that a mean, a rate or a band is of.", r"N \(runs\)|(?-i:N)(?= = \d|:)"),
    Term(
        "P (parameters)",
        "The number of learnable parameters of a model, without those of its embeddings.",
        r"P \(parameters\)|(?-i:P)(?=, the learnable)|(?<=with )(?-i:P)(?![\w(])",
    ),
    Term(
        "rate",
        "The share of runs that reached a threshold, given with its interval; every other run counts as one that did "
        "not.",
        r"(?<!learning )(?<!learning_)rates?",
    ),
    Term(
        "fell back",
        "Reached a threshold, and was below it again at a later evaluation. The run counts as one that reached it, at "
        "the first step at which it did, unless --stay asks for more evaluations in a row.",
        "fell back|falls? back",
    ),
    Term(
        "median",
        "The value that half are below and half above. Of an even number of runs it lies between the two in the "
        "middle, so that a median step need not be one at which anything was evaluated.",
        "medians?",
    ),
    # training
    Term(
        "training step",
        "One update of the parameters from one batch of training examples.",
        "training steps?",
    ),
    Term(
        "validation split",
        "The examples that are never trained on. What a model gets right there it has not memorised.",
        "validation (?:split|equations|targets|windows|accuracy|loss)|held-out (?:words|multisets)",
    ),
    Term(
        "loss",
        "Mean of −ln p over the scored tokens, p being the probability that the model gives the right one. It is 0 "
        "for a model that is certain and right, and ln V for one that guesses evenly among V tokens.",
        "loss(?:es)?|L_(?:train|val)",
    ),
    Term(
        "accuracy",
        "Share of what is asked that is predicted right, from 0 to 1. A token is right where the model gives it the "
        "largest probability, an answer of several tokens where all of them are.",
        "accurac(?:y|ies)|A_(?:train|val)",
    ),
    Term(
        "nats",
        "The unit of a loss taken with the natural logarithm. A loss of 1 nat is a probability of e⁻¹ ≈ 0.37 for the "
        "right token, in the geometric mean; 1 nat is 1.44 bits.",
        "nats?",
    ),
    Term(
        "memorised",
        "Right about the training examples. A model can be so without a rule that holds for others.",
        "memoris(?:e[ds]?|ing)",
    ),
    Term(
        "generalised",
        "Right about examples that were not trained on. On small arithmetic tasks this can come thousands of steps "
        "after memorising, which is called grokking.",
        "generalis(?:e[ds]?|ing|ation)|grokking",
    ),
    Term(
        "t_f",
        "The first evaluated step at which a run has the best value, up to its end, of what stands in parentheses.",
        r"t_f(?![A-Za-z_])",
    ),
    Term(
        "Δt",
        "The steps from a run's best value on the training split to that on the validation split: how much later it "
        "generalised than it memorised.",
        r"Δt(?:\([A-Z]\))?",
    ),
    Term(
        "r_train",
        "The share of all examples that is trained on; the rest is the validation split.",
        r"r_train(?![A-Za-z_])",
    ),
    Term(
        "weight decay",
        "A pull of every parameter towards 0 at each step, in proportion to its size. It favours solutions with small "
        "parameters.",
        "weight[ _]decay",
    ),
    Term(
        "FLOP",
        "One addition or multiplication of numbers with a decimal point. Training costs about 6 of them for each "
        "parameter and each token.",
    ),
    Term(
        "teacher forcing",
        "Scoring each token of an answer behind the right tokens before it, as in training. A model that writes alone "
        "goes on from its own mistakes instead.",
    ),
    Term(
        "greedy search",
        "Writing an answer by taking the most probable token at each place, until the model writes EOS.",
        "greed(?:y search|y|ily)",
    ),
    Term(
        "beam search",
        "Writing an answer with several beginnings kept at each place, those that are most probable so far.",
    ),
    Term("BOS", "The token that a sequence begins with (beginning of sequence).", "BOS"),
    Term(
        "cross-attention",
        "Attention from the places of what a model writes to the tokens of the source.",
        "cross-attention",
    ),
    Term(
        "non-autoregressive",
        "Predicting all tokens of an answer at once, from the source alone; an autoregressive model predicts each "
        "token from those before it.",
    ),
    Term("EOS", "The token that ends a sequence (end of sequence).", "EOS"),
    Term(
        "perplexity",
        "The exponential of a loss in nats: the number of equally probable tokens among which a choice would be as "
        "uncertain.",
        "perplexit(?:y|ies)",
    ),
    Term(
        "BLEU",
        "A score of translations from 0 to 100: how many sequences of one to four words stand in the reference too, "
        "with a penalty for short texts.",
    ),
    Term(
        "chrF2",
        "A score of translations from 0 to 100: how many sequences of one to six characters are shared with the "
        "reference, with recall counted twice as much as precision.",
        "chrF2?",
    ),
    Term(
        "n-gram model",
        "A model that predicts a token from the n − 1 tokens before it by counting how often it followed them.",
        r"(?:n|\d)-grams?",
    ),
    Term(
        "attention weights",
        "For each position the shares, which add up to 1, in which a head of a Transformer takes what other positions "
        "hold.",
        "attention weights?",
    ),
    # statistics
    Term(
        "population standard deviation",
        "Root of the mean squared distance from the mean of the runs at hand, divided by N and not by N − 1. Of two "
        "runs it is half their difference.",
        "population standard deviations?",
    ),
    Term(
        "censored",
        "Ended before the event was seen, here before the run generalised. All that is known is that it would have "
        "taken longer; such a run counts up to its last evaluation and is not dropped.",
        "censor(?:ed|ing)",
    ),
    Term(
        "Kaplan–Meier estimate",
        "The share of runs that have reached a threshold by each step, estimated so that censored runs count for as "
        "long as they were watched.",
        "Kaplan(?: and |–)Meier",
    ),
    Term(
        "Greenwood's variance",
        "The usual estimate of how uncertain a Kaplan–Meier estimate is.",
        "Greenwood(?:[’']s variance)?",
    ),
    Term(
        "Brookmeyer–Crowley interval",
        "The steps at which the 95 % band of a Kaplan–Meier estimate contains one half: an interval of the median.",
        "Brookmeyer(?: and |–)Crowley",
    ),
    Term(
        "log-rank test",
        "A test of whether groups of runs generalise at different times. At each step at which some run does it "
        "compares how many of each group do with how many would if the groups were alike.",
        "log-rank tests?",
    ),
    Term(
        "p value",
        "The probability of a result at least as extreme as the one at hand if there were no difference. Small values "
        "speak against chance; large ones do not show that there is no difference.",
        r"p values?|(?-i:p)(?= [=<] \d)|(?-i:p)(?=: )",
    ),
    Term(
        "permutation test",
        "A test whose p value is the share of all exchanges of labels among comparable runs that give a result at "
        "least as extreme. It assumes no distribution; with few runs its p cannot be small.",
        "permutations?(?: tests?)?|sign-flip tests?",
    ),
    Term(
        "Holm's correction",
        "A correction of p values for the number of tests: the smallest is multiplied by how many there are, the next "
        "by one less, and so on. It keeps the probability of any false finding below the level.",
        "Holm(?:[’']s (?:method|correction))?",
    ),
    Term(
        "Shaffer's correction",
        "Holm's correction for comparisons of all pairs, sharper because not every set of pairs can be equal at once.",
        "Shaffer",
    ),
    Term(
        "95 % interval",
        "A range computed so that in 95 % of repetitions of the whole experiment it contains the true value.",
        "95 % (?:percentile |bootstrap )?intervals?",
    ),
    Term(
        "Wilson interval",
        "An interval for a share of a few trials that stays between 0 and 1 and is not empty where all or none "
        "succeed.",
        "Wilson(?:'s)?(?: intervals?)?",
    ),
    Term(
        "Student's interval",
        "An interval for a mean, by Student's t distribution, which makes up for the deviation being estimated from "
        "few values.",
        "Student[’']s (?:t|(?:95 % )?interval)",
    ),
    Term(
        "rank correlation",
        "From −1 to 1: how steadily one quantity rises or falls with another, by the order of their values alone.",
        "rank correlations?|Spearman(?:'s)?",
    ),
    Term(
        "d_z",
        "Cohen's effect size for pairs: mean over standard deviation of the differences within pairs. About 0.2 is "
        "small and 0.8 large.",
        "d_z",
    ),
    Term(
        "rank-biserial correlation",
        "From −1 to 1: how much of the ranked differences within pairs points one way.",
        "rank-biserial correlations?",
    ),
    Term(
        "variance component",
        "The part of the variance between runs that comes from one source, such as the seed of the initialisation.",
        "variance components?",
    ),
    Term(
        "R²",
        "The share of the variance that a fitted law explains: 1 is all of it, 0 no more than a constant would.",
        "R²",
    ),
    Term(
        "Huber loss",
        "A measure of misfit that is squared near 0 and linear beyond, so that single outliers pull less.",
    ),
    Term("bootstrap", "An interval from fits to the runs drawn again at random, with repetition.", "bootstrap(?:ped)?"),
)
