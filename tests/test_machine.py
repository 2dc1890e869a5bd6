"""Limits of control groups, the environment and BLAS; locks in forked children."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from builders import run_script

from gbdnn.errors import InputError
from gbdnn.machine import available_bytes, available_cores, check_threads, default_threads, threads
from gbdnn.machine.cgroups import cpus, free_bytes

MiB = 1 << 20
GiB = 1 << 30
NONE = 0x7FFFFFFFFFFFF000  # what version 1 says for no limit


class Tree:
    """A /proc and a /sys/fs/cgroup below a folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.write("proc/meminfo", "MemTotal: 33554432 kB\nMemAvailable: 16777216 kB\n")  # 16 GiB
        self.write("proc/self/statm", "1000 1 1 1 1 1 1\n")

    def write(self, name: str, text: str) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def process(self, groups: str, *mounts: str) -> None:
        """Say where the process is: lines of /proc/self/cgroup and of mountinfo."""
        self.write("proc/self/cgroup", groups)
        other = "21 1 8:1 / / rw,relatime shared:1 - ext4 /dev/root rw"
        proc = "22 21 0:5 / /proc rw - proc proc rw"
        self.write("proc/self/mountinfo", "\n".join([other, proc, *mounts, ""]))

    def memory(self, group: str, limit: object, used: int, inactive: int = 0) -> None:
        """Fill a group; its path says the version."""
        folder = f"sys/fs/cgroup/{group}"
        if group.startswith("memory"):
            self.write(f"{folder}/memory.limit_in_bytes", f"{limit}\n")
            self.write(f"{folder}/memory.usage_in_bytes", f"{used}\n")
            stat = f"cache 5\ninactive_file 7\ntotal_inactive_file {inactive}\ntotal_rss 3\n"
        else:
            self.write(f"{folder}/memory.max", f"{limit}\n")
            self.write(f"{folder}/memory.current", f"{used}\n")
            stat = f"anon 3\nfile 9\ninactive_anon 1\ninactive_file {inactive}\n"
        self.write(f"{folder}/memory.stat", stat)


V2 = "30 21 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate"
MEMORY = "31 21 0:27 {} /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory"
CPU = "32 21 0:28 {} /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct"
HYBRID = "33 21 0:29 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw"


@pytest.fixture
def tree(tmp_path):
    return Tree(tmp_path)


# -- memory ----------------------------------------------------------------------------------------


def test_without_groups(tree):
    assert free_bytes(tree.root) is None
    assert cpus(tree.root) is None
    assert available_bytes(tree.root) == 16 * GiB


def test_page_cache_is_not_used_up(tree):
    """A container of 4 GiB that has read a file: the report's case."""
    tree.process("0::/\n", V2)
    tree.memory("", 4 * GiB, 4 * GiB - 8 * MiB, inactive=3 * GiB)
    assert available_bytes(tree.root) == 3 * GiB + 8 * MiB


@pytest.mark.parametrize(("limit", "used", "inactive", "free"), [
    ("max", GiB, 0, None),
    (2 * GiB, GiB, 0, GiB),
    (2 * GiB, GiB, 2 * GiB, 2 * GiB),  # counters of different moments
    (GiB, 2 * GiB, MiB, 0),  # a limit that was lowered
])  # fmt: skip
def test_one_group(tree, limit, used, inactive, free):
    tree.process("0::/own\n", V2)
    tree.memory("own", limit, used, inactive)
    assert free_bytes(tree.root) == free


@pytest.mark.parametrize("tightest", ["a", "a/b", "a/b/c"])
def test_groups_above(tree, tightest):
    """Slurm, systemd and Kubernetes set limits above the process's own group."""
    tree.process("0::/a/b/c\n", V2)
    for group in ("a", "a/b", "a/b/c"):
        tree.memory(group, GiB if group == tightest else 8 * GiB, 512 * MiB, inactive=128 * MiB)
    tree.memory("a/other", MiB, MiB)
    assert free_bytes(tree.root) == 640 * MiB


def test_a_job_of_slurm(tree):
    """Version 1: the limit is in the job's group, the process in a task's."""
    own = "/slurm/uid_1000/job_7/step_0/task_0"
    tree.process(f"9:memory:{own}\n4:cpu,cpuacct:/\n1:name=systemd:/\n", MEMORY.format("/"))
    for group in ("", "/slurm", "/slurm/uid_1000"):
        tree.memory(f"memory{group}", NONE, 9 * GiB)
    tree.memory("memory/slurm/uid_1000/job_7", 2 * GiB, GiB, inactive=256 * MiB)
    tree.memory(f"memory{own}", NONE, GiB)
    assert free_bytes(tree.root) == GiB + 256 * MiB


@pytest.mark.parametrize("top", ["/docker/4f5e", "/"])
@pytest.mark.parametrize("seen", ["/docker/4f5e", "/", "/../elsewhere", "/not/there"])
def test_a_container_of_version_1(tree, top, seen):
    """Its group is mounted as the root, whatever path /proc names."""
    tree.process(f"9:memory:{seen}\n0::/\n", MEMORY.format(top), HYBRID)
    tree.memory("memory", GiB, 300 * MiB, inactive=100 * MiB)
    assert available_bytes(tree.root) == 824 * MiB


