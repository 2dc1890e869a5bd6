"""`gbdnn bench recogniser`: every engine gives the encoder's answers, and all rows are there."""

from __future__ import annotations

import pytest

from benchmarks import recogniser
from benchmarks.recogniser import Size


@pytest.fixture(autouse=True)
def small(monkeypatch):
    sizes = {"whole": Size("blstm 5", 6, 4, 50.0), "two, streaming": Size("lstm 8", 6, 4, 50.0)}
    monkeypatch.setattr(recogniser, "SIZES", sizes)


def measured(**changes):
    given = {"size": "two, streaming", "way": "whole", "engine": "float32", "density": 0.5,
             "seconds": 0.2, "seed": 0, "threads": 1}  # fmt: skip
    return recogniser.RecogniserJob(**given | changes).measure()


@pytest.mark.parametrize("way", recogniser.WAYS)
@pytest.mark.parametrize(("engine", "most"), [("float32", 1e-5), ("int8", 0.1), ("int4", 0.6)])
def test_answers_are_the_encoders(engine, most, way):
    found = measured(engine=engine, way=way)
    assert found["error"] < most
    assert found["rtf"] > 0
    assert found["weights"] < 0.6 * 4 * 8 * 14


@pytest.mark.parametrize("engine", recogniser.PEERS)
def test_peers_compute_the_same(engine):
    pytest.importorskip("torch" if engine == recogniser.TORCH else "onnxruntime")
    # int8 saturates in onnxruntime on processors without VNNI
    assert measured(engine=engine, density=1.0)["error"] < (1 if "int8" in engine else 1e-5)


def test_the_table_has_a_row_for_each_engine_way_and_density(monkeypatch):
    monkeypatch.setattr(recogniser, "origin", lambda record: "here")
    common = {"densities": [1.0, 0.1], "seconds": 1.0, "seed": 0, "threads": 1}
    jobs = recogniser.jobs(recogniser.ENGINES, sizes=recogniser.SIZES, **common)
    assert len(jobs) == (3 * 2 + 3) + (3 * 2 * 2 + 3)
    cases = [{**vars(job), "rtf": 0.5, "all_rtf": [0.5], "error": 0.0, "weights": 9, "nbytes": 9,
              "ratios": dict.fromkeys(recogniser.PEERS, 2.0)}
             for job in jobs]  # fmt: skip
    text = recogniser.report(cases)
    assert text.count("| float32 |") == 6
    assert text.count("| onnx-int8 |") == 2
