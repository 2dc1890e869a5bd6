"""More than one process, more than one machine, on engines that exist.

==========  ========================================================================================
`predict`   a network over rows on any `concurrent.futures.Executor`: processes, Dask, MPI
`stream`    the same, chunk by chunk in order
`opened`    an executor by name: "processes:4", "dask://host:8786", "mpi"
`MPIRanks`  the ranks of mpiexec, which train one network together: ``Trainer(ranks=...)``
==========  ========================================================================================

Dask and mpi4py are imported only where they are used.
"""

from gbdnn.distributed.executors import KINDS, Pool, opened, process_pool
from gbdnn.distributed.prediction import predict, stream
from gbdnn.distributed.ranks import MPIRanks, launched

__all__ = [
    "KINDS", "MPIRanks", "Pool", "launched", "opened", "predict", "process_pool", "stream",
]  # fmt: skip
