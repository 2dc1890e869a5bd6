"""Small transducers and language models, and searches that look at everything."""

from itertools import combinations, product

import numpy as np


def log_softmax(z):
    z = z - z.max(axis=-1, keepdims=True)
    return z - np.log(np.exp(z).sum(axis=-1, keepdims=True))


class Toy:
    """A transducer whose predictor is a small recurrence over all labels; counts its calls."""

    def __init__(self, vocabulary=3, features=4, size=5, seed=0, blank_bias=0.0):
        rng = np.random.default_rng(seed)
        self.W, self.P = rng.standard_normal((2, size, size))
        self.E = rng.standard_normal((vocabulary, size))
        self.F = rng.standard_normal((features, size))
        self.O = 2 * rng.standard_normal((size, vocabulary))
        self.bias = np.zeros(vocabulary)
        self.bias[0] = blank_bias
        self.features, self.batches, self.predictions = features, [], []

    def predict(self, states, labels):
        assert len(states) == len(labels)
        self.batches.append(len(labels))
        h = np.stack([np.zeros(len(self.W)) if state is None else state[0] for state in states])
        new = np.tanh(h @ self.W + self.E[labels])
        before = [() if state is None else state[1] for state in states]
        after = [(row, (*old, label)) for row, old, label in zip(new, before, labels, strict=True)]
        self.predictions += [history for _, history in after]
        return new @ self.P, after

    def joint(self, frames, vectors):
        return log_softmax(np.tanh(frames @ self.F + vectors) @ self.O + self.bias)

    def frames(self, T, seed=1):
        return np.random.default_rng(seed).standard_normal((T, self.features))


class OneByOne:
    """The same transducer, a hypothesis at a time."""

    def __init__(self, model):
        self.model = model

    def predict(self, states, labels):
        found = [self.model.predict([s], [y]) for s, y in zip(states, labels, strict=True)]
        return np.concatenate([v for v, _ in found]), [state for _, (state,) in found]

    def joint(self, frames, vectors):
        pairs = zip(frames, vectors, strict=True)
        return np.concatenate([self.model.joint(f[None], v[None]) for f, v in pairs])


class ToyLM:
    """A language model that depends on all labels so far."""

    def __init__(self, vocabulary=3, seed=7):
        rng = np.random.default_rng(seed)
        self.E, self.O = rng.standard_normal((2, vocabulary, vocabulary))

    def __call__(self, states, labels):
        h = np.stack([np.zeros(len(self.E)) if state is None else state for state in states])
        h = np.tanh(0.5 * h + self.E[labels])
        return log_softmax(2 * h @ self.O), list(h)


def chain(model, labels, blank=0):
    """Vectors of the predictor after each part of a label sequence."""
    found, state = [], None
    for label in (blank, *labels):
        vector, (state,) = model.predict([state], [label])
        found.append(vector[0])
    return np.array(found)


def log_probability(model, frames, labels, most=None, blank=0):
    """The sum over all alignments, by naming each; with at most `most` labels at a frame."""
    T, U = len(frames), len(labels)
    vectors = chain(model, labels, blank)
    logp = np.array([[model.joint(f[None], v[None])[0] for v in vectors] for f in frames])
    ways = []
    for places in combinations(range(T + U - 1), U):
        t = u = 0
        total, here = 0.0, 0
        for step in range(T + U):
            if step in places:
                total += logp[t, u, labels[u]]
                u, here = u + 1, here + 1
                if most is not None and here > most:
                    total = -np.inf
            else:
                total += logp[t, u, blank]
                t, here = t + 1, 0
        ways.append(total)
    return np.logaddexp.reduce(ways)


def lm_log_probability(lm, labels, blank=0):
    total, state, last = 0.0, None, blank
    for label in labels:
        scores, (state,) = lm([state], [last])
        total += scores[0, label]
        last = label
    return total


def all_sequences(vocabulary, most):
    return [y for n in range(most + 1) for y in product(range(1, vocabulary), repeat=n)]
