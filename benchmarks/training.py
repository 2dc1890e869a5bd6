"""`gbdnn bench training`: steps (forward, backward, Adam) of a sparse MLP with ReLU against torch.

gbdnn's steps are `Training.train_step`, with all its checks: what `Trainer.fit` runs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count, pairwise
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.process import Job, Record
from benchmarks.rounds import grouped, measured, medians, spread
from benchmarks.timing import Timing, measure
from gbdnn import checks
from gbdnn.backends import BACKENDS
from gbdnn.challenge.table import markdown_table, origin
from gbdnn.errors import BackendError, InputError, choose
from gbdnn.types import Array
from gbdnn.weights import CSR

__all__ = ["PEERS", "PRODUCTS", "TrainingJob", "compare", "engines", "jobs", "report"]

PEERS = ("torch-csr", "torch-csr-sampled", "torch-dense", "torch-gbdnn")
PRODUCTS = ("forward", "input gradient", "weight gradient")
BATCHES = 2  # different mini-batches, taken in turn
AGREE = 1e-3  # relative difference of losses that is put down to rounding
RATE = 1e-4  # learning rate
KEPT = 8  # losses of the first steps that a record has


def engines() -> list[str]:
    """Return what can be compared: gbdnn's backends and ways to train with torch."""
    return [*BACKENDS, *PEERS]


