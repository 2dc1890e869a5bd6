"""Model files: damage, round trips of networks, names and versions."""

from __future__ import annotations

import json
import struct
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import safetensors
import safetensors.numpy as safetensors_numpy
import scipy.sparse as sp
from builders import random_csr, random_dense, random_network
from file_checks import assert_equal_networks
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import gbdnn
from gbdnn import CSR, GELU, LeakyReLU, Linear, Network, ReLU
from gbdnn.errors import (
    DataUnavailableError,
    FileFormatError,
    GbdnnError,
    InputError,
    MemoryBudgetError,
)
from gbdnn.files.tensors import write_tensors
from gbdnn.interchange.models import to_tensors
from gbdnn.layers import Dropout, activation, activation_names
from gbdnn.network import load


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.safetensors"


# -- damage ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def healthy(tmp_path_factory):
    """The bytes of a small model file."""
    rng = np.random.default_rng(5)
    network = Network(
        [
            Linear(random_csr(rng, 6, 5), rng.random(6)),
            LeakyReLU(0.03),
            Linear(random_dense(rng, 2, 6)),
        ]
    )
    path = tmp_path_factory.mktemp("healthy") / "m.safetensors"
    network.save(path, extra={"classes": ["a", "b"]})
    return path.read_bytes()


def test_every_single_bit_matters(path, healthy):
    """No byte can change unnoticed; all bits of the header, one of each byte after it."""
    length = 8 + struct.unpack("<Q", healthy[:8])[0]
    places = [(k, bit) for k in range(length) for bit in ((k % 8), (k + 3) % 8)]
    places += [(k, k % 8) for k in range(length, len(healthy))]
    for k, bit in places:
        damaged = bytearray(healthy)
        damaged[k] ^= 1 << bit
        path.write_bytes(damaged)
        with pytest.raises(FileFormatError):
            load(path)


def test_every_length_matters(path, healthy):
    for size in [*range(0, len(healthy), 7), len(healthy) - 1]:
        path.write_bytes(healthy[:size])
        with pytest.raises(FileFormatError):
            load(path)
    for more in (b"\0", b"\n", healthy):
        path.write_bytes(healthy + more)
        with pytest.raises(FileFormatError):
            load(path)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
@given(data=st.data())
def test_replaced_and_moved_pieces(path, healthy, data):
    """Whatever is cut, doubled or overwritten: an error of gbdnn, or the very same file."""
    start = data.draw(st.integers(0, len(healthy)))
    stop = data.draw(st.integers(start, len(healthy)))
    piece = data.draw(st.binary(max_size=20) | st.just(healthy[start:stop] * 2))
    damaged = healthy[:start] + piece + healthy[stop:]
    path.write_bytes(damaged)
    if damaged == healthy:
        load(path)
    else:
        with pytest.raises((FileFormatError, MemoryBudgetError)):
            load(path)


# -- networks --------------------------------------------------------------------------------------


def test_network_round_trip(path, network):
    network.save(path)
    found = load(path)
    assert_equal_networks(found, network)
    X = np.random.default_rng(0).random((7, network.in_features))
    np.testing.assert_array_equal(found.predict(X), network.predict(X))