def test_a_mount_with_blanks(tree):
    tree.process("0::/\n", V2.replace("/sys/fs/cgroup", r"/sys/my\040groups"))
    tree.write("sys/my groups/memory.max", "100")
    tree.write("sys/my groups/memory.current", "60")
    assert free_bytes(tree.root) == 40


@pytest.mark.parametrize("damage", ["", "nonsense\n", "0\n", "0::\n", "9:memory\n", "\xff\n"])
def test_files_that_say_nothing(tree, damage):
    tree.process(damage, V2, MEMORY.format("/"), "1 2", "- cgroup", "a b c d e - cgroup2")
    tree.write("sys/fs/cgroup/memory.max", damage)
    tree.write("sys/fs/cgroup/memory.current", damage)
    assert available_bytes(tree.root) == 16 * GiB
    assert cpus(tree.root) is None


def test_this_machine():
    assert 0 < available_bytes() < 1 << 62


# -- threads ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "count"), [
    ("max 100000", None), ("50000 100000", 1), ("100000 100000", 1), ("150000 100000", 2),
    ("400000 100000", 4), ("1000 100000", 1), ("100000", None), ("7 0", None),
])  # fmt: skip
def test_quota(tree, text, count):
    tree.process("0::/a/b\n", V2)
    tree.write("sys/fs/cgroup/a/b/cpu.max", text)
    assert cpus(tree.root) == count


def test_quotas_above(tree):
    tree.process("0::/a/b\n", V2)
    tree.write("sys/fs/cgroup/a/b/cpu.max", "800000 100000")
    tree.write("sys/fs/cgroup/a/cpu.max", "300000 100000")
    assert cpus(tree.root) == 3


@pytest.mark.parametrize(("quota", "count"), [(-1, None), (250000, 3)])
def test_quota_of_version_1(tree, quota, count):
    tree.process("4:cpu,cpuacct:/kube/pod\n", CPU.format("/"), HYBRID)
    tree.write("sys/fs/cgroup/cpu,cpuacct/kube/pod/cpu.cfs_quota_us", f"{quota}\n")
    tree.write("sys/fs/cgroup/cpu,cpuacct/kube/pod/cpu.cfs_period_us", "100000\n")
    assert cpus(tree.root) == count


@pytest.fixture
def eight(monkeypatch):
    """Eight cores, without limits."""
    monkeypatch.setattr(threads, "available_cores", lambda: 8)
    monkeypatch.setattr(threads.cgroups, "cpus", lambda: None)
    monkeypatch.setattr(threads._blas, "allowed", lambda: threads.NONE)
    for name in threads.VARIABLES:
        monkeypatch.delenv(name, raising=False)
    threads._declared.cache_clear()
    yield monkeypatch
    threads._declared.cache_clear()


@pytest.mark.parametrize("name", ["OMP_NUM_THREADS", "NUMBA_NUM_THREADS"])
@pytest.mark.parametrize(("text", "count"), [
    ("3", 3), ("3,2,1", 3), (" 2 ", 2), ("100", 8), ("", 8), ("0", 8), ("-1", 8), ("many", 8),
    ("2.5", 8), ("٣", 3),
])  # fmt: skip
def test_environment(eight, name, text, count):
    eight.setenv(name, text)
    assert default_threads() == count
    assert check_threads(None) == count


def test_the_least_counts(eight):
    assert default_threads() == 8
    eight.setattr(threads._blas, "allowed", lambda: 6)
    assert default_threads() == 6
    eight.setattr(threads.cgroups, "cpus", lambda: 4)
    threads._declared.cache_clear()
    assert default_threads() == 4
    eight.setenv("OMP_NUM_THREADS", "3")
    eight.setenv("NUMBA_NUM_THREADS", "5")
    threads._declared.cache_clear()
    assert default_threads() == 3


def test_who_says_a_number_gets_it(eight):
    eight.setenv("OMP_NUM_THREADS", "1")
    assert check_threads(7) == 7
    with pytest.warns(UserWarning, match="9 asked for"):
        assert check_threads(9) == 8
    for wrong in (0, -1, 1.5, True, "2"):
        with pytest.raises(InputError):
            check_threads(wrong)


