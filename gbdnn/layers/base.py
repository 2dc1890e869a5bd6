"""What a layer is: a frozen record that knows its equation, forwards and backwards.

Inside a network Y has the shape (tiles, features, width): columns are samples and never meet. For
feed-forward layers a tile is some of the samples, for recurrent ones (`over_time`) a time step.

A new layer is a class in a file of its own with `kind`, `parameters`, `forward` and `backward`, put
into `gbdnn.layers.LAYERS`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, Protocol, Self

import numpy as np
import numpy.typing as npt

from gbdnn.errors import GbdnnError, InputError, choose
from gbdnn.types import Array
from gbdnn.weights import Weight

__all__ = ["Activation", "Bounds", "Layer", "Run", "Tape"]

Bounds = tuple[float, float]
Tape = list[Array] | None


class Run(Protocol):
    """What a layer computes with; `gbdnn.execution.run.Run`.

    Weights come as the backend has prepared them. Arrays that are returned live until the run's
    next pass.
    """

    rng: np.random.Generator | None  # None: nothing is random, as in prediction
    lengths: Array | None  # of sequences, shape (width,), 0 for padding; None: tiles are all of it
    goes_on: bool  # sequences go on behind the tiles, whose states are handed on

    def empty(self, tiles: int, features: int, width: int) -> Array:
        """Return an uninitialised aligned array."""

    def affine(
        self,
        w: Any,
        Y: Array,
        bias: Array | None = None,
        *,
        out: Array | None = None,
        clamp: Bounds | None = None,
        accumulate: bool = False,
    ) -> Array:
        """Return clamp(W Y + b), or with `accumulate` clamp(out + W Y + b), in `out`."""

    def over_time(self, w: Any, Y: Array, bias: Array | None = None) -> Array:
        """Return W Y + b for time steps: a column's bits do not depend on how many there are."""

    def quantized(self, p: Any, name: str, Y: Array) -> Array:
        """Return Y as the quantizer of activation `name` rounds it; Y itself if there is none."""

    def quantized_grad(self, p: Any, name: str, Y: Array, dY: Array) -> Array:
        """Turn dY, the gradient by ``quantized(p, name, Y)``, into that by Y, in place."""

    def input_grad(self, w: Any, dZ: Array) -> Array:
        """Return W^T dZ."""

    def weight_grad(self, p: Any, name: str, dZ: Array, Y: Array) -> None:
        """Write dZ Y^T at the pattern of parameter `name`, summed over tiles, to ``p.grad``."""

    def row_sums(self, p: Any, name: str, dZ: Array) -> None:
        """Write the row sums of dZ over all tiles to ``p.grad[name]``."""

    def begin(self, p: Any, name: str, out: Array) -> None:
        """Write the state `name` before the first time step to `out`: zeros, or what `end` took."""

    def end(self, p: Any, name: str, value: Array) -> None:
        """Take the state `name` behind the last time step, for those who go on from it."""

    def lstm(self, p: Any, Z: Array, H: Array, C: Array, V: Array, M: Array) -> None:
        """Compute the recurrence of an LSTM from Z = W X + b; see `gbdnn.execution.loops`."""

    def lstm_grad(
        self, p: Any, Z: Array, H: Array, C: Array, V: Array, M: Array, dV: Array
    ) -> None:
        """Go back through the recurrence of an LSTM; Z becomes dZ, and dV is completed."""

    def gru(self, p: Any, Z: Array, B: Array, H: Array, V: Array) -> None:
        """Compute the recurrence of a GRU from Z = W X + b."""

    def gru_grad(self, p: Any, Z: Array, B: Array, H: Array, V: Array, dV: Array) -> None:
        """Go back through the recurrence of a GRU; Z and B become the gradients of both sums."""

    def columns(self, w: Any, numbers: Array) -> Array:
        """Return columns of W, shape (tiles, out_features, width), by numbers (tiles, width)."""

    def units(self, w: Any, numbers: Array) -> Array:
        """Return columns of the unit matrix by numbers, filled up with zeros, as one tile."""

    def clamp_grad(self, Y: Array, dY: Array, bounds: Bounds) -> None:
        """Set dY to 0 where not low < Y < high."""

    def keep(self, tape: Tape, *arrays: Array) -> None:
        """Put arrays on the tape: nobody overwrites them before the backward pass."""

    def over(self, Y: Array) -> Array:
        """Return Y to be overwritten, or a copy if it is on a tape."""


