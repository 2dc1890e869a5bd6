"""`compact`: the same network with fewer neurons."""

from __future__ import annotations

from gbdnn.compaction import Compaction, compacted
from gbdnn.network import Network, check_network

__all__ = ["compact"]


def compact(network: Network) -> tuple[Network, Compaction]:
    """Return a network that computes the same without the neurons that make no difference.

    What goes is said in `gbdnn.compaction.chain`: neurons that nobody reads, that are constant, or
    that equal another one, and stored zeros, until there are none left. Inputs and outputs stay.

    Parameters
    ----------
    network : Network
        Not changed; layers that lose nothing are shared with the result. Those with integer weights
        lose nothing: make a network compact first, then quantise it.

    Returns
    -------
    network : Network
        Its results differ by the rounding of sums, which are taken in another order; they are equal
        where all values are multiples of one power of two and no sum is rounded.
    report : Compaction
        Neurons, edges and bytes of each layer before and after. Prints as a table.

    Raises
    ------
    DtypeError
        Not a network.

    Examples
    --------
    >>> import numpy as np, gbdnn
    >>> W = np.array([[1.0, 2.0], [0.0, 0.0], [1.0, 2.0]])
    >>> network = gbdnn.Network([gbdnn.Linear(W), "relu", gbdnn.Linear(np.ones((1, 3)))])
    >>> smaller, report = gbdnn.compact(network)
    >>> smaller.layers[0].weight.shape, smaller.layers[2].weight.to_dense()
    ((1, 2), array([[2.]], dtype=float32))
    """
    check_network("network", network)
    layers, report = compacted(network.layers)
    return Network(layers, metadata=network.metadata), report
