"""Compiled functions and their files: none can be written, the disk is full, files are damaged."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

MODULE = """
from numba import int64
from gbdnn.backends.fused.compilation import c_function, jit, load

@jit
def twice(x):
    return 2 * x

@jit
def fill(out):
    out[:] = 3

def next_one(x):
    return x + 1
"""
SCRIPT = """
import ctypes, json, sys, warnings
sys.path.insert(0, sys.argv[1])
if len(sys.argv) > 2:  # as on a full disk: no file may get longer
    import resource
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)
with warnings.catch_warnings(record=True) as seen:
    warnings.simplefilter("always")
    import numpy as np
    from functions import *
    from gbdnn.backends.fused.compilation import array_type
    made = c_function("int64(int64)", next_one)
    address = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64)(made.address)
    load(fill, array_type(int64, 1, writable=True))
    out = np.zeros(2, np.int64)
    fill(out)
    found = [twice(21), twice(1.5), address(6), *out.tolist()]
hits = [*twice.stats.cache_hits.values(), *fill.stats.cache_hits.values(), made.cache_hits]
print(json.dumps([found, sum(hits), [str(w.message) for w in seen]]))
"""
RIGHT = [42, 3.0, 7, 3, 3]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Return a function that runs the script with a cache folder: results, loaded, warnings."""
    here = tmp_path_factory.mktemp("functions")
    (here / "functions.py").write_text(MODULE)

    def run(folder, *args):
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, here, *args],
            env={
                **os.environ, "NUMBA_CACHE_DIR": str(folder),
                "NUMBA_CACHE_LOCATOR_CLASSES": "UserProvidedCacheLocator",
            },
            timeout=500, check=False, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


@pytest.fixture(scope="module")
def filled(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cache")
    assert run(folder) == [RIGHT, 0, []]
    return folder


@pytest.fixture
def folder(filled, tmp_path):
    """A cache folder that was filled by another process."""
    return shutil.copytree(filled, tmp_path / "cache")


def files(folder: Path, suffix: str) -> list[Path]:
    found = sorted(folder.rglob(f"*{suffix}"))
    assert found
    return found


def test_files_are_used_again(run, folder):
    assert run(folder) == [RIGHT, 4, []]


def test_no_folder_can_be_written(run, tmp_path):
    """Compiled in memory, and one warning for all functions that names the folder."""
    (tmp_path / "file").touch()
    found, loaded, (warning,) = run(tmp_path / "file" / "cache")
    assert (found, loaded) == (RIGHT, 0)
    assert str(tmp_path / "file" / "cache") in warning
    assert "NUMBA_CACHE_DIR" in warning


@pytest.mark.parametrize("room", ["0", "1500"])
def test_the_disk_is_full(run, tmp_path, room):
    """Nothing fits, or the indices but not the code."""
    found, loaded, (warning,) = run(tmp_path, room)
    assert (found, loaded) == (RIGHT, 0)
    assert str(tmp_path) in warning
    assert run(tmp_path) == [RIGHT, 0, []]


def truncated(data: bytes) -> bytes:
    return data[: len(data) // 2]


def empty(data: bytes) -> bytes:
    return b""


def one_bit(data: bytes) -> bytes:
    return data[:-100] + bytes([data[-100] ^ 1]) + data[-99:]


def zeros(data: bytes) -> bytes:
    return bytes(len(data))


def text(data: bytes) -> bytes:
    return b"<html>not found</html>" * 10


@pytest.mark.parametrize(("suffix", "damage"), [
    (".nbi", truncated), (".nbi", one_bit), (".nbi", zeros), (".nbc", empty), (".nbc", one_bit),
    (".nbc", text),
])  # fmt: skip
def test_damaged_files(run, folder, suffix, damage):
    """They are removed and written again: compiled once, not in each process."""
    damaged = {path: damage(path.read_bytes()) for path in files(folder, suffix)}
    for path, data in damaged.items():
        path.write_bytes(data)
    assert run(folder) == [RIGHT, 0, []]
    assert all(path.read_bytes() != data for path, data in damaged.items())


def test_missing_files(run, folder):
    for path in files(folder, ".nbc"):
        path.unlink()
    assert run(folder) == [RIGHT, 0, []]
    assert run(folder) == [RIGHT, 4, []]


def test_a_folder_in_place_of_a_file(run, folder):
    """What cannot be removed is left; nothing is kept then."""
    for path in files(folder, ".nbi"):
        path.unlink()
        path.mkdir()
    found, loaded, (warning,) = run(folder)
    assert (found, loaded) == (RIGHT, 0)
    assert str(folder) in warning
