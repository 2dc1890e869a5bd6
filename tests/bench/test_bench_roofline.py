"""The machine's limits."""

from benchmarks.roofline import Roofline, probe_roofline


def test_roofline():
    limits = probe_roofline()
    assert isinstance(limits, Roofline)
    assert limits.cores >= 1
    assert min(limits.fma_one, limits.l1_one, limits.l2_one) > 0
