"""Model files: round trips, damage, versions, and that no error touches the file that was there."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
import struct
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
from builders import random_csr, random_dense, random_network, run_script
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import gbdnn
from gbdnn import CSR, GELU, LeakyReLU, Linear, Network, ReLU
from gbdnn.errors import (
    DataUnavailableError,
    DtypeError,
    FileFormatError,
    GbdnnError,
    InputError,
    MemoryBudgetError,
)
from gbdnn.files import headers, tensors
from gbdnn.files.tensors import read_tensors, write_tensors
from gbdnn.interchange.models import KINDS, load
from gbdnn.layers import ACTIVATIONS, Dropout

safetensors = pytest.importorskip("safetensors")
safetensors_numpy = pytest.importorskip("safetensors.numpy")

TENSORS = {
    "b": np.arange(6, dtype=np.int16).reshape(2, 3),
    "a.values": np.linspace(-1, 1, 5, dtype=np.float32),
    "empty": np.zeros((0, 3)),
    "number": np.array(2.5),
    "mask": np.array([True, False, True]),
}
METADATA = {"format": "test", "note": "grüße", "list": [1, None, True, 0.1, {"x": []}]}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.safetensors"


def assert_same(found, wanted):
    """Assert equal names, dtypes, shapes and bytes."""
    assert found.keys() == wanted.keys()
    for name, array in wanted.items():
        array = np.asarray(array)
        assert found[name].dtype == array.dtype.newbyteorder("=")
        assert found[name].shape == array.shape
        assert found[name].flags.c_contiguous
        assert found[name].flags.writeable
        assert (
            found[name].tobytes()
            == np.ascontiguousarray(array).astype(array.dtype.newbyteorder("=")).tobytes()
        )


def assert_equal_networks(found: Network, wanted: Network):
    """Assert that two networks are equal bit by bit."""
    assert len(found.layers) == len(wanted.layers)
    for left, right in zip(found.layers, wanted.layers, strict=True):
        assert type(left) is type(right)
        if not isinstance(left, Linear):
            assert left == right
            continue
        assert type(left.weight) is type(right.weight)
        pairs = [(left.bias, right.bias)]
        if isinstance(left.weight, CSR):
            assert left.weight.shape == right.weight.shape
            assert left.weight.iso == right.weight.iso
            pairs += [
                (getattr(left.weight, part), getattr(right.weight, part))
                for part in ("indptr", "indices", "values")
            ]
        else:
            pairs += [(left.weight, right.weight)]
        for a, b in pairs:
            assert (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())


# -- arrays and metadata ---------------------------------------------------------------------------


def test_round_trip(path):
    write_tensors(path, TENSORS, METADATA)
    tensors, metadata = read_tensors(path)
    assert_same(tensors, TENSORS)
    assert metadata == METADATA


array_strategy = hnp.arrays(
    st.sampled_from(list(headers.CODES)) | st.sampled_from([np.dtype(">f8"), np.dtype(">i4")]),
    hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4),
)
json_strategy = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner, max_size=3),
    max_leaves=12,
)  # fmt: skip


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(
    tensors=st.dictionaries(
        st.from_regex(headers.NAME, fullmatch=True), array_strategy, max_size=5
    ),
    metadata=st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"])), json_strategy, max_size=4
    ),
    transposed=st.booleans(),
)
def test_any_arrays_and_metadata_come_back(tmp_path, tensors, metadata, transposed):
    metadata.pop("container", None)
    if transposed:
        tensors = {name: array.T for name, array in tensors.items()}
    path = tmp_path / "any.safetensors"
    write_tensors(path, tensors, metadata)
    found, notes = read_tensors(path)
    assert_same(found, tensors)
    assert notes == metadata
    independent = safetensors_numpy.load_file(path)  # their parser reads our files
    assert_same(
        {
            k: np.require(v, requirements=["C", "W"]).reshape(v.shape)
            for k, v in independent.items()
        },
        tensors,
    )


@pytest.mark.parametrize("order", ["F", "strided", "read-only", "negative"])
def test_arrays_of_any_memory_order(path, order):
    wanted = np.arange(24, dtype=np.float32).reshape(4, 6)
    array = {
        "F": np.asfortranarray(wanted),
        "strided": np.repeat(wanted, 2, axis=1)[:, ::2],
        "read-only": np.broadcast_to(wanted, wanted.shape),
        "negative": np.ascontiguousarray(wanted[::-1])[::-1],
    }[order]
    write_tensors(path, {"x": array}, {})
    np.testing.assert_array_equal(read_tensors(path)[0]["x"], wanted)
    np.testing.assert_array_equal(safetensors_numpy.load_file(path)["x"], wanted)


def test_layout_for_other_readers(path):
    """Tensors are aligned to their items, the digests are those of the bytes."""
    write_tensors(path, TENSORS, METADATA)
    raw = path.read_bytes()
    length = struct.unpack("<Q", raw[:8])[0]
    assert (8 + length) % 64 == 0
    header = json.loads(raw[8 : 8 + length])
    text = header.pop("__metadata__")
    assert text.keys() == {"gbdnn"}
    digests = json.loads(text["gbdnn"])["container"]["sha256"]
    for name, entry in header.items():
        start, stop = entry["data_offsets"]
        array = TENSORS[name]
        assert start % array.itemsize == 0
        content = raw[8 + length + start : 8 + length + stop]
        assert content == array.tobytes()
        assert digests[name] == hashlib.sha256(content).hexdigest()


def test_reordered_by_another_tool_it_still_loads(path):
    """The digests cover what is said, not how the JSON is laid out."""
    write_tensors(path, TENSORS, METADATA)
    with safetensors.safe_open(path, "np") as file:
        notes = file.metadata()
    arrays = {k: np.array(v) for k, v in safetensors_numpy.load_file(path).items()}
    other = path.with_name("other.safetensors")
    safetensors_numpy.save_file(arrays, other, metadata=notes)
    assert_same(read_tensors(other)[0], TENSORS)


def test_numpy_scalars_and_tuples_in_metadata(path):
    given = {"a": np.int64(3), "b": np.float32(0.5), "c": (1, (2,)), "d": np.bool_(True)}
    write_tensors(path, {}, given)
    assert read_tensors(path) == ({}, {"a": 3, "b": 0.5, "c": [1, [2]], "d": True})


@pytest.mark.parametrize(
    ("tensors", "metadata", "error"),
    [
        ({"": np.ones(2)}, {}, InputError),
        ({"../x": np.ones(2)}, {}, InputError),
        ({"a/b": np.ones(2)}, {}, InputError),
        ({"x" * 201: np.ones(2)}, {}, InputError),
        ({3: np.ones(2)}, {}, InputError),
        ({"__metadata__\n": np.ones(2)}, {}, InputError),
        ({"x": [1, 2]}, {}, DtypeError),
        ({"x": np.ones(2, complex)}, {}, DtypeError),
        ({"x": np.ones(2, np.float16)}, {}, DtypeError),
        ({"x": np.array([None])}, {}, DtypeError),
        ({"x": np.array(["text"])}, {}, DtypeError),
        ({}, {"container": 1}, InputError),
        ({}, {"x": float("nan")}, InputError),
        ({}, {"x": float("inf")}, InputError),
        ({}, {"x": np.float32("nan")}, InputError),
        ({}, {"x": {1: 2}}, DtypeError),
        ({}, {"x": {1, 2}}, DtypeError),
        ({}, {"x": np.ones(3)}, DtypeError),
        ({}, {"x": b"bytes"}, DtypeError),
        ({}, {"x": "\ud800"}, InputError),
        ({}, {"x": 10**5000}, InputError),
        ({}, {"x": "long " * 10**7}, InputError),
    ],
)
def test_what_cannot_be_written(path, tensors, metadata, error):
    path.write_bytes(b"old")
    with pytest.raises(error):
        write_tensors(path, tensors, metadata)
    assert path.read_bytes() == b"old"
    assert os.listdir(path.parent) == [path.name]


def test_metadata_in_a_loop_is_refused(path):
    loop: dict[str, object] = {}
    loop["loop"] = loop
    with pytest.raises(InputError, match="levels"):
        write_tensors(path, {}, loop)


def test_limit(path):
    write_tensors(path, {"x": np.ones(100)}, {})
    assert read_tensors(path, limit=800)[0]["x"].sum() == 100
    with pytest.raises(MemoryBudgetError, match="799"):
        read_tensors(path, limit=799)


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
            *(make() for make in ACTIVATIONS.values()),
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


def test_every_layer_without_weights_has_a_kind():
    assert {cls for cls, _ in KINDS.values()} == set(gbdnn.layers.Activation.__args__)


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
        assert notes["version"] == "1.0"
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
        assert notes["layers"][1] == {"kind": "relu", "cap": None}
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
    from gbdnn.interchange.models import network_to_tensors

    network = random_network(np.random.default_rng(0), (4, 3))
    tensors, metadata = network_to_tensors(network)
    write_tensors(path, tensors, metadata | changes)
    return path


@pytest.mark.parametrize("version", ["2.0", "17.3", "999999.0"])
def test_a_newer_major_version_is_refused(path, version):
    with pytest.raises(FileFormatError, match=r"newer gbdnn.*install"):
        load(rewritten(path, version=version))


def test_a_newer_container_is_refused(path, monkeypatch):
    monkeypatch.setattr(headers, "VERSION", (2, 0))
    write_tensors(path, {}, {})
    monkeypatch.undo()
    with pytest.raises(FileFormatError, match="newer gbdnn"):
        read_tensors(path)


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
    write_tensors(path, TENSORS, {"format": "gbdnn.checkpoint"})
    with pytest.raises(FileFormatError, match=r"gbdnn\.checkpoint"):
        load(path)


# -- the file that was there -----------------------------------------------------------------------


class FullDisk:
    """A file on a disk that is full after some bytes."""

    def __init__(self, file, room):
        self.file, self.room = file, room

    def write(self, data):
        self.room -= len(data)
        if self.room < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return self.file.write(data)

    def __getattr__(self, name):
        return getattr(self.file, name)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.file.close()


@pytest.mark.parametrize("room", [0, 100, 3000])
def test_disk_full(path, network, monkeypatch, room):
    network.save(path)
    old = path.read_bytes()
    bigger = random_network(np.random.default_rng(0), (50, 60, 7))
    opened = Path.open

    def open_full(self, mode="r", *args, **options):
        file = opened(self, mode, *args, **options)
        return FullDisk(file, room) if "x" in mode else file

    monkeypatch.setattr(Path, "open", open_full)
    with pytest.raises(DataUnavailableError, match="No space left") as caught:
        bigger.save(path)
    assert "as it was" in caught.value.fix
    monkeypatch.undo()
    assert path.read_bytes() == old
    assert os.listdir(path.parent) == [path.name]


@pytest.mark.parametrize("step", ["fsync", "replace"])
@pytest.mark.parametrize("error", [OSError(errno.EIO, "broken"), KeyboardInterrupt()])
def test_interrupted_at_the_end(path, network, monkeypatch, step, error):
    path.write_bytes(b"old")

    def fail(*args):
        raise error

    monkeypatch.setattr(tensors.os, step, fail)
    with pytest.raises((DataUnavailableError, KeyboardInterrupt)):
        network.save(path)
    monkeypatch.undo()
    assert path.read_bytes() == b"old"
    assert os.listdir(path.parent) == [path.name]


def test_disk_full_for_the_kernel(path):
    """A limit on the size of files, in a process of its own."""
    script = """
