"""Lexicons and graphs: decoding against all word sequences by name, alignments, hostile files."""

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gbdnn.decoding import train_ngram, viterbi
from gbdnn.decoding.hmm import ENGINES
from gbdnn.errors import DataUnavailableError, DtypeError, FileFormatError, InputError
from gbdnn.speech.hybrid import Lexicon, align, decoding_graph, read_lexicon, transcript_graph
from gbdnn.speech.hybrid.alignment import flat

HALF = math.log(0.5)
WORDS = (("ab", ("a", "b")), ("b", ("b", "b")), ("ab", ("b", "a")), ("c", ("c",)))


def compositions(total, parts):
    """All ways to write a number as a sum of so many numbers from 1 up."""
    if parts == 1:
        return [(total,)] if total else []
    return [(k, *rest) for k in range(1, total) for rest in compositions(total - k, parts - 1)]


def layouts(lexicon, words):
    """All chains of states of a transcript: silence or none, and the pronunciations; with log P."""
    found = []
    silent = tuple(range(lexicon.silence))
    chains = [lexicon.states_of(word) for word in words]
    for quiet in product((False, True), repeat=len(words) + 1):
        for chosen in product(*chains):
            states, log = list(silent) * quiet[0], len(quiet) * HALF  # P(silence) = 1/2
            for chain, after, ways in zip(chosen, quiet[1:], chains, strict=True):
                states += chain + silent * after
                log -= math.log(len(ways))
            found.append((states, log))
    return found


def best_of(lexicon, scores, words):
    """The best log score of a transcript, by naming every way of passing its states."""
    best = -math.inf
    for states, log in layouts(lexicon, words):
        for lengths in compositions(len(scores), len(states)):
            path = np.repeat(states, lengths)
            value = log + HALF * len(scores) + scores[np.arange(len(scores)), path].sum()
            best = max(best, value)
    return best


def language(model, words, count):
    if model is None:
        return -math.log(count + 1) * (len(words) + 1)
    return model.log_probability(words)


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 10**6), T=st.integers(2, 6), order=st.sampled_from([None, 1, 2]),
       engine=st.sampled_from(ENGINES), weight=st.sampled_from([0.0, 1.0, 2.5]))  # fmt: skip
