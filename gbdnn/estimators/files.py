"""Fitted estimators as model files: the network, and beside it labels, parameters and attributes.

The metadata of the file have the keys "classes" and "feature_names", as those of `gbdnn train`
have, so that the command line uses them, and "estimator", a record of what else there is. No part
of a file is code, and nothing is unpickled.
"""

from __future__ import annotations

import math
import warnings
from typing import Any, Self

import numpy as np
from sklearn.utils.validation import check_is_fitted

from gbdnn.errors import FileFormatError, InputError
from gbdnn.network import Network
from gbdnn.network import load as load_network
from gbdnn.training.history import History
from gbdnn.types import FilePath

__all__ = ["Saved"]

APART = ("network_", "history_")  # are not in the record's attributes
PRIVATE = ("_asked", "_loss_of", "_many_labels", "_many_values")
KINDS = "biufUO"  # of arrays in a record


class Saved:
    """An estimator that can be saved and loaded."""

    def save(self, path: FilePath) -> None:
        """Write the fitted estimator to a model file.

        `load` of the same class brings it back, `gbdnn.load` its network; `gbdnn predict` and the
        other commands take the file. The optimizer's state is not kept (a pickle keeps it).

        Parameters
        ----------
        path : path-like
            A file that is there is replaced in one step, or stays as it is if anything fails.

        Raises
        ------
        sklearn.exceptions.NotFittedError
        DataUnavailableError, InputError, DtypeError
            As `Network.save`.

        Warns
        -----
        UserWarning
            For parameters that are objects, such as a RandomState: they are left out.
        """
        check_is_fitted(self, "network_")
        own: Any = self
        parameters = {name: _plain(value) for name, value in own.get_params(deep=False).items()}
        missing = [name for name, value in parameters.items() if value is NotImplemented]
        if missing:
            message = f"{', '.join(missing)}: objects are not saved; load gives the defaults"
            warnings.warn(message, stacklevel=2)
        attributes = {name: _plain(v) for name, v in vars(self).items() if _is_kept(name)}
        record = {
            "kind": type(self).__name__,
            "parameters": {k: v for k, v in parameters.items() if v is not NotImplemented},
            "attributes": {k: v for k, v in attributes.items() if v is not NotImplemented},
            "history": _plain(list(own.history_.records)),
        }
        extra: dict[str, Any] = {"estimator": record}
        if hasattr(self, "classes_") and not getattr(self, "_many_labels", False):
            extra["classes"] = np.asarray(self.classes_).tolist()
        if hasattr(self, "feature_names_in_"):
            extra["feature_names"] = self.feature_names_in_.tolist()
        own.network_.save(path, extra=extra)

    @classmethod
    def load(cls, path: FilePath) -> Self:
        """Return the estimator in a file that `save`, or `gbdnn train`, wrote.

        It predicts the same bits. `partial_fit`, and with `warm_start` also `fit`, go on with its
        weights.

        Raises
        ------
        DataUnavailableError, FileFormatError, MemoryBudgetError
            As `gbdnn.load`, and for a model that is no estimator of this class.
        """
        network = load_network(path)
        record = network.metadata.pop("estimator", None)
        made: Any = cls()
        try:
            if record is None:
                made.set_params(**_parameters_of(network))
                attributes = _attributes_of(network, made)
                records = []
            else:
                _require(record["kind"] == cls.__name__, f"a {cls.__name__}", record["kind"])
                made.set_params(**{k: _value(v) for k, v in record["parameters"].items()})
                attributes = {k: _value(v) for k, v in record["attributes"].items() if _is_kept(k)}
                records = [dict(row) for row in _value(record["history"])]
            _check(network, attributes, made)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            expected = getattr(error, "expected", f"a {cls.__name__} with all that it needs")
            got = getattr(error, "got", repr(error))[:200]
            fix = "gbdnn.load reads the network alone."
            raise FileFormatError(str(path), expected, got, fix) from None
        vars(made).update(attributes, network_=network, history_=History(tuple(records)))
        loaded: Self = made
        return loaded


