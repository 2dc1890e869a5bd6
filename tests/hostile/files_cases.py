"""Hostile model files: case name -> (function, expected class of gbdnn.errors or None)."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import struct
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp

from gbdnn import Levels, Linear, Network, as_csr, integer_weight
from gbdnn.errors import (
    DataUnavailableError,
    DtypeError,
    FileFormatError,
    InputError,
    MemoryBudgetError,
)
from gbdnn.files.tensors import read_tensors, write_tensors
from gbdnn.interchange.models import to_tensors
from gbdnn.network import load

CASES: dict[str, tuple[Callable[[], Any], type[Exception] | None]] = {}
TOP = 2**63
HUGE = 2**64 - 1


def loaded(content: bytes) -> Any:
    """Write bytes to a file and load it as a model and as tensors; both must say the same."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        path.write_bytes(content)
        try:
            read_tensors(path)
        except Exception as error:
            try:
                load(path)
            except type(error):
                raise error from None
            raise AssertionError("load took what read_tensors refused") from error
        return load(path)


def refuse_as_model(content: bytes) -> None:
    """Read tensors that are sound; only that they are no model is wrong with them."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        path.write_bytes(content)
        assert list(read_tensors(path)[0]) == ["a"]
        with pytest.raises(FileFormatError, match=r"gbdnn\.model"):
            load(path)


def container(header: Any, body: bytes = b"", *, length: int | None = None) -> bytes:
    """Return a file with any header, in JSON or as bytes."""
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw) if length is None else length) + raw + body


def signed(
    entries: dict[str, Any], body: bytes = b"", metadata: dict[str, Any] | None = None, **own: Any
) -> bytes:
    """Return a file whose digests are right, whatever else its header says: a forger's work."""
    digests = {}
    for name, entry in entries.items():
        try:
            start, stop = entry["data_offsets"]
            digests[name] = hashlib.sha256(body[start:stop]).hexdigest()
        except (TypeError, KeyError, ValueError):
            digests[name] = hashlib.sha256(b"").hexdigest()
    listed = [digests[name] for name in sorted(digests)]
    container_key: dict[str, Any] = {"version": "2.0", "sha256": listed} | own
    record = dict(metadata or {}) | {"container": container_key}
    shapes = {
        name: [entry.get("dtype"), entry.get("shape")] if isinstance(entry, dict) else None
        for name, entry in entries.items()
    }
    text = json.dumps(
        {"metadata": record, "tensors": shapes}, sort_keys=True, separators=(",", ":"),
        ensure_ascii=False,
    )  # fmt: skip
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    container_key.setdefault("header_sha256", digest)
    return container({"__metadata__": {"gbdnn": json.dumps(record)}} | entries, body)


def tensor(dtype: Any = "F32", shape: Any = (1,), offsets: Any = (0, 4)) -> dict[str, Any]:
    """Return what a header says of a tensor."""
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def nested_lists(depth: int) -> str:
    """Return JSON of an object with lists in lists."""
    return '{"a":' + "[" * depth + "]" * depth + "}"


def refused(**contents: bytes) -> None:
    """Add cases: each content must raise FileFormatError."""
    for label, content in contents.items():
        CASES[label.replace("_", " ")] = (lambda content=content: loaded(content), FileFormatError)


# -- no header at all ------------------------------------------------------------------------------

refused(
    empty_file=b"",
    one_byte=b"\0",
    seven_bytes=bytes(7),
    eight_zeros=bytes(8),
    length_only=struct.pack("<Q", 100),
    length_huge=struct.pack("<Q", HUGE) + b"{}",
    length_negative_for_64_bits=struct.pack("<Q", TOP) + b"{}" * 50,
    length_above_the_limit=struct.pack("<Q", 10**12) + b"{" * 100,
    length_one_too_long=container(b"{}", length=3),
    length_zero=container(b"{}", length=0),
    length_one=container(b"{}", length=1),
    a_pickle=pickle.dumps({"weights": np.ones(9)}),
    a_zip=b"PK\x03\x04" + bytes(200),
    text=b"This is no model, it is a letter to its reader.",
    html=b"<!DOCTYPE html><html><body>404 not found</body></html>",
)

# -- JSON ------------------------------------------------------------------------------------------

