"""`gbdnn bench quantized`: networks of whole numbers beside float32 and dense low precision.

Four layers with ReLU, random patterns. Weights are rounded to 8 or 4 bits with a scale for each
row, inputs of layers to 8 bits from 0 to the largest value of some samples. A process for each
engine, density and batch.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import gbdnn
from benchmarks.process import Job, Record
from benchmarks.rounds import grouped, measured, medians, spread
from benchmarks.timing import Timing, measure
from gbdnn.challenge.table import markdown_table, origin
from gbdnn.layers import Linear, ReLU
from gbdnn.network import Network
from gbdnn.topology import erdos_renyi
from gbdnn.types import Array
from gbdnn.weights import CSR, Dense, Levels, integer_weight

__all__ = ["BITS", "ENGINES", "PEERS", "QuantizedJob", "compare", "jobs", "quantized", "report"]

BITS = {"int8": 8, "int4": 4}
PEERS = ("torch-int8", "torch-bfloat16", "onnxruntime-int8")
ENGINES = ("fused", *BITS, *PEERS)
SAMPLES = 64  # that the levels are taken from
BATCHES = {0.25: 2.5, 0.2: 2.5, 0.1: 2.5, 0.05: 2.5, 0.03: 2.5, 0.01: 1.8}
FEW = {0.25: 3.0, 0.2: 3.0, 0.1: 3.0, 0.05: 2.0}
TARGETS = {1: {0.25: 4.0, 0.1: 6.0, 0.05: 5.0, 0.03: 4.0}, 8: FEW, 16: FEW, 64: BATCHES,
           256: BATCHES}  # fmt: skip
"""By batch and density, how many times faster than float32 whole numbers of 8 bits should be."""


@dataclass(frozen=True, kw_only=True)
class QuantizedJob(Job):
    """One engine on one network at one batch size; all make the same network from the seed."""

    told = ("engine", "density", "batch", "ms", "error")

    engine: str
    density: float
    batch: int
    size: int
    layers: int
    seed: int

    def measure(self) -> Record:
        """Make the network, time its predictions, compare them with float32."""
        rng = np.random.default_rng(self.seed)
        network = _network(rng, self.size, self.layers, self.density)
        X = rng.random((max(self.batch, SAMPLES), self.size), np.float32)
        timing, call = Timing(min_time=0.3, max_time=2.0), self._call(network, X[:SAMPLES])
        X = X[: self.batch]
        want, found = network.predict(X, threads=self.threads), call(X)
        error = float(np.linalg.norm(found - want) / np.linalg.norm(want))
        return {"ms": 1e3 * measure(lambda: call(X), timing).seconds, "error": error}

    def _call(self, network: Network, X: Array) -> Callable[[Array], Array]:
        if self.engine == "onnxruntime-int8":
            from benchmarks.exported import onnx_call

            return onnx_call(network, self.threads, whole_numbers=True)
        if self.engine in PEERS:
            return _torch(network, self.engine, self.threads)
        if self.engine in BITS:
            network = quantized(network, X, BITS[self.engine])
        return lambda X: network.predict(X, threads=self.threads)


def _network(rng: np.random.Generator, size: int, depth: int, density: float) -> Network:
    layers: list[Any] = []
    for _ in range(depth):
        weight = erdos_renyi(size, size, density=density, rng=rng, dtype=np.float32)
        layers += [Linear(weight, rng.uniform(-0.1, 0.1, size).astype(np.float32)), ReLU()]
    return Network(layers)


def quantized(network: Network, X: Array, bits: int) -> Network:
    """Return a network with integer weights; `X` are samples that show how large inputs get."""
    layers: list[Any] = []
    for layer in network.layers:
        if isinstance(layer, Linear):
            W = layer.weight
            assert isinstance(W, CSR)
            largest = np.zeros(W.shape[0], np.float32)
            row = np.repeat(np.arange(W.shape[0]), np.diff(W.indptr))
            np.maximum.at(largest, row, np.abs(W.full_values))
            step = float(X.max()) / 255 or 1.0
            weight = integer_weight(W, largest / (2 ** (bits - 1) - 1), bits=bits,
                                    levels=Levels(step, 0, 0, 255))  # fmt: skip
            layers.append(Linear(weight, layer.bias))
            X = Network([layer, ReLU()]).predict(X, threads=1)
        else:
            layers.append(layer)
    return Network(layers)


def _torch(network: Network, engine: str, threads: int) -> Callable[[Array], Array]:
    """Return the prediction of a dense network of torch, in int8 or bfloat16."""
    import torch

    torch.set_num_threads(threads)
    full = {name: Dense(W.to_dense(allow_dense=True)) for name, W in network.weights.items()}
    model: Any = gbdnn.to_torch(network.replaced(full))
    kind = torch.float32
    if engine == "torch-bfloat16":
        kind = torch.bfloat16
        model = model.to(kind)
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it is to move to another package
            model = torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear})

    def run(X: Array) -> Array:
        with torch.inference_mode():
            found: Array = model(torch.from_numpy(X).to(kind)).float().numpy()
            return found

    return run


def jobs(
    engines: Iterable[str], *, densities: Sequence[float], batches: Sequence[int], **common: Any
) -> list[QuantizedJob]:
    """Return all engines at all densities and batches; dense ones at the first density only."""
    return [
        QuantizedJob(engine=engine, density=density, batch=batch, **common)
        for batch in batches
        for density in densities
        for engine in engines
        if engine not in PEERS or density == densities[0]
    ]


def compare(
    jobs: Sequence[QuantizedJob], out: Path, *, rounds: int = 1, **options: Any
) -> list[Record]:
    """Time all jobs in turn; return the medians of each, with the ratio to float32."""
    cases = medians(measured(jobs, out, rounds=rounds, **options),
                    ("engine", "density", "batch"), "ms")  # fmt: skip
    floats = {(c["density"], c["batch"]): c["ms"] for c in cases if c["engine"] == "fused"}
    for case in cases:
        ms = floats.get((case["density"], case["batch"]))
        whole = case["engine"] in BITS
        case["ratio"] = ms / case["ms"] if ms and whole else None
        dense = [c["ms"] for c in cases if c["engine"] in PEERS and c["batch"] == case["batch"]]
        case["dense_ratio"] = min(dense) / case["ms"] if dense and whole else None
    return cases


def report(cases: Sequence[Record]) -> str:
    """Return the table in Markdown, with what was asked for and whether it was missed."""
    rows = []
    for (batch, density), here in grouped(cases, "batch", "density").items():
        by_engine = {case["engine"]: case for case in here}
        for engine, case in by_engine.items():
            kind = "dense" if engine in PEERS else f"{density:.0%}"
            asked = TARGETS.get(batch, {}).get(density) if engine == "int8" else None
            missed = ", missed" if asked and case["ratio"] and case["ratio"] < asked else ""
            rows.append([
                str(batch), kind, engine, spread(case["ms"], case["all_ms"], ".3f"),
                f"{case['ratio']:.2f}" if case["ratio"] else "",
                f"{asked:g}{missed}" if asked else "",
                f"{case['dense_ratio']:.2f}" if case["dense_ratio"] else "",
                f"{case['error']:.2%}" if case["error"] else "",
            ])  # fmt: skip
    first = cases[0]
    heads = ["batch", "weights", "engine", "ms (min to max)", "times faster than fused float32",
             "asked", "times faster than the fastest dense one", "error"]  # fmt: skip
    return (
        f"{markdown_table(heads, rows)}\n{first['layers']} layers of {first['size']:,} x "
        f"{first['size']:,} with ReLU, {first['threads']} threads, `predict` with conversions; "
        "error: norm of the difference from float32 over the norm; medians of "
        f"{len(first['all_ms'])} rounds, engines in turn, one process each; {origin(first)}\n"
    )
