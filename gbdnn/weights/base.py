"""What a weight is: a matrix W of shape (out_features, in_features), in one of several forms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from gbdnn.errors import DtypeError
from gbdnn.types import Array

if TYPE_CHECKING:
    from typing import Self

    from gbdnn.weights.integers.levels import Levels

__all__ = ["Weight", "as_float_dtype"]


class Weight:
    """A weight: frozen, checked when it is made, never changed.

    A form says how the entries are stored. It enters `gbdnn.weights.FORMS` under its name; then
    networks predict with it on every backend (one without kernels for it computes with `plain`),
    train it, prune it and save it.

    Attributes
    ----------
    form : str
        Its name in `FORMS`.
    shape : tuple of int
        (out_features, in_features).
    dtype : float32 or float64
        What it means in: the dtype of `plain` and of the products with it.
    nnz : int
        Stored entries; of a dense weight all places.
    nbytes : int
        Bytes of its arrays.
    levels : Levels or None
        How the input of a product with this weight is rounded; None: not at all.
    """

    form: ClassVar[str]
    shape: tuple[int, int]
    levels: Levels | None = None

    @property
    def dtype(self) -> np.dtype[Any]:
        """float32 or float64."""
        raise NotImplementedError

    @property
    def nnz(self) -> int:
        """Number of stored entries."""
        return int(self.pattern().nnz)

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        return sum(array.nbytes for array in self.arrays().values())

    @property
    def density(self) -> float:
        """Stored entries over all places."""
        places = self.shape[0] * self.shape[1]
        return self.nnz / places if places else 0.0

    def pattern(self) -> Any:
        """Return a `CSR` with an entry at each stored place; its values are not used."""
        raise NotImplementedError

    def plain(self) -> Weight:
        """Return what it means, as a `CSR` or a `Dense` of the same pattern."""
        raise NotImplementedError

    @property
    def entries(self) -> Array:
        """What the entries mean, shape (nnz,), in the order of `pattern`."""
        raise NotImplementedError

    def with_entries(self, values: Array, pattern: Any = None) -> Weight:
        """Return a weight of the same form with other entries, rounded to what the form can say.

        Parameters
        ----------
        values : ndarray of `dtype`, shape (nnz,)
            In the order of the pattern; may be kept.
        pattern : CSR, optional
            Other places. A form that cannot leave places out returns a `CSR`.
        """
        raise NotImplementedError

    def arrays(self) -> dict[str, Array]:
        """Return the arrays that a file holds, by name; not copies."""
        raise NotImplementedError

    @property
    def settings(self) -> Mapping[str, Any]:
        """What a file holds besides: what JSON can say."""
        return {}

    @classmethod
    def of(
        cls, arrays: Mapping[str, Array], shape: tuple[int, int], settings: Mapping[str, Any]
    ) -> Self:
        """Undo `arrays` and `settings`, which come from outside: everything is checked.

        Raises
        ------
        InputError, DtypeError
            For anything that contradicts the form.
        """
        raise NotImplementedError

    def astype(self, dtype: npt.DTypeLike) -> Weight:
        """Return the weight in another float dtype."""
        raise NotImplementedError

    def to_dense(self, *, allow_dense: bool = False) -> Array:
        """Return what it means as an ndarray of shape `shape` (a copy); see `CSR.to_dense`."""
        return self.plain().to_dense(allow_dense=allow_dense)


def as_float_dtype(dtype: npt.DTypeLike, name: str = "dtype") -> np.dtype[Any]:
    """Return float32 or float64 as a numpy dtype, else raise `DtypeError`."""
    try:
        result = np.dtype(dtype)
    except TypeError:
        raise DtypeError(name, "float32 or float64", repr(dtype)) from None
    if dtype is None or result not in (np.float32, np.float64):
        raise DtypeError(name, "float32 or float64", repr(dtype))
    return result
