"""`gbdnn bench challenge`: a network of the Graph Challenge on gbdnn's backends and on torch."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

from benchmarks.process import Job, Record
from benchmarks.rounds import grouped, measured, medians, spread
from gbdnn.challenge.table import markdown_table, origin
from gbdnn.errors import choose

__all__ = ["CASES", "ChallengeJob", "compare", "report"]

# (engine, skip): torch-csr drops dead columns after each layer where `skip` is true
CASES = tuple(
    (engine, skip)
    for skip in (False, True)
    for engine in ("torch-csr", "graphblas-reference", "graphblas", "fused")
    if skip or engine != "graphblas-reference"  # sparse Y skips by itself
)
CHUNK = 1024  # columns that torch gets at a time; the fastest of 256 ... 60,000


@dataclass(frozen=True, kw_only=True)
class ChallengeJob(Job):
    """One engine on the network, once after a warm-up on some inputs; loading is not timed."""

    told = ("engine", "skip", "seconds")

    engine: str
    skip: bool
    neurons: int = 1024
    layers: int = 120
    images: str | None = None

    def measure(self) -> Record:
        """Return seconds, edges and categories."""
        from gbdnn.backends import BACKENDS
        from gbdnn.challenge import runner
        from gbdnn.challenge.generate import Spec

        spec = Spec(self.neurons, self.layers)
        path = None if self.images is None else Path(self.images)
        bits = runner.load_inputs(self.neurons, path=path).bits
        if choose("engine", self.engine, [*BACKENDS, "torch-csr"]) == "torch-csr":
            return _torch(spec, bits, self.skip, self.threads)
        for part in (bits.take(2048), bits):  # the first only warms up
            inputs = runner.ChallengeInputs(part, "", False)
            result = runner.run(
                spec, inputs, backend=self.engine, threads=self.threads, skip=self.skip
            )
        keys = ("seconds", "inputs", "nominal_edges", "effective_edges", "categories")
        return {key: result.record[key] for key in keys}


def compare(jobs: Sequence[ChallengeJob], out: Path, **options: Any) -> list[Record]:
    """Run all jobs in turn, `measured` with its options; return the medians of each case."""
    records = measured(jobs, out, **options)
    groups = grouped(records, "engine", "skip").values()
    cases = medians(records, ("engine", "skip"), "seconds")
    for case, runs in zip(cases, groups, strict=True):
        case["categories"] = sorted({run["categories"] for run in runs})
        for kind in ("nominal", "effective"):
            case[f"{kind}_gedge_per_s"] = case[f"{kind}_edges"] / case["seconds"] / 1e9
    return cases


def report(cases: Sequence[Record]) -> str:
    """Return the medians and their ratios to torch in Markdown, without and with skipping."""
    torch = {case["skip"]: case["seconds"] for case in cases if case["engine"] == "torch-csr"}
    rows = [
        [
            case["engine"],
            "yes" if case["skip"] else "no",
            spread(case["seconds"], case["all_seconds"], ".2f"),
            f"{case['nominal_gedge_per_s']:,.1f}",
            f"{case['effective_gedge_per_s']:,.1f}",
            f"{torch[case['skip']] / case['seconds']:.2f}" if torch else "",
        ]
        for case in cases
    ]
    heads = ["engine", "skips", "seconds (min to max)", "nominal GEdge/s", "effective GEdge/s",
             "times torch, same skipping"]  # fmt: skip
    first = cases[0]
    return (
        f"{markdown_table(heads, rows, left=2)}\n{first['neurons']} neurons x {first['layers']} "
        f"layers, {first['inputs']:,} inputs; medians of {len(first['all_seconds'])} rounds, "
        f"engines in turn, one process each, loading excluded; {origin(first)}\n"
    )


def _torch(spec: Any, bits: Any, skip: bool, threads: int) -> Record:
    """Without skipping chunks go through all layers; with it layer by layer, closing up."""
    import numpy as np
    import torch

    from benchmarks.peers import torch_matrix
    from gbdnn.challenge.generate import layers

    def layer(Y: Any, W: Any) -> Any:
        """h(W Y + b): the bias first, the product added to it, both bounds in place."""
        return torch.addmm(torch.full_like(Y, spec.bias), W, Y).clamp_(0, spec.cap)

    def chunks(Y: Any) -> list[Any]:
        return [Y[:, k : k + CHUNK].contiguous() for k in range(0, Y.shape[1], CHUNK)]

    def alive(Y: Any) -> Any:
        return Y[:, Y.amax(dim=0) > 0]

    torch.set_num_threads(threads)
    weights = [torch_matrix(weight) for weight in layers(spec)]
    Y = torch.from_numpy(np.unpackbits(bits.bits, axis=1)[:, : bits.count]).float()
    with torch.inference_mode():
        reduce(layer, weights[:2], chunks(Y[:, :CHUNK])[0])  # warms up
        effective = 0 if skip else spec.edges * bits.count
        begin = time.perf_counter()
        if skip:
            for W in weights:
                effective += W.values().numel() * Y.shape[1]
                Y = torch.cat([alive(layer(part, W)) for part in chunks(Y)], dim=1)
        else:
            Y = torch.cat([alive(reduce(layer, weights, part)) for part in chunks(Y)], dim=1)
        seconds = time.perf_counter() - begin
    return {
        "seconds": seconds, "inputs": bits.count, "nominal_edges": spec.edges * bits.count,
        "effective_edges": effective, "categories": Y.shape[1],
    }  # fmt: skip
