"""The study of INT4 speech recognition: claims of Fasoli et al. 2021 and 2022, each as a check.

They worked on Switchboard; here all speech is synthetic, or installed telephone prompts. The rules
were fixed before the first run. Each trained model and each decoded cell is kept in a folder and
never made twice.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gbdnn.errors import MissingDependencyError, choose
from gbdnn.files.disk import atomic_write
from gbdnn.machine import PACKAGES, machine, versions
from gbdnn.speech.study.claims import Claim, claims
from gbdnn.speech.study.decoded import fusions, tests
from gbdnn.speech.study.quantizers import quantizers
from gbdnn.speech.study.recognisers import NAMES, sparse_name
from gbdnn.speech.study.report import draw, markdown, summarised
from gbdnn.speech.study.settings import Settings, Study
from gbdnn.speech.study.speed import measured, simulated

__all__ = ["PARTS", "Claim", "Settings", "Study", "claims", "report", "study"]

SPEECH = ("espeakng-loader", "kaldi-native-fbank", "soundfile", "jiwer")
PARTS = ("tests", "fusion", "sparse", "quantizers", "simulated", "speed")


def study(
    folder: Path,
    settings: Settings | None = None,
    *,
    parts: Sequence[str] = PARTS,
    say: Callable[[str], Any] = print,
) -> list[Claim]:
    """Do what a folder does not have yet, write its tables, and return the claims.

    Parameters
    ----------
    folder : Path
        Gets corpus/, models/, state/, results.jsonl with a row for each cell, tables.md,
        summary.json and, with matplotlib, figures.
    settings : Settings, optional
    parts : sequence of str
        Of `PARTS`; without any only the tables are written.
    say : callable
        Is told what begins.

    Raises
    ------
    InputError, UnknownNameError
    """
    for part in parts:
        choose("parts", part, PARTS)
    given = settings or Settings()
    made = Study(folder, given, say)
    once = {"quantizers": quantizers, "simulated": simulated, "speed": measured}
    names = [sparse_name(value) for value in given.sparsities]
    for seed in range(given.seed, given.seed + given.seeds):
        first = seed == given.seed  # which has all, so that there is something to read early
        if "tests" in parts:
            tests(made, seed, NAMES)
        if "fusion" in parts:
            few = ((given.beam,), ("none", "density-ratio"))
            fusions(made, seed, *((given.beams,) if first else few))
        if "sparse" in parts:
            tests(made, seed, names[: None if first else 1])
        for name, do in once.items():
            if first and name in parts:
                do(made, seed)
    return report(made)


def report(made: Study) -> list[Claim]:
    """Write tables.md, summary.json and figures from the rows; return the claims."""
    given, rows = made.settings, list(made.rows.values())
    sparse = [sparse_name(value) for value in given.sparsities]
    tables = markdown(rows, given.beam, sparse)
    text = "\n".join(f"## {name}\n\n{table}" for name, table in tables.items())
    found = claims(rows, given.beam, sparse)
    record = {
        "settings": {**given.deciding, "beam": given.beam}, "machine": machine(),
        "versions": versions((*PACKAGES, *SPEECH)), "threads": given.threads, "tables": tables,
        "claims": [asdict(claim) for claim in found], "rows": summarised(rows),
    }  # fmt: skip
    for name, content in (("tables.md", text), ("summary.json", json.dumps(record, indent=0))):
        with atomic_write(made.folder / name) as file:
            file.write(content.encode())
    try:
        draw(rows, given.beam, made.folder)
    except MissingDependencyError:
        made.say("no figures without matplotlib")
    return found
