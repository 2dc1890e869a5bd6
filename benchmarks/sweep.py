"""`gbdnn bench sweep`: the same square layers through gbdnn's backends and other libraries."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

from benchmarks import process
from benchmarks.process import Job, Record
from benchmarks.rounds import measured
from benchmarks.timing import Timing
from gbdnn import checks, machine
from gbdnn.errors import MemoryBudgetError, choose

__all__ = ["BIASES", "DENSE", "LISTS", "OPS", "PRESETS", "SweepJob", "grid", "sweep"]

OPS = {
    "affine": "h(W Y + b) on the whole neuron-major batch; of gbdnn the bare backend",
    "forward": "neuron-major batch in and out; of gbdnn with the tile executor, nothing skipped",
    "predict": "(n_samples, features) in and out, all conversions included, as a user calls it",
    "no-skip": "the same with skip=False; of other libraries the same",
}
BIASES = {"mixed": (-0.1, 0.1), "zero": (0.0, 0.0), "negative": (-0.1, 0.0), "positive": (0.0, 0.1)}
"""Bounds between which biases are drawn; skipping has to look at networks without positive ones."""
DENSE = frozenset({"dense", "torch-dense"})  # engines whose work follows out x in
LISTS: dict[str, Any] = {
    "sizes": (512, 2048), "densities": (0.2, 0.1, 0.05, 0.01), "batches": (1, 64, 256),
    "layers": 1, "ops": ("forward",), "biases": ("mixed",),
}  # fmt: skip
PRESETS: dict[str, dict[str, Any]] = {
    # Kepner et al. 2017, arXiv:1708.02937, figure of time against inverse sparsity
    "kepner": {
        "sizes": (512, 2048, 8192, 32768), "densities": tuple(4.0**-k for k in range(9)),
        "batches": (64,), "ops": ("affine",),
    },
    "mlp": {
        "sizes": (2048,), "densities": (0.2, 0.1, 0.05, 0.03, 0.01),
        "batches": (1, 16, 64, 256, 1024), "layers": 4, "ops": ("predict",),
        "biases": ("mixed", "zero", "negative", "positive"),
    },
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class SweepJob(Job):
    """One engine on `layers` square layers of `size` neurons with ReLU after each.

    Attributes
    ----------
    engine : str
        A backend of gbdnn or a peer.
    op : {"affine", "forward", "predict"}
        See `OPS`.
    size, layers, batch : int
    density : float
        Of each layer; entries are Erdos-Renyi, values He, the same for all engines.
    bias : {"mixed", "zero", "negative", "positive"}
        See `BIASES`.
    dtype : {"float32", "float64"}
    seed : int
    timing : Timing
        Does not tell jobs apart.
    """

    engine: str
    op: str
    size: int
    layers: int
    density: float
    batch: int
    bias: str = "mixed"
    dtype: str = "float32"
    seed: int = 0
    timing: Timing = field(default_factory=Timing)

    def __post_init__(self) -> None:
        choose("op", self.op, OPS)
        choose("bias", self.bias, BIASES)
        choose("dtype", self.dtype, ("float32", "float64"))
        for name in ("size", "layers", "batch", "threads"):
            checks.count(name, getattr(self, name))
        checks.within("density", self.density, "(0, 1]")

    @property
    def nnz(self) -> int:
        """Stored weights of all layers."""
        return self.layers * round(self.density * self.size * self.size)

    @property
    def needed_bytes(self) -> int:
        """About how much memory the process needs at its peak."""
        item = 4 if self.dtype == "float32" else 8
        places = self.size * self.size
        if self.engine in DENSE:
            form, making = 2 * places * self.layers * item, 0
        else:
            per_form, per_making = _SPARSE.get(self.engine, _OTHER)
            form, making = per_form * self.nnz * item // 4, per_making * self.nnz // self.layers
        if self.density == 1:
            kept, generating = item + 4 * (self.engine not in DENSE), item * places
            source = kept * places * self.layers
        else:
            source, generating = (item + 4) * self.nnz, _GENERATE * self.nnz // self.layers
        pointers = 24 * (self.size + 1) * self.layers
        batches = 5 * self.size * self.batch * item
        return _PROCESS + source + max(generating, form + making) + pointers + batches

    def measure(self) -> Record:
        """Make the network, prepare the engine, time it and check it."""
        from benchmarks.measuring import measure_job

        return measure_job(self)


@dataclass(frozen=True, kw_only=True)
class RooflineJob(Job):
    """The machine's limits, with all cores."""

    dtype: str

    def measure(self) -> Record:
        """Return the fields of `benchmarks.roofline.Roofline`."""
        from benchmarks.roofline import probe_roofline

        return asdict(probe_roofline(self.dtype))


