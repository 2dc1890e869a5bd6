"""The joint of a transducer in training, by blocks of nodes.

For node (t, u) of a sample's lattice, with h of the encoder and g of the predictor,

    a = tanh(h_t + g_u + b)        z = the chain "joint" of a        -log P by `gbdnn.losses`

The lattice needs two log-probabilities of each node, those of the blank and of the next label. So
nodes go through the joint in blocks of tiles: once for these numbers, and once more, with what the
lattice says, for the gradients. Blocks that fit into `KEPT` bytes together stay in memory between
the two; the others are computed again. Memory is O(T U) numbers for a sample and the blocks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from gbdnn.backends.workers import share
from gbdnn.execution.run import Run
from gbdnn.models.decodable import COMBINATIONS
from gbdnn.training.chain import Chain, Tapes
from gbdnn.training.parameters import Parameter
from gbdnn.types import Array

__all__ = ["Joint"]

BLOCK, KEPT = 1 << 25, 1 << 28  # bytes of values of a block, and of all blocks that are kept


@dataclass(frozen=True, eq=False)
class Lattices:
    """The nodes of a mini-batch as columns, sample after sample, the labels of a frame together.

    Attributes
    ----------
    frames, prefixes : ndarray of int, shape (samples,)
        T and U + 1 of each.
    first : ndarray of int, shape (samples + 1,)
        Where the nodes of each sample begin, and the number of all.
    label : ndarray of int, shape (tiles * width,)
        What may follow in each node; the blank where no label does.
    weight : ndarray of float64, shape (tiles * width,)
        Of the node's sample; 0 behind the last node.
    runs, tiles : ndarray
        See `gbdnn.losses.nodes.runs_of`.
    width : int
    """

    frames: Array
    prefixes: Array
    first: Array
    label: Array
    weight: Array
    runs: Array
    tiles: Array
    width: int

    @classmethod
    def of(cls, frames: Array, labels: list[Array], blank: int, width: int) -> Lattices:
        """Return the lattices of samples with T frames each; they weigh the same."""
        from gbdnn.losses.nodes import runs_of  # numba takes half a second

        prefixes = np.array([len(part) + 1 for part in labels])
        counts = frames * prefixes
        first = np.concatenate([[0], np.cumsum(counts)])
        runs, tiles = runs_of(frames, prefixes, width)
        label = np.full((len(tiles) - 1) * width, blank)
        weight = np.zeros(len(label))
        for part, T, at, stop in zip(labels, frames, first, first[1:], strict=False):
            label[at:stop] = np.tile(np.append(part, blank), T)
            weight[at:stop] = 1 / len(labels)
        return cls(frames, prefixes, first, label, weight, runs, tiles, width)


class Joint:
    """The joint's chain and bias, and what they compute on blocks.

    Parameters
    ----------
    chain : Chain
        Of `size` values to scores; it passes gradients back.
    bias : Parameter
    combine : str
    blank : int
    """

    def __init__(self, chain: Chain, bias: Parameter, combine: str, blank: int) -> None:
        self.chain, self.bias, self.blank = chain, bias, blank
        self.multiplies = combine == "multiply"
        assert combine in COMBINATIONS
        self.width = chain.backend.width(chain.widest, chain.dtype)

    def costs(self, run: Run, E: Array, P: Array, lattices: Lattices) -> Costs:
        """Return the costs of samples.

        Parameters
        ----------
        run : Run
        E : ndarray, shape (size, frames)
            h of all frames of all samples, one after the other.
        P : ndarray, shape (size, prefixes)
            g, likewise.
        lattices : Lattices
        """
        from gbdnn.losses import lattice, nodes

        nodes.load_for(self.chain.dtype)
        lattice.load_ways()
        found = Costs(self, run, E, P, lattices)
        found.forward()
        return found


class Costs:
    """The costs of a mini-batch's samples, and the way back from them.

    Attributes
    ----------
    values : ndarray of float64, shape (samples,)
        -log P of each.
    """

    def __init__(self, joint: Joint, run: Run, E: Array, P: Array, lattices: Lattices) -> None:
        self.joint, self.run, self.E, self.P, self.lattices = joint, run, E, P, lattices
        chain, count = joint.chain, len(lattices.label)
        bytes_of = 2 * chain.dtype.itemsize * lattices.width * (len(E) + chain.out_features)
        self.block = max(BLOCK // bytes_of, 1)
        self.kept = KEPT // (self.block * bytes_of)  # so many blocks
        self.blanks, self.steps, self.shift = np.empty((3, count))
        self.states: dict[int, tuple[Array, Array, Tapes]] = {}

    def _blocks(self) -> Iterator[tuple[int, int, int]]:
        """Yield number, first tile and last tile of each block."""
        tiles = len(self.lattices.tiles) - 1
        for number, start in enumerate(range(0, tiles, self.block)):
            yield number, start, min(start + self.block, tiles)

    def _through(self, number: int, start: int, stop: int) -> tuple[Array, Array, Tapes]:
        """Return a, z and the tapes of a block."""
        from gbdnn.losses import nodes

        joint, run, lattices = self.joint, self.run, self.lattices
        place = number if number < self.kept else -1
        run.at(("met", place))
        A = run.empty(stop - start, len(self.E), lattices.width)
        bounds = lattices.tiles

        def one(tile: int) -> None:
            runs, out = lattices.runs[bounds[tile] : bounds[tile + 1]], A[tile - start]
            nodes.meet(self.E, self.P, joint.bias.value, joint.multiplies, runs, out)
            used = lattices.first[-1] - tile * lattices.width
            out[:, max(used, 0) :] = 0
            np.tanh(out, out=out)

        share(one, range(start, stop), run.threads)
        valid = lattices.weight[start * lattices.width : stop * lattices.width] > 0
        Z, tapes = joint.chain.forward(run, A, valid.reshape(len(A), -1), ("joint", place))
        return A, Z, tapes

    def forward(self) -> None:
        """Compute the costs; what `backward` needs is kept, or not."""
        from gbdnn.losses import lattice

        lattices = self.lattices
        for number, start, stop in self._blocks():
            A, Z, tapes = self._through(number, start, stop)
            share(lambda k: self._probabilities(k, Z[k - start]), range(start, stop),  # noqa: B023
                  self.run.threads)  # fmt: skip
            if number < self.kept:
                self.states[number] = A, Z, tapes
        self.values = np.empty(len(lattices.frames))

        def one(i: int) -> None:
            part = slice(lattices.first[i], lattices.first[i + 1])
            shape = lattices.frames[i], lattices.prefixes[i]
            blanks, steps = self.blanks[part].reshape(shape), self.steps[part].reshape(shape)
            lattice.ways(blanks, steps, self.values[i : i + 1])

        share(one, range(len(self.values)), self.run.threads)

    def _columns(self, tile: int) -> slice:
        return slice(tile * self.lattices.width, (tile + 1) * self.lattices.width)

    def _probabilities(self, tile: int, Z: Array) -> None:
        """Write log-probabilities of a tile's nodes, from scores Z of shape (vocabulary, width)."""
        columns = self._columns(tile)
        largest = Z.max(axis=0)
        total = np.exp(Z - largest).sum(axis=0, dtype=np.float64)
        shift = largest + np.log(total)
        self.shift[columns] = shift
        self.blanks[columns] = Z[self.joint.blank] - shift
        label = self.lattices.label[columns]
        self.steps[columns] = Z[label, np.arange(len(label))] - shift

    def _gradient(self, tile: int, Z: Array) -> None:
        """Turn scores into the gradient of the weighted costs."""
        columns = self._columns(tile)
        weight, label = self.lattices.weight[columns], self.lattices.label[columns]
        Z -= self.shift[columns].astype(Z.dtype)
        np.exp(Z, out=Z)
        used = weight > 0
        blanks = np.where(used, self.blanks[columns], 0) * weight
        steps = np.where(used & (label != self.joint.blank), self.steps[columns], 0) * weight
        Z *= (blanks + steps).astype(Z.dtype)
        Z[self.joint.blank] -= blanks
        Z[label, np.arange(len(label))] -= steps

    def backward(self) -> tuple[Array, Array]:
        """Write the gradients of the chain and the bias; return those of E and P."""
        from gbdnn.losses import nodes

        joint, run, lattices = self.joint, self.run, self.lattices
        dE, dP = np.zeros_like(self.E), np.zeros_like(self.P)
        bias = joint.bias.grad
        bias[...] = 0
        parameters = list(joint.chain.parameters.values())
        sums = [np.zeros_like(parameter.grad) for parameter in parameters]
        rows = [(j, min(j + 16, len(dE))) for j in range(0, len(dE), 16)]
        trains, observe = joint.chain.rounds.trains, run.observe
        for number, start, stop in self._blocks():
            joint.chain.rounds.trains = False  # averages have followed this block already
            A, Z, tapes = self.states.get(number) or self._through(number, start, stop)
            joint.chain.rounds.trains = trains
            share(lambda k: self._gradient(k, Z[k - start]), range(start, stop), run.threads)  # noqa: B023
            run.observe = observe if number == 0 else None  # growth looks at one block
            D = joint.chain.backward(run, Z, tapes)
            for total, parameter in zip(sums, parameters, strict=True):
                total += parameter.grad
            share(lambda k: _tanh_grad(A[k], D[k]), range(len(D)), run.threads)  # noqa: B023
            tiles = np.ascontiguousarray(lattices.tiles[start : stop + 1])
            share(lambda part: nodes.part(D, self.E, self.P, joint.multiplies, lattices.runs, tiles,  # noqa: B023
                                          *part, dE, dP, bias), rows, run.threads)  # fmt: skip
        run.observe = observe
        for total, parameter in zip(sums, parameters, strict=True):
            parameter.grad[...] = total
        return dE, dP


def _tanh_grad(A: Array, dA: Array) -> None:
    """Replace dA by dA (1 - a^2)."""
    dA *= 1 - A * A
