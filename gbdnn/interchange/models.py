"""Model files: a `Network` as a safetensors file, without code, classes or pickles.

The tensors of layer k (numbered from 0, activations counted) carry the names of the Binsparse
specification 0.1::

    layers.k.weight.pointers_to_1   (out_features + 1,)   rows begin and end here
    layers.k.weight.indices_1       (nnz,)                columns, ascending in each row
    layers.k.weight.values          (nnz,), or (1,) for a weight with one value for all
    layers.k.weight                 (out_features, in_features), instead of the three: dense
    layers.k.bias                   (out_features,) or ()

Indices have the smallest unsigned type that holds them. The metadata
(`gbdnn.files.headers` says where it stands)::

    {"format": "gbdnn.model", "version": "1.0", "dtype": "float32",
     "orientation": ["out_features", "in_features"], "versions": {"gbdnn": ..., ...},
     "layers": [{"kind": "linear", "weight": {"binsparse": {"version": "0.1", "format": "CSR",
                 "shape": [...], "number_of_stored_values": n, "data_types": {...}}}},
                {"kind": "relu", "cap": null}, ...],
     ...}

and any other keys, which are the user's. `kind` is looked up in a fixed table. A reader refuses a
newer major version and kinds that it does not know; a newer minor version adds only what a reader
may leave out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from gbdnn import layers, machine
from gbdnn.errors import DtypeError, FileFormatError, GbdnnError, InputError, ShapeError
from gbdnn.files.headers import DAMAGED, FOREIGN
from gbdnn.files.tensors import FilePath, check_version, read_tensors, write_tensors
from gbdnn.layers import Activation, Linear
from gbdnn.network import Network
from gbdnn.weights.csr import CSR
from gbdnn.weights.foreign import check_compressed

__all__ = ["KINDS", "VERSION", "load", "network_from_tensors", "network_to_tensors", "save"]

Array = npt.NDArray[Any]
FORMAT, VERSION = "gbdnn.model", (1, 0)
BINSPARSE = "0.1"
KNOWN = ("dtype", "format", "layers", "orientation", "version", "versions")
ORIENTATION = ["out_features", "in_features"]
VALUES = {"float32": np.float32, "float64": np.float64}

KINDS: dict[str, tuple[Any, tuple[str, ...]]] = {
    "dropout": (layers.Dropout, ("rate",)),
    "gelu": (layers.GELU, ()),
    "identity": (layers.Identity, ()),
    "leaky_relu": (layers.LeakyReLU, ("negative_slope",)),
    "relu": (layers.ReLU, ("cap",)),
    "sigmoid": (layers.Sigmoid, ()),
    "softmax": (layers.Softmax, ()),
    "tanh": (layers.Tanh, ()),
}
"""Layers without weights that a file may name: class and parameters, which are numbers or null."""

_KIND_OF = {made: kind for kind, (made, _) in KINDS.items()}


def save(network: Network, path: FilePath, *, extra: Mapping[str, Any] | None = None) -> None:
    """Write a network to a file; see `Network.save`."""
    tensors, metadata = network_to_tensors(network)
    own = dict(network.metadata) | dict(extra or {})
    taken = sorted(set(own) & set(metadata))
    if taken:
        raise InputError("extra", f"keys other than {', '.join(KNOWN)}", ", ".join(taken))
    write_tensors(path, tensors, own | metadata)


def load(path: FilePath) -> Network:
    """Read a network that `Network.save` wrote.

    Parameters
    ----------
    path : path-like
        Of any name; the content counts.

    Returns
    -------
    Network
        Equal to the saved one bit by bit; what the file holds besides is in `Network.metadata`.

    Raises
    ------
    DataUnavailableError
        The file cannot be read.
    FileFormatError
        It is damaged, incomplete, from another tool, or of a newer major version. Digests, sizes,
        dtypes, patterns and values are all checked.
    MemoryBudgetError
        The network does not fit into the memory that is free.
    """
    tensors, metadata = read_tensors(path)
    return network_from_tensors(path, tensors, metadata)


# -- a network as tensors --------------------------------------------------------------------------


def network_to_tensors(network: Network) -> tuple[dict[str, Array], dict[str, Any]]:
    """Return the tensors and the metadata of a model file, without the user's own keys."""
    tensors: dict[str, Array] = {}
    records = []
    for k, layer in enumerate(network.layers):
        if isinstance(layer, Linear):
            name = f"layers.{k}"
            parts, descriptor = _weight_parts(layer.weight)
            tensors |= {f"{name}.weight{part}": array for part, array in parts.items()}
            tensors[f"{name}.bias"] = layer.bias
            records.append({"kind": "linear", "weight": {"binsparse": descriptor}})
        else:
            records.append(_activation_record(layer))
    metadata = {
        "format": FORMAT,
        "version": f"{VERSION[0]}.{VERSION[1]}",
        "dtype": str(network.dtype),
        "orientation": ORIENTATION,
        "layers": records,
        "versions": machine.versions(),
    }
    return tensors, metadata


