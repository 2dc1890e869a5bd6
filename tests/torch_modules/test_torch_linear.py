"""`gbdnn.torch.SparseLinear` against torch.nn.Linear, in all that torch does with a layer."""

from __future__ import annotations

import copy
import io
import pickle
import subprocess
import sys

import numpy as np
import pytest

from gbdnn.errors import DtypeError, GbdnnError, InputError, ShapeError

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch.nn.utils import prune  # noqa: E402
from torch.utils.checkpoint import checkpoint  # noqa: E402

from gbdnn.torch import SparseLinear  # noqa: E402


def layer(into=37, out=23, density=0.3, bias=True, dtype=torch.float64, seed=0):
    torch.manual_seed(seed)
    return SparseLinear(into, out, density, bias, dtype=dtype)


def clone_of(made: SparseLinear) -> nn.Linear:
    """A dense layer with the same weight, zeros where there is no entry."""
    return made.to_linear()


def at_pattern(made: SparseLinear, gradient: torch.Tensor) -> torch.Tensor:
    rows = np.repeat(np.arange(made.out_features), np.diff(made.indptr.numpy()))
    return gradient[torch.from_numpy(rows), made.indices.long()]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    "shape", [(37,), (1, 37), (70, 37), (5, 7, 37), (2, 3, 4, 37), (0, 37), (3, 0, 37), (257, 37)]
)
def test_outputs_and_gradients_are_those_of_a_dense_layer(dtype, bias, shape):
    made = layer(bias=bias, dtype=dtype)
    dense = clone_of(made)
    results = []
    for module in (made, dense):
        X = torch.linspace(-1, 1, int(np.prod(shape)), dtype=dtype).reshape(shape)
        X.requires_grad_()
        Z = module(X)
        (Z * torch.cos(Z)).sum().backward()
        results.append((Z, X.grad, module.bias.grad if bias else None))
    (Z, dX, db), (Z2, dX2, db2) = results
    assert Z.shape == (*shape[:-1], 23)
    tolerance = {"rtol": 1e-4, "atol": 1e-4} if dtype == torch.float32 else {}
    torch.testing.assert_close(Z, Z2, **tolerance)
    torch.testing.assert_close(dX, dX2, **tolerance)
    torch.testing.assert_close(made.values.grad, at_pattern(made, dense.weight.grad), **tolerance)
    if bias:
        torch.testing.assert_close(db, db2, **tolerance)


@pytest.mark.parametrize("batch", [1, 5, 40])
@pytest.mark.parametrize("bias", [True, False])
def test_gradcheck(batch, bias):
    made = layer(9, 6, bias=bias)
    X = torch.randn(batch, 9, dtype=torch.float64, requires_grad=True)

    def call(X, values, *rest):
        named = {"values": values, **({"bias": rest[0]} if rest else {})}
        return torch.func.functional_call(made, named, (X,))

    assert torch.autograd.gradcheck(call, (X, *made.parameters()))


@pytest.mark.parametrize(
    ("frozen", "left"), [("values", ["bias"]), ("bias", ["values"]), ("both", [])]
)
def test_only_wanted_gradients_are_computed(frozen, left):
    made = layer()
    for name, parameter in made.named_parameters():
        parameter.requires_grad_(frozen not in (name, "both"))
    X = torch.randn(4, 37, dtype=torch.float64, requires_grad=True)
    made(X).sum().backward()
    assert [name for name, p in made.named_parameters() if p.grad is not None] == left
    torch.testing.assert_close(X.grad, clone_of(made).weight.sum(0).expand(4, -1).detach())


def test_inputs_that_are_not_contiguous():
    made = layer()
    dense = clone_of(made)
    for X in (
        torch.randn(37, 11, dtype=torch.float64).T,
        torch.randn(11, 74, dtype=torch.float64)[:, ::2],
        torch.randn(1, 37, dtype=torch.float64).expand(6, -1),
        torch.randn(37, 3, 4, dtype=torch.float64).permute(2, 1, 0),
    ):
        torch.testing.assert_close(made(X), dense(X))
    X = torch.randn(5, 37, dtype=torch.float64, requires_grad=True)
    made(X).T.contiguous().T.sum().backward()  # and a gradient that is not
    made.values.grad = None
    made(X).expand(2, 5, 23).sum().backward()
    assert made.values.grad is not None


