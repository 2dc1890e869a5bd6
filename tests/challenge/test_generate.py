"""The made networks equal the official ones."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from support import SHARED, needs_shared

from gbdnn.challenge.files import write_layer
from gbdnn.challenge.generate import LAYERS, NEURONS, Spec, layers
from gbdnn.errors import InputError
from gbdnn.topology import radix_net
from gbdnn.weights.csr import CSR

SMALL = Spec(1024, 120)


def digest(layer: CSR, folder: Path) -> str:
    path = folder / "layer.tsv"
    write_layer(path, layer)
    return hashlib.sha256(path.read_bytes()).hexdigest()


@needs_shared
def test_all_120_official_files_byte_for_byte(tmp_path: Path) -> None:
    assert SHARED is not None
    official = json.loads((SHARED / "data/graph_challenge/sha256.json").read_text())
    for k, layer in enumerate(layers(SMALL), start=1):
        assert digest(layer, tmp_path) == official[f"n1024-l{k}.tsv"], k


def test_known_digests_and_one_moved_edge(tmp_path: Path) -> None:
    # the first layer is not permuted, the seventh is
    first, seventh = next(layers(SMALL)), next(layers(SMALL, start=6))
    known = "48f8c5363f7f6579b4a186b0d03a27b13d5d9e3e41e17af884569d754248903a"
    assert digest(first, tmp_path) == known
    assert digest(seventh, tmp_path) != known
    moved = first.indices.copy()
    free = next(i for i in range(1024) if i not in moved[:32])
    moved[:32] = np.sort(np.append(moved[1:32], free))
    assert digest(CSR(first.indptr, moved, first.values, first.shape), tmp_path) != known


@pytest.mark.parametrize("neurons", [1024, 4096, pytest.param(16384, marks=pytest.mark.slow)])
def test_group_0_is_a_radix_net(neurons: int) -> None:
    group = (neurons // 16).bit_length() - 1
    expected = radix_net([[2] * group], [16] * (group + 1), value=1 / 16)
    for made, radix in zip(layers(Spec(neurons, group)), expected, strict=True):
        assert made.shape == radix.shape
        np.testing.assert_array_equal(made.indptr, radix.indptr)
        np.testing.assert_array_equal(made.indices, radix.indices)
        np.testing.assert_array_equal(made.values, radix.values)


@pytest.mark.parametrize("neurons", NEURONS)
def test_each_layer_is_a_canonical_iso_csr_with_32_edges_both_ways(neurons: int) -> None:
    group = (neurons // 16).bit_length() - 1
    for k in (0, group, 2 * group + 1):
        w = next(layers(Spec(neurons, 1920), start=k))
        CSR(w.indptr, w.indices, w.values, w.shape)  # checks
        assert w.indices.dtype == w.indptr.dtype == np.int32
        assert w.iso
        assert w.values.tolist() == [0.0625]
        assert w.dtype == np.float32
        assert w.shape == (neurons, neurons)
        assert (np.diff(w.indptr) == 32).all()
        assert (np.bincount(w.indices, minlength=neurons) == 32).all()


@pytest.mark.parametrize("neurons", [1024, 65536])
@pytest.mark.parametrize("start", [1, 5, 6, 13, 30])
def test_a_late_start_gives_the_same_layers(neurons: int, start: int) -> None:
    whole = list(layers(Spec(neurons, 32)))[start:]
    part = list(layers(Spec(neurons, 1920), start=start, stop=32))
    assert len(whole) == len(part)
    assert all((a.indices == b.indices).all() for a, b in zip(whole, part, strict=True))


def test_sizes_continue_one_random_stream() -> None:
    offsets = {1024: 0, 4096: 326_656, 16384: 1_305_600, 65536: 4_434_944}
    draws = np.random.RandomState(5489).random_sample(4_434_944 + 65536)
    for neurons, offset in offsets.items():
        group = (neurons // 16).bit_length() - 1
        permutation = np.argsort(draws[offset : offset + neurons])
        w = next(layers(Spec(neurons, 1920), start=group))
        m = neurons // 16
        feeding = np.sort(permutation[np.flatnonzero(np.isin(np.arange(neurons) % m, [0, 1]))])
        np.testing.assert_array_equal(w.indices[:32], feeding)


@pytest.mark.parametrize("neurons", NEURONS)
def test_spec_properties(neurons: int) -> None:
    i = NEURONS.index(neurons)
    for depth in LAYERS:
        spec = Spec(neurons, depth)
        assert spec.bias == (-0.30, -0.35, -0.40, -0.45)[i]
        assert spec.cap == 32.0
        assert spec.edges == 32 * neurons * depth
        assert spec.known_categories == (1812, 1801, 1918, 1994)[i]
    assert Spec(neurons, 121).known_categories is None


@pytest.mark.parametrize(
    ("neurons", "depth", "argument"),
    [
        (1000, 120, "neurons"),
        (1024.0, 120, "neurons"),
        ("1024", 120, "neurons"),
        (True, 120, "neurons"),
        (1024, 0, "layers"),
        (1024, 1921, "layers"),
        (1024, 2.5, "layers"),
        (1024, True, "layers"),
    ],
)
def test_bad_specs(neurons: object, depth: object, argument: str) -> None:
    with pytest.raises(InputError, match=f"^{argument}: expected"):
        Spec(neurons, depth)  # type: ignore[arg-type]


@pytest.mark.parametrize(("start", "stop"), [(-1, None), (121, None), (5, 4), (0, 121), (0.5, 3)])
def test_bad_ranges_are_refused_at_the_call(start: int, stop: int | None) -> None:
    with pytest.raises(InputError, match=r"^(start|stop): expected"):
        layers(SMALL, start=start, stop=stop)


def test_an_empty_range_is_empty() -> None:
    assert list(layers(SMALL, start=120)) == []
