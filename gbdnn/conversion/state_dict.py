"""State dicts in safetensors files of other tools: names and shapes say the layers."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from gbdnn.conversion.cells import cell_layers, is_cells
from gbdnn.conversion.chain import Chain, sparse_if_pruned
from gbdnn.errors import InputError
from gbdnn.files.tensors import read_foreign
from gbdnn.layers import HEADS, Embedding, activation, activation_names
from gbdnn.network import Network
from gbdnn.types import Array, FilePath

__all__ = ["load_state_dict"]

LINEAR = ("weight", "weight_orig", "weight_mask", "bias", "bias_orig", "bias_mask")
NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
EMBEDDING = "embedding "
EPSILON = 1e-5  # of torch.nn.BatchNorm1d


def load_state_dict(path: FilePath, layers: str) -> Network:
    """Return the network in a safetensors file of a state dict, such as torch's.

    Parameters
    ----------
    path : path-like
        float16 and bfloat16 become float32. Tensors are "PREFIX.weight", shape (out, in), and
        "PREFIX.bias"; of a batch normalization also "PREFIX.running_mean" and "running_var".
        Masks of `torch.nn.utils.prune` ("weight_orig", "weight_mask") are applied. An LSTM or GRU
        has the names of torch.nn, "PREFIX.weight_ih_l0" and so on, for all its layers. A name
        without a prefix belongs to the layer ".".
    layers : str
        What a state dict does not say. Either all layers in order, prefixes and activations:
        ``"0, relu, 2, relu, 4, softmax"``. Or only activations, if the names, by their numbers, are
        in the order of the layers: ``"relu"``, between the weights, or ``"relu, softmax"``, also
        the one at the end. What belongs to sequences is described in full: ``"embedding words,
        lstm, last, linear"`` are a table, an LSTM and a linear layer with the prefixes "words",
        "lstm" and "linear", and between them the choice of the last time step (or their "mean", or
        the "final" states of both directions).

    Raises
    ------
    InputError
        For descriptions that do not fit, and tensors that are left over or of other layers.
    DataUnavailableError, FileFormatError, MemoryBudgetError
    """
    tensors, _ = read_foreign(path)
    groups: dict[str, dict[str, Array]] = {}
    for name, array in tensors.items():
        prefix, _, own = name.rpartition(".")
        groups.setdefault(prefix or ".", {})[own] = array
    known = ", ".join(map(repr, sorted(groups, key=_numbered))) or "none"
    words = _words(layers, groups, known)
    tables = {w.removeprefix(EMBEDDING).strip() for w in words if w.startswith(EMBEDDING)}
    words = [word.removeprefix(EMBEDDING).strip() for word in words]
    missing = sorted(groups.keys() - set(words), key=_numbered)
    twice = [word for word in set(words) & groups.keys() if words.count(word) > 1]
    if missing or twice:
        got = f"{(missing or twice)[0]!r} {'left out' if missing else 'twice'}"
        raise InputError("layers", f"every layer of the file once: {known}", got)
    chain = Chain()
    for word in words:
        if word in groups:
            _add(chain, word, groups.pop(word), word in tables)
        else:
            chain.layer(HEADS[word].behind(chain.parts) if word in HEADS else activation(word))
    return Network(chain.finished())


def _numbered(name: str) -> list[Any]:
    """Return a key that sorts 10 behind 9."""
    return [(0, int(p), "") if p.isdigit() else (1, 0, p) for p in re.split(r"(\d+)", name) if p]


def _words(layers: str, groups: dict[str, Any], known: str) -> list[str]:
    """Return prefixes and activations in order."""
    words = [word.strip() for word in layers.split(",") if word.strip()]
    names = activation_names()
    known_words = {*groups, *names, *HEADS, *(EMBEDDING + name for name in groups)}
    wrong = [word for word in words if word not in known_words]
    if wrong or not words:
        expected = f"layers of the file ({known}) and activations ({', '.join([*names, *HEADS])})"
        example = 'For example "0, relu, 2, softmax", or only "relu" or "relu, softmax".'
        raise InputError("layers", expected, repr(wrong[0] if wrong else layers), example)
    if any(word.removeprefix(EMBEDDING) in groups for word in words):
        return words
    if len(words) > 2 or set(words) & HEADS.keys() or any(map(is_cells, groups.values())):
        expected = "one activation between the weights and one at the end, or the layers' names too"
        raise InputError("layers", expected, f"{len(words)} activations; the file has {known}")
    made: list[str] = []
    linears = 0
    for prefix in sorted(groups, key=_numbered):
        if "running_mean" not in groups[prefix]:
            made += [words[0]] if linears else []  # behind the last weight and its normalization
            linears += 1
        made.append(prefix)
    return made + words[1:]


def _add(chain: Chain, prefix: str, group: dict[str, Array], table: bool) -> None:
    """Append the layers of a group: linear, batch normalization, embedding, LSTM or GRU."""
    sequence = table or is_cells(group)
    norm = "running_mean" in group
    strange = sorted(group.keys() - set(NORM if norm else LINEAR))
    if not sequence and (strange or not (norm or {"weight", "weight_orig"} & group.keys())):
        expected = f"the tensors of a linear layer or a batch normalization ({', '.join(LINEAR)})"
        raise InputError(f"layer {prefix!r}", expected, ", ".join(strange or sorted(group))[:200])
    try:
        if sequence:
            _add_sequence(chain, group, table)
            return
        if norm:
            mean, variance = (group[name].astype(np.float64) for name in NORM[2:4])
            factor = group.get("weight", np.ones(1)) / np.sqrt(variance + EPSILON)
            chain.scaled(factor, group.get("bias", np.zeros(1)) - mean * factor)
            return
        weight = _masked(group, "weight")
        bias = _masked(group, "bias") if {"bias", "bias_orig"} & group.keys() else 0.0
        chain.product(_floats("weight", weight), bias)
    except KeyError as error:
        raise InputError(f"layer {prefix!r}", f"the tensor {error}", "none") from None
    except InputError as error:
        error.argument = f"layer {prefix!r}: {error.argument}"
        raise
    except ValueError as error:
        raise InputError(f"layer {prefix!r}", "tensors that fit", str(error)[:100]) from None


def _masked(group: dict[str, Array], name: str) -> Array:
    if f"{name}_orig" not in group:
        return group[name]
    original, mask = group[f"{name}_orig"], group[f"{name}_mask"]
    if original.shape != mask.shape:
        raise InputError(f"{name}_mask", f"shape {original.shape}", f"{mask.shape}")
    return (original * mask).astype(original.dtype)


def _add_sequence(chain: Chain, group: dict[str, Array], table: bool) -> None:
    names = dict.fromkeys(re.sub("_(orig|mask)$", "", name) for name in group)
    arrays = {name: _floats(name, _masked(group, name)) for name in names}
    dtype = np.result_type(*arrays.values())
    if not table:
        for layer in cell_layers(arrays, dtype):
            chain.weighted(layer)
        return
    if set(arrays) != {"weight"} or arrays["weight"].ndim != 2:
        raise InputError("embedding", "one tensor weight, (symbols, features)", ", ".join(arrays))
    chain.weighted(Embedding(sparse_if_pruned(arrays["weight"].T), dtype=dtype))


def _floats(name: str, array: Array) -> Array:
    """Return float64 as it is, other floats as float32."""
    if array.dtype.kind != "f":
        raise InputError(name, "floats", str(array.dtype))
    return array if array.dtype == np.float64 else array.astype(np.float32)
