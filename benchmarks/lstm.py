"""`gbdnn bench lstm`: LSTM and GRU with sparse weights beside dense ones of torch and onnxruntime.

Predictions of sequences, and training steps (forward, backward, Adam) against a target for each
time step. A process for each engine, density and batch. onnx-int8 is onnxruntime's
`DynamicQuantizeLSTM`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.process import Job, Record
from benchmarks.rounds import grouped, measured, medians, spread
from benchmarks.timing import Timing, measure
from gbdnn.challenge.table import markdown_table, origin
from gbdnn.layers import GRU, LSTM
from gbdnn.network import Network
from gbdnn.topology import erdos_renyi
from gbdnn.types import Array

__all__ = ["ENGINES", "LSTMJob", "compare", "jobs", "report"]

PEERS = TORCH, ONNX, ONNX_INT8 = ("torch-dense", "onnx-dense", "onnx-int8")
ENGINES = ("fused", "graphblas", "dense", "int8", *PEERS)
LAYERS = {"lstm": (LSTM, 4), "gru": (GRU, 3)}  # and how many gates
OPS = ("predict", "train")
STEPS = 6  # of training: the first ones warm up
RATE = 1e-4


@dataclass(frozen=True, kw_only=True)
class LSTMJob(Job):
    """One engine on one layer; all make the same weights and samples from the seed."""

    told = ("layer", "engine", "op", "density", "batch", "ms")

    layer: str
    engine: str
    op: str
    density: float
    batch: int
    size: int
    time_steps: int
    seed: int

    def measure(self) -> Record:
        """Make the layer and time it; predictions are compared with the dense backend."""
        rng = np.random.default_rng(self.seed)
        network = _network(rng, self.layer, self.size, self.density)
        X = rng.standard_normal((self.batch, self.time_steps, self.size)).astype(np.float32)
        if self.op == "train":
            return {"ms": 1e3 * self._training(network, X), "error": None}
        call = self._call(network, X)
        want = np.stack(network.predict(X, backend="dense", threads=self.threads))
        error = float(np.linalg.norm(np.stack(call(X)) - want) / np.linalg.norm(want))
        timing = Timing(min_time=0.5, max_time=3.0)
        return {"ms": 1e3 * measure(lambda: call(X), timing).seconds, "error": error}

    def _call(self, network: Network, X: Array) -> Callable[[Array], Any]:
        if self.engine in PEERS:
            from benchmarks.exported import onnx_call, torch_call

            if self.engine == TORCH:
                return torch_call(network, self.threads)
            return onnx_call(network, self.threads, whole_numbers=self.engine == ONNX_INT8)
        backend = self.engine
        if self.engine == "int8":
            from gbdnn.quantization import quantize

            network, backend = quantize(network, "int8", X), "fused"
        return lambda X: network.predict(X, backend=backend, threads=self.threads)

    def _training(self, network: Network, X: Array) -> float:
        if self.engine != TORCH:
            return _training(network, X, self.engine, self.threads)
        from benchmarks.exported import torch_training

        return torch_training(network, X, self.threads, steps=STEPS, rate=RATE)


def _network(rng: np.random.Generator, layer: str, size: int, density: float) -> Network:
    make, gates = LAYERS[layer]
    shapes = [(gates * size, size)] * 2
    weights = [
        erdos_renyi(*shape, density=density, rng=rng, dtype=np.float32, values="he")
        for shape in shapes
    ]
    return Network([make(*weights, rng.uniform(-0.1, 0.1, gates * size))])


def _training(network: Network, X: Array, engine: str, threads: int) -> float:
    """Return the seconds of a step of the Trainer, as `Trainer.fit` takes it."""
    from gbdnn import Trainer

    stamps: list[float] = []

    def stamp(event: Any) -> None:
        if event.kind == "step":
            stamps.append(time.perf_counter())

    trainer = Trainer(
        loss="mse", epochs=1, batch_size=len(X), learning_rate=RATE, backend=engine,
        threads=threads, callbacks=[stamp],
    )  # fmt: skip
    targets = [np.zeros((len(x), network.out_features), np.float32) for x in X]
    trainer.fit(network, STEPS * list(X), STEPS * targets)
    return median(after - before for before, after in list(pairwise(stamps))[1:])


def jobs(
    engines: Iterable[str], ops: Iterable[str], *, layers: Iterable[str] = tuple(LAYERS),
    densities: Sequence[float], batches: Sequence[int], **common: Any,
) -> list[LSTMJob]:  # fmt: skip
    """Return all engines at all densities and batches.

    Dense ones at the first density only, training with the largest batch only.
    """
    return [
        LSTMJob(layer=layer, engine=engine, op=op, density=density, batch=batch, **common)
        for layer in layers
        for op in ops
        for batch in batches
        for density in densities
        for engine in engines
        if (engine not in (*PEERS, "dense") or density == densities[0])
        and not (op == "train" and engine in ("int8", ONNX, ONNX_INT8))
        and not (op == "train" and batch < max(batches))
        and not (layer == "gru" and engine == ONNX_INT8)
    ]


def compare(jobs: Sequence[LSTMJob], out: Path, *, rounds: int = 1, **options: Any) -> list[Record]:
    """Time all jobs in turn; return the medians of each, with the ratios to the peers."""
    cases = medians(measured(jobs, out, rounds=rounds, **options),
                    ("layer", "engine", "op", "density", "batch"), "ms")  # fmt: skip
    place = lambda case: (case["layer"], case["op"], case["batch"])  # noqa: E731
    times = {(*place(case), case["engine"]): case["ms"] for case in cases}
    for case in cases:
        peers = {peer: times.get((*place(case), peer)) for peer in PEERS}
        case["ratios"] = {peer: ms and ms / case["ms"] for peer, ms in peers.items()}
    return cases


def report(cases: Sequence[Record]) -> str:
    """Return the table in Markdown."""
    rows = []
    for (layer, op, batch), here in grouped(cases, "layer", "op", "batch").items():
        for case in here:
            dense = case["engine"] in (*PEERS, "dense")
            rows.append([
                layer, op, str(batch), "dense" if dense else f"{case['density']:.0%}",
                case["engine"], spread(case["ms"], case["all_ms"], ".2f"),
                *(f"{ratio:.2f}" if ratio else "" for ratio in case["ratios"].values()),
                f"{case['error']:.1e}" if case["error"] else "",
            ])  # fmt: skip
    first = cases[0]
    heads = ["layer", "what", "batch", "weights", "engine", "ms (min to max)",
             *(f"times {peer}" for peer in PEERS), "error"]  # fmt: skip
    return (
        f"{markdown_table(heads, rows)}\n{first['size']} -> {first['size']}, "
        f"{first['time_steps']} time steps, {first['threads']} threads; times: how many times "
        "faster than that engine; train: forward, backward and Adam; error: norm of the difference "
        "from the dense backend over the norm; medians of "
        f"{len(first['all_ms'])} rounds, engines in turn, one process each; {origin(first)}\n"
    )