import resource, sys
import numpy as np
import gbdnn
from gbdnn.errors import DataUnavailableError
network = gbdnn.Network([gbdnn.Linear(np.ones((300, 300)))])
small = gbdnn.Network([gbdnn.Linear(np.ones((2, 2)))])
small.save(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    network.save(sys.argv[1])
except DataUnavailableError as error:
    print("refused:", error)
"""
    done = run_script(script, str(path))
    assert "refused" in done.stdout
    assert load(path).in_features == 2
    assert os.listdir(path.parent) == [path.name]


def test_what_is_read_back_is_compared(path, network, monkeypatch):
    """A disk that loses bytes is noticed before the old file is gone."""
    network.save(path)
    old = path.read_bytes()
    fsync = os.fsync

    def spoil(descriptor):
        fsync(descriptor)
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            size = os.fstat(descriptor).st_size
            os.pwrite(descriptor, b"\xff", size - 2)

    monkeypatch.setattr(tensors.os, "fsync", spoil)
    with pytest.raises(DataUnavailableError, match="read back"):
        network.save(path)
    monkeypatch.undo()
    assert path.read_bytes() == old


def test_a_private_file_stays_private(path, network):
    network.save(path)
    path.chmod(0o600)
    network.save(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_link_is_followed(path, network):
    link = path.with_name("link")
    link.symlink_to(path)
    network.save(link)
    assert link.is_symlink()
    assert_equal_networks(load(path), network)


@pytest.mark.parametrize("place", [".", "missing/model", "fifo", "n\0ul", "x" * 300, "/dev/null"])
def test_where_nothing_can_be_written(tmp_path, network, place):
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(DataUnavailableError):
        network.save(f"{tmp_path}/{place}" if place[0] != "/" else place)
    assert os.listdir(tmp_path) == ["fifo"]
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


def test_killed_while_saving(path, tmp_path):
    """Whenever the process dies, the name holds one whole network or the other."""
    script = """
import sys
import numpy as np
import gbdnn
networks = [gbdnn.Network([gbdnn.Linear(np.full((200, 200 + k), k + 1.0))]) for k in range(2)]
networks[0].save(sys.argv[1])
print("ready", flush=True)
while True:
    for network in networks:
        network.save(sys.argv[1])
"""
    for k in range(4):
        with subprocess.Popen(
            [sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            try:
                process.wait(0.02 + 0.013 * k)
            except subprocess.TimeoutExpired:
                process.kill()
        found = load(path)
        assert found.layers[0].weight[0, 0] == found.in_features - 199


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