META = '"__metadata__":{"gbdnn":"{}"}'
refused(
    header_no_json=container(b"{nonsense}"),
    header_list=container(b"[1, 2]"),
    header_number=container(b"12345"),
    header_space_first=container(b' {"__metadata__":{}}'),
    header_bom=container(b"\xef\xbb\xbf{}"),
    header_utf_16=container("{}".encode("utf-16")),
    header_bad_utf_8=container(b'{"\xff":1}'),
    header_zero_bytes=container(b"{}" + bytes(6)),
    header_two_objects=container(b"{}{}"),
    header_nan=container(b'{"a":NaN}'),
    header_infinity=container(b'{"a":-Infinity}'),
    header_overflowing_number=container(b'{"a":1e999}'),
    header_huge_integer=container(b'{"a":' + b"9" * 100_000 + b"}"),
    header_comment=container(b'{} // "x"'),
    header_deep_lists=container(b'{"a":' + b"[" * 500_000 + b"]" * 500_000 + b"}"),
    header_deep_objects=container(b'{"a":' * 200_000 + b"1" + b"}" * 200_000),
    header_deep_and_open=container(b"{" + b"[" * 10_000_000),
    header_quotes_never_closed=container(b'{"' + b'\\"' * 5_000_000),
    header_of_quotes=container(b"{" + b'"' * 10_000_001),
    header_of_empty_lists=container(b'{"a":[' + b"[]," * 4_000_000 + b"[]]}"),
    name_twice=container(
        b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},'
        b'"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},' + META.encode() + b"}",
        b"x",
    ),
    key_twice=container(
        b'{"a":{"dtype":"U8","dtype":"I8","shape":[1],"data_offsets":[0,1]},'
        + META.encode() + b"}", b"x",
    ),
    metadata_twice=container(f"{{{META},{META}}}".encode()),
)  # fmt: skip

# -- metadata --------------------------------------------------------------------------------------

refused(
    metadata_none=container({}),
    metadata_list=container({"__metadata__": []}),
    metadata_foreign=container({"__metadata__": {"format": "pt"}}),
    metadata_number=container({"__metadata__": {"gbdnn": 1}}),
    metadata_no_json=container({"__metadata__": {"gbdnn": "x"}}),
    metadata_text=container({"__metadata__": {"gbdnn": '"x"'}}),
    metadata_empty=container({"__metadata__": {"gbdnn": "{}"}}),
    metadata_deep=container({"__metadata__": {"gbdnn": nested_lists(100_000)}}),
    metadata_just_too_deep=container({"__metadata__": {"gbdnn": nested_lists(64)}}),
    metadata_nan=container({"__metadata__": {"gbdnn": '{"a":NaN}'}}),
    metadata_name_twice=container({"__metadata__": {"gbdnn": '{"a":1,"a":2}'}}),
    metadata_half_a_character=signed({}, metadata={"a": "\ud800"}),
    container_list=container({"__metadata__": {"gbdnn": '{"container":[]}'}}),
    container_without_version=signed({}, version=None),
    container_newer=signed({}, version="3.0"),
    container_version_senseless=signed({}, version="1.0; rm"),
    container_version_long=signed({}, version="1." + "0" * 10_000_000),
    container_without_digests=signed({}, sha256=None),
    container_digest_of_nothing=signed({}, sha256={"a": "0" * 64}),
    container_digest_missing=signed({"a": tensor()}, bytes(4), sha256={}),
    container_digest_wrong=signed({"a": tensor()}, bytes(4), sha256={"a": "0" * 64}),
    container_digest_number=signed({"a": tensor()}, bytes(4), sha256={"a": 0}),
    container_digest_list_wrong=signed({"a": tensor()}, bytes(4), sha256=["0" * 64]),
    container_digest_list_short=signed({"a": tensor()}, bytes(4), sha256=[]),
    container_digest_list_long=signed({"a": tensor()}, bytes(4), sha256=["0" * 64] * 2),
    container_digest_list_number=signed({"a": tensor()}, bytes(4), sha256=[0]),
    header_digest_wrong=signed({}, header_sha256="0" * 64),
    header_digest_none=signed({}, header_sha256=None),
)  # fmt: skip

# -- tensors, by a forger who knows the digests ----------------------------------------------------

