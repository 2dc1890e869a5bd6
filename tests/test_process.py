"""Forks, spawned processes, threads, and what an import costs; each in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from builders import ALL, THREADS, random_network, run_script

NETWORK = """
import sys
import numpy as np, scipy.sparse as sp
from gbdnn import Linear, Network, as_csr

def predict(network, X, **options):
    return network.predict(X, backend=sys.argv[1], threads=int(sys.argv[2]), **options)

def make():
    rng = np.random.default_rng(0)
    layers = []
    for _ in range(3):  # whole numbers: exact in float32
        W = sp.random_array((256, 256), density=0.1, rng=rng)
        W.data = np.rint(4 * W.data) - 1
        layers += [Linear(W, -1.0), "relu"]
    return Network(layers), rng.integers(0, 2, (700, 256))

def expected(network, X):
    Y = X.T.astype(float)
    for layer in network.layers[::2]:
        Y = np.maximum(layer.weight.to_dense().astype(float) @ Y - 1, 0)
    return Y.T
"""


@pytest.mark.parametrize("backend", ALL)
def test_fork_after_a_parallel_prediction(backend):
    run_script(
        NETWORK
        + """
import os, signal, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # 3.12: fork with threads, the very point
network, X = make()
wanted = predict(network, X)  # many tiles
predict(network, X[:64])  # one tile, its rows split among the threads
assert np.array_equal(wanted, expected(network, X))
child = os.fork()
if not child:
    signal.alarm(30)
    same = np.array_equal(predict(network, X), wanted)
    one = np.array_equal(predict(network, X[:64]), wanted[:64])
    again = np.array_equal(predict(make()[0], X, batch_size=16), wanted)
    os._exit(0 if same and one and again else 3)
_, status = os.waitpid(child, 0)
assert status == 0, f"child ended with {status}"
assert np.array_equal(predict(network, X), wanted)
""",
        backend,
        str(THREADS),
    )


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_multiprocessing(method, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        NETWORK
        + f"""
import multiprocessing

def work(part):
    network, X = make()
    return predict(network, X[part::2])

if __name__ == "__main__":
    import warnings
    warnings.simplefilter("ignore", DeprecationWarning)
    network, X = make()
    wanted = predict(network, X)
    with multiprocessing.get_context("{method}").Pool(2) as pool:
        parts = pool.map_async(work, [0, 1]).get(timeout=50)
    for part in (0, 1):
        assert np.array_equal(parts[part], wanted[part::2])
"""
    )
    done = subprocess.run(
        [sys.executable, script, "graphblas", str(THREADS)], timeout=100, check=False,
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("backend", ALL)
def test_threads_share_a_network(backend, rng):
    network = random_network(rng, (64, 100, 64, 30))
    batches = [rng.standard_normal((50 * k + 1, 64)).astype("f4") for k in range(8)]
    alone = [random_copy(network).predict(X, backend=backend) for X in batches]

    def task(number):
        return [network.predict(X, backend=backend, threads=1 + number % THREADS) for X in batches]

    with ThreadPoolExecutor(4) as pool:
        for results in pool.map(task, range(4)):
            for result, wanted in zip(results, alone, strict=True):
                np.testing.assert_allclose(result, wanted, rtol=1e-4, atol=1e-4)


def random_copy(network):
    """Return the network without its prepared weights."""
    return type(network)(network.layers)


def test_many_threads_prepare_at_once():
    run_script(
        NETWORK
        + """
from concurrent.futures import ThreadPoolExecutor
network, X = make()
with ThreadPoolExecutor(8) as pool:
    results = list(pool.map(lambda _: predict(network, X[:40]), range(8)))
assert all(np.array_equal(result, expected(network, X[:40])) for result in results)
""",
        "graphblas",
        "1",
    )


@pytest.mark.parametrize("start", [
    "import graphblas; graphblas.init('suitesparse', blocking=False)",
    "import graphblas; graphblas.init('suitesparse', blocking=True)",
    "import graphblas; graphblas.Matrix(float, 2, 2)",
])  # fmt: skip
@pytest.mark.parametrize("backend", ["graphblas", "graphblas-reference"])
def test_graphblas_started_by_somebody_else(backend, start):
    run_script(
        start
        + NETWORK
        + f"""
from concurrent.futures import ThreadPoolExecutor
from gbdnn.weights.graphblas import is_blocking
assert is_blocking() == {"blocking=True" in start}
network, X = make()
wanted = expected(network, X)
for _ in range(2):
    assert np.array_equal(predict(network, X, batch_size=64), wanted)
with ThreadPoolExecutor(4) as pool:
    for result in pool.map(lambda _: predict(network, X, batch_size=64), range(4)):
        assert np.array_equal(result, wanted)
""",
        backend,
        str(THREADS),
    )


def test_import_is_light():
    run_script("""
import sys, time
begin = time.process_time()
import gbdnn
seconds = time.process_time() - begin
heavy = {"graphblas", "numba", "scipy", "sklearn", "rich", "click"} & set(sys.modules)
assert not heavy, heavy
assert seconds < 0.3, seconds
assert set(gbdnn.__all__) <= set(dir(gbdnn))
for name in gbdnn.__all__:
    getattr(gbdnn, name)
try:
    gbdnn.nonsense
except AttributeError as error:
    assert "nonsense" in str(error)
else:
    raise SystemExit("no AttributeError")
""")


def test_limits_of_blas_are_restored():
    run_script(
        NETWORK
        + """
from concurrent.futures import ThreadPoolExecutor
from threadpoolctl import threadpool_info
def limits():
    return [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]
before = limits()
network, X = make()
with ThreadPoolExecutor(3) as pool:
    list(pool.map(lambda k: predict(network, X[:100 * k + 10], batch_size=32), range(6)))
assert limits() == before, (limits(), before)
""",
        "dense",
        str(THREADS),
    )


def test_same_call_same_bits():
    """From the first call on, and from whatever thread: BLAS divides sums by its threads."""
    run_script(
        NETWORK
        + """
rng = np.random.default_rng(0)
layers = []
for _ in range(2):
    W = rng.standard_normal((256, 256)) * (rng.random((256, 256)) < 0.1)
    layers += [Linear(W, 0.1), "relu"]
network = Network(layers)
with ThreadPoolExecutor(1) as pool:
    for samples in (50, 90, 300):
        X = rng.standard_normal((samples, 256)).astype("f4")
        first = predict(network, X)
        calls = [pool.submit(predict, network, X).result() for _ in range(3)]
        calls += [predict(Network(layers), X) for _ in range(3)]
        assert all(np.array_equal(first, other) for other in calls)
""".replace("rng = ", "from concurrent.futures import ThreadPoolExecutor\nrng = ", 1),
        "dense",
        str(THREADS),
    )
