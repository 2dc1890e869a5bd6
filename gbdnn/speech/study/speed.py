"""Time of recognition: measured here, and simulated for another machine; never in one row."""

from __future__ import annotations

import itertools
from typing import Any

from gbdnn.files.rows import Record
from gbdnn.machine import available_cores, machine, versions
from gbdnn.simulator import Workload, compare, ibm_like, load_machine, record_decoding
from gbdnn.speech import decoding
from gbdnn.speech.data import read_manifest
from gbdnn.speech.study.decoded import decoder, fusion
from gbdnn.speech.study.recognisers import recogniser, sparse_name
from gbdnn.speech.study.settings import Study

__all__ = ["MACHINE", "measured", "simulated"]

RECORDINGS, ROUNDS = 6, 3
MACHINE, FORMATS = "rapid", ("fp16", "int4")


def measured(study: Study, seed: int) -> None:
    """Measure real-time factors of the recognisers of a seed, from samples to text.

    Those that were tested. They take turns; of each recording the fastest of some rounds counts.
    """
    given = study.settings
    wanted = ("float32", "int8", "int4", sparse_name(given.sparsities[0]))
    there = {row["model"] for row in study.of_kind("bytes")}
    names = [name for name in wanted if name in there]
    threads = sorted({1, min(2, available_cores())})
    cells = list(itertools.product(names, ("none", "density-ratio"), threads))
    keys = {cell: f"speed/{'/'.join(map(str, cell))} threads/seed {seed}" for cell in cells}
    if all(key in study.rows for key in keys.values()):
        return
    study.say("measuring real-time factors")
    said = read_manifest(study.paths["test-target"])[:RECORDINGS]
    samples = [decoding.load_samples(utterance, study.front) for utterance in said]
    found = {name: recogniser(study, seed, name) for name in names}
    searches = {
        (name, kind): decoder(one, given.beam, fusion(study, seed, one, kind))
        for name, one in found.items()
        for kind in ("none", "density-ratio")
    }
    best: dict[tuple[Any, ...], float] = {}
    for number in range(ROUNDS):
        for k, part in enumerate(samples):
            for name, kind, count in cells:
                heard = decoding.recognise(found[name], searches[name, kind], part, threads=count)
                place = (name, kind, count, k)
                if number:  # the first round compiles
                    best[place] = min(best.get(place, heard.seconds), heard.seconds)
    audio = sum(map(len, samples)) / study.front.rate
    for name, kind, count in cells:
        seconds = sum(best[name, kind, count, k] for k in range(len(samples)))
        row: Record = {
            "kind": "speed", "model": name, "fusion": kind, "threads": count, "seed": seed,
            "beam": given.beam, "rtf": seconds / audio, "audio": audio, "machine": machine(),
            "versions": versions(),
        }  # fmt: skip
        study.cell(keys[name, kind, count], lambda row=row: row)  # type: ignore[misc]


def simulated(study: Study, seed: int) -> None:
    """Simulate FP16 and INT4 on another machine: the IBM-like recogniser, and the study's own."""
    for text, fused in (("density-ratio", True), ("none", False)):
        for beam in study.settings.beams:
            work = ibm_like(beam=beam, fusion=fused)
            study.cell(
                f"simulated/ibm-like/{text}/beam {beam}",
                lambda w=work, t=text, b=beam: _simulated(w, "ibm-like", t, b),  # type: ignore[misc]
            )

    def make() -> Record:
        found = recogniser(study, seed, "int4")
        test = study.needed("target")
        search = decoder(found, study.settings.beam, fusion(study, seed, found, "density-ratio"))
        frames = test.frames[0]
        seconds = len(frames) * found.front.seconds_per_frame
        work = record_decoding(search, frames, seconds=seconds)
        return _simulated(work, "own", "density-ratio", study.settings.beam)

    study.cell(f"simulated/own/density-ratio/beam {study.settings.beam}/seed {seed}", make)


def _simulated(work: Workload, name: str, kind: str, beam: int) -> Record:
    found = compare(work, load_machine(MACHINE), FORMATS)
    last = found.simulations[-1]
    return {
        "kind": "simulated", "model": name, "fusion": kind, "beam": beam, "machine": MACHINE,
        "formats": list(FORMATS), "speedup": found.speedup(last), "rtf": last.rtf,
        "compression": last.compression, "work": work.description, "split": found.split(last),
        "sensitivity": found.sensitivity(last),
    }  # fmt: skip
