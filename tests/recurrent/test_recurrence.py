"""The compiled recurrences: against the loop over time steps, in every shape."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import scipy.sparse as sp
from builders import random_csr

from gbdnn.backends import get_backend
from gbdnn.backends.base import Backend
from gbdnn.backends.fused.backend import FusedBackend
from gbdnn.backends.fused.cells import recurrence
from gbdnn.backends.recurrences import Scan
from gbdnn.execution import loops
from gbdnn.execution.run import Memory, Run
from gbdnn.quantization import Pact
from gbdnn.quantization.rounding import Pass, Rounding
from gbdnn.weights import CSR, Levels, as_weight, integer_weight

KINDS = ["lstm", "lstmp", "gru"]
SHAPES = [(5, 1, 1), (37, 1, 20), (20, 7, 30), (64, 65, 5), (1, 3, 4), (17, 64, 3)]


class Compiled(FusedBackend):
    """The fused backend; a recurrence that it does not compute as a whole is an error."""

    def scan(self, given, threads=1):
        assert super().scan(given, threads)
        return True

    def scan_grad(self, given, threads=1):
        assert super().scan_grad(given, threads)
        return True


def sparse(rng, rows, columns, dtype, density=0.3):
    return as_weight(random_csr(rng, rows, columns, density), dtype=dtype)


def layer(kind, rng, cells, dtype, density=0.3):
    """Return the weights of a recurrence."""
    gates, out = 3 if kind == "gru" else 4, max(cells // 2, 1) if kind == "lstmp" else cells
    made = {"recurrent": sparse(rng, gates * cells, out, dtype, density)}
    if kind == "lstmp":
        made["projection"] = sparse(rng, out, cells, dtype, density)
    if kind == "gru":
        made["recurrent_bias"] = rng.standard_normal(cells).astype(dtype)
    return made


def arrays(kind, rng, cells, width, time, dtype):
    """Return Z, the first h and c, and the gradient of the result."""
    gates, out = 3 if kind == "gru" else 4, max(cells // 2, 1) if kind == "lstmp" else cells
    shapes = (time, gates * cells, width), (out, width), (cells, width), (time, out, width)
    return [rng.uniform(-1, 1, shape).astype(dtype) for shape in shapes]


def pact():
    """Return a rounding that learns."""
    learned = {name: np.array([value]) for name, value in (("low", -0.25), ("high", 0.4))}
    grads = {name: np.zeros(1) for name in learned}
    return Rounding(Pact(4, "two"), learned, grads, Pass())


def there_and_back(backend, kind, weights, given, rounding=None, returned=False, threads=1):
    """Return gates, h, c, then the gradients of both sums and of h, of a backend."""
    dtype = weights["recurrent"].dtype
    own = {n: v if isinstance(v, np.ndarray) else backend.prepare(v, trained=True)
           for n, v in weights.items()}  # fmt: skip
    roundings = {} if rounding is None else {"hidden": rounding}
    p = SimpleNamespace(**own, roundings=roundings, returns_rounded=returned)
    Z, first_h, first_c, dV = (np.array(each, dtype) for each in given)
    time = len(Z)
    H, C = (np.zeros((time + 1, *each.shape), dtype) for each in (first_h, first_c))
    H[0], C[0] = first_h, first_c
    V = H[1:] if rounding is None else np.zeros_like(H[1:])
    run = Run(backend, Memory(dtype), threads)
    if kind == "gru":
        B = np.zeros_like(Z)
        loops.gru(backend, p, Z, B, H, V, threads)
        there = [Z.copy(), B.copy(), H, V.copy()]
        loops.gru_grad(run, p, Z, B, H, V, dV)
        back = [Z, B, dV]
    else:
        M = V if kind == "lstm" else np.zeros_like(C[1:])
        loops.lstm(backend, p, Z, H, C, V, M, threads)
        there = [Z.copy(), H, C, V.copy(), M.copy()]
        loops.lstm_grad(run, p, Z, H, C, V, M, dV)
        back = [Z, dV]
    return there + back + ([] if rounding is None else list(rounding.grads.values()))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("cells", "width", "time"), SHAPES)
@pytest.mark.parametrize("kind", KINDS)
def test_equal_to_the_loop_in_float64(kind, cells, width, time, dtype, rng):
    weights = layer(kind, rng, cells, dtype)
    given = arrays(kind, rng, cells, width, time, dtype)
    found = there_and_back(Compiled(), kind, weights, given)
    wide = {n: w.astype(np.float64) for n, w in weights.items()}
    wanted = there_and_back(get_backend("dense"), kind, wide, given)
    for mine, his in zip(found, wanted, strict=True):
        tolerance = 60 * time * np.finfo(dtype).eps * max(1, abs(his).max())
        np.testing.assert_allclose(mine, his, rtol=0, atol=tolerance)


@pytest.mark.parametrize("returned", [False, True])
@pytest.mark.parametrize("make", [pact, lambda: Levels(0.09, 3, 0, 7)], ids=["pact", "levels"])
@pytest.mark.parametrize("kind", KINDS)
def test_h_is_rounded_between_the_steps(kind, make, returned, rng):
    weights, given = layer(kind, rng, 37, np.float64), arrays(kind, rng, 37, 5, 8, np.float64)
    found, wanted = make(), make()
    mine = there_and_back(Compiled(), kind, weights, given, _as_rounding(found), returned)
    his = there_and_back(get_backend("dense"), kind, weights, given, _as_rounding(wanted), returned)
    plain = there_and_back(Compiled(), kind, weights, given)
    for a, b in zip(mine, his, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-12)
    assert abs(mine[0] - plain[0]).max() > 1e-3


def _as_rounding(rounding):
    if isinstance(rounding, Levels):
        rounding = SimpleNamespace(
            fixed=rounding.fixed, fake=rounding.fake, passes=rounding.passes,
            backward=rounding.backward, grads={},
        )  # fmt: skip
    return rounding


def test_roundings_that_follow_the_steps_are_not_fixed():
    from gbdnn.quantization import Max

    kept = {name: np.array([value]) for name, value in (("low", -1.0), ("high", 1.0))}
    state = Pass()
    rounding = Rounding(Max(4, "symmetric"), kept, {}, state)
    assert rounding.fixed() == Max(4).steps(np.empty(0), kept)
    with state:
        assert rounding.fixed() is None
    assert Rounding(Max(4), {}, {}, state).fixed() is None


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind", KINDS)
def test_bits_depend_on_no_width_thread_or_cut(kind, dtype, rng, monkeypatch):
    weights, given = layer(kind, rng, 37, dtype), arrays(kind, rng, 37, 71, 9, dtype)
    backend, make = Compiled(), lambda: _as_rounding(Levels(0.09, 3, 0, 7))
    for rounding in (lambda: None, make):
        whole = there_and_back(backend, kind, weights, given, rounding())
        with monkeypatch.context() as patch:
            patch.setattr(recurrence, "WORTH", 1e-12)  # threads for the smallest job
            patch.setattr(recurrence, "SHORT", 1e-9)  # a call for each time step
            found = there_and_back(backend, kind, weights, given, rounding(), threads=2)
        for mine, wanted in zip(found, whole, strict=True):
            np.testing.assert_array_equal(mine, wanted)
        for columns in (slice(0, 1), slice(3, 12), slice(6, 70)):
            cut = [np.ascontiguousarray(array[..., columns]) for array in given]
            found = there_and_back(backend, kind, weights, cut, rounding())
            for mine, wanted in zip(found, whole, strict=True):
                np.testing.assert_array_equal(mine, wanted[..., columns])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_whole_numbers_in_one_call(kind, dtype, rng, monkeypatch):
    """Equal to the loop on any backend, whatever the width, the threads and the cuts."""
    given = arrays(kind, rng, 40, 35, 7, dtype)[:3]
    weight = layer(kind, rng, 40, dtype)["recurrent"]
    levels = Levels(2 / 254, 127, 0, 254)
    scales = np.full((weight.shape[0], 1), 0.01, np.float32)
    made = integer_weight(weight, scales, bits=8, levels=levels)
    bias = rng.standard_normal(40).astype(dtype)

    def there(backend, columns=slice(None), threads=1):
        p = SimpleNamespace(recurrent=backend.prepare(made), roundings={}, recurrent_bias=bias)
        Z, h, c = (each[..., columns].copy() for each in given)
        H, C = (np.concatenate([s[None], np.zeros((7, *s.shape), dtype)]) for s in (h, c))
        if kind == "gru":
            loops.gru(backend, p, Z, np.zeros_like(Z), H, H[1:], threads)
        else:
            loops.lstm(backend, p, Z, H, C, H[1:], H[1:], threads)
        return H

    whole = there(Compiled())
    for name in ("dense", "graphblas"):
        np.testing.assert_allclose(there(get_backend(name)), whole, rtol=0, atol=1e-6)
    for columns in (slice(0, 1), slice(3, 7), slice(1, 30)):
        np.testing.assert_array_equal(there(Compiled(), columns), whole[..., columns])
    monkeypatch.setattr(recurrence, "WORTH", 1e-12)
    monkeypatch.setattr(recurrence, "SHORT", 1e-9)
    np.testing.assert_array_equal(there(Compiled(), threads=2), whole)


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_dense_weights_in_one_call(kind, rng):
    """In prediction; in training they go step by step."""
    given = arrays(kind, rng, 80, 5, 7, np.float64)[:3]
    made = layer(kind, rng, 80, np.float64, 1.0)
    found = []
    for backend in (Compiled(), get_backend("dense")):
        Z, h, c = (each.copy() for each in given)
        H, C = (np.concatenate([s[None], np.zeros((7, *s.shape))]) for s in (h, c))
        p = SimpleNamespace(recurrent=backend.prepare(made["recurrent"]), roundings={},
                            recurrent_bias=made.get("recurrent_bias"))  # fmt: skip
        if kind == "gru":
            loops.gru(backend, p, Z, np.zeros_like(Z), H, H[1:], 1)
        else:
            loops.lstm(backend, p, Z, H, C, H[1:], H[1:], 1)
        found.append(H)
    np.testing.assert_allclose(*found, rtol=0, atol=1e-12)
    backend = get_backend("fused")
    w = backend.prepare(made["recurrent"], trained=True)
    assert not backend.scan(Scan(kind, w, Z, H, H[1:], C, H[1:], B=np.zeros_like(Z)))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("form", ["sparse", "one value", "four rows alike", "wide", "int8"])
def test_input_products_depend_on_no_cut(form, dtype, rng):
    """One column at a time, a few, strips: the same bits, and those that float64 says."""
    backend, (time, into, width) = get_backend("fused"), (23, 41, 3)
    W = random_csr(rng, 30, 300 if form == "wide" else into, 0.3).to_dense()
    if form == "one value":
        W[W != 0] = 0.5
    if form == "four rows alike":
        W = np.repeat(W[:8], 4, axis=0)[:30] * rng.uniform(1, 2, (30, 1))
    weight = as_weight(sp.csr_array(W), dtype=dtype)
    if form == "int8":
        scales = np.full((30, 1), 0.02, np.float32)
        weight = integer_weight(weight, scales, bits=8, levels=Levels(0.03, 0, -127, 127))
    w, bias = backend.prepare(weight), rng.standard_normal(30).astype(dtype)
    Y = rng.standard_normal((time, W.shape[1], width)).astype(dtype)

    def compute(steps, columns, threads=1):
        part = np.ascontiguousarray(Y[steps, :, columns])
        out = np.full((len(part), 30, part.shape[2]), np.nan, dtype)
        backend.over_time(w, part, bias, out, threads)
        return out

    whole = compute(slice(None), slice(None), threads=2)
    if form != "int8":
        wanted = weight.to_dense().astype(np.float64) @ Y.astype(np.float64) + bias[:, None]
        np.testing.assert_allclose(whole, wanted, rtol=0, atol=200 * np.finfo(dtype).eps)
    for steps in (slice(0, 1), slice(2, 5), slice(7, 23)):
        for columns in (slice(0, 1), slice(1, 3), slice(0, 3)):
            found = compute(steps, columns)
            np.testing.assert_array_equal(found, whole[steps, :, columns])


def test_a_backend_without_compiled_loops_takes_steps(rng):
    weights, given = layer("lstm", rng, 9, np.float64), arrays("lstm", rng, 9, 3, 4, np.float64)
    w = get_backend("dense").prepare(weights["recurrent"])
    Z, h, c = given[:3]
    H, C = (np.concatenate([s[None], np.zeros((4, *s.shape))]) for s in (h, c))
    assert not Backend().scan(Scan("lstm", w, Z, H, H[1:], C, H[1:]))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_gates_are_accurate_and_saturate(dtype):
    """Four units in the last place; no U, so that the gates are those of Z."""
    z = np.concatenate([np.linspace(-120, 120, 4001), np.logspace(-30, 4, 500),
                        -np.logspace(-30, 4, 500), [0.0]]).astype(dtype)  # fmt: skip
    z.sort()
    empty = CSR(np.zeros(5, np.int32), np.zeros(0, np.int32), np.zeros(0, dtype), (4, 1))
    Z = np.ascontiguousarray(np.broadcast_to(z, (1, 4, len(z))))
    H, C = np.zeros((2, 1, len(z)), dtype), np.zeros((2, 1, len(z)), dtype)
    backend = get_backend("fused")
    assert backend.scan(Scan("lstm", backend.prepare(empty), Z, H, H[1:], C, H[1:]))
    long = z.astype(np.longdouble)
    eps = np.finfo(dtype).eps
    with np.errstate(over="ignore"):
        sigmoid = 1 / (1 + np.exp(-long))
    for row, wanted in ((0, sigmoid), (2, np.tanh(long))):
        found = Z[0, row]
        normal = abs(wanted) > 4 * np.finfo(dtype).tiny
        error = abs(found - wanted)[normal] / abs(wanted[normal])
        assert error.max() < 4 * eps
        assert (abs(found[~normal]) <= 8 * np.finfo(dtype).tiny).all()
        assert found[-1] == 1
        assert found[0] == (0 if row == 0 else -1)
        assert (np.diff(found) >= -2 * eps * abs(found[1:])).all()


@pytest.mark.parametrize("kind", KINDS)
def test_nan_stays_where_it_is(kind, rng):
    given = arrays(kind, rng, 39, 5, 3, np.float32)
    given[0][0, :, 2] = np.nan
    Z, *_ = there_and_back(Compiled(), kind, layer(kind, rng, 39, np.float32), given)
    assert np.isnan(Z[:, :, 2]).any()
    assert np.isfinite(np.delete(Z, 2, axis=2)).all()


@pytest.mark.parametrize("width", [1, 3])
def test_new_values_are_taken_over(width, rng):
    weight = sparse(rng, 4 * 39, 39, np.float32)
    Z, h, c, _ = arrays("lstm", rng, 39, width, 4, np.float32)
    backend, found = Compiled(), []
    w = backend.prepare(weight, trained=True)
    for _ in range(2):
        H, C = (np.concatenate([s[None], np.zeros((4, *s.shape), s.dtype)]) for s in (h, c))
        backend.scan(Scan("lstm", w, Z.copy(), H, H[1:], C, H[1:]))
        found.append(H)
        w.values[:] = 0
        w.refresh()
    with pytest.raises(AssertionError):
        np.testing.assert_allclose(*found, atol=1e-3)


def test_strided_arrays_and_wrong_shapes_go_step_by_step(rng):
    backend = get_backend("fused")
    w = backend.prepare(sparse(rng, 36, 9, np.float64))
    Z, h, c, _ = arrays("lstm", rng, 9, 6, 4, np.float64)
    H, C = (np.concatenate([s[None], np.zeros((4, *s.shape))]) for s in (h, c))
    fine = Scan("lstm", w, Z, H, H[1:], C, H[1:])
    assert backend.scan(fine)
    from dataclasses import replace

    for wrong in (
        {"Z": Z[..., ::2]}, {"C": C[:-1]}, {"C": None}, {"H": H.astype(np.float32)},
        {"kind": "gru"}, {"kind": "elman"}, {"projection": w}, {"M": H[1:, :, ::2]},
    ):  # fmt: skip
        assert not backend.scan(replace(fine, **wrong)), wrong
