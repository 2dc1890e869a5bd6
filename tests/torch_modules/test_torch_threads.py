"""The products of a SparseLinear on torch's own threads."""

from __future__ import annotations

import os
import threading

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from gbdnn.backends.workers import share, sharing_on  # noqa: E402
from gbdnn.torch import SparseLinear, team  # noqa: E402
from gbdnn.torch import product as products  # noqa: E402

needs_libgomp = pytest.mark.skipif(team._parallel() is None, reason="torch has no libgomp")


@needs_libgomp
def test_work_goes_to_torchs_threads():
    before, seen, both = threading.active_count(), set(), threading.Barrier(2)

    def task(number):
        both.wait(20)  # two threads are inside at once
        seen.add(threading.get_native_id())
        return 2 * number

    with team.torchs_threads():
        assert share(task, range(2), 2) == [0, 2]
    assert len(seen) == 2
    assert threading.active_count() == before  # of Python's none was made
    assert all(os.path.exists(f"/proc/self/task/{each}") for each in seen)  # libgomp keeps them


@needs_libgomp
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_errors_arrive(error):
    def task(number):
        if number == 3:
            raise error("3")
        return number

    with pytest.raises(error), team.torchs_threads():
        share(task, range(8), 2)


def test_an_interrupt_before_the_task_is_not_lost(monkeypatch):
    """ctypes prints what a callback raises, and drops it."""
    monkeypatch.setattr(team, "_parallel", lambda: lambda task, data, count, flags: None)
    with pytest.raises(KeyboardInterrupt):
        team._run(lambda: None, 2)


def test_results_are_those_of_the_pool(monkeypatch):
    torch.manual_seed(0)
    layer, X = SparseLinear(300, 500, density=0.1), torch.randn(130, 300, requires_grad=True)

    def results():
        layer.zero_grad()
        X.grad = None
        Z = layer(X)
        Z.square().sum().backward()
        return [each.detach().numpy().copy() for each in (Z, X.grad, layer.values.grad)]

    monkeypatch.setattr(products, "threads", lambda: 2)
    found = results()
    monkeypatch.setattr(team, "_parallel", lambda: None)
    for mine, others in zip(found, results(), strict=True):
        np.testing.assert_array_equal(mine, others)


def test_the_pool_is_back_behind_it():
    with pytest.raises(ValueError, match="wrong"), sharing_on(lambda task, count: None):
        raise ValueError("wrong")
    assert share(lambda number: number, range(4), 2) == [0, 1, 2, 3]


@needs_libgomp
def test_a_forked_child_uses_its_own_threads():
    # torch's own operations wait for ever in a forked child from 32,768 elements on
    layer, X = SparseLinear(300, 500, density=0.1), torch.randn(50, 300)
    expected = layer(X).detach().numpy()
    child = os.fork()
    if child == 0:
        try:
            products.threads = lambda: 2
            os._exit(not np.array_equal(layer(X).detach().numpy(), expected))
        finally:
            os._exit(2)
    assert os.waitpid(child, 0)[1] == 0
