"""Recorded work against closed forms: networks of any layers, and decoders' calls."""

import numpy as np
import pytest
from decoding.models import Toy, ToyLM
from hypothesis import given
from hypothesis import strategies as st

from gbdnn import Linear, Network
from gbdnn.decoding import Decoder, Fusion, InternalLM, train_ngram
from gbdnn.errors import DtypeError, InputError, ShapeError
from gbdnn.layers import LAYERS, Layer
from gbdnn.models import lstm, recurrent, transducer
from gbdnn.quantization import quantize
from gbdnn.simulator import (
    Elementwise,
    Product,
    Recorder,
    Workload,
    ibm,
    ibm_like,
    record,
    record_decoding,
)
from gbdnn.simulator.ibm import encoder, lstm_work
from gbdnn.simulator.recording import GRU_CELL, LSTM_CELL


def counts(work):
    return [(p.name.partition(".")[2], p.rows, p.columns, p.entries, p.width, p.calls)
            for p in work.products]  # fmt: skip


def operations(work):
    return [(e.simple, e.functions, e.calls) for e in work.elementwise]


def test_feed_forward():
    rng = np.random.default_rng(0)
    W = rng.standard_normal((5, 7)) * (rng.random((5, 7)) < 0.3)
    first, last = Linear(W), Linear(rng.standard_normal((3, 5)))
    work = record(Network([first, "relu", last, "softmax"]), batch=4)
    assert counts(work) == [("layers.0.weight", 5, 7, first.weight.nnz, 4, 1),
                            ("layers.2.weight", 3, 5, 15, 4, 1)]  # fmt: skip
    assert operations(work) == [(20, 0, 1), (0, 12, 1)]  # a comparison each; an exp each
    assert work.others == 2  # a bias of one number each
    assert work.macs == 4 * (first.weight.nnz + 15)
    same = record(Network([first, "relu", last, "softmax"]), np.ones((4, 7)))
    assert same == work


@given(steps=st.integers(1, 5), batch=st.integers(1, 3), cells=st.integers(1, 6),
       into=st.integers(1, 6))  # fmt: skip
def test_lstm_is_its_closed_form(steps, batch, cells, into):
    network = Network([recurrent(f"lstm {cells}", into, 2).layers[0]])
    found = record(network, steps=steps, batch=batch, part="x")
    assert counts(found) == [
        ("layers.0.weight", 4 * cells, into, 4 * cells * into, steps * batch, 1),
        ("layers.0.recurrent", 4 * cells, cells, 4 * cells**2, batch, steps),
    ]
    assert operations(found) == [(*(n * cells * batch for n in LSTM_CELL), steps)]
    for streaming in (False, True):
        made = lstm_work("x", "x", into, cells, steps=steps, batch=batch, at_once=not streaming)
        work = record(network, steps=steps, batch=batch, part="x", streaming=streaming)
        shapes = [(p[1:]) for p in counts(work)]
        assert shapes == [p[1:] for p in counts(Workload(tuple(made)))]
        assert operations(work) == operations(Workload(tuple(made)))
    assert work.macs == found.macs == steps * batch * network.edges


def test_every_layer_over_time():
    """BLSTM, GRU, projection, embedding, heads: multiply-adds are edges times steps."""
    T, n = 6, 2
    for layers, into in (("blstm 4, blstm 3", 5), ("gru 4", 5), ("lstm 6 3, linear 4, tanh", 5)):
        network = recurrent(layers, into, 3, density=0.6, rng=1)
        assert record(network, steps=T, batch=n).macs == T * n * network.edges
    pooled = recurrent("lstm 4, mean", 5, 3)
    assert record(pooled, steps=T).macs == T * pooled[:1].edges + pooled[2:].edges
    assert (4 * T, 0, 1) in operations(record(pooled, steps=T))
    words = recurrent("embedding 5 9, gru 4", 1, 3)
    work = record(words, np.arange(8).reshape(1, 8, 1))
    table = work.products[0]
    assert (table.lookup, table.macs, table.width, table.rows, table.columns) == (True, 0, 8, 5, 9)
    assert work.macs == 8 * (words.edges - 45)
    assert operations(work) == [(GRU_CELL[0] * 4, GRU_CELL[1] * 4, 8)]


def test_a_new_layer_is_counted(monkeypatch):
    """What calls the run's products is seen, whatever it is."""

    class Twice(Linear):
        kind = "twice"

        def forward(self, run, p, Y, tape=None):
            run.affine(p.weight, Y, p.bias)
            return run.affine(p.weight, Y, p.bias)

    monkeypatch.setitem(LAYERS, "twice", Twice)
    network = Network([Twice(np.ones((2, 3)))])
    assert issubclass(Twice, Layer)
    assert record(network).macs == 2 * network.edges


