"""One sample by windows: right for every shape, the same bits for every number of threads."""

from __future__ import annotations

from dataclasses import replace

import llvmlite.binding
import numpy as np
import oracle
import pytest
from builders import random_csr, random_dense, run_script
from hypothesis import assume, given
from hypothesis import strategies as st
from programs import FUSED, batch, program_of, run

from gbdnn import Linear, Network, ReLU, as_csr
from gbdnn.backends.fused.cells import windows
from gbdnn.backends.fused.weight import FusedWeight

KINDS = [windows.KINDS[k] for k in windows.usable()]
pytestmark = pytest.mark.skipif(not KINDS, reason="nothing picks from registers")
SMALLEST = min((kind.window for kind in KINDS), default=0)


@pytest.fixture
def always(monkeypatch):
    """Let all weights go by windows that can, whether it is faster or not."""
    monkeypatch.setattr(FusedWeight, "_by_windows", property(_can))


def _can(weight):
    matrix = None if weight.dtype != np.float32 else weight.matrix(1)
    return matrix is not None and matrix.windows is not None


def only(patch, kind):
    """Let all matrices that can go by one kind of windows."""
    k = windows.KINDS.index(kind)
    patch.setattr(
        windows, "chosen", lambda a, b, columns: (k, 1) if columns >= kind.window else None
    )


def forms(network):
    return [layer.weight for layer in program_of(network)._affines]


@given(
    rows=st.integers(1, 70), columns=st.integers(SMALLEST, 300),
    density=st.sampled_from([0, 0.02, 0.3, 0.9]), empty=st.booleans(), one_bias=st.booleans(),
    kind=st.sampled_from(KINDS or [None]), seed=st.integers(0, 99),
)  # fmt: skip
def test_one_sample_is_that_of_the_oracle(rows, columns, density, empty, one_bias, kind, seed):
    assume(columns >= kind.window)
    rng = np.random.default_rng(seed)
    W = random_dense(rng, rows, columns, density)
    if empty:
        W[::2] = 0
    last = random_csr(rng, 3, rows, 0.5)
    bias = 0.3 if one_bias else rng.standard_normal(rows).astype(np.float32)
    network = Network([Linear(as_csr(W), bias), ReLU(0.7), Linear(last, -0.2)])
    X = batch(rng, 1, columns)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FusedWeight, "_by_windows", property(_can))
        only(patch, kind)
        found = [run(network, X, threads=threads) for threads in (1, 2, 3)]
        made = forms(network)[0].nbytes > FUSED.prepare(network.layers[0].weight).nbytes
    entries = np.count_nonzero(W)
    sparse = 2 * entries <= W.size or entries <= 1 << 14  # large dense ones have none
    assert made == sparse
    oracle.check(found[0], network, X)
    for each in found[1:]:
        np.testing.assert_array_equal(each, found[0])


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: f"window of {kind.window}")
def test_bits_are_those_of_time_steps(rng, always, monkeypatch, kind):
    only(monkeypatch, kind)
    W = random_csr(rng, 50, 80, 0.2)
    network, X = Network([Linear(W, rng.standard_normal(50))]), batch(rng, 1, 80)
    out = np.empty((1, 50, 1), np.float32)
    FUSED.over_time(FUSED.prepare(W), X.T[None].copy(), network.layers[0].bias, out)
    np.testing.assert_array_equal(run(network, X)[0], out[0, :, 0])


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: f"window of {kind.window}")
def test_what_is_not_finite_reaches_only_the_rows_that_have_the_column(
    rng, always, monkeypatch, kind, value
):
    only(monkeypatch, kind)
    W = np.zeros((40, 64), np.float32)
    W[:, :40] = np.diag(rng.standard_normal(40))
    W[:, 50] = rng.standard_normal(40)
    X = batch(rng, 1, 64)
    X[0, 3] = value
    found = run(Network([Linear(as_csr(W), 0.0)]), X, check=False)[0]
    assert not np.isfinite(found[3])
    want = W @ np.where(np.isfinite(X[0]), X[0], 0)
    np.testing.assert_allclose(np.delete(found, 3), np.delete(want, 3), rtol=1e-5, atol=1e-6)


def test_windows_are_made_where_they_are_faster_and_when_they_are_needed(rng):
    for density, faster in ((0.4, True), (0.004, False)):
        network = Network([Linear(random_csr(rng, 200, 400, density), 0.1)])
        run(network, batch(rng, 5, 400))
        (weight,) = forms(network)
        before = weight.nbytes
        run(network, batch(rng, 1, 400))
        assert weight._by_windows == faster
        assert (weight.nbytes > before) == faster
    trained = FUSED.prepare(random_csr(rng, 200, 400, 0.4), trained=True)
    assert not trained._by_windows


@pytest.mark.parametrize("density", [0.55, 0.8])
def test_large_weights_that_are_mostly_full_have_no_windows(rng, density):
    network, X = Network([Linear(random_csr(rng, 200, 300, density), 0.1)]), batch(rng, 1, 300)
    oracle.check(run(network, X), network, X)
    assert not forms(network)[0]._by_windows


def test_large_weights_keep_what_they_have_where_memory_decides(rng, monkeypatch):
    W = random_csr(rng, 200, 400, 0.4)
    assert FUSED.prepare(W)._by_windows
    small = tuple(replace(kind, most=1000) for kind in windows.KINDS)
    monkeypatch.setattr(windows, "KINDS", small)
    assert not FUSED.prepare(W)._by_windows


@pytest.mark.skipif(len(KINDS) < 2, reason="one kind of windows only")
@pytest.mark.parametrize(("size", "density", "kind"), [(512, 0.1, 0), (2048, 0.03, 1)])
def test_large_matrices_take_wide_windows(rng, size, density, kind):
    W = random_csr(rng, size, size, density)
    found, _ = windows.chosen(W.indptr, W.indices, size)
    assert found == kind


SCRIPT = """
import sys
import numpy as np
from gbdnn import Linear, Network, as_csr
from gbdnn.backends.fused.cells import windows
rng = np.random.default_rng(0)
W = (rng.random((50, 90)) < 0.3) * rng.standard_normal((50, 90))
x = rng.random((1, 90), dtype=np.float32)
network = Network([Linear(as_csr(W.astype(np.float32)), 0.1)])
found = network.predict(x, backend="fused", threads=1)
assert np.allclose(found, x @ W.T + 0.1, rtol=1e-5, atol=1e-5)
print([windows.KINDS[k].window for k in windows.usable()])
"""


@pytest.mark.slow
@pytest.mark.parametrize(("lacks", "window"), [("+avx512", [8]), ("+avx", [])])
def test_processors_that_have_less(monkeypatch, lacks, window):
    features = llvmlite.binding.get_host_cpu_features().flatten().split(",")
    kept = [each for each in features if not each.startswith(lacks)]
    monkeypatch.setenv("NUMBA_CPU_NAME", "generic")
    monkeypatch.setenv("NUMBA_CPU_FEATURES", ",".join(kept))
    assert run_script(SCRIPT, timeout=300).stdout.strip() == str(window)