@st.composite
def networks(draw):
    """Networks of sparse, dense and iso-valued layers with all activations."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    widths = draw(st.lists(st.integers(1, 300), min_size=2, max_size=4))
    activations = st.sampled_from(
        [
            *(activation(name) for name in activation_names()),
            ReLU(32),
            ReLU(0.5),
            LeakyReLU(-1.5),
            Dropout(0.25),
        ]
    )
    layers = []
    for columns, rows in pairwise(widths):
        kind = draw(st.sampled_from(["sparse", "dense", "iso", "empty"]))
        weight = random_dense(rng, rows, columns, 0.1)
        if kind == "sparse":
            weight = gbdnn.as_csr(weight, dtype=dtype)
        elif kind == "iso":
            pattern = gbdnn.as_csr(weight)
            weight = CSR(pattern.indptr, pattern.indices, np.array([0.25], dtype), pattern.shape)
        elif kind == "dense":
            weight = gbdnn.Dense(weight)
        elif kind == "empty":
            weight = sp.csr_array((rows, columns))
        bias = draw(st.sampled_from([0.0, -0.5])) if draw(st.booleans()) else rng.random(rows)
        layers += [Linear(weight, bias, dtype=dtype), *draw(st.lists(activations, max_size=2))]
    return Network(layers)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(network=networks())
def test_any_network_comes_back(tmp_path, network):
    path = tmp_path / "any.safetensors"
    network.save(path)
    found = load(path)
    assert_equal_networks(found, network)
    found.save(tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == path.read_bytes()


def test_binsparse_names_types_and_descriptor(path):
    """Another reader builds the matrices from names and descriptor alone."""
    rng = np.random.default_rng(1)
    sparse, dense = random_csr(rng, 300, 70_000, 0.001), random_dense(rng, 4, 300)
    iso = CSR(sparse.indptr, sparse.indices, np.array([2.0], np.float32), sparse.shape)
    for weight in (sparse, iso):
        Network([Linear(weight), "relu", Linear(dense, 1.0)]).save(path)
        arrays = safetensors_numpy.load_file(path)
        with safetensors.safe_open(path, "np") as file:
            notes = json.loads(file.metadata()["gbdnn"])
        assert notes["format"] == "gbdnn.model"
        assert notes["version"] == "1.2"
        assert notes["orientation"] == ["out_features", "in_features"]
        assert notes["dtype"] == "float32"
        assert notes["versions"].keys() >= {"gbdnn", "numpy", "python"}
        descriptor = notes["layers"][0]["weight"]["binsparse"]
        assert descriptor["version"] == "0.1"
        assert descriptor["format"] == "CSR"
        assert descriptor["shape"] == [300, 70_000]
        assert descriptor["number_of_stored_values"] == sparse.nnz
        parts = [arrays[f"layers.0.weight.{p}"] for p in ("values", "indices_1", "pointers_to_1")]
        types = descriptor["data_types"]
        assert types["values"] == ("iso[float32]" if weight is iso else "float32")
        assert types["indices_1"] == str(parts[1].dtype) == "uint32"
        assert types["pointers_to_1"] == str(parts[2].dtype) == "uint16"
        values = np.broadcast_to(parts[0], parts[1].shape)
        built = sp.csr_array((values, parts[1], parts[2]), shape=descriptor["shape"])
        assert (built != weight.to_scipy()).nnz == 0
        np.testing.assert_array_equal(arrays["layers.2.weight"], dense)
        assert notes["layers"][1] == {"kind": "relu", "parameters": [], "cap": None}
        assert arrays["layers.2.bias"].shape == ()


def test_a_file_follows_the_non_zeros(path):
    """At 95 % sparsity a tenth of the dense file, with room."""
    rng = np.random.default_rng(2)
    widths = (784, 1024, 1024, 10)
    sizes = []
    for density in (None, 0.05):
        layers = [
            Linear(random_dense(rng, rows, columns) if density is None
                   else random_csr(rng, rows, columns, density))
            for columns, rows in pairwise(widths)
        ]  # fmt: skip
        Network(layers).save(path)
        sizes.append(path.stat().st_size)
    assert sizes[1] < sizes[0] / 10


def test_user_metadata_is_kept(path, network):
    network.metadata["classes"] = ["cat", "dog"]
    network.save(path, extra={"trained": {"epochs": 3}})
    found = load(path)
    assert found.metadata == {"classes": ["cat", "dog"], "trained": {"epochs": 3}}
    assert network.metadata == {"classes": ["cat", "dog"]}
    found.save(path, extra={"classes": ["a"]})
    assert load(path).metadata == {"classes": ["a"], "trained": {"epochs": 3}}
    assert found.astype(np.float64).metadata == found.metadata


@pytest.mark.parametrize("key", ["layers", "version", "container"])
def test_own_keys_are_taken(path, network, key):
    with pytest.raises(InputError, match=key):
        network.save(path, extra={key: 1})
    assert not path.exists()


def rewritten(path: Path, **changes: object) -> Path:
    """Save a network whose metadata is changed, with right digests."""
    network = random_network(np.random.default_rng(0), (4, 3))
    tensors, metadata = to_tensors(network.layers)
    write_tensors(path, tensors, metadata | changes)
    return path


@pytest.mark.parametrize("version", ["2.0", "17.3", "999999.0"])
def test_a_newer_major_version_is_refused(path, version):
    with pytest.raises(FileFormatError, match=r"newer gbdnn.*install"):
        load(rewritten(path, version=version))


def test_a_newer_minor_version_loads_and_unknown_keys_stay(path):
    found = load(rewritten(path, version="1.7", novelty={"deep": [1]}))
    assert found.metadata == {"novelty": {"deep": [1]}}
    found.save(path)
    assert load(path).metadata == {"novelty": {"deep": [1]}}


@pytest.mark.parametrize("version", ["1", "one", 1, 1.0, None, "1.0.0", "-1.0", "1.0\n", ["1.0"]])
def test_a_senseless_version_is_refused(path, version):
    with pytest.raises(FileFormatError, match="version"):
        load(rewritten(path, version=version))


def test_foreign_safetensors_are_refused(path):
    safetensors_numpy.save_file({"weight": np.ones(3)}, path)
    with pytest.raises(FileFormatError, match="another tool"):
        load(path)
    safetensors_numpy.save_file({"weight": np.ones(3)}, path, metadata={"format": "pt"})
    with pytest.raises(FileFormatError, match="another tool"):
        load(path)
    write_tensors(path, {"x": np.ones(3)}, {"format": "gbdnn.checkpoint"})
    with pytest.raises(FileFormatError, match=r"gbdnn\.checkpoint"):
        load(path)


def test_errors_are_gbdnns_and_say_the_file(path):
    path.write_bytes(b"")
    with pytest.raises(GbdnnError, match=path.name):
        load(path)
    with pytest.raises(DataUnavailableError, match="No such file"):
        load(path.with_name("absent"))


def test_gelu_and_caps_by_name(path):
    """An infinite cap is no cap; parameters are exact."""
    layers = [
        Linear(np.eye(2)),
        ReLU(np.inf),
        GELU(),
        LeakyReLU(np.float32(0.1)),
        ReLU(np.float64(3)),
    ]
    Network(layers).save(path)
    found = load(path).layers[1:]
    assert found == (ReLU(), GELU(), LeakyReLU(float(np.float32(0.1))), ReLU(3.0))
