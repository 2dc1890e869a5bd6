"""Gradients of a network over many samples, and `prune`, which takes them into account."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from gbdnn import pruning
from gbdnn.data.batches import Batch
from gbdnn.data.samples import samples
from gbdnn.errors import choose
from gbdnn.layers import LOSSES
from gbdnn.network import Network, check_network
from gbdnn.training.model import Model
from gbdnn.types import Array
from gbdnn.weights.csr import check_finite

__all__ = ["gradients", "prune"]

BATCH = 256  # samples


def gradients(
    network: Network,
    X: Any,
    y: Any,
    *,
    loss: str = "cross_entropy",
    backend: str = "fused",
    threads: int | None = None,
) -> dict[str, Array]:
    """Return the gradient of the mean loss over all samples.

    Parameters
    ----------
    network : Network
    X, y : array_like
        Samples (sparse X too) and targets, as `Trainer.fit` takes them.
    loss : str
        A name of `gbdnn.layers.LOSSES`.
    backend : str
    threads : int, optional
        Default all cores.

    Returns
    -------
    dict of str to ndarray of float64
        By the names of `Network.parameters`; of weights at their entries, shape (nnz,).

    Raises
    ------
    ShapeError, DtypeError, NonFiniteError, SparseFormatError, InputError, UnknownNameError
        Also if the loss or its gradients overflow.
    """
    check_network("network", network)
    model = Model(network, loss=LOSSES[choose("loss", loss, LOSSES)], backend=backend,
                  threads=threads)  # fmt: skip
    inputs, targets, weights = samples(model, X, y, None)
    weights /= weights.sum()
    total = {name: np.zeros(p.grad.shape) for name, p in model.parameters.items()}
    for start in range(0, inputs.count, BATCH):
        ids = np.arange(start, min(start + BATCH, inputs.count))
        model.loss_and_gradients(Batch(inputs, ids, targets, weights, 1.0))
        for name, parameter in model.parameters.items():
            total[name] += parameter.grad
    for name, gradient in total.items():
        fix = "The network's loss or its gradients overflow for these samples."
        check_finite(f"the gradient of {name}", gradient, fix)
    return total


def prune(
    network: Network,
    sparsity: float | None,
    *,
    X: Any = None,
    y: Any = None,
    loss: str = "cross_entropy",
    backend: str = "fused",
    threads: int | None = None,
    **settings: Any,
) -> Network:
    """Return a network without the weights of the lowest score: `gbdnn.pruning.prune`.

    Parameters
    ----------
    network : Network
    sparsity : float
    X, y : array_like, optional
        Samples and targets for scores that need gradients, as "gradient" and "movement" do.
    loss, backend, threads
        How they are computed: see `gradients`.
    **settings
        As `gbdnn.pruning.prune` takes them: score, distribution, structure, exclude, rng, compact.
    """
    if X is not None and y is not None and settings.get("gradients") is None:
        options: dict[str, Any] = {"loss": loss, "backend": backend, "threads": threads}
        settings["gradients"] = partial(gradients, network, X, y, **options)
    return pruning.prune(network, sparsity, **settings)