ENTRIES: dict[str, tuple[Any, bytes]] = {
    "dtype unknown": (tensor("F31"), bytes(4)),
    "dtype complex": (tensor("C64", (1,), (0, 8)), bytes(8)),
    "dtype bfloat16": (tensor("BF16", (2,)), bytes(4)),
    "dtype object": (tensor("O"), bytes(4)),
    "dtype list": (tensor(["F32"]), bytes(4)),
    "dtype numpy": (tensor("<f4"), bytes(4)),
    "shape text": (tensor(shape="1"), bytes(4)),
    "shape number": (tensor(shape=1), bytes(4)),
    "shape float": (tensor(shape=(1.0,)), bytes(4)),
    "shape bool": (tensor(shape=(True,)), bytes(4)),
    "shape negative": (tensor(shape=(-1,)), bytes(4)),
    "shape twice negative": (tensor(shape=(-1, -1)), bytes(4)),
    "shape beyond 64 bits": (tensor(shape=(2**70,)), bytes(4)),
    "shape product overflows": (tensor(shape=(2**32, 2**32), offsets=(0, 0)), b""),
    "shape product overflows to 4": (tensor(shape=(2**62 + 1, 4)), bytes(4)),
    "shape none but huge": (tensor(shape=(0, 2**62, 2**62), offsets=(0, 0)), b""),
    "shape of many dimensions": (tensor(shape=(1,) * 100), bytes(4)),
    "shape too large": (tensor(shape=(2,)), bytes(4)),
    "shape too small": (tensor(shape=(0,)), bytes(4)),
    "offsets missing": ({"dtype": "F32", "shape": [1]}, bytes(4)),
    "offsets one": (tensor(offsets=(0,)), bytes(4)),
    "offsets three": (tensor(offsets=(0, 4, 8)), bytes(4)),
    "offsets text": (tensor(offsets="04"), bytes(4)),
    "offsets float": (tensor(offsets=(0.0, 4.0)), bytes(4)),
    "offsets negative": (tensor(offsets=(-4, 0)), bytes(4)),
    "offsets reversed": (tensor(offsets=(4, 0)), bytes(4)),
    "offsets after the end": (tensor(offsets=(4, 8)), bytes(4)),
    "offsets huge": (tensor(offsets=(2**62, 2**62 + 4)), bytes(4)),
    "offsets beyond 64 bits": (tensor(offsets=(2**64, 2**64 + 4)), bytes(4)),
    "entry null": (None, bytes(4)),
    "entry list": ([], bytes(4)),
    "bytes missing": (tensor(), bytes(3)),
    "bytes left over": (tensor(), bytes(5)),
    "bool of 2": (tensor("BOOL", (4,)), b"\0\1\2\1"),
}  # fmt: skip
for label, (entry, body) in ENTRIES.items():
    CASES[f"tensor: {label}"] = (
        lambda entry=entry, body=body: loaded(signed({"a": entry}, body)),
        FileFormatError,
    )
NAMES = ("", " ", "/etc/passwd", "../../x", "a/b", "a\\b", "a\0b", "a\nb", "\x1b[2J", "é", "." * 9,
         "__import__('os')", "x" * 201, "-x")  # fmt: skip
for name in NAMES:
    CASES[f"tensor name {name[:20]!r}"] = (
        lambda name=name: loaded(signed({name: tensor()}, bytes(4))),
        FileFormatError,
    )
PLACES = {
    "overlap": ((0, 4), (0, 4)),
    "overlap by half": ((0, 4), (2, 6)),
    "gap": ((0, 4), (5, 9)),
    "inside": ((0, 8), (2, 6)),
}
for label, (first, second) in PLACES.items():
    pair = {
        "a": tensor("U8", (first[1] - first[0],), first),
        "b": tensor("U8", (second[1] - second[0],), second),
    }
    size = max(first[1], second[1])
    CASES[f"two tensors: {label}"] = (
        lambda pair=pair, size=size: loaded(signed(pair, bytes(size))),
        FileFormatError,
    )


# -- models, by the same forger --------------------------------------------------------------------


def model(change: Callable[[dict[str, Any], dict[str, Any]], Any]) -> Callable[[], Any]:
    """Return a function that loads a model whose tensors and metadata were changed."""
    weight = sp.csr_array(np.array([[1, 0, 2], [0, 3, 0], [4, 0, 0], [0, 0, 5.0]], np.float32))
    network = Network([Linear(weight, np.ones(4)), "relu", Linear(np.ones((2, 4)), 0.5)])

    def run() -> Any:
        tensors, metadata = to_tensors(network.layers)
        change(tensors, metadata)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model"
            write_tensors(path, tensors, metadata)
            loaded = load(path)
            return loaded.predict(np.ones((2, loaded.in_features))), loaded.summary()

    return run


