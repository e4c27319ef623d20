"""Hidden Markov models by their definition: sums over every path of states, in Python's own numbers."""

import itertools
import math


class Paths:
    """All paths of one model through one sequence, and the joint probability of each with the observations.

    Args:
        start: π, a list of K.
        moves: P, K lists of K.
        likelihoods: ℓ_i(z), n lists of K; of ones where an observation is missing.
    """

    def __init__(self, start, moves, likelihoods):
        self.K, self.n, self.moves, self.likelihoods = len(start), len(likelihoods), moves, likelihoods
        self.joint = {}
        for path in itertools.product(range(self.K), repeat=self.n):
            p = start[path[0]]
            for before, after in itertools.pairwise(path):
                p *= moves[before][after]
            for place, state in enumerate(path):
                p *= likelihoods[place][state]
            self.joint[path] = p
        self.evidence = math.fsum(self.joint.values())
        self.start = start

    def posterior(self, i):
        return [self._sum(lambda path, z=z: path[i] == z) / self.evidence for z in range(self.K)]

    def pair(self, i):
        states = range(self.K)
        of = lambda j, k: self._sum(lambda path: path[i] == j and path[i + 1] == k)  # noqa: E731
        return [[of(j, k) / self.evidence for k in states] for j in states]

    def transition(self, i):
        """p(Z_{i+1} = k | Z_i = j, y), by its own sum: 0 in a row of a state without a future."""
        rows = []
        for j in range(self.K):
            row = [self.moves[j][k] * self.likelihoods[i + 1][k] * self.beta(i + 1)[k] for k in range(self.K)]
            rows.append([value / sum(row) if sum(row) else 0.0 for value in row])
        return rows

    def alpha(self, i):
        """p(Z_i = z, y before i): over paths up to i, without the observation there."""
        sums = [0.0] * self.K
        for path in itertools.product(range(self.K), repeat=i + 1):
            p = self.start[path[0]]
            for t in range(1, i + 1):
                p *= self.likelihoods[t - 1][path[t - 1]] * self.moves[path[t - 1]][path[t]]
            sums[path[i]] += p
        return sums

    def beta(self, i):
        """p(y after i | Z_i = z): over paths from i on."""
        sums = [0.0] * self.K
        for path in itertools.product(range(self.K), repeat=self.n - i):
            p = 1.0
            for t in range(1, self.n - i):
                p *= self.moves[path[t - 1]][path[t]] * self.likelihoods[i + t][path[t]]
            sums[path[0]] += p
        return sums

    def best(self):
        return max(self.joint.items(), key=lambda item: item[1])

    def _sum(self, belongs):
        return math.fsum(p for path, p in self.joint.items() if belongs(path))


def of_symbols(start, moves, table, symbols):
    """Paths through symbols, of which -1 is missing."""
    return Paths(start, moves, [[1.0 if y < 0 else row[y] for row in table] for y in symbols])


def of_vectors(start, moves, means, matrices, vectors):
    """Paths through vectors of 1 or 2 dimensions, with full covariances, by the written-out density."""
    return Paths(start, moves, [[_density(x, m, c) for m, c in zip(means, matrices, strict=True)] for x in vectors])


def _density(x, mean, matrix):
    if any(math.isnan(value) for value in x):
        return 1.0
    if len(x) == 1:
        return math.exp(-((x[0] - mean[0]) ** 2) / (2 * matrix[0][0])) / math.sqrt(2 * math.pi * matrix[0][0])
    (a, b), (_, d) = matrix
    u, v, determinant = x[0] - mean[0], x[1] - mean[1], a * d - b * b
    square = (d * u * u - 2 * b * u * v + a * v * v) / determinant
    return math.exp(-square / 2) / (2 * math.pi * math.sqrt(determinant))
