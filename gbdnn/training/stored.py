"""The state of a training as arrays and a record of JSON, and back, checked.

Version 2: the tensors "parameters.NAME..." are weights with their patterns and arrays as
`gbdnn.weights.records` has them, "slots.NAME.SLOT" the optimizer's vectors, "best.NAME..." early
stopping's network, "state.N" arrays in the sparsifier's state and in the history. Version 1
numbered weights and biases instead of naming them; `_named` translates it.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from gbdnn.errors import FileFormatError, GbdnnError
from gbdnn.training.parameters import Parameter
from gbdnn.training.step import Training
from gbdnn.types import Array
from gbdnn.weights import Weight
from gbdnn.weights.records import dump_parameters, load_parameters

__all__ = ["dump", "load"]

Tensors = dict[str, Array]
COUNTS = ("epoch", "position", "step")
SUMS = ("loss_sum", "weight_sum", "seconds")


def dump(training: Training) -> tuple[Tensors, dict[str, Any]]:
    """Return the state; arrays are the training's own, not copies."""
    tensors: Tensors = {}
    parameters = training.model.parameters
    now = {name: p.value if p.form is None else p.weight for name, p in parameters.items()}
    best = training.best
    network = best["network"] if best else None
    record: dict[str, Any] = {name: getattr(training, name) for name in (*COUNTS, *SUMS)}
    record |= {
        "parameters": dump_parameters(now, tensors, "parameters."),
        "slots": {name: list(p.slots) for name, p in parameters.items()},
        "best_parameters": network and dump_parameters(network.parameters, tensors, "best."),
    }
    for name, p in parameters.items():
        tensors |= {f"slots.{name}.{slot}": vector for slot, vector in p.slots.items()}
    record |= {
        "records": encode(training.records, tensors),
        "sparse": encode(training.sparse, tensors),
        "best": encode(best and best | {"network": network is not None}, tensors),
    }
    return tensors, record


def load(
    path: Path, training: Training, tensors: Tensors, record: dict[str, Any], version: int = 2
) -> None:
    """Put a state into a fresh training with the same layers.

    Raises
    ------
    FileFormatError
        If it does not fit; then nothing was changed.
    """
    parameters: dict[str, Parameter] = training.model.parameters
    try:
        if version == 1:
            tensors, record = _named(training, tensors, record)
        result = load_parameters(record["parameters"], tensors, "parameters.")
        _require(result.keys() == parameters.keys(), f"the parameters {', '.join(parameters)}")
        slots = {name: _slots(result[name], p, tensors) for name, p in parameters.items()}
        best = decode(record["best"], tensors)
        if best is not None:
            best["network"] = _best(training, tensors, record, version) if best["network"] else None
            best |= {"value": float(best["value"]), "epoch": _count(best["epoch"])}
        records = [dict(row) for row in decode(record["records"], tensors)]
        sparse = decode(record["sparse"], tensors)
        numbers: dict[str, float] = {name: _count(record[name]) for name in COUNTS}
        numbers |= {name: float(record[name]) for name in SUMS}
        for name, p in parameters.items():
            _require_like(result[name], p)
    except (KeyError, TypeError, ValueError, AttributeError, GbdnnError) as error:
        expected = "the state of a training with these layers"
        raise FileFormatError(str(path), expected, f"{type(error).__name__}: {error}") from None
    for name, p in parameters.items():
        p.restore(result[name], slots[name], training.model.backend)
        training.model.bind(p)
    training.model.changed()
    training.sparse, training.best, training.records = sparse, best, records
    for name, value in numbers.items():
        setattr(training, name, value)


def encode(value: Any, tensors: Tensors) -> Any:
    """Return nested dicts and lists as JSON can say them.

    Arrays go to `tensors`; they, numbers that are not finite and dicts whose keys are not text
    become dicts with one key that begins with "$".
    """
    if isinstance(value, dict):
        if all(isinstance(key, str) and not key.startswith("$") for key in value):
            return {key: encode(part, tensors) for key, part in value.items()}
        items = [[encode(key, tensors), encode(part, tensors)] for key, part in value.items()]
        return {"$items": items}
    if isinstance(value, list | tuple):
        return [encode(part, tensors) for part in value]
    if isinstance(value, np.ndarray):
        name = f"state.{len(tensors)}"
        tensors[name] = value
        return {"$tensor": name}
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return {"$float": repr(value)}
    return value


