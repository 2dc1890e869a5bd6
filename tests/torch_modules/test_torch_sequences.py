"""LSTM, GRU and Embedding of torch as layers, and back: outputs equal to 1e-5."""

from __future__ import annotations

import numpy as np
import pytest

import gbdnn
from gbdnn.errors import GbdnnError
from gbdnn.models import recurrent

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch.nn.utils import prune  # noqa: E402

from gbdnn.torch import to_torch  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")

X = np.random.default_rng(0).standard_normal((5, 7, 6)).astype(np.float32)
IDS = np.random.default_rng(1).integers(0, 20, (5, 7))


def outputs(module, X):
    module.eval()
    with torch.no_grad():
        Z = module(torch.from_numpy(X))
    return (Z[0] if isinstance(Z, tuple) else Z).numpy()


def agrees(module, network, X=X, given=None, axes=None):
    """Whether a network gives what a model gives; `axes` of time and samples, if exchanged."""
    expected = outputs(module, X)
    expected = expected if axes is None else expected.swapaxes(*axes)
    given = X if given is None else given
    np.testing.assert_allclose(network.predict(given), expected, rtol=1e-5, atol=1e-5)


OPTIONS = [
    {}, {"bias": False}, {"num_layers": 3, "dropout": 0.4}, {"proj_size": 3},
    {"bidirectional": True}, {"bidirectional": True, "num_layers": 2, "proj_size": 2},
]  # fmt: skip


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_lstm_there_and_back(options, first):
    torch.manual_seed(0)
    module = nn.LSTM(6, 8, batch_first=first, **options)
    network = gbdnn.from_torch(module)
    if first:
        agrees(module, network)
    else:
        agrees(module, network, X.swapaxes(0, 1).copy(), X, axes=(0, 1))
    assert network.layers[0].kind == ("blstm" if "bidirectional" in options else "lstm")
    back = to_torch(network)
    agrees(back, network)
    agrees(back, gbdnn.from_torch(back))


@pytest.mark.parametrize(
    "options", [*OPTIONS[:3], {"bidirectional": True, "num_layers": 2}], ids=str
)
def test_gru_there_and_back(options):
    torch.manual_seed(0)
    module = nn.GRU(6, 8, batch_first=True, **options)
    network = gbdnn.from_torch(module)
    agrees(module, network)
    agrees(to_torch(network), network)
    wide = gbdnn.from_torch(nn.GRU(6, 8, batch_first=True, **options).double())
    assert wide.dtype == np.float64


class Tagger(nn.Module):
    """A model as people write them: numbers in, one row for each sequence out."""

    def __init__(self, cells=nn.LSTM, take="last", **options):
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(20, 6, padding_idx=0)
        self.cells = cells(6, 8, num_layers=2, batch_first=True, dropout=0.1, **options)
        self.head = nn.Sequential(nn.Dropout(0.2), nn.Linear(8, 4), nn.Softmax(dim=1))
        self.take = take

    def forward(self, ids):
        x = self.embedding(ids)
        h0 = torch.zeros(2, x.size(0), 8).to(x.device)
        lstm = isinstance(self.cells, nn.LSTM)
        outputs, state = self.cells(x, (h0, h0) if lstm else h0)
        h = state[0] if lstm else state
        row = {
            "last": lambda: outputs[:, -1],
            "last of all": lambda: outputs[:, -1, :],
            "select": lambda: outputs.select(1, -1),
            "mean": lambda: outputs.mean(dim=1),
            "function": lambda: torch.mean(outputs, 1),
            "state": lambda: h[-1],
            "number": lambda: h[1],
        }[self.take]()
        return self.head(row)


@pytest.mark.parametrize("cells", [nn.LSTM, nn.GRU])
@pytest.mark.parametrize(
    "take", ["last", "last of all", "select", "mean", "function", "state", "number"]
)
def test_models_of_sequences(cells, take):
    model = Tagger(cells, take)
    network = gbdnn.from_torch(model)
    agrees(model, network, IDS, IDS[..., None])
    assert isinstance(network.layers[0], gbdnn.Embedding)
    assert network.layers[4].kind == ("mean" if take in ("mean", "function") else "last")
    agrees(to_torch(network), network, IDS, IDS[..., None])


