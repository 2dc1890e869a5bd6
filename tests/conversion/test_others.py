"""scikit-learn, state dicts, folders, and the commands."""

from __future__ import annotations

import json
import struct
import warnings

import numpy as np
import pytest
from click.testing import CliRunner
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MaxAbsScaler, MinMaxScaler, StandardScaler

import gbdnn
from gbdnn.cli.main import cli
from gbdnn.errors import DtypeError, FileFormatError, InputError
from gbdnn.models import recurrent

SCALERS = [(), (StandardScaler(),), (MinMaxScaler((-1, 3)), "passthrough", MaxAbsScaler()),
           (StandardScaler(with_mean=False),), (StandardScaler(with_std=False),)]  # fmt: skip


@pytest.mark.parametrize("scalers", SCALERS)
@pytest.mark.parametrize("classes", [0, 2, 3])
def test_from_sklearn(rng, scalers, classes):
    X = rng.standard_normal((60, 4)) * [1, 5, 20, 1] + [0, 3, -9, 1]
    y = np.array(["a", "b", "c"])[np.arange(60) % classes] if classes else X[:, :2]
    kind = MLPClassifier if classes else MLPRegressor
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = make_pipeline(
            *scalers, kind(hidden_layer_sizes=(7, 5), activation="tanh", max_iter=9)
        ).fit(X, y)
    expected = (
        model.predict_proba(X)[:, 1 if classes == 2 else 0 :] if classes else model.predict(X)
    )
    for dtype, tolerance in ((np.float32, 1e-5), (np.float64, 1e-12)):
        network = gbdnn.from_sklearn(model, dtype=dtype)
        assert np.abs(network.predict(X) - expected).max() <= tolerance * max(
            1, abs(expected).max()
        )
        assert network.metadata.get("classes") == (list("abc"[:classes]) or None)


@pytest.mark.parametrize("scaler", [None, MinMaxScaler(clip=True)])
def test_other_estimators_are_refused(rng, scaler):
    X, y = rng.standard_normal((20, 3)), np.arange(20) % 2
    last = MLPClassifier((2,), max_iter=1) if scaler else LogisticRegression()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = make_pipeline(*([scaler] if scaler else []), last).fit(X, y)
    with pytest.raises((DtypeError, InputError), match="estimator"):
        gbdnn.from_sklearn(model)


CODES = {"F16": "<f2", "F32": "<f4", "F64": "<f8"}


def state_dict(path, tensors, code="F32"):
    """Write a safetensors file by hand, as other tools do."""
    header, body = {}, b""
    for name, array in tensors.items():
        if code == "BF16":
            content = (np.asarray(array, "<f4").view("<u4") >> 16).astype("<u2").tobytes()
        else:
            content = np.asarray(array, CODES[code]).tobytes()
        ends = [len(body), len(body) + len(content)]
        header[name] = {"dtype": code, "shape": list(np.shape(array)), "data_offsets": ends}
        body += content
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)
    return path


def tensors(rng):
    return {
        "0.weight": rng.standard_normal((6, 4)), "0.bias": rng.standard_normal(6),
        "2.weight_orig": rng.standard_normal((6, 6)),
        "2.weight_mask": (rng.random((6, 6)) < 0.3).astype(float),
        "10.weight": rng.standard_normal((3, 6)), "10.bias": rng.standard_normal(3),
    }  # fmt: skip


@pytest.mark.parametrize("code", ["F16", "BF16", "F32", "F64"])
@pytest.mark.parametrize("layers", ["0, relu, 2, relu, 10, softmax", "relu, softmax"])
def test_state_dict(tmp_path, rng, code, layers):
    given = tensors(rng)
    network = gbdnn.load_state_dict(state_dict(tmp_path / "a.safetensors", given, code), layers)
    X = rng.standard_normal((5, 4))
    Y = np.maximum(X @ given["0.weight"].T + given["0.bias"], 0)
    Y = np.maximum(Y @ (given["2.weight_orig"] * given["2.weight_mask"]).T, 0)
    Z = Y @ given["10.weight"].T + given["10.bias"]
    expected = np.exp(Z) / np.exp(Z).sum(1, keepdims=True)
    tolerance = {"BF16": 0.2, "F16": 1e-2, "F32": 1e-5, "F64": 1e-12}[code]
    assert np.abs(network.predict(X.astype(network.dtype)) - expected).max() < tolerance
    assert network.layers[2].weight.form == "csr"


