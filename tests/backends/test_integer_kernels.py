"""The compiled integer kernels beside whole numbers of numpy, with the instructions of each kind.

Scales are 1 and sums below 2^24 unless said otherwise: results must be equal to the last bit.
"""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from builders import random_csr, run_script
from hypothesis import given
from hypothesis import strategies as st
from numba.core.registry import cpu_target

from gbdnn import CSR, Levels, Linear, Network, ReLU, as_csr, integer_weight
from gbdnn.backends import get_backend
from gbdnn.backends.base import Affine, aligned_empty
from gbdnn.backends.fused import compilation, program
from gbdnn.backends.fused.integers import packed, records
from gbdnn.backends.fused.integers.packed import PackedIntegers
from gbdnn.backends.fused.integers.packing import as_units, as_windows, limit_of
from gbdnn.backends.fused.integers.prepared import FusedIntegers
from gbdnn.backends.fused.integers.vectors import PLACE, WINDOW
from gbdnn.backends.fused.integers.vnni import form as vnni
from gbdnn.backends.fused.integers.vnni import layer as wide
from gbdnn.backends.fused.integers.vnni import packing as wide_packing
from gbdnn.backends.fused.integers.vnni.form import VnniIntegers
from gbdnn.backends.fused.windows import ROWS

LEVELS = {
    "unsigned": Levels(1.0, 0, 0, 255),
    "shifted": Levels(0.25, 100, 0, 255),
    "signed": Levels(0.5, 3, -128, 127),
    "four bits": Levels(1.0, 0, -7, 7),
}
HERE = records.instructions()
KINDS = {"vnni": ["vnni", "avx2", "none"], "avx2": ["avx2", "none"], "none": ["none"]}[HERE]
"""The kinds of instructions that can be run here; what this processor does not need is run too."""
WAYS = {
    ("vnni", False): VnniIntegers, ("vnni", True): VnniIntegers, ("avx2", False): PackedIntegers,
    ("avx2", True): PackedIntegers, ("none", False): PackedIntegers,
}  # fmt: skip
"""Kinds of instructions, and whether by windows."""
WAYS = {way: form for way, form in WAYS.items() if way[0] in KINDS}


def limited(patch, kind):
    """Let weights be prepared as on a processor that has these instructions and no better ones."""
    patch.setattr(records, "instructions", lambda: kind)


def prepared(weight, way):
    """Return the packed form that computes in one way, whatever is fastest."""
    kind, by_windows = way
    with pytest.MonkeyPatch.context() as patch:
        limited(patch, kind)
        for module in (packed, vnni):
            patch.setattr(module, "_few", lambda *counts: 1 << 20 if by_windows else 0)
        form = packed.prepared(weight)
    assert type(form) is WAYS[way]
    assert (form.windows is None) == (kind == "none")
    return form


def weight_of(codes, levels, scale=1.0):
    """Return a weight that has exactly these codes, 0 for no entry."""
    floats = as_csr((codes * scale).astype(np.float32))
    weight = integer_weight(floats, scale, bits=8, levels=levels)
    np.testing.assert_array_equal(
        weight.to_dense(allow_dense=True), floats.to_dense(allow_dense=True)
    )
    return weight


def inputs(rng, levels, features, width, dtype=np.float32, extreme=False):
    """Return tiles with values on, between and beyond the levels."""
    Y = aligned_empty(features * width, dtype).reshape(1, features, width)
    if extreme:
        Y[...] = rng.choice([1e9, -1e9], Y.shape)
    else:  # halves of a step: every second value is a tie
        low, high = levels.low - levels.zero - 3, levels.high - levels.zero + 3
        Y[...] = rng.integers(2 * low, 2 * high, Y.shape) * (levels.step / 2)
    return Y


