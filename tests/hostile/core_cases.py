"""Hostile cases of the core: case name -> (function, expected class of gbdnn.errors or None)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp

from gbdnn import CSR, Linear, Network, ReLU, as_csr, transpose
from gbdnn.backends import get_backend
from gbdnn.errors import (
    DtypeError,
    InputError,
    MemoryBudgetError,
    NonFiniteError,
    ShapeError,
    SparseFormatError,
    UnknownNameError,
)
from gbdnn.weights.graphblas import graphblas

gb = graphblas()  # once, before the cases fork
get_backend("dense")

DENSE = np.array([[1, 0, 2], [0, 3, 0], [4, 0, 0], [0, 0, 5.0]], np.float32)
INT32_MAX = 2**31 - 1
TOP = 2**63  # as uint64: negative where compiled code reads int64

CASES: dict[str, tuple[Callable[[], Any], type[Exception] | None]] = {}


def matrix(layout: str, **attributes: Any) -> Any:
    """Return DENSE in a format of scipy, with attributes replaced behind scipy's back."""
    made = sp.csr_array(DENSE).asformat(layout)
    for name, value in attributes.items():
        setattr(made, name, value)
    return made


def use(weight: Any) -> Any:
    """Take a weight through the door and let compiled code read it."""
    csr = as_csr(weight)
    rows, columns = csr.shape
    transpose(csr)
    network = Network([Linear(csr), ReLU(2.0)])
    return network.predict(np.ones((3, columns))), csr.to_graphblas(), rows


def refused(layout: str, error: type[Exception], **changes: dict[str, Any]) -> None:
    """Add cases: `layout` with each group of attributes must raise `error`."""
    for label, attributes in changes.items():
        name = f"{layout}: {label.replace('_', ' ')}"

        def weight(attributes: dict[str, Any] = attributes) -> Any:
            return use(matrix(layout, **attributes))

        def batch(attributes: dict[str, Any] = attributes) -> Any:
            return Network([Linear(np.eye(3))]).predict(matrix(layout, **attributes))

        CASES[name] = (weight, error)
        CASES[f"{name}, as X"] = (batch, error)


def case(name: str, error: type[Exception] | None) -> Callable[[Callable[[], Any]], Any]:
    """Add the decorated function as a case."""

    def add(function: Callable[[], Any]) -> Callable[[], Any]:
        CASES[name] = (function, error)
        return function

    return add


def part(layout: str, name: str) -> Any:
    """Return a copy of an attribute of the healthy matrix."""
    return getattr(matrix(layout), name).copy()


# -- compressed formats ----------------------------------------------------------------------------

for layout in ("csr", "csc", "bsr"):
    healthy = matrix(layout)
    pointers, indices, data = healthy.indptr, healthy.indices, healthy.data
    last = len(pointers) - 1

    def moved(array: Any, place: int, value: Any) -> Any:
        """Return a copy with one value replaced."""
        copy = array.astype(np.int64) if abs(value) > INT32_MAX else array.copy()
        copy[place] = value
        return copy

    refused(
        layout,
        SparseFormatError,
        index_out_of_range={"indices": moved(indices, 1, 10)},
        index_far_out={"indices": moved(indices, 1, INT32_MAX)},
        index_very_far_out={"indices": moved(indices, 1, 2**62)},
        index_negative={"indices": moved(indices, 1, -1)},
        index_very_negative={"indices": moved(indices, 1, -(2**31))},
        indices_from_2_to_63={"indices": indices.astype(np.uint64) + np.uint64(TOP)},
        indices_short={"indices": indices[:-1]},
        indices_none={"indices": indices[:0]},
        indices_float={"indices": indices.astype(float)},
        indices_object={"indices": indices.astype(object)},
        indices_square={"indices": indices.reshape(-1, 1)},
        indices_list={"indices": indices.tolist()},
        data_short={"data": data[:-1]},
        data_none={"data": data[:0]},
        data_list={"data": data.tolist()},
        data_flat_or_deep={"data": data.reshape(1, 1, -1) if data.ndim == 1 else data.ravel()},
        indptr_falls={"indptr": moved(pointers, 1, int(pointers[-1]) + 1)},
        indptr_starts_late={"indptr": moved(pointers, 0, 1)},
        indptr_negative={"indptr": moved(pointers, 0, -1)},
        indptr_all_negative={"indptr": pointers - 5},
        indptr_ends_far={"indptr": moved(pointers, last, 10**6)},
        indptr_overflows_32={"indptr": moved(pointers, last, 2**31 + 1)},
        indptr_overflows_64={"indptr": moved(pointers, last, 2**63 - 1)},
        indptr_wraps={"indptr": pointers.astype(np.uint64) + np.uint64(2**64 - 1)},
        indptr_short={"indptr": pointers[:-1]},
        indptr_long={"indptr": np.append(pointers, pointers[-1])},
        indptr_empty={"indptr": pointers[:0]},
        indptr_float={"indptr": pointers.astype(float)},
        indptr_none={"indptr": None},
        shape_larger={"_shape": (5, 4)},
        shape_narrow={"_shape": (4, 1) if layout != "csc" else (1, 3)},
    )
    refused(
        layout,
        ShapeError,
        shape_negative={"_shape": (-4, 3)},
        shape_float={"_shape": (4.0, 3.0)},
        shape_words={"_shape": ("a", "b")},
    )
    refused(layout, InputError, data_masked={
        "data": np.ma.masked_array(data, np.ones(data.shape, bool))})  # fmt: skip
    refused(
        layout,
        DtypeError,
        data_complex={"data": data.astype(complex)},
        data_object={"data": data.astype(object)},
        data_text={"data": data.astype(str)},
    )
    refused(
        layout,
        NonFiniteError,
        data_nan={"data": data * np.nan},
        data_inf={"data": data * -np.inf},
    )

