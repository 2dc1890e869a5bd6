"""Networks from and for others: ONNX, scikit-learn, state dicts, folders as hubs have them.

`docs/interchange.md` says what is converted, and what is lost.
"""

from __future__ import annotations

from gbdnn.conversion.estimators import from_sklearn
from gbdnn.conversion.folders import load_pretrained, save_pretrained
from gbdnn.conversion.onnx.loading import load_onnx
from gbdnn.conversion.onnx.writing.model import save_onnx
from gbdnn.conversion.state_dict import load_state_dict

__all__ = [
    "from_sklearn", "load_onnx", "load_pretrained", "load_state_dict", "save_onnx",
    "save_pretrained",
]  # fmt: skip
