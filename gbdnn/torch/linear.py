"""`SparseLinear`: the linear layer of torch with a sparse weight that is trained."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from gbdnn import checks
from gbdnn.backends import get_backend
from gbdnn.errors import DtypeError, GbdnnError, InputError, ShapeError
from gbdnn.topology import erdos_renyi
from gbdnn.torch.product import Product
from gbdnn.types import Array
from gbdnn.weights import CSR, as_csr
from gbdnn.weights.csr import check_finite
from gbdnn.weights.patterns import rows_of

__all__ = ["SparseLinear", "check_tensor", "effective_weight", "float_array", "masked"]

DTYPES = (torch.float32, torch.float64)
PARTS = ("indptr", "indices", "values")


class SparseLinear(nn.Module):
    """Z = X W^T + b with a sparse W: what `torch.nn.Linear` is, on the CPU.

    Forward and backward pass cost O(nnz x batch) time and O(nnz) memory; W's gradient exists at W's
    entries only. `PatternUpdates` changes which those are.

    Parameters
    ----------
    in_features, out_features : int
    density : float
        Above 0, at most 1: round(density * out_features * in_features) entries at random places.
        torch's seed (`torch.manual_seed`) decides them, and the values.
    bias : bool
    device : optional
        The CPU.
    dtype : torch.float32 or torch.float64, optional
        Default torch's default dtype.

    Attributes
    ----------
    values : Parameter, shape (nnz,)
        The entries of W, row by row.
    bias : Parameter, shape (out_features,), or None
    indptr, indices : tensor
        Buffers: the places of the entries, as in `gbdnn.CSR`.
    weight : tensor, shape (nnz,)
        `values`, in a type that the fused paths of torch's own modules, which would take it for a
        full matrix, leave alone.

    Notes
    -----
    Values start uniform within 1 / sqrt(n), n the entries of their row, as those of
    `torch.nn.Linear` do, so do the biases. Second derivatives, autocast, float16 and bfloat16, and
    devices other than the CPU are refused with an error.

    Examples
    --------
    >>> from gbdnn.torch import SparseLinear
    >>> SparseLinear(1024, 256, density=0.1)
    SparseLinear(in_features=1024, out_features=256, bias=True, nnz=26214, density=0.1)
    """

    indptr: Any
    indices: Any

    def __init__(
        self,
        in_features: int,
        out_features: int,
        density: float = 0.1,
        bias: bool = True,
        *,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        columns = checks.count("in_features", in_features)
        rows = checks.count("out_features", out_features)
        density = checks.within("density", density, "(0, 1]")
        if device is not None and torch.device(device).type != "cpu":
            raise InputError("device", "the CPU", str(device), HOME)
        dtype = check_dtype(torch.get_default_dtype() if dtype is None else dtype)
        seed = int(torch.randint(1 << 62, (), device="cpu"))
        pattern = erdos_renyi(rows, columns, density=density, rng=seed, values="ones")
        self._begin(pattern, torch.empty(pattern.nnz, dtype=dtype, device="cpu"), bias)
        self.reset_parameters()

    def _begin(self, pattern: CSR, values: Any, bias: bool) -> None:
        super().__init__()
        self.out_features, self.in_features = pattern.shape
        self._prepared: Any = None
        self.observe: Callable[[Array, Array], None] | None = None
        self._set_pattern(pattern)
        self.values = nn.Parameter(values)
        empty = values.new_zeros(self.out_features) if bias else None
        self.register_parameter("bias", None if empty is None else nn.Parameter(empty))

    def _set_pattern(self, pattern: CSR) -> None:
        for name in ("indptr", "indices"):
            array = np.array(getattr(pattern, name)[: None if name == "indptr" else pattern.nnz])
            self.register_buffer(name, torch.from_numpy(array))

    @classmethod
    def from_linear(cls, linear: nn.Linear, mask: Any = None) -> SparseLinear:
        """Return a sparse copy of a `torch.nn.Linear`.

        Parameters
        ----------
        linear : torch.nn.Linear
            A mask of `torch.nn.utils.prune` is applied.
        mask : tensor or ndarray, shape (out_features, in_features), optional
            Not 0 where an entry is kept, also one of value 0; default the weights that are not 0.

        Raises
        ------
        DtypeError, ShapeError, InputError, NonFiniteError
        """
        if not isinstance(linear, nn.Linear):
            raise DtypeError("linear", "a torch.nn.Linear", type(linear).__name__)
        check_dtype(effective_weight(linear).dtype, "linear")
        weight = float_array(effective_weight(linear), "linear.weight")
        csr = as_csr(weight, name="linear.weight")
        if mask is not None:
            places = as_csr(mask, name="mask")
            if places.shape != weight.shape:
                raise ShapeError("mask", f"shape {weight.shape}", f"{places.shape}")
            check_finite("linear.weight", weight)
            csr = places.with_entries(weight[rows_of(places), places.indices])
        made: SparseLinear = cls.from_csr(csr, linear.bias, like=linear)
        return made

    @classmethod
    def from_csr(cls, weight: CSR, bias: Any = None, *, like: nn.Module | None = None) -> Any:
        """Return a layer with a given weight and bias, a tensor or array, or None; copies.

        `like` is a module whose mode (training or not) and ``requires_grad`` it takes over.
        """
        made = cls.__new__(cls)
        values = torch.from_numpy(np.array(weight.full_values))
        made._begin(weight, values, bias is not None)
        if bias is not None:
            array = float_array(torch.as_tensor(bias), "bias")
            made.bias.data.copy_(torch.from_numpy(np.array(array)))
        if like is not None:
            made.train(like.training)
            flags = {name: p.requires_grad for name, p in like.named_parameters()}
            kept = flags.get("weight", flags.get("weight_orig", True))
            made.values.requires_grad_(kept)
            if bias is not None:
                made.bias.requires_grad_(flags.get("bias", True))
        return made

    @property
    def nnz(self) -> int:
        """Number of entries."""
        return int(self.values.numel())

    @property
    def density(self) -> float:
        """Entries over all places."""
        return self.nnz / (self.out_features * self.in_features)

    @property
    def weight(self) -> Any:
        """`values`, as a type that `torch.overrides.has_torch_function` knows."""
        return self.values.as_subclass(SparseValues)

    def to_csr(self) -> CSR:
        """Return the weight as a `gbdnn.CSR` (a copy)."""
        pattern = self._pattern()
        check_tensor("values", self.values)
        return pattern.with_entries(self.values.detach().numpy().copy())

    def to_linear(self) -> nn.Linear:
        """Return a `torch.nn.Linear` with the same outputs (a copy, out x in)."""
        csr, dtype = self.to_csr(), self.values.dtype
        made = nn.Linear(self.in_features, self.out_features, self.bias is not None, dtype=dtype)
        with torch.no_grad():
            made.weight.copy_(torch.from_numpy(csr.to_dense(allow_dense=True)))
            if self.bias is not None:
                made.bias.copy_(self.bias)
        return made.train(self.training)

    def reset_parameters(self) -> None:
        """Draw values and biases anew, from torch's generator."""
        lengths = self.indptr.diff()
        bound = lengths.clamp(min=1).to(self.values.dtype).rsqrt()
        with torch.no_grad():
            self.values.uniform_(-1, 1).mul_(bound.repeat_interleave(lengths))
            if self.bias is not None:
                limit = 1 / math.sqrt(max(self.nnz / self.out_features, 1))
                self.bias.uniform_(-limit, limit)

    def forward(self, input: Any) -> Any:
        """Return input W^T + b; `input` has the shape (..., in_features)."""
        check_tensor("input", input)
        if torch.is_autocast_enabled("cpu"):
            fix = "Put the layer into `with torch.autocast('cpu', enabled=False):`."
            raise InputError(
                "autocast", f"off, as gbdnn computes in {self.values.dtype}", "on", fix
            )
        if input.ndim == 0 or input.shape[-1] != self.in_features:
            expected = f"shape (..., {self.in_features}), in_features last"
            raise ShapeError("input", expected, f"{tuple(input.shape)}")
        check_tensor("values", self.values)
        if input.dtype != self.values.dtype:
            fix = "Convert one of them with .to(dtype)."
            raise DtypeError("input", f"{self.values.dtype} as the layer", f"{input.dtype}", fix)
        if self.bias is not None:
            check_tensor("bias", self.bias, self.values.dtype)
        X = input.reshape(-1, self.in_features)
        Z = Product.apply(X, self.values, self.bias, self)
        return Z.reshape(*input.shape[:-1], self.out_features)

    # -- what the kernels read ---------------------------------------------------------------------

    def form(self, values: Any) -> Any:
        """Return what the backend has made of the pattern, over the memory of `values`."""
        buffers = (self.indptr, self.indices)
        key = (*map(_version, buffers), values.dtype)
        if (
            self._prepared is None
            or self._prepared[0] != key
            or any(a is not b for a, b in zip(self._prepared[1], buffers, strict=True))
        ):
            pattern = self._pattern().astype(values.detach().numpy().dtype)
            self._prepared = key, buffers, get_backend("fused").prepare(pattern, trained=True), 0
        form, address = self._prepared[2:]
        if values.shape != (form.pattern.nnz,):
            expected = f"shape ({form.pattern.nnz},), as `indices`"
            raise ShapeError("values", expected, f"{tuple(values.shape)}")
        if address != values.data_ptr() or not values.is_contiguous():
            form.read(values.detach().contiguous().numpy())
            self._prepared = (*self._prepared[:3], values.data_ptr())
        return form

    def _pattern(self) -> CSR:
        """Return the buffers as a checked pattern of its own memory."""
        for name in ("indptr", "indices"):
            check_memory(name, getattr(self, name))
        arrays = self.indptr.numpy(), self.indices.numpy()
        return CSR(*arrays, np.ones(1, np.float32), (self.out_features, self.in_features))

    def repattern(self, weight: CSR) -> None:
        """Take over a weight with another pattern; `values` stays the same Parameter."""
        new = torch.from_numpy(np.array(weight.full_values))
        self._set_pattern(weight)
        resize(self.values, new)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_prepared": None, "observe": None}

    def _load_from_state_dict(
        self, state_dict: Any, prefix: str, local_metadata: Any, strict: bool,
        missing_keys: Any, unexpected_keys: Any, error_msgs: Any,
    ) -> None:  # fmt: skip
        """Take over the pattern of the file, if it is one, before torch copies the values."""
        given = [state_dict.get(prefix + name) for name in PARTS]
        if all(isinstance(part, torch.Tensor) for part in given):
            try:
                pattern = self._checked(prefix, *given)
            except GbdnnError as error:
                error_msgs.append(str(error))
                return
            self._set_pattern(pattern)
            if self.values.shape != given[2].shape:
                resize(self.values, self.values.new_zeros(given[2].shape))
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )

    def _checked(self, prefix: str, indptr: Any, indices: Any, values: Any) -> CSR:
        for name, part in zip(PARTS, (indptr, indices, values), strict=True):
            check_memory(prefix + name, part)
        shape = (self.out_features, self.in_features)
        pattern = CSR(indptr.numpy(), indices.numpy(), np.ones(1, np.float32), shape)
        if values.shape != (pattern.nnz,):
            raise ShapeError(f"{prefix}values", f"shape ({pattern.nnz},)", f"{tuple(values.shape)}")
        return pattern

    def extra_repr(self) -> str:
        """Return what stands between the parentheses."""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"bias={self.bias is not None}, nnz={self.nnz}, density={self.density:.3g}"
        )


