"""Two recurrent nodes, one backwards, that a Concat joins: onnxruntime's answers."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from test_onnx_sequences import F, H, N, T, X, close, node, random, runtime, written

import gbdnn
from gbdnn import (
    BGRU,
    BLSTM,
    GRU,
    LSTM,
    LastStep,
    Levels,
    Linear,
    MeanOverTime,
    Network,
    integer_weight,
)
from gbdnn.errors import InputError

onnx = pytest.importorskip("onnx")
from onnx import TensorProto  # noqa: E402

S = 2  # cells of the second side
FIRST = node("Transpose", "X", "x", perm=[1, 0, 2])
LAST = node("Transpose", "s", perm=[1, 0, 2])
JOIN = node("Concat", "f b", "s", axis=2)


def tensors(gates=4, second=S):
    made = {"one": np.array([1]), "all": np.full(N, T, np.int64), "few": np.full(N, 2, np.int64),
            "minus": np.array([-1]), "far": np.array([-(1 << 62)]), "zero": np.array([0]),
            "flat": np.array([0, 0, -1]), "D": random(3, H), "V": random(second, 4)}  # fmt: skip
    for name, size in (("1", H), ("2", second)):
        made |= {f"W{name}": random(1, gates * size, F), f"R{name}": random(1, gates * size, size),
                 f"B{name}": random(1, 2 * gates * size)}  # fmt: skip
    return made


def cell(side, given, result, op="LSTM", size=H, **attributes):
    """Return a node of one direction, and the Squeeze behind it."""
    names = f"{given} W{side} R{side} B{side}"
    return [node(op, names, f"{result}y", hidden_size=size, **attributes),
            node("Squeeze", f"{result}y one", result)]  # fmt: skip


def gru(side, given, result, **attributes):
    return cell(side, given, result, "GRU", linear_before_reset=1, **attributes)


TURN = {"batch_axis": 1, "time_axis": 0}
BACK = [node("ReverseSequence", "x all", "r", **TURN), *cell("2", "r", "k", size=S),
        node("ReverseSequence", "k all", "b", **TURN)]  # fmt: skip
FORWARD = cell("1", "x", "f")
REVERSE = cell("2", "x", "b", size=S, direction="reverse")
FLIPPED = [node("Slice", "x minus far zero minus", "r"), *cell("2", "r", "k", size=S),
           node("Slice", "k minus far zero minus", "b")]  # fmt: skip
CASES = {
    "reverse": (4, [FIRST, *FORWARD, *REVERSE, JOIN, LAST], "blstm"),
    "turned": (4, [FIRST, *FORWARD, *BACK, JOIN, LAST], "blstm"),
    "turned by sizes": (
        4,
        [node("Shape", "X", "size", start=0, end=1), node("Shape", "X", "steps", start=1, end=2),
         node("Expand", "steps size", "all"), FIRST, *FORWARD, *BACK, JOIN, LAST],
        "blstm",
    ),
    "sliced": (4, [FIRST, *FORWARD, *FLIPPED, JOIN, LAST], "blstm"),
    "turned twice": (
        4,
        [FIRST, node("ReverseSequence", "x all", "r", **TURN),
         *cell("1", "r", "q", direction="reverse"), node("ReverseSequence", "q all", "f", **TURN),
         *REVERSE, JOIN, LAST],
        "blstm",
    ),
    "own order of axes": (
        4,
        [FIRST, *FORWARD, node("Transpose", "X", "x2", perm=[1, 0, 2]),
         *cell("2", "x2", "b", size=S, direction="reverse"), JOIN, LAST],
        "blstm",
    ),
    "gru": (3, [FIRST, *gru("1", "x", "f"), *gru("2", "x", "b", size=S, direction="reverse"), JOIN,
                LAST], "bgru"),
    "last step": (4, [FIRST, *FORWARD, *REVERSE, JOIN, node("Gather", "s last", axis=0)],
                  "blstm last"),
    "mean": (4, [FIRST, *FORWARD, *REVERSE, JOIN, node("ReduceMean", "s zero", keepdims=0)],
             "blstm mean"),
    "a product on one way": (
        4,
        [FIRST, *FORWARD, *cell("2", "x", "d", size=S, direction="reverse"),
         node("MatMul", "d V", "b"), JOIN, LAST],
        "blstm linear",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_two_nodes_are_one_layer(tmp_path, case):
    gates, nodes, kinds = CASES[case]
    given = tensors(gates) | {"last": np.array(-1)}
    if "sizes" in case:
        del given["all"]
    path = written(tmp_path, nodes, given, ("n", "t" if "sizes" in case else T, F))
    network = gbdnn.load_onnx(path)
    assert [layer.kind for layer in network.layers] == kinds.split()
    assert [side.out_features for side in network.layers[0].sides] == [H, S]
    close(network.predict(X), runtime(path, X))


def test_directions_that_are_joined(tmp_path):
    """Y of both nodes is joined along its axis of directions."""
    nodes = [
        FIRST, node("LSTM", "x W1 R1 B1", "f"),
        node("LSTM", "x W2 R2 B2", "b", direction="reverse"),
        node("Concat", "f b", "y", axis=1), node("Transpose", "y", "j", perm=[0, 2, 1, 3]),
        node("Reshape", "j flat", "s"), LAST,
    ]  # fmt: skip
    path = written(tmp_path, nodes, tensors(second=H))
    network = gbdnn.load_onnx(path)
    assert [layer.kind for layer in network.layers] == ["blstm"]
    close(network.predict(X), runtime(path, X))


def test_lengths_that_are_an_input(tmp_path):
    """What turns sequences by an input of lengths does what predict(lengths=) does."""
    nodes = [FIRST, *FORWARD, *BACK, JOIN, LAST]
    path = written(tmp_path, nodes, tensors())
    model = onnx.load(path)
    kept = [t for t in model.graph.initializer if t.name != "all"]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    model.graph.input.append(onnx.helper.make_tensor_value_info("all", TensorProto.INT64, ["n"]))
    onnx.save(model, path)
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    lengths = np.array([T, 3, 1, 5])
    expected = session.run(None, {"X": X, "all": lengths})[0]
    got = gbdnn.load_onnx(path).predict(X, lengths=lengths)
    for k, length in enumerate(lengths):
        close(got[k, :length], expected[k, :length])


END = node("Concat", "f b", axis=2)
TURNED = [node("ReverseSequence", "x all", "r", **TURN), node("LSTM", "r W1 R1 B1", "y")]
REFUSED = {
    "the_LSTM.*reverse beside a forward one.*got reverse": [
        FIRST, node("LSTM", "x W1 R1 B1", direction="reverse")],
    "the_Squeeze.*time steps in their order": [
        FIRST, TURNED[0], node("LSTM", "r W1 R1 B1", "y", direction="reverse"),
        node("Squeeze", "y one")],
    "'y'.*got reverse": [FIRST, *TURNED, node("Squeeze", "y one")],
    "the_Concat.*got forward and forward": [FIRST, *FORWARD, *cell("2", "x", "b", size=S), END],
    "the_Concat.*got reverse and forward": [FIRST, *FORWARD, *REVERSE,
                                            node("Concat", "b f", axis=2)],
    "the_Concat.*in their order": [FIRST, *FORWARD, *BACK[:-1], node("Concat", "f k", axis=2)],
    "the_Concat.*axis of the features, got axis 0": [FIRST, *FORWARD, *REVERSE,
                                                     node("Concat", "f b", axis=0)],
    "'b' .ReverseSequence.*all 7 steps": [FIRST, *FORWARD, *BACK[:-1],
                                          node("ReverseSequence", "k few", "b", **TURN), END],
    "'r' .ReverseSequence.*axis of time": [
        FIRST, node("ReverseSequence", "x all", "r", batch_axis=0, time_axis=2),
        node("LSTM", "r W1 R1 B1")],
    "the_Concat.*one lstm or gru": [FIRST, *FORWARD, *REVERSE, node("Tanh", "b", "t"),
                                    node("Concat", "f t", axis=2)],
    "the_Concat.*one computed input": [FIRST, *FORWARD, node("Concat", "f x", axis=2)],
    "the_Gather.*last time step": [
        FIRST, TURNED[0], node("LSTM", "r W1 R1 B1", "y", direction="reverse"),
        node("Squeeze", "y one", "s"), node("Gather", "s one", axis=0)],
}  # fmt: skip


@pytest.mark.parametrize("says", REFUSED)
def test_what_is_no_layer_is_named(tmp_path, says):
    given = tensors() | {"last": np.array(-1)}
    with pytest.raises(InputError, match=says):
        gbdnn.load_onnx(written(tmp_path, REFUSED[says], given, ("n", T, F)))


def test_a_kind_that_has_no_two_directions(tmp_path):
    nodes = [FIRST, *cell("1", "x", "f", "GRU"),
             *cell("2", "x", "b", "GRU", size=S, direction="reverse"),
             node("Concat", "f b", axis=2)]  # fmt: skip
    with pytest.raises(InputError, match=r"the_Concat.*one lstm or gru.*got gru_reset_before"):
        gbdnn.load_onnx(written(tmp_path, nodes, tensors(3)))


# -- written here ----------------------------------------------------------------------------------


def lstm(size, into=F, **options):
    return LSTM(random(4 * size, into), random(4 * size, size), random(4 * size), **options)


def whole(size, step):
    """Return an LSTM of whole numbers, its input rounded."""
    levels = Levels(float(np.float32(step)), 0, -128, 127)
    parts = [
        integer_weight(random(4 * size, n), 0.05, bits=8, levels=known)
        for n, known in ((F, levels), (size, None))
    ]
    return LSTM(*parts, random(4 * size))


def sized_gru(size):
    return GRU(random(3 * size, F), random(3 * size, size), random(3 * size), random(size))


NETWORKS = {
    "lstm": lambda: [BLSTM(lstm(3), lstm(5)), Linear(random(2, 8))],
    "gru": lambda: [BGRU(sized_gru(5), sized_gru(3))],
    "one behind the other": lambda: [BLSTM(lstm(3), lstm(5)), BLSTM(lstm(2, 8), lstm(1, 8)),
                                     "relu", LastStep(), Linear(random(2, 3))],
    "doubles": lambda: [BLSTM(lstm(3, dtype=np.float64), lstm(2, dtype=np.float64))],
    "whole numbers": lambda: [BLSTM(whole(3, 0.02), whole(2, 0.02))],
    "levels of their own": lambda: [BLSTM(whole(3, 0.02), whole(3, 0.03))],
    "behind a weight": lambda: [Linear(random(F, F)), BLSTM(lstm(3), lstm(2)), MeanOverTime()],
}  # fmt: skip


@pytest.mark.parametrize("name", NETWORKS)
def test_there_and_back(tmp_path, name):
    network, path = Network(NETWORKS[name]()), tmp_path / "model.onnx"
    gbdnn.save_onnx(network, path)
    onnx.checker.check_model(onnx.load(path), full_check=True)
    again = gbdnn.load_onnx(path)
    given = X.astype(network.dtype)
    assert [layer.kind for layer in again.layers] == [layer.kind for layer in network.layers]
    assert again.edges == network.edges
    for key, weight in network.weights.items():
        found = again.weights[key]
        assert getattr(found, "levels", None) == getattr(weight, "levels", None)
    close(again.predict(given), network.predict(given))
    if name != "doubles":  # onnxruntime has no LSTM of them
        close(runtime(path, given), network.predict(given))


def test_a_projection_is_a_product_of_both(tmp_path):
    """An LSTM node has none: U P is one matrix, P stands behind."""
    down = LSTM(random(12, F), random(12, 2), random(12), random(2, 3))
    network, path = Network([BLSTM(down, lstm(2))]), tmp_path / "model.onnx"
    gbdnn.save_onnx(network, path)
    again = gbdnn.load_onnx(path)
    assert [layer.kind for layer in again.layers] == ["blstm", "linear"]
    close(again.predict(X), network.predict(X))


def test_many_layers_take_no_time(tmp_path):
    """Twenty joins, each of which has two ways to the one before."""
    layers = [BLSTM(lstm(1, F if k == 0 else 3), lstm(2, F if k == 0 else 3)) for k in range(20)]
    path = tmp_path / "model.onnx"
    gbdnn.save_onnx(Network(layers), path)
    assert len(gbdnn.load_onnx(path).layers) == 20


def test_torch(tmp_path):
    torch = pytest.importorskip("torch")

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.one = torch.nn.LSTM(F, 6, batch_first=True)
            self.two = torch.nn.LSTM(F, 4, batch_first=True)
            self.head = torch.nn.Linear(10, 3)

        def forward(self, x):
            back = torch.flip(self.two(torch.flip(x, [1]))[0], [1])
            return self.head(torch.cat([self.one(x)[0], back], 2))

    torch.manual_seed(0)
    model, path = Model().eval(), tmp_path / "model.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(model, (torch.from_numpy(X),), path, dynamo=False, input_names=["x"],
                          dynamic_axes={"x": {0: "n", 1: "t"}})  # fmt: skip
    network = gbdnn.load_onnx(path)
    assert [layer.kind for layer in network.layers] == ["blstm", "linear"]
    with torch.no_grad():
        close(network.predict(X), model(torch.from_numpy(X)).numpy())


def test_sides_that_are_exchanged_would_be_seen(tmp_path):
    """The comparison above fails where the second side runs forwards."""
    network, path = Network([BLSTM(lstm(3), lstm(5))]), tmp_path / "model.onnx"
    gbdnn.save_onnx(network, path)
    model = onnx.load(path)
    for each in model.graph.node:
        for attribute in each.attribute:
            if attribute.name == "direction" and attribute.s == b"reverse":
                attribute.s = b"forward"
    onnx.save(model, path)
    assert np.abs(runtime(path, X) - network.predict(X)).max() > 1e-3
    with pytest.raises(InputError, match="forward and forward"):
        gbdnn.load_onnx(path)
