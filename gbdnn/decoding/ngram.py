"""N-gram language models: sparse rows, one for each context, and back-off between them."""

# mypy: disable-error-code="no-untyped-def,no-untyped-call"

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from gbdnn import checks
from gbdnn.errors import DtypeError, InputError
from gbdnn.types import Array
from gbdnn.weights import CSR

__all__ = ["NGram", "train_ngram"]

Context = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class NGram:
    """An n-gram model as a sparse matrix: row h has the labels that were seen after context h.

    Of a label w that is in row h it is log P(w | h); of another it is
    ``backoffs[h] + log P(w | h')`` where h' = `lower[h]` is h without its oldest label. Row 0, the
    empty context, has all labels. A state of the model is the number of a row, so that a step costs
    the entries of at most `order` rows. It is a `gbdnn.decoding.LanguageModel`.

    Parameters
    ----------
    order : int
        Labels that a probability depends on, and itself: 2 is a bigram.
    rows : CSR of float64, shape (contexts, vocabulary)
        Natural log-probabilities. The blank's column is the end of a sentence.
    targets : ndarray of int64, shape (nnz,)
        Row to go to after each entry.
    backoffs : ndarray of float64, shape (contexts,)
    lower : ndarray of int64, shape (contexts,)
        Smaller than the row's own number; -1 of row 0.
    start : int
        Row of the beginning of a sentence.
    blank : int
    """

    order: int
    rows: CSR
    targets: Array
    backoffs: Array
    lower: Array
    start: int
    blank: int

    @property
    def vocabulary(self) -> int:
        """Number of labels, with the blank's."""
        return self.rows.shape[1]

    def __call__(self, states: list[Any], labels: list[int]) -> tuple[Array, list[Any]]:
        """See `LanguageModel`: log-probabilities (k, vocabulary) and rows of the model."""
        after = [
            self.start if state is None else self.step(state, label)
            for state, label in zip(states, labels, strict=True)
        ]
        return self.scores(after), after

    def step(self, state: int, label: int) -> int:
        """Return the row of the longest known context once a label was taken in a row."""
        indptr, indices = self.rows.indptr, self.rows.indices
        while True:
            begin, end = indptr[state], indptr[state + 1]
            place = begin + int(np.searchsorted(indices[begin:end], label))
            if place < end and indices[place] == label:
                return int(self.targets[place])
            if not state:
                raise InputError("label", f"0 to {self.vocabulary - 1}", repr(label))
            state = int(self.lower[state])

    def scores(self, states: Sequence[int]) -> Array:
        """Return log P(label | row) of some rows, shape (k, vocabulary), float64."""
        out = np.empty((len(states), self.vocabulary))
        fill, rows = _compiled(self.rows.indptr.dtype), self.rows
        numbers = np.array(states, np.int64)
        if len(numbers) and not (numbers.min() >= 0 and numbers.max() < rows.shape[0]):
            raise InputError("states", f"rows from 0 to {rows.shape[0] - 1}", repr(list(states)))
        fill(rows.indptr, rows.indices, rows.full_values, self.backoffs, self.lower, numbers, out)
        return out

    def log_probability(self, labels: Sequence[int]) -> float:
        """Return log P of a sentence with its end, in nats."""
        states = [self.start]
        for label in labels:
            states.append(self.step(states[-1], label))
        follow = np.array([*labels, self.blank], np.int64)
        return float(self.scores(states)[np.arange(len(states)), follow].sum())

    def perplexity(self, sentences: Iterable[Sequence[int]]) -> float:
        """Return exp(-log P of all sentences / number of their labels and ends)."""
        total, count = 0.0, 0
        for labels in sentences:
            total += self.log_probability(labels)
            count += len(labels) + 1
        if not count:
            raise InputError("sentences", "at least one", "none")
        return math.exp(-total / count)