def _is_kept(name: str) -> bool:
    """True for attributes of a fitted estimator that go into the record."""
    public = name.endswith("_") and not name.startswith("_")
    return (public and name not in APART) or name in PRIVATE


def _require(good: bool, expected: str, got: Any) -> None:
    if not good:
        raise InputError("estimator", expected, str(got)[:100])


def _check(network: Network, attributes: dict[str, Any], made: Any) -> None:
    """Refuse attributes that contradict the network."""
    shape = attributes["n_features_in_"], attributes["n_outputs_"]
    expected = f"a network {shape[0]} -> {shape[1]}, as the estimator's attributes say"
    found = network.in_features, network.out_features
    _require(shape == found, expected, f"{found[0]} -> {found[1]}")
    if hasattr(made, "class_weight"):  # a classifier
        classes, many = attributes["classes_"], attributes["_many_labels"]
        outputs = found[1] if many else max(found[1], 2)
        good = isinstance(classes, np.ndarray) and classes.shape == (outputs,)
        _require(good, f"{outputs} classes", repr(classes))
    names = attributes.get("feature_names_in_")
    _require(names is None or names.shape == (found[0],), f"{found[0]} feature names", repr(names))


# -- files of `gbdnn train` ------------------------------------------------------------------------


def _parameters_of(network: Network) -> dict[str, Any]:
    sizes = tuple(weight.shape[0] for weight in network.weights.values())
    return {"hidden_layer_sizes": sizes[:-1], "dtype": str(network.dtype)}


def _attributes_of(network: Network, made: Any) -> dict[str, Any]:
    """Return the attributes of an estimator that learned this network by another way."""
    classes, end = network.metadata.get("classes"), network.layers[-1].kind
    attributes: dict[str, Any] = {
        "n_features_in_": network.in_features, "n_outputs_": network.out_features,
        "n_layers_": network.depth + 1, "n_iter_": 0, "t_": 0, "_asked": None,
        "loss_": math.nan, "loss_curve_": [], "best_loss_": None, "validation_scores_": None,
        "best_validation_score_": None,
    }  # fmt: skip
    names = network.metadata.get("feature_names")
    if names is not None:
        attributes["feature_names_in_"] = np.array(names, object)
    if not hasattr(made, "class_weight"):
        _require(classes is None and end == "linear", "a model of values, without classes", end)
        many = network.out_features > 1
        return attributes | {"_many_values": many, "out_activation_": "identity"}
    _require(isinstance(classes, list), "a model that names its classes", classes)
    one = network.out_features == 1
    _require(end == ("sigmoid" if one else "softmax"), "one that ends with probabilities", end)
    return attributes | {
        "classes_": np.array(classes), "_many_labels": False,
        "_loss_of": "binary_cross_entropy" if one else "cross_entropy",
        "out_activation_": "logistic" if one else "softmax",
    }  # fmt: skip


# -- values in a record ----------------------------------------------------------------------------


def _plain(value: Any) -> Any:
    """Return what JSON can say of a value, NotImplemented if that is nothing."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": str(value)}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.ndarray) and value.dtype.kind in KINDS:
        made, key, more = value.tolist(), "array", {"dtype": str(value.dtype)}
    elif isinstance(value, list | tuple):
        made, key, more = list(value), type(value).__name__, {}
    elif isinstance(value, dict):
        made, key, more = [list(pair) for pair in value.items()], "dict", {}
    else:
        return NotImplemented
    parts = [_plain(part) for part in made]
    if any(part is NotImplemented for part in parts):
        return NotImplemented
    return {key: parts, **more}


def _value(plain: Any) -> Any:
    """Undo `_plain`."""
    if not isinstance(plain, dict):
        return plain
    if "float" in plain:
        return float(plain["float"])
    key = next((key for key in ("array", "list", "tuple", "dict") if key in plain), "")
    _require(bool(key), "a value that `save` writes", plain)
    parts = [_value(part) for part in plain[key]]
    if key != "array":
        makers: dict[str, Any] = {"list": list, "tuple": tuple, "dict": dict}
        return makers[key](parts)
    dtype = np.dtype(plain["dtype"])
    _require(dtype.kind in KINDS, "an array of numbers or text", dtype)
    return np.array(parts, dtype)