def test_all_word_sequences(seed, T, order, engine, weight):
    """Two states a unit are too many to name, so one; words have two states and more, but "c"."""
    rng = np.random.default_rng(seed)
    lexicon = Lexicon(WORDS[:3], states=1, silence=1)
    texts = rng.integers(1, 3, (6, 4)).tolist()
    model = None if order is None else train_ngram(texts, order, 3)
    bonus = float(rng.normal())
    graph = decoding_graph(lexicon, model, weight=weight, bonus=bonus)
    scores = 2 * rng.standard_normal((T, lexicon.count))
    path, score = viterbi(graph.transitions, scores[:, graph.states], graph.initial, graph.final,
                          engine=engine)  # fmt: skip
    ways = {}
    for n in range(T // 2 + 1):
        for words in product((1, 2), repeat=n):
            own = best_of(lexicon, scores, words)
            if not n:  # silence, which is not followed by the choice of another one
                own = HALF + HALF * T + scores[:, 0].sum()
            ways[words] = own + weight * language(model, words, 2) + bonus * n
    best = max(ways.values())
    found = tuple(word for word, _, _ in graph.spans(path))
    assert score == pytest.approx(best, abs=1e-9)
    assert ways[found] == pytest.approx(best, abs=1e-9)
    starts = [t for _, begin, end in graph.spans(path) for t in (begin, end)]
    assert starts == sorted(starts)
    aligned, value = align(lexicon, found, scores, engine=engine)
    np.testing.assert_array_equal(aligned, graph.states[path])
    total = value + weight * language(model, found, 2) + bonus * len(found)
    assert total == pytest.approx(score, abs=1e-9)


def test_a_sequence_with_many_states():
    """Three states a unit, a score that forces one path: words and times come back."""
    lexicon = Lexicon.spelled(["on", "no", "oo"])
    graph = decoding_graph(lexicon, train_ngram([[1, 2], [2, 3, 3]], 2, 4))
    wanted = [(2, 4), (1, 3), (3, 2), (3, 2)]  # word, frames a state
    states, spans = [0, 0, 1, 2], []
    for word, each in wanted:
        begin = len(states)
        states += [s for s in lexicon.states_of(word)[0] for _ in range(each)]
        spans.append((word, begin, len(states)))
        if word == 1:
            states += [0, 1, 1, 2]
    scores = np.full((len(states), lexicon.count), -10.0)
    scores[np.arange(len(states)), states] = 0
    for engine in ENGINES:
        path, _ = viterbi(graph.transitions, scores[:, graph.states], graph.initial, graph.final,
                          engine=engine)  # fmt: skip
        assert graph.spans(path) == spans
        np.testing.assert_array_equal(graph.states[path], states)


def test_a_word_of_one_state_repeats_behind_silence():
    lexicon = Lexicon((("c", ("c",)),), states=1, silence=1)
    graph = decoding_graph(lexicon, bonus=5.0)
    scores = np.log([[0.1, 0.9]] * 4)
    path, _ = viterbi(graph.transitions, scores[:, graph.states], graph.initial, graph.final)
    assert [word for word, _, _ in graph.spans(path)] == [1, 1]  # c sil c, as a bonus of 5 wants
    assert graph.spans(path)[0][2] < graph.spans(path)[1][1]


def test_probabilities_sum_to_one():
    """What leaves a node sums to 1, with the end: an honest hidden Markov model."""
    lexicon = Lexicon(WORDS, states=2)
    model = train_ngram([[1, 2], [2, 3], [3]], 2, len(lexicon.words) + 1)
    for graph in (decoding_graph(lexicon, model), decoding_graph(lexicon),
                  transcript_graph(lexicon, [1, 3])):  # fmt: skip
        A = graph.transitions.to_scipy()
        A.data = np.exp(A.data)
        leaving = A.sum(axis=1) + np.exp(graph.final)
        quiet = np.arange(len(leaving)) < lexicon.silence - 1  # may end early where nothing is said
        np.testing.assert_allclose(leaving[~quiet], 1)
    assert np.exp(graph.initial).sum() == pytest.approx(1)


def test_no_silence():
    lexicon = Lexicon.spelled(["ab"], states=1)
    graph = decoding_graph(lexicon, silence_probability=0.0)
    scores = np.zeros((4, lexicon.count))
    path, _ = viterbi(graph.transitions, scores[:, graph.states], graph.initial, graph.final)
    assert (graph.words[path] == 1).all()
    assert transcript_graph(lexicon, [1], silence_probability=0.0).initial[0] == -np.inf


def test_flat():
    lexicon = Lexicon.spelled(["ab"], states=2, silence=1)
    np.testing.assert_array_equal(flat(lexicon, [1], 6), [0, 1, 2, 3, 4, 0])
    np.testing.assert_array_equal(flat(lexicon, [1], 12), np.repeat([0, 1, 2, 3, 4, 0], 2))
    assert np.bincount(flat(lexicon, [1, 1], 25)).max() <= 6
    with pytest.raises(InputError, match="at least 6"):
        flat(lexicon, [1], 5)
    with pytest.raises(InputError, match="at least 4"):
        align(lexicon, [1], np.zeros((3, 5)))


def test_lexicon():
    lexicon = Lexicon(WORDS)
    assert lexicon.words == ("ab", "b", "c")
    assert lexicon.units == ("a", "b", "c")
    assert lexicon.count == 12 == len(lexicon.state_names())
    assert lexicon.states_of(1) == [(3, 4, 5, 6, 7, 8), (6, 7, 8, 3, 4, 5)]
    assert lexicon.encode(" b  ab ") == [2, 1]
    assert lexicon.decode([2, 1]) == "b ab"
    assert Lexicon.from_dict(lexicon.to_dict()) == lexicon
    assert Lexicon.of_texts(["b a", "a c"]).words == ("a", "b", "c")
    with pytest.raises(InputError, match="'x'"):
        lexicon.encode("ab x")


@pytest.mark.parametrize(
    "entries",
    [(), ("ab",), (("a",),), (("a", "a"),), (("a", ()),), (("", ("a",)),), (("a b", ("a",)),),
     (("a", ("",)),), (("a", (" ",)),), (("a", (3,)),), ((3, ("a",)),), (("a", ("a",)),) * 2,
     (("a" * 999, ("a",)),), (("a", ("a",) * 9999),)],
)  # fmt: skip
def test_bad_lexicons(entries):
    with pytest.raises((InputError, DtypeError)):
        Lexicon(entries)


def test_bad_arguments():
    lexicon = Lexicon.spelled(["ab", "c"])
    for bad in ({"states": 0}, {"silence": 99}, {"states": 1.5}, {"states": "3"}):
        with pytest.raises(InputError):
            Lexicon.spelled(["a"], **bad)
    with pytest.raises(DtypeError):
        Lexicon.spelled("abc")
    with pytest.raises(DtypeError, match="NGram"):
        decoding_graph(lexicon, "bigram")
    with pytest.raises(InputError, match="3 labels"):
        decoding_graph(lexicon, train_ngram([[1]], 2, 2))
    with pytest.raises(InputError, match="order 1 or 2"):
        decoding_graph(lexicon, train_ngram([[1]], 3, 3))
    for bad in ({"weight": -1}, {"weight": math.nan}, {"bonus": math.inf},
                {"silence_probability": 1.0}):  # fmt: skip
        with pytest.raises(InputError):
            decoding_graph(lexicon, **bad)
    for bad in ([0], [3], [-1]):
        with pytest.raises(InputError, match="words"):
            transcript_graph(lexicon, bad)
    for bad in ({}, [], {"entries": {}, "states": 3, "silence": 3},
                {"entries": [1], "states": 3, "silence": 3}):  # fmt: skip
        with pytest.raises((InputError, DtypeError)):
            Lexicon.from_dict(bad)


def test_lexicon_files(tmp_path):
    path = tmp_path / "words.txt"
    path.write_text("one w ah n\n\nno\nno n ow\n", "utf-8-sig")
    lexicon = read_lexicon(path, states=2)
    assert lexicon.entries == (("one", ("w", "ah", "n")), ("no", ("n", "o")), ("no", ("n", "ow")))
    assert lexicon.states == 2
    for content, says in (
        (b"", "at least one word"),
        (b"\n\n", "at least one word"),
        (b"a a\na a\n", "line 2.*line 1"),
        (b"a\n\xff\n", "line 2.*UTF-8"),
        (b"a " + b"x" * 300 + b"\n", "line 1"),
        (b"a " + b"x " * 200_000 + b"\n", "line 1"),
        (b"\x00" * 300_000, "line 1"),
    ):
        path.write_bytes(content)
        with pytest.raises(FileFormatError, match=says) as caught:
            read_lexicon(path)
        assert len(str(caught.value)) < 600
    with pytest.raises(DataUnavailableError):
        read_lexicon(tmp_path / "none")
