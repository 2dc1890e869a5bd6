"""Training a transducer: gradients, blocks, resumption, pruning, low precision."""

from __future__ import annotations

import numpy as np
import pytest
from gradients import check_gradient
from trainings import slots_of, state_of, stop_at, without_time
from transducers import mixed, small, spoken

from gbdnn.data.utterances import UtteranceBatches, Utterances, utterances
from gbdnn.decoding import Decoder
from gbdnn.errors import DtypeError, InputError, NonFiniteError, ShapeError
from gbdnn.losses import transducer_loss
from gbdnn.models import transducer
from gbdnn.quantization.transducer import calibrate_transducer
from gbdnn.training import Trainer, joint
from gbdnn.training.stopping import EarlyStopping
from gbdnn.training.transducer import TransducerModel, fit_transducer

ENCODERS = ["lstm 6, lstm 5", "blstm 4, blstm 3", "blstm 4, reduce 2, lstm 5"]


def trainer(**settings):
    fixed = {"epochs": 2, "batch_size": 4, "threads": 1, "learning_rate": 5e-3}
    return Trainer(**{**fixed, **settings})


def costs_by_definition(model, X, y):
    """Return -log P of each utterance, from the joint's log-probabilities of each node."""
    found = []
    for h, labels in zip(model.encode(X), y, strict=True):
        states, g = [None], []
        for label in (0, *labels):
            vectors, states = model.predict(states, [int(label)])
            g.append(vectors[0])
        nodes = [model.joint(np.broadcast_to(frame, (len(g), len(frame))), np.array(g))
                 for frame in h]  # fmt: skip
        costs, _ = transducer_loss(np.array(nodes)[None], np.array(labels, int)[None])
        found.append(costs[0])
    return np.array(found)


@pytest.mark.parametrize("combine", ["add", "multiply"])
@pytest.mark.parametrize("encoder", ENCODERS)
def test_loss_and_gradients(combine, encoder, rng):
    start = small(combine, encoder, dtype=np.float64)
    X, y = mixed()
    model = TransducerModel(start, threads=1)
    batch = Utterances(X, y)
    trained = [p for p in model.parameters.values() if p.rate]

    def evaluate(values):
        for parameter, value in zip(trained, values, strict=True):
            parameter.value[...] = value
        model.changed()
        return model.loss_and_gradients(batch)

    point = [p.value.copy() for p in trained]
    loss = evaluate(point)
    assert loss == pytest.approx(costs_by_definition(start, X, y).mean(), rel=1e-12)
    gradient = [p.grad.copy() for p in trained]
    check_gradient(evaluate, point, gradient, rng, terms=200)
    evaluate(point)
    wrong = [g * (1.001 if k == 2 else 1) for k, g in enumerate(gradient)]
    with pytest.raises(AssertionError, match="array 2"):
        check_gradient(evaluate, point, wrong, rng, terms=200)


@pytest.mark.parametrize(("block", "kept"), [(1, 0), (1, 1 << 28), (1 << 14, 1 << 14)])
@pytest.mark.parametrize("plan", [None, "fasoli2022", "naive_int4"])
def test_blocks_change_nothing(block, kept, plan, monkeypatch):
    X, y = spoken(9, seed=2)
    start = transducer("lstm 8", 6, 5, predictor="lstm 6", embedding=3, size=10)
    calibration = None if plan is None else calibrate_transducer(start, X, y, plan)

    def found():
        model = TransducerModel(start, threads=1, quantization=calibration)
        monkeypatch.setattr(model.joint_part, "width", 16)
        loss = model.loss_and_gradients(Utterances(X, y))
        return loss, {name: p.grad.copy() for name, p in model.parameters.items()}

    loss, gradients = found()
    monkeypatch.setattr(joint, "BLOCK", block)
    monkeypatch.setattr(joint, "KEPT", kept)
    # what follows the activations does so from block to block: naive_int4's largest value
    tolerance = 1e-5 if plan != "naive_int4" else 0.2
    again, others = found()
    assert again == pytest.approx(loss, rel=tolerance)
    for name, gradient in gradients.items():
        size = np.abs(gradient).max() + 1e-6
        assert np.abs(others[name] - gradient).max() <= 10 * tolerance * size, name


