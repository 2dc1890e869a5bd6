"""What the nodes of ONNX graphs become: each operator is one function in `OPERATORS`."""

from __future__ import annotations

from gbdnn.conversion.onnx.operators import axes, forward, integers, loops, nbits, recurrent
from gbdnn.conversion.onnx.reading import Operator

__all__ = ["MICROSOFT", "ON_CODES", "OPERATORS"]

OPERATORS: dict[str, Operator] = {
    **forward.OPERATORS, **recurrent.OPERATORS, **axes.OPERATORS, **integers.OPERATORS,
    **loops.OPERATORS,
}  # fmt: skip
MICROSOFT: dict[str, Operator] = {**forward.MICROSOFT, **integers.MICROSOFT, **nbits.MICROSOFT}
"""Those of the domain com.microsoft, which onnxruntime's tools write."""
ON_CODES = integers.ON_CODES
