"""The command `gbdnn warm`: compile before the first prediction waits for it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gbdnn.cli.options import BACKEND, FILE, JSON
from gbdnn.cli.output import echo_json, echo_rows

if TYPE_CHECKING:
    from gbdnn.network import Network

__all__ = ["warm"]


@click.command("warm")
@click.argument("model", type=FILE, required=False)
@click.option("--backend", type=BACKEND, default="fused", show_default=True,
              help="What will compute.")  # fmt: skip
@click.option("--dtype", type=click.Choice(["float32", "float64"]),
              help="Default: the model's, or float32.")  # fmt: skip
@click.option("--training", is_flag=True, help="Also what training needs.")
@JSON
def warm(
    model: Path | None, backend: str, dtype: str | None, training: bool, as_json: bool
) -> None:
    """Compile what predictions need and keep it in the cache folder, for all later processes.

    With MODEL what this model needs, else what any model does. In a container: when the image is
    built, with NUMBA_CACHE_DIR set to a folder of the image.
    """
    from numba.core import event

    from gbdnn.backends.fused import kernels
    from gbdnn.network import load

    begin = time.perf_counter()
    networks = _examples() if model is None else [load(model)]
    with event.install_recorder("numba:compile") as recorded:
        for network in networks:
            network = network if dtype is None else network.astype(dtype)
            network.warm_up(backend)
            if training:
                _train(network, backend)
    record: dict[str, Any] = {
        "model": model and str(model),
        "backend": backend,
        "training": training,
        "compiled": sum(each.is_start for _, each in recorded.buffer),
        "folder": kernels.product.stats.cache_path,
        "seconds": time.perf_counter() - begin,
    }
    if as_json:
        echo_json(record)
        return
    rows = {
        "compiled": f"{record['compiled']} functions" if record["compiled"] else "nothing new",
        "folder": record["folder"] or "none can be written: each process will compile anew",
        "seconds": f"{record['seconds']:.1f}",
    }
    echo_rows(f"{backend} is ready", rows)


def _examples() -> list[Network]:
    """Return small networks that need every kernel: for either size of indices, and dense."""
    from gbdnn.models import mlp

    wide = (1 << 16) + 1  # features from which on indices take 32 bits
    return [mlp((8, 8, 8), density=(0.5, 1.0)), mlp((wide, 2, wide), density=1e-4)]


def _train(network: Network, backend: str) -> None:
    """Take one training step."""
    import numpy as np

    from gbdnn.training import Trainer

    X, y = np.zeros((2, network.in_features)), np.zeros((2, network.out_features))
    Trainer(loss="mse", epochs=1, batch_size=2, backend=backend).fit(network, X, y)
