"""Simulated times against closed forms, Amdahl's law, reports, the figure, the command."""

import json
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from gbdnn.cli.main import cli
from gbdnn.errors import FileFormatError, InputError, UnknownNameError
from gbdnn.models import lstm, transducer
from gbdnn.quantization import quantize
from gbdnn.simulator import (
    PAPERS,
    Elementwise,
    Machine,
    Product,
    Workload,
    amdahl,
    compare,
    fraction_needed,
    ibm_like,
    load_machine,
    save_roofline,
    simulate,
)
from gbdnn.simulator.figure import intensities
from gbdnn.simulator.timing import stored_bytes

PLAIN = Machine(
    name="plain", peak={"fp16": 1e12, "int8": 2e12, "int4": 4e12},
    utilisation={"fp16": 0.5, "int8": 0.5, "int4": 0.5}, vector=1e9, function=4.0, bandwidth=1e9,
    overhead=1e-6, joules={"fp16": (1e-12, 2e-12)}, joules_of_byte=(1e-11, 1e-11), sparse=0.5,
)  # fmt: skip


def one(**changes):
    return Workload((replace(Product("W", "p", 100, 200, 20000, width=3, calls=7), **changes),))


def test_a_product():
    """7 calls of W (100, 200) times (200, 3), by hand."""
    (row,) = simulate(one(), PLAIN, "fp16").rows
    assert row.arithmetic == pytest.approx(7 * 3 * 20000 / 0.5e12)
    nbytes = 7 * (20000 * 2 + 3 * 200 * 2 + 3 * 100 * 2)
    assert row.nbytes == nbytes
    assert row.traffic == pytest.approx(nbytes / 1e9)
    assert row.seconds == pytest.approx(nbytes / 1e9 + 7e-6)
    assert row.limit == "memory"
    (row,) = simulate(one(), PLAIN, "int4").rows
    nbytes = 7 * (20000 / 2 + 3 * 200 / 2 + 3 * 100 * 2)
    assert row.nbytes == nbytes
    rounding = 7 * 3 * 300 / 1e9
    assert row.seconds == pytest.approx(nbytes / 1e9 + rounding + 7e-6)
    fast = replace(PLAIN, bandwidth=1e15)
    (row,) = simulate(one(), fast, "int8").rows
    assert row.limit == "arithmetic"
    assert row.seconds == pytest.approx(7 * 3 * 20000 / 1e12 + rounding + 7e-6)


def test_elementwise_and_lookups():
    work = Workload((Elementwise("f", "p", 10, 3, calls=5),))
    found = simulate(work, PLAIN, "int4")
    assert found.seconds == pytest.approx(5 * (10 + 4 * 3) / 1e9 + 5e-6)
    assert found.rtf is None
    table = Workload((Product("E", "p", 10, 1000, 10000, width=4, calls=2, lookup=True),))
    (row,) = simulate(table, PLAIN, "fp16").rows
    assert row.nbytes == 2 * 4 * 10 * (2 + 2)  # columns read, values written
    assert (row.macs, row.arithmetic, row.vector) == (0, 0, 0)
    assert simulate(table, PLAIN, "fp16").weight_bytes == 20000


def test_weights_that_stay():
    often, seldom = (
        Product("a", "p", 100, 100, 10000, calls=9),
        Product("b", "p", 100, 100, 10000, calls=2),
    )
    once = Product("c", "p", 10, 10, 100)
    machine = replace(PLAIN, on_chip=25000, on_chip_bandwidth=1e10)
    rows = simulate(Workload((seldom, often, once)), machine, "fp16").rows
    assert [row.on_chip for row in rows] == [False, True, False]  # 20 kB of 25; once is no reuse
    assert rows[1].nbytes == 20000 + 9 * 400
    assert rows[1].traffic == pytest.approx(max(rows[1].nbytes / 1e9, 9 * 20000 / 1e10))
    rows = simulate(Workload((seldom, often)), machine, "int8").rows
    assert [row.on_chip for row in rows] == [True, True]  # 10 kB each