def test_no_grad_inference_mode_and_changes_in_place():
    made = layer()
    X = torch.randn(6, 37, dtype=torch.float64)
    with torch.no_grad():
        before = made(X)
        assert not before.requires_grad
        made.values.mul_(2)
        torch.testing.assert_close(made(X), clone_of(made)(X))
        made.values.data = made.values.data * 3  # other memory
        torch.testing.assert_close(made(X), clone_of(made)(X))
        made.values.data.zero_()  # behind torch's back
        torch.testing.assert_close(made(X), made.bias.expand(6, -1))
    with torch.inference_mode():
        assert layer()(X).shape == (6, 23)


def test_values_changed_between_forward_and_backward_are_refused_by_torch():
    made = layer()
    Z = made(torch.randn(6, 37, dtype=torch.float64, requires_grad=True))
    with torch.no_grad():
        made.values.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        Z.sum().backward()


def test_gradient_checkpointing():
    grads = []
    for kind in (None, True, False):
        model = nn.Sequential(layer(), nn.ReLU(), layer(23, 5))
        X = torch.ones(6, 37, dtype=torch.float64, requires_grad=True)
        Z = model(X) if kind is None else checkpoint(model, X, use_reentrant=kind)
        Z.sum().backward()
        grads.append([X.grad, *(p.grad for p in model.parameters())])
    torch.testing.assert_close(grads[0], grads[1])
    torch.testing.assert_close(grads[0], grads[2])