def check(form, codes, levels, Y, bias=None, clamp=None, accumulate=False, threads=1):
    out = np.full((1, len(codes), Y.shape[2]), 5.0, Y.dtype)
    form.affine(Y, bias, out, clamp=clamp, accumulate=accumulate, threads=threads)
    steps = np.rint(Y[0].astype(np.float64) / levels.step)
    steps = np.clip(steps, levels.low - levels.zero, levels.high - levels.zero).astype(np.int64)
    sums = codes.astype(np.int64) @ steps
    assert np.abs(sums).max(initial=0) * 4 < 2**24
    want = sums * levels.step + (0 if bias is None else bias[:, None]) + 5.0 * accumulate
    np.testing.assert_array_equal(out[0], np.clip(want, *clamp) if clamp else want)
    return out


@given(
    way=st.sampled_from(sorted(WAYS)),
    levels=st.sampled_from(sorted(LEVELS)),
    dtype=st.sampled_from([np.float32, np.float64]),
    rows=st.sampled_from([1, 15, 16, 17, 40]),
    columns=st.sampled_from([1, 2, 15, 16, 17, 60, 500]),
    density=st.sampled_from([0.0, 0.03, 0.3, 1.0]),
    most=st.sampled_from([1, 7, 127]),
    width=st.sampled_from([1, 2, 3, 4, 5, 7, 8, 9, 16, 31, 32, 48, 64, 65, 72, 128, 200]),
    clamp=st.sampled_from([None, (-100.0, 3000.0)]),
    accumulate=st.booleans(),
    threads=st.sampled_from([1, 2]),
    seed=st.integers(0, 9),
)
def test_sums_are_exact(
    way, levels, dtype, rows, columns, density, most, width, clamp, accumulate, threads, seed
):
    rng, levels = np.random.default_rng(seed), LEVELS[levels]
    codes = rng.integers(-most, most + 1, (rows, columns)) * (rng.random((rows, columns)) < density)
    form = prepared(weight_of(codes, levels).astype(dtype), way)
    Y = inputs(rng, levels, columns, width, dtype)
    bias = rng.integers(-9, 9, rows).astype(dtype)
    check(form, codes, levels, Y, bias, clamp, accumulate, threads)


@pytest.mark.parametrize("way", sorted(WAYS))
@pytest.mark.parametrize("levels", ["unsigned", "shifted", "signed"])
@pytest.mark.parametrize("kind", ["most", "least", "mixed", "in turn"])
@pytest.mark.parametrize("width", [1, 4, 24, 64])
def test_extremes_do_not_leave_16_bits(rng, way, levels, kind, width):
    """Codes of +-127 times 255: two products of one sign are more than 16 bits hold."""
    levels, columns = LEVELS[levels], 128
    codes = {
        "most": np.full((20, columns), 127),
        "least": np.full((20, columns), -127),
        "mixed": rng.choice([-127, 127, 1, -1, 126], (20, columns)),
        "in turn": np.resize([127, -127], (20, columns)),
    }[kind]
    form = prepared(weight_of(codes, levels), way)
    Y = inputs(rng, levels, columns, width, extreme=True)
    check(form, codes, levels, Y)
    for value in (1e9, -1e9):
        Y[...] = value
        check(form, codes, levels, Y)


@pytest.mark.parametrize("way", sorted(WAYS))
@pytest.mark.parametrize("width", [1, 8])
def test_long_rows_do_not_leave_32_bits(way, width):
    columns = 60_000  # sums of 1.9e9: doubles hold them
    weight = weight_of(np.full((2, columns), 127), LEVELS["unsigned"]).astype(np.float64)
    form = prepared(weight, way)
    Y, out = np.full((1, columns, width), 255.0), np.empty((1, 2, width))
    form.affine(Y, None, out)
    np.testing.assert_array_equal(out, 127.0 * 255 * columns)


@pytest.mark.parametrize("columns", [8_192, 8_193, 70_000])
@pytest.mark.parametrize("way", sorted(WAYS))
def test_wide_inputs_have_longer_numbers_of_columns(rng, columns, way):
    places = np.sort(rng.choice(columns, 50, replace=False))
    places[-1] = columns - 1
    W = CSR(np.array([0, 50]), places, np.arange(1, 51, dtype=np.float32), (1, columns))
    weight = integer_weight(W, 1.0, bits=8, levels=LEVELS["unsigned"])
    Y = inputs(rng, LEVELS["unsigned"], columns, 3)
    check(prepared(weight, way), weight.to_dense(allow_dense=True), LEVELS["unsigned"], Y)


