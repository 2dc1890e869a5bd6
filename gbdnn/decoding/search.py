"""Greedy and beam search over a transducer's lattice, frames coming in parts.

All searches keep their beam as prefixes with scores, log-sums over alignments, and expand it in
one batch: one call of the joint, one of the predictor for prefixes that are new.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from gbdnn.decoding.fusion import Fusion
from gbdnn.decoding.prefixes import Hypothesis, Prefix, Prefixes
from gbdnn.decoding.protocols import Transducer
from gbdnn.types import Array

__all__ = ["AlignmentSynchronous", "Entry", "Greedy", "Search", "TimeSynchronous"]

FORGET = 256  # steps after which prefixes that were left are dropped


class Settings(Protocol):
    """What a search reads of a `gbdnn.decoding.Decoder`."""

    @property
    def model(self) -> Transducer: ...
    @property
    def beam(self) -> int | None: ...
    @property
    def blank(self) -> int: ...
    @property
    def fusion(self) -> Fusion: ...
    @property
    def labels_per_frame(self) -> int: ...
    @property
    def max_labels(self) -> int | None: ...
    @property
    def most_per_frame(self) -> int: ...


@dataclass(frozen=True)
class Entry:
    """A prefix in a beam; `times` are its labels' frames as (earlier, last), () for none."""

    node: Prefix
    score: float
    times: tuple[Any, ...]

    def hypothesis(self) -> Hypothesis:
        """Return it as a user sees it."""
        frames, times = [], self.times
        while times:
            times, last = times
            frames.append(last)
        own = self.score - self.node.fused
        return Hypothesis(self.node.labels(), tuple(reversed(frames)), self.score, own)


def _merged(a: Entry, b: Entry) -> Entry:
    """Return one entry for two of the same prefix: the log-sum, the times of the likelier one."""
    times = a.times if a.score >= b.score else b.times
    return Entry(a.node, float(np.logaddexp(a.score, b.score)), times)


def _ordered(entries: list[Entry], beam: int | None) -> list[Entry]:
    return sorted(entries, key=lambda entry: -entry.score)[:beam]


def _best(scores: Array, beam: int | None) -> list[int]:
    """Return the places of the best scores that are possible at all, the best first."""
    places = np.flatnonzero(scores > -np.inf)
    if beam is not None and len(places) > beam:
        places = places[np.argpartition(-scores[places], beam - 1)[:beam]]
    order = np.argsort(-scores[places], kind="stable")
    return [int(place) for place in places[order]]


class Search:
    """What is common: the beam, and a count of frames.

    Attributes
    ----------
    beam : list of Entry
        The best first.
    seen : int
        Frames that were taken from the caller.
    """

    def __init__(self, decoder: Settings) -> None:
        self.decoder = decoder
        self.prefixes = Prefixes(decoder.model, decoder.fusion, decoder.blank)
        self.beam = [Entry(self.prefixes.root, 0.0, ())]
        self.seen = 0

    def accept(self, frames: Array) -> None:
        """Go on with frames, shape (number, features)."""
        for frame in frames:
            if not self.beam:
                return
            self._frame(frame)
            self.seen += 1
            if self.seen % FORGET == 0:
                self.prefixes.forget(entry.node for entry in self.beam)

    def _frame(self, frame: Array) -> None:
        raise NotImplementedError

    def finish(self) -> list[Entry]:
        """Return the final beam, the best first."""
        return self.beam


class Greedy(Search):
    """The best of blank and labels at each node, at most `labels_per_frame` labels a frame."""

    def _frame(self, frame: Array) -> None:
        (entry,), blank = self.beam, self.decoder.blank
        for number in range(self.decoder.labels_per_frame + 1):
            scores = self.prefixes.scores([entry.node], frame[None])[0]
            full = number == self.decoder.labels_per_frame
            label = blank if full else int(scores.argmax())
            node, score = entry.node, entry.score + float(scores[label])
            if label == blank:
                self.beam = [Entry(node, score, entry.times)] if score > -np.inf else []
                return
            entry = Entry(self.prefixes.child(node, label), score, (entry.times, self.seen))


class TimeSynchronous(Search):
    """All hypotheses have seen the same frames; rounds of one label more within each frame.

    TSD in Saon, Tüske and Audhkhasi 2020 (ICASSP, "Alignment-length synchronous decoding for RNN
    transducer"). Equal prefixes come together when they go to the next frame.
    """

    def _frame(self, frame: Array) -> None:
        blank, width, prefixes = self.decoder.blank, self.decoder.beam, self.prefixes
        after: dict[Prefix, Entry] = {}
        here = self.beam
        for number in range(self.decoder.labels_per_frame + 1):
            frames = np.broadcast_to(frame, (len(here), len(frame)))
            scores = prefixes.scores([entry.node for entry in here], frames)
            scores += np.array([[entry.score] for entry in here])
            for entry, score in zip(here, scores[:, blank], strict=True):
                if score > -np.inf:
                    new = Entry(entry.node, float(score), entry.times)
                    old = after.get(entry.node)
                    after[entry.node] = new if old is None else _merged(old, new)
            if number == self.decoder.labels_per_frame:
                break
            scores[:, blank] = -np.inf
            here = [
                Entry(prefixes.child(here[row].node, label), float(scores[row, label]),
                      (here[row].times, self.seen))
                for row, label in (divmod(k, scores.shape[1]) for k in _best(scores.ravel(), width))
            ]  # fmt: skip
            if not here:
                break
        self.beam = _ordered(list(after.values()), width)