def decode(value: Any, tensors: Tensors) -> Any:
    """Undo `encode`; tuples have become lists, scalars of numpy those of Python."""
    if isinstance(value, list):
        return [decode(part, tensors) for part in value]
    if not isinstance(value, dict):
        return value
    if "$tensor" in value:
        return tensors[value["$tensor"]]
    if "$float" in value:
        return float(value["$float"])
    if "$items" in value:
        return {decode(key, tensors): decode(part, tensors) for key, part in value["$items"]}
    return {key: decode(part, tensors) for key, part in value.items()}


def _best(training: Training, tensors: Tensors, record: dict[str, Any], version: int) -> Any:
    """Return early stopping's best network."""
    origin = training.model.origin
    given = load_parameters(record["best_parameters"], tensors, "best.")
    if version == 1:  # which said in another way that a weight was dense
        for name, weight in origin.weights.items():
            result: Any = given[name]
            given[name] = weight.with_entries(result.entries, result)
    return origin.replaced(given)


def _slots(result: Any, parameter: Parameter, tensors: Tensors) -> dict[str, Array]:
    """Return the optimizer's vectors of a parameter."""
    shape = (result.nnz,) if isinstance(result, Weight) else result.shape
    vectors = {slot: tensors[f"slots.{parameter.name}.{slot}"] for slot in parameter.slots}
    for vector in vectors.values():
        _require_array(vector, shape, parameter.value.dtype)
    return vectors


def _require_like(result: Any, parameter: Parameter) -> None:
    if parameter.form is None:
        _require_array(result, parameter.value.shape, parameter.value.dtype)
        return
    sparse = isinstance(result, Weight) and result.form == "csr"
    good = sparse and result.shape == parameter.form.shape
    _require(good, f"a weight of shape {parameter.form.shape}")
    _require_array(result.values, (result.nnz,), parameter.value.dtype)


def _require_array(array: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    good = isinstance(array, np.ndarray) and array.shape == shape and array.dtype == dtype
    got = f"{array.dtype} of {array.shape}" if isinstance(array, np.ndarray) else repr(array)[:60]
    _require(good, f"{dtype} of shape {shape}, not {got}")


def _count(value: Any) -> int:
    _require(isinstance(value, int) and not isinstance(value, bool) and value >= 0, "a count")
    return int(value)


def _require(good: bool, what: str) -> None:
    if not good:
        raise ValueError(f"expected {what}")


def _named(
    training: Training, tensors: Tensors, record: dict[str, Any]
) -> tuple[Tensors, dict[str, Any]]:
    """Return a state of version 1 as one of version 2.

    There weight and bias of the k-th Linear were "layers.k", their vectors "slots.2k" and
    "slots.2k+1", early stopping's "best.k", and the sparsifier's state had keys such as "moved.k".
    """
    parameters: dict[str, Parameter] = training.model.parameters
    names = list(parameters)
    weights = [name for name, p in parameters.items() if p.form is not None]
    new: Tensors = {}
    for place, target in (("layers", "parameters"), ("best", "best")):
        for k, weight in enumerate(weights):
            bias = names[names.index(weight) + 1]
            for part in ("pointers_to_1", "indices_1", "values"):
                if f"{place}.{k}.{part}" in tensors:
                    new[f"{target}.{weight}.{part}"] = tensors[f"{place}.{k}.{part}"]
            if f"{place}.{k}.bias" in tensors:
                new[f"{target}.{bias}"] = tensors[f"{place}.{k}.bias"]
    for number, name in enumerate(names):
        for slot in parameters[name].slots:
            new[f"slots.{name}.{slot}"] = tensors[f"slots.{number}.{slot}"]
    new |= {key: array for key, array in tensors.items() if key.startswith("state.")}
    entries = {
        name: None if p.form is None
        else {"form": "csr", "shape": list(p.form.shape), "settings": {}}
        for name, p in parameters.items()
    }  # fmt: skip
    sparse = record["sparse"]
    if sparse is not None:
        sparse = {
            f"{word}.{weights[int(k)]}" if k.isdigit() else key: value
            for key, value in sparse.items()
            for word, _, k in [key.partition(".")]
        }
    return new, record | {"parameters": entries, "best_parameters": entries, "sparse": sparse}
