"""Run several networks of the challenge, each in a process of its own, and tabulate the results."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from gbdnn.challenge.generate import LAYERS, NEURONS, Spec
from gbdnn.errors import BackendError, InputError
from gbdnn.files.disk import atomic_write
from gbdnn.machine import machine, versions
from gbdnn.summary import markdown_table

__all__ = ["COLUMNS", "markdown", "markdown_table", "origin", "parse_networks", "run_networks"]

Record = dict[str, Any]


def parse_networks(text: str) -> list[Spec]:
    """Return the networks named by ``"all"`` or by a list such as ``"1024x120,4096x1920"``."""
    if text == "all":
        return [Spec(neurons, layers) for neurons in NEURONS for layers in LAYERS]
    networks = []
    for name in text.split(","):
        neurons, _, layers = name.strip().partition("x")
        if not (neurons.isdigit() and layers.isdigit()):
            expected = "'all' or names such as 1024x120, with commas between them"
            raise InputError("networks", expected, repr(name))
        networks.append(Spec(int(neurons), int(layers)))
    return networks


def run_networks(networks: Iterable[Spec], out: Path, options: Sequence[str]) -> list[Record]:
    """Run each network with ``gbdnn challenge run --json`` and keep its record in `out`.

    A record that is there already, made with the same options and versions, is not made again, so
    that an interrupted table goes on where it stopped; within a network so do its chunks.

    Parameters
    ----------
    networks : iterable of Spec
    out : Path
        Folder for one JSON file a network, and for chunks that are under way.
    options : sequence of str
        Further words of the command line.

    Raises
    ------
    BackendError
        If a run fails; records made before stay.
    """
    out.mkdir(parents=True, exist_ok=True)
    records = []
    for spec in networks:
        name = "".join(word if word.isalnum() else "-" for word in "".join(options))
        path = out / f"{spec.neurons}x{spec.layers}{name[-120:]}.json"
        record = _read(path)
        if record is None:
            record = _run_one(spec, out, options)
            with atomic_write(path) as file:
                file.write(json.dumps(record, indent=1).encode())
        records.append(record)
    return records


def _read(path: Path) -> Record | None:
    try:
        record: Record = json.loads(path.read_text())
        return record if record["versions"] == versions() else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _run_one(spec: Spec, out: Path, options: Sequence[str]) -> Record:
    words = ["challenge", "run", "--json", "--checkpoint", str(out / "chunks")]
    words += ["--neurons", str(spec.neurons), "--layers", str(spec.layers), *options]
    command = [sys.executable, "-m", "gbdnn.cli.main", *words]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    with suppress(ValueError):
        record: Record = json.loads(done.stdout)
        if "error" not in record:
            return record
    got = f"exit code {done.returncode}, see the messages above"
    raise BackendError(f"{spec.neurons}x{spec.layers}", "a result", got)


def _compacted(record: Record) -> str:
    if record["compact_edges"] is None:  # inputs were done before all layers were read
        return "not all read" if record["compact"] else "-"
    return f"{record['compact_edges']:,}"


COLUMNS: dict[str, Callable[[Record], str]] = {
    "neurons": lambda r: f"{r['neurons']:,}",
    "layers": lambda r: f"{r['layers']:,}",
    "inputs": lambda r: f"{r['inputs']:,}",
    "edges": lambda r: f"{r['edges']:,}",
    "compacted": _compacted,
    "load s": lambda r: f"{r['load_seconds']:.2f}",
    "of it compaction": lambda r: f"{r['compact_seconds']:.2f}",
    "inference s": lambda r: f"{r['seconds']:.2f}",
    "nominal GEdge/s": lambda r: f"{r['nominal_edges_per_second'] / 1e9:,.0f}",
    "effective GEdge/s": lambda r: f"{r['effective_edges_per_second'] / 1e9:,.1f}",
    "computed": lambda r: f"{r['effective_edges'] / r['nominal_edges']:.2%}",
    "peak GiB": lambda r: f"{r['peak_rss_bytes'] / 2**30:.2f}",
    "categories": lambda r: f"{r['categories']:,}",
    "truth": lambda r: {True: "passed", False: "FAILED", None: "unknown"}[r["passed"]],
}
"""The columns of the table: a head, and the text of a record below it."""


def markdown(records: Sequence[Record]) -> str:
    """Return the records as a Markdown table, with machine, threads and versions below."""
    rows = [[text(record) for text in COLUMNS.values()] for record in records]
    first = records[0] | {"machine": machine()}
    skipping = "exact skipping" if first["skip"] else "nothing skipped"
    merging = "equal neurons merged" if first["compact"] else "nothing merged"
    return (
        f"{markdown_table(list(COLUMNS), rows)}\n"
        f"{first['backend']} backend, {skipping}, {merging}, one run each; {origin(first)}\n"
    )


def origin(record: Record) -> str:
    """Return threads, machine and versions of a record, as the end of a sentence."""
    here = record["machine"]
    packages = ", ".join(f"{name} {number}" for name, number in record["versions"].items())
    return (
        f"{record['threads']} threads; {here['processor']}, {here['cores']} cores, "
        f"{', '.join(here['vectors'])}; {packages}."
    )
