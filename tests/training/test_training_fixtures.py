"""Checkpoints that version 0.1.0 wrote (format 1.0) are gone on with."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import numpy as np
import pytest

import gbdnn

V1 = Path(__file__).parent.parent / "fixtures" / "v1"
_spec = importlib.util.spec_from_file_location("fixtures_v1", V1 / "make.py")
make = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(make)


@pytest.mark.parametrize("name", make.TRAININGS)
def test_a_checkpoint_of_format_1(name, tmp_path):
    """It goes on to what the old version reached without stopping."""
    folder = tmp_path / "checkpoint"
    shutil.copytree(V1 / f"checkpoint-1.0-{name}", folder)
    X, y = make.samples()
    steps = []
    trainer = make.trainer(name, checkpoint=folder, callbacks=[lambda e: steps.append(e.step)])
    data = {"validation": (X[:20], y[:20])}
    result = trainer.fit(make.network(), X, y, **data, resume=True)
    assert steps[0] == 15
    end = gbdnn.load(V1 / f"end-1.0-{name}.safetensors")
    for key, wanted in end.parameters.items():
        found = result.network.parameters[key]
        if hasattr(wanted, "pattern"):
            assert found.form == wanted.form
            np.testing.assert_array_equal(found.pattern().indices, wanted.pattern().indices)
            found, wanted = found.entries, wanted.entries
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-6)
    whole = make.trainer(name).fit(make.network(), X, y, **data)
    np.testing.assert_allclose(result.history["loss"], whole.history["loss"], rtol=1e-6)
    assert [path.name for path in folder.iterdir()][-1:]
    # the files that were written since are of format 2, and belong to the same training
    again = make.trainer(name, checkpoint=folder).fit(make.network(), X, y, **data, resume=True)
    assert again.history["loss"] == result.history["loss"]


def test_a_checkpoint_of_another_training_is_refused(tmp_path):
    folder = tmp_path / "checkpoint"
    shutil.copytree(V1 / "checkpoint-1.0-dense", folder)
    X, y = make.samples()
    with pytest.raises(gbdnn.errors.InputError, match="another training"):
        make.trainer("dense", checkpoint=folder, rng=4).fit(make.network(), X, y, resume=True)
