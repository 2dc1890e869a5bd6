"""Products of whole numbers on every backend beside those of the rounded floats."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import scipy.sparse as sp
from builders import ALL, TILED, random_csr, random_dense
from hypothesis import given
from hypothesis import strategies as st
from products import tiles

from gbdnn import Dense, Levels, Linear, Network, ReLU, as_csr, integer_weight
from gbdnn.backends import get_backend
from gbdnn.backends.base import Affine, Backend
from gbdnn.errors import BackendError

LEVELS = {
    "signed 4": Levels(0.4, 0, -7, 7),
    "unsigned 4": Levels(0.3, 5, 0, 15),
    "signed 8": Levels(0.02, 0, -127, 127),
    "unsigned 8": Levels(0.02, 100, 0, 255),
    "shifted 8": Levels(0.02, -20, -128, 127),
    "positive": Levels(0.01, 0, 0, 255),
}


def rounded(weight, Y, bias, clamp, before):
    """Return the exact product of the rounded floats, and what 1e-6 is relative to."""
    X = np.empty_like(Y)
    weight.levels.fake(Y, X)
    W, X = weight.to_dense().astype(np.float64), X.astype(np.float64)
    b = 0.0 if bias is None else bias.astype(np.float64)
    b = b if np.ndim(b) == 0 else b[:, None]
    Z = W @ X + b + before
    size = np.abs(W) @ np.abs(X) + np.abs(b) + np.abs(before)
    return (Z if clamp is None else np.clip(Z, *clamp)), size


def check(backend, weight, Y, bias, *, clamp=None, before=None, threads=1):
    """Compare an affine product with that of the rounded floats, to 1e-6."""
    backend = get_backend(backend)
    w = backend.prepare(weight)
    out = np.full((len(Y), weight.shape[0], Y.shape[2]), np.nan, Y.dtype)
    if before is not None:
        out[...] = before
    given, start = Y.copy(), 0 if before is None else before.astype(np.float64)
    with backend.pinned(threads):
        backend.affine(w, Y, bias, out, clamp=clamp, accumulate=before is not None,
                       threads=threads)  # fmt: skip
    np.testing.assert_array_equal(Y, given)
    want, size = rounded(weight, Y, bias, clamp, start)
    assert (np.abs(out - want) <= 1e-6 * size).all()
    return out


@given(
    backend=st.sampled_from(ALL),
    bits=st.sampled_from([4, 8]),
    dtype=st.sampled_from([np.float32, np.float64]),
    rows=st.sampled_from([1, 4, 20]),
    size=st.integers(1, 40),
    parts=st.sampled_from(["tensor", "half", "rows", 1, 2, 3]),
    density=st.sampled_from([0, 0.1, 0.5, 1]),
    layout=st.sampled_from([None, "dense", "csr", "bitmap"]),
    levels=st.sampled_from(sorted(LEVELS)),
    bias=st.sampled_from(["none", "number", "vector"]),
    clamp=st.sampled_from([None, (0.0, np.inf), (0.0, 1.0), (-np.inf, 0.5)]),
    accumulate=st.booleans(),
    count=st.integers(1, 3),
    width=st.sampled_from([1, 2, 7, 16, 64, 65, 130]),
    threads=st.sampled_from([1, 2]),
    seed=st.integers(0, 9),
)
def test_products_are_those_of_the_rounded_floats(
    backend, bits, dtype, rows, size, parts, density, layout, levels, bias, clamp, accumulate,
    count, width, threads, seed,
):  # fmt: skip
    rng = np.random.default_rng(seed)
    groups = parts if isinstance(parts, int) else 1
    W = random_dense(rng, rows, groups * size, density, dtype)
    shape = {"tensor": (1,), "half": (max(rows // 2, 1),), "rows": (rows,)}.get(
        parts, (rows, groups)
    )
    scales = rng.random(shape) * 2 / (7 if bits == 4 else 127)
    source = Dense(W) if density == 1 else as_csr(W)
    weight = integer_weight(source, scales, bits=bits, levels=LEVELS[levels], layout=layout)
    Y = tiles(rng, count, groups * size, width, dtype)
    b = {"none": None, "number": np.array(0.3, dtype)}.get(bias, rng.random(rows).astype(dtype))
    before = rng.random((count, rows, width)).astype(dtype) if accumulate else None
    check(backend, weight, Y, b, clamp=clamp, before=before, threads=threads)


@pytest.mark.parametrize("backend", ALL)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_sums_that_float32_cannot_hold(rng, backend, dtype):
    """127 x 255 x 3000 > 2^24: each sum is odd, and the last bit is seen."""
    columns = 3001
    W = Dense(np.full((2, columns), 127.0, dtype))
    weight = integer_weight(W, 1.0, bits=8, levels=Levels(1.0, 0, 0, 255))
    Y = np.full((1, columns, 4), 255, dtype)
    out = np.empty((1, 2, 4), dtype)
    backend = get_backend(backend)
    backend.affine(backend.prepare(weight), Y, None, out)
    np.testing.assert_array_equal(out, dtype(127 * 255 * columns))
    if dtype == np.float64:
        Y[:, 0], Y[:, 1] = 254, 1
        backend.affine(backend.prepare(weight), Y, None, out)
        np.testing.assert_array_equal(out, 127.0 * (255 * (columns - 2) + 255))


@pytest.mark.parametrize("backend", TILED)
def test_sums_that_int32_cannot_hold(backend):
    columns = 70_000
    weight = integer_weight(
        Dense(np.full((1, columns), 127.0)), 1.0, bits=8, levels=Levels(1.0, 0, 0, 255)
    )
    Y = np.full((1, columns, 1), 255, np.float64)
    backend, out = get_backend(backend), np.empty((1, 1, 1))
    backend.affine(backend.prepare(weight.astype(np.float64)), Y, None, out)
    assert out.item() == 127 * 255 * columns > 2**31


@pytest.mark.parametrize("backend", ALL)
def test_bits_do_not_depend_on_threads(rng, backend):
    weight = integer_weight(random_csr(rng, 600, 700, 0.2), 0.02, bits=8, levels=LEVELS["signed 8"])
    Y, bias = tiles(rng, 1, 700, 192, np.float32), rng.random(600).astype(np.float32)
    one, two = (check(backend, weight, Y, bias, threads=threads) for threads in (1, 2))
    np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("backend", ALL)
def test_ties_nan_and_infinity_of_the_input(backend):
    weight = integer_weight(np.ones((1, 1), np.float32), 1.0, bits=4, levels=Levels(0.1, 3, 0, 15))
    given = [0.05, 0.15, 0.25, -0.05, -0.15, np.inf, -np.inf, np.nan]
    Y = np.array([[given]], np.float32)
    out = np.empty_like(Y)
    backend = get_backend(backend)
    backend.affine(backend.prepare(weight), Y, None, out)
    want = np.empty_like(Y)
    with np.errstate(invalid="ignore"):
        weight.levels.fake(Y, want)
    np.testing.assert_allclose(out, want, rtol=1e-6)
    assert out[0, 0, -1] == pytest.approx(-0.3)  # NaN counts as the lowest level


@pytest.mark.parametrize("backend", ALL)
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("density", [0.2, 1])
def test_without_levels_activations_stay_floats(rng, backend, bits, density):
    W = random_csr(rng, 9, 14, density)
    weight = integer_weight(W, np.full((9, 2), 0.3), bits=bits)
    X = rng.standard_normal((5, 14)).astype(np.float32)
    Y = Network([Linear(weight, 0.1)]).predict(X, backend=backend)
    np.testing.assert_allclose(Y, X @ weight.to_dense().T + 0.1, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("backend", ALL)
@pytest.mark.parametrize("count", [1, 3, 64, 200])
@pytest.mark.parametrize("threads", [1, 2])
def test_networks_predict_what_their_rounded_floats_do(rng, backend, count, threads):
    """The layers compute one after another; skipping, tiles and threads make no difference."""
    sizes, layers = (30, 40, 40, 10), []
    for k, (columns, rows) in enumerate(pairwise(sizes)):
        levels = LEVELS["signed 8"] if k == 0 else Levels(0.03, 0, 0, 255)
        weight = integer_weight(random_csr(rng, rows, columns, 0.3), np.full(rows, 0.02), bits=8,
                                levels=levels)  # fmt: skip
        layers += [Linear(weight, -0.1 * rng.random(rows)), ReLU(4.0)]
    network = Network(layers)
    X = rng.standard_normal((count, 30)).astype(np.float32)
    X[::3] = 0
    Y = X.T.copy()
    for layer in network.layers:
        if layer.kind == "relu":
            layer.apply(Y)
        else:
            layer.weight.levels.fake(Y, Y)
            Y = (layer.weight.to_dense() @ Y + layer.bias[:, None]).astype(np.float32)
    found = network.predict(X, backend=backend, threads=threads)
    close = np.isclose(found, Y.T, rtol=1e-5, atol=1e-5)
    # a sum that is rounded otherwise may fall on the other side of a tie, then one level apart
    assert close.mean() > 0.95
    np.testing.assert_allclose(found, Y.T, atol=0.1)
    both = network.predict(X, backend=backend, threads=threads, skip=False)
    np.testing.assert_array_equal(found, both)


@pytest.mark.parametrize("backend", ["fused", "auto", "graphblas"])
def test_very_sparse_samples_are_rounded_too(rng, backend):
    weight = integer_weight(random_csr(rng, 6, 5000, 0.1), 0.1, bits=4, levels=LEVELS["unsigned 4"])
    X = sp.random_array((40, 5000), density=0.002, format="csr", rng=rng, dtype=np.float32)
    want, _ = rounded(weight, X.toarray().T[None].astype(np.float32), None, None, 0)
    network = Network([Linear(weight)])
    np.testing.assert_allclose(network.predict(X, backend=backend).T, want[0], rtol=1e-5, atol=1e-5)


def test_programs_hold_integers_with_a_scale_for_each_row(rng):
    fused, W = get_backend("fused"), random_csr(rng, 6, 6)
    rows, groups = (
        fused.prepare(integer_weight(W, np.full(shape, 0.1), bits=8, levels=LEVELS["signed 8"]))
        for shape in [(6,), (6, 2)]
    )
    forms = [fused.prepare(W), rows, groups]
    affines = [Affine(form, np.zeros(6, np.float32)) for form in forms]
    assert fused.program(affines[:2]) is not None
    assert fused.program(affines) is None


def test_a_backend_without_integer_products_says_so(rng):
    class Floats(Backend):
        name = "floats"
        forms = {"csr": lambda weight, trained: weight, "dense": lambda weight, trained: weight}  # noqa: RUF012

    weight = integer_weight(random_csr(rng, 4, 4), 0.1, bits=4, levels=LEVELS["signed 4"])
    with pytest.raises(BackendError, match=r"weight\.plain\(\)"):
        Floats().prepare(weight)
    assert Floats().prepare(weight, trained=True).form == "csr"
    assert Floats().prepare(integer_weight(random_csr(rng, 4, 4), 0.1, bits=4)).form == "csr"


def test_a_wrong_code_would_be_seen(rng):
    weight = integer_weight(random_csr(rng, 6, 8, 0.5), 0.1, bits=4, levels=LEVELS["signed 4"])
    Y = tiles(rng, 1, 8, 16, np.float32)
    entries = weight.entries
    entries[0] -= np.sign(entries[0]) * np.float32(0.1)
    other = weight.with_entries(entries)
    out = check("dense", other, Y, None)
    want, size = rounded(weight, Y, None, None, 0)
    assert (np.abs(out - want) > 1e-6 * size).any()
