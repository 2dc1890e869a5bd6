"""Run a network of the Sparse DNN Graph Challenge and check its result (arXiv:1909.05631)."""

from __future__ import annotations

import hashlib
import time
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gbdnn import checks
from gbdnn.backends import get_backend
from gbdnn.challenge import files, images
from gbdnn.challenge.generate import Spec
from gbdnn.challenge.images import InputBits
from gbdnn.challenge.source import ChallengeSource
from gbdnn.execution import executor
from gbdnn.execution.source import Work
from gbdnn.files.disk import atomic_write
from gbdnn.machine import check_threads, peak_rss_bytes, versions

__all__ = ["ChallengeInputs", "ColumnSums", "Result", "finished", "load_inputs", "run"]

Array = npt.NDArray[Any]
Progress = Callable[[int], None]
# Non-zeros of the 60,000 official inputs (arXiv:1909.05631, Table I), by which they are recognised
OFFICIAL_NNZ = {1024: 6_374_505, 4096: 25_019_051, 16384: 98_858_913, 65536: 392_191_985}
OFFICIAL_COUNT = 60_000
# of the official neuron1024-l120-categories.tsv; the longer networks have the same categories
CATEGORIES_SHA256 = {1024: "a006e26755ca317ecf629035972137457705f20e3139b7796a2f9e9d58c8f4e1"}
ORACLE_EDGES = 4_000_000_000  # work that the comparison with the oracle may take
ORACLE_SAMPLES = 64
CHUNK_EDGES = 10_000_000_000_000  # two or three minutes between checkpoints
FIELDS = ("alive", "sums", "counts")


@dataclass(frozen=True, eq=False)
class ChallengeInputs:
    """The inputs of a run: `bits`, where they come from, and whether they are the official ones."""

    bits: InputBits
    origin: str
    official: bool


@dataclass(frozen=True, eq=False)
class Result:
    """What a run gave. `record` has what ``gbdnn challenge run --json`` prints."""

    categories: Array
    record: dict[str, Any]


def load_inputs(
    neurons: int, *, path: Path | None = None, data: Path | None = None, limit: int | None = None
) -> ChallengeInputs:
    """Find the inputs: a file, else official ones in `data`, else MNIST in the cache, else digits.

    Parameters
    ----------
    neurons : int
        Features of an input, the square of the enlarged images' side.
    path : Path, optional
        Images (.npz, idx, idx.gz), or inputs in the official form (.tsv, .tsv.gz).
    data : Path, optional
        A folder that may hold ``sparse-images-{neurons}.tsv``.
    limit : int, optional
        Use the first `limit` inputs only; all are transformed together before.
    """
    if limit is not None:
        checks.count("limit", limit)
    bits, origin = _find_inputs(neurons, path, data)
    official = bits.count == OFFICIAL_COUNT and bits.nnz == OFFICIAL_NNZ[neurons]
    return ChallengeInputs(bits if limit is None else bits.take(limit), origin, official)


def run(
    spec: Spec,
    inputs: ChallengeInputs,
    *,
    backend: str = "fused",
    threads: int | None = None,
    skip: bool = True,
    compact: bool = True,
    data: Path | None = None,
    truth: Path | None = None,
    checkpoint: Path | None = None,
    load_progress: Progress | None = None,
    progress: Progress | None = None,
) -> Result:
    """Run one network and compare the categories with what is known.

    Parameters
    ----------
    compact : bool
        Merge equal neurons of a layer as the layers are read (`gbdnn.compaction`).
    data : Path, optional
        Read the weights from official files there instead of generating them.
    truth : Path, optional
        A file with the right categories.
    checkpoint : Path, optional
        A folder. A long run keeps what its chunks gave there and goes on after an interruption.
    load_progress, progress : callable, optional
        Get the number of layers just loaded, and of (input, layer) pairs just computed.

    Returns
    -------
    Result
        Its `passed` is True or False if `truth` is given or the inputs are the official ones (the
        counts of arXiv:1909.05631; at 1,024 neurons also the official file's digest), else None.
    """
    engine, threads = get_backend(backend), check_threads(threads)
    known = None if truth is None else files.read_categories(truth)
    source = ChallengeSource(spec, data, compact)
    begin = time.perf_counter()
    source.load(engine, load_progress)
    engine.warm_up(source.dtype)  # compiling does not count as inference
    load_seconds = time.perf_counter() - begin
    sink = ColumnSums(inputs.bits.count, spec.neurons)
    work = Work()
    settings = (backend, skip, compact)
    saved = None if checkpoint is None else _Checkpoint.of(checkpoint, source, inputs, settings)
    start = 0 if saved is None else saved.read(sink, work)
    if progress:
        progress(start * spec.layers)
    chunk = inputs.bits.count if saved is None else _chunk(source, skip)
    for first in range(start, inputs.bits.count, chunk):
        part = inputs.bits.part(first, first + chunk)
        view = sink.part(first, first + chunk)
        if source.first is not None:
            work.effective_edges += source.first.nnz * part.count
            if progress:
                progress(part.count)
        work += executor.run(
            source, source.behind_first(part), view, backend=engine, threads=threads, skip=skip,
            progress=progress,
        )  # fmt: skip
        if saved is not None:
            saved.write(sink, work, first + part.count)
    chosen = {"backend": backend, "threads": threads, "skip": skip, "compact": compact}
    return finished(inputs, source, sink, work, load_seconds, known=known, **chosen)


