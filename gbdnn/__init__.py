"""gbdnn: sparse deep neural networks on a CPU, at a cost that follows the non-zeros.

>>> import gbdnn
>>> network = gbdnn.Network([gbdnn.Linear(W0, b0), "relu", gbdnn.Linear(W1, b1)])  # doctest: +SKIP
>>> network.predict(X, backend="graphblas")                                        # doctest: +SKIP

Names are imported on first use, so that ``import gbdnn`` takes milliseconds.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gbdnn import decoding as decoding
    from gbdnn import distributed as distributed
    from gbdnn import errors as errors
    from gbdnn import losses as losses
    from gbdnn import models as models
    from gbdnn import pruning as pruning
    from gbdnn import simulator as simulator
    from gbdnn import topology as topology
    from gbdnn import training as training
    from gbdnn.conversion import from_sklearn as from_sklearn
    from gbdnn.conversion import load_onnx as load_onnx
    from gbdnn.conversion import load_pretrained as load_pretrained
    from gbdnn.conversion import load_state_dict as load_state_dict
    from gbdnn.conversion import save_onnx as save_onnx
    from gbdnn.conversion import save_pretrained as save_pretrained
    from gbdnn.estimators import SparseMLPClassifier as SparseMLPClassifier
    from gbdnn.estimators import SparseMLPRegressor as SparseMLPRegressor
    from gbdnn.layers import BGRU as BGRU
    from gbdnn.layers import BLSTM as BLSTM
    from gbdnn.layers import GELU as GELU
    from gbdnn.layers import GRU as GRU
    from gbdnn.layers import LSTM as LSTM
    from gbdnn.layers import Dropout as Dropout
    from gbdnn.layers import Embedding as Embedding
    from gbdnn.layers import FinalStates as FinalStates
    from gbdnn.layers import Identity as Identity
    from gbdnn.layers import LastStep as LastStep
    from gbdnn.layers import LeakyReLU as LeakyReLU
    from gbdnn.layers import Linear as Linear
    from gbdnn.layers import MeanOverTime as MeanOverTime
    from gbdnn.layers import ReLU as ReLU
    from gbdnn.layers import ResetBeforeGRU as ResetBeforeGRU
    from gbdnn.layers import Sigmoid as Sigmoid
    from gbdnn.layers import Softmax as Softmax
    from gbdnn.layers import Tanh as Tanh
    from gbdnn.layers import TimeReduction as TimeReduction
    from gbdnn.models.files import load as load
    from gbdnn.network import Network as Network
    from gbdnn.pruning.compact import compact as compact
    from gbdnn.quantization import quantize as quantize
    from gbdnn.torch import from_torch as from_torch
    from gbdnn.torch import to_torch as to_torch
    from gbdnn.training import Trainer as Trainer
    from gbdnn.training import prune as prune
    from gbdnn.weights import CSR as CSR
    from gbdnn.weights import Dense as Dense
    from gbdnn.weights import Int4 as Int4
    from gbdnn.weights import Int8 as Int8
    from gbdnn.weights import Levels as Levels
    from gbdnn.weights import as_csr as as_csr
    from gbdnn.weights import integer_weight as integer_weight
    from gbdnn.weights.patterns import transpose as transpose

__version__ = "0.1.0"

_HOMES = {
    "gbdnn.conversion": (
        "from_sklearn", "load_onnx", "load_pretrained", "load_state_dict", "save_onnx",
        "save_pretrained",
    ),
    "gbdnn.estimators": ("SparseMLPClassifier", "SparseMLPRegressor"),
    "gbdnn.layers": (
        "BGRU", "BLSTM", "Dropout", "Embedding", "FinalStates", "GELU", "GRU", "Identity", "LSTM",
        "LastStep", "LeakyReLU", "Linear", "MeanOverTime", "ReLU", "ResetBeforeGRU", "Sigmoid",
        "Softmax", "Tanh", "TimeReduction",
    ),
    "gbdnn.models.files": ("load",),
    "gbdnn.network": ("Network",),
    "gbdnn.pruning.compact": ("compact",),
    "gbdnn.quantization": ("quantize",),
    "gbdnn.training": ("Trainer", "prune"),
    "gbdnn.weights": ("CSR", "Dense", "Int4", "Int8", "Levels", "as_csr", "integer_weight"),
    "gbdnn.weights.patterns": ("transpose",),
}  # fmt: skip
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}
_MODULES = {
    name: f"gbdnn.{name}"
    for name in (
        "backends", "challenge", "decoding", "distributed", "errors", "layers", "losses",
        "models", "pruning", "quantization", "simulator", "topology", "training", "weights",
    )
} | {"functional": "gbdnn.layers.functional"}  # fmt: skip
_OPTIONAL = ("from_torch", "to_torch")  # of gbdnn.torch; not in __all__, as torch may be missing

__all__ = ["__version__", *sorted(_HOME_OF), *_MODULES]


def __getattr__(name: str) -> Any:
    if name in _HOME_OF:
        return getattr(import_module(_HOME_OF[name]), name)
    if name in _MODULES:
        return import_module(_MODULES[name])
    if name in _OPTIONAL:
        return getattr(import_module("gbdnn.torch"), name)
    if name == "torch":
        return import_module("gbdnn.torch")
    raise AttributeError(f"module 'gbdnn' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
