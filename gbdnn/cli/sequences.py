"""Sequences in files, (n, time, features) with `lengths`: their labels, and their first network.

Modules that need numpy are imported where they are used.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from gbdnn.errors import InputError, ShapeError

if TYPE_CHECKING:
    from gbdnn.cli.datasets import Dataset
    from gbdnn.network import Network

__all__ = ["joined", "lists", "per_row", "results", "start", "takes_sequences"]


def takes_sequences(network: Network) -> bool:
    """Return whether a network is one for sequences."""
    return any(layer.over_time or layer.kind == "embedding" for layer in network.layers)


def joined(padded: Any, lengths: Any) -> Any:
    """Return the rows of padded sequences behind one another, without the padding."""
    import numpy as np

    return padded[np.arange(padded.shape[1]) < lengths[:, None]]


def results(lengths: Any, factor: int) -> Any:
    """Return how many results sequences have, of `factor` time steps each."""
    return -(-lengths // factor)


def per_row(one_row: bool, samples: Dataset, factor: int) -> Dataset:
    """Return samples whose labels are one for each row of a result, of `factor` time steps.

    Raises
    ------
    ShapeError
        Labels of sequences where each time step has a result, or the other way round.
    """
    y, (count, time) = samples.y, samples.X.shape[:2]
    if y is None or one_row:
        return samples
    shape = count, results(time, factor)
    if y.shape[:2] != shape:
        each = "time step" if factor == 1 else f"{factor} time steps, which the layers make one"
        expected = f"shape {shape}, a label for each {each}"
        fix = 'With "last", "mean" or "final" among the layers a sequence has one label.'
        raise ShapeError("labels", expected, f"shape {y.shape}", fix)
    return replace(samples, y=joined(y, results(samples.lengths, factor)))


def lists(samples: Dataset, y: Any, one_row: bool, factor: int) -> tuple[list[Any], Any]:
    """Return sequences as a list, and their labels, one for each row, as a list for each."""
    import numpy as np

    from gbdnn.data.inputs import unpadded

    X = unpadded(samples.X, samples.lengths, "X")[0]
    if one_row:
        return X, y
    assert samples.lengths is not None
    return X, np.split(y, np.cumsum(results(samples.lengths, factor))[:-1])


def start(samples: Dataset, given: dict[str, Any]) -> tuple[Network, Any, Any, dict[str, Any]]:
    """Return the network that a training begins with, X and y as it takes them, and metadata."""
    from gbdnn.cli import labels
    from gbdnn.layers import HEADS
    from gbdnn.models import recurrent
    from gbdnn.models.recurrent import reduction

    words = [word.strip() for word in given["layers"].split(",")]
    one_row, factor = bool(HEADS.keys() & set(words)), reduction(words)
    assert samples.y is not None
    count, time = samples.X.shape[:2]
    if not one_row and samples.y.shape[:2] not in ((count, time), (count, results(time, factor))):
        words.append("last")  # a label for each sequence
        one_row = True
    rows = per_row(one_row, samples, factor).y
    assert rows is not None
    metadata: dict[str, Any] = {}
    task = given["task"] if given["task"] != "auto" else labels.task_of(rows)
    if task == "classify":
        metadata["classes"], targets = labels.as_classes(rows)
        outputs, head = len(metadata["classes"]), "softmax"
    else:
        targets = labels.as_values(rows)
        outputs, head = targets.shape[1], "identity"
    given["loss"] = given["loss"] or ("cross_entropy" if task == "classify" else "mse")
    if given["loss"] in ("hinge", "mse", "huber", "squared_error"):
        head = "identity"
    if task == "classify" and given["loss"] not in ("cross_entropy", "hinge"):
        expected = "cross_entropy or hinge for classes of sequences"
        raise InputError("--loss", expected, repr(given["loss"]))
    network = recurrent(
        words, samples.X.shape[2], outputs, density=given["density"], head=head,
        dropout=given["dropout"], rng=given["seed"],
    )  # fmt: skip
    return network, *lists(samples, targets, one_row, factor), metadata
