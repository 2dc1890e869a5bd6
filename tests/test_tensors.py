"""Files of arrays: round trips, layout, what cannot be written, files of other tools."""

from __future__ import annotations

import hashlib
import json
import os
import struct
import zlib

import numpy as np
import pytest
import safetensors
import safetensors.numpy as safetensors_numpy
from file_checks import assert_same
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gbdnn.errors import (
    DtypeError,
    FileFormatError,
    InputError,
    MemoryBudgetError,
)
from gbdnn.files import header as container
from gbdnn.files.tensors import read_foreign, read_tensors, write_tensors

TENSORS = {
    "b": np.arange(6, dtype=np.int16).reshape(2, 3),
    "a.values": np.linspace(-1, 1, 5, dtype=np.float32),
    "empty": np.zeros((0, 3)),
    "number": np.array(2.5),
    "mask": np.array([True, False, True]),
    "half": np.array([0.5, -2], np.float16),
}
METADATA = {"format": "test", "note": "grüße", "list": [1, None, True, 0.1, {"x": []}]}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.safetensors"


# -- arrays and metadata ---------------------------------------------------------------------------


def test_round_trip(path):
    write_tensors(path, TENSORS, METADATA)
    tensors, metadata = read_tensors(path)
    assert_same(tensors, TENSORS)
    assert metadata == METADATA


array_strategy = hnp.arrays(
    st.sampled_from(list(container.CODES)) | st.sampled_from([np.dtype(">f8"), np.dtype(">i4")]),
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
        st.from_regex(container.NAME, fullmatch=True), array_strategy, max_size=5
    ),
    metadata=st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"])), json_strategy, max_size=4
    ),
    transposed=st.booleans(),
    compress=st.booleans(),
)
def test_any_arrays_and_metadata_come_back(tmp_path, tensors, metadata, transposed, compress):
    metadata.pop("container", None)
    if transposed:
        tensors = {name: array.T for name, array in tensors.items()}
    path = tmp_path / "any.safetensors"
    write_tensors(path, tensors, metadata, compress=compress)
    found, notes = read_tensors(path)
    assert_same(found, tensors)
    assert notes == metadata
    if compress:
        return
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
        assert digests[sorted(TENSORS).index(name)] == hashlib.sha256(content).hexdigest()


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
        ({"x": np.ones(2, np.longdouble)}, {}, DtypeError),
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


# -- deflated arrays -------------------------------------------------------------------------------


def deflated(array):
    stream = zlib.compressobj(wbits=-15)
    return np.frombuffer(stream.compress(array.tobytes()) + stream.flush(), np.uint8)


def write_raw(path, stored, said):
    """Write a file whose header says of the stored arrays whatever is said."""
    digests = {name: hashlib.sha256(array.tobytes()).hexdigest() for name, array in stored.items()}
    header = container.write_header(stored, said, digests, {})
    path.write_bytes(header + b"".join(array.tobytes() for array in stored.values()))


def test_codes_are_stored_as_huffman_codes(path, rng):
    """The bits of a bitmap of one in five come to their entropy, .722, within 2 %; noise stays."""
    bits = np.packbits(rng.random(800_000) < 0.2).reshape(100, 1000)
    tensors = {"bits": bits, "noise": rng.random(100), "mask": bits < 1}
    write_tensors(path, tensors, METADATA, compress=True)
    assert_same(read_tensors(path)[0], tensors)
    stored = safetensors_numpy.load_file(path)
    assert stored["bits"].dtype == np.uint8
    assert 0.722 * 100_000 < stored["bits"].nbytes < 1.02 * 0.722 * 100_000
    assert stored["mask"].nbytes < 20_000
    np.testing.assert_array_equal(stored["noise"], tensors["noise"])


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (["U8", [101]], "101 deflated bytes"),
        (["U8", [99]], "99 deflated bytes"),
        (["U8", [100] + [1] * 99], "deflated bytes of the shape"),
        (["U8", [2**40, 0]], "0 deflated bytes"),
        (["U16", [51]], "102 deflated bytes"),
        (["BOOL", [100]], "bools of 0 and 1"),
        (["U8", [-100]], "dtype and shape"),
        (["U8", [True]], "dtype and shape"),
        (["U8", 100], "dtype and shape"),
        (["BF16", [50]], "dtype and shape"),
        ([[], [50]], "dtype and shape"),
        (["U8"], "dtype and shape"),
        (None, "dtype and shape"),
    ],
)
def test_what_is_said_of_deflated_arrays_is_not_believed(path, said, message):
    write_raw(path, {"x": deflated(np.arange(100, dtype=np.uint8))}, {"x": said})
    with pytest.raises(FileFormatError, match=message):
        read_tensors(path)