class AlignmentSynchronous(Search):
    """All hypotheses have taken the same number of steps, blanks and labels together (ALSD).

    Saon, Tüske and Audhkhasi 2020: in step i = 0 ... T + U_max - 1 a hypothesis with u labels
    stands at frame t = i - u, and its next step is a blank, with t = T - 1 the last one, or a
    label. Prefixes that become equal come together before the beam is cut, so that each is
    there once.

    While frames come, all steps are taken in which no hypothesis can be at a frame that may be the
    last one.
    """

    def __init__(self, decoder: Settings) -> None:
        super().__init__(decoder)
        self.step, self.first = 0, 0  # first: number of the oldest frame that is kept
        self.frames: Array = np.empty((0, 0))
        self.done: list[Entry] = []

    def accept(self, frames: Array) -> None:
        """Go on with frames, shape (number, features)."""
        if not len(frames):
            return
        self.frames = np.concatenate([self.frames, frames]) if len(self.frames) else frames.copy()
        self.seen += len(frames)
        while self.step < self.seen - 1 and self.beam:
            self._step(None)
        oldest = min((self.step - entry.node.length for entry in self.beam), default=self.seen)
        self.frames, self.first = self.frames[oldest - self.first :], oldest

    def finish(self) -> list[Entry]:
        """Take the steps that are left; return what reached the end, the best first."""
        if not self.seen:
            return self.beam
        limit = self.decoder.max_labels
        limit = self.decoder.most_per_frame * self.seen if limit is None else limit
        while self.step < self.seen + limit and self.beam and not self._settled():
            self._step(limit)
        return _ordered(self.done, self.decoder.beam)

    def _settled(self) -> bool:
        """Whether what is in the beam cannot come among the best results any more.

        A result's probability is at most that of all prefixes in the beam together; a fusion may
        raise scores, so that nothing is sure then.
        """
        width = self.decoder.beam
        if self.decoder.fusion.active or width is None or len(self.done) < width:
            return False
        rest = np.logaddexp.reduce([entry.score for entry in self.beam])
        return bool(rest <= _ordered(self.done, width)[-1].score)

    def _step(self, limit: int | None) -> None:
        """Take a step; `limit` is the largest number of labels once the last frame is known."""
        blank, ended = self.decoder.blank, limit is not None
        most = self.decoder.max_labels if limit is None else limit
        here, prefixes = self.beam, self.prefixes
        lengths = np.array([entry.node.length for entry in here])
        t = self.step - lengths
        scores = prefixes.scores([entry.node for entry in here], self.frames[t - self.first])
        scores += np.array([[entry.score] for entry in here])
        stay = scores[:, blank].copy()  # the same prefix, one frame later
        scores[:, blank] = -np.inf
        if most is not None:
            scores[lengths >= most] = -np.inf
        times: list[tuple[Any, ...]] = [entry.times for entry in here]
        if ended:
            last = t == self.seen - 1
            self.done += [
                Entry(here[k].node, float(stay[k]), times[k])
                for k in map(int, np.flatnonzero(last & (stay > -np.inf)))
            ]
            stay[last] = -np.inf
            self.done = _ordered(self.done, self.decoder.beam)
        rows = {entry.node: row for row, entry in enumerate(here)}
        for k, entry in enumerate(here):  # the same prefix by a label of its parent
            row = rows.get(entry.node.parent) if entry.node.parent else None
            if row is None or stay[k] == -np.inf:
                continue
            other = scores[row, entry.node.label]
            if other > stay[k]:
                times[k] = (here[row].times, int(t[row]))
            stay[k] = np.logaddexp(stay[k], other)
            scores[row, entry.node.label] = -np.inf
        self.beam = []
        for place in _best(np.concatenate([stay, scores.ravel()]), self.decoder.beam):
            if place < len(here):
                self.beam.append(Entry(here[place].node, float(stay[place]), times[place]))
                continue
            row, label = divmod(place - len(here), scores.shape[1])
            node = prefixes.child(here[row].node, label)
            when = (here[row].times, int(t[row]))
            self.beam.append(Entry(node, float(scores[row, label]), when))
        self.step += 1
        if self.step % FORGET == 0:
            prefixes.forget(entry.node for entry in self.beam)