PTR, IDX, VAL = (f"layers.0.weight.{part}" for part in ("pointers_to_1", "indices_1", "values"))
U8, U64 = np.uint8, np.uint64


def with_tensor(name: str, array: Any) -> Callable[[], Any]:
    """Return a function that loads the model with another tensor, or without it."""

    def change(tensors: dict[str, Any], metadata: dict[str, Any]) -> None:
        if array is None:
            del tensors[name]
        else:
            tensors[name] = np.asarray(array)

    return model(change)


TENSORS: dict[str, tuple[str, Any]] = {
    "pointers missing": (PTR, None),
    "pointers empty": (PTR, np.zeros(0, U8)),
    "pointers short": (PTR, np.array([0, 2, 3, 5], U8)),
    "pointers long": (PTR, np.array([0, 2, 3, 4, 5, 5], U8)),
    "pointers fall": (PTR, np.array([0, 3, 2, 4, 5], U8)),
    "pointers start late": (PTR, np.array([1, 2, 3, 4, 5], U8)),
    "pointers end far": (PTR, np.array([0, 2, 3, 4, 200], U8)),
    "pointers end early": (PTR, np.array([0, 1, 2, 3, 4], U8)),
    "pointers of 2^63": (PTR, np.array([0, 2, 3, 4, TOP + 5], U64)),
    "pointers of 2^64": (PTR, np.array([0, 2, 3, HUGE, 5], U64)),
    "pointers that wrap to 32 bits": (PTR, np.array([0, 2, 3, 4, 2**32 + 5], U64)),
    "pointers signed": (PTR, np.array([0, 2, 3, 4, 5], np.int32)),
    "pointers float": (PTR, np.array([0, 2, 3, 4, 5], np.float32)),
    "pointers square": (PTR, np.array([[0, 2, 3, 4, 5]], U8)),
    "indices missing": (IDX, None),
    "indices short": (IDX, np.array([0, 2, 1, 0], U8)),
    "indices long": (IDX, np.array([0, 2, 1, 0, 2, 2], U8)),
    "indices out of range": (IDX, np.array([0, 2, 1, 0, 3], U8)),
    "indices far out": (IDX, np.array([0, 2, 1, 0, 2**40], U64)),
    "indices of 2^63": (IDX, np.array([0, 2, 1, 0, TOP], U64)),
    "indices of 2^64": (IDX, np.array([0, 2, 1, 0, HUGE], U64)),
    "indices that wrap to 32 bits": (IDX, np.array([0, 2, 1, 0, 2**32 + 2], U64)),
    "indices unsorted": (IDX, np.array([2, 0, 1, 0, 2], U8)),
    "indices repeated": (IDX, np.array([0, 0, 1, 0, 2], U8)),
    "indices negative": (IDX, np.array([0, 2, 1, 0, -1], np.int8)),
    "indices float": (IDX, np.array([0, 2, 1, 0, 2], np.float64)),
    "indices bool": (IDX, np.array([0, 1, 1, 0, 1], bool)),
    "values missing": (VAL, None),
    "values short": (VAL, np.ones(4, np.float32)),
    "values one": (VAL, np.ones(1, np.float32)),
    "values double": (VAL, np.ones(5, np.float64)),
    "values integer": (VAL, np.ones(5, np.int32)),
    "values square": (VAL, np.ones((5, 1), np.float32)),
    "values nan": (VAL, np.full(5, np.nan, np.float32)),
    "values inf": (VAL, np.array([1, 2, np.inf, 4, 5], np.float32)),
    "bias missing": ("layers.0.bias", None),
    "bias short": ("layers.0.bias", np.ones(3, np.float32)),
    "bias nan": ("layers.0.bias", np.full(4, np.nan, np.float32)),
    "bias double": ("layers.0.bias", np.ones(4)),
    "bias square": ("layers.0.bias", np.ones((4, 1), np.float32)),
    "dense transposed": ("layers.2.weight", np.ones((4, 2), np.float32)),
    "dense flat": ("layers.2.weight", np.ones(8, np.float32)),
    "dense missing": ("layers.2.weight", None),
    "dense inf": ("layers.2.weight", np.full((2, 4), -np.inf, np.float32)),
    "tensor besides": ("layers.9.bias", np.ones(4, np.float32)),
    "tensor of an activation": ("layers.1.weight", np.ones(4, np.float32)),
}
for label, (name, array) in TENSORS.items():
    CASES[f"model: {label}"] = (with_tensor(name, array), FileFormatError)


