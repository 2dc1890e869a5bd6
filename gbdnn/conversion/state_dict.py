"""State dicts in safetensors files of other tools: names and shapes say the layers."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from gbdnn.conversion.chain import Chain
from gbdnn.conversion.recurrent import is_recurrent, stack
from gbdnn.errors import GbdnnError, InputError
from gbdnn.files.tensors import read_foreign
from gbdnn.layers import LAYERS, Embedding, activation_names
from gbdnn.network import Network
from gbdnn.types import Array, FilePath

__all__ = ["load_state_dict"]

LINEAR = ("weight", "weight_orig", "weight_mask", "bias", "bias_orig", "bias_mask")
NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
EPSILON = 1e-5  # of torch.nn.BatchNorm1d
HEADS = ("last", "mean")
SYMBOLS = "embedding "


def load_state_dict(path: FilePath, layers: str) -> Network:
    """Return the network in a safetensors file of a state dict, such as torch's.

    Parameters
    ----------
    path : path-like
        float16 and bfloat16 become float32. Tensors are "PREFIX.weight", shape (out, in), and
        "PREFIX.bias"; of a batch normalization also "PREFIX.running_mean" and "running_var".
        Masks of `torch.nn.utils.prune` ("weight_orig", "weight_mask") are applied. Those of an
        LSTM or GRU are called as torch has them, "PREFIX.weight_ih_l0" and so on.
    layers : str
        What a state dict does not say. Either all layers in order, prefixes and activations:
        ``"0, relu, 2, relu, 4, softmax"``. Or only activations, if the names, by their numbers, are
        in the order of the layers: ``"relu"``, between the weights, or ``"relu, softmax"``, also
        the one at the end. An embedding is named as one, "last" and "mean" make a row of each
        sequence: ``"embedding words, rnn, last, head, softmax"``.

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
        groups.setdefault(prefix, {})[own] = array
    known = ", ".join(map(repr, sorted(groups, key=_numbered))) or "none"
    words = _words(layers, groups, known)
    symbols = {word.removeprefix(SYMBOLS) for word in words if word.startswith(SYMBOLS)}
    words = [word.removeprefix(SYMBOLS) for word in words]
    missing = sorted(groups.keys() - set(words), key=_numbered)
    twice = [word for word in set(words) & groups.keys() if words.count(word) > 1]
    if missing or twice:
        got = f"{(missing or twice)[0]!r} {'left out' if missing else 'twice'}"
        raise InputError("layers", f"every layer of the file once: {known}", got)
    chain = Chain()
    for word in words:
        if word in groups:
            _add(chain, word, groups.pop(word), embeds=word in symbols)
        else:
            chain.layer(LAYERS[word]())
    return Network(chain.finished())


def _numbered(name: str) -> list[Any]:
    """Return a key that sorts 10 behind 9."""
    return [(0, int(p), "") if p.isdigit() else (1, 0, p) for p in re.split(r"(\d+)", name) if p]


def _words(layers: str, groups: dict[str, Any], known: str) -> list[str]:
    """Return prefixes and activations in order."""
    words = [word.strip() for word in layers.split(",") if word.strip()]
    names = [*activation_names(), *HEADS]
    wrong = [word for word in words if word.removeprefix(SYMBOLS) not in groups
             and word not in names]  # fmt: skip
    if wrong or not words:
        expected = f"layers of the file ({known}), {', '.join(names)}"
        example = 'For example "0, relu, 2, softmax", or only "relu" or "relu, softmax".'
        raise InputError("layers", expected, repr(wrong[0] if wrong else layers), example)
    if any(word.removeprefix(SYMBOLS) in groups for word in words):
        return words
    if len(words) > 2:
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


def _add(chain: Chain, prefix: str, group: dict[str, Array], *, embeds: bool) -> None:
    """Append a linear layer, a batch normalization, an embedding or recurrent layers."""
    if is_recurrent(group):
        try:
            for layer in stack(group):
                chain.weighted(layer)
        except GbdnnError as error:
            raise _named(error, prefix) from None
        return
    norm = "running_mean" in group
    strange = sorted(group.keys() - set(NORM if norm else LINEAR))
    if strange or not (norm or {"weight", "weight_orig"} & group.keys()):
        expected = f"the tensors of a linear or recurrent layer or a norm ({', '.join(LINEAR)})"
        raise InputError(f"layer {prefix!r}", expected, ", ".join(strange or sorted(group))[:200])
    try:
        if norm:
            mean, variance = (group[name].astype(np.float64) for name in NORM[2:4])
            factor = group.get("weight", np.ones(1)) / np.sqrt(variance + EPSILON)
            chain.scaled(factor, group.get("bias", np.zeros(1)) - mean * factor)
            return
        weight = _masked(group, "weight")
        bias = _masked(group, "bias") if {"bias", "bias_orig"} & group.keys() else 0.0
        if weight.dtype.kind != "f":
            raise InputError("weight", "floats", str(weight.dtype))
        if embeds:
            chain.weighted(Embedding(weight.T, dtype=np.float64 if weight.itemsize == 8 else "f4"))
            return
        chain.product(weight if weight.dtype == np.float64 else weight.astype(np.float32), bias)
    except KeyError as error:
        raise InputError(f"layer {prefix!r}", f"the tensor {error}", "none") from None
    except InputError as error:
        raise _named(error, prefix) from None
    except ValueError as error:
        raise InputError(f"layer {prefix!r}", "tensors that fit", str(error)[:100]) from None


def _named(error: Any, prefix: str) -> Any:
    """Return an error that says which layer it is about."""
    error.argument = f"layer {prefix!r}: {error.argument}"
    return error


def _masked(group: dict[str, Array], name: str) -> Array:
    if f"{name}_orig" not in group:
        return group[name]
    original, mask = group[f"{name}_orig"], group[f"{name}_mask"]
    if original.shape != mask.shape:
        raise InputError(f"{name}_mask", f"shape {original.shape}", f"{mask.shape}")
    return (original * mask).astype(original.dtype)
