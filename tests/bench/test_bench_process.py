"""A sweep goes on when a process dies, and does not measure twice."""

import json
import os
import subprocess
import sys

import pytest

from benchmarks import process, rounds, store, sweep
from benchmarks.sweep import SweepJob, grid
from benchmarks.timing import Timing
from gbdnn import machine
from gbdnn.errors import BackendError, InputError, MemoryBudgetError

QUICK = Timing(rounds=3, spread=1.0, min_time=0.0, max_time=0.01)
CASE = {"sizes": [64], "densities": [0.1], "batches": [4], "threads": 1}
JOBS = grid(["graphblas", "scipy"], timing=QUICK, **CASE)
FIELDS = {
    "engine", "op", "size", "layers", "density", "batch", "threads", "dtype", "seed", "key",
    "bias", "round", "timing", "status", "nnz", "edges", "seconds", "seconds_min", "seconds_p25",
    "seconds_p75", "spread", "rounds", "calls_per_round", "steady", "gedge_per_s", "weight_bytes",
    "peak_rss_bytes", "base_rss_bytes", "kernels", "engine_threads", "max_error",
    "error_over_tolerance", "roofline", "roofline_limit", "roofline_fraction", "machine",
    "versions", "fingerprint", "finished", "others_busy",
}  # fmt: skip


@pytest.fixture
def answers(monkeypatch):
    """Return a function that puts a script in the place of what a process does."""

    def answers(code):
        monkeypatch.setattr(process, "COMMAND", (sys.executable, "-c", code))

    return answers


def test_records_are_complete(tmp_path):
    records = sweep.sweep(JOBS, tmp_path)
    assert [record["status"] for record in records] == ["ok", "ok"]
    for record in records:
        assert record.keys() >= FIELDS
        assert record["roofline_limit"] == "l1"
        assert 0 < record["roofline_fraction"] < 5
        assert record["seconds_min"] <= record["seconds"]
    assert records[0]["kernels"] == ["GrB_mxm: saxpy5"]
    assert records[0]["engine_threads"] == 1
    assert store.read(tmp_path).records == records


def test_only_what_is_missing_is_measured(tmp_path, answers):
    log, said = tmp_path / "log", []
    log.touch()
    answers(
        f"import json, sys\nsys.stdin.buffer.read()\nopen({str(log)!r}, 'a').write('x')\n"
        "print(json.dumps({'status': 'ok', 'seconds': 1.0}))"
    )

    def measured(jobs, **options):
        said.clear()
        log.write_text("")
        rounds.measured(jobs, tmp_path, report=said.append, **options)
        return len(log.read_text())

    assert measured(JOBS[:1]) == 1
    assert not said
    assert measured(JOBS) == 1
    assert "1 of 2 were measured before" in said[0]
    assert measured(JOBS, fresh=True) == 2
    assert measured(JOBS, rounds=3) == 4  # the first round is there
    assert measured(JOBS, rounds=3) == 0
    path = tmp_path / store.NAME
    assert measured(JOBS, disturbed=True) == 0
    path.write_text(path.read_text().replace('"seconds"', '"others_busy": 0.5, "seconds"'))
    assert measured(JOBS, disturbed=True) == 2
    path.write_text(path.read_text().replace('"seconds"', '"spread": 1.1, "seconds"'))
    assert measured(JOBS, disturbed=True) == 2  # less certain than was asked for
    path.write_text(path.read_text().replace('"fingerprint": "', '"fingerprint": "x'))  # versions
    assert measured(JOBS) == 2


def test_rounds_take_the_jobs_in_turn(tmp_path, answers):
    answers('print(\'{"status": "ok", "seconds": 1.0}\')')
    records = rounds.measured(JOBS, tmp_path, rounds=2)
    found = [(record["round"], record["engine"]) for record in records]
    assert found == [(1, "graphblas"), (1, "scipy"), (2, "graphblas"), (2, "scipy")]
    runs = rounds.grouped(records, "engine")["scipy",]
    (case,) = rounds.medians([runs[0], runs[1] | {"seconds": 2.0}], ["engine"], "seconds")
    assert (case["seconds"], case["all_seconds"], case["round"]) == (1.5, [1.0, 2.0], 1)


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import os; os.abort()", "SIGABRT"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "out of memory"),
        ("import sys; sys.exit('no such library')", "status 1: no such library"),
        ("print('{')", "status 0"),
        ("import time; time.sleep(60)", "no result within 1 s"),
    ],
)
def test_a_dying_process_does_not_stop_the_sweep(tmp_path, answers, code, reason):
    answers(code)
    records = sweep.sweep(JOBS, tmp_path, timeout=1)
    assert [record["status"] for record in records] == ["failed", "failed"]
    assert reason in records[0]["reason"]
    assert len(store.read(tmp_path).records) == 2
    said = []
    sweep.sweep(JOBS[:1], tmp_path, timeout=1, report=said.append)
    assert not said  # what failed is tried again
    with pytest.raises(BackendError, match=reason):
        rounds.measured(JOBS, tmp_path, timeout=1)


