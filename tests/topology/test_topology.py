"""Patterns: their counts, their paths, and what is refused."""

from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gbdnn.errors import DtypeError, GbdnnError, InputError, ShapeError, UnknownNameError
from gbdnn.topology import erdos_renyi, erk_densities, initialise, mixed_radix, radix_net
from gbdnn.weights.csr import CSR


def check(matrix: CSR) -> CSR:
    return CSR(matrix.indptr, matrix.indices, matrix.values, matrix.shape)


# -- RadiX-Net -------------------------------------------------------------------------------------

small_lists = st.lists(st.integers(2, 5), min_size=1, max_size=4).filter(
    lambda radices: math.prod(radices) <= 120
)


@given(small_lists)
def test_mixed_radix_has_one_path_from_each_input_to_each_output(radices: list[int]) -> None:
    nodes = math.prod(radices)
    paths = np.eye(nodes)
    for layer, radix in zip(mixed_radix(radices), radices, strict=True):
        check(layer)
        assert (np.diff(layer.indptr) == radix).all()
        paths = layer.to_dense() @ paths
    np.testing.assert_array_equal(paths, 1)


@given(small_lists, st.data())
@settings(deadline=None)
def test_radix_net_is_the_kronecker_product_and_has_equal_path_counts(
    radices: list[int], data: st.DataObject
) -> None:
    nodes = math.prod(radices)
    divisor = data.draw(st.sampled_from([d for d in range(2, nodes + 1) if nodes % d == 0]))
    lists = [radices, data.draw(st.permutations(radices)), [divisor]]
    layers = sum(map(len, lists))
    widths = data.draw(st.lists(st.integers(1, 3), min_size=layers + 1, max_size=layers + 1))
    net = radix_net(lists, widths)
    bases = [w for r in lists for w in mixed_radix(r, nodes=nodes)]
    paths = np.eye(nodes * widths[0])
    for i, (layer, base) in enumerate(zip(net, bases, strict=True)):
        check(layer)
        expected = np.kron(np.ones((widths[i + 1], widths[i])), base.to_dense())
        np.testing.assert_array_equal(layer.to_dense(), expected)
        paths = layer.to_dense() @ paths
    # theorem 1 of the paper: symmetric, that is, equally many paths between any two ends
    whole = math.prod(widths[1:-1]) * nodes * divisor
    assert paths.shape == (nodes * widths[-1], nodes * widths[0])
    np.testing.assert_array_equal(paths, whole)


def test_mixed_radix_edges_by_hand() -> None:
    first, second = mixed_radix([2, 3], value=0.5)
    # (out, in): output c is fed by inputs c and c + 1 in the first layer
    assert first.to_dense().tolist()[0] == [0.5, 0.5, 0, 0, 0, 0]
    assert first.to_dense().tolist()[5] == [0.5, 0, 0, 0, 0, 0.5]
    assert second.to_dense().tolist()[1] == [0, 0.5, 0, 0.5, 0, 0.5]
    assert first.iso


@pytest.mark.parametrize(
    ("lists", "widths", "argument"),
    [
        ([], [1], "radix_lists"),
        ([[]], [1], r"radix_lists\[0\]"),
        ([[2, 1]], [1, 1, 1], r"radix_lists\[0\]"),
        ([[2, 2.0]], [1, 1, 1], r"radix_lists\[0\]"),
        ([["2"]], [1, 1], r"radix_lists\[0\]"),
        ([2, 2], [1, 1, 1], r"radix_lists\[0\]"),
        ([[2, 2], [2, 3], [4]], [1] * 6, r"radix_lists\[1\]"),
        ([[2, 2], [3]], [1] * 4, r"radix_lists\[1\]"),
        ([[2, 2], [8]], [1] * 4, r"radix_lists\[1\]"),
        ([[2, 2]], [1, 1], "widths"),
        ([[2, 2]], [1, 0, 1], "widths"),
        ([[2, 2]], 3, "widths"),
    ],
)
def test_bad_radix_nets(lists: list[list[int]], widths: list[int], argument: str) -> None:
    with pytest.raises(InputError, match=f"^{argument}: expected"):
        radix_net(lists, widths)


def test_bad_mixed_radix() -> None:
    with pytest.raises(InputError, match=r"^nodes: expected a multiple of 6"):
        mixed_radix([2, 3], nodes=8)
    with pytest.raises(InputError, match=r"^value"):
        mixed_radix([2, 3], value=math.nan)


# -- Erdos-Renyi -----------------------------------------------------------------------------------


