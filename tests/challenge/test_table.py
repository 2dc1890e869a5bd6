"""Tables of several networks, and runs that go on after an interruption."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from gbdnn.challenge import runner, table
from gbdnn.challenge.generate import Spec
from gbdnn.errors import BackendError, InputError

SPEC = Spec(1024, 30)


class Interrupted(Exception):
    """Raised in place of a crash."""


@pytest.fixture(autouse=True)
def no_official_inputs(monkeypatch, tmp_path_factory):
    """Counts are those of the embedded pictures, whatever the user's cache has."""
    monkeypatch.setenv("GBDNN_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr(runner, "CHUNK_EDGES", SPEC.edges * 400)


@pytest.mark.parametrize("skip", [True, False])
def test_a_run_goes_on_where_it_stopped(tmp_path, small_chunks, monkeypatch, skip):
    inputs = runner.load_inputs(1024)
    wanted = runner.run(SPEC, inputs, backend="fused", skip=skip)
    right, calls = runner.executor.run, []

    def interrupted(*args, **kwargs):
        calls.append(args[1].count)
        if len(calls) == 3:
            raise Interrupted
        return right(*args, **kwargs)

    monkeypatch.setattr(runner.executor, "run", interrupted)
    if skip:  # all inputs go together
        found = runner.run(SPEC, inputs, backend="fused", skip=skip, checkpoint=tmp_path)
        assert calls == [1797]
    else:
        with pytest.raises(Interrupted):
            runner.run(SPEC, inputs, backend="fused", skip=skip, checkpoint=tmp_path)
        assert len(list(tmp_path.iterdir())) == 1
        found = runner.run(SPEC, inputs, backend="fused", skip=skip, checkpoint=tmp_path)
        assert calls == [400, 400, 400, 400, 400, 197]
    assert np.array_equal(found.categories, wanted.categories)
    assert found.record["effective_edges"] == wanted.record["effective_edges"]
    assert found.record["nominal_edges"] == wanted.record["nominal_edges"]
    assert found.record["oracle"]["largest_relative_difference"] < 1e-6
    assert list(tmp_path.iterdir()) == []  # nothing is left of a finished run


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04", None])
def test_a_damaged_checkpoint_counts_as_none(tmp_path, small_chunks, monkeypatch, damage):
    inputs = runner.load_inputs(1024, limit=800)
    right, calls = runner.executor.run, []

    def interrupted(*args, **kwargs):
        calls.append(args[1].count)
        if len(calls) == 2:
            raise Interrupted
        return right(*args, **kwargs)

    monkeypatch.setattr(runner.executor, "run", interrupted)
    with pytest.raises(Interrupted):
        runner.run(SPEC, inputs, backend="fused", skip=False, checkpoint=tmp_path)
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-30] if damage is None else damage)
    found = runner.run(SPEC, inputs, backend="fused", skip=False, checkpoint=tmp_path)
    assert calls == [400, 400, 400, 400]
    assert np.array_equal(found.categories, runner.run(SPEC, inputs, backend="fused").categories)


def gbdnn(*words):
    command = [sys.executable, "-m", "gbdnn.cli.main", *map(str, words)]
    environment = os.environ | {"GBDNN_CACHE_DIR": str(words[3])}
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)


def test_table_keeps_finished_networks(tmp_path):
    call = ("challenge", "table", "--out", tmp_path, "--backend", "fused")
    first = gbdnn(*call, "--networks", "1024x5")
    assert first.returncode == 0, first.stderr
    kept = next(tmp_path.glob("1024x5*.json"))
    before = kept.stat().st_mtime_ns
    both = gbdnn(*call, "--networks", "1024x5,1024x8")
    assert both.returncode == 0, both.stderr
    assert kept.stat().st_mtime_ns == before
    lines = both.stdout.splitlines()
    assert lines[0].startswith("| neurons | layers")
    assert [line[:12] for line in lines[2:4]] == ["| 1,024 | 5 ", "| 1,024 | 8 "]
    assert (tmp_path / "table.md").read_text().strip() == both.stdout.strip()
    records = json.loads((tmp_path / "table.json").read_text())
    assert [record["layers"] for record in records] == [5, 8]


def test_table_makes_a_damaged_record_again(tmp_path):
    options = ["--backend", "fused", "--threads", "1"]
    (first,) = table.run_networks([Spec(1024, 3)], tmp_path, options)
    path = next(tmp_path.glob("1024x3*.json"))
    path.write_text(path.read_text()[:100])
    (again,) = table.run_networks([Spec(1024, 3)], tmp_path, options)
    assert again["categories_sha256"] == first["categories_sha256"]


def test_a_failing_run_says_so_and_keeps_the_others(tmp_path, capfd):
    table.run_networks([Spec(1024, 3)], tmp_path, ["--backend", "fused"])
    with pytest.raises(BackendError, match="exit code 2"):
        table.run_networks([Spec(1024, 3)], tmp_path, ["--backend", "nonsense"])
    assert len(list(tmp_path.glob("1024x3*.json"))) == 1


def test_networks_by_name():
    assert len(table.parse_networks("all")) == 12
    assert table.parse_networks("1024x120, 65536x1920")[1] == Spec(65536, 1920)
    for wrong in ("", "1024", "1024x", "1000x120", "1024x120,,", "x"):
        with pytest.raises(InputError):
            table.parse_networks(wrong)
