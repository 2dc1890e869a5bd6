"""A training step against torch: forward, backward and Adam on a sparse MLP with ReLU.

``python -m benchmarks.training JSON`` is one engine in one process; `compare` runs all of them in
turn, several rounds, and takes medians, so that a drifting machine meets all engines alike.
gbdnn's steps are `Training.train_step`, with all its checks: what `Trainer.fit` runs.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.process import made_on, record_of
from gbdnn.backends import BACKENDS, get_backend
from gbdnn.backends.base import Backend, Trainable, aligned_empty
from gbdnn.errors import BackendError, InputError, choose
from gbdnn.machine import machine, peak_rss_bytes, versions
from gbdnn.weights.csr import CSR

__all__ = ["PEERS", "Case", "compare", "markdown", "one_run"]

Array = npt.NDArray[Any]
Record = dict[str, Any]
PEERS = ("torch-csr", "torch-csr-sampled", "torch-dense")
BATCHES = 2  # different mini-batches, taken in turn
WARM_UP = 3  # steps, of which the first compiles and allocates
AGREE = 1e-3  # relative difference of losses that is put down to rounding
RATE = 1e-4  # learning rate


@dataclass(frozen=True)
class Case:
    """What every engine trains: the same network and mini-batches, made from the seed.

    Attributes
    ----------
    widths : tuple of int
        Features of the input and of each layer.
    sparsity : float
        Part of the places of each layer without a weight, in [0, 1).
    batch, threads, seed : int
    seconds : float
        How long steps are timed in each process; at least 5 steps are.
    """

    widths: tuple[int, ...] = (1024, 4096, 4096, 10)
    sparsity: float = 0.9
    batch: int = 256
    threads: int = 2
    seed: int = 0
    seconds: float = 2.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "widths", tuple(self.widths))
        if len(self.widths) < 2 or min(self.widths) < 1:
            raise InputError("widths", "two or more numbers from 1 up", repr(self.widths))
        if not 0 <= self.sparsity < 1:
            raise InputError("sparsity", "a number from 0 to below 1", repr(self.sparsity))
        if min(self.batch, self.threads) < 1 or not self.seconds > 0:
            got = f"{self.batch}, {self.threads}, {self.seconds}"
            raise InputError("batch, threads, seconds", "positive numbers", got)

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
        count = BATCHES * self.batch
        X = rng.standard_normal((count, self.widths[0]), np.float32)
        return X, rng.integers(0, self.widths[-1], count)


def compare(
    *,
    sparsities: Sequence[float] = (0.8, 0.9, 0.98),
    engines: Sequence[str] = ("fused", "torch-dense", "torch-csr", "torch-csr-sampled"),
    rounds: int = 5,
    report: Callable[[str], None] = print,
    **options: Any,
) -> Record:
    """Time all engines at each sparsity, in turn, `rounds` times.

    Parameters
    ----------
    sparsities : sequence of float
    engines : sequence of str
        Of gbdnn's backends and `PEERS`.
    rounds : int
    report : callable
        Gets a line after each process.
    **options
        Of `Case`.

    Returns
    -------
    dict
        ``cells``: for each sparsity and engine the median step in ms over the rounds, smallest and
        largest, its state in bytes, and for gbdnn's backends the rates of the three products;
        ``machine``, ``versions``, ``rounds`` and the options.

    Raises
    ------
    BackendError
        If an engine fails, or its first loss is not the others'.
    """
    for engine in engines:
        choose("engine", engine, [*BACKENDS, *PEERS])
    cases = [Case(sparsity=sparsity, **options) for sparsity in sparsities]
    runs: dict[tuple[float, str], list[Record]] = {}
    for number in range(rounds):
        for case in cases:
            for engine in engines:
                record = _in_a_process(engine, case)
                runs.setdefault((case.sparsity, engine), []).append(record)
                what = f"round {number + 1}: {engine}, sparsity {case.sparsity:g}"
                report(f"{what}: {record['step_ms']:.2f} ms a step")
            _check_losses({e: runs[case.sparsity, e][-1]["losses"][0] for e in engines})
    shared = {key: value for key, value in asdict(cases[0]).items() if key != "sparsity"}
    return shared | {
        "rounds": rounds,
        "machine": machine(),
        "versions": versions() | versions(("torch",)),
        "cells": [_summary(*key, found) for key, found in runs.items()],
    }


def _check_losses(losses: dict[str, float]) -> None:
    """Refuse to compare engines that do not compute the same."""
    first = next(iter(losses.values()))
    for engine, loss in losses.items():
        if not abs(loss - first) <= AGREE * abs(first):
            raise BackendError(engine, f"a loss of {first:.6g} in the first step", f"{loss:.6g}")


def _summary(sparsity: float, engine: str, runs: list[Record]) -> Record:
    def median(name: str, records: list[Record] = runs) -> float:
        return float(np.median([record[name] for record in records]))

    steps = [run["step_ms"] for run in runs]
    cell = {
        "sparsity": sparsity,
        "engine": engine,
        "step_ms": median("step_ms"),
        "all_step_ms": steps,
        "nnz": runs[0]["nnz"],
        "state_bytes": runs[0]["state_bytes"],
        "peak_rss_bytes": int(median("peak_rss_bytes")),
        "last_loss": runs[0]["losses"][-1],
    }
    if "products" in runs[0]:
        products = [run["products"] for run in runs]
        cell["products"] = {name: median(name, products) for name in products[0]}
    return cell


def markdown(result: Record) -> str:
    """Return two tables: steps with ratios to torch, and what the time goes into."""
    cells = {(cell["sparsity"], cell["engine"]): cell for cell in result["cells"]}
    rivals = [name for name in PEERS if any(engine == name for _, engine in cells)]
    head = ["sparsity", "engine", "ms a step (min to max)", *(f"times {name}" for name in rivals)]
    lines = _header([*head, "bytes a non-zero"], left=2)
    for (sparsity, engine), cell in cells.items():
        steps, ratios = cell["all_step_ms"], []
        for name in rivals:
            rival = cells.get((sparsity, name))
            ratios.append(f"{rival['step_ms'] / cell['step_ms']:.3g}" if rival else "")
        spread = f"{cell['step_ms']:.1f} ({min(steps):.1f} to {max(steps):.1f})"
        size = f"{cell['state_bytes'] / cell['nnz']:.1f}"
        lines.append(_row([f"{sparsity:.2%}", engine, spread, *ratios, size]))
    lines += ["", *_header(["sparsity", "engine", *PRODUCTS, "of L2's rate", "of the step"], 2)]
    for (sparsity, engine), cell in cells.items():
        if (found := cell.get("products")) is None:
            continue
        rates = [f"{found[name]:.1f}" for name in PRODUCTS]
        parts = [f"{found['roofline']:.0%}", f"{found['products_ms'] / cell['step_ms']:.0%}"]
        lines.append(_row([f"{sparsity:.2%}", engine, *rates, *parts]))
    widths = "-".join(str(width) for width in result["widths"])
    lines += [
        "",
        f"MLP {widths}, batch {result['batch']}, forward + backward + Adam, "
        f"{result['threads']} threads; medians of {result['rounds']} rounds, engines in turn, one "
        "process each. Bytes: weights in all forms, gradients and Adam's state, without "
        "activations. Products in GEdge/s; L2's rate: one operand of each multiply-add loaded from "
        f"the second cache, measured beside; {made_on(result)}",
    ]
    return "\n".join(lines) + "\n"


def _row(words: Sequence[str]) -> str:
    return "| " + " | ".join(words) + " |"


def _header(words: Sequence[str], left: int) -> list[str]:
    return [_row(words), "|" + "---|" * left + "--:|" * (len(words) - left)]


def _in_a_process(engine: str, case: Case) -> Record:
    words = json.dumps({"engine": engine, **asdict(case)})
    return record_of(engine, "benchmarks.training", words)


# -- one run in this process -----------------------------------------------------------------------


def one_run(engine: str, case: Case) -> Record:
    """Train some steps in this process; making the network and the warm-up are not timed.

    Returns
    -------
    dict
        ``step_ms`` (median), ``steps``, ``losses``, ``nnz``, ``state_bytes``, ``peak_rss_bytes``,
        for gbdnn's backends ``products``.
    """
    if choose("engine", engine, [*BACKENDS, *PEERS]) in PEERS:
        from benchmarks import _torch_training

        step, state_bytes = _torch_training.prepare(engine, case)
        return _timed(step, case) | {"state_bytes": state_bytes()} | _sizes(case)
    training, batches = _training(engine, case)
    turn = iter(range(1 << 62))
    record = _timed(lambda: training.train_step(batches[next(turn) % BATCHES]), case)
    record["state_bytes"] = training.nbytes
    forms = [layer.form for layer in training.model.layers]
    return record | {"products": _products(engine, forms, case)} | _sizes(case)


def _sizes(case: Case) -> Record:
    places = [rows * columns for columns, rows in pairwise(case.widths)]
    nnz = sum(round((1 - case.sparsity) * count) for count in places)
    return {"nnz": nnz, "peak_rss_bytes": peak_rss_bytes()}


def _training(backend: str, case: Case) -> tuple[Any, list[Any]]:
    """Return gbdnn's live training and its mini-batches."""
    from gbdnn.data.batches import ArrayBatches
    from gbdnn.data.inputs import as_inputs
    from gbdnn.layers import Linear
    from gbdnn.network import Network
    from gbdnn.training import Trainer, Training

    layers: list[Any] = []
    for weight in case.weights():
        layers += [Linear(weight, np.zeros(weight.shape[0], np.float32)), "relu"]
    network = Network([*layers[:-1], "softmax"])
    trainer = Trainer(
        batch_size=case.batch, learning_rate=RATE, backend=backend, threads=case.threads
    )
    X, y = case.samples()
    inputs = as_inputs(X, case.widths[0], X.dtype)
    batches = ArrayBatches(inputs, y, np.ones(len(y)), case.batch, shuffle=False)
    return Training(trainer, network), list(batches.epoch(0, 0))


