"""A network in training: forward, loss and backward on the backend's three products.

For layers k = 0 ... L-1, a mini-batch Y_0 and a loss L of the last layer's output

    forward     Z_k = W_k Y_k + b_k           Y_{k+1} = h_k(Z_k)
    backward    dZ_k = h_k'(Z_k) dY_{k+1}     dY_k = W_k^T dZ_k
    gradients   dW_k = (dZ_k Y_k^T) at W_k's pattern          db_k = row sums of dZ_k

with dA short for the derivative of L by A (Rumelhart, Hinton and Williams 1986). All products cost
O(nnz x batch) and there is no array of out_features x in_features anywhere.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from gbdnn.backends import get_backend
from gbdnn.backends.base import Backend, Trainable, aligned_empty
from gbdnn.backends.elementwise import row_sums
from gbdnn.data.batches import take
from gbdnn.data.inputs import Inputs
from gbdnn.execution.tiles import LANES, padded
from gbdnn.layers import Activation, Dropout, Identity, Linear
from gbdnn.layers.functional import Loss
from gbdnn.machine import check_threads
from gbdnn.network import Network, grouped
from gbdnn.training.elementwise import backward
from gbdnn.weights.csr import CSR

__all__ = ["Layer", "Model"]

Array = npt.NDArray[Any]
Observer = Callable[[int, Array, Array], None]
Kept = list[tuple[Activation | Dropout, Array]]


@dataclass(eq=False)
class Layer:
    """One Linear in training, with what follows it.

    Attributes
    ----------
    form : Trainable
        The weight in the backend's form; `form.values` is what an optimizer changes.
    bias : ndarray, shape (out_features,)
        A scalar bias of the network becomes one number for each neuron.
    weight_grad, bias_grad : ndarray
        Gradients of the last mini-batch, shapes (nnz,) and (out_features,).
    after : tuple of activations and Dropout
    dense : bool
        The Linear had a dense weight, and gets one again.
    """

    form: Trainable
    bias: Array
    weight_grad: Array
    bias_grad: Array
    after: tuple[Activation | Dropout, ...]
    dense: bool

    @property
    def out_features(self) -> int:
        """Rows of the weight."""
        return self.form.pattern.shape[0]

    @property
    def in_features(self) -> int:
        """Columns of the weight."""
        return self.form.pattern.shape[1]

    def linear(self) -> Linear:
        """Return a copy of the weights and biases as they are now."""
        pattern, values = self.form.pattern, self.form.values.copy()
        if self.dense:
            return Linear(values.reshape(pattern.shape), self.bias, dtype=values.dtype)
        weight = CSR.unchecked(pattern.indptr, pattern.indices, values, pattern.shape)
        return Linear(weight, self.bias, dtype=values.dtype)


class Model:
    """A network's parameters while they change, their gradients, and the buffers of a mini-batch.

    Parameters
    ----------
    network : Network
        Where training starts; it is not changed.
    backend : str
    threads : int, optional
        Default all cores.
    loss : Loss
        One of `gbdnn.layers.LOSSES`. If it contains the network's last activation (the
        cross-entropy its softmax), that activation is left to the loss.
    """

    def __init__(
        self, network: Network, *, loss: Loss, backend: str = "fused", threads: int | None = None
    ) -> None:
        self.backend: Backend = get_backend(backend)
        self.threads = check_threads(threads)
        self.loss, self.dtype = loss, network.dtype
        self.in_features, self.out_features = network.in_features, network.out_features
        self.widest = network.widest
        self.metadata = network.metadata
        last = network.layers[-1]
        absorbed = loss.absorbs is not None and isinstance(last, loss.absorbs)
        self.head: Activation | None = last if absorbed else None  # type: ignore[assignment]
        inner = network.layers[:-1] if absorbed else network.layers
        self.layers = [self._layer(linear, after) for linear, after in grouped(inner)]
        self._buffers: dict[Any, Array] = {}

    def _layer(self, linear: Linear, after: tuple[Activation | Dropout, ...]) -> Layer:
        form = self.backend.trainable(linear.weight)
        bias = np.array(np.broadcast_to(linear.bias, linear.out_features))
        dense = not isinstance(linear.weight, CSR)
        return Layer(form, bias, np.zeros_like(form.values), np.zeros_like(bias), after, dense)

    # -- the state ---------------------------------------------------------------------------------

    def parameters(self) -> list[tuple[Array, Array]]:
        """Return (value, gradient) of weight 0, bias 0, weight 1, ...: the arrays themselves."""
        return [
            pair
            for layer in self.layers
            for pair in ((layer.form.values, layer.weight_grad), (layer.bias, layer.bias_grad))
        ]

    def changed(self) -> None:
        """Bring the backend's forms up to date after parameters were changed in place."""
        for layer in self.layers:
            layer.form.refresh(self.threads)

    def replace(self, k: int, weight: CSR) -> None:
        """Give Linear number `k` a weight with another pattern."""
        layer = self.layers[k]
        layer.form = self.backend.trainable(weight.astype(self.dtype))
        layer.weight_grad = np.zeros_like(layer.form.values)
        layer.dense = False

    def network(self) -> Network:
        """Return the network as it is now (copies)."""
        layers: list[Any] = []
        for layer in self.layers:
            layers += [layer.linear(), *layer.after]
        found = Network([*layers, *([self.head] if self.head is not None else [])])
        found.metadata = dict(self.metadata)
        return found

    @property
    def nbytes(self) -> int:
        """Bytes of weights, biases and gradients; not of the buffers of a mini-batch."""
        return sum(
            layer.form.nbytes + layer.weight_grad.nbytes + 2 * layer.bias.nbytes
            for layer in self.layers
        )

    # -- one mini-batch ----------------------------------------------------------------------------

    def loss_and_gradients(
        self,
        inputs: Inputs,
        ids: Array,
        targets: Array,
        weights: Array,
        *,
        rng: np.random.Generator | None = None,
        observe: Observer | None = None,
    ) -> float:
        """Return L = sum_i weights[i] l_i over the samples `ids` and compute all gradients.

        Parameters
        ----------
        inputs : Inputs
        ids : ndarray of int, shape (batch,)
            Which samples of `inputs`.
        targets : ndarray, shape (batch,) of int, or (batch, out_features)
            Of these samples, as the loss wants them.
        weights : ndarray, shape (batch,)
            For a mean over the batch 1 / batch each.
        rng : Generator, optional
            Needed by networks with dropout.
        observe : callable, optional
            Called as observe(k, dZ, Y) for each Linear, last first; both arrays tile-major, valid
            during the call.

        Returns
        -------
        float
            Gradients are in `layers[k].weight_grad` and `.bias_grad` until the next call.
        """
        with self.backend.pinned(self.threads):
            Y = self._load(inputs, ids)
            kept: list[tuple[Array, Kept]] = []
            for k, layer in enumerate(self.layers):
                Z, activations = self._forward(k, layer, Y, rng)
                kept.append((Y, activations))
                Y = Z
            dY = Y
            if kept[-1][1]:  # the loss replaces what it gets, and the last activation needs it
                dY = self._buffer("loss", Y.shape)
                dY[...] = Y
            value = self._loss(dY, targets, weights)
            for k in reversed(range(len(self.layers))):
                dY = self._backward(k, dY, *kept[k], observe)
        return value

    def _forward(
        self, k: int, layer: Layer, Y: Array, rng: np.random.Generator | None
    ) -> tuple[Array, Kept]:
        """Return h(W Y + b) and what the backward pass needs to know of each activation."""
        first = layer.after[0] if layer.after else Identity()
        fused = first.clamp is not None and not isinstance(first, Dropout)
        h = first if fused else Identity()
        out = self._buffer((k, "Z"), (len(Y), layer.out_features, Y.shape[2]))
        self.backend.affine(layer.form, Y, layer.bias, h, out, self.threads)
        kept: Kept = [(first, out)] if fused and layer.after else []
        for number, activation in enumerate(layer.after[len(kept) :]):
            before = out
            if isinstance(activation, Dropout):
                if rng is None:
                    continue
                mask = activation.draw(out.shape, rng, out.dtype)
                out = np.multiply(before, mask, out=self._buffer((k, number), before.shape))
                kept.append((activation, mask))
                continue
            if kept or activation.needs == "input":  # else nobody looks at `before` again
                out = self._buffer((k, number), before.shape)
                out[...] = before
            activation.apply(out)
            kept.append((activation, out if activation.needs == "output" else before))
        return out, kept

    def _backward(self, k: int, dY: Array, Y: Array, kept: Kept, observe: Observer | None) -> Array:
        """Compute the gradients of layer k from dY_{k+1}, in place; return dY_k."""
        layer = self.layers[k]
        for activation, what in reversed(kept):
            backward(activation, what, dY, self.threads)
        dZ = dY
        self.backend.affine_weight_grad(layer.form, dZ, Y, layer.weight_grad, self.threads)
        row_sums(dZ, layer.bias_grad, self.threads)
        if observe is not None:
            observe(k, dZ, Y)
        if k == 0:
            return dZ
        out = self._buffer(("dY", k % 2), (len(Y), layer.in_features, Y.shape[2]))
        self.backend.affine_input_grad(layer.form, dZ, out, self.threads)
        return out

    def _loss(self, Z: Array, targets: Array, weights: Array) -> float:
        """Replace the tiles of Z by dZ, tile by tile; padding has weight 0."""
        tiles, _, width = Z.shape
        value = 0.0
        for t in range(tiles):
            part = slice(t * width, (t + 1) * width)
            w = _padded(weights[part].astype(Z.dtype, copy=False), width)
            value += self.loss.function(Z[t], _padded(targets[part], width).T, w)
        return value

    def outputs(self, inputs: Inputs, batch: int = 256, *, head: bool = True) -> Array:
        """Return the outputs for all inputs, (count, out_features); without dropout.

        Without `head` they are what the loss takes: before an activation that it contains.
        """
        found = np.empty((inputs.count, self.out_features), self.dtype)
        with self.backend.pinned(self.threads):
            for start in range(0, inputs.count, batch):
                ids = np.arange(start, min(start + batch, inputs.count))
                Y = self._load(inputs, ids)
                for k, layer in enumerate(self.layers):
                    Y, _ = self._forward(k, layer, Y, None)
                if head and self.head is not None:
                    self.head.apply(Y)
                found[ids] = Y.transpose(0, 2, 1).reshape(-1, self.out_features)[: len(ids)]
        return found

    def _load(self, inputs: Inputs, ids: Array) -> Array:
        """Return samples as tiles, the last one filled up with zeros."""
        widest = self.backend.training_width(self.widest, self.dtype, len(ids))
        tiles = max(-(-len(ids) // widest), 1)
        width = min(padded(-(-len(ids) // tiles), LANES), widest)
        Y = self._buffer("Y", (tiles, self.in_features, width))
        for t, tile in enumerate(Y):
            part = ids[t * width : (t + 1) * width]
            take(inputs, part, tile[:, : len(part)])
            tile[:, len(part) :] = 0
        return Y

    def _buffer(self, name: Any, shape: tuple[int, ...]) -> Array:
        """Return an array of this shape over memory that is kept for `name`."""
        size = int(np.prod(shape))
        if name not in self._buffers or len(self._buffers[name]) < size:
            self._buffers[name] = aligned_empty(size, self.dtype)
        return self._buffers[name][:size].reshape(shape)


def _padded(array: Array, width: int) -> Array:
    """Return `array` with zeros appended along its first axis."""
    if len(array) == width:
        return array
    out = np.zeros((width, *array.shape[1:]), array.dtype)
    out[: len(array)] = array
    return out