# Bytes per stored weight (float32): the engine's own form of all layers, and what making one takes
_SPARSE = {
    "fused": (8, 40),
    "graphblas": (12, 24),
    "graphblas-reference": (12, 40),
    "mkl": (8, 8),
    "scipy": (8, 0),
    "torch-csr": (8, 8),
}
_OTHER = (12, 40)
_PROCESS = 350 << 20  # libraries, and what the comparison with float64 takes
_GENERATE = 40  # of sorting int64 places, per weight of one layer


def grid(
    engines: Iterable[str], *, sizes: Sequence[int], densities: Sequence[float],
    batches: Sequence[int], layers: int = 1, ops: Sequence[str] = ("forward",),
    biases: Sequence[str] = ("mixed",), **options: Any,
) -> list[SweepJob]:  # fmt: skip
    """Return all combinations; the engines of one case stand side by side.

    `options` are the other fields of `SweepJob`, `threads` among them.
    """
    names = ("op", "size", "bias", "density", "batch", "engine")
    cases = product(ops, sizes, biases, densities, batches, list(engines))
    return [
        SweepJob(layers=layers, **dict(zip(names, case, strict=True)), **options) for case in cases
    ]


def sweep(
    jobs: Sequence[SweepJob], out: Path | str, *, timeout: float = 900.0, **options: Any
) -> list[Record]:
    """Measure jobs and add their records to ``out/results.jsonl``; `options` are `measured`'s.

    Returns
    -------
    list of dict
        A job that does not fit into memory, or failed, has `status` "skipped" or "failed" and a
        `reason`. The others have also `roofline`, the machine's limits, `roofline_limit`, the one
        that counts for the engine, and `roofline_fraction`, the part of it that was reached.

    Raises
    ------
    InputError
        If the folder cannot be written.
    MemoryBudgetError
        If no job of one of the sizes fits into memory.
    """
    _refuse_impossible(jobs)
    limits: dict[str, Record] = {}

    def with_limit(record: Record) -> Record:
        if record["status"] != "ok" or "roofline" in record:
            return record
        dtype = record["dtype"]
        if dtype not in limits:
            probe = RooflineJob(threads=machine.available_cores(), dtype=dtype)
            limits[dtype] = process.run(probe, 120)
        return record | _fraction(record, limits[dtype])

    return measured(jobs, out, timeout=timeout, strict=False, accept=with_limit, **options)


def _refuse_impossible(jobs: Sequence[SweepJob]) -> None:
    """Raise `MemoryBudgetError` if some size fits with none of its engines."""
    free = machine.available_bytes()
    for size in dict.fromkeys(job.size for job in jobs):
        least = min(job.needed_bytes for job in jobs if job.size == size)
        if least > free:
            raise MemoryBudgetError(
                "sizes",
                f"cases that fit into the {free:,} bytes that are free",
                f"size {size}, of which the smallest case needs about {least:,} bytes",
                "Use smaller sizes, densities or batches.",
            )


def _fraction(record: Record, limits: Record) -> Record:
    """Compare the rate with the machine's limit for this kind of engine.

    A sparse product loads a vector of Y for each multiply-add: its limit is arithmetic fed from
    the first cache. A dense one keeps operands in registers, as one with common columns may: its
    limit is arithmetic. A dense engine's rate counts all places, not only the non-zeros.
    """
    if limits.get("status") != "ok":
        return {"roofline": None, "roofline_limit": None, "roofline_fraction": None}
    limits = {name: value for name, value in limits.items() if name != "status"}
    dense = record["engine"] in DENSE
    name = "fma" if dense or record["density"] == 1 else "l1"
    limit = min(record["threads"] * limits[f"{name}_one"], limits[f"{name}_all"])
    places = record["layers"] * record["size"] ** 2 * record["batch"]
    rate = (places if dense else record["edges"]) / record["seconds"] / 1e9
    return {"roofline": limits, "roofline_limit": name, "roofline_fraction": rate / limit}
