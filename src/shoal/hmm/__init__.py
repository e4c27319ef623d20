"""Hidden Markov models by their exact messages: many models at once, in float64, for sequences of any length.

Functions on arrays, without training by gradients: messages, posteriors and the likeliest states (:func:`messages`,
:func:`viterbi`), EM (:func:`fit`), the best of many starts (:func:`best_of`), the number of states
(:func:`compare_numbers_of_states`), intervals (:func:`bootstrap`, :func:`held_out`). It needs numpy and scipy,
and not PyTorch.

>>> import numpy as np
>>> from shoal.hmm import Sequences, best_of
>>> data = Sequences(np.tile([0, 0, 1, 1], 30), [60, 60])
>>> best = best_of(data, K=4, restarts=32)
>>> best.fit.model.K, bool(best.log_likelihood > -2)
(4, True)
"""

from shoal.hmm.best_path import Path, viterbi
from shoal.hmm.counts import Counts, Evidence, Impossible, conditional_counts, expected_counts, log_likelihood
from shoal.hmm.data import Sequences
from shoal.hmm.em import Fit, Problem, degeneracies, fit, maximised
from shoal.hmm.emissions import Categorical, Gaussian
from shoal.hmm.matching import match_states, posterior_agreement, state_distance
from shoal.hmm.models import HMM, arrays_of, model_of, stacked
from shoal.hmm.posterior import Messages, messages, pairwise_posteriors, posterior_transitions
from shoal.hmm.resampling import Bootstrap, bootstrap
from shoal.hmm.sampling import sample
from shoal.hmm.selection import (
    Candidate,
    Criteria,
    HeldOut,
    Restarts,
    best_of,
    compare_numbers_of_states,
    criteria,
    held_out,
)
from shoal.hmm.starts import random_models

__all__ = [
    "HMM",
    "Bootstrap",
    "Candidate",
    "Categorical",
    "Counts",
    "Criteria",
    "Evidence",
    "Fit",
    "Gaussian",
    "HeldOut",
    "Impossible",
    "Messages",
    "Path",
    "Problem",
    "Restarts",
    "Sequences",
    "arrays_of",
    "best_of",
    "bootstrap",
    "compare_numbers_of_states",
    "conditional_counts",
    "criteria",
    "degeneracies",
    "expected_counts",
    "fit",
    "held_out",
    "log_likelihood",
    "match_states",
    "maximised",
    "messages",
    "model_of",
    "pairwise_posteriors",
    "posterior_agreement",
    "posterior_transitions",
    "random_models",
    "sample",
    "stacked",
    "state_distance",
    "viterbi",
]