def descriptor(**changes: Any) -> Callable[[], Any]:
    """Return a function that loads the model with another Binsparse descriptor in layer 0."""
    return model(
        lambda tensors, metadata: metadata["layers"][0]["weight"]["binsparse"].update(changes)
    )


def record(number: int, value: Any) -> Callable[[], Any]:
    """Return a function that loads the model with another record of a layer."""

    def change(tensors: dict[str, Any], metadata: dict[str, Any]) -> None:
        metadata["layers"][number] = value

    return model(change)


def top(**changes: Any) -> Callable[[], Any]:
    """Return a function that loads the model with other keys at the top."""
    return model(lambda tensors, metadata: metadata.update(changes))


CASES["the forger's digests are right"] = (
    lambda: refuse_as_model(signed({"a": tensor()}, bytes(4))),
    None,
)
CASES["a key that nobody knows is not looked at"] = (
    lambda: refuse_as_model(signed({"a": tensor() | {"more": 1}}, bytes(4))),
    None,
)
CASES["model: unchanged"] = (model(lambda tensors, metadata: None), None)
TYPES = {"pointers_to_1": "uint8", "indices_1": "uint8"}
MODELS: dict[str, Callable[[], Any]] = {
    "format of something else": top(format="gbdnn.checkpoint"),
    "format list": top(format=["gbdnn.model"]),
    "version newer": top(version="2.0"),
    "version none": top(version=None),
    "orientation other": top(orientation=["in_features", "out_features"]),
    "dtype int8": top(dtype="int8"),
    "dtype list": top(dtype=["float32"]),
    "dtype other": top(dtype="float64"),
    "layers none": top(layers=[]),
    "layers number": top(layers=7),
    "layers many": top(layers=[{"kind": "relu"}] * 10**5),
    "layer null": record(1, None),
    "layer text": record(1, "relu"),
    "layer without kind": record(1, {}),
    "kind unknown": record(1, {"kind": "lstm"}),
    "kind a class": record(1, {"kind": "Linear"}),
    "kind code": record(1, {"kind": "__import__('os').system"}),
    "kind attribute": record(1, {"kind": "__class__"}),
    "kind list": record(1, {"kind": ["relu"]}),
    "kind long": record(1, {"kind": "x" * 10**6}),
    "kind in the wrong place": record(0, {"kind": "relu", "cap": None}),
    "cap missing": record(1, {"kind": "relu"}),
    "cap negative": record(1, {"kind": "relu", "cap": -1}),
    "cap zero": record(1, {"kind": "relu", "cap": 0}),
    "cap text": record(1, {"kind": "relu", "cap": "32"}),
    "cap bool": record(1, {"kind": "relu", "cap": True}),
    "cap huge": record(1, {"kind": "relu", "cap": 10**400}),
    "cap object": record(1, {"kind": "relu", "cap": {"a": 1}}),
    "slope null": record(1, {"kind": "leaky_relu", "negative_slope": None}),
    "rate of 1": record(1, {"kind": "dropout", "rate": 1}),
    "rate null": record(1, {"kind": "dropout", "rate": None}),
    "descriptor missing": record(0, {"kind": "linear"}),
    "descriptor list": record(0, {"kind": "linear", "weight": []}),
    "descriptor empty": record(0, {"kind": "linear", "weight": {"binsparse": {}}}),
    "format COO": descriptor(format="COO"),
    "format CSC": descriptor(format="CSC"),
    "format dense": descriptor(format="DMATR"),
    "shape missing": descriptor(shape=None),
    "shape text": descriptor(shape="4x3"),
    "shape float": descriptor(shape=[4.0, 3.0]),
    "shape of one": descriptor(shape=[12]),
    "shape of three": descriptor(shape=[4, 3, 1]),
    "shape negative": descriptor(shape=[-4, 3]),
    "shape bool": descriptor(shape=[True, True]),
    "shape zero": descriptor(shape=[4, 0]),
    "shape narrow": descriptor(shape=[4, 2]),
    "shape short": descriptor(shape=[3, 3]),
    "shape tall": descriptor(shape=[2**40, 3]),
    "shape huge": descriptor(shape=[2**61, 2**61]),
    "shape beyond 64 bits": descriptor(shape=[4, 2**64 + 3]),
    "stored fewer": descriptor(number_of_stored_values=4),
    "stored many": descriptor(number_of_stored_values=2**60),
    "stored text": descriptor(number_of_stored_values="5"),
    "types missing": descriptor(data_types=None),
    "types empty": descriptor(data_types={}),
    "types iso": descriptor(data_types=TYPES | {"values": "iso[float32]"}),
    "types complex": descriptor(data_types=TYPES | {"values": "complex[float32]"}),
    "types other": descriptor(data_types=TYPES | {"values": "float64"}),
}
CASES |= {f"model: {label}": (function, FileFormatError) for label, function in MODELS.items()}