def train_ngram(
    sentences: Iterable[Sequence[int]], order: int, vocabulary: int, blank: int = 0
) -> NGram:
    """Count and smooth an n-gram model: interpolated Kneser-Ney (Chen and Goodman 1999, eq. 22).

        P(w | h) = max(c(h w) - D, 0) / c(h) + D N(h) / c(h) P(w | h')

    c counts occurrences for the longest contexts, and for those that reach back to the beginning of
    a sentence; for others the different labels before h w. c(h) = sum_w c(h w), and N(h) is how
    many w have c(h w) > 0. D = n1 / (n1 + 2 n2) for each length of h, from the numbers of counts
    that are 1 and 2 (1/2 where that is not between 0 and 1). Below the empty context all labels are
    equally likely.

    Parameters
    ----------
    sentences : iterable of sequences of int
        Labels from 0 to vocabulary - 1 without the blank. For text: the numbers of its characters
        or words.
    order : int
    vocabulary : int
        Number of labels with the blank, which stands for a sentence's beginning and end.
    blank : int

    Examples
    --------
    >>> model = train_ngram([[1, 2], [1, 2], [1, 3]], order=2, vocabulary=4)
    >>> scores, states = model([None], [0])
    >>> int(scores[0].argmax())
    1
    """
    checks.count("order", order)
    checks.count("vocabulary", vocabulary, 2)
    checks.count("blank", blank, 0)
    if blank >= vocabulary:
        raise InputError("blank", f"0 to {vocabulary - 1}", repr(blank))
    counts = _counts(sentences, order, vocabulary, blank)
    contexts = sorted(counts, key=lambda context: (len(context), context))
    number = {context: row for row, context in enumerate(contexts)}
    discounts = _discounts(counts, order)
    shape, below = (len(contexts), vocabulary), np.full(vocabulary, 1 / vocabulary)
    full: dict[Context, Array] = {}  # probabilities of contexts that others go back to
    indptr, targets = [0], []
    indices: list[Array] = []
    values: list[Array] = []
    backoffs, lower = np.zeros(len(contexts)), np.full(len(contexts), -1, np.int64)
    inner = {context[1:] for context in contexts}
    for row, context in enumerate(contexts):
        seen = sorted(counts[context].items())
        words = np.array([word for word, _ in seen])
        found = np.array([count for _, count in seen], float)
        discount = discounts[len(context)]
        left = discount * len(words) / found.sum()
        if context:
            lower[row] = number[context[1:]]
            below = full[context[1:]]
        probabilities = left * below
        probabilities[words] += np.maximum(found - discount, 0) / found.sum()
        if context in inner:
            full[context] = probabilities
        backoffs[row] = math.log(left)
        kept = words if context else np.arange(vocabulary)
        indices.append(kept)
        values.append(np.log(probabilities[kept]))
        targets += [_target((*context, int(word)), order, number, blank) for word in kept]
        indptr.append(indptr[-1] + len(kept))
    kind = np.int64
    rows = CSR(np.array(indptr, kind), np.concatenate(indices).astype(kind),
               np.concatenate(values), shape)  # fmt: skip
    start = number[(blank,)] if order > 1 else 0
    return NGram(order, rows, np.array(targets, np.int64), backoffs, lower, start, blank)


def _counts(
    sentences: Iterable[Sequence[int]], order: int, vocabulary: int, blank: int
) -> dict[Context, Counter[int]]:
    """Return c(h w) as counts[h][w]: occurrences, or for inner contexts labels before."""
    raw: dict[Context, Counter[int]] = defaultdict(Counter)
    for number, labels in enumerate(sentences):
        found = np.asarray(labels)
        if found.ndim != 1 or (found.size and found.dtype.kind not in "iu"):
            raise DtypeError("sentences", "sequences of whole numbers", f"{labels!r} at {number}")
        if found.size and ((found < 0) | (found >= vocabulary) | (found == blank)).any():
            expected = f"labels from 0 to {vocabulary - 1} without the blank {blank}"
            raise InputError("sentences", expected, f"{found.min()} to {found.max()} at {number}")
        padded = [blank, *map(int, found), blank]
        for i in range(1, len(padded)):
            raw[tuple(padded[max(0, i - order + 1) : i])][padded[i]] += 1
    if not raw:
        raise InputError("sentences", "at least one", "none")
    counts = dict(raw)
    for length in range(order - 1, 0, -1):  # each different (x, h, w) counts 1 for (h, w)
        longer = [context for context in counts if len(context) == length]
        for context in longer:
            shorter = counts.setdefault(context[1:], Counter())
            for word in counts[context]:
                shorter[word] += 1
    return counts


def _discounts(counts: dict[Context, Counter[int]], order: int) -> list[float]:
    """Return D for each length of contexts."""
    found = []
    for length in range(order):
        ones = twos = 0
        for context, words in counts.items():
            if len(context) == length:
                ones += sum(count == 1 for count in words.values())
                twos += sum(count == 2 for count in words.values())
        found.append(ones / (ones + 2 * twos) if ones and twos else 0.5)
    return found


def _target(context: Context, order: int, number: dict[Context, int], blank: int) -> int:
    """Return the row of the longest known end of a context; a sentence's end leads to row 0."""
    if context[-1] == blank:
        return 0
    context = context[max(0, len(context) - order + 1) :]
    while context not in number:
        context = context[1:]
    return number[context]


@cache
def _compiled(index: np.dtype[Any]) -> Any:
    """Return the compiled `_fill`; numba is imported when it is needed."""
    from numba import from_dtype, types

    from gbdnn.backends.fused.compilation import array_type, jit, load

    kernel, kind = jit(_fill), from_dtype(index)
    places, reals = array_type(kind, 1), array_type(types.float64, 1)
    wholes, out = array_type(types.int64, 1), array_type(types.float64, 2, writable=True)
    load(kernel, places, places, reals, reals, wholes, wholes, out)
    return kernel


def _fill(indptr, indices, values, backoffs, lower, states, out):
    """Write the scores of rows `states` into the rows of `out`."""
    for k in range(len(states)):
        depth, row = 0, states[k]
        while row > 0:
            row = lower[row]
            depth += 1
        for level in range(depth, -1, -1):  # from row 0 up to the context itself
            row = states[k]
            for _ in range(level):
                row = lower[row]
            if row > 0:
                for w in range(out.shape[1]):
                    out[k, w] += backoffs[row]
            for place in range(indptr[row], indptr[row + 1]):
                out[k, indices[place]] = values[place]
