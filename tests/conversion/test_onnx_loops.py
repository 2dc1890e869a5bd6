"""Loops whose body is one step of a GRU, as tf2onnx writes Keras' GRU: onnxruntime's answers."""

from __future__ import annotations

import numpy as np
import pytest
from test_onnx_sequences import F, H, N, T, X, close, node, random, runtime, written

import gbdnn
from gbdnn.errors import GbdnnError, InputError

onnx = pytest.importorskip("onnx")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

FAR = 1 << 31
FIRST = node("Transpose", "X", "x", perm=[1, 0, 2])
LAST = node("Transpose", "all", perm=[1, 0, 2])
ZEROS = [node("Shape", "X", "each", start=0, end=1), node("Concat", "each size", "nh", axis=0),
         node("ConstantOfShape", "nh", "h0")]  # fmt: skip
COUNT = [
    node("Add", "t one", "t_next"), node("Cast", "t_next", "tf", to=TensorProto.FLOAT),
    node("Less", "tf steps", "a"), node("Cast", "i", "if", to=TensorProto.FLOAT),
    node("Less", "if steps", "b"), node("And", "a b", "go"), node("Gather", "x t", "xt"),
]  # fmt: skip
GATES = [node("MatMul", "xt W", "xw"), node("Add", "xw B", "g"),
         node("Split", "g", "gz gr gn", axis=-1, num_outputs=3)]  # fmt: skip
PARTS = [
    node("Slice", "uh b0 e1 ax", "uz"), node("Slice", "uh b1 e2 ax", "ur"),
    node("Slice", "uh b2 e3 ax", "un"), node("Add", "gz uz", "sz"), node("Sigmoid", "sz", "z"),
    node("Add", "ur gr", "sr"), node("Sigmoid", "sr", "r"),
]  # fmt: skip
AFTER = [node("MatMul", "h U", "hu"), node("Add", "hu C", "uh"), *PARTS, node("Mul", "r un", "rn"),
         node("Add", "gn rn", "sn")]  # fmt: skip
BEFORE = [node("MatMul", "h U", "uh"), *PARTS, node("Mul", "r h", "rh"),
          node("Slice", "U b2 e3 ax", "Un"), node("MatMul", "rh Un", "rn"),
          node("Add", "gn rn", "sn")]  # fmt: skip
KERAS = [node("Tanh", "sn", "n"), node("Sub", "1 z", "zz"), node("Mul", "zz n", "new"),
         node("Mul", "z h", "old"), node("Add", "old new", "h_next")]  # fmt: skip
SHORT = [node("Tanh", "sn", "n"), node("Sub", "h n", "d"), node("Mul", "d z", "zd"),
         node("Add", "n zd", "h_next")]  # fmt: skip
TOGETHER = [  # both gates of one sigmoid, cut behind it
    node("MatMul", "h U", "hu"), node("Add", "hu C", "uh"), node("Slice", "uh b0 e2 ax", "u2"),
    node("Slice", "g b0 e2 ax", "g2"), node("Add", "u2 g2", "s"), node("Sigmoid", "s", "zr"),
    node("Split", "zr", "z r", axis=1, num_outputs=2), node("Slice", "uh b2 e3 ax", "un"),
    node("Mul", "un r", "rn"), node("Slice", "g b2 e3 ax", "gn2"), node("Add", "rn gn2", "sn"),
]  # fmt: skip
OUT = node("Identity", "h_next", "out")
CONSTANTS = {
    "B": random(3 * H), "C": random(3 * H) / 2, "1": np.float32(1), "one": np.array(1, np.int32),
    "b0": np.array([0, 0]), "b1": np.array([0, H]), "b2": np.array([0, 2 * H]),
    "e1": np.array([FAR, H]), "e2": np.array([FAR, 2 * H]), "e3": np.array([FAR, FAR]),
    "ax": np.array([0, 1]), "steps": np.float32(T), "six": np.float32(6), "two": np.float32(2),
    "many": np.full(T, 9, np.float32),
}  # fmt: skip


