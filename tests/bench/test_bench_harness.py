"""The sweep goes on when a worker dies, and does not measure twice."""

import json
import sys

import pytest

from benchmarks import cells, store
from benchmarks import harness as module
from benchmarks.cells import Cell, grid, needed_bytes
from benchmarks.harness import sweep, worker_environment
from benchmarks.timing import Timing
from gbdnn.errors import InputError, MemoryBudgetError

QUICK = Timing(rounds=3, spread=1.0, min_time=0.0, max_time=0.01)
CELLS = grid(["graphblas", "scipy"], sizes=[64], densities=[0.1], batches=[4], threads=1)
FIELDS = {
    "engine", "op", "size", "layers", "density", "batch", "threads", "dtype", "seed", "key",
    "status", "nnz", "edges", "seconds", "seconds_min", "seconds_p25", "seconds_p75", "spread",
    "spread_target", "rounds", "calls_per_round", "steady", "gedge_per_s", "weight_bytes",
    "peak_rss_bytes", "base_rss_bytes", "kernels", "engine_threads", "max_error",
    "error_over_tolerance", "roofline", "roofline_limit", "roofline_fraction", "machine",
    "versions", "fingerprint", "finished", "others_busy",
}  # fmt: skip


def script(code):
    return [sys.executable, "-c", code]


@pytest.fixture
def no_roofline(monkeypatch):
    real = module._ask

    def ask(worker, job, threads, timeout):
        return {} if job["kind"] == "roofline" else real(worker, job, threads, timeout)

    monkeypatch.setattr(module, "_ask", ask)


def test_records_are_complete(tmp_path):
    outcome = sweep(CELLS, tmp_path, timing=QUICK)
    assert [record["status"] for record in outcome.records] == ["ok", "ok"]
    for record in outcome.records:
        assert record.keys() >= FIELDS
        assert record["roofline_limit"] == "l1"
        assert 0 < record["roofline_fraction"] < 5
        assert record["seconds_min"] <= record["seconds"]
    assert outcome.records[0]["kernels"] == ["GrB_mxm: saxpy5"]
    assert outcome.records[0]["engine_threads"] == 1
    assert store.read(tmp_path).records == outcome.records


@pytest.mark.usefixtures("no_roofline")
def test_resume_measures_only_what_is_missing(tmp_path):
    log = tmp_path / "log"
    count = script(
        f"import json, sys\njob = json.load(sys.stdin)\nopen({str(log)!r}, 'a').write('x')\n"
        "print(json.dumps({'status': 'ok', 'seconds': 1.0, 'edges': 1}))"
    )
    sweep(CELLS[:1], tmp_path, worker=count)
    assert log.read_text() == "x"
    assert sweep(CELLS, tmp_path, worker=count).reused == 1
    assert log.read_text() == "xx"
    assert sweep(CELLS, tmp_path, worker=count, fresh=True).reused == 0
    assert log.read_text() == "xxxx"
    path = tmp_path / store.NAME
    assert sweep(CELLS, tmp_path, worker=count, disturbed=True).reused == 2
    path.write_text(path.read_text().replace('"seconds"', '"others_busy": 0.5, "seconds"'))
    assert sweep(CELLS, tmp_path, worker=count, disturbed=True).reused == 0
    path.write_text(path.read_text().replace('"fingerprint": "', '"fingerprint": "x'))  # versions
    assert sweep(CELLS, tmp_path, worker=count).reused == 0


@pytest.mark.usefixtures("no_roofline")
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
def test_a_dying_worker_does_not_stop_the_sweep(tmp_path, code, reason):
    outcome = sweep(CELLS, tmp_path, worker=script(code), timeout=1)
    assert [record["status"] for record in outcome.records] == ["failed", "failed"]
    assert reason in outcome.records[0]["reason"]
    assert len(store.read(tmp_path).records) == 2
    again = sweep(CELLS[:1], tmp_path, worker=script(code), timeout=1)
    assert again.reused == 0  # what failed is tried again


def test_an_engine_that_raises_is_a_failed_record(tmp_path):
    cell = Cell("no-such-engine", "forward", 64, 1, 0.1, 4, 1)
    (record,) = sweep([cell], tmp_path, timing=QUICK).records
    assert record["status"] == "failed"
    assert "UnknownNameError" in record["reason"]


def test_damaged_line_is_named(tmp_path):
    (tmp_path / store.NAME).write_text('{"key"')
    said = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_ask", lambda *_: {"status": "failed", "reason": "test"})
        sweep(CELLS, tmp_path, warn=said.append)
    assert "line 1, the last" in said[0]
    assert len(store.read(tmp_path).records) == 2


def test_unwritable_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="can be written"):
        sweep(CELLS, tmp_path / "file" / "out")


@pytest.mark.usefixtures("no_roofline")
def test_cells_that_do_not_fit_are_skipped_with_their_bytes(tmp_path, monkeypatch):
    cases = grid(["dense", "scipy"], sizes=[4096], densities=[0.001], batches=[1], threads=1)
    free = needed_bytes(cases[0]) - 1
    assert needed_bytes(cases[1]) < free
    monkeypatch.setattr(module, "available_bytes", lambda: free)
    answer = script('print(\'{"status": "failed", "reason": "not asked"}\')')
    dense, scipy = sweep(cases, tmp_path, worker=answer).records
    assert dense["status"] == "skipped"
    assert f"{needed_bytes(cases[0]):,} bytes" in dense["reason"]
    assert f"{free:,}" in dense["reason"]
    assert scipy["reason"] == "not asked"


def test_impossible_sizes_are_refused_before_anything_runs(tmp_path):
    cases = grid(["dense", "scipy"], sizes=[64, 10**9], densities=[0.5], batches=[1], threads=1)
    with pytest.raises(MemoryBudgetError, match=r"size 1000000000.*needs about [\d,]+ bytes"):
        sweep(cases, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_needed_bytes_follow_the_engine():
    dense = Cell("dense", "affine", 32768, 1, 2**-16, 64, 1)
    sparse = Cell("fused", "affine", 32768, 1, 2**-16, 64, 1)
    assert needed_bytes(dense) > 32768**2 * 4 > 5 * needed_bytes(sparse)


def test_threads_are_pinned_whatever_the_environment_says(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "garbage,4")
    monkeypatch.setenv("OMP_SCHEDULE", "nonsense")
    monkeypatch.setenv("NUMBA_NUM_THREADS", "-7")
    found = worker_environment(2)
    assert "OMP_SCHEDULE" not in found
    assert {found[name] for name in module.POOLS} == {"2"}


@pytest.mark.parametrize(
    "change", [{"op": "backward"}, {"density": 0.0}, {"size": 0}, {"dtype": "int8"}]
)
def test_cells_are_checked(change):
    fields = dict(CELLS[0].__dict__) | change
    with pytest.raises(InputError):
        Cell(**fields)


def test_engines_lists_backends_and_peers():
    assert {"dense", "graphblas", "torch-csr", "mkl"} <= set(cells.engines())


def test_records_are_json(tmp_path):
    store.append(tmp_path, {"key": CELLS[0].key, "seconds": 1e-9})
    assert json.loads((tmp_path / store.NAME).read_text())["seconds"] == 1e-9
