"""`gbdnn bench torch-model`: a pruned model of torch before and after, its file, memory and time.

The model is made once: torch.nn.Linear and ReLU, pruned by `torch.nn.utils.prune`; before it is
what `torch.save` writes of its state dict, or an ONNX file; after it is what `gbdnn.from_torch`
makes of it.
"""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.process import Job, Record, status_bytes
from benchmarks.rounds import measured, medians, spread
from benchmarks.timing import Timing, measure
from gbdnn.challenge.table import markdown_table, origin
from gbdnn.models import mlp
from gbdnn.network import Network

__all__ = ["ENGINES", "MakingJob", "ModelJob", "compare", "jobs", "report"]

FILES = {"torch": "torch.pt", "onnxruntime": "model.onnx", "gbdnn": "model.safetensors"}
ENGINES = tuple(FILES)
TINY = "tiny.onnx"  # what a process runs first, so that libraries and code do not count as memory


@dataclass(frozen=True, kw_only=True)
class MakingJob(Job):
    """Makes the model and writes its three files to a folder of their own."""

    sparsity: float
    widths: tuple[int, ...]
    seed: int
    folder: str

    @property
    def home(self) -> Path:
        """The folder of the files."""
        return Path(self.folder) / sha256(self.key.encode()).hexdigest()[:8]

    def model(self, *, pruned: bool) -> Any:
        """Return the model, with weights of its own or with those that are to be loaded."""
        import torch
        from torch.nn.utils import prune

        torch.manual_seed(self.seed)
        layers: list[Any] = []
        for into, out in pairwise(self.widths):
            layers += [torch.nn.Linear(into, out), torch.nn.ReLU()]
            if pruned:
                prune.l1_unstructured(layers[-2], "weight", amount=self.sparsity)
        return torch.nn.Sequential(*layers[:-1]).eval()

    def measure(self) -> Record:
        """Write the files; return their bytes, and how far the outputs are apart."""
        import torch
        from torch.nn.utils import prune

        import gbdnn

        self.home.mkdir(parents=True, exist_ok=True)
        model = self.model(pruned=True)
        network = gbdnn.from_torch(model)
        network.save(self.home / FILES["gbdnn"])
        gbdnn.save_onnx(network, self.home / FILES["onnxruntime"])
        gbdnn.save_onnx(_tiny(), self.home / TINY)
        for layer in model[::2]:
            prune.remove(layer, "weight")
        torch.save(model.state_dict(), self.home / FILES["torch"])
        X = np.random.default_rng(self.seed).standard_normal((64, self.widths[0]), np.float32)
        with torch.no_grad():
            error = np.abs(network.predict(X) - model(torch.from_numpy(X)).numpy()).max()
        sizes = {name: (self.home / file).stat().st_size for name, file in FILES.items()}
        return {"file_bytes": sizes, "nnz": network.edges, "error": float(error)}


@dataclass(frozen=True, kw_only=True)
class ModelJob(Job):
    """One engine that loads its file and predicts."""

    engine: str
    batch: int
    making: MakingJob
    folder: str

    def measure(self) -> Record:
        """Return the time of a prediction, and by how much the process grew for the model."""
        load = {"torch": self._torch, "onnxruntime": self._onnxruntime, "gbdnn": self._gbdnn}
        start, warm = load[self.engine]()
        X = np.random.default_rng(1).standard_normal((self.batch, self.making.widths[0]),
                                                     np.float32)  # fmt: skip
        warm()
        before = _resident()
        call = start()
        call(X)
        grown = _resident() - before
        timing = Timing(min_time=0.5, max_time=2.0)
        return {"ms": 1e3 * measure(lambda: call(X), timing).seconds, "grown_bytes": grown}

    def _path(self) -> Path:
        return self.making.home / FILES[self.engine]

    def _torch(self) -> Any:
        import torch

        torch.set_num_threads(self.threads)

        def predict(model: Any) -> Callable[[Any], Any]:
            def call(X: Any) -> Any:
                with torch.inference_mode():
                    return model(torch.from_numpy(X)).numpy()

            return call

        def start() -> Any:
            model = self.making.model(pruned=False)
            model.load_state_dict(torch.load(self._path(), weights_only=True, mmap=False))
            return predict(model)

        return start, lambda: predict(torch.nn.Linear(8, 8))(np.zeros((4, 8), np.float32))

    def _onnxruntime(self) -> Any:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads

        def start() -> Any:
            session = onnxruntime.InferenceSession(
                self._path(), options, providers=["CPUExecutionProvider"]
            )
            return lambda X: session.run(None, {"X": X})[0]

        def warm() -> None:
            tiny = onnxruntime.InferenceSession(
                self.making.home / TINY, options, providers=["CPUExecutionProvider"]
            )
            tiny.run(None, {"X": np.zeros((4, 64), np.float32)})

        return start, warm

    def _gbdnn(self) -> Any:
        import gbdnn

        def warm() -> None:
            _tiny().predict(np.zeros((self.batch, 64), np.float32), threads=self.threads)

        def start() -> Any:
            network = gbdnn.load(self._path())
            return lambda X: network.predict(X, threads=self.threads)

        return start, warm

    def describe(self, record: Record) -> str:
        """Return engine, sparsity, batch and time."""
        return (f"{self.engine}, {self.making.sparsity:.0%}, batch {self.batch}: "
                f"{record['ms']:.3f} ms")  # fmt: skip


