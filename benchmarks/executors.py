"""Predictions in one process and on a pool of processes: ``python -m benchmarks.executors``.

20,000 rows of 1,024 features through layers of 1024 x 1024 x 10 with 10 % of the weights. All ways
in turn, after a first call of each; the memory of a worker is what it does not share with others.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from gbdnn import machine, models
from gbdnn.distributed import predict, process_pool

ROWS, FEATURES, ROUNDS = 20_000, 1024, 5


def main() -> None:
    """Print a line of JSON: milliseconds, and times one process with as many threads."""
    workers = machine.available_cores()
    network = models.mlp([FEATURES, 1024, 1024, 10], density=0.1, topology="uniform", rng=0)
    X = np.random.default_rng(0).random((ROWS, FEATURES), np.float32)
    with tempfile.TemporaryDirectory() as folder, process_pool(workers) as pool:
        X.tofile(Path(folder, "X"))
        mapped = np.memmap(Path(folder, "X"), np.float32, "r", shape=X.shape)
        ways: dict[str, Any] = {
            "one process": lambda: network.predict(X),
            "processes": lambda: predict(network, X, executor=pool),
            "processes, memory map": lambda: predict(network, mapped, executor=pool),
        }
        first, times = {}, {name: [] for name in ways}
        for name, way in ways.items():
            begin = time.perf_counter()
            way()
            first[name] = time.perf_counter() - begin
        for _ in range(ROUNDS):
            for name, way in ways.items():
                begin = time.perf_counter()
                way()
                times[name].append(time.perf_counter() - begin)
        own = [pool.submit(private_bytes) for _ in range(workers)]
        sizes = sorted({future.result() for future in own})
    middle = {name: median(found) for name, found in times.items()}
    record = {
        "workers": workers,
        "network_bytes": network.nbytes,
        "first_ms": {name: round(1e3 * seconds, 1) for name, seconds in first.items()},
        "ms": {name: round(1e3 * seconds, 1) for name, seconds in middle.items()},
        "times_one": {n: round(s / middle["one process"], 2) for n, s in middle.items()},
        "worker_private_bytes": [size for _, size in sizes],
        "machine": machine.machine(),
        "versions": machine.versions(),
    }
    print(json.dumps(record))


def private_bytes() -> tuple[int, int]:
    """Return the process's number, and the bytes that only it has."""
    text = Path("/proc/self/smaps_rollup").read_text()
    kilobytes = [int(line.split()[1]) for line in text.splitlines() if line.startswith("Private_")]
    return os.getpid(), 1024 * sum(kilobytes)


if __name__ == "__main__":
    main()
