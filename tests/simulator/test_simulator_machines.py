"""Machine files: those of the package, what a file says, and what is refused."""

import pytest

from gbdnn.errors import DataUnavailableError, FileFormatError, GbdnnError, UnknownNameError
from gbdnn.simulator import load_machine, machine_names, measured, parse_machine

GOOD = """
name = "x"
[tops]
fp16 = 2
int4 = 8
[utilisation]
default = 0.5
int4 = 0.25
[vector]
gops = 3
[memory]
gb_per_s = 4
on_chip_mb = 2
on_chip_gb_per_s = 40
[overhead]
microseconds = 5
[sparse]
utilisation = 0.5
[energy]
int4_pj = [1, 2.5]
byte_pj = 10
"""


def test_units():
    machine = parse_machine(GOOD)
    assert machine.peak == {"fp16": 1e12, "int4": 4e12}  # multiply-adds, two operations each
    assert machine.utilisation == {"fp16": 0.5, "int4": 0.25}
    assert (machine.vector, machine.function, machine.bandwidth) == (3e9, 4.0, 4e9)
    assert (machine.on_chip, machine.on_chip_bandwidth) == (2e6, 4e10)
    assert machine.overhead == pytest.approx(5e-6)
    assert machine.sparse == 0.5
    assert machine.joules["int4"] == pytest.approx((2e-12, 5e-12))
    assert machine.joules_of_byte == pytest.approx((1e-11, 1e-11))


def test_a_scaled_machine():
    machine = parse_machine(GOOD).scaled(bandwidth=2, utilisation=3)
    assert machine.bandwidth == 8e9
    assert machine.utilisation == {"fp16": 1.0, "int4": 0.75}
    with pytest.raises(GbdnnError):
        machine.scaled(bandwidth=0)


def test_machines_of_the_package():
    assert machine_names() == ["generic", "rapid"]
    rapid = load_machine("rapid")
    assert rapid.peak["int4"] == 8 * rapid.peak["fp16"] == pytest.approx(51.2e12)
    assert load_machine("generic").formats == ("fp16", "int8", "int4")


def test_from_a_file(tmp_path):
    path = tmp_path / "m.toml"
    path.write_text(GOOD)
    assert load_machine(path) == parse_machine(GOOD)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("fp16 = 2\n", "fp16 = \n", "TOML"),
        ('name = "x"', "", "name"),
        ('name = "x"', "name = 3", "name"),
        ('name = "x"', 'name = "x"\nspeed = 3', "speed"),
        ('name = "x"', 'name = "x"\ndescription = []', "description"),
        ("fp16 = 2\nint4 = 8", "", "at least one"),
        ("fp16 = 2\n", "fp64 = 2\n", "fp64"),
        ("fp16 = 2\n", "fp16 = -2\n", "positive"),
        ("fp16 = 2\n", "fp16 = nan\n", "positive"),
        ("fp16 = 2\n", "fp16 = inf\n", "positive"),
        ("fp16 = 2\n", "fp16 = true\n", "positive"),
        ("fp16 = 2\n", "fp16 = 'two'\n", "positive"),
        ("fp16 = 2\n", "fp16 = 2020-01-01\n", "positive"),
        ("fp16 = 2\n", f"fp16 = 1{'0' * 400}\n", "TOML|finite"),
        ("fp16 = 2\n", f"fp16 = 1{'0' * 5000}\n", "TOML|finite"),
        ("default = 0.5", "default = 1.5", "utilisation"),
        ("default = 0.5", "default = 0", "utilisation"),
        ("default = 0.5", "int8 = 0.5", "int8"),
        ("gops = 3", "", "gops"),
        ("gops = 3", "gops = 0", "gops"),
        ("gops = 3", "gops = 3\nlanes = 2", "lanes"),
        ("gops = 3", "gops = 3\nfunction = 0", "function"),
        ("gb_per_s = 4\n", "", "gb_per_s"),
        ("on_chip_gb_per_s = 40", "", "on_chip_gb_per_s"),
        ("on_chip_mb = 2", "on_chip_mb = -1", "on_chip_mb"),
        ("microseconds = 5", "microseconds = -5", "microseconds"),
        ("microseconds = 5", "milliseconds = 5", "milliseconds"),
        ("[sparse]\nutilisation = 0.5", "[sparse]\nutilisation = 2", "sparse"),
        ("[sparse]\nutilisation = 0.5", "[sparse]\ndensity = 2", "density"),
        ("int4_pj = [1, 2.5]", "int4_pj = [2.5, 1]", "int4_pj"),
        ("int4_pj = [1, 2.5]", "int4_pj = [1, 2, 3]", "int4_pj"),
        ("int4_pj = [1, 2.5]", "int4_pj = 'one'", "int4_pj"),
        ("int4_pj = [1, 2.5]", "int8_pj = 1", "int8_pj"),
        ("byte_pj = 10", "byte_pj = -1", "byte_pj"),
        ('name = "x"', 'name = "x"\nvector = 4', "TOML|section"),
        ("[memory]", "[[memory]]", "section"),
        ('name = "x"', "a = " + "[" * 5000, "TOML"),
    ],
)  # fmt: skip
def test_bad_files_say_what_is_wrong(tmp_path, old, new, says):
    assert old in GOOD
    path = tmp_path / "bad.toml"
    path.write_text(GOOD.replace(old, new))
    with pytest.raises(FileFormatError, match=says) as caught:
        load_machine(path)
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_files_that_cannot_be_read(tmp_path):
    for path in (tmp_path / "none.toml", tmp_path):
        with pytest.raises(DataUnavailableError):
            load_machine(path)
    (tmp_path / "b.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(FileFormatError, match="UTF-8"):
        load_machine(tmp_path / "b.toml")
    (tmp_path / "c.toml").write_bytes(b"#" * (2 << 20))
    with pytest.raises(FileFormatError, match="bytes"):
        load_machine(tmp_path / "c.toml")
    with pytest.raises(UnknownNameError, match="'generic', 'rapid'"):
        load_machine("tpu")


def test_this_machine_is_a_machine_file(monkeypatch):
    """What is measured can be read; small sizes and one round, as only the form is looked at."""
    for name, value in (("SIZE", 64), ("SAMPLES", 64), ("ROUNDS", 1), ("SECONDS", 0.0),
                        ("LARGE", 1 << 16), ("SMALL", 1 << 12)):  # fmt: skip
        monkeypatch.setattr(measured, name, value)
    machine = parse_machine(measured.measured_toml(1))
    assert machine.name == "this"
    assert machine.formats == ("fp32", "int8", "int4")
    assert set(machine.utilisation.values()) == {1.0}
    assert machine.sparse


def test_the_last_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(measured, "CACHES", tmp_path)
    assert measured._cache_bytes() == measured.GUESSED_CACHE
    for number, text in enumerate(("32K\n", "33554432\n", "many\n")):
        (tmp_path / f"index{number}").mkdir()
        (tmp_path / f"index{number}" / "size").write_text(text)
    assert measured._cache_bytes() == 32 << 20
