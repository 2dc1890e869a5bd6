"""out = clamp(W Y + b) of every backend, and the table of backends."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest
from builders import ALL, THREADS, random_csr
from products import full, tiles

from gbdnn import CSR
from gbdnn.backends import BACKENDS, get_backend
from gbdnn.backends.base import Backend
from gbdnn.errors import BackendError, DtypeError, InputError, ShapeError, UnknownNameError
from gbdnn.weights import Dense, Weight, as_weight

TYPES = [np.float32, np.float64]


@dataclass(frozen=True, eq=False)
class Signs(Weight):
    """A toy form that no backend has kernels for: a pattern and signs, which mean -0.5 and 0.5."""

    form: ClassVar[str] = "signs"
    places: CSR
    signs: Any

    @property
    def shape(self):
        return self.places.shape

    @property
    def dtype(self):
        return self.places.dtype

    def pattern(self):
        return self.places

    @property
    def entries(self):
        return np.where(self.signs, 0.5, -0.5).astype(self.dtype)

    def plain(self):
        return self.places.with_entries(self.entries)


WEIGHTS = {
    "csr": lambda csr: csr,
    "dense": lambda csr: Dense(csr.to_dense()),
    "iso": lambda csr: CSR(csr.indptr, csr.indices, np.full(1, 0.5, csr.dtype), csr.shape),
    "toy": lambda csr: Signs(csr, csr.entries > 0),
}


def exact(weight, Y, bias, clamp, before):
    """Return the exact result and how far the computed one may be from it; see `oracle`."""
    W, Y = full(weight).astype(np.float64), Y.astype(np.float64)
    parts = [] if bias is None else [np.broadcast_to(bias, len(W)).astype(np.float64)[:, None]]
    parts += [] if before is None else [before.astype(np.float64)]
    Z = W @ Y + sum(parts)
    eps = float(np.finfo(weight.dtype).eps) * (2 if weight.dtype == np.float64 else 1)
    terms = np.count_nonzero(W, axis=1)[:, None] + len(parts)
    bound = (terms + 2) * eps * (abs(W) @ abs(Y) + sum(map(abs, parts)))
    return Z if clamp is None else np.clip(Z, *clamp), bound


def check(name, weight, Y, bias=None, *, clamp=None, accumulate=False, trained=False, threads=1):
    """Assert that a backend's affine is right within the bounds of rounding; return its result."""
    backend = get_backend(name)
    w = backend.prepare(weight, trained=trained)
    assert (w.shape, w.dtype) == (weight.shape, weight.dtype)
    assert w.nbytes > 0
    out = tiles(np.random.default_rng(1), len(Y), w.shape[0], Y.shape[2], w.dtype)
    before = out.copy() if accumulate else None
    if not accumulate:
        out[...] = np.nan
    with backend.pinned(threads):
        backend.affine(w, Y, bias, out, clamp=clamp, accumulate=accumulate, threads=threads)
    wanted, bound = exact(weight, Y, bias, clamp, before)
    excess = abs(out - wanted) - bound
    assert (excess <= 0).all(), f"off by up to {excess.max():.3g} above the bound"
    return out


@pytest.mark.parametrize("trained", [False, True], ids=["predict", "train"])
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("form", WEIGHTS)
@pytest.mark.parametrize("name", ALL)
def test_affine(name, form, dtype, trained, rng):
    for shape, density in (((37, 50), 0.15), ((1, 70), 0.5), ((70, 1), 0.9), ((33, 40), 0.7)):
        weight = WEIGHTS[form](random_csr(rng, *shape, density, dtype))
        biases = (None, np.array(-0.25, dtype), rng.standard_normal(shape[0]).astype(dtype))
        for k, (count, width) in enumerate(((1, 16), (3, 32), (2, 80))):
            Y = tiles(rng, count, shape[1], width, dtype)
            for accumulate in (False, True):
                for clamp in (None, (0.0, np.inf), (0.0, 0.5), (-np.inf, 0.25)):
                    check(
                        name, weight, Y, biases[k], clamp=clamp, accumulate=accumulate,
                        trained=trained,
                    )  # fmt: skip


@pytest.mark.parametrize("width", [1, 2, 5, 8])
@pytest.mark.parametrize("name", ALL)
def test_affine_of_narrow_tiles(name, width, rng):
    weight, Y = random_csr(rng, 37, 50), tiles(rng, 1, 50, width, np.float32)
    for accumulate in (False, True):
        check(name, weight, Y, np.ones(37, np.float32), clamp=(0, 1), accumulate=accumulate)


@pytest.mark.parametrize("trained", [False, True], ids=["predict", "train"])
@pytest.mark.parametrize("name", ALL)
def test_affine_on_threads(name, trained, rng):
    weight, Y = random_csr(rng, 300, 400, 0.2), tiles(rng, 2, 400, 256, np.float32)
    for accumulate in (False, True):
        results = [
            check(name, weight, Y, clamp=(0, 2), accumulate=accumulate, trained=trained, threads=k)
            for k in (1, THREADS)
        ]
        np.testing.assert_allclose(*results, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ALL)
