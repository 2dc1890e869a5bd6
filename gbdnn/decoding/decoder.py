"""Decoding of encoder frames by a transducer: whole utterances, and sessions of parts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gbdnn import checks
from gbdnn.decoding.fusion import Fusion
from gbdnn.decoding.prefixes import Hypothesis
from gbdnn.decoding.protocols import Transducer
from gbdnn.decoding.search import AlignmentSynchronous, Entry, Greedy, Search, TimeSynchronous
from gbdnn.errors import DtypeError, InputError, NonFiniteError, ShapeError, choose
from gbdnn.types import Array

__all__ = ["SEARCHES", "Decoder", "Session"]

SEARCHES: dict[str, type[Search]] = {
    "alsd": AlignmentSynchronous, "greedy": Greedy, "tsd": TimeSynchronous,
}  # fmt: skip


@dataclass(frozen=True)
class Decoder:
    """How frames become label sequences.

    Parameters
    ----------
    model : Transducer
    search : str
        "greedy"; "tsd", time-synchronous beam search; "alsd", alignment-length synchronous beam
        search (Saon, Tüske and Audhkhasi 2020). See `SEARCHES`.
    beam : int or None
        Hypotheses that are kept. None keeps all, whose number grows as vocabulary ** labels: with
        "alsd" the results are then all label sequences of up to `max_labels`, each with its exact
        probability.
    blank : int
    fusion : Fusion
        Language models; none by default.
    labels_per_frame : int
        Of "greedy" and "tsd": labels between two blanks at most.
    max_labels : int, optional
        Of "alsd": labels of an utterance at most; None: `most_per_frame` for each of its frames.
    most_per_frame : int
        An encoder that reduces time by a factor leaves fewer frames, and as many labels.
    """

    model: Transducer
    search: str = "alsd"
    beam: int | None = 8
    blank: int = 0
    fusion: Fusion = field(default_factory=Fusion)
    labels_per_frame: int = 4
    max_labels: int | None = None
    most_per_frame: int = 1

    def __post_init__(self) -> None:
        choose("search", self.search, SEARCHES)
        for name in ("predict", "joint"):
            if not callable(getattr(self.model, name, None)):
                raise DtypeError("model", f"a transducer with a method {name}", repr(self.model))
        if not isinstance(self.fusion, Fusion):
            raise DtypeError("fusion", "a gbdnn.decoding.Fusion", repr(self.fusion))
        if self.beam is not None:
            checks.count("beam", self.beam)
        if self.max_labels is not None:
            checks.count("max_labels", self.max_labels, 0)
        checks.count("blank", self.blank, 0)
        checks.count("labels_per_frame", self.labels_per_frame)
        checks.count("most_per_frame", self.most_per_frame)

    def decode(self, frames: Array) -> list[Hypothesis]:
        """Return what an utterance may say, the best first, at most `beam`; greedy search: one.

        Parameters
        ----------
        frames : ndarray of float, shape (number, features)
            Of the encoder. Without frames the result is the empty sequence.
        """
        session = self.session()
        session.accept(frames)
        return session.finish()

    def session(self) -> Session:
        """Return a session for frames that come in parts."""
        return Session(self)


class Session:
    """An utterance whose frames come in parts; the result is that of `Decoder.decode`.

    Memory grows with labels, not with frames.
    """

    def __init__(self, decoder: Decoder) -> None:
        self._search = SEARCHES[decoder.search](decoder)
        self._features: int | None = None
        self._finished = False

    def accept(self, frames: Array) -> Hypothesis:
        """Go on with frames, shape (number, features); return the best hypothesis so far."""
        if self._finished:
            raise InputError(
                "session", "no frames after finish()", "some", "Make a session for each utterance."
            )
        array = self._checked(frames)
        if len(array):
            _possible(self._search.beam)
            self._search.accept(array)
        return self.best

    @property
    def best(self) -> Hypothesis:
        """The best hypothesis so far; what follows may change it."""
        if self._finished:
            return self._results[0]
        return _possible(self._search.beam)[0].hypothesis()

    @property
    def predicted(self) -> int:
        """How many prefixes were given to the predictor."""
        return self._search.prefixes.predicted

    def finish(self) -> list[Hypothesis]:
        """Return the results, the best first, at most `beam`; calling it again gives the same."""
        if not self._finished:
            self._results = [entry.hypothesis() for entry in _possible(self._search.finish())]
            self._finished = True
        return list(self._results)

    def _checked(self, frames: Any) -> Array:
        array = np.asarray(frames)
        if array.dtype.kind != "f":
            raise DtypeError("frames", "floats", str(array.dtype))
        features = self._features
        if array.ndim != 2 or features not in (None, array.shape[1]):
            expected = f"(number, {'features' if features is None else features})"
            raise ShapeError("frames", f"shape {expected}", f"shape {array.shape}")
        if not np.isfinite(array).all():
            row = int((~np.isfinite(array)).any(axis=1).argmax())
            raise NonFiniteError("frames", "finite numbers", f"NaN or infinity in frame {row}")
        self._features = array.shape[1]
        return array


def _possible(entries: list[Entry]) -> list[Entry]:
    """Return a beam that is not empty."""
    if not entries:
        fix = "Are joint's results natural log-probabilities, and max_labels not too small?"
        raise InputError("joint", "a way whose probability is above 0", "none in the beam", fix)
    return entries
