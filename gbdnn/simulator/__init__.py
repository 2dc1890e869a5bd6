"""A hardware model: recorded work, machine files, simulated times. Nothing here is measured but
the machine that `measured_toml` describes.

>>> from gbdnn.simulator import compare, ibm_like, load_machine
>>> print(compare(ibm_like(), load_machine("rapid")))    # doctest: +SKIP
"""

from gbdnn.simulator.figure import save_roofline
from gbdnn.simulator.ibm import PAPERS, ibm_like
from gbdnn.simulator.machine import (
    FORMATS,
    Machine,
    load_machine,
    machine_names,
    parse_machine,
)
from gbdnn.simulator.recording import Recorder, record, record_decoding
from gbdnn.simulator.reports import Comparison, amdahl, compare, fraction_needed
from gbdnn.simulator.timing import Simulation, Timed, simulate
from gbdnn.simulator.work import Elementwise, Product, Workload

__all__ = [
    "FORMATS", "PAPERS", "Comparison", "Elementwise", "Machine", "Product", "Recorder",
    "Simulation", "Timed", "Workload", "amdahl", "compare", "fraction_needed", "ibm_like",
    "load_machine", "machine_names", "parse_machine", "record", "record_decoding", "save_roofline",
    "simulate",
]  # fmt: skip
