"""Models of torch as networks, and networks as models of torch."""

from __future__ import annotations

import numpy as np
import pytest

import gbdnn
from gbdnn.errors import GbdnnError
from gbdnn.models import mlp

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402
from torch.nn.utils import prune  # noqa: E402

from gbdnn.torch import SparseLinear, sparsify, to_torch  # noqa: E402

X = np.random.default_rng(0).standard_normal((9, 12)).astype(np.float32)


def agrees(module: nn.Module, network: gbdnn.Network, X: np.ndarray = X) -> None:
    module.eval()
    with torch.no_grad():
        expected = module(torch.from_numpy(X)).float().numpy()
    np.testing.assert_allclose(
        network.predict(X.reshape(len(X), -1)), expected, rtol=1e-5, atol=1e-5
    )


def settled(norm: nn.BatchNorm1d) -> nn.BatchNorm1d:
    """A BatchNorm1d that has seen something."""
    with torch.no_grad():
        for tensor in (norm.running_mean, norm.running_var, norm.weight, norm.bias):
            if tensor is not None:
                tensor.uniform_(0.5, 2)
    return norm


@pytest.mark.parametrize(
    "activation",
    [
        nn.ReLU(), nn.ReLU6(), nn.Hardtanh(0, 0.5), nn.LeakyReLU(0.2), nn.GELU(), nn.Tanh(),
        nn.Sigmoid(), nn.Softmax(dim=1), nn.Softmax(-1), nn.Identity(), nn.Dropout(0.5),
    ],
    ids=str,
)  # fmt: skip
def test_each_activation_there_and_back(activation):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 8), activation, nn.Linear(8, 5, bias=False))
    training = [each.training for each in model.modules()]
    network = gbdnn.from_torch(model)
    assert [each.training for each in model.modules()] == training
    agrees(model, network)
    agrees(to_torch(network), network)


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize(
    "norms",
    [
        lambda: settled(nn.BatchNorm1d(8)),
        lambda: settled(nn.BatchNorm1d(8, affine=False)),
        lambda: nn.Sequential(settled(nn.BatchNorm1d(8)), settled(nn.BatchNorm1d(8))),
        lambda: nn.Sequential(nn.ReLU(), settled(nn.BatchNorm1d(8))),
        lambda: nn.Sequential(nn.ReLU(), nn.Dropout(0.1), settled(nn.BatchNorm1d(8)), nn.Tanh()),
    ],
)
def test_batch_norm_is_folded(norms, sparse):
    model = nn.Sequential(
        settled(nn.BatchNorm1d(12)), nn.Linear(12, 8, bias=False), norms(), nn.Linear(8, 5)
    )
    if sparse:
        sparsify(model, 0.4)
    network = gbdnn.from_torch(model)
    agrees(model, network)
    assert network.edges < 12 + 12 * 8 + 8 + 8 * 5 + 1


def test_a_bare_layer_and_other_dtypes():
    for module in (nn.Linear(12, 3), SparseLinear(12, 3, 0.5)):
        agrees(module, gbdnn.from_torch(module))
    wide = nn.Sequential(nn.Linear(12, 3), nn.Tanh()).double()
    assert gbdnn.from_torch(wide).dtype == np.float64
    half = nn.Linear(12, 3).bfloat16()
    network = gbdnn.from_torch(half)
    assert network.dtype == np.float32
    agrees(half.float(), network)


def test_masks_of_torchs_pruning_are_applied_and_zeros_dropped():
    model = nn.Sequential(nn.Linear(12, 40), nn.ReLU(), nn.Linear(40, 5))
    for linear in (model[0], model[2]):
        prune.random_unstructured(linear, "weight", amount=0.9)
    prune.random_unstructured(model[2], "bias", amount=0.4)
    torch.optim.SGD(model.parameters(), 0.1).step()  # `weight` is that of the last pass
    with torch.no_grad():
        model[0].weight_orig += 1
    network = gbdnn.from_torch(model)
    assert network.edges == 48 + 20
    agrees(model, network)
    prune.remove(model[0], "weight")
    agrees(model, gbdnn.from_torch(model))