def looped(body, outer=()):
    """Return the nodes with a loop over a body's nodes: its states are a counter, h, W and U.

    `outer` are constants of the body that come from the graph around it.
    """

    def info(name, kind=TensorProto.FLOAT, shape=None):
        return helper.make_tensor_value_info(name, kind, shape)

    used = {n for each in body for n in each.input} - {*outer}
    graph = helper.make_graph(
        body, "body",
        [info("i", TensorProto.INT64, ()), info("keep", TensorProto.BOOL, ()),
         info("t", TensorProto.INT32, ()), info("h"), info("W"), info("U")],
        [info("go", TensorProto.BOOL, ()), info("t_next", TensorProto.INT32, ()), info("h_next"),
         info("W"), info("U"), info("out")],
        [numpy_helper.from_array(np.asarray(a), n) for n, a in CONSTANTS.items() if n in used],
    )  # fmt: skip
    loop = node("Loop", "M go0 t0 h0 W0 U0", "t1 h1 W1 U1 all", body=graph)
    loop.name = "the_Loop"
    return [FIRST, *ZEROS, loop]


TENSORS = {
    "M": np.array(T), "go0": np.array(True), "t0": np.array(0, np.int32), "size": np.array([H]),
    "W0": random(F, 3 * H), "U0": random(H, 3 * H), "last": np.array(-1),
}  # fmt: skip
CASES = {
    "reset after": ([*COUNT, *GATES, *AFTER, *KERAS, OUT], "gru"),
    "reset before": ([*COUNT, *GATES, *BEFORE, *KERAS, OUT], "gru_reset_before"),
    "written shorter": ([*COUNT, *GATES, *AFTER, *SHORT, OUT], "gru"),
    "gates together": ([*COUNT, *GATES, *TOGETHER, *KERAS, OUT], "gru"),
    "before, shorter": ([*COUNT, *GATES, *BEFORE, *SHORT, OUT], "gru_reset_before"),
}  # fmt: skip


GRU = CASES["reset after"][0]


@pytest.mark.parametrize("end", ["every step", "last step", "state"])
@pytest.mark.parametrize("case", CASES)
def test_a_loop_that_is_a_gru(tmp_path, case, end):
    body, kind = CASES[case]
    ends = {"every step": LAST, "last step": node("Gather", "all last", axis=0),
            "state": node("Identity", "h1")}  # fmt: skip
    path = written(tmp_path, [*looped(body), ends[end]], TENSORS, ("n", T, F))
    network = gbdnn.load_onnx(path)
    assert [layer.kind for layer in network.layers] == [kind, *["last"] * (end != "every step")]
    close(network.predict(X), runtime(path, X))


def test_steps_by_sizes(tmp_path):
    """The file says neither how many samples nor how many steps."""
    sizes = [node("Shape", "X", "long", start=1, end=2), node("Squeeze", "long", "M"),
             node("Cast", "M", "steps", to=TensorProto.FLOAT)]  # fmt: skip
    tensors = {name: value for name, value in TENSORS.items() if name != "M"}
    path = written(tmp_path, [*sizes, *looped(GRU, ["steps"]), LAST], tensors)
    network = gbdnn.load_onnx(path)
    for values in (X, random(2, 11, F)):
        close(network.predict(values), runtime(path, values))


def replaced(output, *made):
    """Return the nodes of a GRU with others in the place of the one that gives `output`."""
    assert any(output in each.output for each in GRU)
    parts = [made if output in each.output else (each,) for each in GRU]
    return [each for part in parts for each in part]


