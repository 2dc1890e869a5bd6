"""Model files: the layers of a network as a safetensors file, without code, classes or pickles.

The metadata (`gbdnn.files.tensors` says where it stands) are::

    {"format": "gbdnn.model", "version": "1.2", "dtype": "float32",
     "orientation": ["out_features", "in_features"], "versions": {"gbdnn": ..., ...},
     "layers": [{"kind": "linear", "parameters": ["weight", "bias"], "weight": {...}},
                {"kind": "relu", "parameters": [], "cap": null}, ...],
     ...}

and any other keys, which are the user's. The record of a layer has its kind, which is looked up in
`gbdnn.layers.LAYERS`, the names of its parameters, what is to be said of each weight, and all of
its settings. The tensors of layer k (from 0, activations counted) are::

    layers.k.bias              an array that is a parameter
    layers.k.weight.values     the array "values" of a weight, by the names of `Weight.arrays`
    layers.k.weight            the array of a weight that has but one, as dense ones do

Of a weight the record says ``{"form": ..., "shape": ..., "settings": ...}``; the form is looked up
in `gbdnn.weights.FORMS`. Where the Binsparse specification 0.1 has a name for the form, what that
specification asks for stands there instead::

    {"binsparse": {"version": "0.1", "format": "CSR", "shape": [out_features, in_features],
                   "number_of_stored_values": n, "data_types": {"values": "float32", ...}}}

``iso[float32]`` is the type of one value for all. Arrays called pointers_to_* and indices_* have
the smallest unsigned type that holds them.

A reader refuses a newer major version, kinds and forms that it does not know, and settings that a
layer does not know. A newer minor version adds only kinds, forms and what a reader may leave out:
1.1 is 1.0 with the key "parameters" and with other kinds and forms, so that readers of 1.0 take
files of `Linear` layers with CSR or dense weights, and files of 1.0 are read here. 1.2 is 1.1 with
the forms "int8" and "int4" (`gbdnn.weights.integers.forms`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gbdnn import machine
from gbdnn.errors import DtypeError, FileFormatError, GbdnnError, InputError, choose
from gbdnn.files.header import DAMAGED, FOREIGN, check_version, plain
from gbdnn.files.tensors import read_tensors, write_tensors
from gbdnn.layers import LAYERS, Layer
from gbdnn.types import Array, FilePath
from gbdnn.weights.records import dump_parameters, load_parameters

__all__ = ["VERSION", "from_tensors", "load_layers", "save_layers", "to_tensors"]

FORMAT, VERSION = "gbdnn.model", (1, 2)
KNOWN = ("dtype", "format", "layers", "orientation", "version", "versions")
ORIENTATION = ["out_features", "in_features"]
DTYPES = ("float32", "float64")
BINSPARSE = {"csr": "CSR", "dense": "DMATR"}
"""The forms that have a name in the specification."""


def save_layers(
    path: FilePath, layers: Sequence[Layer], metadata: Mapping[str, Any], *, compress: bool = False
) -> None:
    """Write layers and the user's metadata to a file; see `Network.save`."""
    tensors, own = to_tensors(layers)
    taken = sorted(set(metadata) & set(own))
    if taken:
        raise InputError("extra", f"keys other than {', '.join(KNOWN)}", ", ".join(taken))
    write_tensors(path, tensors, {**metadata, **own}, compress=compress)


def load_layers(path: FilePath) -> tuple[list[Layer], dict[str, Any]]:
    """Return the layers of a model file and the user's metadata; see `gbdnn.load`."""
    return from_tensors(path, *read_tensors(path))


# -- layers as tensors -----------------------------------------------------------------------------


def to_tensors(layers: Sequence[Layer]) -> tuple[dict[str, Array], dict[str, Any]]:
    """Return the tensors and the metadata of a model file, without the user's own keys."""
    tensors: dict[str, Array] = {}
    records = []
    for k, layer in enumerate(layers):
        choose(f"layers[{k}]", layer.kind, LAYERS)
        arrays: dict[str, Array] = {}
        entries = dump_parameters(layer.parameters, arrays)
        arrays = {name: _smallest(name, array) for name, array in arrays.items()}
        for name, entry in entries.items():
            if entry is not None and entry["form"] in BINSPARSE:
                entries[name] = {"binsparse": _binsparse(name, layer.parameters[name], arrays)}
        said = {name: entry for name, entry in entries.items() if entry is not None}
        records.append({"kind": layer.kind, "parameters": list(entries), **said, **layer.settings})
        tensors |= {f"layers.{k}.{name}": array for name, array in arrays.items()}
    dtypes = (layer.dtype for layer in layers if layer.dtype is not None)
    return tensors, {
        "format": FORMAT,
        "version": f"{VERSION[0]}.{VERSION[1]}",
        "dtype": str(next(dtypes, np.dtype(np.float32))),
        "orientation": ORIENTATION,
        "layers": records,
        "versions": machine.versions(),
    }