def finished(
    inputs: ChallengeInputs,
    source: ChallengeSource,
    sink: ColumnSums,
    work: Work,
    load_seconds: float,
    *,
    known: Array | None,
    **settings: Any,
) -> Result:
    """Return the result of a run: its categories, compared with what is known, and its record.

    Parameters
    ----------
    source : ChallengeSource
        What was computed; it need not be loaded.
    known : ndarray or None
        The right categories, if somebody has said so.
    **settings
        Go into the record.
    """
    spec, count, seconds = source.spec, inputs.bits.count, work.seconds - work.waited
    categories = np.flatnonzero(sink.alive) + 1
    digest = hashlib.sha256(files.categories_bytes(categories)).hexdigest()
    record = {
        "neurons": spec.neurons,
        "layers": spec.layers,
        "inputs": count,
        "load_seconds": load_seconds + work.waited,
        "seconds": seconds,
        "compact_seconds": source.compact_seconds,
        "edges": spec.edges,
        "compact_edges": source.compact_edges,
        "nominal_edges": spec.edges * count,
        "effective_edges": work.effective_edges,
        "nominal_edges_per_second": spec.edges * count / seconds,
        "effective_edges_per_second": work.effective_edges / seconds,
        "categories": len(categories),
        "categories_sha256": digest,
        "passed": _judge(spec, inputs, categories, digest, known),
        "peak_rss_bytes": peak_rss_bytes(),
        "versions": versions(),
        "origin": inputs.origin,
        "oracle": _compare_with_oracle(source, inputs.bits, sink),
    }
    return Result(categories, record | settings)


def _judge(
    spec: Spec, inputs: ChallengeInputs, categories: Array, digest: str, known: Array | None
) -> bool | None:
    count = inputs.bits.count
    if known is not None:
        return bool(np.array_equal(categories, known[known <= count]))
    if not inputs.official or count != OFFICIAL_COUNT or spec.known_categories is None:
        return None
    right = len(categories) == spec.known_categories
    return right and CATEGORIES_SHA256.get(spec.neurons, digest) == digest


def _find_inputs(neurons: int, path: Path | None, data: Path | None) -> tuple[InputBits, str]:
    side = int(np.sqrt(neurons))
    if path is not None:
        if path.name.removesuffix(".gz").endswith((".tsv", ".mtx")):
            return files.read_images(path, neurons), str(path)
        return images.cached_resize(images.load_images(path), side), str(path)
    if data is not None and (official := files.images_path(data, neurons)).exists():
        return files.read_images(official, neurons), str(official)
    if (mnist := images.official_images()) is not None:
        return images.cached_resize(mnist, side), "MNIST (cache)"
    return images.resize(images.embedded_images(), side), "digits (embedded)"


class ColumnSums:
    """Keeps of each input whether anything is left of it, and the sum of its last activations."""

    view = None

    def __init__(self, count: int, features: int) -> None:
        self.features = features
        self.alive, self.sums = np.zeros(count, bool), np.zeros(count)

    def part(self, start: int, stop: int) -> ColumnSums:
        """Return a sink whose first input is number `start` here; it writes into this one."""
        sink = ColumnSums(0, self.features)
        sink.alive, sink.sums = self.alive[start:stop], self.sums[start:stop]
        return sink

    def write(self, ids: Array, Y: Array) -> None:
        """Take columns."""
        self.alive[ids] = (Y != 0).any(axis=0)
        self.sums[ids] = Y.sum(axis=0, dtype=np.float64)

    def fill(self, ids: Array, value: float) -> None:
        """Take constant columns."""
        self.alive[ids] = value != 0
        self.sums[ids] = value * self.features