def _tiny() -> Network:
    return mlp((64, 96, 96, 10), density=0.1, activation="relu")


def _resident() -> int:
    """Return the bytes of the process in memory, without what the allocator keeps for later."""
    gc.collect()
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    return status_bytes("VmRSS")


def jobs(
    engines: Iterable[str], out: Path, *, sparsities: Sequence[float], batches: Sequence[int],
    widths: Sequence[int], seed: int, threads: int,
) -> list[ModelJob]:  # fmt: skip
    """Return all engines at all sparsities and batch sizes."""
    folder = str(out.resolve())
    return [
        ModelJob(engine=engine, batch=batch, threads=threads, folder=folder, making=MakingJob(
            sparsity=sparsity, widths=tuple(widths), seed=seed, threads=threads, folder=folder))
        for sparsity in sparsities for batch in batches for engine in engines
    ]  # fmt: skip


def compare(
    jobs: Sequence[ModelJob], out: Path, *, rounds: int = 1, **options: Any
) -> list[Record]:
    """Make the models, time all jobs in turn, return the medians of each."""
    out.mkdir(parents=True, exist_ok=True)
    made = {}
    for making in dict.fromkeys(job.making for job in jobs):
        fresh = options.get("fresh") or not (making.home / FILES["gbdnn"]).exists()
        silent = {"fresh": fresh, "progress": lambda _: None}
        (made[making.sparsity],) = measured([making], out, **options | silent)
    records = [
        {**record, "sparsity": job.making.sparsity, "widths": job.making.widths}
        for job, record in zip(jobs * rounds, measured(jobs, out, rounds=rounds, **options),
                               strict=True)
    ]  # fmt: skip
    cases = medians(records, ("sparsity", "batch", "engine"), "ms")
    for case in cases:
        making = made[case["sparsity"]]
        case |= {"file_bytes": making["file_bytes"][case["engine"]], "nnz": making["nnz"],
                 "error": making["error"]}  # fmt: skip
    kept = ("engine", "sparsity", "batch", "threads", "widths", "ms", "all_ms", "grown_bytes",
            "file_bytes", "nnz", "error", "machine", "versions")  # fmt: skip
    return [{name: case[name] for name in kept} for case in cases]


def report(cases: Sequence[Record]) -> str:
    """Return the table in Markdown."""
    first = cases[0]
    before = {(c["sparsity"], c["batch"]): c for c in cases if c["engine"] == "torch"}
    rows = []
    for case in cases:
        torch = before[case["sparsity"], case["batch"]]
        rows.append([
            f"{case['sparsity']:.0%}", str(case["batch"]), case["engine"],
            spread(case["ms"], case["all_ms"], ".3f"), f"{torch['ms'] / case['ms']:.2f}",
            f"{case['grown_bytes'] / 1e6:.1f}", f"{case['file_bytes'] / 1e6:.2f}",
        ])  # fmt: skip
    heads = ["zeros", "batch", "engine", "ms (min to max)", "times torch", "memory, MB",
             "file, MB"]  # fmt: skip
    sizes = "-".join(map(str, first["widths"]))
    return (
        f"{markdown_table(heads, rows)}\nMLP {sizes}, weights of torch's initialisation, pruned by "
        f"`l1_unstructured`; torch and onnxruntime keep the zeros. Memory: what the process grew "
        f"by from before the model was loaded to behind its first prediction, as a small one had "
        f"run before. Outputs differ by at "
        f"most {max(case['error'] for case in cases):.1e}; medians of {len(first['all_ms'])} "
        f"rounds, engines in turn, one process each; {origin(first)}\n"
    )
