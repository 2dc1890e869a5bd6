"""The exceptions of gbdnn: messages, bases and pickling between processes."""

from __future__ import annotations

import pickle

import pytest

from gbdnn import errors

OTHERS = ("TrainingInterrupted", "choose")
CLASSES = [getattr(errors, name) for name in errors.__all__ if name not in OTHERS]
BUILTIN = {
    "InputError": ValueError,
    "DtypeError": TypeError,
    "MemoryBudgetError": MemoryError,
    "DataUnavailableError": OSError,
    "MissingDependencyError": ImportError,
    "BackendError": RuntimeError,
    "DivergenceError": ArithmeticError,
    "TrainingInterrupted": KeyboardInterrupt,
}


@pytest.mark.parametrize("kind", CLASSES)
def test_message_has_all_parts_and_survives_pickling(kind):
    error = kind("bias", "a number", "a word", "Pass a number.")
    assert str(error) == "bias: expected a number, got a word. Pass a number."
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind
    assert str(again) == str(error)
    assert (again.argument, again.expected, again.got, again.fix) == (
        "bias", "a number", "a word", "Pass a number.",
    )  # fmt: skip


@pytest.mark.parametrize(("name", "base"), BUILTIN.items())
def test_can_be_caught_as_builtin(name, base):
    assert issubclass(getattr(errors, name), (errors.GbdnnError, base))
    assert issubclass(getattr(errors, name), base)


@pytest.mark.parametrize("name", ["", "Dense", None, 3, ["dense"]])
def test_choose_lists_what_is_known(name):
    with pytest.raises(errors.UnknownNameError, match="one of 'a', 'dense'"):
        errors.choose("backend", name, {"dense": 1, "a": 2})
    assert errors.choose("backend", "a", {"dense": 1, "a": 2}) == "a"