def _chunk(source: ChallengeSource, skip: bool) -> int:
    """Return how many inputs to take between two checkpoints: some minutes' work without skipping.

    With skipping all inputs go together, since survivors merge into fuller tiles.
    """
    return OFFICIAL_COUNT if skip else max(CHUNK_EDGES // source.spec.edges // 8 * 8, 8)


@dataclass(frozen=True, eq=False)
class _Checkpoint:
    """What is known of a run after some of its inputs, in a file that is replaced as a whole."""

    path: Path

    @classmethod
    def of(
        cls,
        folder: Path,
        source: ChallengeSource,
        inputs: ChallengeInputs,
        settings: tuple[Any, ...],
    ) -> _Checkpoint:
        """Name the file after everything that the result depends on."""
        bits = inputs.bits
        parts = (source.spec, source.data, bits.count, *settings, sorted(versions().items()))
        key = hashlib.sha256(repr(parts).encode() + np.ascontiguousarray(bits.bits).tobytes())
        folder.mkdir(parents=True, exist_ok=True)
        return cls(folder / f"{source.spec.neurons}x{source.depth}-{key.hexdigest()[:24]}.npz")

    def read(self, sink: ColumnSums, work: Work) -> int:
        """Fill `sink` and `work`; return how many inputs are done, with a damaged file none."""
        try:
            with self.path.open("rb") as file, np.load(file, allow_pickle=False) as content:
                done, alive, sums, counts = (content[name] for name in ("done", *FIELDS))
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
            return 0
        if alive.shape != sink.alive.shape or sums.shape != sink.sums.shape or counts.shape != (4,):
            return 0
        sink.alive[:], sink.sums[:] = alive, sums
        work += Work(int(counts[0]), int(counts[1]), float(counts[2]), float(counts[3]))
        return int(done)

    def write(self, sink: ColumnSums, work: Work, done: int) -> None:
        """Keep the state after the first `done` inputs; after the last remove it."""
        if done >= len(sink.alive):
            self.path.unlink(missing_ok=True)
            return
        counts = np.array([work.nominal_edges, work.effective_edges, work.seconds, work.waited])
        with atomic_write(self.path) as file:
            np.savez(file, done=done, alive=sink.alive, sums=sink.sums, counts=counts)


# -- the oracle ------------------------------------------------------------------------------------


def _compare_with_oracle(
    source: ChallengeSource, inputs: InputBits, sink: ColumnSums
) -> dict[str, Any] | None:
    """Recompute a sample in float64 with other code; None if that would take too long.

    At 1,024 neurons the weights are full matrices and the product is BLAS'; above, where a full
    layer would take 0.1 to 34 GB, it is scipy's sparse product.
    """
    count = min(ORACLE_SAMPLES, ORACLE_EDGES // source.spec.edges, inputs.count)
    if count == 0:
        return None
    ids = _sample(sink.alive, count)
    Y = np.unpackbits(inputs.select(ids).bits, axis=1)[:, : len(ids)].astype(np.float64)
    dense = source.spec.neurons == 1024
    for weight in source.weights():
        W = weight.astype(np.float64)
        Z = (W.to_dense() if dense else W.to_scipy()) @ Y + np.float64(np.float32(source.spec.bias))
        Y = np.clip(Z, 0, source.spec.cap)
    sums = Y.sum(axis=0)
    difference = np.abs(sums - sink.sums[ids]).max() / max(float(sums.max()), 1.0)
    return {
        "kind": "dense float64" if dense else "scipy float64",
        "samples": len(ids),
        "survivors": int(Y.any(axis=0).sum()),
        "agree": int((Y.any(axis=0) == sink.alive[ids]).sum()),
        "largest_relative_difference": float(difference),
    }


def _sample(alive: Array, count: int) -> Array:
    """Choose `count` inputs, half of them survivors if there are as many."""
    rng = np.random.default_rng(0)
    pick = partial(rng.choice, replace=False)
    survivors, dead = np.flatnonzero(alive), np.flatnonzero(~alive)
    some = min(len(survivors), max(count // 2, count - len(dead)))
    return np.sort(np.concatenate([pick(survivors, some), pick(dead, count - some)]))