def test_a_wrong_affine_is_noticed(name, rng):
    weight, Y = random_csr(rng, 37, 50, 0.3, np.float64), tiles(rng, 1, 50, 16)
    wrong = weight.with_entries(1.001 * weight.entries)
    out = check(name, weight, Y)
    wanted, bound = exact(wrong, Y, None, None, None)
    assert (abs(out - wanted) > bound).any()


@pytest.mark.parametrize("clamp", [None, (0.0, np.inf), (0.0, 1.0), (-np.inf, np.inf)])
@pytest.mark.parametrize("trained", [False, True], ids=["predict", "train"])
@pytest.mark.parametrize("name", ALL)
def test_nan_stays_nan(name, trained, clamp, rng):
    backend, weight = get_backend(name), as_weight(np.eye(16, dtype=np.float32))
    w, Y = backend.prepare(weight, trained=trained), np.ones((1, 16, 16), np.float32)
    Y[0, 3, 5] = np.nan
    out = np.empty_like(Y)
    backend.affine(w, Y, None, out, clamp=clamp)
    assert np.isnan(out[0, 3, 5])
    assert np.isfinite(np.delete(out[0], 5, axis=1)).all()


BAD = {
    "Y rows": (ShapeError, lambda Y, b, out: (Y[:, :-1].copy(), b, out)),
    "Y dimensions": (ShapeError, lambda Y, b, out: (Y[0], b, out)),
    "Y tiles": (ShapeError, lambda Y, b, out: (Y[:1], b, out)),
    "Y width": (ShapeError, lambda Y, b, out: (Y[:, :, :8].copy(), b, out)),
    "Y dtype": (DtypeError, lambda Y, b, out: (Y.astype(np.float32), b, out)),
    "Y order": (InputError, lambda Y, b, out: (np.asfortranarray(Y), b, out)),
    "bias shape": (ShapeError, lambda Y, b, out: (Y, b[:-1], out)),
    "bias dimensions": (ShapeError, lambda Y, b, out: (Y, b[:, None], out)),
    "bias dtype": (DtypeError, lambda Y, b, out: (Y, b.astype(np.float32), out)),
    "bias order": (InputError, lambda Y, b, out: (Y, np.repeat(b, 2)[::2], out)),
    "out rows": (ShapeError, lambda Y, b, out: (Y, b, out[:, 1:].copy())),
    "out dimensions": (ShapeError, lambda Y, b, out: (Y, b, out[0])),
    "out dtype": (DtypeError, lambda Y, b, out: (Y, b, out.astype(np.float32))),
    "out order": (InputError, lambda Y, b, out: (Y, b, np.zeros((2, 20, 32))[:, :, ::2])),
    "out frozen": (InputError, lambda Y, b, out: (Y, b, _frozen(out))),
}


def _frozen(array):
    array = array.copy()
    array.flags.writeable = False
    return array


@pytest.mark.parametrize("trained", [False, True], ids=["predict", "train"])
@pytest.mark.parametrize("change", BAD)
@pytest.mark.parametrize("name", ALL)
def test_unusable_arrays_are_refused(name, change, trained, rng):
    backend = get_backend(name)
    w = backend.prepare(random_csr(rng, 20, 30, dtype=np.float64), trained=trained)
    good = tiles(rng, 2, 30, 16), rng.standard_normal(20), np.zeros((2, 20, 16))
    error, bad = BAD[change]
    argument = "bias" if change.startswith("bias") else "(Y|out)"
    with pytest.raises(error, match=rf"^{argument}: expected .*, got ") as raised:
        backend.affine(w, *bad(*good))
    assert type(raised.value) is error
    backend.affine(w, *good)


@pytest.mark.parametrize("name", ALL)
def test_arguments_are_left_alone(name, rng):
    backend, weight = get_backend(name), random_csr(rng, 20, 30)
    for trained in (False, True):
        w, Y = backend.prepare(weight, trained=trained), tiles(rng, 2, 30, 16, np.float32)
        bias = rng.standard_normal(20).astype(np.float32)
        copies = Y.copy(), bias.copy()
        Y.flags.writeable = bias.flags.writeable = False
        backend.affine(w, Y, bias, np.empty((2, 20, 16), np.float32), clamp=(0, 1))
        np.testing.assert_array_equal(Y, copies[0])
        np.testing.assert_array_equal(bias, copies[1])


# -- the table -------------------------------------------------------------------------------------


class Toy(Backend):
    """Knows no form at all."""

    name = "toy"


def test_the_table_is_live():
    with pytest.raises(UnknownNameError, match="dense"):
        get_backend("toy")
    known = get_backend("dense")
    made = Toy()
    for entry in (Toy, made, (__name__, "Toy")):
        BACKENDS["toy"] = entry
        try:
            assert get_backend("toy") is get_backend("toy")
            assert isinstance(get_backend("toy"), Backend)
            assert (get_backend("toy") is made) == (entry is made)
        finally:
            del BACKENDS["toy"]
    with pytest.raises(UnknownNameError):
        get_backend("toy")
    assert get_backend("dense") is known
    for name in BACKENDS:
        assert get_backend(name).name == name


def test_a_form_without_kernels_is_named():
    with pytest.raises(BackendError, match=r"toy: expected .* got csr"):
        Toy().prepare(as_weight(np.eye(3)).pattern())