class Layer:
    """A layer: a frozen dataclass. Everything but the equation has a default here.

    Attributes
    ----------
    kind : str
        Its name in `LAYERS` and in model files.
    in_features, out_features : int or None
        None for elementwise layers, which take and give any number.
    over_time : bool
        Tiles are time steps, in order.
    needs_all_steps : bool
        The layer wants whole sequences: they cannot be given to it in parts.
    one_row : bool
        The layer gives one tile for all time steps: a row for each sequence.
    is_activation : bool
        May be named by a string wherever an activation is asked for.
    only_trains : bool
        Does nothing in prediction.
    is_affine : bool
        The layer is Z = W Y + b of its parameters `weight` and `bias`.
    is_elementwise : bool
        The layer is a function of single values: features do not meet.
    fuses_clamp : bool
        `forward` computes ``p.clamp``, the bounds of the activation behind it, as it stores.
    activation_names : tuple of str
        What of the layer's values may have a quantizer: "input", and "hidden" of recurrent layers.
    row_blocks : int
        Equal blocks of rows of the weights that belong together: the gates of a recurrent layer.
    rows_of, columns_of : str or None
        The weight whose rows are the layer's outputs, and the one whose columns are its inputs:
        for pruning of whole neurons.
    """

    kind: ClassVar[str]
    over_time: ClassVar[bool] = False
    needs_all_steps: ClassVar[bool] = False
    one_row: ClassVar[bool] = False
    is_activation: ClassVar[bool] = False
    only_trains: ClassVar[bool] = False
    is_affine: ClassVar[bool] = False
    is_elementwise: ClassVar[bool] = False
    fuses_clamp: ClassVar[bool] = False
    rows_of: ClassVar[str | None] = None
    columns_of: ClassVar[str | None] = None
    activation_names: ClassVar[tuple[str, ...]] = ()
    row_blocks: ClassVar[int] = 1
    weight_names: ClassVar[tuple[str, ...]] = ()
    array_names: ClassVar[tuple[str, ...]] = ()

    @property
    def in_features(self) -> int | None:
        """Features of Y; None: any."""
        return None

    @property
    def out_features(self) -> int | None:
        """Features of the result; None: those of Y."""
        return None

    @property
    def time_factor(self) -> int:
        """So many time steps become one: T of them ceil(T / time_factor)."""
        return 1

    @property
    def least_features(self) -> int:
        """Features that Y must have where `in_features` is None."""
        return 1

    @property
    def clamp(self) -> Bounds | None:
        """(low, high) if the layer is min(max(y, low), high)."""
        return None

    @property
    def parameters(self) -> Mapping[str, Weight | Array]:
        """What is learned: weights and arrays (biases), by the names of the fields."""
        return {name: getattr(self, name) for name in (*self.weight_names, *self.array_names)}

    def trained_parameters(self) -> Mapping[str, Weight | Array]:
        """Return the parameters as they are trained; a scalar may become a vector."""
        return self.parameters

    @property
    def settings(self) -> Mapping[str, Any]:
        """The other fields: what JSON can say."""
        learned = {*self.weight_names, *self.array_names}
        fields = dataclasses.fields(self)  # type: ignore[arg-type]
        return {f.name: getattr(self, f.name) for f in fields if f.name not in learned}

    @classmethod
    def of(cls, parameters: Mapping[str, Any], settings: Mapping[str, Any]) -> Self:
        """Return a layer from `parameters` and `settings`; everything is checked.

        Raises
        ------
        InputError, DtypeError
        """
        given = {**parameters, **settings}
        known = [field.name for field in dataclasses.fields(cls)]  # type: ignore[arg-type]
        for name in given:
            choose(f"{cls.kind}: a field", name, known)
        try:
            return cls(**given)
        except TypeError as error:  # one is missing, or of a type that cannot be compared
            if isinstance(error, GbdnnError):
                raise
            raise InputError(cls.kind, "its fields", str(error)[:200]) from None

    def activation_of(self, weight: str) -> str | None:
        """Return which of `activation_names` a weight is multiplied with; None: one without."""
        name = "hidden" if weight == "recurrent" else "input"
        return name if name in self.activation_names else None

    def replaced(self, **parameters: Any) -> Self:
        """Return the layer with some parameters exchanged."""
        return self.of({**self.parameters, **parameters}, self.settings)

    @property
    def dtype(self) -> np.dtype[Any] | None:
        """What the layer computes in; None without parameters."""
        return next((p.dtype for p in self.parameters.values()), None)

    @property
    def edges(self) -> int:
        """Multiply-adds for a column: stored entries of the weights."""
        return sum(getattr(self, name).nnz for name in self.weight_names)

    @property
    def nbytes(self) -> int:
        """Bytes of the parameters."""
        return sum(parameter.nbytes for parameter in self.parameters.values())

    def astype(self, dtype: npt.DTypeLike) -> Layer:
        """Return the layer in another float dtype."""
        if not self.parameters:
            return self
        converted = {name: p.astype(dtype) for name, p in self.parameters.items()}
        return self.of(converted, self.settings)

    def keeps(self, after: Sequence[Layer]) -> frozenset[float]:
        """Return the constants c for which this layer, then `after`, maps c*1 to c*1."""
        return frozenset()

    def affines(self, p: Any) -> tuple[tuple[Any, Array], ...] | None:
        """Return (weight, bias) pairs if the layer is just these affine maps, one after another."""
        return None

    def forward(self, run: Run, p: Any, Y: Array, tape: Tape = None) -> Array:
        """Return the layer's value, shape (tiles, out_features, width).

        Parameters
        ----------
        run : Run
        p : namespace
            The parameters by name: weights as the backend prepared them, arrays as they are.
        Y : ndarray, shape (tiles, in_features, width)
        tape : list, optional
            Takes what `backward` needs, by `Run.keep`; None in prediction.
        """
        raise NotImplementedError

    def backward(self, run: Run, p: Any, dY: Array, tape: list[Array]) -> Array:
        """Write the gradients of all parameters to ``p.grad``; return that of the input.

        `dY`, the gradient of what `forward` returned, may be overwritten. Where ``p.passes_back``
        is False nobody wants the input's gradient, and anything may be returned.
        """
        raise NotImplementedError


