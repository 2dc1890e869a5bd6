"""The commands `gbdnn import` and `gbdnn export`: models from and for other tools."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click

from gbdnn.cli.options import FILE, JSON, OUT, check_out
from gbdnn.cli.output import echo_json, echo_rows
from gbdnn.cli.sequences import takes_sequences
from gbdnn.errors import GbdnnError, InputError

__all__ = ["export_model", "import_model"]

SAMPLES, STEPS, ROUNDS = 64, 20, 9  # of a measurement
LAYERS_HELP = (
    'Layers of a .safetensors state dict, in order: names and activations ("0, relu, 2, softmax"), '
    'or only activations ("relu", "relu, softmax"). '
    'Of sequences: "embedding words, lstm, last, fc".'
)
SUFFIXES = ".onnx, .safetensors or a folder"


@click.command("import")
@click.argument("source", metavar="IN", type=click.Path(path_type=Path, exists=True))
@click.argument("out", type=OUT)
@click.option("--layers", help=LAYERS_HELP)
@click.option("--output", help="The output of an ONNX graph that has several.")
@JSON
def import_model(
    source: Path, out: Path, layers: str | None, output: str | None, as_json: bool
) -> None:
    """Write the model in IN (.onnx, .safetensors of a state dict, or a folder) to OUT.

    A folder has config.json and model.safetensors. Says what was found, and measures prediction on
    random samples: before by onnxruntime, if IN is ONNX and it is installed, or by torch with full
    weights, if that is; after OUT.
    """
    check_out(out)
    network = _read(source, layers, output)
    network.save(out)
    _report(source, out, network, source, as_json)


@click.command("export")
@click.argument("model", type=FILE)
@click.argument("out", type=OUT)
@JSON
def export_model(model: Path, out: Path, as_json: bool) -> None:
    """Write MODEL to OUT for other tools: .onnx, or a name without suffix for a folder.

    A folder gets config.json, model.safetensors and a model card. Says what was written, and
    measures prediction on random samples: MODEL, and OUT by onnxruntime if that is installed.
    """
    import gbdnn

    if out.suffix not in ("", ".onnx"):
        message = f"{out.name!r} ends neither in .onnx nor, for a folder, in nothing."
        raise click.BadParameter(message, param_hint="OUT")
    network = gbdnn.load(model)
    if out.suffix:
        check_out(out)
        gbdnn.save_onnx(network, out)
    else:
        gbdnn.save_pretrained(network, out)
    _report(model, out, network, out, as_json)


def _read(source: Path, layers: str | None, output: str | None) -> Any:
    import gbdnn

    kind = "folder" if source.is_dir() else source.suffix.lower()
    if output is not None and kind != ".onnx":
        raise InputError("--output", "an ONNX file", str(source))
    if layers is not None and kind == ".onnx":
        raise InputError("--layers", "a state dict: an ONNX file says its layers", str(source))
    if kind == ".onnx":
        return gbdnn.load_onnx(source, output=output)
    if kind == "folder":
        return gbdnn.load_pretrained(source, layers=layers)
    if kind == ".safetensors":
        if layers is None:
            fix = 'A state dict does not say its activations: --layers "relu, softmax".'
            raise InputError("--layers", "a description of the layers", "none", fix)
        return gbdnn.load_state_dict(source, layers)
    fix = "Pickles can run code: save the state_dict by safetensors, or export to ONNX."
    raise InputError(str(source), SUFFIXES, kind or "no suffix", fix)


# -- what was found --------------------------------------------------------------------------------


def _report(source: Path, out: Path, network: Any, other: Path, as_json: bool) -> None:
    """Print layers, zeros, bytes and milliseconds; `other` is the file that is not gbdnn's."""
    import numpy as np

    weights = network.weights.values()
    places = sum(w.shape[0] * w.shape[1] for w in weights)
    filled = sum(int(np.count_nonzero(w.entries)) for w in weights)
    sizes = _bytes(source), _bytes(out)
    engine, theirs, ours = _milliseconds(network, other, other == source)
    before, after = (theirs, ours) if other == source else (ours, theirs)
    record = {
        "source": str(source), "out": str(out), "dtype": str(network.dtype),
        "in_features": network.in_features, "out_features": network.out_features,
        "layers": list(network.summary().rows), "places": places, "zeros": places - filled,
        "density": filled / places, "file_bytes": sizes,
        "samples": SAMPLES, "milliseconds": {"before": before, "after": after},
        "engine": engine,
        "classes": network.metadata.get("classes"),
    }  # fmt: skip
    if as_json:
        echo_json(record)
        return
    click.echo(str(network.summary()))
    speed = ", ".join(
        f"{value:.3g} ms {when}" if value is not None else f"not measured {when}"
        for when, value in (("before", before), ("after", after))
    )
    sizes_of = f"{SAMPLES} samples" + (f" of {STEPS} steps" if takes_sequences(network) else "")
    why = f", beside {engine}" if engine else _why(other)
    echo_rows("", {
        "samples": f"{network.in_features:,} features in, {network.out_features:,} values out",
        "zeros": f"{places - filled:,} of {places:,} weights, density {filled / places:.2%}",
        "file": f"{sizes[0]:,} bytes before, {sizes[1]:,} after: {out}",
        "speed": f"{speed}, {sizes_of}, medians{why}",
    })  # fmt: skip