def test_integer_weights_and_shared_layers():
    X = np.random.default_rng(0).standard_normal((20, 5, 4)).astype(np.float32)
    network = lstm([4, 6, 3], density=0.5)
    rounded = quantize(network, "naive_int4", X)
    assert record(rounded, X[:2]).macs == record(network, X[:2]).macs
    layer = Linear(np.ones((3, 3)))
    work = record(Network([layer, "relu", layer]))
    assert len(work.products) == 2
    assert len(work.weights) == 1


def test_bad_arguments():
    network = lstm([4, 6, 3])
    with pytest.raises(ShapeError, match="time, 4"):
        record(network, np.zeros((2, 5)))
    with pytest.raises(ShapeError, match="none of them 0"):
        record(network, np.zeros((0, 3, 4)))
    with pytest.raises(InputError, match="steps"):
        record(network, steps=0)
    with pytest.raises(DtypeError, match="network"):
        record("model.safetensors")
    with pytest.raises(InputError, match="parts"):
        record(recurrent("blstm 3", 4, 2), steps=3, streaming=True)
    with pytest.raises(InputError, match="entries"):
        Product("W", "p", 2, 2, 5)
    with pytest.raises(InputError, match="width"):
        Product("W", "p", 2, 2, 4, width=0)
    with pytest.raises(InputError, match="different names"):
        Workload((Product("W", "p", 2, 2, 4), Product("W", "p", 3, 2, 4)))
    with pytest.raises(DtypeError, match="operations"):
        Workload(("W",))


def test_repeated_and_density():
    work = Workload((Product("W", "p", 10, 10, 100), Elementwise("f", "p", 3, 1)))
    many = work.repeated([1, 4, 4], part="q")
    assert [(p.width, p.calls, p.part) for p in many.products] == [(1, 1, "q"), (4, 2, "q")]
    assert operations(many) == [(3, 1, 1), (12, 4, 2)]
    assert many.macs == 9 * work.macs
    assert many.parameters == work.parameters == 100
    assert work.at_density(0.25).macs == 25
    assert work.at_density(1).macs == 100


# -- decoders --------------------------------------------------------------------------------------


class Counting:
    """A language model that counts for itself."""

    def __init__(self, model):
        self.model, self.widths = model, []

    def __call__(self, states, labels):
        self.widths.append(len(labels))
        return self.model(states, labels)


def ones(*shape):
    return Network([Linear(np.ones(shape))])


@pytest.mark.parametrize("search", ["greedy", "tsd", "alsd"])
def test_a_decoders_calls(search):
    toy, external, source = Toy(), Counting(ToyLM()), Counting(ToyLM(seed=1))
    fusion = Fusion(external, source, 0.3, 0.2)
    decoder = Decoder(toy, search, beam=4, fusion=fusion)
    frames = toy.frames(12)
    plain = decoder.decode(frames)
    toy.batches.clear()
    external.widths.clear()
    recorder = Recorder()
    assert recorder.decoder(decoder).decode(frames) == plain
    assert sorted(recorder.counts["predict"].elements()) == sorted(toy.batches)
    assert sorted(recorder.counts["external"].elements()) == sorted(external.widths)
    assert recorder.counts["external"] == recorder.counts["source"] == recorder.counts["predict"]
    assert sum(recorder.counts["joint"].values()) >= 12
    parts = {"predict": ones(4, 3), "joint": ones(2, 4), "external": ones(9, 9),
             "source": Workload(())}  # fmt: skip
    work = recorder.workload(parts, seconds=1.5)
    seen = sum(toy.batches)
    joined = sum(width * n for width, n in recorder.counts["joint"].items())
    assert work.macs == 12 * seen + 8 * joined + 81 * seen
    assert work.parts == ("predict", "joint", "external")
    assert (work.seconds, work.parameters) == (1.5, 12 + 8 + 81 + 3)
    with pytest.raises(InputError, match="none of source"):
        recorder.workload({name: parts[name] for name in ("predict", "joint", "external")})


def test_an_internal_model_is_the_transducers():
    toy = Toy()
    fusion = Fusion(train_ngram([[1, 2]], 2, 3), InternalLM(toy, 4), 0.3, 0.2)
    recorder = Recorder()
    recorder.decoder(Decoder(toy, beam=2, fusion=fusion)).decode(toy.frames(5))
    parts = {"predict": ones(4, 3), "joint": ones(2, 4), "external": Workload(())}
    work = recorder.workload(parts)
    assert work.of("source").macs == 20 * sum(
        width * n for width, n in recorder.counts["source"].items()
    )
    assert work.parameters == 12 + 8 + 2  # its weights and biases are the transducer's


