"""MatMulNBits and blocks of scales, by hand and by onnxruntime's quantizer; its answers."""

from __future__ import annotations

import contextlib
import logging

import numpy as np
import pytest
from test_onnx_sequences import close, node, runtime, written

import gbdnn
from gbdnn.errors import GbdnnError, InputError

onnx = pytest.importorskip("onnx")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

N, K, BLOCK = 6, 40, 16
BLOCKS = 3


def random(*shape):
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


X = random(10, K)


def packed(numbers, bits):
    """Return rows of numbers as bytes, the first in the lowest bits."""
    per = 8 // bits
    rows = np.pad(numbers, ((0, 0), (0, -numbers.shape[1] % per))).astype(np.uint8)
    parts = rows.reshape(len(rows), -1, per) << (np.arange(per, dtype=np.uint8) * bits)
    return np.bitwise_or.reduce(parts, axis=-1).astype(np.uint8)


def tensors(bits=4, codes=None):
    """Return the constants of a node, and what weight they say without zero points."""
    rng = np.random.default_rng(bits)
    codes = rng.integers(0, 2**bits, (N, BLOCKS * BLOCK)) if codes is None else codes
    scales = rng.uniform(-0.2, 0.2, (N, BLOCKS)).astype(np.float32)
    content = packed(codes, bits).reshape(N, BLOCKS, -1)
    full = (codes - 2 ** (bits - 1)) * np.repeat(scales, BLOCK, axis=1)
    return {"B": content, "S": scales}, full[:, :K].astype(np.float32), codes


def product(inputs="X B S", bits=4, **attributes):
    options = {"N": N, "K": K, "bits": bits, "block_size": BLOCK, **attributes}
    return node("MatMulNBits", inputs, domain="com.microsoft", **options)


@pytest.mark.parametrize(("bits", "form", "kept"), [(2, "int4", 3), (4, "int8", 5)])
def test_without_zero_points(tmp_path, bits, form, kept):
    given, full, _ = tensors(bits)
    path = written(tmp_path, [product(bits=bits)], given, ("n", K))
    network = gbdnn.load_onnx(path)
    weight = network.layers[0].weight
    assert (weight.form, weight.bits) == (form, kept)
    np.testing.assert_array_equal(weight.plain().to_dense(allow_dense=True), full)
    close(network.predict(X), runtime(path, X))


