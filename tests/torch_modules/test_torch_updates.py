"""`sparsify` and `PatternUpdates`: which weights stay, and patterns that change in training."""

from __future__ import annotations

import copy

import numpy as np
import pytest

from gbdnn.errors import GbdnnError
from gbdnn.pruning import NM, SET, Neuron, OneShot, Periodic, RigL, Sparsifier, sparsifier
from gbdnn.weights.patterns import common, places

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch.nn.utils import prune  # noqa: E402

from gbdnn.torch import PatternUpdates, SparseLinear, sparsify  # noqa: E402


def mlp() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(20, 30), nn.ReLU(), nn.Sequential(nn.Linear(30, 30), nn.ReLU()), nn.Linear(30, 4)
    )


def sparse_layers(model: nn.Module) -> list[SparseLinear]:
    return [each for each in model.modules() if isinstance(each, SparseLinear)]


@pytest.mark.parametrize("distribution", ["erk", "uniform", "global", "lamp"])
@pytest.mark.parametrize("density", [0.2, 1.0])
def test_sparsify_keeps_the_largest(distribution, density):
    model, before = mlp(), mlp()
    assert sparsify(model, density, distribution=distribution) is model
    layers = sparse_layers(model)
    assert sum(each.nnz for each in layers) == round(density * (600 + 900 + 120))
    for made, linear in zip(layers, [before[0], before[2][0], before[3]], strict=True):
        kept = made.to_linear().weight
        assert torch.equal(kept[kept != 0], linear.weight[kept != 0])
        smallest, rest = kept[kept != 0].abs().min(), linear.weight[kept == 0].abs()
        assert not len(rest) or smallest >= rest.max()
        assert torch.equal(made.bias, linear.bias)


def test_sparsify_further_choices():
    model = sparsify(mlp(), 0.1, exclude=[-1, "2.*"], score="random", fresh=True, rng=1)
    assert [each.nnz for each in sparse_layers(model)] == [60]
    assert isinstance(sparsify(nn.Linear(8, 4), 0.5), SparseLinear)
    shared = nn.Linear(8, 8)
    twice = sparsify(nn.Sequential(shared, nn.ReLU(), shared), 0.5)
    assert twice[0] is twice[2]
    assert isinstance(twice[0], SparseLinear)
    masked = nn.Linear(8, 4)
    prune.l1_unstructured(masked, "weight", amount=0.75)
    assert sparsify(masked, 0.5).nnz == 8
    attention = nn.TransformerEncoderLayer(8, 2, 16)
    sparsify(attention, 0.5)
    assert len(sparse_layers(attention)) == 2
    attention(torch.zeros(3, 1, 8))


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.head = nn.Embedding(7, 5), nn.Linear(5, 7)
        self.head.weight = self.table.weight


@pytest.mark.parametrize(
    ("model", "settings"),
    [
        (mlp, {"density": 0}), (mlp, {"density": 1.1}), (mlp, {"density": None}),
        (mlp, {"density": 0.1, "score": "gradient"}), (mlp, {"density": 0.1, "score": "best"}),
        (mlp, {"density": 0.1, "distribution": "best"}), (mlp, {"density": 0.1, "exclude": ["9"]}),
        (mlp, {"density": 1e-4}), (nn.ReLU, {"density": 0.1}), (Tied, {"density": 0.1}),
        (lambda: None, {"density": 0.1}), (lambda: mlp().to("meta"), {"density": 0.1}),
        (lambda: mlp().half(), {"density": 0.1, "fresh": 1, "exclude": ["no"]}),
    ],
)  # fmt: skip
def test_sparsify_refuses_and_leaves_the_model(model, settings):
    made = model()
    with pytest.raises(GbdnnError):
        sparsify(made, **settings)
    assert made is None or not sparse_layers(made)


def trained(method, optimizer="Adam", steps=12, seed=0, after=None, **settings):
    """Train a sparse model with pattern updates; return what there is after each step."""
    torch.manual_seed(seed)
    model = sparsify(mlp(), 0.2, exclude=[-1])
    optimizer = getattr(torch.optim, optimizer)(model.parameters(), lr=0.01)
    updates = PatternUpdates(model, optimizer, method, total_steps=steps, **settings)
    X, y = torch.randn(64, 20), torch.arange(64) % 4
    old = [(each.to_csr(), each.values) for each in sparse_layers(model)]
    for _ in range(steps):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(X), y)  # an older loss lives on while this is made
        loss.backward()
        optimizer.step()
        changed = updates.step()
        if after is not None:
            after(model, optimizer, changed, old)
        old = [(each.to_csr(), each.values) for each in sparse_layers(model)]
    return model, optimizer, updates, X