REFUSED = {
    "an RNN": (
        [*COUNT, GATES[0], node("MatMul", "h U", "hu"), node("Add", "xw hu", "s"),
         node("Add", "s B", "sn"), node("Tanh", "sn", "h_next"), OUT], "an RNN"),
    "a difference": (replaced("h_next", node("Sub", "old new", "h_next")), "another step"),
    "z n": (replaced("new", node("Mul", "z n", "new")), "another step"),
    "2 - z": (replaced("zz", node("Sub", "two z", "zz")), "another step"),
    "rectifier": (replaced("n", node("Relu", "sn", "n")), "got another"),
    "gate of a gate": (replaced("sz", node("Tanh", "gz", "q"), node("Add", "uz q", "sz")),
                       "gates of other values"),
    "the next step": (replaced("xt", node("Gather", "x t_next", "xt")), "in their order"),
    "a counter that stays": (replaced("t_next", node("Add", "t t", "t_next")), "in their order"),
    "constants of several": (replaced("a", node("Less", "tf many", "a")), "a count"),
    "an early end": (replaced("a", node("Less", "tf six", "a")), "all 7 time steps, got 6"),
    "other features": (replaced("hu", node("MatMul", "xt U", "hu")), "numbers that fit"),
    "time inside": (replaced("old", node("Mul", "z h", "o"), node("Mul", "o tf", "old")),
                    "got another"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_other_loops_are_named(tmp_path, case):
    body, says = REFUSED[case]
    path = written(tmp_path, [*looped(body), LAST], TENSORS, ("n", T, F))
    with pytest.raises(InputError, match=rf"node .*{says}"):
        gbdnn.load_onnx(path)


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"t0": np.array(1, np.int32)}, "in their order"),
        ({"M": np.array(T - 1)}, "got 6"),
        ({"M": np.array(0)}, "got 0"),
        ({"go0": np.array(False)}, "got 0"),
        ({"W0": random(F + 1, 3 * H)}, "numbers that fit"),
        ({"U0": random(H, 3 * H + 1)}, "numbers that fit|another"),
        ({"size": np.array([H + 1])}, "numbers that fit"),
        ({"size": np.array([1 << 19])}, "at most"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path, changed, says):
    nodes = [*looped(GRU), LAST]
    with pytest.raises(GbdnnError, match=says):
        gbdnn.load_onnx(written(tmp_path, nodes, TENSORS | changed, ("n", T, F)))


def test_more_steps_than_there_are(tmp_path):
    body = replaced("go", node("Identity", "keep", "go"))
    path = written(tmp_path, [*looped(body), LAST], TENSORS, ("n", T, F))
    close(gbdnn.load_onnx(path).predict(X), runtime(path, X))
    given = TENSORS | {"M": np.array(T + 1)}
    with pytest.raises(InputError, match=f"all {T} time steps, got more"):
        gbdnn.load_onnx(written(tmp_path, [*looped(body), LAST], given, ("n", T, F)))


def test_a_state_that_begins_elsewhere(tmp_path):
    nodes = [each for each in looped(GRU) if each not in ZEROS]
    given = TENSORS | {"h0": np.ones((N, H), np.float32)}
    with pytest.raises(InputError, match=r"the_Loop.*the state 'h0'"):
        gbdnn.load_onnx(written(tmp_path, [*nodes, LAST], given, (N, T, F)))


@pytest.mark.parametrize("op", ["Mul", "Add", "Sigmoid"])
def test_hostile_bodies_end(tmp_path, op):
    """Squares of sums of sums, and thousands of nodes, are refused before they take memory."""
    many = 3000 if op == "Sigmoid" else 60
    grown = [node("Add", "h 1", "q0")]
    for k in range(many):
        names = f"q{k}" if op == "Sigmoid" else f"q{k} q{k}"
        grown.append(node(op, names, f"q{k + 1}"))
    body = [*COUNT, *grown, node("Add", f"q{many} xt", "h_next"), OUT]
    path = written(tmp_path, [*looped(body), LAST], TENSORS, ("n", T, F))
    with pytest.raises(GbdnnError):
        gbdnn.load_onnx(path)


def test_both_directions(tmp_path):
    """A loop forwards, one on what is turned, side by side: as tf2onnx writes Bidirectional."""
    forward = looped(GRU)
    backward = looped(GRU)[-1:]
    turn = {"batch_axis": 1, "time_axis": 0}
    for attribute in backward[0].attribute:
        for inner in attribute.g.node:
            inner.input[:] = ["rx" if n == "x" and inner.op_type == "Gather" else n
                              for n in inner.input]  # fmt: skip
    names = ["t2", "h2", "W3", "U3", "back"]
    backward[0].name, backward[0].output[:] = "other", names
    for place, name in ((4, "W9"), (5, "U9")):
        backward[0].input[place] = name
    nodes = [
        *forward, node("ReverseSequence", "x steps_each", "rx", **turn), *backward,
        node("ReverseSequence", "back steps_each", "second", **turn),
        node("Concat", "all second", "joined", axis=2),
        node("Transpose", "joined", perm=[1, 0, 2]),
    ]  # fmt: skip
    given = TENSORS | {"steps_each": np.full(N, T), "W9": random(F, 3 * H) * 2,
                       "U9": random(H, 3 * H) / 2}  # fmt: skip
    path = written(tmp_path, nodes, given, (N, T, F))
    network = gbdnn.load_onnx(path)
    assert [layer.kind for layer in network.layers] == ["bgru"]
    close(network.predict(X), runtime(path, X))