def _smallest(name: str, array: Array) -> Array:
    """Return pointers and indices in the smallest unsigned type, other arrays as they are."""
    if not name.rpartition(".")[2].startswith(("pointers_to_", "indices_")):
        return array
    return array.astype(np.min_scalar_type(array.max(initial=0)), copy=False)


def _binsparse(name: str, weight: Any, arrays: Mapping[str, Array]) -> dict[str, Any]:
    """Return what the specification asks to be said of a weight with these arrays."""
    own = {key: a for key, a in arrays.items() if key == name or key.startswith(f"{name}.")}
    types = {key[len(name) + 1 :] or "values": str(array.dtype) for key, array in own.items()}
    values = own.get(f"{name}.values")
    if values is not None and len(values) == 1 != weight.nnz:
        types["values"] = f"iso[{types['values']}]"
    return {
        "version": "0.1",
        "format": BINSPARSE[weight.form],
        "shape": list(weight.shape),
        "number_of_stored_values": weight.nnz,
        "data_types": types,
    }


# -- tensors as layers -----------------------------------------------------------------------------


def from_tensors(
    path: FilePath, tensors: dict[str, Array], metadata: dict[str, Any]
) -> tuple[list[Layer], dict[str, Any]]:
    """Return layers and the user's metadata; beyond the digests nothing in the file is believed.

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
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise FileFormatError(str(path), f"a dtype of {', '.join(DTYPES)}", f"{dtype!r}", DAMAGED)
    if not isinstance(records, list):
        raise FileFormatError(str(path), "a list of layers", type(records).__name__, DAMAGED)
    groups: dict[str, dict[str, Array]] = {}
    for name in list(tensors):
        head, number, own = (*name.split(".", 2), "", "")[:3]
        groups.setdefault(f"{head}.{number}", {})[own] = tensors.pop(name)
    made = []
    for k, record in enumerate(records):
        try:
            made.append(_layer(record, dtype, groups.pop(f"layers.{k}", {})))
        # whatever a class says to senseless settings; InputError and DtypeError are among them
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            raise _refused(f"{path}, layers[{k}]", error) from None
    if groups:
        group = min(groups)
        got = f"'{group}.{min(groups[group])}' besides"
        raise FileFormatError(str(path), "the tensors of its layers", got, DAMAGED)
    return made, {key: value for key, value in metadata.items() if key not in KNOWN}


def _refused(place: str, error: Exception) -> FileFormatError:
    fix = "The file is damaged or from a newer gbdnn."
    if isinstance(error, GbdnnError):
        what = f"{place}: {error.argument[:200]}"
        return FileFormatError(what, error.expected, error.got[:200], fix)
    got = f"{type(error).__name__}: {error}"[:200]
    return FileFormatError(place, "settings and parameters of its kind", got, fix)


def _layer(record: Any, dtype: str, tensors: dict[str, Array]) -> Layer:
    """Return a layer from its record and its tensors, which are named without "layers.k."."""
    if not isinstance(record, dict):
        raise InputError("record", "an object", repr(record)[:60])
    settings = dict(record)
    kind = str(settings.pop("kind", None))[:60]
    made = LAYERS[choose("kind", kind, LAYERS)]
    # format 1.0 had no such list, and no parameters but these
    names = settings.pop("parameters", ["weight", "bias"] if "weight" in settings else [])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InputError("parameters", "a list of names", repr(names)[:60])
    entries = {name: settings.pop(name, None) for name in names}
    described = {
        name: entry["binsparse"]
        for name, entry in entries.items()
        if isinstance(entry, dict) and "binsparse" in entry
    }
    given = dict(tensors)
    parameters = load_parameters(entries | _forms(described), tensors)
    if tensors:
        raise InputError("tensors", "those of its parameters", f"{min(tensors)!r} besides")
    for name, parameter in parameters.items():
        if parameter.dtype != dtype:
            raise DtypeError(name, dtype, str(parameter.dtype))
    for name, said in described.items():
        right = _binsparse(name, parameters[name], given)
        for key in ("shape", "number_of_stored_values", "data_types"):
            if said.get(key) != right[key]:
                raise InputError(f"{name}: {key}", str(right[key]), repr(said.get(key))[:60])
    layer = made.of(parameters, settings)
    result = plain(layer.settings, "settings")
    same = result == settings and all(
        isinstance(result[name], bool) == isinstance(settings[name], bool) for name in result
    )
    if not same:
        raise InputError("settings", repr(result)[:200], repr(settings)[:60])
    return layer


def _forms(described: Mapping[str, Any]) -> dict[str, Any]:
    """Return Binsparse descriptors as `load_parameters` has them."""
    forms = {layout: form for form, layout in BINSPARSE.items()}
    result: dict[str, Any] = {}
    for name, said in described.items():
        if not isinstance(said, dict):
            raise InputError(name, "a Binsparse descriptor", repr(said)[:60])
        layout = choose(f"{name}: format", said.get("format"), forms)
        result[name] = {"form": forms[layout], "shape": said.get("shape"), "settings": {}}
    return result