def test_an_engine_that_raises_is_a_failed_record(tmp_path):
    (record,) = sweep.sweep(grid(["no-such-engine"], timing=QUICK, **CASE), tmp_path)
    assert record["status"] == "failed"
    assert "UnknownNameError" in record["reason"]


def test_a_process_finds_the_benchmarks_from_every_folder(tmp_path, monkeypatch):
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "__init__.py").write_text("raise SystemExit('the wrong one')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", "")
    assert process.run(JOBS[1])["status"] == "ok"


def test_damaged_line_is_named(tmp_path):
    (tmp_path / store.NAME).write_text('{"key"')
    said = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(process, "run", lambda *_: {"status": "failed", "reason": "test"})
        sweep.sweep(JOBS, tmp_path, report=said.append)
    assert "line 1, the last" in said[0]
    assert len(store.read(tmp_path).records) == 2


def test_unwritable_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="can be written"):
        sweep.sweep(JOBS, tmp_path / "file" / "out")


def test_jobs_that_do_not_fit_are_skipped_with_their_bytes(tmp_path, monkeypatch, answers):
    jobs = grid(["dense", "scipy"], sizes=[4096], densities=[0.001], batches=[1], threads=1)
    free = jobs[0].needed_bytes - 1
    assert jobs[1].needed_bytes < free
    monkeypatch.setattr(machine, "available_bytes", lambda: free)
    answers('print(\'{"status": "failed", "reason": "not asked"}\')')
    dense, scipy = sweep.sweep(jobs, tmp_path)
    assert dense["status"] == "skipped"
    assert f"{jobs[0].needed_bytes:,} bytes" in dense["reason"]
    assert f"{free:,}" in dense["reason"]
    assert scipy["reason"] == "not asked"


def test_impossible_sizes_are_refused_before_anything_runs(tmp_path):
    jobs = grid(["dense", "scipy"], sizes=[64, 10**9], densities=[0.5], batches=[1], threads=1)
    with pytest.raises(MemoryBudgetError, match=r"size 1000000000.*needs about [\d,]+ bytes"):
        sweep.sweep(jobs, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_needed_bytes_follow_the_engine():
    dense, sparse = grid(
        ["dense", "fused"], sizes=[32768], densities=[2**-16], batches=[64], threads=1
    )
    assert dense.needed_bytes > 32768**2 * 4 > 5 * sparse.needed_bytes


def test_threads_are_pinned_whatever_the_environment_says(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "garbage,4")
    monkeypatch.setenv("OMP_SCHEDULE", "nonsense")
    monkeypatch.setenv("NUMBA_NUM_THREADS", "-7")
    found = process.environment(2)
    assert "OMP_SCHEDULE" not in found
    assert {found[name] for name in process.POOLS} == {"2"}


@pytest.mark.parametrize(
    "change",
    [{"op": "backward"}, {"density": 0.0}, {"size": 0}, {"dtype": "int8"}, {"bias": "some"}],
)
def test_jobs_are_checked(change):
    with pytest.raises(InputError):
        SweepJob(**JOBS[0].__dict__ | change)


def test_records_are_json(tmp_path):
    store.append(tmp_path, {"key": JOBS[0].key, "seconds": 1e-9})
    assert json.loads((tmp_path / store.NAME).read_text())["seconds"] == 1e-9


def test_the_command_says_how_to_get_the_benchmarks(tmp_path):
    """Where gbdnn is not imported from a checkout `gbdnn bench` explains, whatever follows."""
    code = (
        "from pathlib import Path\nimport gbdnn.cli.bench as module\n"
        f"module.ROOT = Path({str(tmp_path)!r})\nfrom gbdnn.cli.main import main\nmain()"
    )
    for words in (["bench"], ["bench", "sweep", "--sizes", "64", "--help"]):
        done = subprocess.run(
            [sys.executable, "-c", code, *words], capture_output=True, text=True, check=False
        )
        assert done.returncode == 2
        assert "pip install -e" in done.stderr
        assert "checkout" in done.stderr
        assert not done.stdout


def test_the_command_starts_light():
    code = "import sys\nimport gbdnn.cli.bench\ngbdnn.cli.bench.load()\nprint(*sys.modules)"
    environment = os.environ | {"PYTHONPATH": str(process.ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    assert not {"numpy", "rich", "numba", "scipy"} & set(done.stdout.split())