def _weight_parts(weight: CSR | Array) -> tuple[dict[str, Array], dict[str, Any]]:
    """Return the arrays of a weight by what follows "layers.k.weight", and its descriptor."""
    if isinstance(weight, CSR):
        iso = weight.iso
        parts = {
            ".pointers_to_1": weight.indptr.astype(_smallest(weight.nnz)),
            ".indices_1": weight.indices[: weight.nnz].astype(_smallest(weight.shape[1] - 1)),
            ".values": weight.values,
        }
        types = {name[1:]: str(array.dtype) for name, array in parts.items()}
        if iso:
            types["values"] = f"iso[{types['values']}]"
        layout, stored = "CSR", weight.nnz
    else:
        parts, layout, stored = {"": weight}, "DMATR", int(weight.size)
        types = {"values": str(weight.dtype)}
    return parts, {
        "version": BINSPARSE,
        "format": layout,
        "shape": list(weight.shape),
        "number_of_stored_values": stored,
        "data_types": types,
    }


def _smallest(largest: int) -> np.dtype[Any]:
    """Return the smallest unsigned type that holds a number."""
    return np.min_scalar_type(largest)


def _activation_record(layer: Activation) -> dict[str, Any]:
    kind = _KIND_OF.get(type(layer))
    if kind is None:
        known = ", ".join(sorted(cls.__name__ for cls in _KIND_OF))
        raise DtypeError("layers", f"Linear, {known}", type(layer).__name__)
    record: dict[str, Any] = {"kind": kind}
    for name in KINDS[kind][1]:
        value = getattr(layer, name)
        # no cap and an infinite one are the same function; JSON has no infinity
        record[name] = None if value is None or math.isinf(value) else float(value)
    return record


# -- tensors as a network --------------------------------------------------------------------------


def network_from_tensors(
    path: FilePath, tensors: dict[str, Array], metadata: dict[str, Any]
) -> Network:
    """Return the network of a model file whose digests are right; nothing else is believed.

    `tensors` is emptied on the way, so that only one copy of a weight lives at a time.
    """
    if metadata.get("format") != FORMAT:
        got = f"the format {str(metadata.get('format'))[:40]!r}"
        raise FileFormatError(str(path), f"a model (format {FORMAT!r})", got, FOREIGN)
    check_version(path, metadata.get("version"), VERSION, "a model")
    if metadata.get("orientation") != ORIENTATION:
        got = f"{str(metadata.get('orientation'))[:60]}"
        raise FileFormatError(str(path), f"the orientation {ORIENTATION}", got, FOREIGN)
    dtype, records = metadata.get("dtype"), metadata.get("layers")
    if not isinstance(dtype, str) or dtype not in VALUES:
        raise FileFormatError(str(path), f"a dtype of {', '.join(VALUES)}", f"{dtype!r}", DAMAGED)
    if not isinstance(records, list):
        raise FileFormatError(str(path), "a list of layers", type(records).__name__, DAMAGED)
    made = [_layer(path, k, record, dtype, tensors) for k, record in enumerate(records)]
    if tensors:
        got = f"{min(tensors)!r} besides"
        raise FileFormatError(str(path), "the tensors of its layers", got, DAMAGED)
    user = {key: value for key, value in metadata.items() if key not in KNOWN}
    try:
        return Network(made, metadata=user)
    except (InputError, DtypeError) as error:
        raise FileFormatError(
            f"{path}, {error.argument}", error.expected, error.got, DAMAGED
        ) from None


