"""gbdnn: sparse deep neural networks on a CPU, at a cost that follows the non-zeros.

>>> import gbdnn
>>> network = gbdnn.Network([gbdnn.Linear(W0, b0), "relu", gbdnn.Linear(W1, b1)])  # doctest: +SKIP
>>> network.predict(X, backend="graphblas")                                        # doctest: +SKIP

Names are imported on first use, so that ``import gbdnn`` takes milliseconds.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gbdnn import errors as errors
    from gbdnn import models as models
    from gbdnn import pruning as pruning
    from gbdnn import topology as topology
    from gbdnn import training as training
    from gbdnn.estimators import SparseMLPClassifier as SparseMLPClassifier
    from gbdnn.estimators import SparseMLPRegressor as SparseMLPRegressor
    from gbdnn.layers import GELU as GELU
    from gbdnn.layers import Dropout as Dropout
    from gbdnn.layers import Identity as Identity
    from gbdnn.layers import LeakyReLU as LeakyReLU
    from gbdnn.layers import Linear as Linear
    from gbdnn.layers import ReLU as ReLU
    from gbdnn.layers import Sigmoid as Sigmoid
    from gbdnn.layers import Softmax as Softmax
    from gbdnn.layers import Tanh as Tanh
    from gbdnn.network import Network as Network
    from gbdnn.network import load as load
    from gbdnn.training import Trainer as Trainer
    from gbdnn.training import prune as prune
    from gbdnn.weights import CSR as CSR
    from gbdnn.weights import Dense as Dense
    from gbdnn.weights import as_csr as as_csr
    from gbdnn.weights.patterns import transpose as transpose

__version__ = "0.1.0"

_HOMES = {
    "gbdnn.estimators": ("SparseMLPClassifier", "SparseMLPRegressor"),
    "gbdnn.layers": (
        "Dropout", "GELU", "Identity", "LeakyReLU", "Linear", "ReLU", "Sigmoid", "Softmax", "Tanh",
    ),
    "gbdnn.network": ("Network", "load"),
    "gbdnn.training": ("Trainer", "prune"),
    "gbdnn.weights": ("CSR", "Dense", "as_csr"),
    "gbdnn.weights.patterns": ("transpose",),
}  # fmt: skip
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}
_MODULES = {
    name: f"gbdnn.{name}"
    for name in (
        "backends", "challenge", "errors", "layers", "models", "pruning", "quantization",
        "topology", "training", "weights",
    )
} | {"functional": "gbdnn.layers.functional"}  # fmt: skip

__all__ = ["__version__", *sorted(_HOME_OF), *_MODULES]


def __getattr__(name: str) -> Any:
    if name in _HOME_OF:
        return getattr(import_module(_HOME_OF[name]), name)
    if name in _MODULES:
        return import_module(_MODULES[name])
    raise AttributeError(f"module 'gbdnn' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
