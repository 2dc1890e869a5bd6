"""The cost table's cache: damaged, foreign, unwritable, shared; and the command."""

from __future__ import annotations

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import random_csr
from click.testing import CliRunner
from costs import flat_table

from gbdnn import calibration, machine
from gbdnn.backends import get_backend
from gbdnn.costs import COSTS, CostTable
from gbdnn.measure import Grid, measure


@pytest.fixture(autouse=True)
def measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[float]:
    """A fresh process' state, an empty cache, and a `measure` that takes no time; its calls."""
    calls: list[float] = []

    def fake(*, origin: dict[str, Any]) -> CostTable:
        calls.append(time.time())
        return replace(flat_table(), origin=origin)

    monkeypatch.setattr(calibration, "measure", fake)
    monkeypatch.setattr(calibration, "_table", None)
    monkeypatch.setattr(calibration, "_override", None)
    monkeypatch.setenv("GBDNN_CACHE_DIR", str(tmp_path / "cache"))
    return calls


def forget() -> None:
    """What a new process knows."""
    calibration._table = None


def same(a: CostTable, b: CostTable) -> bool:
    return json.loads(a.to_json()) == json.loads(b.to_json())


def test_measured_once_and_kept(measured: list[float]) -> None:
    first = calibration.current()
    assert calibration.current() is first
    forget()
    assert same(calibration.current(), first)
    assert len(measured) == 1
    assert [file.name for file in calibration.path().parent.iterdir()] == [calibration.path().name]


def test_force_measures_again(measured: list[float]) -> None:
    first = calibration.current()
    assert calibration.calibrate() is first
    assert calibration.calibrate(force=True) is not first
    assert len(measured) == 2


def edited(**changes: Any) -> bytes:
    """Return the file with some fields replaced; None removes one."""
    fields = json.loads(calibration.path().read_text()) | changes
    kept = {key: value for key, value in fields.items() if value is not None}
    return json.dumps(kept).encode()


def costs(value: Any) -> dict[str, Any]:
    return {name: np.full((2, 2, 2, 3), value).tolist() for name in COSTS}