@pytest.mark.skipif(available_cores() < 2, reason="needs two cores")
def test_limits_of_threadpoolctl():
    """Seen in whatever thread they were set; our own limits are none for others."""
    run_script("""
import threading
import numpy
from threadpoolctl import threadpool_info, threadpool_limits
from gbdnn.machine import default_threads
from gbdnn.machine.threads import limited_blas

def blas():
    return [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]

def elsewhere(count):
    def task():
        with limited_blas(count):
            found.extend([*blas(), default_threads()])
    thread = threading.Thread(target=task)
    thread.start()
    thread.join()

before, cores = blas(), default_threads()
assert cores > 1, cores
with limited_blas(1), limited_blas(1):
    assert set(blas()) == {1} and default_threads() == cores
with threadpool_limits(1):
    assert default_threads() == 1
    found = []
    elsewhere(2)  # the main thread has the limit, as far as threadpoolctl is concerned
    assert found == [2] * len(before) + [1], found
    assert set(blas()) == {1}
assert blas() == before
found = []
elsewhere(1)
assert found == [1] * len(before) + [cores]
assert blas() == before
with threadpool_limits(1):  # nobody was shut out
    assert set(blas()) == {1}
assert blas() == before
""")


class _Library:
    """A BLAS whose limits hold for a thread."""

    internal_api, threading_layer, filepath, prefix = "openblas", "openmp", "", ""

    def __init__(self):
        self.local = threading.local()

    @property
    def num_threads(self):
        return getattr(self.local, "count", 7)

    def set_num_threads(self, count):
        self.local.count = count


def test_limits_of_a_thread(monkeypatch):
    """Each thread makes and undoes its own."""
    library = _Library()
    monkeypatch.setattr(threads, "_libraries", lambda: ([library], []))
    inside = []

    def task():
        with threads.limited_blas(1):
            inside.append(library.num_threads)
        inside.append(library.num_threads)

    with threads.limited_blas(2):
        worker = threading.Thread(target=task)
        worker.start()
        worker.join()
        assert (inside, library.num_threads) == ([1, 7], 2)
    assert library.num_threads == 7


# -- locks and fork --------------------------------------------------------------------------------


def test_fork_while_other_threads_have_locks():
    """Locks are free in the child; imports and compilations of other threads are waited for."""
    run_script(
        """
import os, signal, sys, threading, time, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # 3.12: fork with threads, the very point
from gbdnn.machine.locks import lock_of, starting
from gbdnn.machine.threads import limited_blas, _blas, _libraries
ready, stop, half_done = threading.Event(), threading.Event(), []

class Owner:
    def __init__(self):
        self._lock = lock_of(self)

owner = Owner()
before = [each.num_threads for each in _libraries()[1]]

def first():
    with owner._lock, limited_blas(1):
        ready.set()
        stop.wait()

def second():
    with starting:
        half_done.append(1)
        ready.set()
        time.sleep(0.3)
        half_done.pop()

for task in (first, second):
    threading.Thread(target=task).start()
    ready.wait()
    ready.clear()
child = os.fork()
if not child:
    signal.alarm(20)
    with owner._lock, starting, limited_blas(1):
        pass
    right = not half_done and [each.num_threads for each in _libraries()[1]] == before
    os._exit(0 if right and not _blas.users else 3)
_, status = os.waitpid(child, 0)
assert status == 0, status
assert [each.num_threads for each in _libraries()[1]] == [1] * len(before)
stop.set()
"""
    )


def test_fork_inside_a_limit():
    """The child's own limits stay until it leaves them."""
    run_script("""
import os
from gbdnn.machine.threads import limited_blas, _libraries
def counts():
    return [each.num_threads for each in _libraries()[1]]
before = counts()
with limited_blas(1):
    child = os.fork()
    inside = counts()
after = counts()
right = after == before and set(inside) == {1}
if not child:
    os._exit(0 if right else 3)
assert right
assert os.waitpid(child, 0)[1] == 0
""")


FIRST = """
import os, signal, sys, threading, time, warnings
warnings.simplefilter("ignore", DeprecationWarning)
import numpy as np
from gbdnn import Linear, Network
backend, delay = sys.argv[1], float(sys.argv[2])
rng = np.random.default_rng(0)
weights = [np.rint(4 * rng.random((90, 90)) * (rng.random((90, 90)) < .1)) for _ in range(3)]
network = Network([layer for W in weights for layer in (Linear(W, -1.0), "relu")])
X = rng.integers(0, 2, (70, 90)).astype("f4")
wanted = X.T
for W in weights:
    wanted = np.maximum(W @ wanted - 1, 0)
errors = []

def predict():
    for _ in range(20):
        if not np.array_equal(network.predict(X, backend=backend), wanted.T):
            errors.append("wrong")

other = threading.Thread(target=predict)
other.start()
time.sleep(delay)
children = []
for _ in range(3):
    child = os.fork()
    if not child:
        signal.alarm(500)
        predict()
        os._exit(3 if errors else 0)
    children.append(child)
other.join()
assert not errors
found = [os.waitpid(child, 0)[1] for child in children]
assert found == [0, 0, 0], found
"""


@pytest.mark.parametrize(("backend", "delay"), [
    ("fused", 0.02), ("fused", 0.4), ("fused", 0.8), ("fused", 1.2), ("dense", 0.02),
    ("graphblas", 0.02), ("graphblas", 0.5),
])  # fmt: skip
def test_fork_during_the_first_prediction(backend, delay):
    """While the other thread imports, loads compiled code, prepares weights or computes."""
    run_script(FIRST, backend, str(delay), timeout=550)