class SparseValues(torch.Tensor):
    """The values of a sparse weight; operations give ordinary tensors."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Compute as if it were a `torch.Tensor`."""
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **(kwargs or {}))


def resize(parameter: Any, new: Any) -> None:
    """Give a parameter other values, of any shape; its gradient is dropped."""
    parameter.grad = None
    if parameter.shape != new.shape:
        # torch drops the node that adds up gradients, which knows the old shape and lives as long
        # as somebody holds an older loss, only when the dtype changes
        other = torch.float64 if parameter.dtype == torch.float32 else torch.float32
        parameter.data = new.to(other)
    parameter.data = new


def masked(module: Any, name: str) -> Any:
    """Return a parameter with the mask of `torch.nn.utils.prune`, if it has one."""
    if hasattr(module, f"{name}_orig") and hasattr(module, f"{name}_mask"):
        # the attribute of that name may be that of the last pass
        return getattr(module, f"{name}_orig") * getattr(module, f"{name}_mask")
    return getattr(module, name)


def effective_weight(linear: Any) -> Any:
    """Return the weight of a `torch.nn.Linear`, with the mask of `torch.nn.utils.prune`."""
    return masked(linear, "weight")


def float_array(tensor: Any, name: str) -> Array:
    """Return a tensor as an array of float32, or float64 if it is that; maybe of its memory."""
    check_memory(name, tensor)
    if not tensor.is_floating_point():
        raise DtypeError(name, "real numbers", str(tensor.dtype))
    tensor = tensor.detach()
    tensor = tensor if tensor.layout is torch.strided else tensor.to_dense()
    array: Array = (tensor if tensor.dtype in DTYPES else tensor.float()).numpy()
    return array