@pytest.mark.parametrize("way", sorted(WAYS))
@pytest.mark.parametrize("step", [0.1, 1 / 3, 1e-40, 1e-38, 1e-30, 1e30, 3e38])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_ties_are_where_the_division_has_them(rng, way, step, dtype):
    """A product with 1 / step would be on the other side of some."""
    levels, count = Levels(step, 10, 0, 255), 4096
    with np.errstate(over="ignore"):
        x = (rng.integers(-40, 600, count) / 2).astype(dtype) * dtype(step)
    x = np.concatenate([x, np.nextafter(x, dtype(-np.inf)), np.nextafter(x, dtype(np.inf))])
    x[:6] = 0, -0.0, np.inf, -np.inf, np.nan, np.finfo(dtype).max
    with np.errstate(over="ignore", invalid="ignore"):
        want = levels.steps(x)
    weight = integer_weight(np.ones((1, 1)), 1.0, bits=8, levels=levels).astype(dtype)
    form = prepared(weight, way)
    out = np.empty((1, 1, len(x)), dtype)
    form.affine(np.ascontiguousarray(x).reshape(1, 1, -1), None, out)
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(out[0, 0], want * dtype(step))


def test_the_faster_way_is_chosen_and_all_give_the_same_bits(rng):
    levels = Levels(0.01, 0, 0, 255)
    weight = integer_weight(random_csr(rng, 100, 400, 0.2), rng.random(100) / 127, bits=8,
                            levels=levels)  # fmt: skip
    bias, Y = rng.random(100).astype(np.float32), aligned_empty(400 * 64, np.float32)
    Y[:] = rng.random(len(Y))
    results = []
    for way in WAYS:
        out = np.empty((1, 100, 64), np.float32)
        prepared(weight, way).affine(Y.reshape(1, 400, 64), bias, out)
        results.append(out)
        one = np.empty((1, 100, 1), np.float32)
        column = np.ascontiguousarray(Y.reshape(1, 400, 64)[:, :, 7:8])
        prepared(weight, way).affine(column, bias, one)
        np.testing.assert_array_equal(one[0, :, 0], out[0, :, 7])
    for other in results[1:]:
        np.testing.assert_array_equal(other, results[0])
    assert (get_backend("fused").prepare(weight).few > 0) == (HERE != "none")


def test_what_packing_cannot_hold_is_computed_otherwise(rng):
    backend, levels = get_backend("fused"), LEVELS["unsigned"]
    groups = integer_weight(random_csr(rng, 4, 6), np.ones((4, 2)), bits=8, levels=levels)
    long = integer_weight(np.full((1, 70_000), 127.0), 1.0, bits=8, levels=levels)
    for weight in (groups, long):
        assert isinstance(backend.prepare(weight), FusedIntegers)


