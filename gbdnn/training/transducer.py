"""A transducer in training: encoder, predictor, joint, and the loss over all alignments."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np

from gbdnn.backends import get_backend
from gbdnn.data.inputs import as_inputs
from gbdnn.data.utterances import Augment, UtteranceBatches, Utterances, utterances
from gbdnn.decoding.batched import edit_distance, greedy
from gbdnn.errors import DtypeError
from gbdnn.execution import executor, streaming
from gbdnn.execution.run import Observer, Run
from gbdnn.execution.source import ArraySink
from gbdnn.execution.tiles import padded
from gbdnn.layers import Layer
from gbdnn.machine import check_threads
from gbdnn.models.decodable import Decodable
from gbdnn.models.transducer import CHAINS, Transducer
from gbdnn.quantization.calibration import Calibration
from gbdnn.quantization.transducer import calibrate_transducer
from gbdnn.training.chain import Chain, Tapes
from gbdnn.training.joint import Joint, Lattices
from gbdnn.training.parameters import Parameter, array_parameter
from gbdnn.training.step import Result
from gbdnn.training.trainer import Trainer
from gbdnn.types import Array

__all__ = ["TransducerModel", "fit_transducer"]

MEASURED = 32  # utterances that are measured together


class TransducerModel(Decodable):
    """A transducer's parameters while they change; the training loop drives it (`Trains`).

    The loss of a mini-batch is the mean of -log P(labels | frames) over its utterances, in nats.
    Biases of the two projections stay 0 where they begin so: the joint has one.

    Parameters
    ----------
    transducer : Transducer
        Where training starts; it is not changed.
    backend : str
    threads : int, optional
        Default all cores.
    quantization : dict of str to Calibration, optional
        Of each chain, from `gbdnn.quantization.calibrate_transducer`.

    Notes
    -----
    It answers `gbdnn.decoding.Transducer` too, with its weights as they are, rounded as in
    training.
    """

    def __init__(
        self,
        transducer: Transducer,
        *,
        backend: str = "fused",
        threads: int | None = None,
        quantization: Mapping[str, Calibration] | None = None,
    ) -> None:
        self.origin = transducer
        self.backend, self.threads = get_backend(backend), check_threads(threads)
        self.combine, self.blank, self.dtype = (
            transducer.combine,
            transducer.blank,
            transducer.dtype,
        )
        self.chains = {
            name: Chain(
                network, backend=backend, threads=threads, prefix=f"{name}.",
                quantization=None if quantization is None else quantization[name],
                passes_back=name == "joint",
            )
            for name, network in transducer.chains.items()
        }  # fmt: skip
        self.encoder, self.predictor, output = (self.chains[name] for name in CHAINS)
        self._bias = array_parameter("joint.bias", transducer.bias)
        self.joint_part = Joint(output, self._bias, self.combine, self.blank)
        self.parameters: dict[str, Parameter] = {}
        for chain in self.chains.values():
            self.parameters |= chain.parameters
        self.parameters["joint.bias"] = self._bias
        self._held = [
            self.parameters[f"{name}.layers.{len(transducer.chains[name].layers) - 1}.bias"]
            for name in ("encoder", "predictor")
        ]
        for parameter in self._held:
            parameter.rate = 0.0

    # -- what the loop asks for --------------------------------------------------------------------

    @property
    def named_layers(self) -> dict[str, Layer]:
        """The layers that training began with, by the prefixes of their parameters' names."""
        return self.origin.named_layers

    def changed(self) -> None:
        """Bring what the kernels read up to date after parameters were changed in place."""
        for chain in self.chains.values():
            chain.changed()

    def repattern(self, name: str, weight: Any, optimizer: Any) -> None:
        """Give a weight another pattern, with all that belongs to it."""
        self.chains[name.partition(".")[0]].repattern(name, weight, optimizer)

    def bind(self, parameter: Parameter) -> None:
        """Let the layer compute with a parameter whose arrays have been exchanged."""
        if parameter is not self._bias:
            self.chains[parameter.name.partition(".")[0]].bind(parameter)

    def network(self) -> Transducer:
        """Return the transducer as it is now (copies); rounded weights in whole numbers."""
        networks = {name: chain.network() for name, chain in self.chains.items()}
        return Transducer(
            networks["encoder"], networks["predictor"], networks["joint"], self.bias.copy(),
            self.combine, self.blank, self.origin.metadata,
        )  # fmt: skip

    def fingerprint(self, version: int = 2) -> list[str]:
        """Return text that tells transducers apart."""
        parts = [line for chain in self.chains.values() for line in chain.fingerprint(version)]
        return [*parts, f"{self.combine} {self.blank} {self._bias.digests()}"]

    def loss_and_gradients(
        self,
        batch: Utterances,
        *,
        rng: np.random.Generator | None = None,
        observe: Observer | None = None,
    ) -> float:
        """Return the mean cost of a mini-batch and compute all gradients; see `Trains`."""
        runs = self._runs(rng, observe)
        with ExitStack() as stack:
            stack.enter_context(self.backend.pinned(self.threads))
            for chain in self.chains.values():
                stack.enter_context(chain.rounds)
            E, encoded = self._encoded(runs["encoder"], batch.frames)
            P, predicted = self._predicted(runs["predictor"], batch.labels)
            lattices = self._lattices(batch)
            costs = self.joint_part.costs(runs["joint"], E, P, lattices)
            dE, dP = costs.backward()
            self._back(self.encoder, runs["encoder"], dE, lattices.frames, encoded)
            self._back(self.predictor, runs["predictor"], dP, lattices.prefixes, predicted)
        for chain in self.chains.values():
            chain.finish_gradients()
        for parameter in self._held:
            parameter.grad[...] = 0
        return float(costs.values.mean())

    def measure(self, batch: Utterances) -> dict[str, float]:
        """Return the mean cost, and 1 - label error rate of greedy search."""
        total, wrong, runs = 0.0, 0, self._runs()
        order = batch.by_length
        for start in range(0, len(order), MEASURED):
            part = batch.some(order[start : start + MEASURED])
            with self.backend.pinned(self.threads):
                E, _ = self._encoded(runs["encoder"], part.frames)
                P, _ = self._predicted(runs["predictor"], part.labels)
                costs = self.joint_part.costs(runs["joint"], E, P, self._lattices(part))
            total += float(costs.values.sum())
            found = greedy(self, self._apart(E, part.frames), blank=self.blank)
            for said, heard in zip(part.labels, found, strict=True):
                wrong += edit_distance(said.tolist(), heard)
        labels = max(sum(map(len, batch.labels)), 1)
        return {
            "validation_loss": total / len(batch),
            "validation_score": float(1 - wrong / labels),
        }

    # -- parts of them -----------------------------------------------------------------------------

    def _runs(
        self, rng: np.random.Generator | None = None, observe: Observer | None = None
    ) -> dict[str, Run]:
        return {
            name: Run(self.backend, chain.memory, self.threads, rng=rng, observe=observe)
            for name, chain in self.chains.items()
        }

    def _lattices(self, batch: Utterances) -> Lattices:
        frames = np.array([self._encoded_frames(part) for part in batch.frames])
        return Lattices.of(frames, batch.labels, self.blank, self.joint_part.width)

    def _encoded(self, run: Run, frames: list[Array]) -> tuple[Array, Tapes]:
        """Return h of all frames, one sample after the other, shape (size, frames)."""
        return self._sequences(self.encoder, run, frames)

    def _encoded_frames(self, frames: Array) -> int:
        """Return how many frames the encoder makes of frames."""
        return -(-len(frames) // self.origin.time_factor)

    def _apart(self, E: Array, batch: Sequence[Array]) -> list[Array]:
        """Return h of all frames of a batch as one array (frames, size) for each sample."""
        ends = np.cumsum([self._encoded_frames(frames) for frames in batch])
        return np.split(E.T.copy(), ends[:-1])

    def _predicted(self, run: Run, labels: list[Array]) -> tuple[Array, Tapes]:
        """Return g of all prefixes, one sample after the other, shape (size, prefixes)."""
        given = [np.append(self.blank, part)[:, None] for part in labels]
        return self._sequences(self.predictor, run, given)

    def _sequences(self, chain: Chain, run: Run, given: list[Array]) -> tuple[Array, Tapes]:
        lengths = np.array([len(part) for part in given])
        width = padded(len(given))
        run.at("inputs")
        X = run.empty(int(lengths.max()), chain.in_features, width)
        X[...] = 0
        for column, part in enumerate(given):
            X[: len(part), :, column] = part
        run.lengths = np.append(lengths, np.zeros(width - len(given), np.int64))
        Y, tapes = chain.forward(run, X, np.arange(len(X))[:, None] < run.lengths)
        lengths = -(-lengths // chain.time_factor)
        out = np.empty((Y.shape[1], int(lengths.sum())), Y.dtype)
        for column, (start, stop) in enumerate(_ranges(lengths)):
            out[:, start:stop] = Y[: stop - start, :, column].T
        return out, tapes

    def _back(self, chain: Chain, run: Run, D: Array, lengths: Array, tapes: Tapes) -> None:
        """Go back through a chain of sequences, from what `_sequences` has gathered."""
        run.at("loss")
        assert run.lengths is not None
        dY = run.empty(int(lengths.max()), len(D), len(run.lengths))
        dY[...] = 0
        for column, (start, stop) in enumerate(_ranges(lengths)):
            dY[: stop - start, :, column] = D[:, start:stop].T
        chain.backward(run, dY, tapes)

    # -- the same transducer in a search -----------------------------------------------------------

    @property
    def bias(self) -> Array:  # type: ignore[override]
        """The joint's, as it is now."""
        return self._bias.value

    def encode(self, X: Sequence[Array]) -> list[Array]:
        """Return h of each sequence of frames; see `Transducer.encode`."""
        with self.backend.pinned(self.threads):
            E, _ = self._encoded(self._runs()["encoder"], list(X))
        return self._apart(E, X)

    def _step(self, x: Array, state: streaming.State | None) -> tuple[Array, streaming.State]:
        inputs = as_inputs(x, 1, self.dtype)
        return streaming.step(self.predictor, inputs, state, self.backend, 1)

    def _scores(self, met: Array) -> Array:
        chain = self.chains["joint"]
        out = np.empty((len(met), chain.out_features), self.dtype)
        inputs = as_inputs(met, chain.in_features, self.dtype)
        executor.run(chain, inputs, ArraySink(out), backend=self.backend, threads=1, skip=False)
        return out


def fit_transducer(
    trainer: Trainer,
    transducer: Transducer,
    X: Sequence[Array],
    y: Sequence[Any],
    *,
    validation: tuple[Sequence[Array], Sequence[Any]] | None = None,
    augment: Augment | None = None,
    resume: bool = False,
) -> Result:
    """Train a copy of a transducer with the settings of a `Trainer`.

    Parameters
    ----------
    trainer : Trainer
        Its `loss` does not count, nor `class_weight` and `truncate`. With `quantization` the clips
        begin where X and y put them. `batch_size` counts utterances.
    transducer : Transducer
        Not changed.
    X : list of ndarray, shapes (time_i, in_features)
    y : list of array_like of int
        Labels, without the blank.
    validation : tuple (X, y), optional
        Adds "validation_loss", nats an utterance, and "validation_score", 1 - label error rate of
        greedy search, to the history.
    augment : callable, optional
        Called as augment(frames, rng) for each utterance of each mini-batch; returns frames of the
        same shape, such as SpecAugment's.
    resume : bool
        See `Trainer.fit`.

    Returns
    -------
    Result
        Its `network` is a `Transducer`; with `quantization` it computes in whole numbers.

    Raises
    ------
    ShapeError, DtypeError, NonFiniteError, InputError, DivergenceError, TrainingInterrupted
        As `Trainer.fit`.
    """
    if not isinstance(transducer, Transducer):
        raise DtypeError("transducer", "a gbdnn.models.Transducer", type(transducer).__name__)
    data = utterances(transducer, X, y)
    held_out = None if validation is None else utterances(transducer, *validation, "validation ")
    calibration = None
    if trainer.quantization is not None:
        calibration = calibrate_transducer(
            transducer, data.frames, data.labels, trainer.quantization,
            backend=trainer.backend, threads=trainer.threads,
        )  # fmt: skip
    model = TransducerModel(
        transducer, backend=trainer.backend, threads=trainer.threads, quantization=calibration
    )
    batches = UtteranceBatches(data, trainer.batch_size, trainer.shuffle, augment)
    return trainer.train(model, batches, held_out=held_out, resume=resume)


def _ranges(lengths: Array) -> list[tuple[int, int]]:
    ends = np.cumsum(lengths).tolist()
    return list(itertools.pairwise([0, *ends]))
