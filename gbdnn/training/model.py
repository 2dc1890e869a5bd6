"""A network in training: forward, loss and backward, layer by layer.

For layers k = 0 ... L-1, a mini-batch Y_0 and a loss L of the last layer's output

    forward     Z_k = W_k Y_k + b_k           Y_{k+1} = h_k(Z_k)
    backward    dZ_k = h_k'(Z_k) dY_{k+1}     dY_k = W_k^T dZ_k
    gradients   dW_k = (dZ_k Y_k^T) at W_k's pattern          db_k = row sums of dZ_k

with dA short for the derivative of L by A (Rumelhart, Hinton and Williams 1986). The equations are
in the layers (`gbdnn.layers.linear`); here they are put in order. All products cost O(nnz x batch)
and there is no array of out_features x in_features anywhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from gbdnn.backends.base import Backend
from gbdnn.data.batches import Batch
from gbdnn.data.inputs import Inputs
from gbdnn.errors import InputError
from gbdnn.execution import executor
from gbdnn.execution.run import Observer, Run
from gbdnn.execution.source import ArraySink
from gbdnn.execution.streaming import check_parts
from gbdnn.execution.tiles import padded
from gbdnn.layers import Layer, Loss
from gbdnn.network import Network
from gbdnn.quantization.calibration import Calibration
from gbdnn.training.chain import Chain
from gbdnn.training.parameters import Parameter
from gbdnn.types import Array

__all__ = ["Model", "Trains"]


class Trains(Protocol):
    """What the training loop asks of a model: one network, or several with a loss of their own."""

    threads: int
    backend: Backend
    parameters: dict[str, Parameter]

    @property
    def named_layers(self) -> Mapping[str, Layer]:
        """The layers by the prefixes of the parameters' names, in order; pruning asks for them."""

    def loss_and_gradients(
        self,
        batch: Any,
        *,
        rng: np.random.Generator | None = None,
        observe: Observer | None = None,
    ) -> float:
        """Return the loss of a mini-batch; gradients are in the parameters afterwards."""

    def repattern(self, name: str, weight: Any, optimizer: Any) -> None:
        """Give a weight another pattern."""

    def changed(self) -> None:
        """Bring what the kernels read up to date after parameters were changed in place."""

    def measure(self, batch: Any) -> dict[str, float]:
        """Return "validation_loss" and "validation_score" of samples that are not trained on."""

    def network(self) -> Any:
        """Return what is trained, as it is now (copies)."""