refused("csr", SparseFormatError, repeated={
    "indices": np.zeros(5, np.int32), "indptr": np.array([0, 2, 3, 4, 5])})  # fmt: skip
refused("csr", SparseFormatError, huge_claim={"_shape": (2**40, 3)})
refused("csc", SparseFormatError, huge_claim={"_shape": (4, 2**40)})
refused("csc", MemoryBudgetError, huge_rows={"_shape": (2**45, 3)})
refused(
    "bsr",
    SparseFormatError,
    blocks_empty={"data": np.zeros((5, 0, 1), np.float32)},
    blocks_large={"data": np.zeros((5, 3, 2), np.float32)},
    blocks_huge={"data": np.broadcast_to(np.float32(1), (5, 2**20, 2**20))},
)


@case("csr: unsorted is sorted", None)
def unsorted() -> None:
    """Right result, and the caller's matrix stays as it was."""
    made = sp.csr_array(([2.0, 1.0, 3.0], [2, 0, 1], [0, 2, 3]), shape=(2, 3))
    wanted = made.toarray()
    np.testing.assert_array_equal(as_csr(made).to_dense(), wanted)
    result = Network([Linear(made)]).predict(np.eye(3))
    np.testing.assert_array_equal(result, wanted.T)
    assert made.indices.tolist() == [2, 0, 1]


# -- other formats ---------------------------------------------------------------------------------

row, col, values = part("coo", "row"), part("coo", "col"), part("coo", "data")
refused(
    "coo",
    SparseFormatError,
    row_out_of_range={"coords": (row + 9, col)},
    row_negative={"coords": (row - 9, col)},
    col_out_of_range={"coords": (row, col + INT32_MAX - 9)},
    col_negative={"coords": (row, -col)},
    rows_from_2_to_63={"coords": (row.astype(np.uint64) + np.uint64(TOP), col)},
    row_short={"coords": (row[:-1], col)},
    col_short={"coords": (row, col[:-1])},
    data_short={"data": values[:-1]},
    data_long={"data": np.ones(10**6, np.float32)},
    rows_float={"coords": (row + 0.5, col)},
    rows_nan={"coords": (row * np.nan, col)},
    rows_list={"coords": (row.tolist(), col.tolist())},
    rows_object={"coords": (row.astype(object), col.astype(object))},
    three_coordinates={"coords": (row, col, col)},
    one_coordinate={"coords": (row,)},
    no_coordinates={"coords": None},
    square={"coords": (row.reshape(1, -1), col.reshape(1, -1)), "data": values.reshape(1, -1)},
    shape_smaller={"_shape": (2, 2)},
    data_list={"data": values.tolist()},
)  # fmt: skip
refused("coo", MemoryBudgetError, huge_claim={"_shape": (2**45, 3)})
refused("coo", ShapeError, three_dimensions={"_shape": (4, 3, 1)}, none={"_shape": (4,)})
refused("coo", NonFiniteError, data_nan={"data": values * np.nan})
refused("coo", DtypeError, data_object={"data": values.astype(object)})

