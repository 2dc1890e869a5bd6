"""Things that gbdnn does not know: one of each kind, defined here alone.

Each takes one class and one entry in its table, as docs/architecture.md says; `tables` puts them in
for the length of a test.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from gbdnn.backends import BACKENDS
from gbdnn.backends.base import Backend, Prepared
from gbdnn.layers import LAYERS, LOSSES, Activation, Layer, Loss
from gbdnn.layers.losses import r_squared
from gbdnn.pruning import SCORES, Score
from gbdnn.quantization import QUANTIZERS, Quantizer
from gbdnn.weights import CSR, FORMS, Weight, as_weight

# -- a layer with two weights and a state over time ------------------------------------------------


@dataclass(frozen=True, eq=False, repr=False)
class Elman(Layer):
    """h_t = tanh(W x_t + U h_{t-1} + b), h_{-1} = 0 (Elman 1990)."""

    kind = "elman"
    over_time = True
    weight_names = ("weight", "recurrent")
    array_names = ("bias",)

    weight: Weight
    recurrent: Weight
    bias: Any

    def __post_init__(self) -> None:
        for name in self.weight_names:
            object.__setattr__(self, name, as_weight(getattr(self, name)))
        object.__setattr__(self, "bias", np.asarray(self.bias, self.weight.dtype))

    @property
    def in_features(self) -> int:
        return self.weight.shape[1]

    @property
    def out_features(self) -> int:
        return self.weight.shape[0]

    def forward(self, run, p, Y, tape=None):
        H = run.affine(p.weight, Y, p.bias)
        for t in range(len(H)):
            if t:
                run.affine(p.recurrent, H[t - 1 : t], out=H[t : t + 1], accumulate=True)
            np.tanh(H[t], out=H[t])
        run.keep(tape, Y, H)
        return H

    def backward(self, run, p, dH, tape):
        Y, H = tape
        dZ = dH
        for t in reversed(range(len(H))):
            if t + 1 < len(H):
                dZ[t] += run.input_grad(p.recurrent, dZ[t + 1 : t + 2])[0]
            dZ[t] *= 1 - H[t] ** 2
        run.weight_grad(p, "weight", dZ, Y)
        if len(H) > 1:
            run.weight_grad(p, "recurrent", dZ[1:], H[:-1])
        else:
            p.grad["recurrent"][...] = 0
        run.row_sums(p, "bias", dZ)
        return run.input_grad(p.weight, dZ) if p.passes_back else dZ


# -- an activation ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Softsign(Activation):
    """h(z) = z / (1 + |z|)."""

    kind = "softsign"

    def apply(self, Z):
        Z /= 1 + np.abs(Z)

    def derivative(self, Y, dY):
        dY *= (1 - np.abs(Y)) ** 2


# -- a loss ----------------------------------------------------------------------------------------


def log_cosh(Z, targets, weights):
    """l = mean_j log cosh(z_j - t_j); dl/dz_j = tanh(z_j - t_j) / features."""
    Z -= targets
    value = float(np.log(np.cosh(Z.astype(np.float64))).mean(axis=0) @ weights.astype(np.float64))
    np.tanh(Z, out=Z)
    Z *= weights / len(Z)
    return value


LOG_COSH = Loss("log_cosh", log_cosh, "values", r_squared)


# -- a form of weights: values in half precision ---------------------------------------------------


@dataclass(frozen=True, eq=False)
class Half(Weight):
    """A CSR pattern with float16 values; it means float32."""

    form = "half"
    places: CSR
    values: Any
    dtype = np.dtype(np.float32)

    @property
    def shape(self):
        return self.places.shape

    @classmethod
    def from_weight(cls, weight):
        """Round a weight."""
        return cls(weight.pattern(), weight.entries.astype(np.float16))

    def pattern(self):
        return self.places

    def plain(self):
        return self.places.with_entries(self.entries)

    @property
    def entries(self):
        return self.values.astype(np.float32)

    def with_entries(self, values, pattern=None):
        return Half(self.places if pattern is None else pattern, values.astype(np.float16))

    def arrays(self):
        places = self.places.arrays()
        return {"pointers": places["pointers_to_1"], "indices": places["indices_1"],
                "bits": self.values.view(np.uint16)}  # fmt: skip

    @classmethod
    def of(cls, arrays: Mapping[str, Any], shape, settings):
        ones = np.ones(len(arrays["bits"]), np.float32)
        names = {
            "pointers_to_1": arrays["pointers"],
            "indices_1": arrays["indices"],
            "values": ones,
        }
        return cls(CSR.of(names, shape, {}), arrays["bits"].view(np.float16))

    def astype(self, dtype):
        return self if np.dtype(dtype) == np.float32 else self.plain().astype(dtype)


# -- a quantizer with something to learn -----------------------------------------------------------


@dataclass(frozen=True)
class Grid(Quantizer):
    """y = s round(x / s), s learned: dy/ds = round(x / s) - x / s (Esser et al. 2020, eq. 3)."""

    kind = "grid"

    def initial(self, x):
        return {"step": np.array([np.abs(x).max() / 7])}

    def fake(self, x, learned, out):
        step = x.dtype.type(learned["step"][0])
        np.rint(x / step, out=out)
        out *= step

    def backward(self, x, learned, dx, dlearned):
        scaled = x / learned["step"][0]
        dlearned["step"][0] = float(dx @ (np.rint(scaled) - scaled))


# -- a backend: loops in numpy ---------------------------------------------------------------------


class LoopsForm(Prepared):
    """A weight as lists of rows, columns and values."""

    def __init__(self, weight, trained):
        self.pattern, self.shape, self.dtype = weight.pattern(), weight.shape, weight.dtype
        self.values = weight.entries.copy()
        self.rows = np.repeat(np.arange(self.shape[0]), np.diff(self.pattern.indptr))

    @property
    def nbytes(self):
        return self.pattern.nbytes + self.values.nbytes + self.rows.nbytes


class Loops(Backend):
    """out[i] += w * Y[j] for each entry (i, j) with the value w."""

    name = "loops"
    forms = {"csr": LoopsForm, "dense": LoopsForm}  # noqa: RUF012

    def affine(self, w, Y, bias, out, *, clamp=None, accumulate=False, threads=1):
        if not accumulate:
            out[...] = 0
        if bias is not None:
            out += bias if bias.ndim == 0 else bias[:, None]
        for tile in range(len(Y)):
            np.add.at(out[tile], w.rows, w.values[:, None] * Y[tile, w.pattern.indices])
        if clamp is not None:
            np.clip(out, *clamp, out=out)

    def input_grad(self, w, dZ, out, threads=1):
        out[...] = 0
        for tile in range(len(dZ)):
            np.add.at(out[tile], w.pattern.indices, w.values[:, None] * dZ[tile, w.rows])

    def weight_grad(self, w, dZ, Y, out, threads=1):
        out[...] = (dZ[:, w.rows] * Y[:, w.pattern.indices]).sum(axis=(0, 2))


# -- a pruning score -------------------------------------------------------------------------------


def distance_from_one(values, gradients, moved, rng):
    """-| |w| - 1 |: weights far from 1 and -1 go first."""
    return -np.abs(np.abs(values) - 1)


NEAR_ONE = Score("near_one", distance_from_one)


@contextmanager
def tables() -> Iterator[None]:
    """Put everything into its table, and take it out again."""
    entries: list[tuple[dict[str, Any], str, Any]] = [
        (LAYERS, "elman", Elman), (LAYERS, "softsign", Softsign), (LOSSES, "log_cosh", LOG_COSH),
        (FORMS, "half", Half), (QUANTIZERS, "grid", Grid), (BACKENDS, "loops", Loops),
        (SCORES, "near_one", NEAR_ONE),
    ]  # fmt: skip
    for table, name, thing in entries:
        table[name] = thing
    try:
        yield
    finally:
        for table, name, _ in entries:
            del table[name]
