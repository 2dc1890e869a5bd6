"""Activations, derivatives and losses against their closed formulas."""

from __future__ import annotations

import numpy as np
import oracle
import pytest
from gradients import check_gradient
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import r2_score

from gbdnn import layers
from gbdnn.errors import DtypeError, InputError, ShapeError, UnknownNameError
from gbdnn.layers import LOSSES, Dropout

EVERY = [
    layers.Identity(), layers.ReLU(), layers.ReLU(2.5), layers.LeakyReLU(), layers.LeakyReLU(0.5),
    layers.LeakyReLU(0), layers.LeakyReLU(-0.3),
    layers.Tanh(), layers.Sigmoid(), layers.GELU(), layers.Softmax(),
]  # fmt: skip
TYPES = [np.float32, np.float64]


def kept_by(activation, Z):
    """Return what `backward` wants to be given."""
    Y = Z.copy()
    activation.apply(Y)
    return Y if activation.needs == "output" else Z


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("activation", EVERY, ids=repr)
def test_equals_closed_formula(activation, dtype, rng):
    Z = (3 * rng.standard_normal((40, 30))).astype(dtype)
    Z[0], Z[1, ::2] = 0, -0.0
    wanted = oracle.exact(type(activation).__name__, Z.astype(np.float64), activation)
    got = Z.copy()
    assert activation.apply(got) is None
    assert got.dtype == dtype
    # tanh near 0 from its closed formula loses digits relative to 1, hence the absolute part
    np.testing.assert_allclose(got, wanted, rtol=100 * np.finfo(dtype).eps,
                               atol=8 * np.finfo(dtype).eps)  # fmt: skip