offsets, bands = part("dia", "offsets"), part("dia", "data")
refused(
    "dia",
    SparseFormatError,
    offsets_long={"offsets": np.arange(10**5, dtype=np.int32)},
    offsets_short={"offsets": offsets[:1]},
    offsets_none={"offsets": offsets[:0]},
    offsets_float={"offsets": offsets.astype(float)},
    offsets_nan={"offsets": offsets * np.nan},
    offsets_square={"offsets": offsets.reshape(1, -1)},
    offsets_repeated={"offsets": 0 * offsets},
    data_short={"data": bands[:1]},
    data_flat={"data": bands.ravel()},
    data_list={"data": bands.tolist()},
)
refused("dia", MemoryBudgetError, huge_claim={"_shape": (2**45, 3)})
refused("dia", NonFiniteError, data_nan={"data": bands * np.nan})
for extreme in (INT32_MAX, -(2**31), -INT32_MAX):
    CASES[f"dia: offset {extreme}"] = (
        lambda extreme=extreme: use(
            matrix("dia", offsets=np.array([extreme, 0, 1, 2][: len(offsets)], np.int32))
        ),
        None,
    )


def lists(*rows_of_lists: Any) -> Any:
    """Return an array of lists."""
    array = np.empty(len(rows_of_lists), object)
    array[:] = rows_of_lists
    return array


refused(
    "lil",
    SparseFormatError,
    data_long={"data": lists([1.0] * 10**6, [3.0], [4.0], [5.0])},
    data_short={"data": lists([1.0], [3.0], [4.0], [5.0])},
    data_none={"data": lists([], [], [], [])},
    rows_long={"rows": lists([0] * 10**6, [1], [0], [2])},
    rows_few={"rows": lists([0, 2])},
    rows_many={"rows": lists([0, 2], [1], [0], [2], [0] * 10**6)},
    row_out_of_range={"rows": lists([0, 10**6], [1], [0], [2])},
    row_negative={"rows": lists([0, -1], [1], [0], [2])},
    row_beyond_64_bits={"rows": lists([0, 2**70], [1], [0], [2])},
    row_text={"rows": lists([0, "x"], [1], [0], [2])},
    row_repeated={"rows": lists([0, 0], [1], [0], [2])},
    rows_numbers={"rows": np.arange(4)},
    rows_nothing={"rows": None},
    data_text={"data": lists(["a", "b"], [3.0], [4.0], [5.0])},
    data_objects={"data": lists([None, None], [3.0], [4.0], [5.0])},
)
refused("lil", DtypeError, dtype_object={"dtype": np.dtype(object)})
refused("lil", NonFiniteError, data_nan={"data": lists([np.nan, 1.0], [3.0], [4.0], [5.0])})

keys = dict(matrix("dok").items())
refused(
    "dok",
    SparseFormatError,
    key_out_of_range={"_dict": {**keys, (99, 0): 1.0}},
    key_negative={"_dict": {**keys, (-1, 0): 1.0}},
    key_beyond_64_bits={"_dict": {**keys, (2**70, 0): 1.0}},
    key_triple={"_dict": {(0, 0, 0): 1.0}},
    key_mixed={"_dict": {**keys, (0, 0, 0): 1.0}},
    key_text={"_dict": {**keys, "ab": 1.0}},
    key_float={"_dict": {**keys, (0.5, 0): 1.0}},
    value_text={"_dict": {**keys, (0, 0): "x"}},
)
refused("dok", MemoryBudgetError, huge_claim={"_shape": (2**45, 3)})
refused(
    "dok",
    NonFiniteError,
    value_nan={"_dict": {**keys, (0, 0): np.nan}},
    value_none={"_dict": {**keys, (0, 0): None}},  # scipy makes it NaN
)

# -- CSR, GraphBLAS, dense -------------------------------------------------------------------------


