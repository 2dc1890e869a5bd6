"""Training the network of a model file on: for `gbdnn train --init` and `gbdnn prune --finetune`.

A model takes samples as they are, but trains best on scaled ones: the scaling that `gbdnn train`
made part of the network is taken out of it before, and made part of it again afterwards. Sequences
are not scaled.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gbdnn.cli.scores import classes_of, setting, targets
from gbdnn.errors import InputError, ShapeError, TrainingInterrupted

if TYPE_CHECKING:
    from gbdnn.cli.datasets import Dataset
    from gbdnn.models import Scaling
    from gbdnn.network import Network
    from gbdnn.training import Result

__all__ = ["BATCH", "check_samples", "finetune", "scale_of", "targets_of", "unfolded"]

BATCH = 128


def finetune(
    network: Network, samples: Dataset, **settings: Any
) -> tuple[Network, Result, int | None]:
    """Train the weights that a network has on labelled samples; the patterns stay.

    Returns
    -------
    network : Network
        With the metadata of the one given.
    result : Result
    signal : int or None
        That ended the training, after one step or more.
    """
    from gbdnn.models import fold, scaling
    from gbdnn.training import Trainer

    over_time = samples.lengths is not None
    if over_time:
        X, y, loss = targets(network, samples).values()
        begin = network
    else:
        y, loss, undo = targets_of(network, samples)
        scale = scaling(samples.X, scale_of(network))
        begin, X = unfolded(network, scale, undo), scale.apply(samples.X)
    trainer = Trainer(
        loss=loss, batch_size=min(BATCH, samples.X.shape[0]), progress=True, **settings
    )
    signal = None
    try:
        result = trainer.fit(begin, X, y)
    except TrainingInterrupted as error:
        if not error.result.training.step:
            raise
        result, signal = error.result, error.signal
    tuned = result.network if over_time else fold(result.network, scale, undo)
    return tuned, result, signal


def check_samples(network: Network, samples: Dataset) -> None:
    """Refuse samples without labels, and those that the network does not take."""
    if samples.y is None:
        expected = "labels: an array y, or a column whose name says so"
        raise InputError(samples.origin, expected, "none", "Say where they are with --label.")
    features = samples.X.shape[-1]
    if features != network.in_features:
        expected = f"{network.in_features} features, as the model takes"
        raise ShapeError(samples.origin, expected, f"{features}")


def targets_of(
    network: Network, samples: Dataset, loss: str | None = None
) -> tuple[Any, str, Scaling | None]:
    """Return targets, the loss, and the scaling of the targets that is to be undone."""
    from gbdnn.cli.labels import as_values
    from gbdnn.layers import LOSSES
    from gbdnn.models import scaling

    found = targets(network, samples)
    y, loss = found["y"], loss or str(found["loss"])
    if classes_of(network) is not None:
        return y, loss, None
    values = as_values(y)
    if LOSSES[loss].probabilities:
        return values, loss, None
    undo = scaling(values, "standard")
    return undo.apply(values), loss, undo


def scale_of(network: Network) -> str:
    """Return the kind of scaling that the model file was trained with, or the default."""
    from gbdnn.models import SCALES

    kind = setting(network, "scale")
    return kind if isinstance(kind, str) and kind in SCALES else "max"


def unfolded(network: Network, scale: Scaling, undo: Scaling | None) -> Network:
    """Return the network for scaled samples, with scaled results: the inverse of `fold`."""
    from gbdnn.models import fold

    return fold(network, scale.inverse(), None if undo is None else undo.inverse())
