"""Profile the fused path on 1024 x 120, one thread: python docs/profile_fused.py MNIST.npz."""

import cProfile
import pstats
import sys
from pathlib import Path

from gbdnn.backends import get_backend
from gbdnn.challenge import runner
from gbdnn.challenge.generate import Spec
from gbdnn.execution import executor

images = Path(sys.argv[1]) if len(sys.argv) > 1 else None
bits = runner.load_inputs(1024, path=images).bits.take(20_000)
backend, source = get_backend("fused"), runner._Source(Spec(1024, 120), None)
source.load(backend, None)
for skip in (False, True):
    for part in (bits.take(256), bits):  # the first only warms up
        sink, profile = runner._ColumnSums(part.count, 1024), cProfile.Profile()
        with profile:
            work = executor.run(source, part, sink, backend=backend, threads=1, skip=skip)
    found = pstats.Stats(profile)
    rate = work.effective_edges / work.seconds / 1e9
    print(f"skip={skip}: {work.seconds:.3f} s, {rate:.1f} effective GEdge/s")
    parts = sorted(((times[2], name) for name, times in found.stats.items()), reverse=True)
    for seconds, (file, _, function) in parts[:6]:
        print(f"  {seconds / found.total_tt:6.1%}  {Path(file).name}:{function}")
