"""A network as a sequence, a function and a table; and warming it up."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from builders import ALL, random_network

from gbdnn import Linear, Network, ReLU
from gbdnn.errors import InputError, MissingDependencyError
from gbdnn.network import load
from gbdnn.summary import Summary
from gbdnn.training import History


@pytest.fixture
def network(rng):
    made = random_network(rng, (12, 20, 8, 3), density=0.2)
    return Network(made.layers, metadata={"classes": ["a", "b", "c"]})


@pytest.fixture
def X(rng):
    return rng.standard_normal((7, 12)).astype(np.float32)


def test_a_network_is_a_sequence_of_layers(network, X):
    assert len(network) == len(network.layers) == 6
    assert [*network] == [*network.layers]
    assert network[0] is network.layers[0]
    assert network[-1] is network[np.int64(5)] is network.layers[-1]
    with pytest.raises(IndexError):
        network[6]
    with pytest.raises(TypeError):
        network["layers.0"]


def test_slices_are_networks(network, X):
    head, tail = network[:2], network[2:]
    assert isinstance(head, Network)
    assert head[0] is network[0]
    assert (head.in_features, head.out_features, tail.out_features) == (12, 20, 3)
    np.testing.assert_allclose(tail(head(X)), network(X), rtol=1e-5)
    assert network[:].layers == network.layers
    assert network[:2].metadata == {}  # it says what the whole network is
    assert network.metadata
    for wrong in (slice(1, None), slice(0, 0)):  # begins with an activation, is empty
        with pytest.raises(InputError, match="a layer with weights as the first"):
            network[wrong]


@pytest.mark.parametrize("backend", ALL)
def test_calling_predicts(network, X, backend):
    found = network(X, backend=backend, threads=1)
    np.testing.assert_array_equal(found, network.predict(X, backend=backend, threads=1))


class Cells(HTMLParser):
    """The texts of a table's cells."""

    def __init__(self, text):
        super().__init__()
        self.rows, self.tags = [], set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_data(self, data):
        self.rows[-1][-1] += data


def test_the_html_table_is_the_text_table(network):
    cells = Cells(network._repr_html_())
    text = str(replace(network.summary(), note="")).splitlines()
    assert [" ".join(row).split() for row in cells.rows] == [line.split() for line in text]
    assert len(cells.rows) == 8
    assert network.summary("auto")._repr_html_().count("fused") == 3


def test_html_is_escaped():
    row = {"layer": 0, "kind": "<script>&", "in_features": 1, "out_features": 1, "nnz": 1,
           "places": 1, "density": 1.0, "bytes": 4, "edges": 1}  # fmt: skip
    cells = Cells(Summary((row | {"backend": "<b>"},))._repr_html_())
    assert cells.tags == {"table", "thead", "tbody", "tr", "th", "td"}
    assert cells.rows[1][1] == "<script>&"
    assert cells.rows[1][-1] == "<b>"


def test_tables_as_frames(network):
    pd = pytest.importorskip("pandas")
    frame = network.summary("auto").to_frame()
    assert isinstance(frame, pd.DataFrame)
    assert frame["nnz"].sum() == network.edges
    assert frame["backend"].iloc[0] == "fused"
    assert frame.to_dict("records") == list(network.summary("auto").rows)
    assert list(History(({"loss": 1.0}, {"loss": 0.5})).to_frame()["loss"]) == [1.0, 0.5]
    assert len(History(()).to_frame()) == 0


def test_without_pandas(network, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    for table, name in ((network.summary(), "summary.rows"), (History(()), "history.records")):
        with pytest.raises(MissingDependencyError, match=f"pip install pandas; {name}"):
            table.to_frame()


# -- warming up ------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ALL)
def test_warming_up_prepares(network, X, backend):
    wanted = network.predict(X, backend=backend, threads=1)
    fresh = Network(network.layers)
    assert fresh.warm_up(backend) is None
    assert fresh._steps.keys() == {backend}
    np.testing.assert_array_equal(fresh.predict(X, backend=backend, threads=1), wanted)
    if backend == "fused":
        linear = Network([Linear(np.ones((2, 3)), -1.0, dtype="float64"), ReLU(2)])
        linear.warm_up()  # dense, float64


WARM = """
import sys, threading
import numpy as np, scipy.sparse as sp
import gbdnn
from numba.core import event

class Count(event.Listener):
    names = []
    def on_start(self, event):
        self.names.append(str(event.data["dispatcher"]))
    def on_end(self, event):
        pass

network, count = gbdnn.load(sys.argv[1]), Count()
event.register("numba:compile", count)
network.warm_up()
before = len(count.names)
rng = np.random.default_rng(0)
for rows in (1, 2, 17, 65, 300, 5000):
    for skip in (True, False):
        for threads in (1, None):
            X = rng.standard_normal((rows, network.in_features))
            network.predict(X, skip=skip, threads=threads)
            network.predict(np.asfortranarray(X, np.float32), skip=skip, threads=threads)
            network.predict(sp.csr_array(X * (X > 1)), skip=skip, threads=threads)
            network.predict(0 * X, skip=skip, threads=threads)
print(before, *count.names[before:], sep="\\n")
"""


def test_nothing_is_compiled_after_warming_up(rng, tmp_path):
    layers = []
    for shape in ((40, 30), (40, 40), (40, 40), (3, 40)):
        part = rng.random(shape) < 0.2
        layers += [Linear(np.where(part, rng.standard_normal(shape), 0), -0.5), "relu"]
    Network([*layers, "softmax"]).save(tmp_path / "m")
    assert len(load(tmp_path / "m")) == 9
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    done = subprocess.run(
        [sys.executable, "-c", WARM, str(tmp_path / "m")], capture_output=True, text=True,
        timeout=300, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    before, *later = done.stdout.split("\n")[:-1]
    assert int(before) > 5
    assert later == []
