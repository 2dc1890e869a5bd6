"""Commands under mpiexec: one process a rank, of which rank 0 alone writes and speaks.

Modules that need numpy are imported where they are used.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from gbdnn.distributed import MPIRanks

__all__ = ["MPI", "ranks_of"]

MPI = click.option("--mpi", is_flag=True, help="Train with all ranks that a launcher of MPI has "
                   "started; default: where it is mpiexec, with several.")  # fmt: skip


@contextmanager
def ranks_of(asked: bool) -> Iterator[MPIRanks | None]:
    """Give the ranks, None if this process was started alone.

    An error that only one rank knows of ends all. Of one that all have, only rank 0 speaks.
    """
    from gbdnn.distributed import MPIRanks, launched

    if not (asked or launched()):
        yield None
        return
    ranks = MPIRanks()
    try:
        with ranks:
            yield ranks
    except BaseException:
        if ranks.rank:
            raise click.exceptions.Exit(1) from None
        raise