def direct(indptr: Any, indices: Any, data: Any, shape: Any) -> Callable[[], Any]:
    """Return a function that builds a CSR by hand."""
    return lambda: CSR(np.array(indptr), np.array(indices), np.array(data), shape)


CASES |= {
    "CSR: index out of range": (direct([0, 1], [7], [1.0], (1, 1)), SparseFormatError),
    "CSR: unsorted": (direct([0, 2], [1, 0], [1.0, 2.0], (1, 2)), SparseFormatError),
    "CSR: repeated": (direct([0, 2], [1, 1], [1.0, 2.0], (1, 2)), SparseFormatError),
    "CSR: huge shape": (direct([0, 1], [0], [1.0], (2**60, 1)), SparseFormatError),
    "CSR: huge indptr": (direct([0, 2**62], [0], [1.0], (1, 1)), SparseFormatError),
    "CSR: one value, no entries": (direct([0, 0], np.empty(0, int), [1.0], (1, 1)), None),
    "graphblas: huge and empty": (
        lambda: as_csr(gb.Matrix(float, 2**59, 2**59)),
        MemoryBudgetError,
    ),
    "graphblas: huge": (
        lambda: as_csr(gb.Matrix.from_coo([2**58], [0], [1.0], nrows=2**59, ncols=3)),
        MemoryBudgetError,
    ),
    "graphblas: vector": (lambda: as_csr(gb.Vector(float, 9)), ShapeError),
    "graphblas: NaN": (lambda: as_csr(gb.Matrix.from_dense([[np.nan]])), NonFiniteError),
    "graphblas: complex": (lambda: as_csr(gb.Matrix("FC64", 2, 2)), DtypeError),
    "coo_array: huge and empty": (lambda: as_csr(sp.coo_array((2**45, 3))), MemoryBudgetError),
    "weights: NaN": (lambda: Linear([[np.nan]]), NonFiniteError),
    "weights: inf": (lambda: Linear(sp.csr_array([[np.inf]])), NonFiniteError),
    "weights: too large": (lambda: Linear([[1e300]]), NonFiniteError),
    "weights: unchecked NaN": (
        lambda: Linear(as_csr(sp.csr_array([[np.nan]]), finite=False)),
        NonFiniteError,
    ),
    "weights: complex": (lambda: Linear([[1j]]), DtypeError),
    "weights: object": (lambda: Linear(np.array([[object()]])), DtypeError),
    "weights: text": (lambda: Linear([["1"]]), DtypeError),
    "weights: ragged": (lambda: Linear([[1], [2, 3]]), DtypeError),
    "weights: masked": (lambda: Linear(np.ma.masked_array([[1.0]], [[1]])), InputError),
    "weights: 1-D": (lambda: Linear([1.0, 2.0]), ShapeError),
    "weights: empty": (lambda: Linear(np.ones((0, 3))), ShapeError),
    "bias: too long": (lambda: Linear(np.eye(2), np.ones(3)), ShapeError),
    "bias: NaN": (lambda: Linear(np.eye(2), np.nan), NonFiniteError),
    "bias: text": (lambda: Linear(np.eye(2), "b"), DtypeError),
    "cap: text": (lambda: ReLU("32"), InputError),
}  # fmt: skip

# -- networks --------------------------------------------------------------------------------------


def predicting(X: Any, **options: Any) -> Callable[[], Any]:
    """Return a function that predicts on all backends in turn."""
    return lambda: Network([Linear(matrix("csr")), "relu"]).predict(X, **options)


