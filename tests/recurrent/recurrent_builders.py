"""Networks of recurrent layers, their data, and the same equations written out in float64."""

from __future__ import annotations

import numpy as np
from builders import random_csr

import gbdnn
from gbdnn import (
    BGRU,
    BLSTM,
    GRU,
    LSTM,
    Embedding,
    FinalStates,
    LastStep,
    Linear,
    MeanOverTime,
    Network,
    ResetBeforeGRU,
    TimeReduction,
)
from gbdnn.data.batches import Batch
from gbdnn.data.samples import samples
from gbdnn.layers import LOSSES
from gbdnn.training.model import Model


def lstm(rng, into=4, cells=5, out=None, dtype=np.float64):
    """Return a sparse LSTM, with a projection to `out` features if that is given."""
    down = None if out is None else random_csr(rng, out, cells, 0.8)
    weight = random_csr(rng, 4 * cells, into, 0.7)
    recurrent = random_csr(rng, 4 * cells, out or cells, 0.6)
    return LSTM(weight, recurrent, rng.standard_normal(4 * cells) / 3, down, dtype=dtype)


def gru(rng, into=4, cells=5, dtype=np.float64):
    return GRU(random_csr(rng, 3 * cells, into, 0.7), random_csr(rng, 3 * cells, cells, 0.6),
               rng.standard_normal(3 * cells) / 3, rng.standard_normal(cells) / 3,
               dtype=dtype)  # fmt: skip


def reset_before(rng, into=4, cells=5, dtype=np.float64):
    return ResetBeforeGRU(random_csr(rng, 3 * cells, into, 0.7),
                          random_csr(rng, 2 * cells, cells, 0.6),
                          random_csr(rng, cells, cells, 0.6),
                          rng.standard_normal(3 * cells) / 3, dtype=dtype)  # fmt: skip


def bgru(rng, into=4, cells=5, dtype=np.float64):
    return BGRU(gru(rng, into, cells, dtype=dtype), gru(rng, into, cells - 1, dtype=dtype))


def blstm(rng, into=4, cells=5, dtype=np.float64):
    return BLSTM(lstm(rng, into, cells, dtype=dtype), lstm(rng, into, cells - 1, 3, dtype=dtype))


def linear(rng, into, out=3, dtype=np.float64):
    return Linear(random_csr(rng, out, into, 0.9), rng.standard_normal(out) / 3, dtype=dtype)


def network(kind, rng, dtype=np.float64):
    """Return a network that has the layer `kind`."""
    options = {"dtype": dtype}
    if kind == "lstm":
        layers = [lstm(rng, **options), linear(rng, 5, **options)]
    elif kind == "lstmp":
        layers = [lstm(rng, out=3, **options), lstm(rng, 3, **options), linear(rng, 5, **options)]
    elif kind == "blstm":
        layers = [blstm(rng, **options), blstm(rng, 8, **options), linear(rng, 8, **options)]
    elif kind == "gru":
        layers = [gru(rng, **options), gru(rng, 5, **options), linear(rng, 5, **options)]
    elif kind == "bgru":
        layers = [bgru(rng, **options), bgru(rng, 9, **options), linear(rng, 9, **options)]
    elif kind == "gru_reset_before":
        layers = [reset_before(rng, **options), reset_before(rng, 5, **options),
                  linear(rng, 5, **options)]  # fmt: skip
    elif kind == "reduce":
        layers = [lstm(rng, **options), TimeReduction(5, 2), lstm(rng, 10, **options),
                  TimeReduction(5, 3), linear(rng, 15, **options)]  # fmt: skip
    elif kind == "reduce blstm":
        layers = [TimeReduction(4, 2), blstm(rng, 8, **options), TimeReduction(8, 2),
                  blstm(rng, 16, **options), linear(rng, 8, **options)]  # fmt: skip
    elif kind == "reduce last":
        layers = [lstm(rng, **options), TimeReduction(5, 2), LastStep(),
                  linear(rng, 10, **options)]  # fmt: skip
    elif kind == "last":
        layers = [lstm(rng, **options), LastStep(), linear(rng, 5, **options)]
    elif kind == "final":
        layers = [blstm(rng, **options), FinalStates(5), linear(rng, 8, **options)]
    elif kind == "mean":
        layers = [blstm(rng, **options), MeanOverTime(), linear(rng, 8, **options)]
    else:
        layers = [Embedding(random_csr(rng, 4, 6, 0.8), **options), lstm(rng, **options),
                  linear(rng, 5, **options)]  # fmt: skip
    return Network(layers)


KINDS = ["lstm", "lstmp", "blstm", "gru", "bgru", "gru_reset_before", "last", "final", "mean",
         "embedding", "reduce", "reduce blstm", "reduce last"]  # fmt: skip
STREAMS = ["lstm", "lstmp", "gru", "gru_reset_before", "embedding"]


def sequences(rng, net, lengths, dtype=np.float64):
    """Return (X, y), values as targets."""
    if isinstance(net.layers[0], Embedding):
        X = [rng.integers(0, 6, (n, 1)).astype(dtype) for n in lengths]
    else:
        X = [rng.standard_normal((n, net.in_features)).astype(dtype) for n in lengths]
    if net.one_row:
        return X, rng.random((len(X), net.out_features))
    return X, [rng.random((rows(net, n), net.out_features)) for n in lengths]


def rows(net, length):
    """Return how many results a sequence has."""
    return 1 if net.one_row else -(-length // net.time_factor)


def gradients(net, X, y, backend="dense", **settings):
    """Return the loss and the gradients of all parameters."""
    model = Model(net, loss=LOSSES["mse"], backend=backend, threads=1, **settings)
    inputs, targets, weights = samples(model, X, y, None)
    batch = Batch(inputs, np.arange(inputs.count), targets, weights, float(weights.sum()))
    value = model.loss_and_gradients(batch)
    return value, {name: p.grad.copy() for name, p in model.parameters.items()}


def dense(weight):
    return weight.to_dense() if hasattr(weight, "to_dense") else weight.plain().to_dense()


BACKENDS = sorted(gbdnn.backends.BACKENDS)