class Model(Chain):
    """A network in training, with a loss.

    Parameters
    ----------
    network : Network
        Where training starts; it is not changed.
    loss : Loss
        One of `gbdnn.layers.LOSSES`. If it contains the network's last activation (the
        cross-entropy its softmax), that activation is left to the loss.
    backend : str
    threads : int, optional
        Default all cores.
    quantization : Calibration, optional
        Which weights and activations are rounded, and where clips begin.
    truncate : int, optional
        Time steps that gradients go back through at the most.

    Attributes
    ----------
    head : Layer or None
        The activation that was left to the loss.
    """

    def __init__(
        self,
        network: Network,
        *,
        loss: Loss,
        backend: str = "fused",
        threads: int | None = None,
        quantization: Calibration | None = None,
        truncate: int | None = None,
    ) -> None:
        if truncate is not None:
            check_parts(network.layers, "truncate")
            if truncate % network.time_factor:
                expected = f"a multiple of {network.time_factor}, of which time steps become one"
                raise InputError("truncate", expected, f"{truncate}")
        last = network.layers[-1]
        self.head: Layer | None = last if last.kind == loss.absorbs else None
        self.truncate, self.loss = truncate, loss
        super().__init__(
            network, backend=backend, threads=threads, quantization=quantization,
            without=0 if self.head is None else 1,
        )  # fmt: skip

    # -- one mini-batch ----------------------------------------------------------------------------

    def loss_and_gradients(
        self,
        batch: Batch,
        *,
        rng: np.random.Generator | None = None,
        observe: Observer | None = None,
    ) -> float:
        """Return L = sum_i w_i l_i over the mini-batch and compute all gradients.

        Parameters
        ----------
        batch : Batch
            Samples, targets, and weights w that sum to 1.
        rng : Generator, optional
            Needed by networks with dropout.
        observe : callable, optional
            Called as observe(name, dZ, Y) for each weight, last first; both arrays are of the shape
            (tiles, features, width), valid during the call.

        Returns
        -------
        float
            Gradients are in the parameters' `grad` until the next call.
        """
        run = Run(self.backend, self.memory, self.threads, rng=rng, observe=observe)
        with self.backend.pinned(self.threads), self.rounds:
            Y, rows = self._load(run, batch.inputs, batch.ids)
            if self.truncate is None or not batch.inputs.over_time:
                value = self._through(run, batch, Y, rows)
            else:
                value = self._truncated(run, batch, Y, rows, self.truncate)
        self.finish_gradients()
        return value

    def _through(self, run: Run, batch: Batch, Y: Array, rows: Array) -> float:
        """Return the loss of tiles and compute their gradients."""
        valid = rows >= 0
        if run.lengths is not None:
            valid = np.arange(len(Y))[:, None] < run.lengths
        Y, tapes = self.forward(run, Y, valid)
        run.at("loss")
        dY, value = run.over(Y), 0.0
        for tile, numbers in zip(dY, rows, strict=True):
            targets, weights = batch.tile(numbers)
            value += self.loss.function(tile, targets, weights.astype(self.dtype, copy=False))
        self.backward(run, dY, tapes)
        return value

    def _truncated(self, run: Run, batch: Batch, Y: Array, rows: Array, size: int) -> float:
        """Add up losses and gradients of parts of `size` time steps.

        States go from each part to the next, gradients do not (Williams and Peng 1990).
        """
        run.states, lengths, factor, value = {}, run.lengths, self.time_factor, 0.0
        sums = [np.zeros_like(parameter.grad) for parameter in self.parameters.values()]
        for start in range(0, len(Y), size):
            part, results = Y[start : start + size], rows[start // factor :][: size // factor]
            run.lengths = None if lengths is None else (lengths - start).clip(0, len(part))
            value += self._through(run, batch, part, results)
            for total, parameter in zip(sums, self.parameters.values(), strict=True):
                total += parameter.grad
        for total, parameter in zip(sums, self.parameters.values(), strict=True):
            parameter.grad[...] = total
        return value

    def _load(self, run: Run, inputs: Inputs, ids: Array) -> tuple[Array, Array]:
        """Return samples as tiles, filled up with zeros, and the row of each column, or -1."""
        run.at("inputs")
        if inputs.over_time or self.over_time:
            width = padded(len(ids))
            Y = run.empty(inputs.time_steps(ids), self.in_features, width)
            inputs.load(ids, Y[:, :, : len(ids)])
            Y[:, :, len(ids) :] = 0
            run.lengths = inputs.lengths_of(ids, width)
            places = inputs.places(ids)
            rows = np.full((len(places), width), -1)
            rows[:, : len(ids)] = places
            return Y, rows
        widest = self.backend.width(self.widest, self.dtype, len(ids))
        tiles = max(-(-len(ids) // widest), 1)
        width = min(padded(-(-len(ids) // tiles)), widest)
        Y = run.empty(tiles, self.in_features, width)
        rows = np.full((tiles, width), -1)
        for t, tile in enumerate(Y):
            part = ids[t * width : (t + 1) * width]
            inputs.load(part, tile[None, :, : len(part)])
            tile[:, len(part) :] = 0
            rows[t, : len(part)] = part
        return Y, rows

    # -- the same network in prediction ------------------------------------------------------------

    def outputs(self, inputs: Inputs) -> Array:
        """Return what the loss takes, for all rows of the inputs: (rows, out_features).

        That is without `head` and without dropout.
        """
        sink = ArraySink(np.empty((inputs.rows, self.out_features), self.dtype))
        executor.run(self, inputs, sink, backend=self.backend, threads=self.threads, skip=False)
        return sink.out

    def measure(self, batch: Batch) -> dict[str, float]:
        """Return the mean loss and the score of the samples of `batch`; dropout is off."""
        return self.measured(batch, self.outputs(batch.inputs))

    def measured(self, batch: Batch, out: Array) -> dict[str, float]:
        """Return what `measure` does, of outputs that are there already."""
        weights = batch.weights / batch.weights.sum()
        Z = out.T.copy()  # neuron-major, and the loss overwrites it
        with np.errstate(over="ignore", invalid="ignore"):  # of what diverges the numbers tell
            loss = self.loss.function(Z, batch.targets.T, weights.astype(Z.dtype))
            score = self.loss.score(out, batch.targets, weights)
        return {"validation_loss": loss, "validation_score": score}
