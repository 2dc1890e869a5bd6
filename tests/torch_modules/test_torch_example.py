"""The example trains, sparse as well as dense."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

pytest.importorskip("torch")

EXAMPLE = Path(__file__).parents[2] / "examples" / "sparse_transformer.py"


@pytest.mark.slow
def test_the_sparse_transformer_learns_what_the_dense_one_does():
    spec = importlib.util.spec_from_file_location("sparse_transformer", EXAMPLE)
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    dense, sparse = example.train(None), example.train(0.1)
    assert sparse[2] == round(0.1 * dense[2])
    for losses, accuracy, _ in (dense, sparse):
        assert losses[-1] < 0.25 * losses[0]
        assert accuracy > 0.9
    assert sparse[1] > dense[1] - 0.05