def _layer(
    path: FilePath, k: int, record: Any, dtype: str, tensors: dict[str, Array]
) -> Linear | Activation:
    place = f"{path}, layers[{k}]"
    kind = record.get("kind") if isinstance(record, dict) else None
    if not isinstance(kind, str) or (kind != "linear" and kind not in KINDS):
        expected = f"a kind of {', '.join(sorted([*KINDS, 'linear']))}"
        fix = "The file is damaged or from a newer gbdnn."
        raise FileFormatError(place, expected, f"{str(kind)[:60]!r}", fix)
    try:
        if kind == "linear":
            return _linear(k, record, dtype, tensors)
        return _activation(kind, record)
    except FileFormatError:
        raise
    except (InputError, DtypeError) as error:
        what = f"{place}: {error.argument}"
        raise FileFormatError(what, error.expected, error.got, DAMAGED) from None


def _activation(kind: str, record: dict[str, Any]) -> Activation:
    cls, names = KINDS[kind]
    parameters: dict[str, Any] = {}
    for name in names:
        value = record.get(name, "nothing")
        number = type(value) in (int, float) and abs(value) < 2.0**1000
        if not number and value is not None:
            raise InputError(name, "a number or null", repr(value)[:60])
        parameters[name] = float(value) if number else None
    try:
        made: Activation = cls(**parameters)
    except GbdnnError:
        raise
    except TypeError as error:  # null where only a number is a parameter
        raise InputError(kind, "its parameters as numbers", str(error)[:200]) from None
    return made


def _linear(k: int, record: dict[str, Any], dtype: str, tensors: dict[str, Array]) -> Linear:
    def take(name: str, *kinds: str) -> Array:
        array = tensors.pop(f"layers.{k}.{name}", None)
        if array is None:
            raise InputError(f"tensor 'layers.{k}.{name}'", "a tensor of that name", "none")
        if str(array.dtype) not in kinds:
            got = str(array.dtype)
            raise DtypeError(f"tensor 'layers.{k}.{name}'", " or ".join(kinds), got)
        return array

    layout, shape, stored, iso = _descriptor(record, dtype)
    if layout == "CSR":
        unsigned = ("uint8", "uint16", "uint32", "uint64")
        indptr, indices = (
            take("weight.pointers_to_1", *unsigned),
            take("weight.indices_1", *unsigned),
        )
        values = take("weight.values", dtype)
        weight: CSR | Array = _csr(indptr, indices, values, shape, stored, iso)
    else:
        weight = take("weight", dtype)
        if weight.shape != shape or weight.size != stored:
            raise ShapeError("weight", f"shape {shape}, all places stored", f"{weight.shape}")
    return Linear(weight, take("bias", dtype), dtype=VALUES[dtype])


def _descriptor(record: dict[str, Any], dtype: str) -> tuple[str, tuple[int, int], int, bool]:
    """Check what a layer's Binsparse descriptor says: format, shape, stored values, one for all."""
    weight = record.get("weight")
    found = weight.get("binsparse") if isinstance(weight, dict) else None
    if not isinstance(found, dict):
        raise InputError("weight", "a Binsparse descriptor", repr(weight)[:60])
    layout, shape, types = found.get("format"), found.get("shape"), found.get("data_types")
    if layout not in ("CSR", "DMATR"):
        raise InputError("weight", "the Binsparse format CSR or DMATR", repr(layout)[:60])
    stored = found.get("number_of_stored_values")
    numbers = [*shape, stored] if isinstance(shape, list) else []
    if len(numbers) != 3 or not all(type(n) is int and 0 <= n < 2**62 for n in numbers):
        raise ShapeError("weight", "two sizes and a count", f"{shape!r:.60}, {stored!r:.60}")
    values = types.get("values") if isinstance(types, dict) else None
    if values not in (dtype, f"iso[{dtype}]"):
        raise InputError("weight", f"values of {dtype} or iso[{dtype}]", repr(values)[:60])
    rows, columns, count = numbers
    return str(layout), (rows, columns), count, values != dtype


def _csr(
    indptr: Array, indices: Array, values: Array, shape: tuple[int, int], stored: int, iso: bool
) -> CSR:
    """Return the checked matrix: in range before the indices are cast, canonical after."""
    check_compressed("weight", indptr, indices, values, shape, iso=iso)
    nnz = int(indptr[-1])
    if not nnz == stored == len(indices) or values.shape != ((1,) if iso else (nnz,)):
        got = f"{nnz} by pointers, {len(indices)} indices, values of shape {values.shape}"
        expected = f"{stored} entries{', one value' if iso else ''}"
        raise InputError("weight", expected, got)
    kind = np.int32 if max(nnz, *shape) < 2**31 else np.int64
    return CSR(indptr.astype(kind), indices.astype(kind), values, shape)
