"""A training step in torch, each way in its best form: dense, two with CSR weights, and gbdnn's.

- ``torch-dense``: `torch.nn.Linear`, all places trained, batch-major.
- ``torch-csr``: `torch.sparse.mm` on a CSR tensor and torch's own backward pass.
- ``torch-csr-sampled``: what a user of torch can write: an autograd function whose backward pass
  keeps W^T as a second CSR tensor and calls `torch.sparse.sampled_addmm`.

- ``torch-gbdnn``: `gbdnn.torch.SparseLinear`, batch-major: gbdnn's products under torch's autograd.

Adam is torch's fused one. CSR weights are trained through their vector of values, since torch's
optimizers do not take CSR parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import count
from typing import TYPE_CHECKING, Any

import numpy as np

import gbdnn
from benchmarks.peers import torch_matrix
from gbdnn.weights import CSR, Dense, Weight
from gbdnn.weights.patterns import transpose

if TYPE_CHECKING:
    from benchmarks.training import TrainingJob

__all__ = ["prepare"]

Step = Callable[[], float]


def prepare(job: TrainingJob) -> tuple[Step, Callable[[], int]]:
    """Return a training step and a function that counts the bytes of the state."""
    import torch

    from benchmarks.training import BATCHES, RATE

    torch.set_num_threads(job.threads)
    X, y = map(torch.from_numpy, job.samples())
    inputs: Any = torch.chunk(X, BATCHES)
    targets = torch.chunk(y, BATCHES)
    if job.engine in ("torch-csr", "torch-csr-sampled"):
        inputs = tuple(part.T.contiguous() for part in inputs)
    model = MODELS[job.engine](torch, job.weights())
    optimizer = torch.optim.Adam(model.parameters, lr=RATE, fused=True)
    turn = count()

    def step() -> float:
        k = next(turn) % BATCHES
        optimizer.zero_grad(set_to_none=True)
        model.begin()
        loss: Any = torch.nn.functional.cross_entropy(model.forward(inputs[k]), targets[k])
        loss.backward()
        model.end()
        optimizer.step()
        return float(loss.detach())

    def state_bytes() -> int:
        tensors = [*model.parameters, *(p.grad for p in model.parameters), *model.more]
        tensors += [t for state in optimizer.state.values() for t in state.values()]
        return sum(t.numel() * t.element_size() for t in tensors)

    return step, state_bytes


class _Model:
    """Parameters, tensors besides, and what surrounds a pass; here nothing."""

    def begin(self) -> None:
        """Prepare the forward pass."""

    def end(self) -> None:
        """Bring the gradients to where the optimizer looks."""


class _Layers(_Model):
    """What `gbdnn.to_torch` makes of weights: torch's linear layers, or of sparse ones gbdnn's."""

    def __init__(self, torch: Any, weights: Sequence[Weight]) -> None:
        layers: list[Any] = []
        for weight in weights:
            layers += [gbdnn.Linear(weight, np.zeros(weight.shape[0], np.float32)), "relu"]
        self.forward = gbdnn.to_torch(gbdnn.Network(layers[:-1])).train()
        self.parameters, self.torch = list(self.forward.parameters()), torch

    more: Sequence[Any] = ()


class _Dense(_Layers):
    """W and its gradient full."""

    def __init__(self, torch: Any, weights: list[CSR]) -> None:
        super().__init__(torch, [Dense(w.to_dense(allow_dense=True)) for w in weights])


class _Sparse(_Layers):
    """gbdnn's sparse layers in place of torch's."""

    @property
    def more(self) -> list[Any]:  # type: ignore[override]
        """The buffers, and what the backend made of them beside the values."""
        forms = [layer.form(layer.values) for layer in self.forward[::2]]
        made = [np.zeros(form.nbytes - form.values.nbytes, np.uint8) for form in forms]
        return [*self.forward.buffers(), *map(self.torch.from_numpy, made)]


class _CSR(_Model):
    """CSR tensors over the vectors of values that the optimizer changes."""

    def __init__(self, torch: Any, weights: list[CSR]) -> None:
        self.torch = torch
        self.values = [torch.from_numpy(np.array(weight.full_values)) for weight in weights]
        self.biases = [torch.zeros(weight.shape[0], requires_grad=True) for weight in weights]
        self.parameters = [*self.values, *self.biases]
        self.matrices = [torch_matrix(w, v) for w, v in zip(weights, self.values, strict=True)]
        self.more = [part for matrix in self.matrices for part in _index(matrix)]

    def begin(self) -> None:
        for matrix in self.matrices:
            matrix.grad = None
            matrix.requires_grad_()

    def product(self, k: int, Y: Any) -> Any:
        """Return W Y."""
        return self.torch.sparse.mm(self.matrices[k], Y)

    def forward(self, Y: Any) -> Any:
        """Return logits (batch, classes) of a neuron-major batch."""
        for k, bias in enumerate(self.biases):
            Y = self.product(k, Y if k == 0 else Y.relu()) + bias[:, None]
        return Y.T

    def end(self) -> None:
        for values, matrix in zip(self.values, self.matrices, strict=True):
            values.grad = matrix.grad.values()


class _Sampled(_CSR):
    """The same with W^T kept and the weight gradient sampled at the pattern."""

    def __init__(self, torch: Any, weights: list[CSR]) -> None:
        super().__init__(torch, weights)
        self.transposed = []  # W^T, and where its values stand in W's
        for weight, values in zip(weights, self.values, strict=True):
            flipped, order = transpose(weight)
            matrix = torch_matrix(flipped, torch.from_numpy(np.array(flipped.full_values)))
            self.transposed.append((matrix, torch.from_numpy(order.astype(np.int64))))
            self.more += [*_index(matrix), matrix.values(), self.transposed[-1][1]]
            values.requires_grad_()
        self.function = _function(torch)

    def begin(self) -> None:
        with self.torch.no_grad():
            for values, (matrix, order) in zip(self.values, self.transposed, strict=True):
                self.torch.index_select(values, 0, order, out=matrix.values())

    def product(self, k: int, Y: Any) -> Any:
        return self.function.apply(self.values[k], self.matrices[k], self.transposed[k][0], Y)

    end = _Model.end  # autograd writes the gradients of the values themselves


def _function(torch: Any) -> Any:
    class Product(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, values: Any, W: Any, WT: Any, Y: Any) -> Any:
            ctx.save_for_backward(Y)
            ctx.matrices = W, WT
            return W @ Y

        @staticmethod
        def backward(ctx: Any, *grads: Any) -> Any:
            (Y,), (W, WT), dZ = ctx.saved_tensors, ctx.matrices, grads[0].contiguous()
            grad = torch.sparse.sampled_addmm(W, dZ, Y.T, beta=0).values()
            return grad, None, None, WT @ dZ if ctx.needs_input_grad[3] else None

    return Product


def _index(matrix: Any) -> list[Any]:
    return [matrix.crow_indices(), matrix.col_indices()]


MODELS: dict[str, Any] = {
    "torch-csr": _CSR, "torch-csr-sampled": _Sampled, "torch-dense": _Dense,
    "torch-gbdnn": _Sparse,
}  # fmt: skip