def test_sparse():
    work = one(entries=2000)
    dense, sparse = (simulate(work, PLAIN, "int4", sparse=way) for way in (False, True))
    assert dense.rows[0].macs == 10 * sparse.rows[0].macs == 7 * 3 * 20000
    assert sparse.rows[0].arithmetic == pytest.approx(7 * 3 * 2000 / (0.5 * 2e12))
    bitmap, gaps = (20000 + 4 * 2000) / 8, 2000 * 12 / 8 + 200
    assert sparse.weight_bytes == min(bitmap, gaps)
    half = simulate(one(entries=12000), PLAIN, "int4", sparse=True)
    assert half.rows[0].macs == 7 * 3 * 20000  # leaving 40 % out at half the rate does not pay
    assert stored_bytes(one().products[0], 4, sparse=True) == 10000
    with pytest.raises(InputError, match="sparse"):
        simulate(work, replace(PLAIN, sparse=None), "int4", sparse=True)


def test_formats_that_are_kept():
    work = one() + Workload((Product("out", "p", 10, 100, 1000),), others=10)
    mixed = simulate(work, PLAIN, "int4", keep={"out*": "fp16"})
    assert [row.format for row in mixed.rows] == ["int4", "fp16"]
    assert mixed.weight_bytes == 10000 + 2000 + 40
    assert mixed.compression == pytest.approx(4 * 21010 / 12040)
    with pytest.raises(InputError, match="'lm'"):
        simulate(work, PLAIN, "int4", keep={"lm": "fp16"})
    with pytest.raises(UnknownNameError, match="keep"):
        simulate(work, PLAIN, "int4", keep={"out": "bf16"})
    with pytest.raises(UnknownNameError, match="format"):
        simulate(work, PLAIN, "fp32")


def test_energy():
    found = simulate(one(), PLAIN, "fp16")
    macs, nbytes = 7 * 3 * 20000, found.rows[0].nbytes
    assert found.joules == pytest.approx(
        (macs * 1e-12 + nbytes * 1e-11, macs * 2e-12 + nbytes * 1e-11)
    )
    assert simulate(one(), PLAIN, "int4").joules is None


# -- Amdahl ----------------------------------------------------------------------------------------


def test_what_the_papers_speedup_needs():
    """3.4 times in all: 80.7 % of the time gains 8, or 94.1 % gains 4."""
    assert fraction_needed(PAPERS["speedup"], 8) == pytest.approx(0.807, abs=5e-4)
    assert fraction_needed(PAPERS["speedup"], 4) == pytest.approx(0.941, abs=5e-4)
    for bad in ((1.0, 8), (9, 8), (0, 8), (3.4, 0)):
        with pytest.raises(InputError):
            fraction_needed(*bad)


@given(st.floats(1.1, 7.9))
def test_amdahl_and_its_inverse(speedup):
    assert amdahl(fraction_needed(speedup, 8), 8) == pytest.approx(speedup)


@pytest.mark.parametrize("name", ["rapid", "generic"])
@pytest.mark.parametrize("fusion", [False, True])
def test_the_split_adds_up(name, fusion):
    found = compare(ibm_like(5, fusion=fusion), load_machine(name))
    for each in found.simulations:
        split = found.split(each)
        assert sum(row["share"] for row in split) == pytest.approx(1)
        total = sum(row["share"] / row["gain"] for row in split)
        assert 1 / total == pytest.approx(found.speedup(each))
        assert sum(each.by_part.values()) == pytest.approx(each.seconds)
        same = [row for row in found.sensitivity(each) if row["factor"] == 1]
        assert [row["speedup"] for row in same] == pytest.approx([found.speedup(each)] * 2)
        slower = found.sensitivity(each)
        times = [row["seconds"] for row in slower if row["what"] == "bandwidth"]
        assert times == sorted(times, reverse=True)


def test_the_papers_order_of_magnitude():
    """The model says something near the abstract's; tests the configuration, not the papers."""
    found = compare(ibm_like(), load_machine("rapid"))
    last = found.simulations[-1]
    assert 2 < found.speedup(last) < 8
    assert last.rtf < PAPERS["rtf"]
    assert PAPERS["compression"] < last.compression < 8
    kept = simulate(ibm_like(), load_machine("rapid"), "int4", keep={"joint.output": "fp16"})
    assert kept.compression < last.compression


def test_limits_of_the_model():
    """Without traffic and waiting a product gains what the peak gains; without peak the bits."""
    work = Workload(tuple(replace(p, name=f"{k}") for k, p in enumerate(one().products * 3)))
    ideal = replace(PLAIN, bandwidth=1e18, overhead=0.0, vector=1e18)
    found = compare(work, ideal)
    assert found.speedup(found.simulations[2]) == pytest.approx(4, rel=1e-3)
    slow = replace(PLAIN, bandwidth=1.0, overhead=0.0, vector=1e18)
    heavy = Workload((Product("W", "p", 4000, 4000, 16_000_000, calls=3),))
    found = compare(heavy, slow)
    assert found.speedup(found.simulations[2]) == pytest.approx(4, rel=1e-2)


