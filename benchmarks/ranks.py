"""A training step over ranks of MPI, in parts: ``mpiexec -n 2 python -m benchmarks.ranks``.

The step of `gbdnn bench training` (MLP 1024-4096-4096-10, batch 256, forward, backward, Adam)
with one thread a rank. Rank 0 then also takes steps alone, while the others sleep: with as many
threads as there are ranks, and with one thread, for a quarter of the mini-batch too, from which
follows what of a step does not depend on the samples (the optimizer, mostly), T(b) = F + s b. Steps
on more machines, a rank of one thread on each, are computed from that, from bytes and latency:

    T(P) = F + s b / P + 2 (P - 1) / P bytes / bandwidth + 4 ceil(log2 P) latency

(two reductions, each as a ring or a tree there and back). Not counted: that ranks wait for the
slowest one, and that the sums are copied into a buffer and back.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from gbdnn import Network, machine, models
from gbdnn.data.batches import Batch
from gbdnn.data.samples import samples
from gbdnn.distributed import MPIRanks
from gbdnn.layers import LOSSES
from gbdnn.training import Trainer, Training
from gbdnn.training.model import Model

SIZES, BATCH, ROUNDS = [1024, 4096, 4096, 10], 256, 7
LINKS = {"10 Gbit/s, 30 us": (1.25e9, 30e-6), "100 Gbit/s, 3 us": (12.5e9, 3e-6)}
MACHINES = (2, 4, 8, 16)


def main() -> None:
    """Measure both densities and print a line of JSON for each."""
    ranks = MPIRanks()
    for density in (0.1, 0.02):
        record = measure(ranks, density)
        if ranks.rank == 0:
            print(json.dumps(record), flush=True)
    if ranks.rank == 0:
        print(json.dumps({"machine": machine.machine(), "versions": machine.versions()}))


def measure(ranks: MPIRanks, density: float) -> dict[str, Any]:
    """Return milliseconds of a step and of its parts, and what they give on more machines."""
    network = models.mlp(SIZES, density=density, topology="uniform", rng=0)
    together = step_of(network, ranks, 1)
    found = {"step": median(ranks, together, ranks.size > 1)}
    nbytes = 4 * sum(p.size for p in network_parameters(network))
    buffers = np.zeros((2, nbytes // 4), np.float32)
    found["allreduce"] = median(ranks, lambda: ranks.comm.Allreduce(buffers[0], buffers[1]), True)
    number = np.zeros((2, 5))
    found["five numbers"] = median(ranks, lambda: ranks.comm.Allreduce(number[0], number[1]), True)
    alone = {
        "alone, all threads": (ranks.size, BATCH),
        "alone, 1 thread": (1, BATCH),
        "alone, 1 thread, quarter": (1, BATCH // 4),
    }
    for name, (threads, batch) in alone.items():
        task = step_of(network, None, threads, batch) if ranks.rank == 0 else None
        found[name] = median(ranks, task, False)
    whole, quarter = found["alone, 1 thread"], found["alone, 1 thread, quarter"]
    slope = (whole - quarter) / (BATCH - BATCH // 4)
    fixed = whole - slope * BATCH
    record: dict[str, Any] = {"density": density, "ranks": ranks.size, "bytes": nbytes}
    record["ms"] = {name: round(1e3 * seconds, 3) for name, seconds in found.items()}
    record["ms"]["of it without samples"] = round(1e3 * fixed, 3)
    record["computed speed-up"] = {
        f"{link}, batch {batch}": {
            ranks_: round(
                (fixed + slope * batch)
                / (fixed + slope * batch / ranks_ + wire_seconds(ranks_, nbytes, *limits)),
                2,
            )
            for ranks_ in MACHINES
        }
        for link, limits in LINKS.items()
        for batch in (BATCH, 16 * BATCH)
    }
    return record


def wire_seconds(ranks: int, nbytes: int, bandwidth: float, latency: float) -> float:
    """Return the seconds of the two reductions of a step."""
    wire = 2 * (ranks - 1) / ranks * nbytes / bandwidth
    return wire + 2 * 2 * math.ceil(math.log2(ranks)) * latency


def step_of(
    network: Network, ranks: MPIRanks | None, threads: int, size: int = BATCH
) -> Callable[[], Any]:
    """Return a step on one mini-batch."""
    rng = np.random.default_rng(0)
    X, y = rng.random((size, SIZES[0]), np.float32), rng.integers(0, SIZES[-1], size)
    make = Model if ranks is None else ranks.model
    model = make(network, loss=LOSSES["cross_entropy"], threads=threads)
    training = Training(Trainer(threads=threads), model)
    training.total = 1000
    inputs, targets, weights = samples(model, X, y, None)
    batch = Batch(inputs, np.arange(size), targets, weights, float(size))
    return lambda: training.train_step(batch)


def network_parameters(network: Network) -> list[Any]:
    """Return the arrays that have gradients."""
    return [getattr(p, "entries", p) for p in network.parameters.values()]


def median(ranks: MPIRanks, task: Callable[[], Any] | None, all_ranks: bool) -> float:
    """Return the median seconds of a task at all ranks, or at rank 0 while the others sleep."""
    times = []
    if all_ranks or ranks.rank == 0:
        assert task is not None
        for number in range(ROUNDS + 2):
            if all_ranks:
                ranks.comm.Barrier()
            begin = time.perf_counter()
            task()
            if number > 1:
                times.append(time.perf_counter() - begin)
    waiting = ranks.comm.Ibarrier()
    while not waiting.Test():
        time.sleep(0.01)
    return float(np.median(times)) if times else 0.0


if __name__ == "__main__":
    main()