@given(st.integers(1, 40), st.integers(1, 40), st.floats(0, 1), st.integers(0, 10))
def test_erdos_renyi_has_exactly_the_asked_number(
    rows: int, columns: int, density: float, seed: int
) -> None:
    w = erdos_renyi(rows, columns, density=density, rng=seed)
    check(w)
    assert w.nnz == round(density * rows * columns)
    again = erdos_renyi(rows, columns, density=density, rng=np.random.default_rng(seed))
    np.testing.assert_array_equal(w.indices, again.indices)
    np.testing.assert_array_equal(w.values, again.values)


@pytest.mark.parametrize("density", [0.3, 0.8])
def test_every_place_is_equally_likely(density: float) -> None:
    rng = np.random.default_rng(0)
    hits = sum(
        erdos_renyi(6, 5, density=density, rng=rng, values="ones").to_dense() for _ in range(4000)
    )
    spread = math.sqrt(4000 * density * (1 - density))
    assert np.abs(hits - 4000 * density).max() < 4.5 * spread


def test_a_huge_layer_costs_its_entries() -> None:
    tracemalloc.start()
    w = erdos_renyi(10**6, 10**6, density=1e-7, rng=0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert w.nnz == 100_000
    assert peak < 64e6


def test_he_scales_by_the_row_and_glorot_by_row_and_column() -> None:
    w = erdos_renyi(400, 2000, density=0.05, rng=1, values="he", dtype=np.float64)
    scaled = w.values / np.sqrt(2 / np.repeat(np.diff(w.indptr), np.diff(w.indptr)))
    assert w.dtype == np.float64
    assert abs(scaled.std() - 1) < 0.02
    g = initialise(w, values="glorot", rng=2)
    assert g.indices.base is not None  # shared, not copied
    assert abs(g.values.std() / math.sqrt(2 / (0.05 * 2400)) - 1) < 0.02
    assert w.values.std() / g.values.std() > 1.05  # the two rules differ, and the test sees it


@pytest.mark.parametrize(
    ("options", "error", "argument"),
    [
        ({"density": 1.1}, InputError, "density"),
        ({"density": -0.1}, InputError, "density"),
        ({"density": math.nan}, InputError, "density"),
        ({"density": "0.1"}, InputError, "density"),
        ({"rng": None}, DtypeError, "rng"),
        ({"rng": -1}, DtypeError, "rng"),
        ({"values": "xavier"}, UnknownNameError, "values"),
        ({"dtype": np.int8}, DtypeError, "dtype"),
    ],
)
def test_bad_erdos_renyi(options: dict[str, object], error: type, argument: str) -> None:
    with pytest.raises(error, match=f"^{argument}: expected"):
        erdos_renyi(4, 4, **{"density": 0.5, "rng": 0, **options})  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", [(0, 4), (4, -1), (4.0, 4), (2**40, 2**40)])
def test_bad_shapes(shape: tuple[int, int]) -> None:
    with pytest.raises(ShapeError, match="features: expected"):
        erdos_renyi(*shape, density=0.5, rng=0)


# -- ERK -------------------------------------------------------------------------------------------

shapes = st.lists(
    st.lists(st.integers(1, 300), min_size=2, max_size=4).map(tuple), min_size=1, max_size=6
)


@given(shapes, st.floats(0.001, 1))
def test_erk_keeps_the_total_and_its_proportions(
    layers: list[tuple[int, ...]], density: float
) -> None:
    found = np.array(erk_densities(layers, density=density))
    sizes = np.array([math.prod(s) for s in layers])
    ratio = np.array([sum(s) / math.prod(s) for s in layers])
    assert ((found >= 0) & (found <= 1)).all()
    assert found @ sizes == pytest.approx(density * sizes.sum(), rel=1e-9)
    epsilon = (found / ratio)[found < 1]
    np.testing.assert_allclose(epsilon, epsilon[:1].repeat(len(epsilon)), rtol=1e-9)
    if len(epsilon):  # the dense ones would have exceeded 1
        assert (ratio[found == 1] * epsilon[0] >= 1 - 1e-9).all()


def test_erk_by_hand() -> None:
    # 44 of 68 weights stay. 2 x 2 would get 44 / 24 > 1: it is dense and leaves 40 for 4 x 16
    assert erk_densities([(2, 2), (4, 16)], density=44 / 68) == [1.0, pytest.approx(40 / 64)]
    # 20 of 68: both are sparse, with epsilon = 20 / (4 + 20)
    sparse = [pytest.approx(20 / 24), pytest.approx(20 / 24 * 20 / 64)]
    assert erk_densities([(2, 2), (4, 16)], density=20 / 68) == sparse


@pytest.mark.parametrize(
    ("layers", "density"), [([(4,)], 0.5), ([(4, 0)], 0.5), ([(4, 4)], 0), ([(4, 4)], 2)]
)
def test_bad_erk(layers: list[tuple[int, ...]], density: float) -> None:
    with pytest.raises(GbdnnError, match=r"^(shapes\[0\]|density): expected"):
        erk_densities(layers, density=density)