class TimeFirst(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner, self.cells, self.head = nn.Linear(6, 5), nn.LSTM(5, 8), nn.Linear(8, 3)

    def forward(self, x):
        x = torch.relu(self.inner(x)).permute(1, 0, 2)
        return self.head(self.cells(x)[0].transpose(0, 1)[:, -1])


class Bag(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.head = nn.Embedding(20, 6), nn.Linear(6, 3)

    def forward(self, x):
        return self.head(self.embedding(x).mean(1))


def test_time_first_inside_and_a_bag_of_words():
    torch.manual_seed(0)
    agrees(model := TimeFirst(), gbdnn.from_torch(model))
    agrees(model := Bag(), gbdnn.from_torch(model), IDS, IDS[..., None])


def test_masks_of_recurrent_weights_make_sparse_ones():
    module = nn.LSTM(6, 8, batch_first=True, bidirectional=True)
    for name in ("weight_ih_l0", "weight_hh_l0", "weight_hh_l0_reverse"):
        prune.l1_unstructured(module, name, amount=0.75)
    network = gbdnn.from_torch(module)
    assert network.layers[0].forward_weight.nnz == 48
    assert [w.form for w in network.weights.values()] == ["csr", "csr", "dense", "csr"]
    agrees(module, network)


@pytest.mark.parametrize("text", ["lstm 9, gru 8, last", "lstm 9 4, blstm 5, mean", "blstm 5 3"])
def test_sparse_networks_there_and_back(text):
    network = recurrent(text, 6, 4, density=0.3, rng=1)
    model = to_torch(network)
    agrees(model, network)
    again = gbdnn.from_torch(model)
    assert again.edges == network.edges
    assert [layer.kind for layer in again.layers] == [layer.kind for layer in network.layers]


class Both(nn.Module):
    def __init__(self, take, **options):
        super().__init__()
        self.cells, self.head, self.take = nn.LSTM(6, 8, **options), nn.Linear(8, 3), take

    def forward(self, x):
        outputs, (h, c) = self.cells(x)
        return self.take(self, outputs, h, c)


@pytest.mark.parametrize("cells", [nn.LSTM, nn.GRU])
@pytest.mark.parametrize(
    ("take", "layers"),
    [
        (lambda h: torch.cat([h[-2], h[-1]], 1), 2),
        (lambda h: torch.cat((h[-2, :, :], h[-1, :, :]), dim=1), 1),
        (lambda h: torch.concat([h[0], h[1]], dim=-1), 1),
    ],
)
def test_final_states_of_both_directions(cells, take, layers):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            options = {"bidirectional": True, "num_layers": layers, "batch_first": True}
            self.cells, self.head = cells(6, 8, **options), nn.Linear(16, 3)

        def forward(self, x):
            h = self.cells(x)[1]
            return self.head(torch.relu(take(h[0] if cells is nn.LSTM else h)))

    torch.manual_seed(0)
    model = Model()
    network = gbdnn.from_torch(model)
    assert network.layers[layers] == gbdnn.FinalStates(8)
    agrees(model, network)
    agrees(to_torch(network), network)
    assert gbdnn.from_torch(to_torch(network)).layers[layers] == gbdnn.FinalStates(8)


@pytest.mark.parametrize(
    ("take", "options", "says"),
    [
        (lambda m, o, h, c: c[-1], {}, "h of the last layer"),
        (lambda m, o, h, c: h[-1], {"bidirectional": True}, "h of the last layer"),
        (lambda m, o, h, c: h[0], {"num_layers": 2}, "h of the last layer"),
        (lambda m, o, h, c: torch.cat([h[1], h[0]], 1), {"bidirectional": True}, "in both"),
        (lambda m, o, h, c: torch.cat([h[0], h[0]], 1), {"bidirectional": True}, "in both|chain"),
        (lambda m, o, h, c: torch.cat([h[0], h[1]], 1), {"num_layers": 2}, "in both"),
        (lambda m, o, h, c: torch.cat([c[0], c[1]], 1), {"bidirectional": True}, "h of the last"),
        (lambda m, o, h, c: torch.cat([h[0], h[1]], 0), {"bidirectional": True}, "h of the last"),
        (lambda m, o, h, c: torch.cat([o[0], o[1]], 1), {"bidirectional": True}, "functions"),
        (lambda m, o, h, c: (o, h), {}, "chain"),
        (lambda m, o, h, c: m.head(o[:, -1]) + h[-1], {"batch_first": True}, "chain"),
        (lambda m, o, h, c: m.head(o[-1]), {"batch_first": True}, "cells|time in axis 1"),
        (lambda m, o, h, c: o[:, -2], {"batch_first": True}, "last step"),
        (lambda m, o, h, c: o.mean(2), {}, "last step"),
        (lambda m, o, h, c: o.transpose(1, 2), {}, "last step"),
        (lambda m, o, h, c: o.flatten(1), {}, "a vector for each sample"),
        (lambda m, o, h, c: o.reshape(-1, 8), {}, "a vector for each sample"),
        (lambda m, o, h, c: torch.softmax(o, 1), {}, "dim"),
    ],
)
def test_what_a_network_does_not_have_is_named(take, options, says):
    with pytest.raises(GbdnnError, match=says):
        gbdnn.from_torch(Both(take, **options))


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (nn.RNN(6, 8), "RNN"),
        (nn.Embedding(20, 6, max_norm=1.0), "max_norm"),
        (nn.Sequential(nn.LSTM(6, 8), nn.Linear(8, 3)), "outputs"),
        (nn.LSTM(6, 8, device="meta"), "weight_ih_l0"),
        (nn.Sequential(nn.Embedding(20, 6), nn.BatchNorm1d(6)), "1: BatchNorm1d"),
    ],
    ids=str,
)
def test_modules_that_are_refused(model, says):
    with pytest.raises(GbdnnError, match=says):
        gbdnn.from_torch(model)


def test_sides_of_different_sizes_have_no_module():
    rng = np.random.default_rng(0)
    sides = [
        gbdnn.LSTM(rng.standard_normal((4 * n, 6)), rng.standard_normal((4 * n, n))) for n in (2, 3)
    ]
    with pytest.raises(GbdnnError, match=r"layers\[0\]"):
        to_torch(gbdnn.Network([gbdnn.BLSTM(*sides)]))