class Activation(Layer):
    """An elementwise layer, or one over the features of each column.

    Subclasses have `apply` and `derivative`. `needs` says what the latter gets: the value h(Z),
    which the next layer keeps anyway, or Z.
    """

    is_activation = True

    @property
    def needs(self) -> Literal["output", "input"]:
        """What `derivative` must be given."""
        return "output"

    def apply(self, Z: Array) -> None:
        """Replace Z, shape (..., features, width), by h(Z)."""
        raise NotImplementedError

    def derivative(self, kept: Array, dY: Array, /) -> None:
        """Replace dY by dZ = dY * h'(Z), from h(Z) or Z as `needs` says."""
        raise NotImplementedError

    def forward(self, run: Run, p: Any, Y: Array, tape: Tape = None) -> Array:
        """Return h(Y), in place where nobody needs Y any more."""
        if self.needs == "input":
            run.keep(tape, Y)
        if p.applied:  # by the product before, as it stored
            Z = Y
        else:
            Z = run.over(Y)
            self.apply(Z)
        if self.needs == "output":
            run.keep(tape, Z)
        return Z

    def backward(self, run: Run, p: Any, dY: Array, tape: list[Array]) -> Array:
        """Return dY * h'(Z), in place."""
        if self.clamp is None:
            self.derivative(tape[0], dY)
        elif self.clamp != (-np.inf, np.inf):
            run.clamp_grad(tape[0], dY, self.clamp)
        return dY
