"""`gbdnn bench` as a user meets it."""

import json
import os
import signal
import subprocess
import sys
import time
from itertools import product
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks import cli, peers, store
from benchmarks.sweep import BIASES

TINY = (
    "--sizes", "64", "--densities", "0.1,1/16", "--batches", "4", "--threads", "1",
    "--max-time", "0.05", "--min-time", "0", "--rounds", "3", "--spread", "10",
)  # fmt: skip


def command(*words):
    return [sys.executable, "-m", "gbdnn.cli.main", "bench", *map(str, words)]


def gbdnn(*words, **options):
    return subprocess.run(command(*words), capture_output=True, text=True, timeout=120, **options)


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """A small sweep, run with a garbage environment."""
    out = tmp_path_factory.mktemp("sweep")
    environment = os.environ | {"OMP_NUM_THREADS": "lots", "NUMBA_NUM_THREADS": "x"}
    done = gbdnn(
        "sweep", *TINY, "--backends", "dense,graphblas", "--peers", "scipy", "--out", out,
        env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return out, done


def test_sweep_prints_a_table(measured):
    out, done = measured
    for word in ("dense", "graphblas", "scipy", "0.0625", "median time in ms", "In brackets"):
        assert word in done.stdout
    assert len(store.read(out).records) == 6
    assert "Warning" not in done.stderr


def test_the_same_command_again_measures_nothing(measured):
    out, _ = measured
    done = gbdnn(
        "sweep", *TINY, "--backends", "dense,graphblas", "--peers", "scipy", "--out", out, "--json"
    )
    assert "6 of 6 were measured before" in done.stderr
    assert len(json.loads(done.stdout)["results"]) == 6
    assert len(store.read(out).records) == 6


def test_plot_makes_files(measured, tmp_path):
    pytest.importorskip("matplotlib")
    pytest.importorskip("pandas")
    out, _ = measured
    done = gbdnn("plot", out, "--out", tmp_path / "figures")
    assert done.returncode == 0, done.stderr
    made = {path.name for path in (tmp_path / "figures").iterdir()}
    names = ("time", "speedup", "rate", "roofline", "memory")
    assert made == {f"{name}.{kind}" for name in names for kind in ("png", "svg")}
    assert len(done.stdout.split()) == len(made)


def test_plot_of_nothing(tmp_path):
    pytest.importorskip("matplotlib")
    pytest.importorskip("pandas")
    done = gbdnn("plot", tmp_path)
    assert done.returncode == 1
    assert "gbdnn bench sweep" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--backends", "dense,cuda", "graphblas-reference"),
        ("--peers", "tensorflow", "torch-csr"),
        ("--ops", "backward", "forward"),
        ("--bias", "none", "negative"),
        ("--sizes", "64,big", "not a valid integer"),
        ("--sizes", "0", "x>=1"),
        ("--densities", "20", "0<x<=1"),
        ("--densities", "1/0", "1/64"),
        ("--densities", "nan", "1/64"),
        ("--preset", "hpl", "kepner"),
    ],
)
def test_wrong_usage(tmp_path, option, value, said):
    result = CliRunner().invoke(cli.bench, ["sweep", "--out", str(tmp_path), option, value])
    assert result.exit_code == 2
    assert said in result.output
    assert not list(tmp_path.iterdir())


def test_impossible_size_says_the_bytes(tmp_path):
    done = gbdnn("sweep", "--sizes", 10**8, "--densities", "0.5", "--out", tmp_path / "out")
    assert done.returncode == 1
    assert "bytes" in done.stderr
    assert "100000000" in done.stderr
    assert "Traceback" not in done.stderr


def test_unwritable_folder(tmp_path):
    (tmp_path / "file").write_text("")
    done = gbdnn("sweep", *TINY, "--backends", "dense", "--out", tmp_path / "file" / "out")
    assert done.returncode == 1
    assert "can be written" in done.stderr
    assert "Traceback" not in done.stderr


def test_biases_of_one_kind(tmp_path):
    words = [*TINY, "--backends", "dense", "--bias", "zero,positive"]
    done = gbdnn("sweep", *words, "--ops", "predict,no-skip", "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    found = {(record["bias"], record["op"]) for record in store.read(tmp_path).records}
    assert found == set(product(("zero", "positive"), ("predict", "no-skip")))
    assert "positive" in done.stdout


def test_peers_that_are_not_installed_are_left_out_with_a_line(monkeypatch, capsys):
    monkeypatch.setattr(peers, "find_spec", lambda name: None)
    assert cli._present(("dense", "torch-csr", "mkl")) == ["dense"]
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert "pip install torch" in lines[0]
    assert "sparse-dot-mkl" in lines[1]


def test_presets_fill_what_is_not_given():
    filled = cli._filled("kepner", {"sizes": (512,), "ops": None, "layers": None})
    assert filled["sizes"] == (512,)
    assert filled["ops"] == ("affine",)
    assert filled["densities"][-1] == 1 / 65536
    mlp = cli._filled("mlp", {})  # as users call it, with biases of every kind
    assert mlp["ops"] == ("predict",)
    assert set(mlp["biases"]) == set(BIASES)


def test_interrupted_sweep_keeps_its_rows(tmp_path):
    words = ["sweep", *TINY, "--backends", "graphblas", "--out", tmp_path]
    words += ["--batches", ",".join(map(str, range(1, 200)))]
    process = subprocess.Popen(command(*words), stderr=subprocess.PIPE, text=True)
    path = tmp_path / store.NAME
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        if path.exists() and path.read_bytes().count(b"\n") >= 2:
            break
        time.sleep(0.05)
    children = _children(process.pid)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 130, said
    assert "records are kept" in said
    assert "Traceback" not in said
    found = store.read(tmp_path)
    assert len(found.records) >= 2
    assert not found.damaged
    deadline = time.monotonic() + 60
    while any(map(_runs, children)) and time.monotonic() < deadline:
        time.sleep(0.05)  # killed, but not gone yet
    assert not any(map(_runs, children))


def _runs(process):
    """Return whether a process is there, and no zombie."""
    try:
        return "State:\tZ" not in Path(f"/proc/{process}/status").read_text()
    except OSError:
        return False


def _children(parent):
    """Return the process ids of children (Linux; elsewhere none)."""
    try:
        return Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    except OSError:
        return []
