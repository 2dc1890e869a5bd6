"""What labels are to a model: its classes, the targets of its loss, how well it does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gbdnn.cli.sequences import joined, lists, results
from gbdnn.errors import InputError

if TYPE_CHECKING:
    from gbdnn.cli.datasets import Dataset
    from gbdnn.network import Network

__all__ = [
    "classes_of",
    "likeliest",
    "loss_of",
    "predicted",
    "score",
    "setting",
    "targets",
]

LONG = 1 << 34  # edges x samples: about a second


def predicted(network: Network, samples: Dataset, **computing: Any) -> Any:
    """Return what the network gives, with progress on standard error where that takes long.

    Of sequences with a result for each time step the rows of all follow each other.
    """
    X, lengths = samples.X, samples.lengths
    long = X.shape[0] * network.edges > LONG
    values = network.predict(X, lengths=lengths, progress=long, **computing)
    if lengths is None or network.one_row:
        return values
    return joined(values, results(lengths, network.time_factor))


def classes_of(network: Network) -> list[Any] | None:
    """Return the classes that the model file names, checked; None if it names none."""
    classes = network.metadata.get("classes")
    if classes is None:
        return None
    scalars = isinstance(classes, list) and all(isinstance(c, str | int | float) for c in classes)
    outputs = max(network.out_features, 2)
    if not scalars or len(classes) != outputs or len(set(classes)) != outputs:
        expected = f"{outputs} different names or numbers"
        raise InputError("classes in the model's metadata", expected, repr(classes)[:80])
    return list(classes)


def likeliest(network: Network, values: Any) -> Any:
    """Return the number of the likeliest class of each sample."""
    if network.out_features > 1:
        return values.argmax(axis=1)
    half = 0.5 if network.layers[-1].kind == "sigmoid" else 0.0
    return (values[:, 0] > half).astype(int)


def score(network: Network, values: Any, y: Any, classes: list[Any] | None) -> dict[str, float]:
    """Return the accuracy, or the mean squared error where there are no classes."""
    import numpy as np

    from gbdnn.cli.labels import as_numbers, codes

    if classes is not None:
        return {"accuracy": float((likeliest(network, values) == codes(classes, y)).mean())}
    numbers = as_numbers(y)
    if numbers is None or numbers.reshape(len(y), -1).shape != values.shape:
        return {}
    return {"mean_squared_error": float(np.mean((numbers.reshape(values.shape) - values) ** 2))}


def targets(network: Network, samples: Dataset | None) -> dict[str, Any]:
    """Return X, y and the loss for what needs gradients; {} where there are no labels."""
    if samples is None or samples.y is None:
        return {}
    classes = classes_of(network)
    if samples.lengths is not None:
        X, y = lists(samples, y_of(samples, classes), network.one_row, network.time_factor)
        return {"X": X, "y": y, "loss": loss_of(network)}
    return {"X": samples.X, "y": y_of(samples, classes), "loss": loss_of(network)}


def y_of(samples: Dataset, classes: list[Any] | None) -> Any:
    """Return the labels as the loss takes them, one for each row of a result."""
    from gbdnn.cli.labels import as_values, codes

    assert samples.y is not None
    if classes is None:
        y = as_values(samples.y)
    else:
        y = codes(classes, samples.y)
        if (y < 0).any():
            label = samples.y.reshape(len(y), -1)[(y < 0).argmax(), 0].item()
            raise InputError("labels", "classes of the model", repr(label))
    return y


def loss_of(network: Network) -> str:
    """Return the loss that the model file says it was trained with, else what its end suggests."""
    from gbdnn.layers import LOSSES

    name = setting(network, "loss")
    if isinstance(name, str) and name in LOSSES:
        return name
    if classes_of(network) is None:
        return "mse"
    return "cross_entropy" if network.out_features > 1 else "binary_cross_entropy"


def setting(network: Network, name: str) -> Any:
    """Return a setting of `gbdnn train` from the model file, None if there is none."""
    record = network.metadata.get("training")
    settings = record.get("settings") if isinstance(record, dict) else None
    return settings.get(name) if isinstance(settings, dict) else None