@given(
    rows=st.sampled_from([1, 3, 16, 33]), columns=st.sampled_from([1, 20, 300]),
    density=st.sampled_from([0, 0.02, 0.4, 1]), most=st.sampled_from([3, 40, 127]),
    span=st.sampled_from([15, 127, 255]), same=st.booleans(), seed=st.integers(0, 99),
)  # fmt: skip
def test_packing_keeps_every_entry_and_the_limit(rows, columns, density, most, span, same, seed):
    rng, limit = np.random.default_rng(seed), limit_of(span)
    W = random_csr(rng, rows, columns, density)
    codes = rng.integers(1, most + 1, W.nnz) * (1 if same else rng.choice([-1, 1], W.nnz))
    codes, indices = codes.astype(np.int8), W.indices.astype(np.uint16)
    want = np.zeros((rows, columns), int)
    want[np.repeat(np.arange(rows), np.diff(W.indptr)), W.indices] = codes

    units = as_units(W.indptr, indices, codes, limit)
    found, row = np.zeros_like(want), np.repeat(np.arange(rows), np.diff(units.table))
    each = units.weights.astype(int).reshape(-1, 2 * units.pairs)
    np.add.at(found, (np.repeat(row, each.shape[1]), units.columns // PLACE), each.ravel())
    np.testing.assert_array_equal(found, want)
    assert np.maximum(each, 0).sum(axis=1).max(initial=0) * span < 2**15
    assert np.minimum(each, 0).sum(axis=1).min(initial=0) * span > -(2**15)

    windows = as_windows(W.indptr, indices, codes, limit)
    found = np.zeros((len(windows.targets), columns + WINDOW), int)
    weights = windows.weights.astype(int).reshape(-1, ROWS, 2)
    places = np.stack([windows.places & 15, windows.places >> 4], axis=1).reshape(weights.shape)
    group = np.repeat(np.arange(len(windows.table) - 1), np.diff(windows.table) * windows.together)
    target = group[:, None, None] * ROWS + np.arange(ROWS)[:, None]
    place = windows.starts.astype(int)[:, None, None] + places
    np.add.at(found, (np.broadcast_to(target, place.shape), place), weights)
    used = windows.targets >= 0
    np.testing.assert_array_equal(found[used, :columns], want[windows.targets[used]])
    assert not found[~used].any()
    sums = weights.reshape(-1, windows.together, ROWS, 2).transpose(0, 2, 1, 3)
    sums = sums.reshape(len(sums), ROWS, 2 * windows.together)
    assert np.maximum(sums, 0).sum(axis=2).max(initial=0) * span < 2**15
    assert np.minimum(sums, 0).sum(axis=2).min(initial=0) * span > -(2**15)


@given(
    rows=st.sampled_from([1, 3, 16, 33]), columns=st.sampled_from([1, 63, 64, 65, 300]),
    density=st.sampled_from([0, 0.02, 0.4, 1]), most=st.sampled_from([7, 127]),
    uneven=st.booleans(), seed=st.integers(0, 99),
)  # fmt: skip
def test_quads_and_windows_keep_every_entry(rows, columns, density, most, uneven, seed):
    rng = np.random.default_rng(seed)
    want = rng.integers(1, most + 1, (rows, columns)) * rng.choice([-1, 1], (rows, columns))
    want *= rng.random((rows, columns)) < density
    if uneven:  # rows are sorted by length then
        want[1::2] = 0
    W = as_csr(want.astype(np.float32))
    given = W.indptr, W.indices.astype(np.uint16), W.values.astype(np.int8)

    quads = wide_packing.as_quads(*given)
    found, row = np.zeros_like(want), np.repeat(np.arange(rows), 4 * np.diff(quads.table))
    np.add.at(found, (row, quads.columns // wide_packing.PLACE), quads.weights)
    np.testing.assert_array_equal(found, want)

    windows = wide_packing.as_windows(*given, columns, nibbles=most == 7)
    weights = windows.weights
    if most == 7:
        both = np.stack([weights << 4 >> 4, weights >> 4], axis=1)
        weights = both.reshape(-1, wide_packing.STEP)
    shape = (-1, ROWS, wide_packing.SLOTS)
    weights, places = weights.astype(int).reshape(shape), windows.places.reshape(shape)
    group = np.repeat(np.arange(len(windows.table) - 1), 2 * np.diff(windows.table))
    targets = windows.targets.reshape(-1, ROWS)[group][:, :, None]
    place = windows.starts.astype(int)[:, None, None] + places
    assert place.max(initial=0) < -(-columns // 64) * 64
    assert windows.starts.max(initial=0) <= -(-columns // 64) * 64 - 64
    found = np.zeros((rows, -(-columns // 64) * 64), int)
    used = np.broadcast_to(targets >= 0, place.shape)
    np.add.at(found, (np.broadcast_to(targets, place.shape)[used], place[used]), weights[used])
    np.testing.assert_array_equal(found[:, :columns], want)
    assert not weights[~used].any()


@pytest.mark.skipif(HERE != "vnni", reason="needs the instructions of VNNI and VBMI")
@pytest.mark.parametrize("levels", [Levels(0.02, 40, 0, 255), Levels(1 / 3, 3, -7, 7)])
@pytest.mark.parametrize("bounds", [(0.0, np.inf), (-0.5, 0.7), (-np.inf, np.inf), (3.0, 3.0)])
@pytest.mark.parametrize("uneven", [False, True])
def test_layers_hand_over_the_codes_that_the_next_one_would_make(rng, levels, bounds, uneven):
    """Also of ties, which are everywhere here, and for every width and both orders."""
    fused, affines = get_backend("fused"), []
    for rows, columns in ((70, 40), (90, 70), (16, 90), (5, 16)):
        codes = rng.integers(-127, 128, (rows, columns)) * (rng.random((rows, columns)) < 0.3)
        if uneven:
            codes[::2, 3:] = 0
        weight = weight_of(codes, levels, 0.5)
        bias = (rng.integers(-20, 20, rows) * levels.step / 2).astype(np.float32)
        affines.append(Affine(fused.prepare(weight), bias, bounds))
    linked, pitches = [], []
    original = vnni.link

    def link(affines, records_, **options):
        original(affines, records_, **options)
        pitches.append(records_[-1][wide.PITCH])
        linked.append([(record[wide.TAKES], record[wide.GIVES]) for record in records_])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(program, "link", link)
        made = fused.program(affines)
        for count in (1, 2, 3, 4, 7, 16, 17, 33, 48, 64, 65, 90, 200):
            X = (rng.integers(-60, 60, (40, count)) * (levels.step / 2)).astype(np.float32)
            Y = X[None].copy()
            for affine in affines:
                out = np.empty((1, affine.weight.shape[0], count), np.float32)
                fused.affine(affine.weight, Y, affine.bias, out, clamp=affine.bounds)
                Y = out
            for threads in (1, 2):
                for source in (X, np.asfortranarray(X)):
                    found = np.empty((count, 7), np.float32)[:, :5].T
                    made.run(source, found, width=64, threads=threads, check=True)
                    np.testing.assert_array_equal(found, Y[0])
    assert [(0, 1), (1, 1), (1, 1), (1, 0)] in linked
    assert [(1, 1), (1, 1), (1, 1), (1, 0)] in linked
    assert set(pitches) == {0, 28}


@pytest.mark.skipif(HERE != "vnni", reason="needs the instructions of VNNI and VBMI")
def test_codes_are_not_handed_over_where_that_could_change_a_bit(rng):
    fused, levels = get_backend("fused"), Levels(0.02, 40, 0, 255)

    def gives(bias=0.0, step=0.02, rows=20):
        first = weight_of(np.eye(rows, 20, dtype=int), levels)
        last = weight_of(np.eye(4, rows, dtype=int), Levels(step, 40, 0, 255))
        affines = [Affine(fused.prepare(first), np.full(1, bias, np.float32)),
                   Affine(fused.prepare(last), np.zeros(1, np.float32))]  # fmt: skip
        made = [affine.weight.record(affine, 1, 1) for affine in affines]
        vnni.link(affines, made, entered=False)
        assert made[0][wide.GIVES] == made[1][wide.TAKES]
        return bool(made[0][wide.GIVES])

    assert gives()
    assert not gives(bias=np.nan)
    assert not gives(bias=np.inf)
    assert not gives(step=1e-36)
    assert not gives(rows=15)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mixed", [False, True])
def test_networks_are_one_compiled_call(rng, kind, mixed, monkeypatch):
    """Of every batch and number of threads the same bits, those of layer after layer."""
    limited(monkeypatch, kind)
    sizes, layers = (70, 90, 50, 33), []
    for k in range(3):
        W = random_csr(rng, sizes[k + 1], sizes[k], 0.3)
        scales = np.full(len(W.indptr) - 1, 0.02)
        if not (mixed and k == 1):
            W = integer_weight(W, scales, bits=8, levels=Levels(0.02, 40, 0, 255))
        layers += [Linear(W, rng.standard_normal(W.shape[0]).astype(np.float32)), ReLU()]
    network, backend = Network(layers), get_backend("fused")
    assert network.compiled(backend) is not None
    X = rng.standard_normal((700, 70)).astype(np.float32)
    forms = [backend.prepare(each.weight) for each in network.layers[::2]]
    Y = np.ascontiguousarray(X.T)[None]
    for form, each in zip(forms, network.layers[::2], strict=True):
        out = np.empty((1, form.shape[0], Y.shape[2]), np.float32)
        backend.affine(form, Y, each.bias, out, clamp=(0.0, np.inf))
        Y = out
    for count in (1, 2, 5, 17, 64, 65, 130, 700):
        for threads in (1, 2):
            found = network.predict(X[:count], threads=threads)
            if mixed:  # floats in between are summed in another order
                np.testing.assert_allclose(found, Y[0].T[:count], atol=0.2)
            else:
                np.testing.assert_array_equal(found, Y[0].T[:count])


def test_a_record_names_its_own_biases(rng):
    weight = weight_of(np.eye(8, dtype=int), LEVELS["unsigned"])
    form, biases = (
        prepared(weight, (KINDS[-1], False)),
        [np.arange(8, dtype=np.float32), np.zeros(1, "f4")],
    )
    made = [form.record(Affine(form, bias), 1, 2) for bias in biases]
    assert [record[records.BIAS_LENGTH] for record in made] == [8, 1]
    assert made[0][records.BIAS] != made[1][records.BIAS]


@pytest.mark.parametrize(
    ("features", "kind"),
    [
        ("+avx,+avx2,+avx512f,+avx512bw,+avx512vl,+avx512vbmi,+avx512vnni", "vnni"),
        ("+avx,+avx2,+avx512f,+avx512bw,+avx512vl,-avx512vbmi,+avx512vnni", "avx2"),
        ("+avx,-avx2", "none"),
        ("", "none"),
    ],
)
def test_instructions_are_those_that_numba_compiles_for(monkeypatch, features, kind):
    codegen = SimpleNamespace(magic_tuple=lambda: ("triple", "name", features))
    target = SimpleNamespace(target_context=SimpleNamespace(codegen=lambda: codegen))
    monkeypatch.setattr(compilation, "cpu_target", target)
    assert records.instructions() == kind


def test_the_cache_on_disk_knows_the_features():
    codegen = cpu_target.target_context.codegen()
    assert codegen.magic_tuple() in records.run_layer._cache._index_key((), codegen)


CACHED = """
import numpy as np
from gbdnn import Levels, as_csr, integer_weight
from gbdnn.backends import get_backend
rng = np.random.default_rng(0)
codes = rng.integers(-7, 8, (300, 400)) * (rng.random((300, 400)) < 0.1)
weight = integer_weight(as_csr(codes.astype("f4")), 1.0, bits=8, levels=Levels(1.0, 0, 0, 255))
backend = get_backend("fused")
form = backend.prepare(weight)
for width in (1, 8, 64):
    Y = rng.integers(0, 256, (1, 400, width)).astype("f4")
    out = np.full((1, 300, width), 5.0, "f4")
    for _ in range(2):
        backend.affine(form, Y, None, out, accumulate=True)
    np.testing.assert_array_equal(out[0], 5 + 2 * (codes @ Y[0]))
"""


def test_kernels_from_the_disk_compute_what_compiled_ones_do(tmp_path, monkeypatch):
    """One process compiles, the next one loads; VNNI windows once added to nothing there."""
    monkeypatch.setenv("GBDNN_CACHE_DIR", str(tmp_path))
    for _ in range(2):
        run_script(CACHED, timeout=300)
