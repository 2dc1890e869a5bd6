"""`gbdnn bench recogniser`: the encoder of an RNN-T, one recording at a time, beside its peers.

Nearly all of a recogniser's arithmetic without language models is its encoder's. Weights are
random, times depend on their places only. Seconds of computing are divided by those of audio: the
real-time factor. "whole" has all frames at once; "frame by frame" is how a session of streaming
computes, which takes `Network.step`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.process import Job, Record
from benchmarks.rounds import grouped, measured, medians, spread
from benchmarks.timing import Timing, measure
from gbdnn.challenge.table import markdown_table, origin
from gbdnn.network import Network
from gbdnn.types import Array

__all__ = ["ENGINES", "SIZES", "RecogniserJob", "compare", "jobs", "report"]

PEERS = TORCH, ONNX, ONNX_INT8 = ("torch-dense", "onnx-dense", "onnx-int8")
PLANS = {"int8": "int8", "int4": "fasoli2022"}
ENGINES = ("float32", *PLANS, *PEERS)
WAYS = ("whole", "frame by frame")


@dataclass(frozen=True)
class Size:
    """An encoder: its layers, features of a frame, what the last layer gives, frames a second."""

    layers: str
    features: int
    out: int
    frames: float


SIZES = {
    "demo": Size("blstm 96, blstm 96", 120, 128, 100 / 3),
    "demo-streaming": Size("lstm 160, lstm 160", 120, 128, 100 / 3),
    # as many weights as the six bidirectional LSTM x 640 of Fasoli et al. 2022, but one-directional
    "ibm-like-streaming": Size(", ".join(["lstm 1056"] * 6), 240, 256, 50.0),
}


@dataclass(frozen=True, kw_only=True)
class RecogniserJob(Job):
    """One engine on one encoder."""

    told = ("size", "way", "engine", "density", "rtf")

    size: str
    way: str
    engine: str
    density: float
    seconds: float
    seed: int

    def measure(self) -> Record:
        """Make the encoder, time it, and compare its answers with the dense backend's."""
        from gbdnn.models import recurrent

        size = SIZES[self.size]
        network = recurrent(size.layers, size.features, size.out, density=self.density,
                            rng=self.seed)  # fmt: skip
        rng = np.random.default_rng(self.seed)
        frames = round(self.seconds * size.frames)
        X = rng.standard_normal((1, frames, size.features)).astype(np.float32)
        want = np.stack(network.predict(X, backend="dense", threads=self.threads))
        weights, kept = sum(w.nnz for w in network.weights.values()), network
        if self.engine in PLANS:
            from gbdnn.quantization import quantize

            kept = quantize(network, PLANS[self.engine], X)
        call = self._call(kept)
        error = float(np.linalg.norm(np.stack(call(X)) - want) / np.linalg.norm(want))
        timing = Timing(min_time=0.5, max_time=4.0)
        rtf = measure(lambda: call(X), timing).seconds * size.frames / frames
        return {"rtf": rtf, "error": error, "weights": weights, "nbytes": _file_bytes(kept)}

    def _call(self, network: Network) -> Callable[[Array], Any]:
        if self.engine in PEERS:
            from benchmarks.exported import onnx_call, torch_call

            if self.engine == TORCH:
                return torch_call(network, self.threads)
            return onnx_call(network, self.threads, whole_numbers=self.engine == ONNX_INT8)
        backend = "auto" if self.engine == "float32" else "fused"
        if self.way == WAYS[0]:
            return lambda X: network.predict(X, backend=backend, threads=self.threads)

        def frame_by_frame(X: Array) -> Array:
            state, found = None, []
            for x in X[0]:
                y, state = network.step(x[None], state, backend=backend, threads=self.threads)
                found.append(y)
            return np.stack(found, axis=1)

        return frame_by_frame


def _file_bytes(network: Network) -> int:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "encoder"
        network.save(path)
        return path.stat().st_size


def jobs(
    engines: Iterable[str], *, sizes: Iterable[str] = tuple(SIZES), densities: Sequence[float],
    **common: Any,
) -> list[RecogniserJob]:  # fmt: skip
    """Return all engines at all densities, dense peers at density 1 only."""
    return [
        RecogniserJob(size=size, way=way, engine=engine, density=density, **common)
        for size in sizes
        for way in WAYS[: 1 + ("streaming" in size)]
        for engine in engines
        for density in (densities if engine not in PEERS else (1.0,))
        if not (engine in PEERS and way != WAYS[0])
    ]


def compare(
    jobs: Sequence[RecogniserJob], out: Path, *, rounds: int = 1, **options: Any
) -> list[Record]:
    """Time all jobs in turn; return the medians of each, with the ratios to the peers."""
    cases = medians(measured(jobs, out, rounds=rounds, **options),
                    ("size", "way", "engine", "density"), "rtf")  # fmt: skip
    times = {(case["size"], case["engine"]): case["rtf"] for case in cases
             if case["engine"] in PEERS}  # fmt: skip
    for case in cases:
        peers = {peer: times.get((case["size"], peer)) for peer in PEERS}
        case["ratios"] = {peer: rtf and rtf / case["rtf"] for peer, rtf in peers.items()}
    return cases


def report(cases: Sequence[Record]) -> str:
    """Return the table in Markdown."""
    rows = [
        [size, way, case["engine"], f"{case['density']:.0%}",
         spread(case["rtf"], case["all_rtf"], ".4f"),
         *(f"{ratio:.2f}" if ratio else "" for ratio in case["ratios"].values()),
         f"{case['error']:.1e}", f"{case['weights']:,}",
         "" if case["engine"] in PEERS else f"{case['nbytes']:,}"]
        for (size, way), here in grouped(cases, "size", "way").items()
        for case in here
    ]  # fmt: skip
    first = cases[0]
    heads = ["encoder", "how", "engine", "weights kept", "real-time factor (min to max)",
             *(f"times {peer}" for peer in PEERS), "error", "weights", "file, bytes"]  # fmt: skip
    layers = "; ".join(f"{name}: {size.layers}, {size.frames:.1f} frames a second"
                       for name, size in SIZES.items())  # fmt: skip
    return (
        f"{markdown_table(heads, rows, left=3)}\n{layers}. {first['seconds']:g} s of random "
        f"frames, one recording, random weights, {first['threads']} threads; times: how many times "
        "faster than that engine with all frames at once; error: norm of the difference from the "
        "float network on the dense backend over the norm; medians of "
        f"{len(first['all_rtf'])} rounds, engines in turn, one process each; {origin(first)}\n"
    )
