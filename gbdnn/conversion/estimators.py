"""`from_sklearn`: perceptrons of scikit-learn, with the scalers before them, as networks."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from gbdnn.conversion.chain import Chain
from gbdnn.errors import DtypeError, InputError
from gbdnn.layers import activation
from gbdnn.network import Network

__all__ = ["from_sklearn"]

ACTIVATIONS = {"relu": "relu", "tanh": "tanh", "logistic": "sigmoid", "softmax": "softmax"}
SUPPORTED = (
    "a fitted MLPClassifier or MLPRegressor, or a Pipeline of StandardScaler, MinMaxScaler or "
    "MaxAbsScaler and one of them"
)


def from_sklearn(estimator: Any, *, dtype: npt.DTypeLike = np.float32) -> Network:
    """Return the network that predicts what a fitted estimator of scikit-learn does.

    Parameters
    ----------
    estimator : MLPClassifier, MLPRegressor or Pipeline
        In a Pipeline StandardScaler, MinMaxScaler, MaxAbsScaler and "passthrough" may come before;
        they become part of the first layer.
    dtype : float32 or float64, default float32
        With features far from 0 for their spread, float32 loses what the scaler's subtraction kept.

    Returns
    -------
    Network
        `predict` gives probabilities, of two classes that of the second; for a regressor values.
        Its metadata name the "classes" and "feature_names", which `gbdnn predict` uses. A weight
        half or more of which are zeros becomes sparse.

    Raises
    ------
    DtypeError, InputError
        For other estimators, and for scalers that clip.
    sklearn.exceptions.NotFittedError
    """
    from sklearn.utils.validation import check_is_fitted

    chain = Chain()
    steps = list(_steps(estimator))
    for step in steps[:-1]:
        check_is_fitted(step)
        _add_scaler(chain, step)
    model = steps[-1] if steps else estimator
    if not _is(model, "MLPClassifier", "MLPRegressor"):
        raise DtypeError("estimator", SUPPORTED, type(model).__name__)
    check_is_fitted(model)
    for k, (weight, bias) in enumerate(zip(model.coefs_, model.intercepts_, strict=True)):
        chain.product(weight.T, bias)
        last = k == len(model.coefs_) - 1
        name = model.out_activation_ if last else model.activation
        if name != "identity":
            chain.layer(activation(ACTIVATIONS[name]))
    metadata: dict[str, Any] = {}
    names = getattr(steps[0], "feature_names_in_", None)
    if names is not None:
        metadata["feature_names"] = list(map(str, names))
    if _is(model, "MLPClassifier") and not model._label_binarizer.y_type_.startswith("multilabel"):
        metadata["classes"] = np.asarray(model.classes_).tolist()
    return Network(chain.finished(np.dtype(dtype)), metadata=metadata)


def _is(estimator: Any, *names: str) -> bool:
    """Whether it is one of scikit-learn's classes, or of their subclasses."""
    return any(
        kind.__name__ in names and kind.__module__.startswith("sklearn.")
        for kind in type(estimator).__mro__
    )


def _steps(estimator: Any) -> Any:
    """Yield the steps of pipelines, also of those inside."""
    if _is(estimator, "Pipeline"):
        for _, step in estimator.steps:
            yield from _steps(step)
    elif estimator is not None and not (isinstance(estimator, str) and estimator == "passthrough"):
        yield estimator


def _add_scaler(chain: Chain, scaler: Any) -> None:
    if getattr(scaler, "clip", False):
        fix = "Refit it with clip=False."
        raise InputError("estimator", "scalers that do not clip", repr(scaler), fix)
    if _is(scaler, "StandardScaler"):
        shift = 0.0 if scaler.mean_ is None or not scaler.with_mean else scaler.mean_
        factor = 1.0 if scaler.scale_ is None else 1 / np.asarray(scaler.scale_)
        chain.scaled(factor, -np.asarray(shift) * factor)
    elif _is(scaler, "MinMaxScaler"):
        chain.scaled(scaler.scale_, scaler.min_)
    elif _is(scaler, "MaxAbsScaler"):
        chain.scaled(1 / np.asarray(scaler.scale_), 0.0)
    else:
        raise DtypeError("estimator", SUPPORTED, f"a step {type(scaler).__name__}")