@pytest.mark.parametrize("said", [{"y": ["U8", [1]]}, ["x"], {"x": ["U8", [4]], "": None}])
def test_only_arrays_of_the_file_are_deflated(path, said):
    write_raw(path, {"x": deflated(np.zeros(4, np.uint8))}, said)
    with pytest.raises(FileFormatError, match="dtype and shape"):
        read_tensors(path)


@pytest.mark.parametrize("change", ["cut", "longer", "noise", "empty", "matrix", "floats"])
def test_bytes_that_nobody_deflated(path, change, rng):
    x = deflated(np.arange(100, dtype=np.uint8))
    x = {
        "cut": x[:-2], "longer": np.append(x, np.uint8(0)), "noise": 255 - x, "empty": x[:0],
        "matrix": x[None], "floats": rng.random(10),
    }[change]  # fmt: skip
    write_raw(path, {"x": x}, {"x": ["U8", [100]]})
    with pytest.raises(FileFormatError, match="deflated"):
        read_tensors(path)


def test_the_limit_counts_what_deflated_arrays_become(path):
    write_raw(path, {"x": deflated(np.zeros(1 << 20, np.uint8))}, {"x": ["U8", [1 << 20]]})
    assert path.stat().st_size < 10_000
    assert read_tensors(path, limit=1 << 20)[0]["x"].size == 1 << 20
    with pytest.raises(MemoryBudgetError, match="1,048,576 bytes"):
        read_tensors(path, limit=(1 << 20) - 1)
    write_raw(path, {"x": deflated(np.zeros(1 << 20, np.uint8))}, {"x": ["F64", [1 << 60]]})
    with pytest.raises(MemoryBudgetError):
        read_tensors(path)


# -- files of other tools --------------------------------------------------------------------------


def test_foreign_files_are_read(path):
    """Without our entry: no digests, the metadata is texts."""
    wanted = {"weight": np.arange(6, dtype=np.float16).reshape(2, 3), "steps": np.array(7)}
    safetensors_numpy.save_file(wanted, path, metadata={"format": "pt"})
    tensors, metadata = read_foreign(path)
    assert_same(tensors, wanted)
    assert metadata == {"format": "pt"}
    safetensors_numpy.save_file(wanted, path)
    assert read_foreign(path)[1] == {}
    with pytest.raises(MemoryBudgetError, match="19"):
        read_foreign(path, limit=19)
    write_tensors(path, TENSORS, METADATA)
    assert_same(read_foreign(path)[0], TENSORS)


def test_dtypes_that_are_not_read_are_refused_by_name(path):
    header = json.dumps({"x": {"dtype": "F8_E4M3", "shape": [4], "data_offsets": [0, 4]}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
    with pytest.raises(FileFormatError, match=r"tensor 'x'.*F32.*F8_E4M3"):
        read_foreign(path)


def test_bfloat16_becomes_float32(path):
    header = json.dumps({"x": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes.fromhex("803f40c0"))
    np.testing.assert_array_equal(read_foreign(path)[0]["x"], np.array([1, -3], np.float32))


def test_a_newer_container_is_refused(path, monkeypatch):
    monkeypatch.setattr(container, "PLAIN", "4.0")
    write_tensors(path, {}, {})
    monkeypatch.undo()
    with pytest.raises(FileFormatError, match="newer gbdnn"):
        read_tensors(path)