BATCHES: dict[str, tuple[Any, type[Exception] | None]] = {
    "1-D": (np.ones(3), ShapeError),
    "3-D": (np.ones((2, 3, 1)), ShapeError),
    "wrong width": (np.ones((2, 4)), ShapeError),
    "no features": (np.ones((2, 0)), ShapeError),
    "a million features": (np.ones((1, 10**6)), ShapeError),
    "huge sparse": (sp.csr_array((1, 2**50)), ShapeError),
    "complex": (np.ones((2, 3), complex), DtypeError),
    "object": (np.ones((2, 3), object), DtypeError),
    "text": (np.full((2, 3), "1"), DtypeError),
    "nothing": (None, DtypeError),
    "graphblas": (gb.Matrix(float, 2, 3), DtypeError),
    "masked": (np.ma.masked_array(np.ones((2, 3)), np.eye(2, 3)), InputError),
    "NaN": (np.full((2, 3), np.nan), NonFiniteError),
    "inf": (np.full((2, 3), np.inf), NonFiniteError),
    "too large": (np.full((2, 3), 1e300), NonFiniteError),
    "broadcast to 10^12 samples": (
        np.broadcast_to(np.float32(0), (10**12, 3)),
        MemoryBudgetError,
    ),
    "empty": (np.ones((0, 3)), None),
    "one sample": (np.ones((1, 3)), None),
    "Fortran": (np.ones((2, 3), order="F"), None),
    "float16": (np.ones((2, 3), np.float16), None),
}
for backend in ("dense", "graphblas", "graphblas-reference"):
    for label, (X, error) in BATCHES.items():
        # the check for finite values would read all of the broadcast batch
        finite = "broadcast" not in label
        CASES[f"X on {backend}: {label}"] = (
            predicting(X, backend=backend, check_finite=finite),
            error,
        )

CASES |= {
    "batch_size: 0": (predicting(np.ones((2, 3)), batch_size=0), InputError),
    "batch_size: text": (predicting(np.ones((2, 3)), batch_size="9"), InputError),
    "batch_size: vast": (predicting(np.ones((2, 3)), batch_size=10**30), None),
    "threads: -1": (predicting(np.ones((2, 3)), threads=-1), InputError),
    "threads: 1.5": (predicting(np.ones((2, 3)), threads=1.5), InputError),
    "backend: unknown": (predicting(np.ones((2, 3)), backend="torch"), UnknownNameError),
    "backend: unhashable": (predicting(np.ones((2, 3)), backend=[]), UnknownNameError),
    "progress: number": (predicting(np.ones((2, 3)), progress=1), DtypeError),
    "layers: none": (lambda: Network([]), InputError),
    "layers: do not chain": (
        lambda: Network([Linear(np.ones((2, 3))), Linear(np.ones((2, 3)))]),
        ShapeError,
    ),
    "layers: unknown name": (lambda: Network([Linear(np.eye(2)), "swish"]), UnknownNameError),
    "layers: raw array": (lambda: Network([np.eye(2)]), DtypeError),
    "layers: no entries": (
        lambda: Network([Linear(sp.csr_array((2, 3)))]).predict(np.ones((2, 3))),
        None,
    ),
}


def diagonal(size: int) -> Any:
    """Return a sparse identity."""
    return sp.eye_array(size, dtype=np.float32, format="csr")


@case("dense backend: a million by a million", MemoryBudgetError)
def too_dense() -> None:
    """Would take 4 TB; says so."""
    network = Network([Linear(diagonal(10**6))])
    with pytest.raises(MemoryBudgetError, match="layer of 4,000,000,000,000 bytes"):
        network.predict(sp.csr_array((2, 10**6)), backend="dense")
    network.predict(sp.csr_array((2, 10**6)), backend="dense")


@case("graphblas backend: a million by a million", None)
def sparse_enough() -> None:
    """Is no problem for a sparse backend."""
    network = Network([Linear(diagonal(10**6), -0.5)])
    X = sp.csr_array(([2.0], [5], [0, 1, 1]), shape=(2, 10**6))
    result = network.predict(X, threads=1)
    assert result[0, 5] == 1.5
    assert result[0, 4] == -0.5


@case("to_dense: a million by a million", MemoryBudgetError)
def to_dense() -> None:
    """Needs permission."""
    as_csr(diagonal(10**6)).to_dense()


@case("tiles: 2^45 features", MemoryBudgetError)
def wide() -> None:
    """A network whose activations alone do not fit."""
    weight = sp.coo_array(([1.0], ([0], [0])), shape=(3, 2**45))
    batch = sp.coo_array(([1.0], ([0], [0])), shape=(2, 2**45))
    Network([Linear(weight)]).predict(batch)


@case("tiles: batch_size too large for memory", MemoryBudgetError)
def tall() -> None:
    """Tiles of the user's size that do not fit."""
    network = Network([Linear(sp.csr_array((10**5, 3))), Linear(sp.csr_array((2, 10**5)))])
    network.predict(np.ones((10**5, 3)), batch_size=10**5)
