"""gbdnn inside torch: a sparse linear layer with gradients, and networks to and from modules.

==================  ============================================================================
`SparseLinear`      what `torch.nn.Linear` is, at a cost that follows the non-zeros
`sparsify`          replaces the `torch.nn.Linear` of a model by sparse ones
`PatternUpdates`    SET, RigL and gradual pruning beside any optimizer of torch
`from_torch`        a chain of modules as a `gbdnn.Network`
`to_torch`          a `gbdnn.Network` as a `torch.nn.Sequential`
==================  ============================================================================

Everything is computed on the CPU. ``import gbdnn`` does not import torch, this package does.
"""

from __future__ import annotations

from gbdnn.errors import MissingDependencyError

try:
    import torch as _torch  # noqa: F401
except ImportError as error:
    raise MissingDependencyError(
        "gbdnn.torch", "the package torch", "none", "Install it with pip install 'gbdnn[torch]'."
    ) from error

from gbdnn.torch.export import to_torch
from gbdnn.torch.linear import SparseLinear
from gbdnn.torch.modules import from_torch
from gbdnn.torch.replacing import sparsify
from gbdnn.torch.updates import PatternUpdates

__all__ = ["PatternUpdates", "SparseLinear", "from_torch", "sparsify", "to_torch"]
