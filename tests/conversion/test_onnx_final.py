"""The final states of two directions in ONNX files, by hand, by torch and by us."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from test_onnx_sequences import F, H, T, X, close, node, random, runtime, written
from test_onnx_sides import (
    BACK,
    FIRST,
    FLIPPED,
    FORWARD,
    REVERSE,
    S,
    cell,
    gru,
    lstm,
    sized_gru,
    tensors,
)

import gbdnn
from gbdnn import BGRU, BLSTM, FinalStates, LastStep, Linear, Network
from gbdnn.errors import InputError

onnx = pytest.importorskip("onnx")

END = node("Concat", "u v", axis=1)
BOTH = [FIRST, node("LSTM", "x W2 R2 B2", "y h", direction="bidirectional")]
SPLIT = [node("Slice", "y zero one one", "y1"), node("Squeeze", "y1 one", "f"),
         node("Slice", "y one two one", "y2"), node("Squeeze", "y2 one", "b")]  # fmt: skip
WHOLE = [FIRST, *FORWARD, *REVERSE, node("Concat", "f b", "s", axis=2)]


def given(gates=4):
    """Return the tensors of two nodes, and those of one with two directions."""
    return tensors(gates) | {"last": np.array(-1), "first": np.array(0), "two": np.array([2]),
                            "second": np.array(1), "four": np.array([4]), "h1": np.array([H]),
                            "rows": np.array([-1, 2 * H])}  # fmt: skip


def in_both(made, gates=4):
    return made | {"W2": random(2, gates * H, F), "R2": random(2, gates * H, H),
                   "B2": random(2, 2 * gates * H)}  # fmt: skip


TAKE = [node("Gather", "f last", "u", axis=0), node("Gather", "b first", "v", axis=0), END]
STATES = {
    "gather": [*BOTH, node("Gather", "h first", "u", axis=0),
               node("Gather", "h last", "v", axis=0), END],
    "slice": [*BOTH, node("Slice", "h zero one zero", "h1_"), node("Squeeze", "h1_ zero", "u"),
              node("Slice", "h one two zero", "h2_"), node("Squeeze", "h2_ zero", "v"), END],
    "transposed": [*BOTH, node("Transpose", "h", "t", perm=[1, 0, 2]),
                   node("Reshape", "t rows")],
    "flattened": [*BOTH, node("Transpose", "h", "t", perm=[1, 0, 2]), node("Flatten", "t")],
    "steps of each direction": [*BOTH, *SPLIT, *TAKE],
    "two layers": [*BOTH, node("Transpose", "y", "m", perm=[0, 2, 1, 3]),
                   node("Reshape", "m flat", "z"),
                   node("LSTM", "z W3 R2 B2", "y_ g", direction="bidirectional"),
                   node("Concat", "h g", "states", axis=0),
                   node("Gather", "states minus_two", "u", axis=0),
                   node("Gather", "states last", "v", axis=0), END],
    "gru": [FIRST, node("GRU", "x W2 R2 B2", "y h", direction="bidirectional",
                        linear_before_reset=1),
            node("Gather", "h first", "u", axis=0), node("Gather", "h second", "v", axis=0), END],
}  # fmt: skip


@pytest.mark.parametrize("case", STATES)
def test_states_of_one_node(tmp_path, case):
    gates = 3 if case == "gru" else 4
    made = in_both(given(gates), gates)
    made |= {"W3": random(2, 4 * H, 2 * H), "minus_two": np.array(-2)}
    path = written(tmp_path, STATES[case], made)
    network = gbdnn.load_onnx(path)
    kinds = {"gru": ["bgru"], "two layers": ["blstm", "blstm"]}.get(case, ["blstm"])
    assert [layer.kind for layer in network.layers] == [*kinds, "final"]
    assert network.layers[-1] == FinalStates(H)
    close(network.predict(X), runtime(path, X))


ENDS = [node("Squeeze", "fh zero", "u"), node("Squeeze", "bh zero", "v"), END]
TWO = {
    "states": [FIRST, node("LSTM", "x W1 R1 B1", "fy fh"),
               node("LSTM", "x W2 R2 B2", "by bh", direction="reverse", hidden_size=S), *ENDS],
    "states of what is turned": [
        FIRST, node("LSTM", "x W1 R1 B1", "fy fh"),
        node("ReverseSequence", "x all", "r", batch_axis=1, time_axis=0),
        node("LSTM", "r W2 R2 B2", "by bh", hidden_size=S), *ENDS],
    "steps": [FIRST, *FORWARD, *REVERSE, *TAKE],
    "steps of what is turned": [FIRST, *FORWARD, *BACK[:-1], node("Gather", "f last", "u", axis=0),
                                node("Gather", "k last", "v", axis=0), END],
    "steps of what is turned back": [FIRST, *FORWARD, *FLIPPED, *TAKE],
    "slices": [FIRST, *FORWARD, *REVERSE, node("Slice", "f minus far_end zero", "f1"),
               node("Squeeze", "f1 zero", "u"), node("Slice", "b zero one zero", "b1"),
               node("Squeeze", "b1 zero", "v"), END],
    "parts of all features": [
        *WHOLE, node("Gather", "s last", "p", axis=0), node("Slice", "p zero h1 one", "u"),
        node("Gather", "s first", "q", axis=0), node("Slice", "q h1 far_end one", "v"), END],
    "a product on each way": [
        FIRST, *FORWARD, *cell("2", "x", "b", size=S, direction="reverse"), *TAKE[:2],
        node("MatMul", "v V", "w"), node("Concat", "u w", axis=1)],
    "gru": [FIRST, *gru("1", "x", "f"), *gru("2", "x", "b", size=S, direction="reverse"), *TAKE],
}  # fmt: skip


@pytest.mark.parametrize("case", TWO)
def test_states_of_two_nodes(tmp_path, case):
    made = given(3 if case == "gru" else 4) | {"far_end": np.array([1 << 40])}
    path = written(tmp_path, TWO[case], made, ("n", T, F))
    network = gbdnn.load_onnx(path)
    kinds = [layer.kind for layer in network.layers]
    assert kinds[:2] == ["bgru" if case == "gru" else "blstm", "final"]
    assert kinds[2:] == (["linear"] if "product" in case else [])
    assert network.layers[1] == FinalStates(H)
    close(network.predict(X), runtime(path, X))


def test_the_last_step_of_both(tmp_path):
    nodes = [FIRST, *FORWARD, *REVERSE, TAKE[0], node("Gather", "b last", "v", axis=0), END]
    path = written(tmp_path, nodes, given())
    network = gbdnn.load_onnx(path)
    assert network.layers[1] == LastStep()
    close(network.predict(X), runtime(path, X))


def test_the_first_step(tmp_path):
    path = written(tmp_path, [FIRST, *FORWARD, node("Gather", "f first", axis=0)], given())
    network = gbdnn.load_onnx(path)
    assert network.layers[1] == FinalStates(0)
    close(network.predict(X), runtime(path, X))


REFUSED = {
    "the_Concat.*the first step and the last step": [
        FIRST, *FORWARD, *REVERSE, node("Gather", "f first", "u", axis=0),
        node("Gather", "b last", "v", axis=0), END],
    "the_Concat.*reverse and forward": [
        FIRST, *FORWARD, *REVERSE, node("Gather", "b first", "u", axis=0),
        node("Gather", "f last", "v", axis=0), END],
    "the_Concat.*got 3 to 6 and 0 to 3": [*BOTH, node("Gather", "h last", "u", axis=0),
                                          node("Gather", "h first", "v", axis=0), END],
    "the_Concat.*got 0 to 3 and 0 to 3": [*BOTH, node("Gather", "h first", "u", axis=0),
                                          node("Gather", "h first", "v", axis=0), END],
    "the_Concat.*axis of the features, got axis 0": [
        *BOTH, node("Gather", "h first", "u", axis=0), node("Gather", "h last", "v", axis=0),
        node("Concat", "u v", axis=0)],
    "the_Concat.*got all and the last step": [
        *BOTH, *SPLIT, node("Gather", "b last", "v", axis=0), node("Concat", "f v", axis=1)],
    "the_Gather.*axis 0": [*BOTH, node("Gather", "h last", axis=0)],
    "the_Reshape.*axes that keep": [*BOTH, node("Reshape", "h rows")],
    "'c' .*Y_c": [FIRST, node("LSTM", "x W2 R2 B2", "y h c", direction="bidirectional"),
                  node("Gather", "c first", "u", axis=0), node("Gather", "c last", "v", axis=0),
                  END],
}  # fmt: skip


@pytest.mark.parametrize("says", REFUSED)
def test_what_is_no_head_is_named(tmp_path, says):
    nodes = REFUSED[says]
    made = in_both(given()) if BOTH[1] in nodes or "Y_c" in says else given()
    with pytest.raises(InputError, match=says.removeprefix("'c' .*")):
        gbdnn.load_onnx(written(tmp_path, nodes, made))


# -- written here ----------------------------------------------------------------------------------


NETWORKS = {
    "lstm": lambda: [BLSTM(lstm(3), lstm(5)), FinalStates(3), Linear(random(2, 8))],
    "gru": lambda: [BGRU(sized_gru(4), sized_gru(4)), FinalStates(4)],
    "two": lambda: [BLSTM(lstm(3), lstm(5)), "relu", BLSTM(lstm(2, 8), lstm(2, 8)), "tanh",
                    FinalStates(2), Linear(random(2, 4))],
    "behind a weight": lambda: [BLSTM(lstm(3), lstm(5)), Linear(random(6, 8)), FinalStates(4)],
    "the first step": lambda: [BLSTM(lstm(3), lstm(5)), FinalStates(0)],
    "of samples first": lambda: [Linear(random(6, F)), FinalStates(2), Linear(random(3, 6))],
}  # fmt: skip


@pytest.mark.parametrize("name", NETWORKS)
def test_there_and_back(tmp_path, name):
    network, path = Network(NETWORKS[name]()), tmp_path / "model.onnx"
    gbdnn.save_onnx(network, path)
    onnx.checker.check_model(onnx.load(path), full_check=True)
    close(runtime(path, X), network.predict(X))
    if name == "of samples first":
        return  # without a layer over time a graph is one of samples
    again = gbdnn.load_onnx(path)
    assert [layer.kind for layer in again.layers] == [layer.kind for layer in network.layers]
    close(again.predict(X), network.predict(X))


def test_ends_that_are_exchanged_would_be_seen(tmp_path):
    """The comparison above fails where both sides give their last time step."""
    network, path = Network([BLSTM(lstm(3), lstm(5)), FinalStates(3)]), tmp_path / "model.onnx"
    gbdnn.save_onnx(network, path)
    last = Network([network.layers[0], LastStep()])
    assert np.abs(runtime(path, X) - last.predict(X)).max() > 1e-3


@pytest.mark.parametrize("dynamo", [False, True])
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_torch(tmp_path, kind, layers, dynamo):
    torch = pytest.importorskip("torch")
    if dynamo:
        pytest.importorskip("onnxscript")

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            options = {"bidirectional": True, "batch_first": True, "num_layers": layers}
            self.cells = getattr(torch.nn, kind)(F, 6, **options)
            self.head = torch.nn.Linear(12, 3)

        def forward(self, x):
            h = self.cells(x)[1]
            h = h[0] if kind == "LSTM" else h
            return self.head(torch.cat([h[-2], h[-1]], 1))

    torch.manual_seed(0)
    model, path, given = Model().eval(), tmp_path / "model.onnx", torch.from_numpy(X)
    sizes = {0: "n"} if dynamo else {0: "n", 1: "t"}
    options = {"dynamo": True, "verbose": False, "dynamic_shapes": {"x": sizes}}
    if not dynamo:
        options = {"dynamo": False, "input_names": ["x"], "dynamic_axes": {"x": sizes}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(model, (given,), path, **options)
    network = gbdnn.load_onnx(path)
    both = "b" + kind.lower()
    assert [layer.kind for layer in network.layers] == [both] * layers + ["final", "linear"]
    for x in (X, X[:2]) if dynamo else (X, X[:2, :4]):
        with torch.no_grad():
            close(network.predict(x), model(torch.from_numpy(x)).numpy())