def _bytes(path: Path) -> int:
    """Return the bytes of a file, with external data beside it, or of a folder's files."""
    if path.is_dir():
        return sum(file.stat().st_size for file in path.iterdir() if file.is_file())
    data = path.with_name(path.name + ".data")
    return path.stat().st_size + (data.stat().st_size if data.is_file() else 0)


def _why(other: Path) -> str:
    if other.suffix == ".onnx":
        return " (onnxruntime and torch are not installed, or cannot run it)"
    return ""


def _milliseconds(
    network: Any, other: Path, imports: bool
) -> tuple[str | None, float | None, float]:
    """Return another engine's name and what a prediction takes there, None without one, and here.

    One after the other: idle threads of an engine that is still there would disturb.
    """
    import numpy as np

    rng = np.random.default_rng(0)
    shape = (SAMPLES, STEPS) if takes_sequences(network) else (SAMPLES,)
    if network.layers[0].kind == "embedding":
        ids = rng.integers(0, network.layers[0].weight.shape[1], shape)
        X, theirs = ids[..., None], ids
    else:
        X = theirs = rng.random((*shape, network.in_features)).astype(network.dtype)
    call = _onnxruntime(other, theirs) if other.suffix.lower() == ".onnx" else None
    engine = None if call is None else "onnxruntime"
    if imports and call is None and (call := _torch(network, theirs)) is not None:
        engine = "torch with full weights"
    before = None if call is None else _median(call)
    del call
    return engine, before, _median(lambda: network.predict(X))


def _median(call: Callable[[], Any]) -> float:
    """Return the median of some calls, in milliseconds."""
    call()  # compiles, and makes forms of the weights
    times = []
    for _ in range(ROUNDS):
        begin = time.perf_counter()
        call()
        times.append(1e3 * (time.perf_counter() - begin))
    return statistics.median(times)


def _onnxruntime(path: Path, X: Any) -> Any:
    """Return a call that predicts X by onnxruntime; None if it is missing or takes other inputs."""
    try:
        import onnxruntime
    except ImportError:
        return None
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        first = session.get_inputs()[0]
        given = X.astype("int32") if first.type == "tensor(int32)" else X
        session.run(None, {first.name: given})
    except Exception:  # whatever the runtime says to a file that it cannot run
        return None
    return lambda: session.run(None, {first.name: given})


def _torch(network: Any, X: Any) -> Any:
    """Return a call that predicts X by torch, no weight sparse; None if it is missing or large."""
    from gbdnn.machine import available_bytes
    from gbdnn.weights import Dense

    weights = network.weights
    places = sum(weight.shape[0] * weight.shape[1] for weight in weights.values())
    if find_spec("torch") is None or 4 * places * network.dtype.itemsize > available_bytes():
        return None
    import torch

    from gbdnn.torch import to_torch

    full = {name: Dense(w.plain().to_dense(allow_dense=True)) for name, w in weights.items()}
    try:
        model = to_torch(network.replaced(full))
    except GbdnnError:
        return None
    tensor = torch.from_numpy(X)

    def call() -> Any:
        with torch.no_grad():
            return model(tensor)

    return call
