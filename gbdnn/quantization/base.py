"""What a quantizer is: x to a few levels, with a gradient that passes through the rounding.

A quantizer is a frozen record put into `gbdnn.quantization.QUANTIZERS`. In training a parameter's
kernels read what `fake` makes of its value; the optimizer changes the value itself, and what the
quantizer learns (a clip, a step).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from gbdnn.types import Array

__all__ = ["Quantizer"]


class Quantizer:
    """Rounds numbers to levels; the default gradient passes straight through.

    Attributes
    ----------
    kind : str
        Its name in `QUANTIZERS`.
    """

    kind: ClassVar[str]

    def initial(self, x: Array) -> dict[str, Array]:
        """Return what is learned beside x, as it is at the beginning: float64 arrays by name."""
        return {}

    def fake(self, x: Array, learned: Mapping[str, Array], out: Array) -> None:
        """Write the levels nearest to x, as floats, to `out`; x may be `out`."""
        raise NotImplementedError

    def backward(
        self,
        x: Array,
        learned: Mapping[str, Array],
        dx: Array,
        dlearned: Mapping[str, Array],
    ) -> None:
        """Turn dx, the gradient with respect to the levels, into that with respect to x, in place.

        Writes the gradients of what is learned to `dlearned`.
        """
