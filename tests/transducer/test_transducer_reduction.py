"""Transducers whose encoder reduces time."""

from __future__ import annotations

import numpy as np
import pytest
from trainings import slots_of, state_of, stop_at, without_time
from transducers import small, spoken

import gbdnn
from gbdnn.decoding import Decoder
from gbdnn.errors import InputError
from gbdnn.models import transducer
from gbdnn.simulator import record_decoding
from gbdnn.training import Trainer
from gbdnn.training.transducer import fit_transducer

ENCODER = "lstm 24, reduce 2, lstm 24"


@pytest.fixture(scope="module")
def learned():
    """A transducer that has learned labels of three to five frames."""
    start = transducer(ENCODER, 6, 5, predictor="lstm 8", embedding=4, size=24)
    trainer = Trainer(epochs=60, batch_size=8, learning_rate=1e-2, schedule="cosine", threads=1)
    return fit_transducer(trainer, start, *spoken(48), validation=spoken(12, seed=1))


def test_it_learns(learned):
    assert learned.history["validation_score"][-1] > 0.9
    X, y = spoken(12, seed=2)
    model = learned.network
    found = [Decoder(model, "greedy").decode(h)[0] for h in model.encode(X)]
    assert sum(h.labels == tuple(said) for h, said in zip(found, y, strict=True)) >= 9
    assert all(max(h.frames) < -(-len(x) // 2) for h, x in zip(found, X, strict=True))


def test_frames_that_come_one_by_one(learned):
    model = learned.network
    for x, whole in zip(spoken(4, seed=3)[0], model.encode(spoken(4, seed=3)[0]), strict=True):
        assert len(whole) == -(-len(x) // 2)
        state, found = None, []
        for frame in x:
            h, state = model.encoder.step(frame[None], state, threads=1)
            found.append(h)
        found.append(model.encoder.finish(state, threads=1))
        np.testing.assert_array_equal(np.concatenate(found), whole)


@pytest.mark.parametrize(
    "settings",
    [{"sparsifier": "rigl"}, {"quantization": "fasoli2022"}, {"quantization": "naive_int4"}],
)
def test_training_goes_on_from_a_checkpoint_bit_for_bit(settings, tmp_path):
    X, y = spoken(14)
    start = transducer("blstm 6, reduce 3, blstm 6", 6, 5, predictor="lstm 6", embedding=3, size=8,
                       density=0.5)  # fmt: skip
    fixed = {"epochs": 2, "batch_size": 4, "threads": 1, "learning_rate": 5e-3, **settings}
    data = {"validation": spoken(5, seed=1)}
    whole = fit_transducer(Trainer(**fixed), start, X, y, **data)
    stopped = Trainer(**fixed, checkpoint=tmp_path, callbacks=[stop_at(5)])
    fit_transducer(stopped, start, X, y, **data)
    again = Trainer(**fixed, checkpoint=tmp_path)
    again = fit_transducer(again, start, X, y, **data, resume=True)
    assert without_time(again) == without_time(whole)
    assert state_of(again.network) == state_of(whole.network)
    assert slots_of(again.training) == slots_of(whole.training)


def test_whole_numbers_say_what_was_trained():
    X, y = spoken(14)
    start = transducer("blstm 6, reduce 3, blstm 6", 6, 5, predictor="lstm 6", embedding=3, size=8)
    trainer = Trainer(epochs=2, batch_size=4, threads=1, quantization="fasoli2022")
    result = fit_transducer(trainer, start, X, y)
    trained = result.training.model.encode(X)
    for mine, wanted in zip(result.network.encode(X), trained, strict=True):
        np.testing.assert_allclose(mine, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())
    forms = {weight.form for weight in result.network.weights.values()}
    assert forms == {"int4"}


def test_files_and_summary(tmp_path):
    model = small(encoder=ENCODER)
    model.save(tmp_path / "m")
    loaded = gbdnn.load(tmp_path / "m")
    assert loaded.time_factor == 2
    assert loaded.streams
    X = spoken(2, features=3)[0]
    np.testing.assert_array_equal(loaded.encode(X)[1], model.encode(X)[1])
    assert "TimeReduction" in str(loaded.summary())


def test_work_of_a_decoding(rng):
    """The joint is asked for half as many frames."""
    full, half = (small(encoder=text) for text in ("lstm 6, lstm 5", "lstm 6, reduce 2, lstm 5"))
    x = rng.standard_normal((40, 3))
    calls = [record_decoding(Decoder(m, "greedy", 1, labels_per_frame=1), x).of("joint").macs
             for m in (full, half)]  # fmt: skip
    assert calls[1] < 0.75 * calls[0]
    whole, streamed = (record_decoding(Decoder(half, "greedy", 1), x, streaming=s).of("encoder")
                       for s in (False, True))  # fmt: skip
    assert whole.macs == streamed.macs


def test_as_many_labels_as_there_were_frames(rng):
    """Alignment-length synchronous search has a largest number of labels."""
    model = small(encoder="lstm 6, reduce 4", size=6)
    biased = model.replaced({"joint.layers.0.bias": np.array([-9, 3, 0, 0, 0], np.float32)})
    (h,) = biased.encode([rng.standard_normal((8, 3))])
    assert len(h) == 2
    most = [len(Decoder(biased, beam=4, most_per_frame=n).decode(h)[0].labels) for n in (1, 4)]
    assert most == [2, 8]


def test_only_the_encoder_reduces():
    with pytest.raises(InputError, match=r"predictor: expected a result for each label"):
        transducer("lstm 4", 3, 5, predictor="lstm 4, reduce 2, lstm 4")