def test_second_derivatives_are_refused():
    made = layer()
    X = torch.randn(3, 37, dtype=torch.float64, requires_grad=True)
    (grad,) = torch.autograd.grad(made(X).square().sum(), X, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


@pytest.mark.parametrize("how", ["deepcopy", "pickle", "save", "state", "double", "share"])
def test_copies_compute_alike(how):
    made = layer(dtype=torch.float32)
    X = torch.randn(6, 37)
    expected = made(X)  # which prepares the weight
    file = io.BytesIO()
    if how == "deepcopy":
        other = copy.deepcopy(made)
    elif how == "pickle":
        other = pickle.loads(pickle.dumps(made))
    elif how == "save":
        torch.save(made, file)
        file.seek(0)
        other = torch.load(file, weights_only=False)
    elif how == "state":
        torch.save(made.state_dict(), file)
        file.seek(0)
        other = layer(density=0.1, dtype=torch.float32, seed=7)  # fewer entries, elsewhere
        other(X)
        other.load_state_dict(torch.load(file, weights_only=True))
    elif how == "double":
        other = made.double().float()
    else:
        other = made.share_memory()
    torch.testing.assert_close(other(X), expected)
    other(X).sum().backward()
    assert other.values.grad.shape == other.values.shape


def test_states_that_are_no_patterns_are_refused():
    made, X = layer(), torch.randn(6, 37, dtype=torch.float64)
    before = made(X)
    good = made.state_dict()
    for name, change in (
        ("indices", lambda t: t + 40),
        ("indices", lambda t: t - 40),
        ("indptr", lambda t: t.flip(0)),
        ("indices", lambda t: t.double()),
        ("indices", lambda t: t.to("meta")),
        ("values", lambda t: t[:-1]),
        ("indptr", lambda t: t[:-1]),
    ):
        with pytest.raises(RuntimeError):
            made.load_state_dict({**good, name: change(good[name])})
        assert torch.equal(made(X), before)
    made.indices.add_(40)  # and in place
    with pytest.raises(InputError):
        made(X)


class Noisy(torch.utils.data.Dataset):
    def __init__(self):
        self.layer = layer(4, 3)

    def __len__(self):
        return 4

    def __getitem__(self, k):
        with torch.no_grad():
            return self.layer(torch.full((4,), float(k), dtype=torch.float64))


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_in_workers_of_a_data_loader(context):
    data = Noisy()
    expected = torch.stack([data[k] for k in range(4)])
    loader = torch.utils.data.DataLoader(
        data, batch_size=2, num_workers=1, multiprocessing_context=context
    )
    torch.testing.assert_close(torch.cat(list(loader)), expected)


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW", "RMSprop", "Adagrad", "NAdam"])
def test_optimizers_train_it_as_a_masked_dense_layer(name):
    made = layer(8, 4)
    dense, mask = clone_of(made), (clone_of(made).weight != 0).double()
    X = torch.randn(16, 8, dtype=torch.float64)
    for module in (made, dense):
        optimizer = getattr(torch.optim, name)(module.parameters(), lr=0.01)
        for _ in range(5):
            optimizer.zero_grad()
            module(X).square().mean().backward()
            if module is dense:
                dense.weight.grad *= mask
            optimizer.step()
    torch.testing.assert_close(made.to_linear().weight, dense.weight * mask)


def test_from_linear_takes_non_zeros_or_a_mask():
    linear = nn.Linear(6, 4)
    with torch.no_grad():
        linear.weight[:, ::2] = 0
    linear.bias.requires_grad_(False)
    made = SparseLinear.from_linear(linear.eval())
    assert (made.nnz, made.training, made.bias.requires_grad) == (12, False, False)
    X = torch.randn(5, 6)
    torch.testing.assert_close(made(X), linear(X))
    mask = torch.eye(4, 6, dtype=torch.bool)
    chosen = SparseLinear.from_linear(linear, mask)
    assert chosen.nnz == 4  # two of value 0 among them
    torch.testing.assert_close(chosen.to_linear().weight, linear.weight * mask)
    prune.l1_unstructured(linear, "weight", amount=0.75)
    assert SparseLinear.from_linear(linear).nnz == 6
    for bad in (torch.ones(3, 6), torch.ones(4)):
        with pytest.raises(ShapeError):
            SparseLinear.from_linear(linear, bad)


def test_no_entries_one_entry_and_all():
    X = torch.randn(5, 6)
    empty = nn.Linear(6, 4)
    nn.init.zeros_(empty.weight)
    made = SparseLinear.from_linear(empty)
    assert made.nnz == 0
    torch.testing.assert_close(made(X), empty.bias.expand(5, -1))
    made(X).sum().backward()
    mask = torch.zeros(4, 6)
    mask[2, 3] = 1
    one = SparseLinear.from_linear(nn.Linear(6, 4), mask)
    torch.testing.assert_close(one(X), one.to_linear()(X))
    full = SparseLinear(6, 4, density=1)
    assert full.nnz == 24
    torch.testing.assert_close(full(X), full.to_linear()(X))


def test_nan_and_infinity_go_where_connections_go():
    made = SparseLinear.from_linear(nn.Linear(3, 3), torch.eye(3))
    for bad in (np.nan, np.inf):
        Z = made(torch.tensor([[1.0, bad, 1.0], [1.0, 1.0, 1.0]]))
        assert torch.isfinite(Z).tolist() == [[True, False, True], [True, True, True]]
    linear = nn.Linear(3, 3)
    linear.weight.data[1, 1] = np.nan
    for mask in (None, torch.eye(3)):
        with pytest.raises(GbdnnError, match="finite"):
            SparseLinear.from_linear(linear, mask)


@pytest.mark.parametrize(
    "arguments",
    [
        {"density": 0}, {"density": 1.5}, {"density": -0.1}, {"density": float("nan")},
        {"density": "half"}, {"density": True}, {"in_features": 0}, {"out_features": -1},
        {"in_features": 2.5}, {"dtype": torch.float16}, {"dtype": torch.int64},
        {"device": "cuda"}, {"device": "meta"},
    ],
    ids=str,
)  # fmt: skip
def test_bad_settings_are_named(arguments):
    (name,) = arguments
    with pytest.raises(GbdnnError, match=name):
        SparseLinear(**{"in_features": 4, "out_features": 3, **arguments})


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        (torch.zeros(2, 36), ShapeError),
        (torch.zeros(()), ShapeError),
        (torch.zeros(37, 2), ShapeError),
        (torch.zeros(2, 37, dtype=torch.int64), DtypeError),
        (torch.zeros(2, 37, dtype=torch.complex64), DtypeError),
        (torch.zeros(2, 37, dtype=torch.float16), DtypeError),
        (torch.zeros(2, 37, dtype=torch.float64), DtypeError),
        (torch.zeros(2, 37, device="meta"), InputError),
        (torch.zeros(2, 37).to_sparse(), DtypeError),
        (np.zeros((2, 37), np.float32), DtypeError),
        (None, DtypeError),
    ],
    ids=lambda value: str(getattr(value, "dtype", value)),
)
def test_bad_inputs_are_named(bad, error):
    with pytest.raises(error, match="input"):
        layer(dtype=torch.float32)(bad)


