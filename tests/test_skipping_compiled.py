"""Skipping in one compiled call: equal bits in every cell, and less work where columns die."""

from __future__ import annotations

import numpy as np
import pytest
from programs import FUSED, program_of

from gbdnn import Linear, Network, ReLU
from gbdnn.topology import erdos_renyi

SIZES = (1, 17, 33, 48, 64, 65, 66, 97, 127, 128, 129, 192, 250, 300, 700)


def network_of(bias, dtype=np.float32, *, features=96, density=0.1, cap=None, depth=6):
    layers = []
    for k in range(depth):
        weight = erdos_renyi(features, features, density=density, rng=k, values="he")
        layers += [Linear(weight, bias, dtype=dtype), ReLU(cap)]
    return Network(layers)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("bias", [0.0, -0.3, -0.7, 0.2, "mixed"])
@pytest.mark.parametrize("threads", [1, 2])
def test_skipping_changes_no_bit(bias, dtype, threads, rng):
    bias = rng.choice([-0.6, 0.0, 0.3], 96) if bias == "mixed" else bias
    network = network_of(bias, dtype)
    X = rng.standard_normal((SIZES[-1], 96)).astype(dtype)
    for size in SIZES:
        for _ in range(2):  # what the first call found may change how the second one is computed
            for order in (X[:size], np.asfortranarray(X[:size])):
                skipped = network.predict(order, threads=threads)
                whole = network.predict(order, threads=threads, skip=False)
                np.testing.assert_array_equal(skipped, whole)


@pytest.mark.parametrize("count", [128, 250, 256, 320])
@pytest.mark.parametrize("threads", [1, 2])
def test_final_columns_are_left_out_and_filled_in(count, threads, rng):
    network = network_of(-0.1, features=2048, density=0.01, depth=3)
    program, stays = program_of(network), network.compiled(FUSED).stays
    X = rng.standard_normal((count, 2048)).astype(np.float32)
    X[rng.random(count) < 0.8] *= 1e-3  # these die
    width = FUSED.width(2048, np.dtype(np.float32))
    outs = [np.full((count, 2048), np.nan, np.float32) for _ in range(2)]
    done = [
        program.run(X.T, out.T, width=width, threads=threads, check=True, constants=constants)
        for out, constants in zip(outs, (stays, None), strict=True)
    ]
    np.testing.assert_array_equal(*outs)
    assert done[1] == (count * network.edges, 0)
    edges, idle = done[0]
    assert edges - idle < 0.6 * count * network.edges
    for _ in range(2):  # the executor merges tiles, at the latest in the second call
        np.testing.assert_array_equal(network.predict(X, threads=threads), outs[0])
    assert network.compiled(FUSED).settles


def test_a_constant_that_is_not_kept_is_not_final(rng):
    layers = list(network_of(-0.7, depth=3).layers)
    layers[4] = Linear(layers[4].weight, 0.5)  # dead columns come to life again
    network = Network(layers)
    X = rng.standard_normal((200, 96)).astype(np.float32)
    result = network.predict(X)
    assert (result > 0).any(axis=1).all()
    np.testing.assert_array_equal(result, network.predict(X, skip=False))


def test_columns_at_the_cap_are_final(rng):
    weight = erdos_renyi(96, 96, density=0.2, rng=0).with_entries(np.ones(erdos_renyi(
        96, 96, density=0.2, rng=0).nnz, np.float32))  # fmt: skip
    network = Network([Linear(weight, -0.1), ReLU(4.0)] * 5)
    X = np.abs(rng.standard_normal((256, 96))).astype(np.float32) + 1
    program, stays = program_of(network), network.compiled(FUSED).stays
    out = np.empty((256, 96), np.float32)
    edges, _ = program.run(X.T, out.T, width=512, threads=1, check=True, constants=stays)
    assert edges < 0.5 * 256 * network.edges
    assert (out == 4).all()