def test_threads_change_nothing():
    X, y = spoken(8)
    results = []
    for threads in (1, 2):
        start = transducer("blstm 8", 6, 5, predictor="lstm 6", embedding=3, size=40)
        model = TransducerModel(start, threads=threads)
        loss = model.loss_and_gradients(Utterances(X, y))
        results.append([loss, *(p.grad.tobytes() for p in model.parameters.values())])
    assert results[0] == results[1]


def noisy(frames, rng):
    """Add noise: an augmentation."""
    return frames + 0.1 * rng.standard_normal(frames.shape).astype(frames.dtype)


@pytest.mark.parametrize(
    "settings",
    [{}, {"sparsifier": "rigl"}, {"quantization": "fasoli2022"},
     {"sparsifier": "rigl", "quantization": "fasoli2021", "clip_norm": 1.0}],
)  # fmt: skip
def test_training_goes_on_from_a_checkpoint_bit_for_bit(settings, tmp_path):
    X, y = spoken(14)
    start = transducer("blstm 6", 6, 5, predictor="lstm 6", embedding=3, size=8, density=0.5)
    data = {"validation": spoken(5, seed=1), "augment": noisy}

    def fit(**more):
        return fit_transducer(trainer(epochs=3, **settings, **more), start, X, y,
                              resume=True, **data)  # fmt: skip

    whole = fit(checkpoint=tmp_path / "whole")
    fit(checkpoint=tmp_path / "part", callbacks=(stop_at(5),))
    part = fit(checkpoint=tmp_path / "part")
    assert state_of(whole.network) == state_of(part.network)
    assert slots_of(whole.training) == slots_of(part.training)
    assert without_time(whole) == without_time(part)
    with pytest.raises(InputError, match="another training"):
        fit_transducer(trainer(epochs=3, **settings, checkpoint=tmp_path / "part"), start, X[:-1],
                       y[:-1], resume=True, augment=noisy)  # fmt: skip


def test_patterns_change_in_all_three_chains():
    X, y = spoken(24)
    start = transducer("lstm 12", 6, 5, predictor="lstm 10", embedding=4, size=12, density=0.4)
    from gbdnn.pruning import Sparsifier
    from gbdnn.pruning.growth import RigL
    from gbdnn.pruning.schedules import Periodic

    rigl = Sparsifier(0.7, "magnitude", "uniform", Periodic(every=2), growth=RigL(),
                      at_start=True, exclude=("predictor.layers.0.*",))  # fmt: skip
    result = fit_transducer(trainer(epochs=3, sparsifier=rigl), start, X, y)
    before, after = start.weights, result.network.weights
    for name, weight in after.items():
        pattern = weight.pattern()
        if name.startswith("predictor.layers.0"):
            assert weight.nnz == before[name].nnz
            continue
        assert weight.nnz < before[name].nnz or weight.nnz < 0.5 * np.prod(weight.shape), name
        old = before[name].pattern()
        places = set(zip(*_places(pattern), strict=True))
        assert places - set(zip(*_places(old), strict=True)) or old.nnz == np.prod(old.shape), name


def _places(pattern):
    return np.repeat(np.arange(pattern.shape[0]), np.diff(pattern.indptr)), pattern.indices


@pytest.mark.parametrize(
    ("plan", "density"),
    [("fasoli2022", 1.0), ("fasoli2022", 0.4), ("naive_int4", 0.4), ("int8", 1.0),
     ("fasoli2021", 1.0)],
)  # fmt: skip
def test_whole_numbers_decode_as_rounded_floats_do(plan, density):
    X, y = spoken(20)
    start = transducer("blstm 10", 6, 5, predictor="lstm 8", embedding=4, size=12, density=density)
    result = fit_transducer(trainer(epochs=4, quantization=plan), start, X, y)
    live, whole = result.training.model, result.network
    forms = {name: weight.form for name, weight in whole.weights.items()}
    bits = "int8" if plan == "int8" else "int4"
    only_cells = {name for name in forms if ".layers.0." in name and name.startswith("enc")}
    assert {name for name, form in forms.items() if form == bits} >= only_cells
    if plan != "fasoli2021":
        assert set(forms.values()) == {bits}
    held_out, _ = spoken(6, seed=7)
    for search in ("greedy", "alsd", "tsd"):
        a = Decoder(live, search=search, beam=4)
        b = Decoder(whole, search=search, beam=4)
        for h, k in zip(live.encode(held_out), whole.encode(held_out), strict=True):
            assert np.allclose(h, k, atol=1e-5)
            ours, theirs = a.decode(h)[0], b.decode(k)[0]
            assert (ours.labels, ours.frames) == (theirs.labels, theirs.frames)
            assert ours.score == pytest.approx(theirs.score, abs=1e-3)


