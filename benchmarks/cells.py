"""What is measured: the cells of a sweep, the presets, and the bytes that a cell needs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import product

from gbdnn.errors import InputError, choose

__all__ = [
    "DENSE",
    "DISTURBED",
    "OPS",
    "PRESETS",
    "Cell",
    "Preset",
    "engines",
    "grid",
    "needed_bytes",
]

OPS = {
    "affine": "h(W Y + b) on the whole neuron-major batch; of gbdnn the bare backend",
    "forward": "neuron-major batch in and out; of gbdnn with the tile executor",
    "predict": "(n_samples, features) in and out, all conversions included",
}
DISTURBED = 0.1  # cores that other processes kept busy, above which a time is not to be trusted
DENSE = frozenset({"dense", "torch-dense"})  # engines whose work follows out x in


@dataclass(frozen=True)
class Cell:
    """One measurement: `layers` square layers of `size` neurons with ReLU after each.

    Attributes
    ----------
    engine : str
        A backend of gbdnn or a peer.
    op : {"affine", "forward", "predict"}
        See `OPS`.
    size, layers, batch, threads : int
    density : float
        Of each layer; entries are Erdos-Renyi, values He, the same for all engines.
    dtype : {"float32", "float64"}
    seed : int
    """

    engine: str
    op: str
    size: int
    layers: int
    density: float
    batch: int
    threads: int
    dtype: str = "float32"
    seed: int = 0

    def __post_init__(self) -> None:
        choose("op", self.op, OPS)
        choose("dtype", self.dtype, ("float32", "float64"))
        for name in ("size", "layers", "batch", "threads"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise InputError(name, "a whole number from 1 up", repr(value))
        if not 0 < self.density <= 1:
            raise InputError("density", "a number above 0, at most 1", repr(self.density))

    @property
    def nnz(self) -> int:
        """Stored weights of all layers."""
        return self.layers * round(self.density * self.size * self.size)

    @property
    def key(self) -> str:
        """What tells cells apart, as text."""
        return " ".join(f"{name}={value}" for name, value in asdict(self).items())


@dataclass(frozen=True)
class Preset:
    """The lists of a sweep that has a name."""

    sizes: tuple[int, ...]
    densities: tuple[float, ...]
    batches: tuple[int, ...]
    layers: int
    ops: tuple[str, ...]


PRESETS = {
    # Kepner et al. 2017, arXiv:1708.02937, figure of time against inverse sparsity
    "kepner": Preset(
        (512, 2048, 8192, 32768), tuple(4.0**-k for k in range(9)), (64,), 1, ("affine",)
    ),
    "mlp": Preset((2048,), (0.2, 0.1, 0.05, 0.03, 0.01), (1, 16, 64, 256, 1024), 4, ("forward",)),
}


def engines() -> tuple[str, ...]:
    """Return the names of all engines: backends, then peers."""
    from benchmarks.peers import PEERS
    from gbdnn.backends import BACKENDS

    return (*sorted(BACKENDS), *sorted(PEERS))


def grid(
    engines: Iterable[str],
    *,
    sizes: Sequence[int],
    densities: Sequence[float],
    batches: Sequence[int],
    threads: int,
    layers: int = 1,
    ops: Sequence[str] = ("forward",),
    dtype: str = "float32",
    seed: int = 0,
) -> list[Cell]:
    """Return all combinations; the engines of one case stand side by side."""
    return [
        Cell(engine, op, size, layers, density, batch, threads, dtype, seed)
        for op, size, density, batch, engine in product(ops, sizes, densities, batches, engines)
    ]


# Bytes per stored weight (float32): the engine's own form of all layers, and what making one takes
_SPARSE = {
    "fused": (8, 40),
    "graphblas": (12, 24),
    "graphblas-reference": (12, 40),
    "mkl": (8, 8),
    "scipy": (8, 0),
    "torch-csr": (8, 8),
}
_OTHER = (12, 40)
_PROCESS = 350 << 20  # libraries, and what the comparison with float64 takes
_GENERATE = 40  # of sorting int64 places, per weight of one layer


def needed_bytes(cell: Cell) -> int:
    """Return about how much memory the worker of a cell needs at its peak."""
    item = 4 if cell.dtype == "float32" else 8
    nnz = cell.nnz
    places = cell.size * cell.size * cell.layers
    if cell.engine in DENSE:
        form, making = 2 * places * item, 0
    else:
        per_form, per_making = _SPARSE.get(cell.engine, _OTHER)
        form, making = per_form * nnz * item // 4, per_making * nnz // cell.layers
    if cell.density == 1:
        source, generating = places * (item if cell.engine in DENSE else item + 4), 0
    else:
        source, generating = (item + 4) * nnz, _GENERATE * nnz // cell.layers
    pointers = 24 * (cell.size + 1) * cell.layers
    batches = 5 * cell.size * cell.batch * item
    return _PROCESS + source + max(generating, form + making) + pointers + batches
