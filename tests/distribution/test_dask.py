"""Predictions on a Dask cluster of processes; skipped where Dask is not installed."""

from __future__ import annotations

import os
import signal

import numpy as np
import pytest

dask = pytest.importorskip("dask")
distributed = pytest.importorskip("distributed")
array = pytest.importorskip("dask.array")

from gbdnn import Network  # noqa: E402
from gbdnn.distributed import opened, predict, prediction, stream  # noqa: E402
from gbdnn.errors import InputError, ShapeError  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")  # Dask's own


@pytest.fixture(scope="module")
def client():
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=None, processes=True
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


def test_arrays_and_dask_arrays(client, network, X):
    want = network.predict(X)
    executor = client.get_executor()
    assert np.array_equal(predict(network, X, executor=executor, chunk=64), want)
    cut = array.from_array(X, chunks=(130, 7))
    assert np.array_equal(predict(network, cut, executor=executor), want)
    assert np.array_equal(np.concatenate(list(stream(network, cut, executor=executor))), want)
    with pytest.raises(ShapeError, match="columns"):
        predict(network, cut[:, :3], executor=executor)
    with pytest.raises(ShapeError, match="compute_chunk_sizes"):
        predict(network, cut[cut[:, 0] > 0], executor=executor)


def test_a_dask_array_on_processes(pool, network, X):
    cut = array.from_array(X, chunks=(130, 7))
    assert np.array_equal(predict(network, cut, executor=pool), network.predict(X))


def test_weights_are_scattered_once(client, network, X, monkeypatch):
    packed, pack = [], prediction.pack
    monkeypatch.setattr(prediction, "pack", lambda n: packed.append(n) or pack(n))
    for _ in range(2):
        predict(network, X, executor=client.get_executor(), chunk=64)
    assert 1 <= len(packed) <= 2


def test_by_address(client, network, X):
    address = client.scheduler.address.removeprefix("tcp://")
    with opened(f"dask://{address}") as pool:
        assert (pool.slots, pool.slots_a_host) == (2, 2)
        assert np.array_equal(predict(network, X, executor=pool), network.predict(X))
    with (
        dask.config.set({"distributed.comm.timeouts.connect": "200ms"}),
        pytest.raises(InputError, match="a scheduler at"),
    ):
        predict(network, X, executor="dask://127.0.0.1:9")


def test_rows_of_a_killed_worker_are_done_again(client, network, X):
    killed = []

    def kill(rows):
        if not killed:
            killed.append(next(iter(client.run(os.getpid).values())))
            os.kill(killed[0], signal.SIGKILL)

    new = Network(network.layers)
    got = predict(new, X, executor=client.get_executor(), chunk=64, progress=kill)
    assert np.array_equal(got, network.predict(X))
