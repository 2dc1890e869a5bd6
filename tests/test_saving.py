"""Saving: whatever happens meanwhile, the old file stays as it is or the new one is whole."""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from builders import random_network, run_script
from file_checks import assert_equal_networks

from gbdnn import Linear, Network
from gbdnn.challenge.matrix_market import read_matrix_market
from gbdnn.errors import DataUnavailableError
from gbdnn.files import disk
from gbdnn.network import load


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.safetensors"


class FullDisk:
    """A file on a disk that is full after some bytes."""

    def __init__(self, file, room):
        self.file, self.room = file, room

    def write(self, data):
        self.room -= len(data)
        if self.room < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return self.file.write(data)

    def __getattr__(self, name):
        return getattr(self.file, name)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.file.close()


@pytest.mark.parametrize("room", [0, 100, 3000])
def test_disk_full(path, network, monkeypatch, room):
    network.save(path)
    old = path.read_bytes()
    bigger = random_network(np.random.default_rng(0), (50, 60, 7))
    opened = Path.open

    def open_full(self, mode="r", *args, **options):
        file = opened(self, mode, *args, **options)
        return FullDisk(file, room) if "x" in mode else file

    monkeypatch.setattr(Path, "open", open_full)
    with pytest.raises(DataUnavailableError, match="No space left") as caught:
        bigger.save(path)
    assert "as it was" in caught.value.fix
    monkeypatch.undo()
    assert path.read_bytes() == old
    assert os.listdir(path.parent) == [path.name]


@pytest.mark.parametrize("step", ["fsync", "replace"])
@pytest.mark.parametrize("error", [OSError(errno.EIO, "broken"), KeyboardInterrupt()])
def test_interrupted_at_the_end(path, network, monkeypatch, step, error):
    path.write_bytes(b"old")

    def fail(*args):
        raise error

    monkeypatch.setattr(os, step, fail)
    with pytest.raises((DataUnavailableError, KeyboardInterrupt)):
        network.save(path)
    monkeypatch.undo()
    assert path.read_bytes() == b"old"
    assert os.listdir(path.parent) == [path.name]


def test_disk_full_for_the_kernel(path):
    """A limit on the size of files, in a process of its own."""
    script = """
import resource, sys
import numpy as np
import gbdnn
from gbdnn.errors import DataUnavailableError
network = gbdnn.Network([gbdnn.Linear(np.ones((300, 300)))])
small = gbdnn.Network([gbdnn.Linear(np.ones((2, 2)))])
small.save(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    network.save(sys.argv[1])
except DataUnavailableError as error:
    print("refused:", error)
"""
    done = run_script(script, str(path))
    assert "refused" in done.stdout
    assert load(path).in_features == 2
    assert os.listdir(path.parent) == [path.name]


@pytest.mark.parametrize("name", ["a.mtx", "a.mtx.gz"])
def test_disk_full_for_a_matrix(tmp_path, name):
    script = """
import resource, sys
import numpy as np
from gbdnn.challenge.matrix_market import write_matrix_market
from gbdnn.errors import DataUnavailableError
write_matrix_market(sys.argv[1], np.eye(3))
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    write_matrix_market(sys.argv[1], np.random.default_rng(0).random((200, 200)))
except DataUnavailableError as error:
    print("refused:", error)
"""
    done = run_script(script, str(tmp_path / name))
    assert "refused" in done.stdout
    assert "as it was" in done.stdout
    assert (read_matrix_market(tmp_path / name).toarray() == np.eye(3)).all()
    assert os.listdir(tmp_path) == [name]


@pytest.mark.parametrize("name", ["p.npy", "p.csv", "p.json"])
def test_disk_full_for_the_command_line(tmp_path, name):
    Network([Linear(np.ones((3000, 4)))]).save(tmp_path / "model")
    np.save(tmp_path / "x.npy", np.ones((20, 4)))
    (tmp_path / name).write_text("old")
    before = sorted(os.listdir(tmp_path))
    done = subprocess.run(
        [sys.executable, "-m", "gbdnn", "predict", "model", "x.npy", "--out", name],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000)),
        cwd=tmp_path, timeout=500, check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 1
    message = done.stderr.splitlines()[-1]
    assert message.startswith(f"error: {name}: expected a file that can be written, got File too")
    assert (tmp_path / name).read_text() == "old"
    assert sorted(os.listdir(tmp_path)) == before


def test_what_is_read_back_is_compared(path, network, monkeypatch):
    """A disk that loses bytes is noticed before the old file is gone."""
    network.save(path)
    old = path.read_bytes()
    fsync = os.fsync

    def spoil(descriptor):
        fsync(descriptor)
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            size = os.fstat(descriptor).st_size
            os.pwrite(descriptor, b"\xff", size - 2)

    monkeypatch.setattr(os, "fsync", spoil)
    with pytest.raises(DataUnavailableError, match="read back"):
        network.save(path)
    monkeypatch.undo()
    assert path.read_bytes() == old