def _timed(step: Callable[[], float], case: Case) -> Record:
    losses = [float(step()) for _ in range(WARM_UP)]
    seconds: list[float] = []
    while len(seconds) < 5 or sum(seconds) < case.seconds:
        begin = time.perf_counter()
        losses.append(float(step()))
        seconds.append(time.perf_counter() - begin)
    median = float(np.median(seconds)) * 1e3
    return {"step_ms": median, "steps": len(seconds), "losses": losses}


PRODUCTS = ("forward", "input gradient", "weight gradient")


def _products(engine: str, forms: Sequence[Trainable], case: Case) -> Record:
    """Time the three products by themselves: GEdge/s over all layers, beside the roofline."""
    from gbdnn.backends.fused.roofline import probe_roofline

    backend = get_backend(engine)
    limits = [probe_roofline()]
    seconds, edges = dict.fromkeys(PRODUCTS, 0.0), dict.fromkeys(PRODUCTS, 0)
    with backend.pinned(case.threads):
        for number, form in enumerate(forms):
            for name, call in _calls(backend, form, case).items():
                if name != "input gradient" or number:  # the first layer needs none
                    seconds[name] += _median_seconds(call)
                    edges[name] += form.pattern.nnz * case.batch
    limits.append(probe_roofline())
    one = case.threads == 1
    limit = max(each.l2_one if one else each.l2_all for each in limits)
    total = sum(seconds.values())
    rates = {name: edges[name] / seconds[name] / 1e9 for name in PRODUCTS if seconds[name]}
    return dict.fromkeys(PRODUCTS, 0.0) | rates | {
        "products_ms": total * 1e3,
        "l2_gedge_per_s": limit,
        "roofline": sum(edges.values()) / total / 1e9 / limit,
    }  # fmt: skip