@pytest.mark.parametrize("activation", EVERY, ids=repr)
def test_checker_sees_one_part_in_a_thousand(activation, rng):
    Z = 3 * rng.standard_normal((40, 30))
    wanted = oracle.exact(type(activation).__name__, Z, activation)
    Z *= 1.001
    activation.apply(Z)
    assert not np.allclose(Z, wanted, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("activation", EVERY, ids=repr)
@pytest.mark.parametrize("order", ["slice", "fortran"])
def test_works_in_place_on_views(activation, order, rng):
    whole = rng.standard_normal((12, 10)).astype(np.float32)
    view = whole[:, 2:7] if order == "slice" else np.asfortranarray(whole)
    wanted = view.copy()
    activation.apply(wanted)
    before = whole.copy()
    activation.apply(view)
    np.testing.assert_allclose(view, wanted, rtol=1e-5)
    if order == "slice":
        np.testing.assert_array_equal(whole[:, :2], before[:, :2])
        np.testing.assert_array_equal(whole[:, 7:], before[:, 7:])


@pytest.mark.parametrize("activation", [layers.Tanh(), layers.Sigmoid(), layers.Softmax()])
def test_extreme_values_do_not_overflow(activation):
    Z = np.array([[3e38, -3e38], [-3e38, 3e38]], np.float32)
    Z *= 0.3
    activation.apply(Z)
    low = -1 if isinstance(activation, layers.Tanh) else 0
    np.testing.assert_array_equal(Z, [[1, low], [low, 1]])


def test_gelu_far_out():
    Z = np.array([[-1e30, -40.0, 40.0, 1e30]], np.float32)
    layers.GELU().apply(Z)
    np.testing.assert_array_equal(Z, np.array([[0, 0, 40, 1e30]], np.float32))


@pytest.mark.parametrize("activation", EVERY, ids=repr)
def test_nan_stays_nan(activation):
    Z = np.array([[np.nan]], np.float32)
    activation.apply(Z)
    assert np.isnan(Z).all()


@pytest.mark.parametrize("activation", [h for h in EVERY if h.clamp is not None], ids=repr)
def test_clamp_says_what_apply_does(activation, rng):
    Z = 5 * rng.standard_normal((6, 7))
    wanted = np.minimum(np.maximum(Z, activation.clamp[0]), activation.clamp[1])
    activation.apply(Z)
    np.testing.assert_array_equal(Z, wanted)


@pytest.mark.parametrize("cap", [0, -1, float("nan"), "32", [1], np.array([1.0, 2.0])])
def test_bad_cap(cap):
    with pytest.raises(InputError, match="cap: expected a positive number"):
        layers.ReLU(cap)


@pytest.mark.parametrize("slope", [float("inf"), float("nan"), "1", None, 1j])
def test_bad_slope(slope):
    with pytest.raises(InputError, match="negative_slope: expected a finite number"):
        layers.LeakyReLU(slope)


@pytest.mark.parametrize("cap", [1, np.float32(2), np.int64(3), float("inf"), None])
def test_good_cap(cap):
    assert layers.ReLU(cap).clamp == (0, np.inf if cap is None else cap)


def test_names():
    assert {type(layers.activation(name)) for name in layers.activation_names()} == {
        type(activation) for activation in EVERY
    }
    with pytest.raises(UnknownNameError) as caught:
        layers.activation("swish")
    for name in layers.activation_names():
        assert repr(name) in str(caught.value)


@pytest.mark.parametrize("activation", EVERY, ids=repr)
def test_tiles_of_tiles(activation, rng):
    tiles, dY = rng.standard_normal((2, 3, 6, 8))
    wanted = tiles.copy()
    for tile in wanted:
        activation.apply(tile)
    got = tiles.copy()
    activation.apply(got)
    np.testing.assert_array_equal(got, wanted)
    together = dY.copy()
    activation.derivative(kept_by(activation, tiles), together)
    for tile, each, dz in zip(tiles, dY.copy(), together, strict=True):
        activation.derivative(kept_by(activation, tile), each)
        np.testing.assert_array_equal(dz, each)


# -- derivatives -----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("activation", EVERY, ids=repr)
def test_backward_equals_closed_formula(activation, dtype, rng):
    Z = (3 * rng.standard_normal((40, 30))).astype(dtype)
    Z[0, :5], Z[1, ::2] = 0, -0.0
    dY = rng.standard_normal(Z.shape).astype(dtype)
    wanted = oracle.backward(
        type(activation).__name__, Z.astype(float), dY.astype(float), activation
    )
    kept, got = kept_by(activation, Z), dY.copy()
    before = kept.copy()
    assert activation.derivative(kept, got) is None
    assert got.dtype == dtype
    # |h(z) - its rounded value| <= 16 eps enters the formulas' h and 1 - h as it is
    scale = abs(dY).sum(axis=0) if isinstance(activation, layers.Softmax) else abs(dY)
    assert (abs(got - wanted) <= 100 * np.finfo(dtype).eps * scale).all()
    np.testing.assert_array_equal(kept, before)


@pytest.mark.parametrize("activation", EVERY, ids=repr)
def test_backward_is_the_derivative(activation, rng):
    Z, dY = 2 * rng.standard_normal((9, 7)), rng.standard_normal((9, 7))

    def inner_product(point):
        Y = point[0].copy()
        activation.apply(Y)
        return float(np.sum(Y * dY))

    def kinks(point):
        return np.sign(point[0]), np.sign(point[0] - 2.5)

    gradient = dY.copy()
    activation.derivative(kept_by(activation, Z), gradient)
    check_gradient(inner_product, [Z], [gradient], rng, terms=Z.size, kinks=kinks)
    with pytest.raises(AssertionError, match="the gradient says"):
        check_gradient(inner_product, [Z], [1.001 * gradient], rng, terms=Z.size, kinks=kinks)


def test_what_backward_needs():
    wants = {repr(activation): activation.needs for activation in EVERY}
    inputs = {"GELU()", "LeakyReLU(negative_slope=-0.3)"}
    assert {name for name, needs in wants.items() if needs == "input"} == inputs
    assert set(wants.values()) == {"input", "output"}


def test_kinks_have_a_derivative_of_one_side():
    for activation, Z, wanted in [
        (layers.ReLU(), [-1, -0.0, 0, 1], [0, 0, 0, 1]),
        (layers.ReLU(1.0), [0, 0.5, 1, 2], [0, 1, 0, 0]),
        (layers.LeakyReLU(0.25), [-1, -0.0, 0, 1], [0.25, 0.25, 0.25, 1]),
        (layers.LeakyReLU(-0.25), [-1, -0.0, 0, 1], [-0.25, -0.25, -0.25, 1]),
    ]:
        dY = np.ones((1, 4))
        activation.derivative(kept_by(activation, np.array([Z], float)), dY)
        np.testing.assert_array_equal(dY, [wanted])


@pytest.mark.parametrize("cap", [0.1, np.float64(0.1), np.float32(0.1)])
def test_a_cap_between_two_float32_is_met(cap):
    Z, dY = np.full((1, 3), 5.0, np.float32), np.ones((1, 3), np.float32)
    activation = layers.ReLU(cap)
    activation.apply(Z)
    activation.derivative(Z, dY)
    np.testing.assert_array_equal(dY, 0)


@pytest.mark.parametrize("dtype", TYPES)
def test_saturated_derivatives_are_zero_not_nan(dtype):
    big = np.array([[-np.finfo(dtype).max, -1e3, 1e3, np.finfo(dtype).max]], dtype)
    for activation, wanted in [
        (layers.Tanh(), [0, 0, 0, 0]),
        (layers.Sigmoid(), [0, 0, 0, 0]),
        (layers.GELU(), [0, 0, 1, 1]),
    ]:
        dY = np.ones_like(big)
        activation.derivative(kept_by(activation, big), dY)
        np.testing.assert_array_equal(dY, [wanted])


@pytest.mark.parametrize("activation", EVERY, ids=repr)
def test_nan_in_the_gradient_stays(activation):
    dY = np.array([[np.nan], [1.0]])
    activation.derivative(kept_by(activation, np.array([[0.5], [0.25]])), dY)
    assert np.isnan(dY[0, 0])


# -- losses ----------------------------------------------------------------------------------------


def case(name, rng, features=6, batch=11, dtype=np.float64):
    """Return Z, targets and weights for a loss."""
    Z = (2 * rng.standard_normal((features, batch))).astype(dtype)
    weights = rng.random(batch).astype(dtype)
    weights[3] = 0
    if LOSSES[name].kind == "classes":
        return Z, rng.integers(max(features, 2), size=batch), weights
    if LOSSES[name].probabilities:
        return Z, (rng.random(Z.shape) < 0.4).astype(dtype), weights
    return Z, rng.standard_normal(Z.shape).astype(dtype), weights


CASES = [(name, 6) for name in LOSSES] + [
    ("hinge", 1), ("mse", 1), ("binary_cross_entropy", 1), ("hinge", 2), ("cross_entropy", 2),
]  # fmt: skip


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(("name", "features"), CASES)
def test_loss_equals_its_formula(name, features, dtype, rng):
    Z, targets, weights = case(name, rng, features, dtype=dtype)
    columns = targets.T if LOSSES[name].kind == "values" else targets
    each = [
        oracle.loss_of_column(name, z, target)
        for z, target in zip(Z.T.astype(float), columns, strict=True)
    ]
    value = LOSSES[name].function(Z, targets, weights)
    assert isinstance(value, float)
    np.testing.assert_allclose(value, weights.astype(float) @ each, rtol=40 * np.finfo(dtype).eps)
    assert Z.dtype == dtype
    np.testing.assert_array_equal(Z[:, 3], 0)  # the weight 0


@pytest.mark.parametrize(("name", "features"), CASES)
def test_loss_gradient(name, features, rng):
    Z, targets, weights = case(name, rng, features)
    function = LOSSES[name].function

    def evaluate(point):
        return function(point[0].copy(), targets, weights)

    def kinks(point):
        dZ = point[0].copy()
        function(dZ, targets, weights)
        return dZ != 0 if name == "hinge" else abs(point[0] - targets) < 1

    smooth = name not in ("hinge", "huber")
    gradient = Z.copy()
    function(gradient, targets, weights)
    for factor in (1, 1.001):
        arguments = (evaluate, [Z], [factor * gradient], rng)
        if factor == 1:
            check_gradient(*arguments, terms=Z.size, kinks=None if smooth else kinks)
        else:
            with pytest.raises(AssertionError, match="the gradient says"):
                check_gradient(*arguments, terms=Z.size, kinks=None if smooth else kinks)


@pytest.mark.parametrize("dtype", TYPES)
def test_huge_scores_do_not_overflow(dtype):
    big = dtype(1e30)
    right, wrong = np.array([[big, -big], [-big, big]]), np.array([[-big, big], [big, -big]])
    classes, ones = np.array([0, 1]), np.ones(2, dtype)
    labels = np.eye(2, dtype=dtype)
    for name, targets in [("cross_entropy", classes), ("hinge", classes),
                          ("binary_cross_entropy", labels)]:  # fmt: skip
        Z = right.copy()
        assert LOSSES[name].function(Z, targets, ones) == 0
        np.testing.assert_array_equal(Z, 0)
        Z = wrong.copy()
        value = LOSSES[name].function(Z, targets, ones)
        size = 1 if name == "binary_cross_entropy" else 2
        np.testing.assert_allclose(value, 2 * size * float(big), rtol=1e-6)
        slope = 0.5 if name == "binary_cross_entropy" else 1
        np.testing.assert_array_equal(Z, slope * np.array([[-1, 1], [1, -1]]))


@given(st.integers(1, 9), st.integers(1, 12), st.integers(0, 2**32 - 1))
def test_gradients_of_the_cross_entropy_cancel_in_each_column(classes, batch, seed):
    rng = np.random.default_rng(seed)
    Z = 5 * rng.standard_normal((classes, batch))
    weights = rng.random(batch)
    LOSSES["cross_entropy"].function(Z, rng.integers(classes, size=batch), weights)
    assert (abs(Z.sum(axis=0)) <= 4 * classes * np.finfo(float).eps).all()


@pytest.mark.parametrize("name", ["cross_entropy", "mse", "binary_cross_entropy", "huber", "hinge"])
def test_losses_against_torch(name, rng):
    torch = pytest.importorskip("torch")
    Z, targets, weights = case(name, rng)
    z = torch.tensor(Z, requires_grad=True)
    reference = {
        "cross_entropy": torch.nn.CrossEntropyLoss(reduction="none"),
        "mse": torch.nn.MSELoss(reduction="none"),
        "binary_cross_entropy": torch.nn.BCEWithLogitsLoss(reduction="none"),
        "huber": torch.nn.HuberLoss(reduction="none"),
        "hinge": torch.nn.MultiMarginLoss(reduction="none"),
    }[name]
    if name == "hinge":  # torch sums over all rivals; ours takes the largest
        scores = z.T[torch.arange(Z.shape[1]), torch.tensor(targets)]
        rivals = z.T.clone()
        rivals[torch.arange(Z.shape[1]), torch.tensor(targets)] = -torch.inf
        each = torch.relu(1 + rivals.max(dim=1).values - scores)
    else:
        each = reference(z.T, torch.tensor(targets.T))
        each = each.mean(dim=1) if each.ndim == 2 else each
    total = (each * torch.tensor(weights)).sum()
    total.backward()
    value = LOSSES[name].function(Z, targets, weights)
    np.testing.assert_allclose(value, total.item(), rtol=1e-13)
    np.testing.assert_allclose(Z, z.grad.numpy(), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", ["cross_entropy", "hinge"])
@pytest.mark.parametrize(
    ("targets", "error"),
    [
        ([0, 1, 6], InputError),
        ([0, -1, 2], InputError),
        ([0, 1], ShapeError),
        ([[0, 1, 2]], ShapeError),
        ([0.0, 1.0, 2.0], DtypeError),
    ],
)
def test_bad_classes(name, targets, error, rng):
    Z = rng.standard_normal((6, 3))
    before = Z.copy()
    with pytest.raises(error, match=r"^targets: expected "):
        LOSSES[name].function(Z, np.array(targets), np.ones(3))
    np.testing.assert_array_equal(Z, before)


@pytest.mark.parametrize("name", [name for name in LOSSES if LOSSES[name].kind == "values"])
@pytest.mark.parametrize("shape", [(3,), (6, 1), (3, 6), (1, 3)])
def test_bad_values(name, shape, rng):
    with pytest.raises(ShapeError, match=r"^targets: expected shape \(6, 3\)"):
        LOSSES[name].function(rng.standard_normal((6, 3)), np.zeros(shape), np.ones(3))


@pytest.mark.parametrize("outputs", [1, 3])
def test_r_squared_is_scikit_learns(outputs, rng):
    """Also where one output has no spread, met or missed."""
    targets, weights = rng.standard_normal((20, outputs)) * [1, 9, 0.1][:outputs], rng.random(20)
    found = targets + rng.standard_normal(targets.shape)
    for constant in (False, True):
        if constant:
            targets[:, 0] = 2.0
        for values in (found, np.where(targets == 2, targets, found)):
            expected = r2_score(targets, values, sample_weight=weights)
            got = LOSSES["mse"].score(values, targets, weights / weights.sum())
            np.testing.assert_allclose(got, expected, rtol=1e-12)


def test_losses_by_name():
    assert all(loss.name == name for name, loss in LOSSES.items())
    assert LOSSES["cross_entropy"].absorbs == "softmax"
    assert LOSSES["binary_cross_entropy"].absorbs == "sigmoid"


# -- dropout ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("rate", [0, 0.25, np.float32(0.5), 0.9])
def test_dropout_masks(rate, dtype, rng):
    mask = Dropout(rate).draw((4, 50, 100), rng, dtype)
    assert mask.dtype == dtype
    assert mask.shape == (4, 50, 100)
    values = np.unique(mask)
    np.testing.assert_allclose(values, [1] if rate == 0 else [0, 1 / (1 - float(rate))], rtol=1e-6)
    deviation = np.sqrt(rate * (1 - rate) / mask.size)  # of a mean of coins; 5 of them
    assert abs(np.mean(mask == 0) - rate) <= 5 * deviation
    again = [Dropout(rate).draw((3, 5), np.random.default_rng(1), dtype) for _ in range(2)]
    np.testing.assert_array_equal(*again)


def test_dropout_is_its_mask_backwards_and_nothing_in_prediction(rng):
    Z, dY = rng.standard_normal((2, 6, 7))
    before, mask = Z.copy(), Dropout(0.5).draw(Z.shape, rng, Z.dtype)
    Dropout(0.5).apply(Z)
    np.testing.assert_array_equal(Z, before)
    wanted = dY * mask
    Dropout(0.5).backward(None, None, dY, [mask])
    np.testing.assert_array_equal(dY, wanted)


@pytest.mark.parametrize("rate", [-0.1, 1, 1.5, float("nan"), "0.5", None, True, 1j])
def test_bad_rate(rate):
    with pytest.raises(InputError, match=r"rate: expected a number in \[0, 1\)"):
        Dropout(rate)
