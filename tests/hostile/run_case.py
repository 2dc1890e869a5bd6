"""Runs hostile cases: each in a forked process of its own, with a memory limit and a timeout.

A module of cases holds ``CASES: dict[str, tuple[function, class]]``. The function is called without
arguments and must raise exactly the class of `gbdnn.errors`; with None instead of a class it must
return. Add a module and a test like `test_hostile_core.py` for other inputs.

As a script, ``python run_case.py MODULE [CASE ...]`` prints one JSON object: for each case the
class, message and parts of the error, or the signal or timeout that ended it.
"""

from __future__ import annotations

import functools
import importlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

MEMORY = 4 << 30  # bytes of address space for a case
SECONDS = 20  # for a case


@functools.cache
def results(module: str) -> dict[str, Any]:
    """Run all cases of a module in a fresh interpreter and return what became of each."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", __file__, module],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"the runner failed ({done.returncode}): {done.stderr}"
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def check(module: str, case: str, expected: type[Exception] | None) -> None:
    """Assert that a case ended as expected: no signal, no timeout, the very class, all parts."""
    result = results(module)[case]
    assert result["ended"] == "normally", f"{case}: {result}"
    wanted = None if expected is None else expected.__name__
    assert result["error"] == wanted, f"{case}: {result}"
    if wanted:
        assert all(result["parts"]), f"{case}: a part of the message is empty: {result}"


def _run(function: Any) -> dict[str, Any]:
    """Fork, limit, call; return what happened. The parent survives whatever the child does."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.close(reading)
        status = 1
        try:
            os.write(writing, json.dumps(_call(function)).encode())
            status = 0
        finally:
            os._exit(status)
    os.close(writing)
    with os.fdopen(reading) as stream:
        text = stream.read()  # until the child ends or is killed by its alarm
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return {"ended": f"by signal {signal.Signals(os.WTERMSIG(status)).name}"}
    if os.WEXITSTATUS(status) or not text:
        return {"ended": f"with status {os.WEXITSTATUS(status)}"}
    return {"ended": "normally", **json.loads(text)}


def _call(function: Any) -> dict[str, Any]:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.alarm(SECONDS)
    begin = time.perf_counter()
    error: BaseException | None = None
    try:
        function()
    except BaseException as caught:
        error = caught
    message = "no error" if error is None else str(error)[:500]
    parts = [str(getattr(error, part, ""))[:200] for part in ("argument", "expected", "got")]
    return {
        "error": None if error is None else type(error).__name__,
        "message": message,
        "parts": parts,
        "seconds": time.perf_counter() - begin,
    }


def main(module: str, *chosen: str) -> None:
    """Run the chosen cases of `module`, or all."""
    sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]
    cases = importlib.import_module(module).CASES
    output = {name: _run(cases[name][0]) for name in chosen or cases}
    json.dump(output, sys.stdout, indent=1)


if __name__ == "__main__":
    main(*sys.argv[1:])