HOME = "gbdnn computes on the CPU: move the module and its inputs there with .cpu()."


def check_dtype(dtype: Any, name: str = "dtype") -> Any:
    """Return float32 or float64 as it is, else raise."""
    if dtype not in DTYPES:
        raise DtypeError(name, "torch.float32 or torch.float64", str(dtype))
    return dtype


def check_memory(name: str, tensor: Any) -> None:
    """Raise for what is not a tensor in the memory of the CPU."""
    if not isinstance(tensor, torch.Tensor):
        raise DtypeError(name, "a torch.Tensor", type(tensor).__name__)
    if tensor.device.type != "cpu":
        raise InputError(name, "a tensor on the CPU", f"one on {tensor.device}", HOME)


def check_tensor(name: str, tensor: Any, dtype: Any = None) -> None:
    """Raise for what is not a full tensor of floats in the memory of the CPU."""
    check_memory(name, tensor)
    if tensor.layout is not torch.strided:
        raise DtypeError(name, "a dense tensor", f"{tensor.layout}", "Use .to_dense().")
    allowed = DTYPES if dtype is None else (dtype,)
    if tensor.dtype not in allowed:
        expected = " or ".join(map(str, allowed))
        raise DtypeError(name, expected, str(tensor.dtype), "Convert it with .to(dtype).")


def _version(tensor: Any) -> int:
    return -1 if tensor.is_inference() else int(tensor._version)