@dataclass(frozen=True, kw_only=True)
class TrainingJob(Job):
    """One engine; all train the same network on the same mini-batches, made from the seed.

    Attributes
    ----------
    engine : str
        A backend of gbdnn or one of `PEERS`.
    widths : tuple of int
        Features of the input and of each layer.
    sparsity : float
        Part of the places of each layer without a weight, in [0, 1).
    batch, threads, seed : int
    seconds : float
        How long steps are timed.
    """

    told = ("engine", "sparsity", "step_ms")

    engine: str
    sparsity: float
    widths: tuple[int, ...] = (1024, 4096, 4096, 10)
    batch: int = 256
    seed: int = 0
    seconds: float = 2.0

    def __post_init__(self) -> None:
        choose("engine", self.engine, engines())
        if len(self.widths) < 2 or min(self.widths) < 1:
            raise InputError("widths", "two or more numbers from 1 up", repr(self.widths))
        checks.fraction("sparsity", self.sparsity)
        checks.count("batch", self.batch)
        checks.count("threads", self.threads)
        checks.positive("seconds", self.seconds)

    def weights(self) -> list[CSR]:
        """Return the layers' weights, He's values at random places."""
        from gbdnn.topology import erdos_renyi

        rng = np.random.default_rng(self.seed)
        density = 1 - self.sparsity
        return [
            erdos_renyi(rows, columns, density=density, rng=rng)
            for columns, rows in pairwise(self.widths)
        ]

    def samples(self) -> tuple[Array, Array]:
        """Return X (samples, features), normal numbers, and y, random classes."""
        rng = np.random.default_rng([self.seed, 1])
        number = BATCHES * self.batch
        X = rng.standard_normal((number, self.widths[0]), np.float32)
        return X, rng.integers(0, self.widths[-1], number)

    def measure(self) -> Record:
        """Train some steps; making the network and the warm-up are not timed.

        Returns
        -------
        dict
            ``step_ms`` (median), ``steps``, the first ``losses``, ``nnz``, ``state_bytes``,
            ``peak_rss_bytes``, for gbdnn's backends ``products``.
        """
        from gbdnn.machine import peak_rss_bytes

        if self.engine in PEERS:
            from benchmarks.torch_training import prepare

            step, state_bytes = prepare(self)
        else:
            training, batches = self._training()
            turn = count()

            def step() -> float:
                return float(training.train_step(batches[next(turn) % BATCHES]))

            def state_bytes() -> int:
                return int(training.nbytes)

        losses: list[float] = []
        timed = measure(lambda: losses.append(step()), Timing.fixed(5, self.seconds))
        record = {
            "step_ms": timed.seconds * 1e3, "steps": len(losses), "losses": losses[:KEPT],
            "nnz": sum(round((1 - self.sparsity) * a * b) for a, b in pairwise(self.widths)),
            "state_bytes": state_bytes(),
        }  # fmt: skip
        if self.engine not in PEERS:
            record["products"] = self._products(training.model)
        return record | {"peak_rss_bytes": peak_rss_bytes()}

    def _training(self) -> tuple[Any, list[Any]]:
        """Return gbdnn's live training and its mini-batches."""
        from gbdnn.data.batches import ArrayBatches
        from gbdnn.data.inputs import as_inputs
        from gbdnn.layers import LOSSES, Linear
        from gbdnn.network import Network
        from gbdnn.training import Trainer, Training
        from gbdnn.training.model import Model

        layers: list[Any] = []
        for weight in self.weights():
            layers += [Linear(weight, np.zeros(weight.shape[0], np.float32)), "relu"]
        network = Network([*layers[:-1], "softmax"])
        trainer = Trainer(
            batch_size=self.batch, learning_rate=RATE, backend=self.engine, threads=self.threads
        )
        model = Model(network, loss=LOSSES[trainer.loss], backend=self.engine, threads=self.threads)
        X, y = self.samples()
        inputs = as_inputs(X, self.widths[0], X.dtype)
        batches = ArrayBatches(inputs, y, np.ones(len(y)), self.batch, shuffle=False)
        return Training(trainer, model), list(batches.epoch(0, 0))

    def _products(self, model: Any) -> Record:
        """Time the three products by themselves: GEdge/s over all layers, beside the roofline."""
        from benchmarks.roofline import probe_roofline

        forms = [p.form for p in model.parameters.values() if p.form is not None]
        limits = [probe_roofline()]
        seconds, edges = dict.fromkeys(PRODUCTS, 0.0), dict.fromkeys(PRODUCTS, 0)
        with model.backend.pinned(self.threads):
            for number, form in enumerate(forms):
                for name, call in self._calls(model.backend, form).items():
                    if name != "input gradient" or number:  # the first layer needs none
                        seconds[name] += measure(call, Timing.fixed(7, 0.0)).seconds
                        edges[name] += form.pattern.nnz * self.batch
        limits.append(probe_roofline())
        limit = max(each.l2_one if self.threads == 1 else each.l2_all for each in limits)
        total = sum(seconds.values())
        rates = {name: edges[name] / seconds[name] / 1e9 for name in PRODUCTS if seconds[name]}
        return dict.fromkeys(PRODUCTS, 0.0) | rates | {
            "products_ms": total * 1e3,
            "l2_gedge_per_s": limit,
            "roofline": sum(edges.values()) / total / 1e9 / limit,
        }  # fmt: skip

    def _calls(self, backend: Any, form: Any) -> dict[str, Callable[[], None]]:
        from gbdnn.backends.base import aligned_empty

        (rows, columns), dtype, threads = form.shape, form.values.dtype, self.threads
        width = backend.width(max(self.widths), dtype, self.batch)
        tiles = -(-self.batch // width)

        def batch(features: int) -> Array:
            array = aligned_empty(tiles * features * width, dtype).reshape(tiles, features, width)
            array.fill(0.5)
            return array

        Y, Z, dY, dZ = (batch(features) for features in (columns, rows, columns, rows))
        bias, grad, relu = np.zeros(rows, dtype), np.empty_like(form.values), (0.0, np.inf)
        return {
            "forward": lambda: backend.affine(form, Y, bias, Z, clamp=relu, threads=threads),
            "input gradient": lambda: backend.input_grad(form, dZ, dY, threads),
            "weight gradient": lambda: backend.weight_grad(form, dZ, Y, grad, threads),
        }


def jobs(sparsities: Sequence[float], engines: Sequence[str], **settings: Any) -> list[TrainingJob]:
    """Return a job for each engine at each sparsity; `settings` are its other fields."""
    return [
        TrainingJob(engine=engine, sparsity=sparsity, **settings)
        for sparsity in sparsities
        for engine in engines
    ]


def compare(jobs: Sequence[TrainingJob], out: Path, **options: Any) -> list[Record]:
    """Time all jobs in turn, `measured` with its options.

    Returns
    -------
    list of dict
        For each sparsity and engine the median step in ms over the rounds, all of them, the state
        in bytes, and for gbdnn's backends the median rates of the three products.

    Raises
    ------
    BackendError
        If an engine fails, or its first loss is not the others'.
    """
    losses: dict[float, float] = {}

    def check_loss(record: Record) -> Record:
        """Refuse to compare engines that do not compute the same."""
        loss = record["losses"][0]
        first = losses.setdefault(record["sparsity"], loss)
        if not abs(loss - first) <= AGREE * abs(first):
            expected = f"a loss of {first:.6g} in the first step"
            raise BackendError(record["engine"], expected, f"{loss:.6g}")
        return record

    keys = ("sparsity", "engine")
    records = measured(jobs, out, accept=check_loss, **options)
    cases = medians(records, keys, "step_ms")
    for case, runs in zip(cases, grouped(records, *keys).values(), strict=True):
        for name in case.get("products", ()):
            values = [run["products"][name] for run in runs]
            case["products"] = case["products"] | {name: float(median(values))}
    return cases


def report(cases: Sequence[Record]) -> str:
    """Return two Markdown tables: steps with ratios to torch, and what the time goes into."""
    found = {(case["sparsity"], case["engine"]): case for case in cases}
    others = [name for name in PEERS if any(engine == name for _, engine in found)]
    steps, products = [], []
    for (sparsity, engine), case in found.items():
        head, ms = [f"{sparsity:.2%}", engine], case["step_ms"]
        steps.append([
            *head,
            spread(ms, case["all_step_ms"], ".1f"),
            *(f"{found[sparsity, name]['step_ms'] / ms:.3g}" for name in others),
            f"{case['state_bytes'] / case['nnz']:.1f}",
        ])  # fmt: skip
        if rates := case.get("products"):
            parts = [f"{rates['roofline']:.0%}", f"{rates['products_ms'] / ms:.0%}"]
            products.append([*head, *(f"{rates[name]:.1f}" for name in PRODUCTS), *parts])
    step_heads = ["sparsity", "engine", "ms a step (min to max)",
                  *(f"times {name}" for name in others), "bytes a non-zero"]  # fmt: skip
    product_heads = ["sparsity", "engine", *PRODUCTS, "of L2's rate", "of the step"]
    first = cases[0]
    return (
        f"{markdown_table(step_heads, steps, left=2)}\n"
        f"{markdown_table(product_heads, products, left=2)}\n"
        f"MLP {'-'.join(map(str, first['widths']))}, batch {first['batch']}, forward + backward + "
        f"Adam; medians of {len(first['all_step_ms'])} rounds, engines in turn, one process each. "
        "Bytes: weights in all forms, gradients and Adam's state, without activations. Products "
        "in GEdge/s; L2's rate: one operand of each multiply-add loaded from the second cache, "
        f"measured beside; {origin(first)}\n"
    )
