"""What a model of torch computes, as a chain of modules: found with `torch.fx`."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional as F

from gbdnn.errors import InputError
from gbdnn.torch.sequences import Final, Last, Mean, Swap

__all__ = ["Link", "chain"]

CHAIN = "a chain: one input, layers one after another, one output"


@dataclass(frozen=True)
class Link:
    """One module of a chain, or what a function call is worth as a module."""

    path: str
    module: nn.Module


def chain(module: nn.Module, leaves: tuple[type, ...]) -> Iterator[Link]:
    """Yield the parts of a model in the order of its `forward`.

    Modules of the types `leaves` and of torch.nn are parts; others are looked into.

    Raises
    ------
    InputError
        If `forward` is anything but a chain of modules and known functions.
    """
    own = type(module).__module__.startswith("torch.nn") and not isinstance(module, nn.Sequential)
    if own or isinstance(module, leaves):
        yield Link("module", module)
        return
    graph = _traced(module, leaves)
    last: Any = None
    beside: set[Any] = set()  # what comes of the sizes of tensors: numbers, tensors of zeros
    state: State | None = None  # of an LSTM or GRU, if `last` is not an ordinary tensor
    ends = {node: h for node in graph.nodes if (h := _joined(node)) is not None}
    beside |= {state for node in ends for state in node.all_input_nodes}
    for node in graph.nodes:
        path = _path(node)
        if node.op == "placeholder":
            if last is not None and not node.args:
                raise InputError("module", CHAIN, f"a second input, {node.target!r}")
            last = last or node
        elif node.op == "output":
            if node.args[0] is not last or state is not None:
                raise InputError("module", CHAIN, f"the output {node.args[0]}")
        elif node in beside or _is_shape(node, beside) or _is_zeros(node, beside):
            beside.add(node)
        else:
            others = [each for each in node.all_input_nodes[1:] if each not in beside]
            if not node.args or ends.get(node, node.args[0]) is not last or others:
                raise InputError(path, CHAIN, _text(node))
            last = node
            if state is not None:
                state, made = state.part(node, path)
            else:
                made = _as_module(module, node, path)
                state = State(made, "both") if isinstance(made, nn.LSTM | nn.GRU) else None
            if made is not None:
                yield Link(path, made)


@dataclass(frozen=True)
class State:
    """What a node stands for between an LSTM or GRU and what is taken out of its tuple."""

    module: Any
    name: str  # "both": (outputs, state); "pair": (h, c); "h"

    def part(self, node: Any, path: str) -> tuple[State | None, nn.Module | None]:
        """Return the state behind an indexing, None for a tensor, and a module or None."""
        index: Any = node.args[1] if len(node.args) > 1 else None
        rows = int(self.module.num_layers) * (1 + bool(self.module.bidirectional))
        if node.target is operator.getitem and isinstance(index, int):
            if self.name == "both" and index in (0, 1):
                inner = "pair" if isinstance(self.module, nn.LSTM) else "h"
                return (State(self.module, inner) if index else None), None
            if self.name == "pair" and index == 0:
                return State(self.module, "h"), None
            if self.name == "h" and index in (-1, rows - 1) and not self.module.bidirectional:
                return None, Last(None)
        if self.name == "h" and node.target == "squeeze" and index == 0 and rows == 1:
            return None, Last(None)
        ends = [place % rows for place in _places(node)]
        if self.name == "h" and self.module.bidirectional and ends == [rows - 2, rows - 1]:
            return None, Final(self.module.proj_size or self.module.hidden_size)
        what = type(self.module).__name__
        expected = f"of the {what} its outputs, or h of the last layer in one direction or in both"
        raise InputError(path, expected, _text(node))


def _places(node: Any) -> list[int]:
    """Return which states ``torch.cat([h[-2], h[-1]], 1)`` takes of h; none for other nodes."""
    given = node.args[0] if node.op == "call_function" and node.args else None
    axis = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
    if node.target not in (torch.cat, torch.concat) or axis not in (1, -1):
        return []
    parts = list(given) if isinstance(given, list | tuple) else []
    taken = [_place(part) for part in parts]
    alone = all(isinstance(part, fx.Node) and len(part.users) == 1 for part in parts)
    whole = [place for place in taken if place is not None]
    return whole if len(whole) == len(parts) == 2 and alone else []


def _place(node: Any) -> int | None:
    """Return k of ``h[k]``, also ``h[k, :, :]``."""
    if not isinstance(node, fx.Node) or node.target is not operator.getitem:
        return None
    index: Any = node.args[1]
    index = index if isinstance(index, tuple) else (index,)
    whole = all(place == slice(None) or place is ... for place in index[1:])
    return index[0] if index and isinstance(index[0], int) and whole else None


def _joined(node: Any) -> Any:
    """Return h if a node joins two of its states; else None."""
    if not _places(node):
        return None
    sources = {part.args[0] for part in node.args[0]}
    return sources.pop() if len(sources) == 1 else None


def _traced(module: nn.Module, leaves: tuple[type, ...]) -> Any:
    class Tracer(fx.Tracer):
        def is_leaf_module(self, m: nn.Module, qualified_name: str) -> bool:
            if type(m).forward is nn.Sequential.forward:
                return False
            return isinstance(m, leaves) or super().is_leaf_module(m, qualified_name)

    modes = [(each, each.training) for each in module.modules()]
    try:
        module.eval()  # where the model asks for it
        graph = Tracer().trace(module)
        graph.eliminate_dead_code(lambda node: node.op in ("placeholder", "output"))
        return graph
    except Exception as error:  # whatever the model's own code does with a traced value
        fix = "Pass a part of the model, or a torch.nn.Sequential of its layers."
        reason = f"a forward that torch.fx cannot follow: {str(error).splitlines()[0][:160]}"
        raise InputError("module", CHAIN, reason, fix) from error
    finally:
        for each, mode in modes:
            each.training = mode


def _path(node: Any) -> str:
    """Return the path of the module that a node is, or in which it is called."""
    if node.op == "call_module":
        return str(node.target)
    stack = node.meta.get("nn_module_stack") or {}
    inside = [str(name) for name, *_ in stack.values()] or ["module"]
    return inside[-1] or "module"


def _text(node: Any) -> str:
    name = getattr(node.target, "__name__", str(node.target))
    return f"{name}({', '.join(map(str, node.args))})"


def _is_shape(node: Any, shapes: set[Any]) -> bool:
    """True for ``x.shape``, ``x.size(0)``, ``x.shape[0]``, ``x.device`` and the like."""
    if node.op == "call_function" and node.target is getattr:
        return bool(node.args[1] in ("shape", "ndim", "device", "dtype"))
    if node.op == "call_method":
        return node.target in ("size", "dim")
    return node.target is operator.getitem and node.args[0] in shapes


def _is_zeros(node: Any, beside: set[Any]) -> bool:
    """True for ``torch.zeros(2, x.size(0), 8)``, also behind a ``.to(x.device)``."""
    if node.op == "call_function":
        return node.target in (torch.zeros, torch.zeros_like)
    if node.op == "call_method":
        moved = node.target in ("to", "float", "double") and node.args[0] in beside
        return moved or node.target == "new_zeros"
    return False


def _as_module(root: nn.Module, node: Any, path: str) -> nn.Module:
    if node.op == "call_module":
        return root.get_submodule(node.target)
    name = node.target if node.op == "call_method" else FUNCTIONS.get(node.target)
    make = CALLS.get(name) if isinstance(name, str) else None
    if make is None:
        raise InputError(path, f"modules, or the functions {', '.join(CALLS)}", _text(node))
    kind, names = make
    if name == "dropout" and node.kwargs.get("training", True) is not False:
        fix = "Pass training=self.training."
        raise InputError(path, "dropout in training only", _text(node), fix)
    if kind is nn.Flatten and name in ("view", "reshape"):
        return _reshaped(node, path)
    if names == VARIADIC:
        made = kind(*node.args[1:])
    else:
        given = dict(zip(names, node.args[1:], strict=False))
        made = kind(**given | {key: v for key, v in node.kwargs.items() if key in names})
    if made is None:
        expected = "the last step or the mean over time, or an exchange of samples and time"
        raise InputError(path, expected, _text(node))
    return made


def _last_of(index: Any) -> nn.Module | None:
    """Return a Last for ``x[:, -1]``, ``x[:, -1, :]`` and ``x[-1]``."""
    places = list(index) if isinstance(index, tuple) else [index]
    while places and places[-1] in (slice(None), ...):
        places.pop()
    whole = all(place == slice(None) for place in places[:-1])
    return Last(len(places) - 1) if 0 < len(places) < 3 and places[-1] == -1 and whole else None


def _selected(dim: Any = None, index: Any = None) -> nn.Module | None:
    return Last(dim) if index == -1 and dim in (0, 1) else None


def _mean(dim: Any = None, keepdim: Any = False) -> nn.Module | None:
    only = dim[0] if isinstance(dim, tuple | list) and len(dim) == 1 else dim
    axis = 1 if only == -2 else only
    return Mean(axis) if isinstance(axis, int) and axis in (0, 1) and not keepdim else None


def _swapped(dim0: Any = None, dim1: Any = None) -> nn.Module | None:
    return Swap() if {dim0, dim1} in ({0, 1}, {-2, -3}) else None


def _permuted(*order: Any) -> nn.Module | None:
    axes = order[0] if len(order) == 1 and isinstance(order[0], tuple | list) else order
    return Swap() if tuple(axes) == (1, 0, 2) else None


def _reshaped(node: Any, path: str) -> nn.Module:
    """Return a Flatten for ``x.view(len(x), -1)`` and ``x.view(-1, features)``."""
    sizes = node.args[1:]
    if len(sizes) == 1 and isinstance(sizes[0], tuple | list):
        sizes = tuple(sizes[0])
    if len(sizes) == 2 and isinstance(sizes[0], fx.Node) and sizes[1] == -1:
        return nn.Flatten()
    if len(sizes) == 2 and sizes[0] == -1 and isinstance(sizes[1], int) and sizes[1] > 0:
        return Features(sizes[1])
    expected = "a vector for each sample: x.flatten(1), x.view(x.size(0), -1)"
    raise InputError(path, expected, _text(node))


class Features(nn.Flatten):
    """A Flatten that gives a known number of features."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.features = features