def test_modules_that_cannot_compute_are_named():
    X = torch.zeros(2, 37)
    for change in (lambda m: m.half(), lambda m: m.bfloat16(), lambda m: m.to("meta")):
        with pytest.raises(GbdnnError, match="values"):
            change(layer(dtype=torch.float32))(X)
    made = layer(dtype=torch.float32)
    with torch.autocast("cpu"), pytest.raises(InputError, match="autocast"):
        made(X)
    with torch.autocast("cpu"), torch.autocast("cpu", enabled=False):
        made(X)
    made.values.data = made.values.data[:-1]
    with pytest.raises(ShapeError, match="values"):
        made(X)


def test_seed_and_scale():
    assert torch.equal(layer(seed=3).values, layer(seed=3).values)
    assert not torch.equal(layer(seed=3).values, layer(seed=4).values)
    made = layer(400, 300, density=0.05)
    bound = 1 / made.indptr.diff().clamp(min=1).double().sqrt()
    assert bool((made.values.abs() <= bound.repeat_interleave(made.indptr.diff())).all())
    assert made.values.std() > 0.1


def test_memory_follows_the_entries():
    made = SparseLinear(20_000, 20_000, density=1e-4)  # dense: 1.6 GB
    made(torch.zeros(2, 20_000)).sum().backward()
    nbytes = made.form(made.values).nbytes + 4 * made.nnz + 4 * made.indices.numel()
    assert nbytes < 40 * made.nnz + 200 * 40_000


@pytest.mark.filterwarnings("ignore:enable_nested_tensor")
def test_inside_a_transformer_encoder_in_both_modes():
    torch.manual_seed(0)
    block = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
    sparse = copy.deepcopy(block)
    for name in ("linear1", "linear2"):
        mask = torch.rand_like(getattr(block, name).weight) < 0.3
        getattr(block, name).weight.data *= mask
        setattr(sparse, name, SparseLinear.from_linear(getattr(block, name)))
    X, padding = torch.randn(3, 5, 16), torch.arange(5) >= torch.tensor([[5], [3], [4]])
    pair = [nn.TransformerEncoder(each, 2) for each in (block, sparse)]
    for _ in range(2):
        dense, made = (each(X, src_key_padding_mask=padding) for each in pair)
        torch.testing.assert_close(made[~padding], dense[~padding], rtol=1e-4, atol=1e-4)
        with torch.no_grad():  # where torch's fast path would read full matrices
            pair[1].eval()(X), pair[1](X, src_key_padding_mask=padding)
        pair[0].train(), pair[1].train()


def test_gbdnn_imports_no_torch_and_says_when_it_is_missing():
    code = (
        "import sys, gbdnn, gbdnn.network; assert 'torch' not in sys.modules\n"
        "class Missing:\n"
        "    def find_spec(self, name, *rest):\n"
        "        if name == 'torch': raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Missing())\n"
        "from gbdnn import *\n"
        "for task in ('import gbdnn.torch', 'gbdnn.from_torch', 'gbdnn.torch.SparseLinear'):\n"
        "    try: exec(task)\n"
        "    except gbdnn.errors.MissingDependencyError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.count("pip install 'gbdnn[torch]'") == 3