def test_nothing_to_compare():
    with pytest.raises(InputError, match="work"):
        compare(Workload(()), PLAIN)
    with pytest.raises(InputError, match="formats"):
        compare(one(), PLAIN, [])


# -- what people see -------------------------------------------------------------------------------


def test_text_and_figure(tmp_path):
    pytest.importorskip("matplotlib").use("agg")
    found = compare(ibm_like(2).at_density(0.1), load_machine("generic"), sparse=True)
    text = str(found)
    assert text.startswith("simulated, not measured: generic")
    for word in ("RTF", "int4 sparse", "encoder", "external", "Assumptions", "bitmap", "bandwidth"):
        assert word in text
    save_roofline(found, tmp_path / "roof.png")
    assert (tmp_path / "roof.png").stat().st_size > 10_000
    machine = found.base.machine
    for each in found.simulations:
        roof = machine.peak[each.format] * machine.utilisation[each.format]
        for intensity, rate in intensities(each).values():
            within = max(machine.bandwidth, machine.on_chip_bandwidth) * intensity
            assert rate <= min(roof, within) * (1 + 1e-9)
    with pytest.raises(InputError, match="png"):
        save_roofline(found, tmp_path / "roof.jpeg")
    with pytest.raises(InputError, match="written"):
        save_roofline(found, tmp_path / "no" / "roof.png")


def run(*arguments):
    return CliRunner().invoke(cli, ["simulate", *map(str, arguments)], catch_exceptions=False)


def test_command(tmp_path):
    text = run("ibm-like", "--seconds", "2").output
    for word in ("simulated", "the abstract", "3.4", "7.6", "0.06"):
        assert word in text
    record = json.loads(run("ibm-like", "--no-fusion", "--machine", "generic", "--json").output)
    assert record["simulated"]
    assert all(each["simulated"] for each in record["formats"])
    assert [each["format"] for each in record["formats"]] == ["fp16", "int8", "int4"]
    network = lstm([4, 8, 3])
    network.save(tmp_path / "a.safetensors")
    text = run(tmp_path / "a.safetensors", "--steps", 9, "--seconds", 0.5, "--streaming",
               "--formats", "fp16,int4").output  # fmt: skip
    assert "9 time steps, streaming" in text
    assert "the abstract" not in text
    with pytest.raises(UnknownNameError, match="generic"):
        run("ibm-like", "--machine", "tpu")
    with pytest.raises(InputError, match="sparse"):
        run("ibm-like", "--density", 0.1)
    with pytest.raises(InputError, match="measured"):
        run("ibm-like", "--save-machine", tmp_path / "m.toml")
    with pytest.raises(OSError, match="no such file"):
        run(tmp_path / "none")
    assert run("ibm-like", "--keep", "joint.*").exit_code == 2


def test_floats_of_a_rounded_file_stay_floats(tmp_path):
    X = np.random.default_rng(0).standard_normal((10, 5, 4)).astype(np.float32)
    quantize(lstm([4, 8, 3]), "fasoli2021", X).save(tmp_path / "b.safetensors")
    record = json.loads(run(tmp_path / "b.safetensors", "--steps", 5, "--json").output)
    assert record["keep"] == {"model.layers.1.weight": "fp16"}


def test_a_transducers_file(tmp_path):
    model = transducer("lstm 6", 4, 7, predictor="lstm 3", embedding=2, size=8)
    model.save(tmp_path / "t.safetensors")
    text = run(tmp_path / "t.safetensors", "--steps", 8, "--beam", 2, "--seconds", 0.24).output
    for word in ("8 frames, alsd, beam 2", "encoder", "predict", "joint", "RTF"):
        assert word in text
    np.save(tmp_path / "x.npy", np.zeros((5, 4), np.float32))
    found = run(tmp_path / "t.safetensors", "--data", tmp_path / "x.npy", "--json")
    assert json.loads(found.output)["work"].startswith("5 frames")
    (tmp_path / "bad.npy").write_bytes(b"no array")
    with pytest.raises(FileFormatError, match="npy"):
        run(tmp_path / "t.safetensors", "--data", tmp_path / "bad.npy")