VARIADIC = ("*",)
CALLS: dict[str, tuple[Callable[..., nn.Module | None], tuple[str, ...]]] = {
    "relu": (nn.ReLU, ()),
    "relu6": (nn.ReLU6, ()),
    "hardtanh": (nn.Hardtanh, ("min_val", "max_val")),
    "leaky_relu": (nn.LeakyReLU, ("negative_slope",)),
    "gelu": (nn.GELU, ("approximate",)),
    "tanh": (nn.Tanh, ()),
    "sigmoid": (nn.Sigmoid, ()),
    "softmax": (nn.Softmax, ("dim",)),
    "dropout": (nn.Dropout, ("p",)),
    "flatten": (nn.Flatten, ("start_dim", "end_dim")),
    "view": (nn.Flatten, ()),
    "reshape": (nn.Flatten, ()),
    "contiguous": (nn.Identity, ()),
    "getitem": (_last_of, VARIADIC),
    "select": (_selected, ("dim", "index")),
    "mean": (_mean, ("dim", "keepdim")),
    "transpose": (_swapped, ("dim0", "dim1")),
    "permute": (_permuted, VARIADIC),
}
FUNCTIONS: dict[Any, str] = {
    F.relu: "relu", torch.relu: "relu", F.relu6: "relu6", F.hardtanh: "hardtanh",
    F.leaky_relu: "leaky_relu", F.gelu: "gelu", torch.tanh: "tanh", F.tanh: "tanh",
    torch.sigmoid: "sigmoid", F.sigmoid: "sigmoid", F.softmax: "softmax", torch.softmax: "softmax",
    F.dropout: "dropout", torch.flatten: "flatten", torch.reshape: "reshape",
    operator.getitem: "getitem", torch.select: "select", torch.mean: "mean",
    torch.transpose: "transpose", torch.permute: "permute",
}  # fmt: skip
