"""What tests of files compare: arrays and networks, bit by bit."""

from __future__ import annotations

import numpy as np

from gbdnn import Network
from gbdnn.weights import Weight


def assert_same(found, wanted):
    """Assert equal names, dtypes, shapes and bytes."""
    assert found.keys() == wanted.keys()
    for name, array in wanted.items():
        array = np.asarray(array)
        assert found[name].dtype == array.dtype.newbyteorder("=")
        assert found[name].shape == array.shape
        assert found[name].flags.c_contiguous
        assert found[name].flags.writeable
        assert (
            found[name].tobytes()
            == np.ascontiguousarray(array).astype(array.dtype.newbyteorder("=")).tobytes()
        )


def assert_equal_networks(found: Network, wanted: Network):
    """Assert that two networks are equal bit by bit: layers, settings, forms, arrays."""
    assert found.metadata == wanted.metadata
    assert [type(layer) for layer in found.layers] == [type(layer) for layer in wanted.layers]
    assert [dict(layer.settings) for layer in found.layers] == [
        dict(layer.settings) for layer in wanted.layers
    ]
    assert list(found.parameters) == list(wanted.parameters)
    for name, right in wanted.parameters.items():
        left = found.parameters[name]
        assert type(left) is type(right)
        parts = [{"": left}, {"": right}]
        if isinstance(right, Weight):
            assert (left.shape, left.settings) == (right.shape, right.settings)
            parts = [left.arrays(), right.arrays()]
        assert parts[0].keys() == parts[1].keys()
        for part, b in parts[1].items():
            a = parts[0][part]
            assert (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())
