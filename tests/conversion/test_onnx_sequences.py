"""LSTM, GRU and embeddings in ONNX files, by hand, by torch and by us: onnxruntime's answers."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

import gbdnn
from gbdnn import (
    BGRU,
    BLSTM,
    GRU,
    LSTM,
    Embedding,
    Levels,
    Linear,
    Network,
    ResetBeforeGRU,
    integer_weight,
)
from gbdnn.errors import GbdnnError, InputError
from gbdnn.models import recurrent
from gbdnn.quantization import quantize

onnx = pytest.importorskip("onnx")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

RNG = np.random.default_rng(0)
N, T, F, H = 4, 7, 5, 3
X = RNG.standard_normal((N, T, F)).astype(np.float32)
IDS = RNG.integers(0, 20, (N, T))


def written(tmp_path, nodes, tensors, shape=("n", "t", F), kind=TensorProto.FLOAT, opset=20):
    """Write a graph from X to Y and return its path."""
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("X", kind, shape)],
        [helper.make_tensor_value_info("Y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(a), name) for name, a in tensors.items()],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    path = tmp_path / "model.onnx"
    onnx.save(model, path)
    return path


def runtime(path, X):
    onnxruntime = pytest.importorskip("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: X})[0]


def node(op, inputs, output="Y", **attributes):
    name = f"the_{op}" if "Y" in output.split() else ""
    if op in ("LSTM", "GRU", "RNN"):  # onnxruntime asks for it
        attributes = {"hidden_size": H, **attributes}
    names = [n if n != "-" else "" for n in inputs.split()]
    return helper.make_node(op, names, output.split(), name=name, **attributes)


def close(got, expected, tolerance=1e-5):
    assert got.shape == expected.shape
    assert np.abs(got - expected).max() <= tolerance * max(1, np.abs(expected).max())


def random(*shape):
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


def cells(gates, sides=1, into=F):
    return {
        "W": random(sides, gates * H, into), "R": random(sides, gates * H, H),
        "B": random(sides, 2 * gates * H), "one": np.array([1]), "zero": np.array([0]),
        "two": np.array([2]), "last": np.array(-1), "lasts": np.array([-1]),
        "end": np.array([1 << 62]), "joined": np.array([0, 0, -1]), "V": random(H, 2),
        "h0": np.zeros((sides, N, H), np.float32), "C": random(sides, 2 * H),
    }  # fmt: skip


FIRST = node("Transpose", "X", "x", perm=[1, 0, 2])
LONG = node("LSTM", "x W R B", "y h", hidden_size=H)
GATED = node("GRU", "x W R B", "y h", hidden_size=H, linear_before_reset=1)
BOTH = node("LSTM", "x W R B", "y h", hidden_size=H, direction="bidirectional")
FLAT = node("Squeeze", "y one", "s")
BACK = node("Transpose", "s", "b", perm=[1, 0, 2])
SIDES = [
    part for side, ends in (("zero", "one"), ("one", "two"))
    for part in (node("Slice", f"y {side} {ends} one", f"cut_{side}"),
                 node("Squeeze", f"cut_{side} one", f"side_{side}"))
]  # fmt: skip
STEPS = [
    node("Reshape", "b flat", "m"), node("MatMul", "m V", "p"), node("Shape", "b", "bs"),
    node("Slice", "bs zero two", "begin"), node("Concat", "begin two", "to", axis=0),
]  # fmt: skip
JOIN = [node("Transpose", "y", "j", perm=[0, 2, 1, 3]), node("Reshape", "j joined", "s")]
CASES = {
    "lstm": (4, 1, [FIRST, LONG, FLAT, node("Transpose", "s", perm=[1, 0, 2])], "lstm"),
    "no bias": (4, 1, [FIRST, node("LSTM", "x W R", "y"), node("Squeeze", "y one", "s"),
                       node("Transpose", "s", perm=[1, 0, 2])], "lstm"),
    "gru": (3, 1, [FIRST, GATED, FLAT, node("Transpose", "s", perm=[1, 0, 2])], "gru"),
    "gru, reset before": (3, 1, [FIRST, node("GRU", "x W R B", "y h", hidden_size=H), FLAT,
                                 node("Transpose", "s", perm=[1, 0, 2])], "gru_reset_before"),
    "gru, both": (3, 2, [FIRST, node("GRU", "x W R B", "y h", linear_before_reset=1,
                                     direction="bidirectional"), *JOIN,
                         node("Transpose", "s", perm=[1, 0, 2])], "bgru"),
    "both": (4, 2, [FIRST, BOTH, *JOIN, node("Transpose", "s", perm=[1, 0, 2])], "blstm"),
    "last": (4, 1, [FIRST, LONG, FLAT, BACK, node("Gather", "b last", axis=1)], "lstm, last"),
    "slice": (4, 1, [FIRST, LONG, FLAT, BACK, node("Slice", "b lasts end one", "c"),
                     node("Squeeze", "c one")], "lstm, last"),
    "time first": (4, 1, [FIRST, LONG, FLAT, node("Gather", "s last", axis=0)], "lstm, last"),
    "mean": (3, 1, [FIRST, GATED, FLAT, node("ReduceMean", "s zero", keepdims=0)], "gru, mean"),
    "mean kept": (3, 1, [FIRST, GATED, FLAT, BACK, node("ReduceMean", "b one", "m", keepdims=1),
                         node("Reshape", "m flat")], "gru, mean"),
    "state": (4, 1, [FIRST, LONG, node("Squeeze", "h zero")], "lstm, last"),
    "product": (4, 1, [FIRST, LONG, node("Gather", "h zero", "a"), node("Squeeze", "a zero", "c"),
                       node("MatMul", "c V")], "lstm, last, linear"),
    "begins with zeros": (
        4, 1,
        [node("Shape", "X", "size", start=0, end=1), node("Concat", "one size three", "hs", axis=0),
         node("ConstantOfShape", "hs", "hz"), FIRST, node("LSTM", "x W R B - hz hz", "y h"),
         node("Squeeze", "h zero")],
        "lstm, last",
    ),
    "lengths of all steps": (
        4, 1,
        [node("Shape", "X", "size", start=0, end=1), node("Shape", "X", "steps", start=1, end=2),
         node("Expand", "steps size", "long"), node("Cast", "long", "l", to=TensorProto.INT32),
         FIRST, node("LSTM", "x W R B l", "y h"), node("Squeeze", "h zero")],
        "lstm, last",
    ),
    "joined by sizes": (
        4, 2,
        [FIRST, BOTH, JOIN[0], node("Shape", "j", "js"), node("Slice", "js zero two", "a"),
         node("Concat", "a lasts", "f", axis=0), node("Reshape", "j f", "s"),
         node("Gather", "s last", axis=0)],
        "blstm, last",
    ),
    "both, side by side": (
        4, 2,
        [FIRST, BOTH, *SIDES, node("Concat", "side_zero side_one", "s", axis=2),
         node("Transpose", "s", perm=[1, 0, 2])],
        "blstm",
    ),
    "all steps as one matrix": (
        4, 1, [FIRST, LONG, FLAT, BACK, *STEPS, node("Reshape", "p to")], "lstm, linear"
    ),
    "as many steps as there are": (
        4, 1,
        [FIRST, LONG, FLAT, BACK, node("Shape", "b", "bs"), node("Slice", "bs zero two", "begin"),
         node("ReduceProd", "begin", "all", keepdims=1), node("Concat", "all three", "f", axis=0),
         node("Reshape", "b f", "m"), node("MatMul", "m V", "p"),
         node("Concat", "begin two", "to", axis=0), node("Reshape", "p to")],
        "lstm, linear",
    ),
    "scaled before": (4, 1, [node("Mul", "X half", "m"), node("Transpose", "m", "x",
                                                              perm=[1, 0, 2]),
                             LONG, node("Squeeze", "h zero")], "linear, lstm, last"),
    "two layers": (
        4, 1,
        [FIRST, LONG, FLAT, node("LSTM", "s W2 R B", "y2 h2"), node("Concat", "h h2", "hs", axis=0),
         node("Gather", "hs last", axis=0)],
        "lstm, lstm, last",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_written_by_hand(tmp_path, case):
    gates, sides, nodes, kinds = CASES[case]
    tensors = cells(gates, sides) | {
        "three": np.array([H]), "half": np.float32(0.5), "W2": random(sides, gates * H, H),
        "flat": np.array([-1, H]),
    }  # fmt: skip
    path = written(tmp_path, nodes, tensors)
    network = gbdnn.load_onnx(path)
    assert ", ".join(layer.kind for layer in network.layers) == kinds
    close(network.predict(X), runtime(path, X))


def test_time_first_input_and_samples_first_nodes(tmp_path):
    tensors = cells(4)
    path = written(tmp_path, [node("LSTM", "X W R B", "y h"), node("Squeeze", "y one")], tensors)
    close(gbdnn.load_onnx(path).predict(X), runtime(path, X.swapaxes(0, 1).copy()).swapaxes(0, 1))
    # layout 1 has no runtime: it is the same layer
    path = written(
        tmp_path,
        [node("LSTM", "X W R B", "y h", layout=1), node("Squeeze", "y two")],
        {**tensors, "two": np.array([2])},
    )
    again = gbdnn.load_onnx(path)
    path = written(tmp_path, [FIRST, LONG, FLAT, node("Transpose", "s", perm=[1, 0, 2])], tensors)
    close(again.predict(X), gbdnn.load_onnx(path).predict(X))


def test_lengths_may_be_an_input(tmp_path):
    graph = helper.make_graph(
        [FIRST, node("LSTM", "x W R B lengths", "y h"), node("Squeeze", "h zero")], "g",
        [helper.make_tensor_value_info("X", TensorProto.FLOAT, ["n", "t", F]),
         helper.make_tensor_value_info("lengths", TensorProto.INT32, ["n"])],
        [helper.make_tensor_value_info("Y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(a, name) for name, a in cells(4).items()],
    )  # fmt: skip
    path = tmp_path / "model.onnx"
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9), path
    )
    network, lengths = gbdnn.load_onnx(path), np.array([7, 2, 5, 1], np.int32)
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    expected = session.run(None, {"X": X, "lengths": lengths})[0]
    close(network.predict(X, lengths=lengths), expected)


@pytest.mark.parametrize("cast", [False, True])
@pytest.mark.parametrize("take", ["all", "last", "mean"])
def test_embedding(tmp_path, cast, take):
    end = {
        "all": [node("Identity", "e")],
        "last": [node("Gather", "e last", axis=1)],
        "mean": [node("ReduceMean", "e one", "m", keepdims=0), node("MatMul", "m U")],
    }[take]
    first = [node("Cast", "X", "i", to=TensorProto.INT32)] if cast else [node("Identity", "X", "i")]
    tensors = {"E": random(20, 6), "U": random(6, 2), "last": np.array(-1), "one": np.array([1])}
    path = written(tmp_path, [*first, node("Gather", "E i", "e"), *end], tensors, ("n", "t"),
                   TensorProto.INT64)  # fmt: skip
    network = gbdnn.load_onnx(path)
    assert isinstance(network.layers[0], Embedding)
    close(network.predict(IDS[..., None]), runtime(path, IDS))


REFUSED = {
    "GRU.*linear_before_reset": (3, 2, [FIRST, node("GRU", "x W R B",
                                                    direction="bidirectional")]),
    "GRU.*direction": (3, 1, [FIRST, node("GRU", "x W R B", direction="reverse")]),
    "LSTM.*direction": (4, 1, [FIRST, node("LSTM", "x W R B", direction="reverse")]),
    "LSTM.*activations": (4, 1, [FIRST, node("LSTM", "x W R B",
                                             activations=["Sigmoid", "Relu", "Tanh"])]),
    "LSTM.*clip": (4, 1, [FIRST, node("LSTM", "x W R B", clip=1.0)]),
    "LSTM.*input_forget": (4, 1, [FIRST, node("LSTM", "x W R B", input_forget=1)]),
    "LSTM.*peepholes": (4, 1, [FIRST, node("LSTM", "x W R B - - - P")]),
    "LSTM.*begin with 0": (4, 1, [FIRST, node("LSTM", "x W R B - V1 V1")]),
    "LSTM.*steps": (4, 1, [FIRST, node("LSTM", "x W R B five", "y Y")]),
    "LSTM.*hidden_size": (4, 1, [FIRST, node("LSTM", "x W R B", hidden_size=H + 1)]),
    "LSTM.*directions": (4, 1, [FIRST, node("LSTM", "x W R B", direction="bidirectional")]),
    "LSTM.*Y_c": (4, 1, [FIRST, node("LSTM", "x W R B", "y h Y")]),
    "LSTM.*axes directions": (4, 2, [FIRST, node("LSTM", "x W R B", "y Y",
                                                 direction="bidirectional")]),
    "LSTM.*time": (4, 1, [FIRST, LONG, FLAT, BACK, node("LSTM", "b V3 R B")]),
    "Gather.*last time step": (4, 1, [FIRST, LONG, FLAT, node("Gather", "s one", axis=0)]),
    "Gather.*axis 1": (4, 1, [FIRST, LONG, FLAT, node("Gather", "s last", axis=1)]),
    "ReduceMean.*time": (4, 1, [FIRST, LONG, FLAT, node("ReduceMean", "s one", keepdims=0)]),
    "Slice.*last time step": (4, 1, [FIRST, LONG, FLAT, node("Slice", "s one two zero")]),
    "Reshape.*axes": (4, 2, [FIRST, BOTH, node("Reshape", "y joined")]),
    "Squeeze.*size 1": (4, 2, [FIRST, BOTH, node("Squeeze", "y one")]),
    "Concat.*first of 6 features": (4, 2, [FIRST, BOTH, *SIDES,
                             node("Concat", "side_one side_zero", axis=2)]),
    "MatMul.*last axis of the result": (4, 1, [FIRST, LONG, FLAT, BACK, *STEPS[:1],
                                               node("MatMul", "m V")]),
    "Flatten.*axes": (4, 1, [FIRST, LONG, FLAT, node("Flatten", "s")]),
    "MatMul.*last axis": (4, 2, [FIRST, BOTH, node("MatMul", "y V")]),
    "Transpose.*last axis": (4, 1, [FIRST, LONG, FLAT, node("Transpose", "s", perm=[0, 2, 1])]),
    "RNN.*": (1, 1, [FIRST, node("RNN", "x W R B", hidden_size=H)]),
}  # fmt: skip


@pytest.mark.parametrize("says", REFUSED)
def test_what_has_no_counterpart_is_named(tmp_path, says):
    gates, sides, nodes = REFUSED[says]
    tensors = cells(gates, sides) | {
        "P": random(1, 3 * H), "two": np.array([2]), "five": np.full(N, 5, np.int32),
        "V1": random(1, N, H), "V3": random(1, 4 * H, H), "flat": np.array([-1, H]),
    }  # fmt: skip
    with pytest.raises(InputError, match=f"the_{says}"):
        gbdnn.load_onnx(written(tmp_path, nodes, tensors))


WRAPPED = [
    node("Cast", "X", "i", to=TensorProto.INT32), node("Add", "i rows", "up"),
    node("Cast", "i", "f", to=TensorProto.FLOAT), node("Less", "f none", "low"),
    node("Not", "low", "high"), node("Cast", "high", "h", to=TensorProto.INT32),
    node("Mul", "i h", "kept"), node("Cast", "low", "l", to=TensorProto.INT32),
    node("Mul", "l up", "moved"), node("Add", "moved kept", "k"),
]  # fmt: skip


@pytest.mark.parametrize("changed", [None, "rows", "none"])
def test_numbers_that_other_nodes_leave_as_they_are(tmp_path, changed):
    """tf2onnx adds the number of rows to those below 0: all others stay, which is tried out."""
    given = {"rows": np.array(20, np.int32), "none": np.float32(0), "E": random(20, 6)}
    if changed == "none":
        given["none"] = np.float32(1)  # 0 becomes 20
    elif changed:
        given["rows"] = np.array(7, np.int32)  # of those below 0 only
    nodes = [*WRAPPED, node("Gather", "E k", "e"), node("ReduceMean", "e one", keepdims=0)]
    given["one"] = np.array([1])
    path = written(tmp_path, nodes, given, ("n", "t"), TensorProto.INT64)
    if changed == "none":
        with pytest.raises(InputError, match="one computed input"):
            gbdnn.load_onnx(path)
        return
    network = gbdnn.load_onnx(path)
    assert [layer.kind for layer in network.layers] == ["embedding", "mean"]
    close(network.predict(IDS[..., None]), runtime(path, IDS))


# -- written here ----------------------------------------------------------------------------------


def projected(out=2):
    return LSTM(random(4 * H, F), random(4 * H, out), random(4 * H), random(out, H))


NETWORKS = {
    "lstm": lambda: recurrent("lstm 6, relu, last", F, 3, density=0.3, head="softmax"),
    "gru": lambda: recurrent("gru 6, mean", F, 3, density=0.5),
    "every step": lambda: recurrent("linear 4, lstm 6, gru 4, linear 3", F, 3, head="softmax"),
    "blstm": lambda: recurrent("blstm 6, blstm 4, last", F, 3, density=0.5),
    "embedding": lambda: recurrent("embedding 6 20, lstm 6, mean", 1, 3),
    "bag": lambda: recurrent("embedding 6 20, mean", 1, 3),
    "float64": lambda: recurrent("lstm 6, gru 4", F, 3).astype(np.float64),
    "projection": lambda: Network([projected(), Linear(random(2, 2))]),
    "projections": lambda: Network([BLSTM(projected(), projected())]),
    "sides": lambda: Network([BLSTM(projected(), LSTM(random(8, F), random(8, 2), random(8)))]),
    "bgru": lambda: recurrent("bgru 6, last", F, 3, density=0.5),
    "sides of gru": lambda: Network(
        [BGRU(*(GRU(random(9, F), random(9, 3), random(9), random(3)) for _ in range(2)))]
    ),
    "reset before": lambda: Network(
        [ResetBeforeGRU(random(9, F), random(6, 3), random(3, 3), random(9))]
    ),
    "inner bias": lambda: Network([GRU(random(9, F), random(9, 3), random(9), random(3)), "tanh"]),
}


KEPT = ("lstm", "gru", "blstm", "bgru", "reset before", "embedding", "every step", "sides of gru")
"""What is read back as it was."""


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_there_and_back(tmp_path, name):
    network = NETWORKS[name]()
    path = tmp_path / "model.onnx"
    gbdnn.save_onnx(network, path)
    onnx.checker.check_model(onnx.load(path), full_check=True)
    given = IDS if network.layers[0].kind == "embedding" else X.astype(network.dtype)
    expected = network.predict(given[..., None] if given is IDS else given)
    if name != "float64":  # onnxruntime's LSTM knows float32 only
        close(runtime(path, given), expected)
    again = gbdnn.load_onnx(path)
    close(again.predict(given[..., None] if given is IDS else given), expected)
    if name in KEPT:
        assert [layer.kind for layer in again.layers] == [layer.kind for layer in network.layers]
        assert again.edges == network.edges


@pytest.mark.parametrize("plan", ["int8", "fasoli2022", "naive_int4"])
@pytest.mark.parametrize("text", ["lstm 6, lstm 6 3, last", "gru 6, mean", "blstm 5"])
def test_rounded_networks_give_onnxruntimes_answers(tmp_path, text, plan):
    """h is rounded inside the loop, so that single values may fall one step apart."""
    network = quantize(recurrent(text, F, 3, rng=2), plan, X)
    path = tmp_path / "model.onnx"
    gbdnn.save_onnx(network, path)
    onnx.checker.check_model(onnx.load(path), full_check=True)
    assert "Scan" in {each.op_type for each in onnx.load(path).graph.node}
    error = np.abs(runtime(path, X) - network.predict(X))
    floats = np.abs(network.predict(X)).max()
    assert np.median(error) <= 1e-5 * max(1, floats)
    assert error.max() <= 0.1 * max(1, floats)
    with pytest.raises(InputError, match=r"Scan|one computed input"):
        gbdnn.load_onnx(path)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("scales", ["one", "gates", "rows"])
@pytest.mark.parametrize("kind", ["lstm", "gru", "blstm"])
def test_integer_weights_stay_so(tmp_path, kind, scales, bits):
    gates = 3 if kind == "gru" else 4
    count = {"one": 1, "gates": gates, "rows": gates * H}[scales]
    sizes = RNG.uniform(0.1, 0.5, count)
    levels = Levels(float(np.float32(0.05)), 128, 0, 255)

    def side():
        return (LSTM if gates == 4 else GRU)(
            integer_weight(random(gates * H, F), sizes, bits=bits, levels=levels),
            integer_weight(random(gates * H, H), sizes, bits=bits), random(gates * H),
        )  # fmt: skip

    network = Network([BLSTM(side(), side()) if kind == "blstm" else side()])
    path = tmp_path / "model.onnx"
    gbdnn.save_onnx(network, path)
    expected = network.predict(X)
    close(runtime(path, X), expected)
    again = gbdnn.load_onnx(path)
    for name, weight in again.weights.items():
        assert (weight.form, weight.levels) == (
            f"int{bits}", levels if name.endswith("weight") else None
        )  # fmt: skip
    close(again.predict(X), expected)


@pytest.mark.parametrize("dynamo", [False, True])
@pytest.mark.parametrize("kind", ["LSTM", "GRU", "both"])
def test_torch(tmp_path, kind, dynamo):
    torch = pytest.importorskip("torch")

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = torch.nn.Embedding(20, 6)
            options = {"num_layers": 2, "batch_first": True, "bidirectional": kind == "both"}
            self.cells = getattr(torch.nn, kind if kind == "GRU" else "LSTM")(6, 8, **options)
            self.head = torch.nn.Linear(16 if kind == "both" else 8, 3)

        def forward(self, ids):
            outputs = self.cells(self.embedding(ids))[0]
            return self.head(outputs.mean(1) if kind == "GRU" else outputs[:, -1])

    torch.manual_seed(0)
    model, ids, path = Model().eval(), torch.from_numpy(IDS), tmp_path / "model.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if dynamo:
            pytest.importorskip("onnxscript")
            torch.onnx.export(model, (ids,), path, dynamo=True, verbose=False)
        else:
            axes = {"ids": {0: "n", 1: "t"}}
            torch.onnx.export(model, (ids,), path, dynamo=False, input_names=["ids"],
                              dynamic_axes=axes)  # fmt: skip
    network = gbdnn.load_onnx(path)
    with torch.no_grad():
        close(network.predict(IDS[..., None]), model(ids).numpy())
    assert [layer.kind for layer in network.layers][1:3] == [
        {"LSTM": "lstm", "GRU": "gru", "both": "blstm"}[kind]
    ] * 2


def test_a_wrong_order_of_gates_would_be_seen(tmp_path, monkeypatch):
    """The comparison above fails where two gates are exchanged."""
    network = NETWORKS["lstm"]()
    path = tmp_path / "model.onnx"
    monkeypatch.setitem(gbdnn.conversion.onnx.writing.recurrent.GATES, "lstm", (0, 1, 2, 3))
    gbdnn.save_onnx(network, path)
    assert np.abs(runtime(path, X) - network.predict(X)).max() > 1e-3
    with pytest.raises(GbdnnError):
        gbdnn.load_onnx(path.with_name("missing.onnx"))
