"""The state of a training as arrays and a record of JSON, and back, checked."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from gbdnn.errors import FileFormatError, GbdnnError
from gbdnn.layers import Linear
from gbdnn.network import Network
from gbdnn.weights.csr import CSR, full_pattern

if TYPE_CHECKING:
    from gbdnn.training.loop import Training

__all__ = ["dump", "load"]

Array = npt.NDArray[Any]
Tensors = dict[str, Array]
COUNTS = ("epoch", "position", "step")
SUMS = ("loss_sum", "weight_sum", "seconds")


def dump(training: Training) -> tuple[Tensors, dict[str, Any]]:
    """Return the state; arrays are the training's own, not copies."""
    tensors: Tensors = {}
    for k, layer in enumerate(training.model.layers):
        pattern = layer.form.pattern
        weight = CSR.unchecked(pattern.indptr, pattern.indices, layer.form.values, pattern.shape)
        _dump_linear(f"layers.{k}", weight, layer.bias, tensors)
    for number, slot in enumerate(training.slots):
        tensors |= {f"slots.{number}.{name}": vector for name, vector in slot.items()}
    best = training.best
    if best is not None and best["network"] is not None:
        for k, linear in enumerate(_linears(best["network"])):
            _dump_linear(f"best.{k}", linear.weight, linear.bias, tensors)
    record: dict[str, Any] = {name: getattr(training, name) for name in (*COUNTS, *SUMS)}
    record |= {
        "dense": [layer.dense for layer in training.model.layers],
        "records": encode(training.records, tensors),
        "sparse": encode(training.sparse, tensors),
        "best": encode(best and best | {"network": best["network"] is not None}, tensors),
    }
    return tensors, record


def load(path: Path, training: Training, tensors: Tensors, record: dict[str, Any]) -> None:
    """Put a state into a fresh training with the same layers.

    Raises
    ------
    FileFormatError
        If it does not fit; then nothing was changed.
    """
    try:
        weights, biases = _layers("layers", training, tensors)
        slots = _slots(training, weights, tensors)
        best = decode(record["best"], tensors)
        if best is not None:
            best["network"] = _best(training, tensors) if best["network"] else None
            best |= {"value": float(best["value"]), "epoch": _count(best["epoch"])}
        records = [dict(row) for row in decode(record["records"], tensors)]
        sparse = decode(record["sparse"], tensors)
        numbers: dict[str, float] = {name: _count(record[name]) for name in COUNTS}
        numbers |= {name: float(record[name]) for name in SUMS}
        dense = [bool(flag) for flag in record["dense"]]
        full = [weight.nnz == math.prod(weight.shape) for weight in weights]
        _require(len(dense) == len(full), "a flag for each layer")
        _require(all(np.array(full)[dense]), "all places of dense layers")
    except (KeyError, TypeError, ValueError, AttributeError, GbdnnError) as error:
        expected = "the state of a training with these layers"
        raise FileFormatError(str(path), expected, f"{type(error).__name__}: {error}") from None
    model = training.model
    for k, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        layer = model.layers[k]
        if layer.dense and dense[k]:
            layer.form.values[:] = weight.values
        else:
            model.replace(k, weight)
        layer.bias[:] = bias
    model.changed()
    training.slots, training.sparse, training.best = slots, sparse, best
    training.records = records
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


def _layers(name: str, training: Training, tensors: Tensors) -> tuple[list[CSR], list[Array]]:
    """Return weights and biases, checked as anything that comes from outside."""
    weights, biases = [], []
    for k, layer in enumerate(training.model.layers):
        fields = ("pointers_to_1", "indices_1", "values", "bias")
        indptr, indices, values, bias = (tensors[f"{name}.{k}.{field}"] for field in fields)
        weight = CSR(indptr, indices, values, layer.form.pattern.shape)
        _require_like(weight.values, (weight.nnz,), training)
        _require_like(bias, layer.bias.shape, training)
        weights.append(weight)
        biases.append(bias)
    return weights, biases


def _slots(training: Training, weights: list[CSR], tensors: Tensors) -> list[dict[str, Array]]:
    """Return the optimizer's vectors, one set for each weight and bias."""
    found = []
    for number, slot in enumerate(training.slots):
        k, is_bias = divmod(number, 2)
        shape = training.model.layers[k].bias.shape if is_bias else (weights[k].nnz,)
        found.append({name: tensors[f"slots.{number}.{name}"] for name in slot})
        for vector in found[-1].values():
            _require_like(vector, shape, training)
    return found


def _best(training: Training, tensors: Tensors) -> Network:
    """Return early stopping's best network."""
    model = training.model
    weights, biases = _layers("best", training, tensors)
    layers: list[Any] = []
    for layer, weight, bias in zip(model.layers, weights, biases, strict=True):
        full = layer.dense and weight.nnz == math.prod(weight.shape)
        matrix: Any = weight.values.reshape(weight.shape) if full else weight
        layers += [Linear(matrix, bias, dtype=model.dtype), *layer.after]
    head = [model.head] if model.head is not None else []
    return Network([*layers, *head], metadata=model.metadata)


def _dump_linear(name: str, weight: CSR | Array, bias: Array, tensors: Tensors) -> None:
    csr = weight if isinstance(weight, CSR) else full_pattern(weight)
    tensors |= {
        f"{name}.pointers_to_1": csr.indptr,
        f"{name}.indices_1": csr.indices,
        f"{name}.values": csr.full_values,
        f"{name}.bias": bias,
    }


def _linears(network: Network) -> list[Linear]:
    return [layer for layer in network.layers if isinstance(layer, Linear)]


def _count(value: Any) -> int:
    _require(isinstance(value, int) and not isinstance(value, bool) and value >= 0, "a count")
    return int(value)


def _require_like(array: Array, shape: tuple[int, ...], training: Training) -> None:
    dtype = training.model.dtype
    good = array.shape == shape and array.dtype == dtype
    _require(good, f"{dtype} of shape {shape}, not {array.dtype} of {array.shape}")


def _require(good: bool, what: str) -> None:
    if not good:
        raise ValueError(f"expected {what}")
