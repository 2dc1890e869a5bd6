"""The configuration of Fasoli et al. 2022 as far as it is known, as work without weights.

Their abstract (arXiv:2206.07882) gives results, not sizes. The sizes are believed to be those of
the group's recogniser for 300 hours of Switchboard: 40 log-mel energies with both derivatives,
frames stacked by 2 and a speaker vector of 100, that is 340 inputs at 50 frames a second; an
encoder of 6 bidirectional LSTM x 640; a predictor of an embedding of 10 and an LSTM x 768; both
projected to 256, multiplied; 46 outputs. That makes 57.1 M parameters, of which the encoder's
products have 54 M. The external language model has 84 M: two LSTM x 2048 with inputs of 2048 are
67.1 M of them, and an output layer of 8192 would be the rest (a guess); the source model is an
LSTM x 768.
"""

from __future__ import annotations

from typing import Any

from gbdnn import checks
from gbdnn.simulator.recording import LSTM_CELL
from gbdnn.simulator.work import Elementwise, Operation, Product, Workload

__all__ = ["FRAMES_PER_SECOND", "LABELS_PER_SECOND", "PAPERS", "encoder", "ibm_like", "lstm_work"]

FRAMES_PER_SECOND, LABELS_PER_SECOND = 50, 15
INPUTS, CELLS, LAYERS, JOINT, LABELS = 340, 640, 6, 256, 46
EMBEDDING, PREDICTOR, EXTERNAL, WORDS = 10, 768, 2048, 8192
PAPERS = {"speedup": 3.4, "rtf": 0.06, "compression": 7.6}
"""What the abstract claims: FP16 to INT4 end to end, real-time factor, whole-model compression."""


def lstm_work(
    name: str, part: str, into: int, cells: int, *, steps: int = 1, batch: int = 1,
    at_once: bool = True,
) -> list[Operation]:  # fmt: skip
    """Return the work of an LSTM; `at_once`: the product with the inputs is one call."""
    calls, width = (1, steps * batch) if at_once else (steps, batch)
    simple, functions = (each * cells * batch for each in LSTM_CELL)
    return [
        Product(f"{name}.weight", part, 4 * cells, into, 4 * cells * into, width, calls),
        Product(f"{name}.recurrent", part, 4 * cells, cells, 4 * cells**2, batch, steps),
        Elementwise(name, part, simple, functions, steps),
    ]


def _linear(name: str, part: str, into: int, out: int, width: int = 1, calls: int = 1) -> Product:
    return Product(name, part, out, into, out * into, width, calls)


def encoder(frames: int) -> Workload:
    """Return the encoder's work for an utterance of so many frames, and its projection's."""
    made: list[Operation] = []
    into = INPUTS
    for layer in range(LAYERS):
        for side in ("forward", "backward"):
            made += lstm_work(f"encoder.{layer}.{side}", "encoder", into, CELLS, steps=frames)
        into = 2 * CELLS
    made.append(_linear("encoder.projection", "encoder", into, JOINT, frames))
    return Workload(tuple(made), others=2 * LAYERS * 4 * CELLS + JOINT)


def _predictor() -> Workload:
    made = [
        Product("predictor.embedding", "predictor", EMBEDDING, LABELS, EMBEDDING * LABELS,
                lookup=True),
        *lstm_work("predictor.lstm", "predictor", EMBEDDING, PREDICTOR),
        _linear("predictor.projection", "predictor", PREDICTOR, JOINT),
    ]  # fmt: skip
    return Workload(tuple(made), others=4 * PREDICTOR)


def _joint() -> Workload:
    made: list[Operation] = [
        Elementwise("joint", "joint", JOINT, JOINT),  # multiplied, tanh
        _linear("joint.output", "joint", JOINT, LABELS),
        Elementwise("joint.softmax", "joint", 2 * LABELS, LABELS),
    ]
    return Workload(tuple(made), others=LABELS)


def _external() -> Workload:
    name = "external"
    made = [
        Product(f"{name}.embedding", name, EXTERNAL, LABELS, EXTERNAL * LABELS, lookup=True),
        *lstm_work(f"{name}.0", name, EXTERNAL, EXTERNAL),
        *lstm_work(f"{name}.1", name, EXTERNAL, EXTERNAL),
        _linear(f"{name}.output", name, EXTERNAL, WORDS),
        Elementwise(f"{name}.softmax", name, 2 * WORDS, WORDS),
    ]
    return Workload(tuple(made), others=8 * EXTERNAL + WORDS)


def _source() -> Workload:
    name = "source"
    made = [
        Product(f"{name}.embedding", name, EMBEDDING, LABELS, EMBEDDING * LABELS, lookup=True),
        *lstm_work(f"{name}.0", name, EMBEDDING, PREDICTOR),
        _linear(f"{name}.output", name, PREDICTOR, LABELS),
        Elementwise(f"{name}.softmax", name, 2 * LABELS, LABELS),
    ]
    return Workload(tuple(made), others=4 * PREDICTOR + LABELS)


def ibm_like(
    seconds: float = 10.0, *, beam: int = 16, fusion: bool = True, new: int | None = None
) -> Workload:
    """Return the work of recognising an utterance, offline encoder, alignment-length beam search.

    Parameters
    ----------
    seconds : float
        Of audio: 50 frames and 15 labels in each, that is 65 steps of the search.
    beam : int
        Hypotheses that the joint sees in a step.
    fusion : bool
        With the external and the source language model.
    new : int, optional
        Hypotheses in a step that end in a new label: those that predictor and language models see.
        Default all of the beam, which is the most there can be; a recorded decode says how many
        there are (`gbdnn.simulator.Recorder`).

    Raises
    ------
    InputError
    """
    checks.positive("seconds", seconds)
    checks.count("beam", beam)
    new = beam if new is None else checks.count("new", new)
    frames = max(1, round(FRAMES_PER_SECOND * seconds))
    steps = frames + round(LABELS_PER_SECOND * seconds)
    parts: list[tuple[Any, int]] = [(_predictor(), new), (_joint(), beam)]
    parts += [(_external(), new), (_source(), new)] if fusion else []
    total = encoder(frames)
    for work, width in parts:
        total += work.repeated({width: steps})
    text = f"IBM-like RNN-T, {seconds:g} s of audio, beam {beam}, {new} new hypotheses a step, "
    text += "density-ratio fusion" if fusion else "no language model"
    return Workload(total.operations, seconds, total.others, text)
