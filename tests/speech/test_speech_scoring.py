"""Word error rates against an edit distance by hand, intervals, comparisons."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gbdnn.errors import InputError, ShapeError
from gbdnn.speech.scoring import compare, score

pytest.importorskip("jiwer")
WORDS = st.lists(st.sampled_from("abc"), max_size=6)
PAIRS = st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=5).filter(
    lambda pairs: any(said for said, _ in pairs)
)


def distance(said: list[str], heard: list[str]) -> int:
    row = list(range(len(heard) + 1))
    for i, a in enumerate(said, 1):
        last, row[0] = row[0], i
        for j, b in enumerate(heard, 1):
            last, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, last + (a != b))
    return row[-1]


@settings(max_examples=60)
@given(
    st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=5).filter(lambda p: any(a for a, _ in p))
)
def test_errors_are_the_edit_distance(pairs):
    found = score([" ".join(a) for a, _ in pairs], [" ".join(b) for _, b in pairs])
    assert found.errors.tolist() == [distance(a, b) for a, b in pairs]
    assert found.words.tolist() == [len(a) for a, _ in pairs]
    lengths = [len(b) - len(a) for a, b in pairs]
    assert (found.insertions - found.deletions).tolist() == lengths
    assert found.rate == sum(found.errors) / sum(found.words)


def test_kinds_and_characters():
    found = score(["one two three", "four  five "], ["one too three four", "five"])
    assert found.record["words"] == 5
    kinds = [found.record[k] for k in ("substitutions", "deletions", "insertions", "errors")]
    assert kinds == [1, 1, 1, 3]
    assert found.record["wrong_utterances"] == 2
    assert score(["abc"], ["axc"], unit="character").rate == pytest.approx(1 / 3)


def test_score_refuses():
    with pytest.raises(ShapeError, match="2 texts"):
        score(["a", "b"], ["a"])
    with pytest.raises(InputError, match="at least one word"):
        score(["", " "], ["a", "b"])
    with pytest.raises(InputError, match="same references"):
        compare(score(["a b"], ["a"]), score(["a"], ["a"]))


def simulated(rng, rate, count=400):
    """Return utterances of 5 words, each wrong with some probability."""
    said = [["a"] * 5 for _ in range(count)]
    heard = [["b" if rng.random() < rate else "a" for _ in words] for words in said]
    return [" ".join(w) for w in said], [" ".join(w) for w in heard]


def test_the_interval_has_the_width_of_theory(rng):
    """Independent errors: a standard deviation of sqrt(p (1 - p) / words)."""
    found = score(*simulated(rng, 0.1))
    low, high = found.interval()
    p = found.rate
    expected = 2 * 1.96 * np.sqrt(p * (1 - p) / 2000)
    assert low < p < high
    assert high - low == pytest.approx(expected, rel=0.12)
    assert found.interval() == (low, high)
    wide = found.interval(level=0.99)
    assert wide[0] < low < high < wide[1]


def test_intervals_hold_the_truth_as_often_as_they_say(rng):
    hits = 0
    for _ in range(200):
        low, high = score(*simulated(rng, 0.1, 120)).interval(samples=400)
        hits += low <= 0.1 <= high
    assert 178 <= hits <= 198  # 95 % of 200 is 190, five standard deviations are 15


def test_comparisons(rng):
    said, heard = simulated(rng, 0.3)
    better = [" ".join("a" if rng.random() < 0.2 else w for w in h.split()) for h in heard]
    first, second = score(said, heard), score(said, better)
    found = compare(first, second)
    assert found.difference == pytest.approx(second.rate - first.rate)
    assert found.low < found.difference < found.high < 0
    assert found.p < 1e-4
    assert found.better > 0.999
    back = compare(second, first)
    assert (back.difference, back.p) == pytest.approx((-found.difference, found.p))
    equal = compare(first, first)
    assert (equal.difference, equal.p, equal.better) == (0, 1, 0.5)


def test_p_is_uniform_where_there_is_no_difference(rng):
    found = []
    for _ in range(200):
        said, one = simulated(rng, 0.2, 100)
        other = simulated(rng, 0.2, 100)[1]
        found.append(compare(score(said, one), score(said, other), samples=10).p)
    assert 0.4 < np.mean(found) < 0.6
    assert np.mean(np.array(found) < 0.05) < 0.12
