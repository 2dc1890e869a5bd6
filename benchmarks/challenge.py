"""The Graph Challenge against torch: every engine in its own process, in turn, several rounds.

``python -m benchmarks.challenge ENGINE SKIP`` is one run in one process; `compare` makes many and
takes medians, so that a drifting machine meets all engines alike.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.process import made_on, record_of
from gbdnn.errors import MissingDependencyError, choose
from gbdnn.machine import machine, versions

__all__ = ["CASES", "compare", "markdown", "one_run"]

Array = npt.NDArray[Any]
Record = dict[str, Any]
# (engine, skip): torch-csr drops dead columns after each layer where `skip` is true
CASES = tuple(
    (engine, skip)
    for skip in (False, True)
    for engine in ("torch-csr", "graphblas-reference", "graphblas", "fused")
    if skip or engine != "graphblas-reference"  # sparse Y skips by itself
)
CHUNK = 1024  # columns that torch gets at a time; the fastest of 256 ... 60,000


def compare(
    *,
    neurons: int = 1024,
    layers: int = 120,
    images: Path | None = None,
    rounds: int = 5,
    threads: int = 2,
    cases: Sequence[tuple[str, bool]] = CASES,
    report: Callable[[str], None] = print,
) -> Record:
    """Run all cases in turn, `rounds` times; return the medians.

    Returns
    -------
    dict
        ``cases``: for each the median and all seconds, nominal and effective rate, categories;
        ``machine``, ``versions``, ``threads``, ``rounds``.
    """
    words = [str(neurons), str(layers), str(threads), "" if images is None else str(images)]
    runs: dict[tuple[str, bool], list[Record]] = {case: [] for case in cases}
    for number in range(rounds):
        for engine, skip in cases:
            record = record_of(engine, "benchmarks.challenge", engine, str(int(skip)), *words)
            runs[engine, skip].append(record)
            rate = record["nominal_edges"] / record["seconds"] / 1e9
            report(f"round {number + 1}: {engine}, skip={skip}: {rate:,.1f} nominal GEdge/s")
    return {
        "neurons": neurons,
        "layers": layers,
        "threads": threads,
        "rounds": rounds,
        "machine": machine(),
        "versions": versions() | versions(("torch",)),
        "cases": [_summary(engine, skip, found) for (engine, skip), found in runs.items()],
    }


def _summary(engine: str, skip: bool, runs: list[Record]) -> Record:
    seconds = [run["seconds"] for run in runs]
    median = float(np.median(seconds))
    return {
        "engine": engine,
        "skip": skip,
        "seconds": median,
        "all_seconds": seconds,
        "inputs": runs[0]["inputs"],
        "categories": sorted({run["categories"] for run in runs}),
        "nominal_gedge_per_s": runs[0]["nominal_edges"] / median / 1e9,
        "effective_gedge_per_s": runs[0]["effective_edges"] / median / 1e9,
    }


def markdown(result: Record) -> str:
    """Return the medians and their ratios to torch, with nothing skipped and with skipping."""
    torch = {case["skip"]: case for case in result["cases"] if case["engine"] == "torch-csr"}
    lines = [
        "| engine | skips | seconds (min to max) | nominal GEdge/s | effective GEdge/s "
        "| times torch, same skipping |",
        "|---|---|--:|--:|--:|--:|",
    ]
    for case in result["cases"]:
        peer = torch.get(case["skip"])
        ratio = f"{peer['seconds'] / case['seconds']:.2f}" if peer else ""
        spread = f"{min(case['all_seconds']):.2f} to {max(case['all_seconds']):.2f}"
        lines.append(
            f"| {case['engine']} | {'yes' if case['skip'] else 'no'} "
            f"| {case['seconds']:.2f} ({spread}) | {case['nominal_gedge_per_s']:,.1f} "
            f"| {case['effective_gedge_per_s']:,.1f} | {ratio} |"
        )
    inputs = result["cases"][0]["inputs"]
    lines += [
        "",
        f"{result['neurons']} neurons x {result['layers']} layers, {inputs:,} inputs, "
        f"{result['threads']} threads; medians of {result['rounds']} rounds, engines in turn, one "
        f"process each, loading excluded; {made_on(result)}",
    ]
    return "\n".join(lines) + "\n"


# -- one run in this process -----------------------------------------------------------------------


def one_run(
    engine: str, *, skip: bool, neurons: int, layers: int, threads: int, images: Path | None
) -> Record:
    """Run the network once after a warm-up on some inputs; loading is not timed."""
    from gbdnn.backends import BACKENDS
    from gbdnn.challenge import runner
    from gbdnn.challenge.generate import Spec

    spec = Spec(neurons, layers)
    inputs = runner.load_inputs(neurons, path=images)
    if choose("engine", engine, [*BACKENDS, "torch-csr"]) == "torch-csr":
        return _torch(spec, inputs.bits, skip, threads)
    for bits in (inputs.bits.take(2048), inputs.bits):  # the first only warms up
        result = runner.run(
            spec,
            runner.ChallengeInputs(bits, "", False),
            backend=engine,
            threads=threads,
            skip=skip,
        )
    keys = ("seconds", "inputs", "nominal_edges", "effective_edges", "categories")
    return {key: result.record[key] for key in keys}


def _torch(spec: Any, bits: Any, skip: bool, threads: int) -> Record:
    if not find_spec("torch"):
        raise MissingDependencyError("torch", "an installed peer", "none", "pip install torch")
    import torch

    from benchmarks.peers import _torch_matrix
    from gbdnn.challenge.generate import layers

    torch.set_num_threads(threads)
    weights = [_torch_matrix(torch, weight) for weight in layers(spec)]
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


def _main() -> None:
    engine, skip, neurons, layers, threads, images = sys.argv[1:]
    record = one_run(
        engine,
        skip=skip == "1",
        neurons=int(neurons),
        layers=int(layers),
        threads=int(threads),
        images=Path(images) if images else None,
    )
    print(json.dumps(record))


if __name__ == "__main__":
    _main()
