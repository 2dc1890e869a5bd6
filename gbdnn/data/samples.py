"""Samples at the door: inputs, targets and weights, checked before anything is trained."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from gbdnn.checks import not_negative
from gbdnn.data.inputs import DenseInputs, Inputs, SequenceInputs, as_inputs
from gbdnn.errors import DtypeError, InputError, NonFiniteError, ShapeError, choose
from gbdnn.layers.losses import Loss
from gbdnn.types import Array
from gbdnn.weights.csr import check_finite
from gbdnn.weights.foreign import numeric_array

__all__ = ["Takes", "as_targets", "as_weights", "class_factors", "samples", "weighted"]


class Takes(Protocol):
    """What samples must look like; a `Model` knows it."""

    in_features: int
    out_features: int
    one_row: bool
    time_factor: int
    loss: Loss
    dtype: np.dtype[Any]


def samples(
    takes: Takes,
    X: Any,
    y: Any,
    sample_weight: Any,
    *,
    prefix: str = "",
    some: bool = True,
    lengths: Any = None,
) -> tuple[Inputs, Array, Array]:
    """Check samples: inputs, and targets and weights of their rows (of sequences: time steps).

    Parameters
    ----------
    takes : Model
    X, y, sample_weight, lengths
        As `Trainer.fit` takes them. Nothing is changed; X is not copied.
    prefix : str
        Put before the arguments' names in messages.
    some : bool
        Refuse weights that are all zero.

    Raises
    ------
    ShapeError, DtypeError, NonFiniteError, SparseFormatError, InputError
    """
    try:
        inputs = as_inputs(X, takes.in_features, takes.dtype, name=f"{prefix}X", lengths=lengths,
                           one_row=takes.one_row, time_factor=takes.time_factor)  # fmt: skip
    except NonFiniteError as error:  # whose way out is for predictions
        fix = "Clean or leave out these samples."
        raise NonFiniteError(error.argument, error.expected, error.got, fix) from None
    if not inputs.count:
        raise ShapeError(f"{prefix}X", "at least one sample", "none")
    if isinstance(inputs, DenseInputs):
        _check_range(f"{prefix}X", inputs.X, takes.dtype)
        inputs = DenseInputs(inputs.X, takes.dtype)
    steps = isinstance(inputs, SequenceInputs) and not takes.one_row
    if isinstance(inputs, SequenceInputs) and steps:
        if inputs.padding is not None:
            y = _unpadded_targets(y, inputs, f"{prefix}y")
        y = _joined(y, inputs, f"{prefix}y")
    out, loss, dtype = takes.out_features, takes.loss, takes.dtype
    targets = as_targets(y, inputs.rows, out, loss, dtype, f"{prefix}y")
    weights = as_weights(sample_weight, inputs.count, f"{prefix}sample_weight", some=some)
    return inputs, targets, weights[inputs.samples_of_rows] if steps else weights


def _unpadded_targets(y: Any, inputs: SequenceInputs, name: str) -> list[Array]:
    """Return the targets of padded sequences, as a list without what is behind ends."""
    assert inputs.padding is not None
    array = numeric_array(y, name)
    expected = (inputs.count, -(-inputs.padding // inputs.time_factor))
    if array.shape[:2] != expected:
        raise ShapeError(name, f"shape {expected} or {expected} with outputs", f"{array.shape}")
    return [part[:length] for part, length in zip(array, inputs.results, strict=True)]


def _joined(y: Any, inputs: SequenceInputs, name: str) -> Any:
    """Return the targets of sequences, one array for each, behind one another."""
    if not isinstance(y, list | tuple) or len(y) != inputs.count:
        got = f"{len(y)} of them" if isinstance(y, list | tuple) else type(y).__name__
        raise ShapeError(name, f"a list of {inputs.count} arrays, one for each sequence", got)
    parts = [numeric_array(part, f"{name}[{k}]") for k, part in enumerate(y)]
    factor = inputs.time_factor
    each = "time step" if factor == 1 else f"group of {factor} time steps, the last one filled up"
    for k, (part, rows) in enumerate(zip(parts, inputs.results, strict=True)):
        if len(part) != rows:
            raise ShapeError(f"{name}[{k}]", f"{rows} targets, one for each {each}", f"{len(part)}")
    return np.concatenate(parts)


def as_targets(
    y: Any, count: int, outputs: int, loss: Loss, dtype: np.dtype[Any], name: str = "y"
) -> Array:
    """Check targets: classes as int64 (count,), values as `dtype` (count, outputs).

    Raises
    ------
    ShapeError, DtypeError, NonFiniteError, InputError
        Wrong length or shape, text, NaN, classes that are no whole numbers or out of range.
    """
    try:
        array = numeric_array(y, name)
    except DtypeError as error:
        fix = "Number the classes from 0, or use gbdnn.SparseMLPClassifier, which takes any labels."
        raise DtypeError(name, "numbers", error.got, fix) from None
    if array.ndim == 0 or len(array) != count:
        raise ShapeError(name, f"{count} targets, as many as samples", f"shape {array.shape}")
    check_finite(name, array)
    if loss.kind == "classes":
        return _classes(array, count, max(outputs, 2), name)
    if array.shape not in ((count, outputs), (count,) if outputs == 1 else ()):
        expected = f"shape ({count}, {outputs}), one value for each output"
        raise ShapeError(name, expected, f"shape {array.shape}")
    _check_range(name, array, dtype)
    if loss.probabilities and ((array < 0) | (array > 1)).any():
        got = f"{array.min()} to {array.max()}"
        raise InputError(name, "probabilities, 0 to 1", got)
    return array.reshape(count, outputs).astype(dtype)


def _classes(array: Array, count: int, classes: int, name: str) -> Array:
    if array.shape == (count, 1):
        array = array[:, 0]
    if array.ndim != 1:
        raise ShapeError(name, f"shape ({count},), a class for each sample", f"{array.shape}")
    wrong = ~((array >= 0) & (array < classes) & (array == np.floor(array)))
    if wrong.any():
        at = int(wrong.argmax())
        expected = f"classes as whole numbers from 0 to {classes - 1}"
        raise InputError(name, expected, f"{array[at]} at index {at}")
    return array.astype(np.int64)


def as_weights(
    sample_weight: Any, count: int, name: str = "sample_weight", *, some: bool = True
) -> Array:
    """Check sample weights: float64 (count,), not negative; None means 1 each.

    All zero is refused if `some`.
    """
    if sample_weight is None:
        return np.ones(count)
    weights = numeric_array(sample_weight, name).astype(np.float64)
    if weights.shape != (count,):
        raise ShapeError(name, f"shape ({count},)", f"shape {weights.shape}")
    with np.errstate(over="ignore", invalid="ignore"):
        total = weights.sum()
    if not np.isfinite(total):
        raise NonFiniteError(name, "finite numbers with a finite sum", f"a sum of {total}")
    if (weights < 0).any():
        raise InputError(name, "numbers from 0 up", f"{weights.min()}")
    if some and not total:
        raise InputError(name, "at least one above 0", "zeros only")
    return weights


def class_factors(class_weight: Any, takes: Takes, targets: Array | None = None) -> Array:
    """Return the factor of each class for the weights of its samples, shape (classes,).

    Parameters
    ----------
    class_weight : "balanced" or dict of class to factor
        Classes that the dict leaves out have the factor 1. Balanced is n / (classes that occur *
        count of the class), for which `targets` are needed (King and Zeng 2001).
    takes : Model
    targets : ndarray of int, shape (n_samples,), optional
    """
    if takes.loss.kind != "classes":
        expected = f"None with the loss {takes.loss.name!r}, which knows no classes"
        raise InputError("class_weight", expected, repr(class_weight))
    classes = max(takes.out_features, 2)
    if isinstance(class_weight, str):
        choose("class_weight", class_weight, ["balanced"])
        if targets is None:
            expected = "a dict of class: factor where X is an iterable"
            raise InputError("class_weight", expected, repr(class_weight))
        counts = np.bincount(targets, minlength=classes)
        return np.asarray(len(targets) / (np.count_nonzero(counts) * np.maximum(counts, 1)))
    if not isinstance(class_weight, dict):
        got = type(class_weight).__name__
        raise DtypeError("class_weight", "'balanced' or a dict of class: factor", got)
    factors = np.ones(classes)
    for number, factor in class_weight.items():
        if number not in range(classes):
            raise InputError("class_weight", f"classes from 0 to {classes - 1}", repr(number))
        factors[int(number)] = not_negative(f"class_weight[{number!r}]", factor)
    return factors


def weighted(weights: Array, factors: Array, targets: Array, *, some: bool = True) -> Array:
    """Return the samples' weights times the factors of their classes, checked as `as_weights`."""
    with np.errstate(over="ignore"):
        product = weights * factors[targets]
    return as_weights(product, len(targets), "sample_weight * class_weight", some=some)


def _check_range(name: str, array: Array, dtype: np.dtype[Any]) -> None:
    """Refuse floats that are too large for `dtype`; here, not in the middle of a training."""
    if array.dtype.kind != "f" or array.dtype.itemsize <= dtype.itemsize or not array.size:
        return
    largest = max(array.max(), -array.min())
    if largest > np.finfo(dtype).max:
        raise NonFiniteError(name, f"values that fit into {dtype}", f"{largest}")