@pytest.mark.parametrize(
    ("layers", "text"),
    [("0, relu, 10", "'2' left out"), ("0, 1, 2, 10", "'1'"), ("", "for example|For example"),
     ("0, 0, 2, 10", "twice"), ("0, 10, 2", "6 columns|columns"), ("relu, relu, relu", "3 act")],
)  # fmt: skip
def test_wrong_descriptions(tmp_path, rng, layers, text):
    path = state_dict(tmp_path / "a.safetensors", tensors(rng))
    with pytest.raises(InputError, match=text):
        gbdnn.load_state_dict(path, layers)


def test_folder(tmp_path, rng, network):
    network.metadata["classes"] = list("abcde")
    gbdnn.save_pretrained(network, tmp_path / "m")
    assert sorted(p.name for p in (tmp_path / "m").iterdir()) == [
        "README.md", "config.json", "model.safetensors",
    ]  # fmt: skip
    X = rng.random((4, 12))
    again = gbdnn.load_pretrained(tmp_path / "m")
    assert np.array_equal(again.predict(X), network.predict(X))
    assert again.metadata == network.metadata
    (tmp_path / "m" / "config.json").write_text("[")
    with pytest.raises(FileFormatError, match="JSON"):
        gbdnn.load_pretrained(tmp_path / "m")
    (tmp_path / "m" / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(InputError, match="bert"):
        gbdnn.load_pretrained(tmp_path / "m")


def run(*arguments):
    result = CliRunner().invoke(cli, [*map(str, arguments), "--json"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_commands(tmp_path, rng, network):
    pytest.importorskip("onnx")
    network.save(tmp_path / "a.safetensors")
    out = run("export", tmp_path / "a.safetensors", tmp_path / "a.onnx")
    back = run("import", tmp_path / "a.onnx", tmp_path / "b.safetensors")
    assert out["zeros"] == back["zeros"] == out["places"] - network.edges
    assert back["file_bytes"][1] == (tmp_path / "b.safetensors").stat().st_size
    assert back["milliseconds"]["after"] > 0
    run("export", tmp_path / "a.safetensors", tmp_path / "folder")
    run("import", tmp_path / "folder", tmp_path / "c.safetensors")
    X = rng.random((4, 12)).astype(np.float32)
    for name in ("b", "c"):
        again = gbdnn.load(tmp_path / f"{name}.safetensors")
        assert np.allclose(again.predict(X), network.predict(X), atol=1e-6)
    state_dict(tmp_path / "s.safetensors", tensors(rng))
    assert run("import", tmp_path / "s.safetensors", tmp_path / "d.safetensors", "--layers",
               "relu")["in_features"] == 4  # fmt: skip
    (tmp_path / "x.pkl").write_bytes(b"")
    with pytest.raises(InputError, match="Pickles"):
        run("import", tmp_path / "x.pkl", tmp_path / "e.safetensors")


@pytest.mark.parametrize("text", ["lstm 6, last", "embedding 5 20, gru 4, mean"])
def test_commands_measure_sequences(tmp_path, text):
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    network = recurrent(text, 1 if text.startswith("emb") else 5, 3, density=0.3)
    network.save(tmp_path / "a.safetensors")
    out = run("export", tmp_path / "a.safetensors", tmp_path / "a.onnx")
    back = run("import", tmp_path / "a.onnx", tmp_path / "b.safetensors")
    for record in (out, back):
        assert record["engine"] == "onnxruntime"
        assert min(record["milliseconds"].values()) > 0
        assert record["places"] > record["zeros"] > 0
    again = gbdnn.load(tmp_path / "b.safetensors")
    assert [layer.kind for layer in again.layers] == [layer.kind for layer in network.layers]


def test_a_state_dict_is_measured_beside_torch(tmp_path, rng):
    pytest.importorskip("torch")
    path = state_dict(tmp_path / "s.safetensors", tensors(rng))
    record = run("import", path, tmp_path / "d.safetensors", "--layers", "relu")
    assert record["engine"] == "torch with full weights"
    assert record["milliseconds"]["before"] > 0
    text = CliRunner().invoke(cli, ["import", str(path), str(tmp_path / "e.safetensors"),
                                    "--layers", "relu"])  # fmt: skip
    for part in ("density", "bytes before", "ms before", "ms after", "beside torch"):
        assert part in text.output


def written(torch, tmp_path, modules, prefixes):
    """Write the state dict of modules, as safetensors of torch does, by hand."""
    given = {
        f"{prefix}.{name}" if prefix else name: value.numpy()
        for prefix, module in zip(prefixes, modules, strict=True)
        for name, value in module.state_dict().items()
    }
    return state_dict(tmp_path / "r.safetensors", given)


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
@pytest.mark.parametrize("kind", ["lstm", "two ways", "projected", "gru", "two grus", "bare"])
def test_a_recurrent_state_dict(tmp_path, rng, kind):
    torch = pytest.importorskip("torch")
    prune = pytest.importorskip("torch.nn.utils.prune")
    torch.manual_seed(1)
    make = torch.nn.GRU if kind in ("gru", "two grus", "bare") else torch.nn.LSTM
    options = {
        "two ways": {"bidirectional": True},
        "two grus": {"bidirectional": True},
        "projected": {"proj_size": 3},
    }.get(kind, {})
    cells = make(4, 5, num_layers=2, batch_first=True, bias=kind != "lstm", **options)
    prune.random_unstructured(cells, "weight_hh_l0", amount=0.7)
    out = {"two ways": 10, "two grus": 10, "projected": 3}.get(kind, 5)
    linear, table = torch.nn.Linear(out, 2), torch.nn.Embedding(7, 4)
    whole, prefix = kind != "bare", "" if kind == "bare" else "my.cells"
    path = written(torch, tmp_path, [cells, *[linear, table] * whole],
                   [prefix, *["fc", "words"] * whole])  # fmt: skip
    network = gbdnn.load_state_dict(
        path, "embedding words, my.cells, last, fc" if whole else "., mean"
    )
    numbers = rng.integers(0, 7, (3, 6))
    with torch.no_grad():
        if whole:
            expected = linear(cells(table(torch.from_numpy(numbers)))[0][:, -1])
            got = network.predict(numbers[:, :, None].astype(np.float32))
        else:
            X = rng.standard_normal((3, 6, 4)).astype(np.float32)
            expected, got = cells(torch.from_numpy(X))[0].mean(1), network.predict(X)
    assert np.abs(got - expected.numpy()).max() < 1e-5
    first = network.layers[whole]
    assert (
        getattr(first, "forward_recurrent" if kind.startswith("two") else "recurrent").form == "csr"
    )


def test_recurrent_state_dicts_that_are_refused(tmp_path, rng):
    def cells(gates, reverse=False, **others):
        ends = ["_l0", "_l0_reverse"][: 1 + reverse]
        parts = {"weight_ih": (gates * 3, 2), "weight_hh": (gates * 3, 3),
                 "bias_ih": (gates * 3,), "bias_hh": (gates * 3,)}  # fmt: skip
        made = {f"r.{n}{e}": rng.standard_normal(s) for n, s in parts.items() for e in ends}
        return made | {"r." + name: rng.standard_normal(s) for name, s in others.items()}

    def without(name):
        return {key: value for key, value in cells(4).items() if key != "r." + name}

    flat = cells(4) | {"r.weight_hh_l0": rng.standard_normal(12)}
    short = cells(4) | {"r.bias_hh_l0": rng.standard_normal(5)}
    for given, text in (
        (cells(1), "RNN"), (cells(4, strange=(2,)), "strange"),
        (without("weight_hh_l0"), "weight_hh_l0"), (without("bias_hh_l0"), "bias_hh_l0"),
        (without("bias_ih_l0"), "bias_ih_l0"),
        (cells(4, weight_ih_l1=(12, 3)), "weight_hh_l1"), (flat, "two dimensions"),
        (cells(4, weight_ih_l999999999999=(12, 3)), "_l1"), (short, "'r'"),
    ):  # fmt: skip
        path = state_dict(tmp_path / "a.safetensors", given)
        with pytest.raises(InputError, match=text):
            gbdnn.load_state_dict(path, "r, last")
    path = state_dict(tmp_path / "a.safetensors", cells(4))
    with pytest.raises(InputError, match="names too"):
        gbdnn.load_state_dict(path, "relu")
    with pytest.raises(InputError, match="one tensor weight"):
        gbdnn.load_state_dict(path, "embedding r")
