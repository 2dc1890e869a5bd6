"""`gbdnn bench challenge`: a network of the Graph Challenge on gbdnn's backends and on torch."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.process import Job, Record
from benchmarks.rounds import grouped, measured, median_of
from benchmarks.tables import markdown, origin
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

    def describe(self, record: Record) -> str:
        """Return engine and rate."""
        rate = record["nominal_edges"] / record["seconds"] / 1e9
        return f"{self.engine}, skip={self.skip}: {rate:,.1f} nominal GEdge/s"


def compare(
    out: Path, *, cases: Sequence[tuple[str, bool]] = CASES, rounds: int = 5, threads: int = 2,
    neurons: int = 1024, layers: int = 120, images: Path | None = None, **options: Any,
) -> list[Record]:  # fmt: skip
    """Run all cases (engine, skip) in turn; return the medians of each.

    `options` are those of `measured`; all records are in `out`.
    """
    path = None if images is None else str(images.resolve())
    jobs = [
        ChallengeJob(engine=engine, skip=skip, threads=threads, neurons=neurons, layers=layers,
                     images=path)
        for engine, skip in cases
    ]  # fmt: skip
    groups = grouped(measured(jobs, out, rounds=rounds, **options), "engine", "skip")
    return [_summary(runs) for runs in groups.values()]


def _summary(runs: Sequence[Record]) -> Record:
    seconds, first = median_of(runs, "seconds"), runs[0]
    return first | {
        "seconds": seconds,
        "all_seconds": [run["seconds"] for run in runs],
        "categories": sorted({run["categories"] for run in runs}),
        "nominal_gedge_per_s": first["nominal_edges"] / seconds / 1e9,
        "effective_gedge_per_s": first["effective_edges"] / seconds / 1e9,
    }


def report(cases: Sequence[Record]) -> str:
    """Return the medians and their ratios to torch in Markdown, without and with skipping."""
    torch = {case["skip"]: case for case in cases if case["engine"] == "torch-csr"}
    rows = []
    for case in cases:
        peer, times = torch.get(case["skip"]), case["all_seconds"]
        rows.append([
            case["engine"],
            "yes" if case["skip"] else "no",
            f"{case['seconds']:.2f} ({min(times):.2f} to {max(times):.2f})",
            f"{case['nominal_gedge_per_s']:,.1f}",
            f"{case['effective_gedge_per_s']:,.1f}",
            f"{peer['seconds'] / case['seconds']:.2f}" if peer else "",
        ])  # fmt: skip
    heads = ["engine", "skips", "seconds (min to max)", "nominal GEdge/s", "effective GEdge/s",
             "times torch, same skipping"]  # fmt: skip
    first = cases[0]
    return (
        f"{markdown(heads, rows, left=2)}\n{first['neurons']} neurons x {first['layers']} layers, "
        f"{first['inputs']:,} inputs; medians of {len(first['all_seconds'])} rounds, engines in "
        f"turn, one process each, loading excluded; {origin(first)}\n"
    )


# -- torch -----------------------------------------------------------------------------------------


def _torch(spec: Any, bits: Any, skip: bool, threads: int) -> Record:
    import numpy as np
    import torch

    from benchmarks.peers import torch_matrix
    from gbdnn.challenge.generate import layers

    torch.set_num_threads(threads)
    weights = [torch_matrix(weight) for weight in layers(spec)]
    Y = torch.from_numpy(np.unpackbits(bits.bits, axis=1)[:, : bits.count]).float()
    with torch.inference_mode():
        for W in weights[:2]:
            _torch_layer(torch, W, Y[:, :CHUNK].contiguous(), spec)
        run = _torch_dropping if skip else _torch_chunks
        begin = time.perf_counter()
        alive, effective = run(torch, weights, Y, spec)
        seconds = time.perf_counter() - begin
    return {
        "seconds": seconds,
        "inputs": bits.count,
        "nominal_edges": spec.edges * bits.count,
        "effective_edges": effective,
        "categories": alive,
    }


def _torch_layer(torch: Any, W: Any, Y: Any, spec: Any) -> Any:
    """h(W Y + b): the bias first, the product added to it, both bounds in place."""
    return torch.addmm(torch.full_like(Y, spec.bias), W, Y).clamp_(0, spec.cap)


def _torch_chunks(torch: Any, weights: list[Any], Y: Any, spec: Any) -> tuple[int, int]:
    """Take chunks through all layers, skipping nothing."""
    alive = 0
    for first in range(0, Y.shape[1], CHUNK):
        part = Y[:, first : first + CHUNK].contiguous()
        for W in weights:
            part = _torch_layer(torch, W, part, spec)
        alive += int((part != 0).any(dim=0).sum())
    return alive, spec.edges * Y.shape[1]


def _torch_dropping(torch: Any, weights: list[Any], Y: Any, spec: Any) -> tuple[int, int]:
    """Layer by layer in chunks; after each layer the dead columns go and the rest closes up."""
    effective = 0
    for W in weights:
        effective += W.values().numel() * Y.shape[1]
        parts = []
        for first in range(0, Y.shape[1], CHUNK):
            part = _torch_layer(torch, W, Y[:, first : first + CHUNK].contiguous(), spec)
            parts.append(part[:, part.amax(dim=0) > 0])
        Y = torch.cat(parts, dim=1)
    return Y.shape[1], effective
