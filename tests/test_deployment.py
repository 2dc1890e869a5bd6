"""What docs/deployment.md says, done: its commands, its server under forked workers."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[1] / "docs" / "deployment.md"

WORKERS = """
import io, json, os, sys
from numba.core import event
from server import app, network

recorder = event.RecordingListener()
event.register("numba:compile", recorder)

def ask(text):
    said = []
    environ = {"wsgi.input": io.BytesIO(text), "CONTENT_LENGTH": str(len(text))}
    answer = b"".join(app(environ, lambda status, headers: said.append(status)))
    return said[0], json.loads(answer)

children = []
for worker in range(3):
    pid = os.fork()
    if not pid:
        status, answer = ask(json.dumps([[worker] * 64, [1] * 64]).encode())
        good = status == "200 OK" and len(answer) == 2 and abs(sum(answer[0]) - 1) < 1e-5
        good &= ask(b"[[1, 2]]")[0].startswith("400")
        good &= "64 features" in ask(b"[[1, 2]]")[1]["error"]
        good &= ask(b"no json")[0].startswith("400")
        os._exit(0 if good and not recorder.buffer else 1)
    children.append(pid)
codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
print(json.dumps(codes))
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder in which the page's commands have run, what they printed, and its Python files."""
    folder = tmp_path_factory.mktemp("deployed")
    tool = folder / "bin" / "gbdnn"  # also where the package is not installed
    tool.parent.mkdir()
    tool.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m gbdnn.cli.main "$@"\n')
    tool.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tool.parent}:{os.environ['PATH']}"}
    environment.pop("NUMBA_CACHE_DIR", None)
    blocks = re.findall(r"^```(\w+)\n(.*?)^```", PAGE.read_text(), re.S | re.M)
    script = "set -e\n" + "".join(f"{text}echo ---\n" for kind, text in blocks if kind == "bash")
    for kind, text in blocks:
        if kind == "python":
            name = re.match(r"# (\w+\.py)\n", text)
            assert name is not None, text
            (folder / name[1]).write_text(text)
    done = subprocess.run(
        ["sh", "-c", script], capture_output=True, text=True, timeout=600, cwd=folder,
        env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    environment["NUMBA_CACHE_DIR"] = str(folder / "kernels")
    assert "compiling the fused kernels" in done.stderr  # the notice
    return folder, done.stdout.split("---\n"), environment


def python(place, *words: str) -> str:
    folder, _, environment = place
    done = subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, timeout=120, cwd=folder,
        env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_commands(place):
    folder, parts, _ = place
    _, warmed, copied, failed, _ = parts
    assert re.search(r"compiled +\d+ functions", warmed)
    assert str(folder / "kernels") in warmed
    record = json.loads(copied)
    assert record["compiled"] == 0
    assert record["folder"].startswith(str(folder / "writable"))
    assert json.loads(failed)["error"].keys() == {
        "kind", "argument", "expected", "got", "message"
    }  # fmt: skip


def test_forked_workers(place):
    assert json.loads(python(place, "-c", WORKERS)) == [0, 0, 0]


def test_memory(place):
    assert "total" in python(place, "memory.py")


def test_other_models_and_dtypes(place):
    """`gbdnn warm` for another dtype: more is compiled, into the same folder, then nothing more."""
    words = ("-m", "gbdnn.cli.main", "warm", "small.safetensors", "--dtype", "float64", "--json")
    assert json.loads(python(place, *words))["compiled"] > 0
    assert json.loads(python(place, *words))["compiled"] == 0
    words = ("-m", "gbdnn.cli.main", "warm", "small.safetensors", "--training")
    assert "is ready" in python(place, *words)
    assert "nothing new" in python(place, *words)
    words = ("-m", "gbdnn.cli.main", "warm", "small.safetensors", "--backend", "dense", "--json")
    assert json.loads(python(place, *words))["compiled"] == 0
