"""Weights of 8 or 4 bits and the levels of activations: codes, layouts, bytes, files, training."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
from builders import random_csr, random_dense
from hypothesis import given
from hypothesis import strategies as st

import gbdnn
from gbdnn import Dense, Int4, Int8, Levels, Linear, Network, ReLU, as_csr, integer_weight
from gbdnn.data.inputs import as_inputs
from gbdnn.errors import DtypeError, GbdnnError, InputError, NonFiniteError, ShapeError
from gbdnn.files.tensors import read_tensors, write_tensors
from gbdnn.interchange.models import to_tensors
from gbdnn.layers import LOSSES
from gbdnn.network import load
from gbdnn.training import Trainer
from gbdnn.training.model import Model
from gbdnn.weights.integers import codes as packing

LEVELS = Levels(0.05, 3, 0, 15)
SCALES = {
    "tensor": lambda rows, groups: 0.25,
    "gates": lambda rows, groups: np.full(4, 0.25),
    "rows": lambda rows, groups: np.linspace(0.1, 0.4, rows),
    "groups": lambda rows, groups: np.linspace(0.1, 0.4, rows * groups).reshape(rows, groups),
}


# -- levels ----------------------------------------------------------------------------------------


def test_levels_round_half_to_even_and_clip():
    levels = Levels(0.5, 0, -7, 7)
    x = np.array([-9, -0.75, -0.25, 0, 0.25, 0.75, 1.25, 1.3, 9, np.inf, -np.inf], np.float32)
    codes = levels.code(x)
    np.testing.assert_array_equal(codes, [-7, -2, 0, 0, 0, 2, 2, 3, 7, 7, -7])
    np.testing.assert_array_equal(levels.value(codes), np.clip(codes, -7, 7) * np.float32(0.5))
    rounded = np.empty_like(x)
    levels.fake(x, rounded)
    np.testing.assert_array_equal(rounded, levels.value(codes))


def test_a_wrong_rounding_would_be_seen():
    x = np.array([0.5, 1.5, 2.5, -0.5, -1.5], np.float32)
    up = np.floor(x + 0.5)
    assert (up != Levels(1.0, 0, -7, 7).code(x)).any()


@given(
    step=st.floats(1e-6, 1e6),
    low=st.integers(-128, 127),
    count=st.integers(1, 255),
    part=st.floats(0, 1),
    x=st.lists(st.floats(-1e9, 1e9, width=32), min_size=1, max_size=20),
)
def test_levels_are_idempotent_and_keep_zero(step, low, count, part, x):
    high = min(low + count, 255)
    zero = low + int(part * (high - low))
    levels = Levels(step, zero, low, high)
    assert Levels.of(json.loads(json.dumps(levels.record()))) == levels
    assert levels.code(np.zeros(1, np.float32)) == zero
    codes = np.arange(low, high + 1)
    for dtype in (np.float32, np.float64):
        np.testing.assert_array_equal(levels.code(levels.value(codes, dtype)), codes)
        once = np.array(x, dtype)
        levels.fake(once, once)
        twice = once.copy()
        levels.fake(twice, twice)
        np.testing.assert_array_equal(once, twice)


def test_the_gradient_passes_between_the_levels_only():
    levels, dx = Levels(0.5, 2, 0, 7), np.ones(5)
    levels.backward(np.array([-1.01, -1, 0, 2.5, 2.51]), dx)
    np.testing.assert_array_equal(dx, [0, 1, 1, 1, 0])


@pytest.mark.parametrize(
    "arguments",
    [(0, 0, -7, 7), (-1, 0, -7, 7), (np.nan, 0, -7, 7), (np.inf, 0, -7, 7), (1e-60, 0, -7, 7),
     (1e60, 0, -7, 7), ("1", 0, -7, 7), (True, 0, -7, 7), (1, 8, -7, 7), (1, 0, 7, -7),
     (1, 0, 0, 0), (1, 0, -129, 7), (1, 0, 0, 256), (1, 0, -128, 128), (1, 0.5, -7, 7),
     (1, True, -7, 7)],
)  # fmt: skip
def test_levels_that_make_no_sense(arguments):
    with pytest.raises(InputError, match="levels"):
        Levels(*arguments)


# -- packing ---------------------------------------------------------------------------------------


def test_nibbles_have_the_low_half_first():
    packed = packing.pack(np.array([1, -1, -7, 7, 5], np.int8), 4)
    np.testing.assert_array_equal(packed, np.array([0xF1, 0x79, 0x05], np.uint8))


@given(st.lists(st.integers(-8, 7)))
def test_nibbles_there_and_back(numbers):
    codes = np.array(numbers, np.int8)
    packed = packing.pack(codes, 4)
    assert packed.nbytes == (len(codes) + 1) // 2
    found = packing.signed(packing.unpack(packed, 4, len(codes)))
    np.testing.assert_array_equal(found, codes)


@given(st.data())
def test_gaps_there_and_back(data):
    rows, columns = data.draw(st.integers(1, 4)), data.draw(st.sampled_from([1, 40, 600, 200_000]))
    places = st.lists(st.integers(0, columns - 1), unique=True, max_size=12).map(sorted)
    lines = [data.draw(places) for _ in range(rows)]
    indptr = np.cumsum([0, *map(len, lines)])
    indices = np.array([column for line in lines for column in line], np.int64)
    for bits in (4, 8, 16):
        stream = packing.unpack(packing.pack(packing.to_gaps(indptr, indices, bits), bits), bits)
        found = packing.from_gaps(stream, indptr, bits, columns)
        np.testing.assert_array_equal(found, indices)


# -- forms -----------------------------------------------------------------------------------------


@given(
    rows=st.sampled_from([4, 8, 12]),
    groups=st.sampled_from([1, 2, 3]),
    size=st.integers(1, 9),
    density=st.sampled_from([0, 0.05, 0.3, 0.8, 1]),
    bits=st.integers(2, 8),
    scale=st.sampled_from(sorted(SCALES)),
    layout=st.sampled_from([None, "dense", "csr", "bitmap"]),
    seed=st.integers(0, 99),
)
def test_codes_layouts_and_bytes(rows, groups, size, density, bits, scale, layout, seed):
    rng = np.random.default_rng(seed)
    columns = groups * size
    source = as_csr(random_dense(rng, rows, columns, density))
    scales = SCALES[scale](rows, groups)
    weight = integer_weight(source, scales, bits=bits, levels=LEVELS, layout=layout)
    largest = 2 ** (bits - 1) - 1
    each = np.broadcast_to(np.float32(scales), (rows, 1)) if scale == "tensor" else None
    if scale in ("gates", "rows"):
        each = np.repeat(np.float32(scales), rows // len(scales))[:, None]
    if scale == "groups":
        each = np.repeat(np.float32(scales), size, axis=1)
    want = np.clip(np.rint(source.to_dense() / each), -largest, largest) * each
    np.testing.assert_array_equal(weight.to_dense(), want)
    np.testing.assert_array_equal(weight.entries, want[tuple(places(weight.pattern()))])
    if weight.layout != "dense":  # an entry of code 0 stays
        np.testing.assert_array_equal(places(weight.pattern()), places(source))
    assert weight.nnz == weight.pattern().nnz == len(weight.codes)
    assert isinstance(weight, Int4 if bits <= 4 else Int8)
    assert weight.nbytes == sum(array.nbytes for array in weight.arrays().values())
    again = type(weight).of(weight.arrays(), weight.shape, json.loads(json.dumps(weight.settings)))
    for other in (again, pickle.loads(pickle.dumps(weight)), weight.with_entries(weight.entries)):
        np.testing.assert_array_equal(other.to_dense(), want)
        assert (other.layout, other.levels, other.nbytes) == (weight.layout, LEVELS, weight.nbytes)
    others = [
        integer_weight(source, scales, bits=bits, layout=name).nbytes
        for name in ("dense", "csr", "bitmap")
    ]
    assert layout is not None or weight.nbytes == min(others)


def places(pattern):
    """Return rows and columns of the entries."""
    return np.repeat(np.arange(pattern.shape[0]), np.diff(pattern.indptr)), pattern.indices


@pytest.mark.parametrize(("bits", "code_bits"), [(4, 4), (8, 8)])
@pytest.mark.parametrize("density", [0.02, 0.1, 0.4, 0.9])
def test_bytes_in_memory_and_on_disk_are_what_the_formula_says(
    rng, tmp_path, density, bits, code_bits
):
    rows, columns = 64, 320
    source = random_csr(rng, rows, columns, density)
    codes = -(-source.nnz * code_bits // 8)
    formula = {
        "dense": rows * columns * code_bits // 8 + 4 * rows,
        "bitmap": rows * columns // 8 + codes + 4 * rows,
    }
    for layout, nbytes in formula.items():
        weight = integer_weight(source, np.full(rows, 0.3), bits=bits, layout=layout)
        assert weight.nbytes == nbytes
    weight = integer_weight(source, np.full(rows, 0.3), bits=bits, layout="csr")
    gaps = weight.parts["gaps"].nbytes
    assert weight.nbytes == rows * weight.parts["lengths"].itemsize + gaps + codes + 4 * rows
    assert gaps <= 2 * source.nnz  # 16 bits suffice; a skip costs the same
    for layout in ("dense", "csr", "bitmap"):
        weight = integer_weight(source, np.full(rows, 0.3), bits=bits, layout=layout)
        path = tmp_path / layout
        Network([Linear(weight, 0.5)]).save(path)
        tensors, _ = read_tensors(path)
        assert sum(array.nbytes for array in tensors.values()) == weight.nbytes + 4  # the bias
        header = 8 + int.from_bytes(path.read_bytes()[:8], "little")
        assert path.stat().st_size == header + weight.nbytes + 4


def test_a_sparse_network_of_4_bits_takes_a_25th_of_the_dense_one(rng, tmp_path):
    layers = [random_csr(rng, 512, 512, 0.1) for _ in range(3)]
    small = Network([Linear(integer_weight(w, 0.4, bits=4), np.zeros(512)) for w in layers])
    large = Network([Linear(Dense(w.to_dense()), np.zeros(512)) for w in layers])
    assert large.nbytes > 25 * small.nbytes
    small.save(tmp_path / "small")
    large.save(tmp_path / "large")
    sizes = [(tmp_path / name).stat().st_size for name in ("small", "large")]
    assert sizes[1] > 25 * sizes[0]


def test_16_bits_of_gap_and_wide_weights(rng):
    wide = as_csr(np.eye(3, 200_001, 200_000, dtype=np.float32))
    weight = integer_weight(wide, 1, bits=8, layout="csr")
    np.testing.assert_array_equal(places(weight.pattern()), places(wide))


def test_values_beyond_the_scale_are_clipped_and_a_scale_of_0_gives_0():
    weight = integer_weight(np.array([[1e6, -1e6], [0.5, -3]]), [1, 0], bits=4, layout="dense")
    np.testing.assert_array_equal(weight.to_dense(), [[7, -7], [0, 0]])
    zeros = integer_weight(np.zeros((2, 2)), 0, bits=8)
    assert not zeros.to_dense().any()


def test_nothing_of_the_callers_is_kept_or_changed(rng):
    source, scales = Dense(rng.standard_normal((4, 6))), np.full(4, 0.1, np.float32)
    weight = integer_weight(source, scales, bits=8)
    before = weight.to_dense()
    scales[:] = 9
    np.testing.assert_array_equal(weight.to_dense(), before)
    with pytest.raises(ValueError, match="read-only"):
        weight.scales[0] = 1


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"bits": 1}, InputError), ({"bits": 9}, InputError), ({"bits": "4"}, InputError),
        ({"bits": True}, InputError), ({"layout": "coo"}, InputError), ({"levels": 4}, DtypeError),
        ({"scales": np.nan}, NonFiniteError), ({"scales": -1.0}, InputError),
        ({"scales": 1e60}, NonFiniteError), ({"scales": 1e38}, NonFiniteError),
        ({"scales": []}, ShapeError),
        ({"scales": np.ones(3)}, ShapeError), ({"scales": np.ones((4, 4))}, ShapeError),
        ({"scales": np.ones((3, 2))}, ShapeError), ({"scales": np.ones((4, 0))}, ShapeError),
        ({"scales": np.ones((4, 1, 1))}, ShapeError), ({"scales": "a"}, DtypeError),
        ({"weight": np.full((4, 6), np.nan)}, NonFiniteError),
    ],
)  # fmt: skip
def test_arguments_that_make_no_sense(rng, change, error):
    given = {"weight": random_dense(rng, 4, 6), "scales": 0.1, "bits": 4} | change
    with pytest.raises(error):
        integer_weight(given.pop("weight"), given.pop("scales"), **given)


# -- networks --------------------------------------------------------------------------------------


def integer_network(rng, levels=LEVELS):
    """Return a network with int8 and int4 weights, CSR and dense."""
    first = integer_weight(random_csr(rng, 12, 10, 0.3), np.full((12, 2), 0.2), bits=4,
                           levels=levels)  # fmt: skip
    last = integer_weight(random_dense(rng, 3, 12, 1), 0.02, bits=8, levels=levels)
    return Network([Linear(first, rng.random(12)), "relu", Linear(last, 0.5)])


def test_files_hold_them(rng, tmp_path):
    network = integer_network(rng)
    network.save(tmp_path / "model")
    again = load(tmp_path / "model")
    X = rng.standard_normal((7, 10))
    np.testing.assert_array_equal(again.predict(X), network.predict(X))
    assert again.layers[0].weight.levels == LEVELS
    assert again.nbytes == network.nbytes
    header = read_tensors(tmp_path / "model")[1]
    assert header["version"] == "1.2"


def test_files_of_version_1_1_are_read(rng, network, tmp_path):
    tensors, metadata = to_tensors(network.layers)
    write_tensors(tmp_path / "model", tensors, metadata | {"version": "1.1"})
    X = rng.standard_normal((3, 12))
    np.testing.assert_array_equal(load(tmp_path / "model").predict(X), network.predict(X))


def test_other_dtypes_mean_the_same(rng):
    network = integer_network(rng)
    double = network.astype(np.float64)
    assert double.dtype == np.float64
    assert double.layers[0].weight.levels == LEVELS
    X = rng.standard_normal((5, 10)).astype(np.float32)
    np.testing.assert_allclose(double.predict(X), network.predict(X), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(double.astype(np.float32).predict(X), network.predict(X))


def test_the_summary_shows_form_and_bits(rng):
    network = integer_network(rng)
    summary = network.summary()
    assert [row["bits"] for row in summary.rows] == ["4", "", "8"]
    assert summary.rows[2]["form"] == "int8 dense"
    assert "int4 " in str(summary)
    assert "bits" in str(summary).splitlines()[0]
    assert summary.total["bytes"] == network.nbytes
    assert "bits" not in str(Network([Linear(np.ones((2, 2)))]).summary())


@pytest.mark.parametrize("levels", [None, LEVELS])
def test_training_keeps_form_and_scales(rng, levels):
    network = integer_network(rng, levels)
    X, y = rng.standard_normal((64, 10)), rng.integers(0, 3, 64)
    result = Trainer(epochs=4, batch_size=16, learning_rate=0.01, rng=0).fit(network, X, y).network
    for before, after in zip(network.weights.values(), result.weights.values(), strict=True):
        assert (after.form, after.levels) == (before.form, levels)
        np.testing.assert_array_equal(after.scales, before.scales)
        np.testing.assert_array_equal(places(after.pattern()), places(before.pattern()))
    assert any(
        (after.codes != before.codes).any()
        for before, after in zip(network.weights.values(), result.weights.values(), strict=True)
    )


def test_training_computes_what_prediction_does(rng):
    """The levels of the weights round the inputs in training too; their gradient passes."""
    network = integer_network(rng)
    X = rng.standard_normal((9, 10)).astype(np.float32)
    model = Model(network, loss=LOSSES["cross_entropy"], threads=1)
    outputs = model.outputs(as_inputs(X, 10, np.dtype(np.float32)))
    np.testing.assert_allclose(outputs, network.predict(X), rtol=1e-5, atol=1e-5)
    floats = network.replaced({name: w.plain() for name, w in network.weights.items()})
    assert np.abs(outputs - floats.predict(X)).max() > 1e-3


def test_pruning_keeps_form_scales_and_levels(rng):
    network = integer_network(rng)
    pruned = gbdnn.prune(network, sparsity=0.8)
    for name, weight in pruned.weights.items():
        assert (weight.form, weight.levels) == (network.weights[name].form, LEVELS)
        np.testing.assert_array_equal(weight.scales, network.weights[name].scales)
    assert sum(w.nnz for w in pruned.weights.values()) <= 0.2 * (12 * 10 + 3 * 12)
    few = as_csr(np.diag([1.0, 1, 1, 0, 0, 0, 0, 0]))
    dense = integer_weight(random_dense(rng, 8, 8, 1), 0.1, bits=8)
    dense = dense.with_entries(np.ones(3, np.float32), few)
    assert (dense.layout, dense.nnz) == ("bitmap", 3)


def test_compaction_leaves_integer_layers_alone(rng):
    network = integer_network(rng)
    compact, report = gbdnn.compact(network)
    X = rng.standard_normal((5, 10))
    np.testing.assert_array_equal(compact.predict(X), network.predict(X))
    assert report.neurons == 0


# -- claims of skipping ----------------------------------------------------------------------------


def kept(weight, bias, cap=2.0):
    """Return the constants that a capped ReLU layer claims to keep, and what it makes of them."""
    layer = Linear(weight, bias)
    claimed = layer.keeps([ReLU(cap)])
    network = Network([layer, ReLU(cap)])
    made = {}
    for value in (0.0, cap):
        X = np.full((3, layer.in_features), value, np.float32)
        outs = [network.predict(X, backend=name) for name in ("dense", "graphblas", "fused")]
        made[value] = all((out == value).all() for out in outs)
    return claimed, made


@given(
    step=st.floats(0.01, 3),
    high=st.sampled_from([3, 15, 255]),
    scale=st.floats(0.01, 1),
    bias=st.floats(-1, 1, width=32),
    seed=st.integers(0, 20),
)
def test_constants_that_are_claimed_to_stay_do_so(step, high, scale, bias, seed):
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, 8, (5, 5)) * scale
    weight = integer_weight(codes, scale, bits=4, levels=Levels(step, 0, 0, high))
    claimed, made = kept(weight, bias)
    assert all(made[value] for value in claimed)
    assert (0.0 in claimed) == (bias <= 0)


def test_a_cap_that_the_levels_cannot_reach_is_not_claimed():
    ones = np.full((4, 4), 0.3)
    for levels, stays in ((Levels(0.25, 0, 0, 15), True), (Levels(0.25, 0, 0, 6), False)):
        weight = integer_weight(ones, 0.3, bits=4, levels=levels)
        claimed, made = kept(weight, 0.0)  # 4 x 0.3 x 2 = 2.4, or 4 x 0.3 x 1.5 = 1.8
        assert ((2.0 in claimed), made[2.0]) == (stays, stays)


def test_scales_that_overflow_are_refused():
    weight = integer_weight(np.ones((2, 2)), 1e30, bits=8, levels=Levels(1e30, 0, 0, 255))
    with pytest.raises(GbdnnError, match=r"levels\.step"):
        Network([Linear(weight)]).predict(np.ones((1, 2)))
