"""The Graph Challenge over inputs, and a sweep, on a pool: what one process finds."""

from __future__ import annotations

import json

import numpy as np
import pytest
from click.testing import CliRunner

from benchmarks import store
from benchmarks.cli import bench
from benchmarks.elsewhere import elsewhere
from gbdnn.challenge import images, runner
from gbdnn.challenge.generate import Spec
from gbdnn.distributed import challenge, opened
from gbdnn.errors import InputError


@pytest.mark.parametrize("backend", ["fused", "graphblas"])
def test_categories_are_those_of_one_process(pool, backend):
    spec = Spec(1024, 6)
    bits = images.resize(images.embedded_images(), 32).take(400)
    inputs = runner.ChallengeInputs(bits, "digits", False)
    want = runner.run(spec, inputs, backend=backend, threads=1)
    done = []
    got = challenge.run(
        spec, inputs, executor=pool, backend=backend, chunk=100, progress=done.append
    )
    assert np.array_equal(got.categories, want.categories)
    same = ("categories_sha256", "nominal_edges", "compact_edges", "passed", "oracle")
    assert {key: got.record[key] for key in same} == {key: want.record[key] for key in same}
    assert sum(done) == 400 * 6
    assert 1 <= got.record["workers"] <= 2
    assert want.record.keys() == got.record.keys() - {"workers"}


def test_a_sweep_on_a_worker(tmp_path):
    words = [
        "sweep", "--sizes", "64", "--densities", "0.1", "--batches", "4", "--threads", "1",
        "--max-time", "0.05", "--min-time", "0", "--rounds", "3", "--spread", "10", "--backends",
        "dense", "--peers", "scipy", "--out", str(tmp_path), "--json",
    ]  # fmt: skip
    for measured in (True, False):
        done = CliRunner().invoke(bench, [*words, "--executor", "processes:1"])
        assert done.exit_code == 0, done.output
        assert ("were measured before" in done.output) != measured
    records = json.loads(done.output.splitlines()[-1])["results"]
    assert [record["engine"] for record in records] == ["dense", "scipy"]
    assert all(record["status"] == "ok" and record["machine"]["cores"] for record in records)
    assert len(store.read(tmp_path).records) == 2


def test_a_sweep_has_a_host_for_itself(pool, tmp_path):
    with opened(pool) as two, pytest.raises(InputError, match="one task on each host"):
        elsewhere([], tmp_path, two)