# -- the configuration of the papers ---------------------------------------------------------------


def test_ibm_like_counts():
    work = ibm_like(10, fusion=False)
    assert work.parameters == pytest.approx(57.1e6, rel=1e-3)
    assert work.of("encoder").macs / 500 == pytest.approx(54e6, rel=0.01)
    fused = ibm_like(10)
    external = [p for p in fused.products if p.part == "external"]
    assert sum(p.places for p in external if not p.lookup) == pytest.approx(84e6, rel=0.002)
    assert fused.of("external").macs / 10 == pytest.approx(87e9, rel=0.01)  # a second of audio
    assert fused.of("encoder").macs == work.of("encoder").macs
    assert ibm_like(10, new=4).of("external").macs * 4 == fused.of("external").macs
    for bad in ({"seconds": 0}, {"beam": 0}, {"new": 0}):
        with pytest.raises(InputError):
            ibm_like(**bad)


def test_ibm_like_encoder_is_a_recorded_one(monkeypatch):
    """The shapes without weights against a network that was run, at a tenth of the size."""
    for name, value in (("INPUTS", 34), ("CELLS", 64), ("JOINT", 26)):
        monkeypatch.setattr(ibm, name, value)
    network = recurrent(["blstm 64"] * 6, 34, 26)
    real, made = record(network, steps=7, part="encoder"), encoder(7)
    shapes = [
        sorted((p.rows, p.columns, p.width, p.calls) for p in w.products) for w in (real, made)
    ]
    assert shapes[0] == shapes[1]
    assert sorted(operations(real)) == sorted(operations(made))
    trained = sum(np.size(p) for layer in network.layers
                  for name, p in layer.trained_parameters().items() if "bias" in name)  # fmt: skip
    assert made.others == trained


@pytest.mark.parametrize("streaming", [False, True])
def test_a_transducers_decode(streaming):
    """Encoder, predictor, joint and language models, against their shapes times the calls."""
    model = transducer("lstm 6, lstm 5", 4, 7, predictor="lstm 3", embedding=2, size=8)
    lm = train_ngram([[1, 2, 3], [4, 5, 6]], 2, 7)
    fusion = Fusion(lm, InternalLM(model, 8), 0.3, 0.2)
    X = np.random.default_rng(0).standard_normal((9, 4)).astype(np.float32)
    decoder = Decoder(model, beam=3, fusion=fusion)
    recorder = Recorder()
    recorder.decoder(decoder).decode(model.encode([X])[0])
    seen, joined, inner = (
        sum(width * n for width, n in recorder.counts[name].items())
        for name in ("predict", "joint", "source")
    )
    work = record_decoding(decoder, X, streaming=streaming, seconds=0.3)
    predictor = 12 * 2 + 12 * 3 + 8 * 3  # gates of the label and of h, the projection
    assert work.of("encoder").macs == 9 * model.encoder.edges
    assert work.of("predict").macs == seen * predictor
    assert work.of("joint").macs == joined * 56
    assert work.of("source").macs == inner * (predictor + 56)
    assert work.of("external").operations == ()
    meet = [e for e in work.elementwise if (e.name, e.part) == ("joint.meet", "joint")]
    assert sum(e.calls * e.functions for e in meet) == 8 * joined
    own = sum(np.size(p) for p in model.parameters.values() if not hasattr(p, "nnz"))
    assert work.parameters == sum(w.nnz for w in model.weights.values()) + own
    assert work.seconds == 0.3
    assert {p.calls for p in work.of("encoder").products} == ({9} if streaming else {1, 9})


def test_a_decode_that_cannot_be_recorded():
    model = transducer("lstm 3", 4, 5, predictor="lstm 3", embedding=2, size=4)
    with pytest.raises(ShapeError, match="time, 4"):
        record_decoding(Decoder(model), np.zeros((0, 4)))
    with pytest.raises(DtypeError, match="Transducer"):
        record_decoding(Decoder(Toy()), np.zeros((3, 4)))
    decoder = Decoder(model, fusion=Fusion(ToyLM(5), weight=0.5))
    with pytest.raises(InputError, match="external"):
        record_decoding(decoder, np.ones((3, 4)))
    work = record_decoding(decoder, np.ones((3, 4)), external=ones(5, 5))
    assert work.of("external").macs > 0
