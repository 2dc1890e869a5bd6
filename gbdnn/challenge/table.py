"""Run several networks of the challenge, each in a process of its own, and tabulate the results."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from gbdnn.challenge.generate import LAYERS, NEURONS, Spec
from gbdnn.errors import BackendError, InputError
from gbdnn.files.disk import atomic_write
from gbdnn.machine import machine, versions

__all__ = ["markdown", "parse_networks", "run_networks"]

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
    try:
        record: Record = json.loads(done.stdout)
    except ValueError:
        got = f"exit code {done.returncode}, see the messages above"
        raise BackendError(f"{spec.neurons}x{spec.layers}", "a result", got) from None
    return record


def markdown(records: Sequence[Record]) -> str:
    """Return the records as a Markdown table, with machine, threads and versions below."""
    head = (
        "| neurons | layers | inputs | load s | inference s | nominal GEdge/s | effective GEdge/s "
        "| computed | peak GiB | categories | truth |\n" + 10 * "|--:" + "|---|\n"
    )
    verdict = {True: "passed", False: "FAILED", None: "unknown"}
    lines = [
        f"| {r['neurons']:,} | {r['layers']:,} | {r['inputs']:,} | {r['load_seconds']:.2f} "
        f"| {r['seconds']:.2f} | {r['nominal_edges_per_second'] / 1e9:,.0f} "
        f"| {r['effective_edges_per_second'] / 1e9:,.1f} "
        f"| {r['effective_edges'] / r['nominal_edges']:.2%} "
        f"| {r['peak_rss_bytes'] / 2**30:.2f} | {r['categories']:,} | {verdict[r['passed']]} |"
        for r in records
    ]
    here = machine()
    first = records[0]
    packages = ", ".join(f"{name} {number}" for name, number in first["versions"].items())
    note = (
        f"\n\n{first['backend']} backend, {first['threads']} threads, "
        f"{'exact skipping' if first['skip'] else 'nothing skipped'}; {here['processor']}, "
        f"{here['cores']} cores, {', '.join(here['vectors'])}; {packages}. One run each.\n"
    )
    return head + "\n".join(lines) + note