@lambda function: CASES.update({"model: columns beyond 2^60 are only a claim": (function, None)})
def wide() -> None:
    """Legal, and costs nothing until it is used."""
    run = descriptor(shape=[4, 2**60])
    try:
        run()
    except MemoryBudgetError:
        return
    except InputError:  # numpy cannot make a batch of so many features
        return
    except (ValueError, MemoryError):
        return
    raise AssertionError("a batch of 2^60 features was made")


# -- what is no file, or too large -----------------------------------------------------------------


def special(make: Callable[[Path], Any]) -> Callable[[], Any]:
    """Return a function that loads what `make` put there."""

    def run() -> Any:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.safetensors"
            make(path)
            return load(path)

    return run


def zeros(path: Path) -> None:
    """Write 100 MB of zeros."""
    path.write_bytes(bytes(100 << 20))


def hole(path: Path) -> None:
    """Make a file of 1 TB that takes no room, with a header of 16 MB of zeros."""
    with path.open("wb") as file:
        file.write(struct.pack("<Q", 1 << 24))
        file.truncate(1 << 40)


def vast(path: Path) -> None:
    """Make a sound header before a terabyte of nothing: the tensor does not fit into memory."""
    size = 1 << 40
    content = signed({"a": tensor("U8", (size,), (0, size))}, b"")
    path.write_bytes(content)
    os.truncate(path, len(content) + size)


def loop(path: Path) -> None:
    """Make a link to itself."""
    path.symlink_to(path)


CASES |= {
    "no such file": (special(lambda path: None), DataUnavailableError),
    "a folder": (special(Path.mkdir), DataUnavailableError),
    "a pipe without a writer": (special(os.mkfifo), DataUnavailableError),
    "a link to itself": (special(loop), DataUnavailableError),
    "a device": (lambda: load("/dev/zero"), DataUnavailableError),
    "a name with a zero byte": (lambda: load("a\0b"), DataUnavailableError),
    "100 MB of zeros": (special(zeros), FileFormatError),
    "a hole of 1 TB": (special(hole), FileFormatError),
    "a tensor of 1 TB": (special(vast), MemoryBudgetError),
}

# -- what cannot be saved --------------------------------------------------------------------------


def saving(**options: Any) -> Callable[[], Any]:
    """Return a function that saves a network with options; nothing may be left behind."""

    def run() -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model"
            try:
                Network([Linear(np.ones((2, 2)))]).save(path, **options)
            finally:
                assert os.listdir(folder) == []

    return run


def nested() -> dict[str, Any]:
    """Return a dict in a dict ... 100,000 deep."""
    value: dict[str, Any] = {}
    for _ in range(100_000):
        value = {"a": value}
    return value


CASES |= {
    "extra: array": (saving(extra={"a": np.ones(2)}), DtypeError),
    "extra: object": (saving(extra={"a": object()}), DtypeError),
    "extra: NaN": (saving(extra={"a": np.nan}), InputError),
    "extra: deep": (saving(extra={"a": nested()}), InputError),
    "extra: 50 MB": (saving(extra={"a": "x" * (50 << 20)}), InputError),
    "extra: own keys": (saving(extra={"layers": []}), InputError),
}

# -- integer weights -------------------------------------------------------------------------------

CODED = np.array([[1, 0, 2, 0, -7], [0, 3, 0, 0, 0], [4, 0, 0, 0, 0], [0, 0, 5, 0, 1.0]])
"""With 7 entries: an odd number of nibbles."""
NAN32, INF32 = np.float32(np.nan), np.float32(np.inf)


