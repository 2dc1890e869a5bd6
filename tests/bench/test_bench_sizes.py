"""`gbdnn bench bytes`."""

from __future__ import annotations

import json

from click.testing import CliRunner

from benchmarks.cli import bench


def test_bytes_of_sparse_integers_beside_dense_floats():
    call = ["bytes", "--width", "256", "--layers", "2", "--densities", "0.1"]
    table = CliRunner().invoke(bench, call)
    assert table.exit_code == 0
    assert "int4" in table.output
    records = json.loads(CliRunner().invoke(bench, [*call, "--json"]).output)
    found = {record["form"]: record for record in records}
    assert found["int4"]["memory_ratio"] > 25
    assert found["int4"]["memory"] < found["int8"]["memory"] < found["float32"]["memory"]
    assert found["int4"]["disk"] > found["int4"]["memory"]  # the header
