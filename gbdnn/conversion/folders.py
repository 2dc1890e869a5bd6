"""A network as a folder, as model hubs have them: config.json, model.safetensors, README.md."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from gbdnn import __version__
from gbdnn.conversion.state_dict import load_state_dict
from gbdnn.errors import DataUnavailableError, FileFormatError, InputError
from gbdnn.files.disk import atomic_write, open_regular
from gbdnn.files.header import DAMAGED
from gbdnn.network import Network, load
from gbdnn.types import FilePath

__all__ = ["load_pretrained", "save_pretrained"]

CONFIG, MODEL, CARD = "config.json", "model.safetensors", "README.md"
LARGEST = 1 << 24  # bytes of a config


def save_pretrained(network: Network, folder: FilePath) -> None:
    """Write a network to a folder: config.json, model.safetensors and README.md, a model card.

    model.safetensors is what `Network.save` writes: `gbdnn.load` reads it too. The folder is made
    if it is not there; a README.md that is there stays, as somebody may have written it.

    Raises
    ------
    DataUnavailableError, InputError, DtypeError
        As `Network.save`.
    """
    home = Path(folder)
    try:
        home.mkdir(exist_ok=True)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise DataUnavailableError(str(folder), "a folder that can be written", reason,
                                   "Check path and permission.") from None  # fmt: skip
    config = {
        "model_type": "gbdnn", "gbdnn_version": __version__, "dtype": str(network.dtype),
        "in_features": network.in_features, "out_features": network.out_features,
        "layers": [layer.kind for layer in network.layers], "edges": network.edges,
    }  # fmt: skip
    network.save(home / MODEL)
    with atomic_write(home / CONFIG) as file:
        file.write((json.dumps(config, indent=2) + "\n").encode())
    if not (home / CARD).exists():
        with atomic_write(home / CARD) as file:
            file.write(_card(network).encode())


def load_pretrained(folder: FilePath, *, layers: str | None = None) -> Network:
    """Return the network in a folder that `save_pretrained` or another tool wrote. No network use.

    Parameters
    ----------
    folder : path-like
    layers : str, optional
        For folders of other tools, whose model.safetensors is a state dict: see `load_state_dict`.

    Raises
    ------
    DataUnavailableError, FileFormatError, InputError, MemoryBudgetError
    """
    home = Path(folder)
    if layers is not None:
        return load_state_dict(home / MODEL, layers)
    with open_regular(home / CONFIG) as file:
        text = file.read(LARGEST + 1)
    try:
        config = json.loads(text) if len(text) <= LARGEST else None
    except (ValueError, RecursionError):
        config = None
    if not isinstance(config, dict):
        raise FileFormatError(str(home / CONFIG), "an object in JSON", "none", DAMAGED)
    if config.get("model_type") != "gbdnn":
        got = repr(config.get("model_type"))[:60]
        fix = 'Describe its layers: layers="0, relu, 2" (gbdnn import --layers).'
        raise InputError(str(home / CONFIG), "the model_type 'gbdnn'", got, fix)
    network = load(home / MODEL)
    said: Any = config.get("in_features"), config.get("out_features")
    if said != (found := (network.in_features, network.out_features)):
        expected = f"{said[0]} features in and {said[1]} out, as {CONFIG} says"
        raise FileFormatError(str(home / MODEL), expected, f"{found[0]} and {found[1]}", DAMAGED)
    return network


def _card(network: Network) -> str:
    """Return the text of a model card."""
    places = sum(w.shape[0] * w.shape[1] for w in network.weights.values())
    kinds = " -> ".join(layer.kind for layer in network.layers)
    classes = network.metadata.get("classes")
    known = (
        f"- classes: {', '.join(map(str, classes))[:500]}\n" if isinstance(classes, list) else ""
    )
    return (
        "---\nlibrary_name: gbdnn\ntags:\n- gbdnn\n- sparse\n---\n"
        "# A sparse network for the CPU\n\n"
        f"- layers: {kinds}\n- features: {network.in_features} in, {network.out_features} out\n"
        f"- weights: {network.edges:,} stored of {places:,} "
        f"({network.edges / places:.1%}), {network.dtype}\n{known}\n"
        "```python\nimport gbdnn\n\n"
        'network = gbdnn.load_pretrained(".")\nY = network.predict(X)  # X: (samples, '
        f"{network.in_features})\n```\n\n"
        "Not said here, for its author to add: data, training, measured accuracy, licence.\n"
    )