class Written(nn.Module):
    """A model as people write them."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(12, 8), nn.Linear(8, 8)
        self.block = nn.Sequential(settled(nn.BatchNorm1d(8)), nn.ReLU())
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        x = x.view(x.size(0), -1)
        x = F.leaky_relu(self.first(x), 0.3)
        x = F.dropout(x, 0.2, training=self.training)
        x = self.block(self.second(x)).tanh()
        x = torch.flatten(x, 1).reshape(-1, 8)
        return F.softmax(self.head(x), dim=-1)


def test_a_class_with_a_forward_of_its_own():
    torch.manual_seed(0)
    model = Written()
    network = gbdnn.from_torch(model)
    agrees(model, network, X.reshape(9, 3, 4))
    assert any(isinstance(layer, gbdnn.Dropout) for layer in network.layers)


class Residual(Written):
    def forward(self, x):
        y = self.first(x)
        return y + self.second(y)


class Branches(Written):
    def forward(self, x):
        return self.first(x) if x.sum() > 0 else self.second(x)


class Pair(Written):
    def forward(self, x, y):
        return self.first(x), y


class Scaled(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


class Reshaping(Written):
    def forward(self, x):
        return self.second(self.first(x).view(-1, 4))


class AlwaysDropping(Written):
    def forward(self, x):
        return F.dropout(self.first(x), 0.5)


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (lambda: nn.Sequential(nn.Sequential(nn.Linear(3, 3), nn.Conv1d(1, 1, 1))), r"0\.1.*Conv"),
        (lambda: nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3)), r"^1: .*Linear.*LayerNorm"),
        (lambda: nn.TransformerEncoderLayer(4, 2), "TransformerEncoderLayer"),
        (lambda: nn.Sequential(nn.Linear(3, 3), nn.GELU("tanh")), "1: approximate"),
        (lambda: nn.Sequential(nn.Linear(3, 3), nn.Softmax(0)), "1: dim"),
        (lambda: nn.Sequential(nn.Linear(3, 3), nn.Hardtanh()), "1: min_val"),
        (lambda: nn.Sequential(nn.Flatten(0), nn.Linear(3, 3)), "0: Flatten"),
        (lambda: nn.Sequential(nn.Linear(3, 3), nn.Dropout(1.0)), "1: rate"),
        (lambda: nn.Sequential(nn.LazyLinear(3)), "0: weight"),
        (lambda: nn.Sequential(nn.BatchNorm1d(3, track_running_stats=False)), "0: running_mean"),
        (lambda: nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(3)), "1: num_features"),
        (lambda: nn.Sequential(nn.Linear(3, 4), nn.Linear(3, 4)), r"layers\[1\]"),
        (lambda: nn.Sequential(nn.Linear(3, 3, device="meta")), "0: weight"),
        (lambda: nn.Sequential(Scaled(3, 3)), "0: .*Scaled"),
        (lambda: nn.Sequential(), "layers"),
        (lambda: nn.Sequential(nn.ReLU(), nn.Linear(3, 3)), "layers"),
        (Residual, "add"), (Branches, "torch.fx"), (Pair, "second input"),
        (Reshaping, "8 features"), (AlwaysDropping, "dropout in training only"),
        (lambda: nn.Linear(3, 3).weight, "module"), (lambda: nn.Linear, "module"),
        (lambda: {"0.weight": torch.eye(3)}, "module"), (lambda: None, "module"),
    ],
)  # fmt: skip
def test_what_is_no_network_is_named(model, says):
    with pytest.raises(GbdnnError, match=says):
        gbdnn.from_torch(model())


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_named(bad):
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3))
    model[2].weight.data[1, 1] = bad
    with pytest.raises(GbdnnError, match=r"2: weight.*finite"):
        gbdnn.from_torch(model)


def test_to_torch_keeps_forms_and_refuses_what_it_does_not_know():
    network = mlp((12, 40, 30, 5), density=[0.1, 1.0, 0.5], activation="gelu", head="softmax")
    model = to_torch(network)
    kinds = [type(each) for each in model]
    assert kinds[::2] == [SparseLinear, nn.Linear, SparseLinear]
    agrees(model, network)
    agrees(model, gbdnn.from_torch(model))
    assert gbdnn.from_torch(model).edges == network.edges
    capped = gbdnn.Network([gbdnn.Linear(np.eye(12), -0.5), gbdnn.ReLU(cap=0.25)])
    agrees(to_torch(capped), capped)
    for bad in (None, "network", model):
        with pytest.raises(GbdnnError, match="network"):
            to_torch(bad)
