"""What a search calls: transducers and language models, both on batches of hypotheses."""

from __future__ import annotations

from typing import Any, Protocol

from gbdnn.types import Array

__all__ = ["LanguageModel", "Transducer"]


class Transducer(Protocol):
    """What a search needs of a transducer, once its encoder's frames are computed.

    Both methods work on a batch, the hypotheses of a beam.
    """

    def predict(self, states: list[Any], labels: list[int]) -> tuple[Array, list[Any]]:
        """Take a label in each of k states; return vectors (k, size) and the new states.

        Before the first label the state is None and the label the blank.
        """
        ...

    def joint(self, frames: Array, vectors: Array) -> Array:
        """Return natural log-probabilities (k, vocabulary) of frames (k, features) and vectors."""
        ...


class LanguageModel(Protocol):
    """Anything that can be called like this, such as `NGram`, or a function around a network."""

    def __call__(self, states: list[Any], labels: list[int]) -> tuple[Array, list[Any]]:
        """Take a label in each of k states; return what may follow.

        Parameters
        ----------
        states : list
            What this model returned before; None before the first label.
        labels : list of int
            Of a None state the blank, which stands for the beginning of a sentence.

        Returns
        -------
        scores : ndarray, shape (k, vocabulary)
            Natural log-probabilities of the next label. The blank's column may hold that of the
            sentence's end; the search does not look at it.
        states : list
        """
        ...
