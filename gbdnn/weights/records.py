"""Parameters as tensors of a file with a record in JSON, and back, checked: for all files alike.

A weight named "layers.2.weight" has the tensors "layers.2.weight.values" and so on, by the names of
`Weight.arrays`; an array (a bias) has its own name. The record says of each weight its form, shape
and settings.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gbdnn.errors import InputError, choose
from gbdnn.types import Array
from gbdnn.weights import FORMS, Weight

__all__ = ["dump_parameters", "load_parameters"]


def dump_parameters(
    parameters: Mapping[str, Weight | Array], tensors: dict[str, Array], prefix: str = ""
) -> dict[str, Any]:
    """Put parameters into `tensors`, not copied; return the record.

    Parameters
    ----------
    parameters : dict of str to Weight or ndarray
    tensors : dict
        Gets arrays by name.
    prefix : str
        Before all names of tensors.
    """
    record: dict[str, Any] = {}
    for name, parameter in parameters.items():
        if isinstance(parameter, Weight):
            form = {"form": parameter.form, "shape": list(parameter.shape)}
            record[name] = form | {"settings": dict(parameter.settings)}
            parts = parameter.arrays()
        else:
            record[name], parts = None, {"": parameter}
        for part, array in parts.items():
            tensors[f"{prefix}{name}{'.' if part else ''}{part}"] = array
    return record


def load_parameters(
    record: Any, tensors: dict[str, Array], prefix: str = ""
) -> dict[str, Weight | Array]:
    """Undo `dump_parameters`; the tensors are taken out of `tensors`.

    Raises
    ------
    InputError, DtypeError
        If anything contradicts the record or the form.
    """
    if not isinstance(record, dict):
        raise InputError("parameters", "a record for each", type(record).__name__)
    parts: dict[str, dict[str, str]] = {}  # of each parameter: the tensors of its arrays
    for key in tensors:
        if key.startswith(prefix):
            whole = key[len(prefix) :]
            name, _, part = (whole, "", "") if whole in record else whole.rpartition(".")
            parts.setdefault(name, {})[part] = key
    result: dict[str, Weight | Array] = {}
    for name, entry in record.items():
        own = {part: tensors.pop(key) for part, key in parts.get(name, {}).items()}
        if entry is None:
            if own.keys() != {""}:
                got = ", ".join(sorted(own)) or "none"
                raise InputError(f"tensor {prefix + name!r}", "a tensor of that name", got)
            result[name] = own[""]
            continue
        if not isinstance(entry, dict) or not isinstance(entry.get("settings"), dict):
            raise InputError(name, "form, shape and settings", repr(entry)[:60])
        shape = entry.get("shape")
        sizes = shape if isinstance(shape, list) else []
        if len(sizes) != 2 or not all(type(n) is int and 0 <= n < 2**62 for n in sizes):
            raise InputError(f"{name}: shape", "two sizes", repr(shape)[:60])
        form = FORMS[choose(f"{name}: form", entry.get("form"), FORMS)]
        result[name] = form.of(own, (sizes[0], sizes[1]), entry["settings"])
    return result