def integers(
    layout: str, bits: int, name: str = "", array: Any = None, /, **settings: Any
) -> Callable[[], Any]:
    """Return a function that loads integer weights with another array, or other settings."""
    levels = Levels(0.5, 3, 0, 15)

    def run() -> Any:
        csr = as_csr(CODED, dtype=np.float32)
        weight = integer_weight(csr, 1.0, bits=bits, levels=levels, layout=layout)
        tensors, metadata = to_tensors([Linear(weight, 0.5)])
        record = metadata["layers"][0]["weight"]
        for key, value in settings.items():
            record["settings"][key] = value
        for key in [key for key, value in settings.items() if value is LEFT_OUT]:
            del record["settings"][key]
        if array is LEFT_OUT:
            del tensors[f"layers.0.weight.{name}"]
        elif name:
            tensors[f"layers.0.weight.{name}"] = np.asarray(array)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model"
            write_tensors(path, tensors, metadata)
            network = load(path)
            X = np.ones((2, network.in_features))
            return [network.predict(X, backend=name) for name in ("dense", "graphblas", "fused")]

    return run


LEFT_OUT = object()
I8, U16, U32, F32 = np.int8, np.uint16, np.uint32, np.float32
INTEGERS: dict[str, tuple[Any, ...]] = {
    "codes missing": ("csr", 4, "codes", LEFT_OUT),
    "nibbles short": ("csr", 4, "codes", np.zeros(3, U8)),
    "nibbles long": ("csr", 4, "codes", np.zeros(5, U8)),
    "nibbles not packed": ("csr", 4, "codes", np.zeros(7, U8)),
    "nibbles signed": ("csr", 4, "codes", np.zeros(4, I8)),
    "nibbles wide": ("csr", 4, "codes", np.zeros(4, U16)),
    "nibbles square": ("csr", 4, "codes", np.zeros((4, 1), U8)),
    "a nibble of -8": ("csr", 4, "codes", np.array([0x21, 0x38, 0, 0], U8)),
    "a nibble behind the last": ("csr", 4, "codes", np.array([0, 0, 0, 0x10], U8)),
    "nibbles of a bitmap short": ("bitmap", 4, "codes", np.zeros(3, U8)),
    "nibbles of all places short": ("dense", 4, "codes", np.zeros(9, U8)),
    "a code of -128": ("csr", 8, "codes", np.array([1, 2, -128, 3, 4, 5, 6], I8)),
    "codes unsigned": ("csr", 8, "codes", np.zeros(7, U8)),
    "codes short": ("bitmap", 8, "codes", np.zeros(6, I8)),
    "codes long": ("dense", 8, "codes", np.zeros(21, I8)),
    "codes float": ("dense", 8, "codes", np.zeros(20, F32)),
    "codes flat in 2 dimensions": ("dense", 8, "codes", np.zeros((4, 5), I8)),
    "scales missing": ("csr", 8, "scales", LEFT_OUT),
    "scales none": ("csr", 8, "scales", np.zeros(0, F32)),
    "scales of 3 parts": ("csr", 8, "scales", np.ones(3, F32)),
    "scales of 2 groups": ("csr", 8, "scales", np.ones((4, 2), F32)),
    "scales of columns": ("csr", 8, "scales", np.ones((1, 5), F32)),
    "scales a number": ("csr", 8, "scales", np.float32(1)),
    "scales deep": ("csr", 8, "scales", np.ones((4, 1, 1), F32)),
    "scales double": ("csr", 8, "scales", np.ones(1)),
    "scales nan": ("csr", 8, "scales", np.array([1, NAN32, 1, 1], F32)),
    "scales inf": ("csr", 4, "scales", np.array([INF32])),
    "scales that overflow": ("dense", 8, "scales", np.array([1e37], F32)),
    "scales negative": ("bitmap", 4, "scales", np.array([-1], F32)),
    "bitmap missing": ("bitmap", 4, "bitmap", LEFT_OUT),
    "bitmap short": ("bitmap", 4, "bitmap", np.array([0xFF, 0], U8)),
    "bitmap long": ("bitmap", 4, "bitmap", np.array([0x7F, 0, 0, 0], U8)),
    "bitmap of more": ("bitmap", 8, "bitmap", np.array([0xFF, 0, 0], U8)),
    "bitmap of fewer": ("bitmap", 4, "bitmap", np.array([0x0F, 0, 0], U8)),
    "bitmap with bits behind the last": ("bitmap", 8, "bitmap", np.array([0x3F, 0, 0x80], U8)),
    "bitmap of bools": ("bitmap", 8, "bitmap", np.ones(20, bool)),
    "lengths missing": ("csr", 4, "lengths", LEFT_OUT),
    "lengths short": ("csr", 4, "lengths", np.array([3, 1, 3], U8)),
    "lengths long": ("csr", 4, "lengths", np.array([3, 1, 1, 1, 1], U8)),
    "lengths of more": ("csr", 8, "lengths", np.array([3, 1, 1, 3], U8)),
    "lengths of fewer": ("csr", 8, "lengths", np.array([3, 1, 1, 1], U8)),
    "lengths beyond a row": ("csr", 8, "lengths", np.array([7, 0, 0, 0], U8)),
    "lengths that wrap": ("csr", 8, "lengths", np.array([2**32 - 1, 2**32 - 1, 4, 5], U32)),
    "lengths of 2^64": ("csr", 8, "lengths", np.array([HUGE, 8, 0, 0], U64)),
    "lengths signed": ("csr", 8, "lengths", np.array([3, 1, 1, 2], np.int32)),
    "lengths square": ("csr", 8, "lengths", np.array([[3, 1], [1, 2]], U8)),
    "gaps missing": ("csr", 4, "gaps", LEFT_OUT),
    "gaps short": ("csr", 4, "gaps", np.array([0x10, 0x11], U8)),
    "gaps out of range": ("csr", 4, "gaps", np.array([0x10, 0x11, 0x20, 0xF3], U8)),
    "gaps that skip out of range": ("csr", 4, "gaps", np.array([0x10, 0xF1, 0x10, 0x12], U8)),
    "gaps wide": ("csr", 4, "gaps", np.zeros(7, U16)),
    "gaps float": ("csr", 4, "gaps", np.zeros(4, F32)),
    "an array besides": ("csr", 4, "bitmap", np.zeros(3, U8)),
    "the arrays of another layout": ("dense", 4, "gaps", np.zeros(3, U8)),
}  # fmt: skip
for label, changed in INTEGERS.items():
    CASES[f"integers: {label}"] = (integers(*changed), FileFormatError)