def test_a_private_file_stays_private(path, network):
    network.save(path)
    path.chmod(0o600)
    network.save(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_link_is_followed(path, network):
    link = path.with_name("link")
    link.symlink_to(path)
    network.save(link)
    assert link.is_symlink()
    assert_equal_networks(load(path), network)


@pytest.mark.parametrize("place", [".", "missing/model", "fifo", "n\0ul", "x" * 300, "/dev/null"])
def test_where_nothing_can_be_written(tmp_path, network, place):
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(DataUnavailableError):
        network.save(f"{tmp_path}/{place}" if place[0] != "/" else place)
    assert os.listdir(tmp_path) == ["fifo"]
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


def test_killed_while_saving(path, tmp_path):
    """Whenever the process dies, the name holds one whole network or the other."""
    script = """
import sys
import numpy as np
import gbdnn
networks = [gbdnn.Network([gbdnn.Linear(np.full((200, 200 + k), k + 1.0))]) for k in range(2)]
networks[0].save(sys.argv[1])
print("ready", flush=True)
while True:
    for network in networks:
        network.save(sys.argv[1])
"""
    left = 0
    for k in range(6):
        with subprocess.Popen(
            [sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            try:
                process.wait(0.02 + 0.013 * k)
            except subprocess.TimeoutExpired:
                process.kill()
        found = load(path)
        assert found.layers[0].weight.values[0, 0] == found.in_features - 199
        names = set(os.listdir(tmp_path)) - {path.name}
        assert len(names) <= 1, names  # not those of earlier kills
        left += len(names)
    assert left
    found.save(tmp_path / "another")
    assert sorted(os.listdir(tmp_path)) == ["another", path.name]


SLOW = """
import sys, time
from gbdnn.files.disk import atomic_write
with atomic_write(sys.argv[1]) as file:
    file.write(b"whole")
    file.flush()
    print("inside", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def writer(path):
    """A process in the middle of writing."""
    command = [sys.executable, "-c", SLOW, str(path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as process:
        assert process.stdout.readline() == "inside\n"
        yield process
        process.kill()


def test_a_living_process_keeps_its_temporary_file(path, network, writer):
    """Whatever its number; it ends well after others have saved."""
    network.save(path)
    network.save(path.with_name("other"))
    (temporary,) = path.parent.glob(".*.tmp")
    assert f".{writer.pid}." in temporary.name
    writer.communicate("\n")
    assert writer.returncode == 0
    assert path.read_bytes() == b"whole"
    assert sorted(os.listdir(path.parent)) == [path.name, "other"]


@pytest.mark.parametrize(("old", "new", "stays"), [
    ("", "", False),
    (f".{os.getpid()}.", ".1.", False),  # an id that is in use again
    (disk._host(), "0123abcd", True),  # of another host
    (".tmp", ".txt", True),
])  # fmt: skip
def test_which_files_are_stale(path, network, writer, old, new, stays):
    (temporary,) = path.parent.glob(".*.tmp")
    writer.kill()
    writer.wait()
    old = old.replace(str(os.getpid()), str(writer.pid))
    left = temporary.rename(temporary.with_name(temporary.name.replace(old, new)))
    network.save(path)
    assert left.exists() == stays


def test_what_is_no_temporary_file_stays(path, network):
    """Somebody's pipe, folder or link of such a name is neither waited for nor removed."""
    names = [f".{kind}.gbdnn-{disk._host()}.7.0a1b2c3d.tmp" for kind in ("pipe", "folder", "link")]
    pipe, folder, link = (path.with_name(name) for name in names)
    os.mkfifo(pipe)
    folder.mkdir()
    link.symlink_to(path)
    network.save(path)
    network.save(path)
    assert sorted(os.listdir(path.parent)) == sorted([*names, path.name])


def test_taken_for_stale_before_it_was_locked(path, network, monkeypatch):
    """Between the making of the file and its lock another process may come: a new name."""
    flock, removed = fcntl.flock, []

    def late(descriptor, operation):
        if operation == fcntl.LOCK_EX and not removed:
            removed.extend(path.parent.glob(".*.tmp"))
            removed[0].unlink()
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    network.save(path)
    assert len(removed) == 1
    assert_equal_networks(load(path), network)
    assert os.listdir(path.parent) == [path.name]


def test_where_files_cannot_be_locked(path, network, monkeypatch):
    """Some network file systems: files are written, and nothing is taken for stale."""
    left = path.with_name(f".model.gbdnn-{disk._host()}.7.0a1b2c3d.tmp")
    left.touch()

    def refuse(descriptor, operation):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    network.save(path)
    assert_equal_networks(load(path), network)
    assert left.exists()
