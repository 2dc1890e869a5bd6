"""Results on disk: nothing that was measured is lost, whatever happens while writing."""

import json
import subprocess
import sys

import pytest

from benchmarks import store
from gbdnn.errors import DataUnavailableError, InputError


def write(folder, text):
    (folder / store.NAME).write_text(text)


def test_append_and_read(tmp_path):
    for k in range(3):
        store.append(tmp_path, {"key": str(k)})
    assert [record["key"] for record in store.read(tmp_path).records] == ["0", "1", "2"]


def test_nothing_there(tmp_path):
    assert store.read(tmp_path).records == []


@pytest.mark.parametrize("damage", ['{"key": "b", "sec', "\x00\x00\x00", "[1, 2]", "nul"])
def test_a_damaged_last_line_is_named_and_left_out(tmp_path, damage):
    write(tmp_path, '{"key": "a"}\n' + damage)
    found = store.read(tmp_path)
    assert [record["key"] for record in found.records] == ["a"]
    assert len(found.damaged) == 1
    assert "line 2, the last" in found.damaged[0]
    assert store.NAME in found.damaged[0]


def test_a_new_record_does_not_join_a_damaged_line(tmp_path):
    write(tmp_path, '{"key": "a"}\n{"key": "b", "sec')
    store.append(tmp_path, {"key": "c"})
    found = store.read(tmp_path)
    assert [record["key"] for record in found.records] == ["a", "c"]
    assert "line 2 is damaged" in found.damaged[0]


def test_full_disk_leaves_old_results_intact(tmp_path):
    """A file size limit stops the write in the middle of the line, as a full disk does."""
    store.append(tmp_path, {"key": "a"})
    before = (tmp_path / store.NAME).read_bytes()
    code = f"""
import resource
from benchmarks import store
from gbdnn.errors import InputError
resource.setrlimit(resource.RLIMIT_FSIZE, ({len(before) + 20}, {len(before) + 20}))
try:
    store.append({str(tmp_path)!r}, {{"key": "b" * 1000}})
except InputError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "can be written" in done.stdout
    assert "intact" in done.stdout
    assert (tmp_path / store.NAME).read_bytes() == before


def test_unwritable_folder(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    for call in (store.require_writable, lambda folder: store.append(folder, {})):
        with pytest.raises(InputError, match="can be written"):
            call(blocked / "folder")


def test_load_is_tidy_and_takes_the_last_record_of_a_job(tmp_path):
    pytest.importorskip("pandas")
    old = {"key": "a", "seconds": 2.0, "machine": {"cores": 2}, "kernels": ["x", "y"]}
    write(tmp_path, json.dumps(old) + "\n" + json.dumps(old | {"seconds": 1.0}) + "\n")
    frame = store.load(tmp_path)
    assert frame["seconds"].tolist() == [1.0]
    assert frame["machine.cores"].tolist() == [2]
    assert frame["kernels"].tolist() == ["x; y"]


def test_load_of_nothing(tmp_path):
    pytest.importorskip("pandas")
    with pytest.raises(DataUnavailableError, match="gbdnn bench sweep"):
        store.load(tmp_path)
