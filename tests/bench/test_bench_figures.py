"""Figures of made-up results."""

from dataclasses import asdict

import pytest

from benchmarks import store
from benchmarks.sweep import grid

pytest.importorskip("matplotlib")
pytest.importorskip("pandas")

from benchmarks import figures
from gbdnn.errors import DataUnavailableError, InputError


def record(job, **change):
    dense = job.engine in ("dense", "torch-dense")
    seconds = 1e-3 if dense else 4e-3 * job.density + 1e-5
    limits = {f"{name}_{which}": 50.0 for name in ("fma", "l1", "l2") for which in ("one", "all")}
    return asdict(job) | {
        "key": job.key, "status": "ok", "seconds": seconds, "seconds_p25": seconds, "spread": 0.01,
        "others_busy": 0.5 if job.engine == "dense" else 0.0,
        "seconds_p75": seconds, "weight_bytes": 1000, "peak_rss_bytes": 10**8,
        "gedge_per_s": 1.0, "roofline_fraction": 0.5, "roofline": limits,
        "machine": {"processor": "test"}, "versions": {"gbdnn": "0"},
    } | change  # fmt: skip


def write(folder, engines, **options):
    lists = {"sizes": [64, 128], "densities": [1.0, 0.25, 0.01], "batches": [64], "threads": 1}
    for job in grid(engines, **(lists | options)):
        store.append(folder, record(job))


def test_crossover_is_interpolated():
    assert figures.crossover([1, 4, 16], [8.0, 2.0, 0.5], 1.0) == pytest.approx(8.0)
    assert figures.crossover([1, 4], [0.5, 0.1], 1.0) is None  # always faster
    assert figures.crossover([1, 4], [5.0, 3.0], 1.0) is None  # never


@pytest.mark.parametrize("engines", [["dense", "fused", "unheard-of"], ["dense"], ["scipy"]])
def test_all_sets_of_engines(tmp_path, engines):
    write(tmp_path, engines)
    made = figures.plot(tmp_path, tmp_path / "new" / "folder")
    assert {path.suffix for path in made} == {".png", ".svg"}
    assert all(path.stat().st_size > 5000 for path in made)
    stems = {path.stem for path in made}
    assert ("speedup" in stems) == ("dense" in engines and len(engines) > 1)


def test_kinds_of_biases_have_panels_of_their_own(tmp_path):
    write(tmp_path, ["dense", "fused"], sizes=[64], biases=["mixed", "zero"])
    assert figures.plot(tmp_path, tmp_path)


def test_one_job(tmp_path):
    write(tmp_path, ["dense", "fused"], sizes=[64], densities=[0.1], batches=[1])
    assert figures.plot(tmp_path, tmp_path)


def test_only_failures(tmp_path):
    (job,) = grid(["dense"], sizes=[64], densities=[0.1], batches=[1], threads=1)
    store.append(tmp_path, record(job, status="failed"))
    with pytest.raises(DataUnavailableError, match="failed"):
        figures.plot(tmp_path, tmp_path)


def test_unwritable_folder(tmp_path):
    write(tmp_path, ["dense"])
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="can be written"):
        figures.plot(tmp_path, tmp_path / "file" / "x")
