"""A hybrid recogniser: a network that scores states, and what its states mean."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gbdnn.errors import DtypeError, FileFormatError, GbdnnError, InputError, ShapeError
from gbdnn.models.files import load
from gbdnn.network import Network, check_network
from gbdnn.speech.data import FrontEnd
from gbdnn.speech.hybrid.lexicon import Lexicon
from gbdnn.types import Array, FilePath

__all__ = ["KEY", "Hybrid", "hybrid_of", "is_hybrid", "load_hybrid"]

KEY = "hybrid"
PARTS = {"lexicon", "log_priors", "front"}


@dataclass(frozen=True, eq=False)
class Hybrid:
    """A network over time whose outputs are states, with their priors and lexicon.

    log p(x | s) = log P(s | x) - log P(s) + constant (Bourlard and Morgan 1994, chapter 6), with
    the network's softmax as P(s | x).

    Parameters
    ----------
    network : Network
        Features of frames to one value for each state, a softmax or what goes into one.
    lexicon : Lexicon
    log_priors : array_like, shape (lexicon.count,)
        Natural logarithms of how frequent each state is.
    front : FrontEnd, optional
        How samples become frames; a file keeps it.

    Raises
    ------
    ShapeError, DtypeError, InputError
    """

    network: Network
    lexicon: Lexicon
    log_priors: Array
    front: FrontEnd | None = None

    def __post_init__(self) -> None:
        check_network("network", self.network)
        if not isinstance(self.lexicon, Lexicon):
            raise DtypeError("lexicon", "a Lexicon", type(self.lexicon).__name__)
        if self.front is not None and not isinstance(self.front, FrontEnd):
            raise DtypeError("front", "a FrontEnd or None", type(self.front).__name__)
        count = self.lexicon.count
        if self.network.out_features != count or self.network.one_row:
            expected = f"a value for each of {count} states at each frame"
            raise ShapeError("network", expected, f"{self.network.out_features} outputs")
        if self.front is not None and self.front.features != self.network.in_features:
            expected = f"{self.network.in_features} features, what the network takes"
            raise ShapeError("front", expected, f"{self.front.features}")
        try:
            priors = np.array(self.log_priors, np.float64)
        except (TypeError, ValueError):
            raise DtypeError("log_priors", "numbers", repr(self.log_priors)[:60]) from None
        if priors.shape != (count,) or not np.isfinite(priors).all() or priors.max() > 0:
            expected = f"{count} finite logarithms of probabilities, one for each state"
            raise InputError("log_priors", expected, repr(self.log_priors)[:60])
        priors.flags.writeable = False
        object.__setattr__(self, "log_priors", priors)

    @property
    def seconds_per_frame(self) -> float:
        """Time between the network's results: in frames, or in seconds with a front end."""
        own = 1.0 if self.front is None else self.front.seconds_per_frame
        return own * self.network.time_factor

    def scores(
        self, frames: Sequence[Array], *, prior_scale: float = 1.0, **computing: Any
    ) -> list[Array]:
        """Return log P(state | frame) - prior_scale log P(state) of some utterances, float64.

        Parameters
        ----------
        frames : sequence of ndarray, shape (frames, features)
        prior_scale : float
        **computing
            backend, threads, ...: see `Network.predict`.

        Returns
        -------
        list of ndarray, shape (ceil(frames / network.time_factor), states)
        """
        if isinstance(frames, np.ndarray):
            raise DtypeError("frames", "a list of arrays, one for each utterance", "an array")
        if not len(frames):
            return []
        found = []
        softmax = self.network.layers[-1].kind == "softmax"
        for values in self.network.predict(list(frames), **computing):
            own = values.astype(np.float64)
            if softmax:
                own = np.log(np.maximum(own, math.exp(-80)))
            own -= np.logaddexp.reduce(own, axis=1, keepdims=True)
            found.append(own - prior_scale * self.log_priors)
        return found

    def with_network(self, network: Network) -> Hybrid:
        """Return the recogniser with another network, such as one that was rounded or pruned."""
        return replace(self, network=network)

    def save(self, path: FilePath, *, compress: bool = False) -> None:
        """Write a model file: the network's, with lexicon, priors and front end in its metadata.

        `gbdnn summary`, `quantize` and `prune` take it too, and keep them. `compress` is that of
        `Network.save`.

        Raises
        ------
        DataUnavailableError
        """
        front = None if self.front is None else self.front.as_dict()
        record = {
            "lexicon": self.lexicon.to_dict(), "log_priors": self.log_priors.tolist(),
            "front": front,
        }  # fmt: skip
        self.network.save(path, extra={KEY: record}, compress=compress)


def load_hybrid(path: FilePath) -> Hybrid:
    """Return what `Hybrid.save` wrote.

    Raises
    ------
    DataUnavailableError, FileFormatError, MemoryBudgetError
        As `gbdnn.load`; also for a model that is no hybrid recogniser.
    """
    return hybrid_of(path, load(path))


def is_hybrid(model: Any) -> bool:
    """Return whether what a file held is a hybrid recogniser."""
    return isinstance(model, Network) and KEY in model.metadata


def hybrid_of(path: FilePath, network: Any) -> Hybrid:
    """Return the recogniser that a model file's content is; see `load_hybrid`."""
    if not is_hybrid(network):
        fix = "train_hybrid makes such a model, and gbdnn speech train --kind hybrid."
        got = f"a {type(network).__name__} without states"
        raise FileFormatError(str(path), "a hybrid recogniser", got, fix)
    record = network.metadata.pop(KEY)
    try:
        if not isinstance(record, Mapping) or record.keys() != PARTS:
            raise InputError("record", ", ".join(sorted(PARTS)), repr(record)[:60])
        front = record["front"]
        if not isinstance(record["log_priors"], list):
            raise DtypeError("log_priors", "a list", repr(record["log_priors"])[:60])
        return Hybrid(
            network,
            Lexicon.from_dict(record["lexicon"]),
            np.array(record["log_priors"], dtype=object),
            None if front is None else FrontEnd.from_dict(front),
        )
    except GbdnnError as error:
        what = f"{path}, {KEY}, {error.argument}"
        got = error.got[:200]
        raise FileFormatError(what, error.expected, got, "The file is damaged.") from None