SAID: dict[str, dict[str, Any]] = {
    "layout of nothing": {"layout": None},
    "layout unknown": {"layout": "coo"},
    "layout other": {"layout": "bitmap"},
    "bits other": {"bits": 8},
    "bits 1": {"bits": 1},
    "bits text": {"bits": "4"},
    "bits true": {"bits": True},
    "bits fewer than the codes": {"bits": 2},
    "gap_bits 5": {"gap_bits": 5},
    "gap_bits other": {"gap_bits": 8},
    "gap_bits true": {"gap_bits": True},
    "dtype int8": {"dtype": "int8"},
    "dtype list": {"dtype": ["float32"]},
    "dtype other than the network's": {"dtype": "float64"},
    "levels missing": {"levels": LEFT_OUT},
    "bits missing": {"bits": LEFT_OUT},
    "a key besides": {"more": 1},
    "levels list": {"levels": [0.5, 3, 0, 15]},
    "levels empty": {"levels": {}},
    "levels of step 0": {"levels": {"step": 0.0, "zero": 3, "low": 0, "high": 15}},
    "levels of step 1e60": {"levels": {"step": 1e60, "zero": 3, "low": 0, "high": 15}},
    "levels of step true": {"levels": {"step": True, "zero": 3, "low": 0, "high": 15}},
    "levels without a 0": {"levels": {"step": 0.5, "zero": 16, "low": 0, "high": 15}},
    "levels of 16 bits": {"levels": {"step": 0.5, "zero": 3, "low": 0, "high": 65535}},
    "levels of fractions": {"levels": {"step": 0.5, "zero": 3, "low": 0, "high": 15.5}},
    "levels in reverse": {"levels": {"step": 0.5, "zero": 3, "low": 15, "high": 0}},
}
for label, said in SAID.items():
    CASES[f"integers: {label}"] = (integers("csr", 4, **said), FileFormatError)
CASES["integers: unchanged"] = (integers("csr", 4), None)
CASES["integers: unchanged, a bitmap"] = (integers("bitmap", 4), None)
CASES["integers: unchanged, all places"] = (integers("dense", 8), None)
CASES["integers: no levels"] = (integers("csr", 8, levels=None), None)