def test_codes_from_minus_7_to_7_are_int4(tmp_path):
    codes = np.random.default_rng(0).integers(1, 16, (N, BLOCKS * BLOCK))
    given, full, _ = tensors(4, codes)
    path = written(tmp_path, [product()], given, ("n", K))
    weight = gbdnn.load_onnx(path).layers[0].weight
    assert (weight.form, weight.scales.shape) == ("int4", (N, K // 8))  # blocks of gcd(16, 40)
    np.testing.assert_array_equal(weight.plain().to_dense(allow_dense=True), full)
    close(gbdnn.load_onnx(path).predict(X), runtime(path, X))


def test_eight_bits_that_fit(tmp_path):
    codes = np.random.default_rng(0).integers(1, 256, (N, BLOCKS * BLOCK))
    given, _, _ = tensors(8, codes)
    path = written(tmp_path, [product(bits=8)], given, ("n", K))
    network = gbdnn.load_onnx(path)
    assert network.layers[0].weight.form == "int8"
    close(network.predict(X), runtime(path, X))


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("kind", ["packed", "whole floats", "floats"])
def test_zero_points_and_bias(tmp_path, bits, kind):
    given, _, codes = tensors(bits)
    zeros = np.random.default_rng(9).integers(0, 2**bits, (N, BLOCKS)).astype(np.float32)
    zeros += 0.25 * (kind == "floats")
    given["Z"] = packed(zeros, bits) if kind == "packed" else zeros
    given["b"] = random(N)
    path = written(tmp_path, [product("X B S Z - b", bits)], given, ("n", K))
    floats = kind == "floats" or bits == 8
    with pytest.warns(UserWarning, match="floats") if floats else contextlib.nullcontext():
        network = gbdnn.load_onnx(path)
    assert network.layers[0].weight.form == ("dense" if floats else {2: "int4", 4: "int8"}[bits])
    each = [np.repeat(part, BLOCK, axis=1)[:, :K] for part in (zeros, given["S"])]
    close(network.predict(X), X @ ((codes[:, :K] - each[0]) * each[1]).T + given["b"])
    if bits < 8 or kind == "packed":  # onnxruntime has no others
        close(network.predict(X), runtime(path, X))


def test_an_order_that_says_nothing(tmp_path):
    given, _, _ = tensors()
    given["g"] = (np.arange(K) // BLOCK).astype(np.int32)
    path = written(tmp_path, [product("X B S - g")], given, ("n", K))
    close(gbdnn.load_onnx(path).predict(X), runtime(path, X))
    given["g"] = given["g"][::-1].copy()
    with pytest.raises(InputError, match=r"the_MatMulNBits.*g_idx"):
        gbdnn.load_onnx(written(tmp_path, [product("X B S - g")], given, ("n", K)))


def test_half_floats(tmp_path):
    given, full, _ = tensors()
    given["S"] = given["S"].astype(np.float16)
    nodes = [node("Cast", "X", "x", to=TensorProto.FLOAT16), product("x B S")]
    network = gbdnn.load_onnx(written(tmp_path, nodes, given, ("n", K)))
    assert network.dtype == np.float32
    close(network.predict(X), X @ full.T, 1e-3)


def test_sequences(tmp_path):
    """Behind a layer over time the product is one of every step."""
    given, _, _ = tensors()
    H = K // 2
    given |= {"W": random(2, 4 * H, 5) / 4, "R": random(2, 4 * H, H) / 4,
              "to": np.array([0, 0, -1])}  # fmt: skip
    nodes = [
        node("Transpose", "X", "x", perm=[1, 0, 2]),
        node("LSTM", "x W R", "y", hidden_size=H, direction="bidirectional"),
        node("Transpose", "y", "j", perm=[0, 2, 1, 3]), node("Reshape", "j to", "s"),
        node("Transpose", "s", "b", perm=[1, 0, 2]), product("b B S"),
    ]  # fmt: skip
    path = written(tmp_path, nodes, given, ("n", "t", 5))
    values = random(4, 7, 5)
    network = gbdnn.load_onnx(path)
    assert [layer.kind for layer in network.layers] == ["blstm", "linear"]
    close(network.predict(values), runtime(path, values))


def test_activations_that_are_rounded(tmp_path):
    """Levels before the product belong to it; an accuracy level of 8 bits is left out."""
    given, full, _ = tensors()
    given |= {"q": np.float32(0.03), "z": np.int8(0)}
    nodes = [node("QuantizeLinear", "X q z", "a"), node("DequantizeLinear", "a q z", "x")]
    path = written(tmp_path, [*nodes, product("x B S")], given, ("n", K))
    network = gbdnn.load_onnx(path)
    assert network.layers[0].weight.levels == gbdnn.Levels(float(np.float32(0.03)), 0, -128, 127)
    close(network.predict(X), runtime(path, X))
    path = written(tmp_path, [product(accuracy_level=4)], given, ("n", K))
    with pytest.warns(UserWarning, match="the_MatMulNBits.*rounds activations"):
        network = gbdnn.load_onnx(path)
    close(network.predict(X), X @ full.T)
    assert np.abs(runtime(path, X) - X @ full.T).max() > 1e-3  # onnxruntime does round


def changed(**others):
    given, _, _ = tensors()
    return {**given, **others}


HOSTILE = {
    "three bits": (product(bits=3), {}, "bits 2, 4, 8, got 3"),
    "no K": (product(K=0), {}, "above 0 as K, got 0"),
    "a name as N": (product(N="six"), {}, "above 0 as N"),
    "K of another size": (product(K=80), {}, r"B of shape \(6, 5, 8\)"),
    "N of another size": (product(N=7), {}, r"B of shape \(7, 3, 8\)"),
    "a huge K": (product(K=1 << 40), {}, "B of shape"),
    "blocks of 24": (product(block_size=24), {}, "power of 2, got 24"),
    "blocks of 8": (product(block_size=8), {}, "power of 2, got 8"),
    "cut short": (product(), {"B": tensors()[0]["B"][:, :, :7]}, "B of shape"),
    "signed": (product(), {"B": tensors()[0]["B"].view(np.int8)}, "B of uint8, got int8"),
    "scales of rows": (product(), {"S": random(N)}, r"scales of shape \(6, 3\)"),
    "doubles": (product(), {"S": random(N, BLOCKS).astype(np.float64)}, "scales of float32"),
    "infinite": (product(), {"S": np.full((N, BLOCKS), np.inf, np.float32)}, "finite"),
    "overflow": (product(), {"S": np.full((N, BLOCKS), 3e38, np.float32)}, "finite"),
    "zeros of blocks": (product("X B S Z"), {"Z": np.ones((N, BLOCKS), np.uint8)},
                        r"zero_points of shape \(6, 2\)"),
    "long order": (product("X B S - g"), {"g": np.zeros(K + 1, np.int32)}, "g_idx of shape"),
    "bias": (product("X B S - - b"), {"b": random(5)}, r"bias of shape \(6,\)"),
    "computed": (product("X X S"), {}, "constants beside|chain"),
    "prepacked": (product(weight_prepacked=1), {}, "weight_prepacked 1"),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_what_does_not_fit_is_named(tmp_path, case):
    made, others, says = HOSTILE[case]
    with pytest.raises(GbdnnError, match=f"the_MatMulNBits.*{says}"):
        gbdnn.load_onnx(written(tmp_path, [made], changed(**others), ("n", None)))


def test_features_of_the_input(tmp_path):
    with pytest.raises(InputError, match=f"a weight for {K + 1} features"):
        gbdnn.load_onnx(written(tmp_path, [product()], changed(), ("n", K + 1)))


@pytest.mark.parametrize("columns", [64, 40, 33, 17])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(("bits", "form"), [(4, "QOperator"), (4, "QDQ"), (2, "QOperator"),
                                            (8, "QOperator")])  # fmt: skip
def test_onnxruntimes_quantizer(tmp_path, bits, form, symmetric, columns):
    tool = pytest.importorskip("onnxruntime.quantization.matmul_nbits_quantizer")
    formats = pytest.importorskip("onnxruntime.quantization.quant_utils").QuantFormat
    graph = helper.make_graph(
        [node("MatMul", "X W", "h"), node("Relu", "h", "r"), node("MatMul", "r V")], "g",
        [helper.make_tensor_value_info("X", TensorProto.FLOAT, ["n", columns])],
        [helper.make_tensor_value_info("Y", TensorProto.FLOAT, ["n", 5])],
        [numpy_helper.from_array(random(columns, 32), "W"),
         numpy_helper.from_array(random(32, 5), "V")],
    )  # fmt: skip
    for k, each in enumerate(graph.node):
        each.name = f"node{k}"
    opset = [helper.make_opsetid("", 21)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=10)
    logging.disable(logging.INFO)
    try:
        quantizer = tool.MatMulNBitsQuantizer(
            model, block_size=32, is_symmetric=symmetric, bits=bits, quant_format=formats[form]
        )
        quantizer.process()
    finally:
        logging.disable(logging.NOTSET)
    path = tmp_path / "model.onnx"
    onnx.save(quantizer.model.model, path)
    warned = form == "QOperator" and (bits == 8 or columns == 33)
    with pytest.warns(UserWarning, match="floats") if warned else contextlib.nullcontext():
        network = gbdnn.load_onnx(path)
    values = random(10, columns)
    close(network.predict(values), runtime(path, values))
    if bits < 8:
        assert network.layers[-1].weight.form == ("int4" if bits == 2 else "int8")