def test_a_small_model_learns_thirty_utterances_without_an_error():
    X, y = spoken(30)
    start = transducer("lstm 32", 6, 5, predictor="lstm 16", embedding=4, size=24, rng=1)
    settings = {"batch_size": 6, "schedule": "cosine"}
    learned = fit_transducer(
        trainer(epochs=80, **settings | {"learning_rate": 1.5e-2}), start, X, y,
        validation=(X, y),
    )  # fmt: skip
    assert learned.history.records[-1]["validation_score"] == 1
    result = fit_transducer(
        trainer(epochs=8, quantization="fasoli2022", **settings | {"learning_rate": 2e-3}),
        learned.network, X, y, validation=(X, y),
    )  # fmt: skip
    assert result.history.records[-1]["validation_score"] == 1
    integers = result.network
    decoder = Decoder(integers, beam=4)
    found = [decoder.decode(h)[0].labels for h in integers.encode(X)]
    assert found == [tuple(labels) for labels in y]
    assert integers.nbytes < learned.network.nbytes / 5


def test_early_stopping_gives_the_best_transducer_back():
    X, y = spoken(12)
    start = small(encoder="lstm 6")
    X = [frames[:, :3].copy() for frames in X]
    stopping = EarlyStopping(patience=2, monitor="validation_loss")
    other = [frames[:, :3].copy() for frames in spoken(6, seed=5)[0]], spoken(6, seed=6)[1]
    result = fit_transducer(trainer(epochs=30, early_stopping=stopping, learning_rate=3e-2),
                            start, X, y, validation=other)  # fmt: skip
    assert result.stopped == "early stopping"
    losses = [record["validation_loss"] for record in result.history.records]
    mean = costs_by_definition(result.network, *other).mean()
    assert mean == pytest.approx(min(losses), rel=1e-5)


def test_batches_are_of_about_equal_length_and_all_are_in_them():
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 200, 100)
    data = Utterances([np.zeros((T, 1), np.float32) for T in lengths],
                      [np.array([k]) for k in range(100)])  # fmt: skip
    batches = UtteranceBatches(data, 8)
    first, again, second = (list(batches.epoch(n, 5)) for n in (0, 0, 1))
    assert len(first) == batches.steps == 13
    order = [[int(part[0]) for part in batch.labels] for batch in first]
    assert sorted(number for numbers in order for number in numbers) == list(range(100))
    assert order == [[int(part[0]) for part in batch.labels] for batch in again]
    assert order != [[int(part[0]) for part in batch.labels] for batch in second]
    padding = sum(len(b) * max(map(len, b.frames)) for b in first) / lengths.sum()
    assert padding < 1.2
    late = [[int(part[0]) for part in batch.labels] for batch in batches.epoch(0, 5, 9)]
    assert late == order[9:]


def test_what_does_not_fit_is_refused():
    model = small()
    X, y = mixed(np.float32)
    for wrong, error in (
        ((X, y[:2]), ShapeError), (([], []), ShapeError), ((X, None), ShapeError),
        ((X, [*y[:3], np.array([7])]), InputError), ((X, [*y[:3], np.array([0])]), InputError),
        ((X, [*y[:3], np.array([1.5])]), DtypeError), ((X[0], y), DtypeError),
        (([*X[:3], X[0] * np.nan], y), NonFiniteError), (([*X[:3], X[0][:, :2]], y), ShapeError),
        (([*X[:3], X[0][:0]], y), InputError),
    ):  # fmt: skip
        with pytest.raises(error):
            utterances(model, *wrong)
    with pytest.raises(DtypeError, match="transducer"):
        fit_transducer(trainer(), model.encoder, X, y)
    with pytest.raises(ShapeError, match="augment"):
        fit_transducer(trainer(), model, X, y, augment=lambda frames, rng: frames[:-1])