@pytest.mark.parametrize("growth", [SET(), RigL()])
@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW", "RMSprop", "Adagrad"])
def test_exchanged_entries_begin_with_nothing_and_moments_move(growth, name):
    seen = []

    def after(model, optimizer, changed, old):
        seen.append(changed)
        for made, (before, values) in zip(sparse_layers(model), old, strict=True):
            assert made.values is values  # what optimizer, clipping and averages refer to
            assert made.nnz == before.nnz
            now = made.to_csr()
            if not changed:
                assert np.array_equal(places(now), places(before))
                continue
            _, kept = common(before, now)
            new = np.setdiff1d(np.arange(now.nnz), kept)
            assert len(new)
            assert not now.values[new].any()
            state = optimizer.state[values]
            for key, vector in state.items():
                if torch.is_tensor(vector) and vector.ndim:
                    assert vector.shape == (now.nnz,)
                    first = vector[torch.from_numpy(new)]
                    fits = first.var() < 1e-12 and first.min() >= 0
                    assert fits if key in ("exp_avg_sq", "square_avg", "sum") else not first.any()

    method = Sparsifier(None, schedule=Periodic(0, 9, 3), growth=growth)
    model, *_ = trained(method, name, after=after)
    assert [k for k, changed in enumerate(seen) if changed] == [
        3,
        6,
    ]  # the part has fallen to 0 at 9
    assert all(torch.isfinite(p).all() for p in model.parameters())


def test_moments_of_kept_entries_are_theirs():
    torch.manual_seed(0)
    made = SparseLinear(10, 10, 0.3)
    optimizer = torch.optim.Adam(made.parameters())
    updates = PatternUpdates(made, optimizer, Sparsifier(None, schedule=OneShot(0), growth=SET()))
    made(torch.randn(4, 10)).square().sum().backward()
    optimizer.step()
    before, moments = made.to_csr(), optimizer.state[made.values]["exp_avg"].numpy().copy()
    assert updates.step()
    mine, theirs = common(before, made.to_csr())
    now = optimizer.state[made.values]["exp_avg"].numpy()
    assert 0 < len(mine) < before.nnz
    np.testing.assert_array_equal(now[theirs], moments[mine])
    np.testing.assert_array_equal(made.to_csr().values[theirs], before.values[mine])


def test_rigl_grows_where_the_dense_gradient_is_largest():
    torch.manual_seed(0)
    made = SparseLinear(12, 9, 0.2, dtype=torch.float64)
    dense, X = made.to_linear(), torch.randn(7, 3, 12, dtype=torch.float64)
    method = Sparsifier(None, schedule=OneShot(0), growth=RigL())
    updates = PatternUpdates(made, torch.optim.SGD(made.parameters(), 0.0), method)
    before = places(made.to_csr())
    for module in (made, dense):
        module(X).tanh().sum().backward()
    gradient = dense.weight.grad.abs().flatten().numpy()
    gradient[before] = -1
    assert updates.step()
    new = np.setdiff1d(places(made.to_csr()), before)
    assert set(new) == set(np.argsort(-gradient)[: len(new)])


@pytest.mark.parametrize("name", ["magnitude", "gradient", "movement", "random"])
def test_gradual_pruning_reaches_its_target(name):
    model, _, _, X = trained(sparsifier(name, sparsity=0.95), steps=30)
    layers = sparse_layers(model)
    assert sum(each.nnz for each in layers) == round(0.05 * (600 + 900))
    model(X).sum().backward()
    assert all(each.values.grad.shape == each.values.shape for each in layers)


def test_training_goes_on_from_its_states():
    method = Sparsifier(None, schedule=Periodic(0, 20, 4), growth=RigL())
    whole, *_ = trained(method, steps=20)
    model, optimizer, updates, X = trained(method, steps=20, after=None)
    assert all(map(torch.equal, whole.state_dict().values(), model.state_dict().values()))
    states = [copy.deepcopy(each.state_dict()) for each in (model, optimizer, updates)]
    other = sparsify(mlp(), 0.1, exclude=[-1])
    again = torch.optim.Adam(other.parameters(), lr=0.01)
    following = PatternUpdates(other, again, method, total_steps=20)
    for each, state in zip((other, again, following), states, strict=True):
        each.load_state_dict(state)
    assert following.number == 20
    assert torch.equal(other(X), model(X))


@pytest.mark.parametrize(
    ("model", "settings"),
    [
        (lambda: nn.Linear(3, 3), {}), (lambda: None, {}),
        (lambda: SparseLinear(9, 9).requires_grad_(False), {}),
        (lambda: SparseLinear(9, 9), {"method": "best"}),
        (lambda: SparseLinear(9, 9), {"total_steps": None}),
        (lambda: SparseLinear(9, 9), {"total_steps": 0}),
        (lambda: SparseLinear(9, 9), {"seed": -1}),
        (lambda: SparseLinear(9, 9), {"method": Sparsifier(0.5, structure=Neuron())}),
        (lambda: SparseLinear(9, 9), {"method": Sparsifier(None, structure=NM(2, 4))}),
        (lambda: SparseLinear(9, 9), {"optimizer": "adam"}),
    ],
)  # fmt: skip
def test_updates_refuse(model, settings):
    made = model()
    parameters = [torch.zeros(1, requires_grad=True)]
    arguments = {"optimizer": torch.optim.SGD(parameters, 0.1), "total_steps": 99, **settings}
    with pytest.raises(GbdnnError):
        PatternUpdates(made, **arguments)


def test_scores_that_need_gradients_say_so():
    made = SparseLinear(9, 9, 0.5)
    method = Sparsifier(0.8, score="gradient", schedule=OneShot(0))
    updates = PatternUpdates(made, torch.optim.SGD(made.parameters(), 0.1), method)
    with pytest.raises(GbdnnError, match="zero_grad"):
        updates.step()