def _calls(backend: Backend, form: Trainable, case: Case) -> dict[str, Callable[[], None]]:
    from gbdnn.layers import ReLU

    (rows, columns), dtype, threads = form.pattern.shape, form.values.dtype, case.threads
    width = backend.training_width(max(case.widths), dtype, case.batch)
    tiles = -(-case.batch // width)

    def batch(features: int) -> Array:
        array = aligned_empty(tiles * features * width, dtype).reshape(tiles, features, width)
        array.fill(0.5)
        return array

    Y, dZ, bias, h = batch(columns), batch(rows), np.zeros(rows, dtype), ReLU()
    Z, dY, grad = batch(rows), batch(columns), np.empty_like(form.values)
    return {
        "forward": lambda: backend.affine(form, Y, bias, h, Z, threads),
        "input gradient": lambda: backend.affine_input_grad(form, dZ, dY, threads),
        "weight gradient": lambda: backend.affine_weight_grad(form, dZ, Y, grad, threads),
    }


def _median_seconds(call: Callable[[], None]) -> float:
    call()
    seconds = []
    for _ in range(7):
        begin = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - begin)
    return float(np.median(seconds))


if __name__ == "__main__":
    options = json.loads(sys.argv[1])
    print(json.dumps(one_run(options.pop("engine"), Case(**options))))
