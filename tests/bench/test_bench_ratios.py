"""Speed as ratios between engines of one run; absolute seconds depend on the machine."""

from benchmarks.sweep import grid, sweep
from benchmarks.timing import Timing


def test_cost_follows_the_nonzeros(tmp_path):
    """At 0.1 % of 4096 x 4096 dense does 1000 times the work; sparse must win by any margin."""
    engines = ["dense", "graphblas", "fused"]
    timing = Timing(rounds=7, spread=0.2, min_time=0.05, max_time=1.0)
    jobs = grid(
        engines, sizes=[4096], densities=[0.001], batches=[64], threads=1, ops=["affine"],
        timing=timing,
    )  # fmt: skip
    records = {record["engine"]: record for record in sweep(jobs, tmp_path)}
    assert {record["status"] for record in records.values()} == {"ok"}
    for name in engines[1:]:
        assert records["dense"]["seconds"] > 1.5 * records[name]["seconds"]
        assert records["dense"]["weight_bytes"] > 20 * records[name]["weight_bytes"]