DAMAGE = {
    "empty": lambda: b"",
    "cut": lambda: calibration.path().read_bytes()[:-40],
    "binary": lambda: bytes(range(256)),
    "a list": lambda: b"[1, 2]",
    "deep": lambda: b"[" * 100_000,
    "no costs": lambda: edited(costs=None),
    "no origin": lambda: edited(origin=None),
    "another shape": lambda: edited(batches=[1, 2]),
    "an axis that falls": lambda: edited(batches=[16, 1, 256]),
    "text": lambda: edited(costs=costs("fast")),
    "ragged": lambda: edited(costs={name: [[1], [2, 3]] for name in COSTS}),
    "NaN": lambda: edited(costs=costs(float("nan"))),
    "negative": lambda: edited(costs=costs(-1.0)),
    "zero": lambda: edited(costs=costs(0.0)),
    "an unknown engine only": lambda: edited(calls={"turbo": [1, 1]}),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_cache_is_rebuilt(damage: str, measured: list[float]) -> None:
    first = calibration.current()
    calibration.path().write_bytes(DAMAGE[damage]())
    forget()
    assert same(calibration.current(), first)
    assert len(measured) == 2
    forget()
    assert same(calibration.current(), first)
    assert len(measured) == 2


@pytest.mark.parametrize("what", ["machine", "versions"])
def test_another_machine_or_version_measures_its_own(
    what: str, measured: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    calibration.current()
    here, name = calibration.path(), {"machine": "processor", "versions": "numpy"}[what]
    changed = getattr(machine, what)() | {name: "another"}
    monkeypatch.setattr(machine, what, lambda: changed)
    assert calibration.path() != here
    forget()
    calibration.current()
    assert len(measured) == 2
    # a file that was copied from elsewhere, under this machine's name
    calibration.path().write_bytes(here.read_bytes())
    forget()
    calibration.current()
    assert len(measured) == 3


@pytest.mark.parametrize("obstacle", ["a file", "a folder"])
def test_unwritable_cache_is_no_failure(
    obstacle: str, measured: list[float], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Not even for root, for whom permissions do not count."""
    blocked = tmp_path / "blocked"
    if obstacle == "a file":  # where the cache directory should be
        blocked.write_text("")
    monkeypatch.setenv("GBDNN_CACHE_DIR", str(blocked))
    if obstacle == "a folder":  # where the file should be
        calibration.path().mkdir(parents=True)
    first = calibration.current()
    assert calibration.current() is first
    assert len(measured) == 1
    if obstacle == "a folder":
        assert [path.name for path in blocked.iterdir()] == [calibration.path().name]


def test_failure_while_writing_leaves_the_old_file(monkeypatch: pytest.MonkeyPatch) -> None:
    calibration.current()
    before = calibration.path().read_bytes()

    def full(self: CostTable) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(CostTable, "to_json", full)
    calibration.calibrate(force=True)
    assert calibration.path().read_bytes() == before
    assert len(list(calibration.path().parent.iterdir())) == 1


def test_writers_at_the_same_time_leave_a_whole_file() -> None:
    def writer(_: int) -> None:
        calibration._measured()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(writer, range(40)))
    assert calibration._read() is not None
    assert len(list(calibration.path().parent.iterdir())) == 1


def test_threads_that_ask_at_once_measure_once(
    monkeypatch: pytest.MonkeyPatch, measured: list[float], rng: Any
) -> None:
    fake = calibration.measure

    def slow(**options: Any) -> CostTable:
        time.sleep(0.05)
        return fake(**options)

    monkeypatch.setattr(calibration, "measure", slow)
    weight, start = random_csr(rng, 20, 20), threading.Barrier(8)

    def first_use(_: int) -> Any:
        start.wait()
        return get_backend("auto").prepare(weight).engines

    with ThreadPoolExecutor(8) as pool:
        found = set(pool.map(first_use, range(8)))
    assert len(found) == 1
    assert len(measured) == 1


def test_says_that_it_measures(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", "gbdnn"):
        calibration.calibrate(force=True)
    assert "measuring this machine" in caplog.text
    caplog.clear()
    said: list[str] = []
    monkeypatch.setattr(calibration, "on_calibrate", said.append)
    calibration.calibrate(force=True)
    assert len(said) == 1
    assert not caplog.text


def test_override(measured: list[float]) -> None:
    table = flat_table()
    calibration.override(table)
    assert calibration.current() is table
    assert not measured
    calibration.override(None)
    assert calibration.current() is not table
    assert len(measured) == 1


# -- the command -----------------------------------------------------------------------------------


def test_command_prints_the_choices(measured: list[float]) -> None:
    first = CliRunner().invoke(calibration.command, [])
    assert first.exit_code == 0
    assert "measuring this machine" in first.stderr
    assert "dense 1.0x" in first.stdout
    assert "fused 25.0x" in first.stdout
    assert "threads=2" in first.stdout
    again = CliRunner().invoke(calibration.command, [])
    assert again.stdout == first.stdout
    assert not again.stderr
    assert len(measured) == 1
    assert calibration.on_calibrate is None


def test_command_json_and_force(measured: list[float]) -> None:
    for count in (1, 2):
        result = CliRunner().invoke(calibration.command, ["--json", "--force"])
        assert result.exit_code == 0
        assert same(CostTable.from_json(result.stdout), calibration.current())
        assert len(measured) == count


def test_a_busy_machine_is_mentioned() -> None:
    table = replace(flat_table(), origin={"load": 7.5})
    assert "load average was 7.5" in calibration.describe(table)
    assert "load" not in calibration.describe(flat_table())


# -- measuring -------------------------------------------------------------------------------------


def test_measure_on_a_tiny_grid() -> None:
    grid = Grid((16, 32), (0.1, 0.5), (1, 16), rounds=1)
    table = measure(grid, origin={"here": True})
    assert (table.sizes, table.densities, table.batches) == ((16, 32), (0.1, 0.5), (1, 16))
    assert table.origin["here"] is True
    assert same(CostTable.from_json(table.to_json()), table)


@pytest.mark.slow
def test_measure_this_machine() -> None:
    table = measure()
    assert table.origin["seconds"] < 120
    shape, edges = (2048, 2048), 2048 * 20
    times = {name: table.seconds(name, shape, edges, 64) for name in ("dense", "fused")}
    assert times["fused"] < times["dense"] / 5  # 1 % of the edges: it makes 30 on an idle machine
