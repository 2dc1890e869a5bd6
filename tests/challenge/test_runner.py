"""The main job against the official truth."""

import hashlib
import json

import numpy as np
import pytest
from support import SHARED, needs_shared

from gbdnn.backends import BACKENDS
from gbdnn.challenge import files, images, runner
from gbdnn.challenge.generate import Spec

SPEC = Spec(1024, 120)


@pytest.fixture(scope="module")
def official():
    """The 60,000 official inputs."""
    pixels = images.load_images(SHARED / "data/mnist.npz")
    bits = images.resize(pixels, 32)
    return runner.ChallengeInputs(bits, "MNIST", bits.nnz == runner.OFFICIAL_NNZ[1024])


@needs_shared
def test_official_60000_give_the_official_category_file(official):
    assert official.official
    result = runner.run(SPEC, official)
    assert result.record["passed"] is True
    assert result.record["categories"] == 1812
    right = (SHARED / "data/graph_challenge/neuron1024-l120-categories.tsv").read_bytes()
    assert files.categories_bytes(result.categories) == right
    digests = json.loads((SHARED / "data/graph_challenge/sha256.json").read_text())
    digest = digests["neuron1024-l120-categories.tsv"]
    assert result.record["categories_sha256"] == digest == hashlib.sha256(right).hexdigest()
    oracle = result.record["oracle"]
    assert oracle["agree"] == oracle["samples"]
    assert oracle["largest_relative_difference"] == 0


@needs_shared
@pytest.mark.parametrize("skip", [True, False])
@pytest.mark.parametrize("backend", sorted(BACKENDS))
def test_official_subset_gives_its_19_categories(backend, skip):
    """The first 1,200 official inputs, from LAGraph's files."""
    folder = SHARED / "data/graph_challenge"
    features = files.read_matrix_market(folder / "sparse-images-1024_subset.mtx").tocsr()
    truth = files.read_matrix_market(folder / "neuron1024-l120-categories_subset.mtx")
    bits = images.InputBits(np.packbits(features.toarray().T != 0, axis=1), 1200)
    inputs = runner.ChallengeInputs(bits, "subset", False)
    result = runner.run(SPEC, inputs, backend=backend, skip=skip)
    assert len(result.categories) == 19
    expected = np.unique(np.asarray(truth.tocoo().row)) + 1
    assert np.array_equal(result.categories, expected)


@needs_shared
def test_checker_notices_a_wrong_network(official, monkeypatch):
    """A bias that is off by a little must fail the check: the truth is not a formality."""
    from gbdnn.challenge import generate

    monkeypatch.setitem(generate.BIAS, 1024, -0.33)
    assert runner.run(SPEC, official).record["passed"] is False


@needs_shared
def test_checker_notices_a_wrong_category(official, tmp_path):
    right = files.read_categories(SHARED / "data/graph_challenge/neuron1024-l120-categories.tsv")
    wrong = tmp_path / "wrong.tsv"
    files.write_categories(wrong, np.append(right[:-1], right[-1] + 1))
    assert runner.run(SPEC, official, truth=wrong).record["passed"] is False


def test_oracle_notices_a_wrong_result():
    """The comparison with the oracle fails when a backend's result is off by 0.1 %."""
    inputs = runner.load_inputs(1024, limit=200)
    source = runner.ChallengeSource(SPEC, None)
    sink = runner.ColumnSums(200, 1024)
    result = runner.run(SPEC, inputs)
    sink.alive[result.categories - 1] = True
    sink.sums[result.categories - 1] = 32 * 1024 * 1.001
    found = runner._compare_with_oracle(source, inputs.bits, sink)
    assert found["largest_relative_difference"] > 5e-4
    sink.alive[:] = ~sink.alive
    assert runner._compare_with_oracle(source, inputs.bits, sink)["agree"] == 0


def test_lazy_layers_give_the_same(monkeypatch):
    """Layers made on the way, in stages, as for networks that do not fit into memory."""
    inputs = runner.load_inputs(1024)
    resident = runner.run(SPEC, inputs)
    monkeypatch.setattr("gbdnn.challenge.source.available_bytes", lambda: 1000)
    lazy = runner.run(SPEC, inputs)
    assert np.array_equal(lazy.categories, resident.categories)
    assert not np.array_equal(lazy.categories, [])


def test_limit_takes_the_first_inputs():
    whole = runner.run(SPEC, runner.load_inputs(1024)).categories
    part = runner.run(SPEC, runner.load_inputs(1024, limit=700)).categories
    assert np.array_equal(part, whole[whole <= 700])
    assert runner.load_inputs(1024, limit=700).bits.count == 700


@needs_shared
@pytest.mark.slow
@pytest.mark.parametrize("neurons", [4096, 16384])
def test_larger_networks(neurons):
    inputs = runner.load_inputs(neurons, path=SHARED / "data/mnist.npz")
    assert inputs.official
    assert runner.run(Spec(neurons, 120), inputs).record["passed"] is True
